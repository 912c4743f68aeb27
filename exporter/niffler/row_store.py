"""Rows of a table on disk: written once in the order of the files, read as often as the tables need them.

Contract: memory holds one row and the counts per column. The file has no name, so nothing of it is left behind,
however the run ends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Final, Self

import orjson

from exporter.machine_conditions import storage_error
from listener.foundation.disk import mapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from exporter.niffler.header_values import Cell

MOST_COLUMNS: Final = 200_000
"""Most columns of one table. More come only from odd private elements or sequences, and no program opens them."""

_ROWS_PER_START: Final = 1024


class TooManyColumns(Exception):
    """The table would have more columns than a program can use."""


@dataclass(slots=True)
class SourceRow:
    """Header of one input file, as a row of the table."""

    name: str
    """Path relative to the input folder, as `os.fsdecode` gives it."""
    cells: dict[str, Cell] = field(default_factory=dict)
    values: int = 0
    """Number of header values."""
    has_pixels: bool = False
    lacks: bool = False
    """Whether an element that pixel data need is missing."""
    verdict: str = ""
    """`Reason` or `SkipReason` why nothing is exported; empty otherwise."""
    message: str = ""
    """The reason in a sentence."""


class RowStore:
    """Rows of one run; a context manager that frees their disk space."""

    def __init__(self, folder: Path) -> None:
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self.count = 0
        self._starts: list[int] = []
        """Where every `_ROWS_PER_START`-th row begins."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, row: SourceRow) -> None:
        """Add the row of the next file.

        Raises:
            OutOfSpace: The disk is full.
            StorageUnavailable: The file system refuses for another reason.
        """
        content = {name: getattr(row, name) for name in SourceRow.__slots__}
        if not row.name.isascii():
            content["name"] = list(os.fsencode(row.name))
        with mapped(partial(storage_error, "keeping the rows of the tables")):
            if self.count % _ROWS_PER_START == 0:
                self._starts.append(self._file.tell())
            self._file.write(orjson.dumps(content) + b"\n")
        self.count += 1

    def rows(self, start: int = 0, end: int | None = None) -> Iterator[SourceRow]:
        """The rows from `start` up to and without `end`."""
        if start >= self.count:
            return
        first = start // _ROWS_PER_START
        self._file.seek(self._starts[first])
        for number, line in enumerate(self._file, start=first * _ROWS_PER_START):
            if end is not None and number >= end:
                return
            if number >= start:
                content = orjson.loads(line)
                if isinstance(content["name"], list):
                    content["name"] = os.fsdecode(bytes(content["name"]))
                yield SourceRow(**content)


@dataclass(slots=True)
class _Column:
    """What the cells of one column are."""

    filled: int = 0
    is_text: bool = False
    has_fractions: bool = False


class ColumnSet:
    """The columns of some rows, in the order in which they first occur, and how their numbers look."""

    def __init__(self, wanted: tuple[str, ...] | None = None) -> None:
        self._wanted = None if wanted is None else frozenset(wanted)
        self._columns: dict[str, _Column] = {name: _Column() for name in wanted or ()}
        self.rows = 0

    def add(self, cells: dict[str, Cell]) -> None:
        """Count one row.

        Raises:
            TooManyColumns: There are more than `MOST_COLUMNS`.
        """
        self.rows += 1
        for name, cell in cells.items():
            if self._wanted is not None and name not in self._wanted:
                continue
            column = self._columns.setdefault(name, _Column())
            if cell is None:
                continue
            column.filled += cell != ""
            column.is_text |= isinstance(cell, str)
            column.has_fractions |= isinstance(cell, float)
        if len(self._columns) > MOST_COLUMNS:
            raise TooManyColumns(
                f"the table would have more than {MOST_COLUMNS} columns: name those that are wanted in featureset.txt"
                " (SpecificHeadersOnly)"
            )

    @property
    def names(self) -> list[str]:
        """Every column."""
        return list(self._columns)

    def empty(self) -> list[str]:
        """Columns in which no row has anything."""
        return [name for name, column in self._columns.items() if not column.filled]

    def common(self, share: float) -> list[str]:
        """Columns that are filled in more than that share of the rows."""
        return [name for name, column in self._columns.items() if column.filled > share * self.rows]

    def text(self, name: str, cell: Cell) -> str:
        """A cell as text.

        Whole numbers of a column in which some row has none are decimal fractions (``8.0``), as pandas writes them.
        """
        if cell is None or isinstance(cell, str):
            return cell or ""
        column = self._columns[name]
        is_fraction = not column.is_text and (column.has_fractions or column.filled < self.rows)
        return repr(float(cell)) if is_fraction and abs(cell) < 1 << 53 else str(cell)


def split_evenly(count: int, parts: int) -> list[tuple[int, int]]:
    """Ranges of the rows of each part, end excluded; if parts cannot be equal, earlier ones have one row more."""
    parts = max(1, min(parts, count))
    size, more = divmod(count, parts)
    starts = [number * size + min(number, more) for number in range(parts + 1)]
    return list(pairwise(starts))


def column_set(rows: Iterable[SourceRow], wanted: tuple[str, ...] | None) -> ColumnSet:
    """The columns of some rows.

    Raises:
        TooManyColumns: There are too many.
    """
    columns = ColumnSet(wanted)
    for row in rows:
        columns.add(row.cells)
    return columns
