"""From how everything stands to events: each once, few of them, with exact numbers."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from exporter.notifications.events import EVENTS, Event
from exporter.notifications.schedule import GIVEN_UP_AFTER_S, LONGEST_PAUSE_S, is_due, next_attempt
from exporter.notifications.watch import PATIENCE_S, QUIET_S, FailureNumbers, Watch
from exporter.page.standing import DiskStanding, Problem, SourceStanding, Standing
from exporter.settings.notify import FailureDigestSection

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = 1_800_000_000.0
LOOK_S = 2.0


class WatchHarness:
    """A watch, a clock and what is remembered; `restart` forgets what a killed process forgets."""

    def __init__(self, **failures: Any) -> None:
        self.section = FailureDigestSection(**failures)
        self.watch = Watch(self.section)
        self.marks: dict[str, str] = {}
        self.now = NOW
        self.standing = Standing(is_live=True, daemons={"listener": "running", "exporter": "running"})
        self.failed: list[float] = []
        self.exported: list[float] = []
        self.events: list[Event] = []

    def restart(self) -> None:
        self.watch = Watch(self.section)

    def numbers(self) -> FailureNumbers:
        since = self.now - self.section.window_s
        failed = sum(at >= since for at in self.failed)
        return FailureNumbers(len(self.failed), failed, failed + sum(at >= since for at in self.exported))

    def look(self, times: int = 1, **standing: Any) -> list[Event]:
        """Look so many times, two seconds apart; the events of these looks."""
        self.standing = replace(self.standing, **standing)
        found: list[Event] = []
        for _ in range(times):
            self.now += LOOK_S
            changes = self.watch.look(replace(self.standing, now=self.now), self.numbers(), self.marks, LOOK_S)
            found += changes.events
            for key, value in changes.marks.items():
                if value is None:
                    self.marks.pop(key, None)
                else:
                    self.marks[key] = value
        self.events += found
        return found

    def fail(self, number: int) -> None:
        self.failed += [self.now] * number


def kinds(events: list[Event]) -> list[str]:
    return [event.kind for event in events]


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_thousand_failures_in_a_minute_are_two_messages_with_exact_numbers() -> None:
    harness = WatchHarness(window_s=1200)
    harness.look()
    for _ in range(30):
        harness.fail(34)
        harness.look()
    harness.look(1200)
    assert kinds(harness.events) == ["failures", "failures"]
    assert sum(event.data["failed"] for event in harness.events) == 30 * 34
    assert harness.events[0].data["failed"] > 200  # collected for a while, so that it tells a storm from one file


def test_every_failure_is_in_one_digest_whatever_is_killed_in_between() -> None:
    chance = random.Random(7)  # noqa: S311 - the same every time
    harness = WatchHarness(window_s=600)
    harness.look()
    for _ in range(400):
        if chance.random() < 0.3:
            harness.fail(chance.randrange(1, 9))
        if chance.random() < 0.05:
            harness.restart()
        harness.look(chance.randrange(1, 30))
    harness.fail(1)
    harness.look(1000)
    assert sum(event.data["failed"] for event in harness.events) == len(harness.failed)
    assert len(harness.events) <= (harness.now - NOW) / 600 + 1


def test_failures_below_the_number_wait_and_are_in_the_digest_that_comes() -> None:
    harness = WatchHarness(count=10)
    harness.look()
    harness.fail(9)
    assert harness.look(60) == []
    harness.fail(1)
    (event,) = harness.look(60)
    assert event.data["failed"] == 10
    assert event.what.startswith("10 instances failed since ")


def test_a_share_of_failures_is_a_message_however_few_they_are() -> None:
    harness = WatchHarness(count=1000, share=0.25)
    harness.look()
    harness.exported = [harness.now] * 18
    harness.fail(5)
    assert harness.look(30) == []  # 5 of 23: less than a quarter
    harness.fail(1)
    assert kinds(harness.look(30)) == ["failures"]


def test_failures_from_before_the_first_look_count_if_they_are_within_the_window() -> None:
    harness = WatchHarness()
    harness.failed = [NOW - 100_000] * 7 + [NOW - 60] * 3
    (event,) = harness.look(30)
    assert event.data["failed"] == 3


def test_failures_of_a_long_time_in_which_nobody_watched_are_a_message() -> None:
    harness = WatchHarness(count=2, window_s=600)
    harness.look()
    harness.fail(2)
    harness.now += 100_000
    harness.restart()
    (event,) = harness.look(60)
    assert event.data["failed"] == 2


def test_a_new_ledger_is_counted_anew() -> None:
    harness = WatchHarness(window_s=60)
    harness.look()
    harness.fail(50)
    harness.look(100)
    harness.failed = []
    harness.look()
    harness.fail(2)
    harness.look(100)
    assert [event.data["failed"] for event in harness.events] == [50, 2]


def test_an_unreadable_ledger_and_a_clock_set_back_lose_nothing() -> None:
    harness = WatchHarness(window_s=600)
    harness.look()
    harness.fail(5)
    changes = harness.watch.look(replace(harness.standing, now=harness.now), None, harness.marks, LOOK_S)
    assert not changes
    harness.look(30)
    harness.now -= 3600
    harness.fail(6)
    harness.look(600)
    assert [event.data["failed"] for event in harness.events] == [5, 6]


def test_reasons_are_those_that_need_a_look_now() -> None:
    harness = WatchHarness()
    harness.look()
    harness.fail(3)
    reasons: Mapping[str, Any] = {
        "failed": {"timeout": 1},
        "quarantined": {"timeout": 1, "not_dicom": 2},
        "skipped": {"x": 9},
    }
    (event,) = harness.look(30, reasons=reasons)
    assert event.data["need_a_look_by_reason"] == {"not_dicom": 2, "timeout": 2}
    assert event.data["need_a_look"] == 4


# -- conditions ------------------------------------------------------------------------------------------------------

LOW = Problem("disk_low", "fault", "The disk of spool is nearly full: 1.0 GB free.", "Free some space.")
DOWN = Problem("exporter_stopped", "fault", "The exporter is not running.", "Start it.")


def test_a_disk_that_goes_up_and_down_around_its_limit_is_one_message() -> None:
    harness = WatchHarness()
    disk = DiskStanding(("spool", "media"), 10, 100)
    for _ in range(50):
        harness.look(3, problems=(LOW,), disks=(disk,))
        harness.restart()
        harness.look(3, problems=())
    assert kinds(harness.events) == ["disk_low"]
    assert harness.events[0].data == {"free_bytes": {"spool and media": 10}}
    harness.look(int(QUIET_S / LOOK_S) + 2, problems=())
    assert kinds(harness.look(problems=(LOW,))) == ["disk_low"]


def test_a_daemon_that_restarts_is_no_message_and_one_that_stays_down_is_one() -> None:
    harness = WatchHarness()
    harness.look(int(PATIENCE_S / LOOK_S) - 5, problems=(DOWN,))
    assert harness.look(300, problems=()) == []
    harness.look(300, problems=(DOWN,))
    harness.restart()
    harness.look(300)
    assert kinds(harness.events) == ["daemon_gave_up"]
    assert harness.events[0].data == {"daemon": "exporter"}


def test_a_daemon_that_dies_again_and_again_has_given_up() -> None:
    harness = WatchHarness()
    for _ in range(20):
        harness.look(8, problems=(DOWN,))
        harness.look(3, problems=())
    assert kinds(harness.events) == ["daemon_gave_up"]


def test_a_silent_source_is_one_message_and_so_is_its_return() -> None:
    harness = WatchHarness()
    silent = SourceStanding("CT1", NOW - 90_000, 0, 0, (), expected_every="24h", silent_s=90_000)
    harness.look(5, sources=(silent,), listener={})
    harness.restart()
    harness.look(5)
    harness.look(5, sources=(replace(silent, last=None, silent_s=None),))  # the listener's file is gone
    harness.look(5, sources=(replace(silent, last=harness.now, silent_s=None),))
    assert kinds(harness.events) == ["source_silent", "source_back"]
    assert harness.events[0].what.startswith("CT1 is silent since ")
    assert harness.events[1].what == "CT1 sends again."
    assert harness.marks.keys() == {"failures", "silence", "return"}


def test_a_source_from_which_nothing_is_expected_any_more_is_not_back() -> None:
    harness = WatchHarness()
    silent = SourceStanding("CT1", NOW - 90_000, 0, 0, (), expected_every="24h", silent_s=90_000)
    harness.look(sources=(silent,), listener={})
    harness.look(sources=(replace(silent, expected_every=None, silent_s=None),))
    harness.look(int(QUIET_S / LOOK_S) + 2, sources=(silent,))
    harness.look(sources=())
    assert kinds(harness.events) == ["source_silent", "source_silent"]
    assert harness.marks.keys() == {"failures", "silence"}


def test_a_hundred_sources_that_fall_silent_within_minutes_are_two_messages() -> None:
    harness = WatchHarness()
    every = [
        SourceStanding(f"CT{number}", NOW - 90_000, 0, 0, (), expected_every="24h", silent_s=90_000)
        for number in range(100)
    ]
    for number in range(1, 101):
        harness.look(2, sources=tuple(every[:number]), listener={})
    harness.restart()
    harness.look(int(QUIET_S / LOOK_S))
    assert kinds(harness.events) == ["source_silent", "source_silent"]
    assert harness.events[1].what.startswith("99 sources are silent: CT1, CT2, ")
    assert harness.events[1].what.endswith(", CT20 and 79 more.")
    named = [name for event in harness.events for name in event.data["last_arrivals"]]
    assert sorted(named) == sorted(source.name for source in every)


def test_every_kind_of_event_is_a_setting_but_the_test() -> None:
    from typing import get_args

    from exporter.settings.notify import EventName, NotifySection

    assert {*get_args(EventName), "test"} == set(EVENTS)
    assert set(NotifySection().events) == set(get_args(EventName))


# -- schedule --------------------------------------------------------------------------------------------------------


def test_a_server_that_answers_500_for_a_day_gets_ever_fewer_attempts_and_is_then_given_up() -> None:
    now, attempts, times = NOW, 0, [NOW]
    while True:
        attempts += 1
        due = next_attempt(NOW, attempts, now)
        if due is None:
            break
        now = due
        times.append(now)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[0] == 30
    assert pauses[-1] == LONGEST_PAUSE_S
    assert GIVEN_UP_AFTER_S - LONGEST_PAUSE_S < times[-1] - NOW < GIVEN_UP_AFTER_S
    assert 25 < attempts < 40


def test_an_event_of_last_week_still_gets_its_attempts() -> None:
    assert [next_attempt(NOW - 7 * 86_400, attempts, NOW) is None for attempts in (1, 2, 3, 4)] == [False] * 3 + [True]


@pytest.mark.parametrize(
    ("due", "is_now"), [(0.0, True), (NOW, True), (NOW + 5, False), (NOW + 2 * LONGEST_PAUSE_S, True)]
)
def test_a_clock_that_was_set_back_does_not_hold_a_delivery_up(due: float, is_now: bool) -> None:
    assert is_due(due, NOW) is is_now
