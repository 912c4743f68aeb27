"""Silence is counted on the days on which something is expected."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from listener.settings.expect import ExpectSection


def at(day: int, hour: int) -> float:
    """A time in local time; 2 November 2026 is a Monday."""
    return time.mktime((2026, 11, day, hour, 0, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("days", "last", "now", "hours"),
    [
        ("mon-sun", at(2, 8), at(3, 8), 24),
        ("mon-fri", at(6, 18), at(9, 8), 14),  # from Friday evening to Monday morning
        ("mon-fri", at(7, 8), at(8, 20), 0),
        ("sat,sun", at(6, 18), at(9, 8), 48),
        ("fri-mon", at(5, 12), at(10, 12), 96),
        ("mon-sun", at(3, 8), at(2, 8), 0),  # the clock was set back
    ],
)
def test_hours_of_other_days_do_not_count(days: str, last: float, now: float, hours: int) -> None:
    assert ExpectSection(days=days).silence_s(last, now) == pytest.approx(hours * 3600)


def test_silence_since_ever_is_counted_at_once() -> None:
    assert ExpectSection().silence_s(0.0, at(2, 8)) > 50 * 86_400


def test_patience_is_time_and_grace_together() -> None:
    assert ExpectSection(every="7d", grace="90m").patience_s == 7 * 86_400 + 5400


@pytest.mark.parametrize(
    "told", [{"every": "0h"}, {"every": "24"}, {"every": 24}, {"grace": "-1h"}, {"days": "monday"}, {"days": ""}]
)
def test_what_is_no_time_or_no_day_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ExpectSection.model_validate(told)
