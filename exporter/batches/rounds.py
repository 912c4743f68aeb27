"""Rounds: batches that are not complete are started again, while that helps.

Contract: the state is in ``OUT/batches/rounds.json``, so that any host, or a job of a scheduler, goes on with it. A
round starts every batch that is not complete and not stuck. A batch is stuck when it was refused, or when its last
start ended by itself without progress: no instance finished, and none was interrupted. A start that was killed, or
never began, says nothing. After `engine.max_rounds` no further round begins.

Must never: start a batch that is complete.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final, Self

from exporter.batches.journal import BEGUN, ENDED, FINISHED, runs_of, scan
from exporter.batches.plan import ROUNDS, BatchUnusable
from exporter.batches.running import REFUSED, is_complete, replace_file

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from exporter.batches.engines.contract import BatchEngine
    from exporter.batches.plan import BatchPlan

POLL_S: Final = 0.3


@dataclass(slots=True)
class RoundState:
    """What was submitted so far."""

    engine: str
    max_rounds: int
    workers: int | None = None
    scheduler: str | None = None
    round: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    """Progress of every batch when it was last submitted, by its number."""
    ends: dict[str, int] = field(default_factory=dict)
    """Starts of every batch that had ended by themselves when it was last submitted."""
    stuck: list[int] = field(default_factory=list)
    is_cancelled: bool = False

    @classmethod
    def read(cls, plan: BatchPlan) -> Self | None:
        """The state of a plan; None where nothing was submitted.

        Raises:
            BatchUnusable: It cannot be read.
        """
        path = plan.root / ROUNDS
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise BatchUnusable(f"state of the rounds {path}", "it cannot be read", "remove it, and resume") from error

    def claim(self, plan: BatchPlan) -> None:
        """Begin with the first round.

        Raises:
            BatchUnusable: Somebody else has begun.
        """
        path = plan.root / ROUNDS
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            hint = "see `exporter backfill status OUT`, or go on with `exporter backfill resume OUT`"
            raise BatchUnusable(f"the batches in {plan.output} are submitted already", hint=hint) from None
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump(asdict(self), file)

    def write(self, plan: BatchPlan) -> None:
        """Keep the state."""
        replace_file(plan.root / ROUNDS, asdict(self), durable=True)


def next_round(plan: BatchPlan, state: RoundState) -> list[int]:
    """Batches to be started now; the state is kept. Empty where another round cannot help, or nothing is left."""
    left = [batch.number for batch in plan.batches if not is_complete(plan.folder_of(batch.number))]
    found = {str(number): progress_of(plan.folder_of(number)) for number in left}
    marks, ends = ({number: one[part] for number, one in found.items()} for part in (0, 1))
    if state.round:
        state.stuck = [
            number
            for number in left
            if marks[str(number)] <= state.marks.get(str(number), -1)
            and (ends[str(number)] > state.ends.get(str(number), -1) or (plan.folder_of(number) / REFUSED).exists())
        ]
    chosen = [number for number in left if number not in state.stuck] if state.round < state.max_rounds else []
    if chosen:
        state.round += 1
        state.marks |= {str(number): marks[str(number)] for number in chosen}
        state.ends |= {str(number): ends[str(number)] for number in chosen}
    state.write(plan)
    return chosen


def progress_of(folder: Path) -> tuple[int, int]:
    """Progress of a batch: instances finished and starts that were killed in an attempt; starts that ended."""
    finished: set[str] = set()
    interrupted = ended = 0
    for run in runs_of(folder):
        under_way: set[str] = set()
        for entry in scan(folder, run):
            if entry.event == FINISHED:
                finished.add(entry.name)
            if entry.event == BEGUN:
                under_way.add(entry.name)
            elif entry.event == ENDED:
                ended += 1
            else:
                under_way.discard(entry.name)
        interrupted += bool(under_way)
    return len(finished) + interrupted, ended


def drive(plan: BatchPlan, state: RoundState, engine: BatchEngine, stop: threading.Event) -> bool:
    """Run rounds with an engine that lives as long as this process.

    Returns:
        Whether they are over; False where `stop` was set: then no batch runs any more.

    Raises:
        EngineUnusable: The engine refuses.
    """
    while batches := next_round(plan, state):
        engine.submit(batches)
        try:
            while engine.alive():
                if stop.wait(POLL_S):
                    return False
        finally:
            engine.cancel()
    return True
