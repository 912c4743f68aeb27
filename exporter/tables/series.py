"""One row per series, with the column names of `idc-index`, so that programs for its index work with ours.

Contract: rows in the order of study and series; if instances of a series differ in an attribute, the first one counts.
Instances without Series Instance UID are in no series. Duplicates are not counted. Grouping happens in a temporary
SQLite database: memory does not grow with the number of series.

Source: the columns of `idc_index` of the package idc-index-data.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

from exporter.results.metadata.keys import KeyStyle
from exporter.tables.cells import fit
from exporter.tables.columns import CellType, Column, element_column, element_named
from exporter.tables.projection import Batch, line_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.tables.lines import Line, MetadataLines
    from exporter.tables.patients import Patients

_KEYWORDS: Final = (
    "PatientID",
    "PatientAge",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyDescription",
    "SeriesInstanceUID",
    "SeriesDate",
    "SeriesDescription",
    "SeriesNumber",
    "Modality",
    "BodyPartExamined",
    "Manufacturer",
    "ManufacturerModelName",
)
_ELEMENTS: Final = tuple(
    element_column(element, KeyStyle.KEYWORD) for word in _KEYWORDS if (element := element_named(word)) is not None
)
SERIES_COLUMNS: Final[tuple[Column, ...]] = (
    *_ELEMENTS,
    Column("instanceCount", CellType.INTEGER, description="Instances, duplicates not counted"),
    Column("series_size_MB", CellType.FLOAT, description="Size of their DICOM files in 10^6 bytes, where it is known"),
    Column("mediaCount", CellType.INTEGER, description="Media files"),
    Column("patient_pseudonym", CellType.TEXT, description="The patient under a keyed pseudonym"),
    Column("split", CellType.TEXT, description="train, validation or test; one for all series of a patient"),
)
_BATCH_ROWS: Final = 1000


def series_batches(lines: MetadataLines, patients: Patients, size_of: Callable[[str], int | None]) -> Iterator[Batch]:
    """The rows of the table of series.

    Args:
        lines: The lines of the instances.
        patients: Pseudonyms and splits.
        size_of: Size in bytes of the input with a `dicom_file`; None if unknown.
    """
    with closing(sqlite3.connect("")) as database:  # "": on disk, and deleted when it is closed
        names = [f'"{column.name}"' for column in SERIES_COLUMNS]
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(f"CREATE TABLE series ({', '.join(names)}, UNIQUE (StudyInstanceUID, SeriesInstanceUID))")
        first = [f"{name} = COALESCE({name}, excluded.{name})" for name in names if name not in _SUMMED]
        summed = [f"{name} = {name} + excluded.{name}" for name in _SUMMED]
        statement = (  # of names of our own columns alone
            f"INSERT INTO series VALUES ({', '.join('?' * len(names))})"  # noqa: S608
            f" ON CONFLICT DO UPDATE SET {', '.join(first + summed)}"
        )
        for batch in line_batches(lines.rows()):
            columns = [fit(column, [line.get(column.keys[0]) for line in batch])[0] for column in _ELEMENTS]
            rows = zip(zip(*columns, strict=True), batch, strict=True)
            database.executemany(statement, (_row(cells, line, patients, size_of) for cells, line in rows))
        found = database.execute(
            f"SELECT {', '.join(names)} FROM series WHERE SeriesInstanceUID != ''"  # noqa: S608
            " ORDER BY StudyInstanceUID, SeriesInstanceUID"
        )
        while some := found.fetchmany(_BATCH_ROWS):
            yield Batch([list(cells) for cells in zip(*some, strict=True)], len(some))


_SUMMED: Final = ('"instanceCount"', '"series_size_MB"', '"mediaCount"')


def _row(
    cells: tuple[Any, ...], line: Line, patients: Patients, size_of: Callable[[str], int | None]
) -> tuple[Any, ...]:
    """The row of one instance; its study and series are text, so that rows without them meet too."""
    values = dict(zip(_KEYWORDS, cells, strict=True))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        values[keyword] = values[keyword] or ""
    is_copy = line["export"].get("duplicate_of") is not None
    size = 0 if is_copy else size_of(line["dicom_file"])
    media = line["export"].get("media")
    patient = patients.of(line)
    return (
        *values.values(),
        0 if is_copy else 1,
        None if size is None else size / 1e6,
        len(media) if isinstance(media, list) else 0,
        patient.pseudonym,
        patient.split,
    )
