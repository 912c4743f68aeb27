"""The ledger's tables, how its database is opened, and what an unusable one is called.

Contract: a connection from here has the current schema, WAL, ``synchronous=FULL`` (every COMMIT is fsynced) and a busy
timeout. A database that is corrupt, locked, of a newer schema or not a ledger raises `LedgerUnusable` with cause and
hint; it must never be repaired, replaced or emptied here.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from exporter.errors import OutOfSpace
from listener.foundation import locks, sqlite_files
from listener.foundation.durable import fsync_folder
from listener.foundation.errors import Unusable
from listener.foundation.file_kind import kind_of
from listener.foundation.sqlite_files import Schema

SCHEMA = 5
"""Version of the tables (``PRAGMA user_version``); a higher one was written by a newer exporter."""

NO_LINKS = frozenset({errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})
"""Errors of file systems without hard links (FAT, exFAT, some network and FUSE file systems)."""

_MOST_LOG_PAGES = 4000
"""16 MiB."""

_APPLICATION = 0x444D4531
"""``PRAGMA application_id`` of a ledger (``DME1``): another program's database is never taken for one."""

LATENCY_BOUNDS_S = (1, 2, 5, 10, 20, 60, 120, 300, 1800, 7200, 86400)
"""Upper bounds, in seconds, of the classes in which `minute` counts the time from arrival to outcome."""
BEYOND_S = 1 << 31
"""Class of longer times."""
UNTIMED = 0
"""Class of what has no time of arrival: files at rest."""
MINUTES_KEPT = 32 * 24 * 60
"""Minutes for which `minute` has rows of their own."""

_BOUND = " ".join(f"WHEN waited <= {bound} THEN {bound}" for bound in LATENCY_BOUNDS_S)
_KEPT = "instances = instances + 1, seconds = seconds + excluded.seconds, bytes = bytes + excluded.bytes"

# Triggers keep these numbers in the transaction of the change itself: exact after a kill, whoever writes. Each costs a
# few microseconds per instance; counting a million rows when somebody asks takes half a second.
_COUNTED = f"""
CREATE TABLE IF NOT EXISTS tally (
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    source TEXT NOT NULL,
    instances INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    conflicts INTEGER NOT NULL,
    PRIMARY KEY (state, reason, source)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS tally_added AFTER INSERT ON instance BEGIN
    INSERT INTO tally VALUES (new.state, coalesce(new.reason, ''), new.source, 1,
        new.duplicate_of IS NOT NULL, new.conflict_with IS NOT NULL)
    ON CONFLICT DO UPDATE SET instances = instances + 1,
        duplicates = duplicates + excluded.duplicates, conflicts = conflicts + excluded.conflicts;
END;
CREATE TRIGGER IF NOT EXISTS tally_moved
AFTER UPDATE OF state, reason, source, duplicate_of, conflict_with ON instance BEGIN
    UPDATE tally SET instances = instances - 1,
        duplicates = duplicates - (old.duplicate_of IS NOT NULL),
        conflicts = conflicts - (old.conflict_with IS NOT NULL)
    WHERE state = old.state AND reason = coalesce(old.reason, '') AND source = old.source;
    INSERT INTO tally VALUES (new.state, coalesce(new.reason, ''), new.source, 1,
        new.duplicate_of IS NOT NULL, new.conflict_with IS NOT NULL)
    ON CONFLICT DO UPDATE SET instances = instances + 1,
        duplicates = duplicates + excluded.duplicates, conflicts = conflicts + excluded.conflicts;
END;
CREATE TRIGGER IF NOT EXISTS tally_removed AFTER DELETE ON instance BEGIN
    UPDATE tally SET instances = instances - 1,
        duplicates = duplicates - (old.duplicate_of IS NOT NULL),
        conflicts = conflicts - (old.conflict_with IS NOT NULL)
    WHERE state = old.state AND reason = coalesce(old.reason, '') AND source = old.source;
END;

-- Outcomes by minute since 1970, and of all times under minute 0.
CREATE TABLE IF NOT EXISTS minute (
    minute INTEGER NOT NULL,
    state TEXT NOT NULL,
    within_s INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    seconds REAL NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (minute, state, within_s)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS minute_counted AFTER UPDATE OF state ON instance
WHEN new.state IN ('exported', 'skipped', 'failed', 'quarantined') BEGIN
    INSERT INTO minute
    SELECT minute, new.state,
        CASE WHEN waited IS NULL THEN {UNTIMED} {_BOUND} ELSE {BEYOND_S} END,
        1, coalesce(waited, 0), new.size_bytes
    FROM (SELECT new.updated_ns / 60000000000 AS minute UNION ALL SELECT 0),
        (SELECT CASE WHEN new.source = 'spool' THEN max(new.updated_ns - new.mtime_ns, 0) / 1e9 END AS waited)
    WHERE true
    ON CONFLICT DO UPDATE SET {_KEPT};
END;
CREATE TRIGGER IF NOT EXISTS minute_begun AFTER INSERT ON minute WHEN new.minute > 0 BEGIN
    DELETE FROM minute WHERE minute BETWEEN 1 AND new.minute - {MINUTES_KEPT};
END;

CREATE INDEX IF NOT EXISTS instance_title ON instance (ae_title) WHERE ae_title <> '';
CREATE INDEX IF NOT EXISTS instance_study ON instance (study_instance_uid, series_instance_uid)
    WHERE study_instance_uid IS NOT NULL;
"""  # noqa: S608 - numbers of our own

_COUNT_WHAT_IS_THERE = """
DELETE FROM tally;
INSERT INTO tally SELECT state, coalesce(reason, ''), source, count(*), count(duplicate_of), count(conflict_with)
    FROM instance GROUP BY 1, 2, 3;
"""

# What rejection notes say, also of instances that have not come yet; `settled` counts the steps of `SettledRejection`.
_REJECTIONS = """
CREATE TABLE IF NOT EXISTS rejection (
    sop_instance_uid TEXT NOT NULL,
    note TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL,
    series_instance_uid TEXT NOT NULL,
    code TEXT NOT NULL,
    noted_ns INTEGER NOT NULL,
    settled INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (sop_instance_uid, note)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rejection_settled ON rejection (settled);
"""

_TABLES = """
CREATE TABLE instance (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    message TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL,
    not_before REAL,
    sop_class_uid TEXT,
    sop_instance_uid TEXT,
    study_instance_uid TEXT,
    series_instance_uid TEXT,
    content_sha256 TEXT,
    source_sha256 TEXT,
    settings_sha256 TEXT,
    duplicate_of TEXT,
    conflict_with TEXT,
    base TEXT,
    base_key TEXT,
    line_seq INTEGER,
    updated_ns INTEGER NOT NULL,
    ae_title TEXT NOT NULL DEFAULT '',
    interruptions INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX instance_state ON instance (state, reason);
CREATE INDEX instance_uid ON instance (sop_instance_uid) WHERE sop_instance_uid IS NOT NULL;
CREATE INDEX instance_duplicate ON instance (duplicate_of) WHERE duplicate_of IS NOT NULL;
CREATE INDEX instance_conflict ON instance (conflict_with) WHERE conflict_with IS NOT NULL;
CREATE UNIQUE INDEX instance_base ON instance (base_key) WHERE base_key IS NOT NULL;

CREATE TABLE medium (
    instance_id INTEGER NOT NULL REFERENCES instance (id),
    position INTEGER NOT NULL,
    path TEXT NOT NULL,
    path_key TEXT NOT NULL,
    suffix TEXT NOT NULL,
    kind TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    codec TEXT NOT NULL,
    transcoded INTEGER NOT NULL,
    width INTEGER,
    height INTEGER,
    frames INTEGER,
    duration_s REAL,
    PRIMARY KEY (instance_id, position)
) WITHOUT ROWID;
CREATE UNIQUE INDEX medium_path ON medium (path_key);

CREATE TABLE superseded (
    path_key TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    instance_id INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE line (
    seq INTEGER PRIMARY KEY,
    instance_id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    length INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    text BLOB NOT NULL
);

CREATE TABLE foreign_bytes (
    id INTEGER PRIMARY KEY,
    before_seq INTEGER NOT NULL,
    length INTEGER NOT NULL,
    crc32 INTEGER NOT NULL
);

CREATE TABLE progress (
    key TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
"""

_SCHEMA = Schema(
    "a ledger of this exporter",
    _TABLES + _COUNTED + _REJECTIONS,
    SCHEMA,
    _APPLICATION,
    upgrades={
        1: ("instance", "ae_title", "TEXT NOT NULL DEFAULT ''"),
        2: ("instance", "interruptions", "INTEGER NOT NULL DEFAULT 0"),
        3: _COUNTED + _COUNT_WHAT_IS_THERE,
        4: _REJECTIONS,
    },
)


class LedgerUnusable(Unusable):
    """The ledger cannot be read or written."""

    def __init__(self, path: Path, cause: str, hint: str, *, is_damaged: bool = False) -> None:
        super().__init__(f"ledger {path}", cause, hint)
        self.path = path
        self.is_damaged = is_damaged
        """Whether the condition stays, however often an exporter is started again."""


def unusable(path: Path, error: sqlite3.Error) -> LedgerUnusable | OutOfSpace:
    """The exporter's error for an error of SQLite.

    Source: sqlite.org/rescode.html.
    """
    if sqlite_files.is_full(error):
        return OutOfSpace(f"ledger {path}: the disk or quota is full")
    if_damaged = "keep a copy, move it away and run `exporter reconcile --rebuild`"
    cause, hint = sqlite_files.cause_and_hint(error, if_damaged=if_damaged)
    return LedgerUnusable(path, cause, hint, is_damaged=sqlite_files.is_damaged(error))


def connect(path: Path, *, read_only: bool, busy_timeout_s: float) -> sqlite3.Connection:
    """A connection with the current schema.

    Raises:
        LedgerUnusable: Corrupt, locked, newer, foreign, absent (when `read_only`) or not permitted.
        OutOfSpace: The disk is full.
    """
    try:
        connection = _connect_read_only(path, busy_timeout_s) if read_only else _connect(path, busy_timeout_s)
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    try:
        _SCHEMA.ensure(connection, read_only=read_only)
    except sqlite3.Error as error:
        connection.close()
        raise unusable(path, error) from error
    return connection


def _connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    try:
        if not path.exists():
            _make(path)
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise LedgerUnusable(path, f"it is {kind_of(mode)}", "move it away: a ledger is a regular file")
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        hint = "check that the folder exists and who may write in it"
        raise LedgerUnusable(path, f"it cannot be opened ({error.strerror})", hint) from error
    connection = sqlite_files.connect(path, synchronous="FULL", timeout_s=busy_timeout_s)
    try:
        _prepare(connection)
        connection.execute(f"PRAGMA wal_autocheckpoint={_log_pages(path)}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _log_pages(path: Path) -> int:
    """Pages of 4 KiB that the log grows to before it is moved into the database: few where the disk is small.

    Moving it takes up to as much space once more: a log that fills the disk could not be moved any more.
    """
    try:
        found = os.statvfs(path)
    except OSError:
        return _MOST_LOG_PAGES
    return max(64, min(_MOST_LOG_PAGES, found.f_bavail * found.f_frsize // 4096 // 16))


def _make(path: Path) -> None:
    """Make an empty ledger; it appears whole, so that who only looks never meets half of one."""
    making = path.with_name(f"{path.name}.making-{os.getpid()}-{threading.get_ident()}")
    # SQLite gives -wal and -shm the mode of the database: what they hold is patient data.
    os.close(os.open(making, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(making, isolation_level=None)) as connection:
            _SCHEMA.make(connection)
        with suppress(FileExistsError):  # somebody was faster
            _appear(making, path)
    finally:
        making.unlink(missing_ok=True)
    fsync_folder(path.parent)


def _appear(making: Path, path: Path) -> None:
    """Give a finished file its name, unless that name is taken.

    Raises:
        FileExistsError: It is.
    """
    # Makers take turns: a rename would replace what somebody else made in between, and so would a log put aside.
    # (The folder itself is no place for this lock: where it is the media folder, too, its exporter has it locked.)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(path.with_name(f"{path.name}.turn"), flags, 0o600)
    try:
        with locks.turn(file):
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            _put_log_aside(path)
            try:
                path.hardlink_to(making)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                making.rename(path)
    finally:
        os.close(file)


def _put_log_aside(path: Path) -> None:
    """Move away the log of a ledger that is gone: SQLite would take its pages for those of the new one."""
    stamp = time.time_ns()
    for suffix in ("-wal", "-shm"):
        log = Path(f"{path}{suffix}")
        if log.exists():
            log.rename(f"{path}.lost-{stamp}{suffix}")


def _connect_read_only(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    if path.exists() and not path.is_file():
        mode = path.stat().st_mode
        raise LedgerUnusable(path, f"it is {kind_of(mode)}", "move it away: a ledger is a regular file")
    if not path.is_file():
        raise LedgerUnusable(path, "there is none", "check the data or output folder; nothing was exported here yet")
    address = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro"
    wal = path.with_name(path.name + "-wal")
    # Without -shm and without leave to make one, WAL cannot be read; with no log beside it the file alone is whole.
    attempts = [address] if wal.exists() and wal.stat().st_size else [address, f"{address}&immutable=1"]
    for attempt, uri in enumerate(attempts, start=1):
        connection = sqlite3.connect(
            uri, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
        )
        try:
            _prepare(connection)
            connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if attempt == len(attempts):
                raise
        except sqlite3.Error:
            connection.close()
            raise
        else:
            return connection
    raise AssertionError  # pragma: no cover - the loop returns or raises


def _prepare(connection: sqlite3.Connection) -> None:
    connection.text_factory = _text
    connection.execute("PRAGMA cache_size=-16000")
    connection.execute("PRAGMA temp_store=MEMORY")


def _text(value: bytes) -> str:
    # File names are bytes; `stored` wrote them as they are, and they come back as os.fsdecode gives them.
    return value.decode("utf-8", "surrogateescape")


def stored(name: str) -> bytes:
    """A name for a statement that says ``CAST(? AS TEXT)``: bytes that are not UTF-8 survive the round trip."""
    return name.encode("utf-8", "surrogateescape")
