"""Samples of a ledger for a report of bounded size: totals of media, failures, warnings, studies and what is in them.

Contract: memory is bounded whatever the number of rows. Totals walk once over an index or over the rows of media; a
sample looks at no more rows than it was asked for. A row that changes meanwhile is reported as it was or as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.results.ledger import transitions
from exporter.results.ledger.browsing import FAILED_STATES, LedgerBrowser, NumberedRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.outcome import MediaFile


@dataclass(frozen=True, slots=True)
class MediaTotal:
    """All media of one kind."""

    kind: str
    number: int
    bytes: int
    frames: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class StudyCount:
    """Numbers of what has been identified."""

    studies: int = 0
    series: int = 0
    instances: int = 0


class LedgerSampler(LedgerBrowser):
    """A ledger from which a report is made, read-only, also while an exporter runs."""

    def media_totals(self) -> list[MediaTotal]:
        """Numbers and sizes of media by kind, the largest first; a walk over all media."""
        found = self._read(
            """SELECT kind, count(*), sum(bytes), coalesce(sum(frames), 0), coalesce(sum(duration_s), 0)
            FROM medium GROUP BY kind ORDER BY 3 DESC"""
        )
        return [MediaTotal(*row) for row in found]

    def busy_span(self) -> tuple[int, int] | None:
        """The first and the last minute since 1970 with an outcome, of the minutes that are kept; None without any."""
        ((first, last),) = self._read("SELECT min(minute), max(minute) FROM minute WHERE minute > 0")
        return None if first is None else (first, last)

    def study_count(self) -> StudyCount:
        """Numbers of studies, series and instances; a walk over the index of studies."""
        studies = series = instances = 0
        before = None
        for study, number in self._scan(
            """SELECT study_instance_uid, count(*) FROM instance WHERE study_instance_uid IS NOT NULL
            GROUP BY study_instance_uid, series_instance_uid ORDER BY study_instance_uid"""
        ):
            studies += study != before
            before = study
            series += 1
            instances += number
        return StudyCount(studies, series, instances)

    def studies(self, every: int) -> Iterator[str]:
        """Every so-manieth Study Instance UID, in their order."""
        for at, (study,) in enumerate(
            self._scan(
                """SELECT DISTINCT study_instance_uid FROM instance WHERE study_instance_uid IS NOT NULL
                ORDER BY study_instance_uid"""
            )
        ):
            if at % every == 0:
                yield study

    def size_of_study(self, study_uid: str) -> int:
        """Number of instances of a study."""
        return int(self._read("SELECT count(*) FROM instance WHERE study_instance_uid = ?", (study_uid,))[0][0])

    def from_study(self, study_uid: str, most: int) -> list[NumberedRow]:
        """Instances of a study, at most so many, evenly from its series."""
        number = self.size_of_study(study_uid)
        places = range(number) if number <= most else [at * number // most for at in range(most)]
        rows = []
        for place in places:
            # The place is found in the index alone: only rows that are wanted are read.
            rows += self._list(
                """id = (SELECT id FROM instance WHERE study_instance_uid = ?
                ORDER BY study_instance_uid, series_instance_uid, id LIMIT 1 OFFSET ?)""",
                (study_uid, place),
            )
        return rows

    def sampled_failures(self, most: int) -> list[NumberedRow]:
        """Instances that failed for good, newest first within their reasons, of every reason about equally many."""
        reasons = {
            known
            for state, known in self._read("SELECT state, reason FROM tally WHERE instances > 0")
            if state in FAILED_STATES
        }
        share = max(1, most // max(1, len(reasons)))
        found = [row for reason in sorted(reasons) for row in self.failures(reason, None, share)]
        return found[:most]

    def newest_lines(self, most: int) -> Iterator[tuple[int, bytes]]:
        """Numbers of exported instances and their lines, at most so many, newest first."""
        # CROSS JOIN: lines are the outer loop, in order, and the walk ends after so many.
        for number, text in self._scan(
            """SELECT instance.id, line.text FROM line CROSS JOIN instance
            WHERE instance.id = line.instance_id AND instance.line_seq = line.seq AND instance.state = 'exported'
            ORDER BY line.seq DESC LIMIT ?""",
            (most,),
        ):
            yield number, self._line_of(text)

    def media_of(self, number: int) -> tuple[MediaFile, ...]:
        """The media that the instance in the row of that number owns."""
        return tuple(map(transitions.medium_of, self._read(transitions.MEDIUM, (number,))))
