"""What the listener has put into the spool is exported or quarantined, exactly once, through stops and crashes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid
from structlog.testing import capture_logs

from exporter.commands.failures import list_failures
from exporter.commands.options import DataOptions
from exporter.commands.status import standing_of
from exporter.results.ledger import InstanceStatus, Ledger, LedgerUnusable
from exporter.results.rebuild import rebuild
from exporter.results.reconcile import Folders, reconcile
from exporter.services import daemon
from exporter.services.daemon import DaemonSignals
from exporter.services.reserve import FILES
from exporter.settings.settings import Settings, SpaceSettings
from exporter.work import isolation
from listener.settings.listener import DataFolder
from listener.spool.errors import SpoolBusy
from listener.spool.space import SPACE_FILE, Free, read_published_space
from listener.spool.spool import Spool
from tests.exporter.ledger_rows import begin, finish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from listener.spool.incoming import SpoolItem

ROOT = Path(__file__).parents[3]
CT, MR, CINE = (
    Path(str(get_testdata_file(name))) for name in ("CT_small.dcm", "MR_small.dcm", "examples_ybr_color.dcm")
)

NO_MARKS = dict.fromkeys(SpaceSettings.model_fields, 0)
"""The disk itself is what refuses, and nothing is kept for the ledger."""


class DaemonHarness:
    """A data folder, a spool to put files into, and ways to run the daemon over it."""

    def __init__(self, root: Path) -> None:
        self.data = DataFolder(root)
        self.spool = Spool.open(self.data.spool)

    def receive(self, *contents: bytes | Path) -> list[str]:
        """Put files into the spool as the listener does; their names."""
        names = []
        for content in contents:
            incoming = self.spool.receive()
            incoming.write([content.read_bytes() if isinstance(content, Path) else content])
            names.append(incoming.commit().name)
        return names

    @contextmanager
    def running(self, **sections: Any) -> Iterator[DaemonSignals]:
        """The daemon in a thread of this process."""
        signals, problems = DaemonSignals.none(), []

        def work() -> None:
            try:
                daemon.run(Settings.model_validate({"num_workers": 1, **sections}), self.data, signals)
            except BaseException as error:  # noqa: BLE001 - handed to the test
                problems.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield signals
        finally:
            signals.stop.set()
            thread.join(100)
        if problems:
            raise problems[0]

    def until(self, what: Callable[[Ledger], bool], seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while True:
            if self.data.ledger.exists():
                with Ledger.open_read_only(self.data.ledger) as ledger:
                    if what(ledger):
                        break
            assert time.monotonic() < deadline, "not in time"
            time.sleep(0.05)

    def settled(self, count: int) -> None:
        """Until that many instances are final and the spool holds none of them back."""

        def done(ledger: Ledger) -> bool:
            counts, spool = ledger.counts(), self.spool.counts()
            final = counts.exported + counts.skipped + counts.quarantined
            return final == count and spool.new == spool.active == 0

        self.until(done)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.metadata.read_text().splitlines()]

    @property
    def media(self) -> list[str]:
        root = self.data.media
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())

    def quarantine(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for reason, item in self.spool.quarantined():
            found.setdefault(reason, []).append(item.name)
        return found

    def process(self, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """The daemon as its users run it."""
        command = [sys.executable, "-m", "exporter", "run", "--data", str(self.data.root)]
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **(environment or {})}, stderr=subprocess.PIPE)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[DaemonHarness]:
    made = DaemonHarness(tmp_path / "data")
    yield made
    made.spool.close()


def variant(path: Path, tmp_path: Path, **values: str) -> bytes:
    dataset = pydicom.dcmread(path)
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    target = tmp_path / "variant.dcm"
    dataset.save_as(target)
    return target.read_bytes()


def test_what_is_received_is_exported_and_leaves_the_spool(harness: DaemonHarness) -> None:
    harness.receive(CT)
    with harness.running():
        harness.settled(1)
        harness.receive(MR, CINE)
        harness.settled(3)
    assert len(harness.media) == len(harness.lines) == 3
    dataset = pydicom.dcmread(CT)
    uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
    assert f"{'/'.join(uids)}.png" in harness.media
    assert list(harness.data.spool.rglob("*.dcm")) == []


def test_what_cannot_be_exported_is_kept_in_quarantine_with_its_reason(harness: DaemonHarness) -> None:
    (name,) = harness.receive(b"\0" * 128 + b"DICM" + b"nonsense" * 100)
    with harness.running():
        harness.settled(1)
    ((reason, names),) = harness.quarantine().items()
    assert names == [name]
    report = json.loads((harness.data.spool / "quarantine" / reason / f"{name}.reason.json").read_text())
    assert report["reason"] == reason
    assert report["message"]
    assert harness.lines == []


def test_a_duplicate_is_skipped_and_a_conflict_is_kept_and_flagged(harness: DaemonHarness, tmp_path: Path) -> None:
    other = variant(CT, tmp_path, PatientID="another")
    harness.receive(CT, CT, other, CT)
    with harness.running(num_workers=2):
        harness.settled(4)
    with Ledger.open_read_only(harness.data.ledger) as ledger:
        counts = ledger.counts()
    assert (counts.exported, counts.skipped, counts.duplicates) == (2, 2, 2)
    assert len(harness.media) == len(harness.lines) == 2
    assert sum(line["export"]["conflict_with"] is not None for line in harness.lines) == 1


def test_items_are_kept_where_that_is_wanted(harness: DaemonHarness) -> None:
    names = harness.receive(CT)
    with harness.running(spool={"keep_days": 1}):
        harness.settled(1)
    assert [p.name for p in (harness.data.spool / "done").iterdir()] == names


def test_an_item_that_somebody_takes_away_meanwhile_does_not_end_the_daemon(
    harness: DaemonHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Spool.claim

    def claimed_and_gone(spool: Spool, item: SpoolItem) -> SpoolItem | None:
        taken = claim(spool, item)
        if taken is not None and item.name == first:
            taken.path.unlink()
        return taken

    monkeypatch.setattr(Spool, "claim", claimed_and_gone)
    first, _ = harness.receive(CT, MR)
    with harness.running():
        harness.until(lambda ledger: ledger.counts().exported == 1 and harness.spool.counts().active == 0)
        harness.until(
            lambda ledger: (entry := ledger.entry(first)) is not None and entry.state is not InstanceStatus.ACTIVE
        )


def test_a_second_daemon_is_refused(harness: DaemonHarness) -> None:
    with harness.running():
        harness.until(lambda _: True)
        with pytest.raises(SpoolBusy, match="exporter"):
            daemon.run(Settings(), harness.data, DaemonSignals.none())
        done = subprocess.run(
            [sys.executable, "-m", "exporter", "run", "--data", str(harness.data.root)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_what_an_exporter_that_was_killed_had_claimed_is_claimed_again(harness: DaemonHarness) -> None:
    names = harness.receive(CT, MR)
    for item in harness.spool.pending():
        harness.spool.claim(item)
    with Ledger.open(harness.data.ledger) as ledger:
        begin(ledger, names[0], size_bytes=1, mtime_ns=1, source="spool")
    with harness.running():
        harness.settled(2)
    assert len(harness.lines) == 2


def test_what_was_committed_but_not_moved_is_only_moved(harness: DaemonHarness, tmp_path: Path) -> None:
    (name,) = harness.receive(CT)
    copy = tmp_path / "copy"
    shutil.copy(harness.data.spool / "new" / name, copy)
    with harness.running():
        harness.settled(1)
    shutil.copy(copy, harness.data.spool / "active" / name)  # as if the process had died before the last step
    with harness.running():
        harness.settled(1)
        harness.until(lambda _: harness.spool.counts().active + harness.spool.counts().new == 0)
    assert len(harness.lines) == len(harness.media) == 1


def test_a_quarantine_that_was_committed_but_not_moved_is_moved(harness: DaemonHarness) -> None:
    (name,) = harness.receive(b"nonsense")
    with Ledger.open(harness.data.ledger) as ledger:
        begin(ledger, name, size_bytes=8, mtime_ns=int(name[:20]), source="spool")
        finish(ledger, name, state=InstanceStatus.QUARANTINED, reason="not_dicom", message="no")
    with harness.running():
        harness.settled(1)
    assert harness.quarantine() == {"not_dicom": [name]}


def test_a_ledger_that_stays_damaged_says_from_the_second_start_on_what_would_mend_it(harness: DaemonHarness) -> None:
    harness.receive(CT, MR)
    with harness.running():
        harness.settled(2)
    harness.receive(CINE)
    sound = harness.data.ledger.read_bytes()
    harness.data.ledger.write_bytes(sound[:100] + bytes(len(sound) - 100))

    def refused() -> str:
        with pytest.raises(LedgerUnusable) as caught, harness.running():
            pass
        return str(caught.value)

    assert "starting again" not in refused()
    for _ in range(2):
        told = refused()
        assert "starting again does not mend it" in told
        assert "a new one of 2 lines of metadata.jsonl, 0 files in quarantine; the 1 files that wait" in told
    harness.data.ledger.write_bytes(sound)
    with harness.running():
        harness.settled(3)
    harness.data.ledger.write_bytes(bytes(len(sound)))
    assert "starting again" not in refused()


def test_an_instance_that_a_wrong_clock_deferred_for_years_is_tried_soon_and_told_until_then(
    harness: DaemonHarness, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = harness.receive(CT)
    until = time.time() + 10 * 365 * 86400
    with Ledger.open(harness.data.ledger) as ledger:
        begin(ledger, name, size_bytes=CT.stat().st_size, mtime_ns=int(name[:20]), source="spool")
        ledger.defer(name, "timeout", "took too long", not_before=until)
    list_failures(DataOptions(data=harness.data.root))
    told = capsys.readouterr().out
    assert "nothing failed\n1 to be tried again: timeout 1\n" in told
    assert time.strftime("put off until %Y-%m-%d", time.gmtime(until)) in told
    assert standing_of(harness.data.root).overdue == 1
    with harness.running():
        harness.settled(1)
    assert len(harness.lines) == 1
    assert standing_of(harness.data.root).overdue == 0


@pytest.mark.parametrize("times", [isolation.TOGETHER, isolation.TOGETHER + isolation.ALONE])
def test_an_instance_is_given_up_only_where_it_ended_every_exporter_that_tried_it_alone(
    harness: DaemonHarness, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(isolation, "QUIET_S", 1.0)
    name, _ = harness.receive(CT, MR)
    for _ in range(times):
        with Ledger.open(harness.data.ledger) as ledger:
            begin(ledger, name, size_bytes=CT.stat().st_size, mtime_ns=int(name[:20]), source="spool")
            ledger.recover()
    with harness.running():
        harness.settled(2)
    is_given_up = times > isolation.TOGETHER
    assert harness.quarantine() == ({"decoder_crash": [name]} if is_given_up else {})
    assert len(harness.lines) == (1 if is_given_up else 2)


@pytest.mark.parametrize("place", ["media", "media/.partial", "spool/new", "spool/active", "lines"])
def test_a_folder_that_vanishes_for_a_moment_pauses_is_told_and_judges_nobody(
    harness: DaemonHarness, place: str
) -> None:
    folder, away = harness.data.root / place, harness.data.root / "away"
    lines = harness.data.root / "lines" / "metadata.jsonl"
    lines.parent.mkdir()
    harness.receive(CT)
    with capture_logs() as said, harness.running(metadata={"file": str(lines)}):
        harness.settled(1)
        folder.rename(away)
        harness.receive(MR, CINE)
        deadline = time.monotonic() + 100
        while not any(event["event"] == "paused: a folder cannot be used" for event in said):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        away.rename(folder)
        harness.settled(3)
    assert harness.quarantine() == {}
    assert len(harness.media) == 3
    assert len(lines.read_text().splitlines()) == 3
    with Ledger.open_read_only(harness.data.ledger) as ledger:
        assert ledger.counts().exported == 3
    folders = Folders(harness.data.ledger, harness.data.media, lines, harness.data.spool)
    assert reconcile(folders, deep=True).faults == []


def test_a_folder_of_the_spool_that_is_made_anew_is_taken_up(harness: DaemonHarness) -> None:
    with harness.running():
        harness.receive(CT)
        harness.settled(1)
        harness.data.spool.joinpath("new").rename(harness.data.root / "old")
        harness.data.spool.joinpath("new").mkdir(mode=0o700)
        with Spool.open(harness.data.spool) as spool:
            incoming = spool.receive()
            incoming.write([MR.read_bytes()])
            incoming.commit()
            harness.until(lambda ledger: ledger.counts().exported == 2)


def test_a_retried_instance_is_exported(harness: DaemonHarness) -> None:
    (name,) = harness.receive(CT)
    with harness.running(limits={"max_frame_pixels": 10}):
        harness.settled(1)
    assert harness.quarantine() == {"too_large": [name]}
    with Ledger.open(harness.data.ledger) as ledger:
        assert ledger.retry(name=name) == [name]
    harness.spool.requeue(name)
    with harness.running():
        harness.settled(1)
    assert harness.quarantine() == {}
    assert len(harness.lines) == 1


def test_systemd_is_told_when_it_is_ready_alive_and_stopping(harness: DaemonHarness, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(30)
        process = harness.process({"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "400000"})
        try:
            assert systemd.recv(4096).startswith(b"READY=1")
            assert systemd.recv(4096).startswith(b"WATCHDOG=1")
            assert systemd.recv(4096).startswith(b"WATCHDOG=1")
            process.send_signal(signal.SIGTERM)
            told = systemd.recv(4096)
            while told.startswith(b"WATCHDOG=1"):
                told = systemd.recv(4096)
            assert told.startswith(b"STOPPING=1")
            assert process.wait(100) == 0
        finally:
            process.kill()
            process.communicate()


def test_sigterm_puts_back_or_finishes_and_the_next_run_goes_on(harness: DaemonHarness, tmp_path: Path) -> None:
    harness.receive(*(variant(CT, tmp_path, SOPInstanceUID=generate_uid()) for _ in range(60)))
    process = harness.process()
    harness.until(lambda ledger: ledger.counts().exported > 2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    counts = harness.spool.counts()
    assert counts.active == 0
    with Ledger.open_read_only(harness.data.ledger) as ledger:
        assert ledger.counts().active == 0
        assert ledger.counts().exported + counts.new == 60
        assert ledger.counts().exported == len(harness.lines)
    with harness.running():
        harness.settled(60)
    assert len(harness.media) == len(harness.lines) == 60


def test_a_full_disk_pauses_and_space_resumes(small_disk: Path) -> None:
    harness = DaemonHarness(small_disk / "data")
    names = harness.receive(CT)
    ballast = small_disk / "ballast"
    with harness.running(room=NO_MARKS):
        harness.settled(1)
        harness.receive(MR, CINE)
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1024)):
                    pass
            except OSError:
                pass
        time.sleep(1)  # whatever it tries now, there is no room for it
        ballast.unlink()
        harness.settled(3)
    assert harness.quarantine() == {}
    assert len(harness.lines) == 3
    assert names
    harness.spool.close()


@pytest.mark.parametrize("harm", ["deleted", "replaced", "without its log", "without the index of its log"])
def test_a_ledger_that_is_deleted_or_replaced_ends_the_exporter_and_loses_nothing(
    harness: DaemonHarness, harm: str
) -> None:
    def live() -> None:
        with harness.running():
            harness.settled(1)
            threads = threading.active_count()
            if harm == "deleted":
                harness.data.ledger.unlink()
            elif harm == "without its log":
                Path(f"{harness.data.ledger}-wal").unlink()
            elif harm == "without the index of its log":
                Path(f"{harness.data.ledger}-shm").unlink()
            else:
                copy = harness.data.root / "copy"
                shutil.copy(harness.data.ledger, copy)
                copy.replace(harness.data.ledger)
            deadline = time.monotonic() + 100
            while threading.active_count() >= threads:
                assert time.monotonic() < deadline, "it ends by itself"
                time.sleep(0.05)

    harness.receive(CT)
    with pytest.raises(LedgerUnusable, match=r"was removed|was replaced"):
        live()
    folders = Folders(harness.data.ledger, harness.data.media, harness.data.metadata, harness.data.spool)
    if harm in {"deleted", "replaced"}:
        rebuild(folders)
    assert reconcile(folders).is_sound
    harness.receive(MR)
    with harness.running():
        harness.settled(2)
    assert len(harness.lines) == 2


def test_a_disk_that_runs_full_pauses_the_exporter_before_it_is_full(small_disk: Path) -> None:
    harness = DaemonHarness(small_disk / "data")
    ballast = small_disk / "ballast"
    marks = {"pause_below_bytes": 500_000, "resume_above_bytes": 800_000, "reserve_bytes": 64 << 10}
    told = harness.data.spool / SPACE_FILE
    with harness.running(room=marks):
        deadline = time.monotonic() + 100
        while not told.exists():
            assert time.monotonic() < deadline, "the listener is told of room"
            time.sleep(0.05)
        harness.receive(CT)
        harness.settled(1)
        ballast.write_bytes(bytes(Free.measure(small_disk).bytes - 400_000))
        while json.loads(told.read_text())["paused"] is None:
            assert time.monotonic() < deadline, "it pauses"
            time.sleep(0.05)
        harness.receive(MR)
        time.sleep(1)  # it must not begin now
        assert harness.spool.counts().new == 1
        assert Free.measure(small_disk).bytes > 300_000
        with ballast.open("r+b") as file:  # between the marks: still paused
            file.truncate(ballast.stat().st_size - 250_000)
        time.sleep(1.5)
        assert harness.spool.counts().new == 1
        ballast.unlink()
        harness.settled(2)
        assert read_published_space(told.read_bytes()).keys() == {"output", "lines", "ledger"}
    assert len(harness.lines) == 2
    harness.spool.close()


def test_a_spool_without_a_byte_left_takes_a_failed_instance_into_quarantine(
    small_disk: Path, tmp_path: Path, fill: Callable[[Path], None]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "spool").symlink_to(small_disk)
    harness = DaemonHarness(tmp_path / "data")
    harness.receive(CT, b"\0" * 128 + b"DICM" + b"no DICOM" * 50)
    with harness.running(room=NO_MARKS):
        harness.settled(2)
    harness.receive(b"\0" * 128 + b"DICM" + b"none either" * 50)
    with harness.running(room=NO_MARKS | {"reserve_bytes": 256 << 10}):
        harness.settled(3)
    kept = list((small_disk / "reserve").iterdir())
    assert len(kept) == FILES
    harness.receive(b"\0" * 128 + b"DICM" + b"nor is this" * 50)
    for number in range(2000):  # no byte, and no place left in any folder's block
        (small_disk / f"{number}").touch()
    fill(small_disk / "ballast")
    with harness.running(room=NO_MARKS | {"reserve_bytes": 256 << 10}):
        harness.settled(4)
    assert {reason: len(names) for reason, names in harness.quarantine().items()} == {"unreadable": 3}
    assert all(
        path.with_name(f"{path.name}.reason.json").stat().st_size for path in small_disk.rglob("unreadable/*.dcm")
    )
    harness.spool.close()


def test_a_failure_that_is_retried_before_it_got_into_quarantine_is_tried_again(
    small_disk: Path, tmp_path: Path, fill: Callable[[Path], None]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "spool").symlink_to(small_disk)
    harness = DaemonHarness(tmp_path / "data")
    with harness.running(room=NO_MARKS):
        deadline = time.monotonic() + 100
        while not (small_disk / SPACE_FILE).exists():
            assert time.monotonic() < deadline, "it runs"
            time.sleep(0.05)
        incoming = harness.spool.receive()
        incoming.write([b"\0" * 128 + b"DICM" + b"no DICOM" * 50])
        fill(small_disk / "ballast")
        name = incoming.commit().name
        harness.until(lambda ledger: ledger.counts().quarantined == 1)
        with Ledger.open(harness.data.ledger, exclusive=False) as ledger:
            assert ledger.retry(name=name) == [name]
        (small_disk / "ballast").unlink()
        harness.settled(1)
    assert harness.quarantine() == {"unreadable": [name]}
    folders = Folders(harness.data.ledger, harness.data.media, harness.data.metadata, harness.data.spool)
    assert reconcile(folders).faults == []
    harness.spool.close()


def test_nothing_of_the_patient_is_in_the_log(harness: DaemonHarness, tmp_path: Path) -> None:
    harness.receive(
        variant(CT, tmp_path, PatientName="Zebedee^Quux", PatientID="ZQ-4711", SOPInstanceUID="1.2.3"),
        b"\0" * 128 + b"DICM" + b"Zebedee^Quux" * 50,
    )
    process = harness.process()
    harness.settled(2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert b"exported" in said
    assert b"quarantined" in said
    assert b"Zebedee" not in said
    assert b"4711" not in said
