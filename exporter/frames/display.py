"""Grayscale values to display values, in the Standard's order: modality, values of interest, presentation (PS3.4 N.2).

Contract: `GrayscalePipeline.render` maps one frame of stored values to 8 bits by that frame's own transformation.
Integers of up to 16 bits go through one table per transformation, others through float64 in blocks of rows. Rounding is
to the nearest value. What was applied is kept in `Applied`, and everything that was odd in the notes.

Source: PS3.3 C.11.1 (modality), C.11.2.1.2 (window: LINEAR), C.11.2.1.3.1 (SIGMOID), C.11.2.1.3.2 (LINEAR_EXACT),
C.11.6 (presentation), C.7.6.3.1.2 (MONOCHROME1), C.7.6.16.2.9 and .10 (the same by frame).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from exporter.dicom.elements import (
    READING_ERRORS,
    integer_of,
    is_unreadable_sequence,
    name_of,
    numbers_of,
    text_of,
    value_of,
)
from exporter.errors import BadGeometry, CorruptPixels
from exporter.frames.luts import Table, read_table
from exporter.frames.take_lut import look_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from exporter.frames.functional_groups import FrameElements

    Floats = NDArray[np.float64]

_BLOCK: Final = 1 << 18
_MOST_TABLES: Final = 64
_IDENTITY: Final = np.arange(256, dtype=np.uint8)
_XRAY_CLASSES: Final = frozenset(
    {"1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2", "1.2.840.10008.5.1.4.1.1.12.1.1"}
)


@dataclass(frozen=True, slots=True)
class DisplayOptions:
    """Settings of the way from stored to display values."""

    voi: int = 0
    """Number of the VOI transformation: VOI tables first, then windows, in the instance's order."""
    window: tuple[float, float] | None = None
    """Centre and width in modality units, instead of the instance's."""
    automatic: Literal["instance", "frame", "always"] = "instance"
    """Range of the automatic window: one for all frames (they are decoded twice), or each frame its own; `always`: one
    for all frames, also where the instance has VOI transformations of its own."""
    automatic_percentiles: tuple[float, float] = (0.0, 100.0)
    """First and last percentile of the values that the automatic window spans."""
    overlays: bool = False
    """Whether overlay planes are drawn, in white."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The transformation that a frame went through."""

    modality: str | None
    window: tuple[float, float] | None
    voi: str | None
    inverted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Modality:
    """Stored values to modality values."""

    slope: float = 1.0
    intercept: float = 0.0
    table: Table | None = None
    usable: bool = True
    """False where slope or intercept are no usable numbers: then windows in modality units mean nothing."""

    @property
    def name(self) -> str | None:
        """The transformation as the metadata line records it."""
        if self.table is not None:
            return "ModalityLUTSequence"
        return None if self.slope == 1.0 and self.intercept == 0.0 else "RescaleSlope/Intercept"

    def __call__(self, stored: np.ndarray) -> Floats:
        """Modality values, as float64."""
        if self.table is not None:
            return self.table(stored).astype(np.float64)
        values = stored.astype(np.float64)
        if self.slope != 1.0:
            values *= self.slope
        if self.intercept != 0.0:
            values += self.intercept
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Voi:
    """Modality values to the range 0 to 1."""

    function: str
    """``LINEAR``, ``LINEAR_EXACT``, ``SIGMOID``, ``LUT`` or ``automatic``."""
    centre: float = 0.0
    width: float = 0.0
    table: Table | None = None

    @property
    def edges(self) -> tuple[float, float]:
        """Least and greatest modality value that differs in the result from those beyond it; nominal for SIGMOID."""
        if self.table is not None:
            return float(self.table.first), float(self.table.first + len(self.table.entries) - 1)
        shift, width = (0.5, max(self.width - 1, 0.0)) if self.function == "LINEAR" else (0.0, self.width)
        return self.centre - shift - width / 2, self.centre - shift + width / 2

    def __call__(self, values: Floats) -> Floats:
        """Values between 0 and 1; not-a-number becomes 0."""
        if self.table is not None:
            return self.table(values) / float((1 << self.table.bits) - 1)
        return _WINDOWS[self.function](values, self.centre, self.width)


def _linear(values: Floats, centre: float, width: float) -> Floats:
    if width <= 1:  # the formula's limit: a threshold
        return (values > centre - 0.5).astype(np.float64)
    return (values - (centre - 0.5)) / (width - 1) + 0.5


def _linear_exact(values: Floats, centre: float, width: float) -> Floats:
    if width == 0:  # an automatic window over a constant
        return np.zeros_like(values)
    return (values - centre) / width + 0.5


def _sigmoid(values: Floats, centre: float, width: float) -> Floats:
    exponent = np.clip(-4 * (values - centre) / width, -700, 700)
    return 1 / (1 + np.exp(exponent))


_WINDOWS: Final[dict[str, Callable[[Floats, float, float], Floats]]] = {
    "LINEAR": _linear,
    "LINEAR_EXACT": _linear_exact,
    "SIGMOID": _sigmoid,
    "automatic": _linear_exact,
}


class GrayscalePipeline:
    """The transformations of one instance's frames."""

    def __init__(
        self,
        header: Dataset,
        elements: FrameElements,
        options: DisplayOptions,
        *,
        big_endian: bool,
        signed: bool,
        notes: list[str],
    ) -> None:
        self._header = header
        self._elements = elements
        self._options = options
        self._big_endian = big_endian
        self._signed = signed
        self._notes = notes
        self._tables: dict[tuple[object, ...], NDArray[np.uint8]] = {}
        self._insides: dict[tuple[object, ...], _StoredRange] = {}
        self._modalities: dict[int, Modality] = {}
        self._vois: dict[int, Voi | None] = {}
        self.inverted = self._is_inverted()

    def modality(self, index: int) -> Modality:
        """Stored values to modality values, for one frame."""
        item = self._elements.item(index, "PixelValueTransformationSequence")
        found = self._modalities.get(id(item))
        if found is None:
            found = self._modalities[id(item)] = self._read_modality(item)
        return found

    def voi(self, index: int) -> Voi | None:
        """The VOI transformation of one frame; None where it has none that can be used."""
        if self._options.window is not None:
            return Voi("LINEAR_EXACT", *self._options.window)
        if self._options.automatic == "always" or not self.modality(index).usable:
            return None
        item = self._elements.item(index, "FrameVOILUTSequence")
        if id(item) not in self._vois:
            self._vois[id(item)] = self._read_voi(item, self.modality(index))
        return self._vois[id(item)]

    def render(self, values: np.ndarray, bits: int, modality: Modality, voi: Voi) -> NDArray[np.uint8]:
        """One frame of stored values as display values.

        Args:
            values: ``(rows, columns)``.
            bits: Bits that integers may have.
            modality: Of this frame.
            voi: Of this frame.
        """
        if values.dtype.kind in "iu" and bits <= 16:
            return self._through_table(values, bits, modality, voi)
        frame = np.empty(values.shape, np.uint8)
        step = max(1, _BLOCK // values.shape[1])
        for top in range(0, values.shape[0], step):
            frame[top : top + step] = _map(values[top : top + step], modality, voi, inverted=self.inverted)
        return frame

    def count_inside(self, values: np.ndarray, bits: int, modality: Modality, voi: Voi) -> int:
        """Number of stored values of one frame that lie inside the edges of its VOI transformation.

        Arguments as of `render`.
        """
        step = max(1, _BLOCK // values.shape[1])  # blocks stay in the processor's cache
        blocks = (values[top : top + step] for top in range(0, values.shape[0], step))
        if values.dtype.kind not in "iu" or bits > 16:
            return sum(int(np.count_nonzero(_inside(block, modality, voi))) for block in blocks)
        signed = values.dtype.kind == "i"
        key = (signed, bits, *_transformation_key(modality, voi))
        found = self._insides.get(key)
        if found is None:
            if len(self._insides) >= _MOST_TABLES:
                self._insides.clear()
            if modality.table is None and voi.table is None:
                line, window = (modality.slope, modality.intercept), (voi.function, voi.centre, voi.width)
                found = _windowed_range(bits, line, window, signed=signed)
            else:
                found = _stored_range(bits, modality, voi, signed=signed)
            self._insides[key] = found
        return sum(map(found.count, blocks))

    def _through_table(self, values: np.ndarray, bits: int, modality: Modality, voi: Voi) -> NDArray[np.uint8]:
        signed = values.dtype.kind == "i"
        width = 8 if bits <= 8 and values.dtype.itemsize == 1 else 16 if signed else bits
        key = (signed, width, *_transformation_key(modality, voi))
        table = self._tables.get(key)
        if table is None:
            if len(self._tables) >= _MOST_TABLES:  # frames with windows of their own: keep the tables of the latest
                self._tables.clear()
            if modality.table is None and voi.table is None:
                line, window = (modality.slope, modality.intercept), (voi.function, voi.centre, voi.width)
                table = _windowed_table(width, line, window, signed=signed, inverted=self.inverted)
            else:
                table = _map(_all_stored(width, signed=signed), modality, voi, inverted=self.inverted)
            self._tables[key] = table
        if values.dtype == np.uint8 and np.array_equal(table, _IDENTITY):
            return values
        index = values.view(f"u{values.dtype.itemsize}") if signed else values
        if values.dtype.itemsize > 2:
            index = values.astype(np.int16).view(np.uint16) if signed else values
        return look_up(table, index)

    def _is_inverted(self) -> bool:
        """Whether gray is reversed: MONOCHROME1 and Presentation LUT Shape INVERSE are one reversal, not two.

        Where they contradict each other the shape decides, as the last step before P-values (PS3.3 C.11.6).
        """
        first = text_of(self._header, "PhotometricInterpretation") == "MONOCHROME1"
        shape = text_of(self._header, "PresentationLUTShape")
        if shape not in {"IDENTITY", "INVERSE"}:
            return first
        if first != (shape == "INVERSE"):
            self._notes.append(f"{name_of('PresentationLUTShape')} contradicts Photometric Interpretation")
        return shape == "INVERSE"

    def _read_modality(self, item: Dataset) -> Modality:
        if not self._skips_modality_table():
            try:
                table = self._modality_table()
            except (BadGeometry, CorruptPixels) as error:
                self._notes.append(
                    f"{name_of('ModalityLUTSequence')} is damaged: neither it nor a window is applied ({error})"
                )
                return Modality(usable=False)
            if table is not None:
                return Modality(table=table)
        slope, intercept = number_of(item, "RescaleSlope"), number_of(item, "RescaleIntercept")
        if slope is None and intercept is None:
            return Modality()
        slope = 1.0 if slope is None else slope
        intercept = 0.0 if intercept is None else intercept
        if slope == 0 or not math.isfinite(slope) or not math.isfinite(intercept):
            self._notes.append(
                f"{name_of('RescaleSlope')} or {name_of('RescaleIntercept')} is 0 or no number: neither these nor "
                "a window are applied"
            )
            return Modality(usable=False)
        return Modality(slope, intercept)

    def _modality_table(self) -> Table | None:
        """The modality table; None where the instance has none, or one without anything in it."""
        tables = self._items(self._header, "ModalityLUTSequence")
        if not tables:
            return None
        if not holds_table(tables[0]):
            self._notes.append(f"{name_of('ModalityLUTSequence')} holds no table: not applied")
            return None
        return self._table(tables[0])

    def _items(self, dataset: Dataset, keyword: str) -> list[Dataset]:
        """The items of a sequence.

        Raises:
            BadGeometry: The element is there and cannot be read as a sequence.
        """
        items = items_of(dataset, keyword)
        if not items and is_unreadable_sequence(dataset, keyword):
            raise BadGeometry(f"{name_of(keyword)} cannot be read")
        return items

    def _skips_modality_table(self) -> bool:
        """X-ray angiography stores for display: its table leads back to intensities (PS3.3 C.8.7.1.1.2 with C.11.1)."""
        relationship = text_of(self._header, "PixelIntensityRelationship")
        return text_of(self._header, "SOPClassUID") in _XRAY_CLASSES and relationship in {"LOG", "DISP"}

    def _table(self, item: Dataset) -> Table:
        return read_table(
            item, "LUTDescriptor", "LUTData", signed=self._signed, big_endian=self._big_endian, notes=self._notes
        )

    def _voi_table(self, item: Dataset, modality: Modality) -> Table:
        """A VOI table: its first mapped value is one of `modality`'s, so it may be negative though pixels are not.

        Its sign tells, where it is written; without one it is negative where no modality value is as great.
        """
        table = self._table(item)
        if modality.table is not None or table.first <= 0x7FFF:
            return table
        bits = integer_of(self._header, "BitsStored", 16)
        levels = modality(np.array([0, (1 << min(bits, 32)) - 1]))
        below = replace(table, first=table.first - 0x10000)
        written = numbers_of(item, "LUTDescriptor")[1] < 0
        reached = below.first + len(below.entries) > levels.min()
        return below if reached and (written or table.first > levels.max()) else table

    def _read_voi_tables(self, item: Dataset, modality: Modality) -> list[Voi]:
        """The VOI tables that can be used."""
        name = name_of("VOILUTSequence")
        try:
            tables = self._items(item, "VOILUTSequence")
        except BadGeometry as error:
            self._notes.append(f"{error}: not applied")
            return []
        found: list[Voi] = []
        for table in tables:
            if not holds_table(table):
                self._notes.append(f"{name} holds an item without a table: not applied")
                continue
            try:
                found.append(Voi("LUT", table=self._voi_table(table, modality)))
            except (BadGeometry, CorruptPixels) as error:
                self._notes.append(f"{name} holds a damaged table: not applied ({error})")
        return found

    def _read_voi(self, item: Dataset, modality: Modality) -> Voi | None:
        choices = self._read_voi_tables(item, modality)
        centres, widths = numbers_of(item, "WindowCenter"), numbers_of(item, "WindowWidth")
        function = text_of(item, "VOILUTFunction") or "LINEAR"
        if function not in _WINDOWS or function == "automatic":
            self._notes.append(f"{name_of('VOILUTFunction')} is not LINEAR, LINEAR_EXACT or SIGMOID: read as LINEAR")
            function = "LINEAR"
        for centre, width in zip(centres, widths, strict=False):
            usable = self._window(centre, width, function)
            if usable is not None:
                choices.append(usable)
        if not choices:
            return None
        if self._options.voi >= len(choices):
            self._notes.append(f"there are {len(choices)} VOI transformations: the first is used")
            return choices[0]
        return choices[self._options.voi]

    def _window(self, centre: float, width: float, function: str) -> Voi | None:
        if not math.isfinite(centre) or not math.isfinite(width) or width <= 0:
            self._notes.append(f"{name_of('WindowWidth')} must be positive: this window is not applied")
            return None
        if function == "LINEAR" and width < 1:
            self._notes.append(
                f"{name_of('WindowWidth')} is below 1, which LINEAR does not permit: LINEAR_EXACT is used"
            )
            function = "LINEAR_EXACT"
        return Voi(function, centre, width)


def _map(values: np.ndarray, modality: Modality, voi: Voi, *, inverted: bool) -> NDArray[np.uint8]:
    """Display values of stored values, one by one."""
    with np.errstate(all="ignore"):  # floats of the data set may be infinite or no numbers
        shown = voi(modality(values))
        if inverted:
            shown = 1 - shown
        shown = np.nan_to_num(shown, nan=0.0, posinf=1.0, neginf=0.0)
    return np.floor(np.clip(shown, 0, 1) * 255 + 0.5).astype(np.uint8)


def _all_stored(width: int, *, signed: bool) -> np.ndarray:
    """Every stored value of so many bits, in the order of their bits as an unsigned number."""
    stored = np.arange(1 << width, dtype=np.uint8 if width <= 8 else np.uint16)
    return stored.view(np.int8 if width == 8 else np.int16) if signed else stored


@lru_cache(maxsize=_MOST_TABLES)
def _windowed_table(
    width: int, line: tuple[float, float], window: tuple[str, float, float], *, signed: bool, inverted: bool
) -> NDArray[np.uint8]:
    """The table of a window over rescaled values; instances of a series share it."""
    table = _map(_all_stored(width, signed=signed), Modality(*line), Voi(*window), inverted=inverted)
    table.flags.writeable = False
    return table


class _StoredRange:
    """Stored values inside the edges of a VOI transformation: a range, or any set of them."""

    def __init__(self, lowest: int, inside: NDArray[np.bool_]) -> None:
        """A test of stored values from `lowest` on; `inside` holds one truth value for each."""
        self._lowest = lowest
        self._inside = inside
        found = np.flatnonzero(inside)
        self._ends = (lowest + int(found[0]), lowest + int(found[-1])) if found.size else (0, -1)
        self._is_range = found.size == self._ends[1] - self._ends[0] + 1

    def count(self, values: np.ndarray) -> int:
        """Number of values that are inside."""
        low, high = self._ends
        if high < low:
            return 0
        if self._is_range:  # modulo the width of the values, those below the range come to lie above it
            unsigned = values.view(f"u{values.dtype.itemsize}")
            lowest = unsigned.dtype.type(low & np.iinfo(unsigned.dtype).max)
            return int(np.count_nonzero(unsigned - lowest <= unsigned.dtype.type(high - low)))
        return int(np.count_nonzero(self._inside.take(values.astype(np.int64) - self._lowest, mode="clip")))


@lru_cache(maxsize=_MOST_TABLES)
def _windowed_range(
    bits: int, line: tuple[float, float], window: tuple[str, float, float], *, signed: bool
) -> _StoredRange:
    """The stored values inside a window over rescaled values; instances of a series share it."""
    return _stored_range(bits, Modality(*line), Voi(*window), signed=signed)


def _stored_range(bits: int, modality: Modality, voi: Voi, *, signed: bool) -> _StoredRange:
    lowest = -(1 << bits - 1) if signed else 0
    stored = np.arange(lowest, lowest + (1 << bits), dtype=np.int32)
    return _StoredRange(lowest, _inside(stored, modality, voi))


def _inside(values: np.ndarray, modality: Modality, voi: Voi) -> NDArray[np.bool_]:
    low, high = voi.edges
    with np.errstate(all="ignore"):
        found = modality(values)
        inside: NDArray[np.bool_] = (found >= low) & (found <= high)
        return inside


def _transformation_key(modality: Modality, voi: Voi) -> tuple[object, ...]:
    return (modality.slope, modality.intercept, id(modality.table)), (
        voi.function,
        voi.centre,
        voi.width,
        id(voi.table),
    )


def items_of(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent or no sequence."""
    try:
        value = value_of(dataset, keyword)
        return [] if value is None or isinstance(value, bytes | str) else list(value)
    except READING_ERRORS:
        return []


def holds_table(item: Dataset) -> bool:
    """Whether an item of a LUT sequence has a descriptor or data at all; some writers leave it empty."""
    for keyword in ("LUTDescriptor", "LUTData"):
        try:
            if value_of(item, keyword) is not None:
                return True
        except ValueError:
            return True
    return False


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """The first value of an element as a float, NaN where it is no number, None where it is absent."""
    values = numbers_of(dataset, keyword)
    return values[0] if values else None
