"""Lookup tables of the data set: modality, VOI and palette tables (PS3.3 C.11.1.1.1, C.7.6.3.1.5).

Contract: a `Table` always has at least one entry, all of them read from the element; input below its first mapped value
gets the first entry, input above its last the last one, as the Standard says.

Must never: read past the element, or believe a descriptor's number of entries beyond the data that are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exporter.dicom.elements import name_of, value_of
from exporter.errors import BadGeometry, CorruptPixels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A lookup table."""

    first: int
    """The input value that gets the first entry."""
    bits: int
    """Bits per entry."""
    entries: NDArray[np.uint16]

    def __call__(self, values: np.ndarray) -> NDArray[np.uint16]:
        """The entries for integer or float input, of the input's shape."""
        index = np.clip(np.rint(values).astype(np.int64) - self.first, 0, len(self.entries) - 1)
        found: NDArray[np.uint16] = self.entries[index]
        return found


def read_table(item: Dataset, descriptor: str, data: str, *, signed: bool, big_endian: bool, notes: list[str]) -> Table:
    """The table of an item.

    Args:
        item: The data set that holds descriptor and data.
        descriptor: Keyword of the descriptor.
        data: Keyword of the data; with ``Segmented`` before it they are expanded.
        signed: Whether the first mapped value is signed.
        big_endian: Byte order of OW data.
        notes: Gets what was odd.

    Raises:
        BadGeometry: The descriptor is missing or not three integers.
        CorruptPixels: The data are missing or shorter than the descriptor says.
    """
    entries, first, bits = _descriptor(item, descriptor, signed=signed)
    segmented = f"Segmented{data}"
    raw = _data(item, data)
    if raw is None and (raw := _data(item, segmented)) is not None:
        raw = raw[: 8 * entries + 8]  # at most four words per entry; what follows describes nothing
        if bits == 8 and isinstance(raw, bytes):
            table = expand_segments(list(raw), entries, 1)
        else:
            table = expand_segments(_words(raw, bits, None, big_endian=big_endian).tolist(), entries, 2)
    elif raw is None:
        raise CorruptPixels(f"{name_of(data)} is missing")
    else:
        table = _words(raw, bits, entries, big_endian=big_endian)
    if len(table) < entries:
        raise CorruptPixels(f"{name_of(data)} has {len(table)} of {entries} entries")
    table = table[:entries]
    most = int(table.max())
    if most >= 1 << bits:
        notes.append(f"{name_of(data)} has entries of more bits than its descriptor says")
        bits = most.bit_length()
    return Table(first, bits, table)


def _descriptor(item: Dataset, keyword: str, *, signed: bool) -> tuple[int, int, int]:
    """(number of entries, first mapped value, bits per entry)."""
    try:
        value = value_of(item, keyword)
        entries, first, bits = (int(v) for v in value)
    except (TypeError, ValueError):
        raise BadGeometry(f"{name_of(keyword)} is not three integers") from None
    entries &= 0xFFFF
    first &= 0xFFFF
    if signed and first > 0x7FFF:
        first -= 0x10000
    if not 1 <= bits <= 16:
        raise BadGeometry(f"{name_of(keyword)}: {bits} bits per entry, permitted are 8 to 16")
    return entries or 0x10000, first, bits


def _data(item: Dataset, keyword: str) -> bytes | list[int] | None:
    try:
        value = value_of(item, keyword)
    except ValueError as error:
        raise CorruptPixels(str(error)) from None
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return [value]
    try:
        return [int(v) for v in value]
    except (TypeError, ValueError):
        raise CorruptPixels(f"{name_of(keyword)} holds no integers") from None


def _words(raw: bytes | list[int], bits: int, entries: int | None, *, big_endian: bool) -> NDArray[np.uint16]:
    """Entries from OW bytes or from numbers; 8-bit entries may lie two in a word (PS3.3 C.7.6.3.1.6)."""
    if isinstance(raw, list):
        words = np.array([v & 0xFFFF for v in raw], np.uint16)
        if bits == 8 and entries is not None and len(words) < entries <= 2 * len(words):
            return words.astype("<u2").view(np.uint8).astype(np.uint16)
        return words
    if bits == 8 and entries is not None and len(raw) < 2 * entries and len(raw) >= entries:
        order = ">u2" if big_endian else "<u2"
        even = raw + b"\0" * (len(raw) % 2)
        return np.frombuffer(even, order).astype("<u2").view(np.uint8).astype(np.uint16)
    return np.frombuffer(raw[: len(raw) // 2 * 2], ">u2" if big_endian else "<u2").astype(np.uint16)


def expand_segments(words: list[int], entries: int, bytes_per_word: int) -> NDArray[np.uint16]:
    """The table that discrete, linear and indirect segments describe (PS3.3 C.7.9.2).

    Raises:
        CorruptPixels: A segment is cut, unknown, or refers to a place where no segments are.
    """
    table: list[int] = []
    at = 0
    while at + 2 <= len(words) and len(table) < entries:
        if words[at] != 2:
            at = _expand_one(words, at, table)
            continue
        if at + 4 > len(words):
            raise CorruptPixels("an indirect segment of a palette is cut")
        # Byte offset of the first segment that is repeated, low word first.
        place = (words[at + 2] | words[at + 3] << 8 * bytes_per_word) // bytes_per_word
        for _ in range(words[at + 1]):
            if len(table) >= entries:
                break
            if place >= at or words[place] == 2:
                raise CorruptPixels(
                    "an indirect segment of a palette refers to no discrete or linear segment before it"
                )
            place = _expand_one(words, place, table)
        at += 4
    return np.array(table[:entries], np.uint16)


def _expand_one(words: list[int], at: int, table: list[int]) -> int:
    """Append what one discrete or linear segment describes; returns where the next one begins.

    A segment that describes nothing is refused: so there are never more steps than entries.
    """
    if at + 3 > len(words):
        raise CorruptPixels("a segment of a palette is cut")
    opcode, length = words[at], words[at + 1]
    if opcode == 0 and length and at + 2 + length <= len(words):
        table.extend(words[at + 2 : at + 2 + length])
        return at + 2 + length
    if opcode == 1 and table and length:
        start, stop = table[-1], words[at + 2]
        table.extend(start + (2 * (stop - start) * i + length) // (2 * length) for i in range(1, length + 1))
        return at + 3
    raise CorruptPixels("a segment of a palette is damaged")
