"""A start of a batch goes on where all earlier ones ended, and touches nothing on a host that differs."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.batches import journal
from exporter.batches.journal import BEGUN, ENDED, FINISHED, BatchJournal, entry_for, new_run, run_folder, runs_of, scan
from exporter.batches.merging import MergeStopped, merge
from exporter.batches.plan import BatchPlan, BatchUnusable, make_plan
from exporter.batches.rounds import RoundState, next_round, progress_of
from exporter.batches.running import is_complete, run_batch
from exporter.batches.view import look_at
from exporter.commands import CommandError
from exporter.commands.batch import INDEXES, index_of_task
from exporter.inputs.backfill import Progress
from exporter.results.ledger.types import WorkItem
from tests.exporter.batches.conftest import CT, MR, assert_sound, request, result_of, run_locally

if TYPE_CHECKING:
    from exporter.batches.running import BatchEnd

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files with one stem, a third, and one that is no DICOM."""
    root = tmp_path / "in"
    root.mkdir()
    for name, content in (("a.dcm", CT.read_bytes()), ("a.ima", MR.read_bytes()), ("b", CT.read_bytes()), ("c", b"")):
        (root / name).write_bytes(content)
    return root


def run(plan: BatchPlan, number: int = 1, stop: threading.Event | None = None) -> BatchEnd:
    return run_batch(plan, number, workers=0, progress=Progress(), stop=stop or threading.Event())


def events(batch: Path, run: int) -> list[tuple[str, str]]:
    return [(one.event, one.header.get("name", "")) for one in scan(batch, run)]


def stopped_after(plan: BatchPlan, outcomes: int) -> None:
    """One start that is asked to stop when so many instances are finished."""
    stop, progress = threading.Event(), Progress()

    class Stopping(Progress):
        def add(self, *arguments: Any) -> None:
            super().add(*arguments)
            if self.settled >= outcomes:
                stop.set()

    progress = Stopping()
    assert not run_batch(plan, 1, workers=0, progress=progress, stop=stop).is_complete


def test_a_start_that_was_stopped_is_continued_and_nothing_is_exported_twice(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(request(folder, tmp_path / "out"), 1)
    batch = plan.folder_of(1)
    stopped_after(plan, 1)
    assert not is_complete(batch)
    before = {name for event, name in events(batch, 1) if event == FINISHED}
    assert before
    assert run(plan).is_complete
    assert is_complete(batch)
    after = {name for event, name in events(batch, 2) if event == FINISHED}
    assert before | after == {"a.dcm", "a.ima", "b", "c"}
    assert not before & after
    assert run(plan).is_complete
    assert runs_of(batch) == [1, 2], "a batch that is complete starts no more"
    merge(tmp_path / "out")
    run_locally(folder, tmp_path / "local")
    assert result_of(tmp_path / "out") == result_of(tmp_path / "local")


def test_an_attempt_is_in_the_journal_before_it_begins_and_its_interruption_is_counted(
    folder: Path, tmp_path: Path
) -> None:
    plan = make_plan(request(folder, tmp_path / "out"), 1)
    batch = plan.folder_of(1)
    about = (folder / "b").stat()
    for _ in range(5):  # the process ends in the middle of the instance, each time
        number = new_run(batch)
        with BatchJournal(run_folder(batch, number)) as written:
            work = WorkItem("b", Path(), about.st_size, about.st_mtime_ns, "folder", "b")
            written.append((entry_for(BEGUN, work, (2, 0)), b""))
    assert progress_of(batch) == (5, 0)
    assert run(plan).is_complete
    entries = [one for one in scan(batch, 6) if one.event == FINISHED]
    said = dict(zip((one.name for one in entries), map(json.loads, journal.outcomes(batch, entries)), strict=True))
    assert said["b"]["status"] == "failed"
    assert "given up" in said["b"]["message"]
    assert said["a.dcm"]["status"] == "exported"


def test_a_start_that_was_thought_dead_does_no_harm(folder: Path, tmp_path: Path) -> None:
    for attempt in range(50):  # until the names of both starts differ, as those of an orphan that works on do
        out = tmp_path / f"out{attempt}"
        plan = make_plan(request(folder, out), 1)
        stopped_after(plan, 1)
        orphan, second = (run_folder(plan.folder_of(1), number) for number in (1, 2))
        lines = (orphan / "journal").read_bytes()
        assert run(plan).is_complete
        copies = {path: orphan / path.relative_to(second) for path in (second / "media").rglob("*") if path.is_file()}
        if not any(target.exists() for target in copies.values()):
            break
    # The orphan finishes all that the second start has finished.
    (orphan / "journal").write_bytes(lines + (second / "journal").read_bytes())
    for path, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    merge(out)
    run_locally(folder, tmp_path / "local")
    assert result_of(out) == result_of(tmp_path / "local")
    assert_sound(out)


def test_a_torn_line_costs_its_instance_another_attempt_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(request(folder, tmp_path / "out"), 1)
    stopped_after(plan, 1)
    path = run_folder(plan.folder_of(1), 1) / "journal"
    text = path.read_bytes()
    finished = [line for line in text.splitlines(keepends=True) if b'"finished"' in line]
    path.write_bytes(text.replace(finished[-1], finished[-1].replace(b"status", b"statuS")) + b"0000 half")
    assert run(plan).is_complete
    merge(tmp_path / "out")
    run_locally(folder, tmp_path / "local")
    assert result_of(tmp_path / "out") == result_of(tmp_path / "local")


@pytest.mark.parametrize("difference", ["version", "input", "units"])
def test_a_host_that_differs_refuses_and_says_why_where_status_shows_it(
    folder: Path, tmp_path: Path, difference: str
) -> None:
    plan = make_plan(request(folder, tmp_path / "out"), 1)
    path = plan.root / "plan.json"
    said = json.loads(path.read_bytes())
    if difference == "version":
        said["version"] = "0.0.0"
    elif difference == "input":
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()
        (folder / "other").touch()
    else:
        (plan.root / "units-1").write_text("[]")
    path.write_text(json.dumps(said))
    plan = BatchPlan.read(tmp_path / "out")
    with pytest.raises(BatchUnusable) as refused:
        run(plan)
    assert runs_of(plan.folder_of(1)) == []
    ((sentence, number),) = look_at(plan).refusals.items()
    assert str(refused.value) in sentence
    assert number == 1


def test_files_that_changed_or_are_gone_since_the_plan_have_an_outcome_each(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(request(folder, tmp_path / "out"), 2)
    (folder / "b").unlink()
    (folder / "a.dcm").write_bytes(MR.read_bytes())
    for batch in plan.batches:
        assert run(plan, batch.number).is_complete
    report = merge(tmp_path / "out")
    assert (report.exported, dict(report.failed)) == (2, {"unreadable": 1, "not_dicom": 1})
    assert make_plan(request(folder, tmp_path / "out")).units == 0


def test_batches_that_make_no_progress_are_stuck(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(request(folder, tmp_path / "out"), 2)
    state = RoundState("processes", max_rounds=5)
    state.claim(plan)
    assert next_round(plan, state) == [1, 2]
    assert run(plan, 2).is_complete
    with BatchJournal(run_folder(plan.folder_of(1), new_run(plan.folder_of(1)))) as written:
        written.append((entry_for(BEGUN, WorkItem("a.dcm", Path(), 0, 0, "folder", "a.dcm"), (0, 0)), b""))
    assert next_round(plan, state) == [1], "an interrupted attempt is counted, and ends after some times"
    assert next_round(plan, state) == [1], "a start that never began says nothing"
    with BatchJournal(run_folder(plan.folder_of(1), new_run(plan.folder_of(1)))) as written:
        written.append(({"event": ENDED, "complete": False}, b""))
    assert next_round(plan, state) == []
    assert state.stuck == [1]
    again = RoundState.read(plan)
    assert again == state
    view = look_at(plan)
    assert (view.done, view.running, view.waiting, view.stuck) == (1, 0, 0, [1])


def test_incomplete_batches_are_merged_only_on_demand_and_planned_anew(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(request(folder, tmp_path / "out"), 2)
    assert run(plan, 2).is_complete
    with pytest.raises(BatchUnusable, match="1 of 2 batches"):
        merge(tmp_path / "out")
    report = merge(tmp_path / "out", incomplete=True)
    assert report.left == [1]
    plan = make_plan(request(folder, tmp_path / "out"))
    assert run(plan).is_complete
    merge(tmp_path / "out")
    assert_sound(tmp_path / "out")
    assert len((tmp_path / "out" / "metadata.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(("variable", "scheduler", "offset"), INDEXES)
def test_the_number_of_a_batch_comes_from_the_scheduler(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheduler: str, offset: int
) -> None:
    for other, _, _ in INDEXES:
        monkeypatch.delenv(other, raising=False)
    with pytest.raises(CommandError, match=variable):
        index_of_task()
    monkeypatch.setenv(variable, "7")
    assert index_of_task() == 7 + offset, scheduler
    monkeypatch.setenv(variable, "undefined")  # what SGE sets for a job that is no array
    with pytest.raises(CommandError):
        index_of_task()


def test_a_merge_that_is_asked_to_stop_is_finished_by_the_next(folder: Path, tmp_path: Path) -> None:
    class Stopping(threading.Event):
        """Set when somebody has looked at it some times."""

        def is_set(self) -> bool:
            self.looks = getattr(self, "looks", -1) + 1
            return self.looks >= after

    run_locally(folder, tmp_path / "local")
    for after in range(10):
        output = tmp_path / f"out{after}"
        plan = make_plan(request(folder, output), 1)
        assert run(plan).is_complete
        try:
            merge(output, stop=Stopping())
            break
        except MergeStopped:
            assert not (plan.root / "merged.json").exists()
        merge(output)
        assert result_of(output) == result_of(tmp_path / "local")
        assert_sound(output)
    assert after >= 3, "before the moves, amid them, and before the lines"


# -- the merge, cut off at every rename ------------------------------------------------------------------------------

CUT: list[int] = []
"""Renames until the next one fails; empty: none does."""


class _Cut(BaseException):
    pass


def cut_off(event: str, arguments: tuple[Any, ...]) -> None:  # noqa: ARG001 - the shape of an audit hook
    if event == "os.rename" and CUT:
        CUT[0] -= 1
        if CUT[0] < 0:
            CUT.clear()
            raise _Cut


def test_a_merge_that_is_cut_off_anywhere_is_finished_by_the_next(folder: Path, tmp_path: Path) -> None:
    sys.addaudithook(cut_off)
    run_locally(folder, tmp_path / "local")
    wanted = result_of(tmp_path / "local")
    for cut in range(100):
        output = tmp_path / f"out{cut}"
        plan = make_plan(request(folder, output), 1)
        assert run(plan).is_complete
        CUT[:] = [cut]
        was_cut = True
        with suppress(_Cut):
            merge(output)
            was_cut = False
        CUT.clear()
        if (output / "batches" / "merge").is_dir():
            with pytest.raises(Exception, match="exporter batch merge"):
                run_locally(folder, output)
        merge(output)
        assert result_of(output) == wanted
        assert_sound(output)
        assert not any(path.name.isdigit() for path in (output / "batches").iterdir())
        if not was_cut:
            assert cut > 5, "the test has cut something off"
            assert list((output / "media" / ".partial").iterdir()) == []
            return


@pytest.mark.slow
def test_signals_of_a_parents_many_threads_end_a_batch_once(folder: Path, tmp_path: Path) -> None:
    plan = make_plan(request(folder, tmp_path / "out"), 1)
    command = [sys.executable, "-m", "exporter", "batch", "run", str(plan.output), "1"]
    for run in (1, 2, 3):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            status = run_folder(plan.folder_of(1), run) / "status.json"
            deadline = time.monotonic() + 100
            while not status.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            for _ in range(20):
                process.terminate()
                time.sleep(0.005)
            code = process.wait(100)
        if code == 0:
            break
        assert code == 130
    assert run_batch(plan, 1, workers=0, progress=Progress(), stop=threading.Event()).is_complete
