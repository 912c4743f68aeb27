"""What was taken from a watched folder: path, size, time and file number, in a small data base beside the spool.

Contract: what is remembered survives the process; after a power cut the last few rows may be missing, and those files
are taken again, which the exporter finds by their content. A row goes once its file has been gone for a while, in
steps of bounded size. A data base that is damaged is put aside and begun anew.

Must never: hold what is not durable in the spool, except as trouble.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import structlog

from listener.foundation.sqlite_files import DatabaseFiles, Schema, cause_and_hint, open_private, transaction
from listener.sources.watch.folder import Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from listener.sources.watch.folder import Candidate

log = structlog.get_logger()

FORGET_AFTER_S: Final = 86_400.0
"""A file that has been gone for so long is forgotten: longer than a folder is unmounted for."""
LONGEST_WAIT_S: Final = 86_400.0
STEP: Final = 1000
"""So many rows are compared with the folder at a time."""
_SCHEMA: Final = Schema(
    "one of files taken from a watched folder",
    """
CREATE TABLE files (
  name BLOB PRIMARY KEY,
  size INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  inode INTEGER NOT NULL,
  ctime_ns INTEGER NOT NULL,
  state INTEGER NOT NULL,
  not_before REAL NOT NULL DEFAULT 0,
  gone_since REAL
) WITHOUT ROWID;
""",
)


class FileState(IntEnum):
    """What is known of a file."""

    TAKEN = 0
    """It is durable in the spool."""
    TOO_LARGE = 1
    """It is longer than an instance may be."""
    UNREADABLE = 2
    """It could not be opened or read."""


@dataclass(frozen=True, slots=True)
class RememberedFile:
    """One row."""

    signature: Signature
    known: FileState
    not_before: float
    """Time, in seconds since 1970, before which the file is left alone."""

    def is_due(self, now: float) -> bool:
        """Whether it is time to try again; a clock that was set back does not put that off for ever."""
        return not now < self.not_before <= now + LONGEST_WAIT_S


class MemoryFailed(Exception):
    """The data base cannot be read or written now."""


class WatchState:
    """The data base of one watched folder; for use by one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cursor = b""
        try:
            try:
                self._db = _connect(path)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                log.error("memory of a watched folder was damaged and is begun anew: its files come again")  # noqa: TRY400 - no traceback
                for end in ("", "-wal", "-shm"):
                    with suppress(FileNotFoundError):
                        path.with_name(f"{path.name}{end}").replace(path.with_name(f"{path.name}.damaged{end}"))
                self._db = _connect(path)
            self._files = DatabaseFiles(path)
        except (OSError, sqlite3.Error) as error:
            raise MemoryFailed(_said(error)) from error

    def close(self) -> None:
        """Close the data base."""
        self._db.close()

    def find(self, name: str) -> RememberedFile | None:
        """What is remembered of the file at a path.

        Raises:
            MemoryFailed: The data base cannot be read.
        """
        sql = "SELECT size, mtime_ns, inode, ctime_ns, state, not_before FROM files WHERE name = ?"
        try:
            row = self._db.execute(sql, (os.fsencode(name),)).fetchone()
        except sqlite3.Error as error:
            raise MemoryFailed(_said(error)) from error
        return None if row is None else RememberedFile(Signature(*row[:4]), FileState(row[4]), float(row[5]))

    def remember(self, files: Iterable[tuple[Candidate, FileState, float]]) -> None:
        """Keep what became of some files: each with its state, and when it is to be tried again.

        Raises:
            MemoryFailed: None of it is remembered.
        """
        rows = [
            (os.fsencode(c.name), s.size_bytes, s.mtime_ns, s.inode, s.ctime_ns, int(known), not_before)
            for c, known, not_before in files
            for s in (c.signature,)
        ]
        self._check()
        sql = "REPLACE INTO files (name, size, mtime_ns, inode, ctime_ns, state, not_before) VALUES (?,?,?,?,?,?,?)"
        try:
            with transaction(self._db):
                self._db.executemany(sql, rows)
        except sqlite3.Error as error:
            raise MemoryFailed(_said(error)) from error

    def forget(self, names: Iterable[str]) -> None:
        """Drop files that are no longer in the folder because we took them away.

        Raises:
            MemoryFailed: They are not dropped.
        """
        self._check()
        try:
            with transaction(self._db):
                self._db.executemany("DELETE FROM files WHERE name = ?", [(os.fsencode(name),) for name in names])
        except sqlite3.Error as error:
            raise MemoryFailed(_said(error)) from error

    def clean(self, is_there: Callable[[str], bool]) -> None:
        """Compare the next rows with the folder; those whose files have been gone for long are dropped.

        Args:
            is_there: Whether there is something at a path; it may raise OSError where that cannot be told.

        Raises:
            MemoryFailed: The data base cannot be read or written.
            OSError: From `is_there`.
        """
        now = time.time()
        try:
            sql = "SELECT name, gone_since FROM files WHERE name > ? ORDER BY name LIMIT ?"
            rows = self._db.execute(sql, (self._cursor, STEP)).fetchall()
            there = [(name, since, is_there(os.fsdecode(name))) for name, since in rows]
            with transaction(self._db):
                self._db.executemany(
                    "UPDATE files SET gone_since = ? WHERE name = ?",
                    [(None if here else now, name) for name, since, here in there if here is not (since is None)],
                )
                self._db.executemany(
                    "DELETE FROM files WHERE name = ?",
                    [
                        (n,)
                        for n, since, here in there
                        if not here and since is not None and now > since + FORGET_AFTER_S
                    ],
                )
        except sqlite3.Error as error:
            raise MemoryFailed(_said(error)) from error
        self._cursor = rows[-1][0] if len(rows) == STEP else b""

    def _check(self) -> None:
        """Make sure that what is remembered will be found again.

        Raises:
            MemoryFailed: Files of the data base were removed or replaced while it was in use.
        """
        loss = self._files.loss()
        if loss is not None:
            raise MemoryFailed(f"{loss}; start the listener again")

    def count(self) -> int:
        """Files remembered."""
        return int(self._db.execute("SELECT count(*) FROM files").fetchone()[0])


def _connect(path: Path) -> sqlite3.Connection:
    """The data base, opened so that a commit survives the process, not always a power cut; see the contract."""
    db = open_private(path, _SCHEMA, synchronous="NORMAL", timeout_s=10.0)
    try:
        db.execute("PRAGMA cache_size=-8000")
        db.execute("SELECT count(*) FROM (SELECT name FROM files LIMIT 1)").fetchone()
    except sqlite3.Error:
        db.close()
        raise
    return db


def _said(error: OSError | sqlite3.Error) -> str:
    return "; ".join(cause_and_hint(error, if_damaged="move it away: its files come again"))
