"""What is taken from a source is given back to it once: settled, or put back; whatever the machine does meanwhile."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporter.errors import OutOfSpace, SkipReason, StorageUnavailable
from exporter.inputs.contract import InputEntry
from exporter.inputs.entry_source import EntrySource, Progress
from exporter.inputs.scratch import Scratch
from exporter.outcome import Skipped
from exporter.work.contract import NotNow, Returned
from exporter.work.feeder import Feeder
from tests.exporter.work.test_engine import EngineHarness

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from exporter.errors import MachineCondition
    from exporter.inputs.contract import EarlierOutcomes
    from exporter.results.ledger import WorkItem
    from exporter.work.contract import FinalResult, PendingResult

DECIDED = Skipped(SkipReason.NOT_REGULAR, "a pipe")


class ListSource:
    """A source that holds its instances in a list."""

    def __init__(self, *works: WorkItem) -> None:
        self.works = list(works)
        self.due: dict[str, float] = {}
        self.settled: list[str] = []
        self.put_backs: list[tuple[str, float | None]] = []
        self.refusals: dict[str, MachineCondition] = {}
        """What is refused once, by the name of the method."""

    def _refuse(self, method: str) -> None:
        condition = self.refusals.pop(method, None)
        if condition is not None:
            raise NotNow(condition)

    @property
    def is_exhausted(self) -> bool:
        return not self.works

    def next(self) -> WorkItem | None:
        self._refuse("next")
        now = time.monotonic()
        ready = [work for work in self.works if self.due.get(work.name, now) <= now]
        if not ready:
            return None
        self.works.remove(ready[0])
        return ready[0]

    def settle(self, result: FinalResult) -> None:
        self._refuse("settle")
        self.settled.append(result.work.name)

    def put_back(self, result: PendingResult, due: float | None) -> None:
        self._refuse("put_back")
        self.put_backs.append((result.work.name, due))
        if due is not None:
            self.due[result.work.name] = due
            self.works.append(result.work)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[EngineHarness]:
    with closing(EngineHarness(tmp_path)) as made:
        yield made


def run(feeder: Feeder) -> list[str]:
    """Feed until all is done."""
    told, deadline = [], time.monotonic() + 100
    while not feeder.is_done:
        told += [result.work.name for result in feeder.turn()]
        assert time.monotonic() < deadline, "it is never done"
    return told


def test_every_instance_is_settled_once_and_what_may_pass_is_tried_again(harness: EngineHarness) -> None:
    decided = replace(harness.work("fifo"), decided=DECIDED)
    source = ListSource(harness.work("crash.dcm"), harness.work("export.dcm"), decided)
    told = run(Feeder(harness.engine, source, threading.Event()))
    assert sorted(told) == sorted(source.settled) == ["crash.dcm", "export.dcm", "fifo"]
    assert [name for name, due in source.put_backs if due is not None] == ["crash.dcm"]


def test_a_feeder_that_waits_for_a_result_takes_what_has_come_as_soon_as_it_is_woken(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporter.work.feeder.WAIT_S", 3600.0)
    source = ListSource()
    feeder = Feeder(harness.engine, source, threading.Event())

    def come() -> None:
        source.works.append(replace(harness.work("fifo"), decided=DECIDED))
        feeder.wake()

    coming = threading.Timer(0.1, come)
    coming.start()
    assert list(feeder.turn()) == []
    assert [result.work.name for result in feeder.turn()] == ["fifo"]
    coming.join()


@pytest.mark.parametrize("method", ["next", "settle", "put_back"])
def test_what_the_machine_refuses_is_done_later_and_once(harness: EngineHarness, method: str) -> None:
    source = ListSource(harness.work("crash.dcm"))
    source.refusals[method] = StorageUnavailable("the spool")
    told = run(Feeder(harness.engine, source, threading.Event()))
    assert told == source.settled == ["crash.dcm"]
    assert len(source.put_backs) == 1
    assert source.refusals == {}


def test_a_full_disk_ends_a_run_at_rest_and_pauses_a_daemon(harness: EngineHarness) -> None:
    source = ListSource(harness.work("export.dcm"))
    source.refusals["next"] = OutOfSpace("the spool")
    with pytest.raises(OutOfSpace):
        run(Feeder(harness.engine, source, threading.Event(), patience_s=60))
    assert source.settled == []
    source.refusals["next"] = OutOfSpace("the spool")
    assert run(Feeder(harness.engine, source, threading.Event())) == ["export.dcm"]


def test_nothing_is_taken_without_permission_and_a_stop_gives_everything_back(harness: EngineHarness) -> None:
    source, stop, permits = (
        ListSource(harness.work("hang.dcm"), harness.work("export.dcm")),
        threading.Event(),
        iter([0, 1]),
    )
    feeder = Feeder(harness.engine, source, stop, may_take=lambda: bool(next(permits)))
    assert list(feeder.turn()) == []
    assert len(source.works) == 2
    assert list(feeder.turn()) == []
    assert source.works == []
    stop.set()
    assert list(feeder.drain(0.1)) == []
    assert sorted(source.put_backs) == [("export.dcm", None), ("hang.dcm", None)]


class OneDecided:
    """A reader of one entry that needs no worker."""

    root = Path()

    def members(self, container: str) -> Iterator[str]:
        raise NotImplementedError

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:  # noqa: ARG002 - the contract's shape
        yield InputEntry("fifo", 0, 1, decided=DECIDED)

    def count(self) -> Iterator[int]:
        yield 1

    def together(self, names: Sequence[str], scratch: Scratch) -> AbstractContextManager[list[Path]]:
        raise NotImplementedError


def test_an_entry_that_needs_no_worker_needs_none_either_when_it_is_tried_again(tmp_path: Path) -> None:
    class Nothing:
        def foresee(self, names: Sequence[str]) -> None:
            pass

        def is_done(self, name: str, size_bytes: int, mtime_ns: int, changed_ns: int = 0) -> bool:  # noqa: ARG002 - the contract's shape
            return False

        def key(self, name: str) -> str:
            return name

        def failed(self, prefix: str) -> tuple[str, ...]:  # noqa: ARG002 - the contract's shape
            return ()

        def closed_folders(self, root: Path) -> tuple[str, ...]:  # noqa: ARG002 - the contract's shape
            return ()

    with Scratch(tmp_path / "copies", 1 << 20) as scratch:
        source = EntrySource(OneDecided(), Nothing(), scratch, Progress())
        work = source.next()
        assert work is not None
        source.put_back(Returned(work, StorageUnavailable("media folder")), time.monotonic())
        again = source.next()
    assert again is not None
    assert again.decided == DECIDED
