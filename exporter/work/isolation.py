"""Suspects: instances that were under way at several crashes of the exporter, tried again with nothing else under way.

Contract: an attempt that was interrupted by the end of the exporter (kill -9, a power cut) says nothing about its
instance, which is tried again among the others, `TOGETHER` times. An instance that was under way at every one of these
ends is a suspect. It waits until the exporter has run for a while without it, longer each time, and then gets an
exclusive lease (`exporter.work.scheduling`), which lasts until its outcome is committed. It fails after `ALONE`
interruptions of such exclusive attempts in a row, with none in between while other instances were under way. An
exporter that is killed soon after every start never runs long enough to try a suspect, so a sound instance does not
fail for that. An instance that really crashes every exporter fails after the last attempt, and then crashes no more.

Must never: keep an instance from an attempt for good.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from exporter.results.ledger.types import SUSPECT_AFTER

if TYPE_CHECKING:
    from collections.abc import Mapping

TOGETHER: Final = SUSPECT_AFTER
"""Interruptions after which an instance is tried alone."""
ALONE: Final = 3
"""Interruptions of attempts alone after which an instance is given up."""
QUIET_S: Final = 5.0
"""Time that an exporter runs before it tries a suspect alone; four times longer before each further attempt."""


class Suspects:
    """The suspects and when each may be tried; thread-safe, since every method is one operation on a dict."""

    def __init__(self, interruptions: Mapping[str, int]) -> None:
        """Begin with the suspects in the ledger: number of interruptions by name."""
        now = time.monotonic()
        self._due: dict[str, float] = {name: now + _quiet_s(count) for name, count in interruptions.items()}

    def add_interruption(self, name: str, interruptions: int) -> float:
        """Record an interruption that was not the end of this exporter.

        Returns:
            Seconds until the instance may be tried again.
        """
        if interruptions < TOGETHER:
            return 0.0
        self._due[name] = time.monotonic() + _quiet_s(interruptions)
        return self.wait_s(name)

    def __contains__(self, name: str) -> bool:
        return name in self._due

    def wait_s(self, name: str) -> float:
        """Seconds until an instance may be tried; 0 unless it is a suspect."""
        due = self._due.get(name)
        return 0.0 if due is None else max(due - time.monotonic(), 0.0)

    def clear(self, name: str) -> None:
        """Record that an attempt ended by itself: the instance is no longer a suspect."""
        self._due.pop(name, None)


def is_given_up(interruptions: int) -> bool:
    """Whether an instance fails after this number of interruptions in a row."""
    return interruptions >= TOGETHER + ALONE


def _quiet_s(interruptions: int) -> float:
    if is_given_up(interruptions):
        return 0.0  # it is not tried again
    return float(QUIET_S * 4 ** max(interruptions - TOGETHER, 0))
