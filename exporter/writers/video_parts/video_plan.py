"""Plan of an encoded video: the `video` settings resolved to a container, an encoder and its options.

Contract: a `VideoPlan` is complete, every value in it was either configured or is stated here; resolving it touches no
pixels and loads no codec. What an encoder does not know is refused when it is opened, by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from exporter.errors import EncodeFailed

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.dicom.timing import Schedule
    from exporter.writers.video_parts.pixel_format import Converter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.settings.settings import FramingSettings, VideoSettings

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
class Preset:
    """A named choice; settings that differ from their defaults win over it."""

    extension: str
    colour: tuple[str, str]
    """Encoder and pixel format for colour frames."""
    gray: tuple[str, str]
    """Encoder and pixel format for gray frames."""
    options: Mapping[str, str]
    framing: Mapping[str, object] = field(default_factory=dict)
    copies_streams: bool = True
    """Whether a video stream is copied, with the key frames that it has."""


_H264: Final = ("libx264", "yuv420p")
PRESETS: Final[Mapping[str, Preset]] = {
    "lossless": Preset(
        ".mkv", ("ffv1", "bgr0"), ("ffv1", "gray"), {"level": "3", "coder": "1", "context": "1", "slicecrc": "1"}
    ),
    "lossless-h264": Preset(".mp4", ("libx264rgb", "rgb24"), ("libx264", "gray"), {"qp": "0"}),
    "small": Preset(".mp4", ("libsvtav1", "yuv420p"), ("libsvtav1", "yuv420p"), {"crf": "30", "preset": "8"}),
    "fast": Preset(".mp4", _H264, _H264, {"crf": "16.5", "preset": "superfast", "tune": "fastdecode"}),
    "training": Preset(
        ".mp4",
        _H264,
        _H264,
        {"crf": "17", "tune": "fastdecode", "bf": "0", "g": "8", "keyint_min": "8", "sc_threshold": "0"},
        copies_streams=False,
    ),
    "echonet-112": Preset(
        ".mp4",
        ("libx264", "yuv420p"),
        ("libx264", "yuv420p"),
        {"crf": "12"},
        {"crop": "anatomy", "shape": "square_crop", "size": (112, 112), "channel": "gray"},
    ),
    "echoprime-224": Preset(
        ".mp4",
        ("libx264", "yuv420p"),
        ("libx264", "yuv420p"),
        {"crf": "12"},
        {"crop": "anatomy", "shape": "square_crop", "zoom": 0.1, "size": (224, 224)},
    ),
}
"""The presets of `video.preset` but for ``default``, which is the settings themselves."""


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """All inputs of the encoder except the frames."""

    extension: str
    container: str
    encoder: str
    pix_fmt: str
    options: tuple[tuple[str, str], ...]
    attributes: tuple[tuple[str, int | float | str], ...]
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
        return self.lossless and self.pix_fmt in _EXACT_FORMATS and (gray or self.pix_fmt != "gray")


def plan_of(settings: VideoSettings, *, gray: bool, keeps_values: bool = False) -> VideoPlan:
    """The plan that the `video` settings describe, for gray or for colour frames.

    Args:
        settings: The `video` section.
        gray: Whether the frames are gray.
        keeps_values: Whether the encoding should be lossless where the settings choose none of their own.

    Raises:
        EncodeFailed: The extension selects no container we write, or a stream attribute is not one we set.
    """
    default = type(settings)()
    preset = PRESETS.get(settings.preset)
    extension = settings.extension
    if preset is not None and extension == default.extension:
        extension = preset.extension
    arguments = settings.save_method_kwargs.encoding_args
    attributes = dict(arguments.model_extra or {})
    unknown = sorted(set(attributes) - _ATTRIBUTES)
    if unknown:
        raise EncodeFailed(
            f"video.save_method_kwargs.encoding_args: {', '.join(unknown)} cannot be set (permitted: pix_fmt, options, "
            f"{', '.join(sorted(_ATTRIBUTES))})"
        )
    name = settings.save_method_kwargs.encoding_format
    encoder, pix_fmt = _ENCODERS.get(name.lower(), name), arguments.pix_fmt
    options = {key: str(value) for key, value in arguments.options.items()}
    if keeps_values and settings.preset == default.preset:
        preset = PRESETS["lossless-h264"]
    if preset is not None and settings.save_method_kwargs == default.save_method_kwargs:
        encoder, pix_fmt = preset.gray if gray else preset.colour
        options = dict(preset.options)
    return VideoPlan(
        extension=extension,
        container=container_of(extension),
        encoder=encoder,
        pix_fmt=pix_fmt,
        options=tuple(sorted(options.items())),
        attributes=tuple(sorted(attributes.items())),
        threads=settings.threads,
        psnr_floor_db=settings.psnr_floor_db,
    )


def container_of(extension: str) -> str:
    """The muxer that an extension selects.

    Raises:
        EncodeFailed: None.
    """
    container = CONTAINERS.get(extension.lower())
    if container is None:
        raise EncodeFailed(f"video.extension {extension!r} selects no container (permitted: {', '.join(CONTAINERS)})")
    return container


def framing_settings(settings: VideoSettings) -> FramingSettings:
    """The framing of the settings, or of their preset where they have none of their own."""
    preset = PRESETS.get(settings.preset)
    if preset is None or settings.framing != type(settings.framing)():
        return settings.framing
    return type(settings.framing).model_validate(dict(preset.framing))


def copies_streams(settings: VideoSettings) -> bool:
    """Whether a video stream may be copied as it is: no framing moves its pixels, and the preset leaves it its GOPs."""
    preset = PRESETS.get(settings.preset)
    return framing_settings(settings) == type(settings.framing)() and (preset is None or preset.copies_streams)


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """One video to be written."""

    path: Path
    plan: VideoPlan
    converter: Converter
    schedule: Schedule
    aspect: tuple[int, int] | None = None
    """Vertical and horizontal size of a pixel (PS3.3 C.7.6.3.1.7), None for square."""
