"""CSV files for the user: what a dry run found, and how a run ended.

Contract: they may hold identifiers, for the cohort is the user's own: mode 0600, written beside their place and
renamed, so that a file is complete or not there. Columns whose name begins with `#` are for people; the others are
unique keys, so that either file is a cohort again. Text of others is written as `listener.foundation.text.csv_text`
says.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, Final, TextIO

from exporter.pull.keys import UIDS
from listener.foundation.durable import replaced_text_file
from listener.foundation.text import csv_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from exporter.pull.finding import PullTarget
    from exporter.pull.identifiers import Answer
    from exporter.pull.journal import PullJournal
    from exporter.pull.outcome import RowOutcome

FACTS: Final = (
    "PatientID",
    "StudyDate",
    "AccessionNumber",
    "ModalitiesInStudy",
    "StudyDescription",
    "Modality",
    "SeriesDescription",
    "NumberOfStudyRelatedInstances",
    "NumberOfSeriesRelatedInstances",
)
"""Columns that a dry run reports, beside unique keys and the cohort's own columns."""


class FoundFile:
    """The result of a dry run, line by line."""

    def __init__(self, file: TextIO, columns: tuple[str, ...]) -> None:
        self._facts = tuple(dict.fromkeys([*(c for c in columns if c not in UIDS), *FACTS]))
        self._writer = csv.writer(file, lineterminator="\n")
        self._write(["#row", *UIDS, *(f"#{name}" for name in self._facts)])

    def add(self, number: int, target: PullTarget, answer: Answer) -> None:
        """One target of a row; of instances one line each."""
        facts = ["\\".join(answer.get(name, ())) for name in self._facts]
        for instance in target.instances or ("",):
            self._write([number, target.study, target.series, instance, *facts])

    def _write(self, cells: Iterable[object]) -> None:
        self._writer.writerow(map(_cell, cells))


def write_report(path: Path, outcomes: list[RowOutcome], journal: PullJournal) -> None:
    """Final state of each row and of each of its targets, and each missing instance.

    Raises:
        OSError: It cannot be written.
    """
    with replaced_text_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["#row", "#status", "#problem", "#instances", "#missing", *UIDS])
        for outcome in outcomes:
            if not outcome.tasks:
                writer.writerow(map(_cell, [outcome.number, outcome.state, outcome.problem, "", "", "", "", ""]))
            for task in outcome.tasks:
                target = task.target
                single = target.instances[0] if len(target.instances) == 1 else ""
                line: list[Any] = [outcome.number, task.state, task.problem, task.expected, task.missing]
                writer.writerow(map(_cell, [*line, target.study, target.series, single]))
                for lost in journal.missing(task) if task.missing else ():
                    place = [target.study, lost.series, lost.uid]
                    writer.writerow(map(_cell, [outcome.number, "missing", "", "", "", *place]))


def _cell(value: object) -> object:
    """A value for the CSV writer; numbers stay numbers, text of others cannot act."""
    return csv_text(value) if isinstance(value, str) else value
