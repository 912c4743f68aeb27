"""Palette colours: indices to 8-bit RGB (PS3.3 C.7.6.3.1.5, C.7.9).

Contract: `read_palette` gives one table for all stored values an index can have, so that no index leads outside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exporter.errors import BadGeometry
from exporter.frames.luts import Table, read_table
from exporter.frames.take_lut import look_up

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Palette:
    """A table of colours."""

    first: int
    """The stored value that gets the first colour."""
    colours: NDArray[np.uint8]
    """``(entries, 3)``, RGB."""

    @property
    def last(self) -> int:
        """The stored value that gets the last colour; greater ones get it too."""
        return self.first + len(self.colours) - 1

    def __call__(self, values: np.ndarray) -> NDArray[np.uint8]:
        """``(rows, columns, 3)`` for stored values of ``(rows, columns)``."""
        if self.first == 0 and values.dtype.kind == "u":
            return look_up(self.colours, values)
        index = np.clip(values.astype(np.int64) - self.first, 0, len(self.colours) - 1)
        return look_up(self.colours, index.astype(np.uint16))


def read_palette(header: Dataset, *, signed: bool, big_endian: bool, notes: list[str]) -> Palette:
    """The palette of an instance.

    Raises:
        BadGeometry: A descriptor is damaged, or the three differ in what they map.
        CorruptPixels: Data are missing.
    """
    tables = [
        read_table(
            header,
            f"{colour}PaletteColorLookupTableDescriptor",
            f"{colour}PaletteColorLookupTableData",
            signed=signed,
            big_endian=big_endian,
            notes=notes,
        )
        for colour in ("Red", "Green", "Blue")
    ]
    if len({(table.first, len(table.entries)) for table in tables}) > 1:
        raise BadGeometry("the descriptors of the three palette tables differ")
    bits = _depth(tables, notes)
    top = (1 << bits) - 1
    colours = np.stack([(t.entries.astype(np.uint32) * 255 + top // 2) // top for t in tables], axis=1)
    return Palette(tables[0].first, colours.astype(np.uint8))


def _depth(tables: list[Table], notes: list[str]) -> int:
    """Bits of the entries; tables that say 16 and use 8 are common."""
    bits = max(table.bits for table in tables)
    if bits == 16 and max(int(table.entries.max()) for table in tables) <= 0xFF:
        notes.append("the palette says 16 bits per entry and uses 8: read as 8")
        return 8
    return bits
