"""The feeder: takes instances from a source, keeps an engine busy with them, and gives back what became of each.

    WorkSource.next -> WorkEngine.submit -> ... -> WorkEngine.results -> WorkSource.settle or put_back

Contract: the engine gets as much as it has room for, and no more. Every instance that was taken is settled or put back
exactly once; what the machine does not permit now is done later. A condition of the machine pauses the taking, longer
each time until something succeeds, and ends the run where that has no patience. When told to stop, nothing new begins
and work under way gets a moment to finish.

Must never: judge an instance, or wait for one while others could be worked on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import structlog

from exporter.errors import OutOfSpace
from exporter.work.contract import Deferred, HeldBack, KnownOutcome, NotNow, PublishedResult, Returned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.errors import MachineCondition
    from exporter.work.contract import PendingResult, Result, WorkEngine, WorkSource

log = structlog.get_logger()

WAIT_S: Final = 0.2
DECIDED_ROOM: Final = 256
"""Most instances whose outcome needs no worker that can usefully be under way at once."""
LONGEST_PAUSE_S: Final = 5.0
"""The machine is tried again after this time at the latest: once all is well, work goes on within as many seconds."""


def _always() -> bool:
    return True


class Feeder:
    """Between one source and one engine; for one thread."""

    def __init__(
        self,
        engine: WorkEngine,
        source: WorkSource,
        stop: threading.Event,
        *,
        patience_s: float | None = None,
        may_take: Callable[[], bool] = _always,
    ) -> None:
        """Feed `engine` from `source`.

        Args:
            engine: Is started.
            source: Where instances come from and go to.
            stop: When set, nothing new is taken.
            patience_s: Time that a condition of the machine may last before the run ends for it; a full disk ends it
                at once. None: it may last for ever.
            may_take: Asked before instances are taken.
        """
        self._engine = engine
        self._source = source
        self._stop = stop
        self._patience_s = patience_s
        self._may_take = may_take
        self._under_way: Counter[bool] = Counter()
        """Instances that were taken and not given back; by whether their outcome needs no worker."""
        self._unsettled: list[Result] = []
        """What the source could not take back."""
        self._pause_s = 0.0
        self._resume_at = 0.0
        self._trouble_since: float | None = None
        """When a condition of the machine was met that has not passed yet."""

    @property
    def is_done(self) -> bool:
        """Whether the source is exhausted and nothing is under way."""
        return self._source.is_exhausted and not self._under_way.total()

    def turn(self) -> Iterator[PublishedResult]:
        """Take what there is room for, and give back what has a result, waiting a moment for the first.

        Raises:
            MachineCondition: The disk is full, or a folder of ours has gone, for longer than there is patience.
            LedgerUnusable, MediaFolderUnusable, WorkerUnstartable: See `WorkEngine.check`.
        """
        self._fill()
        yield from self._collect(WAIT_S)
        self._engine.check()
        if self._engine.waits_for is not None:
            self._bear(self._engine.waits_for)

    def drain(self, seconds: float, give_up: threading.Event | None = None) -> Iterator[PublishedResult]:
        """End the engine while its results are given back.

        Args:
            seconds: Time that work under way gets to finish.
            give_up: When set, it gets no more time.
        """
        ending = threading.Thread(target=self._engine.stop, args=(seconds,))
        ending.start()
        while ending.is_alive() or not self._engine.results.empty():
            if give_up is not None and give_up.is_set():
                self._engine.cancel()
            yield from self._collect(WAIT_S)
        ending.join()

    def _fill(self) -> None:
        if time.monotonic() < self._resume_at or not self._may_take():
            return
        while self._has_room:
            try:
                work = self._source.next()
            except NotNow as refusal:
                self._bear(refusal.condition)
                return
            if work is None:
                return
            self._under_way[work.decided is not None] += 1
            self._engine.submit(work)

    @property
    def _has_room(self) -> bool:
        has_room = self._under_way[False] < self._engine.room and self._under_way[True] < DECIDED_ROOM
        return has_room and not self._stop.is_set()

    def _collect(self, wait_s: float) -> Iterator[PublishedResult]:
        unsettled, self._unsettled = self._unsettled, []
        for result in unsettled:
            yield from self._give_back(result)
        found = self._result(wait_s)
        while found is not None:
            yield from self._give_back(found)
            found = self._result(0.0)

    def _result(self, wait_s: float) -> Result | None:
        try:
            return self._engine.results.get(timeout=wait_s) if wait_s else self._engine.results.get_nowait()
        except queue.Empty:
            return None

    def _give_back(self, result: Result) -> Iterator[PublishedResult]:
        try:
            if isinstance(result, PublishedResult | KnownOutcome):
                self._source.settle(result)
            else:
                self._source.put_back(result, self._due(result))
        except NotNow as refusal:
            self._unsettled.append(result)
            self._bear(refusal.condition)
            return
        self._under_way[result.work.decided is not None] -= 1
        if isinstance(result, Returned):
            if result.condition is not None:
                self._bear(result.condition)
            return
        self._pause_s, self._trouble_since = 0.0, None
        if isinstance(result, PublishedResult):
            yield result

    def _due(self, result: PendingResult) -> float | None:
        match result:
            case Deferred():
                return result.due
            case HeldBack():
                return time.monotonic() + result.wait_s
            case Returned():
                return None if result.condition is None or self._stop.is_set() else time.monotonic()

    def _bear(self, condition: MachineCondition) -> None:
        """Take nothing for a while.

        Raises:
            MachineCondition: It has lasted for longer than there is patience.
        """
        if self._stop.is_set():
            return
        now = time.monotonic()
        self._trouble_since = now if self._trouble_since is None else self._trouble_since
        if self._patience_s is not None and (
            isinstance(condition, OutOfSpace) or now - self._trouble_since > self._patience_s
        ):
            raise condition
        if now < self._resume_at:
            return
        self._pause_s = min(max(2 * self._pause_s, 1.0), LONGEST_PAUSE_S)
        self._resume_at = now + self._pause_s
        event = "paused: no space" if isinstance(condition, OutOfSpace) else "paused: a folder cannot be used"
        log.error(event, problem=str(condition), seconds=self._pause_s)
