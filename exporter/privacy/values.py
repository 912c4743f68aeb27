"""One element's value: what a dummy is, what a text is, and which values of each VR may stay.

Contract: each function gives new values or None for "may not stay"; none raises on whatever pydicom made of an element.

Source: PS3.5 6.2 (value representations), PS3.15 Table E.1-1a (dummy values are consistent with the VR).
"""

from __future__ import annotations

import math
import re
from collections.abc import MutableSequence
from typing import TYPE_CHECKING, Any, Final

from pydicom.tag import BaseTag

from exporter.dicom.elements import READING_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

NUMERIC_VRS: Final = frozenset(["AT", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"])
"""Binary numbers and tags: they cannot hold text."""
DATE_VRS: Final = frozenset(("DA", "DT", "TM"))
BULK_VRS: Final = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "UN"])
TEXT_VRS: Final = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
REMOVED: Final = "REMOVED"
"""Text that stands where a text was."""
MOST_TEXT: Final = 10_240
"""Longest text, in characters, that an option retains: that of VR LT."""
_PLAIN_VRS: Final = frozenset(("CS", "DA", "DT", "LO", "SH", "TM", "UI"))
_PLAIN_ASCII: Final = re.compile(rb"[ -~]*\0?")
"""Printable ASCII, which is the same in every character set (PS3.5 6.1.2.1), and padding."""
_DUMMIES: Final[dict[str, Any]] = {
    "AE": REMOVED,
    "AS": "000D",
    "AT": 0,
    "CS": "OTHER",
    "DA": "19000101",
    "DS": "0",
    "DT": "19000101000000",
    "IS": "0",
    "TM": "000000",
    "UR": "about:blank",
    "OB": b"\0\0",
    "OD": bytes(8),
    "OF": bytes(4),
    "OL": bytes(4),
    "OV": bytes(8),
    "OW": b"\0\0",
    "UN": b"\0\0",
}
_DUMMY_CODES: Final = {0x00080060: "OT"}
"""Terms for attributes whose terms do not include OTHER."""
_UID: Final = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_ZONE: Final = re.compile(r"[+-][01][0-9][0-5][0-9]")
_SAMPLE_BYTES: Final = {"SB": 1, "UB": 1, "MB": 1, "AB": 1, "SS": 2, "US": 2, "SL": 4, "UL": 4, "SV": 8, "UV": 8}
_PALETTES: Final = {
    0x00281201: 0x00281101,
    0x00281202: 0x00281102,
    0x00281203: 0x00281103,
    0x00281204: 0x00281104,
    0x00283006: 0x00283002,
}
"""Lookup tables and the descriptors that say their sizes."""


def dummy(tag: int, vr: str) -> Any:
    """A value that says nothing, consistent with the VR; UIDs and sequences have none."""
    if tag in _DUMMY_CODES:
        return _DUMMY_CODES[tag]
    return _DUMMIES.get(vr, 0 if vr in NUMERIC_VRS else REMOVED)


def readable(dataset: Dataset, tag: int) -> DataElement | None:
    """The element as pydicom reads it; None where it cannot."""
    try:
        return dataset[tag if type(tag) is BaseTag else BaseTag(tag)]  # an int is looked at more closely
    except READING_ERRORS:
        return None


def texts_of(element: DataElement | None) -> list[str]:
    """The values of an element of a text VR, whatever its dictionary VR is; empty where it has none.

    Texts of a wrong VR are read as well: a name in an element of VR LO is still the name.
    """
    return [text for text in placed_texts_of(element) if text.strip(" \0")]


def placed_texts_of(element: DataElement | None) -> list[str]:
    """The values of an element as `texts_of` has them, and empty ones between them, so that each keeps its place."""
    if element is None or element.VR not in TEXT_VRS or element.value is None:
        return []
    value = element.value
    try:
        return [str(each) for each in (value if isinstance(value, MutableSequence | tuple) else [value])]
    except READING_ERRORS:
        return []


def texts_at(dataset: Dataset, tag: int, vr: str, *, placed: bool = False) -> list[str]:
    """The values of an element, as `texts_of` has them.

    Printable ASCII of the dictionary's VR is read without pydicom, which takes far longer.

    Args:
        dataset: Where the element is.
        tag: The element.
        vr: VR of the dictionary.
        placed: Whether empty values keep their places.
    """
    values = plain_texts(dataset.get_item(BaseTag(tag)), vr)
    if values is None:
        values = placed_texts_of(readable(dataset, tag))
    return values if placed else [value for value in values if value.strip(" \0")]


def plain_texts(raw: Any, vr: str) -> list[str] | None:
    """The values of an element that is not read yet and has nothing but printable ASCII; None of any other."""
    if vr not in _PLAIN_VRS or not getattr(raw, "is_raw", False) or vr != raw.VR or type(raw.value) is not bytes:
        return None
    if _PLAIN_ASCII.fullmatch(raw.value) is None:
        return None
    return [value.rstrip(" \0") for value in raw.value.decode("ascii").split("\\")]


def is_valid_uid(text: str) -> bool:
    """Whether a text has the form of a UID (PS3.5 9.1)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def is_well_known_uid(text: str) -> bool:
    """Whether a UID names a class, a syntax or another registered thing rather than an instance (PS3.6 Annex A)."""
    from pydicom._uid_dict import UID_dictionary

    return text in UID_dictionary


def is_zone(text: str) -> bool:
    """Whether a text is an offset from UTC, as in (0008,0201)."""
    return _ZONE.fullmatch(text.strip(" \0")) is not None


def is_sound_bulk(dataset: Dataset, tag: int) -> bool:
    """Whether bytes are on the keep list and exactly as long as the elements beside them say.

    Bytes can hold text: those of a lookup table, a waveform or a spectrum stay because nothing else fits in.
    """
    element = readable(dataset, tag)
    value = None if element is None else element.value
    if not isinstance(value, bytes):
        return False
    needed = _needed_bytes(dataset, tag)
    return any(len(value) == size + size % 2 for size in needed)


def _needed_bytes(dataset: Dataset, tag: int) -> tuple[int, ...]:
    """Sizes that an element may have by the ones beside it; none where they say none, or it is not on the keep list."""
    try:
        if tag in _PALETTES:
            entries, _, bits = dataset[_PALETTES[tag]].value
            entries = int(entries) or 1 << 16
            # Some writers give each entry of 8 bits two bytes.
            return (entries, entries * 2) if bits == 8 else (entries * 2,)
        size = _SIZES.get(tag)
        return () if size is None else (size(dataset),)
    except READING_ERRORS:
        return ()


def _waveform_bytes(dataset: Dataset) -> int:
    samples = int(dataset.NumberOfWaveformChannels) * int(dataset.NumberOfWaveformSamples)
    return samples * _SAMPLE_BYTES[str(dataset.WaveformSampleInterpretation)]


def _spectroscopy_bytes(dataset: Dataset) -> int:
    points = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames", 1))
    points *= int(dataset.DataPointRows) * int(dataset.DataPointColumns)
    return points * (8 if dataset.DataRepresentation == "COMPLEX" else 4)


_SIZES: Final[dict[int, Callable[[Dataset], int]]] = {
    0x54001010: _waveform_bytes,
    0x56000020: _spectroscopy_bytes,
    0x5400100A: lambda dataset: _SAMPLE_BYTES[str(dataset.WaveformSampleInterpretation)],
    0x00660016: lambda dataset: int(dataset.NumberOfSurfacePoints) * 12,
    0x00640009: lambda dataset: math.prod(int(size) for size in dataset.GridDimensions) * 12,
}
"""Bytes of waveforms and their padding, of spectra, of the points of surfaces, of vectors of grids."""
