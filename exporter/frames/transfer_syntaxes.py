"""Transfer syntaxes that can hold pixel data, and how each is read: a table with its sources.

Contract: `family_of` is total; a UID that is not in the table is `UNKNOWN`, never an error.

Source: PS3.5 clause 10 and annex A; PS3.6 table A-1.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from exporter.dicom.structure import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, GE_PRIVATE_BE, IMPLICIT_LE


class Family(Enum):
    """Ways of reading the pixel data of a transfer syntax."""

    NATIVE = auto()
    CODESTREAM = auto()
    """JPEG, JPEG-LS, JPEG 2000, HTJ2K, JPEG XL: the bytes say which."""
    RLE = auto()
    ENCAPSULATED_NATIVE = auto()
    DEFLATED_FRAMES = auto()
    VIDEO = auto()
    ELSEWHERE = auto()
    """JPIP, SMPTE ST 2110: the pixels are not in the instance."""
    UNSUPPORTED = auto()
    UNKNOWN = auto()


_ROOT: Final = "1.2.840.10008.1.2"
_CODESTREAM: Final = (50, 51, 52, 53, 54, 55, 56, 57, 58, 70, 80, 81, 90, 91, 201, 202, 203, 110, 111, 112)
_VIDEO: Final = (*(f"10{n}{form}" for n in range(7) for form in ("", ".1")), "107", "108")
# Hierarchical JPEG (retired) and JPEG 2000 part 2 multi-component transforms: known, no decoder here.
_UNSUPPORTED: Final = (59, 60, 61, 62, 63, 64, 65, 66, 92, 93)
_ELSEWHERE: Final = (94, 95, 204, 205)

_FAMILIES: Final[dict[str, Family]] = {
    **dict.fromkeys((IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, GE_PRIVATE_BE), Family.NATIVE),
    **{f"{_ROOT}.4.{tail}": Family.CODESTREAM for tail in _CODESTREAM},
    **{f"{_ROOT}.4.{tail}": Family.VIDEO for tail in _VIDEO},
    **{f"{_ROOT}.4.{tail}": Family.UNSUPPORTED for tail in _UNSUPPORTED},
    **{f"{_ROOT}.4.{tail}": Family.ELSEWHERE for tail in _ELSEWHERE},
    **{f"{_ROOT}.7.{tail}": Family.ELSEWHERE for tail in "123"},
    f"{_ROOT}.5": Family.RLE,
    f"{_ROOT}.1.98": Family.ENCAPSULATED_NATIVE,
    f"{_ROOT}.8.1": Family.DEFLATED_FRAMES,
}


def family_of(uid: str) -> Family:
    """The way of reading pixel data in the transfer syntax `uid`."""
    return _FAMILIES.get(uid, Family.UNKNOWN)
