"""Archives in a run: the same ledger, resume rules, limits on disk and exit as files of a folder."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest
from pydicom.data import get_testdata_file

from exporter.errors import OutOfSpace, Reason
from exporter.inputs.archives.members import BYTES_PER_MEMBER, FREE_MEMBERS
from exporter.inputs.backfill import BackfillRequest, Progress, backfill, plan
from exporter.outcome import Exported, Failed, Skipped
from exporter.results import intents
from exporter.results.ledger import InstanceStatus, Ledger
from exporter.results.reconcile import Folders, reconcile
from exporter.settings.settings import Settings
from tests.exporter.inputs.making import CT, EVERY_KIND, MR, STUDY, header, lines, media, run, tarred, zipped

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
KINDS = {kind: EVERY_KIND[kind] for kind in ("deflated.zip", "pax.tar", "gzip.tgz")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An input folder with archives beside an ordinary file; every kind of them: test_archive_formats."""
    root = tmp_path / "in"
    root.mkdir()
    for kind, make in KINDS.items():
        (root / kind).write_bytes(make(STUDY))
    (root / "plain.dcm").write_bytes(CT)
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def copies(output: Path) -> list[Path]:
    return [path for path in (output / "media" / ".partial").rglob("*") if path.is_file()]


def test_members_are_exported_beside_files_and_mirrored_below_their_archive(folder: Path, out: Path) -> None:
    tally, results = run(folder, out)
    members = [f"{kind}//{name}" for kind in KINDS for name, _ in STUDY]
    assert results.keys() == {*members, *KINDS, "plain.dcm"}
    assert tally.exported == 3 * len(KINDS) + 1
    assert dict(tally.skipped) == {"archive": len(KINDS)}
    assert dict(tally.failed) == {"not_dicom": len(KINDS)}
    assert tally.settled == tally.total == len(results)
    expected = {f"{kind}/study/{name}.png" for kind in KINDS for name in "123"}
    assert set(media(out)) == {*expected, "plain.png"}
    told = {line["dicom_file"]: line["media_file"] for line in lines(out)}
    assert told["deflated.zip//study/2"] == "deflated.zip/study/2.png"
    assert copies(out) == []
    folders = Folders(ledger=out / "exporter.db", media=out / "media", metadata=out / "metadata.jsonl")
    assert reconcile(folders).faults == []


def test_an_archive_ends_after_everything_in_it(folder: Path, out: Path) -> None:
    ended: set[str] = set()
    for published in backfill(BackfillRequest(folder, out, Settings(), workers=2), Progress(), threading.Event()):
        name = published.work.name
        if isinstance(published.outcome, Skipped):
            assert {f"{name}//{member}" for member, _ in STUDY} <= ended
        ended.add(name)


def test_a_second_run_reads_nothing_of_what_is_unchanged(folder: Path, out: Path) -> None:
    first, _ = run(folder, out)
    for path in folder.iterdir():
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
    text = (out / "metadata.jsonl").read_bytes()
    second, results = run(folder, out)
    assert results == {}
    assert second.unchanged == second.settled == second.total == first.settled
    assert second.failed_before == len(KINDS)
    assert {path.name for path in folder.iterdir() if path.stat().st_atime_ns} == set()
    assert (out / "metadata.jsonl").read_bytes() == text


def test_an_archive_given_by_itself_shares_the_names_of_its_folder(folder: Path, out: Path) -> None:
    tally, results = run(folder / "deflated.zip", out)
    assert results.keys() == {"deflated.zip", *(f"deflated.zip//{name}" for name, _ in STUDY)}
    assert tally.total == tally.settled == 5
    again, results = run(folder, out)
    assert again.unchanged == 5
    assert not {name for name in results if name.startswith("deflated.zip")}
    assert run(folder / "gzip.tgz", out)[1] == {}


def test_a_changed_archive_and_other_settings_are_exported_anew_without_second_lines(folder: Path, out: Path) -> None:
    run(folder, out)
    before = len(lines(out))
    os.utime(folder / "pax.tar")
    tally, results = run(folder, out)
    assert results.keys() == {"pax.tar", *(f"pax.tar//{name}" for name, _ in STUDY)}
    assert len(lines(out)) == before
    (folder / "pax.tar").write_bytes(tarred([*STUDY, ("new", MR)]))
    tally, _ = run(folder, out)
    assert tally.exported == 4
    assert len(lines(out)) == before + 1
    other, _ = run(folder, out, image={"extension": ".jpg"})
    assert other.exported == 3 * len(KINDS) + 2


def test_a_run_that_is_told_to_stop_goes_on_inside_an_archive(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    files = [(f"{number:03d}.dcm", CT) for number in range(15)]
    (folder / "a.tar.gz").write_bytes(tarred(files, "w:gz"))
    (folder / "b.zip").write_bytes(zipped(files))
    exported = 0
    for _ in range(20):
        stop, tally = threading.Event(), Progress()
        for published in backfill(BackfillRequest(folder, out, Settings(), workers=1), tally, stop):
            if isinstance(published.outcome, Exported) and tally.exported >= 5:
                stop.set()
        exported += tally.exported
        assert copies(out) == []
        if not stop.is_set():
            break
        with Ledger.open_read_only(out / "exporter.db") as ledger:
            assert ledger.counts().active == 0
    assert exported == len(lines(out)) == len(media(out)) == 30
    assert run(folder, out)[1] == {}


def test_a_killed_run_leaves_copies_that_the_next_start_removes(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.tar").write_bytes(tarred([(f"{number:03d}.dcm", CT) for number in range(60)]))
    arguments = [sys.executable, "-m", "exporter", "backfill", str(folder), "--output", str(out), "--workers", "1"]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (out / "media" / "a.tar" / "005.png").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(100)
    left = [path for path in copies(out) if path.parent.name.startswith("copies-")]
    assert 0 < len(left) <= 16
    assert all(path.name.isdigit() and path.stat().st_mode & 0o777 == 0o600 for path in left)
    assert all(path.parent.stat().st_mode & 0o777 == 0o700 for path in left)
    run(folder, out)
    assert copies(out) == []
    assert len(lines(out)) == len(media(out)) == 60
    assert len({line["dicom_file"] for line in lines(out)}) == 60


def test_copies_take_no_more_room_than_permitted(tmp_path: Path, out: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped([(f"{number:03d}.dcm", CT) for number in range(60)]))
    settings = Settings.model_validate({"archives": {"copies_bytes": 100_000}})
    most = 0
    for _ in backfill(BackfillRequest(archive, out, settings, workers=1), Progress(), threading.Event()):
        most = max(most, sum(path.stat().st_size for path in copies(out) if path.parent.name.startswith("copies-")))
    assert most <= 100_000 + len(CT)
    assert len(media(out)) == 60


def test_a_full_disk_ends_the_run_and_says_nothing_of_the_members(small_disk: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped([(f"{number}.dcm", CT + bytes(300_000)) for number in range(30)]))
    with pytest.raises(OutOfSpace):
        run(archive, small_disk, image={"extension": ".tiff"})
    with Ledger.open_read_only(small_disk / "exporter.db") as ledger:
        counts = ledger.counts()
    assert counts.failed == counts.active == 0
    assert copies(small_disk) == []


def test_nothing_is_written_outside_the_output(tmp_path: Path) -> None:
    names = [
        "../evil1",
        "/abs/evil2",
        "..\\..\\evil3",
        "C:\\evil4",
        "a/../../../evil5",
        "..",
        "/",
        "con",
        "a\nb\x1b",
        "A",
        "a",
    ]
    names += [".partial/x", "study/" + "x" * 300, "\udcff", "exporter.db", "x/../x"]
    inner = tmp_path / "deep" / "in"
    inner.mkdir(parents=True)
    files = [(name.encode("utf-8", "surrogateescape"), CT) for name in names]
    target = io.BytesIO()
    for name, content in files:
        target.write(header(name[:100], len(content)) + content + bytes(-len(content) % 512))
    (inner / "a.tar").write_bytes(target.getvalue() + bytes(1024))
    shown = [(name.encode("ascii", "replace").decode(), CT) for name in names]
    (inner / "b.zip").write_bytes(zipped(shown))
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "deep" / "out"
    tally, results = run(inner, out)
    assert tally.exported == 2 * len(names)
    assert len(results) == tally.settled
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(out) for path in new)
    assert len({name.casefold() for name in media(out)}) == len(media(out)) == 2 * len(names)
    assert all(name.startswith(("a.tar/", "b.zip/")) for name in media(out))
    assert run(inner, out)[1] == {}


def test_a_failed_member_is_tried_again_when_asked_for(tmp_path: Path, out: Path) -> None:
    archive = tmp_path / "a.zip"
    content = bytearray(zipped([("1", CT), ("2", MR)], 0))
    at = content.index(MR) + 3000
    content[at] ^= 1
    archive.write_bytes(content)
    tally, results = run(archive, out)
    assert isinstance(results["a.zip//2"].outcome, Failed)
    assert "CRC-32" in results["a.zip//2"].outcome.message
    assert run(archive, out)[0].failed_before == 1
    with Ledger.open(out / "exporter.db") as ledger:
        assert ledger.retry(name="a.zip//2") == ["a.zip//2"]
    tally, results = run(archive, out)
    assert results.keys() == {"a.zip//2", "a.zip"}
    assert tally.unchanged == 1


def test_an_archive_that_was_cut_fails_and_is_read_again_when_it_is_whole(tmp_path: Path, out: Path) -> None:
    archive = tmp_path / "a.zip"
    whole = zipped([("1", CT), ("2", MR), ("3", CT)], 0)
    archive.write_bytes(whole[: len(whole) - 20_000])
    tally, results = run(archive, out)
    assert tally.exported == 2
    outcome = results["a.zip"].outcome
    assert isinstance(outcome, Failed)
    assert "cut" in outcome.message
    assert run(archive, out)[0].failed_before >= 1
    archive.write_bytes(whole)
    assert isinstance(run(archive, out)[1]["a.zip"].outcome, Skipped)
    with Ledger.open_read_only(out / "exporter.db") as ledger:
        assert ledger.counts().failed == 0


def test_archives_are_files_like_any_other_where_that_is_wanted(folder: Path, out: Path) -> None:
    tally, _ = run(folder, out, archives={"enabled": False})
    assert (tally.exported, dict(tally.failed)) == (1, {"not_dicom": len(KINDS)})


def test_dry_run_tells_of_members_and_writes_nothing(folder: Path, out: Path) -> None:
    steps = {step.name: (step.action, step.detail) for step in plan(BackfillRequest(folder, out, Settings()))}
    assert steps["gzip.tgz//study/1.dcm"] == ("export", "gzip.tgz/study/1")
    assert steps["gzip.tgz//notes.txt"] == ("fail", "not_dicom")
    assert steps["gzip.tgz"] == ("skip", "archive")
    assert not out.exists()
    run(folder, out)
    assert {step.action for step in plan(BackfillRequest(folder, out, Settings()))} == {"unchanged"}


def test_a_dicomdir_in_an_archive_is_one(tmp_path: Path, out: Path) -> None:
    archive = tmp_path / "cd.zip"
    archive.write_bytes(zipped([("DICOMDIR", Path(str(get_testdata_file("DICOMDIR"))).read_bytes()), ("IM1", CT)]))
    tally, _ = run(archive, out)
    assert dict(tally.skipped) == {"archive": 1, "dicomdir": 1}
    assert tally.exported == 1


def test_series_of_archives_become_volumes_as_those_of_folders(tmp_path: Path) -> None:
    slices: list[tuple[str, bytes]] = []
    for number in range(4):
        dataset = pydicom.dcmread(io.BytesIO(CT))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        dataset.ImagePositionPatient = [0, 0, number * 2]
        target = io.BytesIO()
        dataset.save_as(target)
        slices.append((f"s/{number}.dcm", target.getvalue()))
    made = []
    for name, content in (("a.zip", zipped(slices)), ("a.tar.gz", tarred(slices, "w:gz")), ("plain", None)):
        folder, out = tmp_path / f"in-{name}", tmp_path / f"out-{name}"
        folder.mkdir()
        if content is None:
            for number, (_, one) in enumerate(slices):
                (folder / str(number)).write_bytes(one)
        else:
            (folder / name).write_bytes(content)
        tally, _ = run(folder, out, volume={"series": True})
        assert tally.series is not None
        assert tally.series.written == 1
        (volume,) = (out / "series").rglob("*.nii.gz")
        made.append(volume.read_bytes())
        assert copies(out) == []
    assert made[0] == made[1] == made[2]


def test_the_command_takes_an_archive_and_its_exit_code_tells_of_failures(tmp_path: Path) -> None:
    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "exporter", "backfill", *map(str, arguments), "--workers", "1"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            cwd=ROOT,
        )

    good, bad = tmp_path / "good.zip", tmp_path / "bad.tar"
    good.write_bytes(zipped([("1", CT)]))
    bad.write_bytes(tarred([("1", CT)])[:30_000])
    done = command(good, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "exported 1; skipped 1 (archive 1)" in done.stdout
    failed = command(bad, "--output", tmp_path / "out2")
    assert failed.returncode == 3
    assert "failed 2 (unreadable 2)" in failed.stdout
    (tmp_path / "file").write_text("neither")
    refused = command(tmp_path / "file", "--output", tmp_path / "out3")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "out3").exists()


def test_links_to_archives_are_not_followed(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "a.zip").write_bytes(zipped([("1", CT)]))
    (folder / "link.zip").symlink_to(tmp_path / "a.zip")
    tally, _ = run(folder, out)
    assert dict(tally.skipped) == {"not_regular": 1}


@pytest.mark.parametrize("make", [zipped, tarred])
def test_thousands_of_members_are_read_in_time(
    make: Callable[[list[tuple[str, bytes]]], bytes], tmp_path: Path, out: Path
) -> None:
    count = int(os.environ.get("EXPORTER_TEST_MEMBERS", "500"))
    archive = tmp_path / "many"
    archive.write_bytes(make([(f"{number // 100}/{number}", b"no DICOM") for number in range(count)]))
    started = time.monotonic()
    tally, _ = run(archive, out)
    assert tally.failed["not_dicom"] == count
    assert time.monotonic() - started < max(30.0, count / 200)
    started = time.monotonic()
    assert run(archive, out)[0].unchanged == count + 1
    assert time.monotonic() - started < max(5.0, count / 5000)
    shutil.rmtree(out)


def test_states_are_final_for_members_too(folder: Path, out: Path) -> None:
    run(folder, out)
    with Ledger.open_read_only(out / "exporter.db") as ledger:
        assert {entry.source for entry in ledger.entries(InstanceStatus.EXPORTED)} == {"folder"}
        assert not list(ledger.entries(InstanceStatus.DEFERRED))


def test_what_is_promised_for_a_member_is_found_again(tmp_path: Path) -> None:
    folder = tmp_path / ".partial" / "1-1"
    folder.mkdir(parents=True)
    promised = intents.Intent("a.zip//./b//2", ("a.zip/b.png",))
    intents.record(folder, promised)
    assert list(intents.pending(tmp_path)) == [promised]


def test_an_archive_has_members_in_proportion_to_its_size(tmp_path: Path, out: Path) -> None:
    """Empty members pack so well that a small file would hold a machine for minutes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for number in range(12_000):
            archive.addfile(tarfile.TarInfo(str(number)))
    root = tmp_path / "in"
    root.mkdir()
    (root / "many.tar.xz").write_bytes(buffer.getvalue())
    most = FREE_MEMBERS + len(buffer.getvalue()) // BYTES_PER_MEMBER
    assert most < 12_000
    tally, results = run(root, out)
    outcome = results["many.tar.xz"].outcome
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.TOO_LARGE
    assert str(most) in outcome.message
    assert tally.failed["not_dicom"] == most, "those before have outcomes of their own"
