"""Colour samples to 8-bit RGB.

Contract: `to_rgb` returns ``(rows, columns, 3)`` uint8 for every colour space that is not a palette, or raises. Results
are rounded to the nearest value and clipped.

Source: PS3.3 C.7.6.3.1.2 (YBR_FULL, YBR_PARTIAL_422: ITU-R BT.601), T.871 7 (JFIF).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from exporter.errors import UnsupportedSyntax
from exporter.frames.take_lut import look_up

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK: Final = 1 << 18
"""Pixels that are converted at once: their floats stay in the processor's cache."""

# Rows: R, G, B; columns: Y, Cb - 128, Cr - 128.
_FULL: Final = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
_PARTIAL: Final = ((1.164384, 0.0, 1.596027), (1.164384, -0.391762, -0.812968), (1.164384, 2.017232, 0.0))


def to_rgb(values: np.ndarray, colour: str, bits: int) -> NDArray[np.uint8]:
    """RGB of one frame of colour samples.

    Args:
        values: ``(rows, columns, 3)``, unsigned.
        colour: ``RGB``, ``YBR_FULL``, ``YBR_PARTIAL_*``; ``YBR_ICT`` and ``YBR_RCT`` were inverted by their codec.
        bits: Bits per sample.
    """
    if colour in {"RGB", "YBR_ICT", "YBR_RCT"}:
        return scaled_to_8_bits(values, bits)
    if colour == "YBR_FULL":
        return _from_ybr(scaled_to_8_bits(values, bits), _FULL, 0.0)
    if colour.startswith("YBR_PARTIAL"):
        return _from_ybr(scaled_to_8_bits(values, bits), _PARTIAL, 16.0)
    raise UnsupportedSyntax(f"(0028,0004) Photometric Interpretation {colour[:16]!r} is not converted to RGB")


def scaled_to_8_bits(values: np.ndarray, bits: int) -> NDArray[np.uint8]:
    """Values of `bits` bits, scaled so that the greatest of them becomes 255."""
    if bits == 8 and values.dtype == np.uint8:
        return values
    top = (1 << bits) - 1
    if bits <= 16:
        table = ((np.arange(top + 1, dtype=np.uint32) * 255 + top // 2) // top).astype(np.uint8)
        return look_up(table, np.clip(values, 0, top))
    scaled = np.empty(values.shape, np.uint8)
    step = max(1, _BLOCK // values.shape[1])
    for row in range(0, values.shape[0], step):
        block = np.clip(values[row : row + step], 0, top).astype(np.float64)
        scaled[row : row + step] = np.rint(block * (255.0 / top))
    return scaled


def _from_ybr(values: NDArray[np.uint8], matrix: tuple[tuple[float, ...], ...], black: float) -> NDArray[np.uint8]:
    rows, columns = values.shape[:2]
    rgb = np.empty((rows, columns, 3), np.uint8)
    step = max(1, _BLOCK // columns)
    for top in range(0, rows, step):
        block = values[top : top + step].astype(np.float32)
        luma = block[..., 0] - np.float32(black)
        blue, red = block[..., 1] - np.float32(128), block[..., 2] - np.float32(128)
        for channel, (of_luma, of_blue, of_red) in enumerate(matrix):
            mixed = luma * np.float32(of_luma)
            if of_blue:
                mixed += blue * np.float32(of_blue)
            if of_red:
                mixed += red * np.float32(of_red)
            np.rint(mixed, out=mixed)
            np.clip(mixed, 0, 255, out=mixed)
            rgb[top : top + step, :, channel] = mixed
    return rgb
