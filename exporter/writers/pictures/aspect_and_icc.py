"""Pixel shape and colour profile of a picture, in the form that files state them.

Contract: gives None for what is absent, implausible or of no consequence; never alters a profile.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from exporter.frames import Frames

_MOST_ICC_BYTES: Final = 4 << 20
_MOST_RATIO: Final = 20


def pixel_aspect(frames: Frames) -> tuple[int, int] | None:
    """Vertical and horizontal size of a pixel as two small integers, or None for square (or unknown) pixels."""
    value = frames.pixel_aspect_ratio
    if not math.isfinite(value) or not 1 / _MOST_RATIO <= value <= _MOST_RATIO or abs(value - 1) < 0.002:
        return None
    ratio = Fraction(value).limit_denominator(1000)
    return None if ratio <= 0 or ratio == 1 else (ratio.numerator, ratio.denominator)


def icc_profile(frames: Frames, *, gray: bool) -> bytes | None:
    """The ICC profile of the pixels, where its colour space is that of the picture (ICC.1 7.2.6)."""
    profile = frames.icc_profile
    if profile is None or len(profile) > _MOST_ICC_BYTES:
        return None
    return profile if profile[16:20] == (b"GRAY" if gray else b"RGB ") else None
