"""Media become visible only whole and under a name of their own; what a crash leaves half-done is repaired."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.errors import OutOfSpace, Reason, SkipReason, StorageUnavailable
from exporter.outcome import Exported, Failed, InstanceIdentity, MediaFile, MediaType, Outcome, Skipped
from exporter.results import intents
from exporter.results.intents import MediaFolderUnusable
from exporter.results.ledger import Completed, InstanceStatus, Ledger, WorkItem
from exporter.results.publish import NameChoice, Publisher

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYOUT = "{StudyInstanceUID}/{SOPInstanceUID}"


class PublisherHarness:
    """A media folder, its ledger and a publisher, and pretended workers."""

    def __init__(self, root: Path, *, overwrite: bool = False) -> None:
        self.media = root / "media"
        self.media.mkdir(exist_ok=True)
        self.ledger = Ledger.open(root / "exporter.db")
        intents.recover(self.media, self.ledger)
        names = NameChoice(LAYOUT, overwrite=overwrite)
        self.publisher = Publisher(self.media, self.ledger, names, settings_sha256="s", version="1")
        self.jobs = 0

    def begin(self, name: str, *, spool: bool = False) -> WorkItem:
        work = WorkItem(name, Path(name), 1, 1, "spool" if spool else "folder", None if spool else name)
        self.ledger.begin_attempt(work)
        return work

    def folder(self) -> Path:
        self.jobs += 1
        folder = self.media / ".partial" / str(self.jobs)
        folder.mkdir()
        return folder

    def finished(
        self, name: str, *suffixes: str, data: bytes = b"pixels", uid: str = "1.2.3", spool: bool = False
    ) -> Completed:
        """An instance whose worker has written one file per suffix, or a folder where it ends in a slash."""
        folder, media = self.folder(), []
        for number, suffix in enumerate(suffixes or (".png",)):
            part = folder / f"{number}.part"
            if suffix.endswith("/"):
                part.mkdir()
                (part / "1.png").write_bytes(data)
            else:
                part.write_bytes(data)
            media.append(MediaFile(part.name, suffix, MediaType.IMAGE, len(data), "f" * 64, "png"))
        identity = InstanceIdentity("1.2", uid, "1.9", "1.8", data.hex())
        outcome = Exported(identity, tuple(media), json.dumps({"SOP Instance UID": uid}), data.hex(), "s")
        work = self.begin(name, spool=spool)
        return Completed(work, outcome, self.ledger.identify(name, identity), folder)

    def publish(self, *finished: Completed) -> list[Outcome]:
        return self.publisher.publish(finished)

    @property
    def files(self) -> dict[str, bytes]:
        visible = (p for p in self.media.rglob("*") if p.is_file() and ".partial" not in p.parts)
        return {p.relative_to(self.media).as_posix(): p.read_bytes() for p in visible}

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line.text) for line in self.ledger.outbox(0)]

    def close(self) -> None:
        self.ledger.close()


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[PublisherHarness]:
    made = PublisherHarness(tmp_path)
    yield made
    made.close()


def test_media_line_and_state_come_together(harness: PublisherHarness) -> None:
    (outcome,) = harness.publish(harness.finished("a/b.dcm", ".png", ".raw.png"))
    assert isinstance(outcome, Exported)
    assert [medium.file for medium in outcome.media] == ["a/b.png", "a/b.raw.png"]
    assert harness.files == {"a/b.png": b"pixels", "a/b.raw.png": b"pixels"}
    (line,) = harness.lines
    assert (line["dicom_file"], line["media_file"]) == ("a/b.dcm", "a/b.png")
    entry = harness.ledger.entry("a/b.dcm")
    assert entry is not None
    assert entry.state is InstanceStatus.EXPORTED
    (notes,) = [p for p in (harness.media / ".partial").rglob("*") if not p.is_dir()]
    assert notes.stat().st_nlink == 1  # no name of it is left that spells a note


@pytest.mark.parametrize("length", [1, 100, 300, 1000, 3000, 9000])
def test_a_note_is_found_again_however_long_it_is_and_gone_when_it_is_cleared(tmp_path: Path, length: int) -> None:
    folder = tmp_path / ".partial" / "0123456789abcdef-7-1"
    folder.mkdir(parents=True)
    noted = intents.Intent("a/\udcff" + "b" * length, ("a/b.png", "a/b.raw.png"))
    for _ in range(2):
        intents.record(folder, noted)
        assert list(intents.pending(tmp_path)) == [noted]
        with pytest.raises(FileExistsError):
            intents.record(folder, noted)
        intents.clear(folder)
        assert list(intents.pending(tmp_path)) == []
        assert list(folder.iterdir()) == []


def test_a_short_note_makes_no_inode(tmp_path: Path) -> None:
    folder = tmp_path / ".partial" / "0123456789abcdef-7-1"
    folder.mkdir(parents=True)
    intents.record(folder, intents.Intent("a.dcm", ("a.png",)))
    (name,) = folder.iterdir()
    assert name.samefile(intents.empty_file(folder))


def test_a_note_that_is_cut_short_promises_nothing(tmp_path: Path) -> None:
    folder = tmp_path / ".partial" / "0123456789abcdef-7-1"
    folder.mkdir(parents=True)
    intents.record(folder, intents.Intent("a" * 300, ("a.png",)))
    names = sorted(folder.iterdir())
    assert len(names) > 1
    names[-1].unlink()
    assert list(intents.pending(tmp_path)) == []


def test_a_received_instance_is_named_by_its_uids_and_a_forged_uid_by_its_hash(harness: PublisherHarness) -> None:
    good, forged = harness.publish(
        harness.finished("1", uid="1.2.3", spool=True), harness.finished("2", uid="../../x", data=b"other", spool=True)
    )
    assert isinstance(good, Exported)
    assert isinstance(forged, Exported)
    assert good.media[0].file == "1.9/1.2.3.png"
    assert forged.media[0].file.startswith("1.9/h")
    assert all(Path(name).parts[0] == "1.9" for name in harness.files)


def test_two_inputs_never_share_a_name(harness: PublisherHarness) -> None:
    names = ["b.dcm", "b.dicom", "B.DCM", "b", "b.ima"]
    outcomes = harness.publish(*(harness.finished(name, data=name.encode()) for name in names))
    assert sorted(harness.files.values()) == sorted(name.encode() for name in names)
    assert [outcome.media[0].file for outcome in outcomes if isinstance(outcome, Exported)] == [
        "b.png",
        "b.dicom.png",
        "B.DCM.png",
        "b-2.png",
        "b.ima.png",
    ]


def test_same_uid_and_other_content_are_both_kept_and_flagged(harness: PublisherHarness) -> None:
    harness.publish(harness.finished("1", data=b"one", spool=True))
    harness.publish(harness.finished("2", data=b"two", spool=True), harness.finished("3", data=b"one", spool=True))
    assert harness.files == {"1.9/1.2.3.png": b"one", "1.9/1.2.3-2.png": b"two", "1.9/1.2.3-3.png": b"one"}
    assert [line["export"]["conflict_with"] for line in harness.lines] == [None, "1", "2"]
    assert [line["export"]["duplicate_of"] for line in harness.lines] == [None, None, "1"]


def test_a_file_in_the_way_is_neither_replaced_nor_entered(harness: PublisherHarness) -> None:
    (harness.media / "a.png").write_bytes(b"somebody's")
    (harness.media / "d").write_bytes(b"somebody's")
    elsewhere = harness.media.parent / "elsewhere"
    elsewhere.mkdir()
    (harness.media / "link").symlink_to(elsewhere)
    harness.publish(
        harness.finished("a.dcm"), harness.finished("d/x.dcm", uid="1.2.4"), harness.finished("link/x.dcm", uid="1.2.5")
    )
    assert harness.files["a.png"] == harness.files["d"] == b"somebody's"
    assert harness.files["a.dcm.png"] == b"pixels"
    assert list(elsewhere.iterdir()) == []
    assert sum(name.startswith("~other/") for name in harness.files) == 2


def test_a_file_in_the_way_is_replaced_where_that_is_permitted(tmp_path: Path) -> None:
    harness = PublisherHarness(tmp_path, overwrite=True)
    (harness.media / "a.png").write_bytes(b"an earlier tool's")
    harness.publish(harness.finished("a.dcm"))
    assert harness.files == {"a.png": b"pixels"}
    harness.close()


def test_a_new_export_replaces_the_instances_own_files_and_deletes_what_is_no_more(harness: PublisherHarness) -> None:
    harness.publish(harness.finished("a.dcm", ".png", ".raw.png", ".frames/"))
    assert harness.files.keys() == {"a.png", "a.raw.png", "a.frames/1.png"}
    harness.publish(harness.finished("a.dcm", ".png", ".frames/", data=b"new"))
    assert harness.files == {"a.png": b"new", "a.frames/1.png": b"new"}
    assert len(harness.lines) == 2


def test_the_same_export_again_tells_no_second_line(harness: PublisherHarness) -> None:
    harness.publish(harness.finished("a.dcm"))
    harness.publish(harness.finished("a.dcm"))
    assert len(harness.lines) == 1
    assert harness.files == {"a.png": b"pixels"}


def test_an_instance_without_media_has_a_line_and_a_refused_one_has_none(harness: PublisherHarness) -> None:
    identity = InstanceIdentity("1.2", "1.2.3", "1.9", "1.8", "c")
    harness.publish(
        Completed(harness.begin("sr"), Skipped(SkipReason.NO_MEDIA, "nothing to see", identity, "{}", "h", "s")),
        Completed(harness.begin("dir"), Skipped(SkipReason.DICOMDIR, "a DICOMDIR")),
        Completed(harness.begin("bad"), Failed(Reason.NOT_DICOM, "no", may_pass=False)),
        Completed(harness.begin("worse", spool=True), Failed(Reason.NOT_DICOM, "no", may_pass=False)),
    )
    (line,) = harness.lines
    assert (line["dicom_file"], line["media_type"]) == ("sr", "none")
    counts = harness.ledger.counts()
    assert (counts.skipped, counts.failed, counts.quarantined) == (2, 1, 1)


@pytest.mark.parametrize(
    "lie",
    [
        {"file": "../../etc/passwd"},
        {"file": "absent.part"},
        {"file": ".hidden"},
        {"suffix": "/../../x.png"},
        {"suffix": "x"},
        {"suffix": ".png/.png"},
        {"bytes": 7},
    ],
)
def test_a_worker_that_lies_about_its_media_fails_its_instance_and_nothing_is_made(
    harness: PublisherHarness, lie: dict[str, Any]
) -> None:
    finished = harness.finished("a.dcm")
    assert isinstance(finished.outcome, Exported)
    media = (replace(finished.outcome.media[0], **lie),)
    (outcome,) = harness.publish(replace(finished, outcome=replace(finished.outcome, media=media)))
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.INTERNAL
    assert harness.files == {}
    assert harness.lines == []


def test_a_worker_that_left_a_link_instead_of_a_file_fails_its_instance(harness: PublisherHarness) -> None:
    finished = harness.finished("a.dcm")
    assert finished.folder is not None
    (finished.folder / "0.part").unlink()
    (finished.folder / "0.part").symlink_to("/etc/hostname")
    (outcome,) = harness.publish(finished)
    assert isinstance(outcome, Failed)
    assert harness.files == {}


@pytest.mark.parametrize("record", ["", "[]", "nonsense", '{"a": NaN}'])
def test_a_record_that_is_no_object_fails_its_instance(harness: PublisherHarness, record: str) -> None:
    finished = harness.finished("a.dcm")
    assert isinstance(finished.outcome, Exported)
    (outcome,) = harness.publish(replace(finished, outcome=replace(finished.outcome, record=record)))
    if record:
        assert isinstance(outcome, Failed)
        assert harness.files == {}
    else:
        assert isinstance(outcome, Exported)


def test_a_media_folder_that_cannot_be_used_is_said_to_be_so(harness: PublisherHarness) -> None:
    with pytest.raises(MediaFolderUnusable, match=r"media\.dir"):
        intents.recover(harness.media / ("x" * 300), harness.ledger)


# -- the gaps between the steps --------------------------------------------------------------------------------------


def test_renamed_and_not_committed_is_removed_at_the_next_start_and_exported_anew(tmp_path: Path) -> None:
    harness = PublisherHarness(tmp_path)
    finished = harness.finished("a.dcm", ".png", ".frames/")
    # What `publish` does up to the commit, and no further: the process dies here.
    ending = harness.publisher._place(finished)
    assert harness.files.keys() >= {"a.png", "a.frames/1.png"}
    assert ending.line is not None
    harness.close()

    harness = PublisherHarness(tmp_path)
    assert harness.files == {}
    assert [entry.name for entry in harness.ledger.recover()] == ["a.dcm"]
    harness.publish(harness.finished("a.dcm", ".png", ".frames/"))
    assert harness.files == {"a.png": b"pixels", "a.frames/1.png": b"pixels"}
    assert len(harness.lines) == 1
    harness.close()


def test_a_crash_during_a_second_export_keeps_the_first_ones_names(tmp_path: Path) -> None:
    harness = PublisherHarness(tmp_path)
    harness.publish(harness.finished("a.dcm", ".png"))
    harness.publisher._place(harness.finished("a.dcm", ".png", ".raw.png", data=b"new"))
    harness.close()

    harness = PublisherHarness(tmp_path)
    assert harness.files.keys() == {"a.png"}  # its own name, whichever content; the instance is exported anew
    harness.publish(harness.finished("a.dcm", ".png", data=b"newest"))
    assert harness.files == {"a.png": b"newest"}
    harness.close()


def test_what_was_to_be_deleted_after_the_commit_is_deleted_at_the_next_start(tmp_path: Path) -> None:
    harness = PublisherHarness(tmp_path)
    harness.publish(harness.finished("a.dcm", ".png", ".raw.png"))
    ending = harness.publisher._place(harness.finished("a.dcm", ".png", data=b"new"))
    assert harness.ledger.finish_many([ending]) == ("a.raw.png",)
    harness.close()
    assert (tmp_path / "media" / "a.raw.png").exists()

    harness = PublisherHarness(tmp_path)
    assert harness.files == {"a.png": b"new"}
    assert harness.ledger.superseded() == []
    harness.close()


def test_a_disk_that_fills_up_after_the_commit_does_not_undo_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = PublisherHarness(tmp_path)
    first.publish(first.finished("a", ".png", ".raw.png"))

    def full(_: Ledger, __: object) -> None:
        raise OutOfSpace("ledger: no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "forget_superseded", full)
        (outcome,) = first.publish(first.finished("a", ".jpg", data=b"other"))
    assert isinstance(outcome, Exported)
    assert first.files == {"a.jpg": b"other"}
    first.close()
    second = PublisherHarness(tmp_path)
    assert second.ledger.superseded() == []
    assert second.files == {"a.jpg": b"other"}
    second.close()


def test_partial_files_are_gone_at_the_next_start(tmp_path: Path) -> None:
    harness = PublisherHarness(tmp_path)
    harness.finished("a.dcm")
    harness.close()
    harness = PublisherHarness(tmp_path)
    assert harness.files == {}
    assert list((harness.media / ".partial").iterdir()) == []
    harness.close()


def test_every_folder_with_a_new_name_is_synced_whatever_order_a_set_has(
    harness: PublisherHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    synced: set[Path] = set()

    def fsync(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    folders = [tmp_path / f"folder{number}" for number in range(60)]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(os, "fsync", fsync)
    for size in range(1, 13):
        for start in range(0, 48, 6):
            expected = set(folders[start : start + size])
            synced.clear()
            harness.publisher._unsynced |= expected
            harness.publisher._sync()
            assert synced == expected


def left_to_the_batch(completed: Completed) -> Completed:
    """An instance whose worker has not waited for the disk."""
    assert isinstance(completed.outcome, Exported)
    media = tuple(replace(medium, is_durable=False) for medium in completed.outcome.media)
    return replace(completed, outcome=replace(completed.outcome, media=media))


class _Disk:
    """Notes which files the system was asked to write out or to sync, and what was visible then; may fail."""

    def __init__(self, harness: PublisherHarness, fails: bool = False) -> None:
        self.harness = harness
        self.fails = fails
        self.asked: list[tuple[int, list[str]]] = []

    def note(self, descriptor: int) -> bool:
        """Whether the call fails."""
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        self.asked.append((status.st_ino, sorted(self.harness.files)))
        return self.fails

    def sync_file_range(self, descriptor: int, *_: object) -> int:
        failed = self.note(descriptor)
        ctypes.set_errno(errno.EIO if failed else 0)
        return -1 if failed else 0

    def fsync(self, descriptor: int) -> None:
        if self.note(descriptor):
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture(params=["names follow files", "they do not"])
def disk(harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> _Disk:
    made = _Disk(harness)
    follow = request.param == "names follow files"
    monkeypatch.setattr("listener.foundation.durable.SYNC_FILE_RANGE", made.sync_file_range if follow else None)
    monkeypatch.setattr("listener.foundation.durable._file_system", lambda _: "ext4")
    monkeypatch.setattr(os, "fsync", made.fsync)
    return made


def test_files_left_to_the_batch_are_on_the_disk_before_they_are_visible(
    harness: PublisherHarness, disk: _Disk
) -> None:
    batch = [left_to_the_batch(harness.finished(f"{name}.dcm", uid=f"1.{name}")) for name in (1, 2)]
    parts = [(one.folder / "0.part").stat().st_ino for one in batch if one.folder is not None]
    assert all(isinstance(outcome, Exported) for outcome in harness.publish(*batch))
    assert [file for file, _ in disk.asked] == parts
    assert [sorted(harness.files).index(name) for _, seen in disk.asked for name in seen] == [0]
    durable = harness.finished("3.dcm", uid="1.3")
    harness.publish(durable)
    assert len(disk.asked) == 2


def test_a_file_that_could_not_be_written_is_not_published_and_not_synced_again(
    harness: PublisherHarness, disk: _Disk
) -> None:
    disk.fails = True
    bad = left_to_the_batch(harness.finished("1.dcm", uid="1.1"))
    good = harness.finished("2.dcm", uid="1.2")
    first, second = harness.publish(bad, good)
    assert isinstance(first, StorageUnavailable)
    assert isinstance(second, Exported)
    assert list(harness.files) == ["2.png"]
    assert len(disk.asked) == 1


def test_a_worker_that_names_no_file_for_its_batch_fails_its_instance(harness: PublisherHarness) -> None:
    for name in ("1.dcm", "2.dcm"):
        one = left_to_the_batch(harness.finished(name))
        assert one.folder is not None
        part = one.folder / "0.part"
        part.unlink()
        if name == "2.dcm":
            os.mkfifo(part)
        (outcome,) = harness.publish(one)
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.INTERNAL


def test_a_disk_that_turns_read_only_half_way_blames_no_instance(
    harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = harness.finished("a.dcm", ".png", ".raw.png")
    plain_rename, plain_unlink = Path.rename, Path.unlink
    renamed: list[Path] = []

    def rename(self: Path, target: Path) -> Path:
        if renamed:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        renamed.append(self)
        return plain_rename(self, target)

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if renamed:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        plain_unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(Path, "unlink", unlink)
    for _ in range(2):
        with pytest.raises(OutOfSpace):
            harness.publish(finished)
    monkeypatch.setattr(Path, "rename", plain_rename)
    monkeypatch.setattr(Path, "unlink", plain_unlink)
    (outcome,) = harness.publish(finished)
    assert isinstance(outcome, Exported)
    assert harness.files == {"a.png": b"pixels", "a.raw.png": b"pixels"}
