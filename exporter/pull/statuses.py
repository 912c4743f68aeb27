"""Consequences of the final status of C-FIND, C-MOVE and C-GET: one table (PS3.4 C.4.1.1.4, C.4.2.1.5, C.4.3.1.4).

Contract: what follows from a status is decided here and nowhere else.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Verdict(Enum):
    """Consequence of a status."""

    PENDING = "pending"
    """Not the final one."""
    DONE = "done"
    AGAIN = "again"
    """May pass: worth another attempt."""
    NEVER = "never"
    """A repeated request will be refused again."""
    DESTINATION = "destination"
    """The peer does not know where to move to: no request of this run can succeed."""


SUCCESS: Final = 0x0000
_PENDING: Final = frozenset({0xFF00, 0xFF01})
_NEVER: Final = {
    0x0122: "it does not support this SOP class",
    0x0124: "we are not authorized",
    0xA900: "it takes the keys for wrong at this level",
}
_AGAIN: Final = {
    0x0110: "processing failed",
    0xA700: "out of resources",
    0xA701: "out of resources, matches cannot be counted",
    0xA702: "out of resources, instances cannot be sent",
    0xB000: "not all instances could be sent",
    0xFE00: "cancelled",
}
_DESTINATION: Final = 0xA801


def verdict(status: int) -> Verdict:
    """Consequence of a status; an unknown status is worth another attempt."""
    if status in _PENDING:
        return Verdict.PENDING
    if status == SUCCESS:
        return Verdict.DONE
    if status == _DESTINATION:
        return Verdict.DESTINATION
    return Verdict.NEVER if status in _NEVER or 0x0111 <= status <= 0x0213 else Verdict.AGAIN


def words(status: int) -> str:
    """A status for a message: its number and what it means."""
    if status == _DESTINATION:
        return "0xA801 (move destination unknown)"
    meaning = _NEVER.get(status) or _AGAIN.get(status) or ("unable to process" if status >> 12 == 0xC else "")
    return f"0x{status:04X}" + (f" ({meaning})" if meaning else "")
