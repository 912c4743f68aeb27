"""Asking a peer for rows: again while it is out of reach, again where its refusal may pass, and never without end.

Contract: a row that the peer does not answer costs that row; a peer that is out of reach for good ends the run.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from exporter.pull.finding import Finder
from exporter.pull.journal import Question, QuestionState
from exporter.pull.keys import Rank
from exporter.pull.pace import pauses
from exporter.pull.peer import (
    FIND,
    AssociationLost,
    PeerError,
    PeerRefused,
    PeerUnreachable,
    PullPeer,
    PullStopped,
    StopOrder,
)
from exporter.pull.request import PullEnded
from exporter.pull.statuses import Verdict

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from exporter.pull.cohort import Row
    from exporter.pull.finding import RowFindings
    from exporter.pull.pace import RateLimiter
    from exporter.pull.peer import QueryAssociation
    from exporter.pull.request import PullRequest

log = structlog.get_logger()
T = TypeVar("T")

TRIES: Final = 6
"""Failed connections in a row after which a run ends."""
LINE_IDLE_S: Final = 3.0
RELATIONAL_HINT: Final = (
    "; a row without a key of a study needs relational queries: add StudyInstanceUID, PatientID or AccessionNumber"
)


class ReachabilityRetry:
    """Whether the peer is in reach of any of our threads; safe for all of them."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._reached = time.monotonic()

    def persist(self, operation: Callable[[], T]) -> T:
        """Run an operation, again while the peer is out of reach.

        Where others reach it meanwhile, it merely has too many associations, and one waits for its turn.

        Raises:
            PullEnded: It is out of reach for good, or for too long.
            Stopped: We are to stop.
        """
        backoff, since = pauses(), time.monotonic()
        while True:
            try:
                result = operation()
            except PeerUnreachable as error:
                if self._reached > since:
                    backoff, since = pauses(), time.monotonic()
                pause_s = backoff.next_pause()
                if not error.may_pass or backoff.failures >= TRIES:
                    raise PullEnded(str(error)) from error
                log.warning("peer unreachable, backing off", tries=backoff.failures, problem=str(error))
                if self._stop.wait(pause_s):
                    raise PullStopped from None
            else:
                self._reached = time.monotonic()
                return result


class RowFinder:
    """C-FIND for rows, over one association as long as that is in use."""

    def __init__(self, request: PullRequest, stop: threading.Event, pace: RateLimiter) -> None:
        self._request = request
        self._stop = stop
        self._pace = pace
        try:
            order = StopOrder(stop, request.settings.listener.deadlines.drain_s)
            self.peer = PullPeer(request.peer, request.calling, order)
        except PeerUnreachable as error:
            raise PullEnded(str(error)) from error
        self._finder = Finder(request.peer, request.level, self._open)
        self._reach = ReachabilityRetry(stop)
        self._line: QueryAssociation | None = None
        self._used = 0.0
        rows = request.cohort.rows
        self._relational = any(min(key.rank for key, _ in row.values) > Rank.STUDY for row in rows)

    def find_row(self, row: Row) -> tuple[RowFindings | None, Question]:
        """Targets of a row, and the result of its question.

        Raises:
            PullEnded: The peer is out of reach.
            Stopped: We are to stop.
        """
        problem = ""
        for attempt in range(self._request.peer.attempts):
            if attempt and self._stop.wait(pauses().pause_after(attempt)):
                raise PullStopped
            if not self._pace.wait_for_turn():
                raise PullStopped
            try:
                found = self._reach.persist(lambda: self._finder.targets(row))
            except PeerError as error:
                problem = str(error)
                if not self._is_worth_another(error):
                    break
            else:
                return found, question_of(found)
        if min(key.rank for key, _ in row.values) > Rank.STUDY:
            problem += RELATIONAL_HINT
        return None, Question(QuestionState.REFUSED, problem, 0)

    def _is_worth_another(self, error: PeerError) -> bool:
        match error:
            case PeerRefused():
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

    def _open(self) -> QueryAssociation:
        now = time.monotonic()
        if self._line is None or not self._line.is_open or now - self._used > LINE_IDLE_S:
            self.close()
            self._line = self.peer.converse(FIND, relational=self._relational)
        self._used = now
        return self._line


def question_of(found: RowFindings) -> Question:
    """Result of a question that was answered."""
    if found.targets:
        return Question(QuestionState.FOUND, "", found.left_out)
    problem = "nothing matches"
    if found.left_out:
        problem += f"; {found.left_out} answers were not what was asked for: the peer may not know one of the keys"
    return Question(QuestionState.NOT_FOUND, problem, found.left_out)
