"""Fields of JPEG XL headers, bit by bit.

Contract: reads within the bytes that are given, never beyond; the cost is that of the bits that are read.

Source: ISO/IEC 18181-1 annex C.2 (bit order, U32, U64), D.2 (size header).
"""

from __future__ import annotations

from typing import Final

from exporter.errors import CorruptPixels

SIZE: Final = ((1, 9), (1, 13), (1, 18), (1, 30))
"""A side of an image that is no multiple of 8 up to 256 (D.2)."""
BIT_DEPTH: Final = ((8, 0), (10, 0), (12, 0), (1, 6))
EXTRA_CHANNELS: Final = ((0, 0), (1, 0), (2, 4), (1, 12))
ENUM: Final = ((0, 0), (1, 0), (2, 4), (18, 6))
_RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


class BitsNotFollowed(Exception):
    """The headers use what is not followed here."""


class JpegXlBits:
    """Fields of a codestream from an offset on, from the least significant bit of each byte on."""

    def __init__(self, data: bytes, offset: int) -> None:
        self._data = data
        self.position = 8 * offset

    def read(self, count: int) -> int:
        """The next `count` bits, at most 32.

        Raises:
            CorruptPixels: The data end before.
        """
        first, skip = divmod(self.position, 8)
        self.position += count
        if self.position > 8 * len(self._data):
            raise CorruptPixels("reading the JPEG XL header failed: it is cut")
        return int.from_bytes(self._data[first : first + 5], "little") >> skip & (1 << count) - 1

    def choice(self, alternatives: tuple[tuple[int, int], ...]) -> int:
        """A U32 field: two bits select one of four (base, extra bits)."""
        base, extra = alternatives[self.read(2)]
        return base + self.read(extra)

    def long(self) -> int:
        """A U64 field that is 0 or small.

        Raises:
            BitsNotFollowed: The value is larger.
        """
        selector = self.read(2)
        if selector == 3:
            raise BitsNotFollowed
        return (0, 1, 17)[selector] + self.read((0, 4, 8)[selector])

    def refuse(self) -> None:
        """Read a flag that leads to what is not followed.

        Raises:
            BitsNotFollowed: The flag is set.
        """
        if self.read(1):
            raise BitsNotFollowed

    def align(self) -> None:
        """Go to the next byte."""
        self.position = (self.position + 7) & ~7

    def size(self) -> tuple[int, int]:
        """Rows and columns of a size header (D.2)."""

        def side() -> int:
            return 8 * (self.read(5) + 1) if small else self.choice(SIZE)

        small = self.read(1)
        rows = side()
        ratio = self.read(3)
        if ratio:
            numerator, denominator = _RATIOS[ratio - 1]
            return rows, rows * numerator // denominator
        return rows, side()
