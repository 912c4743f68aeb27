"""Instances that were under way when something ended the exporter, tried again with nothing else under way.

Contract: an attempt that the exporter's own end has ended (kill -9, a power cut) says nothing about an instance: it is
tried again among the others, `TOGETHER` times. An instance that is still under way at every such end is suspect. It
waits until this exporter has lived for a while without it, longer each time, and is then tried alone; only after
`ALONE` ends during attempts of its own, and none in between while instances that are no suspects were under way, there
is a verdict. Exporters that are killed in quick succession never live
long enough to try a suspect, so that a sound instance is not judged for that; an instance that does end every exporter
that tries it is judged after the last attempt, and does so no more.

Must never: keep an instance from an attempt for good, or let a suspect begin while another instance is under way.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from exporter.results.ledger.types import SUSPECT_AFTER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TOGETHER: Final = SUSPECT_AFTER
"""Interruptions after which an instance is tried alone."""
ALONE: Final = 3
"""Interruptions of attempts alone after which an instance is given up."""
QUIET_S: Final = 5.0
"""Time that an exporter lives without a suspect before it tries it alone; four times longer before each further try."""
ENDING_S: Final = 0.5
"""Longest time that a suspect waits for the publication of others."""
TICK_S: Final = 0.5


class Isolation:
    """Which instances are suspect, and the rule that a suspect is under way alone; safe for many threads."""

    def __init__(self, suspects: Mapping[str, int]) -> None:
        """Begin with the suspects that the ledger knows: names, and interruptions of each of them."""
        self._turn = threading.Condition()
        now = time.monotonic()
        self._due: dict[str, float] = {name: now + _quiet_s(count) for name, count in suspects.items()}
        self._under_way: set[str] = set()
        """What workers are at."""
        self._ending: set[str] = set()
        """What has an outcome that is not published yet."""
        self._alone: str | None = None

    @property
    def suspects(self) -> int:
        """Number of suspects."""
        return len(self._due)

    def interrupted(self, name: str, interruptions: int) -> float:
        """Note an interruption that this exporter has survived.

        Returns:
            Seconds until the instance may be tried again.
        """
        if interruptions < TOGETHER:
            return 0.0
        with self._turn:
            self._due[name] = time.monotonic() + _quiet_s(interruptions)
        return self.wait_s(name)

    def is_suspect(self, name: str) -> bool:
        """Whether an instance is to be under way alone."""
        return name in self._due

    def wait_s(self, name: str) -> float:
        """Seconds until an instance may be tried; 0 for whatever is no suspect."""
        due = self._due.get(name)
        return 0.0 if due is None else max(due - time.monotonic(), 0.0)

    def enter(self, name: str, go_on: Callable[[], bool]) -> bool:
        """Wait for the turn of an instance and take it: of a suspect, until nothing else is under way.

        Args:
            name: The instance.
            go_on: Asked again and again while this waits; False ends the waiting.

        Returns:
            Whether the instance is under way now; `leave` must follow then.
        """
        with self._turn:
            is_suspect = name in self._due
            if not self._wait_while(lambda: self._alone is not None, go_on):
                return False
            if is_suspect:
                self._alone = name  # nothing else begins from now on
                if not self._wait_while(lambda: bool(self._under_way), go_on):
                    self._alone = None
                    self._turn.notify_all()
                    return False
                # Not for ever: an outcome may wait for the suspect's own identity (`exporter.work.input_order`).
                until = time.monotonic() + ENDING_S
                self._wait_while(lambda: bool(self._ending) and time.monotonic() < until, go_on)
            self._under_way.add(name)
        return True

    def pass_on(self, name: str) -> None:
        """Note that the worker is done with an instance, and that its outcome is to be published."""
        with self._turn:
            self._under_way.discard(name)
            self._ending.add(name)
            self._turn.notify_all()

    def leave(self, name: str) -> None:
        """Note that an instance is no longer under way; harmless for one that is not."""
        with self._turn:
            self._under_way.discard(name)
            self._ending.discard(name)
            if self._alone == name:
                self._alone = None
            self._turn.notify_all()

    def clear(self, name: str) -> None:
        """Note that an attempt at an instance ended by itself: it is no suspect any more."""
        if name in self._due:
            with self._turn:
                self._due.pop(name, None)

    def _wait_while(self, condition: Callable[[], bool], go_on: Callable[[], bool]) -> bool:
        while condition():
            if not go_on():
                return False
            self._turn.wait(TICK_S)
        return True


def is_given_up(interruptions: int) -> bool:
    """Whether so many interruptions in a row are a verdict."""
    return interruptions >= TOGETHER + ALONE


def _quiet_s(interruptions: int) -> float:
    if is_given_up(interruptions):
        return 0.0  # there is nothing to try any more
    return float(QUIET_S * 4 ** max(interruptions - TOGETHER, 0))
