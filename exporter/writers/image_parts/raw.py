"""Stored values, unchanged, in a file that any program reads: 16-bit PNG, or a NumPy array for more than 16 bits.

Contract: exact and reversible. A sample is the stored value minus `Values.offset`; slope and intercept that lead to
modality values (Hounsfield units, ...) are in the record, never applied.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.dicom.elements import is_unreadable_sequence, text_of
from exporter.errors import VerifyFailed
from exporter.frames.display import holds_table, items_of, number_of
from exporter.frames.functional_groups import FrameElements
from exporter.outcome import Values
from exporter.writers.durable_write import write_new
from exporter.writers.image_parts.image_file import Still, StillPlan, write_still

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from exporter.dicom.pixels import PixelDescription
    from exporter.writers.durable_write import HeldFiles, SyncBatch

_PNG = StillPlan(extension=".png", parameters=(), psnr_floor_db=math.inf)


@dataclass(frozen=True, slots=True)
class RawForm:
    """The file format of an instance's stored values."""

    suffix: str
    offset: int
    """Number to add to a sample for the stored value."""

    @property
    def extension(self) -> str:
        """``.png`` or ``.npy``."""
        return self.suffix[len(".raw") :]


def has_raw(pixels: PixelDescription) -> bool:
    """Whether stored values mean something of their own: they measure, label or number a palette's colour."""
    return pixels.samples == 1


def raw_form(stored: NDArray[Any]) -> RawForm:
    """The form that fits stored values as they were decoded, whatever sign the header claims."""
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        return RawForm(".raw.npy", 0)
    return RawForm(".raw.png", -(1 << 15) if stored.dtype.kind == "i" else 0)


def write_raw(path: Path, stored: NDArray[Any], form: RawForm, batch: SyncBatch | HeldFiles | None = None) -> Still:
    """Write one frame of stored values and read it back; durable at once, or with its batch.

    Raises:
        VerifyFailed: Read back they differ.
        OutOfSpace: The disk is full.
    """
    if form.extension == ".png":
        return write_still(path, _samples(stored, form), _PNG, batch)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(stored), allow_pickle=False)
    sealed = write_new(path, (buffer.getvalue(),), batch)
    with path.open("rb") as file:
        back = np.lib.format.read_array(file, allow_pickle=False)
    if back.dtype != stored.dtype or back.tobytes() != np.ascontiguousarray(stored).tobytes():
        raise VerifyFailed("the NumPy array, read back, differs from the stored values")
    return Still(sealed=sealed, codec=f"npy {stored.dtype.str}")


def _samples(stored: NDArray[Any], form: RawForm) -> NDArray[np.uint16]:
    """The samples of stored values.

    Raises:
        VerifyFailed: They do not fit, because another frame had other values.
    """
    if form == raw_form(stored):  # all values of such a type fit
        if form.offset == 0:
            return stored.astype(np.uint16, copy=False)
        return stored.astype(np.int16, copy=False).view(np.uint16) ^ np.uint16(1 << 15)
    samples = (stored.astype(np.int32) - form.offset).astype(np.uint16)
    if not np.array_equal(samples.astype(np.int32) + form.offset, stored):
        raise VerifyFailed("stored values do not fit 16 bits")
    return samples


class RescaleElements:
    """Slope and intercept of each frame (PS3.3 C.11.1, C.7.6.16.2.9)."""

    def __init__(self, header: Dataset) -> None:
        self._elements = FrameElements(header)
        self._labels = text_of(header, "PhotometricInterpretation") == "PALETTE COLOR"
        tables = items_of(header, "ModalityLUTSequence")
        is_damaged = is_unreadable_sequence(header, "ModalityLUTSequence")
        self._linear = not is_damaged and not (tables and holds_table(tables[0]))

    def values(self, index: int, form: RawForm) -> Values:
        """The meaning of the samples of frame `index`; those of a palette mean their own numbers."""
        if self._labels:
            return Values(offset=form.offset, slope=1.0, intercept=0.0)
        item = self._elements.item(index, "PixelValueTransformationSequence")
        slope, intercept = number_of(item, "RescaleSlope"), number_of(item, "RescaleIntercept")
        slope = 1.0 if slope is None else slope
        intercept = 0.0 if intercept is None else intercept
        usable = self._linear and slope != 0 and math.isfinite(slope) and math.isfinite(intercept)
        return Values(
            offset=form.offset,
            slope=slope if usable else 1.0,
            intercept=intercept if usable else 0.0,
            linear=self._linear,
        )
