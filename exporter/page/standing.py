"""How everything stands at one moment: the values that page, status and metrics are made of.

Contract: an instance is counted in exactly one of pending, active, exported, skipped, quarantined and failed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from exporter.results.ledger.browsing import MinuteNumbers


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong."""

    word: str
    """Stable name, for programs."""
    level: Literal["fault", "attention"]
    """`fault`: instances are not received or not exported; `attention`: all works, and somebody should look."""
    what: str
    do: str


@dataclass(frozen=True, slots=True)
class SourceStanding:
    """One source of instances, by what the listener counts."""

    name: str
    last: float | None
    """Unix time of the last arrival; None where none is known."""
    hour: int
    """Arrivals within about an hour."""
    day: int
    strip: tuple[int, ...]
    """Arrivals of the last 24 hours, in slots of ten minutes, oldest first."""
    number: int = 0
    """Arrivals since they are counted."""
    expected_every: str | None = None
    silent_s: float | None = None
    """Silence on expected days, in seconds, where it is a fault."""


@dataclass(frozen=True, slots=True)
class DiskStanding:
    """One file system, and what of ours is on it."""

    places: tuple[str, ...]
    free_bytes: int
    total_bytes: int
    full_in_s: float | None = None
    """Seconds until it is full at the rate at which it fills; None where it does not, or that is not known yet."""


@dataclass(frozen=True, slots=True)
class SpanStanding:
    """What was done in a span of time."""

    exported: int = 0
    skipped: int = 0
    failed: int = 0
    """Failed and quarantined."""
    bytes: int = 0
    """Sizes of the inputs together."""
    mean_s: float | None = None
    """Mean time from arrival to outcome."""
    half_within_s: int | None = None
    """Upper bound, in seconds, of the time from arrival to outcome of half of the instances."""
    most_within_s: int | None = None
    """The same of 95 % of them."""

    @classmethod
    def of(cls, numbers: MinuteNumbers) -> SpanStanding:
        """The figures of a span."""
        states = numbers.by_state
        return cls(
            exported=states.get("exported", 0),
            skipped=states.get("skipped", 0),
            failed=states.get("failed", 0) + states.get("quarantined", 0),
            bytes=numbers.bytes,
            mean_s=round(numbers.seconds / numbers.timed, 3) if numbers.timed else None,
            half_within_s=numbers.within_s(0.5),
            most_within_s=numbers.within_s(0.95),
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """Everything that is known at one moment."""

    pending: int = 0
    active: int = 0
    exported: int = 0
    skipped: int = 0
    quarantined: int = 0
    failed: int = 0
    duplicates: int = 0
    """Flagged as duplicates; also counted as skipped."""
    conflicts: int = 0
    """Same SOP Instance UID as another instance, other content; also counted in their state."""
    rejected: int = 0
    """Named by a rejection note: withdrawn, refused or flagged; also counted in their state."""
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    """Numbers by state and reason: skipped, quarantined, failed and (waiting for another attempt) pending."""
    overdue: int = 0
    """Pending instances whose next attempt is late, or put off until a time that cannot be right."""
    receiving: int = 0
    paused: str | None = None
    """Why the exporter pauses."""
    memory: str | None = None
    """Number of workers that run, while memory is short."""
    listener: dict[str, Any] | None = None
    now: float = 0.0
    """Unix time of the look."""
    version: str = ""
    is_live: bool = False
    """Whether there is a spool, so that both daemons should run."""
    daemons: dict[str, str] = field(default_factory=dict)
    """`running`, `hung` or `stopped`, by daemon."""
    notifier: str | None = None
    """`running` or `stopped`: what sends notifications; None where nobody is to be notified, or that is not known."""
    oldest_s: float | None = None
    """Time for which the oldest instance of the queue has waited."""
    sources: tuple[SourceStanding, ...] = ()
    last_hour: SpanStanding = SpanStanding()
    last_day: SpanStanding = SpanStanding()
    disks: tuple[DiskStanding, ...] = ()
    unanswered: tuple[str, ...] = ()
    """What is on disks, or servers, that do not answer."""
    settings: dict[str, Any] | None = None
    """Settings in force, secrets masked; None where no configuration was named."""
    problems: tuple[Problem, ...] = ()
    """What is wrong, the worst first."""
    summary: str = ""
    """Whether all is well, in one sentence."""

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def instances(self) -> int:
        """Number of instances, each counted once."""
        return self.pending + self.active + self.exported + self.skipped + self.quarantined + self.failed

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        found = {one.name: _plain(getattr(self, one.name)) for one in fields(self)}
        found["well"] = self.well
        if self.listener is None:
            del found["listener"]
        return found


def _plain(value: Any) -> Any:
    """A value of `Standing` as JSON knows it."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value
