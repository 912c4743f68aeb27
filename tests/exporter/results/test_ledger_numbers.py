"""The numbers that the ledger keeps: those of its rows at any moment, in every way that rows change."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from exporter.results.ledger import InstanceStatus, Ledger, LedgerUnusable
from exporter.results.ledger.schema import BEYOND_S, MINUTES_KEPT, UNTIMED
from exporter.results.reconcile import Folders, reconcile
from tests.exporter.ledger_rows import begin, finish

ROOT = Path(__file__).parents[3]
STATES = (InstanceStatus.EXPORTED, InstanceStatus.SKIPPED, InstanceStatus.FAILED, InstanceStatus.QUARANTINED)
REASONS = {
    InstanceStatus.EXPORTED: "internal",
    InstanceStatus.SKIPPED: "duplicate",
    InstanceStatus.FAILED: "not_dicom",
    InstanceStatus.QUARANTINED: "timeout",
}

SCHEMA_3 = """
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
) WITHOUT ROWID;"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exporter.db"


def rows_of(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def minutes(path: Path, where: str) -> list[tuple[object, ...]]:
    return rows_of(path, f"SELECT state, within_s, instances, bytes FROM minute WHERE {where} ORDER BY 1, 2")  # noqa: S608


def test_counts_are_those_of_the_rows_whatever_happens_to_them(path: Path) -> None:
    chance = random.Random(5)  # noqa: S311 - not for secrets
    with Ledger.open(path) as ledger:
        for step in range(250):
            name = f"{chance.randrange(40):020d}-{0:016x}.dcm"
            entry = ledger.entry(name)
            is_pending = entry is not None and entry.state in {InstanceStatus.ACTIVE, InstanceStatus.DEFERRED}
            match chance.choice(("begin", "begin", "finish", "finish", "defer", "withdraw", "interrupt", "retry")):
                case "begin":
                    begin(ledger, name, mtime_ns=step, source=chance.choice(("folder", "spool")))
                case "finish" if is_pending:
                    state = chance.choice(STATES)
                    flag = chance.choice((None, "another"))
                    finish(ledger, name, state=state, reason=REASONS[state], conflict=flag)
                case "defer" if is_pending:
                    ledger.defer(name, "timeout", "took too long", not_before=1.0)
                case "withdraw":
                    ledger.withdraw(name)
                case "interrupt" if is_pending:
                    ledger.interrupt(name, "the folder was gone")
                case "retry":
                    ledger.retry(reason="timeout")
        ledger.recover()
        entries = list(ledger.entries())
        counts = ledger.counts()
        assert ledger.miscounted() == []
    found = Counter(entry.state for entry in entries)
    assert {state: getattr(counts, state) for state in found} == found
    assert counts.by_source == Counter((entry.state, entry.source) for entry in entries)
    assert counts.by_reason == Counter((entry.state, entry.reason) for entry in entries if entry.reason)
    assert counts.conflicts == sum(entry.conflict_with is not None for entry in entries)
    assert len(found) > 3


def test_a_count_that_is_wrong_is_found_by_reconcile(path: Path, tmp_path: Path) -> None:
    with Ledger.open(path) as ledger:
        begin(ledger, "a")
        finish(ledger, "a", state=InstanceStatus.SKIPPED, reason="duplicate")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE tally SET instances = 7 WHERE state = 'skipped'")
        connection.commit()
    report = reconcile(Folders(path, tmp_path / "media", tmp_path / "metadata.jsonl"))
    assert ("miscounted", "skipped duplicate") in {(fault.kind, fault.subject) for fault in report.faults}


def test_outcomes_are_counted_by_minute_and_by_the_time_since_arrival(path: Path) -> None:
    now = time.time_ns()
    waits_s = {"at once": 0, "soon": 4, "late": 86_000, "next week": 600_000, "clock set back": -3600}
    with Ledger.open(path) as ledger:
        for name, wait_s in waits_s.items():
            begin(ledger, name, size_bytes=10, mtime_ns=now - wait_s * 10**9, source="spool")
            finish(ledger, name)
        begin(ledger, "a file", size_bytes=5, mtime_ns=7, source="folder")
        finish(ledger, "a file", state=InstanceStatus.FAILED, reason="timeout")
    wanted = [("exported", w, n, 10 * n) for w, n in ((1, 2), (5, 1), (86_400, 1), (BEYOND_S, 1))]
    wanted.append(("failed", UNTIMED, 1, 5))
    assert minutes(path, "minute = 0") == wanted
    in_minutes = rows_of(path, "SELECT sum(instances), min(minute) > 0 FROM minute WHERE minute > 0")
    assert in_minutes == [(len(waits_s) + 1, 1)]


def test_minutes_of_long_ago_are_dropped_and_stay_in_the_sum(path: Path) -> None:
    now = time.time_ns() // 60_000_000_000
    with Ledger.open(path) as ledger:
        begin(ledger, "a")
        finish(ledger, "a")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM minute WHERE minute > 0")
        for minute in (now - MINUTES_KEPT - 5, now - 5):
            connection.execute("INSERT INTO minute VALUES (?, 'exported', 1, 1, 0.5, 1)", (minute,))
        connection.commit()
    with Ledger.open(path) as ledger:
        begin(ledger, "b")
        finish(ledger, "b")
    assert minutes(path, f"minute BETWEEN 1 AND {now - MINUTES_KEPT}") == []
    assert minutes(path, f"minute = {now - 5}") == [("exported", 1, 1, 1)]
    assert rows_of(path, "SELECT sum(instances) FROM minute WHERE minute = 0") == [(2,)]


def test_a_ledger_without_kept_numbers_gets_those_of_its_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA_3)
        for number, (state, reason) in enumerate([("exported", None), ("failed", "timeout"), ("skipped", "no_media")]):
            connection.execute(
                """INSERT INTO instance (name, source, size_bytes, mtime_ns, state, reason, attempts, updated_ns,
                duplicate_of, study_instance_uid) VALUES (?, 'folder', 1, 1, ?, ?, 1, 1, ?, '1.2')""",
                (f"{number}", state, reason, "0" if state == "skipped" else None),
            )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA application_id={0x444D4531}")
        connection.execute("PRAGMA user_version=3")
        connection.commit()
    with pytest.raises(LedgerUnusable, match="brought up to date"):
        Ledger.open_read_only(path)
    with Ledger.open(path) as ledger:
        begin(ledger, "new")
        counts = ledger.counts()
        assert ledger.miscounted() == []
    assert (counts.exported, counts.failed, counts.skipped, counts.active) == (1, 1, 1, 1)
    assert (counts.duplicates, counts.by_reason["failed", "timeout"]) == (1, 1)
    with closing(sqlite3.connect(path)) as connection:
        again = "INSERT INTO tally VALUES ('lost', '', '', 1, 0, 0)"
        connection.execute(again)
        connection.execute("PRAGMA user_version=3")  # as after a power cut in the middle
        connection.commit()
    with Ledger.open(path) as ledger:
        assert ledger.miscounted() == []


WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from exporter.results.ledger import InstanceStatus, Ledger
from tests.exporter.ledger_rows import begin, finish
with Ledger.open(Path(sys.argv[1])) as ledger:
    ledger.recover()
    at = ledger.counts().failed
    print("ready", flush=True)
    while True:
        at += 1
        begin(ledger, f"{at}")
        finish(ledger, f"{at}", state=InstanceStatus.FAILED, reason="timeout")
"""


def test_numbers_are_exact_after_a_kill(path: Path) -> None:
    chance = random.Random()  # noqa: S311 - not for secrets
    for _ in range(2):
        command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.01, 0.1))  # the moment does not matter
            process.send_signal(signal.SIGKILL)
    with Ledger.open(path) as ledger:
        assert ledger.miscounted() == []
        failed = ledger.counts().failed
    assert failed > 0
    assert rows_of(path, "SELECT sum(instances) FROM minute WHERE minute = 0") == [(failed,)]
