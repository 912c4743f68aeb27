"""Instances by the thousand, each with a UID and noise of its own, made by patching one template."""

from __future__ import annotations

import io
import os
import random
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

STORAGE: Final = "1.2.840.10008.5.1.4.1.1.7.2"
SIDE: Final = 64
_PLACE: Final = b"2.25.111111111111111111111111111111111111111"


@cache
def _template(frames: int, study: str) -> bytes:
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(STORAGE)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(_PLACE.decode())
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, f"{study}.1"
    ds.Modality = "OT"
    ds.Rows = ds.Columns = SIDE
    ds.NumberOfFrames = frames
    ds.FrameTime = 40
    ds.FrameIncrementPointer = 0x00181063
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = bytes(frames * SIDE * SIDE)
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def new_uid() -> str:
    """A UID as long as every other one of ours."""
    return f"2.25.{random.SystemRandom().randrange(10**38, 10**39)}"


def instance(*, frames: int = 1, study: str = "1.2.826.0.1.3680043.10.1") -> tuple[str, bytes]:
    """(SOP Instance UID, file) of a new instance."""
    uid = new_uid()
    data = _template(frames, study).replace(_PLACE, uid.encode())
    pixels = frames * SIDE * SIDE
    return uid, data[:-pixels] + os.urandom(pixels)


def write_instances(folder: Path, count: int, *, every_nth_is_cine: int = 8) -> dict[str, str]:
    """Write that many files; which path holds which SOP Instance UID."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for number in range(count):
        uid, data = instance(frames=1 if (number + 1) % every_nth_is_cine else 5)
        path = folder / f"{number:05d}.dcm"
        path.write_bytes(data)
        made[str(path)] = uid
    return made
