"""An Orthanc storage folder at rest gives what the live way gives, nothing is lost silently, and nothing is written."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest

from exporter.errors import Reason
from exporter.inputs.contract import InputUnusable
from exporter.inputs.orthanc_storage.orphans import LIST
from exporter.results.ledger import InstanceStatus, Ledger
from exporter.services import daemon
from exporter.services.daemon import DaemonSignals
from exporter.settings.settings import Settings
from listener.foundation.counters import Counters
from listener.settings.listener import DataFolder, ListenerSettings
from listener.sources.contract import Surroundings
from listener.sources.orthanc.source import OrthancSource
from listener.spool.space import SpaceGuard
from listener.spool.spool import Spool
from tests.exporter.orthanc_folders import lines, media, run, state
from tests.listener.requestor import eventually
from tests.orthanc_server import OrthancServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[4]
INSTANCES = 16


def command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "exporter", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        **options,
    )


@dataclass(frozen=True)
class Held:
    """What a real Orthanc has left behind, and what it gave away while it ran."""

    storage: Path
    polled: DataFolder
    """Its instances in the spool, where the live way has put them while it ran."""
    copied_alive: Path
    """A copy of its folder from while it ran."""


@pytest.fixture(scope="module")
def instances(corpus: Path) -> list[bytes]:
    """Real files of many classes and transfer syntaxes, each with a SOP Instance UID of its own."""
    found: dict[tuple[str, str], list[bytes]] = {}
    seen = set()
    for path in sorted(p for p in corpus.rglob("*") if p.is_file() and p.suffix != ".jsonl"):
        if not 1000 < path.stat().st_size < 200_000:
            continue
        try:
            read = pydicom.dcmread(path, stop_before_pixels=True)
            uid, syntax = str(read.SOPInstanceUID), str(read.file_meta.TransferSyntaxUID)
            honest = read.StudyInstanceUID and read.PatientID
        except Exception:  # noqa: BLE001, S112 - broken files are for other tests
            continue
        if honest and uid not in seen:
            seen.add(uid)
            found.setdefault((str(read.SOPClassUID), syntax), []).append(path.read_bytes())
    rounds = [files[number] for number in range(8) for files in found.values() if number < len(files)]
    return rounds[:INSTANCES]


@pytest.fixture(scope="module")
def held(peer: Callable[[str], str], instances: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Held:
    """With StorageCompression."""
    return _held(peer("Orthanc"), instances, tmp_path_factory.mktemp("compressed"), compression=True)


@pytest.fixture(scope="module")
def plain(peer: Callable[[str], str], instances: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Held:
    """Without."""
    return _held(peer("Orthanc"), instances, tmp_path_factory.mktemp("plain"), compression=False)


def _held(program: str, instances: list[bytes], folder: Path, *, compression: bool) -> Held:
    with OrthancServer(program, folder, StorageCompression=compression) as server:
        names = [server.add(one) for one in instances]
        server.rest(f"/instances/{names[0]}/attachments/1024", b"an attachment of a user", method="PUT")
        polled = _poll(server.url, folder / "live")
        shutil.copytree(server.storage, folder / "alive")
    return Held(server.storage, polled, folder / "alive")


def _poll(url: str, folder: Path) -> DataFolder:
    """Take every instance of a running Orthanc into a spool, by the source that polls."""
    data, counters = DataFolder(folder), Counters()
    spool = Spool.open(data.spool)
    settings = ListenerSettings.model_validate({"orthanc": {"url": url, "poll_s": 0.05}})
    surroundings = Surroundings(spool, SpaceGuard(spool.root, settings.spool), counters, folder / "sources")
    source = OrthancSource(settings.orthanc[0], surroundings)
    source.start()
    try:
        eventually(lambda: spool.counts().new >= INSTANCES, "every instance is in the spool", within_s=100)
    finally:
        source.stop(5.0)
        spool.close()
    assert len(list((data.spool / "new").iterdir())) == INSTANCES
    return data


@pytest.fixture(scope="module")
def live(held: Held) -> DataFolder:
    """What the live way makes of the same instances: polled into the spool, exported by the daemon."""
    signals = DaemonSignals.none()
    thread = threading.Thread(target=daemon.run, args=(Settings(num_workers=1), held.polled, signals))
    thread.start()
    with Spool.open(held.polled.spool) as spool:
        try:
            eventually(lambda: not (spool.counts().new or spool.counts().active), "the spool is empty", within_s=100)
        finally:
            signals.stop.set()
            thread.join(100)
    return held.polled


@pytest.fixture(params=["held", "plain"], ids=["compressed", "plain"])
def either(request: pytest.FixtureRequest) -> Held:
    """One after the other."""
    found: Held = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def storage(held: Held, tmp_path: Path) -> Path:
    """A copy of the stopped folder, to be damaged."""
    return Path(shutil.copytree(held.storage, tmp_path / "storage"))


@pytest.fixture
def read_only(held: Held, tmp_path: Path) -> Iterator[Path]:
    """A copy of the stopped folder that nobody can write."""
    folder = Path(shutil.copytree(held.storage, tmp_path / "read-only"))
    if os.geteuid():
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return
    for options in ("bind", "remount,bind,ro"):  # root may write whatever the mode says
        if subprocess.run(["mount", "-o", options, folder, folder], capture_output=True, check=False).returncode:
            pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def whole_files(storage: Path) -> list[Path]:
    """The files of whole instances."""
    connection = sqlite3.connect(f"file:{storage}/index?mode=ro&immutable=1", uri=True)
    uuids = [row[0] for row in connection.execute("SELECT uuid FROM AttachedFiles WHERE fileType = 1 ORDER BY uuid")]
    connection.close()
    return [storage / uuid[:2] / uuid[2:4] / uuid for uuid in uuids]


def test_the_stopped_folder_gives_the_records_and_media_of_the_live_way(
    either: Held, live: DataFolder, tmp_path: Path
) -> None:
    before = state(either.storage)
    done = run(either.storage, tmp_path / "out")
    assert state(either.storage) == before
    at_rest = lines(tmp_path / "out/metadata.jsonl")
    assert at_rest == lines(live.metadata)
    assert media(tmp_path / "out/media") == media(live.media)
    assert len(at_rest) >= INSTANCES - 3
    assert done.tally.settled == done.tally.total == INSTANCES
    assert done.noticed.orphans == done.noticed.strangers == 0
    assert not (tmp_path / "out" / LIST).exists()
    for text in (tmp_path / "out/metadata.jsonl").read_text().splitlines():
        assert (either.storage / json.loads(text)["dicom_file"]).is_file()


def test_a_second_run_exports_nothing_and_remembers_what_failed(held: Held, tmp_path: Path) -> None:
    first = run(held.storage, tmp_path / "out")
    text = (tmp_path / "out/metadata.jsonl").read_bytes()
    second = run(held.storage, tmp_path / "out")
    assert second.results == {}
    assert second.tally.unchanged == INSTANCES
    assert second.tally.failed_before == first.tally.failed.total()
    assert (tmp_path / "out/metadata.jsonl").read_bytes() == text


def test_a_folder_that_cannot_be_written_is_read(read_only: Path, live: DataFolder, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"Read-only|denied"):
        (read_only / "index-shm").touch()
    before = state(read_only)
    done = command("orthanc-storage", read_only, "--output", tmp_path / "out", "--workers", "1")
    assert state(read_only) == before
    assert done.returncode == (3 if "failed" in done.stdout else 0), done.stderr
    assert lines(tmp_path / "out/metadata.jsonl") == lines(live.metadata)


def test_damaged_and_missing_attachments_are_named_and_counted(either: Held, live: DataFolder, tmp_path: Path) -> None:
    storage = Path(shutil.copytree(either.storage, tmp_path / "storage"))
    files = whole_files(storage)
    flipped, cut, overwritten, *missing = files[:5]
    with flipped.open("r+b") as file:
        file.seek(flipped.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))
    os.truncate(cut, cut.stat().st_size - 7)
    overwritten.write_bytes(files[6].read_bytes())
    for path in missing:
        path.unlink()
    out = tmp_path / "out"
    done = command("orthanc-storage", storage, "--output", out, "--workers", "1")
    assert done.returncode == 3, done.stderr
    told = failures(out)
    bad = {path.relative_to(storage).as_posix() for path in files[:5]}
    assert bad <= told.keys()
    for name in bad:
        assert told[name].startswith(f"unreadable: attachment {name[-36:]}: ")
    messages = [told[path.relative_to(storage).as_posix()] for path in files[:5]]
    assert "MD5" in messages[0] or "content is damaged" in messages[0]
    assert "bytes, the index says" in messages[1]
    assert "bytes, the index says" in messages[2] or "MD5" in messages[2]
    assert all("missing" in message for message in messages[3:])
    assert "missing: 2 instances" in done.stdout
    with Ledger.open_read_only(out / "exporter.db") as ledger:
        counts = ledger.counts()
    assert counts.exported + counts.skipped + counts.failed == INSTANCES
    intact = lines(live.metadata)
    some = lines(out / "metadata.jsonl")
    assert {uid: intact[uid] for uid in some} == some
    assert len(intact) - len(some) <= 5
    again = run(storage, out)
    assert again.results == {}
    assert again.tally.failed_before == counts.failed


def failures(out: Path) -> dict[str, str]:
    """Reason and message of everything that failed, by name."""
    with Ledger.open_read_only(out / "exporter.db") as ledger:
        return {entry.name: f"{entry.reason}: {entry.message}" for entry in ledger.entries(InstanceStatus.FAILED)}


def test_a_mended_attachment_is_exported_by_the_next_run(held: Held, storage: Path, tmp_path: Path) -> None:
    first, second, *_ = whole_files(storage)
    first.unlink()
    second.write_bytes(b"something else")
    broken = run(storage, tmp_path / "out")
    assert broken.tally.failed[Reason.UNREADABLE] >= 2
    for path in (first, second):
        shutil.copy2(held.storage / path.relative_to(storage), path)
    mended = run(storage, tmp_path / "out")
    assert len(mended.results) == 2
    assert lines(tmp_path / "out/metadata.jsonl") == lines_of(held, tmp_path)


def lines_of(held: Held, tmp_path: Path) -> dict[str, dict[str, Any]]:
    run(held.storage, tmp_path / "fresh")
    return lines(tmp_path / "fresh/metadata.jsonl")


def test_what_the_index_does_not_know_is_listed_and_left_alone(storage: Path, tmp_path: Path) -> None:
    known = whole_files(storage)[0]
    orphan = storage / "fe" / "dc" / "fedcba98-0000-4000-8000-000000000000"
    orphan.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(known, orphan)
    misplaced = storage / "00" / "11" / known.name
    misplaced.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(known, misplaced)
    (storage / "notes.txt").write_text("not Orthanc's")
    done = run(storage, tmp_path / "out")
    assert (done.noticed.orphans, done.noticed.strangers) == (1, 2)
    listed = [json.loads(line) for line in (tmp_path / "out" / LIST).read_text().splitlines()]
    assert {(one["file"], one["why"]) for one in listed} == {
        (orphan.relative_to(storage).as_posix(), "not in the index"),
        (misplaced.relative_to(storage).as_posix(), "outside the layout of a storage"),
        ("notes.txt", "outside the layout of a storage"),
    }
    assert done.tally.settled == INSTANCES
    assert "orphans: 1" in done.remarks
    orphan.unlink()
    misplaced.unlink()
    (storage / "notes.txt").unlink()
    run(storage, tmp_path / "out")
    assert not (tmp_path / "out" / LIST).exists()


def test_without_its_index_the_folder_gives_the_same_and_headers_are_no_instances(
    either: Held, live: DataFolder, tmp_path: Path
) -> None:
    storage = Path(shutil.copytree(either.storage, tmp_path / "storage"))
    headers = headers_of(storage)
    assert (headers > 0) is (either.storage.parent.name.startswith("compressed"))
    (storage / "index").unlink()
    before = state(storage)
    done = run(storage, tmp_path / "out")
    assert state(storage) == before
    assert "no SQLite index" in done.warnings
    assert lines(tmp_path / "out/metadata.jsonl") == lines(live.metadata)
    assert media(tmp_path / "out/media") == media(live.media)
    assert done.noticed.headers == headers
    assert done.tally.skipped["excluded"] == headers
    assert done.tally.failed[Reason.NOT_DICOM] == 1  # the attachment of a user
    again = run(storage, tmp_path / "out")
    assert again.results == {}


def headers_of(storage: Path) -> int:
    connection = sqlite3.connect(f"file:{storage}/index?mode=ro&immutable=1", uri=True)
    (count,) = connection.execute("SELECT count(*) FROM AttachedFiles WHERE fileType = 3").fetchone()
    connection.close()
    return int(count)


def test_a_folder_copied_while_orthanc_ran_is_read_with_its_log(held: Held, live: DataFolder, tmp_path: Path) -> None:
    assert (held.copied_alive / "index-wal").stat().st_size > 0
    before = state(held.copied_alive)
    done = run(held.copied_alive, tmp_path / "out")
    assert state(held.copied_alive) == before
    assert done.tally.settled == INSTANCES
    assert lines(tmp_path / "out/metadata.jsonl") == lines(live.metadata)


@pytest.fixture
def running(peer: Callable[[str], str], instances: list[bytes], tmp_path: Path) -> Iterator[OrthancServer]:
    with OrthancServer(peer("Orthanc"), tmp_path / "orthanc", StorageCompression=True) as server:
        for one in instances[:6]:
            server.add(one)
        yield server


def test_the_folder_of_a_running_orthanc_is_read_and_that_is_said(running: OrthancServer, tmp_path: Path) -> None:
    done = run(running.storage, tmp_path / "out")
    assert done.tally.settled == 6
    assert "seems to run" in done.warnings
    assert not (running.storage / "index-shm").exists()
    running.restart()
    assert len(running.instances()) == 6


def test_an_index_in_another_folder_is_named(storage: Path, live: DataFolder, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    apart.mkdir()
    (storage / "index").rename(apart / "index")
    done = run(storage, tmp_path / "out", index=apart)
    assert done.warnings == ""
    assert lines(tmp_path / "out/metadata.jsonl") == lines(live.metadata)
    with pytest.raises(InputUnusable, match="--index"):
        run(storage, tmp_path / "other", index=tmp_path / "nowhere")


def test_a_dry_run_checks_everything_and_writes_nothing(storage: Path, tmp_path: Path) -> None:
    whole_files(storage)[0].unlink()
    before = state(storage)
    done = command("orthanc-storage", storage, "--output", tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()
    assert state(storage) == before
    assert done.stdout.count("export    ") >= INSTANCES - 4
    assert "fail      " in done.stdout
    assert "missing: 1 instances" in done.stdout


def test_the_storage_folder_is_never_an_output_folder(storage: Path) -> None:
    before = state(storage)
    done = command("orthanc-storage", storage, "--output", storage)
    assert done.returncode == 2
    assert "lies inside the storage folder" in done.stderr
    for output in (storage / "out", storage / "aa/.."):
        with pytest.raises(InputUnusable, match="lies inside the storage folder"):
            run(storage, output)
    with pytest.raises(InputUnusable, match="lies inside the storage folder"):
        run(storage, storage.with_name("out"), media={"dir": str(storage / "media")})
    assert state(storage) == before


def test_a_stopped_run_goes_on_where_it_stopped(held: Held, live: DataFolder, tmp_path: Path) -> None:
    from exporter.inputs.backfill import ExportTarget
    from exporter.inputs.entry_source import Progress
    from exporter.inputs.orthanc_storage.storage import StorageRequest, opened_storage

    stop, target = threading.Event(), ExportTarget(tmp_path / "out", Settings(), workers=0)
    with opened_storage(StorageRequest(held.storage), target, list_orphans=True) as storage:
        for number, _ in enumerate(storage.export(target, Progress(), stop)):
            if number == 3:
                stop.set()
        assert storage.reader.noticed.orphans is None
    assert not list(target.places.media.glob(".partial/copies-*/*"))
    rest = run(held.storage, tmp_path / "out")
    assert rest.tally.unchanged >= 4
    assert rest.tally.settled == INSTANCES
    assert lines(tmp_path / "out/metadata.jsonl") == lines(live.metadata)
    assert media(tmp_path / "out/media") == media(live.media)
