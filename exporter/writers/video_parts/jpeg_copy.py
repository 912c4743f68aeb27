"""JPEG baseline frames as they are: which ones may be copied, without what, and into a Motion JPEG video.

Contract: a JPEG is copied only where every viewer shows what the instance means: its decoding by JFIF's rules has to
agree with the display values. The compressed pixels are never touched. Comments, EXIF and every other segment that
could hold text are left out; frame header, tables, JFIF (without thumbnail), Adobe's colour marker and colour profiles
stay.

Source: ITU-T T.81 annex B (markers), T.871 (JFIF), T.872 6.5.3 (Adobe APP14).
"""

from __future__ import annotations

import io
import re
import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from exporter.errors import CorruptPixels, VerifyFailed
from exporter.frames.codestream import sniff
from exporter.frames.completeness import check_completeness
from exporter.frames.jpeg_integrity import refuse_damaged
from exporter.writers.pictures.display_frames import still_pictures
from exporter.writers.video_parts.encoder import closing, container_options, foreign
from exporter.writers.video_parts.verify import channel_means, check_times, psnr, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from exporter.dicom.timing import Schedule
    from exporter.frames import Frames
    from exporter.settings.settings import DisplaySettings

CONTAINERS: Final = frozenset({"mp4", "mov", "matroska", "avi"})
_EOI, _SOS, _SOF0 = 0xD9, 0xDA, 0xC0
_OTHER_FRAMES: Final = frozenset({*range(0xC1, 0xD0), *range(0xF0, 0xFE)} - {0xC4, 0xC8, 0xCC})
"""Frame headers of every other process, and the markers of JPEG-LS (T.81 table B.1, T.87 C.1)."""
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_SCAN_END: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_DECODED_BACK: Final = 8
"""Frames of the video that are decoded once more: all were decoded before they were copied, byte for byte."""
_AGREEMENT_DB: Final = 32.0
"""Viewers smooth subsampled chroma each in their own way: they agree to about 35 dB on sharp colour edges, while a
wrong colour space, a window or an inversion is below 25."""
_MEAN_TOLERANCE: Final = 1.5


def bare_jpeg(data: bytes, aspect: tuple[int, int] | None = None) -> bytes | None:
    """The baseline JPEG without segments that could hold text; None where it is not JPEG baseline.

    Args:
        data: The encoded frame; bytes behind its end are left out.
        aspect: Vertical and horizontal size of a pixel; stated in the JFIF header, None for square.

    Raises:
        CorruptPixels: The markers do not lead to the end of the image.
    """
    if data[:2] != b"\xff\xd8":
        return None
    kept = [data[:2]]
    for marker, segment in _segments(data):
        if marker in _OTHER_FRAMES or (marker == _SOF0 and segment[4] != 8):
            return None
        if _is_kept(marker, segment):
            kept.append(segment)
    if aspect is not None:
        _state_aspect(kept, aspect)
    return b"".join(kept)


def _state_aspect(segments: list[bytes], aspect: tuple[int, int]) -> None:
    """The shape of pixels in the JFIF header (unit 0: a ratio, T.871 10.1), which is made if absent.

    Beside Adobe's marker none is made: JFIF would claim another colour space.
    """
    density = struct.pack(">BHH", 0, *aspect)
    for index, segment in enumerate(segments):
        if segment[:2] == b"\xff\xe0":
            segments[index] = segment[:11] + density + segment[16:]
            return
    if not any(segment[:2] == b"\xff\xee" for segment in segments):
        segments.insert(1, b"\xff\xe0\0\x10JFIF\0\1\1" + density + b"\0\0")


def coding_of(jpeg: bytes) -> bytes:
    """Frame header and colour marker: what says how the compressed pixels become colours of which size."""
    return b"".join(segment for marker, segment in _segments(jpeg) if marker in {_SOF0, 0xEE})


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker segments up to the end of the image; that of a scan with its entropy-coded bytes.

    Raises:
        CorruptPixels: A marker or the end is missing.
    """
    position = 2
    while position + 2 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF:
            raise CorruptPixels("a JPEG frame has no marker where one is due")
        if marker == _EOI:
            yield marker, b"\xff\xd9"
            return
        if marker == 0xFF:  # fill bytes (T.81 B.1.1.2)
            position += 1
            continue
        if marker in _STANDALONE:
            position += 2
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if end < position + 4 or end > len(data):
            raise CorruptPixels("a JPEG frame ends inside a segment")
        if marker == _SOS:
            end = _scan_end(data, end)
        yield marker, data[position:end]
        position = end
    raise CorruptPixels("a JPEG frame has no end")


def _scan_end(data: bytes, position: int) -> int:
    """Offset of the end of the entropy-coded bytes: the next marker that is neither a stuffed byte nor a restart.

    Raises:
        CorruptPixels: There is no marker.
    """
    end = _SCAN_END.search(data, position)
    if end is None:
        raise CorruptPixels("a JPEG frame has no end")
    return end.start()


def _is_kept(marker: int, segment: bytes) -> bool:
    if marker == 0xFE:  # comment
        return False
    if not 0xE0 <= marker <= 0xEF:
        return True
    if marker == 0xE0:
        return segment[4:9] == b"JFIF\0" and len(segment) == 18  # a thumbnail makes it longer
    if marker == 0xE2:
        return segment[4:16] == b"ICC_PROFILE\0"
    return marker == 0xEE and segment[4:9] == b"Adobe"


def shows(jpeg: bytes, display: NDArray[np.uint8]) -> bool:
    """Whether a viewer that knows nothing of DICOM shows the display values."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as opened:
            if opened.mode not in {"L", "RGB"}:
                return False
            seen = np.asarray(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    if seen.shape != display.shape:
        return False
    off = np.abs(channel_means(seen) - channel_means(display)).max()
    return bool(off <= _MEAN_TOLERANCE and psnr(display, seen) >= _AGREEMENT_DB)


def same_jpegs(frames: Frames, display: DisplaySettings) -> tuple[int, int] | None:
    """Columns and rows, where all frames are baseline JPEGs of one coding that show the display values.

    Colours have one path for all frames, so the first is judged by its pixels; gray may have a window per frame, so
    each is judged.

    Raises:
        CorruptPixels: A frame is incomplete or damaged.
    """
    if display.overlays:
        return None
    codings = set()
    for index, encoded in enumerate(frames.encoded()):
        jpeg = bare_jpeg(encoded)
        if jpeg is None:
            return None
        if index and frames.is_colour:
            _refuse_incomplete(jpeg)
        codings.add(coding_of(jpeg))
        if len(codings) > 1:
            return None
    size = None
    for encoded, image in zip(frames.encoded(), still_pictures(frames, display), strict=True):
        jpeg = bare_jpeg(encoded)
        if jpeg is None or not shows(jpeg, image):
            return None
        size = (image.shape[1], image.shape[0])
        if image.ndim == 3:
            break
    return size


def _refuse_incomplete(jpeg: bytes) -> None:
    """Refuse a frame that is copied without having been decoded, as decoding it would.

    Raises:
        CorruptPixels: Scans or restart intervals are missing, or the entropy-coded data are damaged.
    """
    header = sniff(jpeg)
    if header is not None:
        check_completeness(jpeg, header)
    refuse_damaged(jpeg)


def bare_jpegs(frames: Frames, aspect: tuple[int, int] | None) -> Iterator[bytes]:
    """The frames' JPEGs without text.

    Raises:
        CorruptPixels: One is no JPEG baseline.
    """
    for number, encoded in enumerate(frames.encoded(), start=1):
        jpeg = bare_jpeg(encoded, aspect)
        if jpeg is None:
            raise CorruptPixels(f"frame {number} is no JPEG baseline among frames that are")
        yield jpeg


def write_motion_jpeg(
    path: Path, jpegs: Iterable[bytes], schedule: Schedule, size: tuple[int, int], container: str
) -> None:
    """Mux JPEG frames into a video, one packet each, and read them back.

    Args:
        path: File that is not there yet.
        jpegs: As many as the schedule has frames.
        schedule: Presentation times.
        size: Columns, rows.
        container: One of `CONTAINERS`.

    Raises:
        EncodeFailed: The container refuses.
        CorruptPixels: There are more or fewer frames than announced.
        VerifyFailed: Read back they are not the same bytes at the right times, or cannot be decoded.
        OutOfSpace: The disk is full.
    """
    import hashlib

    import av

    ticks = schedule.ticks()
    digests: list[bytes] = []
    with foreign(f"opening {container}"):
        output = av.open(str(path), "w", format=container, options=container_options(container, schedule))
    with closing(output, f"closing {container}"):
        with foreign(f"opening {container}"):
            stream = output.add_mux_stream(
                "mjpeg", rate=schedule.rate.limit_denominator(1_000_000), width=size[0], height=size[1]
            )
            stream.time_base = schedule.time_base
        for index, jpeg in enumerate(jpegs):
            if index == schedule.frames:
                raise CorruptPixels(f"more frames than the {schedule.frames} announced")
            packet = av.Packet(jpeg)
            packet.pts = packet.dts = ticks[index]
            packet.duration = ticks[index + 1] - ticks[index]
            packet.time_base = schedule.time_base
            packet.stream = stream
            packet.is_keyframe = True
            digests.append(hashlib.blake2b(jpeg, digest_size=16).digest())
            with foreign(f"copying frame {index + 1} into {container}"):
                output.mux(packet)
        if len(digests) != schedule.frames:
            raise CorruptPixels(f"{len(digests)} frames where {schedule.frames} were announced")
    _check(path, digests, schedule, size, container)


def _check(path: Path, digests: list[bytes], schedule: Schedule, size: tuple[int, int], container: str) -> None:
    """Read the written file: every frame's bytes and time, and some frames decoded."""
    import hashlib

    import av

    times: list[float] = []
    wanted, decoded = spread(len(digests), _DECODED_BACK), 0
    try:
        with av.open(str(path)) as opened:
            stream = opened.streams.video[0]
            stream.codec_context.thread_count = 1
            for packet in opened.demux(stream):
                if packet.size == 0:
                    continue
                count = len(times)
                if count >= len(digests) or hashlib.blake2b(packet, digest_size=16).digest() != digests[count]:
                    raise VerifyFailed(f"frame {count + 1}, read back, is not the frame that was copied")
                times.append(float((packet.pts or 0) * packet.time_base))
                for frame in stream.codec_context.decode(packet) if count in wanted else ():
                    decoded += (frame.width, frame.height) == size
            decoded += len(stream.codec_context.decode(None))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise VerifyFailed(f"the {container} of copied frames cannot be read back ({type(error).__name__})") from None
    if len(times) != len(digests):
        raise VerifyFailed(f"the {container}, read back, has {len(times)} of {len(digests)} copied frames")
    if decoded != len(wanted):
        raise VerifyFailed(f"{decoded} of {len(wanted)} copied frames can be decoded at their size")
    check_times(schedule, times)
