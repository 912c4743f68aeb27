"""Entropy-coded data of a JPEG, checked to be whole: libjpeg fills missing parts with gray without any error.

Contract: `refuse_damaged` raises for a DCT codestream that FFmpeg's decoder, set to stop at any error, cannot
follow to its last block; every other codestream passes unseen. Costs a third of decoding. `undamaged_planes` does the
same, and gives the picture. Of middles cut out of real frames they find nearly all; single wrong bits that still decode
are beyond any JPEG decoder.

`check_extent` is for the lossless process, where FFmpeg calls sound frames damaged: it decodes the frame once more with
other bytes at and behind the end of the entropy-coded data. Only the last samples may depend on them.

`note_misplaced_ends` has FFmpeg decode a JPEG 2000 of several tiles: where SIZ states another tile size than was coded,
and the number of code-blocks stays the same, code-blocks end before or behind their bytes, and nothing else shows it.

Must never: refuse what FFmpeg merely does not support.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from exporter.errors import CorruptPixels

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from av import VideoFrame

    from exporter.frames.codestream import Codestream

_LOSSLESS_HUFFMAN: Final = 0xC3
_SCAN_END: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_RESTART: Final = re.compile(rb"(\xff[\xd0-\xd7])")
_BEHIND: Final = b"\x5a" * 64
_TAIL: Final = 2
"""Bytes at the end of the entropy-coded data that are changed: they hold 9 bits at least, the rest may be padding."""
_STOP_AT_ANY_ERROR: Final = {"err_detect": "explode+bitstream+buffer+careful+compliant+aggressive"}
_AN_EIGHTH: Final = {"lowres": "3"}
"""All entropy-coded data are read, and one sample made of each block: the verdict is the same."""


def refuse_damaged(data: bytes) -> None:
    """Raise if the entropy-coded data of a JPEG of a DCT process are damaged.

    Raises:
        CorruptPixels: They are.
    """
    _strictly_decoded(data, _STOP_AT_ANY_ERROR | _AN_EIGHTH)


def undamaged_planes(data: bytes) -> VideoFrame | None:
    """A JPEG of a DCT process in its own samples, luma and chroma, if its entropy-coded data are whole.

    Returns:
        The picture; None where FFmpeg does not decode this process or sampling, and gives no verdict.

    Raises:
        CorruptPixels: They are damaged.
    """
    return _strictly_decoded(data, _STOP_AT_ANY_ERROR)


def _strictly_decoded(data: bytes, options: dict[str, str]) -> VideoFrame | None:
    import av
    from av.error import FFmpegError, InvalidDataError

    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options = options
    decoder.thread_count = 1
    try:
        decoded = decoder.decode(av.Packet(data))
    except InvalidDataError:
        raise CorruptPixels("the entropy-coded data of the JPEG codestream are damaged or incomplete") from None
    except FFmpegError:
        return None  # a process or sampling that FFmpeg does not decode: no verdict
    return decoded[0] if len(decoded) == 1 else None


def note_misplaced_ends(data: bytes) -> str | None:
    """A note where code-blocks of a JPEG 2000 do not end with their bytes.

    None also where FFmpeg does not decode it.
    """
    import av
    from av import logging

    before = logging.get_level()
    logging.set_level(logging.WARNING)
    try:
        with logging.Capture() as logs:
            decoder = av.CodecContext.create("jpeg2000", "r")
            decoder.thread_count = 1
            decoder.decode(av.Packet(data))
    except av.FFmpegError:
        return None
    finally:
        logging.set_level(before)
    # FFmpeg has no flag for it: only its log says so, beside remarks on the progression order.
    if any(level <= logging.ERROR or "mismatch" in message for level, _, message in logs):
        return "code-blocks of the JPEG 2000 do not end with their bytes: its data or its tile size may be damaged"
    return None


def check_extent(
    data: bytes, header: Codestream, samples: np.ndarray, decode: Callable[[bytes], np.ndarray | None]
) -> str | None:
    """Compare a decoded lossless JPEG with one whose entropy-coded data go on with other bytes.

    `decode` gives None on errors.

    Images of several scans, and arithmetic coding (whose last zero bytes may be left out: T.81 D.1.8), pass unseen.

    Returns:
        A note where bytes follow the last sample.

    Raises:
        CorruptPixels: The data end before the last samples, which the decoder has made up.
    """
    start = data.find(b"\xff\xda", header.frame_header)
    start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    end = _SCAN_END.search(data, start)
    if data[header.frame_header - 3] != _LOSSLESS_HUFFMAN or end is None or data[end.end() - 1] != 0xD9:
        return None
    coded = data[start : end.start()]
    tail = _TAIL if b"\xff" not in coded[-_TAIL - 1 :] else _TAIL + 2
    tail += coded[-tail - 1 : -tail] == b"\xff"  # a byte FF and its stuffed byte stay together
    changed = len(coded) > tail
    if changed:
        coded = coded[:-tail] + bytes(0x5A if byte != 0x5A else 0xA5 for byte in coded[-tail:])
    if b"\xff\xd0" in coded:
        coded = _RESTART.sub(_BEHIND + rb"\1", coded)
    other = decode(data[:start] + coded + _BEHIND + data[end.start() :])
    if other is None:  # the changed bytes are no code of its tables
        changed = False
        other = decode(data[: end.start()] + _BEHIND + data[end.start() :])
    if other is None:
        raise CorruptPixels("the entropy-coded data of the JPEG codestream are damaged or incomplete")
    differs = other != samples
    first = int(differs.argmax())
    if not differs.flat[first]:
        return "bytes follow the last sample of the JPEG: the entropy-coded data may be damaged" if changed else None
    # Each sample has one bit at least, and the first of those in the tail may begin before it.
    if first < samples.size - 1 - (8 * tail if changed else 0):
        raise CorruptPixels("the entropy-coded data of the JPEG codestream are damaged or incomplete")
    return None
