"""Window of time and rate, by a clock that a test moves."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from exporter.pull.pace import Clock, RateLimiter
from exporter.settings.windows import Window

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def berlin() -> Iterator[None]:
    """Local time with summer time."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def at(text: str) -> time.struct_time:
    return time.strptime(text, "%H:%M")


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("20:00-06:00", ["20:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "19:59"]),
        ("08:30-17:00", ["08:30", "16:59"], ["08:29", "17:00", "00:00"]),
        ("18:00-24:00", ["18:00", "23:59"], ["00:00", "17:59"]),
    ],
)
def test_a_window_may_reach_over_midnight(window: str, inside: list[str], outside: list[str]) -> None:
    parsed = Window.parse(window)
    assert all(parsed.holds(at(moment)) for moment in inside)
    assert not any(parsed.holds(at(moment)) for moment in outside)
    assert str(parsed) == window


@pytest.mark.parametrize("text", ["20-6", "25:00-06:00", "20:00-20:00", "20:61-06:00", "00:00-24:00", "", "20:00"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match=r"window|HH:MM"):
        Window.parse(text)


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("night", ["2026-03-28 23:30", "2026-10-24 23:30"])
def test_the_night_of_a_change_of_summer_time_opens_once_and_closes_by_the_clock_on_the_wall(night: str) -> None:
    window = Window.parse("20:00-06:00")
    start = time.mktime(time.strptime(night, "%Y-%m-%d %H:%M"))
    held = [window.holds(time.localtime(start + minute * 60)) for minute in range(9 * 60)]
    closes = held.index(False)
    assert all(held[:closes])
    assert not any(held[closes:])
    assert time.strftime("%H:%M", time.localtime(start + closes * 60)) == "06:00"


def test_who_waits_for_the_window_is_let_go_when_it_opens_or_when_it_shall_stop() -> None:
    now = [time.mktime(time.strptime("2026-05-05 19:59", "%Y-%m-%d %H:%M"))]
    told: list[Window] = []
    stop = threading.Event()
    clock = Clock(now=lambda: now[0], look_every_s=0.01)
    pace = RateLimiter(Window.parse("20:00-06:00"), None, stop, clock, on_wait=told.append)
    let_go = threading.Event()
    thread = threading.Thread(target=lambda: pace.wait_for_turn() and let_go.set())
    thread.start()
    assert not let_go.wait(0.2)
    now[0] += 60
    assert let_go.wait(100)
    thread.join()
    assert len(told) == 1
    now[0] += 12 * 3600
    stop.set()
    assert not pace.wait_for_turn()


def test_moves_keep_their_distance_whoever_asks() -> None:
    pace = RateLimiter(None, 1200.0, threading.Event())  # one in 50 ms
    started = time.monotonic()
    threads = [threading.Thread(target=lambda: [pace.move() for _ in range(3)]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started >= 5 * 0.05
