"""The ledger: every instance in one state, every attempt counted, every name and every line given once."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.errors import OutOfSpace
from exporter.outcome import Exported, InstanceIdentity, MediaFile, MediaType
from exporter.results.ledger import Completed, InstanceStatus, Ledger, LedgerUnusable
from exporter.results.ledger.transitions import output_key
from exporter.services.reserve import FILES, DiskReserve
from tests.exporter import ledger_rows
from tests.exporter.ledger_rows import finish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.results.ledger import InstanceRow
    from exporter.results.ledger.types import Source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "exporter.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger.open(path) as opened:
        yield opened


def begin(
    ledger: Ledger, name: str, *, size_bytes: int = 10, mtime_ns: int = 20, source: Source = "spool"
) -> InstanceRow:
    return ledger_rows.begin(ledger, name, size_bytes=size_bytes, mtime_ns=mtime_ns, source=source)


def identity(uid: str = "1.2.3", content: str = "a") -> InstanceIdentity:
    return InstanceIdentity("1.2.840.10008.5.1.4.1.1.7", uid, "1.2", "1.2.1", content)


def medium(path: str, suffix: str = ".png") -> MediaFile:
    return MediaFile(path, suffix, MediaType.IMAGE, 7, "f" * 64, "png", width=3, height=2)


def export(
    ledger: Ledger, name: str, *files: str, source: Source = "folder", line: bytes | None = None
) -> tuple[str, ...]:
    begin(ledger, name, source=source)
    media = tuple(medium(file, Path(file).suffix) for file in files)
    return finish(ledger, name, state=InstanceStatus.EXPORTED, media=media, settings_sha256="s", line=line)


# -- states and attempts ---------------------------------------------------------------------------------------------


def test_an_attempt_is_counted_before_it_is_made(path: Path, ledger: Ledger) -> None:
    begin(ledger, "a")
    with Ledger.open_read_only(path) as other:
        entry = other.entry("a")
    assert entry is not None
    assert (entry.state, entry.attempts) == (InstanceStatus.ACTIVE, 1)


def test_the_end_of_an_exporter_is_an_interruption_and_no_attempt(path: Path) -> None:
    for interruptions in (1, 2, 3):
        with Ledger.open(path) as ledger:
            assert begin(ledger, "a").attempts == 1
        with Ledger.open(path) as ledger:
            (entry,) = ledger.recover()
            assert (entry.state, entry.attempts, entry.interruptions) == (InstanceStatus.DEFERRED, 0, interruptions)
            assert ledger.interrupted(2) == ({"a": interruptions} if interruptions >= 2 else {})


def test_only_ends_of_the_exporter_during_attempts_alone_speak_against_an_instance(path: Path) -> None:
    def end_during(*names: str) -> dict[str, int]:
        with Ledger.open(path) as ledger:
            for name in names:
                begin(ledger, name)
            ledger.recover()
            return {entry.name: entry.interruptions for entry in ledger.entries()}

    assert end_during("a", "b") == {"a": 1, "b": 1}
    assert end_during("a", "c") == {"a": 2, "b": 1, "c": 1}
    assert end_during("a") == {"a": 3, "b": 1, "c": 1}
    assert end_during("a", "b") == {"a": 4, "b": 1, "c": 1}, "the other one had its outcome and waited"
    assert end_during("b") == {"a": 2, "b": 2, "c": 1}, "exporters end without it, too"
    assert end_during("b") == {"a": 2, "b": 3, "c": 1}
    assert end_during("a") == {"a": 3, "b": 3, "c": 1}, "two that each end every exporter come to an end, too"


@pytest.mark.parametrize("how", ["defer", "retry", "finish", "changed"])
def test_an_attempt_that_ends_by_itself_ends_the_count_of_interruptions(path: Path, how: str) -> None:
    with Ledger.open(path) as ledger:
        for _ in range(3):
            begin(ledger, "a", source="folder")
            assert ledger.interrupt("a", "the folder was gone") > 0
        assert begin(ledger, "a", source="folder").interruptions == 3
        match how:
            case "defer":
                ledger.defer("a", "timeout", "took too long", not_before=0)
            case "retry":
                finish(ledger, "a", state=InstanceStatus.FAILED, reason="internal")
                ledger.retry(name="a")
            case "finish":
                finish(ledger, "a", state=InstanceStatus.FAILED, reason="internal")
            case _:
                begin(ledger, "a", source="folder", mtime_ns=99)
        entry = ledger.entry("a")
        assert entry is not None
        assert entry.interruptions == 0


def test_a_ledger_of_the_schema_before_is_brought_up_to_date(path: Path) -> None:
    with Ledger.open(path) as ledger:
        begin(ledger, "a")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE instance DROP COLUMN interruptions")
        connection.execute("PRAGMA user_version=2")
        connection.commit()
    with Ledger.open(path) as ledger:
        assert [entry.interruptions for entry in ledger.recover()] == [1]


def test_a_deferred_instance_says_when_and_why(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.defer("a", "timeout", "took too long", not_before=1234.5)
    entry = ledger.entry("a")
    assert entry is not None
    assert (entry.state, entry.reason, entry.not_before) == (InstanceStatus.DEFERRED, "timeout", 1234.5)
    assert begin(ledger, "a").attempts == 2


def test_a_withdrawn_attempt_does_not_count(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.withdraw("a")
    assert begin(ledger, "a").attempts == 1


def test_a_spool_file_with_an_outcome_is_never_begun_again(ledger: Ledger) -> None:
    export(ledger, "a", "a.png", source="spool")
    again = begin(ledger, "a")
    assert (again.state, again.attempts) == (InstanceStatus.EXPORTED, 1)
    assert ledger.counts().exported == 1


def test_a_finished_file_of_a_folder_begins_anew(ledger: Ledger) -> None:
    export(ledger, "a", "a.png")
    again = begin(ledger, "a", source="folder")
    assert (again.state, again.attempts) == (InstanceStatus.ACTIVE, 1)


def test_a_file_that_changed_gets_all_its_attempts(ledger: Ledger) -> None:
    begin(ledger, "a", source="folder")
    ledger.defer("a", "timeout", "", not_before=0)
    assert begin(ledger, "a", mtime_ns=21, source="folder").attempts == 1


@pytest.mark.parametrize("state", [InstanceStatus.FAILED, InstanceStatus.QUARANTINED])
def test_retry_makes_what_failed_pending_with_all_attempts_and_may_be_repeated(
    ledger: Ledger, state: InstanceStatus
) -> None:
    for name in ("a", "b", "c"):
        begin(ledger, name)
        finish(ledger, name, state=state, reason="timeout" if name != "c" else "not_dicom")
    assert ledger.retry(reason="timeout") == ["a", "b"]
    assert ledger.retry(reason="timeout") == ["a", "b"]
    assert ledger.retry(name="c") == ["c"]
    assert ledger.retry(name="unheard-of") == []
    assert begin(ledger, "a").attempts == 1
    assert ledger.retry(reason="timeout") == ["b"]


def test_retry_leaves_what_did_not_fail(ledger: Ledger) -> None:
    export(ledger, "a", "a.png")
    assert ledger.retry(name="a") == []
    with pytest.raises(ValueError, match="name or a reason"):
        ledger.retry()


def test_an_outcome_is_given_once_and_only_to_what_was_begun(ledger: Ledger) -> None:
    with pytest.raises(LookupError, match="never begun"):
        finish(ledger, "a", state=InstanceStatus.EXPORTED)
    export(ledger, "a", "a.png")
    with pytest.raises(ValueError, match="exported already"):
        finish(ledger, "a", state=InstanceStatus.FAILED, reason="timeout")
    with pytest.raises(ValueError, match="cannot be deferred"):
        ledger.defer("a", "timeout", "", not_before=0)


@pytest.mark.parametrize("line", [b"{}", b"{}\n{}\n", b"\n"])
def test_what_is_not_one_whole_line_is_refused(ledger: Ledger, line: bytes) -> None:
    begin(ledger, "a")
    with pytest.raises(ValueError, match="line"):
        finish(ledger, "a", line=line)
    entry = ledger.entry("a")
    assert entry is not None
    assert entry.state is InstanceStatus.ACTIVE


def test_counts_are_disjoint_and_complete(ledger: Ledger) -> None:
    for number, state in enumerate(
        (InstanceStatus.EXPORTED, InstanceStatus.SKIPPED, InstanceStatus.FAILED, InstanceStatus.QUARANTINED)
    ):
        name = str(number)
        begin(ledger, name)
        reason = "duplicate" if state is InstanceStatus.SKIPPED else "timeout"
        finish(ledger, name, state=state, reason=reason, duplicate_of="0")
    begin(ledger, "active")
    begin(ledger, "deferred")
    ledger.defer("deferred", "timeout", "", not_before=0)
    counts = ledger.counts()
    assert (counts.active, counts.deferred, counts.exported, counts.skipped, counts.failed, counts.quarantined) == (
        1,
    ) * 6
    assert counts.duplicates == 2, "what failed is no copy of anything"
    assert counts.by_reason["failed", "timeout"] == 1


def test_a_name_that_is_not_utf_8_comes_back_as_it_was(path: Path) -> None:
    name = os.fsdecode(b"caf\xe9/\xff\xfe.dcm")
    with Ledger.open(path) as ledger:
        export(ledger, name, os.fsdecode(b"caf\xe9/\xff\xfe.png"))
    with Ledger.open(path) as ledger:
        assert [entry.name for entry in ledger.entries()] == [name]
        assert [one.file for one in ledger.media(name)] == [os.fsdecode(b"caf\xe9/\xff\xfe.png")]
        assert ledger.unchanged(name, 10, 20, "s")
        found = ledger.inputs([name, "absent"])
        assert list(found) == [name, "absent"]
        assert found["absent"] is None
        row = found[name]
        assert row is not None
        assert row.is_final(10, 20, "s")
        assert not row.is_final(11, 20, "s")


def test_a_rerun_knows_what_is_unchanged(ledger: Ledger) -> None:
    export(ledger, "a", "a.png")
    begin(ledger, "b", source="folder")
    assert ledger.unchanged("a", 10, 20, "s")
    assert not ledger.unchanged("a", 11, 20, "s")
    assert not ledger.unchanged("a", 10, 21, "s")
    assert not ledger.unchanged("a", 10, 20, "other settings")
    assert not ledger.unchanged("b", 10, 20, "s")


# -- shared transactions ---------------------------------------------------------------------------------------------


def held_back(ledger: Ledger, work: Callable[[int], object], number: int) -> tuple[list[object], int]:
    """Run `work` in threads whose operations all wait for one transaction; results or errors, and transactions used."""
    commits = []
    assert ledger._writer is not None
    connection = ledger._writer._connection
    ledger._writer.run(
        lambda _: connection.set_trace_callback(
            lambda statement: commits.append(statement) if statement == "COMMIT" else None
        )
    )
    commits.clear()
    gate, held = threading.Event(), threading.Event()

    def hold(_: sqlite3.Connection) -> None:
        held.set()
        gate.wait(10)

    def attempt(index: int) -> object:
        try:
            return work(index)
        except (ValueError, LookupError) as error:
            return error

    with ThreadPoolExecutor(number + 1) as threads:
        holder = threads.submit(ledger._writer.run, hold)
        assert held.wait(100)
        futures = [threads.submit(attempt, index) for index in range(number)]
        deadline = time.monotonic() + 100
        while len(ledger._writer._queue) < number:
            assert time.monotonic() < deadline, "the operations do not come together"
        gate.set()
        holder.result()
        results = [future.result() for future in futures]
    return results, len(commits) - 1  # without the one that held everybody


def test_operations_that_arrive_together_share_one_transaction(ledger: Ledger) -> None:
    results, commits = held_back(ledger, lambda index: begin(ledger, f"{index}"), 12)
    assert commits == 1
    assert len(results) == 12
    assert ledger.counts().active == 12


def test_a_failed_neighbour_in_the_same_transaction_hurts_nobody(ledger: Ledger) -> None:
    for index in range(6):
        begin(ledger, f"{index}")

    def work(index: int) -> object:
        name = f"{index}" if index != 3 else "never begun"
        return finish(
            ledger, name, state=InstanceStatus.EXPORTED, media=(medium(f"{index}.png"),), line=b'{"n":%d}\n' % index
        )

    results, commits = held_back(ledger, work, 6)
    assert commits == 1
    assert [type(result) for result in results] == [tuple] * 3 + [LookupError] + [tuple] * 2
    assert ledger.counts().exported == 5
    assert len(ledger.outbox(0)) == 5


def test_half_an_outcome_is_never_kept(ledger: Ledger) -> None:
    export(ledger, "a", "taken.png", line=b'{"n":1}\n')
    begin(ledger, "b")
    with pytest.raises(ValueError, match="belongs to another"):
        finish(
            ledger,
            "b",
            state=InstanceStatus.EXPORTED,
            media=(medium("free.png"), medium("TAKEN.png")),
            line=b'{"n":2}\n',
        )
    assert ledger.media("b") == ()
    assert len(ledger.outbox(0)) == 1
    entry = ledger.entry("b")
    assert entry is not None
    assert entry.state is InstanceStatus.ACTIVE


def test_lines_are_numbered_and_placed_without_gaps_whatever_the_threads(ledger: Ledger) -> None:
    numbers = count()

    def work(_: int) -> None:
        for _ in range(25):
            name = f"n{next(numbers)}"
            begin(ledger, name)
            finish(ledger, name, state=InstanceStatus.EXPORTED, line=b'{"name":"%s"}\n' % name.encode())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    lines = ledger.outbox(0)
    assert [line.seq for line in lines] == list(range(1, 101))
    assert [line.position for line in lines] == [sum(line.length for line in lines[:index]) for index in range(100)]
    assert ledger.line_end(100) == sum(line.length for line in lines)


def test_a_line_that_says_what_the_newest_says_is_not_written_again(ledger: Ledger) -> None:
    for line in (b'{"a":1}\n', b'{"a":1}\n', b'{"a":2}\n', b'{"a":1}\n'):
        export(ledger, "a", line=line)
    export(ledger, "b", line=b'{"a":1}\n')
    assert [one.text for one in ledger.outbox(0)] == [b'{"a":1}\n', b'{"a":2}\n', b'{"a":1}\n', b'{"a":1}\n']
    assert [entry.line_seq for entry in ledger.entries()] == [3, 4]


def test_the_outbox_comes_in_portions_and_never_empty_while_there_is_more(ledger: Ledger) -> None:
    for index in range(5):
        export(ledger, f"{index}", line=b'{"n":"%s"}\n' % (b"x" * 100))
    assert [line.seq for line in ledger.outbox(0, limit=2)] == [1, 2]
    assert [line.seq for line in ledger.outbox(2, max_bytes=1)] == [3]
    assert ledger.outbox(5) == []


def test_many_outcomes_at_once_are_one_operation(ledger: Ledger) -> None:
    ledger.begin_many(ledger_rows.work(f"{index}") for index in range(3))
    outcome = Exported(ledger_rows.NOBODY, (), "{}", "", "")
    with pytest.raises(LookupError):
        ledger.finish_many(Completed(ledger_rows.work(name), outcome) for name in ("0", "unheard-of"))
    assert ledger.counts().exported == 0
    ledger.finish_many(Completed(ledger_rows.work(f"{index}"), outcome) for index in range(3))
    assert ledger.counts().exported == 3


def test_the_closed_ledger_says_so(path: Path) -> None:
    ledger = Ledger.open(path)
    ledger.close()
    with pytest.raises(LedgerUnusable, match="closed"):
        begin(ledger, "a")


def test_every_commit_is_synced(ledger: Ledger) -> None:
    assert ledger._writer is not None
    assert ledger._writer.run(lambda connection: connection.execute("PRAGMA synchronous").fetchone()) == (2,)
    assert ledger._reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.peer
def test_the_log_is_fsynced_before_a_caller_goes_on(peer: Callable[[str], str], tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from exporter.results.ledger import Ledger, WorkItem
with Ledger.open(Path(sys.argv[1])) as ledger:
    for n in range(5):
        os.write(1, b"before %d" % n)
        ledger.begin_attempt(WorkItem(str(n), Path(), 1, 2, "folder"))
        os.write(1, b"after %d" % n)
"""
    trace = tmp_path / "trace"
    command = [peer("strace"), "-f", "-y", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", str(trace)]
    done = subprocess.run(
        [*command, sys.executable, "-c", program, str(tmp_path / "exporter.db")], capture_output=True, check=False
    )
    if b"ptrace" in done.stderr.lower():
        pytest.skip("processes may not be traced here")
    assert done.returncode == 0, done.stderr
    lines = trace.read_text().splitlines()
    for number in range(5):
        start = next(index for index, line in enumerate(lines) if f'"before {number}"' in line)
        end = next(index for index, line in enumerate(lines) if f'"after {number}"' in line)
        between = [line for line in lines[start:end] if "exporter.db-wal" in line]
        written = [index for index, line in enumerate(between) if "write" in line]
        synced = [index for index, line in enumerate(between) if "sync(" in line]
        assert written
        assert synced
        assert max(synced) > max(written), "the last write to the log was not synced before begin returned"


# -- identities ------------------------------------------------------------------------------------------------------


def test_the_same_instance_again_is_a_duplicate_and_other_content_a_conflict(ledger: Ledger) -> None:
    for name, content in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")):
        begin(ledger, name)
        relation = ledger.identify(name, identity(content=content))
        finish(
            ledger,
            name,
            state=InstanceStatus.EXPORTED,
            identity=identity(content=content),
            duplicate_of=relation.duplicate_of,
            conflict=relation.conflict_with,
        )
    entries = {entry.name: (entry.duplicate_of, entry.conflict_with) for entry in ledger.entries()}
    assert entries == {"a": (None, None), "b": ("a", None), "c": (None, "a"), "d": ("c", "a")}
    assert ledger.counts().duplicates == 2
    assert ledger.counts().conflicts == 2
    other = ledger.conflict_with(identity(content="y"))
    assert other is not None
    assert other.name == "a"


def test_of_equal_instances_under_way_at_once_exactly_one_is_no_duplicate(ledger: Ledger) -> None:
    barrier = threading.Barrier(8)

    def work(index: int) -> str | None:
        begin(ledger, f"{index}")
        barrier.wait(100)
        return ledger.identify(f"{index}", identity()).duplicate_of

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(work, range(8)))
    assert found.count(None) == 1
    assert {name for name in found if name} <= {str(found.index(None))}


def test_two_copies_never_point_at_each_other(ledger: Ledger) -> None:
    begin(ledger, "a")
    begin(ledger, "b")
    assert ledger.identify("a", identity()).duplicate_of is None
    assert ledger.identify("b", identity()).duplicate_of == "a"
    finish(ledger, "b", state=InstanceStatus.SKIPPED, reason="duplicate", identity=identity(), duplicate_of="a")
    ledger.defer("a", "timeout", "", not_before=0)
    begin(ledger, "a")
    assert ledger.identify("a", identity()).duplicate_of is None


def test_an_instance_is_no_duplicate_of_itself(ledger: Ledger) -> None:
    begin(ledger, "a", source="folder")
    finish(ledger, "a", state=InstanceStatus.EXPORTED, identity=identity())
    begin(ledger, "a", source="folder")
    assert ledger.identify("a", identity()).duplicate_of is None
    assert ledger.identify("a", identity(content="changed")).conflict_with is None


def test_instances_without_a_uid_do_not_conflict(ledger: Ledger) -> None:
    begin(ledger, "a")
    begin(ledger, "b")
    ledger.identify("a", identity("", "x"))
    assert ledger.identify("b", identity("", "y")).conflict_with is None


# -- output names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "first_suffixes", "second", "second_suffixes"),
    [
        ("b", [".mp4"], "b", [".mp4"]),
        ("b", [".png"], "b", [".mp4"]),
        ("Case", [".png"], "cASE", [".png"]),
        ("stra\u00dfe", [".png"], "STRASSE", [".png"]),
        ("e\u0301", [".png"], "\u00e9", [".png"]),
        ("x", [".raw.png"], "x.raw", [".png"]),
        ("x.raw", [".png", ".json"], "x", [".png", ".raw.png"]),
        ("x", ["/"], "x/000", [".png"]),
        ("x/000", [".png"], "x", ["/"]),
        ("x/y/z", [".png"], "X", ["/"]),
        ("x.png", ["/"], "x", [".png"]),
    ],
)
@pytest.mark.parametrize("committed", [True, False])
def test_no_two_instances_share_an_output(
    ledger: Ledger, first: str, first_suffixes: list[str], second: str, second_suffixes: list[str], *, committed: bool
) -> None:
    begin(ledger, "one")
    begin(ledger, "two")
    assert ledger.reserve_base(first, "one", suffixes=first_suffixes) == first
    if committed:
        media = tuple(medium(first + suffix, suffix) for suffix in first_suffixes)
        finish(ledger, "one", state=InstanceStatus.EXPORTED, media=media)
    given_base = ledger.reserve_base(second, "two", suffixes=second_suffixes)
    assert given_base != second
    assert second in given_base
    media = tuple(medium(given_base + suffix, suffix) for suffix in second_suffixes)
    finish(ledger, "two", state=InstanceStatus.EXPORTED, media=media)


def test_names_that_only_look_alike_are_both_given(ledger: Ledger) -> None:
    begin(ledger, "one")
    begin(ledger, "two")
    begin(ledger, "three")
    assert ledger.reserve_base("s/1.2.3", "one", suffixes=[".png"]) == "s/1.2.3"
    assert ledger.reserve_base("s/1.2.3.4", "two", suffixes=[".png"]) == "s/1.2.3.4"
    assert ledger.reserve_base("s/1.2.30", "three", suffixes=["/"]) == "s/1.2.30"


def test_an_instance_keeps_its_name_when_it_is_exported_anew(ledger: Ledger) -> None:
    for name in ("one", "two"):
        begin(ledger, name, source="folder")
        base = ledger.reserve_base("b", name, suffixes=[".png"])
        finish(ledger, name, state=InstanceStatus.EXPORTED, media=(medium(f"{base}.png"),))
    for name, expected in (("two", "b-2"), ("one", "b")):
        begin(ledger, name, source="folder")
        assert ledger.reserve_base("b", name, suffixes=[".mp4"]) == expected


def test_a_reservation_ends_with_the_attempt(ledger: Ledger) -> None:
    begin(ledger, "one")
    begin(ledger, "two")
    ledger.reserve_base("b", "one", suffixes=[".png"])
    ledger.defer("one", "timeout", "", not_before=0)
    assert ledger.reserve_base("b", "two", suffixes=[".png"]) == "b"


def test_a_file_that_is_in_the_way_is_not_taken_but_ones_own_is(ledger: Ledger) -> None:
    begin(ledger, "one", source="folder")
    there = {"b.png"}
    assert ledger.reserve_base("b", "one", suffixes=[".png"], taken=there.__contains__) == "b-2"
    finish(ledger, "one", state=InstanceStatus.EXPORTED, media=(medium("b-2.png"),))
    there.add("b-2.png")
    begin(ledger, "one", source="folder")
    assert ledger.reserve_base("b-2", "one", suffixes=[".png"], taken=there.__contains__) == "b-2"


def test_when_no_name_is_left_it_says_so(ledger: Ledger) -> None:
    begin(ledger, "one")
    with pytest.raises(LookupError, match="no output name"):
        ledger.reserve_base("b", "one", suffixes=[".png"], alternatives=["c"], taken=lambda _: True)


_WORDS = st.lists(st.sampled_from(["a", "A", "a.raw", "x", "\u00e9", "e\u0301"]), min_size=1, max_size=3).map("/".join)
_SUFFIXES = st.sets(st.sampled_from([".png", ".raw.png", ".mp4", "/", ".frames/"]), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_WORDS, _SUFFIXES, st.booleans()), min_size=2, max_size=8))
def test_whatever_is_asked_for_no_output_is_or_contains_another(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[str, set[str], bool]]
) -> None:
    outputs: list[str] = []
    with Ledger.open(tmp_path_factory.mktemp("names") / "exporter.db") as ledger:
        for index, (base, suffixes, committed) in enumerate(wanted):
            begin(ledger, f"{index}")
            # One instance's own outputs may not collide either; the writers' suffixes do not.
            chosen = sorted(suffixes)
            given_base = ledger.reserve_base(base, f"{index}", suffixes=chosen)
            mine = [output_key(given_base + suffix).rstrip("/") for suffix in chosen]
            for other in outputs:
                for one in mine:
                    assert one != other
                    assert not one.startswith(f"{other}/")
                    assert not other.startswith(f"{one}/")
            outputs += mine
            if committed:
                media = tuple(medium(given_base + suffix, suffix) for suffix in chosen)
                finish(ledger, f"{index}", state=InstanceStatus.EXPORTED, media=media)


# -- media of an earlier export --------------------------------------------------------------------------------------


def test_media_that_are_replaced_are_told_until_they_are_gone(path: Path) -> None:
    with Ledger.open(path) as ledger:
        export(ledger, "a", "a.png", "a.json")
        assert export(ledger, "a", "a.png", "a.mp4") == ("a.json",)
    with Ledger.open(path) as ledger:  # a crash came between
        assert ledger.superseded() == ["a.json"]
        assert ledger.owns("a.json")
        begin(ledger, "b")
        assert ledger.reserve_base("a", "b", suffixes=[".json"]) == "a-2"
        ledger.forget_superseded(["a.json"])
        assert ledger.superseded() == []
        assert not ledger.owns("a.json")


def test_a_path_that_is_used_again_is_not_to_be_deleted(ledger: Ledger) -> None:
    export(ledger, "a", "a.png")
    export(ledger, "a", "a.mp4")
    assert ledger.superseded() == ["a.png"]
    export(ledger, "a", "a.png")
    assert ledger.superseded() == ["a.mp4"]


def test_a_failure_leaves_the_earlier_export_and_its_line_in_force(ledger: Ledger) -> None:
    export(ledger, "a", "a.png", line=b'{"n":1}\n')
    begin(ledger, "a", source="folder")
    assert finish(ledger, "a", state=InstanceStatus.FAILED, reason="timeout") == ()
    entry = ledger.entry("a")
    assert entry is not None
    assert (entry.state, entry.line_seq) == (InstanceStatus.FAILED, 1)
    assert [one.file for one in ledger.media("a")] == ["a.png"]


def test_an_instance_that_has_a_line_and_no_media_any_more_gives_up_its_media(ledger: Ledger) -> None:
    export(ledger, "a", "a.png", line=b'{"n":1}\n')
    begin(ledger, "a", source="folder")
    assert finish(ledger, "a", state=InstanceStatus.SKIPPED, reason="no_media", line=b'{"n":2}\n') == ("a.png",)
    assert ledger.media("a") == ()


def test_files_inside_a_folder_of_frames_are_owned(ledger: Ledger) -> None:
    begin(ledger, "a")
    finish(ledger, "a", state=InstanceStatus.EXPORTED, media=(medium("s/a.frames/", ".frames/"),))
    assert ledger.owns("s/a.frames/0001.png")
    assert ledger.owns("S/A.FRAMES/0001.png")
    assert not ledger.owns("s/a.png")


# -- the database ----------------------------------------------------------------------------------------------------


def test_a_second_exporter_is_refused_a_command_beside_it_is_not(path: Path, ledger: Ledger) -> None:
    begin(ledger, "a")
    with pytest.raises(LedgerUnusable, match=r"another exporter.*choose another folder"):
        Ledger.open(path)
    finish(ledger, "a", state=InstanceStatus.QUARANTINED, reason="timeout")
    with Ledger.open(path, exclusive=False) as beside:
        assert beside.retry(name="a") == ["a"]
    assert begin(ledger, "a").attempts == 1


def test_the_lock_ends_with_the_ledger(path: Path) -> None:
    Ledger.open(path).close()
    Ledger.open(path).close()


def test_a_file_system_without_hard_links_gets_a_ledger_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # what FAT answers

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    threads, path = 8, tmp_path / "exporter.db"

    def begin(number: int) -> None:
        with Ledger.open(path, exclusive=False) as ledger:
            ledger_rows.begin(ledger, f"{number}", size_bytes=1, mtime_ns=2, source="folder")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(begin, range(threads)))
    with Ledger.open(path) as ledger:
        assert ledger.counts().active == threads  # nobody replaced the ledger that another had written to
    assert not list(tmp_path.glob("*.making-*"))


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    Ledger.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    before = path.read_bytes()
    for opening in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(LedgerUnusable, match=r"newer version.*use the newer version"):
            opening(path)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (a)")
        connection.commit()
    with pytest.raises(LedgerUnusable, match="not a ledger"):
        Ledger.open(path)


@pytest.mark.parametrize("content", [b"not a database" * 100, b"\0" * 4096])
def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(LedgerUnusable, match=r"damaged|not a ledger|not an SQLite"):
        Ledger.open(path)
    assert path.read_bytes() == content


def test_a_damaged_page_is_an_unusable_ledger_not_a_wrong_answer(path: Path) -> None:
    with Ledger.open(path) as ledger:
        for index in range(300):
            export(ledger, f"name {index}", f"{index}.png", line=b'{"n":"%s"}\n' % os.urandom(200).hex().encode())
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(LedgerUnusable, match=r"damaged.*reconcile --rebuild"), Ledger.open(path) as ledger:
        list(ledger.entries())


def test_a_ledger_that_another_process_keeps_locked_is_said_to_be(path: Path) -> None:
    Ledger.open(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with Ledger.open(path, busy_timeout_s=0.05) as ledger:
            with pytest.raises(LedgerUnusable, match="locked"):
                begin(ledger, "a")
            other.execute("ROLLBACK")
            begin(ledger, "a")


def test_where_there_is_none_reading_says_so_and_makes_none(path: Path) -> None:
    with pytest.raises(LedgerUnusable, match="there is none"):
        Ledger.open_read_only(path)
    assert not path.exists()


def test_a_folder_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnusable, match="folder exists"):
        Ledger.open(tmp_path / "nowhere" / "exporter.db")


def test_reading_only_never_writes(path: Path, ledger: Ledger) -> None:
    begin(ledger, "a")
    with Ledger.open_read_only(path) as reader:
        assert reader.counts().active == 1
        with pytest.raises(LedgerUnusable, match="reading only"):
            begin(reader, "b")
        begin(ledger, "c")
        assert reader.counts().active == 2


def test_a_finished_ledger_can_be_read_from_a_read_only_folder(path: Path) -> None:
    with Ledger.open(path) as ledger:
        begin(ledger, "a")
    assert not path.with_name("exporter.db-wal").exists()
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        with Ledger.open_read_only(path) as reader:
            assert reader.counts().active == 1
    finally:
        path.parent.chmod(0o700)


def test_what_it_holds_is_for_its_owner_alone(path: Path, ledger: Ledger) -> None:
    begin(ledger, "a")
    files = list(path.parent.iterdir())
    assert {file.name for file in files} >= {"exporter.db", "exporter.db-wal", "exporter.db-shm", "exporter.db.lock"}
    assert {file.stat().st_mode & 0o077 for file in files} == {0}


def test_a_full_disk_is_said_to_be_and_passes(small_disk: Path, fill: Callable[[Path], None]) -> None:
    filler = small_disk / "filler"
    with Ledger.open(small_disk / "exporter.db") as ledger:
        begin(ledger, "a")
        fill(filler)
        done = begin_until_full(ledger)
        filler.unlink()
        begin(ledger, "after")
        assert {entry.name for entry in ledger.entries()} == {"a", *done, "after"}
        assert ledger.problem() is None


def begin_until_full(ledger: Ledger) -> list[str]:
    done: list[str] = []
    for index in range(10_000):
        try:
            begin(ledger, f"{index}")
        except OutOfSpace:
            return done
        done.append(f"{index}")
    pytest.fail("the disk never became full")


@pytest.mark.parametrize(
    ("what", "statement"),
    [
        ("an instance by name", "SELECT * FROM instance WHERE name = CAST(? AS TEXT)"),
        ("instances by state", "SELECT * FROM instance WHERE state = ?"),
        ("counts", "SELECT state, reason, count(*) FROM instance GROUP BY state, reason"),
        ("duplicates", "SELECT count(*) FROM instance WHERE duplicate_of IS NOT NULL"),
        ("instances by UID", "SELECT name FROM instance WHERE sop_instance_uid = ? AND duplicate_of IS NULL"),
        ("a base", "SELECT id FROM instance WHERE base_key = CAST(? AS TEXT)"),
        ("an output", "SELECT instance_id FROM medium WHERE path_key = CAST(? AS TEXT)"),
        ("outputs in a folder", "SELECT instance_id FROM medium WHERE path_key > CAST(? AS TEXT) AND path_key < 'x'"),
        ("media of an instance", "SELECT path FROM medium WHERE instance_id = ? ORDER BY position"),
        ("lines", "SELECT * FROM line WHERE seq > ? ORDER BY seq"),
    ],
)
def test_a_million_instances_are_never_walked_for_one_answer(ledger: Ledger, what: str, statement: str) -> None:
    plan = ledger._reader.execute(f"EXPLAIN QUERY PLAN {statement}", ("x",) * statement.count("?")).fetchall()
    steps = [row[3] for row in plan]
    assert all("SEARCH" in step or "COVERING INDEX" in step for step in steps), (what, steps)


def test_what_ends_an_attempt_gets_the_reserve_of_a_full_disk_and_what_begins_one_does_not(
    small_disk: Path, fill: Callable[[Path], None]
) -> None:
    reserve = DiskReserve(small_disk / "reserve", 256 << 10)
    with Ledger.open(small_disk / "exporter.db") as ledger:
        for name in ("a", "b"):
            ledger_rows.begin(ledger, name, size_bytes=1, mtime_ns=1, source="spool")
        assert reserve.fill()
        fill(small_disk / "ballast")
        with pytest.raises(OutOfSpace):
            ledger.begin_many(ledger_rows.work(f"{number:0200}", source="spool") for number in range(10_000))
        with closing(sqlite3.connect(small_disk / "exporter.db")) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        fill(small_disk / "more ballast")  # what moving the log into the database has freed
        with pytest.raises(OutOfSpace):
            finish(ledger, "a", state=InstanceStatus.QUARANTINED, reason="unreadable", message="x" * 10_000)
        ledger.when_full = reserve.release
        with pytest.raises(OutOfSpace):
            ledger_rows.begin(ledger, "c", size_bytes=1, mtime_ns=1, source="spool")
        finish(ledger, "a", state=InstanceStatus.QUARANTINED, reason="unreadable", message="x" * 10_000)
        ledger.withdraw("b")
        assert not reserve.release()
        entry = ledger.entry("a")
        assert entry is not None
        assert entry.state is InstanceStatus.QUARANTINED


def test_the_log_of_a_ledger_that_is_gone_does_not_get_into_the_next_one(path: Path) -> None:
    program = f"""
import os, sqlite3
from pathlib import Path
from exporter.results.ledger import Ledger, WorkItem
ledger = Ledger.open(Path({str(path)!r}))
for number in range(300):
    ledger.begin_attempt(WorkItem(f"{{number:0200}}", Path(), 1, 1, "spool"))
with sqlite3.connect({str(path)!r}) as other:
    other.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
ledger.begin_attempt(WorkItem("one more", Path(), 1, 1, "spool"))
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[3])
    log = Path(f"{path}-wal")
    assert log.stat().st_size
    path.unlink()
    with Ledger.open(path) as ledger:
        assert ledger.problem() is None
        assert list(ledger.entries()) == []
        begin(ledger, "a")
    assert len(list(path.parent.glob("exporter.db.lost-*-wal"))) == 1
    with Ledger.open(path) as ledger:
        assert [entry.name for entry in ledger.entries()] == ["a"]


def test_a_log_that_has_filled_the_disk_is_moved_into_the_database(small_disk: Path) -> None:
    reserve = DiskReserve(small_disk / "reserve", 512 << 10)
    assert reserve.fill()
    with Ledger.open(small_disk / "exporter.db") as ledger:
        ledger.when_full = reserve.release
        ledger_rows.begin(ledger, "a", size_bytes=1, mtime_ns=1, source="spool")
        for number in range(1000):  # each a few pages of log, and none of the database
            ledger.defer("a", "timeout", f"{number:5}" * 500, 0.0)
        entry = ledger.entry("a")
        assert entry is not None
        assert entry.message.startswith("  999")


def test_a_reserve_holds_bytes_and_inodes_and_is_not_taken_back_at_once(tmp_path: Path) -> None:
    reserve = DiskReserve(tmp_path / "reserve", 1 << 20)
    assert not reserve.release()
    assert DiskReserve(tmp_path / "reserve", 1 << 20).fill()
    kept = list((tmp_path / "reserve").iterdir())
    assert len(kept) == FILES
    assert sum(path.stat().st_blocks * 512 for path in kept) >= 1 << 20
    assert reserve.release()
    assert not reserve.fill()
    assert list((tmp_path / "reserve").iterdir()) == []
    assert DiskReserve(tmp_path / "reserve", 1 << 20).fill()
    assert DiskReserve(tmp_path / "reserve", 0).fill()  # no longer wanted: what an earlier run kept is given up
    assert list((tmp_path / "reserve").iterdir()) == []


# -- files that somebody removes while it is open ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_log_that_is_removed_under_a_ledger_is_noticed_and_what_it_held_is_saved(path: Path, suffix: str) -> None:
    with Ledger.open(path) as ledger:
        for number in range(20):
            export(ledger, f"{number}", f"{number}.png")
        ledger.check()
        Path(f"{path}{suffix}").unlink()
        export(ledger, "after", "after.png")
        with pytest.raises(LedgerUnusable, match=f"exporter.db{suffix}.*removed.*saved in the database; start again"):
            ledger.check()
        with Ledger.open_read_only(path) as looking:  # who looks now keeps SQLite from saving anything at the end
            assert looking.counts().exported == 21
            export(ledger, "last", "last.png")
            ledger.close()
    with Ledger.open(path) as ledger:
        assert ledger.counts().exported == 22
        assert ledger.problem() is None


def test_a_log_in_whose_place_is_another_is_noticed_and_not_written_over_it(path: Path) -> None:
    with Ledger.open(path) as ledger:
        export(ledger, "a", "a.png")
        log = Path(f"{path}-wal")
        log.unlink()
        log.write_bytes(b"another's")
        with pytest.raises(LedgerUnusable, match=r"exporter.db-wal.*replaced.*--rebuild"):
            ledger.check()
        assert log.read_bytes() == b"another's"


def test_a_lock_that_is_removed_under_a_ledger_is_noticed(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.check()
        path.with_name("exporter.db.lock").unlink()
        with pytest.raises(LedgerUnusable, match="another exporter could start"):
            ledger.check()
