"""Events and their deliveries, in a small database beside the ledger (`notify.db`).

Contract: an event, its deliveries to every destination, and what the watch remembers of it are written in one
transaction that survives a power cut: an event is lost or made twice by no kill. A delivery is noted as made after the
destination took it, so that a kill in between repeats it with the same id. Safe for many threads and processes.

Must never: hold a secret, or grow without bound: deliveries that are over are kept for `KEPT_S`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from exporter.notifications.events import Event
from exporter.notifications.schedule import is_due
from listener.foundation import locks, sqlite_files
from listener.foundation.errors import Unusable
from listener.foundation.sqlite_files import Schema, transaction
from listener.settings.listener import DataFolder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

KEPT_S: Final = 30 * 86_400.0
_TIMEOUT_S: Final = 10.0
_IF_DAMAGED: Final = "move it away: messages that waited in it are lost, nothing else is"

_SCHEMA: Final = Schema(
    "a database of notifications",
    """
CREATE TABLE event (
    id TEXT PRIMARY KEY,
    at REAL NOT NULL,
    content TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE delivery (
    number INTEGER PRIMARY KEY,
    event TEXT NOT NULL REFERENCES event (id),
    destination TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    attempts INTEGER NOT NULL DEFAULT 0,
    due REAL NOT NULL DEFAULT 0,
    ended REAL,
    problem TEXT NOT NULL DEFAULT ''
);
CREATE INDEX delivery_waiting ON delivery (destination) WHERE state = 'waiting';
CREATE TABLE mark (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
""",
    version=1,
    application=0x444D4E31,
)


class QueueUnusable(Unusable):
    """The database of notifications cannot be read or written."""

    def __init__(self, path: Path, error: OSError | sqlite3.Error, *, is_full: bool = False) -> None:
        cause, hint = sqlite_files.cause_and_hint(error, if_damaged=_IF_DAMAGED)
        super().__init__(f"notifications {path}", cause, hint)
        self.is_full = is_full
        """Whether the disk is full."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one destination."""

    number: int
    event: Event
    destination: str
    state: str
    """`waiting`, `delivered` or `given_up`."""
    attempts: int
    due: float
    """Unix time before which it is not tried again."""
    ended: float | None
    problem: str
    """Why the last attempt failed; empty where none did."""


class NotificationQueue:
    """The database, opened for reading and writing."""

    def __init__(self, data: Path) -> None:
        """Open the database in a data or output folder; it is made where it is missing.

        Raises:
            QueueUnusable: It cannot be used.
        """
        self._path = DataFolder(data).notifications
        self._lock = threading.Lock()
        try:
            self._connection = sqlite_files.open_private(self._path, _SCHEMA, synchronous="FULL", timeout_s=_TIMEOUT_S)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def sender(self) -> Iterator[None]:
        """Be the one process that sends what is in the queue, while the block runs.

        Raises:
            LockBusy: Another process sends.
            QueueUnusable: Its file system has no locks.
        """
        try:
            descriptor = locks.take(locks.lock_file_of(self._path))
        except OSError as error:
            raise self._unusable(error) from error
        try:
            yield
        finally:
            os.close(descriptor)

    # -- events -----------------------------------------------------------------------------------------------------

    def record(
        self, events: Iterable[Event], destinations: Sequence[str], marks: Mapping[str, str | None] | None = None
    ) -> None:
        """Write events, a delivery of each to each destination, and marks (None removes one), all or nothing.

        Raises:
            QueueUnusable: Nothing of it was written.
        """
        with self._writing():
            for event in events:
                self._connection.execute("INSERT INTO event VALUES (?, ?, ?)", (event.id, event.at, event.dumped()))
                self._connection.executemany(
                    "INSERT INTO delivery (event, destination) VALUES (?, ?)",
                    [(event.id, destination) for destination in destinations],
                )
            for key, value in (marks or {}).items():
                if value is None:
                    self._connection.execute("DELETE FROM mark WHERE key = ?", (key,))
                else:
                    self._connection.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (key, value))

    def marks(self) -> dict[str, str]:
        """What the watch remembers.

        Raises:
            QueueUnusable: It cannot be read.
        """
        return dict(self._rows("SELECT key, value FROM mark"))

    # -- deliveries -------------------------------------------------------------------------------------------------

    def next_due(self, destination: str, now: float) -> Delivery | None:
        """The oldest delivery to a destination that is to be tried now.

        Raises:
            QueueUnusable: It cannot be read.
        """
        rows = self._rows(f"{_DELIVERY} WHERE destination = ? AND state = 'waiting' ORDER BY number", (destination,))
        return next((one for row in rows if is_due((one := _delivery(row)).due, now)), None)

    def delivered(self, delivery: Delivery) -> None:
        """Note that the destination has taken the event.

        Raises:
            QueueUnusable: It is not noted: the event is going to be delivered again.
        """
        self._end(delivery, "delivered", "")

    def give_up(self, delivery: Delivery, problem: str) -> None:
        """Note that the event is not tried again, and why.

        Raises:
            QueueUnusable: It is not noted.
        """
        self._end(delivery, "given_up", problem)

    def put_off(self, delivery: Delivery, due: float, problem: str) -> None:
        """Note that an attempt failed, and when the next is due.

        Raises:
            QueueUnusable: It is not noted.
        """
        with self._writing():
            self._connection.execute(
                "UPDATE delivery SET attempts = attempts + 1, due = ?, problem = ? WHERE number = ?",
                (due, problem, delivery.number),
            )

    def give_up_all_but(self, destinations: Iterable[str]) -> int:
        """Give up deliveries to destinations that the configuration no longer names.

        Returns:
            Number of deliveries.

        Raises:
            QueueUnusable: It is not noted.
        """
        known = set(destinations)
        waiting = {row[0] for row in self._rows("SELECT DISTINCT destination FROM delivery WHERE state = 'waiting'")}
        given_up = 0
        with self._writing():
            for name in waiting - known:
                given_up += self._connection.execute(
                    """UPDATE delivery SET state = 'given_up', ended = ?, problem = 'the configuration does not name'
                    || ' this destination any more' WHERE destination = ? AND state = 'waiting'""",
                    (time.time(), name),
                ).rowcount
        return given_up

    def waiting(self, now: float | None = None) -> int:
        """Number of deliveries that are not over; with `now`, of those that are to be tried now.

        Raises:
            QueueUnusable: It cannot be read.
        """
        found = [row[0] for row in self._rows("SELECT due FROM delivery WHERE state = 'waiting'")]
        return sum(1 for due in found if now is None or is_due(due, now))

    def recent(self, limit: int = 50) -> list[Delivery]:
        """The newest deliveries, newest first.

        Raises:
            QueueUnusable: They cannot be read.
        """
        return [_delivery(row) for row in self._rows(f"{_DELIVERY} ORDER BY number DESC LIMIT ?", (limit,))]

    def forget_old(self, now: float) -> None:
        """Forget what was over long ago.

        Raises:
            QueueUnusable: It cannot be written.
        """
        with self._writing():
            self._connection.execute("DELETE FROM delivery WHERE ended < ?", (now - KEPT_S,))
            self._connection.execute("DELETE FROM event WHERE id NOT IN (SELECT event FROM delivery)")

    def _end(self, delivery: Delivery, state: str, problem: str) -> None:
        with self._writing():
            self._connection.execute(
                """UPDATE delivery SET attempts = attempts + 1, state = ?, ended = ?, problem = ?
                WHERE number = ? AND state = 'waiting'""",
                (state, time.time(), problem, delivery.number),
            )

    # -- database ---------------------------------------------------------------------------------------------------

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock:
            try:
                with transaction(self._connection):
                    yield
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _unusable(self, error: OSError | sqlite3.Error) -> QueueUnusable:
        return QueueUnusable(
            self._path, error, is_full=isinstance(error, sqlite3.Error) and sqlite_files.is_full(error)
        )


_DELIVERY: Final = """SELECT number, content, destination, state, attempts, due, ended, problem
    FROM delivery JOIN event ON event.id = delivery.event"""


def _delivery(row: tuple[Any, ...]) -> Delivery:
    number, content, *others = row
    return Delivery(number, Event.loaded(content), *others)
