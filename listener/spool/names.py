"""Names in a spool: of its folders, its lock files, and its items, which are made here and never from the wire."""

from __future__ import annotations

import random
import re
import threading
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = re.compile(r"[0-9]{20}-[0-9a-f]{16}\.dcm")
"""Time of arrival in nanoseconds, the mark of the process that received it, 48 random bits: sorted by arrival."""
TIME_DIGITS: Final = 20
MARK_BITS: Final = 16


class SpoolState(StrEnum):
    """The state of an item; the value is the name of the folder that it is in."""

    RECEIVING = "tmp"
    NEW = "new"
    """Committed: waits for export."""
    ACTIVE = "active"
    """The exporter works on it."""
    DONE = "done"
    """Exported, and kept for a while."""
    QUARANTINE = "quarantine"
    """In a sub-folder that is named after the reason."""


def lock_file(root: Path, role: str) -> Path:
    """The file by which one process holds the spool for its role (``listener``, ``exporter``, ``pull``)."""
    return root / f"{role}.lock"


def received_at(name: str) -> int:
    """The time of arrival that is in an item's name, in nanoseconds since 1970."""
    return int(name[:TIME_DIGITS])


def is_of(mark: int, name: str) -> bool:
    """Whether a process with this mark made the name."""
    return name[TIME_DIGITS + 1 : TIME_DIGITS + 5] == f"{mark:04x}"


class SpoolNames:
    """Names in strictly rising order, also when the clock is set back while we run."""

    def __init__(self, mark: int | None = None) -> None:
        """Names of a process; the processes of one listener have marks that they do not share."""
        self._lock = threading.Lock()
        self._last_ns = 0
        # Against other processes that make a name in the same nanosecond, not against guessing: folders are private.
        self._chance = random.Random().getrandbits  # noqa: S311
        self.mark = self._chance(MARK_BITS) if mark is None else mark
        self._mark = f"{self.mark:04x}"

    def make(self) -> str:
        """A new name."""
        return f"{self._now():020d}-{self._mark}{self._chance(48):012x}.dcm"

    def renew(self, name: str) -> str:
        """The same name at the present time."""
        return f"{self._now():020d}{name[TIME_DIGITS:]}"

    def _now(self) -> int:
        with self._lock:
            self._last_ns = max(time.time_ns(), self._last_ns + 1)
            return self._last_ns
