"""Suspects: instances that were under way at several ends of the exporter, tried again with nothing else under way.

Contract: an attempt that the exporter's own end has ended (kill -9, a power cut) says nothing about an instance: it is
tried again among the others, `TOGETHER` times. An instance that is still under way at every such end is suspect. It
waits until this exporter has lived for a while without it, longer each time, and then gets an exclusive lease
(`exporter.work.scheduling`), which lasts until its outcome is committed. Only after `ALONE` ends during attempts of its
own, and none in between while instances that are no suspects were under way, there is a verdict. Exporters that are
killed in quick succession never live long enough to try a suspect, so that a sound instance is not judged for that; an
instance that does end every exporter that tries it is judged after the last attempt, and does so no more.

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
"""Time that an exporter lives without a suspect before it tries it alone; four times longer before each further try."""


class Suspects:
    """Which instances are suspect, and when each may be tried; every method is one operation on a dict, for threads."""

    def __init__(self, interruptions: Mapping[str, int]) -> None:
        """Begin with the suspects that the ledger knows: names, and interruptions of each of them."""
        now = time.monotonic()
        self._due: dict[str, float] = {name: now + _quiet_s(count) for name, count in interruptions.items()}

    def add_interruption(self, name: str, interruptions: int) -> float:
        """Note an interruption that this exporter has survived.

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
        """Seconds until an instance may be tried; 0 for whatever is no suspect."""
        due = self._due.get(name)
        return 0.0 if due is None else max(due - time.monotonic(), 0.0)

    def clear(self, name: str) -> None:
        """Note that an attempt at an instance ended by itself: it is no suspect any more."""
        self._due.pop(name, None)


def is_given_up(interruptions: int) -> bool:
    """Whether so many interruptions in a row are a verdict."""
    return interruptions >= TOGETHER + ALONE


def _quiet_s(interruptions: int) -> float:
    if is_given_up(interruptions):
        return 0.0  # there is nothing to try any more
    return float(QUIET_S * 4 ** max(interruptions - TOGETHER, 0))
