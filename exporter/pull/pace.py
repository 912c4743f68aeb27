"""Limits on requests to the peer: a time window, and moves per minute.

Contract: the window is judged by the clock on the wall, again and again: a change of summer time, a clock that is
set, or a machine that slept cannot make it wait for a moment that has passed. Who waits is woken by an order to
stop.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from listener.foundation.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.settings.windows import Window

LOOK_EVERY_S: Final = 20.0
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0


def pauses() -> Backoff:
    """Pauses before a peer is asked for the same thing again."""
    return Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)


@dataclass(frozen=True, slots=True)
class Clock:
    """Clock and waiting, for tests to replace."""

    now: Callable[[], float] = time.time
    """Seconds since 1970."""
    elapsed: Callable[[], float] = time.monotonic
    """Seconds that only rise."""
    look_every_s: float = LOOK_EVERY_S
    """Interval between looks at the wall clock while waiting."""

    def local(self) -> time.struct_time:
        """The time of day here."""
        return time.localtime(self.now())


class RateLimiter:
    """Lets requests go when they may; safe for many threads."""

    def __init__(
        self,
        window: Window | None,
        moves_per_minute: float | None,
        stop: threading.Event,
        clock: Clock | None = None,
        on_wait: Callable[[Window], None] | None = None,
    ) -> None:
        """A limiter without any requests yet.

        Args:
            window: Time of day; none is always.
            moves_per_minute: Rate of `move`; none is any.
            stop: Ends every wait.
            clock: Clock and waiting.
            on_wait: Called once whenever a wait for the window begins.
        """
        self._window = window
        self._spacing_s = 60.0 / moves_per_minute if moves_per_minute else 0.0
        self._stop = stop
        self._clock = clock or Clock()
        self._on_wait = on_wait
        self._lock = threading.Lock()
        self._next = 0.0
        self._is_reported = False

    def wait_for_turn(self) -> bool:
        """Return True once the window is open; False where we are to stop."""
        while not self._stop.is_set():
            if self._window is None or self._window.holds(self._clock.local()):
                with self._lock:
                    self._is_reported = False
                return True
            self._report(self._window)
            self._stop.wait(self._clock.look_every_s)
        return False

    def move(self) -> bool:
        """Return True once the window is open and it is this request's turn; False where we are to stop."""
        if not self._stop.is_set() and self._spacing_s:
            with self._lock:
                now = self._clock.elapsed()
                turn = max(now, self._next)
                self._next = turn + self._spacing_s
            while (left := turn - self._clock.elapsed()) > 0 and not self._stop.wait(
                min(left, self._clock.look_every_s)
            ):
                pass
        return self.wait_for_turn()

    def _report(self, window: Window) -> None:
        with self._lock:
            was_reported, self._is_reported = self._is_reported, True
        if not was_reported and self._on_wait is not None:
            self._on_wait(window)
