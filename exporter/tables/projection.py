"""Metadata lines as the rows of a table, in two passes: which columns there are, then row after row.

Contract: rows come in the order of the lines, in batches that are bounded in bytes; nothing is held beyond one batch.
What does not fit its column is null in the row and counted in `misfits`; the line has it whole.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from exporter.tables.cells import fit
from exporter.tables.columns import Column, ColumnRequest, choose_columns, unique_names
from exporter.tables.own_columns import OWN_COLUMNS, own_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.tables.lines import Line, MetadataLines
    from exporter.tables.patients import Patients

MOST_BATCH_BYTES: Final = 2 << 20
"""Most bytes of lines in one batch, but for a line that is longer alone."""
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
    """Values that became null, by column; of the last time that the rows were read."""

    @classmethod
    def of(cls, lines: MetadataLines, patients: Patients, request: ColumnRequest) -> Projection:
        """The table of these lines: the first pass.

        Raises:
            TableRequestError: The columns that are wanted make no sense.
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
        for lines in line_batches(self.lines):
            yield self.batch(lines)

    def batch(self, lines: list[Line]) -> Batch:
        """The rows of some lines."""
        own = [own_values(line, self.patients) for line in lines]
        found = []
        for column in self.columns:
            if not column.keys:
                values = [row[column.name] for row in own]
            elif len(column.keys) == 1:
                (key,) = column.keys
                values = [line.get(key) for line in lines]
            else:
                values = [self._first(column, line) for line in lines]
            cells, misfits = fit(column, values)
            if misfits:
                self.misfits[column.name] += misfits
            found.append(cells)
        return Batch(found, len(lines))

    def _first(self, column: Column, line: Line) -> Any:
        """The value of a column whose element has another key in lines of another version."""
        values = [value for key in column.keys if (value := line.get(key)) is not None]
        self.misfits[column.name] += sum(value != values[0] for value in values[1:])
        return values[0] if values else None


def line_batches(lines: MetadataLines) -> Iterator[list[Line]]:
    """The lines that count, some at a time."""
    batch: list[Line] = []
    size = 0
    for line, size_bytes in lines.rows():
        if batch and (size + size_bytes > MOST_BATCH_BYTES or len(batch) >= MOST_BATCH_ROWS):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += size_bytes
    if batch:
        yield batch
