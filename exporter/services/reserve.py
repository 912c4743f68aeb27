"""Space that is kept so that a full disk does not stop what must still be written: the ledger's last words, quarantine.

A disk that fills up stops writing where it is least wanted: the outcome of an instance cannot be committed, an instance
that failed cannot be moved to quarantine with its report. So some space and some inodes are taken in good times, as
files in a folder of their own, and given up when one of these writes meets a full disk. As much as the ledger's log
grows to (16 MiB) is also enough to move that log into the database, which frees more than it takes.

Contract: `release` gives up everything at once and says whether there was anything; `fill` makes whole again what can
be, a while after the last release at the earliest: at once, it would take what was just given. Safe for many threads.
Must never: raise for a disk that is full or broken, or hold content.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

FILES: Final = 16
"""So many files share the space: each gives up an inode as well."""
REST_S: Final = 10.0
"""Time after a release in which nothing is taken again."""


class DiskReserve:
    """The reserve on one file system."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        """Nothing is taken before `fill`.

        Args:
            folder: Its folder; made, and private.
            size_bytes: How much to keep; 0 keeps nothing and gives up what an earlier run kept.
        """
        self._folder = folder
        self._each = -(-size_bytes // FILES)
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._is_whole = False

    def fill(self) -> bool:
        """Take what is missing; whether the reserve is whole now."""
        with self._lock:
            if self._each == 0:
                self._drop()
                return True
            if not self._is_whole and time.monotonic() >= self._not_before:
                self._is_whole = self._take()
            return self._is_whole

    def release(self) -> bool:
        """Give up all of it; whether there was anything to give."""
        with self._lock:
            self._is_whole = False
            self._not_before = time.monotonic() + REST_S
            return self._drop()

    def _take(self) -> bool:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for number in range(FILES):
                _allocate(self._folder / f"{number:02}", self._each)
        except OSError:
            return False
        return True

    def _drop(self) -> bool:
        dropped = False
        for number in range(FILES):
            with suppress(OSError):
                (self._folder / f"{number:02}").unlink()
                dropped = True
        return dropped


def _allocate(path: Path, size_bytes: int) -> None:
    """Make the file, with space of its own behind every byte (posix_fallocate(3)); none is left half-made."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_blocks * 512 < size_bytes:
            os.posix_fallocate(fd, 0, size_bytes)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)
