"""Scheduling: a worker gets the oldest instance next, unless memory is short or slow instances delay the others.

    submit -> waiting  -> acquire: a `WorkerLease` -> release
                 aside  <- set_aside: it takes long, and others wait
                 alone  <- submit: a suspect (`exporter.work.isolation`)
                        <- retry_alone: its worker was killed from outside, most likely because memory is short

Contract: a `Scheduler` leases every submitted instance to a worker until it is released. With several workers, at least
one is kept free of slow instances (`WorkerLease.quick_s`) while others wait. If a worker is killed from outside, memory
is taken to be short and the instance not to be at fault: from then on fewer workers run at once, the instance is run
again alone, and from time to time one more worker is permitted. Each change is logged.

Must never: decide the outcome of an instance, or keep the last worker from working.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from exporter.work.input_order import InputTurn

log = structlog.get_logger()

QUICK_S: Final = 10.0
"""Seconds after which an instance counts as slow."""
QUICK_S_PER_BYTE: Final = 1e-6
"""Further seconds per byte of the instance, so that large ones get more time."""
MOST_ASIDE: Final = 1000
"""Most instances set aside in whose place further ones are taken."""
FIRST_RECOVERY_S: Final = 60.0
"""Time from a kill until one more worker is permitted; it doubles with every further kill."""
LONGEST_RECOVERY_S: Final = 3600.0


@dataclass(eq=False, slots=True)
class WorkerLease:
    """One instance assigned to one worker."""

    turn: InputTurn
    takes_long: bool = False
    """Whether it has one of the places for slow instances."""
    is_alone: bool = False
    """Whether nothing else has run during the lease."""
    is_exclusive: bool = False
    """Whether nothing else may begin during the lease."""
    is_handed_on: bool = False
    """Whether the publisher, not the worker's supervisor, releases it."""
    started: float = field(default_factory=time.monotonic)

    @property
    def quick_s(self) -> float:
        """Seconds after which the instance counts as slow."""
        return QUICK_S + self.turn.work.size_bytes * QUICK_S_PER_BYTE


class Scheduler:
    """Instances that wait for workers; thread-safe."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._changed = threading.Condition()
        self._waiting: deque[InputTurn] = deque()
        self._aside: deque[InputTurn] = deque()
        self._alone: deque[InputTurn] = deque()
        self._running: set[WorkerLease] = set()
        self._is_closed = False
        self._permitted = workers
        self._recovery_s = FIRST_RECOVERY_S
        self._recovers_at = 0.0

    @property
    def permitted(self) -> int:
        """Number of workers that may run at once."""
        return self._permitted

    @property
    def memory_problem(self) -> str | None:
        """Sentence for the operator while memory is short; None otherwise."""
        if self._permitted == self._workers:
            return None
        return f"memory is short: running {self._permitted} of {self._workers} workers"

    @property
    def aside(self) -> int:
        """Number of instances set aside in whose place others may be taken: at most `MOST_ASIDE`."""
        return min(len(self._aside), MOST_ASIDE)

    @property
    def has_backlog(self) -> bool:
        """Whether instances wait for workers."""
        return bool(self._waiting)

    @property
    def has_surplus(self) -> bool:
        """Whether an idle worker should end its process, to free memory."""
        return (
            self._permitted < self._workers or bool(self._alone) or any(lease.is_exclusive for lease in self._running)
        )

    def submit(self, turn: InputTurn, *, alone: bool = False) -> None:
        """Add an instance, with `alone` to be run exclusively; never waits."""
        with self._changed:
            (self._alone if alone else self._waiting).append(turn)
            self._changed.notify()

    def acquire(self, timeout_s: float) -> WorkerLease | None:
        """Lease the next instance.

        Args:
            timeout_s: Longest time to wait.

        Returns:
            None if there was no instance within that time, or after `close`.
        """
        until = time.monotonic() + timeout_s
        with self._changed:
            while not self._is_closed:
                self._recover()
                lease = self._next()
                if lease is not None:
                    self._begin(lease)
                    return lease
                left_s = until - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
        return None

    def upcoming(self, most: int) -> list[InputTurn]:
        """The next instances that wait among others; suspects are not among them."""
        with self._changed:
            return list(islice(self._waiting, most))

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    def release(self, lease: WorkerLease) -> None:
        """End a lease."""
        with self._changed:
            self._running.discard(lease)
            self._changed.notify_all()

    def may_continue(self, lease: WorkerLease) -> bool:
        """Whether an instance under way may continue; False if it is slow and others wait for its worker."""
        if time.monotonic() - lease.started < lease.quick_s:
            return True
        with self._changed:
            lease.takes_long = lease.takes_long or self._has_long_place()
            return lease.takes_long or self._permitted == 1 or not self._waiting

    def set_aside(self, lease: WorkerLease) -> bool:
        """End a lease; the instance runs again when there is a place for a slow one.

        Returns:
            Whether it will run again; False after `close`.
        """
        with self._changed:
            self._running.discard(lease)
            if not self._is_closed:
                self._aside.append(lease.turn)
            self._changed.notify_all()
            is_kept, aside = not self._is_closed, len(self._aside)
        log.info("slow instance set aside for waiting ones", bytes=lease.turn.work.size_bytes, aside=aside)
        return is_kept

    def retry_alone(self, lease: WorkerLease) -> bool:
        """End a lease whose worker was killed; the instance runs again alone.

        Returns:
            Whether it will run again; False after `close`.
        """
        with self._changed:
            self._reduce()
            self._running.discard(lease)
            if not self._is_closed:
                self._alone.append(lease.turn)
            self._changed.notify_all()
            return not self._is_closed

    def reduce(self) -> None:
        """Permit fewer workers, after one was killed while it started."""
        with self._changed:
            self._reduce(starting=1)

    def close(self) -> list[InputTurn]:
        """Lease nothing more.

        Returns:
            The instances that were waiting.
        """
        with self._changed:
            self._is_closed = True
            left = [*self._alone, *self._waiting, *self._aside]
            for waiting in (self._alone, self._waiting, self._aside):
                waiting.clear()
            self._changed.notify_all()
        return left

    # -- with the lock held ------------------------------------------------------------------------------------------

    def _next(self) -> WorkerLease | None:
        if len(self._running) >= self._permitted or any(lease.is_exclusive for lease in self._running):
            return None
        if self._alone:  # running instances finish first, and no other begins
            return None if self._running else WorkerLease(self._alone.popleft(), is_exclusive=True)
        if self._aside and self._has_long_place():
            return WorkerLease(self._aside.popleft(), takes_long=True)
        if self._waiting:
            return WorkerLease(self._waiting.popleft())
        return WorkerLease(self._aside.popleft()) if self._aside else None

    def _begin(self, lease: WorkerLease) -> None:
        lease.is_alone = not self._running
        for other in self._running:
            other.is_alone = False
        self._running.add(lease)

    def _has_long_place(self) -> bool:
        """Whether one more instance may be slow: one worker is kept for the others."""
        return sum(lease.takes_long for lease in self._running) < self._permitted - 1

    def _reduce(self, starting: int = 0) -> None:
        now = time.monotonic()
        if self._permitted == self._workers and now >= self._recovers_at:
            self._recovery_s = FIRST_RECOVERY_S  # the last time is long ago
        before = self._permitted
        self._permitted = min(before, max(1, len(self._running) + starting - 1))
        self._recovers_at = now + self._recovery_s
        self._recovery_s = min(2 * self._recovery_s, LONGEST_RECOVERY_S)
        if self._permitted < before:
            log.warning(
                self.memory_problem,
                problem="a worker process was killed from outside: its instance is run again alone",
                hint="raise the memory of the service or container, or lower num_workers",
            )

    def _recover(self) -> None:
        now = time.monotonic()
        if self._permitted < self._workers and now >= self._recovers_at and not self._alone:
            self._permitted += 1
            self._recovers_at = now + self._recovery_s
            log.info("one more worker permitted after memory shortage", running=self._permitted, workers=self._workers)
