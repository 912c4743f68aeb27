"""Planes and values by the header: one `VolumeFrame` per frame, for every class that can be a volume.

Contract: reads header elements only, never pixels; raises `BadGeometry` where an element that geometry needs is absent,
no number, or contradicts the number of frames. Nothing is guessed: a plane without position is no plane.

Source: PS3.3 C.7.6.2 (image plane), C.7.6.16 (functional groups), C.8.8.3 (RT dose), C.8.20 (segmentation),
C.7.6.17 (dimensions).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from exporter.dicom.elements import READING_ERRORS, finite, integer_of, name_of, quiet_reading, text_of, value_of
from exporter.dicom.geometry import Plane
from exporter.errors import BadGeometry
from exporter.writers.volumes.formats import AS_STORED, Scaling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset


class VolumeKind(StrEnum):
    """The way in which a class describes its planes, and the meaning of its voxels."""

    ENHANCED = "enhanced"
    SEGMENTATION = "segmentation"
    DOSE = "dose"
    PARAMETRIC_MAP = "parametric map"


_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
VOLUME_CLASSES: Final = {
    _STORAGE + "2.1": VolumeKind.ENHANCED,  # Enhanced CT
    _STORAGE + "2.2": VolumeKind.ENHANCED,  # Legacy Converted Enhanced CT
    _STORAGE + "4.1": VolumeKind.ENHANCED,  # Enhanced MR
    _STORAGE + "4.4": VolumeKind.ENHANCED,  # Legacy Converted Enhanced MR
    _STORAGE + "13.1.1": VolumeKind.ENHANCED,  # X-Ray 3D Angiographic
    _STORAGE + "13.1.2": VolumeKind.ENHANCED,  # X-Ray 3D Craniofacial
    _STORAGE + "30": VolumeKind.PARAMETRIC_MAP,
    _STORAGE + "66.4": VolumeKind.SEGMENTATION,
    _STORAGE + "66.7": VolumeKind.SEGMENTATION,  # Label Map Segmentation
    _STORAGE + "128.1": VolumeKind.ENHANCED,  # Legacy Converted Enhanced PET
    _STORAGE + "130": VolumeKind.ENHANCED,  # Enhanced PET
    _STORAGE + "481.2": VolumeKind.DOSE,
}
"""SOP classes whose multi-frame instances are volumes and not cines."""

SERIES_CLASSES: Final = frozenset({_STORAGE + "2", _STORAGE + "4", _STORAGE + "128"})
"""Single-frame CT, MR and PET: a series of them may be a volume."""

_SPATIAL_POINTERS: Final = frozenset({0x00200032, 0x00209056, 0x00209057, 0x0020930F})
"""Image Position (Patient), Stack ID, In-Stack Position Number, Distance Reference Location: where, not when."""


@dataclass(frozen=True, slots=True)
class VolumeFrame:
    """One frame of a volume."""

    plane: Plane
    scaling: Scaling = AS_STORED
    segment: int = 1
    """(0062,000B) Referenced Segment Number; 1 where the header tells none."""


def frames_of(header: Dataset, kind: VolumeKind, rows: int, columns: int, count: int) -> tuple[VolumeFrame, ...]:
    """One `VolumeFrame` per frame of a multi-frame instance, in order of storage.

    Raises:
        BadGeometry: An element that geometry needs is absent or no number.
    """
    size = (rows, columns)
    try:
        with quiet_reading():
            if kind is VolumeKind.DOSE:
                return _dose_frames(header, size, count)
            return _FunctionalGroups(header, kind, count).frames(size)
    except READING_ERRORS as error:
        raise BadGeometry(f"read planes: an element cannot be read ({type(error).__name__})") from None


def slice_step(header: Dataset) -> float | None:
    """(0018,0088) Spacing Between Slices of an enhanced instance, millimetres; None if absent."""
    try:
        with quiet_reading():
            for groups in (
                header.get("SharedFunctionalGroupsSequence"),
                header.get("PerFrameFunctionalGroupsSequence"),
            ):
                measures = groups[0].get("PixelMeasuresSequence") if groups else None
                if measures and (step := abs(_number(measures[0], "SpacingBetweenSlices", 0.0))):
                    return step
    except READING_ERRORS:
        return None
    return None


def single_frame(header: Dataset, rows: int, columns: int) -> VolumeFrame:
    """The `VolumeFrame` of a single-frame CT, MR or PET instance.

    Planes of one series belong to one stack if they share echo, image type and pixel type; repetitions are ordered by
    temporal position, acquisition and instance number.

    Raises:
        BadGeometry: Position, orientation or spacing is absent or no number; or the image is a mosaic of many planes.
    """
    try:
        with quiet_reading():
            kinds = tuple(str(value) for value in header.get("ImageType") or ())
            if "MOSAIC" in kinds:
                raise BadGeometry("read planes: (0008,0008) Image Type says MOSAIC; many planes in one image")
            plane = _plane(header, header, header, (rows, columns))
            apart = ("EchoTime", "EchoNumbers", "PixelRepresentation", "BitsAllocated")
            stack = (kinds[2:], *(text_of(header, word) for word in apart))
            order = tuple(
                _number(header, word, 0.0)
                for word in ("TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime", "InstanceNumber")
            )
            return VolumeFrame(replace(plane, stack=stack, order=order), _rescale(header))
    except READING_ERRORS as error:
        raise BadGeometry(f"read planes: an element cannot be read ({type(error).__name__})") from None


def _plane(position: Dataset, orientation: Dataset, measures: Dataset, size: tuple[int, int]) -> Plane:
    place = _numbers(position, "ImagePositionPatient", 3)
    cosines = _numbers(orientation, "ImageOrientationPatient", 6)
    spacing = _numbers(measures, "PixelSpacing", 2)
    thickness = _number(measures, "SpacingBetweenSlices", 0.0) or _number(measures, "SliceThickness", 0.0)
    return Plane(
        position=(place[0], place[1], place[2]),
        row=(cosines[0], cosines[1], cosines[2]),
        column=(cosines[3], cosines[4], cosines[5]),
        spacing=(spacing[0], spacing[1]),
        size=size,
        thickness=abs(thickness) or None,
    )


def _numbers(source: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    value = value_of(source, keyword)
    try:
        numbers = tuple(float(number) for number in (value if value is not None else ()))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise BadGeometry(f"read planes: {name_of(keyword)} must be {count} numbers")
    return numbers


def _number(source: Dataset, keyword: str, default: float) -> float:
    value: Any = value_of(source, keyword)
    if value is None:
        return default
    if hasattr(value, "__getitem__") and not isinstance(value, str):
        value = value[0] if len(value) else None
    number = finite(value)
    return default if number is None else number


def _rescale(source: Dataset) -> Scaling:
    """Rescale slope and intercept; a slope of 0, which would erase the image, counts as absent."""
    slope = _number(source, "RescaleSlope", 1.0)
    return Scaling(slope, _number(source, "RescaleIntercept", 0.0)) if slope else AS_STORED


class _FunctionalGroups:
    """Shared and per-frame functional groups of an enhanced instance (PS3.3 C.7.6.16)."""

    def __init__(self, header: Dataset, kind: VolumeKind, count: int) -> None:
        shared = header.get("SharedFunctionalGroupsSequence") or ()
        self._shared: Dataset | None = shared[0] if shared else None
        self._per_frame: Sequence[Dataset] = header.get("PerFrameFunctionalGroupsSequence") or ()
        self._kind = kind
        self._count = count
        if self._per_frame and len(self._per_frame) < count:
            raise BadGeometry(
                f"read planes: {name_of('PerFrameFunctionalGroupsSequence')} has {len(self._per_frame)} items "
                f"for {count} frames"
            )
        self._times = self._time_dimensions(header)

    def _time_dimensions(self, header: Dataset) -> tuple[int, ...]:
        """Positions of the dimension index values that are not about place or segment."""
        pointers = [int(item.DimensionIndexPointer) for item in header.get("DimensionIndexSequence") or ()]
        return tuple(i for i, pointer in enumerate(pointers) if pointer not in _SPATIAL_POINTERS)

    def _item(self, frame: int, keyword: str) -> Dataset | None:
        """The item of a functional group: the frame's own, else the shared one."""
        own = self._per_frame[frame] if self._per_frame else None
        for groups in (own, self._shared):
            if groups is not None and groups.get(keyword):
                item: Dataset = groups.get(keyword)[0]
                return item
        return None

    def _needed(self, frame: int, keyword: str) -> Dataset:
        item = self._item(frame, keyword)
        if item is None:
            raise BadGeometry(f"read planes: {name_of(keyword)} is absent")
        return item

    def frames(self, size: tuple[int, int]) -> tuple[VolumeFrame, ...]:
        return tuple(self._frame(frame, size) for frame in range(self._count))

    def _frame(self, frame: int, size: tuple[int, int]) -> VolumeFrame:
        plane = _plane(
            self._needed(frame, "PlanePositionSequence"),
            self._needed(frame, "PlaneOrientationSequence"),
            self._needed(frame, "PixelMeasuresSequence"),
            size,
        )
        if self._kind is VolumeKind.SEGMENTATION:
            item = self._item(frame, "SegmentIdentificationSequence")
            return VolumeFrame(plane, segment=1 if item is None else integer_of(item, "ReferencedSegmentNumber", 1))
        content = self._item(frame, "FrameContentSequence")
        stack, order = self._dimensions(content) if content is not None else ("", ())
        return VolumeFrame(replace(plane, stack=stack, order=order), self._scaling(frame))

    def _dimensions(self, content: Dataset) -> tuple[str, tuple[float, ...]]:
        stack = text_of(content, "StackID")
        values = content.get("DimensionIndexValues")
        values = [values] if isinstance(values, int) else list(values or ())
        order = tuple(float(values[index]) for index in self._times if index < len(values))
        return stack, order or (_number(content, "TemporalPositionIndex", 0.0),)

    def _scaling(self, frame: int) -> Scaling:
        if self._kind is VolumeKind.PARAMETRIC_MAP:
            item = self._item(frame, "RealWorldValueMappingSequence")
            if item is not None:
                slope = _number(item, "RealWorldValueSlope", 0.0)
                if slope:
                    return Scaling(slope, _number(item, "RealWorldValueIntercept", 0.0))
        item = self._item(frame, "PixelValueTransformationSequence")
        return AS_STORED if item is None else _rescale(item)


def _dose_frames(header: Dataset, size: tuple[int, int], count: int) -> tuple[VolumeFrame, ...]:
    """Planes of an RT dose: the first position and the offsets along the normal (PS3.3 C.8.8.3.2).

    Offsets are relative to the first plane, or (axial doses only) the patient's z coordinate of each plane.
    """
    first = _plane(header, header, header, size)
    scaling = Scaling(_number(header, "DoseGridScaling", 1.0) or 1.0)
    if count == 1:
        return (VolumeFrame(first, scaling),)
    offsets = _numbers(header, "GridFrameOffsetVector", count)
    normal = _cross(first.row, first.column)
    if offsets[0] != 0:
        if abs(abs(normal[2]) - 1) > 1e-3 or abs(offsets[0] - first.position[2]) > 1e-2:
            raise BadGeometry(
                f"read planes: {name_of('GridFrameOffsetVector')} begins neither at 0 nor at the position"
            )
        offsets = tuple((offset - offsets[0]) * normal[2] for offset in offsets)
    x, y, z = first.position
    return tuple(
        VolumeFrame(
            replace(first, position=(x + normal[0] * offset, y + normal[1] * offset, z + normal[2] * offset)), scaling
        )
        for offset in offsets
    )


def _cross(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float, float]:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
