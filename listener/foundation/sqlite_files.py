"""Databases of ours in SQLite: how they are made and opened, what an error of theirs means, and whether they are lost.

Contract: a database that is made here is private to the user who runs us, in WAL mode, and its tables appear all at
once or not at all. Nothing here repairs or replaces a database.

SQLite does not notice that somebody removed or replaced a file of an open database. It goes on with files that no name
leads to any more, and the next to open the database sees what it held before its log was last moved into it, or nothing
(sqlite.org/howtocorrupt.html, 2.5). So the one that writes looks for itself, which costs three calls of stat.
"""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from listener.foundation.durable import fsync_folder, make_private_folders

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PARTS: Final = {
    "": "database file",
    "-wal": "write-ahead log",
    "-shm": "index of the write-ahead log",
}

_COMMENT: Final = re.compile(r"--.*")

Synchronous = Literal["FULL", "NORMAL"]
"""``FULL``: a commit survives a power cut. ``NORMAL``: it survives the process; a power cut may take the last few."""


# -- opening ---------------------------------------------------------------------------------------------------------


def open_private(path: Path, schema: Schema, *, synchronous: Synchronous, timeout_s: float) -> sqlite3.Connection:
    """Open a database that only the user who runs us may read; it and its folders are made where they are missing.

    Args:
        path: The database file; a link is not followed.
        schema: Its tables.
        synchronous: What a commit survives. With ``FULL``, the name of the file is durable, too.
        timeout_s: Longest wait for another connection's transaction.

    Raises:
        OSError: The file or a folder cannot be made.
        sqlite3.Error: The database cannot be opened, or (`SchemaRefused`) is not the one that is meant.
    """
    make_private_folders(path.parent)
    # SQLite gives -wal and -shm the mode of the database.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    connection = connect(path, synchronous=synchronous, timeout_s=timeout_s)
    try:
        schema.ensure(connection)
        if synchronous == "FULL":
            for folder in (path.parent, path.parent.parent):
                fsync_folder(folder)
    except BaseException:
        connection.close()
        raise
    return connection


def connect(path: Path, *, synchronous: Synchronous, timeout_s: float) -> sqlite3.Connection:
    """A connection in WAL mode, for any thread, whose transactions begin only where they are begun.

    Raises:
        sqlite3.Error: The database cannot be opened or read.
    """
    connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One write transaction, begun before anything is read; rolled back where the block raises.

    Raises:
        sqlite3.Error: Nothing of it is kept.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite rolls back by itself where a disk is full
            connection.execute("ROLLBACK")
        raise


# -- tables ----------------------------------------------------------------------------------------------------------


class SchemaRefused(sqlite3.DatabaseError):
    """The database is another program's, or of another version of this one."""

    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one kind of database, and how those of earlier versions become these."""

    kind: str
    """What such a database is, with its article."""
    tables: str
    """Statements, each ended by a semicolon; comments begin with two hyphens."""
    version: int = 0
    """``PRAGMA user_version``; 0 where there is no other version yet."""
    application: int = 0
    """``PRAGMA application_id``: another program's database is never taken for one of these."""
    upgrades: Mapping[int, tuple[str, str, str] | str] = field(default_factory=dict)
    """By earlier version, what makes the next one of it: a column (table, name, type), or statements as in `tables`,
    which may find their tables there already."""

    def ensure(self, connection: sqlite3.Connection, *, read_only: bool = False) -> None:
        """Make the tables in an empty database, and bring those of an earlier version up to date.

        Raises:
            SchemaRefused: The database is not ours, of a newer version, or (where it is only read) of an earlier one.
            sqlite3.Error: It cannot be read or written.
        """
        if _is_empty(connection) and not read_only:
            with transaction(connection):
                if _is_empty(connection):  # no other process was faster
                    self._make(connection)
        if self._known_version(connection) < self.version:
            if read_only:
                hint = "it is brought up to date when this version of the program next writes it"
                raise SchemaRefused("it was written by an earlier version of this program", hint)
            with transaction(connection):
                self._upgrade(connection)

    def make(self, connection: sqlite3.Connection) -> None:
        """Make the tables in an empty database, in one transaction."""
        with transaction(connection):
            self._make(connection)

    def _known_version(self, connection: sqlite3.Connection) -> int:
        """The version of the tables, which is not above ours.

        Raises:
            SchemaRefused: The database is not ours, or newer.
        """
        version = _pragma(connection, "user_version")
        if _pragma(connection, "application_id") != self.application or _is_empty(connection):
            raise SchemaRefused(f"the database is not {self.kind}", "choose another folder, or move it away")
        if version > self.version:
            cause = f"schema {version} was written by a newer version; this one knows {self.version}"
            raise SchemaRefused(cause, "use the newer version")
        return version

    def _make(self, connection: sqlite3.Connection) -> None:
        _execute_each(connection, self.tables)
        connection.execute(f"PRAGMA application_id={self.application}")
        connection.execute(f"PRAGMA user_version={self.version}")

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        for number in range(_pragma(connection, "user_version"), self.version):
            if number not in self.upgrades:
                raise SchemaRefused(f"schema {number} was written by no version of this program", "move it away")
            upgrade = self.upgrades[number]
            if isinstance(upgrade, str):
                _execute_each(connection, upgrade)
                continue
            table, column, kind = upgrade
            if column not in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        connection.execute(f"PRAGMA user_version={self.version}")


def _execute_each(connection: sqlite3.Connection, statements: str) -> None:
    """Run statements one by one: `executescript` would commit the transaction around them."""
    statement = ""
    for part in _COMMENT.sub("", statements).split(";")[:-1]:
        statement += f"{part};"
        if sqlite3.complete_statement(statement):  # not so inside a trigger
            connection.execute(statement)
            statement = ""


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _is_empty(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0)


# -- errors ----------------------------------------------------------------------------------------------------------


_LOCKED: Final = "another process keeps it locked", "end that process or its transaction, then try again"
_REFUSED: Final = "it cannot be opened for this use", "check that the folder exists and who may write in it"
_MEANINGS: Final = {
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_CANTOPEN: _REFUSED,
    sqlite3.SQLITE_PERM: _REFUSED,
    sqlite3.SQLITE_READONLY: _REFUSED,
    sqlite3.SQLITE_AUTH: _REFUSED,
    sqlite3.SQLITE_IOERR: ("the device reported an error", "check the disk, its quota and the kernel's log"),
}
"""Cause and hint by primary result code (sqlite.org/rescode.html)."""


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk or a quota is full (sqlite.org/rescode.html; IOERR_SHMSIZE: there was no room for ``-shm``)."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file is damaged or no database, so that it stays unusable however often it is opened."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def cause_and_hint(error: OSError | sqlite3.Error, *, if_damaged: str) -> tuple[str, str]:
    """Why a database cannot be used, and what to do: two parts of a sentence.

    Args:
        error: Of opening, reading or writing it.
        if_damaged: What to do where the file is damaged.
    """
    if isinstance(error, SchemaRefused):
        return error.cause, error.hint
    if isinstance(error, OSError):
        where = "check that the folder exists and who may write in it"
        return f"it cannot be opened ({error.strerror or type(error).__name__})", where
    if is_damaged(error):
        return "the file is damaged or is not an SQLite database", if_damaged
    if is_full(error):
        return "the disk or quota is full", "free some space and start again"
    otherwise = f"SQLite refused ({getattr(error, 'sqlite_errorname', error)})", "report this as a defect"
    return _MEANINGS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, otherwise)


# -- loss ------------------------------------------------------------------------------------------------------------


class DatabaseFiles:
    """A database file and its companions, as they were when this was made."""

    def __init__(self, path: Path) -> None:
        """Remember the files of the database at `path`, which is open and has been read or written.

        Raises:
            OSError: The database file cannot be found.
        """
        path.stat()
        self._paths = {suffix: Path(f"{path}{suffix}") for suffix in _PARTS}
        self._seen = {suffix: _identity(one) for suffix, one in self._paths.items()}

    def loss(self) -> str | None:
        """What happened to the files, as part of a sentence; None where all are as they were."""
        for suffix, what in _PARTS.items():
            before, now = self._seen[suffix], _identity(self._paths[suffix])
            if before is not None and before != now:
                how = "was removed" if now is None else "was replaced"
                return f"its {what} ({self._paths[suffix].name}) {how} while it was in use"
        return None

    @property
    def can_be_saved(self) -> bool:
        """Whether the open log may be moved into the database: nobody has written another log, or another database.

        (One that only reads makes an empty log where there is none.)
        """
        log = self._paths["-wal"]
        try:
            is_empty = log.stat().st_size == 0
        except OSError:
            is_empty = True
        return _identity(self._paths[""]) == self._seen[""] and (is_empty or _identity(log) == self._seen["-wal"])


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where it cannot be found."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
