"""Which SOP classes are storage, and which transfer syntax of a proposal is taken (PS3.4 B.5, PS3.5 10, PS3.6 Annex A).

Contract: everything that is not known to be another service counts as storage: private, retired and future classes
too. No transfer syntax is refused; the one that lets a sender send what it has, unchanged, is preferred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VERIFICATION: Final = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_PUSH: Final = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""The well-known SOP instance of storage commitment, push model (PS3.4 J.3.5)."""

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
REFERENCED: Final = (
    "1.2.840.10008.1.2.4.94",
    "1.2.840.10008.1.2.4.95",
    "1.2.840.10008.1.2.4.204",
    "1.2.840.10008.1.2.4.205",
)
"""JPIP: the data set holds an address instead of pixels."""

_STANDARD: Final = "1.2.840.10008."
_STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
_OTHER_STORAGE: Final = frozenset(
    "1.2.840.10008.5.1." + end
    for end in (
        *("1.27", "1.29", "1.30"),  # print and hard copy storage, retired
        *("4.34.1", "4.34.7", "4.34.10"),  # radiotherapy delivery
        *("4.38.1", "4.39.1", "4.43.1", "4.44.1", "4.45.1"),  # hanging protocol, colour palette, implant templates
    )
)
"""Storage classes outside the usual root (PS3.6 Annex A)."""
_NOT_STORAGE: Final = frozenset(
    _STORAGE_ROOT + end for end in ("200.4", "200.5", "200.6", "201.2", "201.3", "201.4", "201.5", "201.6")
)
"""Query and retrieve of protocols and inventories, below the storage root (PS3.6 A)."""


def is_storage(sop_class_uid: str) -> bool:
    """Whether a class is stored here: any that is not a known other service of the Standard."""
    if not sop_class_uid.startswith(_STANDARD):
        return True
    if sop_class_uid.startswith(_STORAGE_ROOT):
        return sop_class_uid not in _NOT_STORAGE
    return sop_class_uid in _OTHER_STORAGE


def choose(transfer_syntaxes: tuple[str, ...]) -> str:
    """The transfer syntax to take: compressed and video first, then little endian, in the requestor's order."""
    return min(transfer_syntaxes, key=_rank)


def _rank(uid: str) -> int:
    if uid == EXPLICIT_LITTLE:
        return 1
    if uid == IMPLICIT_LITTLE:
        return 2
    if uid == DEFLATED:
        return 3
    if uid == EXPLICIT_BIG:
        return 4
    if uid in REFERENCED:
        return 6
    return 0 if uid.startswith("1.2.840.10008.1.2.") else 5


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the elements of a data set are encoded (PS3.5 Annex A)."""

    explicit_vr: bool
    little_endian: bool


def encoding_of(transfer_syntax: str) -> Encoding | None:
    """The encoding of a data set; None where it is deflated or not of the Standard."""
    if transfer_syntax == IMPLICIT_LITTLE:
        return Encoding(explicit_vr=False, little_endian=True)
    if transfer_syntax == EXPLICIT_BIG:
        return Encoding(explicit_vr=True, little_endian=False)
    if transfer_syntax in (DEFLATED, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"):
        return None
    return Encoding(explicit_vr=True, little_endian=True) if transfer_syntax.startswith("1.2.840.10008.1.2.") else None
