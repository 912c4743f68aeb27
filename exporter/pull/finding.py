"""Targets of rows, and instances of targets: C-FIND level by level.

Contract: every query carries the unique keys of the levels above it, so that a peer without relational queries can
answer (PS3.4 C.4.1.2.1); only a row that has no key of a study is asked straight at its own level. What a peer
answers beyond what was asked for is left out and counted; duplicates and answers without their unique key are, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from exporter.pull.keys import UIDS, Rank
from exporter.pull.matching import matches
from exporter.pull.peer import PeerError, PeerRefused, identifier
from exporter.pull.statuses import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.pull.cohort import Row
    from exporter.pull.identifiers import Answer
    from exporter.pull.keys import MatchingKey
    from exporter.pull.peer import QueryAssociation
    from exporter.settings.pull import Level, PullPeerSection

RETURNED: Final[dict[Rank, tuple[str, ...]]] = {
    Rank.STUDY: (
        "StudyInstanceUID",
        "PatientID",
        "StudyDate",
        "AccessionNumber",
        "ModalitiesInStudy",
        "StudyDescription",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    Rank.SERIES: ("SeriesInstanceUID", "Modality", "SeriesDescription", "NumberOfSeriesRelatedInstances"),
    Rank.INSTANCE: ("SOPInstanceUID", "SOPClassUID"),
}
"""Return keys at each level, beside the row's own keys and the unique keys above."""
MOST_INSTANCES: Final = 200_000
"""Most instances of one series that are listed."""
CHUNK: Final = 100
"""Most instances in one request at IMAGE level."""
_UID: Final = re.compile(r"[0-9.]{1,64}")


class TooMany(PeerError):
    """A row has more answers than it may have."""


@dataclass(frozen=True, slots=True)
class PullTarget:
    """Target of one request: a study, a series, or instances of one series."""

    study: str
    series: str = ""
    instances: tuple[str, ...] = ()

    @property
    def rank(self) -> Rank:
        """Level of the target."""
        return Rank.INSTANCE if self.instances else Rank.SERIES if self.series else Rank.STUDY

    @property
    def keys(self) -> dict[str, str]:
        """Unique keys of the target; instances as a list of UIDs (PS3.4 C.2.2.2.2)."""
        keys = {"StudyInstanceUID": self.study}
        if self.series:
            keys["SeriesInstanceUID"] = self.series
        if self.instances:
            keys["SOPInstanceUID"] = "\\".join(self.instances)
        return keys


@dataclass(frozen=True, slots=True)
class FoundInstance:
    """One instance that the peer says it has."""

    uid: str
    series: str
    sop_class: str


@dataclass(frozen=True, slots=True)
class TargetInstances:
    """Instances of a target, as the peer lists them."""

    instances: tuple[FoundInstance, ...] | None
    """Each of them; None where the peer does not answer at IMAGE level."""
    count: int | None
    """Number of the instances where the peer does not name them; None where it states neither."""


@dataclass(slots=True)
class RowFindings:
    """Targets that a row found."""

    targets: dict[PullTarget, Answer] = field(default_factory=dict)
    """Targets, and what the peer said of each."""
    left_out: int = 0
    """Answers that did not match, came twice or had no unique key."""


class Finder:
    """Asks one peer."""

    def __init__(self, settings: PullPeerSection, level: Level, open_line: Callable[[], QueryAssociation]) -> None:
        """Ask by whatever conversation `open_line` gives."""
        self._settings = settings
        self._level = level
        self._line = open_line

    def targets(self, row: Row) -> RowFindings:
        """The request of a row, cut into targets.

        Raises:
            TooMany: More answers than `max_matches`.
            PeerError: The peer did not answer.
        """
        found = RowFindings()
        if self._level == "patient":
            self._patients(row, found)
            return found
        wanted = {"study": Rank.STUDY, "series": Rank.SERIES, "instance": Rank.INSTANCE}[self._level]
        deepest = max([wanted, *(key.rank for key, _ in row.values)])
        for answer in self._descend(row, deepest, found):
            self._take(answer, wanted, found)
        self._gather(found)
        return found

    def contents(self, target: PullTarget) -> TargetInstances:
        """Instances of a target.

        Raises:
            PeerError: The peer did not answer, other than by refusing this level.
        """
        try:
            listed = tuple(self._list(target))
        except PeerRefused as refusal:
            if refusal.verdict is not Verdict.NEVER and refusal.status >> 12 != 0xC:
                raise
            return TargetInstances(None, self._number(target))
        if not listed and not target.instances:
            # Nothing at IMAGE level where there are instances is how some say that they do not answer there.
            count = self._number(target)
            return TargetInstances(None, count) if count else TargetInstances((), 0)
        return TargetInstances(listed, len(listed))

    def _list(self, target: PullTarget) -> list[FoundInstance]:
        if target.rank is Rank.STUDY:
            series = self._ask(Rank.SERIES, {"StudyInstanceUID": target.study}, (), RowFindings(), MOST_INSTANCES)
            names = list(dict.fromkeys(answer["SeriesInstanceUID"][0] for answer in series))
        else:
            names = [target.series]
        found: dict[str, FoundInstance] = {}
        wanted = {*target.instances}
        for name in names:
            keys = {"StudyInstanceUID": target.study, "SeriesInstanceUID": name}
            for answer in self._ask(Rank.INSTANCE, keys, (), RowFindings(), MOST_INSTANCES):
                uid = answer["SOPInstanceUID"][0]
                if not wanted or uid in wanted:
                    found.setdefault(uid, FoundInstance(uid, name, answer.get("SOPClassUID", ("",))[0]))
        return list(found.values())

    def _number(self, target: PullTarget) -> int | None:
        """(0020,1208) or (0020,1209), where the peer tells it."""
        if target.instances:
            return len(target.instances)
        try:
            answers = self._ask(target.rank, target.keys, (), RowFindings(), MOST_INSTANCES)
        except PeerRefused:
            return None
        name = "NumberOfStudyRelatedInstances" if target.rank is Rank.STUDY else "NumberOfSeriesRelatedInstances"
        numbers = [answer[name][0] for answer in answers if name in answer]
        return int(numbers[0]) if numbers and numbers[0].isdecimal() else None

    # -- rows --------------------------------------------------------------------------------------------------------

    def _descend(self, row: Row, deepest: Rank, found: RowFindings) -> list[Answer]:
        """Answers at the deepest level, each with what the levels above said."""
        start = min((key.rank for key, _ in row.values), default=Rank.STUDY)
        above: list[Answer] = [{}]
        for rank in Rank:
            if not start <= rank <= deepest:
                continue
            values = [pair for pair in row.values if pair[0].rank == rank]
            below: list[Answer] = []
            for upper in above:
                keys = {uid: upper[uid][0] for uid in UIDS[:rank] if uid in upper}
                room = self._settings.max_matches - len(below)
                below += [upper | answer for answer in self._ask(rank, keys, values, found, room)]
            above = below
        return above

    def _patients(self, row: Row, found: RowFindings) -> None:
        """Every study of the patients whom a row finds."""
        deepest = max(key.rank for key, _ in row.values)
        patients: dict[str, None] = {}
        for answer in self._descend(row, deepest, found):
            full = answer if "PatientID" in answer else self._study_of(answer)
            if "PatientID" in full:
                patients[full["PatientID"][0]] = None
            else:
                found.left_out += 1
        for patient in patients:
            room = self._settings.max_matches - len(found.targets)
            key = _patient_id()
            for answer in self._ask(Rank.STUDY, {}, [(key, patient)], found, room):
                self._take(answer, Rank.STUDY, found)

    def _study_of(self, answer: Answer) -> Answer:
        if "StudyInstanceUID" not in answer:
            return answer
        keys = {"StudyInstanceUID": answer["StudyInstanceUID"][0]}
        return next(iter(self._ask(Rank.STUDY, keys, (), RowFindings(), 10)), answer)

    def _take(self, answer: Answer, rank: Rank, found: RowFindings) -> None:
        uids = [answer.get(uid, ("",))[0] for uid in UIDS[: rank + 1]]
        if not all(_UID.fullmatch(uid) for uid in uids):
            found.left_out += 1
            return
        target = PullTarget(uids[0], uids[1] if len(uids) > 1 else "", tuple(uids[2:]))
        if target in found.targets and rank is not Rank.STUDY:
            found.left_out += 1
        found.targets.setdefault(target, answer)

    @staticmethod
    def _gather(found: RowFindings) -> None:
        """Instances of one series are fetched together."""
        by_series: dict[tuple[str, str], list[PullTarget]] = {}
        for target in found.targets:
            if target.instances:
                by_series.setdefault((target.study, target.series), []).append(target)
        for (study, series), singles in by_series.items():
            for at in range(0, len(singles), CHUNK):
                some = singles[at : at + CHUNK]
                answer = found.targets[some[0]]
                for single in some:
                    del found.targets[single]
                uids = tuple(sorted(uid for single in some for uid in single.instances))
                found.targets[PullTarget(study, series, uids)] = answer

    def _ask(
        self,
        rank: Rank,
        above: Mapping[str, str],
        values: Sequence[tuple[MatchingKey, str]],
        found: RowFindings,
        limit: int,
    ) -> list[Answer]:
        """One C-FIND: the answers that match, each once, each with its unique key.

        Args:
            rank: Level.
            above: Unique keys, of this level and those above.
            values: Keys of the row at this level.
            found: Where what is left out is counted.
            limit: Most answers.

        Raises:
            TooMany: There are more.
        """
        keys = dict(above) | {key.keyword: value for key, value in values}
        returned = (*UIDS[:rank], *RETURNED[rank])
        asked = identifier(rank.level, keys, returned=returned, character_set=self._settings.character_set)
        answers = self._line().find(asked, dict.fromkeys([*returned, *keys]), limit=max(limit, 0))
        if answers.is_cut:
            raise TooMany(
                f"has more than {self._settings.max_matches} matches, and nothing of it was fetched: "
                "name more keys, or raise `max_matches` of the peer"
            )
        kept: dict[str, Answer] = {}
        for answer in answers.entries:
            uid = answer.get(UIDS[rank], ("",))[0]
            fits = _UID.fullmatch(uid) and matches(values, answer) and _is_below(above, answer)
            if not fits or uid in kept:
                found.left_out += 1
                continue
            kept[uid] = {name: (value,) for name, value in above.items() if "\\" not in value} | answer
        return list(kept.values())


def _is_below(above: Mapping[str, str], answer: Answer) -> bool:
    """Whether an answer that repeats the unique keys above it repeats ours."""
    return all(answer.get(name, (value,))[0] in value.split("\\") for name, value in above.items())


def _patient_id() -> MatchingKey:
    from exporter.pull.keys import key_of

    key = key_of("PatientID")
    assert key is not None  # noqa: S101 - the data dictionary has it
    return key
