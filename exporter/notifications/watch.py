"""What has begun or ended since the last look: from how everything stands to events.

Contract: `Watch.look` is a pure function of what is found and of what is remembered, but for short waits that a restart
begins anew. What it remembers goes into the queue with the events of the same look, in one transaction, so
that no kill loses an event or makes it twice. The standing is the one behind page and status: there is no second truth.

How messages are kept few: failures become one digest, and no other within `notify.failures.window_s`; a condition that
ends and comes back within `QUIET_S` is the same one; sources that fall silent together are one message.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from exporter.notifications import events
from exporter.notifications.events import Event, utc
from exporter.page.problems import DISK_WORDS, day_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.page.standing import SourceStanding, Standing
    from exporter.settings.notify import FailureDigestSection

SETTLED_S: Final = 20.0
"""Time for which failures are collected before the first digest, so that it tells a storm from one file."""
FEWEST_OUTCOMES: Final = 20
"""Outcomes from which on their share of failures says something."""
PATIENCE_S: Final = 60.0
"""Time for which a daemon is down, in all, before restarts count as exhausted; time in which it runs counts back."""
QUIET_S: Final = 900.0
"""Time for which a condition must be gone before it can begin again."""
FAILURES: Final = "failures"
DAEMON: Final = "daemon "
DISK: Final = "disk"
SILENT: Final = "silent "
SILENCE: Final = "silence"
RETURN: Final = "return"
MOST_NAMED: Final = 20
"""Sources that one sentence names at most; the data of its event name all."""


@dataclass(frozen=True, slots=True)
class FailureNumbers:
    """What the ledger has counted."""

    ever: int = 0
    """Failures of all times: they only rise, but for a new ledger."""
    window: int = 0
    """Failures within the window."""
    outcomes: int = 0
    """Outcomes within the window."""


@dataclass(slots=True)
class WatchChanges:
    """What a look has found."""

    events: list[Event] = field(default_factory=list)
    marks: dict[str, str | None] = field(default_factory=dict)
    """What is to be remembered; None forgets."""

    def __bool__(self) -> bool:
        return bool(self.events or self.marks)

    def remember(self, key: str, **values: Any) -> None:
        """Remember values under a key."""
        self.marks[key] = json.dumps(values, separators=(",", ":"))


class Watch:
    """Compares looks."""

    def __init__(self, failures: FailureDigestSection) -> None:
        self._failures = failures
        self._settling_s: float | None = None
        self._missed: int | None = None
        """Failures of the time in which nobody watched, however long ago; None before the first look."""
        self._down_s: dict[str, float] = {}

    def look(
        self, standing: Standing, numbers: FailureNumbers | None, marks: Mapping[str, str], elapsed_s: float
    ) -> WatchChanges:
        """Compare how everything stands with what is remembered.

        Args:
            standing: How everything stands.
            numbers: What the ledger has counted; None where it cannot be read.
            marks: What is remembered.
            elapsed_s: Time since the last look, in seconds.
        """
        known = {key: json.loads(value) for key, value in marks.items()}
        found = WatchChanges()
        if numbers is not None:
            self._look_at_failures(standing, numbers, known.get(FAILURES), elapsed_s, found)
        self._look_at_daemons(standing, known, elapsed_s, found)
        low = [problem for problem in standing.problems if problem.word in DISK_WORDS]
        if _begins(DISK, known.get(DISK), found, is_there=bool(low), now=standing.now):
            found.events.append(Event.now("disk_low", low[0].what, low[0].do, **_disks(standing)))
        _look_at_sources(standing, known, found)
        _forget_sources(standing, known, found)
        return found

    # -- failures ---------------------------------------------------------------------------------------------------

    def _look_at_failures(
        self,
        standing: Standing,
        numbers: FailureNumbers,
        known: dict[str, Any] | None,
        elapsed_s: float,
        found: WatchChanges,
    ) -> None:
        now, window_s = standing.now, self._failures.window_s
        if known is None:  # what is older than the window was never to be a message
            known = {"reported": numbers.ever - numbers.window, "since": max(0.0, now - window_s), "at": 0.0}
            found.remember(FAILURES, **known)
        if numbers.ever < known["reported"]:  # a new ledger, which counts anew
            known["reported"] = 0
            found.remember(FAILURES, **known)
        number = numbers.ever - known["reported"]
        self._missed = number if self._missed is None else self._missed
        is_resting = known["at"] <= now < known["at"] + window_s
        if is_resting or not self._is_worth_a_message(number, numbers):
            self._settling_s = None
            return
        self._settling_s = 0.0 if self._settling_s is None else self._settling_s + elapsed_s
        is_settled = self._settling_s >= min(SETTLED_S, window_s / 60)
        if is_settled or known["at"]:  # after a digest, the whole window has been collected
            self._settling_s, self._missed = None, 0
            reasons: dict[str, int] = {}
            for state in ("failed", "quarantined"):
                for reason, count in standing.reasons.get(state, {}).items():
                    reasons[reason] = reasons.get(reason, 0) + count
            found.events.append(events.failures(number, known["since"], reasons))
            found.remember(FAILURES, reported=numbers.ever, since=now, at=now)

    def _is_worth_a_message(self, number: int, numbers: FailureNumbers) -> bool:
        recent = min(number, max(numbers.window, self._missed or 0))
        if recent >= self._failures.count:
            return True
        share = self._failures.share
        return (
            share is not None
            and recent > 0
            and numbers.outcomes >= FEWEST_OUTCOMES
            and numbers.window / numbers.outcomes >= share
        )

    # -- daemons ----------------------------------------------------------------------------------------------------

    def _look_at_daemons(
        self, standing: Standing, known: Mapping[str, Any], elapsed_s: float, found: WatchChanges
    ) -> None:
        by_word = {problem.word: problem for problem in standing.problems}
        for name in standing.daemons:
            problem = by_word.get(f"{name}_stopped") or by_word.get(f"{name}_hung")
            before = self._down_s.get(name, 0.0)
            # Time in which it runs counts back slowly: one that dies again and again is as good as down.
            down_s = before + elapsed_s if problem is not None else max(0.0, before - elapsed_s / 4)
            self._down_s[name] = min(down_s, 2 * PATIENCE_S)
            key, is_known = f"{DAEMON}{name}", f"{DAEMON}{name}" in known
            is_down = problem is not None and (is_known or down_s >= PATIENCE_S)
            if _begins(key, known.get(key), found, is_there=is_down, now=standing.now) and problem is not None:
                found.events.append(Event.now("daemon_gave_up", problem.what, problem.do, daemon=name))


def _begins(key: str, known: dict[str, Any] | None, found: WatchChanges, *, is_there: bool, now: float) -> bool:
    """Whether a condition begins; remembers that, and forgets one that has been gone for `QUIET_S`."""
    if known is None:
        if is_there:
            found.remember(key, since=now, gone=None)
        return is_there
    gone = known["gone"]
    if is_there and gone is not None:
        found.remember(key, since=known["since"], gone=None)
    elif not is_there and gone is None:
        found.remember(key, since=known["since"], gone=now)
    elif gone is not None and not is_there and not 0 <= now - gone < QUIET_S:
        found.marks[key] = None
    return False


def _disks(standing: Standing) -> dict[str, Any]:
    return {"free_bytes": {" and ".join(disk.places): disk.free_bytes for disk in standing.disks}}


# -- sources ---------------------------------------------------------------------------------------------------------


def _look_at_sources(standing: Standing, known: Mapping[str, Any], found: WatchChanges) -> None:
    """Sources that fell silent, and that came back: one message for all of them, and no other within `QUIET_S`."""
    silent: list[SourceStanding] = []
    back: list[SourceStanding] = []
    for source in standing.sources:
        before = known.get(f"{SILENT}{source.name}")
        if before is None and source.silent_s is not None:
            silent.append(source)
        elif before is not None and source.silent_s is None and source.last is not None:
            if source.last > (before["last"] or 0):
                back.append(source)
            else:  # only the configuration has changed
                found.marks[f"{SILENT}{source.name}"] = None
    if silent and _may_send(SILENCE, known, standing.now, found):
        for source in silent:
            found.remember(f"{SILENT}{source.name}", since=standing.now, last=source.last)
        do = "Check the sender and the network between it and this machine."
        found.events.append(Event.now("source_silent", _silence(silent), do, last_arrivals=_last(silent)))
    if back and _may_send(RETURN, known, standing.now, found):
        for source in back:
            found.marks[f"{SILENT}{source.name}"] = None
        what = f"{_names(back)} {'sends' if len(back) == 1 else 'send'} again."
        found.events.append(Event.now("source_back", what, last_arrivals=_last(back)))


def _may_send(key: str, known: Mapping[str, Any], now: float, found: WatchChanges) -> bool:
    """Whether the last message of this kind is long ago; remembers this one."""
    before = known.get(key)
    if before is not None and 0 <= now - before["at"] < QUIET_S:
        return False
    found.remember(key, at=now)
    return True


def _silence(sources: list[SourceStanding]) -> str:
    """One sentence about sources that are silent."""
    if len(sources) > 1:
        return f"{len(sources)} sources are silent: {_names(sources)}."
    (source,) = sources
    since = "the listener started" if source.last is None else day_of(source.last)
    return f"{source.name} is silent since {since}; something is expected every {source.expected_every}."


def _names(sources: list[SourceStanding]) -> str:
    more = f" and {len(sources) - MOST_NAMED} more" if len(sources) > MOST_NAMED else ""
    return ", ".join(source.name for source in sources[:MOST_NAMED]) + more


def _last(sources: list[SourceStanding]) -> dict[str, str | None]:
    """Times of the last arrivals, by source."""
    return {source.name: None if source.last is None else utc(source.last) for source in sources}


def _forget_sources(standing: Standing, known: Mapping[str, Any], found: WatchChanges) -> None:
    """Forget sources of which nothing is known any more, where the listener says which it knows."""
    if standing.listener is None:
        return
    names = {source.name for source in standing.sources}
    for key in known:
        if key.startswith(SILENT) and key.removeprefix(SILENT) not in names:
            found.marks[key] = None
