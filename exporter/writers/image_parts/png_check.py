"""Comparison of a PNG file with the samples it must hold, by another inflater than the one that made it.

Contract: `holds` is true only where a decoder gives back exactly these samples: signature, chunks with right CRCs, a
header of the same size, depth and colour type, and rows that, decoded, are the image's. The filters Sub and Up are
one-to-one (ISO/IEC 15948 9.2): a decoded row is the image's if, and only if, the filtered row is the filtered row of
the image. So rows are compared as they are stored, which takes a part of the time of undoing the filter.

It knows the filters that `exporter.writers.image_parts.png` uses. Must never: use the encoder's code, or its library.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_NONE, _SUB, _UP = range(3)
_BLOCK_BYTES = 1 << 17
"""Rows are compared in blocks of this size, which stay in a core's second-level cache."""


def holds(encoded: bytes, image: NDArray[Any]) -> bool:
    """Whether a PNG file holds an image of uint8 or uint16, (rows, columns) or (rows, columns, 3)."""
    rows, columns = image.shape[:2]
    samples = 1 if image.ndim == 2 else image.shape[2]
    parts = _image_data(encoded, (columns, rows, 8 * image.dtype.itemsize, 0 if samples == 1 else 2, 0, 0, 0))
    row_bytes = columns * samples * image.dtype.itemsize
    if parts is None:
        return False
    filtered = _inflated(parts, rows * (row_bytes + 1))
    return filtered is not None and _rows_match(filtered.reshape(rows, row_bytes + 1), image, samples)


def _image_data(encoded: bytes, wanted: tuple[int, ...]) -> bytes | None:
    """The deflated image data of a file with the `wanted` header; None for any other file."""
    import imagecodecs

    if encoded[:8] != _SIGNATURE:
        return None
    found: list[memoryview] = []
    at, view, header = 8, memoryview(encoded), None
    while at + 12 <= len(encoded):
        (length,) = struct.unpack_from(">I", encoded, at)
        end = at + 8 + length
        if end + 4 > len(encoded):
            return None
        if imagecodecs.deflate_crc32(view[at + 4 : end]) != struct.unpack_from(">I", encoded, end)[0]:  # type: ignore[arg-type]  # any buffer
            return None
        kind = encoded[at + 4 : at + 8]
        if (kind == b"IHDR") != (at == 8):
            return None
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", view[at + 8 : end]) if length == 13 else None
        elif kind == b"IDAT":
            found.append(view[at + 8 : end])
        elif kind == b"IEND":
            return b"".join(found) if header == wanted and end + 4 == len(encoded) else None
        at = end + 4
    return None


def _inflated(deflated: bytes, size: int) -> NDArray[np.uint8] | None:
    """The inflated image data; None where they are damaged or not of that size."""
    import imagecodecs

    try:
        inflated = imagecodecs.deflate_decode(deflated, out=size)  # libdeflate; the encoder is ISA-L
    except (imagecodecs.DeflateError, ValueError):
        return None
    return np.frombuffer(inflated, np.uint8) if len(inflated) == size else None


def _rows_match(filtered: NDArray[np.uint8], image: NDArray[Any], samples: int) -> bool:
    """Whether filtered rows decode to the rows of the image; see the module."""
    kinds = filtered[:, 0]
    kind = int(kinds[0])
    if not (kinds == kind).all() or kind > _UP:
        return False
    rows, width = filtered.shape[0], filtered.shape[1] - 1
    step, pixel_bytes = max(1, _BLOCK_BYTES // width), samples * image.dtype.itemsize
    above = np.zeros((1, width), np.uint8)
    expected = np.empty((min(step, rows), width), np.uint8)
    for top in range(0, rows, step):
        plain = _big_endian_bytes(image[top : top + step], width)
        stored = filtered[top : top + step, 1:]
        block = expected[: len(plain)]
        if kind == _SUB:
            block[:, :pixel_bytes] = plain[:, :pixel_bytes]
            np.subtract(plain[:, pixel_bytes:], plain[:, :-pixel_bytes], out=block[:, pixel_bytes:])
        elif kind == _UP:
            np.subtract(plain[:1], above, out=block[:1])
            np.subtract(plain[1:], plain[:-1], out=block[1:])
            above = plain[-1:].copy()
        else:
            block = plain
        if not np.array_equal(stored, block):
            return False
    return True


def _big_endian_bytes(block: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """Rows of samples as the bytes of PNG (7.1)."""
    samples = np.ascontiguousarray(block, ">u2" if block.dtype.itemsize == 2 else np.uint8)
    return samples.view(np.uint8).reshape(len(block), width)
