"""Slow instances leave a worker to others, and a killed worker means that memory is short, not that an input is bad."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from exporter.results.ledger import WorkItem
from exporter.work import scheduling
from exporter.work.input_order import InputTurn
from exporter.work.scheduling import Scheduler, WorkerLease


def turn(name: str, size_bytes: int = 0) -> InputTurn:
    return InputTurn(WorkItem(name, Path(name), size_bytes, 1, "folder"), serial=0, number=0)


def acquired(scheduler: Scheduler) -> WorkerLease:
    lease = scheduler.acquire(0)
    assert lease is not None
    return lease


def name_of(lease: WorkerLease) -> str:
    return lease.turn.work.name


def test_instances_come_in_the_order_in_which_they_were_handed_in() -> None:
    scheduler = Scheduler(2)
    for name in ("a", "b", "c"):
        scheduler.submit(turn(name))
    first, second = acquired(scheduler), acquired(scheduler)
    assert [name_of(first), name_of(second)] == ["a", "b"]
    assert scheduler.acquire(0) is None, "two workers, two instances"
    scheduler.release(first)
    assert name_of(acquired(scheduler)) == "c"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every instance takes long."""
    monkeypatch.setattr(scheduling, "QUICK_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_one_worker_of_two_is_kept_for_instances_that_do_not_take_long() -> None:
    scheduler = Scheduler(2)
    for name in ("slow", "slow too", "quick"):
        scheduler.submit(turn(name))
    slow, other = acquired(scheduler), acquired(scheduler)
    assert scheduler.may_continue(slow)
    assert not scheduler.may_continue(other), "both workers are held while one waits"
    scheduler.set_aside(other)
    quick = acquired(scheduler)
    assert name_of(quick) == "quick"
    scheduler.release(slow)
    again = acquired(scheduler)
    assert (name_of(again), again.takes_long) == ("slow too", True)
    assert scheduler.may_continue(again)


@pytest.mark.usefixtures("at_once")
def test_both_workers_may_take_long_while_nobody_waits() -> None:
    scheduler = Scheduler(2)
    scheduler.submit(turn("slow"))
    scheduler.submit(turn("slow too"))
    leases = acquired(scheduler), acquired(scheduler)
    assert all(scheduler.may_continue(lease) for lease in leases)


@pytest.mark.usefixtures("at_once")
def test_a_single_worker_goes_on_whoever_waits() -> None:
    scheduler = Scheduler(1)
    scheduler.submit(turn("slow"))
    scheduler.submit(turn("quick"))
    assert scheduler.may_continue(acquired(scheduler))


def test_a_large_instance_may_take_its_time() -> None:
    assert WorkerLease(turn("volume", 4 << 30)).quick_s > 4000
    assert WorkerLease(turn("tiny", 1000)).quick_s < 11


@pytest.mark.usefixtures("at_once")
def test_instances_set_aside_make_room_for_others_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "MOST_ASIDE", 2)
    scheduler = Scheduler(2)
    for number in range(5):
        scheduler.submit(turn(str(number)))
    assert scheduler.may_continue(acquired(scheduler)), "it has the place of those that take long"
    for number in range(3):
        scheduler.set_aside(acquired(scheduler))
        assert scheduler.aside == min(number + 1, 2)


def test_a_killed_worker_means_fewer_at_once_and_its_instance_runs_alone() -> None:
    scheduler = Scheduler(3)
    for name in ("a", "b", "c", "d"):
        scheduler.submit(turn(name))
    leases = [acquired(scheduler) for _ in range(3)]
    scheduler.retry_alone(leases[1])
    assert scheduler.permitted == 2
    assert scheduler.memory_problem == "memory is short: running 2 of 3 workers"
    assert scheduler.has_surplus
    assert scheduler.acquire(0) is None, "what runs is finished first"
    scheduler.release(leases[0])
    scheduler.release(leases[2])
    alone = acquired(scheduler)
    assert (name_of(alone), alone.is_alone, alone.is_exclusive) == ("b", True, True)
    assert scheduler.acquire(0) is None, "nothing begins beside it"
    scheduler.release(alone)
    assert name_of(acquired(scheduler)) == "d"


def test_one_worker_more_is_tried_after_a_time_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "FIRST_RECOVERY_S", 0.0)
    scheduler = Scheduler(2)
    scheduler.submit(turn("a"))
    scheduler.submit(turn("b"))
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
        scheduler.submit(turn(name))
    scheduler.submit(turn("c"), alone=True)
    assert sorted(one.work.name for one in scheduler.close()) == ["a", "b", "c"]
    started = time.monotonic()
    assert scheduler.acquire(30) is None
    assert time.monotonic() - started < 10


def test_what_comes_back_after_closing_is_not_kept() -> None:
    scheduler = Scheduler(2)
    scheduler.submit(turn("a"))
    scheduler.submit(turn("b"))
    first, second = acquired(scheduler), acquired(scheduler)
    assert scheduler.close() == []
    assert not scheduler.set_aside(first)
    assert not scheduler.retry_alone(second)
