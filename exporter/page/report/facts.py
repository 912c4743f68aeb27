"""What a report shows: numbers of everything, and a sample of instances of bounded size, the worst first.

Contract: nothing here names a patient or a path of an input: instances are named by UID or by the number of their row,
as on the page, and settings are without paths and secrets. Where the output is de-identified, only media whose line
says so have a preview. Memory and time are bounded: what was left out is counted.
"""

from __future__ import annotations

import re
import stat
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

import orjson

from exporter.outcome import MediaType
from exporter.page.condition import masked, standing_of
from exporter.page.failures import without_name
from exporter.page.problems import summary_of
from exporter.page.report.previews import CONTAINERS, Preview, PreviewJob, make_previews
from exporter.results.deidentification import fingerprint_of
from exporter.results.ledger.sampling import LedgerSampler, MediaTotal, StudyCount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exporter.outcome import MediaFile
    from exporter.page.standing import Standing
    from exporter.results.ledger.browsing import NumberedRow
    from exporter.settings.settings import Settings

MOST_FAILURES: Final = 60
MOST_LINES: Final = 20_000
"""Newest metadata lines that are searched for warnings and masks."""
LINES_S: Final = 1.0
"""Time after which no further line is."""
MOST_WARNED: Final = 60
"""Instances with warnings, and instances with masks, that the sheets begin with."""
MOST_WARNINGS: Final = 30
"""Different warnings that are listed."""
MOST_STUDIES: Final = 40
MOST_OF_A_STUDY: Final = 12
MOST_VIDEOS: Final = 24
MOST_CHARACTERS: Final = 12_000_000
"""Most characters of all previews together."""
SLOTS: Final = 48
"""Bars of the plot of outcomes over time, at most."""
_DIGITS: Final = re.compile(r"\d+")
_PATH_KEY: Final = re.compile(r"(.*_)?(dir|file|folder)|watch|exclude|pseudonyms")
"""Keys of settings whose values are paths, where they are text already."""
_LIBRARIES: Final = ("pydicom", "numpy", "imagecodecs", "av", "Pillow")


@dataclass(frozen=True, slots=True)
class RunNumbers:
    """What one run did, where a report is written at its end."""

    exported: int
    skipped: int
    failed: int
    unchanged: int
    bytes: int
    seconds: float

    @property
    def done(self) -> int:
        """Instances with an outcome in this run."""
        return self.exported + self.skipped + self.failed

    @property
    def is_idle(self) -> bool:
        """Whether everything was done before: a report of it would say nothing new."""
        return self.done == 0


@dataclass(frozen=True, slots=True)
class SheetTile:
    """One instance of a contact sheet."""

    label: str
    mark: str
    """`failed`, `warning`, `masked`, or another state; empty for an instance without anything special."""
    words: str
    """Why it is there: reason, warning or share of the picture that is kept."""
    kinds: str
    preview: Preview | None = None


@dataclass(frozen=True, slots=True)
class ContactSheet:
    """A sample of one study."""

    study_uid: str
    """Empty for instances of which no study is known."""
    instances: int
    tiles: tuple[SheetTile, ...]


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """Everything that a report shows."""

    standing: Standing
    made: float
    run: RunNumbers | None = None
    bytes_in: int = 0
    span: tuple[float, float] | None = None
    """Unix times of the first and the last outcome that are known, by whole minutes."""
    slot_minutes: int = 1
    slots: tuple[tuple[float, int, int, int], ...] = ()
    """Time, exported, skipped and failed."""
    media: tuple[MediaTotal, ...] = ()
    count: StudyCount = field(default_factory=StudyCount)
    failures: tuple[tuple[str, str, str], ...] = ()
    """Label, reason and message."""
    warnings: tuple[tuple[str, int], ...] = ()
    """The first warning of each form, and the number of instances with one of that form."""
    lines_seen: int = 0
    masked: int = 0
    """Instances, among the lines that were looked at, of which something was masked."""
    sheets: tuple[ContactSheet, ...] = ()
    without_preview: int = 0
    """Media of the sample that could have had a preview and have none: not there, damaged, or no time or room left."""
    has_pictures: bool = True
    is_deidentified: bool = False
    settings: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What a report is to be made of."""

    data: Path
    """Data or output folder."""
    media: Path
    """Folder of media."""
    settings: Settings | None = None
    run: RunNumbers | None = None
    pictures: bool = True
    pictures_s: float = 60.0
    """Time for previews."""


@dataclass(slots=True)
class _LineFindings:
    """Warnings and masks of the newest lines."""

    seen: int = 0
    masked: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    warned: dict[int, str] = field(default_factory=dict)
    """First warning by number of the instance."""
    cut: dict[int, str] = field(default_factory=dict)
    """Share of the picture that is kept, in words, by number of the instance."""

    def add(self, number: int, line: bytes) -> None:
        self.seen += 1
        if b'"warnings":[]' in line and b'"kept_share"' not in line:
            return
        export = _export(line)
        texts = [one for one in export.get("warnings") or () if isinstance(one, str)]
        for one in texts:
            form = _DIGITS.sub("0", one)[:400]
            if form in self.examples or len(self.examples) < 1000:  # forms are words of ours, of which there are few
                self.examples.setdefault(form, one)
                self.forms[form] += 1
        if texts and len(self.warned) < MOST_WARNED:
            self.warned[number] = texts[0]
        if (kept := _kept(export)) is not None and kept < 1:
            self.masked += 1
            if len(self.cut) < MOST_WARNED:
                self.cut[number] = f"{kept:.0%} of the picture kept"


def facts_of(request: ReportRequest) -> ReportFacts:
    """Look at a data or output folder.

    Raises:
        LedgerUnusable: The ledger cannot be read.
    """
    settings = request.settings
    standing = _without_names(standing_of(request.data, settings))
    path = request.data / "exporter.db"
    facts = ReportFacts(standing, time.time(), request.run, has_pictures=request.pictures, versions=_versions())
    if settings is not None:
        facts = replace(facts, settings=shown_settings(settings))
    if not path.is_file():
        return facts
    ledger = LedgerSampler(path)
    try:
        return _with_ledger(facts, request, ledger)
    finally:
        ledger.close()


def _without_names(standing: Standing) -> Standing:
    """The same without names of sources, which may be paths."""
    problems = tuple(one for one in standing.problems if one.word != "silent")
    return replace(standing, problems=problems, summary=summary_of(standing, problems))


def _with_ledger(facts: ReportFacts, request: ReportRequest, ledger: LedgerSampler) -> ReportFacts:
    ever, span = ledger.numbers(0), ledger.busy_span()
    findings = _findings(ledger)
    failed = ledger.sampled_failures(MOST_FAILURES)
    count = ledger.study_count()
    settings = request.settings
    is_deidentified = fingerprint_of(ledger) is not None or (settings is not None and settings.deidentifies)
    sample = _Sample(request, ledger, is_deidentified, findings)
    sheets, without_preview = sample.sheets(failed, count)
    slot_minutes, slots = _slots(ledger, span)
    return replace(
        facts,
        bytes_in=ever.bytes,
        span=None if span is None else (span[0] * 60.0, span[1] * 60.0 + 60.0),
        slot_minutes=slot_minutes,
        slots=slots,
        media=tuple(ledger.media_totals()),
        count=count,
        failures=tuple((_label(row), row.row.reason or "", message_of(row)) for row in failed),
        warnings=tuple((findings.examples[form], number) for form, number in findings.forms.most_common(MOST_WARNINGS)),
        lines_seen=findings.seen,
        masked=findings.masked,
        sheets=sheets,
        without_preview=without_preview,
        is_deidentified=is_deidentified,
    )


def _findings(ledger: LedgerSampler) -> _LineFindings:
    findings, until = _LineFindings(), time.monotonic() + LINES_S
    for number, line in ledger.newest_lines(MOST_LINES):
        findings.add(number, line)
        if time.monotonic() > until:
            break
    return findings


def _slots(ledger: LedgerSampler, span: tuple[int, int] | None) -> tuple[int, tuple[tuple[float, int, int, int], ...]]:
    """Minutes of one slot, and outcomes slot by slot, from the first to the last."""
    if span is None:
        return 1, ()
    minutes = -(-(span[1] - span[0] + 1) // SLOTS)
    found = ledger.slots(span[0] * 60.0, minutes)
    return minutes, tuple(
        (
            slot * minutes * 60.0,
            one.get("exported", 0),
            one.get("skipped", 0),
            one.get("failed", 0) + one.get("quarantined", 0),
        )
        for slot in range(span[0] // minutes, span[1] // minutes + 1)
        for one in (found.get(slot, {}),)
    )


# -- the sample ------------------------------------------------------------------------------------------------------


class _Sample:
    """The instances of the contact sheets and their previews."""

    def __init__(
        self, request: ReportRequest, ledger: LedgerSampler, is_deidentified: bool, findings: _LineFindings
    ) -> None:
        self._request = request
        self._ledger = ledger
        self._is_deidentified = is_deidentified
        self._findings = findings
        self._jobs: list[PreviewJob] = []
        self._videos = 0
        self._without_preview = 0
        self._root = request.media.resolve()

    def sheets(self, failed: list[NumberedRow], count: StudyCount) -> tuple[tuple[ContactSheet, ...], int]:
        """The sheets, and the number of media that could have had a preview and have none."""
        worst = [*failed, *self._numbered(self._findings.warned), *self._numbered(self._findings.cut)]
        by_study: dict[str, dict[int, NumberedRow]] = {}
        for row in worst:
            study = row.row.identity.study_instance_uid if row.row.identity is not None else ""
            if study in by_study or len(by_study) < MOST_STUDIES * 3 // 4:
                by_study.setdefault(study, {})[row.number] = row
        for study in self._ledger.studies(max(1, count.studies // MOST_STUDIES)):
            if len(by_study) >= MOST_STUDIES:
                break
            by_study.setdefault(study, {})
        drafts = [(study, self._members(study, rows)) for study, rows in by_study.items()]
        planned = [
            (study, [(row, *self._job(row)) for row in rows]) for study, rows in drafts
        ]  # every job is known before the first preview is made
        previews = make_previews(self._jobs, self._request.pictures_s, MOST_CHARACTERS) if self._jobs else {}
        self._without_preview += len(self._jobs) - len(previews)
        return (
            tuple(
                ContactSheet(
                    study,
                    self._ledger.size_of_study(study) if study else len(rows),
                    tuple(
                        self._tile(row, media, None if job is None else previews.get(job)) for row, media, job in rows
                    ),
                )
                for study, rows in planned
                if rows
            ),
            self._without_preview,
        )

    def _numbered(self, numbers: Mapping[int, str]) -> Iterator[NumberedRow]:
        for number in numbers:
            if (row := self._ledger.numbered(number)) is not None:
                yield row

    def _members(self, study: str, worst: dict[int, NumberedRow]) -> list[NumberedRow]:
        """Instances of one sheet: the worst first, then others of the study, evenly."""
        rows = dict(list(worst.items())[:MOST_OF_A_STUDY])
        if study:
            for row in self._ledger.from_study(study, MOST_OF_A_STUDY):
                if len(rows) < MOST_OF_A_STUDY:
                    rows.setdefault(row.number, row)
        return list(rows.values())

    def _job(self, row: NumberedRow) -> tuple[tuple[MediaFile, ...], int | None]:
        """The media of an instance, and the place of the job for its preview; None where it gets none."""
        if row.row.state != "exported":
            return (), None
        media = self._ledger.media_of(row.number)
        if not self._request.pictures or not self._may_be_shown(row):
            return media, None
        for medium in media:
            if medium.kind not in {MediaType.IMAGE, MediaType.VIDEO, MediaType.FRAMES}:
                continue
            is_video = medium.kind is MediaType.VIDEO
            if is_video and (self._videos >= MOST_VIDEOS or medium.suffix.lower() not in CONTAINERS):
                continue
            file = self._file(medium)
            if file is None:
                self._without_preview += 1
                continue
            self._videos += is_video
            self._jobs.append(PreviewJob(str(file), is_video, medium.frames or 1))
            return media, len(self._jobs) - 1
        return media, None

    def _may_be_shown(self, row: NumberedRow) -> bool:
        """Whether the pixels of an instance were cleared, where this output is de-identified."""
        if not self._is_deidentified:
            return True
        line = None if row.row.line_seq is None else self._ledger.line(row.row.line_seq)
        return line is not None and isinstance(_export(line).get("privacy"), dict)

    def _file(self, medium: MediaFile) -> Path | None:
        """The file of a medium, or the middle picture of a folder of frames; None where it is no file of ours."""
        path = self._request.media / medium.file
        with suppress(OSError, ValueError):
            if medium.kind is MediaType.FRAMES:
                pictures = sorted(one for one in path.iterdir() if one.suffix not in {".jsonl", ".json"})
                path = pictures[len(pictures) // 2] if pictures else path
            if path.resolve(strict=True).is_relative_to(self._root) and stat.S_ISREG(path.lstat().st_mode):
                return path
        return None

    def _tile(self, row: NumberedRow, media: tuple[MediaFile, ...], preview: Preview | None) -> SheetTile:
        mark, words = str(row.row.state), row.row.reason or ""
        if row.row.state == "exported":
            mark = ""
            if (share := self._findings.cut.get(row.number)) is not None:
                mark, words = "masked", share
            if (warning := self._findings.warned.get(row.number)) is not None:
                mark, words = "warning", warning
        return SheetTile(_label(row), mark, words, ", ".join(dict.fromkeys(map(_medium_in_words, media))), preview)


def _medium_in_words(medium: MediaFile) -> str:
    size = f" {medium.width} x {medium.height}" if medium.width else ""
    frames = f", {medium.frames} frames" if medium.frames and medium.frames > 1 else ""
    return f"{medium.kind}{size}{frames}"


def _label(row: NumberedRow) -> str:
    """What an instance is called: its UID, or the number of its row."""
    uid = row.row.identity.sop_instance_uid if row.row.identity is not None else ""
    return uid or f"instance {row.number}"


def message_of(row: NumberedRow) -> str:
    """The message of a failure, without the path of an input."""
    return row.row.message if row.row.source == "spool" else without_name(row.row.message, row.row.name)


def _export(line: bytes) -> dict[str, Any]:
    """Our part of a line; nothing of one that cannot be read."""
    try:
        export = orjson.loads(line)["export"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return {}
    return export if isinstance(export, dict) else {}


def _kept(export: Mapping[str, Any]) -> float | None:
    """Share of the picture that de-identification kept; None where nothing was decided."""
    privacy = export.get("privacy")
    pixels = privacy.get("pixels") if isinstance(privacy, dict) else None
    share = pixels.get("kept_share") if isinstance(pixels, dict) else None
    return share if isinstance(share, int | float) else None


# -- settings and versions -------------------------------------------------------------------------------------------


def shown_settings(settings: Settings) -> dict[str, Any]:
    """Settings without secrets and paths; with a privacy profile, those alone that say what media are like."""
    from exporter.settings.settings import MediaSettings

    said = settings.model_dump(mode="python")
    if settings.deidentifies:
        said = {name: value for name, value in said.items() if name in MediaSettings.model_fields}
    found = masked(_without_paths(said))
    return found if isinstance(found, dict) else {}


def _without_paths(value: Any, key: str = "") -> Any:
    """A value of the settings with every path replaced: paths may hold names."""
    if isinstance(value, dict):
        return {_without_path(str(name)): _without_paths(one, str(name)) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_paths(one, key) for one in value]
    if isinstance(value, PurePath) or (isinstance(value, str) and _PATH_KEY.fullmatch(key)):
        return _HIDDEN
    if isinstance(value, str):
        return _without_path(str(value))
    return value if value is None or isinstance(value, bool | int | float) else str(value)


_HIDDEN: Final = "(a path, not shown)"


def _without_path(text: str) -> str:
    return _HIDDEN if text.startswith(("/", "~", "./", "../")) else text


def _versions() -> dict[str, str]:
    """Versions of Python and of the libraries that read, decode and write."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"Python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
