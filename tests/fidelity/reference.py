"""The Standard's display pipeline in float64, written apart from the product: header by pydicom, formulas by hand.

Contract: `gray` and `colour` give display values of one frame as float64 in 0 to 255, unrounded. Where the instance
leaves the window open, it is the documented rule of docs/media.md: the full range of up to 8 bits, else the least to
the greatest value of all frames without padding.

Source: PS3.3 C.7.6.3.1.2, C.7.6.3.1.5, C.7.9.2, C.11.1, C.11.2, C.7.6.16.2.9, C.7.6.16.2.10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydicom.dataset import Dataset


@dataclass(frozen=True)
class Window:
    """The VOI transformation of a frame, as found in the header."""

    kind: str
    """``LUT``, ``LINEAR``, ``LINEAR_EXACT``, ``SIGMOID`` or ``automatic``."""
    centre: float = 0.0
    width: float = 0.0
    table: Dataset | None = None


def group_item(header: Dataset, index: int, macro: str) -> Dataset:
    """The functional group item that holds for a frame, else the data set itself."""
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for groups in (frames[index : index + 1], shared[:1]):
        for group in groups:
            if group.get(macro):
                found: Dataset = group[macro][0]
                return found
    return header


def _numbers(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    return [float(v) for v in (value if hasattr(value, "__iter__") and not isinstance(value, str) else [value])]


def modality(header: Dataset, index: int) -> Callable[[np.ndarray], np.ndarray]:
    """Stored values to modality values."""
    table = header.get("ModalityLUTSequence")
    angiography = str(header.get("SOPClassUID", "")).startswith("1.2.840.10008.5.1.4.1.1.12.")
    if table and not (angiography and header.get("PixelIntensityRelationship") in {"LOG", "DISP"}):
        return lambda values: look_up(table[0], values, signed=bool(header.get("PixelRepresentation")))
    item = group_item(header, index, "PixelValueTransformationSequence")
    slope, intercept = _numbers(item.get("RescaleSlope")), _numbers(item.get("RescaleIntercept"))
    return lambda values: values.astype(np.float64) * (slope or [1.0])[0] + (intercept or [0.0])[0]


def look_up(item: Dataset, values: np.ndarray, *, signed: bool) -> np.ndarray:
    """Entries of a table for input values."""
    entries, first, bits = item.LUTDescriptor
    entries = int(entries) % 0x10000 or 0x10000
    if signed and first > 0x7FFF:
        first -= 0x10000
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, np.uint8 if bits == 8 and len(data) < 2 * entries else "<u2")
    table = np.asarray(data, dtype=np.int64)[:entries] & 0xFFFF
    found: np.ndarray = table[np.clip(np.rint(values).astype(np.int64) - int(first), 0, len(table) - 1)].astype(
        np.float64
    )
    return found


def window(header: Dataset, index: int) -> Window:
    """The first VOI transformation of a frame: tables before windows."""
    item = group_item(header, index, "FrameVOILUTSequence")
    if item.get("VOILUTSequence"):
        return Window("LUT", table=item.VOILUTSequence[0])
    function = item.get("VOILUTFunction") or "LINEAR"
    for centre, width in zip(_numbers(item.get("WindowCenter")), _numbers(item.get("WindowWidth")), strict=False):
        if width > 0:
            return Window("LINEAR_EXACT" if function == "LINEAR" and width < 1 else function, centre, width)
    return Window("automatic")


def shown(values: np.ndarray, how: Window, header: Dataset) -> np.ndarray:
    """Modality values to 0 to 1."""
    if how.kind == "LUT" and how.table is not None:
        entries = look_up(how.table, values, signed=bool(header.get("PixelRepresentation")))
        return entries / ((1 << int(how.table.LUTDescriptor[2])) - 1)
    if how.kind == "SIGMOID":
        result: np.ndarray = 1 / (1 + np.exp(np.clip(-4 * (values - how.centre) / how.width, -700, 700)))
        return result
    if how.kind == "LINEAR":
        if how.width == 1:
            return (values > how.centre - 0.5).astype(np.float64)
        return (values - (how.centre - 0.5)) / (how.width - 1) + 0.5
    return (values - how.centre) / how.width + 0.5 if how.width else np.zeros_like(values)


def automatic(header: Dataset, frames: Iterable[tuple[int, np.ndarray]]) -> Window:
    """The window of an instance without one."""
    bits = int(header.BitsStored) if "BitsStored" in header else int(header.BitsAllocated)
    signed = bool(header.get("PixelRepresentation"))
    lows, highs = [], []
    for index, values in frames:
        extremes = values
        if values.dtype.kind in "iu" and bits <= 8:
            extremes = np.array([-(1 << bits - 1), (1 << bits - 1) - 1] if signed else [0, (1 << bits) - 1])
        elif values.dtype.kind == "f":
            extremes = values[np.isfinite(values)]
        elif "PixelPaddingValue" in header:
            first = int(header.PixelPaddingValue)
            low, high = sorted((first, int(header.get("PixelPaddingRangeLimit", first))))
            kept = values[(values < low) | (values > high)]
            extremes = kept if kept.size else values
        levels = modality(header, index)(np.array([extremes.min(), extremes.max()]))
        lows.append(levels.min())
        highs.append(levels.max())
    low, high = min(lows), max(highs)
    return Window("automatic", (low + high) / 2, high - low)


def gray(values: np.ndarray, header: Dataset, index: int, how: Window) -> np.ndarray:
    """Display values of a gray frame, 0 to 255."""
    with np.errstate(all="ignore"):
        levels = np.nan_to_num(np.clip(shown(modality(header, index)(values), how, header), 0, 1))
    shape = header.get("PresentationLUTShape")
    inverse = shape == "INVERSE" if shape else header.PhotometricInterpretation == "MONOCHROME1"
    values_shown: np.ndarray = 255 * (1 - levels if inverse else levels)
    return values_shown


def rgb(values: np.ndarray, space: str, bits: int) -> np.ndarray:
    """RGB of colour samples, 0 to 255."""
    samples = values.astype(np.float64) * 255 / ((1 << bits) - 1)
    if not space.startswith("YBR") or space in {"YBR_RCT", "YBR_ICT"}:
        return samples
    luma, blue, red = samples[..., 0], samples[..., 1] - 128, samples[..., 2] - 128
    scale = 1.0
    if space.startswith("YBR_PARTIAL"):
        luma, scale = (luma - 16) * 255 / 219, 255 / 224
    # ITU-R BT.601: Kr 0.299, Kb 0.114.
    r = luma + 2 * (1 - 0.299) * scale * red
    b = luma + 2 * (1 - 0.114) * scale * blue
    g = (luma - 0.299 * r - 0.114 * b) / 0.587
    return np.clip(np.stack([r, g, b], axis=-1), 0, 255)


def palette(values: np.ndarray, header: Dataset) -> np.ndarray:
    """RGB of palette indices, 0 to 255."""
    signed = bool(header.get("PixelRepresentation"))
    channels, tops = [], []
    for colour in ("Red", "Green", "Blue"):
        entries, first, bits = header[f"{colour}PaletteColorLookupTableDescriptor"].value
        entries = int(entries) % 0x10000 or 0x10000
        if signed and first > 0x7FFF:
            first -= 0x10000
        table = _palette_data(header, colour, entries, int(bits))
        channels.append(table[np.clip(values.astype(np.int64) - int(first), 0, entries - 1)].astype(np.float64))
        tops.append((int(table.max()), int(bits)))
    # Tables that say 16 bits and hold nothing above 255 are tables of 8 bits.
    bits = 8 if all(top <= 0xFF for top, _ in tops) else max(bits for _, bits in tops)
    return np.stack(channels, axis=-1) * 255 / ((1 << bits) - 1)


def _palette_data(header: Dataset, colour: str, entries: int, bits: int) -> np.ndarray:
    data = header.get(f"{colour}PaletteColorLookupTableData")
    order = ">u2" if header.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.2" else "<u2"
    if data is not None:
        if bits == 8 and len(data) < 2 * entries:
            data = np.frombuffer(data, order).astype("<u2").tobytes()
            return np.frombuffer(data, np.uint8)[:entries]
        return np.frombuffer(data, order)[:entries]
    words = np.frombuffer(header[f"Segmented{colour}PaletteColorLookupTableData"].value, order).tolist()
    from pydicom.pixels.processing import _expand_segmented_lut

    return np.asarray(_expand_segmented_lut(words, "<" + "H" * len(words)))[:entries]
