"""The darkest stored value of each colour space: what hidden pixels become.

Contract: `black_of` returns one value per sample that depends on the header alone, and for floats on kept pixels too,
never on hidden ones. What display makes of it is black wherever the instance's own transformation is monotonous.

Source: PS3.3 C.7.6.3.1.2 (photometric interpretations), C.7.5.1.1.2 (pixel padding).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.dicom.elements import text_of
from exporter.frames.display import number_of
from exporter.frames.palette import read_palette

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.dicom.pixels import PixelDescription
    from exporter.frames.reader import Samples
    from exporter.privacy.pixels.area import KeptArea


def black_of(samples: Samples, instance: Instance, pixels: PixelDescription, area: KeptArea) -> Any:
    """The value of hidden pixels: one number, or one per sample of a colour.

    Raises:
        BadGeometry: The palette's descriptors make no sense.
        CorruptPixels: The palette is incomplete.
    """
    values = samples.values
    if values.dtype.kind == "f":
        return _darkest_kept(values, area, inverted=_is_inverted(instance))
    if samples.colour == "PALETTE COLOR":
        return _darkest_index(instance, pixels, _range(values, samples.bits))
    if values.ndim == 3:
        return _black_colour(samples.colour, samples.bits)
    return _darkest_gray(instance, pixels, _range(values, samples.bits))


def _range(values: NDArray[Any], bits: int) -> tuple[int, int]:
    """Least and greatest stored value."""
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if values.dtype.kind == "i" else (0, (1 << bits) - 1)


def _black_colour(colour: str, bits: int) -> tuple[int, int, int]:
    """Black of a colour space; ICT and RCT are RGB when they are decoded."""
    middle = 1 << bits - 1
    if colour == "YBR_FULL":
        return 0, middle, middle
    if colour.startswith("YBR_PARTIAL"):
        return (16 << bits) >> 8, middle, middle
    return 0, 0, 0


def _is_inverted(instance: Instance) -> bool:
    """Whether great stored values are dark: MONOCHROME1 or an inverse presentation, and once more a falling slope."""
    shape = text_of(instance.source_header, "PresentationLUTShape")
    first = text_of(instance.source_header, "PhotometricInterpretation").upper() == "MONOCHROME1"
    inverted = shape == "INVERSE" if shape in {"IDENTITY", "INVERSE"} else first
    slope = number_of(instance.source_header, "RescaleSlope")
    return inverted != (slope is not None and slope < 0)


def _darkest_gray(instance: Instance, pixels: PixelDescription, limits: tuple[int, int]) -> int:
    """The dark end of the range; of more than 8 bits the padding value, where it lies in the dark half.

    Padding is what windows are not computed from: a value at the end of 16 bits would wash the rest out.
    """
    low, high = limits
    inverted = _is_inverted(instance)
    padding = number_of(instance.source_header, "PixelPaddingValue")
    if pixels.bits_stored > 8 and padding is not None and padding == padding // 1:
        value = int(padding)
        if pixels.signed and value > high:  # written as if unsigned
            value -= 1 << pixels.bits_allocated
        middle = (low + high + 1) // 2
        if low <= value <= high and (value >= middle if inverted else value <= middle):
            return value
    return high if inverted else low


def _darkest_index(instance: Instance, pixels: PixelDescription, limits: tuple[int, int]) -> int:
    """The first of the indices with the least light (luminance of ITU-R BT.601) that a pixel can have."""
    palette = read_palette(instance.source_header, signed=pixels.signed, big_endian=instance.big_endian, notes=[])
    low, high = max(limits[0], palette.first), min(limits[1], palette.last)
    if high < low:  # no pixel reaches the palette: all have its first or its last colour
        return limits[0]
    colours = palette.colours[low - palette.first : high - palette.first + 1].astype(np.int64)
    return low + int(np.argmin(colours @ np.array([299, 587, 114])))


def _darkest_kept(values: NDArray[Any], area: KeptArea, *, inverted: bool) -> float:
    """The darkest finite value among the kept ones; 0 where there is none."""
    kept = values[area.mask()]
    kept = kept[np.isfinite(kept)]
    if not kept.size:
        return 0.0
    return float(kept.max() if inverted else kept.min())
