"""The threads of an exporter: some supervise a worker process each, one publishes what they finish.

    submit -> scheduler -> supervisors: count the attempt, run it -> publisher: rename, commit, JSONL -> results

Contract: every `Work` that is submitted comes back exactly once as a `Result`. The attempt is durable in the ledger
before a worker sees the instance. What may pass is deferred as long as attempts are left; a full disk or too little
memory is no verdict and counts nothing. Supervisors do not wait for the disk of their neighbours: one thread publishes
for all, in batches.

Must never: let one instance end a thread. What ends a thread is fatal for the exporter and comes out of `check`.
"""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from exporter.discovery import PARTIAL
from exporter.errors import OutOfSpace, Reason, SkipReason
from exporter.job import Job, Stopped
from exporter.ledger.types import Arrival, Relation, State
from exporter.outcome import Failed, Skipped
from exporter.promise import MediaFolderUnusable
from exporter.publish import FULL, Finished
from exporter.scheduling import Scheduler
from exporter.workers import Cancelled, SetAside, WorkerKilled, WorkerUnstartable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from exporter.job import Export
    from exporter.ledger import Ledger
    from exporter.ledger.types import Entry
    from exporter.metadata.jsonl import Appender
    from exporter.outcome import Identity, Outcome
    from exporter.publish import Publisher, Work
    from exporter.scheduling import Turn
    from exporter.workers import Decide

TICK_S: Final = 0.5
BATCH: Final = 64
"""Most instances that are published together."""
DECIDED_ROOM: Final = 4 * BATCH
"""Most instances whose outcome needs no worker that can usefully be under way at once."""
GATHER_S: Final = 0.03
"""So long the first of them waits for others: they share their fsyncs."""
STALE_S: Final = 60.0
"""A thread that gave no sign of life for so long is stuck."""
LONGEST_PAUSE_S: Final = 5.0
LONGEST_DEFERRAL_S: Final = 3600.0
"""Longest time until an instance is tried again for which memory was short."""
MEMORY_SHORT: Final = "memory_short"
"""Why an instance is pending: as the ledger and the log call it."""


@dataclass(frozen=True, slots=True)
class Published:
    """The outcome is final and durable, its line is in the metadata file."""

    work: Work
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class Known:
    """The ledger had a final state already: a crash came between its commit and the move in the spool."""

    work: Work
    entry: Entry


@dataclass(frozen=True, slots=True)
class Deferred:
    """It failed in a way that may pass and is to be tried again, not before Unix time `not_before`."""

    work: Work
    outcome: Failed
    not_before: float
    memory_short: bool = False
    """Whether its worker was killed with nothing else under way; the attempt does not count."""

    @property
    def reason(self) -> str:
        """Why it is pending, in one word."""
        return MEMORY_SHORT if self.memory_short else self.outcome.reason


@dataclass(frozen=True, slots=True)
class Returned:
    """No verdict; the attempt does not count."""

    work: Work
    out_of_space: str | None = None
    """What was full; None where the exporter stops."""


Result = Published | Known | Deferred | Returned


class Runner(Protocol):
    """What exports one instance at a time: a worker process, or this process itself."""

    last_progress: float

    def ensure_ready(self) -> None:
        """Be ready to run a job."""
        ...

    @property
    def has_process(self) -> bool:
        """Whether a process of its own holds memory."""
        ...

    def run(self, job: Job, decide: Decide, may_continue: Callable[[], bool]) -> Outcome:
        """Export one instance; see `Worker.run`."""
        ...

    def cancel(self) -> None:
        """Give up the current job, from another thread."""
        ...

    def close(self) -> None:
        """End."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """How the engine treats instances."""

    attempts: int
    """Most attempts at one instance."""
    retry_after_s: float = 5.0
    """Time until the second attempt; each further one waits four times longer."""
    skip_duplicates: bool = True
    """Whether an instance that was exported before is skipped as soon as its identity is known."""


class Engine:
    """Supervisors, their workers, and the publisher."""

    def __init__(
        self,
        media: Path,
        ledger: Ledger,
        publisher: Publisher,
        appender: Appender,
        *,
        runners: list[Runner],
        policy: Policy,
    ) -> None:
        self._media = media
        self._partial = media / PARTIAL
        self._ledger = ledger
        self._publisher = publisher
        self._appender = appender
        self._runners = runners
        self._policy = policy
        self._scheduler = Scheduler(len(runners))
        self._killed_alone: Counter[str] = Counter()
        """Names of instances whose worker was killed with nothing else under way."""
        self._folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[tuple[Finished, float] | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self.waits_for_space: str | None = None
        """What is full, while outcomes wait for it."""
        self._stopping = threading.Event()
        self._beat = time.monotonic()
        self._numbers = iter(range(1 << 62))
        self._threads = ThreadPoolExecutor(len(runners) + 1, thread_name_prefix="exporter")
        self._supervisors: list[Future[None]] = []
        self._publishing: Future[None] | None = None

    @property
    def room(self) -> int:
        """How many works can usefully be under way at once: enough that neither workers nor the disk wait."""
        return 8 * len(self._runners) + 8 + self._scheduler.aside

    @property
    def memory_problem(self) -> str | None:
        """Sentence for the operator while fewer workers run than there are; None otherwise."""
        return self._scheduler.memory_problem

    def start(self) -> None:
        """Start the threads; workers start in parallel."""
        with _making(self._media):
            self._partial.mkdir(mode=0o700, exist_ok=True)
        self._supervisors = [self._threads.submit(self._supervise, runner) for runner in self._runners]
        self._publishing = self._threads.submit(self._publish)

    def submit(self, work: Work) -> None:
        """Hand in one instance; never waits. The caller keeps to `room`."""
        self._scheduler.submit(work, alone=work.name in self._killed_alone)

    def submit_decided(self, work: Work, outcome: Outcome) -> None:
        """Hand in an instance whose outcome needs no worker; its attempt is counted with those of its batch."""
        self._finished.put((Finished(work, outcome, is_counted=False), time.monotonic()))

    def check(self) -> None:
        """Raise what ended a thread, if anything did."""
        for future in [*self._supervisors, *([self._publishing] if self._publishing else [])]:
            if future.done():
                future.result()

    @property
    def is_alive(self) -> bool:
        """Whether every thread has shown progress lately: what the watchdog is fed with."""
        now = time.monotonic()
        return now - self._beat < STALE_S and all(now - runner.last_progress < STALE_S for runner in self._runners)

    def stop(self, drain_s: float = 0.0) -> None:
        """End the threads: work that waits comes back at once, work under way after `drain_s` at the latest."""
        self._stopping.set()
        for work in self._scheduler.close():
            self.results.put(Returned(work))
        wait(self._supervisors, timeout=drain_s)
        for runner in self._runners:
            runner.cancel()
        wait(self._supervisors)
        self._finished.put(None)
        if self._publishing is not None:
            wait([self._publishing])
        self._threads.shutdown()
        while not self._folders.empty():
            with suppress(OSError):
                self._folders.get().rmdir()

    def cancel(self) -> None:
        """Have work under way given up now; `stop` must follow or be under way."""
        for runner in self._runners:
            runner.cancel()

    # -- supervisors -------------------------------------------------------------------------------------------------

    def _supervise(self, runner: Runner) -> None:
        try:
            self._prepare(runner)
            while not self._scheduler.is_closed:
                runner.last_progress = time.monotonic()
                turn = self._scheduler.acquire(TICK_S)
                if turn is not None:
                    try:
                        self._attempt(runner, turn)
                    finally:
                        self._scheduler.release(turn)
                elif self._scheduler.has_surplus:
                    runner.close()
        finally:
            runner.close()

    def _prepare(self, runner: Runner) -> None:
        """Start the worker before there is work for it; where memory does not permit that, run fewer of them."""
        try:
            runner.ensure_ready()
        except Cancelled:
            pass
        except WorkerKilled:
            self._scheduler.reduce()

    def _attempt(self, runner: Runner, turn: Turn) -> None:
        """One attempt at one instance; whatever comes of it is put into one of the queues."""
        work, started = turn.work, time.monotonic()
        if turn.is_exclusive:
            runner.close()  # what the last instance left in its memory belongs to this one
        try:
            self._ensure_ready(runner)  # before the attempt counts: a worker that cannot start is nobody's fault
            entry = self._ledger.begin(
                work.name,
                size_bytes=work.size_bytes,
                mtime_ns=work.mtime_ns,
                source=work.source,
                ae_title=work.ae_title,
            )
        except Cancelled:
            self.results.put(Returned(work))
            return
        except OutOfSpace as condition:
            self.results.put(Returned(work, str(condition)))
            return
        except WorkerKilled:
            self._scheduler.retry_alone(turn)
            return
        if entry.state is not State.ACTIVE:
            self.results.put(Known(work, entry))
        elif entry.attempts > self._policy.attempts:
            message = f"given up: the exporter ended during each of {self._policy.attempts} attempts"
            self._finished.put((Finished(work, Failed(Reason.DECODER_CRASH, message, may_pass=False)), started))
        else:
            self._run(runner, turn, entry, started)

    def _ensure_ready(self, runner: Runner) -> None:
        """Have a worker.

        Raises:
            WorkerKilled: It is killed while it starts, and others hold memory.
            WorkerUnstartable: None starts.
            Cancelled: The exporter stops.
        """
        try:
            runner.ensure_ready()
        except WorkerKilled as killed:
            if self._has_others(runner):
                raise
            raise WorkerUnstartable(f"worker processes do not start: {killed}; give the exporter more memory") from None

    def _has_others(self, runner: Runner) -> bool:
        return any(other.has_process for other in self._runners if other is not runner)

    def _run(self, runner: Runner, turn: Turn, entry: Entry, started: float) -> None:
        work = turn.work
        relation: Relation | None = None

        def decide(identity: Identity) -> Skipped | None:
            nonlocal relation
            relation = self._ledger.identify(work.name, identity, work.ae_title)
            if relation.duplicate_of is None:
                return None
            return Skipped(SkipReason.DUPLICATE, "the same instance with the same content came before", identity)

        folder: Path | None = None
        try:
            folder = self._take_folder()
            received = work.source == "spool"
            job = Job(str(work.path), str(folder), self._policy.skip_duplicates, received, work.ae_title)
            outcome = runner.run(job, decide, partial(self._scheduler.may_continue, turn))
        except (OutOfSpace, Cancelled) as condition:
            self._put_away(folder)
            self._withdraw(runner, work)
            self.results.put(Returned(work, str(condition) if isinstance(condition, OutOfSpace) else None))
            return
        except SetAside:
            self._put_away(folder)
            self._withdraw(runner, work)
            self._scheduler.set_aside(turn)
            return
        except WorkerKilled:
            self._put_away(folder)
            self._withdraw(runner, work)
            self._handle_killed(runner, turn)
            return
        self._killed_alone.pop(work.name, None)
        if isinstance(outcome, Failed) and outcome.may_pass and entry.attempts < self._policy.attempts:
            self._put_away(folder)
            self._defer(runner, work, outcome, entry.attempts)
            return
        self._finished.put((Finished(work, outcome, folder, relation), started))

    def _handle_killed(self, runner: Runner, turn: Turn) -> None:
        """Run an instance again alone; where its worker was killed although it was alone, leave it pending."""
        if not turn.is_alone or self._has_others(runner):
            self._scheduler.retry_alone(turn)
            return
        work = turn.work
        self._killed_alone[work.name] += 1
        pause_s = self._policy.retry_after_s * 4 ** (self._killed_alone[work.name] - 1)
        not_before = time.time() + min(pause_s, LONGEST_DEFERRAL_S)
        message = (
            "memory is short: its worker process was killed from outside with nothing else under way; pending. Give "
            "the exporter more memory (MemoryMax of its service, the limit of its container), or lower "
            "limits.memory_mb so that such instances are refused as too_large"
        )
        self._insist(runner, lambda: self._ledger.defer(work.name, MEMORY_SHORT, message, not_before))
        outcome = Failed(Reason.TOO_LARGE, message, may_pass=True)
        self.results.put(Deferred(work, outcome, not_before, memory_short=True))

    def _take_folder(self) -> Path:
        """An empty folder for partial files; one level below `.partial`, where `exporter.promise` looks."""
        with suppress(queue.Empty):
            return self._folders.get_nowait()
        folder = self._partial / f"{os.getpid()}-{next(self._numbers)}"
        with _making(self._media):
            folder.mkdir(mode=0o700)
        return folder

    def _put_away(self, folder: Path | None) -> None:
        """Keep a folder of partial files for the next instance, if it is empty; delete it otherwise."""
        if folder is None:
            return
        if any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self._folders.put(folder)

    def _withdraw(self, runner: Runner, work: Work) -> None:
        self._insist(runner, lambda: self._ledger.withdraw(work.name))

    def _defer(self, runner: Runner, work: Work, outcome: Failed, attempts: int) -> None:
        not_before = time.time() + self._policy.retry_after_s * 4 ** (attempts - 1)
        self._insist(runner, lambda: self._ledger.defer(work.name, outcome.reason, outcome.message, not_before))
        self.results.put(Deferred(work, outcome, not_before))

    def _insist(self, runner: Runner, write: Callable[[], None]) -> None:
        """Write to the ledger, and wait while the disk is full, unless the exporter stops (then the attempt counts)."""
        while True:
            runner.last_progress = time.monotonic()  # who waits for space is not stuck
            try:
                write()
            except OutOfSpace as condition:
                self.waits_for_space = str(condition)
                if self._stopping.wait(TICK_S):
                    return
            else:
                self.waits_for_space = None
                return

    # -- publisher ---------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        last = False
        while not last:
            batch, last = self._batch()
            self._beat = time.monotonic()
            if batch:
                self._publish_batch(batch)
            with suppress(OutOfSpace):  # the lines are safe in the ledger and follow with the next call
                self._appender.publish()

    def _batch(self) -> tuple[list[tuple[Finished, float]], bool]:
        """What is finished by now or within a moment of the first, and whether it is the last."""
        batch: list[tuple[Finished, float]] = []
        wait_s, until = TICK_S, 0.0
        with suppress(queue.Empty):
            while len(batch) < BATCH:
                item = self._finished.get(timeout=wait_s)
                if item is None:
                    return batch, True
                batch.append(item)
                until = until or time.monotonic() + GATHER_S
                wait_s = max(until - time.monotonic(), 0.0)
        return batch, False

    def _publish_batch(self, batch: list[tuple[Finished, float]]) -> None:
        pause_s = 1.0
        uncounted = [finished.work for finished, _ in batch if not finished.is_counted]
        while True:
            try:
                if uncounted:
                    self._ledger.begin_many(
                        Arrival(work.name, work.size_bytes, work.mtime_ns, work.source) for work in uncounted
                    )
                    uncounted = []
                outcomes = self._publisher.publish([finished for finished, _ in batch])
            except OutOfSpace as condition:
                self.waits_for_space = str(condition)
                if self._give_up(pause_s):
                    for finished, _ in batch:
                        with suppress(OutOfSpace):  # where not even that can be written, the attempt counts
                            self._ledger.withdraw(finished.work.name)
                        self.results.put(Returned(finished.work, str(condition)))
                    return
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                self.waits_for_space = None
                break
        with suppress(OutOfSpace):
            self._appender.publish()
        now = time.monotonic()
        for (finished, started), outcome in zip(batch, outcomes, strict=True):
            self._put_away(finished.folder)
            self.results.put(Published(finished.work, outcome, now - started))

    def _give_up(self, pause_s: float) -> bool:
        """Pause because the disk is full; whether the exporter stops instead."""
        until = time.monotonic() + pause_s
        while time.monotonic() < until:
            self._beat = time.monotonic()
            if self._stopping.wait(TICK_S):
                return True
        return False


class InProcess:
    """A runner without a process and without limits on memory and time, for ``num_workers: 0``."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._cancelled = False
        self.last_progress = time.monotonic()

    def ensure_ready(self) -> None:
        """Refuse after `cancel`."""
        if self._cancelled:
            raise Cancelled

    @property
    def has_process(self) -> bool:
        """None of its own."""
        return False

    def run(self, job: Job, decide: Decide, may_continue: Callable[[], bool]) -> Outcome:  # noqa: ARG002 - nobody else works
        """Export one instance here; a crash of native code ends everything."""
        refusal: Skipped | None = None

        def ask(identity: Identity) -> None:
            nonlocal refusal
            refusal = decide(identity) if job.ask else None
            if refusal is not None:
                raise Stopped

        try:
            return self._export(job, ask)
        except Stopped:
            if refusal is None:
                raise
            return refusal

    def cancel(self) -> None:
        """Refuse further jobs; the current one cannot be given up."""
        self._cancelled = True

    def close(self) -> None:
        """Nothing to end."""


@contextmanager
def _making(folder: Path) -> Iterator[None]:
    """Tell a full disk from a folder that cannot be used."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OutOfSpace(f"media folder {folder}: {error.strerror}") from error
        raise MediaFolderUnusable(folder, error) from error
