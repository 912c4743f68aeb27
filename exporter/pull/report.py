"""CSV files for the user: what a dry run found, and how a run ended.

Contract: they may hold identifiers, for the cohort is the user's own: mode 0600, written beside their place and
renamed, so that a file is complete or not there. Columns whose name begins with `#` are for people; the others are
unique keys, so that either file is a cohort again. Text that a spreadsheet would take for a formula gets an
apostrophe before it.
"""

from __future__ import annotations

import csv
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, TextIO

from exporter.pull.keys import UIDS
from listener.durable import fsync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.pull.finding import Target
    from exporter.pull.identifiers import Answer
    from exporter.pull.journal import Journal
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
"""What a dry run tells of what it found, beside unique keys and the cohort's own columns."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class FoundFile:
    """The result of a dry run, line by line."""

    def __init__(self, file: TextIO, columns: tuple[str, ...]) -> None:
        self._facts = tuple(dict.fromkeys([*(c for c in columns if c not in UIDS), *FACTS]))
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(["#row", *UIDS, *(f"#{name}" for name in self._facts)])

    def add(self, number: int, target: Target, answer: Answer) -> None:
        """One target of a row; of instances one line each."""
        facts = [_safe("\\".join(answer.get(name, ()))) for name in self._facts]
        for instance in target.instances or ("",):
            self._writer.writerow([number, target.study, target.series, instance, *facts])


def write_report(path: Path, outcomes: list[RowOutcome], journal: Journal) -> None:
    """How each row ended, each of its targets, and each instance that is missing.

    Raises:
        OSError: It cannot be written.
    """
    with private_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["#row", "#status", "#problem", "#instances", "#missing", *UIDS])
        for outcome in outcomes:
            if not outcome.tasks:
                writer.writerow([outcome.number, outcome.state, outcome.problem, "", "", "", "", ""])
            for task in outcome.tasks:
                target = task.target
                single = target.instances[0] if len(target.instances) == 1 else ""
                line: list[Any] = [outcome.number, task.state, task.problem, task.expected, task.missing]
                writer.writerow([*line, target.study, target.series, single])
                for lost in journal.missing(task) if task.missing else ():
                    writer.writerow([outcome.number, "missing", "", "", "", target.study, lost.series, lost.uid])


@contextmanager
def private_file(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when the block ends well, and is gone when it does not.

    Raises:
        OSError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    fsync_folder(path.parent)


def _safe(text: str) -> str:
    text = text.replace("\n", " ").replace("\r", " ")
    return f"'{text}" if text.startswith(_FORMULA) else text
