"""The whole pull: one thread asks the rows, others fetch what they find; it ends, stops or goes on where it stopped.

Contract: `pull` returns when every row has come to its end or `stop` was set; an error that keeps it from going on
is raised as `PullEnded` or another `Unusable`, and everything done until then
is kept. Row numbers and counts are logged, nothing else of a cohort.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from exporter.errors import OutOfSpace
from exporter.privacy.input_names import InputNames
from exporter.pull.arrivals import Arrivals
from exporter.pull.asking import ReachabilityRetry, RowFinder
from exporter.pull.fetching import DestinationUnknown, Fetch, FetchContext
from exporter.pull.getting import Getter
from exporter.pull.journal import PullJournal, QuestionState, TargetState
from exporter.pull.outcome import summarize
from exporter.pull.pace import RateLimiter
from exporter.pull.peer import PullStopped
from exporter.pull.receiver import Receiver, ReceiverGone
from exporter.pull.report import FoundFile, write_report
from exporter.pull.request import PullEnded
from listener.foundation.durable import replaced_text_file
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exporter.pull.cohort import Row
    from exporter.pull.journal import RetrieveTask
    from exporter.pull.outcome import Summary
    from exporter.pull.request import PullRequest
    from exporter.settings.windows import Window

log = structlog.get_logger()

TICK_S: Final = 0.05
RECEIVER_BACK_S: Final = 120.0
"""Longest absence of a listener that ran at the start of the pull: a restart is no reason to end."""


def pull(request: PullRequest, stop: threading.Event, report: Path) -> Summary:
    """Fetch a cohort.

    Returns:
        State of the rows at the end.

    Args:
        request: What is asked for.
        stop: Set to begin nothing new and return.
        report: CSV file that says how each row ended.

    Raises:
        PullEnded: It cannot go on.
        Unusable, OutOfSpace: The data folder, its spool, ledger or journal, or the port cannot be used.
    """
    with (
        Receiver(request.settings, request.data, request.peer.method) as receiver,
        PullJournal.open(request.folder / "journal.db") as journal,
    ):
        digests = [request.digest(row) for row in request.cohort.rows]
        cohort = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
        goes_on = journal.begin_run(cohort, digests, again=request.again)
        log.info("pull started", rows=len(digests), wrong=len(request.cohort.wrong), goes_on=goes_on)
        arrivals = Arrivals(journal, request.data.spool, request.data.ledger, InputNames.of(request.settings))
        try:
            _Run(request, receiver, journal, arrivals, stop).execute()
        finally:
            arrivals.close()
            summary = summarize(request.cohort, request.digest, journal)
            write_report(report, list(summary.outcomes), journal)
        if not any(outcome.state == "waiting" for outcome in summary.outcomes):
            journal.end_run(cohort)
        return summary


def survey(request: PullRequest, stop: threading.Event, place: Path) -> dict[int, str]:
    """A dry run: find only, and write what was found to a new file; problems by row.

    Raises:
        PullEnded: The peer cannot be asked.
        OSError: The file cannot be written.
    """
    problems = {wrong.number: wrong.problem for wrong in request.cohort.wrong}
    asking = RowFinder(request, stop, RateLimiter(None, None, stop))
    with replaced_text_file(place) as file:
        found_file = FoundFile(file, request.cohort.columns)
        try:
            for row in request.cohort.rows:
                found, question = asking.find_row(row)
                if question.state is not QuestionState.FOUND:
                    problems[row.number] = question.problem
                for target, answer in found.targets.items() if found is not None else ():
                    found_file.add(row.number, target, answer)
        except PullStopped:
            raise PullEnded("stopped before every row was asked; nothing was written") from None
        finally:
            asking.close()
    return dict(sorted(problems.items()))


class _Run:
    """The threads of one pull."""

    def __init__(
        self, request: PullRequest, receiver: Receiver, journal: PullJournal, arrivals: Arrivals, stop: threading.Event
    ) -> None:
        self._request = request
        self._receiver = receiver
        self._journal = journal
        self._arrivals = arrivals
        self._asked_to_stop = stop
        self._stop = threading.Event()
        """Set by the caller, or by a thread that cannot go on."""
        self._failure: BaseException | None = None
        self._tasks: queue.Queue[RetrieveTask | None] = queue.Queue(4 * request.peer.parallel)
        self._pace = RateLimiter(
            request.window, request.peer.moves_per_minute, self._stop, request.clock, on_wait=self._tell_window
        )
        self._asking = RowFinder(request, self._stop, self._pace)
        self._reach = ReachabilityRetry(self._stop)
        self._ended = 0
        self._told = time.monotonic()

    def execute(self) -> None:
        """Until everything is done, or until it is to stop."""
        if all(self._is_over(row) for row in self._request.cohort.rows):
            return
        self._receiver.start()
        if self._receiver.is_own and self._request.is_out_of_reach:
            log.warning("listener bound to loopback: a remote PACS cannot send to it; set `listener.host`")
        self._arrivals.start()
        movers = [threading.Thread(target=self._guard, args=(self._move,), daemon=True) for _ in range(self._parallel)]
        threads = [threading.Thread(target=self._guard, args=(self._find,), daemon=True), *movers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if self._asked_to_stop.is_set():
                self._stop.set()
            time.sleep(TICK_S)
            self._tell()
        if self._failure is not None:
            raise self._failure

    @property
    def _parallel(self) -> int:
        return self._request.peer.parallel

    def _is_over(self, row: Row) -> bool:
        digest = self._request.digest(row)
        asked = self._journal.question(digest) is not None
        return asked and all(task.state is not TargetState.WAITING for task in self._journal.tasks(digest))

    # -- threads -----------------------------------------------------------------------------------------------------

    def _guard(self, work: Callable[[], None]) -> None:
        """Run a thread's work; an unexpected error ends the others, too, and is raised by `execute`."""
        failure: BaseException | None = RuntimeError("a thread of the pull ended unexpectedly")
        try:
            work()
            failure = None
        except PullStopped:
            failure = None
        except _EXPECTED as error:
            failure = error
        except DestinationUnknown as error:
            failure = PullEnded(
                f"{self._asking.peer} does not know the AE title {error} (0xA801): "
                f"have it registered there with this machine's address and `listener.port`, or use `method: get`"
            )
        finally:
            if failure is not None:
                self._failure = self._failure or failure
                self._stop.set()

    def _find(self) -> None:
        try:
            queued: set[int] = set()
            for row in self._request.cohort.rows:
                digest = self._request.digest(row)
                if self._journal.question(digest) is None:
                    found, question = self._asking.find_row(row)
                    self._journal.record_answer(digest, question, self._request.address, found.targets if found else ())
                    if question.state is not QuestionState.FOUND:
                        log.warning("row failed", row=row.number, problem=question.problem)
                for task in self._journal.tasks(digest):
                    if task.state is TargetState.WAITING and task.id not in queued:
                        queued.add(task.id)
                        self._put(task)
        finally:
            self._asking.close()
        for _ in range(self._parallel):
            self._put(None)

    def _put(self, task: RetrieveTask | None) -> None:
        while not self._stop.is_set():
            try:
                self._tasks.put(task, timeout=0.5)
            except queue.Full:
                self._asking.close()  # it would stand idle
            else:
                return
        raise PullStopped

    def _move(self) -> None:
        listener = self._request.settings.listener
        getter = None
        if self._receiver.surroundings is not None:
            getter = Getter(self._request.peer, listener, self._receiver.surroundings, self._request.calling)
        tools = FetchContext(
            peer=self._asking.peer,
            journal=self._journal,
            arrivals=self._arrivals,
            pace=self._pace,
            stop=self._stop,
            move_to=self._request.peer.move_to or listener.ae_title,
            getter=getter,
            wait_for_receiver=self._wait_for_receiver,
        )
        while True:
            task = self._next()
            if task is None:
                return
            state = self._reach.persist(lambda task=task: Fetch(tools, self._journal.task(task.id)).run())  # type: ignore[misc]
            self._ended += 1
            if state is TargetState.INCOMPLETE:
                log.warning("target incomplete", number=task.id, missing=self._journal.task(task.id).missing)

    def _next(self) -> RetrieveTask | None:
        while not self._stop.is_set():
            try:
                return self._tasks.get(timeout=0.2)
            except queue.Empty:
                continue
        raise PullStopped

    def _wait_for_receiver(self) -> None:
        """Return once somebody receives and has room.

        Raises:
            ReceiverGone: Nobody has for a while.
            Stopped: We are to stop.
        """
        gone_since: float | None = None
        is_reported = False
        while not (self._receiver.is_there and self._receiver.has_room):
            if self._receiver.is_there:
                gone_since = None
            else:
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > RECEIVER_BACK_S:
                    raise ReceiverGone
            if not is_reported:
                is_reported = True
                problem = "no room in the spool" if self._receiver.is_there else "the listener is away"
                log.warning("waiting", problem=problem)
            if self._stop.wait(0.5):
                raise PullStopped

    # -- words -------------------------------------------------------------------------------------------------------

    def _tell_window(self, window: Window) -> None:
        log.info("waiting for the time window", window=str(window))

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= 10:
            self._told = now
            log.info("progress", targets=self._ended, instances=self._arrivals.count, queued=self._tasks.qsize())


_EXPECTED: Final[tuple[type[Exception], ...]] = (Unusable, OutOfSpace, OSError)
