"""Ultrasound regions as evidence: rectangles of a picture that hold signals, not text (PS3.3 C.8.5.5).

Contract: `region_evidence` returns the regions that prove something, clipped to the picture, and says of the others
why they prove nothing. Locations are inclusive and stand from the upper left corner (PS3.3 C.8.5.5.1.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.dicom.elements import READING_ERRORS, is_unreadable_sequence, readable_value_of
from exporter.privacy.pixels.area import KeptArea, Rectangle
from exporter.privacy.pixels.rules import ladder_rules

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MOST_REGIONS: Final = 64
_EDGES: Final = ("MinX0", "MinY0", "MaxX1", "MaxY1")


@dataclass(frozen=True, slots=True)
class RegionEvidence:
    """Regions that are kept, and what is odd about the regions of an instance."""

    kept: tuple[Rectangle, ...]
    notes: tuple[str, ...]


def region_evidence(header: Dataset, rows: int, columns: int) -> RegionEvidence:
    """The regions of a picture of (rows, columns) that prove what they hold."""
    rules = ladder_rules().ultrasound
    if is_unreadable_sequence(header, "SequenceOfUltrasoundRegions"):
        return RegionEvidence((), ("the ultrasound regions cannot be read",))
    items = list(readable_value_of(header, "SequenceOfUltrasoundRegions") or ())
    stated = [_stated(item) for item in items[:_MOST_REGIONS]]
    beyond = [_reach_outside(region, rows, columns) for region in stated if region is not None]
    if any(min(reach) > rules.far_outside for reach in beyond):
        note = "an ultrasound region reaches far outside to both sides: the picture was scaled, no region counts"
        return RegionEvidence((), (note,))
    kept: list[Rectangle] = []
    notes: list[str] = []
    if len(items) > _MOST_REGIONS:
        notes.append(f"of {len(items)} ultrasound regions the first {_MOST_REGIONS} are read")
    for item, region in zip(items, stated, strict=False):
        fault = _fault(item, region, rows, columns)
        if region is None or fault is not None:
            notes.append(f"an ultrasound region {fault}: it proves nothing")
            continue
        if max(_reach_outside(region, rows, columns)) > 0:
            notes.append("an ultrasound region reaches outside the picture: clipped")
        kept.append(region.within(Rectangle(0, 0, columns, rows)))
    if kept and KeptArea(rows, columns, tuple(kept)).share() >= rules.nearly_whole:
        return RegionEvidence((), (*notes, "the ultrasound regions are nearly the whole picture: they prove nothing"))
    return RegionEvidence(tuple(kept), tuple(dict.fromkeys(notes)))


def _fault(item: Dataset, region: Rectangle | None, rows: int, columns: int) -> str | None:
    """Why a region proves nothing; None where it does."""
    if region is None:
        return "has no usable location"
    if region.is_empty:
        return "is empty or reversed"
    if _shows_nothing(item):
        return "has neither a spatial format nor a data type"
    inside = region.within(Rectangle(0, 0, columns, rows))
    if inside.is_empty:
        return "lies outside the picture"
    if KeptArea(rows, columns, (inside,)).share() >= ladder_rules().ultrasound.nearly_whole:
        return "is nearly the whole picture"
    return None


def _stated(item: Dataset) -> Rectangle | None:
    """The rectangle of a region as it is stated; None where a location is missing or no integer."""
    try:
        left, top, right, bottom = (readable_value_of(item, f"RegionLocation{edge}") for edge in _EDGES)
    except READING_ERRORS:
        return None
    if not all(isinstance(edge, int) for edge in (left, top, right, bottom)):
        return None
    return Rectangle(left, top, right + 1, bottom + 1)


def _reach_outside(region: Rectangle, rows: int, columns: int) -> tuple[float, float]:
    """How far a region reaches outside, across and down, as shares of the picture's sides."""
    across = max(region.right - columns, 0) / columns
    down = max(region.bottom - rows, 0) / rows
    return across, down


def _shows_nothing(item: Dataset) -> bool:
    """Whether Region Spatial Format and Region Data Type both say "none or not applicable" (PS3.3 C.8.5.5.1.1-2).

    Some scanners describe their whole screen, with its text, by such a region.
    """
    return all(readable_value_of(item, key) == 0 for key in ("RegionSpatialFormat", "RegionDataType"))
