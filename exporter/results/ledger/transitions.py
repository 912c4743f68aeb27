"""The ledger's transitions as operations on its rows; each runs inside a transaction of `commit`.

Contract: pure SQL and values. Raises `LookupError` for an instance that was never begun and `ValueError` for what
would break an invariant; the savepoint around the operation then undoes it alone.
"""

from __future__ import annotations

import sqlite3
import time
import unicodedata
import zlib
from typing import TYPE_CHECKING, Any

from exporter.outcome import Exported, Failed, InstanceIdentity, MediaFile, MediaType
from exporter.results.ledger.schema import stored
from exporter.results.ledger.types import FINAL, SUSPECT_AFTER, DuplicateCheck, InstanceRow, InstanceStatus
from exporter.results.line import says_the_same

if TYPE_CHECKING:
    from exporter.errors import SkipReason
    from exporter.results.ledger.types import Completed, WorkItem

Row = tuple[Any, ...]

NAMED = "WHERE name = CAST(? AS TEXT)"
ENTRY = """SELECT name, source, size_bytes, mtime_ns, state, reason, message, attempts, not_before,
    sop_class_uid, sop_instance_uid, study_instance_uid, series_instance_uid, content_sha256,
    source_sha256, settings_sha256, duplicate_of, conflict_with, base, ae_title, interruptions, line_seq, id
    FROM instance """
MEDIUM = """SELECT path, suffix, kind, bytes, sha256, codec, transcoded, width, height, frames, duration_s
    FROM medium WHERE instance_id = ? ORDER BY position"""

_PENDING = (InstanceStatus.ACTIVE, InstanceStatus.DEFERRED)
_INTERRUPTED = """SET state = 'deferred', reason = 'interrupted', message = ?, not_before = 0,
    attempts = max(attempts - 1, 0), interruptions = interruptions + 1, updated_ns = ?"""
"""State after an attempt that ended for a reason outside the instance."""


def output_key(path: str) -> str:
    """Key that two paths share where some file system takes them for one: without case and Unicode composition."""
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def entry_of(row: Row) -> InstanceRow:
    """The entry in a row of `ENTRY`."""
    identity = InstanceIdentity(row[9] or "", row[10] or "", row[11] or "", row[12] or "", row[13]) if row[13] else None
    return InstanceRow(
        name=row[0],
        source=row[1],
        size_bytes=row[2],
        mtime_ns=row[3],
        state=InstanceStatus(row[4]),
        reason=row[5],
        message=row[6],
        attempts=row[7],
        not_before=row[8],
        identity=identity,
        source_sha256=row[14],
        settings_sha256=row[15],
        duplicate_of=row[16],
        conflict_with=row[17],
        base=row[18],
        line_seq=row[21],
        ae_title=row[19],
        interruptions=row[20],
    )


def medium_of(row: Row) -> MediaFile:
    """The medium in a row of `MEDIUM`."""
    return MediaFile(
        file=row[0],
        suffix=row[1],
        kind=MediaType(row[2]),
        bytes=row[3],
        sha256=row[4],
        codec=row[5],
        transcoded=bool(row[6]),
        width=row[7],
        height=row[8],
        frames=row[9],
        duration_s=row[10],
    )


def known(connection: sqlite3.Connection, name: str) -> Row:
    """The row of `ENTRY` of that name.

    Raises:
        LookupError: No row has that name.
    """
    row: Row | None = connection.execute(ENTRY + NAMED, (stored(name),)).fetchone()
    if row is None:
        raise LookupError("the ledger has no row of the instance: its attempt was never begun")
    return row


def _pending(connection: sqlite3.Connection, name: str, done: str) -> Row:
    """The row of an instance whose attempt is under way or deferred.

    Raises:
        LookupError: No row has that name.
        ValueError: The instance is in another state and cannot be `done`.
    """
    row = known(connection, name)
    if row[4] not in _PENDING:
        raise ValueError(f"an instance that is {row[4]} cannot be {done}")
    return row


def begin_attempt(connection: sqlite3.Connection, work: WorkItem, number: int) -> InstanceRow:
    """Count one attempt; `number` is that of a new row. See `Ledger.begin_many`."""
    name = stored(work.name)
    facts = (work.source, work.ae_title, work.size_bytes, work.mtime_ns)
    row = connection.execute(ENTRY + NAMED, (name,)).fetchone()
    if row is None:
        connection.execute(
            """INSERT INTO instance (id, name, source, ae_title, size_bytes, mtime_ns, state, attempts, updated_ns)
            SELECT CASE WHEN EXISTS (SELECT 1 FROM instance WHERE id = ?) THEN NULL ELSE ? END,
            CAST(? AS TEXT), ?, ?, ?, ?, 'active', 1, ?""",
            (number, number, name, *facts, time.time_ns()),
        )
        return _begun(work)
    before = entry_of(row)
    if before.state in FINAL and work.source == "spool":
        return before
    same = before.state in _PENDING and (before.size_bytes, before.mtime_ns) == facts[2:]
    connection.execute(
        """UPDATE instance SET source = ?, ae_title = ?, size_bytes = ?, mtime_ns = ?, state = 'active',
        reason = NULL, message = '', attempts = ?, interruptions = ?, not_before = NULL, updated_ns = ?
        WHERE id = ?""",
        (
            *facts,
            before.attempts + 1 if same else 1,
            before.interruptions if same else 0,
            time.time_ns(),
            row[-1],
        ),
    )
    return entry_of(known(connection, work.name))


def _begun(work: WorkItem) -> InstanceRow:
    """A new row, as the statement that inserts it makes it."""
    return InstanceRow(
        name=work.name,
        source=work.source,
        size_bytes=work.size_bytes,
        mtime_ns=work.mtime_ns,
        state=InstanceStatus.ACTIVE,
        reason=None,
        message="",
        attempts=1,
        not_before=None,
        identity=None,
        source_sha256=None,
        settings_sha256=None,
        duplicate_of=None,
        conflict_with=None,
        base=None,
        line_seq=None,
        ae_title=work.ae_title,
    )


def recover(connection: sqlite3.Connection) -> list[InstanceRow]:
    """Make every active instance deferred; see `Ledger.recover`."""
    rows = connection.execute(f"{ENTRY} WHERE state = 'active' ORDER BY id").fetchall()
    message, now = "the exporter ended during the attempt", time.time_ns()
    if any(entry_of(row).interruptions >= SUSPECT_AFTER for row in rows):
        # It was alone with its worker: what else is active had its outcome, and waited for publication only.
        connection.execute(
            f"UPDATE instance {_INTERRUPTED} WHERE state = 'active' AND interruptions >= ?",
            (message, now, SUSPECT_AFTER),
        )
        connection.execute(
            """UPDATE instance SET state = 'deferred', reason = 'interrupted', message = ?, not_before = 0,
            attempts = max(attempts - 1, 0), updated_ns = ? WHERE state = 'active'""",
            (message, now),
        )
    elif rows:
        connection.execute(f"UPDATE instance {_INTERRUPTED} WHERE state = 'active'", (message, now))
        # Exporters end without the suspects, too: what their own attempts seemed to show counts no more.
        connection.execute(
            "UPDATE instance SET interruptions = ? WHERE state = 'deferred' AND interruptions > ? AND updated_ns <> ?",
            (SUSPECT_AFTER, SUSPECT_AFTER, now),
        )
    return [entry_of(known(connection, row[0])) for row in rows]


def interrupt(
    connection: sqlite3.Connection,
    name: str,
    message: str,
    decided: tuple[InstanceIdentity, DuplicateCheck] | None = None,
) -> int:
    """End the attempt under way as interrupted; see `Ledger.interrupt`."""
    row = _pending(connection, name, "interrupted")
    connection.execute(
        f"UPDATE instance {_INTERRUPTED} WHERE id = ?",
        (message, time.time_ns(), row[-1]),
    )
    _remember(connection, name, decided)
    return entry_of(row).interruptions + 1


def defer(
    connection: sqlite3.Connection,
    name: str,
    reason: str,
    message: str,
    not_before: float,
    *,
    decided: tuple[InstanceIdentity, DuplicateCheck] | None = None,
) -> None:
    """End an attempt that may be repeated; see `Ledger.defer`."""
    row = _pending(connection, name, "deferred")
    connection.execute(
        """UPDATE instance SET state = 'deferred', reason = ?, message = ?, not_before = ?, interruptions = 0,
        updated_ns = ? WHERE id = ?""",
        (reason, message, not_before, time.time_ns(), row[-1]),
    )
    _remember(connection, name, decided)


def withdraw(
    connection: sqlite3.Connection, name: str, decided: tuple[InstanceIdentity, DuplicateCheck] | None = None
) -> None:
    """Take back the attempt under way; see `Ledger.withdraw`."""
    connection.execute(
        f"""UPDATE instance SET state = 'deferred', reason = 'withdrawn', message = '', not_before = 0,
        attempts = max(attempts - 1, 0), updated_ns = ? {NAMED} AND state = 'active'""",  # noqa: S608 - a constant
        (time.time_ns(), stored(name)),
    )
    _remember(connection, name, decided)


def _remember(
    connection: sqlite3.Connection, name: str, decided: tuple[InstanceIdentity, DuplicateCheck] | None
) -> None:
    """Keep identity and relations of an instance that is not finished: others were related to it already."""
    if decided is None:
        return
    identity, relation = decided
    connection.execute(
        f"""UPDATE instance SET sop_class_uid = ?, sop_instance_uid = ?, study_instance_uid = ?,
        series_instance_uid = ?, content_sha256 = ?, duplicate_of = CAST(? AS TEXT), conflict_with = CAST(? AS TEXT)
        {NAMED} AND state = 'deferred'""",  # noqa: S608 - a constant
        (*_identity_values(identity), _stored(relation.duplicate_of), _stored(relation.conflict_with), stored(name)),
    )


def _identity_values(identity: InstanceIdentity | None) -> tuple[str | None, ...]:
    if identity is None or not identity.content_sha256:
        return (None,) * 5
    return (
        identity.sop_class_uid,
        identity.sop_instance_uid,
        identity.study_instance_uid,
        identity.series_instance_uid,
        identity.content_sha256,
    )


def _stored(name: str | None) -> bytes | None:
    return None if name is None else stored(name)


def retry(connection: sqlite3.Connection, *, name: str | None, reason: str | None) -> list[str]:
    """Make what failed pending again; see `Ledger.retry`."""
    failed = "(state IN ('failed', 'quarantined') OR (state = 'deferred' AND attempts = 0))"
    if name is not None:
        where, value = f"name = CAST(? AS TEXT) AND {failed}", stored(name)
    else:
        where, value = f"reason = ? AND {failed}", str(reason).encode()
        where = where.replace("= ?", "= CAST(? AS TEXT)")
    names = [row[0] for row in connection.execute(f"SELECT name FROM instance WHERE {where} ORDER BY name", (value,))]  # noqa: S608 - constants only
    connection.execute(
        f"""UPDATE instance SET state = 'deferred', attempts = 0, interruptions = 0, not_before = 0, updated_ns = ?
        WHERE {where}""",  # noqa: S608 - constants only
        (time.time_ns(), value),
    )
    return names


def packed(line: bytes | None) -> tuple[int, int, bytes] | None:
    """Length, CRC-32 and compressed text of a metadata line.

    Raises:
        ValueError: It is not one whole line.
    """
    if line is None:
        return None
    if line.find(b"\n") != len(line) - 1 or len(line) < 3:
        raise ValueError("a metadata line ends in its only newline")
    return len(line), zlib.crc32(line), zlib.compress(line, 1)


def finish(
    connection: sqlite3.Connection, completed: Completed, line: tuple[int, int, bytes] | None, base: str | None
) -> list[str]:
    """Commit one outcome; the media paths its instance gives up. See `Ledger.finish_many`."""
    outcome, relation = completed.outcome, completed.relation
    row = known(connection, completed.work.name)
    if row[4] not in _PENDING:
        raise ValueError(f"the instance is {row[4]} already")
    instance_id = row[-1]
    line_seq = row[-2]
    if line is not None and not _is_told(connection, line_seq, line):
        line_seq = _add_line(connection, instance_id, line)
    connection.execute(
        """UPDATE instance SET state = ?, reason = ?, message = ?, not_before = NULL, interruptions = 0,
        sop_class_uid = ?, sop_instance_uid = ?, study_instance_uid = ?, series_instance_uid = ?, content_sha256 = ?,
        source_sha256 = ?, settings_sha256 = ?, duplicate_of = CAST(? AS TEXT), conflict_with = CAST(? AS TEXT),
        line_seq = ?, updated_ns = ? WHERE id = ?""",
        (
            completed.state,
            *((None, "") if isinstance(outcome, Exported) else (outcome.reason, outcome.message)),
            *_identity_values(outcome.identity),
            outcome.source_sha256,
            completed.settings_sha256,
            _stored(None if isinstance(outcome, Failed) else relation.duplicate_of),
            _stored(relation.conflict_with),
            line_seq,
            time.time_ns(),
            instance_id,
        ),
    )
    if completed.media is None:
        return []
    if base is not None:
        connection.execute(
            "UPDATE instance SET base = CAST(? AS TEXT), base_key = CAST(? AS TEXT) WHERE id = ?",
            (stored(base), stored(output_key(base)), instance_id),
        )
    return _replace_media(connection, instance_id, completed.media)


def revoke(
    connection: sqlite3.Connection,
    reason: SkipReason,
    name: str,
    message: str,
    line: tuple[int, int, bytes] | None,
) -> list[str]:
    """Take an outcome back; see `Ledger.revoke_many`.

    An input that a list keeps out is read again at the next backfill: the list may have changed, and the input keeps
    its output name. A rejection stays; the name is free for the same instance, should it be sent again.
    """
    instance_id = known(connection, name)[-1]
    is_rejected = reason == "rejected"
    connection.execute(
        """UPDATE instance SET state = 'skipped', reason = ?, message = ?,
        settings_sha256 = CASE WHEN ? THEN settings_sha256 END,
        base = CASE WHEN ? THEN NULL ELSE base END, base_key = CASE WHEN ? THEN NULL ELSE base_key END,
        source_sha256 = NULL, sop_class_uid = NULL, sop_instance_uid = NULL, study_instance_uid = NULL,
        series_instance_uid = NULL, content_sha256 = NULL, duplicate_of = NULL, conflict_with = NULL,
        line_seq = coalesce(?, line_seq), updated_ns = ? WHERE id = ?""",
        (
            reason,
            message,
            *(is_rejected,) * 3,
            _add_line(connection, instance_id, line) if line else None,
            time.time_ns(),
            instance_id,
        ),
    )
    return _replace_media(connection, instance_id, ())


def revise(connection: sqlite3.Connection, name: str, line: tuple[int, int, bytes]) -> None:
    """Give an instance a new line; its outcome and media stay. See `Ledger.carry_out_rejections`."""
    instance_id = known(connection, name)[-1]
    number = _add_line(connection, instance_id, line)
    connection.execute(
        "UPDATE instance SET line_seq = ?, updated_ns = ? WHERE id = ?", (number, time.time_ns(), instance_id)
    )


def _is_told(connection: sqlite3.Connection, line_seq: int | None, line: tuple[int, int, bytes]) -> bool:
    """Whether the instance's newest line says this already: exported again, nothing new, no second line."""
    if line_seq is None:
        return False
    newest = connection.execute("SELECT text FROM line WHERE seq = ?", (line_seq,)).fetchone()
    return newest is not None and (
        newest[0] == line[2] or says_the_same(zlib.decompress(newest[0]), zlib.decompress(line[2]))
    )


def _add_line(connection: sqlite3.Connection, instance_id: int, line: tuple[int, int, bytes]) -> int:
    last = connection.execute("SELECT seq, position + length FROM line ORDER BY seq DESC LIMIT 1").fetchone()
    seq, position = (last[0] + 1, last[1]) if last is not None else (1, 0)
    connection.execute("INSERT INTO line VALUES (?, ?, ?, ?, ?, ?)", (seq, instance_id, position, *line))
    return int(seq)


def _replace_media(connection: sqlite3.Connection, instance_id: int, media: tuple[MediaFile, ...]) -> list[str]:
    before = dict(
        connection.execute("SELECT path_key, path FROM medium WHERE instance_id = ?", (instance_id,)).fetchall()
    )
    if before:
        connection.execute("DELETE FROM medium WHERE instance_id = ?", (instance_id,))
    for position, medium in enumerate(media):
        path_key = output_key(medium.file)
        before.pop(path_key, None)
        try:
            connection.execute(
                """INSERT INTO medium VALUES
                (?, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    instance_id,
                    position,
                    stored(medium.file),
                    stored(path_key),
                    medium.suffix,
                    medium.kind,
                    medium.bytes,
                    medium.sha256,
                    medium.codec,
                    medium.transcoded,
                    medium.width,
                    medium.height,
                    medium.frames,
                    medium.duration_s,
                ),
            )
        except sqlite3.IntegrityError as error:
            raise ValueError("an output name belongs to another instance; reserve_base gives names") from error
        connection.execute("DELETE FROM superseded WHERE path_key = CAST(? AS TEXT)", (stored(path_key),))
    if not before:
        return []
    connection.executemany(
        "INSERT OR REPLACE INTO superseded VALUES (CAST(? AS TEXT), CAST(? AS TEXT), ?)",
        [(stored(key), stored(path), instance_id) for key, path in before.items()],
    )
    return list(before.values())
