"""Warnings for skipped instances whose elements describe a medium that is not there.

Contract: `absent_media` gives sentences for an instance that no writer knows a medium for; an instance of a kind that
never has one (a plan, raw data) gives none.

Source: PS3.3 C.7.6.3 (image pixel module), C.24.2 (encapsulated document); GDCM's dictionary (ELSCINT1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.dicom.elements import integer_of, name_of, unread_value
from exporter.errors import BadGeometry
from exporter.results.metadata.keys import Keys
from exporter.writers.document import is_empty_document

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_ELSCINT: Final = (0x07A1, 0x0A, "ELSCINT1")
"""Group, element within its block, and creator of the pixel data of Elscint and Philips CT (PMSCT_RLE1, PMSCT_RGB1)."""
_BEST_COMPRESSION: Final = 64
"""Most pixels per byte of an encoded picture."""
_FEWEST_BYTES: Final = 256


def absent_media(header: Dataset) -> list[str]:
    """Make warnings about a medium that the elements of an instance describe and that is not there."""
    notes: list[str] = []
    if is_empty_document(header):
        notes.append(f"{name_of('EncapsulatedDocument')} is empty: there is no document")
    pixels = _described_pixels(header)
    if pixels:
        notes.append(f"{name_of('Rows')} and {name_of('Columns')} describe an image, there is no pixel data element")
        notes += _private_pixels(header, pixels)
    return notes


def _described_pixels(header: Dataset) -> int:
    """Rows x columns of the image that the header describes; 0 if it describes no image."""
    try:
        rows, columns = integer_of(header, "Rows", 0), integer_of(header, "Columns", 0)
    except BadGeometry:
        return 0
    return rows * columns if rows > 0 and columns > 0 else 0


def _private_pixels(header: Dataset, pixels: int) -> list[str]:
    """The private elements that may hold the pixel data: Elscint's, else the largest that is large enough."""
    keys, largest = Keys(header), (0, 0)
    for tag in [int(tag) for tag in header.keys() if tag & 0x10000]:  # noqa: SIM118 - it iterates over elements
        value = unread_value(header, tag)
        if not isinstance(value, bytes) or not value:
            continue
        if (tag >> 16, tag & 0xFF, keys.creator(tag)) == _ELSCINT:
            return [f"({tag >> 16:04X},{tag & 0xFFFF:04X}) of ELSCINT1 holds pixel data in a private form: not read"]
        largest = max(largest, (len(value), tag))
    size, tag = largest
    if size < max(_FEWEST_BYTES, pixels // _BEST_COMPRESSION):
        return []
    return [
        f"({tag >> 16:04X},{tag & 0xFFFF:04X}) private element: its {size} bytes may be pixel data; they are not read"
    ]
