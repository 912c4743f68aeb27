"""Reserved disk space, released when a full disk would stop a necessary write: to the ledger, or into quarantine.

On a full disk the outcome of an instance could not be committed, and a failed instance could not be moved to quarantine
with its report. So some space and some inodes are allocated while there are enough, as files in a folder of their own,
and freed when one of these writes meets a full disk. The size that the ledger's write-ahead log grows to (16 MiB) is
also enough to move that log into the database, which frees more than it takes.

Contract: `release` frees the whole reserve at once; `fill` allocates the missing part, but not within `REST_S` of a
release, since it would take the space that was just freed. Safe for many threads.
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
"""Number of files that share the space; each frees an inode as well."""
REST_S: Final = 10.0
"""Time after a release before the reserve is allocated again."""


class DiskReserve:
    """The reserve on one file system."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        """Allocate nothing yet: `fill` does.

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
        """Allocate the missing part, where the disk permits.

        Returns:
            Whether the reserve is whole.
        """
        with self._lock:
            if self._each == 0:
                self._drop()
                return True
            if not self._is_whole and time.monotonic() >= self._not_before:
                self._is_whole = self._take()
            return self._is_whole

    def release(self) -> bool:
        """Free the whole reserve.

        Returns:
            Whether anything was freed.
        """
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
    """Create the file with disk blocks for every byte (posix_fallocate(3)); no incomplete file is left behind."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_blocks * 512 < size_bytes:
            os.posix_fallocate(fd, 0, size_bytes)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)
