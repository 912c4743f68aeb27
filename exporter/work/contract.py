"""The interface between a `WorkSource`, which holds instances, and a `WorkEngine`, which exports them.

Contract: plain values on both sides. A source (the spool, a folder, an archive) gives `WorkItem`s and never learns how
they are exported; an engine takes them, one at a time or in batches on other machines, and puts exactly one `Result`
for each into its `results`. `exporter.work.feeder.Feeder` stands between the two, in one thread.

Must never: let an engine know what a source does with a result, or a source where the work is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import queue

    from exporter.errors import MachineCondition
    from exporter.outcome import Failed, Outcome
    from exporter.results.ledger.types import InstanceRow, WorkItem

MEMORY_SHORT: Final = "memory_short"
"""Reason of a pending instance, in the ledger and the log."""


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """An outcome that is final and durable, with its line in the metadata file."""

    work: WorkItem
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class KnownOutcome:
    """A final state that the ledger already had: a crash came between its commit and the move in the spool."""

    work: WorkItem
    entry: InstanceRow


@dataclass(frozen=True, slots=True)
class Deferred:
    """A failure that may pass: the instance is tried again when it is due."""

    work: WorkItem
    outcome: Failed
    due: float
    """Monotonic time, which changes of the system clock do not affect."""
    memory_short: bool = False
    """Whether the worker was killed with nothing else under way; then the attempt does not count."""

    @property
    def reason(self) -> str:
        """Reason why the instance is pending, as one word."""
        return MEMORY_SHORT if self.memory_short else self.outcome.reason


@dataclass(frozen=True, slots=True)
class HeldBack:
    """No outcome: attempts ended for causes outside the instance; it is tried again after `wait_s`."""

    work: WorkItem
    wait_s: float


@dataclass(frozen=True, slots=True)
class Returned:
    """No outcome: the attempt was ended and does not count."""

    work: WorkItem
    condition: MachineCondition | None = None
    """Condition that ended the attempt; None if the exporter stops."""


FinalResult = PublishedResult | KnownOutcome
PendingResult = Deferred | HeldBack | Returned
Result = FinalResult | PendingResult


class NotNow(Exception):
    """Raised by a source when a machine condition prevents a call: the call is repeated after a pause."""

    def __init__(self, condition: MachineCondition) -> None:
        super().__init__(str(condition))
        self.condition = condition


class WorkSource(Protocol):
    """Gives instances to be exported and takes back their results; used by one thread."""

    @property
    def is_exhausted(self) -> bool:
        """Whether `next` has nothing more to give, now or later, unless an instance is put back."""
        ...

    def next(self) -> WorkItem | None:
        """Give the next instance that can be exported now; it is under way until it is settled or put back.

        Returns:
            None while there is no such instance.

        Raises:
            NotNow: A machine condition prevents taking it.
        """
        ...

    def settle(self, result: FinalResult) -> None:
        """Do what the final outcome of an instance, which is in the ledger, requires of the source.

        Raises:
            NotNow: A machine condition prevents it; the call is repeated with the same result.
        """
        ...

    def put_back(self, result: PendingResult, due: float | None) -> None:
        """Keep an instance that has no final outcome, and give it again at the monotonic time `due` or later.

        With None, this run does not try it again: the next one does.

        Raises:
            NotNow: A machine condition prevents it; the call is repeated with the same result.
        """
        ...


class WorkEngine(Protocol):
    """Exports instances, with worker processes of this exporter or a batch system."""

    results: queue.SimpleQueue[Result | None]
    """One result for every submitted instance; None only where `Feeder.wake` has put it."""
    waits_for: MachineCondition | None
    """Condition that outcomes wait for; None if they do not wait."""

    @property
    def room(self) -> int:
        """Number of instances that can usefully be under way at once, without those that need no worker."""
        ...

    def submit(self, work: WorkItem) -> None:
        """Take one instance; never waits, and is called from one thread."""
        ...

    def check(self) -> None:
        """Raise the error that ended the engine, if any."""
        ...

    def stop(self, drain_s: float = 0.0) -> None:
        """End the engine: waiting instances come back at once, those under way after `drain_s` at the latest."""
        ...

    def cancel(self) -> None:
        """Abort instances under way, while `stop` waits in another thread."""
        ...
