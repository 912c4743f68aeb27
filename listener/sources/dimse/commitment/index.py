"""Index over the journal of acknowledged instances: which SOP classes an instance UID was acknowledged with.

Contract: `AcknowledgedIndex.find` knows every complete line that the day files held when it was called. The index is
derived: the day files are the truth, a damaged or missing index is built again from them. Work is in the lines that are
new and in the UIDs that are asked for, not in the length of the journal. Several processes may use one index: a
transaction of SQLite takes each piece of a day file exactly once.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from listener.foundation import locks
from listener.foundation.durable import Folder
from listener.foundation.sqlite_files import Schema, cause_and_hint, open_private, transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = structlog.get_logger()

_Result = TypeVar("_Result")

STEP_BYTES: Final = 1 << 20
"""Bytes of a day file that one transaction takes: about 10,000 lines, some 50 ms."""
STEP_ROWS: Final = 10_000
"""Rows of a day that is forgotten, deleted by one transaction."""
BUSY_S: Final = 30.0
"""Longest wait for another process's transaction."""
DAY_FILE: Final = re.compile(r"[0-9]{8}\.log")
_LINE: Final = re.compile(rb"^([0-9.]{1,64}) ([0-9.]{1,64})$", re.MULTILINE)
"""A whole line: class UID, instance UID. What a power cut tore is none."""
_NAME: Final = "index.db"
_SCHEMA: Final = Schema(
    "an index of acknowledged instances",
    """
CREATE TABLE day_file (name TEXT PRIMARY KEY, read_bytes INTEGER NOT NULL, last_row INTEGER NOT NULL);
CREATE TABLE sop_class (number INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE);
CREATE TABLE instance (row INTEGER PRIMARY KEY, uid TEXT NOT NULL, class INTEGER NOT NULL);
CREATE INDEX instance_by_uid ON instance (uid, class);
""",
)


class IndexUnusable(OSError):
    """The index can be neither brought up to date nor built again at present: nothing is known of any instance."""


class AcknowledgedIndex:
    """The index of one journal folder; safe for use by many threads."""

    def __init__(self, folder: Path) -> None:
        """Opens nothing yet.

        Args:
            folder: Folder of the day files; the index lies beside them.
        """
        self._path = folder / _NAME
        self._folder = Folder(folder)
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def find(self, uids: Iterable[str]) -> dict[str, set[str]]:
        """SOP class UIDs by SOP Instance UID, for those of `uids` that were acknowledged.

        Raises:
            IndexUnusable: The disk is full, or cannot be read.
        """
        return self._with_database(lambda db: self._find(db, uids))

    def catch_up(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Take in what was acknowledged since the last time, and drop the days whose files are gone.

        Args:
            stopping: Looked at between two transactions.

        Raises:
            IndexUnusable: The disk is full, or cannot be read.
        """
        self._with_database(lambda db: self._catch_up(db, stopping))

    def close(self) -> None:
        """Close the database, until it is used again."""
        with self._lock:
            self._disconnect()
            if self._folder.fd >= 0:
                os.close(self._folder.fd)
                self._folder.fd = -1

    def _with_database(self, use: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """The result of `use`; a damaged database is built again, once."""
        with self._lock:
            try:
                try:
                    return use(self._database())
                except sqlite3.DatabaseError as error:
                    if isinstance(error, sqlite3.OperationalError):
                        raise
                    self._discard_damaged()
                    return use(self._database())
            except (OSError, sqlite3.Error) as error:
                self._disconnect()
                cause, _ = cause_and_hint(error, if_damaged="")
                raise IndexUnusable(f"the index of acknowledged instances cannot be used: {cause}") from error

    def _database(self) -> sqlite3.Connection:
        if self._db is None:
            if self._folder.fd < 0:
                self._folder = Folder(self._folder.path)
            # A power cut loses rows, whose lines are then read again.
            self._db = open_private(self._path, _SCHEMA, synchronous="NORMAL", timeout_s=BUSY_S)
        return self._db

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _discard_damaged(self) -> None:
        """Move a damaged database out of the way, unless another process has done so since we opened it."""
        log.error("index of acknowledged instances was damaged: it is built again from the day files")
        self._disconnect()
        with locks.turn(self._folder.fd):
            if not _is_sound(self._path):
                for end in ("-wal", "-shm", ""):
                    with suppress(FileNotFoundError):
                        os.unlink(f"{_NAME}{end}", dir_fd=self._folder.fd)

    def _find(self, db: sqlite3.Connection, uids: Iterable[str]) -> dict[str, set[str]]:
        self._catch_up(db, lambda: False)
        sql = "SELECT DISTINCT s.uid FROM instance i JOIN sop_class s ON s.number = i.class WHERE i.uid = ?"
        found = {uid: {str(row[0]) for row in db.execute(sql, (uid,))} for uid in uids}
        return {uid: classes for uid, classes in found.items() if classes}

    def _catch_up(self, db: sqlite3.Connection, stopping: Callable[[], bool]) -> None:
        names = sorted(self._folder.entries(DAY_FILE))
        for name in names:
            while not stopping() and self._is_behind(db, name):
                if not self._take_in(db, name):
                    break
        known = [str(row[0]) for row in db.execute("SELECT name FROM day_file ORDER BY name")]
        for name in known:
            while not stopping() and name not in names and self._drop(db, name):
                pass

    def _is_behind(self, db: sqlite3.Connection, name: str) -> bool:
        size = self._folder.size_of(name)
        row = db.execute("SELECT read_bytes FROM day_file WHERE name = ?", (name,)).fetchone()
        return size is not None and size != (row[0] if row else 0)

    def _take_in(self, db: sqlite3.Connection, name: str) -> bool:
        """Take in the next piece of a day file; False where no further line of it is complete."""
        with transaction(db):
            row = db.execute("SELECT read_bytes FROM day_file WHERE name = ?", (name,)).fetchone()
            start = row[0] if row else 0
            if (self._folder.size_of(name) or 0) < start:
                start = 0  # a power cut took the end of the file: its lines may have been written anew
            content = self._read(name, start)
            end = content.rfind(b"\n") + 1
            if end or len(content) < STEP_BYTES:  # else it is no line of ours, which are short
                content = content[:end]
            if not content:
                return False
            lines = [(c.decode("ascii"), uid.decode("ascii")) for c, uid in _LINE.findall(content)]
            numbers = {sop_class: _class_number(db, sop_class) for sop_class in {line[0] for line in lines}}
            db.executemany("INSERT INTO instance (uid, class) VALUES (?, ?)", ((u, numbers[c]) for c, u in lines))
            db.execute(
                "REPLACE INTO day_file (name, read_bytes, last_row) "
                "VALUES (?, ?, (SELECT coalesce(max(row), 0) FROM instance))",
                (name, start + len(content)),
            )
        return True

    def _read(self, name: str, start: int) -> bytes:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._folder.fd)
        try:
            return os.pread(fd, STEP_BYTES, start)
        finally:
            os.close(fd)

    def _drop(self, db: sqlite3.Connection, name: str) -> bool:
        """Drop some rows of a day whose file is gone; False once there are none left."""
        with transaction(db):
            row = db.execute("SELECT last_row FROM day_file WHERE name = ?", (name,)).fetchone()
            if row is None:
                return False
            sql = "DELETE FROM instance WHERE row IN (SELECT row FROM instance WHERE row <= ? ORDER BY row LIMIT ?)"
            if db.execute(sql, (row[0], STEP_ROWS)).rowcount:
                return True
            db.execute("DELETE FROM day_file WHERE name = ?", (name,))
        return False


def _class_number(db: sqlite3.Connection, uid: str) -> int:
    db.execute("INSERT OR IGNORE INTO sop_class (uid) VALUES (?)", (uid,))
    return int(db.execute("SELECT number FROM sop_class WHERE uid = ?", (uid,)).fetchone()[0])


def _is_sound(path: Path) -> bool:
    """Whether another process has put a sound database in the place of a damaged one."""
    if not path.exists():
        return True
    db = sqlite3.connect(path, timeout=BUSY_S)
    try:
        return bool(db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
    except sqlite3.Error:
        return False
    finally:
        db.close()
