"""The calibrated regions of an ultrasound picture: where they are, and what one pixel of them is worth.

Contract: `regions_of` reads `SequenceOfUltrasoundRegions` (PS3.3 C.8.5.5) and gives the regions that make sense; values
that do not are None, never guessed. Coordinates are of the instance's own pixels. It never looks at pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.dicom.elements import finite, readable_value_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydicom import Dataset

UNITS: Final[Mapping[int, str]] = {
    0: "none",
    1: "percent",
    2: "dB",
    3: "cm",
    4: "s",
    5: "Hz",
    6: "dB/s",
    7: "cm/s",
    8: "cm2",
    9: "cm2/s",
    10: "cm3",
    11: "cm3/s",
    12: "degrees",
}
"""Physical Units X/Y Direction (PS3.3 C.8.5.5.1.15)."""

SPATIAL_FORMATS: Final[Mapping[int, str]] = {
    0: "none",
    1: "2D",
    2: "M-mode",
    3: "spectral",
    4: "wave form",
    5: "graphics",
}
"""Region Spatial Format (PS3.3 C.8.5.5.1.1)."""

TISSUE, COLOUR_FLOW = 1, 2
"""Region Data Type (PS3.3 C.8.5.5.1.2) of pictures of anatomy."""
_TWO_DIMENSIONAL: Final = 1
_MOST_REGIONS: Final = 64


@dataclass(frozen=True, slots=True)
class UltrasoundRegion:
    """One region; edges in pixels of the instance, the right and lower ones exclusive."""

    left: int
    top: int
    right: int
    bottom: int
    spatial_format: int | None
    data_type: int | None
    units_x: int | None
    units_y: int | None
    delta_x: float | None
    """Physical value per pixel to the right."""
    delta_y: float | None
    """Physical value per pixel downwards."""
    reference_x: int | None
    """Column of the reference pixel, counted from the region's left edge."""
    reference_y: int | None
    value_x: float | None
    """Physical value at the reference pixel."""
    value_y: float | None

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.right - self.left) * (self.bottom - self.top)

    @property
    def shows_anatomy(self) -> bool:
        """Whether the region is a two-dimensional picture of tissue or flow."""
        return self.spatial_format == _TWO_DIMENSIONAL and self.data_type in {TISSUE, COLOUR_FLOW, None}


def regions_of(header: Dataset, rows: int, columns: int) -> tuple[UltrasoundRegion, ...]:
    """The regions that lie at least partly in a picture of (rows, columns), cut to it.

    Source: (0018,6011) Sequence of Ultrasound Regions; locations are inclusive (PS3.3 C.8.5.5.1.3).
    """
    items = readable_value_of(header, "SequenceOfUltrasoundRegions")
    if items is None or isinstance(items, str | bytes):
        return ()
    found = []
    for item in list(items)[:_MOST_REGIONS]:
        region = _region(item, rows, columns)
        if region is not None:
            found.append(region)
    return tuple(found)


def _region(item: Dataset, rows: int, columns: int) -> UltrasoundRegion | None:
    edges = [_integer(item, f"RegionLocation{name}") for name in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    if any(edge is None for edge in edges):
        return None
    left, top, right, bottom = (edge or 0 for edge in edges)
    left, right = sorted((left, right))
    top, bottom = sorted((top, bottom))
    left, top, right, bottom = max(0, left), max(0, top), min(columns, right + 1), min(rows, bottom + 1)
    if right <= left or bottom <= top:
        return None
    shift_x = (_integer(item, "RegionLocationMinX0") or 0) - left
    shift_y = (_integer(item, "RegionLocationMinY0") or 0) - top
    reference_x, reference_y = _integer(item, "ReferencePixelX0"), _integer(item, "ReferencePixelY0")
    return UltrasoundRegion(
        left=left,
        top=top,
        right=right,
        bottom=bottom,
        spatial_format=_integer(item, "RegionSpatialFormat"),
        data_type=_integer(item, "RegionDataType"),
        units_x=_integer(item, "PhysicalUnitsXDirection"),
        units_y=_integer(item, "PhysicalUnitsYDirection"),
        delta_x=_number(item, "PhysicalDeltaX"),
        delta_y=_number(item, "PhysicalDeltaY"),
        reference_x=None if reference_x is None else reference_x + shift_x,
        reference_y=None if reference_y is None else reference_y + shift_y,
        value_x=_number(item, "ReferencePixelPhysicalValueX"),
        value_y=_number(item, "ReferencePixelPhysicalValueY"),
    )


def _integer(dataset: Dataset, keyword: str) -> int | None:
    value = readable_value_of(dataset, keyword)
    return value if isinstance(value, int) and abs(value) < 1 << 31 else None


def _number(dataset: Dataset, keyword: str) -> float | None:
    return finite(readable_value_of(dataset, keyword))
