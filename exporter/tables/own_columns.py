"""The columns that every table has before those of elements: names, media, the export, pseudonym and split.

Contract: the list is fixed, whatever the lines hold; values that a line of an earlier version lacks are null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exporter.tables.columns import CellType, Column

if TYPE_CHECKING:
    from exporter.tables.lines import Line
    from exporter.tables.patients import Patients

OWN_COLUMNS: Final[tuple[Column, ...]] = (
    Column("dicom_file", CellType.TEXT, description="The input"),
    Column("media_file", CellType.TEXT, description="First medium, relative to the media folder"),
    Column("media_type", CellType.TEXT, description="Kind of the first medium"),
    Column("patient_pseudonym", CellType.TEXT, description="The patient under a keyed pseudonym"),
    Column("split", CellType.TEXT, description="train, validation or test; one for all rows of a patient"),
    Column("export_status", CellType.TEXT, description="exported or skipped"),
    Column("export_reason", CellType.TEXT, description="Why it was skipped"),
    Column("export_width", CellType.INTEGER, description="Columns of the first medium, in pixels"),
    Column("export_height", CellType.INTEGER, description="Rows of the first medium, in pixels"),
    Column("export_frames", CellType.INTEGER, description="Frames of the first medium"),
    Column("export_duration_s", CellType.FLOAT, description="Duration of the first medium, in seconds"),
    Column("export_bytes", CellType.INTEGER, description="Size of the first medium"),
    Column("export_sha256", CellType.TEXT, description="SHA-256 of the first medium"),
    Column("export_codec", CellType.TEXT, description="Codec of the first medium"),
    Column("export_rate_hz", CellType.FLOAT, description="Frames per second"),
    Column("export_variable", CellType.BOOLEAN, description="Whether frames have times of their own"),
    Column("export_timing_source", CellType.TEXT, description="Keyword of the element that says the times"),
    Column("export_frame_times_ms", CellType.FLOAT, is_list=True, description="Times of frames, in ms"),
    Column("export_pixel_spacing_mm", CellType.FLOAT, is_list=True, description="Rows, columns: mm per pixel"),
    Column("export_media", CellType.JSON, description="All media"),
    Column("export_rendering", CellType.JSON, description="From stored to displayed values"),
    Column("export_warnings", CellType.TEXT, is_list=True, description="What was odd"),
    Column("export_duplicate_of", CellType.TEXT, description="Earlier instance of the same content"),
    Column("export_conflict_with", CellType.TEXT, description="Earlier instance of the same UID and other content"),
    Column("export_transfer_syntax_uid", CellType.TEXT, description="Of the input"),
    Column("export_source_sha256", CellType.TEXT, description="SHA-256 of the input"),
    Column("export_content_sha256", CellType.TEXT, description="SHA-256 of its data set"),
    Column("export_settings_sha256", CellType.TEXT, description="Of the settings that decide the content of media"),
    Column("export_ae_title", CellType.TEXT, description="Called AE title whose settings apply"),
    Column("export_left_out", CellType.JSON, description="Binary elements that are not in the line"),
    Column("export_private_left_out", CellType.INTEGER, description="Number of private elements that were left out"),
    Column("export_privacy", CellType.JSON, description="What de-identification did; null without it"),
    Column("export_version", CellType.TEXT, description="Of the exporter"),
)
_OF_FIRST_MEDIUM: Final = {
    "export_width": "width",
    "export_height": "height",
    "export_frames": "frames",
    "export_duration_s": "duration_s",
    "export_bytes": "bytes",
    "export_sha256": "sha256",
    "export_codec": "codec",
}
_OF_TIMING: Final = {
    "export_rate_hz": "rate_hz",
    "export_variable": "variable",
    "export_timing_source": "source",
    "export_frame_times_ms": "frame_times_ms",
}
_OF_EXPORT: Final = {
    column.name: column.name.removeprefix("export_")
    for column in OWN_COLUMNS
    if column.name.startswith("export_")
    and column.name not in {*_OF_FIRST_MEDIUM, *_OF_TIMING, "export_pixel_spacing_mm"}
}


def media_of(line: Line) -> list[dict[str, Any]]:
    """Media of a line that have the form of ours."""
    media = line["export"].get("media")
    return [one for one in media if isinstance(one, dict)] if isinstance(media, list) else []


def own_values(line: Line, patients: Patients) -> dict[str, Any]:
    """The values of `OWN_COLUMNS` for one line."""
    export = line["export"]
    media = media_of(line)
    first = media[0] if media else {}
    timing = export.get("timing")
    timing = timing if isinstance(timing, dict) else {}
    geometry = first.get("geometry")
    patient = patients.of(line)
    return {
        "dicom_file": line["dicom_file"],
        "media_file": line.get("media_file"),
        "media_type": line.get("media_type"),
        "patient_pseudonym": patient.pseudonym,
        "split": patient.split,
        "export_pixel_spacing_mm": geometry.get("pixel_spacing_mm") if isinstance(geometry, dict) else None,
        **{name: first.get(key) for name, key in _OF_FIRST_MEDIUM.items()},
        **{name: timing.get(key) for name, key in _OF_TIMING.items()},
        **{name: export.get(key) for name, key in _OF_EXPORT.items()},
    }
