"""Pixel cells to stored values: bits, sign, byte order and planes of one frame (PS3.5 8.1.1, 8.2; PS3.3 C.7.6.3.1).

Cells of 12 bits, as ACR-NEMA 300 and the first editions of PS3.5 (annex D) have them, lie one behind the other in
words of 16 bits, the first in the lowest bits: two cells in three bytes.

Contract: every function returns a new or read-only array of exactly one frame: ``(rows, columns)`` for one sample
per pixel, ``(rows, columns, 3)`` for three; unsigned or signed integers of 8, 16, 32 or 64 bits, or floats. Bits
outside Bits Stored are removed, the sign is extended. Input of the wrong length is refused before an array is made.

Must never: read beyond the bytes of the frame, or return memory that was not written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from exporter.errors import BadGeometry, CorruptPixels

if TYPE_CHECKING:
    from exporter.dicom.pixels import PixelDescription

Array = np.ndarray
PACKED: Final = 12
"""Bits Allocated of cells that begin within bytes."""


def is_422(pixels: PixelDescription) -> bool:
    """Whether native cells are sampled 4:2:2: two bytes per pixel, as Y1 Y2 Cb Cr."""
    return pixels.samples == 3 and pixels.photometric in {"YBR_FULL_422", "YBR_PARTIAL_422"}


def frame_bits(pixels: PixelDescription) -> int:
    """Bits of one native frame."""
    per_pixel = 2 if is_422(pixels) else pixels.samples
    return pixels.frame_pixels * per_pixel * pixels.bits_allocated


def frame_bytes(pixels: PixelDescription) -> int:
    """Bytes of one native frame that begins at a byte."""
    return -(-frame_bits(pixels) // 8)


def unpack_bits(raw: bytes | memoryview, skip: int, pixels: PixelDescription) -> Array:
    """One frame of 1-bit cells; the first `skip` bits belong to the frame before. The first pixel is the lowest bit."""
    count = pixels.frame_pixels * pixels.samples
    if 8 * len(raw) < skip + count:
        raise CorruptPixels(f"a frame has {8 * len(raw) - skip} of {count} bits")
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=skip + count, bitorder="little")[skip:]
    return _shaped(bits, pixels)


def packed_cells(raw: bytes | memoryview, skip: int, pixels: PixelDescription) -> Array:
    """The 12-bit cells of one frame; the first `skip` bits (0 or 4) belong to the frame before.

    Raises:
        CorruptPixels: `raw` is shorter than a frame.
    """
    first, count = skip // 4, frame_bits(pixels) // PACKED
    if 2 * len(raw) < first + 3 * count:
        raise CorruptPixels(f"a frame has {8 * len(raw) - skip} of {PACKED * count} bits")
    octets = np.frombuffer(raw, np.uint8)
    nibbles = np.empty(2 * len(octets), np.uint16)
    nibbles[0::2] = octets & 0xF
    nibbles[1::2] = octets >> 4
    low, middle, high = nibbles[first : first + 3 * count].reshape(count, 3).T
    cells: Array = low | middle << 4 | high << 8
    return cells


def from_native(raw: bytes | memoryview, pixels: PixelDescription, *, big_endian: bool = False, skip: int = 0) -> Array:
    """One native frame, as stored values; only packed cells do not begin at a byte (`skip` bits behind it).

    Raises:
        CorruptPixels: `raw` is shorter than a frame.
        BadGeometry: Cells of a size that is not read.
    """
    if pixels.bits_allocated == 1:
        return unpack_bits(raw, 0, pixels)
    expected = frame_bytes(pixels)
    if len(raw) < expected:
        raise CorruptPixels(f"a frame has {len(raw)} of {expected} bytes")
    if pixels.bits_allocated == PACKED:
        cells: Array = packed_cells(raw, skip, pixels)
    else:
        cells = np.frombuffer(raw, _dtype(pixels, big_endian=big_endian), count=expected * 8 // pixels.bits_allocated)
    if is_422(pixels):
        return _from_422(cells, pixels)
    return stored_values(_shaped(cells, pixels), pixels)


def _dtype(pixels: PixelDescription, *, big_endian: bool) -> np.dtype[np.generic]:
    kind = "u" if pixels.keyword == "PixelData" else "f"
    if pixels.bits_allocated not in {8, 16, 32, 64}:
        raise BadGeometry(f"(0028,0100) Bits Allocated is {pixels.bits_allocated}, read are 1, 8, 12, 16, 32 and 64")
    return np.dtype(f"{'>' if big_endian else '<'}{kind}{pixels.bits_allocated // 8}")


def _shaped(cells: Array, pixels: PixelDescription) -> Array:
    if pixels.samples == 1:
        return cells.reshape(pixels.rows, pixels.columns)
    if pixels.planar == 1:
        return cells.reshape(pixels.samples, pixels.rows, pixels.columns).transpose(1, 2, 0)
    return cells.reshape(pixels.rows, pixels.columns, pixels.samples)


def _from_422(cells: Array, pixels: PixelDescription) -> Array:
    """Y1 Y2 Cb Cr to three samples per pixel; both pixels share their chrominance (PS3.3 C.7.6.3.1.2)."""
    if pixels.columns % 2:
        raise BadGeometry("(0028,0011) Columns is odd, which 4:2:2 sampling does not permit")
    groups = cells.reshape(pixels.rows, pixels.columns // 2, 4)
    frame = np.empty((pixels.rows, pixels.columns, 3), cells.dtype.newbyteorder("="))
    frame[:, 0::2, 0] = groups[..., 0]
    frame[:, 1::2, 0] = groups[..., 1]
    for sample in (1, 2):
        frame[:, 0::2, sample] = frame[:, 1::2, sample] = groups[..., sample + 1]
    return frame


def stored_values(cells: Array, pixels: PixelDescription) -> Array:
    """The stored values in unsigned cells: bits High Bit down to High Bit - Bits Stored + 1, with their sign."""
    if cells.dtype.kind == "f":
        return cells.astype(cells.dtype.newbyteorder("="), copy=False)
    cells = cells.astype(cells.dtype.newbyteorder("="), copy=False)
    width = 8 * cells.dtype.itemsize
    shift = pixels.high_bit + 1 - pixels.bits_stored
    if pixels.signed:
        return sign_extended(cells, pixels.bits_stored, shift)
    if pixels.bits_stored == width:
        return cells
    mask = cells.dtype.type((1 << pixels.bits_stored) - 1)
    stored: Array = (cells >> cells.dtype.type(shift)) & mask if shift else cells & mask
    return stored


def sign_extended(cells: Array, bits: int, shift: int = 0) -> Array:
    """Two's complement values of `bits` bits above `shift` in unsigned cells."""
    width = 8 * cells.dtype.itemsize
    signed = cells.view(np.dtype(f"i{cells.dtype.itemsize}"))
    if bits >= width:
        return signed
    left = signed.dtype.type(width - bits - shift)
    right = signed.dtype.type(width - bits)
    extended: Array = (signed << left) >> right
    return extended
