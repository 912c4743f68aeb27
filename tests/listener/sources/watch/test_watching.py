"""A watched folder: what is taken from it and when, what becomes of the files, and what it survives."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
from structlog.testing import capture_logs

from exporter.settings.settings import Settings
from listener.foundation.configuration import ConfigurationError, load
from listener.foundation.errors import SourceUnusable
from listener.settings.listener import ListenerSettings
from listener.sources.watch.folder import ScanOptions, scan
from listener.sources.watch.source import WatchSource, token
from listener.sources.watch.taking import CopyResult, CopySource, copy_into_spool, delete, move
from listener.spool.space import SpaceLevel
from listener.spool.spool import SpoolWriteFailed
from tests.listener.requestor import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from listener.sources.watch.folder import Candidate
    from tests.listener.sources.watch.watched import Watched


def put(path: Path, content: bytes = b"content", age_s: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if age_s:
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def wait_for(watched: Watched, count: int) -> None:
    eventually(lambda: len(watched.contents()) >= count, f"{count} files in the spool")


def let_it_look(watched: Watched) -> None:
    """Long enough for anything that is going to be taken."""
    enough = watched.settled()
    eventually(lambda: watched.looks() >= enough, "some more looks")


# -- what is taken ---------------------------------------------------------------------------------------------------


def test_bytes_come_into_the_spool_as_they_are_and_oldest_first(watched: Watched) -> None:
    contents = [os.urandom(length) for length in (1, 4096, (2 << 20) + 7, 100)]
    for age, content in enumerate(contents):
        put(watched.folder / f"{9 - age}.dcm", content, age_s=100 - age)
    watched.start()
    wait_for(watched, 4)
    assert watched.contents() == contents
    eventually(lambda: watched.counters.get("files_taken") == 4, "each is counted")
    assert len(list(watched.folder.iterdir())) == 4


@pytest.mark.parametrize("recursive", [True, False])
def test_folders_inside_are_looked_through_where_wanted(watched: Watched, recursive: bool) -> None:
    put(watched.folder / "a" / "b" / "deep.dcm", b"deep", age_s=5)
    put(watched.folder / "top.dcm", b"top")
    watched.start(recursive=recursive)
    wait_for(watched, 1)
    let_it_look(watched)
    assert watched.contents() == ([b"deep", b"top"] if recursive else [b"top"])


def test_names_decide_only_where_they_are_told_to(watched: Watched) -> None:
    for name in ("a.dcm", "B.DCM", "c.txt", "d.dcm.part", ".hidden.dcm", "e.dcm~", "~f.dcm", ".folder/g.dcm", "h.TMP"):
        put(watched.folder / name, name.encode())
    watched.start(patterns=["*.dcm"])
    wait_for(watched, 2)
    let_it_look(watched)
    assert sorted(watched.contents()) == [b"B.DCM", b"a.dcm"]


def test_what_is_no_dicom_and_has_any_name_comes_too(watched: Watched) -> None:
    put(watched.folder / os.fsdecode(b"na\xefve \n name"), b"not utf-8")
    put(watched.folder / "notes.txt", b"text", age_s=9)
    watched.start()
    wait_for(watched, 2)
    assert watched.contents() == [b"text", b"not utf-8"]


def test_links_pipes_empty_files_and_what_links_lead_to_are_passed_over(watched: Watched, tmp_path: Path) -> None:
    put(tmp_path / "outside" / "secret.dcm", b"secret")
    (watched.folder / "link.dcm").symlink_to(tmp_path / "outside" / "secret.dcm")
    (watched.folder / "folder").symlink_to(tmp_path / "outside")
    os.mkfifo(watched.folder / "pipe.dcm")
    put(watched.folder / "empty.dcm", b"")
    put(watched.folder / "real.dcm", b"real")
    with capture_logs() as lines:
        watched.start()
        wait_for(watched, 1)
        let_it_look(watched)
        watched.stop()
    assert watched.contents() == [b"real"]
    told = [(line["why"], line["count"]) for line in lines if line["event"] == "entries not taken"]
    assert sorted(told) == [("empty", 1), ("not_regular", 3)]


def test_a_link_that_takes_the_place_of_a_folder_after_the_look_leads_nowhere(watched: Watched, tmp_path: Path) -> None:
    put(watched.folder / "sub" / "x.dcm", b"mine")
    put(tmp_path / "outside" / "x.dcm", b"secret")
    with Looked(watched) as looked:
        (candidate,) = looked.candidates()
        (watched.folder / "sub").rename(watched.folder / "other")
        (watched.folder / "sub").symlink_to(tmp_path / "outside")
        assert looked.take(candidate) is CopyResult.GONE
        assert delete(looked.root, candidate)
    assert (tmp_path / "outside" / "x.dcm").read_bytes() == b"secret"
    assert watched.contents() == []


def test_a_file_too_large_stays_and_is_said_once(watched: Watched) -> None:
    put(watched.folder / "large.dcm", bytes(101))
    put(watched.folder / "small.dcm", bytes(100), age_s=-5)
    with capture_logs() as lines:
        watched.start(listener={"limits": {"max_instance_bytes": 100}})
        wait_for(watched, 1)
        let_it_look(watched)
        watched.stop()
        watched.start(listener={"limits": {"max_instance_bytes": 100}})
        let_it_look(watched)
        watched.stop()
    assert watched.contents() == [bytes(100)]
    told = [line for line in lines if line["event"] == "file not taken"]
    assert [(line["why"], line["file"]) for line in told] == [("too_large", token("large.dcm"))]


# -- when ------------------------------------------------------------------------------------------------------------


def test_a_file_is_not_taken_before_it_has_been_quiet(watched: Watched) -> None:
    path = put(watched.folder / "growing.dcm", b"0", age_s=3600)
    watched.start(quiet_s=0.3)
    for piece in range(1, 10):
        enough = watched.looks() + 3
        eventually(lambda enough=enough: watched.looks() >= enough, "looks")  # type: ignore[misc]
        with path.open("ab") as file:
            file.write(b"%d" % piece)
        os.utime(path, (1, 1))  # a server whose clock stands still
        assert watched.contents() == []
    wait_for(watched, 1)
    assert watched.contents() == [b"0123456789"]


def test_times_in_the_future_or_the_past_do_not_matter(watched: Watched) -> None:
    put(watched.folder / "future.dcm", b"future", age_s=-86_400 * 365)
    put(watched.folder / "past.dcm", b"past", age_s=86_400 * 365 * 40)
    watched.start()
    wait_for(watched, 2)
    assert watched.contents() == [b"past", b"future"]


def test_a_file_that_changes_while_it_is_copied_is_not_committed(watched: Watched) -> None:
    path = put(watched.folder / "x.dcm", bytes(3 << 20))
    with Looked(watched) as looked:
        (candidate,) = looked.candidates()
        calls = iter(range(100))

        def append_at_second_piece() -> bool:
            if next(calls) == 2:
                with path.open("ab") as file:
                    file.write(b"more")
            return False

        assert looked.take(candidate, append_at_second_piece) is CopyResult.CHANGED
        assert looked.take(candidate) is CopyResult.CHANGED
        assert watched.contents() == []
        assert list((watched.spool.root / "tmp").iterdir()) == []
        (candidate,) = looked.candidates()
        assert looked.take(candidate) is CopyResult.STORED
    assert watched.contents() == [bytes(3 << 20) + b"more"]


def test_a_file_that_is_another_one_now_is_taken_again_and_one_that_is_not_never(watched: Watched) -> None:
    path = put(watched.folder / "x.dcm", b"first")
    watched.start()
    wait_for(watched, 1)
    path.chmod(0o640)
    let_it_look(watched)
    assert watched.contents() == [b"first"]
    put(path, b"second")
    wait_for(watched, 2)
    watched.stop()
    watched.start()
    let_it_look(watched)
    assert watched.contents() == [b"first", b"second"]


# -- afterwards ------------------------------------------------------------------------------------------------------


def test_what_was_taken_is_deleted_where_wanted(watched: Watched) -> None:
    put(watched.folder / "a" / "x.dcm", b"x")
    watched.start(after="delete")
    wait_for(watched, 1)
    eventually(lambda: not list((watched.folder / "a").iterdir()), "the file is gone")
    let_it_look(watched)
    assert watched.contents() == [b"x"]
    watched.stop()
    assert remembered(watched) == 0


@pytest.mark.parametrize("done", [None, "elsewhere", "in/inside"])
def test_what_was_taken_is_moved_where_wanted_and_nothing_is_overwritten(
    watched: Watched, tmp_path: Path, done: str | None
) -> None:
    put(watched.folder / "a" / "x.dcm", b"first")
    target = tmp_path / done if done else watched.folder / ".done"
    more: dict[str, Any] = {"done": str(target)} if done else {}
    watched.start(after="move", **more)
    eventually((target / "a" / "x.dcm").exists, "the file is moved")
    put(watched.folder / "a" / "x.dcm", b"second")
    eventually(lambda: len(list((target / "a").iterdir())) == 2, "the next file is moved")
    let_it_look(watched)
    assert watched.contents() == [b"first", b"second"]
    assert (target / "a" / "x.dcm").read_bytes() == b"first"
    assert sorted(p.read_bytes() for p in (target / "a").iterdir()) == [b"first", b"second"]


@pytest.mark.parametrize("moved", [True, False])
def test_another_file_that_takes_the_name_in_the_last_instant_is_not_lost(
    watched: Watched, tmp_path: Path, moved: bool
) -> None:
    path = put(watched.folder / "x.dcm", b"first")
    (tmp_path / "done").mkdir()
    done = os.open(tmp_path / "done", os.O_RDONLY) if moved else None
    with Looked(watched) as looked:
        (candidate,) = looked.candidates()
        assert looked.take(candidate) is CopyResult.STORED
        put(tmp_path / "new", b"second").replace(path)
        taken_away = delete(looked.root, candidate) if done is None else move(looked.root, candidate, done)
        assert taken_away is False
        assert path.read_bytes() == b"second"
        assert len(list(watched.folder.iterdir())) == 1
    if done is not None:
        os.close(done)
        assert list((tmp_path / "done").iterdir()) == []


def test_files_that_cannot_be_taken_away_are_not_taken_twice(watched: Watched, tmp_path: Path) -> None:
    put(watched.folder / "x.dcm", b"x")
    watched.options["try_again_s"] = 0.05
    put(tmp_path / "done" / "sub", b"a file where a folder is needed")
    put(watched.folder / "sub" / "y.dcm", b"y")
    with capture_logs() as lines:
        watched.start(after="move", done=str(tmp_path / "done"))
        wait_for(watched, 2)
        let_it_look(watched)
        assert len(watched.contents()) == 2
        assert (watched.folder / "sub" / "y.dcm").exists()
        (tmp_path / "done" / "sub").unlink()
        eventually((tmp_path / "done" / "sub" / "y.dcm").exists, "it is moved at last")
        watched.stop()
    assert len(watched.contents()) == 2
    assert len([line for line in lines if line["event"] == "files cannot be taken away and stay"]) == 1


# -- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_said_once_and_taken_once_it_can_be_read(watched: Watched) -> None:
    path = put(watched.folder / "x.dcm", b"x")
    path.chmod(0)
    watched.start()
    eventually(lambda: watched.counters.get("files_unreadable") == 1, "said")
    path.chmod(0o600)
    wait_for(watched, 1)


def test_a_file_that_cannot_be_read_is_said_once_and_tried_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(watched.folder / "x.dcm", b"x")
    watched.options["try_again_s"] = 0.05
    readv, tries = os.readv, []

    def bad_disk(fd: int, buffers: Any) -> int:
        tries.append(fd)
        if len(tries) < 4:
            raise OSError(5, "Input/output error")
        return readv(fd, buffers)

    monkeypatch.setattr("listener.sources.watch.taking.os.readv", bad_disk)
    with capture_logs() as lines:
        watched.start()
        wait_for(watched, 1)
        watched.stop()
    assert [line["why"] for line in lines if line["event"] == "file not taken"] == ["unreadable"]
    assert watched.contents() == [b"x"]


def test_a_folder_that_is_away_is_said_once_and_its_files_do_not_come_again(watched: Watched, tmp_path: Path) -> None:
    put(watched.folder / "x.dcm", b"x")
    with capture_logs() as lines:
        source = watched.start()
        wait_for(watched, 1)
        watched.folder.rename(tmp_path / "unmounted")
        let_it_look(watched)
        assert source.is_alive()
        watched.folder.mkdir()  # the empty folder that a file system was mounted on
        let_it_look(watched)
        watched.folder.rmdir()
        (tmp_path / "unmounted").rename(watched.folder)
        put(watched.folder / "y.dcm", b"y")
        wait_for(watched, 2)
        watched.stop()
    assert watched.contents() == [b"x", b"y"]
    said = [line["event"] for line in lines if "watched folder" in line["event"]]
    assert said[:2] == ["watched folder cannot be looked at", "watched folder is back"]
    assert len(said) <= 4


def test_a_folder_that_was_never_there_is_waited_for(watched: Watched) -> None:
    watched.folder.rmdir()
    source = watched.start()
    let_it_look(watched)
    assert source.is_alive()
    put(watched.folder / "x.dcm", b"x")
    wait_for(watched, 1)


def test_where_there_is_no_room_files_wait(watched: Watched) -> None:
    watched.space.state = SpaceLevel.REFUSE_INSTANCES
    put(watched.folder / "x.dcm", b"x")
    watched.start()
    let_it_look(watched)
    assert watched.contents() == []
    watched.space.state = SpaceLevel.ENOUGH
    wait_for(watched, 1)


def test_a_spool_that_cannot_be_written_loses_nothing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listener.sources.watch.source.AFTER_TROUBLE_S", 0.02)
    receive, tries = watched.spool.receive, []

    def refuse() -> Any:
        tries.append(1)
        if len(tries) < 4:
            raise SpoolWriteFailed("making a file in the spool", OSError(28, "No space left on device"))
        return receive()

    monkeypatch.setattr(watched.spool, "receive", refuse)
    put(watched.folder / "x.dcm", b"x")
    watched.start(after="delete")
    wait_for(watched, 1)
    eventually(lambda: not list(watched.folder.iterdir()), "the file is gone")
    assert watched.contents() == [b"x"]


def test_a_damaged_memory_is_put_aside_and_files_come_again(watched: Watched) -> None:
    put(watched.folder / "x.dcm", b"x")
    watched.start()
    wait_for(watched, 1)
    watched.stop()
    (path,) = (watched.surroundings.state / "watch").glob("*.db")
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"no data base at all" * 100)
    watched.start()
    wait_for(watched, 2)
    assert path.with_name(path.name + ".damaged").exists()


def test_files_that_are_gone_for_long_are_forgotten(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        put(watched.folder / f"{number}.dcm", b"%d" % number)
    watched.start()
    wait_for(watched, 5)
    (watched.folder / "0.dcm").unlink()
    let_it_look(watched)
    watched.stop()
    assert remembered(watched) == 5
    monkeypatch.setattr("listener.sources.watch.memory.FORGET_AFTER_S", 0.0)
    monkeypatch.setattr("listener.sources.watch.memory.STEP", 2)
    watched.start()
    let_it_look(watched)
    watched.stop()
    assert remembered(watched) == 4
    assert len(watched.contents()) == 5


def test_more_files_than_are_waited_for_at_a_time_all_come(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("listener.sources.watch.source.MOST_WAITING", 7)
    for number in range(40):
        put(watched.folder / f"{number:02}.dcm", b"%02d" % number, age_s=100 - number)
    watched.start()
    wait_for(watched, 40)
    assert watched.contents() == [b"%02d" % number for number in range(40)]


def test_the_name_of_a_file_is_not_in_the_log(watched: Watched) -> None:
    put(watched.folder / "Doe^Jane" / "large.dcm", bytes(200))
    put(watched.folder / "Doe^Jane" / "small.dcm", bytes(10))
    with capture_logs() as lines:
        watched.start(listener={"limits": {"max_instance_bytes": 100}}, after="delete")
        wait_for(watched, 1)
        watched.stop()
    assert lines
    assert "Jane" not in str(lines)


# -- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["data", "data/spool", "data/media", "."])
def test_our_own_folders_are_not_watched(watched: Watched, tmp_path: Path, where: str) -> None:
    watched.folder = tmp_path / where
    with pytest.raises(SourceUnusable, match="lie inside each other"):
        watched.start()


def test_a_link_to_our_own_folder_is_not_watched(watched: Watched, tmp_path: Path) -> None:
    watched.folder = tmp_path / "link"
    watched.folder.symlink_to(tmp_path / "data")
    with pytest.raises(SourceUnusable, match="lie inside each other"):
        watched.start()


def test_a_file_is_not_watched(watched: Watched, tmp_path: Path) -> None:
    watched.folder = put(tmp_path / "file")
    with pytest.raises(SourceUnusable, match="is no folder"):
        watched.start()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sources:\n  - watch: a\n  - watch: ./a/b\n", "one lies inside the other"),
        ("sources:\n  - watch: a\n    done: b\n", "`done` needs `after: move`"),
        ("sources:\n  - watch: a\n    quiet_s: 0\n", "quiet_s"),
        ("sources:\n  - watch: a\n    patterns: []\n", "patterns"),
        ("sources:\n  - watch: ''\n", "is empty"),
    ],
)
def test_a_wrong_entry_is_said_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load(path, ListenerSettings)


@pytest.mark.parametrize("text", ["media:\n  dir: a/media\n", "metadata:\n  file: a/lines.jsonl\n"])
def test_a_folder_that_we_write_to_is_not_watched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yml"
    path.write_text(f"{text}sources:\n  - watch: a\n")
    with pytest.raises(ConfigurationError, match="holds what we write"):
        load(path, Settings)


def test_new_settings_of_the_folder_count_from_the_next_look_on(watched: Watched) -> None:
    put(watched.folder / "x.txt", b"x")
    source = watched.start(patterns=["*.dcm"])
    let_it_look(watched)
    assert watched.contents() == []
    source.reload(watched.settings({}))
    wait_for(watched, 1)


def test_settings_that_change_amid_a_round_count_from_the_next_one_on(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was to be left must not be deleted because it is to be moved by now."""
    put(watched.folder / "x.dcm", b"x")
    source = watched.start()

    def reload_amid(*given: Any) -> CopyResult:
        source.reload(watched.settings({"after": "move"}))
        return copy_into_spool(*given)

    monkeypatch.setattr("listener.sources.watch.source.copy_into_spool", reload_amid)
    eventually((watched.folder / ".done" / "x.dcm").exists, "it is moved in the end")
    assert watched.contents() == [b"x"]
    assert (watched.folder / ".done" / "x.dcm").read_bytes() == b"x"


def test_nothing_is_made_in_a_folder_without_files(watched: Watched) -> None:
    watched.start(after="move")
    let_it_look(watched)
    assert list(watched.folder.iterdir()) == []


# -- the parts -------------------------------------------------------------------------------------------------------


class Looked:
    """The folder, looked at by hand."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._section = watched.settings({}).sources[0]
        self.root = os.open(watched.folder, os.O_RDONLY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.root)

    def candidates(self) -> list[Candidate]:
        return scan(self.root, self._section, lambda _: True, ScanOptions(100, lambda: False)).candidates

    def take(self, candidate: Candidate, is_over: Callable[[], bool] = lambda: False) -> CopyResult:
        return copy_into_spool(CopySource(self.root, self._watched.spool, is_over), candidate, bytearray(1 << 20))


def remembered(watched: Watched) -> int:
    source = WatchSource(watched.settings({}).sources[0], watched.settings({}), watched.surroundings)
    source.start()
    try:
        assert source._memory is not None
        return source._memory.count()
    finally:
        source.stop(5.0)
