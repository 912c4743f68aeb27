"""How a multi-frame instance is encoded: the `video` settings resolved to a container, an encoder and its options.

Contract: a `VideoPlan` is complete, every value in it was either configured or is stated here; resolving it touches no
pixels and loads no codec. What an encoder does not know is refused when it is opened, by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.errors import EncodeFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.settings import VideoSettings

CONTAINERS: Final[Mapping[str, str]] = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
}
"""Extensions and the muxer of FFmpeg that each one selects."""

_ENCODERS: Final[Mapping[str, str]] = {
    "h264": "libx264",
    "x264": "libx264",
    "h265": "libx265",
    "hevc": "libx265",
    "x265": "libx265",
    "av1": "libsvtav1",
    "vp9": "libvpx-vp9",
}
"""Formats by their common name; any other name is taken as an encoder of FFmpeg."""

_ALWAYS_LOSSLESS: Final = frozenset({"ffv1", "huffyuv", "ffvhuff", "rawvideo", "png"})
_ATTRIBUTES: Final = frozenset({"bit_rate", "gop_size", "max_b_frames", "profile", "qmin", "qmax", "level"})
_EXACT_FORMATS: Final = frozenset({"gray", "rgb24", "bgr24", "bgr0", "rgb0", "gbrp"})


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """Everything the encoder is told, but for the frames."""

    extension: str
    container: str
    encoder: str
    pix_fmt: str
    """Pixel format of the stream for colour frames (and gray ones, where `gray_pix_fmt` is the same)."""
    gray_pix_fmt: str
    options: tuple[tuple[str, str], ...]
    attributes: tuple[tuple[str, int | str], ...]
    threads: int
    psnr_floor_db: float

    @property
    def lossless(self) -> bool:
        """Whether the encoder gives back every sample of the stream's pixel format."""
        options = dict(self.options)
        if self.encoder in _ALWAYS_LOSSLESS:
            return True
        if self.encoder in {"libx264", "libx264rgb"}:
            return options.get("qp") == "0" or options.get("crf") in {"0", "0.0"}
        if self.encoder == "libx265":
            return "lossless=1" in options.get("x265-params", "")
        return False

    def exact(self, *, gray: bool) -> bool:
        """Whether the decoded stream must equal the display values pixel by pixel."""
        pix_fmt = self.gray_pix_fmt if gray else self.pix_fmt
        return self.lossless and pix_fmt in _EXACT_FORMATS and (gray or pix_fmt != "gray")


def plan_of(settings: VideoSettings) -> VideoPlan:
    """The plan that the `video` settings describe.

    Raises:
        EncodeFailed: The extension selects no container we write, or a stream attribute is not one we set.
    """
    container = CONTAINERS.get(settings.extension.lower())
    if container is None:
        raise EncodeFailed(
            f"video.extension {settings.extension!r} selects no container (permitted: {', '.join(CONTAINERS)})"
        )
    arguments = settings.save_method_kwargs.encoding_args
    attributes = dict(arguments.model_extra or {})
    unknown = sorted(set(attributes) - _ATTRIBUTES)
    if unknown:
        raise EncodeFailed(
            f"video.save_method_kwargs.encoding_args: {', '.join(unknown)} cannot be set (permitted: pix_fmt, options, "
            f"{', '.join(sorted(_ATTRIBUTES))})"
        )
    name = settings.save_method_kwargs.encoding_format
    return VideoPlan(
        extension=settings.extension,
        container=container,
        encoder=_ENCODERS.get(name.lower(), name),
        pix_fmt=arguments.pix_fmt,
        gray_pix_fmt=arguments.pix_fmt,
        options=tuple(sorted((key, str(value)) for key, value in arguments.options.items())),
        attributes=tuple(sorted(attributes.items())),
        threads=settings.threads,
        psnr_floor_db=settings.psnr_floor_db,
    )
