"""Media in shards: the same promises as media in files, and few files."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import exporter
from exporter.commands.app import main
from exporter.errors import OutOfSpace
from exporter.outcome import Exported, InstanceIdentity, MediaFile, MediaType
from exporter.results import intents
from exporter.results.ledger import Completed, Ledger, LedgerUnusable, WorkItem
from exporter.results.publish import NameChoice, Publisher
from exporter.results.reconcile import Folders, reconcile
from exporter.results.stores.compaction import compact
from exporter.results.stores.shard_format import END, REMOVED, key_of
from exporter.results.stores.shard_index import IndexEntry, IndexMark, read_index
from exporter.results.stores.shard_reading import MediaReader
from exporter.results.stores.shard_removal import ShardsBusy
from exporter.results.stores.shards import ShardLimits, ShardsStore
from exporter.settings.permissions import MediaPermissions
from tests.exporter.batches.conftest import assert_sound, make_tree, result_of, run_locally

SHARDS = {"store": "shards"}
INSTANCES = int(os.environ.get("EXPORTER_TEST_SHARDS_INSTANCES", "600"))
"""Instances of the large run; the long form has 20,000."""


def pretended(
    root: Path, ledger: Ledger, name: str, *suffixes: str, data: bytes = b"pixels", study: str = "1.9"
) -> Completed:
    """An instance whose worker has written one file per suffix, or a folder where it ends in a slash."""
    folder = Path(tempfile.mkdtemp(dir=root / "media" / ".partial"))
    media = []
    for number, suffix in enumerate(suffixes or (".png",)):
        part, digest = folder / f"{number}.part", hashlib.sha256(data)
        if suffix.endswith("/"):
            part.mkdir()
            (part / "1.png").write_bytes(data)
            digest = hashlib.sha256(f"{digest.hexdigest()}  1.png\n".encode())
        else:
            part.write_bytes(data)
        media.append(MediaFile(part.name, suffix, MediaType.IMAGE, len(data), digest.hexdigest(), "png"))
    identity = InstanceIdentity("1.2", f"1.2.{name}", study, "1.8", data.hex()[:64])
    outcome = Exported(identity, tuple(media), json.dumps({"SOP Instance UID": name}), data.hex()[:64], "s")
    work = WorkItem(name, Path(name), 1, 1, "folder", name)
    ledger.begin_attempt(work)
    return Completed(work, outcome, ledger.identify(name, identity), folder)


class ShardsHarness:
    """A media folder with shards, its ledger and a publisher, and pretended workers."""

    def __init__(self, root: Path, limits: ShardLimits | None = None) -> None:
        self.root, self.media = root, root / "media"
        self.media.mkdir(exist_ok=True)
        self.ledger = Ledger.open(root / "exporter.db")
        self.interrupted = [row.name for row in self.ledger.recover()]
        intents.recover(self.media, self.ledger)
        self.store = ShardsStore(self.media, MediaPermissions(), self.ledger, limits)
        names = NameChoice("{SOPInstanceUID}")
        self.publisher = Publisher(self.media, self.ledger, names, settings_sha256="s", version="1", store=self.store)

    def finished(self, name: str, *suffixes: str, data: bytes = b"pixels", study: str = "1.9") -> Completed:
        """See `pretended`."""
        return pretended(self.root, self.ledger, name, *suffixes, data=data, study=study)

    def publish(self, *finished: Completed) -> None:
        for outcome in self.publisher.publish(finished):
            assert isinstance(outcome, Exported)

    def crash(self) -> None:
        """End as a process that is killed does: nothing is flushed or finished, descriptors are closed."""
        for shard in self.store._shards.values():
            os.close(shard.descriptor)
        os.close(self.store._index.descriptor)
        self.ledger.close()

    def close(self) -> None:
        self.store.close()
        self.ledger.close()

    def content(self, path: str) -> bytes | None:
        with MediaReader(self.media) as reader:
            found = reader.in_shards(path)
            return None if found is None else b"".join(piece for one in found.members for piece in reader.read(one))

    def shards(self) -> dict[str, list[str]]:
        """Finished shards, and the names of their members."""
        found = {}
        for path in sorted((self.media / "shards").glob("*.tar")):
            with tarfile.open(path) as archive:
                found[path.name] = archive.getnames()
        return found


def sound(root: Path) -> bool:
    report = reconcile(Folders(root / "exporter.db", root / "media", root / "metadata.jsonl"), deep=True)
    return {fault.kind for fault in report.faults} <= {"damaged_lines"}  # the harness writes no lines


def faults(root: Path, *, deep: bool = True) -> dict[str, str]:
    report = reconcile(Folders(root / "exporter.db", root / "media", root / "metadata.jsonl"), deep=deep)
    return {fault.subject: fault.kind for fault in report.faults}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("shards") / "in")


@pytest.fixture(scope="module")
def files(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("files") / "out"
    run_locally(tree, output)
    return output


@pytest.fixture(scope="module")
def shards(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards") / "out"
    run_locally(tree, output, media=SHARDS)
    return output


def copied(output: Path, to: Path) -> Path:
    shutil.copytree(output, to, symlinks=True)
    return to


# -- the same as files -----------------------------------------------------------------------------------------------


def test_lines_and_ledger_are_those_of_media_in_files(files: Path, shards: Path) -> None:
    assert result_of(shards)[0] == result_of(files)[0]
    assert result_of(shards)[2] == result_of(files)[2]
    assert_sound(shards)
    assert len([path for path in shards.rglob("*") if path.is_file()]) <= 10


def test_every_medium_has_the_bytes_of_its_file(files: Path, shards: Path) -> None:
    with MediaReader(shards / "media") as reader:
        for text in (shards / "metadata.jsonl").read_text().splitlines():
            for medium in json.loads(text)["export"]["media"]:
                found = reader.in_shards(medium["path"])
                assert found is not None
                assert b"".join(reader.read(found.members[0])) == (files / "media" / medium["path"]).read_bytes()


def test_tarfile_and_webdataset_open_a_shard_and_find_medium_and_line_side_by_side(shards: Path) -> None:
    import webdataset

    (path,) = (shards / "media" / "shards").glob("*.tar")
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert [name.partition(".")[0] for name in names[::2]] == [name.partition(".")[0] for name in names[1::2]]
    assert all(name.endswith(".json") and name.count(".") == 1 for name in names[1::2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # WebDataset leaves the last shard open
        samples = list(webdataset.WebDataset([str(path)], shardshuffle=False, empty_check=False))
        gc.collect()
    assert len(samples) == len(names) // 2
    for sample in samples:
        said = json.loads(sample["json"])
        name = said["export"]["media"][0]["path"]
        assert said["media_file"] == name == f"{sample['__key__']}.{name.partition('.')[2]}"
        content = sample[name.partition(".")[2]]
        assert hashlib.sha256(content).hexdigest() == said["export"]["media"][0]["sha256"]


def test_python_and_data_sets_read_shards_as_files(files: Path, shards: Path, tmp_path: Path) -> None:
    for key in ("b/cine.weird", "s0.png"):
        in_file, in_shard = exporter.load(files, key), exporter.load(shards, key)
        assert in_shard.record == in_file.record
        assert [one.read_bytes() for one in in_shard.media] == [one.read_bytes() for one in in_file.media]
    key_file = tmp_path / "key"
    key_file.write_bytes(b"k" * 32)
    made = []
    for output in (files, shards):
        target = tmp_path / f"{len(made)}"
        arguments = ["--format", "webdataset", "--key-file", str(key_file)]
        assert main(["dataset", str(output), str(target), *arguments]) == 0
        made.append({path.name: path.read_bytes() for path in target.glob("*.tar")})
    assert made[0]
    assert made[0] == made[1]


def test_one_medium_is_got_from_either_store(
    files: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, output in enumerate((files, shards)):
        folder = tmp_path / str(number)
        assert main(["media", "get", str(output), "b/cine.weird.mp4", "--to", str(folder)]) == 0
        assert capsys.readouterr().out.strip() == str(folder / "cine.weird.mp4")
        assert (folder / "cine.weird.mp4").read_bytes() == (files / "media/b/cine.weird.mp4").read_bytes()
        assert main(["media", "get", str(output), "b/cine.weird.mp4", "--to", str(folder)]) == 1
        assert "is there already" in capsys.readouterr().err
    assert main(["media", "get", str(shards), "no such", "--to", str(tmp_path)]) == 1


def test_a_rerun_adds_nothing_and_a_changed_input_adds_a_shard_and_leaves_nothing_of_the_old_medium(
    tree: Path, shards: Path, tmp_path: Path
) -> None:
    folder, output = copied(tree, tmp_path / "in"), copied(shards, tmp_path / "out")
    index = output / "media" / "shards" / "index.jsonl"
    before = index.read_bytes()
    run_locally(folder, output, media=SHARDS)
    assert index.read_bytes() == before
    old = next(one for one in read_index(output / "media") if isinstance(one, IndexEntry) and one.path == "z/last.png")
    shutil.copy(folder / "s2.dcm", folder / "z" / "last.dcm")
    run_locally(folder, output, media=SHARDS)
    assert index.read_bytes().startswith(before)
    added = list(read_index(output / "media"))[-3:]
    assert added[0] == IndexMark(old.key, "replaced")
    assert [(one.shard, one.key) for one in added[1:] if isinstance(one, IndexEntry)] == [("000002.tar", old.key)] * 2
    with tarfile.open(output / "media" / "shards" / "000001.tar") as archive:
        assert archive.getnames().count(REMOVED) == 2
        assert not any(name.startswith(old.key) for name in archive.getnames())
    content = (output / "media" / "shards" / "000001.tar").read_bytes()
    assert not any(content[old.offset : old.offset + old.length])
    assert_sound(output)


def test_a_withdrawn_patient_leaves_no_byte_in_a_shard(tree: Path, tmp_path: Path) -> None:
    output, excluded = tmp_path / "out", tmp_path / "excluded"
    (tmp_path / "in").mkdir()
    shutil.copy(tree / "s0.dcm", tmp_path / "in")
    shutil.copy(tree / "z" / "last.dcm", tmp_path / "in")
    run_locally(tmp_path / "in", output, media=SHARDS)
    path = output / "media" / "shards" / "000001.tar"
    line = exporter.load(output, "s0.dcm").record
    assert str(line["Patient ID"]).encode() in path.read_bytes()
    excluded.write_text(f"{line['Patient ID']}\n")
    run_locally(tmp_path / "in", output, media=SHARDS, privacy={"exclude": excluded})
    assert str(line["Patient ID"]).encode() not in path.read_bytes()
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert sorted(names) == sorted([REMOVED, REMOVED, f"{key_of('last.dcm')}.png", f"{key_of('last.dcm')}.json"])
    assert_sound(output)


def test_media_that_the_settings_no_longer_want_leave_the_shard(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (tmp_path / "in").mkdir()
    shutil.copy(tree / "z" / "last.dcm", tmp_path / "in")
    run_locally(tmp_path / "in", output, media=SHARDS)
    run_locally(tmp_path / "in", output, media={"enabled": False, **SHARDS})
    with tarfile.open(output / "media" / "shards" / "000001.tar") as archive:
        assert archive.getnames() == [REMOVED, REMOVED]
    assert_sound(output)


def test_daemons_refuse_shards_and_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yml"
    config.write_text("media: {store: shards}\n")
    for command in ("serve", "run"):
        assert main([command, "--config", str(config), "--data", str(tmp_path / "data")]) == 2
        assert "exporter media compact" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_many_small_instances_are_few_files_and_every_one_is_found(tmp_path: Path) -> None:
    from tests.faults.shards import write_input

    source, output = write_input(tmp_path / "in", INSTANCES), tmp_path / "out"
    config = tmp_path / "config.yml"
    config.write_text("media: {store: shards}\n")
    assert main(["backfill", str(source), "--output", str(output), "--config", str(config), "--workers", "2"]) == 0
    assert len([path for path in output.rglob("*") if path.is_file()]) <= 10
    assert main(["reconcile", "--deep", "--data", str(output)]) == 0
    keys: set[str] = set()
    for path in (output / "media" / "shards").glob("*.tar"):
        with tarfile.open(path) as archive:
            keys.update(name.partition(".")[0] for name in archive.getnames())
    assert len(keys) == INSTANCES


# -- shards ----------------------------------------------------------------------------------------------------------


def test_a_study_stays_in_one_shard_unless_it_is_larger_than_one(tmp_path: Path) -> None:
    harness = ShardsHarness(tmp_path, ShardLimits(most_instances=4))
    for number in range(3):
        harness.publish(harness.finished(f"a{number}", study="1"), harness.finished(f"b{number}", study="2"))
    for number in range(9):
        harness.publish(harness.finished(f"c{number}", study="3"))
    harness.close()
    keys = {name: {one.partition(".")[0] for one in members} for name, members in harness.shards().items()}
    holding = {
        study: [name for name, found in keys.items() if found & {key_of(f"{study}{number}") for number in range(9)}]
        for study in "abc"
    }
    assert len(holding["a"]) == len(holding["b"]) == 1
    assert len(holding["c"]) == 3
    assert sound(tmp_path)


def test_a_full_shard_appears_while_others_are_written(tmp_path: Path) -> None:
    harness = ShardsHarness(tmp_path, ShardLimits(most_bytes=1 << 20))
    for number in range(3):
        harness.publish(harness.finished(str(number), data=os.urandom(1 << 20), study=str(number)))
    assert list(harness.shards()) == ["000001.tar", "000002.tar", "000003.tar"]
    harness.publish(harness.finished("small", study="9"))
    assert list(harness.shards()) == ["000001.tar", "000002.tar", "000003.tar"]
    assert harness.content("small.png") == b"pixels", "an unfinished shard is read, too"
    harness.close()
    assert list(harness.shards())[-1] == "000004.tar"


def test_a_folder_of_frames_and_media_that_end_in_json_have_members_of_their_own(tmp_path: Path) -> None:
    harness = ShardsHarness(tmp_path)
    harness.publish(harness.finished("a", ".png", ".raw.png", ".frames/", ".json"))
    harness.close()
    key = key_of("a")
    assert harness.shards() == {
        "000001.tar": [f"{key}{end}" for end in (".png", ".raw.png", ".frames.1.png", ".image.json", ".json")]
    }
    assert harness.content("a.frames/") == b"pixels"
    assert sound(tmp_path)


def test_a_large_file_is_copied_whole(tmp_path: Path) -> None:
    harness = ShardsHarness(tmp_path)
    data = os.urandom((5 << 20) + 17)
    harness.publish(harness.finished("a", ".mp4", ".frames/", data=data))
    harness.close()
    assert harness.content("a.mp4") == harness.content("a.frames/") == data
    assert sound(tmp_path)


def test_two_processes_never_write_shards_of_one_folder(tmp_path: Path) -> None:
    harness = ShardsHarness(tmp_path)
    with pytest.raises(ShardsBusy):
        ShardsStore(harness.media, MediaPermissions())
    harness.close()


# -- after a crash ---------------------------------------------------------------------------------------------------

POINTS = ("put", "synced", "committed", "torn index", "lost index", "finished")


@pytest.mark.parametrize("point", POINTS)
def test_the_next_start_goes_on_in_the_unfinished_shard_from_the_last_committed_instance(
    tmp_path: Path, point: str
) -> None:
    harness = ShardsHarness(tmp_path)
    harness.publish(harness.finished("a", ".png", ".frames/"), harness.finished("b"))
    index = harness.media / "shards" / "index.jsonl"
    before = index.read_bytes()
    placed = harness.publisher._place(harness.finished("c", data=b"third"))
    if point != "put":
        harness.store.sync()
    if point not in {"put", "synced"}:
        harness.ledger.finish_many([placed])
    if point == "finished":
        os.pwrite(harness.store._shards["000001.tar"].descriptor, END, harness.store._shards["000001.tar"].size)
    harness.crash()
    if point == "torn index":
        index.write_bytes(before[:-40])
    if point == "lost index":
        index.write_bytes(b"")

    harness = ShardsHarness(tmp_path)
    is_committed = point not in {"put", "synced"}
    assert harness.interrupted == ([] if is_committed else ["c"])
    assert harness.content("c.png") == (b"third" if is_committed else None)
    assert sound(tmp_path)
    harness.publish(harness.finished("d", data=b"fourth"), *([] if is_committed else [harness.finished("c")]))
    harness.close()
    assert list(harness.shards()) == ["000001.tar"]
    assert harness.content("a.frames/") == b"pixels"
    assert harness.content("d.png") == b"fourth"
    keys = [name.partition(".")[0] for name in harness.shards()["000001.tar"] if name.endswith(".json")]
    assert sorted(keys) == sorted(map(key_of, "abcd")), "every instance is there once"
    assert sound(tmp_path)


def test_a_part_of_the_index_that_was_lost_in_its_middle_is_found_in_the_shard(tmp_path: Path) -> None:
    harness = ShardsHarness(tmp_path)
    for name in "abcde":
        harness.publish(harness.finished(name))
    harness.crash()
    index = harness.media / "shards" / "index.jsonl"
    lines = index.read_bytes().splitlines(keepends=True)
    index.write_bytes(b"".join([*lines[:2], bytes(len(b"".join(lines[2:5]))), *lines[5:]]))
    harness = ShardsHarness(tmp_path)
    assert [harness.content(f"{name}.png") for name in "abcde"] == [b"pixels"] * 5
    harness.close()
    assert sound(tmp_path)


def test_an_export_that_replaces_and_is_killed_leaves_one_of_the_two(tmp_path: Path) -> None:
    for number, is_committed in enumerate((False, True)):
        root = tmp_path / str(number)
        root.mkdir()
        harness = ShardsHarness(root)
        harness.publish(harness.finished("a", data=b"old"))
        harness.close()
        harness = ShardsHarness(root)
        placed = harness.publisher._place(harness.finished("a", data=b"new"))
        harness.store.sync()
        if is_committed:
            harness.ledger.finish_many([placed])
        harness.crash()
        harness = ShardsHarness(root)
        assert harness.content("a.png") == (b"new" if is_committed else b"old")
        harness.close()
        assert sound(root)
        assert (b"old" in (root / "media/shards/000001.tar").read_bytes()) is not is_committed


def test_a_sync_that_fails_keeps_nothing_of_its_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = ShardsHarness(tmp_path)
    harness.publish(harness.finished("a"))

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fails)
        refused = harness.publisher.publish([harness.finished("b", data=b"lost"), harness.finished("c")])
    assert not any(isinstance(one, Exported) for one in refused)
    harness.publish(harness.finished("b", data=b"again"))
    harness.close()
    assert harness.content("b.png") == b"again"
    assert b"lost" not in (harness.media / "shards" / "000001.tar").read_bytes()
    assert len(harness.shards()["000001.tar"]) == 4


def test_a_full_disk_cuts_half_a_sample_and_the_same_batch_is_published_later(
    small_disk: Path,
) -> None:
    harness = ShardsHarness(small_disk)
    harness.publish(harness.finished("a"))
    batch = [harness.finished("b", data=b"second"), harness.finished("c", data=os.urandom(300_000))]
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(OutOfSpace):
        harness.publisher.publish(batch)
    ballast.unlink()
    harness.publish(*batch)
    harness.close()
    assert harness.content("b.png") == b"second"
    assert len(harness.shards()["000001.tar"]) == 6
    assert sound(small_disk)


def test_samples_of_which_nobody_knows_whether_they_are_committed_are_left_to_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = ShardsHarness(tmp_path)
    commit = Ledger.finish_many

    def breaks_afterwards(self: Ledger, completed: list[Completed]) -> tuple[str, ...]:
        commit(self, completed)
        raise LedgerUnusable(self.path, "the disk of the database has gone", "")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "finish_many", breaks_afterwards)
        with pytest.raises(LedgerUnusable):
            harness.publisher.publish([harness.finished("a")])
    harness.close()
    harness = ShardsHarness(tmp_path)
    assert harness.content("a.png") == b"pixels"
    harness.close()
    assert sound(tmp_path)


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Two shards: `a` and `b` in the first, `c` in the second."""
    harness = ShardsHarness(tmp_path, ShardLimits(most_instances=2))
    harness.publish(harness.finished("a", study="1"), harness.finished("b", study="2"))
    harness.publish(harness.finished("c", study="3"))
    harness.close()
    return tmp_path


def entry(root: Path, path: str) -> IndexEntry:
    return next(one for one in read_index(root / "media") if isinstance(one, IndexEntry) and one.path == path)


def test_a_damaged_byte_costs_its_member_and_is_named(three: Path) -> None:
    place = entry(three, "a.png")
    with (three / "media/shards/000001.tar").open("r+b") as file:
        file.seek(place.offset)
        file.write(b"X")
    assert {path: kind for path, kind in faults(three).items() if kind != "damaged_lines"} == {"a.png": "other_medium"}


@pytest.mark.parametrize("deep", [True, False])
def test_a_shard_that_is_cut_or_gone_costs_its_members_and_nothing_else(three: Path, *, deep: bool) -> None:
    shard = three / "media/shards/000001.tar"
    os.truncate(shard, entry(three, "b.png").offset + 1)
    assert {"b.png"} == {path for path, kind in faults(three, deep=deep).items() if kind.endswith("medium")}
    shard.unlink()
    assert {"a.png", "b.png"} == {path for path, kind in faults(three, deep=deep).items() if kind.endswith("medium")}


def test_a_member_without_an_owner_is_named(three: Path) -> None:
    with (three / "media/shards/index.jsonl").open("ab") as file:
        file.write(IndexEntry("nobody.png", "000002.tar", "x.png", 512, 6, "0" * 64).line())
    assert faults(three)["nobody.png"] == "no_owner"


# -- compaction ------------------------------------------------------------------------------------------------------


def compacted(output: Path, **changes: Any) -> Any:
    with Ledger.open_read_only(output / "exporter.db") as ledger:
        return compact(
            output / "media",
            ledger,
            MediaPermissions(),
            ShardLimits(),
            **{"changed_before_ns": time.time_ns(), "stop": threading.Event()} | changes,
        )


def test_compaction_moves_every_file_and_changes_neither_lines_nor_ledger(files: Path, tmp_path: Path) -> None:
    output = copied(files, tmp_path / "out")
    assert main(["media", "compact", str(output)]) == 0
    names = sorted(path.relative_to(output / "media").as_posix() for path in (output / "media").rglob("*.*"))
    assert names == [".partial", "shards/.partial", "shards/000001.tar", "shards/index.jsonl"]
    assert result_of(output)[0] == result_of(files)[0]
    assert result_of(output)[2] == result_of(files)[2]
    assert_sound(output)
    index = (output / "media/shards/index.jsonl").read_bytes()
    assert main(["media", "compact", str(output)]) == 0
    assert (output / "media/shards/index.jsonl").read_bytes() == index


def test_compaction_moves_folders_of_frames_too(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    with Ledger.open(tmp_path / "exporter.db") as ledger:
        intents.recover(tmp_path / "media", ledger)
        names = NameChoice("{SOPInstanceUID}")
        publisher = Publisher(tmp_path / "media", ledger, names, settings_sha256="s", version="1")
        for outcome in publisher.publish([pretended(tmp_path, ledger, "a", ".frames/")]):
            assert isinstance(outcome, Exported)
    assert compacted(tmp_path).files == 1
    assert not (tmp_path / "media" / "a.frames").exists()
    with MediaReader(tmp_path / "media") as reader:
        found = reader.in_shards("a.frames/")
        assert found is not None
        assert b"".join(reader.read(found.members[0])) == b"pixels"
    assert sound(tmp_path)


def test_a_study_under_way_and_a_file_that_is_not_as_exported_stay(files: Path, tmp_path: Path) -> None:
    output = copied(files, tmp_path / "out")
    before = {path: path.read_bytes() for path in (output / "media").rglob("*.png")}
    report = compacted(output, changed_before_ns=0)
    assert (report.files, report.waiting) == (0, 14)
    changed = output / "media" / "s0.png"
    changed.write_bytes(b"somebody else's")
    assert compacted(output).unlike == 1
    assert [path for path in before if path.exists()] == [changed]


@pytest.mark.parametrize("removed", [0, 1, 5])
def test_a_compaction_that_is_killed_is_finished_by_the_next(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    output = copied(files, tmp_path / "out")
    left, unlink = [removed], Path.unlink

    def dies(self: Path, missing_ok: bool = False) -> None:
        if self.suffix == ".png":
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
        unlink(self, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", dies)
        patched.setattr(ShardsStore, "close", ShardsStore._close_files)
        with pytest.raises(KeyboardInterrupt):
            compacted(output)
    assert_sound(output)
    compacted(output)
    assert not list((output / "media").rglob("*.png"))
    assert result_of(output)[0] == result_of(files)[0]
    assert_sound(output)
    (path,) = (output / "media" / "shards").glob("*.tar")
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names)) == 2 * (output / "metadata.jsonl").read_bytes().count(b"\n")
