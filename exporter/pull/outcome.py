"""Results of the rows of a cohort by the journal; the command's output and exit code follow from them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from exporter.pull.journal import QuestionState, RetrieveTask, TargetState

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.pull.cohort import Cohort, Row
    from exporter.pull.journal import PullJournal


class RowState(StrEnum):
    """Final state of a row."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """Something it found is not here."""
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    """The peer did not answer it, or answered too much."""
    WRONG = "wrong"
    """The row cannot be asked for."""
    WAITING = "waiting"
    """Not come to its end yet."""


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """One row."""

    number: int
    state: RowState
    problem: str = ""
    tasks: tuple[RetrieveTask, ...] = ()


@dataclass(frozen=True, slots=True)
class Summary:
    """All rows together."""

    outcomes: tuple[RowOutcome, ...]

    @property
    def states(self) -> Counter[RowState]:
        """Rows by how they ended."""
        return Counter(outcome.state for outcome in self.outcomes)

    @property
    def instances(self) -> tuple[int, int]:
        """Instances that were named or counted, and those of them that are missing; of each target once."""
        tasks = {task.id: task for outcome in self.outcomes for task in outcome.tasks}
        ended = [task for task in tasks.values() if task.state is not TargetState.WAITING]
        return sum(task.expected or 0 for task in ended), sum(task.missing for task in ended)

    @property
    def is_all_well(self) -> bool:
        """Whether every row is complete."""
        return set(self.states) <= {RowState.COMPLETE}


def summarize(cohort: Cohort, digest: Callable[[Row], str], journal: PullJournal) -> Summary:
    """State of each row now, in the order of the file."""
    outcomes = [RowOutcome(wrong.number, RowState.WRONG, wrong.problem) for wrong in cohort.wrong]
    outcomes += [_outcome(row.number, digest(row), journal) for row in cohort.rows]
    return Summary(tuple(sorted(outcomes, key=lambda outcome: outcome.number)))


def _outcome(number: int, digest: str, journal: PullJournal) -> RowOutcome:
    question = journal.question(digest)
    if question is None:
        return RowOutcome(number, RowState.WAITING, "not asked yet")
    match question.state:
        case QuestionState.REFUSED:
            return RowOutcome(number, RowState.REFUSED, question.problem)
        case QuestionState.NOT_FOUND:
            return RowOutcome(number, RowState.NOT_FOUND, question.problem)
        case QuestionState.FOUND:
            return _found(number, tuple(journal.tasks(digest)))


def _found(number: int, tasks: tuple[RetrieveTask, ...]) -> RowOutcome:
    states = Counter(task.state for task in tasks)
    if states[TargetState.WAITING]:
        return RowOutcome(
            number, RowState.WAITING, f"{states[TargetState.WAITING]} of {len(tasks)} still to fetch", tasks
        )
    if not states[TargetState.INCOMPLETE]:
        return RowOutcome(number, RowState.COMPLETE, "", tasks)
    bad = [task for task in tasks if task.state is TargetState.INCOMPLETE]
    missing, expected = sum(task.missing for task in bad), sum(task.expected or 0 for task in tasks)
    reasons = "; ".join(dict.fromkeys(task.problem for task in bad))
    lost = f"{missing} of {expected} instances are missing" if missing else "what it consists of is not known"
    return RowOutcome(number, RowState.INCOMPLETE, f"{lost}: {reasons}", tasks)
