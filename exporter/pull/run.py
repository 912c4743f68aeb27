"""The whole pull: one thread asks the rows, others fetch what they find; it ends, stops or goes on where it stopped.

Contract: `pull` returns when every row has come to its end or it was told to stop; what keeps it from going on at
all is raised as `PullEnded` or as the error of the spool, the ledger or the journal, and everything done until then
is kept. Row numbers and counts are logged, nothing else of a cohort.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from exporter.errors import OutOfSpace
from exporter.ledger import LedgerUnusable
from exporter.pull.arrivals import Arrivals
from exporter.pull.fetching import DestinationUnknown, Fetch, Stopped, Tools
from exporter.pull.finding import Finder
from exporter.pull.getting import Getter
from exporter.pull.journal import Journal, JournalUnusable, Question, QuestionState, TargetState
from exporter.pull.keys import Rank
from exporter.pull.outcome import summarize
from exporter.pull.pace import Clock, Pace, Window
from exporter.pull.peer import FIND, AssociationLost, Peer, PeerError, PeerUnreachable, Refused
from exporter.pull.receiver import Receiver, ReceiverGone
from exporter.pull.report import FoundFile, private_file, write_report
from exporter.pull.statuses import Verdict
from listener.spool import SpoolError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exporter.pull.cohort import Cohort, Row
    from exporter.pull.finding import Found
    from exporter.pull.journal import Task
    from exporter.pull.outcome import Summary
    from exporter.pull.peer import Conversation
    from exporter.pull.settings import Level, PullPeerSection
    from exporter.settings import Settings
    from listener.settings import DataFolder

log = structlog.get_logger()
T = TypeVar("T")

TRIES: Final = 6
"""How often in a row a peer may be out of reach until a run ends."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
LINE_IDLE_S: Final = 3.0
RECEIVER_BACK_S: Final = 120.0
"""How long a listener that ran when we began may be away: a restart is no reason to end."""
RELATIONAL_HINT: Final = (
    "; a row without a key of a study needs relational queries: add StudyInstanceUID, PatientID or AccessionNumber"
)


class PullEnded(Exception):
    """The run cannot go on: one sentence; the same command goes on where it stopped."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a pull is asked for."""

    cohort: Cohort
    settings: Settings
    peer: PullPeerSection
    level: Level
    data: DataFolder
    again: bool = False
    """Whether what is complete is fetched once more, too."""
    any_time: bool = False
    """Whether the peer's window is left out of account."""
    clock: Clock = field(default_factory=Clock)

    @property
    def calling(self) -> str:
        """AE title that we call ourselves."""
        return self.peer.calling_ae_title or self.settings.listener.ae_title

    @property
    def address(self) -> str:
        """The peer, as the journal knows it."""
        return f"{self.peer.ae_title}@{self.peer.host}:{self.peer.port}"

    def digest(self, row: Row) -> str:
        """What the journal knows a row by."""
        return row.digest(self.address, self.level)

    @property
    def window(self) -> Window | None:
        """When the peer may be asked."""
        return None if self.peer.window is None or self.any_time else Window.parse(self.peer.window)


def pull(request: Request, stop: threading.Event, report: Path) -> Summary:
    """Fetch a cohort; how each row stands when this returns.

    Args:
        request: What is asked for.
        stop: Set to begin nothing new and return.
        report: CSV file that says how each row ended.

    Raises:
        PullEnded: It cannot go on.
        JournalUnusable, SpoolError, LedgerUnusable, OutOfSpace, SourceUnusable: The data folder cannot be used.
    """
    with (
        Receiver(request.settings, request.data, request.peer.method) as receiver,
        Journal.open(request.data.root / "pull" / "journal.db") as journal,
    ):
        digests = [request.digest(row) for row in request.cohort.rows]
        cohort = hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
        goes_on = journal.begin(cohort, digests, again=request.again)
        log.info("pull begins", rows=len(digests), wrong=len(request.cohort.wrong), goes_on=goes_on)
        arrivals = Arrivals(journal, request.data.spool, request.data.ledger)
        try:
            _Run(request, receiver, journal, arrivals, stop).execute()
        finally:
            arrivals.close()
            summary = summarize(request.cohort, request.digest, journal)
            write_report(report, list(summary.outcomes), journal)
        if not any(outcome.state == "waiting" for outcome in summary.outcomes):
            journal.end(cohort)
        return summary


def survey(request: Request, stop: threading.Event, place: Path) -> dict[int, str]:
    """A dry run: find only, and write what was found to a new file; problems by row.

    Raises:
        PullEnded: The peer cannot be asked.
        OSError: The file cannot be written.
    """
    problems = {wrong.number: wrong.problem for wrong in request.cohort.wrong}
    asking = _Asking(request, stop, Pace(None, None, stop))
    with private_file(place) as file:
        found_file = FoundFile(file, request.cohort.columns)
        try:
            for row in request.cohort.rows:
                found, question = asking.ask(row)
                if question.state is not QuestionState.FOUND:
                    problems[row.number] = question.problem
                for target, answer in found.targets.items() if found is not None else ():
                    found_file.add(row.number, target, answer)
        except Stopped:
            raise PullEnded("stopped before every row was asked; nothing was written") from None
        finally:
            asking.close()
    return dict(sorted(problems.items()))


class _Reach:
    """How often in a row the peer was out of reach; safe for many threads."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self._failures = 0

    def persist(self, operation: Callable[[], T]) -> T:
        """Run an operation, again while the peer is out of reach.

        Raises:
            PullEnded: It is out of reach for good, or for too long.
            Stopped: We are to stop.
        """
        while True:
            try:
                result = operation()
            except PeerUnreachable as error:
                with self._lock:
                    self._failures += 1
                    failures = self._failures
                if not error.may_pass or failures >= TRIES:
                    raise PullEnded(str(error)) from error
                log.warning("peer out of reach", tries=failures, problem=str(error))
                if self._stop.wait(min(FIRST_PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S)):
                    raise Stopped from None
            else:
                with self._lock:
                    self._failures = 0
                return result


class _Asking:
    """C-FIND for rows, over one association for as long as it is used."""

    def __init__(self, request: Request, stop: threading.Event, pace: Pace) -> None:
        self._request = request
        self._stop = stop
        self._pace = pace
        try:
            self.peer = Peer(request.peer, request.calling)
        except PeerUnreachable as error:
            raise PullEnded(str(error)) from error
        self._finder = Finder(request.peer, request.level, self._open)
        self._reach = _Reach(stop)
        self._line: Conversation | None = None
        self._used = 0.0
        rows = request.cohort.rows
        self._relational = any(min(key.rank for key, _ in row.values) > Rank.STUDY for row in rows)

    def ask(self, row: Row) -> tuple[Found | None, Question]:
        """What a row finds, and what became of the question.

        Raises:
            PullEnded: The peer is out of reach.
            Stopped: We are to stop.
        """
        problem = ""
        for attempt in range(self._request.peer.attempts):
            if attempt and self._stop.wait(min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S)):
                raise Stopped
            if not self._pace.ask():
                raise Stopped
            try:
                found = self._reach.persist(lambda: self._finder.targets(row))
            except PeerError as error:
                problem = str(error)
                if not self._is_worth_another(error):
                    break
            else:
                return found, _question(found)
        if min(key.rank for key, _ in row.values) > Rank.STUDY:
            problem += RELATIONAL_HINT
        return None, Question(QuestionState.REFUSED, problem, 0)

    def _is_worth_another(self, error: PeerError) -> bool:
        match error:
            case Refused():
                return error.verdict is not Verdict.NEVER
            case AssociationLost():
                self.close()
                return True
            case _:  # too many answers, or no end of them
                self.close()
                return False

    def close(self) -> None:
        """Let go of the association."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _open(self) -> Conversation:
        now = time.monotonic()
        if self._line is None or not self._line.is_open or now - self._used > LINE_IDLE_S:
            self.close()
            self._line = self.peer.converse(FIND, relational=self._relational)
        self._used = now
        return self._line


def _question(found: Found) -> Question:
    if found.targets:
        return Question(QuestionState.FOUND, "", found.left_out)
    problem = "nothing matches"
    if found.left_out:
        problem += f"; {found.left_out} answers were not what was asked for: the peer may not know one of the keys"
    return Question(QuestionState.NOT_FOUND, problem, found.left_out)


class _Run:
    """The threads of one pull."""

    def __init__(
        self, request: Request, receiver: Receiver, journal: Journal, arrivals: Arrivals, stop: threading.Event
    ) -> None:
        self._request = request
        self._receiver = receiver
        self._journal = journal
        self._arrivals = arrivals
        self._asked_to_stop = stop
        self._stop = threading.Event()
        """Set by whoever asked, or by a thread that cannot go on."""
        self._failure: BaseException | None = None
        self._tasks: queue.Queue[Task | None] = queue.Queue(4 * request.peer.parallel)
        self._pace = Pace(
            request.window, request.peer.moves_per_minute, self._stop, request.clock, on_wait=self._tell_window
        )
        self._asking = _Asking(request, self._stop, self._pace)
        self._reach = _Reach(self._stop)
        self._ended = 0
        self._told = time.monotonic()

    def execute(self) -> None:
        """Until everything is done, or until it is to stop."""
        if all(self._is_over(row) for row in self._request.cohort.rows):
            return
        self._receiver.start()
        self._arrivals.start()
        movers = [threading.Thread(target=self._guard, args=(self._move,), daemon=True) for _ in range(self._parallel)]
        threads = [threading.Thread(target=self._guard, args=(self._find,), daemon=True), *movers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if self._asked_to_stop.wait(0.1):
                self._stop.set()
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
        """Run a thread's work; what it cannot cope with ends the others, too, and is raised by `execute`."""
        failure: BaseException | None = RuntimeError("a thread of the pull ended unexpectedly")
        try:
            work()
            failure = None
        except Stopped:
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
                    found, question = self._asking.ask(row)
                    self._journal.answered(digest, question, self._request.address, found.targets if found else ())
                    if question.state is not QuestionState.FOUND:
                        log.warning("row comes to nothing", row=row.number, problem=question.problem)
                for task in self._journal.tasks(digest):
                    if task.state is TargetState.WAITING and task.id not in queued:
                        queued.add(task.id)
                        self._put(task)
        finally:
            self._asking.close()
        for _ in range(self._parallel):
            self._put(None)

    def _put(self, task: Task | None) -> None:
        while not self._stop.is_set():
            try:
                self._tasks.put(task, timeout=0.5)
            except queue.Full:
                self._asking.close()  # it would stand idle
            else:
                return
        raise Stopped

    def _move(self) -> None:
        listener = self._request.settings.listener
        getter = None
        if self._receiver.surroundings is not None:
            getter = Getter(self._request.peer, listener, self._receiver.surroundings, self._request.calling)
        tools = Tools(
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
                log.warning("target is incomplete", number=task.id, missing=self._journal.task(task.id).missing)

    def _next(self) -> Task | None:
        while not self._stop.is_set():
            try:
                return self._tasks.get(timeout=0.2)
            except queue.Empty:
                continue
        raise Stopped

    def _wait_for_receiver(self) -> None:
        """Return once somebody receives and has room.

        Raises:
            ReceiverGone: Nobody has for a while.
            Stopped: We are to stop.
        """
        gone_since: float | None = None
        told = False
        while not (self._receiver.is_there and self._receiver.has_room):
            if self._receiver.is_there:
                gone_since = None
            else:
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > RECEIVER_BACK_S:
                    raise ReceiverGone
            if not told:
                told = True
                problem = "no room in the spool" if self._receiver.is_there else "the listener is away"
                log.warning("waiting", problem=problem)
            if self._stop.wait(0.5):
                raise Stopped

    # -- words -------------------------------------------------------------------------------------------------------

    def _tell_window(self, window: Window) -> None:
        log.info("waiting for the window of time", window=str(window))

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told >= 10:
            self._told = now
            log.info("progress", targets=self._ended, instances=self._arrivals.count, queued=self._tasks.qsize())


_EXPECTED: Final[tuple[type[Exception], ...]] = (
    PullEnded,
    ReceiverGone,
    JournalUnusable,
    LedgerUnusable,
    OutOfSpace,
    SpoolError,
    OSError,
)
