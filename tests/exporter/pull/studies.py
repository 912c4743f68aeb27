"""Small studies, as files: 3 instances in 2 series each, of which one is CT and one is MR."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydicom import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

if TYPE_CHECKING:
    from pathlib import Path

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"


@dataclass
class Study:
    """One study as it was made."""

    number: int
    uid: str
    patient: str
    accession: str
    date: str
    series: list[str]
    instances: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def make_studies(folder: Path, count: int, *, root: str = "1.2.826.0.1.3680043.8.498") -> list[Study]:
    """Write `count` studies; every second one belongs to the patient of the one before."""
    studies = []
    for number in range(1, count + 1):
        uid = f"{root}.{number}"
        study = Study(
            number=number,
            uid=uid,
            patient=f"P{(number + 1) // 2:04}",
            accession=f"A{number:05}",
            date=f"2020{1 + number // 28:02}{1 + number % 28:02}",
            series=[f"{uid}.1", f"{uid}.2"],
        )
        for at, (series, modality, sop_class) in enumerate(((0, "CT", CT), (0, "CT", CT), (1, "MR", MR))):
            study.instances.append(f"{study.series[series]}.{at}")
            path = folder / f"{number:04}-{at}.dcm"
            _write(path, study, series, modality, sop_class, at)
            study.files.append(path)
        studies.append(study)
    return studies


def _write(path: Path, study: Study, series: int, modality: str, sop_class: str, at: int) -> None:
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 100"
    made.SOPClassUID = sop_class
    made.SOPInstanceUID = study.instances[at]
    made.StudyDate = study.date
    made.StudyTime = "120000"
    made.AccessionNumber = study.accession
    made.Modality = modality
    made.StudyDescription = f"STUDY {study.number}"
    made.SeriesDescription = f"SERIES {series}"
    made.PatientName = f"Täst^Nr{study.number}"
    made.PatientID = study.patient
    made.StudyInstanceUID = study.uid
    made.SeriesInstanceUID = study.series[series]
    made.StudyID = str(study.number)
    made.SeriesNumber = series + 1
    made.InstanceNumber = at + 1
    made.Rows, made.Columns = 16, 16
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit = 15
    made.PixelRepresentation = 0
    made.PixelData = bytes((study.number + at) % 256 for _ in range(512))
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = sop_class
    made.file_meta.MediaStorageSOPInstanceUID = study.instances[at]
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.save_as(path, enforce_file_format=True)
