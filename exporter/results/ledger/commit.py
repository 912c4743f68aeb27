"""One writing thread for an SQLite database: operations that arrive together share one transaction and one fsync.

Contract: `run` returns when the operation's transaction is durable, or raises. An operation that fails is rolled back
alone (savepoint); its neighbours in the transaction are unaffected. When the transaction itself cannot be committed
(disk full, device error), every operation in it is rolled back and every caller gets the error. It must never
acknowledge an operation before COMMIT has returned, and never leave a caller waiting when the thread ends.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from listener.foundation.sqlite_files import is_full

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_WHOLE_TRANSACTION = frozenset(
    (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_INTERRUPT,
    )
)
"""Primary result codes after which nothing of the transaction can be trusted (sqlite.org/rescode.html)."""


class WriterStoppedError(RuntimeError):
    """The writing thread has ended; nothing was written for this caller."""


@dataclass(slots=True)
class _Ticket(Generic[T]):
    operation: Callable[[sqlite3.Connection], T]
    settled: threading.Event = field(default_factory=threading.Event)
    results: list[T] = field(default_factory=list)
    error: BaseException | None = None
    is_alone: bool = False
    """Whether the operation runs between two transactions."""

    def settle(self, error: BaseException | None = None) -> None:
        self.error = error
        self.settled.set()


class SharedTransaction:
    """The connection that writes, and the thread that owns it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Start the thread; `connection` must be in autocommit mode (``isolation_level=None``) and is closed by it."""
        self._connection = connection
        self._arrived = threading.Condition()
        self._queue: list[_Ticket[object]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="ledger-writer", daemon=True)
        self._thread.start()

    def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Result of `operation`, once it is durable.

        Raises:
            sqlite3.Error, ValueError, LookupError: What the operation raised, or what its transaction died of.
            WriterStoppedError: After `close`.
        """
        ticket = _Ticket(operation)
        self._enqueue(ticket)
        ticket.settled.wait()
        if ticket.error is not None:
            raise ticket.error
        return ticket.results[0]

    def run_later(self, operation: Callable[[sqlite3.Connection], object]) -> None:
        """Run `operation` with the next transaction, without waiting: only for what can be found out again."""
        self._enqueue(_Ticket(operation))

    def checkpoint(self) -> bool:
        """Move the log into the database; True where all of it was moved."""
        ticket = _Ticket(_checkpoint, is_alone=True)
        try:
            self._enqueue(ticket)
        except WriterStoppedError:
            return False
        ticket.settled.wait()
        return ticket.error is None and ticket.results[0]

    def close(self) -> None:
        """Write what is queued, end the thread, close the connection."""
        with self._arrived:
            self._closing = True
            self._arrived.notify()
        self._thread.join()

    def _enqueue(self, ticket: _Ticket[T]) -> None:
        with self._arrived:
            if self._closing:
                raise WriterStoppedError("the ledger is closed")
            self._queue.append(ticket)  # type: ignore[arg-type]  # invariant T: the thread never looks at the result
            self._arrived.notify()

    def _serve(self) -> None:
        batch: list[_Ticket[object]] = []
        try:
            while True:
                with self._arrived:
                    while not self._queue and not self._closing:
                        self._arrived.wait()
                    batch, self._queue = self._queue, []
                if not batch:
                    return
                self._commit([ticket for ticket in batch if not ticket.is_alone])
                for ticket in batch:
                    if ticket.is_alone:
                        self._run_alone(ticket)
        finally:  # reached early only by a defect: every caller gets the error, later ones too
            with self._arrived:
                self._closing = True
                abandoned, self._queue = [*batch, *self._queue], []
            for ticket in abandoned:
                if not ticket.settled.is_set():
                    ticket.settle(WriterStoppedError("the ledger's writer stopped unexpectedly"))
            self._connection.close()

    def _run_alone(self, ticket: _Ticket[object]) -> None:
        error: sqlite3.Error | None = None
        try:
            ticket.results.append(ticket.operation(self._connection))
        except sqlite3.Error as failure:
            error = failure
        ticket.settle(error)

    def _commit(self, batch: list[_Ticket[object]]) -> None:
        if not batch:
            return
        error = self._transact(batch)
        if error is not None and is_full(error) and self._shrink():
            for ticket in batch:
                ticket.results.clear()
            error = self._transact(batch)
        for ticket in batch:
            if not ticket.settled.is_set():
                ticket.settle(error)

    def _transact(self, batch: list[_Ticket[object]]) -> sqlite3.Error | None:
        """Run the batch as one transaction; operations that failed alone get their error.

        Returns:
            The error that ended the transaction, if any.
        """
        failed: list[tuple[_Ticket[object], BaseException]] = []
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for ticket in batch:
                error = self._attempt(ticket)
                if error is not None:
                    failed.append((ticket, error))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return error
        for ticket, reason in failed:
            ticket.settle(reason)
        return None

    def _shrink(self) -> bool:
        """Move the log into the database and cut it.

        Returns:
            Whether that was possible.

        A log that has grown while the disk filled up cannot grow further, and SQLite moves it only after a commit: it
        would stay in its own way for good, though the database itself has room for what is in it.
        """
        try:
            busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error:
            return False
        return not busy

    def _attempt(self, ticket: _Ticket[object]) -> BaseException | None:
        """Run one operation in its own savepoint; its error, if that concerns it alone."""
        connection = self._connection
        connection.execute("SAVEPOINT one")
        try:
            ticket.results.append(ticket.operation(connection))
        except (sqlite3.Error, ValueError, LookupError) as error:
            code = getattr(error, "sqlite_errorcode", None)
            if not connection.in_transaction or (code is not None and (code & 0xFF) in _WHOLE_TRANSACTION):
                raise
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
            return error
        connection.execute("RELEASE one")
        return None


def _checkpoint(connection: sqlite3.Connection) -> bool:
    busy, in_log, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return not busy and in_log == moved
