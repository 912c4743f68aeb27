"""Slow instances leave a worker to others, and a killed worker means that memory is short, not that an input is bad."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from exporter.results.publish import WorkItem
from exporter.work import scheduling
from exporter.work.scheduling import InputTurn, Scheduler


def work(name: str, size_bytes: int = 0) -> WorkItem:
    return WorkItem(name, Path(name), size_bytes, 1, "folder")


def acquired(scheduler: Scheduler) -> InputTurn:
    turn = scheduler.acquire(0)
    assert turn is not None
    return turn


def test_instances_come_in_the_order_in_which_they_were_handed_in() -> None:
    scheduler = Scheduler(2)
    for name in ("a", "b", "c"):
        scheduler.submit(work(name))
    first, second = acquired(scheduler), acquired(scheduler)
    assert [first.work.name, second.work.name] == ["a", "b"]
    assert scheduler.acquire(0) is None, "two workers, two instances"
    scheduler.release(first)
    assert acquired(scheduler).work.name == "c"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every instance takes long."""
    monkeypatch.setattr(scheduling, "QUICK_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_one_worker_of_two_is_kept_for_instances_that_do_not_take_long() -> None:
    scheduler = Scheduler(2)
    for name in ("slow", "slow too", "quick"):
        scheduler.submit(work(name))
    slow, other = acquired(scheduler), acquired(scheduler)
    assert scheduler.may_continue(slow)
    assert not scheduler.may_continue(other), "both workers are held while one waits"
    scheduler.set_aside(other)
    quick = acquired(scheduler)
    assert quick.work.name == "quick"
    scheduler.release(slow)
    again = acquired(scheduler)
    assert (again.work.name, again.takes_long) == ("slow too", True)
    assert scheduler.may_continue(again)


@pytest.mark.usefixtures("at_once")
def test_both_workers_may_take_long_while_nobody_waits() -> None:
    scheduler = Scheduler(2)
    scheduler.submit(work("slow"))
    scheduler.submit(work("slow too"))
    turns = acquired(scheduler), acquired(scheduler)
    assert all(scheduler.may_continue(turn) for turn in turns)


@pytest.mark.usefixtures("at_once")
def test_a_single_worker_goes_on_whoever_waits() -> None:
    scheduler = Scheduler(1)
    scheduler.submit(work("slow"))
    scheduler.submit(work("quick"))
    assert scheduler.may_continue(acquired(scheduler))


def test_a_large_instance_may_take_its_time() -> None:
    assert InputTurn(work("volume", 4 << 30)).quick_s > 4000
    assert InputTurn(work("tiny", 1000)).quick_s < 11


@pytest.mark.usefixtures("at_once")
def test_instances_set_aside_make_room_for_others_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "MOST_ASIDE", 2)
    scheduler = Scheduler(2)
    for number in range(5):
        scheduler.submit(work(str(number)))
    assert scheduler.may_continue(acquired(scheduler)), "it has the place of those that take long"
    for number in range(3):
        scheduler.set_aside(acquired(scheduler))
        assert scheduler.aside == min(number + 1, 2)


def test_a_killed_worker_means_fewer_at_once_and_its_instance_runs_alone() -> None:
    scheduler = Scheduler(3)
    for name in ("a", "b", "c", "d"):
        scheduler.submit(work(name))
    turns = [acquired(scheduler) for _ in range(3)]
    scheduler.retry_alone(turns[1])
    assert scheduler.permitted == 2
    assert scheduler.memory_problem == "memory is short: running 2 of 3 workers"
    assert scheduler.has_surplus
    assert scheduler.acquire(0) is None, "what runs is finished first"
    scheduler.release(turns[0])
    scheduler.release(turns[2])
    alone = acquired(scheduler)
    assert (alone.work.name, alone.is_alone, alone.is_exclusive) == ("b", True, True)
    assert scheduler.acquire(0) is None, "nothing begins beside it"
    scheduler.release(alone)
    assert acquired(scheduler).work.name == "d"


def test_one_worker_more_is_tried_after_a_time_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "FIRST_RECOVERY_S", 0.0)
    scheduler = Scheduler(2)
    scheduler.submit(work("a"))
    scheduler.submit(work("b"))
    first, second = acquired(scheduler), acquired(scheduler)
    scheduler.retry_alone(first)
    scheduler.release(second)
    assert scheduler.permitted == 1
    scheduler.release(acquired(scheduler))
    assert scheduler.acquire(0) is None
    assert (scheduler.permitted, scheduler.memory_problem) == (2, None)


def test_closing_gives_back_what_waits_and_ends_waiting() -> None:
    scheduler = Scheduler(1)
    for name in ("a", "b"):
        scheduler.submit(work(name))
    scheduler.submit(work("c"), alone=True)
    assert sorted(one.name for one in scheduler.close()) == ["a", "b", "c"]
    started = time.monotonic()
    assert scheduler.acquire(30) is None
    assert time.monotonic() - started < 10
