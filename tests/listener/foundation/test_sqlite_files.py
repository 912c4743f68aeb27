"""A database that lost one of its files is noticed by the one that has it open."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from exporter.pull.journal import JournalUnusable, PullJournal
from listener.foundation.sqlite_files import DatabaseFiles
from listener.sources.watch.folder import Candidate, Signature
from listener.sources.watch.memory import FileState, MemoryFailed, WatchState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE one (two)")
        yield path


@pytest.mark.parametrize(
    ("suffix", "what"), [("", "database file"), ("-wal", "write-ahead log"), ("-shm", "index of the write-ahead log")]
)
def test_each_file_is_missed_and_known_by_its_inode(path: Path, suffix: str, what: str) -> None:
    files = DatabaseFiles(path)
    assert files.loss() is None
    one = path.with_name(f"a.db{suffix}")
    kept = one.rename(path.with_name("kept"))
    assert files.loss() == f"its {what} (a.db{suffix}) was removed while it was in use"
    one.write_bytes(kept.read_bytes())
    assert files.loss() == f"its {what} (a.db{suffix}) was replaced while it was in use"
    kept.replace(one)
    assert files.loss() is None


def test_an_open_log_is_saved_unless_another_file_is_in_place_of_it_or_of_the_database(path: Path) -> None:
    files = DatabaseFiles(path)
    log = path.with_name("a.db-wal")
    log.unlink()
    assert files.can_be_saved
    log.touch()
    assert files.can_be_saved
    log.write_bytes(b"written")
    assert not files.can_be_saved
    log.unlink()
    path.unlink()
    assert not files.can_be_saved


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_pull_does_not_go_on_with_a_journal_nobody_will_find(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "pull" / "journal.db"
    with PullJournal.open(path) as journal:
        journal.begin_run("cohort", ["a"])
        path.with_name(f"journal.db{suffix}").unlink()
        with pytest.raises(JournalUnusable, match="was removed while it was in use; start again"):
            journal.end_run("cohort")


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_watched_folder_does_not_go_on_with_a_memory_nobody_will_find(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "sources" / "watch.db"
    memory = WatchState(path)
    candidate = Candidate("1.dcm", Signature(1, 2, 3, 4))
    memory.remember([(candidate, FileState.TAKEN, 0.0)])
    path.with_name(f"watch.db{suffix}").unlink()
    with pytest.raises(MemoryFailed, match="was removed while it was in use"):
        memory.remember([(candidate, FileState.TAKEN, 0.0)])
    memory.close()
