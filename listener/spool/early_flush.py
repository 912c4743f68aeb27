"""Flushing of large files while they are still being received, so that little is left to flush at their end.

Contract: `Flusher.ask` returns at once; one thread flushes one file after another, each through an open file
description of its own. Nobody relies on what it makes durable: the commit syncs the whole file again, and then asks
`EarlyFlush.check`. (Since Linux 4.13 the kernel tells an error once to each open file description, fsync(2), so that
the commit's own sync meets it too; older ones tell it once, to whoever asks first.)

Must never: keep a receiver waiting while its file arrives, or lose an error.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class EarlyFlush:
    """The flushes of one file."""

    __slots__ = ("_error", "_is_over", "_under_way", "is_pending", "path")

    def __init__(self, path: Path) -> None:
        """Of the file at `path`, for as long as it is there."""
        self.path = path
        self.is_pending = False
        self._under_way = threading.Lock()
        self._error: OSError | None = None
        self._is_over = False

    def run(self) -> None:
        """Flush what was written up to now."""
        self.is_pending = False  # what is written from now on may be asked for again
        with self._under_way:
            if self._is_over:
                return
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                return  # given up meanwhile; or not to be had now: nothing was flushed, nothing is lost
            try:
                os.fdatasync(fd)
            except OSError as error:
                self._error = error
            finally:
                os.close(fd)

    def check(self) -> None:
        """The end of it: make sure that no flush has met an error, not the one under way either; none begins any more.

        Raises:
            OSError: One has; what was written before it may be lost, and no later sync brings it back.
        """
        with self._under_way:
            self._is_over = True
            if self._error is not None:
                raise self._error


class Flusher:
    """The thread; it starts when the first file asks."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[EarlyFlush | None] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def request_flush(self, file: EarlyFlush) -> bool:
        """Flush a file soon; False where that is asked for already, or there is no thread to be had."""
        if file.is_pending or not self._is_running():
            return False
        file.is_pending = True
        self._asked.put(file)
        return True

    def close(self) -> None:
        """End the thread, once what it does is done."""
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join()

    def _is_running(self) -> bool:
        if self._thread is None:
            with self._starting, suppress(RuntimeError):  # as many threads as there may be
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="early-flush", daemon=True)
                    thread.start()
                    self._thread = thread
        return self._thread is not None

    def _run(self) -> None:
        while (file := self._asked.get()) is not None:
            file.run()
