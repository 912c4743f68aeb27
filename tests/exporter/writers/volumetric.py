"""Synthetic series and enhanced multi-frame instances on known grids, for the tests of volumes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CT, MR, PET = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.128"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
PREFIX = "1.2.826.0.1.3680043.8.498."


@dataclass(frozen=True, slots=True)
class Stack:
    """Planes ``origin + k * step``."""

    row: tuple[float, float, float] = (1.0, 0.0, 0.0)
    column: tuple[float, float, float] = (0.0, 1.0, 0.0)
    step: tuple[float, float, float] = (0.0, 0.0, 2.5)
    origin: tuple[float, float, float] = (-30.5, 20.25, 11.125)
    spacing: tuple[float, float] = (1.5, 0.8)
    size: tuple[int, int] = (6, 5)
    count: int = 7

    def position(self, k: float) -> list[float]:
        return [round(float(o + k * s), 8) for o, s in zip(self.origin, self.step, strict=True)]

    @property
    def orientation(self) -> list[float]:
        return [round(float(v), 10) for v in (*self.row, *self.column)]

    def place(self, row: int, column: int, k: float) -> NDArray[np.float64]:
        """Where a pixel lies in RAS millimetres: PS3.3 equation C.7.6.2.1-1, and the two signs of LPS."""
        lps = (
            np.array(self.position(k))
            + np.array(self.row) * self.spacing[1] * column
            + np.array(self.column) * self.spacing[0] * row
        )
        return np.array([-lps[0], -lps[1], lps[2]])


def oblique(**changes: Any) -> Stack:
    """A stack that is parallel to no axis."""
    a, b = np.radians(17), np.radians(-12)
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]) @ np.array(
        [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    )
    row, column, normal = (tuple(float(v) for v in turn @ np.eye(3)[axis]) for axis in range(3))
    step = tuple(2.5 * v for v in normal)
    return Stack(**{"row": row, "column": column, "step": step, **changes})


def _instance(sop_class: str, rows: int, columns: int, bits: int = 16, *, signed: bool = False) -> Dataset:
    instance = Dataset()
    instance.SOPClassUID, instance.SOPInstanceUID = UID(sop_class), generate_uid(PREFIX)
    instance.StudyInstanceUID = instance.SeriesInstanceUID = generate_uid(PREFIX)
    instance.FrameOfReferenceUID = generate_uid(PREFIX)
    instance.PatientName = instance.PatientID = "X"
    instance.StudyDate, instance.StudyTime, instance.SeriesTime = "20200101", "120000", "120000"
    instance.Modality, instance.Manufacturer = "CT", "NOBODY"
    instance.SeriesNumber, instance.AcquisitionNumber = 3, 1
    instance.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    instance.Rows, instance.Columns, instance.SamplesPerPixel = rows, columns, 1
    instance.PhotometricInterpretation = "MONOCHROME2"
    instance.BitsAllocated = instance.BitsStored = bits
    instance.HighBit, instance.PixelRepresentation = bits - 1, int(signed)
    instance.file_meta = FileMetaDataset()
    instance.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return instance


def single(stack: Stack, k: float, pixels: NDArray[np.generic], **elements: Any) -> Dataset:
    """One plane of a classic series."""
    rows, columns = stack.size
    sop_class = elements.pop("SOPClassUID", CT)
    instance = _instance(sop_class, rows, columns, pixels.itemsize * 8, signed=pixels.dtype.kind == "i")
    instance.ImagePositionPatient, instance.ImageOrientationPatient = stack.position(k), stack.orientation
    instance.PixelSpacing = list(stack.spacing)
    instance.SliceThickness = instance.SpacingBetweenSlices = round(float(np.linalg.norm(stack.step)), 6)
    instance.InstanceNumber = int(k) + 1
    for keyword, value in elements.items():
        setattr(instance, keyword, value)
    instance.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    instance["PixelData"].VR = "OW"
    return instance


def save_series(folder: Path, stack: Stack, volume: NDArray[np.generic], **elements: Any) -> list[Path]:
    """A classic series of ``(slices, rows, columns)``, one file per plane, in an order that is not the planes'."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"SeriesInstanceUID": generate_uid(PREFIX), "StudyInstanceUID": generate_uid(PREFIX)}
    shared["FrameOfReferenceUID"] = generate_uid(PREFIX)
    paths: list[Path] = []
    for k in [*range(1, len(volume), 2), *range(0, len(volume), 2)]:
        path = folder / f"{len(paths)}.dcm"
        single(stack, k, volume[k], **shared | elements).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def enhanced(
    stack: Stack, places: list[float], pixels: NDArray[np.generic], *, times: list[int] | None = None, **elements: Any
) -> Dataset:
    """An enhanced instance: frame ``n`` lies at ``places[n]``, has pixels ``(frames, rows, columns)``."""
    rows, columns = stack.size
    sop_class = elements.pop("SOPClassUID", ENHANCED_MR)
    rescales = elements.pop("rescales", None)
    segments = elements.pop("segments", None)
    instance = _instance(sop_class, rows, columns, pixels.itemsize * 8, signed=pixels.dtype.kind == "i")
    instance.NumberOfFrames = len(places)
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=stack.orientation)]
    shared.PixelMeasuresSequence = [
        _item(PixelSpacing=list(stack.spacing), SliceThickness=1.0, SpacingBetweenSlices=2.5)
    ]
    instance.SharedFunctionalGroupsSequence = [shared]
    instance.DimensionIndexSequence = [
        _item(DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113),
        _item(DimensionIndexPointer=0x00209128, FunctionalGroupPointer=0x00209111),
    ]
    items = []
    for n, k in enumerate(places):
        item = _item(PlanePositionSequence=[_item(ImagePositionPatient=stack.position(k))])
        time = times[n] if times else 1
        item.FrameContentSequence = [_item(DimensionIndexValues=[round(k) + 1, time])]
        if rescales:
            item.PixelValueTransformationSequence = [
                _item(RescaleSlope=rescales[n][0], RescaleIntercept=rescales[n][1], RescaleType="US")
            ]
        if segments:
            item.SegmentIdentificationSequence = [_item(ReferencedSegmentNumber=segments[n])]
        items.append(item)
    instance.PerFrameFunctionalGroupsSequence = items
    for keyword, value in elements.items():
        setattr(instance, keyword, value)
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    instance.PixelData = data + b"\0" * (len(data) % 2)
    instance["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    return instance


def noise(shape: tuple[int, ...], dtype: str = "u2", seed: int = 0) -> NDArray[Any]:
    """Values over the whole range of a type."""
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
