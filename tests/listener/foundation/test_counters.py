"""Arrivals by source: a closed set of names, remembered across restarts, true whatever the clock does."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from listener.foundation.counters import FILE, OTHER, SLOT_S, SLOTS, Counters, SourceArrivals

if TYPE_CHECKING:
    from pathlib import Path


def sources(counters: Counters) -> dict[str, int]:
    found = counters.snapshot()["sources"]
    assert isinstance(found, dict)
    return {name: one["number"] for name, one in found.items()}


def test_a_source_that_the_configuration_does_not_name_counts_as_other() -> None:
    counters = Counters()
    counters.name_sources(["CT1"])
    for name in ("CT1", "CT1", "DOE^JANE", "X" * 16):
        counters.arrived(name)
    assert sources(counters) == {"CT1": 2, OTHER: 2}
    assert "DOE" not in json.dumps(counters.snapshot())


def test_arrivals_in_another_process_are_counted_where_the_sources_are_known() -> None:
    child, parent = Counters(), Counters()
    parent.name_sources(["CT1"])
    for number in range(1000):
        child.arrived(f"AE{number}")
    assert len(child.drain_arrivals()) <= 201
    child.arrived("CT1", 3)
    parent.add_each(**child.drain_arrivals())
    assert child.drain_arrivals() == {}
    assert sources(parent) == {"CT1": 3, OTHER: 0}
    assert "CT1" not in json.dumps(parent.snapshot()["counts"])


def test_arrivals_go_on_where_the_last_process_stopped(tmp_path: Path) -> None:
    for round_number in (1, 2):
        counters = Counters()
        counters.name_sources(["CT1"])
        counters.resume(tmp_path)
        counters.arrived("CT1", 5)
        counters.write(tmp_path)
        assert sources(counters)["CT1"] == 5 * round_number


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sources": []}', '{"sources": {"CT1": {"number": "x"}}}'])
def test_a_file_that_is_something_else_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    counters = Counters()
    counters.name_sources(["CT1"])
    counters.resume(tmp_path)
    assert sources(counters) == {"CT1": 0, OTHER: 0}


def test_slots_of_more_than_a_day_ago_are_dropped() -> None:
    arrivals, now = SourceArrivals(), time.time()
    for back in range(2 * SLOTS, -1, -1):
        arrivals.add(1, now - back * SLOT_S)
    assert len(arrivals.slots) == SLOTS
    assert arrivals.number == 2 * SLOTS + 1
    arrivals.add(1, now - 3600)  # the clock was set back
    assert arrivals.last == now - 3600
