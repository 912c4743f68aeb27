"""Batches as child processes of this one, several at once: the reference that every engine is compared with."""

from __future__ import annotations

import os
import signal
from collections import deque
from typing import TYPE_CHECKING, Final

from listener.foundation.processes import ChildProcess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GRACE_S: Final = 30.0
"""Time that a batch gets to end after SIGTERM."""


class ProcessesEngine:
    """A `BatchEngine` of child processes; they end with this process."""

    def __init__(self, output: Path, at_once: int, workers: int = 1) -> None:
        """Run up to `at_once` batches of the plan in `output` at once, each with `workers` workers."""
        self._output = output
        self._at_once = at_once
        self._arguments = ("batch", "run", os.fspath(output), "--workers", str(workers))
        self._waiting: deque[int] = deque()
        self._running: dict[int, ChildProcess] = {}

    def submit(self, batches: Sequence[int]) -> None:
        """See `BatchEngine`."""
        self._waiting.extend(batches)
        self.alive()

    def alive(self) -> frozenset[int]:
        """See `BatchEngine`; starts batches in the place of those that have ended."""
        for number, child in list(self._running.items()):
            if child.exit_code() is not None:
                child.end()
                del self._running[number]
        while self._waiting and len(self._running) < self._at_once:
            number = self._waiting.popleft()
            self._running[number] = self._started(number)
        return frozenset((*self._waiting, *self._running))

    def cancel(self) -> None:
        """See `BatchEngine`."""
        self._waiting.clear()
        for child in self._running.values():
            child.send_signal(signal.SIGTERM)
        for child in self._running.values():
            child.end(GRACE_S)
        self._running.clear()

    def _started(self, number: int) -> ChildProcess:
        child = ChildProcess("exporter", *self._arguments)
        log = self._output / "batches" / f"log-{number}"
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            child.start(str(number), prints_to=descriptor)
        finally:
            os.close(descriptor)
        return child
