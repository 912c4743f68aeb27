"""A hint that names have come into a folder, from the kernel (inotify(7)): a look at the folder stays the truth.

Contract: `ring` is called soon after a file was moved into the folder, at most every `PAUSE_S`; one call may stand for
many files. There may be no hint at all (a network file system, no watch left, a folder that was replaced).

Must never: raise into the caller because there is no hint.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAUSE_S: Final = 0.01
_IN_MOVED_TO: Final = 0x80
_CHUNK: Final = 1 << 16


class ArrivalsHint:
    """Calls a function, from a thread of its own, when something arrives in a folder."""

    def __init__(self, folder: Path, ring: Callable[[], None]) -> None:
        self._folder = folder
        self._ring = ring
        self._stop = threading.Event()
        self._wake, self._woken = -1, -1
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Begin to watch, where the system permits it."""
        with suppress(OSError):
            events = _watch(self._folder)
            self._woken, self._wake = os.pipe()
            self._thread = threading.Thread(target=self._listen, args=(events,), name="arrivals", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Watch no more."""
        if self._thread is not None:
            self._stop.set()
            os.write(self._wake, b".")
            self._thread.join()
            os.close(self._wake)
            os.close(self._woken)

    def _listen(self, events: int) -> None:
        poll = select.poll()
        poll.register(events, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        try:
            while not self._stop.is_set():
                poll.poll()
                with suppress(BlockingIOError):
                    os.read(events, _CHUNK)
                self._ring()
                self._stop.wait(PAUSE_S)  # in a flood, one hint for all that came meanwhile
        finally:
            os.close(events)


def _watch(folder: Path) -> int:
    """A descriptor that is readable when a file was moved into a folder.

    Raises:
        OSError: The system has no watch for it.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    if libc.inotify_add_watch(descriptor, os.fsencode(folder), _IN_MOVED_TO) < 0:
        os.close(descriptor)
        raise OSError(ctypes.get_errno(), "inotify_add_watch")
    return int(descriptor)
