"""What one instance costs in calls, however fast the machine is: a number that may fall, and must not grow unseen.

Time says little on a shared machine. These are counted over a batch of 100 plain images, exported in this process.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pydicom.dataset
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

import exporter
from exporter.outcome import Exported
from exporter.work import engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILES: Final = 100
MOST: Final = {
    "bytes read": 1.1,  # of the size of the file: its first 512 bytes tell an archive
    "reads": 2.1,  # the beginning (is it an archive?), the whole file
    "fsyncs": 0.6,  # folder and lines of a batch; the ledger's are its commits
    "commits": 0.7,  # attempts of several instances, outcomes of a batch, how far the lines go
    "SQL statements": 20.5,  # about the instance, its media and their names, 6 by triggers that keep counts
    "pydicom conversions": 4.5,  # sequences, text that is not ASCII
}
"""Most of each per instance; of bytes, per byte of the file."""


CHANGES: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
TABLES: Final = ("instance ", "medium ", "superseded ")


def ct(path: Path, number: int) -> None:
    """An image as scanners write them: some 60 elements, two sequences, private ones among them."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = f"1.2.3.{number}"
    image.StudyInstanceUID, image.SeriesInstanceUID = "1.2.3", "1.2.4"
    image.SpecificCharacterSet, image.Modality, image.PatientName = "ISO_IR 100", "CT", "Doe^Jane"
    image.InstitutionName, image.PatientID, image.StudyDate = "M\xfcnchen", "1", "20260101"
    image.ImageType, image.PatientAge, image.KVP = ["ORIGINAL", "PRIMARY"], "060Y", "120"
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "T-D3000", "Chest"
    image.ProcedureCodeSequence = image.ReferencedImageSequence = Sequence([item])
    block = image.private_block(0x0019, "ACME", create=True)
    for offset in range(30):
        block.add_new(offset, "SL", offset)
    image.ImagePositionPatient, image.PixelSpacing = [0, 0, number], ["0.5", "0.5"]
    image.Rows = image.Columns = 64
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.WindowCenter, image.WindowWidth, image.RescaleSlope, image.RescaleIntercept = "40", "400", "1", "-1024"
    image.PixelData = np.random.default_rng(number).integers(0, 4096, (64, 64), "<u2").tobytes()
    image.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Calls per instance."""
    root = tmp_path_factory.mktemp("costs")
    (root / "in").mkdir()
    for number in range(FILES):
        ct(root / "in" / f"{number:03}.dcm", number)
    size_bytes = sum(path.stat().st_size for path in (root / "in").iterdir())
    found: Counter[str] = Counter()

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            answer = real(*arguments, **options)
            found[name] += 1
            if name == "reads":
                found["bytes read"] += len(answer)
            return answer

        return call

    def note(statement: str) -> None:
        found["commits"] += statement == "COMMIT"
        found["SQL statements"] += statement.startswith(CHANGES) and any(table in statement for table in TABLES)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = real_connect(*arguments, **options)
        connection.set_trace_callback(note)
        return connection

    real_connect = sqlite3.connect
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "GATHER_S", 100.0)  # however slow this machine is now
        patch.setattr(sqlite3, "connect", connect)
        patch.setattr(os, "pread", counting("reads", os.pread))
        patch.setattr(os, "fsync", counting("fsyncs", os.fsync))
        convert = counting("pydicom conversions", pydicom.dataset.convert_raw_data_element)
        patch.setattr(pydicom.dataset, "convert_raw_data_element", convert)
        outcomes = list(exporter.backfill(root / "in", root / "out", workers=0))
    assert [type(outcome) for outcome in outcomes] == [Exported] * FILES
    per_byte = {"bytes read": found.pop("bytes read") / size_bytes}
    return {name: number / FILES for name, number in found.items()} | per_byte


@pytest.mark.parametrize("cost", MOST)
def test_an_instance_costs_no_more_than_it_did(counted: dict[str, float], cost: str) -> None:
    assert 0 < counted[cost] <= MOST[cost], sorted(counted.items())
