"""Sizes of file systems, asked in threads: a disk or a server that does not answer holds up nobody.

Contract: one question at a time for each folder, however often somebody asks; a folder whose question is still open
after `ANSWER_S` counts as one that does not answer, at once, until it does.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ANSWER_S: Final = 1.0


class DiskSize(NamedTuple):
    """One file system."""

    device: int
    free_bytes: int
    total_bytes: int


class _Question:
    """A question to the file system of one folder, under way or answered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked_at = time.monotonic()
        self.size: DiskSize | None = None
        self._thread = threading.Thread(target=self._ask, name="disk", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            device, found = os.stat(self._path).st_dev, os.statvfs(self._path)  # noqa: PTH116 - beside statvfs
        except OSError:  # it is not there: that is an answer
            return
        self.size = DiskSize(device, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)

    def is_answered(self) -> bool:
        """Whether there is an answer, at the latest `ANSWER_S` after the question."""
        self._thread.join(max(0.0, self._asked_at + ANSWER_S - time.monotonic()))
        return not self._thread.is_alive()


class DiskQuestions:
    """Questions to file systems, at most one open for each folder."""

    def __init__(self) -> None:
        self._open: dict[Path, _Question] = {}
        self._lock = threading.Lock()

    def ask(self, paths: Iterable[Path]) -> tuple[dict[Path, DiskSize], set[Path]]:
        """Sizes of the file systems of folders that are there, and the folders whose file system does not answer."""
        with self._lock:
            questions = {path: self._open.get(path) or _Question(path) for path in dict.fromkeys(paths)}
            self._open |= questions
        sizes: dict[Path, DiskSize] = {}
        silent: set[Path] = set()
        for path, question in questions.items():
            if not question.is_answered():
                silent.add(path)
                continue
            with self._lock:
                if self._open.get(path) is question:
                    del self._open[path]
            if question.size is not None:
                sizes[path] = question.size
        return sizes, silent
