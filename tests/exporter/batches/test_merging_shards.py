"""Batches that write shards: their merge equals a local run, and holds every instance once."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from exporter.batches import merging
from exporter.batches.merging import merge
from exporter.results.stores.shard_format import END, REMOVED
from exporter.results.stores.shard_index import IndexEntry, read_index
from tests.exporter.batches.conftest import assert_sound, result_of, run_all

SHARDS = {"store": "shards"}


@pytest.fixture(scope="module")
def ran(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder in which every batch has run, not merged."""
    output = tmp_path_factory.mktemp("shards") / "out"
    run_all(tree, output, 2, media=SHARDS)
    return output


@pytest.fixture
def output(ran: Path, tree: Path, tmp_path: Path) -> Path:
    """The same in a folder of its own; the plan names its input by an absolute path."""
    assert tree.is_dir()
    return Path(shutil.copytree(ran, tmp_path / "out", symlinks=True))


def samples(output: Path) -> Counter[str]:
    """Number of samples by key, as a reader of the shards alone finds them."""
    found: Counter[str] = Counter()
    for path in (output / "media" / "shards").glob("*.tar"):
        with tarfile.open(path) as archive:
            found.update(name.partition(".")[0] for name in archive.getnames() if name.endswith(".json"))
    return found


def assert_merged(output: Path, local: Path) -> None:
    assert result_of(output)[0] == result_of(local)[0]
    assert result_of(output)[2] == result_of(local)[2]
    assert_sound(output)
    assert set(samples(output).values()) == {1}
    members = [one for one in read_index(output / "media") if isinstance(one, IndexEntry)]
    assert len(members) == len(set(members)) == 2 * len(samples(output))
    assert not list((output / "batches").glob("[0-9]*"))


def test_lines_and_ledger_are_those_of_a_local_run_and_shards_are_moved_whole(output: Path, local: Path) -> None:
    before = {path.read_bytes() for path in output.glob("batches/*/run-*/shards/*.tar")}
    merge(output)
    assert {path.read_bytes() for path in (output / "media" / "shards").glob("*.tar")} == before
    assert_merged(output, local)


def test_the_shard_of_a_start_that_was_killed_is_taken_up_to_its_last_complete_sample(
    output: Path, local: Path
) -> None:
    shard = output / "batches/1/run-1/shards/000001.tar"
    data = shard.read_bytes()
    shard.unlink()
    (shard.parent / ".partial" / shard.name).write_bytes(data.removesuffix(END) + data[: 512 * 3 + 100])
    (shard.parent / "index.jsonl").unlink()
    merge(output)
    assert_merged(output, local)


def test_of_two_starts_each_instance_is_taken_once_and_the_other_sample_is_erased(output: Path, local: Path) -> None:
    first = output / "batches/1/run-1"
    shutil.copytree(first, first.with_name("run-2"))
    lines = (first / "journal").read_bytes().splitlines(keepends=True)
    finished = [number for number, line in enumerate(lines) if b'"event":"finished"' in line and b'"exported"' in line]
    assert len(finished) > 2
    (first / "journal").write_bytes(b"".join(lines[: finished[1] + 1]))
    merge(output)
    assert_merged(output, local)
    removed = []
    for path in (output / "media" / "shards").glob("*.tar"):
        with tarfile.open(path) as archive:
            removed.append(archive.getnames().count(REMOVED))
    assert min(removed) == 0
    assert sum(removed) == 2 * len(finished)


@pytest.mark.parametrize("step", ["_delete", "_append_lines", "_place"])
def test_a_merge_that_is_killed_is_finished_by_the_next(
    output: Path, local: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(merging._Application, step, dies)
        with pytest.raises(KeyboardInterrupt):
            merge(output)
    merge(output)
    assert_merged(output, local)


def test_a_start_that_has_lost_a_sample_is_refused(output: Path) -> None:
    (output / "batches/1/run-1/shards/000001.tar").unlink()
    with pytest.raises(merging.BatchUnusable, match="media of start 1 are gone"):
        merge(output)
