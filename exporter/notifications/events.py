"""Events: what people and programs are notified of, and the words for it.

Contract: every text is one of ours with numbers, reasons, names from the configuration and times in it: no file, no
value of an instance, and nothing that a sender chose. An event never changes once it is made; its `id` is the same in
every attempt to deliver it, whichever process makes it.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Required, TypedDict, Unpack

from exporter.page.problems import count_of, day_of
from listener.foundation.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

EVENTS: Final[Mapping[str, str]] = {
    "run_ended": "A backfill has come to its end, was stopped, or ended early.",
    "failures": "Instances failed: one digest of all that were in none yet.",
    "disk_low": "A disk is below a limit, so that receiving or exporting stops or will soon.",
    "source_silent": "Nothing came from a source for longer than `expect` permits.",
    "source_back": "A source that was silent sends again.",
    "daemon_gave_up": "Listener or exporter is down or does not respond, and restarts have not helped.",
    "test": "Somebody asked for it with `exporter notify test`.",
}
"""Every kind of event, and when it happens."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, and that destinations are to know."""

    id: str
    """Unique; the same in every attempt."""
    kind: str
    """One of `EVENTS`."""
    at: float
    """Unix time."""
    what: str
    """One sentence."""
    do: str = ""
    """What to do, in a sentence or two; empty where nothing is to be done."""
    data: Mapping[str, Any] = ()  # type: ignore[assignment]  # replaced by an empty mapping below
    """The numbers and names of it, for programs."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", dict(self.data))

    @classmethod
    def now(cls, kind: str, what: str, do: str = "", **data: Any) -> Event:
        """An event of this moment, with an id of its own.

        Raises:
            KeyError: There is no such kind.
        """
        if kind not in EVENTS:
            raise KeyError(kind)
        return cls(f"evt_{secrets.token_hex(16)}", kind, round(time.time(), 3), what, do, data)

    def as_json(self, installation: str, version: str) -> dict[str, Any]:
        """The object that a webhook gets; the form of its first keys is that of Standard Webhooks."""
        return {
            "type": self.kind,
            "timestamp": utc(self.at),
            "data": dict(self.data),
            "id": self.id,
            "what": self.what,
            "do": self.do,
            "installation": installation,
            "version": version,
        }

    def lines(self) -> list[str]:
        """The text of a mail: what happened, what to do, the numbers."""
        found = [self.what, *([self.do] if self.do else []), ""]
        for name, value in self.data.items():
            label = name.replace("_", " ")
            if isinstance(value, dict):
                found += [f"{label}:"] if value else []
                found += [f"    {printable(str(key))}: {number}" for key, number in value.items()]
            elif value not in (None, ""):
                found.append(f"{label}: {printable(str(value))}")
        return found

    def dumped(self) -> str:
        """The event as text, for `loaded`."""
        return json.dumps([self.id, self.kind, self.at, self.what, self.do, dict(self.data)], separators=(",", ":"))

    @classmethod
    def loaded(cls, text: str) -> Event:
        """The event that `dumped` wrote."""
        return cls(*json.loads(text))


RunResult = Literal["complete", "stopped", "ended_early"]
"""How a run ended: all is done; by a signal; by an error, or with batches that are not complete."""


class RunCounts(TypedDict, total=False):
    """Counts of a run over things at rest; unknown ones are left out."""

    exported: Required[int]
    skipped: Required[Mapping[str, int]]
    """Instances without media, by reason; no failures."""
    failed: Required[Mapping[str, int]]
    """Instances that failed, by reason."""
    unchanged: int
    """Instances that an earlier run had finished."""
    failed_before: int
    """Those of them that had failed."""
    left: int
    """Instances that stay pending."""
    seconds: float
    """Time that the run took."""


def run_ended(result: RunResult, **counts: Unpack[RunCounts]) -> Event:
    """The end of a run over things at rest."""
    how = {"complete": "is complete", "stopped": "was stopped", "ended_early": "ended before it was complete"}[result]
    skipped, failed = counts["skipped"], counts["failed"]
    lost, apart = sum(failed.values()), sum(skipped.values())
    what = f"The run {how}: {counts['exported']:,} exported, {apart:,} skipped, {lost:,} failed."
    do = "" if result == "complete" else "The same command goes on where it stopped."
    if lost or counts.get("failed_before"):
        do = f"{do} `exporter failures` says what failed and why.".strip()
    by_reason = {
        "skipped": apart,
        "skipped_by_reason": dict(sorted(skipped.items())),
        "failed": lost,
        "failed_by_reason": dict(sorted(failed.items())),
    }
    return Event.now("run_ended", what, do, result=result, **{**counts, **by_reason})


def failures(number: int, since: float, by_reason: Mapping[str, int]) -> Event:
    """A digest of failures.

    Args:
        number: Failures that were in no digest yet.
        since: Unix time of the digest before, or from which on failures are counted.
        by_reason: Instances that need a look now, of any time, by reason.
    """
    what = f"{count_of(number, 'instance')} failed since {day_of(since)}."
    do = "See the failures by reason, on the page or with `exporter failures`: each says what to do."
    return Event.now(
        "failures",
        what,
        do,
        failed=number,
        since=utc(since),
        need_a_look=sum(by_reason.values()),
        need_a_look_by_reason=dict(sorted(by_reason.items())),
    )


def utc(when: float) -> str:
    """A Unix time as RFC 3339 writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
