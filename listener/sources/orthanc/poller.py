"""The one thread that knows where we are with a server: reads its log of changes, gives out jobs, remembers results.

Contract: the remembered position passes a change only in the transaction that remembers what became of its instance,
and an instance is remembered as taken only after the spool has committed it. Whatever the server does costs a pause,
never this thread; whatever one instance does costs that instance, for now. Between two steps everything can be lost but
what is remembered.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import structlog

from listener.foundation.backoff import Backoff
from listener.sources.orthanc.assignments import InFlight
from listener.sources.orthanc.cursor import Cursor
from listener.sources.orthanc.downloads import DownloadJob, Requeued, Taken, Troubled
from listener.sources.orthanc.identifiers import spelled
from listener.sources.orthanc.memory import InstanceState, KnownInstance, Position
from listener.sources.orthanc.outcomes import outcome
from listener.sources.orthanc.reconciliation import ReconciliationPass, is_left_out, is_settled
from listener.sources.orthanc.troubles import BadAnswer, OrthancTrouble

if TYPE_CHECKING:
    from listener.foundation.counters import Counters
    from listener.settings.orthanc import OrthancSection
    from listener.sources.orthanc.answers import Change, Changes, ListedInstance
    from listener.sources.orthanc.contact import ServerHealth
    from listener.sources.orthanc.downloads import Downloads, Result, Verdict
    from listener.sources.orthanc.memory import SyncState
    from listener.sources.orthanc.rest import Orthanc

TICK_S: Final = 0.25
MOST_WAITING: Final = 200
"""Jobs given out and not begun, over which no more is read."""
MOST_OPEN: Final = 20_000
"""Changes between the oldest open and the newest read one, over which no more is read: some megabytes."""
FAILED_PER_STEP: Final = 100
SUMMARY_S: Final = 10.0
TELL_S: Final = 0.5
SPOOL_PAUSE_S: Final = 5.0


class Poller:
    """Polls one server, on a thread of its own."""

    def __init__(
        self,
        settings: OrthancSection,
        contact: ServerHealth,
        memory: SyncState,
        downloads: Downloads,
        counters: Counters,
    ) -> None:
        self._settings = settings
        self._orthanc: Orthanc = contact.orthanc
        self._contact = contact
        self._memory = memory
        self._downloads = downloads
        self._counters = counters
        self._log = structlog.get_logger().bind(server=settings.label)
        self._stopping = threading.Event()
        self._look_again = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orthanc-poller", daemon=True)
        self.beat = time.monotonic()
        """When the last step began."""
        position = memory.position()
        self._cursor = Cursor(position)
        self._recorded = position
        self._compared_at = memory.compared_at()
        self._unrecorded: list[KnownInstance] = []
        self._jobs = InFlight(downloads)
        self._next_read = 0.0
        self._is_drained = False
        self._is_history = position.seq == 0
        """Whether what is read happened before we first looked: what vanished from it is none of our business."""
        self._pass: ReconciliationPass | None = None
        self._second_look: list[ListedInstance] = []
        self._next_pass = 0.0
        self._since_summary: Counter[str] = Counter()
        self._next_summary = 0.0
        self._next_tell = 0.0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the thread lives."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Read no more; ends once the downloads have ended and their results are remembered."""
        self._stopping.set()

    def join(self, within_s: float) -> None:
        """Wait for the end."""
        if self._thread.is_alive():
            self._thread.join(within_s)

    def reload(self, settings: OrthancSection) -> None:
        """Take over other settings, and look at everything again with them."""
        self._settings = settings
        self._look_again.set()

    # -- the loop ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait_s = 0.0
        while not self._stopping.is_set():
            self.beat = time.monotonic()
            self._settle(self._downloads.results(wait_s))
            wait_s = min(TICK_S, self._settings.poll_s)
            try:
                self._tell()
                if self._remember() and self._contact.is_open():
                    self._downloads.gate.set()
                    wait_s = 0.0 if self._step() else wait_s
            except OrthancTrouble as trouble:
                self._leave_alone(trouble)
            except sqlite3.Error as error:
                self._memory_failed(error)
            self._sum_up()
        while self._downloads.is_running:
            self._settle(self._downloads.results(TICK_S))
        self._settle(self._downloads.results(0))
        self._remember()
        self._sum_up(now=True)

    def _step(self) -> bool:
        """Do one thing that is due; whether there may be another one at once."""
        now = time.monotonic()
        self._jobs.give_due()
        if self._look_again.is_set():
            self._look_again.clear()
            self._pass, self._next_pass = None, 0.0
        if self._downloads.waiting >= MOST_WAITING or self._cursor.length >= MOST_OPEN:
            return False
        if now >= self._next_read:
            self._read()
            return True
        return self._reconcile(now)

    def _leave_alone(self, trouble: OrthancTrouble) -> None:
        """Ask the server nothing for a while."""
        self._downloads.gate.clear()
        self._counters.add(f"orthanc_{trouble.word}")
        self._contact.failed(trouble)

    # -- the log of changes ------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """The next page of changes, from the last one we have read on: if that is another one, so is the index."""
        at = self._cursor.read_to
        page = self._orthanc.changes(at.seq - 1 if at.anchor is not None else at.seq)
        if _is_another_index(at, page):
            self._start_over()
            return
        new = [change for change in page.changes if change.seq > at.seq]
        if not new and not page.is_done:
            raise BadAnswer("a page of changes has none, and says that there are more")
        self._want(new)
        self._is_drained = page.is_done
        if page.is_done:
            self._is_history = False
            self._next_read = time.monotonic() + self._settings.poll_s * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
            self._take_second_look()
        if not self._jobs:
            self._contact.succeeded()

    def _want(self, changes: list[Change]) -> None:
        """Give out jobs for new instances, unless the change was dealt with before."""
        known = self._memory.known([change.instance for change in changes if change.instance is not None])
        epoch = self._cursor.position.epoch
        jobs = []
        for change in changes:
            # Resources that were deleted before we read of them took their changes along: numbers are all that is left.
            vanished = 0 if self._is_history else change.seq - self._cursor.read_to.seq - 1
            is_open = False
            if change.instance is not None:
                noted = known.get(change.instance)
                is_open = not (noted is not None and self._was_dealt_with(noted, epoch, change.seq))
                if is_open:
                    jobs.append(DownloadJob(change.instance, epoch, (change.seq,), known=noted))
            self._cursor.read(change, is_open=is_open, vanished=vanished)
        self._jobs.give_out(jobs)

    def _was_dealt_with(self, noted: KnownInstance, epoch: int, seq: int) -> bool:
        if noted.epoch != epoch or noted.seq < seq:
            return False
        return noted.state is not InstanceState.FILTERED or is_left_out(noted, self._settings.only.fingerprint)

    def _start_over(self) -> None:
        """The index is another one than that we have read so far: its log is read from its beginning."""
        epoch = self._cursor.position.epoch + 1
        self._log.warning("orthanc has another index: everything is looked at again", epoch=epoch)
        self._count("index_resets")
        self._cursor = Cursor(Position(epoch, 0, None, self._cursor.position.vanished))
        self._is_history = True
        # Jobs under way are of the old log: their results are remembered, the new log's position is not theirs.
        self._jobs.forget_waiting()
        self._pass, self._second_look = None, []
        self._next_read = self._next_pass = self._compared_at = 0.0

    # -- reconciliation ----------------------------------------------------------------------------------------------

    def _reconcile(self, now: float) -> bool:
        """One step of a pass, once the log is read to its end; whether there may be another one at once."""
        if not self._is_drained or self._second_look or now < self._next_pass:
            return False
        if self._pass is None:
            self._pass = ReconciliationPass(expanded=time.time() - self._compared_at >= self._settings.compare_s)
        if self._pass.is_listed:
            return self._retry_failed(self._pass)
        page = self._pass.next_page(self._orthanc)
        known = self._memory.known([entry.instance for entry in page])
        filters = self._settings.only.fingerprint
        for entry in page:
            noted = known.get(entry.instance)
            if not is_settled(entry, noted, filters):
                self._second_look.append(entry)
            elif noted is not None and noted.state is InstanceState.TAKEN:
                self._delete(noted)
        if self._second_look:
            self._next_read = 0.0  # the log may tell of them yet
        return True

    def _take_second_look(self) -> None:
        """What was listed and not known, and the log has still not told: it never will."""
        known = self._memory.known([entry.instance for entry in self._second_look])
        entries, self._second_look = self._second_look, []
        if self._pass is None:
            return
        filters = self._settings.only.fingerprint
        jobs = []
        for entry in entries:
            noted = known.get(entry.instance)
            if entry.instance in self._jobs or is_settled(entry, noted, filters):
                continue
            if noted is None or noted.state is InstanceState.GONE:
                self._pass.missed += 1
                self._count("missed_by_log")
            jobs.append(DownloadJob(entry.instance, self._cursor.position.epoch, known=noted))
        self._jobs.give_out(jobs)

    def _retry_failed(self, current: ReconciliationPass) -> bool:
        """Try what failed again, some at a time; the pass ends with the last."""
        failed = self._memory.failed(current.failed_after, FAILED_PER_STEP)
        if failed:
            current.failed_after = failed[-1].instance
            epoch = self._cursor.position.epoch
            self._jobs.give_out(DownloadJob(noted.instance, epoch, is_retry=True, known=noted) for noted in failed)
            return True
        if current.expanded:
            self._memory.compared_now()
            self._compared_at = time.time()
        self._log.info(
            "orthanc reconciled", listed=current.listed, missed_by_log=current.missed, compared=current.expanded
        )
        self._counters.add("orthanc_reconciliations")
        self._pass = None
        self._next_pass = time.monotonic() + self._settings.reconcile_s
        return False

    # -- jobs and results --------------------------------------------------------------------------------------------

    def _settle(self, results: list[Result]) -> None:
        """Take in results; what is final is remembered with the next `_remember`."""
        for result in results:
            match result:
                case Requeued(job, trouble):
                    self._put_back(job, trouble)
                    continue
                case Troubled(job, trouble) if trouble.may_pass and job.tries + 1 < self._tries(job):
                    self._try_later(job, trouble)
                    continue
                case _:
                    self._conclude(result)
            self._contact.succeeded()

    def _tries(self, job: DownloadJob) -> int:
        return 1 if job.is_retry else self._settings.attempts

    def _put_back(self, job: DownloadJob, trouble: OrthancTrouble | Exception) -> None:
        """Nothing is held against the instance: it has its turn again when the server, or our disk, works again."""
        if isinstance(trouble, OrthancTrouble):
            self._leave_alone(trouble)
            self._jobs.give_again(job)
        else:
            self._count("spool_refused")
            self._log.error("an instance of orthanc could not be spooled, it is taken later", problem=str(trouble))
            self._jobs.delay(job, min(SPOOL_PAUSE_S, self._settings.max_pause_s))

    def _try_later(self, job: DownloadJob, trouble: OrthancTrouble) -> None:
        self._count("retries")
        pause_s = Backoff(self._settings.pause_s, self._settings.max_pause_s).pause_after(job.tries + 1)
        chance = random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._jobs.delay(replace(job, tries=job.tries + 1), pause_s * chance)
        self._log.debug(
            "an instance of orthanc is tried again",
            instance=spelled(job.instance),
            why=trouble.word,
            problem=str(trouble),
        )

    def _conclude(self, result: Verdict) -> None:
        """A job is over: note what became of its instance, and finish its changes."""
        job = result.job
        word, noted = outcome(result)
        self._count(word)
        if noted is not None:
            self._unrecorded.append(noted)
        if isinstance(result, Taken):
            self._counters.add("orthanc_bytes", result.size_bytes)
            self._counters.arrived(self._settings.label)
        elif isinstance(result, Troubled):
            self._log.error(
                "an instance of orthanc failed, reconciliation tries it again",
                instance=spelled(job.instance),
                why=result.trouble.word,
                problem=str(result.trouble),
            )
        if job.epoch == self._cursor.position.epoch:
            for seq in job.seqs:
                self._cursor.finish(seq)
        self._jobs.finish(job.instance)

    def _remember(self) -> bool:
        """Make outcomes and position durable; False where that fails, and nothing more is done until it does not."""
        position = self._cursor.position
        if not self._unrecorded and not self._jobs.freed and position == self._recorded:
            return True
        try:
            self._memory.record(self._unrecorded, position)
            done, self._unrecorded, self._recorded = self._unrecorded, [], position
            self._jobs.give_freed(self._memory.known(self._jobs.freed))
        except sqlite3.Error as error:
            self._memory_failed(error)
            return False
        for noted in done:
            if noted.state is InstanceState.TAKEN:
                self._delete(noted)
        return True

    def _delete(self, noted: KnownInstance) -> None:
        """Have an instance deleted from the server that is remembered as taken, where that is wanted."""
        if self._settings.delete_after_spooling and noted.md5 is not None:
            self._jobs.give_out(
                [DownloadJob(noted.instance, noted.epoch, is_retry=True, known=noted, delete=noted.md5)]
            )

    def _memory_failed(self, error: sqlite3.Error) -> None:
        """Our own disk does not take what is to be remembered: nothing is read or given out until it does."""
        self._downloads.gate.clear()
        self._contact.failed_inside("orthanc: what was taken cannot be remembered", type(error).__name__)
        self._counters.add("orthanc_memory_failed")

    # -- telling -----------------------------------------------------------------------------------------------------

    def _count(self, word: str, count: int = 1) -> None:
        self._counters.add(f"orthanc_{word}", count)
        self._since_summary[word] += count

    def _tell(self) -> None:
        """How it stands with this server, for `exporter status`."""
        if time.monotonic() < self._next_tell:
            return
        self._next_tell = time.monotonic() + TELL_S
        position = self._recorded
        for what, value in (
            ("gone", self._memory.count_gone()),
            ("vanished", position.vanished),
            ("failed", self._memory.count_failed()),
            ("position", position.seq),
            ("waiting", len(self._jobs)),
            ("reachable", int(self._contact.is_known)),
        ):
            self._counters.gauge(f"orthanc_{self._settings.label}_{what}", value)

    def _sum_up(self, *, now: bool = False) -> None:
        """One line for what happened lately, where anything did."""
        if self._since_summary and (now or time.monotonic() >= self._next_summary):
            self._log.info("orthanc", **dict(sorted(self._since_summary.items())))
            self._since_summary.clear()
            self._next_summary = time.monotonic() + SUMMARY_S


def _is_another_index(at: Position, page: Changes) -> bool:
    """Whether a page is of another log than the one we have read up to `at`.

    The number of the last change never falls in one index, and the change of one number never becomes another; it may
    vanish, with its resource.
    """
    if not page.changes and page.last < at.seq:
        return True
    first = page.changes[0] if page.changes else None
    return first is not None and first.seq == at.seq and at.anchor is not None and first.fingerprint != at.anchor
