"""When a delivery is tried again, and when it is given up: pure functions of times.

Contract: the pauses grow from half a minute to an hour; a delivery is given up when the next attempt would come a day
after the event or later. A clock that is set back delays an attempt by the longest pause at most.
"""

from __future__ import annotations

from typing import Final

from listener.foundation.backoff import Backoff

FIRST_PAUSE_S: Final = 30.0
LONGEST_PAUSE_S: Final = 3600.0
GIVEN_UP_AFTER_S: Final = 86_400.0
FEWEST_ATTEMPTS: Final = 4
"""Attempts that every delivery gets, however old its event is: a machine may have been off."""

_PAUSES: Final = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)


def next_attempt(happened: float, attempts: int, now: float) -> float | None:
    """Time of the next attempt after a failed one.

    Args:
        happened: Unix time of the event.
        attempts: Attempts so far, the one that just failed included.
        now: Unix time.

    Returns:
        Unix time; None where the delivery is given up.
    """
    due = now + _PAUSES.pause_after(attempts)
    if attempts >= FEWEST_ATTEMPTS and due - happened >= GIVEN_UP_AFTER_S:
        return None
    return due


def is_due(due: float, now: float) -> bool:
    """Whether an attempt that was put off until `due` is to be made now; also where the clock was set back since."""
    return due <= now or due > now + LONGEST_PAUSE_S
