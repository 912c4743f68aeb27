"""One target, until it is here or given up: what is it, what of it is here, ask for it, look, ask for the rest.

Contract: complete means that every instance the peer named at IMAGE level is held (`arrivals`), whatever the peer
says of its sub-operations; where it names none, that as many came as it counts. A target that is here already is not
asked for. Requests are counted durably before they are sent, and there are never more than `attempts`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from exporter.pull.finding import CHUNK, Finder, PullTarget
from exporter.pull.journal import TargetState
from exporter.pull.pace import pauses
from exporter.pull.peer import FIND, GET, MOVE, AssociationLost, PeerError, PeerUnreachable, PullStopped, identifier
from exporter.pull.statuses import Verdict, verdict, words

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from exporter.pull.arrivals import Arrivals
    from exporter.pull.finding import FoundInstance, TargetInstances
    from exporter.pull.getting import Getter
    from exporter.pull.journal import PullJournal, RetrieveTask
    from exporter.pull.pace import RateLimiter
    from exporter.pull.peer import PullPeer, Sent

log = structlog.get_logger()

LOOK_EVERY_S: Final = 0.2
SHORT_SETTLE_S: Final = 1.0
"""Instead of `settle_s` where the peer itself says that something failed."""


class DestinationUnknown(Exception):
    """The peer does not know the AE title that it shall move to."""


@dataclass(slots=True)
class FetchContext:
    """Collaborators of fetching; the same for every target."""

    peer: PullPeer
    journal: PullJournal
    arrivals: Arrivals
    pace: RateLimiter
    stop: threading.Event
    move_to: str
    getter: Getter | None
    """With C-GET."""
    wait_for_receiver: Callable[[], None]
    """Returns once somebody receives, and has room."""


class Fetch:
    """The work on one target; used by one thread."""

    def __init__(self, tools: FetchContext, task: RetrieveTask) -> None:
        self._tools = tools
        self._task = task
        self._target = task.target
        self._settings = tools.peer.settings
        self._problem = ""
        self._is_begun = False
        self._is_too_large = False
        self._may_come = True
        """Whether the last answer leaves open that more comes by itself."""

    def run(self) -> TargetState:
        """Fetch the target; its result is in the journal.

        Raises:
            Stopped: We are to stop.
            PeerUnreachable: There is no association with the peer.
            DestinationUnknown: No move can succeed.
            ReceiverGone: Nobody receives.
        """
        contents = self._contents()
        if contents is None:
            return self._end(TargetState.INCOMPLETE, None, ())
        self._tools.arrivals.take_in_new()
        rest = self._rest(contents)
        while rest:
            task = self._task = self._tools.journal.task(self._task.id)
            if task.attempts >= self._settings.attempts:
                return self._end(TargetState.INCOMPLETE, contents, rest)
            if task.attempts:
                problem = self._problem or "a run that ended before had asked for it"
                log.warning("target requested again", number=task.id, attempt=task.attempts + 1, problem=problem)
                if not self._pause(task.attempts):
                    raise PullStopped
            self._tools.wait_for_receiver()
            if not self._tools.pace.move():
                raise PullStopped
            self._is_begun = False
            goes_on = self._ask(contents, rest)
            rest = self._settle(contents, rest)
            if rest and (not goes_on or contents.count is None):
                return self._end(TargetState.INCOMPLETE, contents, rest)
        return self._end(TargetState.COMPLETE, contents, ())

    def _end(
        self, state: TargetState, contents: TargetInstances | None, rest: Iterable[FoundInstance] | int
    ) -> TargetState:
        lost, count = ((), rest) if isinstance(rest, int) else (rest, 0)
        problem = "" if state is TargetState.COMPLETE else self._problem
        expected = contents.count if contents is not None else None
        self._tools.journal.ended(self._task, state, expected=expected, missing=lost, count=count, problem=problem)
        return state

    def _pause(self, attempts: int) -> bool:
        """Before it is asked for once more; False where we are to stop."""
        return not self._tools.stop.wait(pauses().pause_after(attempts))

    # -- what it is, and what of it is here ----------------------------------------------------------------------------

    def _contents(self) -> TargetInstances | None:
        """Instances of the target; None where the peer does not list them in several attempts."""
        for attempt in range(1, self._settings.attempts + 1):
            if not self._tools.pace.wait_for_turn():
                raise PullStopped
            try:
                contents = self._list()
            except PeerUnreachable:
                raise
            except PeerError as error:
                self._problem = f"what it consists of cannot be found out: {error}"
            else:
                if contents.count == 0:
                    self._problem = "the peer says that it has no instances"
                    return None
                return contents
            if attempt < self._settings.attempts and not self._pause(attempt):
                raise PullStopped
        return None

    def _list(self) -> TargetInstances:
        with self._tools.peer.converse(FIND) as line:
            return Finder(self._settings, "instance", lambda: line).contents(self._target)

    def _rest(self, contents: TargetInstances) -> tuple[FoundInstance, ...] | int:
        """Missing instances, or their number where the peer does not name them."""
        if contents.instances is not None:
            held = self._tools.arrivals.held(one.uid for one in contents.instances)
            return tuple(one for one in contents.instances if one.uid not in held)
        since = self._task.since
        here = self._tools.arrivals.counted(self._target, since if since >= 0 else 1 << 62)
        if contents.count is None:
            self._problem = (
                "the peer tells neither the instances nor their number, so that nothing shows it is complete"
            )
            return 1
        return max(contents.count - here, 0)

    def _settle(
        self, contents: TargetInstances, before: tuple[FoundInstance, ...] | int
    ) -> tuple[FoundInstance, ...] | int:
        """Instances still missing once nothing more comes; every name in the spool is looked at first."""
        rest, quiet_since = before, time.monotonic()
        settle_s = self._settings.times.settle_s
        if not self._may_come:
            settle_s = min(settle_s, SHORT_SETTLE_S)
        while True:
            self._tools.arrivals.take_in_new()
            now = self._rest(contents)
            if not now:
                return now
            if _size(now) != _size(rest):
                rest, quiet_since = now, time.monotonic()
            if time.monotonic() - quiet_since >= settle_s or contents.count is None:
                break
            if self._tools.stop.wait(LOOK_EVERY_S):
                raise PullStopped
        self._tools.arrivals.take_in_new(thorough=True)
        return self._rest(contents)

    # -- asking --------------------------------------------------------------------------------------------------------

    def _ask(self, contents: TargetInstances, rest: tuple[FoundInstance, ...] | int) -> bool:
        """Send the requests of one attempt; False where another one is no use."""
        self._may_come = True
        for target in self._requests(contents, rest):
            try:
                sent = self._request(target, contents)
            except AssociationLost as error:
                self._problem = str(error) + self._too_large
                return True
            self._may_come = not sent.status and not sent.failed
            if self._may_come:
                self._problem = "the peer says that it sent everything"
            else:
                operation = "C-GET" if self._tools.getter is not None else "C-MOVE"
                self._problem = f"{operation} was answered {words(sent.status)}, {sent.failed} instances failed"
                self._problem += self._too_large
            match verdict(sent.status):
                case Verdict.DESTINATION:
                    raise DestinationUnknown(self._tools.move_to)
                case Verdict.NEVER if target == self._target:
                    return False
        return True

    def _requests(self, contents: TargetInstances, rest: tuple[FoundInstance, ...] | int) -> list[PullTarget]:
        """Request of this attempt: the target as a whole, and in between its missing instances by name."""
        whole = [self._target]
        if isinstance(rest, int) or self._task.attempts % 2 == 0 or len(rest) == len(contents.instances or ()):
            return whole
        by_series: dict[str, list[str]] = {}
        for one in rest:
            by_series.setdefault(one.series, []).append(one.uid)
        size = 1 if self._target.instances else CHUNK
        return [
            PullTarget(self._target.study, series, tuple(uids[at : at + size]))
            for series, uids in by_series.items()
            for at in range(0, len(uids), size)
        ]

    def _request(self, target: PullTarget, contents: TargetInstances) -> Sent:
        asked = identifier(target.rank.level, target.keys)
        if self._tools.getter is None:
            with self._tools.peer.converse(MOVE) as line:
                self._begin(contents)
                return line.move(asked, self._tools.move_to)
        classes = (one.sop_class for one in contents.instances or ())
        storage, reception = self._tools.getter.storage(classes, contents.count)
        try:
            with self._tools.peer.converse(GET, storage=storage) as line:
                self._begin(contents)
                return line.get(asked)
        finally:
            reception.close()
            self._is_too_large = reception.is_too_large

    @property
    def _too_large(self) -> str:
        return "; an instance is longer than `max_get_bytes`" if self._is_too_large else ""

    def _begin(self, contents: TargetInstances) -> None:
        """Count the attempt, once, when there is an association to make it on."""
        if not self._is_begun:
            self._tools.journal.begun(self._task, contents.count)
            self._is_begun = True


def _size(rest: tuple[FoundInstance, ...] | int) -> int:
    return rest if isinstance(rest, int) else len(rest)
