"""The engine of an exporter: threads that each supervise a worker process, and one that publishes their outcomes.

    submit -> scheduler -> supervisors: count the attempt, run it -> publisher: rename, commit, JSONL -> results

Instances are exported in parallel and finish in any order; relations between them (duplicate, conflict) and output
names follow the order of `submit` (`exporter.work.input_order`).

Contract: every `WorkItem` that is submitted comes back exactly once as a `Result`. The attempt is durable in the ledger
before a worker opens the instance. A failure that may pass is deferred while attempts are left. A machine condition (a
full disk, too little memory, a folder of ours that is gone) fails no instance and counts no attempt. Instances that
were under way when an exporter ended are tried again, in the end with nothing else under way
(`exporter.work.isolation`). Supervisors do not wait for disk writes: one thread publishes for all of them, in batches.

Must never: let an instance end a thread. An error that ends a thread is fatal for the exporter; `check` raises it.
"""

from __future__ import annotations

import math
import os
import queue
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

from exporter.errors import (
    AttemptsInterrupted,
    MachineCondition,
    MemoryShort,
    OutOfSpace,
    SkipReason,
    StorageUnavailable,
)
from exporter.machine_conditions import storage_error
from exporter.outcome import Failed, Skipped
from exporter.results import intents
from exporter.results.ledger.types import LONGEST_WAIT_S, Completed, DuplicateCheck, InstanceStatus
from exporter.results.output_names import COPIES_OUTSIDE, PARTIAL
from exporter.work import isolation, protocol
from exporter.work.contract import MEMORY_SHORT, Deferred, HeldBack, KnownOutcome, PublishedResult, Returned
from exporter.work.input_order import InputOrder
from exporter.work.protocol import WorkerJob
from exporter.work.scheduling import Scheduler
from exporter.work.supervisor import Cancelled, SetAside, Worker, WorkerKilled, WorkerUnstartable
from listener.foundation.backoff import Backoff
from listener.foundation.disk import is_out_of_space, mapped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exporter.outcome import InstanceIdentity, Outcome
    from exporter.results.ledger import Ledger
    from exporter.results.ledger.types import InstanceRow, WorkItem
    from exporter.results.metadata.jsonl import Appender
    from exporter.results.ownership import Ownership
    from exporter.results.publish import Publisher
    from exporter.work.contract import Result
    from exporter.work.input_order import InputTurn
    from exporter.work.protocol import Decide, Export
    from exporter.work.scheduling import WorkerLease

TICK_S: Final = 0.5
BATCH: Final = 64
"""Most instances that are published together."""
GATHER_S: Final = 0.05
"""Longest time that a finished instance waits for others to be published with it, while there is a backlog: what a
batch costs (fsyncs, transactions) is paid by more of them. Without a backlog nothing waits."""
AHEAD: Final = 8
"""Most attempts that are counted in one transaction, that of an instance whose worker waits and of those behind it."""
STALE_S: Final = 60.0
"""Time without progress after which a thread counts as stuck."""
LONGEST_PAUSE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Attempted:
    """One attempt with a final outcome, queued for the publisher."""

    turn: InputTurn
    outcome: Outcome
    started: float
    """Monotonic time."""
    folder: Path | None = None
    """Folder of its partial files."""
    has_asked: bool = False
    """Whether the worker has reported the identity; failures before that never become skips."""
    is_counted: bool = True
    """Whether the attempt is in the ledger."""
    lease: WorkerLease | None = None
    """Exclusive lease of a suspect, which ends when its outcome is committed. Until then, a crash of the exporter
    counts as an interruption of the suspect alone."""


@dataclass(frozen=True, slots=True)
class EnginePolicy:
    """Attempts, pauses and duplicates."""

    attempts: int
    """Most attempts at one instance."""
    retry_after_s: float = 5.0
    """Time until the second attempt; each further one waits four times longer, up to `LONGEST_WAIT_S`."""
    skip_duplicates: bool = True
    """Whether an instance that was exported before is skipped as soon as its identity is known."""

    patience_s: float = math.inf
    """Longest time that finished instances wait for the identity of an earlier one. After it, the earlier one is moved
    behind them: relations then depend on time, but a slow input does not delay the others."""

    def wait_s(self, attempts: int) -> float:
        """Time from a failed attempt to the next, by the number of attempts so far."""
        return min(self.retry_after_s * 4.0 ** min(max(attempts - 1, 0), 20), LONGEST_WAIT_S)

    @property
    def longest_wait_s(self) -> float:
        """Longest time between two attempts at one instance."""
        return self.wait_s(self.attempts - 1)


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
        """False: it has no process of its own."""
        return False

    def run(self, job: WorkerJob, decide: Decide, may_continue: Callable[[], bool]) -> Outcome:  # noqa: ARG002 - it goes on
        """Export one instance here; a crash of native code ends everything."""
        return protocol.run(self._export(job), decide)

    def cancel(self) -> None:
        """Refuse further jobs; the current one cannot be aborted."""
        self._cancelled = True

    def close(self) -> None:
        """Nothing to end."""


Runner = Worker | InProcess
"""Exports one instance at a time."""


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
        policy: EnginePolicy,
        ownership: Ownership | None = None,
    ) -> None:
        self._media = media
        self._ownership = ownership
        self._mark = ledger.mark
        self._partial = media / PARTIAL
        self._ledger = ledger
        self._publisher = publisher
        self._appender = appender
        self._runners = runners
        self._policy = policy
        self._scheduler = Scheduler(len(runners))
        self._begun: dict[str, InstanceRow] = {}
        """Attempts that are counted and wait for a lease, by name: counted ahead, or ended without an outcome."""
        self._beginning = threading.Lock()
        self._killed_alone: Counter[str] = Counter()
        """Number of times that the worker was killed with nothing else under way, by name of the instance."""
        self._folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[_Attempted | Literal["look", "last"]] = queue.SimpleQueue()
        """For the publisher; `look` makes it check again which held outcomes are ready, `last` ends it."""
        self._order = InputOrder(ledger, publisher.wanted_base, lambda: self._finished.put("look"), policy.patience_s)
        self.results: queue.SimpleQueue[Result | None] = queue.SimpleQueue()
        self.waits_for: MachineCondition | None = None
        """See `WorkEngine`."""
        self._lines_wait_for: MachineCondition | None = None
        self._suspects = isolation.Suspects(ledger.interrupted(isolation.TOGETHER))
        self._stopping = threading.Event()
        self._beat = time.monotonic()
        self._numbers = iter(range(1 << 62))
        self._threads = ThreadPoolExecutor(len(runners) + 1, thread_name_prefix="exporter")
        self._supervisors: list[Future[None]] = []
        self._publishing: Future[None] | None = None

    @property
    def room(self) -> int:
        """See `WorkEngine`: enough that neither workers nor the disk are idle."""
        return 8 * len(self._runners) + 8 + self._scheduler.aside

    @property
    def memory_problem(self) -> str | None:
        """Sentence for the operator while fewer workers run than there are; None otherwise."""
        return self._scheduler.memory_problem

    def start(self) -> None:
        """Start the threads; workers start in parallel."""
        with mapped(partial(storage_error, f"media folder {self._media}")):
            self._partial.mkdir(mode=0o700, exist_ok=True)
        self._supervisors = [self._threads.submit(self._supervise, runner) for runner in self._runners]
        self._publishing = self._threads.submit(self._publish)

    def submit(self, work: WorkItem) -> None:
        """See `WorkEngine`; the caller keeps to `room`.

        An instance that is decided needs no worker: its attempt is counted with its batch.
        """
        if work.decided is not None:
            turn = self._order.pass_by(work)
            self._finished.put(_Attempted(turn, work.decided, time.monotonic(), is_counted=False))
            return
        wait_s = self._suspects.wait_s(work.name)
        if wait_s > 0:
            self.results.put(HeldBack(work, wait_s))
            return
        # Others must not wait for a suspect: it stays out of the order, and its relation is decided when it runs.
        is_suspect = work.name in self._suspects
        turn = self._order.pass_by(work) if is_suspect else self._order.enter(work)
        self._scheduler.submit(turn, alone=is_suspect or work.name in self._killed_alone)

    def check(self) -> None:
        """Raise the error that ended a thread, if any, or that the media folder or the ledger is no longer ours."""
        self._ledger.check()
        if self._ownership is not None:
            self._ownership.check()
        for future in [*self._supervisors, *([self._publishing] if self._publishing else [])]:
            if future.done():
                future.result()

    @property
    def is_alive(self) -> bool:
        """Whether every thread has made progress lately, for the watchdog."""
        now = time.monotonic()
        return now - self._beat < STALE_S and all(now - runner.last_progress < STALE_S for runner in self._runners)

    def stop(self, drain_s: float = 0.0) -> None:
        """See `WorkEngine`: waiting instances come back at once, those under way after `drain_s` at the latest."""
        self._stopping.set()
        waiting = self._scheduler.close()
        with self._beginning:  # attempts at them that are being counted are known after it
            for turn in waiting:
                if self._begun.pop(turn.work.name, None) is not None:
                    with suppress(MachineCondition):  # if it cannot be written, the attempt counts
                        self._ledger.withdraw(turn.work.name)
                self._order.leave(turn)
                self.results.put(Returned(turn.work))
        wait(self._supervisors, timeout=drain_s)
        for runner in self._runners:
            runner.cancel()
        wait(self._supervisors)
        self._finished.put("last")
        if self._publishing is not None:
            wait([self._publishing])
        self._threads.shutdown()
        while not self._folders.empty():
            folder = self._folders.get()
            with suppress(OSError):
                folder.rmdir()
            with suppress(OSError):
                intents.empty_file(folder).unlink(missing_ok=True)

    def cancel(self) -> None:
        """See `WorkEngine`; `stop` must follow or be under way."""
        for runner in self._runners:
            runner.cancel()

    # -- supervisors -------------------------------------------------------------------------------------------------

    def _supervise(self, runner: Runner) -> None:
        try:
            self._prepare(runner)
            while not self._scheduler.is_closed:
                runner.last_progress = time.monotonic()
                lease = self._scheduler.acquire(TICK_S)
                if lease is not None:
                    try:
                        self._attempt(runner, lease)
                    finally:
                        if not lease.is_handed_on:
                            self._scheduler.release(lease)
                elif self._scheduler.has_surplus:
                    runner.close()
        finally:
            runner.close()

    def _prepare(self, runner: Runner) -> None:
        """Start the worker before there is work for it; if memory is short, run fewer workers."""
        try:
            runner.ensure_ready()
        except (Cancelled, OSError):
            pass
        except WorkerKilled:
            self._scheduler.reduce()

    def _attempt(self, runner: Runner, lease: WorkerLease) -> None:
        """Make one attempt at one instance; its outcome or result goes into one of the queues."""
        turn = lease.turn
        started = time.monotonic()
        turn.begun_at = turn.begun_at or started
        if lease.is_exclusive:
            runner.close()  # memory used by the last instance must not count against this one
        try:
            self._ensure_ready(runner)  # before the attempt counts: no instance is at fault if a worker cannot start
            entry = self._begin(turn, alone=lease.is_exclusive)
        except (Cancelled, MachineCondition) as why:
            self._put_off(turn, Returned(turn.work, why if isinstance(why, MachineCondition) else None))
            return
        except WorkerKilled:
            self._repeat(runner, lease, self._scheduler.retry_alone)
            return
        if entry.state is not InstanceStatus.ACTIVE:
            self._put_off(turn, KnownOutcome(turn.work, entry))
        elif isolation.is_given_up(entry.interruptions):
            self._hand_on(_Attempted(turn, _given_up(entry), started), lease)
        else:
            self._run(runner, lease, entry, started)

    def _begin(self, turn: InputTurn, *, alone: bool) -> InstanceRow:
        """Count an attempt before it is made; with it, in one transaction, those at the next instances that wait.

        Not before an exclusive attempt: a crash then counts for that instance only.

        Raises:
            MachineCondition: The ledger cannot be written; no attempt is counted.
        """
        with self._beginning:
            entry = self._begun.pop(turn.work.name, None)
            if entry is not None:
                return entry
            ahead = [] if alone else self._scheduler.upcoming(AHEAD - 1)
            turns = [turn, *(one for one in ahead if one.work.name not in self._begun)]
            entry, *others = self._ledger.begin_many([one.work for one in turns], [one.number for one in turns])
            self._begun |= {one.work.name: begun for one, begun in zip(turns[1:], others, strict=True)}
            return entry

    def _ensure_ready(self, runner: Runner) -> None:
        """Start the worker if it does not run.

        Raises:
            WorkerKilled: It is killed while it starts, and other workers hold memory.
            WorkerUnstartable: No worker starts.
            MachineCondition: The machine cannot start one more process.
            Cancelled: The exporter stops.
        """
        try:
            runner.ensure_ready()
        except OSError as error:
            raise MachineCondition(f"starting a worker process: {error.strerror}") from error
        except WorkerKilled as killed:
            if self._has_others(runner):
                raise
            raise WorkerUnstartable(f"worker processes do not start: {killed}; give the exporter more memory") from None

    def _has_others(self, runner: Runner) -> bool:
        return any(other.has_process for other in self._runners if other is not runner)

    def _hand_on(self, attempted: _Attempted, lease: WorkerLease) -> None:
        """Queue an attempt with an outcome for the publisher; a suspect with its lease."""
        self._order.identify(attempted.turn, attempted.outcome.identity)
        if attempted.turn.work.name in self._suspects:
            lease.is_handed_on = True
            attempted = replace(attempted, lease=lease)
        self._finished.put(attempted)

    def _run(self, runner: Runner, lease: WorkerLease, entry: InstanceRow, started: float) -> None:
        turn, work = lease.turn, lease.turn.work
        has_asked = False
        is_suspect = work.name in self._suspects

        def decide(identity: InstanceIdentity) -> Skipped | None:
            nonlocal has_asked
            has_asked = True
            self._order.identify(turn, identity)
            if is_suspect:
                turn.identity = identity
                turn.relation = self._ledger.identify(work.name, identity, work.ae_title)
            return self._duplicate(turn)

        folder: Path | None = None
        try:
            folder = self._take_folder()
            received = work.source == "spool"
            ours = received or self._is_copy(work.path)
            job = WorkerJob(str(work.path), str(folder), received, work.ae_title, ours)
            outcome = runner.run(job, decide, partial(self._may_continue, lease))
        except (MachineCondition, Cancelled, OSError) as why:
            self._without_verdict(runner, turn, folder, why)
        except SetAside:
            self._go_on_later(turn, folder, entry)
            self._repeat(runner, lease, self._scheduler.set_aside)
        except WorkerKilled:
            self._go_on_later(turn, folder, entry)
            self._handle_killed(runner, lease)
        else:
            self._killed_alone.pop(work.name, None)
            trouble = self._trouble(work, folder) if isinstance(outcome, Failed) else None
            if trouble is not None:
                self._interrupted(runner, turn, folder, trouble)
            elif isinstance(outcome, Failed) and outcome.may_pass and entry.attempts < self._policy.attempts:
                self._put_away(folder)
                self._defer(runner, turn, outcome, self._policy.wait_s(entry.attempts))
            else:
                self._hand_on(_Attempted(turn, outcome, started, folder, has_asked), lease)

    def _may_continue(self, lease: WorkerLease) -> bool:
        """Whether an attempt may continue; other instances stop waiting for the identity of a slow one."""
        may_continue = self._scheduler.may_continue(lease)
        if lease.takes_long or not may_continue:
            lease.turn.begun_at = -math.inf
        return may_continue

    def _go_on_later(self, turn: InputTurn, folder: Path | None, entry: InstanceRow) -> None:
        """Keep an attempt, and the place of its instance in the input order, for a later lease."""
        self._put_away(folder)
        self._begun[turn.work.name] = entry

    def _repeat(self, runner: Runner, lease: WorkerLease, hand_back: Callable[[WorkerLease], bool]) -> None:
        """Return a lease to the scheduler; if that is closed, the attempt ends without an outcome."""
        if not hand_back(lease):
            self._begun.pop(lease.turn.work.name, None)
            self._give_back(runner, lease.turn, None, None)

    def _handle_killed(self, runner: Runner, lease: WorkerLease) -> None:
        """Run an instance again alone; if its worker was killed although it ran alone, leave it pending."""
        if not lease.is_alone or self._has_others(runner):
            self._repeat(runner, lease, self._scheduler.retry_alone)
            return
        turn, work = lease.turn, lease.turn.work
        self._begun.pop(work.name, None)
        self._killed_alone[work.name] += 1
        wait_s = self._policy.wait_s(self._killed_alone[work.name])
        message = (
            "memory is short: its worker process was killed from outside with nothing else under way; pending. Give "
            "the exporter more memory (MemoryMax of its service, the limit of its container), or lower "
            "limits.memory_mb so that such instances are refused as too_large"
        )
        not_before = time.time() + wait_s
        self._insist(runner, lambda: self._ledger.withdraw(work.name))  # the attempt does not count
        self._insist(runner, lambda: self._ledger.defer(work.name, MEMORY_SHORT, message, not_before))
        outcome = Failed.of(MemoryShort(message))
        self._put_off(turn, Deferred(work, outcome, time.monotonic() + wait_s, memory_short=True))

    def _without_verdict(
        self, runner: Runner, turn: InputTurn, folder: Path | None, why: MachineCondition | Cancelled | OSError
    ) -> None:
        match why:
            case StorageUnavailable():
                self._interrupted(runner, turn, folder, why)
            case OSError():  # no descriptors or processes are left: not the fault of the worker
                condition = MachineCondition(f"running a worker process: {why.strerror}")
                self._give_back(runner, turn, folder, condition)
            case MachineCondition():
                self._give_back(runner, turn, folder, why)
            case Cancelled():
                self._give_back(runner, turn, folder, None)

    def _give_back(
        self, runner: Runner | None, turn: InputTurn, folder: Path | None, condition: MachineCondition | None
    ) -> None:
        """End an attempt without an outcome and without counting it."""
        self._put_away(folder)
        self._insist(runner, lambda: self._ledger.withdraw(turn.work.name))
        self._put_off(turn, Returned(turn.work, condition))

    def _interrupted(
        self, runner: Runner | None, turn: InputTurn, folder: Path | None, condition: StorageUnavailable
    ) -> None:
        """End an attempt during which a folder was missing; it counts as an interruption only if the folder is back."""
        work = turn.work
        lasting = self._lacking(work)
        if lasting is not None:
            self._give_back(runner, turn, folder, lasting)
            return
        self._put_away(folder)
        counts: list[int] = []
        self._insist(runner, lambda: counts.append(self._ledger.interrupt(work.name, str(condition))))
        waits_s = [self._suspects.add_interruption(work.name, count) for count in counts]
        wait_s = max([self._policy.retry_after_s, *waits_s])
        self._put_off(turn, HeldBack(work, wait_s))

    def _trouble(self, work: WorkItem, folder: Path) -> StorageUnavailable | None:
        """Storage condition that may have caused a failure; None if all folders can be used."""
        if not folder.is_dir():
            return StorageUnavailable(f"media folder {self._media}: a folder of partial files is gone")
        return self._lacking(work)

    def _lacking(self, work: WorkItem) -> StorageUnavailable | None:
        """Which of our own folders cannot be used now; None if all can."""
        probe = self._partial / f"{self._mark}-probe-{threading.get_ident()}"
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            probe.unlink()
        except OSError as error:
            if not is_out_of_space(error):  # a full disk is reported by its own writes
                return StorageUnavailable(f"media folder {self._media}", error)
        if work.source == "spool" or self._is_copy(work.path):
            try:
                work.path.lstat()
                with os.scandir(work.path.parent) as entries:
                    next(entries, None)  # a failed disk may still have names in its cache
            except OSError as error:
                return StorageUnavailable("the spool" if work.source == "spool" else "temporary copies", error)
        return None

    def _is_copy(self, path: Path) -> bool:
        """Whether a file is a temporary copy of ours, not an input in its place."""
        return str(path).startswith(f"{self._partial}/") or path.parent.name.startswith(COPIES_OUTSIDE)

    def _duplicate(self, turn: InputTurn) -> Skipped | None:
        """Outcome of an instance that is skipped as a duplicate; None if it is not, or not known to be one."""
        if not self._policy.skip_duplicates or turn.relation is None or turn.relation.duplicate_of is None:
            return None
        return Skipped(SkipReason.DUPLICATE, "the same instance with the same content came before", turn.identity)

    def _put_off(self, turn: InputTurn, result: Result) -> None:
        """Return an instance that is not published now."""
        self._order.leave(turn)
        self.results.put(result)

    def _take_folder(self) -> Path:
        """Take or make an empty folder for partial files, one level below `.partial` (`exporter.results.intents`).

        Raises:
            OutOfSpace, StorageUnavailable: The folder cannot be made.
        """
        with suppress(queue.Empty):
            while True:
                folder = self._folders.get_nowait()
                if folder.is_dir():  # somebody may have emptied `.partial`
                    return folder
        folder = self._partial / f"{self._mark}-{os.getpid()}-{next(self._numbers)}"
        with mapped(partial(storage_error, f"media folder {self._media}")):
            folder.mkdir(mode=0o700)
        return folder

    def _put_away(self, folder: Path | None) -> None:
        """Keep a folder of partial files for the next instance, if it is empty; delete it otherwise."""
        if folder is None:
            return
        try:
            is_empty = not any(folder.iterdir())
        except OSError:
            return  # it is gone, or the next start removes it
        if is_empty:
            self._folders.put(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def _defer(self, runner: Runner, turn: InputTurn, outcome: Failed, wait_s: float) -> None:
        work, due, not_before = turn.work, time.monotonic() + wait_s, time.time() + wait_s
        self._insist(runner, lambda: self._ledger.defer(work.name, outcome.reason, outcome.message, not_before))
        self._suspects.clear(work.name)
        self._put_off(turn, Deferred(work, outcome, due))

    def _insist(self, runner: Runner | None, write: Callable[[], None]) -> None:
        """Write to the ledger, waiting while the disk is full; if the exporter stops meanwhile, the attempt counts."""
        while True:
            if runner is None:
                self._beat = time.monotonic()
            else:
                runner.last_progress = time.monotonic()  # waiting for space is not being stuck
            try:
                write()
            except MachineCondition as condition:
                self.waits_for = condition
                if self._stopping.wait(TICK_S):
                    return
            else:
                self.waits_for = None
                return

    # -- publisher ---------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        held: dict[int, _Attempted] = {}
        last = False
        while not last:
            arrived, last = self._batch()
            self._beat = time.monotonic()
            held |= {one.turn.serial: one for one in arrived}
            has_appended = False
            while ready := self._order.ready(one.turn for one in held.values()):
                batch = [held.pop(turn.serial) for turn in ready]
                self._publish_batch(batch)
                has_appended = True
                for lease in filter(None, (one.lease for one in batch)):
                    self._scheduler.release(lease)
            if not has_appended:
                self._append()  # lines that could not be written before, or whose file was rotated
        for one in held.values():  # these waited for an instance of a supervisor that has ended with an error
            self._give_back_now(one)

    def _append(self) -> None:
        """Write committed lines to the file; lines that cannot be written now stay in the ledger and follow later."""
        try:
            self._appender.publish()
        except OutOfSpace:
            return
        except MachineCondition as condition:
            self.waits_for = self._lines_wait_for = condition
        else:
            if self._lines_wait_for is not None:
                self.waits_for = self._lines_wait_for = None

    def _batch(self) -> tuple[list[_Attempted], bool]:
        """The attempts that are finished now, and whether they are the last.

        Waits for the first, and for others only while instances wait for workers: see `GATHER_S`.
        """
        batch: list[_Attempted] = []
        with suppress(queue.Empty):
            item = self._finished.get(timeout=TICK_S)
            until = time.monotonic() + GATHER_S
            while isinstance(item, _Attempted):
                batch.append(item)
                if len(batch) == BATCH:
                    return batch, False
                gathers = len(batch) < self.room // 2 and self._scheduler.has_backlog
                wait_s = until - time.monotonic() if gathers else 0.0
                item = self._finished.get(timeout=wait_s) if wait_s > 0 else self._finished.get_nowait()
            return batch, item == "last"
        return batch, False

    def _complete(self, one: _Attempted) -> Completed:
        """Attempt in the form that is published, after its relation was decided."""
        duplicate = self._duplicate(one.turn) if one.has_asked else None
        return Completed(one.turn.work, duplicate or one.outcome, one.turn.relation or DuplicateCheck(), one.folder)

    def _publish_batch(self, batch: list[_Attempted]) -> None:
        completed = [self._complete(one) for one in batch]
        backoff = Backoff(1.0, LONGEST_PAUSE_S)
        uncounted = [one.turn for one in batch if not one.is_counted]
        while True:
            try:
                if self._ownership is not None:
                    self._ownership.confirm()
                if uncounted:
                    self._ledger.begin_many([turn.work for turn in uncounted], [turn.number for turn in uncounted])
                    uncounted = []
                outcomes = self._publisher.publish(completed)
            except MachineCondition as condition:
                self.waits_for = condition
                if self._give_up(backoff.next_pause()):
                    for one in batch:
                        self._give_back_now(one, condition)
                    return
            else:
                self.waits_for = None
                break
        self._append()
        now = time.monotonic()
        for one, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, StorageUnavailable):
                self._interrupted(None, one.turn, one.folder, outcome)
                continue
            self._order.leave(one.turn)
            self._suspects.clear(one.turn.work.name)
            self._put_away(one.folder)
            self.results.put(PublishedResult(one.turn.work, outcome, now - one.started))

    def _give_back_now(self, one: _Attempted, condition: MachineCondition | None = None) -> None:
        with suppress(MachineCondition):  # if it cannot be written, the attempt counts
            self._ledger.withdraw(one.turn.work.name)
        self._put_off(one.turn, Returned(one.turn.work, condition))

    def _give_up(self, pause_s: float) -> bool:
        """Pause because the disk is full.

        Returns:
            Whether the exporter stops instead.
        """
        until = time.monotonic() + pause_s
        while time.monotonic() < until:
            self._beat = time.monotonic()
            if self._stopping.wait(TICK_S):
                return True
        return False


def _given_up(entry: InstanceRow) -> Failed:
    message = (
        f"given up: each of {entry.interruptions} attempts was interrupted, as by the end of the exporter, the last "
        f"{isolation.ALONE} with nothing else under way"
    )
    return Failed.of(AttemptsInterrupted(message))
