"""Media become visible only whole and under a name of their own; what a crash leaves half-done is repaired."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.errors import OutOfSpace, Reason, SkipReason
from exporter.outcome import Exported, Failed, InstanceIdentity, MediaFile, MediaType, Outcome, Skipped
from exporter.results import intents
from exporter.results.intents import MediaFolderUnusable
from exporter.results.ledger import Completed, InstanceStatus, Ledger, WorkItem
from exporter.results.publish import NameChoice, Publisher

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYOUT = "{StudyInstanceUID}/{SOPInstanceUID}"


class Desk:
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
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def test_media_line_and_state_come_together(desk: Desk) -> None:
    (outcome,) = desk.publish(desk.finished("a/b.dcm", ".png", ".raw.png"))
    assert isinstance(outcome, Exported)
    assert [medium.file for medium in outcome.media] == ["a/b.png", "a/b.raw.png"]
    assert desk.files == {"a/b.png": b"pixels", "a/b.raw.png": b"pixels"}
    (line,) = desk.lines
    assert (line["dicom_file"], line["media_file"]) == ("a/b.dcm", "a/b.png")
    entry = desk.ledger.entry("a/b.dcm")
    assert entry is not None
    assert entry.state is InstanceStatus.EXPORTED
    assert not [p for p in (desk.media / ".partial").rglob("*") if not p.is_dir()]


def test_a_received_instance_is_named_by_its_uids_and_a_forged_uid_by_its_hash(desk: Desk) -> None:
    good, forged = desk.publish(
        desk.finished("1", uid="1.2.3", spool=True), desk.finished("2", uid="../../x", data=b"other", spool=True)
    )
    assert isinstance(good, Exported)
    assert isinstance(forged, Exported)
    assert good.media[0].file == "1.9/1.2.3.png"
    assert forged.media[0].file.startswith("1.9/h")
    assert all(Path(name).parts[0] == "1.9" for name in desk.files)


def test_two_inputs_never_share_a_name(desk: Desk) -> None:
    names = ["b.dcm", "b.dicom", "B.DCM", "b", "b.ima"]
    outcomes = desk.publish(*(desk.finished(name, data=name.encode()) for name in names))
    assert sorted(desk.files.values()) == sorted(name.encode() for name in names)
    assert [outcome.media[0].file for outcome in outcomes if isinstance(outcome, Exported)] == [
        "b.png",
        "b.dicom.png",
        "B.DCM.png",
        "b-2.png",
        "b.ima.png",
    ]


def test_same_uid_and_other_content_are_both_kept_and_flagged(desk: Desk) -> None:
    desk.publish(desk.finished("1", data=b"one", spool=True))
    desk.publish(desk.finished("2", data=b"two", spool=True), desk.finished("3", data=b"one", spool=True))
    assert desk.files == {"1.9/1.2.3.png": b"one", "1.9/1.2.3-2.png": b"two", "1.9/1.2.3-3.png": b"one"}
    assert [line["export"]["conflict_with"] for line in desk.lines] == [None, "1", "2"]
    assert [line["export"]["duplicate_of"] for line in desk.lines] == [None, None, "1"]


def test_a_file_in_the_way_is_neither_replaced_nor_entered(desk: Desk) -> None:
    (desk.media / "a.png").write_bytes(b"somebody's")
    (desk.media / "d").write_bytes(b"somebody's")
    elsewhere = desk.media.parent / "elsewhere"
    elsewhere.mkdir()
    (desk.media / "link").symlink_to(elsewhere)
    desk.publish(
        desk.finished("a.dcm"), desk.finished("d/x.dcm", uid="1.2.4"), desk.finished("link/x.dcm", uid="1.2.5")
    )
    assert desk.files["a.png"] == desk.files["d"] == b"somebody's"
    assert desk.files["a.dcm.png"] == b"pixels"
    assert list(elsewhere.iterdir()) == []
    assert sum(name.startswith("~other/") for name in desk.files) == 2


def test_a_file_in_the_way_is_replaced_where_that_is_permitted(tmp_path: Path) -> None:
    desk = Desk(tmp_path, overwrite=True)
    (desk.media / "a.png").write_bytes(b"an earlier tool's")
    desk.publish(desk.finished("a.dcm"))
    assert desk.files == {"a.png": b"pixels"}
    desk.close()


def test_a_new_export_replaces_the_instances_own_files_and_deletes_what_is_no_more(desk: Desk) -> None:
    desk.publish(desk.finished("a.dcm", ".png", ".raw.png", ".frames/"))
    assert desk.files.keys() == {"a.png", "a.raw.png", "a.frames/1.png"}
    desk.publish(desk.finished("a.dcm", ".png", ".frames/", data=b"new"))
    assert desk.files == {"a.png": b"new", "a.frames/1.png": b"new"}
    assert len(desk.lines) == 2


def test_the_same_export_again_tells_no_second_line(desk: Desk) -> None:
    desk.publish(desk.finished("a.dcm"))
    desk.publish(desk.finished("a.dcm"))
    assert len(desk.lines) == 1
    assert desk.files == {"a.png": b"pixels"}


def test_an_instance_without_media_has_a_line_and_a_refused_one_has_none(desk: Desk) -> None:
    identity = InstanceIdentity("1.2", "1.2.3", "1.9", "1.8", "c")
    desk.publish(
        Completed(desk.begin("sr"), Skipped(SkipReason.NO_MEDIA, "nothing to see", identity, "{}", "h", "s")),
        Completed(desk.begin("dir"), Skipped(SkipReason.DICOMDIR, "a DICOMDIR")),
        Completed(desk.begin("bad"), Failed(Reason.NOT_DICOM, "no", may_pass=False)),
        Completed(desk.begin("worse", spool=True), Failed(Reason.NOT_DICOM, "no", may_pass=False)),
    )
    (line,) = desk.lines
    assert (line["dicom_file"], line["media_type"]) == ("sr", "none")
    counts = desk.ledger.counts()
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
    desk: Desk, lie: dict[str, Any]
) -> None:
    finished = desk.finished("a.dcm")
    assert isinstance(finished.outcome, Exported)
    media = (replace(finished.outcome.media[0], **lie),)
    (outcome,) = desk.publish(replace(finished, outcome=replace(finished.outcome, media=media)))
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.INTERNAL
    assert desk.files == {}
    assert desk.lines == []


def test_a_worker_that_left_a_link_instead_of_a_file_fails_its_instance(desk: Desk) -> None:
    finished = desk.finished("a.dcm")
    assert finished.folder is not None
    (finished.folder / "0.part").unlink()
    (finished.folder / "0.part").symlink_to("/etc/hostname")
    (outcome,) = desk.publish(finished)
    assert isinstance(outcome, Failed)
    assert desk.files == {}


@pytest.mark.parametrize("record", ["", "[]", "nonsense", '{"a": NaN}'])
def test_a_record_that_is_no_object_fails_its_instance(desk: Desk, record: str) -> None:
    finished = desk.finished("a.dcm")
    assert isinstance(finished.outcome, Exported)
    (outcome,) = desk.publish(replace(finished, outcome=replace(finished.outcome, record=record)))
    if record:
        assert isinstance(outcome, Failed)
        assert desk.files == {}
    else:
        assert isinstance(outcome, Exported)


def test_a_media_folder_that_cannot_be_used_is_said_to_be_so(desk: Desk) -> None:
    with pytest.raises(MediaFolderUnusable, match=r"media\.dir"):
        intents.recover(desk.media / ("x" * 300), desk.ledger)


# -- the gaps between the steps --------------------------------------------------------------------------------------


def test_renamed_and_not_committed_is_removed_at_the_next_start_and_exported_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    finished = desk.finished("a.dcm", ".png", ".frames/")
    # What `publish` does up to the commit, and no further: the process dies here.
    ending = desk.publisher._place(finished)
    assert desk.files.keys() >= {"a.png", "a.frames/1.png"}
    assert ending.line is not None
    desk.close()

    desk = Desk(tmp_path)
    assert desk.files == {}
    assert [entry.name for entry in desk.ledger.recover()] == ["a.dcm"]
    desk.publish(desk.finished("a.dcm", ".png", ".frames/"))
    assert desk.files == {"a.png": b"pixels", "a.frames/1.png": b"pixels"}
    assert len(desk.lines) == 1
    desk.close()


def test_a_crash_during_a_second_export_keeps_the_first_ones_names(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.publish(desk.finished("a.dcm", ".png"))
    desk.publisher._place(desk.finished("a.dcm", ".png", ".raw.png", data=b"new"))
    desk.close()

    desk = Desk(tmp_path)
    assert desk.files.keys() == {"a.png"}  # its own name, whichever content; the instance is exported anew
    desk.publish(desk.finished("a.dcm", ".png", data=b"newest"))
    assert desk.files == {"a.png": b"newest"}
    desk.close()


def test_what_was_to_be_deleted_after_the_commit_is_deleted_at_the_next_start(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.publish(desk.finished("a.dcm", ".png", ".raw.png"))
    ending = desk.publisher._place(desk.finished("a.dcm", ".png", data=b"new"))
    assert desk.ledger.finish_many([ending]) == ("a.raw.png",)
    desk.close()
    assert (tmp_path / "media" / "a.raw.png").exists()

    desk = Desk(tmp_path)
    assert desk.files == {"a.png": b"new"}
    assert desk.ledger.superseded() == []
    desk.close()


def test_a_disk_that_fills_up_after_the_commit_does_not_undo_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Desk(tmp_path)
    first.publish(first.finished("a", ".png", ".raw.png"))

    def full(_: Ledger, __: object) -> None:
        raise OutOfSpace("ledger: no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "forget_superseded", full)
        (outcome,) = first.publish(first.finished("a", ".jpg", data=b"other"))
    assert isinstance(outcome, Exported)
    assert first.files == {"a.jpg": b"other"}
    first.close()
    second = Desk(tmp_path)
    assert second.ledger.superseded() == []
    assert second.files == {"a.jpg": b"other"}
    second.close()


def test_partial_files_are_gone_at_the_next_start(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.finished("a.dcm")
    desk.close()
    desk = Desk(tmp_path)
    assert desk.files == {}
    assert list((desk.media / ".partial").iterdir()) == []
    desk.close()


def test_every_folder_with_a_new_name_is_synced_whatever_order_a_set_has(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            desk.publisher._unsynced |= expected
            desk.publisher._sync()
            assert synced == expected


def test_a_disk_that_turns_read_only_half_way_blames_no_instance(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = desk.finished("a.dcm", ".png", ".raw.png")
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
            desk.publish(finished)
    monkeypatch.setattr(Path, "rename", plain_rename)
    monkeypatch.setattr(Path, "unlink", plain_unlink)
    (outcome,) = desk.publish(finished)
    assert isinstance(outcome, Exported)
    assert desk.files == {"a.png": b"pixels", "a.raw.png": b"pixels"}
