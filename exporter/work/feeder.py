"""The feeder: takes instances from a source, keeps an engine busy with them, and returns their results.

    WorkSource.next -> WorkEngine.submit -> ... -> WorkEngine.results -> WorkSource.settle or put_back

Contract: the engine gets no more instances than it has room for. Every instance that was taken is settled or put back
exactly once; a call that a machine condition prevents is repeated later. A machine condition pauses the taking of
instances, longer each time until something succeeds; after `patience_s` it ends the run. After `stop` is set, no
instance is taken, and instances under way get a moment to finish.

Must never: decide an outcome, or wait for one instance while others could be exported.
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
"""Most instances under way at once whose outcome needs no worker."""
LONGEST_PAUSE_S: Final = 5.0
"""Longest pause after a machine condition: work resumes at most that long after the condition has passed."""


def _always() -> bool:
    return True


class Feeder:
    """Moves instances and results between one source and one engine; for one thread."""

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
            engine: Already started.
            source: Where instances come from and go to.
            stop: When set, no instance is taken.
            patience_s: Time that a machine condition may last before it ends the run; a full disk ends it at once.
                None: no limit.
            may_take: Whether instances may be taken now.
        """
        self._engine = engine
        self._source = source
        self._stop = stop
        self._patience_s = patience_s
        self._may_take = may_take
        self._under_way: Counter[bool] = Counter()
        """Instances under way, by whether their outcome is already decided."""
        self._is_woken = False
        self._unsettled: list[Result] = []
        """Results that the source could not take yet."""
        self._pause_s = 0.0
        self._resume_at = 0.0
        self._trouble_since: float | None = None
        """Monotonic time when the present machine condition began."""

    @property
    def is_done(self) -> bool:
        """Whether the source is exhausted and nothing is under way."""
        return self._source.is_exhausted and not self._under_way.total()

    def wake(self) -> None:
        """End the wait of `turn`, since there may be work; from any thread."""
        if not self._is_woken:
            self._is_woken = True
            self._engine.results.put(None)

    def turn(self) -> Iterator[PublishedResult]:
        """Take instances while there is room, and return results, waiting a moment for the first one.

        Raises:
            MachineCondition: The disk is full, or a folder of ours is gone, for longer than `patience_s`.
            LedgerUnusable, MediaFolderUnusable, WorkerUnstartable: See `WorkEngine.check`.
        """
        self._fill()
        yield from self._collect(WAIT_S)
        self._engine.check()
        if self._engine.waits_for is not None:
            self._back_off(self._engine.waits_for)

    def drain(self, seconds: float, give_up: threading.Event | None = None) -> Iterator[PublishedResult]:
        """Stop the engine, and return its results meanwhile.

        Args:
            seconds: Time that instances under way get to finish.
            give_up: When set, they are aborted.
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
                self._back_off(refusal.condition)
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
            found = self._engine.results.get(timeout=wait_s) if wait_s else self._engine.results.get_nowait()
        except queue.Empty:
            return None
        if found is None:
            self._is_woken = False
        return found

    def _give_back(self, result: Result) -> Iterator[PublishedResult]:
        try:
            if isinstance(result, PublishedResult | KnownOutcome):
                self._source.settle(result)
            else:
                self._source.put_back(result, self._due(result))
        except NotNow as refusal:
            self._unsettled.append(result)
            self._back_off(refusal.condition)
            return
        self._under_way[result.work.decided is not None] -= 1
        if isinstance(result, Returned):
            if result.condition is not None:
                self._back_off(result.condition)
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

    def _back_off(self, condition: MachineCondition) -> None:
        """Take no instance for a while, longer each time.

        Raises:
            MachineCondition: It has lasted longer than `patience_s`.
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
