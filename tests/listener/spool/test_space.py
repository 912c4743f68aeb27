"""Room in the spool: refuse early, reject later, and come back only when there is room again."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from listener.foundation.counters import Counters, read_counters
from listener.settings.listener import SpoolSection
from listener.spool.space import SILENT_S, SPACE_FILE, Free, SpaceGuard, SpaceLevel, publish_space
from listener.spool.spool import Spool

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
        seen.append(guard.measure())
    enough, refuse, reject = SpaceLevel.ENOUGH, SpaceLevel.REFUSE_INSTANCES, SpaceLevel.REJECT_ASSOCIATIONS
    assert seen == [enough, enough, refuse, refuse, reject, reject, refuse, refuse, enough, enough]


@pytest.mark.parametrize("folder", ["tmp", "new", "active", "done", "quarantine"])
def test_nothing_is_taken_while_a_folder_of_the_spool_is_not_where_it_was(tmp_path: Path, folder: str) -> None:
    with Spool.open(tmp_path / "spool") as spool:
        guard = SpaceGuard(spool.root, SpoolSection(refuse_below_bytes=0, reject_below_bytes=0, refuse_below_files=0))
        assert guard.measure(is_in_place=spool.is_in_place) is SpaceLevel.ENOUGH
        place, away = spool.root / folder, tmp_path / "away"
        place.rename(away)
        assert guard.measure(is_in_place=spool.is_in_place) is SpaceLevel.REFUSE_INSTANCES
        place.mkdir()
        assert guard.measure(is_in_place=spool.is_in_place) is SpaceLevel.REFUSE_INSTANCES, (
            "another folder of that name"
        )
        place.rmdir()
        away.rename(place)
        assert guard.measure(is_in_place=spool.is_in_place) is SpaceLevel.ENOUGH


def test_few_inodes_refuse_instances_where_there_is_a_table_of_them(disk: Disk, tmp_path: Path) -> None:
    guard = SpaceGuard(tmp_path, MARKS)
    disk.f_favail = 9
    assert guard.measure() is SpaceLevel.REFUSE_INSTANCES
    disk.f_files = disk.f_favail = 0  # btrfs reports none at all
    assert guard.measure() is SpaceLevel.ENOUGH


def test_inodes_have_hysteresis_and_lead_to_rejection_as_well(disk: Disk, tmp_path: Path) -> None:
    guard = SpaceGuard(tmp_path, MARKS)
    seen = []
    for free in (1000, 12, 9, 12, 4, 12, 14, 15, 12):
        disk.f_favail = free
        seen.append(guard.measure())
    enough, refuse, reject = SpaceLevel.ENOUGH, SpaceLevel.REFUSE_INSTANCES, SpaceLevel.REJECT_ASSOCIATIONS
    assert seen == [enough, enough, refuse, refuse, reject, refuse, refuse, enough, enough]


@pytest.mark.usefixtures("disk")
def test_what_the_exporter_tells_of_its_disks_counts_like_the_spools_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    guard = SpaceGuard(tmp_path, MARKS)
    seen = []
    for free in (Free(1000, 50), Free(150, 50), Free(250, 50), Free(99, None), Free(300, None)):
        publish_space(tmp_path, {"output": free}, None)
        seen.append((guard.measure(), guard.tightest))
    refuse = SpaceLevel.REFUSE_INSTANCES
    assert seen == [
        (SpaceLevel.ENOUGH, "spool"),
        (refuse, "output"),
        (refuse, "output"),
        (SpaceLevel.REJECT_ASSOCIATIONS, "output"),
        (SpaceLevel.ENOUGH, "spool"),
    ]
    publish_space(tmp_path, {"ledger": Free(0, 0)}, "too little room for ledger")
    assert guard.measure() is SpaceLevel.REJECT_ASSOCIATIONS
    now += SILENT_S  # the exporter has ended: the spool takes what comes, as far as it goes
    assert guard.measure() is SpaceLevel.ENOUGH
    assert set(guard.free) == {"spool"}


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"[]",
        b"{",
        b'{"places": 1}',
        b'{"places": {"output": {"free_bytes": "x", "free_files": 1}}}',
        b'{"places": {"spool": {"free_bytes": 0, "free_files": 0}, "x": {"free_bytes": 0, "free_files": 0}}}',
        b"\xff" * 100_000,
    ],
)
def test_what_is_no_message_of_an_exporter_changes_nothing(tmp_path: Path, told: bytes) -> None:
    (tmp_path / SPACE_FILE).write_bytes(told)
    assert SpaceGuard(tmp_path, MARKS).measure() is SpaceLevel.ENOUGH


@pytest.mark.usefixtures("disk")
def test_a_listener_told_not_to_heed_the_exporter_does_not(tmp_path: Path) -> None:
    publish_space(tmp_path, {"output": Free(0, 0)}, "too little room for output")
    assert SpaceGuard(tmp_path, MARKS.model_copy(update={"heed_exporter": False})).measure() is SpaceLevel.ENOUGH


def test_marks_that_do_not_rise_are_refused() -> None:
    for files in ({"reject_below_files": 1001}, {"resume_above_files": 999}):
        with pytest.raises(ValueError, match="marks must rise"):
            SpoolSection.model_validate(files)


def test_a_long_queue_is_full(disk: Disk, tmp_path: Path) -> None:
    guard = SpaceGuard(tmp_path, MARKS)
    seen = []
    for pending in (4, 5, None, 0):  # None: not counted this time
        guard.measure(pending)
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
