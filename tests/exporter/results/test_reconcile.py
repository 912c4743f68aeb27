"""Reconcile: finds what does not agree, and nothing else."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import orjson
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import UID, RawDataStorage

from exporter.errors import SkipReason
from exporter.inputs import backfill
from exporter.inputs.backfill import Progress
from exporter.outcome import Exported, Failed, InstanceIdentity, MediaFile, MediaType, Skipped
from exporter.results import intents
from exporter.results import reconcile as module
from exporter.results.ledger import InstanceStatus, Ledger, LedgerUnusable
from exporter.results.line import line
from exporter.results.metadata.jsonl import Appender, MetadataFileUnusable
from exporter.results.rebuild import rebuild
from exporter.results.reconcile import Folders, ReconcileReport, reconcile
from exporter.settings.settings import Settings
from listener.settings.listener import DataFolder
from listener.spool.spool import Spool
from tests.exporter.ledger_rows import begin, finish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IDENTITY = InstanceIdentity("1.2", "1.2.3", "1.2.1", "1.2.2", "a" * 64)


class ReconcileHarness:
    """A data folder with a few instances in every state."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = Folders(root / "exporter.db", root / "media", root / "metadata.jsonl", root / "spool")
        self.spool = Spool.open(root / "spool")
        self.folders.media.mkdir()
        self.exported = [self.export(f"content {number}") for number in range(3)]
        self.frames = self.export("frames", folder=True)
        self.quarantined = self.begin("not readable")
        self.finish(self.quarantined, InstanceStatus.QUARANTINED, reason="unreadable")
        self.spool.quarantine(self.active(self.quarantined), "unreadable", {})
        self.skipped = self.begin("a report")
        self.finish(self.skipped, InstanceStatus.SKIPPED, reason="no_media", has_line=True)
        self.spool.finish(self.active(self.skipped))
        self.waiting = self.receive("nobody looked at it")
        self.deferred = self.begin("timed out once")
        with self.ledger() as ledger:
            ledger.defer(self.deferred, "timeout", "", not_before=0)
            with Appender(self.folders.metadata, ledger) as appender:
                appender.publish()

    def ledger(self) -> Ledger:
        return Ledger.open(self.folders.ledger)

    def receive(self, content: str) -> str:
        incoming = self.spool.receive()
        incoming.write([content.encode()])
        return incoming.commit().name

    def active(self, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN201 - a SpoolItem
        from listener.spool.incoming import SpoolItem

        path = self.root / "spool" / "active" / name
        return SpoolItem(name, path.parent, path.stat().st_size)

    def begin(self, content: str) -> str:
        name = self.receive(content)
        item = next(item for item in self.spool.pending() if item.name == name)
        assert self.spool.claim(item) is not None
        with self.ledger() as ledger:
            begin(ledger, name, size_bytes=1, mtime_ns=2, source="spool")
        return name

    def finish(
        self,
        name: str,
        state: InstanceStatus,
        *,
        reason: str | None = None,
        media: tuple[MediaFile, ...] = (),
        has_line: bool = False,
    ) -> None:
        text = None
        if state is InstanceStatus.EXPORTED:
            text = line(Exported(IDENTITY, media, "{}", "b" * 64, "c" * 64), dicom_file=name, version="1")
        elif has_line:
            text = line(Skipped(SkipReason.NO_MEDIA, "", record="{}"), dicom_file=name, version="1")
        with self.ledger() as ledger:
            finish(ledger, name, state=state, reason=reason, media=media, line=text)

    def export(self, content: str, *, folder: bool = False) -> str:
        name = self.begin(content)
        base = f"study/{name[:30]}"
        path = self.folders.media / base
        path.parent.mkdir(exist_ok=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        if folder:
            path.with_name(f"{path.name}.frames").mkdir()
            (path.parent / f"{path.name}.frames" / "0001.png").write_bytes(content.encode())
            digest = hashlib.sha256(f"{digest}  0001.png\n".encode()).hexdigest()
            medium = MediaFile(f"{base}.frames/", ".frames/", MediaType.FRAMES, len(content), digest, "png")
        else:
            path.with_name(f"{path.name}.png").write_bytes(content.encode())
            medium = MediaFile(f"{base}.png", ".png", MediaType.IMAGE, len(content), digest, "png")
        self.finish(name, InstanceStatus.EXPORTED, media=(medium,))
        self.spool.finish(self.active(name))
        return name

    def medium(self, name: str) -> Path:
        with Ledger.open_read_only(self.folders.ledger) as ledger:
            return self.folders.media / ledger.media(name)[0].file

    def change(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.folders.ledger)) as connection:
            connection.execute(statement, values)
            connection.commit()

    def kinds(self, *, deep: bool = False) -> set[str]:
        return {fault.kind for fault in reconcile(self.folders, deep=deep).faults}


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[ReconcileHarness]:
    made = ReconcileHarness(tmp_path)
    yield made
    made.spool.close()


def test_what_agrees_is_sound(harness: ReconcileHarness) -> None:
    report = reconcile(harness.folders, deep=True)
    assert report.faults == []
    assert report.is_sound
    assert report.instances == {"exported": 4, "quarantined": 1, "skipped": 1, "deferred": 1}
    assert (report.waiting, report.refused, report.media, report.lines) == (1, 0, 4, 5)
    assert not report.notes


def _remove_medium(harness: ReconcileHarness) -> None:
    harness.medium(harness.exported[0]).unlink()


def _shorten_medium(harness: ReconcileHarness) -> None:
    os.truncate(harness.medium(harness.exported[0]), 1)


def _link_medium(harness: ReconcileHarness) -> None:
    path = harness.medium(harness.exported[0])
    path.unlink()
    path.symlink_to(harness.medium(harness.exported[1]))


def _remove_frames(harness: ReconcileHarness) -> None:
    shutil.rmtree(harness.medium(harness.frames))


def _remove_frame(harness: ReconcileHarness) -> None:
    (harness.medium(harness.frames) / "0001.png").unlink()


def _foreign_medium(harness: ReconcileHarness) -> None:
    (harness.folders.media / "study" / "other.png").write_bytes(b"x")


def _lose_quarantined(harness: ReconcileHarness) -> None:
    (harness.root / "spool/quarantine/unreadable" / harness.quarantined).unlink()


def _lose_deferred(harness: ReconcileHarness) -> None:
    (harness.root / "spool/active" / harness.deferred).unlink()


def _retry_without_requeue(harness: ReconcileHarness) -> None:
    with harness.ledger() as ledger:
        ledger.retry(name=harness.quarantined)


def _other_reason(harness: ReconcileHarness) -> None:
    shutil.move(harness.root / "spool/quarantine/unreadable", harness.root / "spool/quarantine/timeout")


def _two_places(harness: ReconcileHarness) -> None:
    shutil.copy(harness.root / "spool/quarantine/unreadable" / harness.quarantined, harness.root / "spool/new")


def _done_but_failed(harness: ReconcileHarness) -> None:
    (harness.root / "spool/done" / harness.quarantined).write_bytes(b"x")
    (harness.root / "spool/quarantine/unreadable" / harness.quarantined).unlink()


def _remove_metadata(harness: ReconcileHarness) -> None:
    harness.folders.metadata.unlink()


def _damage_line(harness: ReconcileHarness) -> None:
    content = bytearray(harness.folders.metadata.read_bytes())
    content[len(content) // 2] ^= 1
    harness.folders.metadata.write_bytes(content)


def _remove_line(harness: ReconcileHarness) -> None:
    lines = harness.folders.metadata.read_bytes().splitlines(keepends=True)
    harness.folders.metadata.write_bytes(b"".join(lines[:2] + lines[3:]))


def _double_line(harness: ReconcileHarness) -> None:
    lines = harness.folders.metadata.read_bytes().splitlines(keepends=True)
    harness.folders.metadata.write_bytes(b"".join(lines[:2] + lines[1:]))


def _forget_line(harness: ReconcileHarness) -> None:
    harness.change("UPDATE instance SET line_seq = NULL WHERE name = ?", harness.exported[0])


def _line_of_another(harness: ReconcileHarness) -> None:
    harness.change("UPDATE instance SET line_seq = 1 WHERE name = ?", harness.exported[1])


def _forget_medium(harness: ReconcileHarness) -> None:
    harness.change(
        "DELETE FROM medium WHERE instance_id = (SELECT id FROM instance WHERE name = ?)", harness.exported[0]
    )


@pytest.mark.parametrize(
    ("harm", "kinds"),
    [
        (_remove_medium, {"no_medium"}),
        (_shorten_medium, {"other_medium"}),
        (_link_medium, {"no_medium"}),
        (_remove_frames, {"no_medium"}),
        (_remove_frame, {"other_medium"}),
        (_foreign_medium, {"no_owner"}),
        (_lose_quarantined, {"lost"}),
        (_lose_deferred, {"lost"}),
        (_retry_without_requeue, {"two_states", "lost"}),
        (_other_reason, {"two_states", "lost"}),
        (_two_places, {"two_places"}),
        (_done_but_failed, {"two_states", "lost"}),
        (_remove_metadata, {"damaged_lines"}),
        (_damage_line, {"damaged_lines"}),
        (_remove_line, {"damaged_lines"}),
        (_double_line, {"damaged_lines"}),
        (_forget_line, {"no_line"}),
        (_line_of_another, {"other_line"}),
        (_forget_medium, {"no_medium", "no_owner", "other_line"}),
    ],
)
def test_what_does_not_agree_is_found_and_called_by_its_name(
    harness: ReconcileHarness, harm: Callable[[ReconcileHarness], None], kinds: set[str]
) -> None:
    harm(harness)
    assert harness.kinds() == kinds
    assert not reconcile(harness.folders).is_sound


def test_a_medium_of_the_same_size_and_other_content_is_found_on_a_deep_look(harness: ReconcileHarness) -> None:
    path = harness.medium(harness.exported[0])
    path.write_bytes(b"x" * path.stat().st_size)
    frame = harness.medium(harness.frames) / "0001.png"
    frame.write_bytes(b"y" * frame.stat().st_size)
    assert harness.kinds() == set()
    faults = reconcile(harness.folders, deep=True).faults
    assert [fault.kind for fault in faults] == ["other_medium"] * 2


def test_what_the_next_start_repairs_is_a_note(harness: ReconcileHarness) -> None:
    name = harness.begin("exported, and then the exporter was killed")
    path = harness.folders.media / "study" / "late.png"
    path.write_bytes(b"late")
    digest = hashlib.sha256(b"late").hexdigest()
    harness.finish(
        name, InstanceStatus.EXPORTED, media=(MediaFile("study/late.png", ".png", MediaType.IMAGE, 4, digest, "png"),)
    )
    note = harness.folders.media / ".partial" / "token"
    note.mkdir(parents=True)
    intents.record(note, intents.Intent("another", ("study/renamed.png",)))
    (note / "0.part").write_bytes(b"half")
    (harness.folders.media / "study" / "renamed.png").write_bytes(b"not committed")
    with harness.folders.metadata.open("ab") as file:
        file.write(b'{"torn')
    report = reconcile(harness.folders)
    assert report.faults == []
    assert dict(report.notes) == {
        "files of finished instances wait to leave the spool": 1,
        "metadata lines that wait to be written to the file": 1,
        "bytes behind the last metadata line": 6,
        "media that were renamed and not committed": 1,
    }


def test_files_that_the_listener_refused_are_accounted_for(harness: ReconcileHarness) -> None:
    incoming = harness.spool.receive()
    incoming.write([b"x"])
    harness.spool.refuse(incoming, "unreadable", {})
    report = reconcile(harness.folders)
    assert report.is_sound
    assert report.refused == 1


@pytest.mark.parametrize("created", [True, False])
def test_rotated_lines_are_accounted_for(harness: ReconcileHarness, *, created: bool) -> None:
    harness.folders.metadata.rename(harness.root / "metadata.jsonl.1")
    if created:
        harness.folders.metadata.touch()
    report = reconcile(harness.folders)
    assert report.is_sound
    assert any("rotated" in note for note in report.notes)
    name = harness.begin("after")
    harness.finish(name, InstanceStatus.SKIPPED, reason="no_media", has_line=True)
    harness.spool.finish(harness.active(name))
    with harness.ledger() as ledger, Appender(harness.folders.metadata, ledger) as appender:
        appender.publish()
    report = reconcile(harness.folders, deep=True)
    assert (report.faults, report.lines) == ([], 1)
    harness.folders.metadata.write_bytes(b"")
    assert [fault.kind for fault in reconcile(harness.folders).faults] == ["damaged_lines"]
    harness.folders.metadata.unlink()
    assert [fault.kind for fault in reconcile(harness.folders).faults] == ["damaged_lines"]


def test_a_backfill_has_no_spool(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "exporter.db", tmp_path / "media", tmp_path / "metadata.jsonl")
    folders.media.mkdir()
    with Ledger.open(folders.ledger) as ledger:
        begin(ledger, "a.dcm", size_bytes=1, mtime_ns=2, source="folder")
        finish(ledger, "a.dcm", state=InstanceStatus.FAILED, reason="not_dicom")
        begin(ledger, "b.dcm", size_bytes=1, mtime_ns=2, source="folder")
    report = reconcile(folders)
    assert report.is_sound
    assert report.instances == {"failed": 1, "active": 1}


def test_a_failed_attempt_leaves_the_earlier_export_sound(harness: ReconcileHarness) -> None:
    name = os.fsdecode(b"a\xff.dcm")
    medium = MediaFile(os.fsdecode(b"a\xff.png"), ".png", MediaType.IMAGE, 1, hashlib.sha256(b"x").hexdigest(), "png")
    (harness.folders.media / medium.file).write_bytes(b"x")
    with harness.ledger() as ledger:
        begin(ledger, name, size_bytes=1, mtime_ns=2, source="folder")
    harness.finish(name, InstanceStatus.EXPORTED, media=(medium,))
    with harness.ledger() as ledger:
        begin(ledger, name, size_bytes=1, mtime_ns=3, source="folder")
        finish(ledger, name, state=InstanceStatus.FAILED, reason="timeout")
    assert reconcile(harness.folders, deep=True).is_sound


def test_where_nothing_ran_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnusable, match="there is none"):
        reconcile(Folders(tmp_path / "exporter.db", tmp_path / "media", tmp_path / "metadata.jsonl"))


def test_a_damaged_database_is_a_fault_on_a_deep_look(harness: ReconcileHarness) -> None:
    with closing(sqlite3.connect(harness.folders.ledger)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'instance_state'").fetchone()[0]
    content = bytearray(harness.folders.ledger.read_bytes())
    content[(page - 1) * 4096 + 100 : page * 4096 - 600] = bytes(4096 - 700)
    content[(page - 1) * 4096 + 8 : (page - 1) * 4096 + 20] = b"\xff" * 12
    harness.folders.ledger.write_bytes(content)
    assert harness.kinds(deep=True) == {"damaged_ledger"}


def test_with_a_running_exporter_only_what_stays_is_a_fault(
    harness: ReconcileHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing = harness.folders.media / "study" / "passing.png"
    passing.write_bytes(b"x")
    staying = harness.folders.media / "study" / "staying.png"
    staying.write_bytes(b"x")
    monkeypatch.setattr(module, "PAUSE_S", 0.0)
    looks: list[ReconcileReport] = []
    look = module._look

    def looked(folders: Folders, *, deep: bool) -> ReconcileReport:
        looks.append(look(folders, deep=deep))
        passing.unlink(missing_ok=True)
        return looks[-1]

    monkeypatch.setattr(module, "_look", looked)
    with harness.ledger():
        report = reconcile(harness.folders)
    assert [fault.subject for fault in report.faults] == ["study/staying.png"]
    assert len(looks) == module.LOOKS
    looks.clear()
    assert reconcile(harness.folders).fault_count == 1
    assert len(looks) == 1


def test_faults_are_counted_beyond_those_that_are_listed() -> None:
    report = ReconcileReport()
    for number in range(module.MOST_LISTED + 5):
        report.fault("no_owner", f"{number}", "")
    assert (len(report.faults), report.fault_count) == (module.MOST_LISTED, module.MOST_LISTED + 5)


# -- a ledger made anew ----------------------------------------------------------------------------------------------


def entries(harness: ReconcileHarness) -> dict[str, tuple[object, ...]]:
    with Ledger.open_read_only(harness.folders.ledger) as ledger:
        return {
            entry.name: (entry.state, entry.reason, entry.source, entry.line_seq, ledger.media(entry.name))
            for entry in ledger.entries()
            if entry.state in {InstanceStatus.EXPORTED, InstanceStatus.SKIPPED, InstanceStatus.QUARANTINED}
        }


@pytest.mark.parametrize("harm", ["deleted", "damaged"])
def test_a_lost_ledger_is_made_anew_from_lines_media_and_spool(harness: ReconcileHarness, harm: str) -> None:
    before, lines = entries(harness), harness.folders.metadata.read_bytes()
    if harm == "deleted":
        harness.folders.ledger.unlink()
    else:
        harness.folders.ledger.write_bytes(b"damaged" * 1000)
    rebuilt = rebuild(harness.folders)
    assert (rebuilt.lines, rebuilt.quarantined, rebuilt.foreign_bytes) == (5, 1, 0)
    assert entries(harness) == before
    assert harness.folders.metadata.read_bytes() == lines
    report = reconcile(harness.folders, deep=True)
    assert report.faults == []
    assert report.waiting == 2  # the deferred one is begun anew
    assert (rebuilt.kept is None) == (harm == "deleted")
    if rebuilt.kept is not None:
        assert rebuilt.kept.read_bytes() == b"damaged" * 1000


def test_a_rebuilt_ledger_goes_on_where_the_file_ends(harness: ReconcileHarness) -> None:
    harness.folders.ledger.unlink()
    lines = harness.folders.metadata.read_bytes()
    first, rest = lines.split(b"\n", 1)
    harness.folders.metadata.write_bytes(first + b'\n{"theirs":1}\n{"theirs":2}\n' + rest + b'{"theirs":3}\n{"torn')
    rebuilt = rebuild(harness.folders)
    assert rebuilt.foreign_bytes == 3 * len(b'{"theirs":1}\n')
    name = harness.begin("after")
    harness.finish(name, InstanceStatus.SKIPPED, reason="no_media", has_line=True)
    with harness.ledger() as ledger, Appender(harness.folders.metadata, ledger) as appender:
        appender.publish()
    content = harness.folders.metadata.read_bytes()
    assert content.startswith(first + b'\n{"theirs":1}\n{"theirs":2}\n' + rest + b'{"theirs":3}\n{"dicom_file"')
    assert content.count(b"\n") == 5 + 3 + 1
    assert reconcile(harness.folders, deep=True).is_sound
    assert [path.read_bytes() for path in harness.root.glob("metadata.jsonl.kept-*")] == [b'{"torn']


def test_of_several_lines_of_one_input_the_last_counts(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "exporter.db", tmp_path / "media", tmp_path / "metadata.jsonl")
    folders.media.mkdir()
    name = os.fsdecode(b"caf\xe9.dcm")
    with Ledger.open(folders.ledger) as ledger, Appender(folders.metadata, ledger) as appender:
        for number, suffix in enumerate((".png", ".jpg")):
            path = os.fsdecode(b"caf\xe9") + suffix
            (folders.media / path).write_bytes(b"x")
            media = (MediaFile(path, suffix, MediaType.IMAGE, 1, hashlib.sha256(b"x").hexdigest(), "png"),)
            text = line(Exported(IDENTITY, media, "{}", "b" * 64, "c" * 64), dicom_file=name, version="1")
            begin(ledger, name, size_bytes=1, mtime_ns=number, source="folder")
            for gone in finish(ledger, name, state=InstanceStatus.EXPORTED, identity=IDENTITY, media=media, line=text):
                (folders.media / gone).unlink()
                ledger.forget_superseded([gone])
        appender.publish()
    folders.ledger.unlink()
    assert rebuild(folders).lines == 2
    assert reconcile(folders, deep=True).is_sound
    with Ledger.open_read_only(folders.ledger) as ledger:
        entry = ledger.entry(name)
        assert entry is not None
        assert (entry.line_seq, [one.file for one in ledger.media(name)]) == (2, [os.fsdecode(b"caf\xe9.jpg")])
        assert entry.identity is not None
        assert entry.identity.content_sha256 == IDENTITY.content_sha256


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("present", [False, True])
def test_lines_in_rotated_files_make_the_ledger_too(harness: ReconcileHarness, packed: bool, present: bool) -> None:
    metadata = harness.folders.metadata
    for number in (2, 1):
        rotated = metadata.with_name(f"{metadata.name}.{number}")
        metadata.rename(rotated)
        with harness.ledger() as ledger, Appender(metadata, ledger) as appender:
            appender.publish()
        if number == 2 or present:
            name = harness.begin(f"after rotation {number}")
            harness.finish(name, InstanceStatus.SKIPPED, reason="no_media", has_line=True)
            with harness.ledger() as ledger, Appender(metadata, ledger) as appender:
                appender.publish()
        if packed:
            status = rotated.stat()
            Path(f"{rotated}.gz").write_bytes(gzip.compress(rotated.read_bytes()))
            os.utime(f"{rotated}.gz", ns=(status.st_atime_ns, status.st_mtime_ns))
            if number == 1:
                rotated.unlink()  # the other one lies there twice
    if not present:
        metadata.unlink()
    before, lines = entries(harness), metadata.read_bytes() if present else b""
    harness.folders.ledger.unlink()
    rebuilt = rebuild(harness.folders)
    assert (rebuilt.lines, rebuilt.rotated) == (7 if present else 6, 6)
    assert entries(harness) == before
    with harness.ledger() as ledger, Appender(metadata, ledger) as appender:
        assert appender.publish() == 0
    assert metadata.read_bytes() == lines
    assert reconcile(harness.folders, deep=True).is_sound


def test_a_rotated_file_that_is_damaged_is_named(harness: ReconcileHarness) -> None:
    harness.folders.metadata.with_name("metadata.jsonl.1.gz").write_bytes(gzip.compress(b"x" * 10_000)[:-9])
    with pytest.raises(MetadataFileUnusable, match=r"metadata\.jsonl\.1\.gz"):
        rebuild(harness.folders)


def test_a_kept_file_that_no_line_tells_of_waits_again(harness: ReconcileHarness) -> None:
    name = harness.begin("the same once more")
    harness.finish(name, InstanceStatus.SKIPPED, reason="duplicate")
    done = harness.root / "spool" / "done" / name
    (harness.root / "spool" / "active" / name).rename(done)
    harness.folders.ledger.unlink()
    assert rebuild(harness.folders).waiting_again == 1
    assert not done.exists()
    assert (harness.root / "spool" / "new" / name).read_text() == "the same once more"
    assert reconcile(harness.folders, deep=True).is_sound


def test_beside_a_running_exporter_nothing_is_made_anew(harness: ReconcileHarness) -> None:
    before = harness.folders.ledger.read_bytes()
    with harness.ledger(), pytest.raises(LedgerUnusable, match="another exporter"):
        rebuild(harness.folders)
    assert harness.folders.ledger.read_bytes() == before


def test_a_backfill_after_a_rebuild_adds_no_line(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", DataFolder(tmp_path / "out")
    folder.mkdir()
    image = Path(str(get_testdata_file("CT_small.dcm")))
    shutil.copy(image, folder / "image.dcm")
    without = dcmread(image, stop_before_pixels=True)
    without.SOPClassUID = without.file_meta.MediaStorageSOPClassUID = RawDataStorage
    without.SOPInstanceUID = without.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    without.save_as(folder / "no-media.dcm")
    folders = Folders(out.ledger, out.media, out.metadata)

    def export() -> bytes:
        request = backfill.BackfillRequest(folder, out.root, Settings(num_workers=0))
        assert all(not isinstance(one.outcome, Failed) for one in backfill.backfill(request, Progress(), Event()))
        return out.metadata.read_bytes()

    lines = export()
    assert sorted(orjson.loads(line)["media_type"] for line in lines.splitlines()) == ["image", "none"]
    rebuild(folders)
    assert export() == lines
    assert reconcile(folders, deep=True).is_sound
    os.utime(folder / "no-media.dcm")
    assert export() == lines


def test_a_metadata_file_that_is_a_pipe_is_a_fault_and_nothing_waits_for_it(harness: ReconcileHarness) -> None:
    harness.folders.metadata.unlink()
    os.mkfifo(harness.folders.metadata)
    assert "damaged_lines" in {fault.kind for fault in reconcile(harness.folders).faults}
