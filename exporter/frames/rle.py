"""RLE Lossless frames (PS3.5 annex G) to native bytes, into memory whose size the DICOM header decides.

Contract: the result has exactly the bytes of a native frame (colour by plane, little endian), all of them written. What
the RLE header says is checked against the bytes that are there.

Must never: let the encoded data decide how much is allocated.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import CorruptPixels
from exporter.frames.codecs import DECODER_ERRORS

if TYPE_CHECKING:
    from exporter.dicom.pixels import PixelDescription

_HEADER = struct.Struct("<16I")
_SLACK = 130
"""A last run may write past the segment's end; one run has at most 128 bytes."""


def looks_like_rle(data: bytes, segments: int) -> bool:
    """Whether `data` begins with an RLE header of `segments` segments."""
    if len(data) < _HEADER.size:
        return False
    count, *offsets = _HEADER.unpack_from(data)
    used, unused = offsets[:count], offsets[count:]
    return count == segments and offsets[0] == 64 and used == sorted(used) and not any(unused)


def rle_planes(data: bytes, pixels: PixelDescription, notes: list[str]) -> np.ndarray:
    """The decoded frame: for 1-bit cells the packed bytes, else unsigned cells of shape (samples, rows x columns).

    `notes` gets what segments hold beyond their plane.

    Raises:
        CorruptPixels: The header or a segment is damaged, or a segment is too short.
    """
    import imagecodecs

    width = max(1, pixels.bits_allocated // 8)
    segments = pixels.samples * width
    if len(data) < _HEADER.size:
        raise CorruptPixels("an RLE frame is shorter than its header")
    count, *offsets = _HEADER.unpack_from(data)
    if count != segments:
        raise CorruptPixels(f"an RLE frame has {count} segments, {segments} are needed")
    bounds = [*offsets[:count], len(data)]
    if bounds[0] < _HEADER.size or any(a >= b for a, b in pairwise(bounds)):
        raise CorruptPixels("the segment offsets of an RLE frame do not ascend within the frame")

    length = -(-pixels.frame_pixels // 8) if pixels.bits_allocated == 1 else pixels.frame_pixels
    scratch = np.empty(length + _SLACK, np.uint8)
    planes = np.empty((pixels.samples, length, width), np.uint8)
    for index in range(segments):
        segment = data[bounds[index] : bounds[index + 1]]
        try:
            decoded = _unpacked(imagecodecs, segment, scratch)
        except DECODER_ERRORS:
            raise CorruptPixels("an RLE segment is damaged") from None
        if len(decoded) < length:
            raise CorruptPixels(f"an RLE segment has {len(decoded)} of {length} bytes")
        if len(decoded) > length:
            notes.append("an RLE segment holds more bytes than its plane has: the rest is left out")
        # Segments hold the most significant byte first; cells are made little endian.
        planes[index // width, :, width - 1 - index % width] = decoded[:length]
    return planes.view(f"<u{width}").reshape(pixels.samples, length)


def _unpacked(imagecodecs: Any, segment: bytes, scratch: np.ndarray) -> np.ndarray:
    """The segment's bytes, in `scratch`; the zero byte that pads a segment to even length is no run."""
    try:
        result: np.ndarray = imagecodecs.packbits_decode(segment, out=scratch)
    except DECODER_ERRORS:
        if not segment.endswith(b"\0"):
            raise
        result = imagecodecs.packbits_decode(segment[:-1], out=scratch)
    return result
