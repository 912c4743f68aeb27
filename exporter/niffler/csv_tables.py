"""``metadata.csv`` and ``mapping.csv`` with their parts below ``meta/`` and ``maps/``.

Contract: rows are in the order of the files, each row is one line, and memory holds one row. A complete file replaces
that of an earlier run. Text that a spreadsheet would execute gets an apostrophe in front, numbers excepted; line breaks
and control characters are written as escapes (`listener.foundation.text.csv_text`).
"""

from __future__ import annotations

import csv
import re
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.niffler.row_store import RowStore, SourceRow, column_set, split_evenly
from listener.foundation.durable import make_private_folders, replaced_text_file
from listener.foundation.text import csv_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from exporter.niffler.header_values import Cell

OWN_COLUMNS: Final = ("file", "has_pix_array", "category")
"""Columns beside those of elements."""
MAPPING_HEADER: Final = "Original DICOM file location, PNG location \n"
COMMON_SHARE: Final = 0.9
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """Result of one file."""

    file: str
    """Name of the file in the tables."""
    has_pixels: bool
    """Whether its pixels can be read."""
    pictures: tuple[str, ...] = ()
    """Names of its pictures in the tables."""


@dataclass(frozen=True, slots=True)
class TablePlan:
    """Parts and columns of the tables."""

    output: Path
    parts: int
    wanted: tuple[str, ...] | None
    """Columns to write, beside our own; None for all."""
    common_only: bool
    """Whether `metadata.csv` has only columns that are filled in more than 90 % of the rows."""


def write_tables(store: RowStore, plan: TablePlan, outcome_of: Callable[[SourceRow], FileOutcome]) -> list[str]:
    """Write the tables.

    Args:
        store: The rows.
        plan: Parts and columns.
        outcome_of: Result of the file of a row; called once for each row, in their order.

    Returns:
        Requested columns that no row has.

    Raises:
        TooManyColumns: There are too many for one table.
        OSError: A table cannot be written.
    """
    parts = split_evenly(store.count, plan.parts)
    for folder in ("meta", "maps"):
        make_private_folders(plan.output.absolute() / folder)
    wanted = None if plan.wanted is None else tuple(name for name in plan.wanted if name not in OWN_COLUMNS)
    whole = column_set(store.rows(), wanted)
    with ExitStack() as stack:
        names = whole.common(COMMON_SHARE) if plan.common_only else whole.names
        merged = _Table(plan.output / "metadata.csv", names, stack)
        mapping = stack.enter_context(replaced_text_file(plan.output / "mapping.csv"))
        mapping.write(MAPPING_HEADER)
        for number, (start, end) in enumerate(parts):
            columns = column_set(store.rows(start, end), wanted)
            with ExitStack() as part_stack:
                table = _Table(plan.output / "meta" / f"metadata_{number}.csv", columns.names, part_stack)
                part = part_stack.enter_context(replaced_text_file(plan.output / "maps" / f"mapping_{number}.csv"))
                part.write(MAPPING_HEADER)
                for row in store.rows(start, end):
                    outcome = outcome_of(row)
                    cells = {name: columns.text(name, row.cells.get(name)) for name in columns.names}
                    table.write(cells, row.cells, outcome)
                    merged.write(
                        cells if len(parts) == 1 else {n: whole.text(n, row.cells.get(n)) for n in names},
                        row.cells,
                        outcome,
                    )
                    for file in (part, mapping):
                        csv.writer(file, lineterminator="\n").writerows(_mapped(outcome))
    _remove_further_parts(plan.output, len(parts))
    return whole.empty() if plan.wanted is not None else []


class _Table:
    """One open table of header values."""

    def __init__(self, path: Path, names: Sequence[str], stack: ExitStack) -> None:
        self._names = names
        self._writer = csv.writer(stack.enter_context(replaced_text_file(path)), lineterminator="\n")
        self._writer.writerow([*map(_safe, names), *OWN_COLUMNS])

    def write(self, texts: dict[str, str], cells: dict[str, Cell], outcome: FileOutcome) -> None:
        """Write one row."""
        values = [_safe(texts[name]) if isinstance(cells.get(name), str) else texts[name] for name in self._names]
        category = "uncategorized" if outcome.has_pixels else "no image"
        self._writer.writerow([*values, _safe(outcome.file), str(outcome.has_pixels), category])


def _safe(text: str) -> str:
    """Text of a cell; numbers get no apostrophe, although they may begin with a sign."""
    return text if _NUMBER.fullmatch(text) else csv_text(text)


def _mapped(outcome: FileOutcome) -> list[tuple[str, str]]:
    """Make the lines of `mapping.csv` for one file, with a blank before the second value as Niffler has it."""
    return [(_safe(outcome.file), f" {_safe(picture)}") for picture in outcome.pictures]


def _remove_further_parts(output: Path, parts: int) -> None:
    """Remove surplus parts of an earlier run."""
    for folder, stem in (("meta", "metadata"), ("maps", "mapping")):
        for path in (output / folder).glob(f"{stem}_*.csv"):
            number = path.stem.removeprefix(f"{stem}_")
            if number.isascii() and number.isdigit() and int(number) >= parts:
                with suppress(FileNotFoundError):
                    path.unlink()
