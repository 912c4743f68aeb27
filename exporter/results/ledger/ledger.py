"""The ledger: states, attempts, output names, and the outbox of metadata lines.

Contract: every method that writes returns when its transaction is durable (SQLite, WAL, ``synchronous=FULL``); calls
of many threads share one transaction and one fsync. An instance has exactly one state. Its outcome, its media and
its metadata line are committed together or not at all. It must never hand one output name to two instances, and
never forget an attempt that was begun.

Life of a row: `begin` (active), then `finish` (exported, skipped, failed, quarantined) or `defer` (deferred) and
`begin` again. A crash leaves rows active; `recover`, called once at start, makes them deferred, as interrupted.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Self, TypeVar

from exporter.errors import OutOfSpace, SkipReason
from exporter.results.ledger import rejections, transitions
from exporter.results.ledger.commit import SharedTransaction, WriterStoppedError
from exporter.results.ledger.output_names import OutputNames
from exporter.results.ledger.reader import LedgerReader
from exporter.results.ledger.relations import UNNUMBERED, IdentifiedInstance, relate
from exporter.results.ledger.schema import LedgerUnusable, connect, stored, unusable
from exporter.results.ledger.types import DuplicateCheck, InstanceRow
from listener.foundation import locks
from listener.foundation.sqlite_files import DatabaseFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from exporter.outcome import InstanceIdentity, RejectionNote
    from exporter.results.ledger.types import Completed, InstanceRejection, SettledRejection, WorkItem

T = TypeVar("T")

_MARK = "mark"
_REMEMBER = "INSERT OR REPLACE INTO progress VALUES (?, ?)"


class Ledger(LedgerReader):
    """The open ledger of one data or output folder."""

    def __init__(self, path: Path, *, read_only: bool, busy_timeout_s: float, lock: int | None) -> None:
        """Use `Ledger.open` or `Ledger.open_read_only`."""
        self._lock = lock
        self.when_full: Callable[[], bool] = _nothing_to_give
        """Makes room on a full disk for what ends an attempt, and says whether it could; nothing does by default."""
        self._writer: SharedTransaction | None = None
        if not read_only:
            self._writer = SharedTransaction(connect(path, read_only=False, busy_timeout_s=busy_timeout_s))
        try:
            super().__init__(path, busy_timeout_s)
        except BaseException:
            if self._writer is not None:
                self._writer.close()
            raise
        self._files = DatabaseFiles(path)
        self._names = OutputNames(self._read)
        # Who is under way: instances whose identity and relations no row shows yet.
        self._flights = threading.Lock()
        self._decided: dict[str, IdentifiedInstance | None] = {}
        self.has_rejections = bool(self._read("SELECT 1 FROM rejection LIMIT 1"))
        """Whether any rejection note has come: what most ledgers never have costs their instances nothing."""
        self._numbers = count(int(self._read("SELECT coalesce(max(id), 0) + 1 FROM instance")[0][0]))

    @classmethod
    def open(cls, path: Path, *, exclusive: bool = True, busy_timeout_s: float = 10.0) -> Self:
        """The ledger at `path`, made if absent.

        Args:
            path: The database file.
            exclusive: Whether this process is the one that exports; False for a command beside a running exporter.
            busy_timeout_s: How long to wait for another process's transaction.

        Raises:
            LedgerUnusable: Corrupt, locked, newer schema, not a ledger, not permitted, or another exporter has it.
            OutOfSpace: The disk is full.
        """
        lock = _take_lock(path) if exclusive else None
        try:
            return cls(path, read_only=False, busy_timeout_s=busy_timeout_s, lock=lock)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise

    @classmethod
    def open_read_only(cls, path: Path, *, busy_timeout_s: float = 10.0) -> Self:
        """The ledger at `path`, read-only, also while an exporter runs.

        Raises:
            LedgerUnusable: The ledger is missing, or as `open`.
        """
        return cls(path, read_only=True, busy_timeout_s=busy_timeout_s, lock=None)

    @staticmethod
    @contextmanager
    def locked(path: Path) -> Iterator[None]:
        """Keep exporters from the ledger at `path`.

        Raises:
            LedgerUnusable: One is working with it.
        """
        lock = _take_lock(path)
        try:
            yield
        finally:
            os.close(lock)

    def close(self) -> None:
        """Write what is queued and let go of the database and the lock."""
        with self._reading:
            self._reader.close()  # first: the last connection moves the log into the database, if it may write
        if self._writer is not None:
            if self._files.loss() is not None:
                self._save()  # SQLite would not, while somebody else looks at what is left
            self._writer.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def check(self) -> None:
        """Make sure that the files of the ledger are those that are open: database, log, its index, and the lock.

        What a removed log held is moved into the database first, where that is possible.

        Raises:
            LedgerUnusable: One was removed or replaced: what is written goes where nobody will find it.
        """
        loss = self._files.loss()
        if loss is not None:
            hint = "put it back, or run `exporter reconcile --rebuild`"
            if self._save():
                loss = f"{loss}; what was in it is saved in the database"
                hint = "start again; never remove exporter.db-wal or exporter.db-shm, SQLite does that itself"
            raise LedgerUnusable(self.path, loss, hint)
        if self._lock is not None and not locks.is_in_place(self.path, self._lock):
            raise LedgerUnusable(self.path, "its lock file was removed: another exporter could start", "start again")

    def _save(self) -> bool:
        """Move the open log into the database; True where all of it was moved."""
        return self._writer is not None and self._files.can_be_saved and self._writer.checkpoint()

    @property
    def mark(self) -> str:
        """Sixteen hexadecimal digits that tell this ledger from every other; made at random when first asked for."""
        found = self.progress().get(_MARK)
        if found is None:
            number = secrets.randbits(63)
            self._write(
                lambda connection: connection.execute("INSERT OR IGNORE INTO progress VALUES (?, ?)", (_MARK, number))
            )
            found = self.progress()[_MARK]
        return f"{found:016x}"

    def remember(self, facts: Mapping[str, int]) -> None:
        """Keep numbers about the output, durably; `progress` gives them back."""
        values = [*facts.items()]
        self._write(lambda connection: connection.executemany(_REMEMBER, values))

    # -- attempts ------------------------------------------------------------------------------------------------

    def begin_attempt(self, work: WorkItem, number: int | None = None) -> InstanceRow:
        """Count an attempt, durably, before it is made; see `begin_many`."""
        return self.begin_many([work], None if number is None else [number])[0]

    def begin_many(self, works: Iterable[WorkItem], numbers: Iterable[int] | None = None) -> list[InstanceRow]:
        """Count an attempt at each input, durably, before it is made.

        `numbers`, from `reserve_number`, are those of the rows that are new; by default they get the next ones.

        A spool file that already has a final state is left alone and its entry returned as it is: the crash came
        between the outcome and the move in the spool, so only that move is left to do. A folder's file begins anew
        (attempt 1) when it was final or has changed; `unchanged` says before whether that is wanted.
        """
        wanted = list(zip(works, self._numbers if numbers is None else numbers, strict=False))
        return self._write(lambda connection: [transitions.begin_attempt(connection, *one) for one in wanted])

    def reserve_number(self) -> int:
        """Number for the row of the next instance: rows are numbered in the order in which instances came."""
        return next(self._numbers)

    def recover(self) -> list[InstanceRow]:
        """Make every attempt that an earlier exporter did not end deferred and return their entries; once, at start.

        Such an attempt is counted as an interruption, no longer as an attempt: that an exporter ended says nothing
        about the instances that were under way.
        """
        return self._write(transitions.recover, must=True)

    def interrupt(self, name: str, message: str) -> int:
        """End an attempt that something outside the instance ended.

        Returns:
            Number of interruptions of this instance since an attempt last ended by itself.
        """
        decided = self._decision(name)
        interruptions = self._write(
            lambda connection: transitions.interrupt(connection, name, message, decided), must=True
        )
        self._land(name)
        return interruptions

    def defer(self, name: str, reason: str, message: str, not_before: float) -> None:
        """End an attempt that may be repeated, not before Unix time `not_before`; its reservations are given up."""
        decided = self._decision(name)
        self._write(
            lambda connection: transitions.defer(connection, name, reason, message, not_before, decided=decided),
            must=True,
        )
        self._land(name)

    def withdraw(self, name: str) -> None:
        """Take back an attempt that says nothing about the instance (a full disk, an orderly stop)."""
        decided = self._decision(name)
        self._write(lambda connection: transitions.withdraw(connection, name, decided), must=True)
        self._land(name)

    def retry(self, *, name: str | None = None, reason: str | None = None) -> list[str]:
        """Make failed and quarantined instances pending again, with all their attempts; the names that are pending now.

        Give `name` or `reason`. For quarantined spool files the caller then requeues the file; names that an earlier,
        interrupted `retry` made pending are returned again, so that it can be repeated.
        """
        if (name is None) == (reason is None):
            raise ValueError("retry takes a name or a reason")
        return self._write(lambda connection: transitions.retry(connection, name=name, reason=reason))

    # -- outcomes ------------------------------------------------------------------------------------------------

    def finish_many(self, completed: Iterable[Completed]) -> tuple[str, ...]:
        """Commit outcomes, media and metadata lines of instances that were begun, all in one transaction.

        Returns:
            Media paths these instances owned before and no longer do: the caller deletes the files, then says
            `forget_superseded`. (`superseded` lists them after a crash.)

        Raises:
            LookupError: An instance was never begun.
            ValueError: Not one line, or a media path that another instance owns.
        """
        prepared = [(one, transitions.packed(one.line)) for one in completed]

        def operation(connection: sqlite3.Connection) -> tuple[str, ...]:
            bases = {one.work.name: self._names.base_of(one.work.name) for one, _ in prepared}
            return tuple(
                path
                for one, line in prepared
                for path in transitions.finish(connection, one, line, bases[one.work.name])
            )

        paths = self._write(operation, must=True)
        for one, _ in prepared:
            self._land(one.work.name)
        return paths

    def revoke_many(
        self, revoked: Iterable[tuple[str, str, bytes]], reason: SkipReason = SkipReason.EXCLUDED
    ) -> tuple[str, ...]:
        """Make exported instances skipped, without media, with a line that says so; see `finish_many`.

        Their identity is forgotten, so that the same instance, if it is permitted later, is no duplicate.

        Args:
            revoked: Name of each instance, message, and metadata line.
            reason: Why they are skipped from now on.

        Returns:
            Media paths that the instances owned.

        Raises:
            LookupError: The ledger has no such instance.
        """
        prepared = [(name, message, transitions.packed(line)) for name, message, line in revoked]
        return self._write(
            lambda connection: tuple(path for one in prepared for path in transitions.revoke(connection, reason, *one)),
            must=True,
        )

    # -- rejections ----------------------------------------------------------------------------------------------

    def record_rejections(self, note: str, said: RejectionNote) -> None:
        """Remember, durably, what a rejection note says; the same note once more changes nothing."""
        self._write(lambda connection: rejections.record(connection, note, said), must=True)
        self.has_rejections = True

    def carry_out_rejections(
        self,
        withdrawn: Iterable[tuple[str, str, bytes]],
        flagged: Iterable[tuple[str, bytes]],
        settled: Mapping[SettledRejection, Iterable[InstanceRejection]],
    ) -> tuple[str, ...]:
        """Withdraw and flag instances in one transaction.

        Args:
            withdrawn: As `revoke_many` takes them.
            flagged: Name of each instance that stays exported, and its metadata line from now on.
            settled: Rejections by how far they are carried out with this.

        Returns:
            Media paths that the withdrawn instances owned.
        """
        revoked = [(name, message, transitions.packed(line)) for name, message, line in withdrawn]
        revised = [(name, transitions.packed(line)) for name, line in flagged]

        def operation(connection: sqlite3.Connection) -> tuple[str, ...]:
            for name, text in revised:
                if text is not None:
                    transitions.revise(connection, name, text)
            for reached, done in settled.items():
                rejections.settle(connection, done, reached)
            return tuple(path for one in revoked for path in transitions.revoke(connection, SkipReason.REJECTED, *one))

        return self._write(operation, must=True)

    def look_again(self, reasons: Iterable[str]) -> None:
        """Forget for which settings instances with these reasons were finished, so that a backfill reads them again."""
        values = [(str(reason),) for reason in reasons]
        self._write(
            lambda connection: connection.executemany(
                "UPDATE instance SET settings_sha256 = NULL WHERE state IN ('skipped', 'failed') AND reason = ?", values
            )
        )

    def forget_superseded(self, paths: Iterable[str]) -> None:
        """Say that the files at these paths are gone."""
        keys = [(stored(transitions.output_key(path)),) for path in paths]
        if keys:
            self._write(
                lambda connection: connection.executemany(
                    "DELETE FROM superseded WHERE path_key = CAST(? AS TEXT)", keys
                )
            )

    # -- identities ----------------------------------------------------------------------------------------------

    def identify(self, name: str, identity: InstanceIdentity | None, ae_title: str = "") -> DuplicateCheck:
        """The relation of an instance to the others; from now on its identity counts for them.

        Called in the order of the instances, whatever the order in which they are finished: a relation depends on
        that order alone. An instance that failed before its identity was known has no relation (`identity` is None),
        whatever an earlier attempt knew.

        A duplicate is one within the AE title whose settings count: for another's, the same instance is exported
        anew. Other content under the same SOP Instance UID is a conflict wherever it came.

        The instance that another is a duplicate of may still fail: its bytes are kept, so nothing is lost.
        """
        with self._flights:
            if identity is None:
                self._decided[name] = None
                return DuplicateCheck()
            numbered = self._read("SELECT id FROM instance WHERE name = CAST(? AS TEXT)", (stored(name),))
            number = numbered[0][0] if numbered else UNNUMBERED
            finished = self._others(identity, number, ae_title, enough=len(self._decided) + 2)
            others = [other for other in finished if other.name not in self._decided]
            others += [
                other
                for other in self._decided.values()
                if other is not None and other.identity.sop_instance_uid == identity.sop_instance_uid
            ]
            relation = relate(identity, name, number, ae_title, others)
            self._decided[name] = IdentifiedInstance(name, number, identity, ae_title, relation)
        return relation

    def _decision(self, name: str) -> tuple[InstanceIdentity, DuplicateCheck] | None:
        with self._flights:
            known = self._decided.get(name)
        return None if known is None else (known.identity, known.relation)

    # -- output names --------------------------------------------------------------------------------------------

    def reserve_base(
        self,
        wanted: str,
        name: str,
        *,
        suffixes: Iterable[str] = (),
        alternatives: Iterable[str] | None = None,
        taken: Callable[[str], bool] | None = None,
    ) -> str:
        """An output base for the instance, such that no output name is shared, whatever the case of the file system.

        The base is `wanted` or the first of `alternatives` (default: ``<wanted>-2``, ..., ``~2/<wanted>``, ...) of
        which all hold: no other instance has that base; no base + suffix is an output of another instance, lies
        inside another's folder of frames or has another's outputs inside it; and not ``taken(base + suffix)``, unless
        it is its own.
        It belongs to the instance with `finish`; `defer` gives it up.

        Raises:
            LookupError: No alternative is left.
        """
        return self._names.reserve(wanted, name, suffixes, alternatives, taken)

    def _land(self, name: str) -> None:
        with self._flights:
            self._decided.pop(name, None)
        self._names.release(name)

    # -- outbox --------------------------------------------------------------------------------------------------

    def mark_published(self, seq: int, facts: Mapping[str, int]) -> None:
        """Remember that all lines up to `seq` are durable in the file, and `facts` about the file.

        Not waited for: after a crash the file itself tells what is in it.
        """
        values = [("published_seq", seq), *facts.items()]
        self._write_later(lambda connection: connection.executemany(_REMEMBER, values))

    def set_file(self, seq: int, facts: Mapping[str, int], foreign: Iterable[tuple[int, int, int]]) -> None:
        """Remember which file it is, how far it goes and what `foreign_bytes` tells, durably."""
        values = [("published_seq", seq), *facts.items()]
        places = list(foreign)

        def operation(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM foreign_bytes")
            connection.executemany("INSERT INTO foreign_bytes (before_seq, length, crc32) VALUES (?, ?, ?)", places)
            connection.executemany(_REMEMBER, values)

        self._write(operation)

    def wait(self) -> None:
        """Return when everything that was not waited for before is durable too."""
        self._write(lambda _: None)

    # -- the database --------------------------------------------------------------------------------------------

    def _write(self, operation: Callable[[sqlite3.Connection], T], *, must: bool = False) -> T:
        """Run an operation in a transaction; one that `must` be written may use what `when_full` gives up."""
        if self._writer is None:
            raise LedgerUnusable(self.path, "it was opened for reading only", "report this as a defect")
        try:
            return self._writer.run(operation)
        except sqlite3.Error as error:
            verdict = unusable(self.path, error)
            if must and isinstance(verdict, OutOfSpace) and self.when_full():
                return self._write(operation)  # all of it was rolled back
            raise verdict from error
        except WriterStoppedError as error:
            raise LedgerUnusable(self.path, str(error), "see the log for the cause") from error

    def _write_later(self, operation: Callable[[sqlite3.Connection], object]) -> None:
        if self._writer is None:
            raise LedgerUnusable(self.path, "it was opened for reading only", "report this as a defect")
        try:
            self._writer.run_later(operation)
        except WriterStoppedError as error:
            raise LedgerUnusable(self.path, str(error), "see the log for the cause") from error


def _nothing_to_give() -> bool:
    return False


def _take_lock(path: Path) -> int:
    busy = ("another exporter is working with it", "wait for it to end, or choose another folder")
    return locks.lock(path, busy, partial(LedgerUnusable, path))
