"""The ledger: states, attempts, output names, and the outbox of metadata lines.

Contract: every method that writes returns when its transaction is durable (SQLite, WAL, ``synchronous=FULL``); calls
of many threads share one transaction and one fsync. An instance has exactly one state. Its outcome, its media and
its metadata line are committed together or not at all. It must never hand one output name to two instances, and
never forget an attempt that was begun.

Life of a row: `begin` (active), then `finish` (exported, skipped, failed, quarantined) or `defer` (deferred) and
`begin` again. A crash leaves rows active; `recover`, called once at start, makes them deferred with their attempts.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import zlib
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from exporter.ledger import rows
from exporter.ledger.commit import GroupCommit, WriterStoppedError
from exporter.ledger.names import OutputNames
from exporter.ledger.schema import LedgerUnusable, connect, stored, unusable
from exporter.ledger.types import FINAL, Arrival, Counts, Ending, Entry, OutboxLine, Relation, Source, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

    from exporter.outcome import Identity, Medium

T = TypeVar("T")

_LINES = "SELECT seq, position, length, crc32, text FROM line WHERE seq > ? ORDER BY seq"
_REMEMBER = "INSERT OR REPLACE INTO progress VALUES (?, ?)"


class Ledger:
    """The open ledger of one data or output folder."""

    def __init__(self, path: Path, *, read_only: bool, busy_timeout_s: float, lock: int | None) -> None:
        """Use `Ledger.open` or `Ledger.open_read_only`."""
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._lock = lock
        self._writer: GroupCommit | None = None
        if not read_only:
            self._writer = GroupCommit(connect(path, read_only=False, busy_timeout_s=busy_timeout_s))
        self._reader = connect(path, read_only=True, busy_timeout_s=busy_timeout_s)
        self._reading = threading.Lock()
        self._names = OutputNames(self._read)
        # Who is under way: (SOP Instance UID, content hash) of instances that no final row shows yet.
        self._flights = threading.Lock()
        self._identities: dict[str, tuple[str, str]] = {}

    @classmethod
    def open(cls, path: Path, *, exclusive: bool = True, busy_timeout_s: float = 10.0) -> Self:
        """The ledger at `path`, made if there is none.

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
        """The ledger at `path` for looking only, also while an exporter runs.

        Raises:
            LedgerUnusable: There is none, or as `open`.
        """
        return cls(path, read_only=True, busy_timeout_s=busy_timeout_s, lock=None)

    def close(self) -> None:
        """Write what is queued and let go of the database and the lock."""
        if self._writer is not None:
            self._writer.close()
        with self._reading:
            self._reader.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- attempts ------------------------------------------------------------------------------------------------

    def begin(self, name: str, *, size_bytes: int, mtime_ns: int, source: Source) -> Entry:
        """Count an attempt, durably, before it is made; see `begin_many`."""
        return self.begin_many([Arrival(name, size_bytes, mtime_ns, source)])[0]

    def begin_many(self, arrivals: Iterable[Arrival]) -> list[Entry]:
        """Count an attempt at each input, durably, before it is made.

        A spool file that already has a final state is left alone and its entry returned as it is: the crash came
        between the outcome and the move in the spool, so only that move is left to do. A folder's file begins anew
        (attempt 1) when it was final or has changed; whether that is wanted, `unchanged` tells before.
        """
        wanted = list(arrivals)
        return self._write(lambda connection: [rows.begin(connection, arrival) for arrival in wanted])

    def recover(self) -> list[Entry]:
        """Make every interrupted attempt deferred (it stays counted) and return their entries; once, at start."""
        return self._write(rows.recover)

    def defer(self, name: str, reason: str, message: str, not_before: float) -> None:
        """End an attempt that may be repeated, not before Unix time `not_before`; its reservations are given up."""
        self._write(lambda connection: rows.defer(connection, name, reason, message, not_before))
        self._land(name)

    def withdraw(self, name: str) -> None:
        """Take back an attempt that says nothing about the instance (a full disk, an orderly stop)."""
        self._write(lambda connection: rows.withdraw(connection, name))
        self._land(name)

    def retry(self, *, name: str | None = None, reason: str | None = None) -> list[str]:
        """Make failed and quarantined instances pending again, with all their attempts; the names that are pending now.

        Give `name` or `reason`. For quarantined spool files the caller then requeues the file; names that an earlier,
        interrupted `retry` made pending are returned again, so that it can be repeated.
        """
        if (name is None) == (reason is None):
            raise ValueError("retry takes a name or a reason")
        return self._write(lambda connection: rows.retry(connection, name=name, reason=reason))

    # -- outcomes ------------------------------------------------------------------------------------------------

    def finish(
        self,
        name: str,
        *,
        state: State,
        reason: str | None = None,
        message: str = "",
        identity: Identity | None = None,
        media: tuple[Medium, ...] | None = None,
        settings_sha256: str | None = None,
        source_sha256: str | None = None,
        duplicate_of: str | None = None,
        conflict: str | None = None,
        line: bytes | None = None,
    ) -> tuple[str, ...]:
        """Commit outcome, media and metadata line of one instance together; see `finish_many`."""
        ending = Ending(
            name,
            state,
            reason,
            message,
            identity,
            media,
            settings_sha256,
            source_sha256,
            duplicate_of,
            conflict,
            line,
        )
        return self.finish_many([ending])

    def finish_many(self, endings: Iterable[Ending]) -> tuple[str, ...]:
        """Commit the outcomes of instances that were begun, all in one transaction.

        Returns:
            Media paths these instances owned before and no longer do: the caller deletes the files, then says
            `forget_superseded`. (`superseded` lists them after a crash.)

        Raises:
            LookupError: An instance was never begun.
            ValueError: Not a final state, not one line, or a media path that another instance owns.
        """
        prepared = [(ending, rows.packed(ending)) for ending in endings]

        def operation(connection: sqlite3.Connection) -> tuple[str, ...]:
            bases = {ending.name: self._names.base_of(ending.name) for ending, _ in prepared}
            return tuple(
                path for ending, line in prepared for path in rows.finish(connection, ending, line, bases[ending.name])
            )

        paths = self._write(operation)
        for ending, _ in prepared:
            self._land(ending.name)
        return paths

    def superseded(self) -> list[str]:
        """Media paths nobody owns any more and whose files are to be deleted."""
        return [row[0] for row in self._read("SELECT path FROM superseded ORDER BY path")]

    def forget_superseded(self, paths: Iterable[str]) -> None:
        """Say that the files at these paths are gone."""
        keys = [(stored(rows.output_key(path)),) for path in paths]
        if keys:
            self._write(
                lambda connection: connection.executemany(
                    "DELETE FROM superseded WHERE path_key = CAST(? AS TEXT)", keys
                )
            )

    # -- questions -----------------------------------------------------------------------------------------------

    def entry(self, name: str) -> Entry | None:
        """The instance of that name."""
        found = self._read(rows.ENTRY + rows.NAMED, (stored(name),))
        return rows.entry_of(found[0]) if found else None

    def entries(self, state: State | None = None, reason: str | None = None) -> Iterator[Entry]:
        """Instances in that state and of that reason, in order of their first attempt; memory stays constant."""
        terms: list[tuple[str, str]] = [("state = ?", state)] if state is not None else []
        terms += [("reason = ?", reason)] if reason is not None else []
        where = "WHERE " + " AND ".join(term for term, _ in terms) if terms else ""
        for row in self._scan(f"{rows.ENTRY} {where} ORDER BY id", tuple(value for _, value in terms)):
            yield rows.entry_of(row)

    def media(self, name: str) -> tuple[Medium, ...]:
        """The media the instance owns, with final paths."""
        found = self._read("SELECT id FROM instance WHERE name = CAST(? AS TEXT)", (stored(name),))
        return tuple(map(rows.medium_of, self._read(rows.MEDIUM, (found[0][0],)))) if found else ()

    def unchanged(self, name: str, size_bytes: int, mtime_ns: int, settings_sha256: str) -> bool:
        """Whether that file, as it is, was finished under these settings (about 10 us)."""
        found = self._read(
            "SELECT size_bytes, mtime_ns, settings_sha256, state FROM instance WHERE name = CAST(? AS TEXT)",
            (stored(name),),
        )
        return bool(found) and found[0][:3] == (size_bytes, mtime_ns, settings_sha256) and found[0][3] in FINAL

    def names_done(self, settings_sha256: str) -> dict[str, tuple[int, int]]:
        """Size and mtime of every input that was finished under these settings: for rerunning a whole folder.

        Holds about 250 bytes per input; `unchanged` holds nothing.
        """
        done = self._scan(
            "SELECT name, size_bytes, mtime_ns FROM instance WHERE settings_sha256 = ? AND state NOT IN ('active', 'deferred')",  # noqa: E501
            (settings_sha256,),
        )
        return {name: (size_bytes, mtime_ns) for name, size_bytes, mtime_ns in done}

    def counts(self) -> Counts:
        """Instances by state and reason."""
        by_state: dict[str, int] = {}
        by_reason: dict[tuple[str, str], int] = {}
        for state, reason, number in self._read("SELECT state, reason, count(*) FROM instance GROUP BY state, reason"):
            by_state[state] = by_state.get(state, 0) + number
            if reason is not None:
                by_reason[state, reason] = number
        flags = self._read(
            "SELECT (SELECT count(*) FROM instance WHERE duplicate_of IS NOT NULL), (SELECT count(*) FROM instance WHERE conflict_with IS NOT NULL)"  # noqa: E501
        )[0]
        return Counts(
            **{state.value: by_state.get(state, 0) for state in State},
            duplicates=flags[0],
            conflicts=flags[1],
            by_reason=by_reason,
        )

    def owns(self, path: str) -> bool:
        """Whether an instance owns the file at that path below the media folder, or a folder around it."""
        key = rows.output_key(path)
        around = (f"{key[:end]}/" for end in range(1, len(key)) if key[end] == "/")
        return any(
            self._read("SELECT 1 FROM medium WHERE path_key = CAST(? AS TEXT)", (stored(one),))
            or self._read("SELECT 1 FROM superseded WHERE path_key = CAST(? AS TEXT)", (stored(one),))
            for one in (key, *around)
        )

    def line(self, seq: int) -> bytes | None:
        """The metadata line of that number."""
        found = self._read("SELECT text FROM line WHERE seq = ?", (seq,))
        return zlib.decompress(found[0][0]) if found else None

    def problem(self) -> str | None:
        """What SQLite complains of when it checks every page of the database; None where it is sound."""
        found = self._read("PRAGMA integrity_check(1)")[0][0]
        return None if found == "ok" else str(found)

    # -- identities ----------------------------------------------------------------------------------------------

    def identify(self, name: str, identity: Identity) -> Relation:
        """How the instance under way relates to those finished or under way; from now on it is known to others.

        Of two equal instances under way at once, the second to ask is the duplicate. The first may still fail: its
        bytes are kept, so nothing is lost.
        """
        with self._flights:
            relation = self._related(identity, name)
            self._identities[name] = (identity.sop_instance_uid, identity.content_sha256)
        return relation

    def duplicate_of(self, identity: Identity, *, name: str = "") -> Entry | None:
        """The finished instance with the same SOP Instance UID and content, other than `name`."""
        found = self._finished_relation(identity, name).duplicate_of
        return self.entry(found) if found is not None else None

    def conflict_with(self, identity: Identity, *, name: str = "") -> Entry | None:
        """A finished instance with the same SOP Instance UID and other content, other than `name`."""
        found = self._finished_relation(identity, name).conflict_with
        return self.entry(found) if found is not None else None

    def _finished_relation(self, identity: Identity, name: str) -> Relation:
        # A row that is a duplicate itself is no original: two copies must not point at each other.
        duplicate = conflict = None
        for other, content in self._read(
            """SELECT name, content_sha256 FROM instance WHERE sop_instance_uid = ? AND duplicate_of IS NULL
            AND state IN ('exported', 'skipped', 'quarantined', 'failed') ORDER BY id""",
            (identity.sop_instance_uid,),
        ):
            if other == name:
                continue
            if content == identity.content_sha256:
                duplicate = duplicate or other
            elif identity.sop_instance_uid:
                conflict = conflict or other
        return Relation(duplicate, conflict)

    def _related(self, identity: Identity, name: str) -> Relation:
        finished = self._finished_relation(identity, name)
        duplicate, conflict = finished.duplicate_of, finished.conflict_with
        for other, (uid, content) in self._identities.items():
            if other == name or uid != identity.sop_instance_uid:
                continue
            if content == identity.content_sha256:
                duplicate = duplicate or other
            elif uid:
                conflict = conflict or other
        return Relation(duplicate, conflict)

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

        The base is `wanted` or the first of `alternatives` (default: ``<wanted>-2``, ``-3``, ...) of which all hold:
        no other instance has that base; no base + suffix is an output of another instance, lies inside another's
        folder of frames or has another's outputs inside it; and not ``taken(base + suffix)`` unless it is its own.
        It belongs to the instance with `finish`; `defer` gives it up.

        Raises:
            LookupError: No alternative is left.
        """
        return self._names.reserve(wanted, name, suffixes, alternatives, taken)

    def _land(self, name: str) -> None:
        with self._flights:
            self._identities.pop(name, None)
        self._names.release(name)

    # -- outbox --------------------------------------------------------------------------------------------------

    def outbox(self, after_seq: int, limit: int = 1000, max_bytes: int = 4 << 20) -> list[OutboxLine]:
        """The next committed metadata lines after `after_seq`, in order: at least one, if there is one.

        Up to `limit` lines and about `max_bytes` of text.
        """
        lines: list[OutboxLine] = []
        size = 0
        try:
            with self._reading, closing(self._reader.cursor()) as cursor:
                for row in cursor.execute(f"{_LINES} LIMIT ?", (after_seq, limit)):
                    lines.append(OutboxLine(row[0], row[1], row[2], row[3], zlib.decompress(row[4])))
                    size += row[2]
                    if size >= max_bytes:
                        break
        except sqlite3.Error as error:
            raise unusable(self.path, error) from error
        return lines

    def line_places(self, after_seq: int = 0) -> Iterator[tuple[int, int, int]]:
        """(seq, length, crc32) of every metadata line after `after_seq`, without their text."""
        for row in self._scan("SELECT seq, length, crc32 FROM line WHERE seq > ? ORDER BY seq", (after_seq,)):
            yield row[0], row[1], row[2]

    def line_end(self, seq: int) -> int:
        """Sum of the lengths of all lines up to `seq`, in bytes."""
        found = self._read("SELECT position + length FROM line WHERE seq = ?", (seq,))
        return int(found[0][0]) if found else 0

    def progress(self) -> dict[str, int]:
        """What `mark_published` or `set_file` remembered last."""
        return dict(self._read("SELECT key, value FROM progress"))

    def mark_published(self, seq: int, facts: Mapping[str, int]) -> None:
        """Remember that all lines up to `seq` are durable in the file, and `facts` about the file.

        Not waited for: after a crash the file itself tells what is in it.
        """
        values = [("published_seq", seq), *facts.items()]
        self._write_later(lambda connection: connection.executemany(_REMEMBER, values))

    def foreign_bytes(self) -> list[tuple[int, int, int]]:
        """(seq, length, crc32): whole lines in the file that are not ours and lie before line `seq`, in order."""
        found = self._read("SELECT before_seq, length, crc32 FROM foreign_bytes ORDER BY id")
        return [(row[0], row[1], row[2]) for row in found]

    def set_file(self, seq: int, facts: Mapping[str, int], foreign: Iterable[tuple[int, int, int]]) -> None:
        """Remember which file it is, how far it goes and what `foreign_bytes` tells, durably."""
        values = [("published_seq", seq), *facts.items()]
        places = list(foreign)

        def operation(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM foreign_bytes")
            connection.executemany("INSERT INTO foreign_bytes (before_seq, length, crc32) VALUES (?, ?, ?)", places)
            connection.executemany(_REMEMBER, values)

        self._write(operation)

    # -- the database --------------------------------------------------------------------------------------------

    def _write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        if self._writer is None:
            raise LedgerUnusable(self.path, "it was opened for reading only", "report this as a defect")
        try:
            return self._writer.run(operation)
        except sqlite3.Error as error:
            raise unusable(self.path, error) from error
        except WriterStoppedError as error:
            raise LedgerUnusable(self.path, str(error), "see the log for the cause") from error

    def _write_later(self, operation: Callable[[sqlite3.Connection], object]) -> None:
        if self._writer is None:
            raise LedgerUnusable(self.path, "it was opened for reading only", "report this as a defect")
        try:
            self._writer.run_later(operation)
        except WriterStoppedError as error:
            raise LedgerUnusable(self.path, str(error), "see the log for the cause") from error

    def _read(self, statement: str, values: tuple[object, ...] = ()) -> list[rows.Row]:
        try:
            with self._reading:
                return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise unusable(self.path, error) from error

    def _scan(self, statement: str, values: tuple[object, ...] = ()) -> Iterator[rows.Row]:
        # Its own connection: a caller that walks a million rows slowly must not hold up the others.
        with closing(connect(self.path, read_only=True, busy_timeout_s=self._busy_timeout_s)) as connection:
            try:
                yield from connection.execute(statement, values)
            except sqlite3.Error as error:
                raise unusable(self.path, error) from error


def _take_lock(path: Path) -> int:
    lock = Path(f"{path}.lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        hint = "check that the folder exists and who may write in it"
        raise LedgerUnusable(path, f"its lock cannot be opened ({error.strerror})", hint) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        hint = "wait for it to end, or choose another folder"
        raise LedgerUnusable(path, "another exporter is working with it", hint) from error
    return descriptor
