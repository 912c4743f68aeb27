"""What the pages show: the facts of each page as plain values, and the templates that they go into.

Contract: whatever a sender chose is text: it is escaped, and control and direction characters in it are written out.
Nothing that could name a patient leaves here unless `page.show_patient` is set: paths of inputs and of their media.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from exporter.page import plots
from exporter.page.failures import remedy, without_name
from exporter.page.problems import count_of, day_of, size_of, span_of
from exporter.results.ledger.browsing import PAGE_ROWS, NumberedRow, latency_words
from listener.foundation.text import text_line, xml_text
from listener.spool import view
from listener.spool.names import SpoolState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from exporter.outcome import MediaFile
    from exporter.page.standing import Standing
    from exporter.results.ledger.browsing import LedgerBrowser

SLOT_MINUTES: Final = 30
MOST_LOOKED_AT: Final = 2000
"""Most files of the quarantine that one page of refused instances looks at."""
LONGEST_TEXT: Final = 2000
PICTURES: Final = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
"""Media types of files that a picture of is shown, by ending."""
MEDIA_TYPES: Final = PICTURES | {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
    ".svg": "image/svg+xml",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".csv": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
}
"""Media types of media by ending; anything else is offered for download."""


def _shown(value: Any) -> Any:
    """A value as it goes into a template: text without characters that would be obeyed, of limited length."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return text_line(value if len(value) <= LONGEST_TEXT else f"{value[:LONGEST_TEXT]} ...")
    return value


def _coded(sentence: str) -> Markup:
    """A sentence of ours as HTML, with what stands between backticks as code."""
    parts = xml_text(sentence).split("`")
    return Markup("".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts)))  # noqa: S704


def environment() -> Environment:
    """The templates, with escaping on."""
    templates = Environment(
        loader=PackageLoader("exporter.page"), autoescape=True, undefined=StrictUndefined, finalize=_shown
    )
    templates.trim_blocks = templates.lstrip_blocks = True
    words = {"count": count_of, "day": day_of, "size": size_of, "span": span_of, "latency": latency_words}
    templates.filters.update({**words, "number": "{:,}".format, "remedy": remedy, "coded": _coded})
    return templates


@dataclass(frozen=True, slots=True)
class ShownInstance:
    """One instance as pages show it."""

    number: int
    label: str
    """Its UID, or the number of its row."""
    name: str
    """Its name; empty where that could name a patient."""
    state: str
    reason: str
    message: str
    updated: float
    arrived: float | None
    media: tuple[MediaFile, ...] = ()
    picture: bool = False
    """Whether a picture of it can be shown."""

    @property
    def kinds(self) -> str:
        """The kinds of its media, each once."""
        return ", ".join(dict.fromkeys(str(medium.kind) for medium in self.media))


class Views:
    """The facts of every page."""

    def __init__(self, data: Path, *, show_patient: bool, show_media: bool) -> None:
        self._data = data
        self._show_patient = show_patient
        self.shows_media = show_media
        """Whether media and pictures of them may be shown."""

    # -- overview ----------------------------------------------------------------------------------------------------

    def overview(self, standing: Standing, ledger: LedgerBrowser | None) -> dict[str, Any]:
        """What the first page shows."""
        failures = {
            reason: sum(standing.reasons.get(state, {}).get(reason, 0) for state in ("failed", "quarantined"))
            for state in ("failed", "quarantined")
            for reason in standing.reasons.get(state, {})
        }
        slots = {} if ledger is None else ledger.slots(standing.now - 86_400, SLOT_MINUTES)
        last = int(standing.now) // (SLOT_MINUTES * 60)
        bars = [_outcomes(slots.get(last - back, {})) for back in range(86_400 // (SLOT_MINUTES * 60), -1, -1)]
        times = [(last - back) * SLOT_MINUTES * 60 for back in range(len(bars) - 1, -1, -1)]
        return {
            "failures": sorted(failures.items(), key=lambda item: (-item[1], item[0])),
            "bars": Markup(plots.stacked_bars(bars, "Outcomes of the last 24 hours, in half hours")),  # noqa: S704
            "slots": [(when, *bar) for when, bar in zip(times, bars, strict=True) if any(bar)],
            "most": max(map(sum, bars), default=0),
            "strips": [
                (source, Markup(plots.strip(_by_half_hours(source.strip), f"Arrivals from {source.name} in 24 hours")))  # noqa: S704
                for source in standing.sources
            ],
            "skipped": standing.reasons.get("skipped", {}),
        }

    # -- lists -------------------------------------------------------------------------------------------------------

    def failures(self, ledger: LedgerBrowser | None, reason: str | None, before: int | None) -> dict[str, Any]:
        """One page of failures."""
        rows = [] if ledger is None else ledger.failures(reason, before)
        return {"rows": [self._listed(row, ledger) for row in rows], "next": _next(rows)}

    def recent(self, ledger: LedgerBrowser | None, before: int | None) -> dict[str, Any]:
        """One page of instances, newest first."""
        rows = [] if ledger is None else ledger.recent(before)
        return {"rows": [self._listed(row, ledger) for row in rows], "next": _next(rows)}

    def search(self, ledger: LedgerBrowser | None, text: str) -> dict[str, Any]:
        """Instances that were looked for."""
        rows = [] if ledger is None or not text else ledger.search(text)
        return {"rows": [self._listed(row, ledger) for row in rows], "next": None}

    def refused(self, ledger: LedgerBrowser | None, reason: str | None, before: str) -> dict[str, Any]:
        """One page of instances that the listener itself put into quarantine, newest first: no ledger has them."""
        root = self._data / "spool"
        found: list[tuple[str, str, str]] = []
        after = ""
        names = [
            (name, word)
            for word in view.reasons(root)
            if reason in {None, word}
            for name in view.entries(root, SpoolState.QUARANTINE, word)
            if not before or name < before
        ]
        for looked_at, (name, word) in enumerate(sorted(names, reverse=True), 1):
            if ledger is None or ledger.number_of(name) is None:
                found.append((name, word, str(view.report(root, word, name).get("message", ""))))
            if len(found) == PAGE_ROWS or looked_at == MOST_LOOKED_AT:
                after = name
                break
        return {"refused": found, "next_refused": after}

    def _listed(self, row: NumberedRow, ledger: LedgerBrowser | None) -> ShownInstance:
        entry = row.row
        media = () if ledger is None or entry.state != "exported" else ledger.media(entry.name)
        is_spool = entry.source == "spool"
        uid = entry.identity.sop_instance_uid if entry.identity else ""
        return ShownInstance(
            number=row.number,
            label=uid or f"instance {row.number}",
            name=entry.name if is_spool or self._show_patient else "",
            state=str(entry.state),
            reason=entry.reason or "",
            message=entry.message if is_spool or self._show_patient else without_name(entry.message, entry.name),
            updated=row.updated,
            arrived=entry.mtime_ns / 1e9 if is_spool else None,
            media=media,
            picture=self.shows_media and any(medium.suffix.lower().endswith(tuple(PICTURES)) for medium in media),
        )

    # -- one instance ------------------------------------------------------------------------------------------------

    def instance(self, ledger: LedgerBrowser, row: NumberedRow) -> dict[str, Any]:
        """Everything that is known of one instance."""
        entry = row.row
        others = [
            (label, number)
            for label, name in (("Duplicate of", entry.duplicate_of), ("In conflict with", entry.conflict_with))
            if name is not None and (number := ledger.number_of(name)) is not None
        ]
        said = None if entry.line_seq is None else ledger.line(entry.line_seq)
        return {
            "one": self._listed(row, ledger),
            "entry": entry,
            "others": others,
            "export": {} if said is None else _our_part(said),
            "can_explain": self.file_of(entry.name, entry.reason) is not None,
            "show_media": self.shows_media,
        }

    def file_of(self, name: str, reason: str | None) -> Path | None:
        """The received file of an instance, while it is in the spool."""
        root = self._data / "spool"
        states = (*view.COMMITTED, *((SpoolState.QUARANTINE,) if reason else ()))
        return view.find(root, name, states, reason or "") if "/" not in name else None


def explained(command: list[str], within_s: float) -> list[tuple[str, str]]:
    """What `exporter explain` says of a file, as keys and values; it runs in a process of its own."""
    import subprocess

    try:
        done = subprocess.run(
            [sys.executable, "-m", "exporter", "explain", "--json", *command],
            capture_output=True,
            timeout=within_s,
            check=False,
        )
        facts = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return [("verdict", f"no answer within {within_s:.0f} s")]
    except (OSError, ValueError):
        return [("verdict", "no answer: see the log of the page")]
    lines: deque[tuple[str, str]] = deque()
    for key, value in facts.items() if isinstance(facts, dict) else ():
        for one in value if isinstance(value, list) else [value]:
            lines.append((str(key).replace("_", " "), str(one)))
    return list(lines)


def _outcomes(slot: Mapping[str, int]) -> tuple[int, int, int]:
    return slot.get("exported", 0), slot.get("skipped", 0), slot.get("failed", 0) + slot.get("quarantined", 0)


def _by_half_hours(strip: tuple[int, ...]) -> list[int]:
    return [sum(strip[at : at + 3]) for at in range(0, len(strip), 3)]


def _next(rows: list[NumberedRow]) -> int | None:
    """Key of the next page; None where this was the last."""
    return rows[-1].number if len(rows) == PAGE_ROWS else None


def _our_part(line: bytes) -> dict[str, Any]:
    """What we say of an export ourselves: nothing of the instance's elements."""
    try:
        export = json.loads(line)["export"]
    except (ValueError, LookupError, TypeError):
        return {}
    kept = {key: export[key] for key in ("warnings", "timing", "rendering", "version") if export.get(key)}
    return {key: _lines_of(value) for key, value in kept.items()}


def _lines_of(value: Any) -> str | list[str]:
    """A value of our part of a line: text, or one text for each of its parts."""
    if isinstance(value, dict):
        return [
            f"{key.replace('_', ' ')}: {_words(part)}" for key, part in value.items() if part not in (None, [], False)
        ]
    return [_words(part) for part in value] if isinstance(value, list) else str(value)


def _words(value: Any) -> str:
    """A value as one short text; long lists, such as times of frames, are cut."""
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:6]))
        return f"{shown}, ... ({len(value)} in all)" if len(value) > 6 else shown
    return value if isinstance(value, str) else json.dumps(value)


def clock(now: float) -> str:
    """A time of day, in local time."""
    return time.strftime("%H:%M:%S", time.localtime(now))
