"""Durable journal of a pull: targets of rows, complete targets, missing instances.

Contract: every method that writes returns once it is durable (SQLite, WAL, ``synchronous=FULL``), so that a pull
that is killed at any instant goes on where it stopped: what is noted as complete is never asked for again, and what
is not noted is asked for once more. A question is known by its content and the peer it goes to, not by the row it
stands in: a corrected cohort asks only what is new in it.

The file holds UIDs, no other identifier of a patient, and is private to the user (0600).
"""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from exporter.pull.finding import FoundInstance, PullTarget
from listener.foundation.errors import Unusable
from listener.foundation.sqlite_files import DatabaseFiles, Schema, cause_and_hint, open_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import TracebackType

_TABLES: Final = """
CREATE TABLE run (cohort TEXT PRIMARY KEY, is_over INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE question (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    problem TEXT NOT NULL,
    left_out INTEGER NOT NULL,
    asked REAL NOT NULL
);
CREATE TABLE target (
    id INTEGER PRIMARY KEY,
    study TEXT NOT NULL,
    series TEXT NOT NULL,
    instances TEXT NOT NULL,
    peer TEXT NOT NULL,
    state TEXT NOT NULL,
    problem TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    expected INTEGER,
    missing INTEGER NOT NULL,
    since INTEGER NOT NULL,
    UNIQUE (peer, study, series, instances)
);
CREATE INDEX target_state ON target (state) WHERE state = 'waiting';
CREATE TABLE answer (
    question_id INTEGER NOT NULL REFERENCES question (id),
    target_id INTEGER NOT NULL REFERENCES target (id),
    PRIMARY KEY (question_id, target_id)
) WITHOUT ROWID;
CREATE INDEX answer_target ON answer (target_id);
CREATE TABLE missing (
    target_id INTEGER NOT NULL REFERENCES target (id),
    instance TEXT NOT NULL,
    series TEXT NOT NULL,
    PRIMARY KEY (target_id, instance)
) WITHOUT ROWID;
CREATE TABLE arrival (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, instance TEXT NOT NULL);
CREATE INDEX arrival_instance ON arrival (instance);
"""
_SCHEMA: Final = Schema("a journal of `exporter pull`", _TABLES, version=1, application=0x444D4550)
"""``DMEP`` marks a journal."""
_IF_DAMAGED: Final = "move it away; what is in the spool is not fetched again"


class JournalUnusable(Unusable):
    """The journal cannot be read or written."""

    def __init__(self, path: Path, cause: str, hint: str) -> None:
        super().__init__(f"the journal {path} cannot be used", cause, hint)


class QuestionState(StrEnum):
    """State of a question."""

    FOUND = "found"
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    """The peer did not answer it, or answered too much."""


class TargetState(StrEnum):
    """State of a target."""

    WAITING = "waiting"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """Asked for as often as it may be, and not all of it is here."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row as it was asked."""

    state: QuestionState
    problem: str
    left_out: int


@dataclass(frozen=True, slots=True)
class RetrieveTask:
    """One target as it stands."""

    id: int
    target: PullTarget
    state: TargetState
    problem: str
    attempts: int
    """Requests that were begun."""
    expected: int | None
    """Instances that it consists of."""
    missing: int
    """Missing instances among them."""
    since: int
    """The newest arrival when it was begun."""


class PullJournal:
    """The open journal of one data folder; safe for many threads."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        """Use `PullJournal.open`."""
        self._path = path
        self._lock = threading.RLock()
        self._db = db
        self._files = DatabaseFiles(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The journal at `path`, made if absent.

        Raises:
            JournalUnusable: It cannot be used, or it is not one.
        """
        try:
            return cls(path, open_private(path, _SCHEMA, synchronous="FULL", timeout_s=10.0))
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, error) from error

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- runs --------------------------------------------------------------------------------------------------------

    def begin_run(self, cohort: str, digests: Sequence[str], *, again: bool = False) -> bool:
        """Begin a run over questions; True where it goes on with one that was not finished.

        A new run asks once more what an earlier one did not find or did not get; with `again` everything.
        """
        with self._write():
            found = self._db.execute("SELECT is_over FROM run WHERE cohort = ?", (cohort,)).fetchone()
            goes_on = found is not None and not found[0] and not again
            if not goes_on:
                for digest in digests:
                    self._forget(digest, everything=again)
            self._db.execute("INSERT OR REPLACE INTO run VALUES (?, 0)", (cohort,))
        return goes_on

    def end_run(self, cohort: str) -> None:
        """The run came to its end: each of its questions has an answer, and no target waits."""
        with self._write():
            self._db.execute("UPDATE run SET is_over = 1 WHERE cohort = ?", (cohort,))

    def _forget(self, digest: str, *, everything: bool) -> None:
        found = self._db.execute("SELECT id, state FROM question WHERE digest = ?", (digest,)).fetchone()
        if found is None:
            return
        question, state = found
        states = (*TargetState,) if everything else (TargetState.INCOMPLETE,)
        for (target,) in self._db.execute(
            f"""SELECT id FROM target JOIN answer ON target_id = id WHERE question_id = ?
            AND state IN ({",".join("?" * len(states))})""",  # noqa: S608 - only question marks are put in
            (question, *states),
        ).fetchall():
            self._db.execute(
                """UPDATE target SET state = 'waiting', problem = '', attempts = 0, expected = NULL, missing = 0,
                since = -1 WHERE id = ?""",
                (target,),
            )
            self._db.execute("DELETE FROM missing WHERE target_id = ?", (target,))
        if everything or state != QuestionState.FOUND:
            self._db.execute("DELETE FROM answer WHERE question_id = ?", (question,))
            self._db.execute("DELETE FROM question WHERE id = ?", (question,))

    # -- questions ---------------------------------------------------------------------------------------------------

    def question(self, digest: str) -> Question | None:
        """State of a question; None where it was not asked."""
        found = self._rows("SELECT state, problem, left_out FROM question WHERE digest = ?", (digest,))
        return Question(QuestionState(found[0][0]), found[0][1], found[0][2]) if found else None

    def record_answer(self, digest: str, question: Question, peer: str, targets: Iterable[PullTarget]) -> None:
        """A question was answered: its state and its targets, together."""
        with self._write():
            self._db.execute(
                "INSERT OR REPLACE INTO question (digest, state, problem, left_out, asked) VALUES (?, ?, ?, ?, ?)",
                (digest, question.state, question.problem, question.left_out, time.time()),
            )
            number = self._db.execute("SELECT id FROM question WHERE digest = ?", (digest,)).fetchone()[0]
            for target in targets:
                place = (peer, target.study, target.series, "\\".join(target.instances))
                self._db.execute(
                    """INSERT OR IGNORE INTO target
                    (peer, study, series, instances, state, problem, attempts, missing, since)
                    VALUES (?, ?, ?, ?, 'waiting', '', 0, 0, -1)""",
                    place,
                )
                self._db.execute(
                    """INSERT OR IGNORE INTO answer SELECT ?, id FROM target
                    WHERE peer = ? AND study = ? AND series = ? AND instances = ?""",
                    (number, *place),
                )

    # -- targets -----------------------------------------------------------------------------------------------------

    def tasks(self, digest: str) -> list[RetrieveTask]:
        """The targets of a question, in the order they were found."""
        return self._tasks(
            """JOIN answer ON answer.target_id = target.id JOIN question ON question.id = question_id
            WHERE digest = ? ORDER BY target.id""",
            (digest,),
        )

    def task(self, number: int) -> RetrieveTask:
        """One target as it stands now."""
        return self._tasks("WHERE target.id = ?", (number,))[0]

    def begun(self, task: RetrieveTask, expected: int | None) -> None:
        """Record that the instances of a target are known, and that a request for it is about to be sent."""
        with self._write():
            self._db.execute(
                """UPDATE target SET attempts = attempts + 1, expected = ?,
                since = CASE WHEN since < 0 THEN (SELECT coalesce(max(id), 0) FROM arrival) ELSE since END
                WHERE id = ?""",
                (expected, task.id),
            )

    def ended(
        self,
        task: RetrieveTask,
        state: TargetState,
        *,
        expected: int | None,
        missing: Iterable[FoundInstance] = (),
        count: int = 0,
        problem: str = "",
    ) -> None:
        """A target is complete, or given up: what is missing is kept by name where names are known."""
        lost = [*missing]
        with self._write():
            self._db.execute(
                "UPDATE target SET state = ?, expected = ?, missing = ?, problem = ? WHERE id = ?",
                (state, expected, len(lost) or count, problem, task.id),
            )
            self._db.execute("DELETE FROM missing WHERE target_id = ?", (task.id,))
            self._db.executemany(
                "INSERT OR IGNORE INTO missing VALUES (?, ?, ?)", [(task.id, one.uid, one.series) for one in lost]
            )

    def missing(self, task: RetrieveTask) -> list[FoundInstance]:
        """Missing instances of a target, by name."""
        found = self._rows(
            "SELECT instance, series FROM missing WHERE target_id = ? ORDER BY series, instance", (task.id,)
        )
        return [FoundInstance(row[0], row[1], "") for row in found]

    def _tasks(self, where: str, values: tuple[object, ...]) -> list[RetrieveTask]:
        found = self._rows(
            f"""SELECT target.id, study, series, instances, target.state, target.problem, attempts, expected, missing,
            since FROM target {where}""",  # noqa: S608 - our own words
            values,
        )
        return [
            RetrieveTask(
                row[0],
                PullTarget(row[1], row[2], tuple(filter(None, row[3].split("\\")))),
                TargetState(row[4]),
                *row[5:],
            )
            for row in found
        ]

    # -- arrivals ----------------------------------------------------------------------------------------------------

    def known_names(self, names: Sequence[str]) -> set[str]:
        """The spool names among those given that are in the index."""
        return {row[0] for row in self._among("SELECT name FROM arrival WHERE name", names)}

    def note_arrivals(self, arrivals: Sequence[tuple[str, str]], census: Sequence[str] | None = None) -> None:
        """Take files of the spool into the index: name and SOP Instance UID; and count names as being there."""
        if not arrivals and not census:
            return
        with self._write():
            self._db.executemany("INSERT OR IGNORE INTO arrival (name, instance) VALUES (?, ?)", arrivals)
            if census:
                self._db.executemany("INSERT OR IGNORE INTO temp.census VALUES (?)", [(name,) for name in census])

    def begin_census(self) -> None:
        """Count names from now on."""
        with self._write():
            self._db.execute("CREATE TEMP TABLE IF NOT EXISTS census (name TEXT PRIMARY KEY) WITHOUT ROWID")
            self._db.execute("DELETE FROM temp.census")

    def end_census(self) -> None:
        """Forget every file that was not counted: it is no longer in the spool."""
        with self._write():
            self._db.execute("DELETE FROM arrival WHERE name NOT IN (SELECT name FROM temp.census)")
            self._db.execute("DROP TABLE temp.census")

    def arrived(self, uids: Sequence[str]) -> set[str]:
        """The instances among those given of which a file is in the index."""
        return {row[0] for row in self._among("SELECT DISTINCT instance FROM arrival WHERE instance", uids)}

    def arrivals_after(self, number: int) -> list[tuple[str, str]]:
        """Name and SOP Instance UID of the files that came into the index after one of them."""
        return [(row[0], row[1]) for row in self._rows("SELECT name, instance FROM arrival WHERE id > ?", (number,))]

    # -- SQLite ------------------------------------------------------------------------------------------------------

    def _among(self, statement: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for at in range(0, len(values), 500):
            some = values[at : at + 500]
            found += self._rows(f"{statement} IN ({','.join('?' * len(some))})", tuple(some))
        return found

    def _rows(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _unusable(self._path, error) from error

    def _write(self) -> _Transaction:
        """A transaction.

        Raises:
            JournalUnusable: Files of the journal were removed or replaced while it was in use.
        """
        loss = self._files.loss()
        if loss is not None:
            raise JournalUnusable(self._path, loss, "start again")
        return _Transaction(self._db, self._lock, self._path)


class _Transaction:
    """One transaction, held by one thread."""

    def __init__(self, db: sqlite3.Connection, lock: threading.RLock, path: Path) -> None:
        self._db = db
        self._lock = lock
        self._path = path

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._lock.release()
            raise _unusable(self._path, error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._db.execute("COMMIT" if kind is None else "ROLLBACK")
        except sqlite3.Error as failure:
            if self._db.in_transaction:
                self._db.rollback()
            raise _unusable(self._path, failure) from failure
        finally:
            self._lock.release()
        if isinstance(error, sqlite3.Error):
            raise _unusable(self._path, error) from error


def _unusable(path: Path, error: OSError | sqlite3.Error) -> JournalUnusable:
    return JournalUnusable(path, *cause_and_hint(error, if_damaged=_IF_DAMAGED))
