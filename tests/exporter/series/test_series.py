"""Whole series as volumes: at the end of a backfill, and when an arriving series has been quiet for a while."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import orjson
import pytest
from pydicom import dcmread

from exporter.commands.app import main
from exporter.errors import OutOfSpace
from exporter.inputs import backfill
from exporter.inputs.backfill import BackfillRequest, Progress
from exporter.outcome import Exported, MediaType
from exporter.results.reconcile import Folders, reconcile
from exporter.series import live
from exporter.series.folder import WAITING, SeriesKey, open_series_folder, series_folders
from exporter.services import daemon
from exporter.services.daemon import DaemonSignals
from exporter.settings.settings import Settings
from exporter.writers.durable_write import media_file, write_new
from listener.settings.listener import DataFolder
from listener.spool.spool import Spool
from tests.exporter.writers.volumetric import Stack, noise, save_series, single

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.series.found import SeriesTally

PATIENCE_S = 120


def settings(**volume: Any) -> Settings:
    # Instances are exported in this process: what is tested here runs in a worker process of its own anyway.
    return Settings.model_validate({"num_workers": 0, "volume": {"series": True, **volume}})


def backfilled(folder: Path, output: Path, wanted: Settings | None = None) -> SeriesTally:
    tally = Progress()
    for _ in backfill.backfill(BackfillRequest(folder, output, wanted or settings()), tally, threading.Event()):
        pass
    assert not tally.failed
    assert tally.series is not None
    return tally.series


def files(root: Path) -> list[str]:
    # Not `rglob`: it raises where a folder of partial files goes away while it looks.
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return sorted(path.relative_to(root).as_posix() for path in found)


def voxels(path: Path) -> np.ndarray:
    image: Any = nibabel.load(path)
    values: np.ndarray = image.get_fdata()
    return values[:, ::-1].transpose(2, 1, 0)


def test_a_backfill_ends_with_the_volumes_of_its_series(tmp_path: Path) -> None:
    first, second = noise((4, 6, 5), seed=1), noise((3, 6, 5), seed=2)
    for name, pixels in (("a", first), ("b", second)):
        save_series(tmp_path / "in" / name, Stack(), pixels)
    single(Stack(), 0, noise((6, 5))).save_as(tmp_path / "in" / "alone.dcm", enforce_file_format=True)

    tally = backfilled(tmp_path / "in", tmp_path / "out")

    assert (tally.written, tally.unchanged, tally.refused) == (2, 0, 0)
    for name, pixels in (("a", first), ("b", second)):
        header = dcmread(next((tmp_path / "in" / name).iterdir()))
        base = tmp_path / "out" / "series" / header.StudyInstanceUID / header.SeriesInstanceUID
        assert np.array_equal(voxels(base.parent / f"{base.name}.nii.gz"), pixels)
    assert len(files(tmp_path / "out" / "series")) == 4
    data = DataFolder(tmp_path / "out")
    assert not reconcile(Folders(data.ledger, data.media, data.metadata)).faults
    assert not reconcile(series_folders(data.root), deep=True).faults
    assert data.metadata.read_bytes().count(b"\n") == 8  # of instances alone
    for line in map(orjson.loads, (data.root / "series.jsonl").read_bytes().splitlines()):
        name = f"{line['Study Instance UID']}/{line['Series Instance UID']}"
        assert (line["dicom_file"], line["media_type"]) == (name, "volume")
        assert [one["path"] for one in line["export"]["media"]] == [f"{name}.nii.gz", f"{name}.series.json"]
        described = orjson.loads((data.root / "series" / f"{name}.series.json").read_bytes())
        assert described["volumes"][0]["sha256"] == line["export"]["media"][0]["sha256"]


def test_a_rerun_writes_only_series_that_changed(tmp_path: Path) -> None:
    paths = save_series(tmp_path / "in", Stack(), noise((5, 6, 5)))
    late = next(path for path in paths if dcmread(path).InstanceNumber == 3)
    late = late.rename(tmp_path / late.name)
    assert backfilled(tmp_path / "in", tmp_path / "out").written == 1
    base = dcmread(late).SeriesInstanceUID
    named = [Path(name).name.removeprefix(base) for name in files(tmp_path / "out" / "series")]
    assert named == [".1.nii.gz", ".2.nii.gz", ".series.json"]
    before = {name: (tmp_path / "out" / "series" / name).stat() for name in files(tmp_path / "out" / "series")}
    assert backfilled(tmp_path / "in", tmp_path / "out").unchanged == 1
    assert {name: (tmp_path / "out" / "series" / name).stat() for name in before} == before
    late.rename(tmp_path / "in" / "late.dcm")
    assert backfilled(tmp_path / "in", tmp_path / "out").written == 1
    named = [Path(name).name.removeprefix(base) for name in files(tmp_path / "out" / "series")]
    assert named == [".nii.gz", ".series.json"]  # what is out of date is gone
    assert (tmp_path / "out" / "series.jsonl").read_bytes().count(b"\n") == 2


def test_a_crash_while_a_series_is_published_leaves_nothing_half_visible(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.exporter.series.crashing", tmp_path], capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    assert int(done.stdout) > 10


def test_reconcile_accounts_for_series_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_series(tmp_path / "in", Stack(), noise((3, 6, 5)))
    backfilled(tmp_path / "in", tmp_path / "out")
    for ledger in ("exporter.db", "series.db"):
        (tmp_path / "out" / ledger).rename(tmp_path / ledger)
    assert main(["reconcile", "--data", str(tmp_path / "out"), "--rebuild"]) == 0
    assert "series: 1; 2 files" in capsys.readouterr().out
    (volume,) = (tmp_path / "out" / "series").rglob("*.nii.gz")
    volume.unlink()
    assert main(["reconcile", "--data", str(tmp_path / "out"), "--json"]) == 1
    report = orjson.loads(capsys.readouterr().out)
    assert (report["is_sound"], report["faults"], report["series"]["faults"][0]["kind"]) == (False, [], "no_medium")


def test_a_series_that_met_a_full_disk_is_published_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(partial: Path, name: str) -> Exported:
        path = partial / "one.part"
        medium = media_file(path, MediaType.VOLUME, ".nii", "test", write_new(path, (name.encode(),)))
        return Exported(SeriesKey("1.2", name).identity("x"), (medium,), "{}", "x", "y")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_series_folder(tmp_path, Settings(), "1") as folder:
        with monkeypatch.context() as full:
            full.setattr(Path, "rename", refuse)
            with pytest.raises(OutOfSpace):
                folder.publish(SeriesKey("1.2", "1.3"), "x", make)
        folder.publish(SeriesKey("1.2", "1.4"), "x", make)
    assert files(tmp_path / "series") == ["1.2/1.3.nii", "1.2/1.4.nii"]
    assert not list((tmp_path / "series" / ".partial").iterdir())
    assert reconcile(series_folders(tmp_path)).is_sound


def test_the_output_below_the_input_is_never_input(tmp_path: Path) -> None:
    save_series(tmp_path / "in", Stack(), noise((3, 6, 5)))
    assert backfilled(tmp_path / "in", tmp_path / "in").written == 1
    assert backfilled(tmp_path / "in", tmp_path / "in").unchanged == 1


def test_a_series_that_is_no_volume_is_described_and_not_tried_again(tmp_path: Path) -> None:
    paths = save_series(tmp_path / "in", Stack(), noise((3, 6, 5)))
    for path in paths:
        header = dcmread(path)
        header.ImagePositionPatient = [0, 0, 0]
        header.save_as(path)
    assert backfilled(tmp_path / "in", tmp_path / "out").refused == 1
    (description,) = files(tmp_path / "out" / "series")
    told = orjson.loads((tmp_path / "out" / "series" / description).read_bytes())
    assert (told["volumes"], told["error"]["reason"]) == ([], "bad_geometry")
    assert backfilled(tmp_path / "in", tmp_path / "out").unchanged == 1


def test_without_the_setting_there_are_no_series(tmp_path: Path) -> None:
    save_series(tmp_path / "in", Stack(), noise((3, 6, 5)))
    tally = Progress()
    for _ in backfill.backfill(
        BackfillRequest(tmp_path / "in", tmp_path / "out", Settings(num_workers=1)), tally, threading.Event()
    ):
        pass
    assert tally.series is None
    assert not (tmp_path / "out" / "series").exists()


# --- live


@contextmanager
def running(data: DataFolder, wanted: Settings) -> Iterator[None]:
    signals = DaemonSignals.none()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            daemon.run(wanted, data, signals)
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        signals.stop.set()
        thread.join(PATIENCE_S)
    assert not failure, failure
    assert not thread.is_alive()


def received(data: DataFolder, paths: list[Path]) -> None:
    spool = Spool.open(data.spool)
    for path in paths:
        incoming = spool.receive()
        incoming.write([path.read_bytes()])
        incoming.commit()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)  # between two looks, bounded by the deadline


def test_an_arriving_series_becomes_a_volume_when_it_is_quiet_and_anew_when_more_comes(tmp_path: Path) -> None:
    data, pixels = DataFolder(tmp_path / "data"), noise((5, 6, 5))
    paths = save_series(tmp_path / "in", Stack(), pixels)
    header = dcmread(paths[0])
    base = data.root / "series" / header.StudyInstanceUID / header.SeriesInstanceUID
    volume = base.with_name(f"{base.name}.nii.gz")
    last = next(path for path in paths if dcmread(path).InstanceNumber == 5)
    with running(data, settings(series_quiet_s=0.4)):
        received(data, [path for path in paths if path != last])
        until(lambda: volume.exists() and len(voxels(volume)) == 4)
        until(lambda: not any((data.spool / "active").iterdir()))
        received(data, [last])
        until(lambda: len(voxels(volume)) == 5)
    assert np.array_equal(voxels(volume), pixels)
    assert not any((data.spool / "new").iterdir())
    waiting = data.root / "series" / WAITING
    assert waiting.stat().st_mode & 0o077 == 0
    assert reconcile(series_folders(data.root), deep=True).is_sound
    assert not reconcile(Folders(data.ledger, data.media, data.metadata, data.spool)).faults


def test_a_restart_goes_on_with_the_series_that_wait(tmp_path: Path) -> None:
    data, pixels = DataFolder(tmp_path / "data"), noise((3, 6, 5))
    paths = save_series(tmp_path / "in", Stack(), pixels)
    received(data, paths)
    with running(data, settings(series_quiet_s=3600)):
        until(lambda: len(files(data.root / "series")) == 3)
    assert not any(name.endswith(".nii.gz") for name in files(data.root / "series"))
    with running(data, settings(series_quiet_s=0.2)):
        until(lambda: any(name.endswith(".series.json") for name in files(data.root / "series")))
    (volume,) = (name for name in files(data.root / "series") if name.endswith(".nii.gz"))
    assert np.array_equal(voxels(data.root / "series" / volume), pixels)


def test_what_was_kept_long_enough_goes(tmp_path: Path) -> None:
    wanted = settings(series_quiet_s=0.01)
    keeper = live.LiveSeries(tmp_path / "series", wanted)
    folder = tmp_path / "series" / WAITING / "1.2" / "1.3"
    folder.mkdir(parents=True)
    (folder / "one").write_bytes(b"x")
    tried = folder.with_name("1.3.tried")
    tried.touch()
    for age_s, remains in ((live.KEPT_S - 60, True), (live.KEPT_S + 60, False)):
        moment = time.time() - age_s
        os.utime(folder, (moment, moment))
        os.utime(tried, ns=(folder.stat().st_mtime_ns,) * 2)
        keeper.write_quiet_series()
        assert folder.exists() == remains
    assert not tried.exists()


def test_other_classes_and_copies_across_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from exporter.outcome import InstanceIdentity

    keeper = live.LiveSeries(tmp_path / "series", settings())
    source = tmp_path / "item.dcm"
    source.write_bytes(b"content")
    keeper.add_instance(source, InstanceIdentity("1.2.840.10008.5.1.4.1.1.6.1", "1", "2", "3", ""))
    assert not (tmp_path / "series").exists()

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    keeper.add_instance(source, InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", "1", "2", "../3", ""))
    keeper.add_instance(
        tmp_path / "gone.dcm", InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", "1", "2", "3", "")
    )  # said, and no more
    (kept,) = (path for path in (tmp_path / "series").rglob("*") if path.is_file())
    assert kept.read_bytes() == b"content"
    assert kept.parent.parent == tmp_path / "series" / WAITING / "2"
