"""The half of the ledger that only reads.

Contract: answers show committed transactions only. Safe from many threads; walks over all instances use a connection
of their own, so that a slow reader holds up nobody. Memory stays constant.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

from exporter.errors import SkipReason
from exporter.outcome import InstanceIdentity
from exporter.results.ledger import rejections, transitions
from exporter.results.ledger.relations import UNNUMBERED, IdentifiedInstance, relate
from exporter.results.ledger.schema import LedgerUnusable, connect, stored, unusable
from exporter.results.ledger.types import (
    FINAL,
    LONGEST_WAIT_S,
    ContainerMembers,
    Counts,
    DuplicateCheck,
    InputRow,
    InstanceRejection,
    InstanceRow,
    InstanceStatus,
    OutboxLine,
    Overdue,
    SeriesMember,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from exporter.outcome import MediaFile

_TOGETHER = 256
"""Names that one statement looks up."""
_LINES = "SELECT seq, position, length, crc32, text FROM line WHERE seq > ? ORDER BY seq"


class LedgerReader:
    """A ledger as it can be asked."""

    def __init__(self, path: Path, busy_timeout_s: float) -> None:
        """Open the database at `path` for reading.

        Raises:
            LedgerUnusable: It cannot be used.
        """
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._reader = connect(path, read_only=True, busy_timeout_s=busy_timeout_s)
        self._reading = threading.Lock()

    def entry(self, name: str) -> InstanceRow | None:
        """The instance of that name."""
        found = self._read(transitions.ENTRY + transitions.NAMED, (stored(name),))
        return transitions.entry_of(found[0]) if found else None

    def entries(self, state: InstanceStatus | None = None, reason: str | None = None) -> Iterator[InstanceRow]:
        """Instances in that state and of that reason, in order of their first attempt; memory stays constant."""
        terms: list[tuple[str, str]] = [("state = ?", state)] if state is not None else []
        terms += [("reason = ?", reason)] if reason is not None else []
        where = "WHERE " + " AND ".join(term for term, _ in terms) if terms else ""
        for row in self._scan(f"{transitions.ENTRY} {where} ORDER BY id", tuple(value for _, value in terms)):
            yield transitions.entry_of(row)

    def interrupted(self, least: int) -> dict[str, int]:
        """Names of pending instances with at least so many interruptions, and how many each of them has."""
        return dict(
            self._read(
                "SELECT name, interruptions FROM instance WHERE state = 'deferred' AND interruptions >= ?", (least,)
            )
        )

    def series_members(self, sop_class_uids: Iterable[str]) -> Iterator[SeriesMember]:
        """Exported files of folders that are of these classes, series by series; memory stays constant."""
        classes = tuple(sop_class_uids)
        statement = f"""SELECT study_instance_uid, series_instance_uid, name, content_sha256 FROM instance
            WHERE state = ? AND source = 'folder' AND series_instance_uid <> ''
            AND sop_class_uid IN ({",".join("?" * len(classes))})
            ORDER BY study_instance_uid, series_instance_uid, name"""  # noqa: S608 - only question marks are put in
        for study, series, name, content in self._scan(statement, (InstanceStatus.EXPORTED, *classes)):
            yield SeriesMember(study or "", series, name, content or "")

    def exported_by_study(self) -> Iterator[InstanceRow]:
        """Exported instances, study by study; memory stays constant."""
        for row in self._scan(f"{transitions.ENTRY} WHERE state = 'exported' ORDER BY study_instance_uid, id"):
            yield transitions.entry_of(row)

    def unfinished_studies(self, changed_before_ns: int) -> set[str]:
        """Study Instance UIDs with an instance that is pending, or changed later than a time (ns since 1970)."""
        found = self._scan(
            """SELECT DISTINCT study_instance_uid FROM instance WHERE study_instance_uid IS NOT NULL
            AND (state IN ('active', 'deferred') OR updated_ns > ?)""",
            (changed_before_ns,),
        )
        return {row[0] for row in found}

    def media(self, name: str) -> tuple[MediaFile, ...]:
        """The media the instance owns, with final paths."""
        found = self._read("SELECT id FROM instance WHERE name = CAST(? AS TEXT)", (stored(name),))
        return tuple(map(transitions.medium_of, self._read(transitions.MEDIUM, (found[0][0],)))) if found else ()

    def unchanged(self, name: str, size_bytes: int, mtime_ns: int, settings_sha256: str) -> bool:
        """Whether the file, unchanged, was finished under these settings (about 10 us)."""
        found = self._read(
            "SELECT size_bytes, mtime_ns, settings_sha256, state FROM instance WHERE name = CAST(? AS TEXT)",
            (stored(name),),
        )
        return bool(found) and found[0][:3] == (size_bytes, mtime_ns, settings_sha256) and found[0][3] in FINAL

    def inputs(self, names: Sequence[str]) -> dict[str, InputRow | None]:
        """What is known of each of these inputs (about 4 us each); None where there is no row."""
        found: dict[str, InputRow | None] = dict.fromkeys(names)
        for at in range(0, len(names), _TOGETHER):
            some = [stored(name) for name in names[at : at + _TOGETHER]]
            some += [b""] * (_TOGETHER - len(some) if len(some) > 1 else 0)  # two statements, prepared once
            marks = ",".join(["CAST(? AS TEXT)"] * len(some))
            for name, *row in self._read(
                f"""SELECT name, size_bytes, mtime_ns, settings_sha256, state, reason, updated_ns FROM instance
                WHERE name IN ({marks})""",  # noqa: S608 - only question marks are put in
                tuple(some),
            ):
                found[name] = InputRow._make(row)
        return found

    def inside(self, prefix: str, settings_sha256: str) -> ContainerMembers:
        """Number of instances whose names begin with `prefix`, which ends in ``/``."""
        pending = finished = failed = 0
        # "0" is the character after "/": the range holds every name that begins with the prefix, and nothing else.
        for state, same, number in self._read(
            """SELECT state, settings_sha256 IS ?, count(*) FROM instance
            WHERE name > CAST(? AS TEXT) AND name < CAST(? AS TEXT) GROUP BY 1, 2""",
            (settings_sha256, stored(prefix), stored(f"{prefix[:-1]}0")),
        ):
            if state in FINAL and same:
                finished += number
                failed += number * (state == InstanceStatus.FAILED)
            else:
                pending += number
        return ContainerMembers(pending, finished, failed)

    def failed(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, which ends in ``/``, of instances that failed."""
        return [
            row[0]
            for row in self._read(
                """SELECT name FROM instance
                WHERE name > CAST(? AS TEXT) AND name < CAST(? AS TEXT) AND state = 'failed'""",
                (stored(prefix), stored(f"{prefix[:-1]}0")),
            )
        ]

    def closed_folders(self) -> list[str]:
        """Names of folders that failed because they could not be read."""
        return [
            row[0]
            for row in self._read(
                "SELECT name FROM instance WHERE state = 'failed' AND reason = 'unreadable' AND substr(name, -1) = '/'"
            )
        ]

    def counts(self) -> Counts:
        """Instances by state, reason and source; takes the same time however many there are."""
        by_state: Counter[str] = Counter()
        by_reason: Counter[tuple[str, str]] = Counter()
        by_source: Counter[tuple[str, str]] = Counter()
        duplicates = conflicts = 0
        for state, reason, source, number, duplicated, conflicting in self._read(
            "SELECT state, reason, source, instances, duplicates, conflicts FROM tally WHERE instances > 0"
        ):
            by_state[state] += number
            by_source[state, source] += number
            if reason:
                by_reason[state, reason] += number
            duplicates += duplicated
            conflicts += conflicting
        return Counts(
            **{state.value: by_state[state] for state in InstanceStatus},
            duplicates=duplicates,
            conflicts=conflicts,
            rejected=by_reason["skipped", SkipReason.REJECTED] + self._read(rejections.COUNT_FLAGGED)[0][0],
            by_reason=by_reason,
            by_source=by_source,
        )

    def miscounted(self) -> list[str]:
        """States and reasons whose kept number of instances is not that of the rows; a walk over all instances."""
        found = self._read(
            """SELECT state, reason FROM (
                SELECT state, coalesce(reason, '') AS reason, source,
                    count(*), count(duplicate_of), count(conflict_with)
                FROM instance GROUP BY 1, 2, 3 EXCEPT SELECT * FROM tally)
            UNION SELECT state, reason FROM (
                SELECT * FROM tally WHERE instances <> 0 OR duplicates <> 0 OR conflicts <> 0 EXCEPT
                SELECT state, coalesce(reason, ''), source, count(*), count(duplicate_of), count(conflict_with)
                FROM instance GROUP BY 1, 2, 3)"""
        )
        return [f"{state} {reason}".strip() for state, reason in found]

    def overdue(self, now: float) -> Overdue:
        """Deferred instances whose next attempt is late or too far ahead at Unix time `now`.

        Those that are to be tried at once (interrupted, withdrawn, `retry`) are not among them.
        """
        late, too_far, furthest = self._read(
            """SELECT coalesce(sum(not_before < ?), 0), coalesce(sum(not_before > ?), 0), max(not_before)
            FROM instance WHERE state = 'deferred' AND not_before > 0""",
            (now - LONGEST_WAIT_S, now + LONGEST_WAIT_S),
        )[0]
        return Overdue(late, too_far, furthest if too_far else None)

    def owns(self, path: str) -> bool:
        """Whether an instance owns the file at that path below the media folder, or a folder around it."""
        key = transitions.output_key(path)
        around = (f"{key[:end]}/" for end in range(1, len(key)) if key[end] == "/")
        return any(
            self._read("SELECT 1 FROM medium WHERE path_key = CAST(? AS TEXT)", (stored(one),))
            or self._read("SELECT 1 FROM superseded WHERE path_key = CAST(? AS TEXT)", (stored(one),))
            for one in (key, *around)
        )

    def line(self, seq: int) -> bytes | None:
        """The metadata line of that number.

        Raises:
            LedgerUnusable: It is damaged.
        """
        found = self._read("SELECT text FROM line WHERE seq = ?", (seq,))
        return self._line_of(found[0][0]) if found else None

    def _line_of(self, stored_text: bytes) -> bytes:
        """A line as it was before it was stored."""
        try:
            return zlib.decompress(stored_text)
        except zlib.error as error:
            hint = "keep a copy, move it away and run `exporter reconcile --rebuild`"
            raise LedgerUnusable(self.path, "a metadata line in it is damaged", hint, is_damaged=True) from error

    def problem(self) -> str | None:
        """Complaints of SQLite after a check of every page of the database; None where it is sound."""
        found = self._read("PRAGMA integrity_check(1)")[0][0]
        return None if found == "ok" else str(found)

    def superseded(self) -> list[str]:
        """Media paths nobody owns any more and whose files are to be deleted."""
        return [row[0] for row in self._read("SELECT path FROM superseded ORDER BY path")]

    def conflict_with(self, identity: InstanceIdentity, *, name: str = "") -> InstanceRow | None:
        """An instance with the same SOP Instance UID and other content, other than `name`."""
        found = relate(identity, name, UNNUMBERED, "", self._others(identity, UNNUMBERED, "")).conflict_with
        return self.entry(found) if found is not None else None

    def _others(
        self, identity: InstanceIdentity, number: int, ae_title: str, *, enough: int = 2
    ) -> list[IdentifiedInstance]:
        """The first instances that may be original or conflict of the one with that identity and row number.

        They are of any state: what is tried again was known before. At most `enough` of each kind, so that ten
        thousand copies of one instance cost no more than two.
        """
        chosen = "SELECT id, name, content_sha256, ae_title, duplicate_of, conflict_with FROM instance"
        uid, content = identity.sop_instance_uid, identity.content_sha256
        found = self._read(
            f"""{chosen} WHERE sop_instance_uid = ? AND content_sha256 = ? AND ae_title = ? AND duplicate_of IS NULL
            ORDER BY id LIMIT ?""",
            (uid, content, ae_title, enough),
        )
        found += self._read(
            f"""{chosen} WHERE sop_instance_uid = ? AND content_sha256 <> ? AND (id < ? OR conflict_with IS NULL)
            ORDER BY id LIMIT ?""",
            (uid, content, number, enough),
        )
        return [
            IdentifiedInstance(
                row[1], row[0], InstanceIdentity("", uid, "", "", row[2]), row[3], DuplicateCheck(row[4], row[5])
            )
            for row in found
        ]

    def rejections_of(self, sop_instance_uid: str) -> list[InstanceRejection]:
        """What rejection notes say of an instance, the oldest first."""
        found = self._read(
            f"{rejections.SELECT} WHERE sop_instance_uid = ? ORDER BY noted_ns, note", (sop_instance_uid,)
        )
        return [rejections.rejection_of(row) for row in found]

    def unsettled_rejections(self, steps: Iterable[int], limit: int) -> list[InstanceRejection]:
        """Rejections that have been carried out no further than these steps of `SettledRejection`; at most `limit`."""
        wanted = tuple(map(int, steps))
        found = self._read(
            f"{rejections.SELECT} WHERE settled IN ({','.join('?' * len(wanted))}) LIMIT ?", (*wanted, limit)
        )
        return [rejections.rejection_of(row) for row in found]

    def entries_of(self, sop_instance_uid: str) -> list[InstanceRow]:
        """The instances with that SOP Instance UID, in order of their first attempt."""
        found = self._read(f"{transitions.ENTRY} WHERE sop_instance_uid = ? ORDER BY id", (sop_instance_uid,))
        return [transitions.entry_of(row) for row in found]

    def finished_instances(self, uids: Iterable[str]) -> set[str]:
        """The SOP Instance UIDs among those given of which the ledger has an instance in a final state."""
        wanted = [*uids]
        found: set[str] = set()
        for at in range(0, len(wanted), 500):
            some = wanted[at : at + 500]
            marks = ",".join("?" * len(some))
            rows_of = self._read(
                f"""SELECT DISTINCT sop_instance_uid FROM instance WHERE sop_instance_uid IN ({marks})
                AND state IN ('exported', 'skipped', 'quarantined', 'failed')""",  # noqa: S608 - only question marks
                tuple(some),
            )
            found.update(row[0] for row in rows_of)
            withdrawn = self._read(
                f"SELECT sop_instance_uid FROM rejection WHERE sop_instance_uid IN ({marks}) AND settled >= 2",  # noqa: S608 - only question marks
                tuple(some),
            )
            found.update(row[0] for row in withdrawn)
        return found

    def instances_of(self, study_uid: str, series_uid: str = "") -> set[str]:
        """SOP Instance UIDs in a final state of one study, or of one of its series; a walk over all instances."""
        terms = "AND series_instance_uid = ?" if series_uid else ""
        found = self._scan(
            f"""SELECT DISTINCT sop_instance_uid FROM instance WHERE study_instance_uid = ? {terms}
            AND sop_instance_uid <> '' AND state IN ('exported', 'skipped', 'quarantined', 'failed')""",  # noqa: S608 - our own words
            (study_uid, series_uid) if series_uid else (study_uid,),
        )
        return {row[0] for row in found}

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

    @property
    def is_empty(self) -> bool:
        """Whether no instance was ever begun."""
        return not self._read("SELECT 1 FROM instance LIMIT 1")

    def progress(self) -> dict[str, int]:
        """Numbers about the output, by what they are: those of `mark_published`, `set_file` and `remember`."""
        return dict(self._read("SELECT key, value FROM progress"))

    def foreign_bytes(self) -> list[tuple[int, int, int]]:
        """(seq, length, crc32): whole lines in the file that are not ours and lie before line `seq`, in order."""
        found = self._read("SELECT before_seq, length, crc32 FROM foreign_bytes ORDER BY id")
        return [(row[0], row[1], row[2]) for row in found]

    def _read(self, statement: str, values: tuple[object, ...] = ()) -> list[transitions.Row]:
        try:
            with self._reading:
                return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise unusable(self.path, error) from error

    def _scan(self, statement: str, values: tuple[object, ...] = ()) -> Iterator[transitions.Row]:
        # Its own connection: a caller that walks a million rows slowly must not hold up the others.
        with closing(connect(self.path, read_only=True, busy_timeout_s=self._busy_timeout_s)) as connection:
            try:
                yield from connection.execute(statement, values)
            except sqlite3.Error as error:
                raise unusable(self.path, error) from error
