"""Statements about rejections: what notes say of instances, and how far that was carried out.

Contract: a rejection is found by SOP Instance UID and note; a note that comes again changes nothing. Statements run in
the transaction of their caller.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from exporter.results.ledger.schema import stored
from exporter.results.ledger.types import InstanceRejection, SettledRejection

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from exporter.outcome import RejectionNote

SELECT: Final = """SELECT sop_instance_uid, note, study_instance_uid, series_instance_uid, code, noted_ns,
    settled FROM rejection"""
COUNT_FLAGGED: Final = """SELECT count(DISTINCT instance.id) FROM rejection
    CROSS JOIN instance ON instance.sop_instance_uid = rejection.sop_instance_uid
    WHERE settled > 0 AND state = 'exported' AND instance.study_instance_uid = rejection.study_instance_uid
    AND instance.series_instance_uid = rejection.series_instance_uid"""
"""Exported instances that say so; by CROSS JOIN, the few rejections are looked through, not the many instances."""


def record(connection: sqlite3.Connection, note: str, said: RejectionNote) -> None:
    """Remember what a note says; see `Ledger.record_rejections`."""
    now = time.time_ns()
    connection.executemany(
        "INSERT OR IGNORE INTO rejection VALUES (?, CAST(? AS TEXT), ?, ?, ?, ?, 0)",
        (
            (uid, stored(note), one.study_uid, one.series_uid, said.code, now)
            for one in said.series
            for uid in one.instance_uids
        ),
    )


def settle(connection: sqlite3.Connection, rejections: Iterable[InstanceRejection], reached: SettledRejection) -> None:
    """Note how far rejections were carried out."""
    connection.executemany(
        "UPDATE rejection SET settled = ? WHERE sop_instance_uid = ? AND note = CAST(? AS TEXT)",
        ((int(reached), one.sop_instance_uid, stored(one.note)) for one in rejections),
    )


def rejection_of(row: tuple[Any, ...]) -> InstanceRejection:
    """The rejection in a row of `SELECT`."""
    uid, note, study, series, code, noted_ns, settled = row
    return InstanceRejection(uid, note, study, series, code, noted_ns, SettledRejection(settled))
