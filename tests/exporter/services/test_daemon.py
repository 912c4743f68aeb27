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


class Ward:
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
        orders, problems = DaemonSignals.none(), []

        def work() -> None:
            try:
                daemon.run(Settings.model_validate({"num_workers": 1, **sections}), self.data, orders)
            except BaseException as error:  # noqa: BLE001 - handed to the test
                problems.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield orders
        finally:
            orders.stop.set()
            thread.join(60)
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
def ward(tmp_path: Path) -> Iterator[Ward]:
    made = Ward(tmp_path / "data")
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


def test_what_is_received_is_exported_and_leaves_the_spool(ward: Ward) -> None:
    ward.receive(CT)
    with ward.running():
        ward.settled(1)
        ward.receive(MR, CINE)
        ward.settled(3)
    assert len(ward.media) == len(ward.lines) == 3
    dataset = pydicom.dcmread(CT)
    uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
    assert f"{'/'.join(uids)}.png" in ward.media
    assert list(ward.data.spool.rglob("*.dcm")) == []


def test_what_cannot_be_exported_is_kept_in_quarantine_with_its_reason(ward: Ward) -> None:
    (name,) = ward.receive(b"\0" * 128 + b"DICM" + b"nonsense" * 100)
    with ward.running():
        ward.settled(1)
    ((reason, names),) = ward.quarantine().items()
    assert names == [name]
    report = json.loads((ward.data.spool / "quarantine" / reason / f"{name}.reason.json").read_text())
    assert report["reason"] == reason
    assert report["message"]
    assert ward.lines == []


def test_a_duplicate_is_skipped_and_a_conflict_is_kept_and_flagged(ward: Ward, tmp_path: Path) -> None:
    other = variant(CT, tmp_path, PatientID="another")
    ward.receive(CT, CT, other, CT)
    with ward.running(num_workers=2):
        ward.settled(4)
    with Ledger.open_read_only(ward.data.ledger) as ledger:
        counts = ledger.counts()
    assert (counts.exported, counts.skipped, counts.duplicates) == (2, 2, 2)
    assert len(ward.media) == len(ward.lines) == 2
    assert sum(line["export"]["conflict_with"] is not None for line in ward.lines) == 1


def test_items_are_kept_where_that_is_wanted(ward: Ward) -> None:
    names = ward.receive(CT)
    with ward.running(spool={"keep_days": 1}):
        ward.settled(1)
    assert [p.name for p in (ward.data.spool / "done").iterdir()] == names


def test_an_item_that_somebody_takes_away_meanwhile_does_not_end_the_daemon(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Spool.claim

    def claimed_and_gone(spool: Spool, item: SpoolItem) -> SpoolItem | None:
        taken = claim(spool, item)
        if taken is not None and item.name == first:
            taken.path.unlink()
        return taken

    monkeypatch.setattr(Spool, "claim", claimed_and_gone)
    first, _ = ward.receive(CT, MR)
    with ward.running():
        ward.until(lambda ledger: ledger.counts().exported == 1 and ward.spool.counts().active == 0)
        ward.until(
            lambda ledger: (entry := ledger.entry(first)) is not None and entry.state is not InstanceStatus.ACTIVE
        )


def test_a_second_daemon_is_refused(ward: Ward) -> None:
    with ward.running():
        ward.until(lambda _: True)
        with pytest.raises(SpoolBusy, match="exporter"):
            daemon.run(Settings(), ward.data, DaemonSignals.none())
        done = subprocess.run(
            [sys.executable, "-m", "exporter", "run", "--data", str(ward.data.root)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_what_an_exporter_that_was_killed_had_claimed_is_claimed_again(ward: Ward) -> None:
    names = ward.receive(CT, MR)
    for item in ward.spool.pending():
        ward.spool.claim(item)
    with Ledger.open(ward.data.ledger) as ledger:
        begin(ledger, names[0], size_bytes=1, mtime_ns=1, source="spool")
    with ward.running():
        ward.settled(2)
    assert len(ward.lines) == 2


def test_what_was_committed_but_not_moved_is_only_moved(ward: Ward, tmp_path: Path) -> None:
    (name,) = ward.receive(CT)
    copy = tmp_path / "copy"
    shutil.copy(ward.data.spool / "new" / name, copy)
    with ward.running():
        ward.settled(1)
    shutil.copy(copy, ward.data.spool / "active" / name)  # as if the process had died before the last step
    with ward.running():
        ward.settled(1)
        ward.until(lambda _: ward.spool.counts().active + ward.spool.counts().new == 0)
    assert len(ward.lines) == len(ward.media) == 1


def test_a_quarantine_that_was_committed_but_not_moved_is_moved(ward: Ward) -> None:
    (name,) = ward.receive(b"nonsense")
    with Ledger.open(ward.data.ledger) as ledger:
        begin(ledger, name, size_bytes=8, mtime_ns=int(name[:20]), source="spool")
        finish(ledger, name, state=InstanceStatus.QUARANTINED, reason="not_dicom", message="no")
    with ward.running():
        ward.settled(1)
    assert ward.quarantine() == {"not_dicom": [name]}


def test_a_ledger_that_stays_damaged_says_from_the_second_start_on_what_would_mend_it(ward: Ward) -> None:
    ward.receive(CT, MR)
    with ward.running():
        ward.settled(2)
    ward.receive(CINE)
    sound = ward.data.ledger.read_bytes()
    ward.data.ledger.write_bytes(sound[:100] + bytes(len(sound) - 100))

    def refused() -> str:
        with pytest.raises(LedgerUnusable) as caught, ward.running():
            pass
        return str(caught.value)

    assert "starting again" not in refused()
    for _ in range(2):
        told = refused()
        assert "starting again does not mend it" in told
        assert "a new one of 2 lines of metadata.jsonl, 0 files in quarantine; the 1 files that wait" in told
    ward.data.ledger.write_bytes(sound)
    with ward.running():
        ward.settled(3)
    ward.data.ledger.write_bytes(bytes(len(sound)))
    assert "starting again" not in refused()


def test_an_instance_that_a_wrong_clock_deferred_for_years_is_tried_soon_and_told_until_then(
    ward: Ward, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = ward.receive(CT)
    until = time.time() + 10 * 365 * 86400
    with Ledger.open(ward.data.ledger) as ledger:
        begin(ledger, name, size_bytes=CT.stat().st_size, mtime_ns=int(name[:20]), source="spool")
        ledger.defer(name, "timeout", "took too long", not_before=until)
    list_failures(DataOptions(data=ward.data.root))
    told = capsys.readouterr().out
    assert "nothing failed\n1 to be tried again: timeout 1\n" in told
    assert time.strftime("put off until %Y-%m-%d", time.gmtime(until)) in told
    assert standing_of(ward.data.root).overdue == 1
    with ward.running():
        ward.settled(1)
    assert len(ward.lines) == 1
    assert standing_of(ward.data.root).overdue == 0


@pytest.mark.parametrize("times", [isolation.TOGETHER, isolation.TOGETHER + isolation.ALONE])
def test_an_instance_is_given_up_only_where_it_ended_every_exporter_that_tried_it_alone(
    ward: Ward, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(isolation, "QUIET_S", 1.0)
    name, _ = ward.receive(CT, MR)
    for _ in range(times):
        with Ledger.open(ward.data.ledger) as ledger:
            begin(ledger, name, size_bytes=CT.stat().st_size, mtime_ns=int(name[:20]), source="spool")
            ledger.recover()
    with ward.running():
        ward.settled(2)
    is_given_up = times > isolation.TOGETHER
    assert ward.quarantine() == ({"decoder_crash": [name]} if is_given_up else {})
    assert len(ward.lines) == (1 if is_given_up else 2)


@pytest.mark.parametrize("place", ["media", "media/.partial", "spool/new", "spool/active", "lines"])
def test_a_folder_that_vanishes_for_a_moment_pauses_is_told_and_judges_nobody(ward: Ward, place: str) -> None:
    folder, away = ward.data.root / place, ward.data.root / "away"
    lines = ward.data.root / "lines" / "metadata.jsonl"
    lines.parent.mkdir()
    ward.receive(CT)
    with capture_logs() as said, ward.running(metadata={"file": str(lines)}):
        ward.settled(1)
        folder.rename(away)
        ward.receive(MR, CINE)
        deadline = time.monotonic() + 40
        while not any(event["event"] == "paused: a folder cannot be used" for event in said):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        away.rename(folder)
        ward.settled(3)
    assert ward.quarantine() == {}
    assert len(ward.media) == 3
    assert len(lines.read_text().splitlines()) == 3
    with Ledger.open_read_only(ward.data.ledger) as ledger:
        assert ledger.counts().exported == 3
    folders = Folders(ward.data.ledger, ward.data.media, lines, ward.data.spool)
    assert reconcile(folders, deep=True).faults == []


def test_a_folder_of_the_spool_that_is_made_anew_is_taken_up(ward: Ward) -> None:
    with ward.running():
        ward.receive(CT)
        ward.settled(1)
        ward.data.spool.joinpath("new").rename(ward.data.root / "old")
        ward.data.spool.joinpath("new").mkdir(mode=0o700)
        with Spool.open(ward.data.spool) as spool:
            incoming = spool.receive()
            incoming.write([MR.read_bytes()])
            incoming.commit()
            ward.until(lambda ledger: ledger.counts().exported == 2)


def test_a_retried_instance_is_exported(ward: Ward) -> None:
    (name,) = ward.receive(CT)
    with ward.running(limits={"max_frame_pixels": 10}):
        ward.settled(1)
    assert ward.quarantine() == {"too_large": [name]}
    with Ledger.open(ward.data.ledger) as ledger:
        assert ledger.retry(name=name) == [name]
    ward.spool.requeue(name)
    with ward.running():
        ward.settled(1)
    assert ward.quarantine() == {}
    assert len(ward.lines) == 1


def test_systemd_is_told_when_it_is_ready_alive_and_stopping(ward: Ward, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(30)
        process = ward.process({"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": "400000"})
        try:
            assert systemd.recv(4096).startswith(b"READY=1")
            assert systemd.recv(4096).startswith(b"WATCHDOG=1")
            assert systemd.recv(4096).startswith(b"WATCHDOG=1")
            process.send_signal(signal.SIGTERM)
            told = systemd.recv(4096)
            while told.startswith(b"WATCHDOG=1"):
                told = systemd.recv(4096)
            assert told.startswith(b"STOPPING=1")
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.communicate()


def test_sigterm_puts_back_or_finishes_and_the_next_run_goes_on(ward: Ward, tmp_path: Path) -> None:
    ward.receive(*(variant(CT, tmp_path, SOPInstanceUID=generate_uid()) for _ in range(60)))
    process = ward.process()
    ward.until(lambda ledger: ledger.counts().exported > 2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    counts = ward.spool.counts()
    assert counts.active == 0
    with Ledger.open_read_only(ward.data.ledger) as ledger:
        assert ledger.counts().active == 0
        assert ledger.counts().exported + counts.new == 60
        assert ledger.counts().exported == len(ward.lines)
    with ward.running():
        ward.settled(60)
    assert len(ward.media) == len(ward.lines) == 60


def test_a_full_disk_pauses_and_space_resumes(small_disk: Path) -> None:
    ward = Ward(small_disk / "data")
    names = ward.receive(CT)
    ballast = small_disk / "ballast"
    with ward.running(room=NO_MARKS):
        ward.settled(1)
        ward.receive(MR, CINE)
        with ballast.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1024)):
                    pass
            except OSError:
                pass
        time.sleep(1)  # whatever it tries now, there is no room for it
        ballast.unlink()
        ward.settled(3)
    assert ward.quarantine() == {}
    assert len(ward.lines) == 3
    assert names
    ward.spool.close()


@pytest.mark.parametrize("harm", ["deleted", "replaced", "without its log", "without the index of its log"])
def test_a_ledger_that_is_deleted_or_replaced_ends_the_exporter_and_loses_nothing(ward: Ward, harm: str) -> None:
    def live() -> None:
        with ward.running():
            ward.settled(1)
            threads = threading.active_count()
            if harm == "deleted":
                ward.data.ledger.unlink()
            elif harm == "without its log":
                Path(f"{ward.data.ledger}-wal").unlink()
            elif harm == "without the index of its log":
                Path(f"{ward.data.ledger}-shm").unlink()
            else:
                copy = ward.data.root / "copy"
                shutil.copy(ward.data.ledger, copy)
                copy.replace(ward.data.ledger)
            deadline = time.monotonic() + 20
            while threading.active_count() >= threads:
                assert time.monotonic() < deadline, "it ends by itself"
                time.sleep(0.05)

    ward.receive(CT)
    with pytest.raises(LedgerUnusable, match=r"was removed|was replaced"):
        live()
    folders = Folders(ward.data.ledger, ward.data.media, ward.data.metadata, ward.data.spool)
    if harm in {"deleted", "replaced"}:
        rebuild(folders)
    assert reconcile(folders).is_sound
    ward.receive(MR)
    with ward.running():
        ward.settled(2)
    assert len(ward.lines) == 2


def test_a_disk_that_runs_full_pauses_the_exporter_before_it_is_full(small_disk: Path) -> None:
    ward = Ward(small_disk / "data")
    ballast = small_disk / "ballast"
    marks = {"pause_below_bytes": 500_000, "resume_above_bytes": 800_000, "reserve_bytes": 64 << 10}
    told = ward.data.spool / SPACE_FILE
    with ward.running(room=marks):
        deadline = time.monotonic() + 20
        while not told.exists():
            assert time.monotonic() < deadline, "the listener is told of room"
            time.sleep(0.05)
        ward.receive(CT)
        ward.settled(1)
        ballast.write_bytes(bytes(Free.measure(small_disk).bytes - 400_000))
        while json.loads(told.read_text())["paused"] is None:
            assert time.monotonic() < deadline, "it pauses"
            time.sleep(0.05)
        ward.receive(MR)
        time.sleep(1)  # it must not begin now
        assert ward.spool.counts().new == 1
        assert Free.measure(small_disk).bytes > 300_000
        with ballast.open("r+b") as file:  # between the marks: still paused
            file.truncate(ballast.stat().st_size - 250_000)
        time.sleep(1.5)
        assert ward.spool.counts().new == 1
        ballast.unlink()
        ward.settled(2)
        assert read_published_space(told.read_bytes()).keys() == {"output", "lines", "ledger"}
    assert len(ward.lines) == 2
    ward.spool.close()


def test_a_spool_without_a_byte_left_takes_a_failed_instance_into_quarantine(
    small_disk: Path, tmp_path: Path, fill: Callable[[Path], None]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "spool").symlink_to(small_disk)
    ward = Ward(tmp_path / "data")
    ward.receive(CT, b"\0" * 128 + b"DICM" + b"no DICOM" * 50)
    with ward.running(room=NO_MARKS):
        ward.settled(2)
    ward.receive(b"\0" * 128 + b"DICM" + b"none either" * 50)
    with ward.running(room=NO_MARKS | {"reserve_bytes": 256 << 10}):
        ward.settled(3)
    kept = list((small_disk / "reserve").iterdir())
    assert len(kept) == FILES
    ward.receive(b"\0" * 128 + b"DICM" + b"nor is this" * 50)
    for number in range(2000):  # no byte, and no place left in any folder's block
        (small_disk / f"{number}").touch()
    fill(small_disk / "ballast")
    with ward.running(room=NO_MARKS | {"reserve_bytes": 256 << 10}):
        ward.settled(4)
    assert {reason: len(names) for reason, names in ward.quarantine().items()} == {"unreadable": 3}
    assert all(
        path.with_name(f"{path.name}.reason.json").stat().st_size for path in small_disk.rglob("unreadable/*.dcm")
    )
    ward.spool.close()


def test_a_failure_that_is_retried_before_it_got_into_quarantine_is_tried_again(
    small_disk: Path, tmp_path: Path, fill: Callable[[Path], None]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "spool").symlink_to(small_disk)
    ward = Ward(tmp_path / "data")
    with ward.running(room=NO_MARKS):
        deadline = time.monotonic() + 20
        while not (small_disk / SPACE_FILE).exists():
            assert time.monotonic() < deadline, "it runs"
            time.sleep(0.05)
        incoming = ward.spool.receive()
        incoming.write([b"\0" * 128 + b"DICM" + b"no DICOM" * 50])
        fill(small_disk / "ballast")
        name = incoming.commit().name
        ward.until(lambda ledger: ledger.counts().quarantined == 1)
        with Ledger.open(ward.data.ledger, exclusive=False) as ledger:
            assert ledger.retry(name=name) == [name]
        (small_disk / "ballast").unlink()
        ward.settled(1)
    assert ward.quarantine() == {"unreadable": [name]}
    folders = Folders(ward.data.ledger, ward.data.media, ward.data.metadata, ward.data.spool)
    assert reconcile(folders).faults == []
    ward.spool.close()


def test_nothing_of_the_patient_is_in_the_log(ward: Ward, tmp_path: Path) -> None:
    ward.receive(
        variant(CT, tmp_path, PatientName="Zebedee^Quux", PatientID="ZQ-4711", SOPInstanceUID="1.2.3"),
        b"\0" * 128 + b"DICM" + b"Zebedee^Quux" * 50,
    )
    process = ward.process()
    ward.settled(2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert b"exported" in said
    assert b"quarantined" in said
    assert b"Zebedee" not in said
    assert b"4711" not in said
