"""Every instance that is handed in comes back once, with a verdict or without one, whatever its worker does."""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from exporter.errors import OutOfSpace, Reason, SkipReason, StorageUnavailable
from exporter.outcome import Exported, Failed, Skipped
from exporter.results import intents
from exporter.results.ledger import Completed, InstanceStatus, Ledger, WorkItem
from exporter.results.metadata.jsonl import Appender
from exporter.results.publish import NameChoice, Publisher
from exporter.work import engine as engine_module
from exporter.work import isolation, scheduling
from exporter.work.contract import Deferred, HeldBack, KnownOutcome, PublishedResult, Result, Returned
from exporter.work.engine import Engine, EnginePolicy
from exporter.work.supervisor import Worker, WorkerSetup, WorkerUnstartable
from tests.exporter.ledger_rows import begin
from tests.exporter.work.test_supervisor import descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from exporter.results.ledger.types import InstanceRow


class EngineHarness:
    """An engine over workers of `misbehaving`, and what it needs."""

    def __init__(self, root: Path, *, workers: int = 1, settings: dict[str, Any] | None = None, **policy: Any) -> None:
        self.root = root
        self.media = root / "media"
        self.ledger = Ledger.open(root / "exporter.db")
        intents.recover(self.media, self.ledger)
        self.ledger.recover()
        self.appender = Appender(root / "metadata.jsonl", self.ledger)
        publisher = Publisher(self.media, self.ledger, NameChoice("{SOPInstanceUID}"), settings_sha256="s", version="1")
        setup = WorkerSetup(settings or {}, target="tests.exporter.misbehaving:prepare", wall_s=30)
        self.engine = Engine(
            self.media,
            self.ledger,
            publisher,
            self.appender,
            runners=[Worker(setup) for _ in range(workers)],
            policy=EnginePolicy(**{"attempts": 2, "retry_after_s": 0.01, **policy}),
        )
        self.engine.start()

    def work(self, name: str, data: bytes = b"pixels") -> WorkItem:
        path = self.root / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return WorkItem(name, path, len(data), 1, "spool")

    def submit(self, *names: str) -> None:
        for name in names:
            self.engine.submit(self.work(name))

    def next(self, seconds: float = 20) -> Result:
        deadline = time.monotonic() + seconds
        while True:
            self.engine.check()
            try:
                return self.engine.results.get(timeout=0.1)
            except queue.Empty:
                assert time.monotonic() < deadline, "no result"

    def attempts(self, name: str) -> int:
        entry = self.ledger.entry(name)
        assert entry is not None
        return entry.attempts

    def close(self) -> None:
        self.engine.stop()
        self.appender.close()
        self.ledger.close()


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Callable[..., EngineHarness]]:
    made: list[EngineHarness] = []

    def make(root: Path = tmp_path, **arguments: Any) -> EngineHarness:
        made.append(EngineHarness(root, **arguments))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_an_instance_is_exported_committed_and_told(harness: Callable[..., EngineHarness]) -> None:
    one = harness()
    one.submit("export.dcm")
    result = one.next()
    assert isinstance(result, PublishedResult)
    assert isinstance(result.outcome, Exported)
    assert [p.name for p in one.media.glob("*.png")] == ["1.2.3.png"]
    assert (one.root / "metadata.jsonl").read_bytes().count(b"\n") == 1


def test_a_crash_is_tried_once_more_and_then_final_and_harms_nobody_else(harness: Callable[..., EngineHarness]) -> None:
    one = harness()
    one.submit("crash.dcm", "plain.dcm")
    deferred = one.next()
    assert isinstance(deferred, Deferred)
    assert deferred.due <= time.monotonic() + 1
    assert isinstance(one.next(), PublishedResult)
    entry = one.ledger.entry("crash.dcm")
    assert entry is not None
    assert entry.state is InstanceStatus.DEFERRED
    one.engine.submit(deferred.work)
    final = one.next()
    assert isinstance(final, PublishedResult)
    assert isinstance(final.outcome, Failed)
    assert final.outcome.reason is Reason.DECODER_CRASH
    assert one.attempts("crash.dcm") == 2
    assert one.ledger.counts().quarantined == 1


def test_workers_that_are_killed_beside_others_are_no_verdict_and_their_instances_run_alone(
    harness: Callable[..., EngineHarness],
) -> None:
    one = harness(workers=2, skip_duplicates=False)
    names = [f"shared.{number}.dcm" for number in range(6)]
    one.submit(*names)
    results = [one.next(60) for _ in names]
    assert [result.outcome.message for result in results if isinstance(result, Deferred)] == []
    assert one.ledger.counts().skipped == 6
    assert one.ledger.counts().quarantined == 0
    assert one.engine.memory_problem == "memory is short: running 1 of 2 workers"
    assert [one.attempts(name) for name in names] == [1] * 6


def test_an_instance_whose_worker_is_killed_although_it_is_alone_stays_pending(
    harness: Callable[..., EngineHarness],
) -> None:
    one = harness(workers=2)
    one.submit("killed.dcm")
    for _ in range(4):
        result = one.next(60)
        assert isinstance(result, Deferred)
        assert result.memory_short
        assert one.attempts("killed.dcm") == 0
        entry = one.ledger.entry("killed.dcm")
        assert entry is not None
        assert (entry.state, entry.reason) == (InstanceStatus.DEFERRED, "memory_short")
        assert "memory is short" in entry.message
        one.engine.submit(result.work)
    one.submit("plain.dcm")
    found = [one.next(60), one.next(60)]
    assert {type(result) for result in found} == {Deferred, PublishedResult}


def test_two_instances_that_take_long_do_not_hold_both_workers(
    harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "QUICK_S", 0.5)
    one = harness(workers=2, skip_duplicates=False)
    one.submit("hang.1.dcm", "hang.2.dcm", "plain.1.dcm", "plain.2.dcm", "plain.3.dcm")
    done = [one.next(60) for _ in range(3)]
    assert sorted(result.work.name for result in done) == ["plain.1.dcm", "plain.2.dcm", "plain.3.dcm"]
    assert {type(result) for result in done} == {PublishedResult}
    one.engine.stop(0.2)
    assert one.attempts("hang.1.dcm") == one.attempts("hang.2.dcm") == 0


def test_what_needs_no_worker_is_counted_and_committed_in_batches(
    harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin_many = Ledger.begin_many

    def counted(self: Ledger, works: Iterable[WorkItem], numbers: Iterable[int] | None = None) -> list[InstanceRow]:
        wanted = list(works)
        begun.append(len(wanted))
        return begin_many(self, wanted, numbers)

    monkeypatch.setattr(Ledger, "begin_many", counted)
    one = harness()
    for number in range(256):
        one.engine.submit(replace(one.work(f"{number}.fifo"), decided=Skipped(SkipReason.NOT_REGULAR, "a pipe")))
    for _ in range(256):
        assert isinstance(one.next(60), PublishedResult)
    assert sum(begun) == 256
    assert len(begun) < 64, "a transaction for each costs a sync for each"
    assert one.ledger.counts().skipped == 256


def test_a_clock_that_is_set_while_it_runs_delays_no_attempt(
    harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = harness(retry_after_s=0.5)
    ahead_s = 10 * 365 * 86400
    wrong = time.time() + ahead_s
    monkeypatch.setattr(time, "time", lambda: wrong)
    one.submit("crash.dcm")
    deferred = one.next()
    assert isinstance(deferred, Deferred)
    assert deferred.due <= time.monotonic() + 0.5
    monkeypatch.undo()
    overdue = one.ledger.overdue(time.time())
    assert (overdue.late, overdue.too_far, overdue.furthest) == (0, 1, wrong + 0.5)
    assert one.ledger.overdue(wrong + 7200).late == 1


@pytest.mark.parametrize(("attempts", "longest_s"), [(1, 5), (2, 5), (3, 20), (9, 3600), (1000, 3600)])
def test_an_instance_is_never_deferred_for_more_than_an_hour(attempts: int, longest_s: float) -> None:
    policy = EnginePolicy(attempts)
    assert policy.longest_wait_s == longest_s
    assert policy.wait_s(attempts) <= 3600


def interrupted(root: Path, name: str, times: int) -> None:
    """Leave behind what exporters that were killed so often over this instance leave."""
    with Ledger.open(root / "exporter.db") as ledger:
        for _ in range(times):
            begin(ledger, name, size_bytes=6, mtime_ns=1, source="spool")
            ledger.recover()


def test_what_was_under_way_when_the_exporter_ended_is_tried_again_however_it_came(
    tmp_path: Path, harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "QUIET_S", 0.0)
    interrupted(tmp_path, "export.dcm", isolation.TOGETHER + isolation.ALONE - 1)
    one = harness()
    one.submit("export.dcm")
    result = one.next()
    assert isinstance(result, PublishedResult)
    assert isinstance(result.outcome, Exported)


def test_what_ended_every_exporter_that_tried_it_alone_is_given_up(
    tmp_path: Path, harness: Callable[..., EngineHarness]
) -> None:
    interrupted(tmp_path, "export.dcm", isolation.TOGETHER + isolation.ALONE)
    one = harness()
    one.submit("export.dcm")
    result = one.next()
    assert isinstance(result, PublishedResult)
    assert isinstance(result.outcome, Failed)
    assert result.outcome.reason is Reason.DECODER_CRASH
    assert "5 attempts" in result.outcome.message
    assert list(one.media.glob("*.png")) == []


def test_a_suspect_waits_until_the_exporter_has_lived_without_it(
    tmp_path: Path, harness: Callable[..., EngineHarness]
) -> None:
    interrupted(tmp_path, "export.dcm", isolation.TOGETHER)
    one = harness()
    one.submit("export.dcm", "plain.dcm")
    held = one.next()
    assert isinstance(held, HeldBack)
    assert 0 < held.wait_s <= isolation.QUIET_S
    assert isinstance(one.next(), PublishedResult), "others go on meanwhile"
    assert one.attempts("export.dcm") == 0, "no attempt was begun"


def test_while_a_suspect_is_under_way_no_other_worker_holds_memory_and_nothing_begins(
    tmp_path: Path, harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "QUIET_S", 0.0)
    interrupted(tmp_path, "hang.dcm", isolation.TOGETHER)
    before = descendants()
    one = harness(workers=3, skip_duplicates=False)
    one.submit("export.dcm")
    assert isinstance(one.next(), PublishedResult)
    one.submit("hang.dcm")
    deadline = time.monotonic() + 100
    while not (one.attempts("hang.dcm") == 1 and len(descendants() - before) == 1):
        assert time.monotonic() < deadline, "the others go on"
        time.sleep(0.05)
    one.submit("plain.dcm")
    one.engine.stop(0.2)
    assert {type(one.engine.results.get_nowait()) for _ in range(2)} == {Returned}
    assert one.ledger.entry("plain.dcm") is None, "no attempt was begun"


def test_nothing_begins_before_the_outcome_of_a_suspect_is_committed(
    tmp_path: Path, harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "QUIET_S", 0.0)
    interrupted(tmp_path, "export.dcm", isolation.TOGETHER)
    begin_many, finish_many = Ledger.begin_many, Ledger.finish_many
    events: list[str] = []
    is_full = threading.Event()
    is_full.set()

    def noted_begin(self: Ledger, works: Iterable[WorkItem], numbers: Iterable[int] | None = None) -> list[InstanceRow]:
        wanted = list(works)
        events.extend(f"begin {work.name}" for work in wanted)
        return begin_many(self, wanted, numbers)

    def noted_finish(self: Ledger, completed: Iterable[Completed]) -> tuple[str, ...]:
        if is_full.is_set():
            raise OutOfSpace("the ledger")
        wanted = list(completed)
        events.extend(f"finish {one.work.name}" for one in wanted)
        return finish_many(self, wanted)

    monkeypatch.setattr(Ledger, "begin_many", noted_begin)
    monkeypatch.setattr(Ledger, "finish_many", noted_finish)
    one = harness(workers=2, skip_duplicates=False)
    one.submit("export.dcm")
    deadline = time.monotonic() + 100
    while one.engine.waits_for is None:
        assert time.monotonic() < deadline, "its outcome does not wait"
        time.sleep(0.01)
    one.submit("plain.dcm")
    is_full.clear()  # the publisher tries again within a second: time enough for a worker that does not wait
    assert {one.next().work.name, one.next().work.name} == {"export.dcm", "plain.dcm"}
    assert events == ["begin export.dcm", "finish export.dcm", "begin plain.dcm", "finish plain.dcm"]


def test_suspects_do_not_wait_for_each_other_and_are_related_all_the_same(
    tmp_path: Path, harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "QUIET_S", 0.0)
    names = [f"export.{number}.dcm" for number in range(6)]
    for name in names[1:]:
        interrupted(tmp_path, name, isolation.TOGETHER)
    one = harness(workers=3)
    one.submit(*names)
    outcomes = []
    for _ in names:
        result = one.next()
        assert isinstance(result, PublishedResult)
        outcomes.append(result.outcome)
    assert sum(isinstance(outcome, Exported) for outcome in outcomes) == 1
    assert one.ledger.counts().duplicates == len(names) - 1


@pytest.mark.parametrize("gone", ["folder", "partial", "input"])
def test_a_folder_of_ours_that_is_gone_for_a_moment_is_no_verdict(
    harness: Callable[..., EngineHarness], gone: str
) -> None:
    one = harness()
    work = one.work("vanish.export.dcm")
    away = one.root / "away"
    place = {"folder": one.media, "partial": one.media / ".partial", "input": work.path.parent}[gone]
    (one.root / "vanish").write_text(str(place))  # the worker takes it away while the instance is under way
    one.engine.submit(work)
    result = one.next()
    assert isinstance(result, Returned)
    assert isinstance(result.condition, StorageUnavailable)
    assert one.attempts(work.name) == 0
    away.rename(place)
    (one.root / "vanish").unlink()
    one.engine.submit(work)
    result = one.next()
    assert isinstance(result, PublishedResult)
    assert isinstance(result.outcome, Exported)


def test_an_instance_whose_folder_of_partial_files_is_taken_away_each_time_is_given_up_in_the_end(
    harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "QUIET_S", 0.0)
    one = harness()
    work = one.work("unfold.dcm")
    for number in range(1, isolation.TOGETHER + isolation.ALONE + 1):
        one.engine.submit(work)
        assert isinstance(one.next(), HeldBack)
        entry = one.ledger.entry(work.name)
        assert entry is not None
        assert (entry.attempts, entry.interruptions) == (0, number)
    one.engine.submit(work)
    result = one.next()
    assert isinstance(result, PublishedResult)
    assert isinstance(result.outcome, Failed)


def test_what_was_final_before_a_crash_is_only_reported(harness: Callable[..., EngineHarness]) -> None:
    one = harness()
    one.submit("export.dcm")
    one.next()
    one.submit("export.dcm")
    result = one.next()
    assert isinstance(result, KnownOutcome)
    assert result.entry.state is InstanceStatus.EXPORTED
    assert one.attempts("export.dcm") == 1


def test_of_two_equal_instances_at_once_exactly_one_is_exported(harness: Callable[..., EngineHarness]) -> None:
    one = harness(workers=2)
    one.submit("export.1.dcm", "export.2.dcm", "export.3.dcm")
    outcomes = []
    for _ in range(3):
        result = one.next()
        assert isinstance(result, PublishedResult)
        outcomes.append(result.outcome)
    assert sum(isinstance(outcome, Exported) for outcome in outcomes) == 1
    skipped = [outcome for outcome in outcomes if isinstance(outcome, Skipped)]
    assert [outcome.reason for outcome in skipped] == [SkipReason.DUPLICATE] * 2
    assert one.ledger.counts().duplicates == 2
    assert len(list(one.media.glob("*.png"))) == 1


def test_a_full_disk_gives_the_instance_back_and_counts_no_attempt(harness: Callable[..., EngineHarness]) -> None:
    one = harness()
    for _ in range(4):
        one.submit("full.dcm")
        result = one.next()
        assert isinstance(result, Returned)
        assert isinstance(result.condition, OutOfSpace)
    assert one.attempts("full.dcm") == 0
    assert list((one.media / ".partial").rglob("*.part")) == []


def test_publication_waits_while_the_disk_is_full_and_goes_on_by_itself(
    small_disk: Path, harness: Callable[..., EngineHarness]
) -> None:
    one = harness(root=small_disk)
    one.submit("plain.dcm")
    assert isinstance(one.next(), PublishedResult)
    ballast = small_disk / "ballast"
    works = [one.work(f"export.{number}.dcm", data=b"x") for number in range(3)]
    with sqlite3.connect(small_disk / "exporter.db") as ledger:  # a long log would give some space back
        ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    ledger.close()
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    for work in works:
        one.engine.submit(work)
    time.sleep(1.0)  # nothing to poll for: that nothing comes is what is shown
    returned = []
    while not one.engine.results.empty():
        result = one.engine.results.get()
        assert isinstance(result, Returned)
        returned.append(result.work)
    ballast.unlink()
    for work in returned:
        one.engine.submit(work)
    outcomes = []
    while len(outcomes) < 3:
        result = one.next(40)
        if isinstance(result, Returned):
            one.engine.submit(result.work)
        else:
            assert isinstance(result, PublishedResult)
            outcomes.append(result.outcome)
    assert sum(isinstance(outcome, Exported) for outcome in outcomes) == 1
    assert one.ledger.counts().failed == one.ledger.counts().quarantined == 0


def test_stopping_while_the_disk_is_full_counts_no_attempt(
    harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OutOfSpace("media folder: no space left")

    monkeypatch.setattr(Publisher, "publish", full)
    one = harness()
    one.submit("export.dcm")
    deadline = time.monotonic() + 100
    while one.engine.waits_for is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    one.engine.stop(0.2)
    result = one.next(1)
    assert isinstance(result, Returned)
    assert result.condition is not None
    assert one.attempts("export.dcm") == 0


def test_stopping_gives_back_what_is_not_finished_without_counting_it(harness: Callable[..., EngineHarness]) -> None:
    one = harness()
    one.submit("hang.dcm", "plain.dcm")
    deadline = time.monotonic() + 100
    while one.ledger.entry("hang.dcm") is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    one.engine.stop(0.2)
    results = [one.next(1), one.next(1)]
    assert all(isinstance(result, Returned) and result.condition is None for result in results)
    assert one.attempts("hang.dcm") == 0
    assert one.attempts("plain.dcm") == 0


def test_stopping_lets_what_is_under_way_finish_in_time(harness: Callable[..., EngineHarness]) -> None:
    one = harness()
    one.submit("export.dcm")
    deadline = time.monotonic() + 100
    while one.ledger.entry("export.dcm") is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    one.engine.stop(20)
    assert isinstance(one.next(1), PublishedResult)


def test_workers_that_cannot_start_end_the_exporter_and_blame_nobody(harness: Callable[..., EngineHarness]) -> None:
    one = harness(settings={"prepare": "crash"})
    one.submit("plain.dcm")
    with pytest.raises(WorkerUnstartable):
        one.next()
    entry = one.ledger.entry("plain.dcm")
    assert entry is None or entry.attempts == 0


def test_a_supervisor_that_is_stuck_is_noticed(
    harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "STALE_S", 1.5)
    one = harness()
    one.submit("plain.dcm")
    one.next()
    assert one.engine.is_alive
    stuck = threading.Event()
    one.ledger.begin_many = lambda *_, **__: stuck.wait(30)  # type: ignore[method-assign,assignment,return-value]  # a disk that does not answer
    one.submit("plain.2.dcm")
    deadline = time.monotonic() + 100
    while one.engine.is_alive:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stuck.set()
    with pytest.raises(TypeError):
        one.next()


def test_a_supervisor_that_waits_for_space_is_not_stuck(
    harness: Callable[..., EngineHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "STALE_S", 1.5)
    one = harness()
    full, defer = threading.Event(), Ledger.defer
    full.set()

    def refuse(*arguments: Any) -> None:
        if full.is_set():
            raise OutOfSpace("the disk is full")
        defer(*arguments)

    monkeypatch.setattr(Ledger, "defer", refuse)
    one.submit("crash.dcm")
    deadline = time.monotonic() + 100
    while one.engine.waits_for is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert one.engine.is_alive
        time.sleep(0.05)
    full.clear()
    assert isinstance(one.next(), Deferred)


def test_an_entry_that_needs_no_worker_is_published_like_the_others(harness: Callable[..., EngineHarness]) -> None:
    one = harness()
    one.engine.submit(replace(one.work("fifo"), decided=Skipped(SkipReason.NOT_REGULAR, "a pipe")))
    result = one.next()
    assert isinstance(result, PublishedResult)
    assert one.ledger.counts().skipped == 1
