"""Overlay planes of the data set, drawn over display values (PS3.3 C.9.2; PS3.5 8.1.2 for planes in unused bits).

Contract: `read_overlays` gives every plane of groups 6000 to 601E that can be drawn, and notes the others; `draw`
returns a new frame with the planes of one frame in white. Drawing is off unless asked for.

Must never: change the frame it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exporter.dicom.elements import READING_ERRORS, quiet_reading

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_GROUPS = range(0x6000, 0x6020, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """One plane: a bit mask per frame it has."""

    top: int
    """Row of the image where its first row lies, from 0; may be negative."""
    left: int
    masks: NDArray[np.uint8]
    """``(frames, rows, columns)``, 0 or 1."""
    first_frame: int
    """Frame of the image, from 0, that its first mask belongs to."""

    def mask(self, frame: int) -> NDArray[np.uint8] | None:
        """The mask for a frame of the image; a plane of one frame at the first frame is for all."""
        index = 0 if len(self.masks) == 1 and self.first_frame == 0 else frame - self.first_frame
        if not 0 <= index < len(self.masks):
            return None
        mask: NDArray[np.uint8] = self.masks[index]
        return mask


def read_overlays(header: Dataset, *, big_endian: bool, notes: list[str]) -> list[Overlay]:
    """The planes of an instance that lie in (60xx,3000) Overlay Data."""
    found: list[Overlay] = []
    for group in _GROUPS:
        if (group, 0x0010) not in header:
            continue
        try:
            with quiet_reading():
                overlay = _read(header, group, big_endian=big_endian)
        except READING_ERRORS:
            overlay = None
        if overlay is None:
            notes.append(f"the overlay of group {group:04X} is damaged or lies in unused bits: not drawn")
        else:
            found.append(overlay)
    return found


def _read(header: Dataset, group: int, *, big_endian: bool) -> Overlay | None:
    rows, columns = int(header[group, 0x0010].value), int(header[group, 0x0011].value)
    frames = int(header[group, 0x0015].value or 1) if (group, 0x0015) in header else 1
    if (group, 0x3000) not in header or rows <= 0 or columns <= 0 or frames <= 0:
        return None
    element = header[group, 0x3000]
    raw: bytes = element.value
    count = frames * rows * columns
    if 8 * len(raw) < count:
        return None
    if big_endian and element.VR != "OB":
        raw = np.frombuffer(raw[: len(raw) // 2 * 2], "<u2").byteswap().tobytes()
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=count, bitorder="little")
    origin = [int(v) for v in header[group, 0x0050].value] if (group, 0x0050) in header else [1, 1]
    first = int(header[group, 0x0051].value) if (group, 0x0051) in header else 1
    return Overlay(origin[0] - 1, origin[1] - 1, bits.reshape(frames, rows, columns), first - 1)


def draw(frame: NDArray[np.uint8], overlays: list[Overlay], index: int) -> NDArray[np.uint8]:
    """The frame with the overlays of frame `index` in white."""
    drawn = frame.copy()
    for overlay in overlays:
        mask = overlay.mask(index)
        if mask is None:
            continue
        top, left = max(0, overlay.top), max(0, overlay.left)
        part = mask[top - overlay.top :, left - overlay.left :]
        target = drawn[top : top + part.shape[0], left : left + part.shape[1]]
        target[part[: target.shape[0], : target.shape[1]].astype(bool)] = 255
    return drawn
