"""Tables as CSV: UTF-8, one header row, a line feed ends a row; quoted where needed (RFC 4180).

Contract: no cell is executed by a spreadsheet, begins a new row or moves a cursor: text is written by
`listener.foundation.text.csv_text`. Lists and JSON columns are written as JSON text, null as an empty cell, truth
values as `true` and `false`. Needs nothing beyond the standard library.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

from exporter.tables.cells import json_text
from exporter.tables.columns import CellType, Column
from exporter.tables.publication import published_file
from listener.foundation.text import csv_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from exporter.tables.projection import Batch


def write_csv(path: Path, columns: Sequence[Column], batches: Iterable[Batch]) -> int:
    """Write a table, completely or not at all.

    Returns:
        The number of rows.

    Raises:
        TableError: It cannot be written.
    """
    rows = 0
    with published_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([csv_text(column.name) for column in columns])
        for batch in batches:
            writer.writerows(
                zip(*(_shown(column, cells) for column, cells in zip(columns, batch.columns, strict=True)), strict=True)
            )
            rows += batch.rows
    return rows


def _shown(column: Column, cells: list[Any]) -> Iterable[Any]:
    if column.is_list:
        return [None if cell is None else json_text(cell) for cell in cells]
    if column.type is CellType.TEXT:
        return [cell and csv_text(cell) for cell in cells]
    if column.type is CellType.BOOLEAN:
        return [None if cell is None else str(cell).lower() for cell in cells]
    return cells
