"""The seam between what holds instances, a `WorkSource`, and what exports them, a `WorkEngine`.

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
"""Why an instance is pending: as the ledger and the log call it."""


@dataclass(frozen=True, slots=True)
class PublishedResult:
    """The outcome is final and durable, its line is in the metadata file."""

    work: WorkItem
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, slots=True)
class KnownOutcome:
    """The ledger had a final state already: a crash came between its commit and the move in the spool."""

    work: WorkItem
    entry: InstanceRow


@dataclass(frozen=True, slots=True)
class Deferred:
    """It failed in a way that may pass and is to be tried again when it is due."""

    work: WorkItem
    outcome: Failed
    due: float
    """Monotonic time: a clock that is set while the exporter runs delays nothing."""
    memory_short: bool = False
    """Whether its worker was killed with nothing else under way; the attempt does not count."""

    @property
    def reason(self) -> str:
        """Why it is pending, in one word."""
        return MEMORY_SHORT if self.memory_short else self.outcome.reason


@dataclass(frozen=True, slots=True)
class HeldBack:
    """No verdict: something outside the instance ended its attempts, and it is to be tried again after `wait_s`."""

    work: WorkItem
    wait_s: float


@dataclass(frozen=True, slots=True)
class Returned:
    """No verdict; the attempt does not count."""

    work: WorkItem
    condition: MachineCondition | None = None
    """What kept it from a verdict; None where the exporter stops."""


FinalResult = PublishedResult | KnownOutcome
PendingResult = Deferred | HeldBack | Returned
Result = FinalResult | PendingResult


class NotNow(Exception):
    """A condition of the machine keeps a source from what it was asked for: it is asked again after a pause."""

    def __init__(self, condition: MachineCondition) -> None:
        super().__init__(str(condition))
        self.condition = condition


class WorkSource(Protocol):
    """Where instances come from, and go to when it is known what became of them; used by one thread."""

    @property
    def is_exhausted(self) -> bool:
        """Whether `next` has nothing more to give, now or later, unless something comes back."""
        ...

    def next(self) -> WorkItem | None:
        """The next instance that can be worked on now, which is under way from then on; None while there is none.

        Raises:
            NotNow: The machine does not let it be taken.
        """
        ...

    def settle(self, result: FinalResult) -> None:
        """Let an instance go where its final outcome belongs: the ledger has it.

        Raises:
            NotNow: The machine does not permit that; it is called again with the same result.
        """
        ...

    def put_back(self, result: PendingResult, due: float | None) -> None:
        """Keep an instance that has no final outcome, and give it again at the monotonic time `due` or later.

        None means that this run does not try it again: the next one does.

        Raises:
            NotNow: The machine does not permit that; it is called again with the same result.
        """
        ...


class WorkEngine(Protocol):
    """What exports instances: worker processes of this exporter, or a batch system."""

    results: queue.SimpleQueue[Result]
    """One for every instance that was submitted."""
    waits_for: MachineCondition | None
    """Why outcomes wait, while they do."""

    @property
    def room(self) -> int:
        """How many instances can usefully be under way at once, without those that need no worker."""
        ...

    def submit(self, work: WorkItem) -> None:
        """Take one instance in; never waits, and is called from one thread."""
        ...

    def check(self) -> None:
        """Raise what keeps the engine from ever going on."""
        ...

    def stop(self, drain_s: float = 0.0) -> None:
        """End: what waits comes back at once, what is under way after `drain_s` at the latest."""
        ...

    def cancel(self) -> None:
        """Have what is under way given up now, while `stop` waits in another thread."""
        ...
