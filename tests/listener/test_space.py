"""Room in the spool: refuse early, reject later, and come back only when there is room again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from listener.counters import Counters, read_counters
from listener.settings import SpoolSection
from listener.space import Room, SpaceGuard

if TYPE_CHECKING:
    from pathlib import Path

MARKS = SpoolSection(
    reject_below_bytes=100, refuse_below_bytes=200, resume_above_bytes=300, refuse_below_files=10, max_pending=5
)


class Disk:
    """A file system with as much room as a test wants."""

    f_frsize = 1
    f_files = 1000
    f_favail = 1000
    f_bavail = 1000


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(os, "statvfs", lambda _: made)
    return made


def test_room_changes_with_hysteresis(disk: Disk, tmp_path: Path) -> None:
    guard = SpaceGuard(tmp_path, MARKS)
    seen = []
    for free in (1000, 250, 199, 250, 99, 150, 250, 299, 300, 250):
        disk.f_bavail = free
        seen.append(guard.look())
    enough, refuse, reject = Room.ENOUGH, Room.REFUSE_INSTANCES, Room.REJECT_ASSOCIATIONS
    assert seen == [enough, enough, refuse, refuse, reject, reject, refuse, refuse, enough, enough]


def test_few_inodes_refuse_instances_where_there_is_a_table_of_them(disk: Disk, tmp_path: Path) -> None:
    guard = SpaceGuard(tmp_path, MARKS)
    disk.f_favail = 9
    assert guard.look() is Room.REFUSE_INSTANCES
    disk.f_files = disk.f_favail = 0  # btrfs reports none at all
    assert guard.look() is Room.ENOUGH


def test_a_long_queue_is_full(disk: Disk, tmp_path: Path) -> None:
    guard = SpaceGuard(tmp_path, MARKS)
    seen = []
    for pending in (4, 5, None, 0):  # None: not counted this time
        guard.look(pending)
        seen.append(guard.queue_full)
    assert seen == [False, True, True, False]
    assert guard.free_bytes == disk.f_bavail


def test_counters_are_read_back_and_a_broken_file_is_none(tmp_path: Path) -> None:
    assert read_counters(tmp_path) is None
    counters = Counters()
    counters.add("instances_stored", 3)
    counters.gauge("associations", 2)
    counters.write(tmp_path)
    found = read_counters(tmp_path)
    assert found is not None
    assert (found["counts"], found["gauges"]) == ({"instances_stored": 3}, {"associations": 2})
    (tmp_path / "listener.json").write_text("{")
    assert read_counters(tmp_path) is None
