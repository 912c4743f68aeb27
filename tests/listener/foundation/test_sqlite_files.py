"""Databases: made private and whole, brought up to date, explained when they fail, and missed when they are lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from exporter.pull.journal import JournalUnusable, PullJournal
from listener.foundation.sqlite_files import (
    DatabaseFiles,
    Schema,
    SchemaRefused,
    cause_and_hint,
    is_damaged,
    is_full,
    open_private,
    transaction,
)
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


# -- made and opened -------------------------------------------------------------------------------------------------

ONE = Schema("a list", "CREATE TABLE one (two); -- or two; not more\n", version=1, application=7)
TWO = Schema(
    "a list", "CREATE TABLE one (two, three);", version=2, application=7, upgrades={1: ("one", "three", "INTEGER")}
)


def columns(connection: sqlite3.Connection) -> list[str]:
    return [row[1] for row in connection.execute("PRAGMA table_info(one)")]


def opened(path: Path, schema: Schema) -> closing[sqlite3.Connection]:
    return closing(open_private(path, schema, synchronous="FULL", timeout_s=1.0))


def test_a_database_and_its_folders_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "inner" / "a.db"
    with opened(path, ONE) as connection:
        connection.execute("INSERT INTO one VALUES (1)")
        assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    assert [folder.stat().st_mode & 0o777 for folder in path.parents[:2]] == [0o700, 0o700]


def test_a_commit_survives_a_power_cut_where_that_is_asked_for(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db", ONE) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_link_in_the_place_of_a_database_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(OSError, match="symbolic links"):
        open_private(tmp_path / "a.db", ONE, synchronous="FULL", timeout_s=1.0)
    assert not (tmp_path / "elsewhere.db").exists()


def test_tables_of_an_earlier_version_are_brought_up_to_date_and_keep_their_rows(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db", ONE) as connection:
        connection.execute("INSERT INTO one VALUES (1)")
    with opened(tmp_path / "a.db", TWO) as connection:
        assert columns(connection) == ["two", "three"]
        assert connection.execute("SELECT * FROM one").fetchall() == [(1, None)]
    with opened(tmp_path / "a.db", TWO) as connection:
        assert columns(connection) == ["two", "three"]


def test_a_reader_does_not_bring_tables_up_to_date(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db", ONE) as connection:
        with pytest.raises(SchemaRefused, match="earlier version"):
            TWO.ensure(connection, read_only=True)
        assert columns(connection) == ["two"]


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db", TWO):
        pass
    with pytest.raises(SchemaRefused, match="newer version"):
        open_private(tmp_path / "a.db", ONE, synchronous="FULL", timeout_s=1.0)


def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("CREATE TABLE foreign_table (a)")
    with pytest.raises(SchemaRefused, match="is not a list"):
        open_private(tmp_path / "a.db", ONE, synchronous="FULL", timeout_s=1.0)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("foreign_table",)]


def test_a_transaction_that_raises_keeps_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db", ONE) as connection:
        with suppress(LookupError), transaction(connection):
            connection.execute("INSERT INTO one VALUES (1)")
            raise LookupError
        assert connection.execute("SELECT * FROM one").fetchall() == []
        with transaction(connection):
            connection.execute("INSERT INTO one VALUES (2)")
        assert connection.execute("SELECT * FROM one").fetchall() == [(2,)]


# -- errors ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_from_a_damaged_file_and_a_busy_one(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError) as damaged:
        open_private(tmp_path / "a.db", ONE, synchronous="FULL", timeout_s=1.0)
    assert (is_damaged(damaged.value), is_full(damaged.value)) == (True, False)
    assert cause_and_hint(damaged.value, if_damaged="bin it")[1] == "bin it"

    with opened(tmp_path / "b.db", ONE) as connection:
        connection.execute("PRAGMA max_page_count=2")
        with pytest.raises(sqlite3.OperationalError) as full:
            connection.execute("INSERT INTO one VALUES (zeroblob(1000000))")
        assert (is_damaged(full.value), is_full(full.value)) == (False, True)
        assert cause_and_hint(full.value, if_damaged="")[0] == "the disk or quota is full"

        with closing(sqlite3.connect(tmp_path / "b.db", timeout=0, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            connection.execute("PRAGMA busy_timeout=0")
            with pytest.raises(sqlite3.OperationalError) as busy, transaction(connection):
                pytest.fail("it was begun")
        assert cause_and_hint(busy.value, if_damaged="")[0] == "another process keeps it locked"
