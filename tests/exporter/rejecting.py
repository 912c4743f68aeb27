"""CT instances of one series, and rejection notes that name them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STUDY, SERIES, NOTES = "1.2.3.1", "1.2.3.2", "1.2.3.3"
CT_CLASS, KEY_OBJECT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.59"
TITLES = ("113001", "113037", "113038", "113039")


def image_uid(number: int) -> str:
    """SOP Instance UID of an image."""
    return f"{SERIES}.{number}"


def _begun(uid: str, sop_class: str, study: str, series: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = sop_class, uid
    made.StudyInstanceUID, made.SeriesInstanceUID = study, series
    made.PatientID = "P"
    return made


def save_image(folder: Path, number: int, name: str | None = None) -> Path:
    """One plane of the series; equal numbers give equal files."""
    made = _begun(image_uid(number), CT_CLASS, STUDY, SERIES)
    made.Modality, made.InstanceNumber = "CT", str(number)
    made.Rows = made.Columns = 8
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = 15, 0, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.PixelData = bytes([number, 0]) * 64
    made.RescaleSlope, made.RescaleIntercept = "1", "0"
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    made.PixelSpacing = [1, 1]
    return _saved(made, folder, name or f"m{number}.dcm")


def note(
    uids: Sequence[str],
    title: str = "113001",
    number: int = 1,
    *,
    study: str = STUDY,
    series: str = SERIES,
    own_study: str = STUDY,
) -> FileDataset:
    """A rejection note that names instances of one series."""
    made = _begun(f"{NOTES}.{number}", KEY_OBJECT, own_study, NOTES)
    made.Modality, made.ValueType, made.ContinuityOfContent = "KO", "CONTAINER", "SEPARATE"
    made.ConceptNameCodeSequence = [_item(CodeValue=title, CodingSchemeDesignator="DCM", CodeMeaning="rejected")]
    references = [_reference(uid) for uid in uids]
    inside = _item(SeriesInstanceUID=series, ReferencedSOPSequence=references)
    made.CurrentRequestedProcedureEvidenceSequence = [_item(StudyInstanceUID=study, ReferencedSeriesSequence=[inside])]
    return made


def _reference(uid: str) -> Dataset:
    made = _item(ReferencedSOPClassUID=CT_CLASS)
    made.add(DataElement(0x00081155, "UI", uid, validation_mode=config.IGNORE))
    return made


def _item(**elements: object) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def save_note(folder: Path, name: str, made: FileDataset) -> Path:
    """A note as a file."""
    return _saved(made, folder, name)


def _saved(made: FileDataset, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    made.save_as(folder / name, enforce_file_format=True)
    return folder / name
