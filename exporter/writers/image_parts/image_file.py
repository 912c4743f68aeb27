"""One image to one file: format by extension, written, decoded back, durable.

Contract: the file holds the given samples (lossless formats, checked for equality by another decoder than the encoder
where there is one) or samples at the stated PSNR or better (lossy formats), the colour profile, the pixel aspect ratio
where the format has a place for it, and nothing else: no EXIF, no text, no time.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exporter.errors import EncodeFailed, VerifyFailed
from exporter.writers.durable_write import Sealed, write_new
from exporter.writers.image_parts import png, png_check
from exporter.writers.video_parts.verify import psnr

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from exporter.writers.durable_write import HeldFiles, SyncBatch

FORMATS: Final[Mapping[str, str]] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".jp2": "JPEG2000",
}
"""Extensions and the format of Pillow that each one selects."""

_DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}
"""Parameters of Pillow where the settings give none at all: what loses least."""

_SIXTEEN_BIT: Final = frozenset({"PNG", "TIFF"})


@dataclass(frozen=True, slots=True)
class StillPlan:
    """Format and parameters of an encoded image."""

    extension: str
    parameters: tuple[tuple[str, Any], ...]
    psnr_floor_db: float
    icc_profile: bytes | None = None
    aspect: tuple[int, int] | None = None
    """Vertical and horizontal size of a pixel, None for square."""

    @property
    def format(self) -> str:
        """Pillow's name of the format.

        Raises:
            EncodeFailed: The extension selects none.
        """
        found = FORMATS.get(self.extension.lower())
        if found is None:
            raise EncodeFailed(
                f"image.extension {self.extension!r} selects no format (permitted: {', '.join(FORMATS)})"
            )
        return found


@dataclass(frozen=True, slots=True)
class Still:
    """A written image."""

    sealed: Sealed
    codec: str


def write_still(
    path: Path,
    image: NDArray[np.uint8] | NDArray[np.uint16],
    plan: StillPlan,
    batch: SyncBatch | HeldFiles | None = None,
) -> Still:
    """Write one image, decode it back, make it durable.

    Args:
        path: File that is not there yet.
        image: (rows, columns) gray or (rows, columns, 3) RGB; uint8, or uint16 for PNG and TIFF (TIFF: gray only).
        plan: Format and parameters.
        batch: Files that become durable together; default: this one at once.

    Raises:
        EncodeFailed: The format or a parameter is not possible.
        VerifyFailed: Decoded back it is not the image.
        OutOfSpace: The disk is full.
    """
    form = plan.format
    fast = form == "PNG" and not plan.parameters
    encoded = b"".join(png.encode(image, icc_profile=plan.icc_profile, aspect=plan.aspect)) if fast else None
    if encoded is None:
        encoded = _pillow(image, plan, form)
    sealed = write_new(path, (encoded,), batch)
    written = path.read_bytes()
    if not (fast and png_check.holds(written, image)):
        _check(written, image, plan, form)
    return Still(sealed=sealed, codec=_codec(plan, form))


def _pillow(image: NDArray[np.uint8] | NDArray[np.uint16], plan: StillPlan, form: str) -> bytes:
    from PIL import Image as Pillow

    if image.dtype != np.uint8 and (form not in _SIXTEEN_BIT or image.ndim != 2):
        raise EncodeFailed(f"{form} cannot hold 16-bit samples of shape {image.shape} (permitted: .png)")
    parameters = dict(plan.parameters) or dict(_DEFAULTS.get(form, {}))
    if plan.icc_profile is not None:
        parameters.setdefault("icc_profile", plan.icc_profile)
    buffer = io.BytesIO()
    try:
        Pillow.fromarray(np.ascontiguousarray(image)).save(buffer, form, **parameters)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, SystemError) as error:
        raise EncodeFailed(
            f"Pillow cannot write {form} with image.save_method_kwargs.pil_writer_params "
            f"{sorted(name for name, _ in plan.parameters)} ({type(error).__name__})"
        ) from None
    encoded = buffer.getvalue()
    if form == "JPEG" and plan.aspect is not None and encoded[6:11] == b"JFIF\0":
        # Pillow only states dots per inch, which nobody knows here; JFIF's unit 0 is a bare ratio (ITU-T T.871 10.1)
        encoded = encoded[:13] + struct.pack(">BHH", 0, *plan.aspect) + encoded[18:]
    return encoded


def is_lossless(plan: StillPlan) -> bool:
    """Whether the image file gives back every sample.

    Raises:
        EncodeFailed: The extension selects no format.
    """
    return _lossless(plan, plan.format)


def _lossless(plan: StillPlan, form: str) -> bool:
    parameters = dict(plan.parameters) or dict(_DEFAULTS.get(form, {}))
    if form == "WEBP":
        return bool(parameters.get("lossless"))
    if form == "TIFF":
        return parameters.get("compression") not in {"jpeg", "tiff_jpeg", "webp"}
    if form == "JPEG2000":
        return not parameters.get("irreversible") and not parameters.get("quality_layers")
    if form == "PNG":
        return "bits" not in parameters
    return form == "BMP"


def _codec(plan: StillPlan, form: str) -> str:
    name = {"JPEG2000": "jpeg2000"}.get(form, form.lower())
    return f"{name} lossless" if form in {"WEBP", "JPEG2000", "TIFF"} and _lossless(plan, form) else name


def _check(encoded: bytes, image: NDArray[Any], plan: StillPlan, form: str) -> None:
    decoded = _decode(encoded, form)
    if form == "WEBP" and image.ndim == 2:  # WebP has no gray
        image = np.repeat(image[:, :, np.newaxis], 3, axis=2)
    if decoded.shape != image.shape or decoded.dtype != image.dtype:
        raise VerifyFailed(
            f"the {form}, decoded back, is {decoded.dtype} {decoded.shape}, not {image.dtype} {image.shape}"
        )
    if _lossless(plan, form):
        if not np.array_equal(decoded, image):
            raise VerifyFailed(f"the {form}, decoded back, differs from the image")
        return
    reached = psnr(image.astype(np.uint8, copy=False), decoded.astype(np.uint8, copy=False))
    if reached < plan.psnr_floor_db:
        raise VerifyFailed(
            f"the {form}, decoded back, reaches {reached:.1f} dB; permitted is {plan.psnr_floor_db:g} and above "
            "(image.psnr_floor_db)"
        )


def _decode(encoded: bytes, form: str) -> NDArray[Any]:
    """PNG by libpng (imagecodecs), the others by Pillow."""
    if form == "PNG":
        import imagecodecs

        try:
            out: NDArray[Any] = imagecodecs.png_decode(encoded)
        except (imagecodecs.PngError, ValueError) as error:
            raise VerifyFailed(f"the PNG cannot be decoded back ({type(error).__name__})") from None
        return out
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(encoded), formats=[form]) as opened:
            opened.load()
            return np.asarray(opened)
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise VerifyFailed(f"the {form} cannot be decoded back ({type(error).__name__})") from None
