"""The fault report in little: every kind of fault a few times. `make faults` has the long form and its figures."""

from __future__ import annotations

import collections
import os
import signal
import subprocess
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from listener.spool.spool import Spool
from tests.faults import (
    bad_dicom,
    connects,
    consumer,
    crash_points,
    errors,
    full_disk,
    interruptions,
    members,
    network,
    network_fuzz,
    numbered,
    power_cut,
    privacy,
    shards,
    soak,
    steady,
    volume,
    watchdog,
)
from tests.faults.daemons import Footprint, wait_for
from tests.faults.report import QUICK, Row, attempt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# One after another, on one worker of a parallel run: they measure, and they mount.
pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.slow]

FEW = replace(QUICK, cuts=1, instances_per_cut=15, points=1)


def hold(measure: Callable[[], Row]) -> Row:
    """Run one row; skipped with the reason where this machine does not permit it."""
    row = attempt("-", "-", measure)
    if row.not_run is not None:
        pytest.skip(row.not_run)
    assert not row.violations, "\n".join((row.figure, *row.violations))
    return row


@pytest.mark.parametrize("in_steps", [False, True])
@pytest.mark.parametrize("kind", power_cut.KINDS)
def test_f56_what_the_spool_acknowledged_survives_a_power_cut(tmp_path: Path, kind: str, in_steps: bool) -> None:
    hold(lambda: power_cut.spool_row(tmp_path, kind, 2, in_steps=in_steps))


@pytest.mark.parametrize("kind", power_cut.KINDS)
def test_f56_the_same_power_cut_without_fsync_loses_data_so_the_test_can_fail(tmp_path: Path, kind: str) -> None:
    hold(lambda: power_cut.spool_row(tmp_path, kind, 1, removed="every sync"))


def test_f56_the_whole_product_survives_a_power_cut(tmp_path: Path) -> None:
    hold(lambda: power_cut.product_row(tmp_path, "ext4", FEW))


def test_f54_a_listener_killed_at_a_call_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    with Spool.open(tmp_path / "spool") as spool:
        sync = "sync_file_range" if spool.commit_path.names_follow_files else "fdatasync"
    calls = ("writev", sync, "renameat", "fsync")
    row = hold(lambda: crash_points.listener_points(tmp_path, FEW, damaged=False, calls=calls))
    assert row.injected == len(calls)


def test_f54_an_exporter_killed_between_rename_and_commit_leaves_no_medium_that_nobody_owns(tmp_path: Path) -> None:
    row = hold(lambda: crash_points.exporter_points(tmp_path, FEW, frames=1, calls=("fsync",)))
    assert row.injected == 1


def test_f54_a_backfill_killed_while_it_withdraws_what_a_note_rejects_finishes_at_its_next_start(
    tmp_path: Path,
) -> None:
    row = hold(lambda: crash_points.rejection_points(tmp_path, (3, 5, 7), calls=("fdatasync",)))
    assert row.injected == 3


def test_f55_an_exporter_that_is_killed_in_quick_succession_judges_no_instance(tmp_path: Path) -> None:
    row = hold(lambda: interruptions.kills_row(tmp_path, 3))
    assert row.injected == 3


def test_f50_a_full_disk_under_everything_is_told_and_recovered_from(tmp_path: Path) -> None:
    hold(lambda: full_disk.row(tmp_path, "everything", "disk full", full_disk.no_space, "size=12m", full_disk.NO_MARKS))


def test_f50_an_output_disk_below_its_marks_refuses_and_pauses_and_all_goes_on_by_itself(tmp_path: Path) -> None:
    what, spoil, marks = "disk below its marks", full_disk.little_space, full_disk.MARKS
    hold(lambda: full_disk.row(tmp_path, "output", what, spoil, "size=16m", marks))


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_f53_a_disk_that_turns_read_only_by_an_error_loses_nothing(tmp_path: Path) -> None:
    hold(lambda: full_disk.emergency_row(tmp_path, "spool"))


def test_f52_a_listener_whose_disk_answers_with_errors_answers_its_peers(tmp_path: Path) -> None:
    row = hold(lambda: errors.listener_row(tmp_path, 1, ("EIO",)))
    assert row.injected >= 5


def test_f52_a_large_instance_of_which_any_sync_has_failed_is_not_acknowledged(tmp_path: Path) -> None:
    row = hold(lambda: errors.listener_row(tmp_path, 2, ("EIO",), ("fdatasync",), frames=errors.LARGE))
    assert row.injected == 2, "the second sync of a thread is one that was made while the instance arrived"


def test_f52_an_exporter_whose_disk_is_full_half_way_through_publishing_blames_no_instance(tmp_path: Path) -> None:
    row = hold(lambda: errors.exporter_row(tmp_path, 1, ("ENOSPC",), ("link", "rename")))
    assert row.injected == 2


def test_f30_to_f45_every_mutant_gets_a_named_reason_from_backfill(tmp_path: Path) -> None:
    hold(lambda: bad_dicom.backfill_row(tmp_path, 120))


def test_f30_to_f45_every_mutant_gets_an_answer_from_the_listener(tmp_path: Path) -> None:
    hold(lambda: bad_dicom.listener_row(tmp_path, 12))


def test_f32_the_element_walk_never_raises_and_pieces_make_no_difference() -> None:
    hold(lambda: bad_dicom.walk_row(400))


def test_f80_to_f83_no_planted_token_shows_while_receiving_and_exporting(tmp_path: Path) -> None:
    hold(lambda: privacy.live_row(tmp_path))


def test_f80_to_f83_no_planted_token_shows_in_a_backfill(tmp_path: Path) -> None:
    hold(lambda: privacy.backfill_row(tmp_path))


def test_f88_a_hostile_configuration_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    hold(lambda: privacy.configuration_row(tmp_path))


def test_f89_ever_new_names_make_no_list_of_counters_longer(tmp_path: Path) -> None:
    hold(lambda: privacy.cardinality_row(tmp_path, 300))


def test_f15_associations_at_once_are_answered_and_the_sender_beside_them_never_fails(tmp_path: Path) -> None:
    measure = partial(network.at_once, hosts=1)
    with network.listening(tmp_path) as (product, pid):
        row = hold(lambda: network.row(product, pid, FEW, ("F15", "one address"), measure))
    assert "accepted" in row.figure


def test_f17_to_f23_mutated_pdus_harm_nobody_beside_them(tmp_path: Path) -> None:
    hold(lambda: network_fuzz.fuzz(tmp_path, replace(FEW, pdus=100), threads=4))


def test_f25_broken_and_rejected_associations_leave_nothing_behind(tmp_path: Path) -> None:
    hold(lambda: soak.soak(tmp_path, replace(FEW, soak_instances=200, soak_associations=30)))


def test_a_process_is_measured_together_with_all_that_descend_from_it_and_one_that_ends_is_noticed() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as parent:
        wait_for(lambda: len(Footprint.of_family(parent.pid).processes) == 2, 10, "a child")
        before = Footprint.of_family(parent.pid)
        assert before.threads == 2
        assert before.resident_kb > Footprint.of(parent.pid).resident_kb
        (child,) = before.processes - {parent.pid}
        os.kill(child, signal.SIGKILL)
        parent.wait(10)
    violations: list[str] = []
    soak.flat("it", [before], before, replace(before, processes=frozenset({parent.pid})), violations)
    assert violations == ["it: processes 2 -> 1, 1 have ended"]


def test_a_row_in_which_nothing_was_injected_has_not_held() -> None:
    assert attempt("-", "-", lambda: Row("-", "-", 0, (), "-")).verdict == "VIOLATED"


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_f55_receiving_processes_that_are_killed_take_nothing_along_that_was_acknowledged(tmp_path: Path) -> None:
    row = hold(lambda: members.killed_members(tmp_path, 5))
    assert row.injected == 5


def test_f64_a_listener_that_hangs_falls_silent_and_once_killed_leaves_no_process_behind(tmp_path: Path) -> None:
    hold(lambda: watchdog.row(tmp_path, "listener", "accept4", 2.0, 20.0))


def test_f15_ten_associations_a_second_are_all_served(tmp_path: Path) -> None:
    row = hold(lambda: steady.steady(tmp_path, 2))
    assert row.injected == 20


def test_f25_connections_that_come_to_nothing_leave_nothing_behind(tmp_path: Path) -> None:
    row = hold(lambda: connects.connects(tmp_path, 400))
    assert row.injected == 400


def test_f25_connections_there_was_no_time_for_are_told(tmp_path: Path) -> None:
    row = attempt("-", "-", lambda: connects.connects(tmp_path, 400, longest_s=0.0))
    assert any("of 400 connections in 0 s" in violation for violation in row.violations)


def test_f29_whatever_is_acknowledged_is_found_once_and_to_the_last_byte(tmp_path: Path) -> None:
    row = hold(lambda: volume.volume(tmp_path, 30_000_000))
    assert "storescu" in row.figure
    assert "dcmsend" in row.figure


def test_f29_an_item_that_is_changed_lost_or_there_twice_is_noticed(tmp_path: Path) -> None:
    right, changed, lost, twice = (numbered.uid_of(size, n) for n, size in enumerate((*numbered.SIZES[:2],) * 2))
    files = [numbered.file_of(uid) for uid in (right, changed, twice, twice)]
    files[1] = files[1][:-1000] + bytes(1) + files[1][-999:]
    journal = tmp_path / "journal"
    told = os.open(journal, os.O_WRONLY | os.O_CREAT)
    with Spool.open(tmp_path / "spool") as spool:
        for content in files:
            incoming = spool.receive()
            incoming.write([content])
            incoming.commit()
        assert consumer.consume(spool, told) == len(files)
        assert list(spool.pending()) == []
    os.close(told)
    assert volume.differences(journal, collections.Counter((right, changed, lost, twice))) == [
        "1 items are not what their sender sent",
        "1 acknowledged instances are lost",
        "1 items are there twice, or were never acknowledged",
    ]


def test_f55_kills_in_the_middle_of_a_shard_lose_nothing(tmp_path: Path) -> None:
    hold(lambda: shards.kill_row(tmp_path, 2, 60))


def test_f54_every_crash_point_of_a_shard_is_repaired_by_the_next_run(tmp_path: Path) -> None:
    hold(lambda: shards.points_row(tmp_path, 1, ("writev", "fdatasync", "rename")))


def test_f56_a_power_cut_in_the_middle_of_a_shard_loses_nothing(tmp_path: Path) -> None:
    hold(lambda: shards.power_row(tmp_path, "ext4", 1, 60))
