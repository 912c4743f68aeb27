"""Metadata lines as the rows of a table, in two passes: the first finds the columns, the second makes the rows.

Contract: rows come in the order of the lines, in batches that are bounded in bytes; nothing is held beyond one batch.
A value that does not fit its column is null in the row and counted in `misfits`; it remains in the line.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from exporter.tables.cells import fit
from exporter.tables.columns import Column, ColumnRequest, choose_columns, unique_names
from exporter.tables.own_columns import OWN_COLUMNS, own_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exporter.tables.lines import Line, MetadataLines
    from exporter.tables.patients import Patients

MOST_BATCH_BYTES: Final = 2 << 20
"""Most bytes of lines in one batch, unless a single line is longer."""
MOST_BATCH_ROWS: Final = 4096


@dataclass(slots=True)
class Batch:
    """Rows of a table, column by column."""

    columns: list[list[Any]]
    rows: int


@dataclass(slots=True)
class Projection:
    """A table of metadata lines that is made while it is read."""

    lines: MetadataLines
    patients: Patients
    columns: tuple[Column, ...]
    misfits: Counter[str] = field(default_factory=Counter)
    """Number of values that became null in the last pass, by column."""
    _own: dict[str, int] = field(init=False)
    _elements: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        places = list(enumerate(self.columns))
        self._own = {column.name: place for place, column in places if not column.keys}
        self._elements = {key: place for place, column in places for key in column.keys}

    @classmethod
    def of(cls, lines: MetadataLines, patients: Patients, request: ColumnRequest) -> Projection:
        """Make the table of these lines: the first pass.

        Raises:
            TableRequestError: The request for columns is invalid.
            TableError: The lines cannot be read.
        """
        elements = choose_columns(lines, request)
        return cls(lines, patients, unique_names([*OWN_COLUMNS, *elements]))

    def batches(self) -> Iterator[Batch]:
        """The rows: the second pass.

        Raises:
            TableError: The lines cannot be read any more.
        """
        self.misfits.clear()
        for lines in line_batches(self.lines.rows()):
            yield self.batch(lines)

    def batch(self, lines: list[Line]) -> Batch:
        """The rows of some lines."""
        values: list[list[Any] | None] = [None] * len(self.columns)
        number = len(lines)
        for row, line in enumerate(lines):
            for place, value in self._placed(line):
                column = values[place]
                if column is None:
                    column = values[place] = [None] * number
                if column[row] is None:
                    column[row] = value
                elif column[row] != value:  # an element under its keys of two versions
                    self.misfits[self.columns[place].name] += 1
        cells = [
            self._fitted(column, found) if found is not None else [None] * number
            for column, found in zip(self.columns, values, strict=True)
        ]
        return Batch(cells, number)

    def _placed(self, line: Line) -> Iterator[tuple[int, Any]]:
        """Values of a line that are not null, each with the number of its column."""
        for name, value in own_values(line, self.patients).items():
            if value is not None:
                yield self._own[name], value
        elements = self._elements
        for key, value in line.items():
            if value is not None and (place := elements.get(key)) is not None:
                yield place, value

    def _fitted(self, column: Column, values: list[Any]) -> list[Any]:
        cells, misfits = fit(column, values)
        if misfits:
            self.misfits[column.name] += misfits
        return cells


def line_batches(lines: Iterable[tuple[Line, int]]) -> Iterator[list[Line]]:
    """Group lines with their sizes into batches."""
    batch: list[Line] = []
    size = 0
    for line, size_bytes in lines:
        if batch and (size + size_bytes > MOST_BATCH_BYTES or len(batch) >= MOST_BATCH_ROWS):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += size_bytes
    if batch:
        yield batch
