"""Whether there is room for more: free space, free inodes and the length of the queue, with hysteresis.

Contract: `SpaceGuard.look` measures; `state` says what follows until the next look. Once low, it stays low until free
space reaches the upper mark, so that senders do not meet a service that changes its mind with every instance.
"""

from __future__ import annotations

import os
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from listener.settings import SpoolSection


class Room(IntEnum):
    """How much room there is, from enough to none."""

    ENOUGH = 0
    REFUSE_INSTANCES = 1
    """Instances are refused with 0xA700."""
    REJECT_ASSOCIATIONS = 2
    """Associations are rejected as transient as well."""


class SpaceGuard:
    """Watches the file system of the spool."""

    def __init__(self, root: Path, settings: SpoolSection) -> None:
        self._root = root
        self._settings = settings
        self.state = Room.ENOUGH
        self.queue_full = False
        self.free_bytes = 0

    def look(self, pending: int | None = None) -> Room:
        """Measure, and say what follows.

        Args:
            pending: Items waiting for export, where the caller knows.
        """
        marks = self._settings
        found = os.statvfs(self._root)
        self.free_bytes = found.f_bavail * found.f_frsize
        was = self.state
        if self.free_bytes < marks.reject_below_bytes:
            self.state = Room.REJECT_ASSOCIATIONS
        elif self.free_bytes < marks.refuse_below_bytes:
            self.state = max(was, Room.REFUSE_INSTANCES)
        elif self.free_bytes < marks.resume_above_bytes:
            self.state = min(was, Room.REFUSE_INSTANCES)
        else:
            self.state = Room.ENOUGH
        # File systems without a table of inodes report none at all.
        if found.f_files > 0 and found.f_favail < marks.refuse_below_files:
            self.state = max(self.state, Room.REFUSE_INSTANCES)
        if pending is not None:
            self.queue_full = pending >= marks.max_pending
        return self.state
