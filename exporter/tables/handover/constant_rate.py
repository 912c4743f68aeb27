"""A video at a constant rate, frame by frame the same as a medium: annotation tools count frames by time.

Contract: frame n of the medium is frame n of the video, at n periods; every decoded frame is compared. Encoded frames
are copied where MP4 holds their codec, as H.264 does; otherwise they are encoded anew without loss. Sound is left out.

Must never: drop, repeat or change a frame.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exporter.tables.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction
    from pathlib import Path

_COPIED: Final = frozenset({"h264", "hevc", "mpeg4"})
"""Codecs that MP4 holds, and whose packets are frames."""
_LOSSLESS: Final = {
    "gray": ("libx264", "gray"),
    "yuv420p": ("libx264", "yuv420p"),
    "yuv422p": ("libx264", "yuv422p"),
    "yuv444p": ("libx264", "yuv444p"),
    "yuvj420p": ("libx264", "yuvj420p"),
    "yuvj422p": ("libx264", "yuvj422p"),
    "yuvj444p": ("libx264", "yuvj444p"),
    "bgr0": ("libx264rgb", "rgb24"),
    "rgb24": ("libx264rgb", "rgb24"),
    "gbrp": ("libx264rgb", "rgb24"),
}
"""Encoder without loss and its pixel format, by pixel format of the medium."""
_GRAY: Final = "gray"
_RGB: Final = frozenset({"bgr0", "rgb24", "gbrp"})


class CineRefused(TableError):
    """A medium cannot become a constant-rate video; the others can."""


@dataclass(frozen=True, slots=True)
class ConstantRateVideo:
    """A written video."""

    frames: int
    width: int
    height: int
    codec: str
    pixel_format: str
    is_copied: bool
    """Whether the encoded frames are those of the medium, bit by bit."""
    ticks: int
    """Duration of one frame in the time base of the file."""
    key_frames: tuple[tuple[int, str], ...]
    """Number of every key frame, and the MD5 of its RGB samples, as CVAT's manifests have it."""

    @property
    def plays_in_browsers(self) -> bool:
        """Whether every current browser decodes it: H.264 with 8 bits and 4:2:0."""
        return self.codec == "h264" and self.pixel_format in {"yuv420p", "yuvj420p"}


@dataclass(frozen=True, slots=True)
class _Decoded:
    """What decoding a video shows."""

    codec: str
    form: tuple[str, int, int]
    """Pixel format, width and height of every frame."""
    times: tuple[Fraction, ...]
    digests: tuple[bytes, ...]
    key_frames: tuple[tuple[int, str], ...]


def write_constant_rate(source: Path, target: Path, rate: Fraction) -> ConstantRateVideo:
    """Write a medium as an MP4 at a constant rate, and compare every frame.

    Args:
        source: The medium.
        target: The new file.
        rate: Frames per second.

    Raises:
        CineRefused: The medium cannot be read, changes its colours or size, or no MP4 holds its frames.
        OSError: The file cannot be written.
    """
    import av

    try:
        before = _decode(source)
        is_copied = before.codec in _COPIED
        if is_copied:
            _copy(source, target, rate, before)
        else:
            _encode(source, target, rate, before)
        after = _decode(target, luma_only=before.form[0] == _GRAY)
    except (av.FFmpegError, ValueError) as error:
        raise CineRefused(f"its frames cannot be read or written ({type(error).__name__})") from None
    if len(after.times) != len(before.times) or after.digests != before.digests:
        raise CineRefused("the new video, decoded again, does not hold the same frames")
    if after.times != tuple(number / rate for number in range(len(after.times))):
        raise CineRefused("the frames of the new video are not at a constant rate")
    form, width, height = after.form
    ticks = _ticks(target)
    return ConstantRateVideo(len(after.times), width, height, after.codec, form, is_copied, ticks, after.key_frames)


def _frames(path: Path) -> Iterator[tuple[str, Any]]:
    """Codec and decoded frame of every frame of a video, in display order."""
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        if not container.streams.video:
            raise CineRefused("it holds no video")
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            yield stream.codec_context.name, frame


def _decode(path: Path, *, luma_only: bool = False) -> _Decoded:
    """Decode every frame.

    Args:
        path: The video.
        luma_only: Whether only luma is compared: gray H.264 is decoded with chroma of one value.

    Raises:
        CineRefused: Frames have no time, or differ in colours or size.
        av.FFmpegError: A frame cannot be decoded.
    """
    forms: dict[tuple[Any, ...], None] = {}
    times: list[Fraction] = []
    digests: list[bytes] = []
    keys: list[tuple[int, str]] = []
    codecs: dict[str, None] = {}
    for codec, frame in _frames(path):
        codecs[codec] = None
        forms[frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range] = None
        if len(forms) > 1:
            raise CineRefused("its frames change their colours or size, which no task file can say")
        if frame.pts is None or frame.time_base is None:
            raise CineRefused("a frame of it has no time")
        if frame.key_frame:
            rgb = frame.to_ndarray(format="rgb24")
            keys.append((len(times), hashlib.md5(rgb.tobytes(), usedforsecurity=False).hexdigest()))
        times.append(frame.pts * frame.time_base)
        digests.append(_luma(frame) if luma_only else _digest(frame))
    if not times:
        raise CineRefused("it holds no frame")
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise CineRefused("two frames of it have the same time")
    form, width, height, *_ = next(iter(forms))
    return _Decoded(next(iter(codecs)), (form, width, height), tuple(times), tuple(digests), tuple(keys))


def _luma(frame: Any) -> bytes:
    """Hash of the luma of a frame, as `_digest` makes it of a gray one."""
    plane = frame.planes[0]
    samples = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: frame.height, : frame.width]
    return hashlib.blake2b(samples.tobytes(), digest_size=16).digest()


def _digest(frame: Any) -> bytes:
    """Hash of the samples of a frame, the same for every order of RGB."""
    samples = frame.to_ndarray(format="rgb24") if frame.format.name in _RGB else frame.to_ndarray()
    return hashlib.blake2b(samples.tobytes(), digest_size=16).digest()


def _copy(source: Path, target: Path, rate: Fraction, decoded: _Decoded) -> None:
    """Copy encoded frames, each with the time of its place in the display order.

    Raises:
        CineRefused: Packets and frames do not correspond.
        av.FFmpegError: The container refuses.
    """
    import av

    with av.open(str(source), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        if len(packets) != len(decoded.times) or any(packet.pts is None for packet in packets):
            raise CineRefused("its packets are not its frames")
        ranks = {
            pts: rank for rank, pts in enumerate(sorted(packet.pts for packet in packets if packet.pts is not None))
        }
        delay = max(index - ranks[packet.pts] for index, packet in enumerate(packets) if packet.pts is not None)
        with av.open(str(target), "w", format="mp4", options=_OPTIONS) as output:
            copied = output.add_stream_from_template(stream)
            copied.time_base = 1 / rate
            for index, packet in enumerate(packets):
                packet.pts, packet.dts, packet.duration = ranks[packet.pts or 0], index - delay, 1
                packet.time_base, packet.stream = 1 / rate, copied
                output.mux(packet)


_OPTIONS: Final = {"movflags": "+faststart", "fflags": "+bitexact"}


def _encode(source: Path, target: Path, rate: Fraction, decoded: _Decoded) -> None:
    """Encode frames as H.264 without loss, with a key frame every 8 frames.

    Raises:
        CineRefused: H.264 has no form for these samples.
        av.FFmpegError: The encoder refuses.
    """
    import av

    form, width, height = decoded.form
    if form not in _LOSSLESS:
        raise CineRefused(
            f"no H.264 video holds its frames ({form}) without loss: export it with `video.preset: training`"
        )
    encoder, own_form = _LOSSLESS[form]
    with av.open(str(target), "w", format="mp4", options=_OPTIONS) as output:
        options = {"qp": "0", "g": "8", "bf": "0"}
        stream: Any = output.add_stream(encoder, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, own_form
        stream.time_base = stream.codec_context.time_base = 1 / rate
        for number, (_, frame) in enumerate(_frames(source)):
            if number == 0:  # the same samples would mean other values in another range
                stream.codec_context.color_range = frame.color_range
            own = frame if form == own_form else frame.reformat(format=own_form)
            own.pts, own.time_base = number, 1 / rate
            for packet in stream.encode(own):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)


def _ticks(path: Path) -> int:
    """Duration of one frame, in the time base of a video of constant rate."""
    import av

    with av.open(str(path), metadata_errors="replace") as container:
        packets = (packet for packet in container.demux(container.streams.video[0]) if packet.size)
        return next(int(packet.duration or 1) for packet in packets)
