"""Comparison of a metadata file with the lines that the ledger committed; read-only.

Contract: `inspect` says up to which line and byte the file is right, and which whole lines of others it holds where
they may stand. Memory: one line.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, BinaryIO

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOST_LINE_BYTES = 256 << 20
"""A longer run of bytes without a newline is no line of anybody's."""

Place = tuple[int, int, int]
"""(seq, length, crc32): of our line `seq`; or of whole lines of others that lie before our line `seq`."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The part of a metadata file that is right."""

    seq: int
    """The last line of ours up to which everything is in its place."""
    end: int
    """Length of the part that is right, lines of others included; bytes behind it must not stay."""
    foreign: tuple[Place, ...]
    """The lines of others before `end`."""
    size: int
    """Bytes the file has."""


def inspect(
    file: BinaryIO,
    lines: Iterable[Place],
    *,
    start: tuple[int, int],
    foreign: Iterable[Place],
    published_seq: int,
    repeats: Callable[[], Callable[[bytes], bool]],
) -> Finding:
    """Compare `file` with the lines of the ledger.

    Args:
        file: Open for reading.
        lines: The ledger's lines after `start`, in order.
        start: (seq, offset) up to which the file is known to be right.
        foreign: Lines of others that were accepted before, after `start`.
        published_seq: Lines up to this one were durable in the file. Where one of them is missing the file is damaged,
            and what follows the damage is not accepted as lines of others.
        repeats: Makes, where it is needed, the test whether a line repeats one of the ledger's.
    """
    size = file.seek(0, 2)
    accepted = {before: list(group) for before, group in groupby(foreign, itemgetter(0))}
    kept: list[Place] = []
    seq, end = start
    file.seek(end)
    for place in lines:
        group = accepted.get(place[0], [])
        if any(_crc32(file, length) != crc32 for _, length, crc32 in group):
            return Finding(seq, end, tuple(kept), size)
        if _crc32(file, place[1]) != place[2]:
            return _adopt(file, Finding(seq, end, tuple(kept), size), published_seq, repeats)
        kept += group
        seq, end = place[0], end + place[1] + sum(length for _, length, _ in group)
    for one in accepted.get(seq + 1, []):
        file.seek(end)
        if _crc32(file, one[1]) == one[2]:
            kept.append(one)
            end += one[1]
    return _adopt(file, Finding(seq, end, tuple(kept), size), published_seq, repeats)


def _adopt(
    file: BinaryIO, finding: Finding, published_seq: int, repeats: Callable[[], Callable[[bytes], bool]]
) -> Finding:
    """Accept whole lines of others behind that part, up to the first text that is no line."""
    if finding.end == finding.size or finding.seq < published_seq:
        return finding
    is_repeated = repeats()
    length, crc32 = 0, 0
    file.seek(finding.end)
    while (text := file.readline(MOST_LINE_BYTES)) and _is_object(text) and not is_repeated(text):
        length, crc32 = length + len(text), zlib.crc32(text, crc32)
    if not length:
        return finding
    foreign = (*finding.foreign, (finding.seq + 1, length, crc32))
    return Finding(finding.seq, finding.end + length, foreign, finding.size)


def _is_object(text: bytes) -> bool:
    if not text.endswith(b"\n"):
        return False
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _crc32(file: BinaryIO, length: int) -> int:
    """CRC-32 of the next `length` bytes; -1 where there are fewer."""
    value = 0
    while length > 0:
        part = file.read(min(length, 1 << 20))
        if not part:
            return -1
        value, length = zlib.crc32(part, value), length - len(part)
    return value
