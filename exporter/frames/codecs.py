"""Compressed frames to samples, through imagecodecs: one function per family of codecs.

Contract: `decode` gets one frame whose header was read (`Codestream`) and checked against the DICOM header, and
returns its samples and the colour space they are in. Everything a decoder raises becomes `CorruptPixels`,
`UnsupportedSyntax` or `TooLarge`.

Must never: let a decoder convert colours unasked, return an array of another shape than the header's, or accept a
JPEG that ends before its end marker (libjpeg would fill the rest with gray and say nothing).

The decoders release the GIL. They run in a worker process with limits: a crash of native code costs one instance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from exporter.errors import CorruptPixels, TooLarge, UnsupportedSyntax
from exporter.frames.codestream import Codec, Codestream, without_trailing_segments
from exporter.frames.jpeg_integrity import check_extent, note_misplaced_ends, refuse_damaged, undamaged_planes

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from av import VideoFrame

DECODER_ERRORS: Final = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError)
"""Errors that imagecodecs raises on damaged input; the classes of its codecs are `RuntimeError`s."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Samples of one frame."""

    samples: np.ndarray
    """``(rows, columns)`` or ``(rows, columns, 3)``, unsigned unless the codestream is signed."""
    colour: str
    """``MONOCHROME``, ``RGB``, ``YBR_FULL``: the space the samples are in now; DICOM's words."""
    proven: str | None = None
    """JPEG: the space that the codestream's samples are in."""
    note: str | None = None
    """Oddities of the codestream."""


def decode(data: bytes, header: Codestream, label: str, *, to_rgb: bool) -> Decoded:
    """Decode one frame.

    Args:
        data: The codestream.
        header: What `sniff` read from it.
        label: Photometric Interpretation of the instance, believed where the codestream does not tell its colours.
        to_rgb: Whether the codec shall convert YCbCr to RGB where it can.

    Raises:
        CorruptPixels: The codestream is damaged.
        UnsupportedSyntax: A feature of it is not decoded here.
        TooLarge: There is not enough memory.
    """
    try:
        decoded = _DECODERS[header.codec](data, header, label, to_rgb)
    except MemoryError:
        raise TooLarge(
            f"decoding {header.columns} x {header.rows} pixels of {header.codec} ran out of memory"
        ) from None
    except DECODER_ERRORS as error:
        raise CorruptPixels(f"decoding {header.codec} failed ({type(error).__name__})") from None
    shape = (
        (header.rows, header.columns) if header.components == 1 else (header.rows, header.columns, header.components)
    )
    if decoded.samples.shape != shape:
        raise CorruptPixels(f"decoding {header.codec} gave {decoded.samples.shape} instead of {shape} samples")
    return decoded


def jpeg_colour(header: Codestream, label: str) -> str:
    """The colour space of a JPEG's three components: what the codestream proves, else what the instance says.

    Source: JFIF 1.02 and Adobe TN 5116 for the markers; JFIF says nothing about lossless processes.
    """
    if header.adobe_transform == 0:
        return "RGB"
    if header.adobe_transform == 1 and not header.lossless_process:
        return "YBR_FULL"
    if header.component_ids == (0x52, 0x47, 0x42):  # the letters R, G, B
        return "RGB"
    if not header.lossless_process and (header.jfif or header.subsampled):
        return "YBR_FULL"
    return "RGB" if label == "RGB" else "YBR_FULL"


def _jpeg(data: bytes, header: Codestream, label: str, to_rgb: bool) -> Decoded:
    import imagecodecs

    _require_one_image(data, header.frame_header)
    if not header.lossless_process:
        refuse_damaged(data)
    if header.components == 1:
        samples = imagecodecs.jpeg8_decode(data)
        return Decoded(samples, "MONOCHROME", note=_extent_note(data, header, samples, imagecodecs.jpeg8_decode))
    colour = jpeg_colour(header, label)
    space = "RGB" if colour == "RGB" else "YCBCR"
    convert = to_rgb and not header.lossless_process
    decoder = partial(imagecodecs.jpeg8_decode, colorspace=space, outcolorspace="RGB" if convert else space)
    samples = decoder(data)
    note = _extent_note(data, header, samples, decoder)
    return Decoded(samples, "RGB" if convert else colour, proven=colour, note=note)


def jpeg_planes(data: bytes, header: Codestream, label: str) -> VideoFrame | None:
    """Luma and chroma of a JPEG of 8 bits as they are coded, neither converted nor resampled.

    Returns:
        The picture; None where its three components are not YCbCr, or FFmpeg does not decode it.

    Raises:
        CorruptPixels: The codestream is damaged.
    """
    if header.components != 3 or header.precision != 8 or header.lossless_process:
        return None
    if jpeg_colour(header, label) != "YBR_FULL":
        return None
    _require_one_image(data, header.frame_header)
    planes = undamaged_planes(data)
    if planes is None or (planes.height, planes.width) != (header.rows, header.columns):
        return None
    return planes


def _extent_note(
    data: bytes, header: Codestream, samples: np.ndarray, decoder: Callable[[bytes], np.ndarray]
) -> str | None:
    """Findings of `check_extent` in a lossless JPEG, which `refuse_damaged` does not judge."""
    if not header.lossless_process:
        return None

    def decode_again(changed: bytes) -> np.ndarray | None:
        try:
            return decoder(changed)
        except DECODER_ERRORS:
            return None

    return check_extent(data, header, samples, decode_again)


def _require_one_image(data: bytes, frame_header: int) -> None:
    """Refuse a JPEG or JPEG-LS without its end marker, or with the beginning of another before it.

    Entropy-coded data hold neither marker (T.81 B.1.1.5, T.87 A.1), so the first ones behind the first scan are real.
    """
    scan = data.find(b"\xff\xda", frame_header)
    end = data.find(b"\xff\xd9", scan)
    if scan < 0 or end < 0:
        raise CorruptPixels("the codestream ends before its end marker (EOI)")
    if data.find(b"\xff\xd8", scan, end) >= 0:
        raise CorruptPixels("the codestream is cut: another one begins before its end marker (EOI)")


def _jpeg_ls(data: bytes, header: Codestream, label: str, _to_rgb: bool) -> Decoded:
    import imagecodecs

    # CharLS refuses these too, but some only after counting to 2**32.
    _require_one_image(data, header.frame_header)
    return Decoded(imagecodecs.jpegls_decode(data), _labelled(label))


def _jpeg_2000(data: bytes, header: Codestream, label: str, _to_rgb: bool) -> Decoded:
    import imagecodecs

    if header.subsampled:
        raise UnsupportedSyntax("JPEG 2000 with components of different size is not decoded")
    if not header.uniform:
        raise UnsupportedSyntax("JPEG 2000 with components of different precision is not decoded")
    note = note_misplaced_ends(data) if header.tiles > 1 else None
    try:
        samples = imagecodecs.jpeg2k_decode(data, planar=False)
    except imagecodecs.Jpeg2kError:
        bare = without_trailing_segments(data)
        if bare is None:
            raise
        samples = imagecodecs.jpeg2k_decode(bare, planar=False)
        note = "marker segments follow the last tile-part of the JPEG 2000 codestream: left out"
    if header.components == 1:
        colour = "MONOCHROME"
    elif header.multiple_component_transform or label in {"YBR_ICT", "YBR_RCT"}:
        colour = "RGB"
    else:
        colour = _labelled(label)
    return Decoded(samples, colour, note=note)


def _jpeg_xl(data: bytes, header: Codestream, _label: str, _to_rgb: bool) -> Decoded:
    import imagecodecs

    samples = imagecodecs.jpegxl_decode(data, keeporientation=True)
    if samples.ndim == 3 and samples.shape[2] == 1:
        samples = samples[..., 0]
    return Decoded(samples, "MONOCHROME" if header.components == 1 else "RGB")


def _labelled(label: str) -> str:
    if label == "RGB" or not label.startswith("YBR"):
        return "RGB" if label in {"RGB", "YBR_ICT", "YBR_RCT"} else "MONOCHROME"
    return "YBR_FULL" if label in {"YBR_FULL", "YBR_FULL_422"} else label


_DECODERS: Final[dict[Codec, Callable[[bytes, Codestream, str, bool], Decoded]]] = {
    Codec.JPEG: _jpeg,
    Codec.JPEG_LS: _jpeg_ls,
    Codec.JPEG_2000: _jpeg_2000,
    Codec.JPEG_XL: _jpeg_xl,
}
