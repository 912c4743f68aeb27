"""What is remembered of one server, durably: every instance dealt with, and how far its log of changes is read.

Contract: `record` is one transaction, on disk when it returns (SQLite, WAL, synchronous FULL): outcomes and the new
position together, so that the position never passes an instance whose outcome is not remembered. An instance is
recorded as taken only after the spool has committed it; a crash between the two takes it a second time, which the
exporter finds out, and never loses it. Some 100 bytes per instance.

Used by one thread at a time. Must never: hold anything of a data set; Orthanc's identifiers are hashes.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Self

from listener.foundation.errors import SourceUnusable
from listener.foundation.sqlite_files import DatabaseFiles, Schema, cause_and_hint, open_private, transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_TABLES: Final = """
CREATE TABLE instances(
    id BLOB PRIMARY KEY,      -- Orthanc's identifier, 20 bytes
    state INTEGER NOT NULL,   -- State
    epoch INTEGER NOT NULL,   -- of `seq`: how often the index was found to be another one
    seq INTEGER NOT NULL,     -- number of the last change that was dealt with; 0: found by reconciliation
    uuid BLOB,                -- of the attachment, 16 bytes
    md5 BLOB,                 -- of its bytes, 16 bytes
    why TEXT,                 -- filter or trouble, a stable word
    noted INTEGER NOT NULL    -- seconds since 1970
) WITHOUT ROWID;
CREATE INDEX gone ON instances(id) WHERE state = 3;
CREATE INDEX failed ON instances(id) WHERE state = 4;
CREATE TABLE position(
    one INTEGER PRIMARY KEY CHECK (one = 1),
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,     -- every change up to here is dealt with
    anchor BLOB,              -- fingerprint of the change of that number
    vanished INTEGER NOT NULL,-- changes that were deleted with their resources before they were read
    compared REAL NOT NULL    -- when all attachments were last compared, seconds since 1970
);
INSERT INTO position VALUES (1, 0, 0, NULL, 0, 0);
"""
_SCHEMA: Final = Schema("one of instances taken from Orthanc", _TABLES, version=1)
QUESTIONS: Final = 500
"""Most identifiers that one statement asks for."""


class InstanceState(IntEnum):
    """What became of an instance."""

    TAKEN = 1
    """Durable in the spool."""
    FILTERED = 2
    """Not asked for."""
    GONE = 3
    """Deleted from the server before it was taken."""
    FAILED = 4
    """Tried often enough for now; reconciliation tries it again."""


@dataclass(frozen=True, slots=True)
class Position:
    """How far the log of changes is dealt with."""

    epoch: int
    seq: int
    anchor: bytes | None
    """Fingerprint of the change `seq`; None where it is not known."""
    vanished: int = 0
    """Changes up to here that were deleted with their resources before we read them."""


@dataclass(frozen=True, slots=True)
class KnownInstance:
    """What is remembered of one instance."""

    instance: bytes
    state: InstanceState
    epoch: int
    seq: int
    uuid: bytes | None = None
    md5: bytes | None = None
    why: str | None = None


class SyncState:
    """The data base of one server."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._files = DatabaseFiles(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The data base at `path`, made where it is not there yet, private to the user who runs this.

        Raises:
            SourceUnusable: It cannot be opened, or is none.
        """
        try:
            return cls(path, open_private(path, _SCHEMA, synchronous="FULL", timeout_s=5.0))
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Close the database; every record is on disk already."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def position(self) -> Position:
        """How far the log of changes is dealt with."""
        row = self._connection.execute("SELECT epoch, seq, anchor, vanished FROM position").fetchone()
        return Position(*row)

    def compared_at(self) -> float:
        """When all attachments were last compared, in seconds since 1970."""
        return float(self._connection.execute("SELECT compared FROM position").fetchone()[0])

    def compared_now(self) -> None:
        """They were compared just now."""
        with closing(self._connection.execute("UPDATE position SET compared = ?", (time.time(),))):
            pass

    def known(self, instances: Sequence[bytes]) -> dict[bytes, KnownInstance]:
        """What is remembered of these instances."""
        found = {}
        for start in range(0, len(instances), QUESTIONS):
            some = instances[start : start + QUESTIONS]
            marks = ",".join("?" * len(some))
            rows = self._connection.execute(
                f"SELECT id, state, epoch, seq, uuid, md5, why FROM instances WHERE id IN ({marks})",  # noqa: S608 - marks
                some,
            )
            found.update({row[0]: _noted(row) for row in rows})
        return found

    def failed(self, after: bytes, limit: int) -> list[KnownInstance]:
        """Instances that count as failed, in the order of their identifiers, from after one on."""
        rows = self._connection.execute(
            "SELECT id, state, epoch, seq, uuid, md5, why FROM instances"
            " WHERE state = 4 AND id > ? ORDER BY id LIMIT ?",
            (after, limit),
        )
        return [_noted(row) for row in rows]

    def count_gone(self) -> int:
        """How many were deleted from the server before they could be taken."""
        return int(self._connection.execute("SELECT count(*) FROM instances WHERE state = 3").fetchone()[0])

    def count_failed(self) -> int:
        """How many count as failed."""
        return int(self._connection.execute("SELECT count(*) FROM instances WHERE state = 4").fetchone()[0])

    def record(self, outcomes: Iterable[KnownInstance], position: Position | None) -> None:
        """Remember outcomes, and how far the log is dealt with: all of it durably, or nothing.

        Raises:
            sqlite3.Error: Nothing of it is remembered; also where files of the data base were removed or replaced.
        """
        loss = self._files.loss()
        if loss is not None:
            raise sqlite3.OperationalError(loss)
        connection = self._connection
        with transaction(connection):
            connection.executemany(
                "INSERT OR REPLACE INTO instances(id, state, epoch, seq, uuid, md5, why, noted)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(o.instance, o.state, o.epoch, o.seq, o.uuid, o.md5, o.why, int(time.time())) for o in outcomes],
            )
            if position is not None:
                connection.execute(
                    "UPDATE position SET epoch = ?, seq = ?, anchor = ?, vanished = ?",
                    (position.epoch, position.seq, position.anchor, position.vanished),
                )


def _noted(row: tuple[bytes, int, int, int, bytes | None, bytes | None, str | None]) -> KnownInstance:
    instance, state, epoch, seq, uuid, md5, why = row
    return KnownInstance(instance, InstanceState(state), epoch, seq, uuid, md5, why)


def _unusable(path: Path, error: OSError | sqlite3.Error) -> SourceUnusable:
    again = "move it away to take everything again (what was exported already is not exported twice)"
    cause, hint = cause_and_hint(error, if_damaged=again)
    return SourceUnusable(f"what was taken from Orthanc is remembered in {path}, which cannot be used", cause, hint)
