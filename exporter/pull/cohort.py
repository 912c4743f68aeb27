"""The cohort: a CSV file whose columns are keywords and whose rows say what is wanted.

Contract: `read_cohort` finds every fault at once. A fault of the header makes the file unusable (`CohortUnusable`);
a fault of a row costs that row. Rows are numbered as a spreadsheet numbers them: the header is row 1. Messages never
repeat a cell.

A record is one line: no key can hold a line break, and a quotation mark that is never closed then costs its own row
and not the rest of the file.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.pull.keys import MatchingKey, WrongValue, checked, column_fault, key_of
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DELIMITERS: Final = (",", ";", "\t")
COMMENT: Final = "#"
"""Columns whose name begins so are the user's own, and not looked at."""
LONGEST_LINE: Final = 64 << 10


class CohortUnusable(Unusable):
    """No row of the file can be used: one sentence per fault."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Row:
    """One row that can be asked for."""

    number: int
    values: tuple[tuple[MatchingKey, str], ...]
    """The keys that are not empty, and their values."""

    def digest(self, *more: str) -> str:
        """Key of a question, whatever its row number; `more` has the peer and the settings."""
        content = [*more, *sorted([key.keyword, value] for key, value in self.values)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class WrongRow:
    """One row that cannot be asked for, and why."""

    number: int
    problem: str


@dataclass(frozen=True, slots=True)
class Cohort:
    """Contents of a cohort file."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    wrong: tuple[WrongRow, ...]

    @property
    def count(self) -> int:
        """Rows, wrong ones too."""
        return len(self.rows) + len(self.wrong)


def read_cohort(path: Path, *, codec: str = "utf-8") -> Cohort:
    """The cohort in a file.

    Args:
        path: The file, in UTF-8.
        codec: Python's name of the character set that the peer is asked in.

    Raises:
        CohortUnusable: It cannot be read, its header is wrong, or it has no row.
    """
    lines = _lines(path)
    header = next(lines, None)
    if header is None:
        raise CohortUnusable(f"{path} is empty: its first row must name keywords, such as PatientID,StudyDate")
    columns, delimiter = _columns(path, header[1])
    rows: list[Row] = []
    wrong: list[WrongRow] = []
    for number, line in lines:
        try:
            values = tuple(_values(columns, _cells(line, delimiter), codec))
        except _WrongRow as fault:
            wrong.append(WrongRow(number, str(fault)))
        else:
            rows.append(Row(number, values))
    if not rows and not wrong:
        raise CohortUnusable(f"{path} has a header and no rows; each further row is one question")
    return Cohort(tuple(key.keyword for key in columns if key is not None), tuple(rows), tuple(wrong))


class _WrongRow(Exception):
    """Fault of a row."""


def _lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Lines that hold something, with their numbers; None for one that is not UTF-8 or far too long."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
            if start[:2] in {b"\xff\xfe", b"\xfe\xff"} or b"\0" in start:
                raise CohortUnusable(f"{path} is UTF-16 or no text: save it as CSV in UTF-8")
            file.seek(3 if start[:3] == b"\xef\xbb\xbf" else 0)
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                whole = line.endswith(b"\n") or len(line) < LONGEST_LINE
                while not whole:  # the rest of a line that is far too long
                    rest = file.readline(LONGEST_LINE)
                    whole = rest.endswith(b"\n") or len(rest) < LONGEST_LINE
                    line = b""
                try:
                    text = line.decode("utf-8").rstrip("\r\n") if line else None
                except UnicodeDecodeError:
                    text = None
                if text is None or text.strip():
                    yield number, text
    except OSError as error:
        raise CohortUnusable(f"{path} cannot be read: {error.strerror}; name a CSV file of studies") from error


def _columns(path: Path, header: str | None) -> tuple[list[MatchingKey | None], str]:
    """The key of each column (None for the user's own) and the delimiter, which is the one that names most of them."""
    if header is None:
        raise CohortUnusable(f"{path}: the header is not UTF-8; save it as CSV in UTF-8")

    def known(delimiter: str) -> int:
        return sum(key_of(name.strip().strip('"')) is not None for name in header.split(delimiter))

    delimiter = max(DELIMITERS, key=lambda one: (known(one), header.count(one)))
    try:
        names = [name.strip() for name in _cells(header, delimiter)]
    except _WrongRow as fault:
        raise CohortUnusable(f"{path}: the header {fault}") from None
    while names and not names[-1]:  # spreadsheets leave empty columns at the end
        names.pop()
    columns = [None if name.startswith(COMMENT) else key_of(name) for name in names]
    faults = [
        f"{path}: column {at} {column_fault(name) if name else 'has no name'}"
        for at, (name, key) in enumerate(zip(names, columns, strict=True), start=1)
        if key is None and not name.startswith(COMMENT)
    ]
    seen: set[str] = set()
    for at, key in enumerate(columns, start=1):
        if key is not None and key.keyword in seen:
            faults.append(f"{path}: column {at} is {key.keyword} once more")
        seen.update({key.keyword} if key is not None else ())
    if not faults and not seen:
        faults.append(f"{path}: no column is a key: name keywords in the first row, such as PatientID,StudyDate")
    if faults:
        raise CohortUnusable("\n".join(faults))
    return columns, delimiter


def _cells(line: str | None, delimiter: str) -> list[str]:
    if line is None:
        raise _WrongRow("is not UTF-8, or far too long")
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        raise _WrongRow("is no CSV: look at its quotation marks") from None


def _values(columns: list[MatchingKey | None], cells: list[str], codec: str) -> Iterator[tuple[MatchingKey, str]]:
    """The keys of one row.

    Raises:
        _WrongRow: Every fault of the row in one sentence.
    """
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise _WrongRow(f"has {len(cells)} cells under {len(columns)} column names")
    if len(cells) < len(columns):
        raise _WrongRow(f"has {len(cells)} cells under {len(columns)} column names")
    faults, values = [], []
    for key, cell in zip(columns, cells, strict=False):
        text = cell.strip()
        if key is None or not text:
            continue
        try:
            value = checked(key, text)
            value.encode(codec)
        except WrongValue as fault:
            faults.append(f"{key.keyword} {fault}")
        except UnicodeEncodeError:
            faults.append(f"{key.keyword} cannot be written in the peer's `character_set`")
        else:
            values.append((key, value))
    if not faults and not values:
        faults.append("is empty: nothing to ask by")
    if faults:
        raise _WrongRow("; ".join(faults))
    return iter(values)
