"""Rejection notes: Key Object Selections by which a PACS or modality takes images out of use (IHE IOCM).

Contract: only the title and the hierarchical references of the note count, never its text: (0040,A375) Current
Requested Procedure Evidence Sequence lists study, series and instance of everything that the note names (PS3.3
C.17.2.3). A reference without a whole UID is left out, with a warning; so are the note itself, and references to other
studies than the note's own, since a note belongs to the study whose instances it rejects.

Source: IHE RAD TF-2 4.66 (Rejection Note Stored), TF-1 29 (Imaging Object Change Management); PS3.16 CID 7011.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from exporter.dicom.elements import READING_ERRORS, readable_value_of, text_of
from exporter.outcome import REJECTION_TITLES, RejectedSeries, RejectionNote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

KEY_OBJECT_SELECTION: Final = "1.2.840.10008.5.1.4.1.1.88.59"
_UID: Final = re.compile(r"[0-9.]{1,64}")


def rejection_note_of(header: Dataset) -> tuple[RejectionNote | None, tuple[str, ...]]:
    """Read a rejection note.

    Args:
        header: Of an instance, as it is published: de-identified where a profile asks for that.

    Returns:
        What the note says, and warnings about references that do not count; None and no warning for any other instance.
    """
    if text_of(header, "SOPClassUID") != KEY_OBJECT_SELECTION:
        return None, ()
    code = _title(header)
    if code is None:
        return None, ()
    own_study, own_uid = text_of(header, "StudyInstanceUID"), text_of(header, "SOPInstanceUID")
    found: dict[tuple[str, str], dict[str, None]] = {}
    left_out = {"whose UIDs are missing or malformed": 0, "to other studies than the note's own": 0, "to itself": 0}
    for study_uid, series_uid, instance_uid in _references(header):
        if not all(map(_UID.fullmatch, (study_uid, series_uid, instance_uid))):
            left_out["whose UIDs are missing or malformed"] += 1
        elif study_uid != own_study:
            left_out["to other studies than the note's own"] += 1
        elif instance_uid == own_uid:
            left_out["to itself"] += 1
        else:
            found.setdefault((study_uid, series_uid), {})[instance_uid] = None
    warnings = [f"rejection note: {count} references {what} are left out" for what, count in left_out.items() if count]
    if not found:
        warnings.append("rejection note: (0040,A375) Current Requested Procedure Evidence Sequence names no instance")
    series = tuple(RejectedSeries(*uids, tuple(instances)) for uids, instances in found.items())
    return RejectionNote(code, series), tuple(warnings)


def _title(header: Dataset) -> str | None:
    """Code value of the title, if it rejects."""
    for item in _items(header, "ConceptNameCodeSequence"):
        code = text_of(item, "CodeValue")
        if code in REJECTION_TITLES and text_of(item, "CodingSchemeDesignator") == "DCM":
            return code
    return None


def _references(header: Dataset) -> Iterator[tuple[str, str, str]]:
    """Study, series and instance UID of every reference."""
    for study in _items(header, "CurrentRequestedProcedureEvidenceSequence"):
        study_uid = text_of(study, "StudyInstanceUID")
        for series in _items(study, "ReferencedSeriesSequence"):
            series_uid = text_of(series, "SeriesInstanceUID")
            for reference in _items(series, "ReferencedSOPSequence"):
                yield study_uid, series_uid, text_of(reference, "ReferencedSOPInstanceUID")


def _items(dataset: Dataset, keyword: str) -> Iterator[Any]:
    """Items of a sequence; none where it is absent or cannot be read as one."""
    value = readable_value_of(dataset, keyword)
    try:
        items = [] if value is None or isinstance(value, bytes | str) else list(value)
    except READING_ERRORS:
        return
    yield from (item for item in items if hasattr(item, "get_item"))
