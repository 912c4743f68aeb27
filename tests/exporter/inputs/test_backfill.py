"""A folder is exported file by file, every entry accounted for; stopping and running again are harmless."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pydicom
import pytest
from pydicom.data import get_testdata_file

import exporter
from exporter.errors import OutOfSpace, Reason, SkipReason
from exporter.inputs.backfill import BackfillRequest, InputUnusable, Progress, backfill, plan, reader_of
from exporter.inputs.scratch import Scratch
from exporter.inputs.walk import count, walk
from exporter.outcome import Exported, Failed
from exporter.results.intents import MediaFolderUnusable
from exporter.results.ledger import InstanceStatus, Ledger, LedgerUnusable
from exporter.results.metadata.jsonl import MetadataFileUnusable
from exporter.settings.settings import Settings
from tests.exporter.inputs.making import Nothing
from tests.exporter.ledger_rows import begin, finish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.work.contract import PublishedResult

ROOT = Path(__file__).parents[3]
CT, MR, CINE = (
    Path(str(get_testdata_file(name))) for name in ("CT_small.dcm", "MR_small.dcm", "examples_ybr_color.dcm")
)


def run(folder: Path, output: Path, **sections: Any) -> tuple[Progress, dict[str, PublishedResult]]:
    """One whole run; its tally and its results by name."""
    tally = Progress()
    request = BackfillRequest(folder, output, Settings.model_validate(sections), workers=1)
    results = {one.work.name: one for one in backfill(request, tally, threading.Event())}
    return tally, results


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metadata.jsonl").read_text().splitlines()]


def media(output: Path) -> list[str]:
    root = output / "media"
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "exporter", "backfill", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        **options,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with real files under any name, and with what is none."""
    root = tmp_path / "in"
    for name, source in (("ct", CT), ("a/b/MR.dcm", MR), ("a/b/MR.IMA", CT), ("a/cine.weird", CINE)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / name)
    (root / "notes.txt").write_text("not DICOM")
    (root / "empty.dcm").touch()
    (root / "link").symlink_to(CT)
    os.mkfifo(root / "a" / "pipe")
    shutil.copy(str(get_testdata_file("DICOMDIR-empty.dcm")), root / "DICOMDIR")
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_every_entry_is_accounted_for_and_media_mirror_the_tree(tree: Path, out: Path) -> None:
    tally, results = run(tree, out)
    fuller = {"a/b/MR.IMA.png", "a/b/MR.dcm.png"}  # the one that comes second keeps its extension
    assert len(fuller & set(media(out))) == 1
    assert set(media(out)) - fuller == {"a/b/MR.png", "a/cine.weird.mp4", "ct.png"}
    assert tally.exported == len(lines(out)) == 4
    assert dict(tally.skipped) == {SkipReason.NOT_REGULAR: 2, SkipReason.DICOMDIR: 1}
    assert dict(tally.failed) == {Reason.NOT_DICOM: 2}
    assert tally.settled == tally.total == len(results) == 9
    assert {line["dicom_file"] for line in lines(out)} == {"ct", "a/b/MR.dcm", "a/b/MR.IMA", "a/cine.weird"}


def test_a_second_run_exports_nothing_reads_nothing_and_remembers_what_failed(tree: Path, out: Path) -> None:
    run(tree, out)
    before = {name: (out / "media" / name).stat().st_mtime_ns for name in media(out)}
    text = (out / "metadata.jsonl").read_bytes()
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, ns=(0, path.stat().st_mtime_ns))
    tally, results = run(tree, out)
    assert results == {}
    assert (tally.unchanged, tally.failed_before, tally.settled) == (9, 2, 9)
    assert {name: (out / "media" / name).stat().st_mtime_ns for name in media(out)} == before
    assert (out / "metadata.jsonl").read_bytes() == text
    assert (tree / "ct").stat().st_atime_ns == 0, "it was not read"


def test_a_rerun_asks_the_ledger_for_many_files_at_once(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(300):
        (folder / f"{number}").touch()
    run(folder, out)
    asked: list[int] = []

    def inputs(ledger: Ledger, names: Sequence[str], real: Any = Ledger.inputs) -> Any:
        asked.append(len(names))
        return real(ledger, names)

    monkeypatch.setattr(Ledger, "inputs", inputs)
    tally, results = run(folder, out)
    assert (tally.unchanged, results) == (300, {})
    assert sum(asked) == 300
    assert len(asked) < 10


def test_an_entry_has_the_attributes_that_its_file_has_when_its_turn_comes(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).touch()
    with Scratch(tmp_path / "copies", 1 << 20) as scratch:
        entries = reader_of(BackfillRequest(folder, out, Settings())).entries(Nothing(), scratch)
        next(entries)
        (folder / "b").write_bytes(bytes(1000))
        assert next(entries).size_bytes == 1000


def test_what_is_new_or_changed_is_exported_and_nothing_else(tree: Path, out: Path) -> None:
    run(tree, out)
    shutil.copy(MR, tree / "new.dcm")
    shutil.copy(MR, tree / "ct")
    shutil.copy(MR, tree / "empty.dcm")
    tally, results = run(tree, out)
    assert results.keys() == {"new.dcm", "ct", "empty.dcm"}
    assert tally.exported == 3
    assert len(lines(out)) == 7
    assert tally.failed_before == 1


def test_a_file_that_was_only_touched_gets_no_second_line(tree: Path, out: Path) -> None:
    run(tree, out)
    os.utime(tree / "ct")
    _, results = run(tree, out)
    assert results.keys() == {"ct"}
    assert len(lines(out)) == 4


def test_other_settings_export_anew_in_place(tree: Path, out: Path) -> None:
    run(tree, out)
    tally, _ = run(tree, out, image={"extension": ".jpg"})
    assert tally.exported == 4
    assert "ct.jpg" in media(out)
    assert "ct.png" not in media(out)


def test_the_input_is_left_as_it_was(tree: Path, out: Path) -> None:
    def state() -> dict[str, tuple[int, int, int]]:
        found = {str(p): p.lstat() for p in tree.rglob("*")}
        return {name: (one.st_mode, one.st_size, one.st_mtime_ns) for name, one in found.items()}

    before = state()
    run(tree, out)
    assert state() == before


def test_the_output_may_lie_inside_the_input_or_be_it(tree: Path) -> None:
    first, _ = run(tree, tree / "out")
    second, results = run(tree, tree / "out")
    assert first.settled == second.settled == 9
    assert results == {}
    same, _ = run(tree, tree)
    assert same.settled == 9 + len([p for p in (tree / "out").rglob("*") if p.is_file()])


def test_two_files_of_one_instance_are_both_exported_and_the_later_is_flagged(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(CT, folder / "1.dcm")
    shutil.copy(CT, folder / "2.dcm")
    changed = pydicom.dcmread(CT)
    changed.PatientID = "another"
    changed.save_as(folder / "3.dcm")
    run(folder, out)
    assert media(out) == ["1.png", "2.png", "3.png"]
    flags = {line["dicom_file"]: line["export"] for line in lines(out)}
    assert sum(flag["duplicate_of"] is not None for flag in flags.values()) == 1
    assert flags["3.dcm"]["duplicate_of"] is None
    assert flags["3.dcm"]["conflict_with"] is not None or flags["1.dcm"]["conflict_with"] == "3.dcm"


def test_a_ledger_whose_log_is_removed_ends_the_run_and_the_next_one_goes_on(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(40):  # more than are under way at once
        shutil.copy(CT, folder / f"{number:02}")
    results = backfill(BackfillRequest(folder, out, Settings(), workers=1), Progress(), threading.Event())
    next(results)
    (out / "exporter.db-wal").unlink()
    with pytest.raises(LedgerUnusable, match="was removed while it was in use; what was in it is saved"):
        list(results)
    tally, _ = run(folder, out)
    assert tally.unchanged > 0
    assert tally.unchanged + tally.exported == 40
    assert len(lines(out)) == 40


def test_names_that_are_no_text_are_exported_under_safe_ones(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(CT, os.fsencode(folder) + b"/J\xfcrgen.dcm")
    shutil.copy(MR, folder / ("x" * 250))
    tally, _ = run(folder, out)
    assert tally.exported == 2
    assert sum(name.startswith("J_rgen~") for name in media(out)) == 1
    assert "J\\xfcrgen.dcm" in {line["dicom_file"] for line in lines(out)}
    assert run(folder, out)[0].unchanged == 2


def test_only_the_folder_itself_where_that_is_wanted(tree: Path, out: Path) -> None:
    tally, _ = run(tree, out, dicom={"recursive": False})
    assert tally.settled == 5
    assert media(out) == ["ct.png"]


def test_a_run_that_is_told_to_stop_goes_on_the_next_time(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(60):
        shutil.copy(CT, folder / f"{number:02d}.dcm")
    stop, tally = threading.Event(), Progress()
    for _ in backfill(BackfillRequest(folder, out, Settings(), workers=1), tally, stop):
        stop.set()
    assert 0 < tally.exported < 60
    ledger = Ledger.open_read_only(out / "exporter.db")
    assert ledger.counts().active == 0
    assert all(entry.attempts == 0 for entry in ledger.entries(InstanceStatus.DEFERRED))
    ledger.close()
    rest, _ = run(folder, out)
    assert rest.exported + tally.exported == 60
    assert len(lines(out)) == len(media(out)) == 60


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_ends_the_command_cleanly_and_the_same_command_goes_on(
    tmp_path: Path, out: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for one in range(150):
        shutil.copy(CT, folder / f"{one:03d}.dcm")
    arguments = [sys.executable, "-m", "exporter", "backfill", str(folder), "--output", str(out), "--workers", "1"]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not (out / "media" / "000.png").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    if number == signal.SIGTERM:
        process.send_signal(number)  # a further one changes nothing
    said, complained = process.communicate(timeout=100)
    assert process.returncode == 130, complained
    assert "Traceback" not in complained
    done = len(lines(out))
    assert 0 < done < 150
    assert len(media(out)) == done
    assert "exported" in said
    again = command(folder, "--output", out)
    assert again.returncode == 0, again.stderr
    assert len(lines(out)) == len(media(out)) == 150
    assert len({line["dicom_file"] for line in lines(out)}) == 150


def test_what_cannot_run_is_one_sentence_a_code_and_no_change(tree: Path, tmp_path: Path) -> None:
    absent = command(tmp_path / "absent", "--output", tmp_path / "new")
    assert (absent.returncode, absent.stdout) == (2, "")
    assert absent.stderr.count("\n") == 1
    assert "does not exist" in absent.stderr
    assert not (tmp_path / "new").exists()

    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    refused = command(tree, "--output", blocked)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "metadata.jsonl").write_text('{"not": "ours"}\n')
    strange = command(tree, "--output", foreign)
    assert strange.returncode == 1
    assert "metadata.append" in strange.stderr
    assert [p.name for p in foreign.iterdir()] == ["metadata.jsonl"]


def test_each_condition_has_a_class_of_its_own(tree: Path, tmp_path: Path, out: Path) -> None:
    with pytest.raises(InputUnusable):
        run(tmp_path / "absent", out)
    with pytest.raises(InputUnusable):
        run(tree / "ct", out)
    assert not out.exists()
    (tmp_path / "file").touch()
    with pytest.raises((MediaFolderUnusable, LedgerUnusable)):
        run(tree, tmp_path / "file")
    out.mkdir()
    (out / "metadata.jsonl").write_text("{}\n")
    with pytest.raises(MetadataFileUnusable):
        run(tree, out)
    (out / "metadata.jsonl").unlink()
    run(tree, out)
    with Ledger.open(out / "exporter.db"), pytest.raises(LedgerUnusable, match="another exporter"):
        run(tree, out)
    with pytest.raises(InputUnusable, match="media folder"):
        run(out / "media" / "a", out)


def test_two_runs_with_one_media_folder_do_not_work_at_once(tree: Path, tmp_path: Path) -> None:
    shared = {"media": {"dir": str(tmp_path / "shared")}}
    first = exporter.backfill(tree, tmp_path / "one", Settings.model_validate(shared), workers=1)
    next(first)
    with pytest.raises(MediaFolderUnusable, match="another exporter"):
        run(tree, tmp_path / "two", **shared)
    assert all(not isinstance(one, Failed) or one.reason is not Reason.INTERNAL for one in first)
    run(tree, tmp_path / "two", **shared)


def test_a_full_disk_ends_the_run_and_a_rerun_goes_on(small_disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(80):
        shutil.copy(CT, folder / f"{number}.dcm")
    with pytest.raises(OutOfSpace):
        run(folder, small_disk, image={"extension": ".tiff"})
    with Ledger.open_read_only(small_disk / "exporter.db") as ledger:
        assert ledger.counts().failed == 0


def test_dry_run_tells_and_writes_nothing(tree: Path, out: Path) -> None:
    request = BackfillRequest(tree, out, Settings())
    steps = {step.name: (step.action, step.detail) for step in plan(request)}
    assert steps["a/b/MR.dcm"] == ("export", "a/b/MR")
    assert steps["notes.txt"] == ("fail", "not_dicom")
    assert steps["link"] == ("skip", "not_regular")
    assert steps["DICOMDIR"] == ("skip", "dicomdir")
    assert not out.exists()
    run(tree, out)
    assert {step.action for step in plan(request)} == {"unchanged"}


def test_a_file_that_may_be_read_now_is_tried_again_and_other_failures_are_not(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("was-closed", "damaged", "no-dicom"):
        (folder / name).write_bytes(CT.read_bytes()[: 3000 if name == "damaged" else None])
    (folder / "no-dicom").write_bytes(b"text")
    run(folder, out)
    sha256 = Settings().settings_sha256
    about = (folder / "was-closed").stat()
    with Ledger.open(out / "exporter.db") as ledger:  # as it is where the user may not read: root may
        name = "was-closed"
        begin(ledger, name, size_bytes=about.st_size, mtime_ns=about.st_mtime_ns)
        failed = InstanceStatus.FAILED
        finish(ledger, name, state=failed, reason="unreadable", message="EACCES", settings_sha256=sha256)
    unchanged, results = run(folder, out)
    assert (unchanged.unchanged, results) == (3, {})
    for path in folder.iterdir():
        path.chmod(0o640)
    _, results = run(folder, out)
    assert results.keys() - {"damaged"} == {"was-closed"}
    assert isinstance(results["was-closed"].outcome, Exported)
    assert (folder / "was-closed").stat().st_mtime_ns == about.st_mtime_ns


def test_a_folder_that_can_be_read_again_is_no_failure_any_more(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    (folder / "closed").mkdir(parents=True)
    shutil.copy(CT, folder / "closed" / "1.dcm")
    run(folder, out)
    with Ledger.open(out / "exporter.db") as ledger:
        for name in ("closed/", "gone/"):
            begin(ledger, name, size_bytes=0, mtime_ns=0)
            finish(ledger, name, state=InstanceStatus.FAILED, reason="unreadable", message="closed")
    _, results = run(folder, out)
    assert results.keys() == {"closed/"}
    with Ledger.open_read_only(out / "exporter.db") as ledger:
        assert [entry.name for entry in ledger.entries(InstanceStatus.FAILED)] == ["gone/"]
    assert run(folder, out)[1] == {}


def test_a_path_of_windows_is_said_to_be_one(tmp_path: Path, out: Path) -> None:
    for path in ("D:\\studies", "d:/studies", "\\\\server\\share", "E:"):
        with pytest.raises(InputUnusable, match="Windows"):
            run(Path(path), out)
    odd = tmp_path / "D:\\studies"
    odd.mkdir()
    shutil.copy(CT, odd / "1.dcm")
    assert run(odd, out)[0].exported == 1


def test_no_worker_process_where_none_is_wanted(tree: Path, out: Path) -> None:
    tally = Progress()
    results = list(backfill(BackfillRequest(tree, out, Settings(), workers=0), tally, threading.Event()))
    assert tally.exported == 4
    assert len(results) == 9


def test_a_crash_in_one_file_is_retried_once_and_costs_that_file_alone(tree: Path, out: Path) -> None:
    tally, results = run(tree, out, limits={"wall_s": 600, "cpu_s": 0.001, "attempts": 2})
    assert tally.failed.total() + tally.exported + tally.skipped.total() == 9
    timeouts = [one for one in results.values() if isinstance(one.outcome, Failed) and one.outcome.may_pass]
    with Ledger.open_read_only(out / "exporter.db") as ledger:
        for one in timeouts:
            entry = ledger.entry(one.work.name)
            assert entry is not None
            assert entry.attempts == 2


# -- as a library ----------------------------------------------------------------------------------------------------


def test_both_functions_work_from_a_plain_script_without_a_guard(tree: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import exporter

        outcome = exporter.export_file({str(CINE)!r}, "one")
        print(type(outcome).__name__, outcome.media[0].file)
        for outcome in exporter.backfill({str(tree)!r}, "all", workers=2):
            print(outcome.status)
        import exporter.inputs.backfill
        assert callable(exporter.backfill)
        """)
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.splitlines()
    assert first == "Exported examples_ybr_color.mp4"
    assert sorted(others) == ["exported"] * 4 + ["failed"] * 2 + ["skipped"] * 3
    assert media(tmp_path / "one") == ["examples_ybr_color.mp4"]


def test_one_file_again_is_harmless_and_one_name_in_two_folders_is_two_files(tmp_path: Path, out: Path) -> None:
    other = tmp_path / "other" / CT.name
    other.parent.mkdir()
    shutil.copy(MR, other)
    names = []
    for path in (CT, CT, other):
        outcome = exporter.export_file(path, out)
        assert isinstance(outcome, Exported)
        names.append(outcome.media[0].file)
    assert names == ["CT_small.png", "CT_small.png", "CT_small.dcm.png"]
    assert len(lines(out)) == 2
    roundabout = exporter.export_file(CT.parent / ".." / CT.parent.name / CT.name, out)
    assert isinstance(roundabout, Exported)
    assert roundabout.media[0].file == "CT_small.png"
    absent = exporter.export_file(tmp_path / "absent", out)
    assert isinstance(absent, Failed)
    assert "not there" in absent.message
    assert absent.reason is Reason.UNREADABLE


def test_an_iteration_that_is_given_up_leaves_no_process_and_no_lock(tree: Path, out: Path) -> None:
    before = psutil.Process().children(recursive=True)
    iteration = exporter.backfill(tree, out)
    next(iteration)
    assert len(psutil.Process().children(recursive=True)) > len(before)
    iteration.close()  # type: ignore[attr-defined]  # a generator, said to be an iterator
    assert psutil.Process().children(recursive=True) == before
    rest = list(exporter.backfill(tree, out))
    assert all(outcome.name is not None for outcome in rest)
    assert len(rest) <= 8, "what was finished, seen or not, is finished"
    with Ledger.open_read_only(out / "exporter.db") as ledger:
        counts = ledger.counts()
    assert (counts.exported, counts.skipped, counts.failed) == (4, 3, 2)


def test_an_output_folder_that_is_made_while_the_input_is_walked_is_no_input(tree: Path) -> None:
    settings = Settings()
    request = BackfillRequest(tree, tree / "new", settings)
    outputs = request.target.outputs_below(tree.resolve())  # before there is any output
    before = [found.name for found in walk(tree.resolve(), outputs)]
    (tree / "new" / "media" / ".partial").mkdir(parents=True)
    (tree / "new" / "media" / ".partial" / "owner").symlink_to("nowhere")
    (tree / "new" / "media" / "a.png").write_bytes(b"picture")
    assert [found.name for found in walk(tree.resolve(), outputs)] == before
    assert list(count(tree.resolve(), outputs))[-1] == len(before)
