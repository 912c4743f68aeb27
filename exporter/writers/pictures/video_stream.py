"""Recognition and opening of an encoded video stream inside pixel data.

Contract: the container or elementary stream is recognised by its first bytes, the codec from the stream, the transfer
syntax only where the bytes do not tell. Every error of FFmpeg while reading becomes `CorruptPixels`; the size of the
pictures is checked against the limits before any is decoded.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from exporter.errors import CorruptPixels, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

    from av.container import InputContainer
    from av.video.stream import VideoStream

    from exporter.settings.settings import LimitSettings

_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"})
_SYNC, _PACKET = 0x47, 188
_HEVC: Final = ("1.2.840.10008.1.2.4.107", "1.2.840.10008.1.2.4.108")
_MPEG2: Final = ("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.101")
_ELEMENTARY: Final = frozenset({"h264", "hevc", "mpegvideo"})


@dataclass(frozen=True, slots=True)
class StreamKind:
    """Container or elementary stream that the bytes are."""

    demuxer: str
    """Name of FFmpeg's demuxer."""

    @property
    def elementary(self) -> bool:
        """Whether the stream is bare pictures, without times of its own."""
        return self.demuxer in _ELEMENTARY

    @property
    def start_codes(self) -> bool:
        """Whether H.264 and HEVC units are separated by start codes (Annex B) and not by lengths."""
        return self.demuxer != "mp4"


def kinds_of(head: bytes, transfer_syntax: str) -> tuple[StreamKind, ...]:
    """Kinds that a stream beginning with `head` can be, the likeliest first."""
    if head[4:8] in _BOXES:
        return (StreamKind("mp4"),)
    if len(head) > 2 * _PACKET and head[0] == head[_PACKET] == head[2 * _PACKET] == _SYNC:
        return (StreamKind("mpegts"),)
    if head[:3] == b"\0\0\1" and len(head) > 3 and (head[3] == 0xBA or head[3] == 0xBB or 0xC0 <= head[3] <= 0xEF):
        return (StreamKind("mpeg"),)
    if head[:4] == b"\0\0\1\xb3":
        return (StreamKind("mpegvideo"),)
    claimed = (
        "hevc" if transfer_syntax.startswith(_HEVC) else "mpegvideo" if transfer_syntax.startswith(_MPEG2) else "h264"
    )
    return (StreamKind(claimed), *(StreamKind(name) for name in ("h264", "hevc") if name != claimed))


@contextmanager
def reading(operation: str) -> Iterator[None]:
    """Map what FFmpeg raises while it reads the instance's stream.

    Raises:
        CorruptPixels: It refused.
    """
    import av

    try:
        yield
    except (av.FFmpegError, IndexError) as error:
        raise CorruptPixels(f"{operation}: FFmpeg refused the video stream ({type(error).__name__})") from None


@contextmanager
def open_stream(source: BinaryIO, kind: StreamKind, rate: Fraction, limits: LimitSettings) -> Iterator[InputContainer]:
    """The stream, opened from its beginning; its first video stream has a sane size.

    Raises:
        CorruptPixels: It is no stream of this kind.
        TooLarge: Its pictures pass ``limits.max_frame_pixels``.
    """
    import av

    source.seek(0)
    options = {"framerate": f"{rate.numerator}/{rate.denominator}"} if kind.elementary else {}
    with reading(f"opening as {kind.demuxer}"):
        container = av.open(source, "r", format=kind.demuxer, options=options, metadata_errors="replace")
    try:
        stream = video_of(container)
        if not stream.width or not stream.height:
            raise CorruptPixels(f"no picture in the stream, read as {kind.demuxer}")
        if stream.width * stream.height > limits.max_frame_pixels:
            raise TooLarge(
                f"a picture of the video has {stream.width} x {stream.height} pixels, permitted are "
                f"{limits.max_frame_pixels} (limits.max_frame_pixels)"
            )
        stream.codec_context.thread_count = 1
        yield container
    finally:
        container.close()


def video_of(container: InputContainer) -> VideoStream:
    """The first video stream.

    Raises:
        CorruptPixels: There is no video stream.
    """
    if not container.streams.video:
        raise CorruptPixels("the stream holds no video")
    stream = container.streams.video[0]
    if getattr(stream, "codec_context", None) is None:  # PyAV leaves it out where FFmpeg knows no decoder
        raise CorruptPixels("the stream holds a video of an unknown codec")
    return stream
