"""Threads that take small instances share a processor; those that take large ones, or have none to share, do not."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from listener.sources.dimse.acceptor.cpu_affinity import SMALL_BYTES, SMALL_IN_A_ROW, CpuAffinity

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: there is nothing to choose")


def in_a_thread(work: Callable[[], None]) -> None:
    """Affinity belongs to a thread: one that ends leaves no trace in the others."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again where pytest sees it
            failures.append(error)

    before = os.sched_getaffinity(0)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert os.sched_getaffinity(0) == before
    if failures:
        raise failures[0]


def test_small_instances_in_a_row_gather_their_threads_on_one_processor_and_a_large_one_spreads_them() -> None:
    places: list[set[int]] = []

    def work() -> None:
        everywhere = os.sched_getaffinity(0)
        seat = CpuAffinity(0)
        for _ in range(SMALL_IN_A_ROW - 1):
            seat.received(SMALL_BYTES)
        assert os.sched_getaffinity(0) == everywhere
        seat.received(20_000)
        assert seat.is_gathered
        places.append(os.sched_getaffinity(0))
        seat.received(SMALL_BYTES + 1)
        assert os.sched_getaffinity(0) == everywhere
        seat.received(20_000)
        assert not seat.is_gathered

    in_a_thread(work)
    in_a_thread(work)
    assert len(places[0]) == 1
    assert places[0] == places[1]


def test_a_system_that_does_not_permit_it_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    seat = CpuAffinity(0)
    for _ in range(3 * SMALL_IN_A_ROW):
        seat.received(20_000)
    assert not seat.is_gathered
