"""The mapping of inputs to media: one row per media file, and one for each input without any.

Contract: rows in the order of the lines and of the media in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exporter.results.metadata.keys import KeyStyle
from exporter.tables.cells import fit
from exporter.tables.columns import CellType, Column, element_column, element_named
from exporter.tables.own_columns import media_of
from exporter.tables.projection import Batch, line_batches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.tables.lines import Line, MetadataLines
    from exporter.tables.patients import Patients

_ELEMENTS: Final = tuple(
    element_column(element, KeyStyle.KEYWORD)
    for word in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    if (element := element_named(word)) is not None
)
MAPPING_COLUMNS: Final[tuple[Column, ...]] = (
    Column("dicom_file", CellType.TEXT, description="The input"),
    Column("media_file", CellType.TEXT, description="The medium, relative to the media folder"),
    Column("media_kind", CellType.TEXT, description="Its kind"),
    Column("bytes", CellType.INTEGER, description="Its size"),
    Column("sha256", CellType.TEXT, description="Its SHA-256"),
    *_ELEMENTS,
    Column("patient_pseudonym", CellType.TEXT, description="The patient under a keyed pseudonym"),
)


def mapping_batches(lines: MetadataLines, patients: Patients) -> Iterator[Batch]:
    """The rows of the table of media."""
    for batch in line_batches(lines.rows()):
        rows = [row for line in batch for row in _rows(line, patients)]
        columns = zip(MAPPING_COLUMNS, zip(*rows, strict=True), strict=True)
        yield Batch([fit(column, values)[0] for column, values in columns], len(rows))


def _rows(line: Line, patients: Patients) -> list[tuple[Any, ...]]:
    shared = (*(line.get(column.keys[0]) for column in _ELEMENTS), patients.of(line).pseudonym)
    return [
        (line["dicom_file"], one.get("path"), one.get("kind"), one.get("bytes"), one.get("sha256"), *shared)
        for one in media_of(line) or [{}]
    ]
