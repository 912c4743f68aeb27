"""Questions of people to the ledger: what failed, what came last, one instance, and what was done minute by minute.

Contract: every answer costs about the same whether the ledger has ten rows or a million: numbers are those that the
ledger keeps, and lists are read page by page from an index, by the key at which the page before ended.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from exporter.results.ledger import transitions
from exporter.results.ledger.reader import LedgerReader
from exporter.results.ledger.schema import BEYOND_S, UNTIMED, stored
from exporter.results.ledger.types import InstanceRow, InstanceStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FAILED_STATES: Final = (InstanceStatus.FAILED, InstanceStatus.QUARANTINED)
PAGE_ROWS: Final = 50
MOST_FOUND: Final = 200
"""Most rows that a search answers with."""
_UID: Final = re.compile(r"[0-9.]{1,64}")
_NUMBERED: Final = transitions.ENTRY.replace("FROM instance", ", updated_ns FROM instance")
"""As `ENTRY`, whose last values are line, number of the row and time of the last change."""


@dataclass(frozen=True, slots=True)
class NumberedRow:
    """One row of a list, and its key."""

    number: int
    """Of the row: rows are numbered in the order in which instances came."""
    updated: float
    """Unix time of the last change."""
    row: InstanceRow


@dataclass(frozen=True, slots=True)
class MinuteNumbers:
    """Outcomes of a span of time."""

    by_state: Mapping[str, int] = field(default_factory=dict)
    by_latency: Mapping[int, int] = field(default_factory=dict)
    """Instances by the upper bound, in seconds, of the time from arrival to outcome."""
    seconds: float = 0.0
    """Sum of these times."""
    bytes: int = 0
    """Sum of the sizes of inputs."""

    @property
    def total(self) -> int:
        """Number of outcomes."""
        return sum(self.by_state.values())

    @property
    def timed(self) -> int:
        """Number of outcomes with a time of arrival."""
        return sum(self.by_latency.values())

    def within_s(self, share: float) -> int | None:
        """Time, in seconds, within which this share of the instances had their outcome; None where none is timed.

        The times are known by class: the answer is the upper bound of one.
        """
        wanted, seen = share * self.timed, 0
        for bound, count in sorted(self.by_latency.items()):
            seen += count
            if seen >= wanted:
                return bound
        return None


class LedgerBrowser(LedgerReader):
    """A ledger as people look at it, read-only, also while an exporter runs."""

    def __init__(self, path: Path, *, busy_timeout_s: float = 2.0) -> None:
        """Open the ledger at `path`.

        Raises:
            LedgerUnusable: It is missing or cannot be read.
        """
        super().__init__(path, busy_timeout_s)

    def close(self) -> None:
        """Let go of the database."""
        with self._reading:
            self._reader.close()

    def numbers(self, since: float, until: float | None = None) -> MinuteNumbers:
        """Outcomes from one Unix time to another, by whole minutes; those of all times with `since` 0."""
        first, last = (0, 0) if since == 0 else (int(since) // 60, int(until or time.time()) // 60)
        found = self._read(
            """SELECT state, within_s, sum(instances), sum(seconds), sum(bytes) FROM minute
            WHERE minute BETWEEN ? AND ? GROUP BY state, within_s""",
            (first, last),
        )
        states: Counter[str] = Counter()
        latencies: Counter[int] = Counter()
        for state, within_s, number, _, _ in found:
            states[state] += number
            if within_s != UNTIMED:
                latencies[within_s] += number
        return MinuteNumbers(states, latencies, sum(row[3] for row in found), sum(row[4] for row in found))

    def slots(self, since: float, slot_minutes: int) -> dict[int, dict[str, int]]:
        """Outcomes by state in slots of so many minutes since 1970, from a Unix time on."""
        slots: dict[int, dict[str, int]] = {}
        for slot, state, number in self._read(
            """SELECT minute / ?, state, sum(instances) FROM minute WHERE minute BETWEEN ? AND ? GROUP BY 1, 2""",
            (slot_minutes, max(1, int(since) // 60), int(time.time()) // 60),
        ):
            slots.setdefault(slot, {})[state] = number
        return slots

    def failures(self, reason: str | None, before: int | None, limit: int = PAGE_ROWS) -> list[NumberedRow]:
        """Instances that failed for good, newest first, of one reason or of all, older than the row of that number."""
        reasons = [
            (state, known)
            for state, known in self._read("SELECT state, reason FROM tally WHERE instances > 0")
            if state in FAILED_STATES and reason in {None, known}
        ]
        found: list[NumberedRow] = []
        for state, known in sorted(set(reasons)):
            found += self._list(
                "state = ? AND reason = ? AND id < ? ORDER BY id DESC LIMIT ?",
                (state, known, _below(before), limit),
            )
        return sorted(found, key=lambda one: -one.number)[:limit]

    def recent(self, before: int | None, limit: int = PAGE_ROWS) -> list[NumberedRow]:
        """Instances of any state, newest first, older than the row numbered `before`."""
        return self._list("id < ? ORDER BY id DESC LIMIT ?", (_below(before), limit))

    def numbered(self, number: int) -> NumberedRow | None:
        """The instance in the row of that number."""
        return next(iter(self._list("id = ?", (number,))), None)

    def number_of(self, name: str) -> int | None:
        """Number of the row of an instance."""
        found = self._read("SELECT id FROM instance WHERE name = CAST(? AS TEXT)", (stored(name),))
        return int(found[0][0]) if found else None

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those of the names that no row has, in their order."""
        return [name for name in names if self.number_of(name) is None]

    def search(self, text: str, limit: int = MOST_FOUND) -> list[NumberedRow]:
        """Instances with that UID (of instance, study or series) or AE title, or whose name or medium begins so."""
        value, end = stored(text), stored(text) + b"\xff"
        key = stored(transitions.output_key(text))
        ways: tuple[tuple[str, tuple[object, ...]], ...] = (
            ("sop_instance_uid = ?", (text,)),
            ("study_instance_uid = ?", (text,)),
            ("ae_title = ? AND ae_title <> ''", (text,)),
            ("name >= CAST(? AS TEXT) AND name < CAST(? AS TEXT)", (value, end)),
            (
                """id IN (SELECT instance_id FROM medium
                WHERE path_key >= CAST(? AS TEXT) AND path_key < CAST(? AS TEXT) LIMIT ?)""",
                (key, key + b"\xff", limit),
            ),
        )
        found: dict[int, NumberedRow] = {}
        try:
            text.encode()
        except UnicodeEncodeError:
            ways = ways[3:]
        for where, values in ways:
            for one in self._list(f"{where} LIMIT ?", (*values, limit - len(found))):
                found[one.number] = one
            if len(found) >= limit:
                break
        if not found and _UID.fullmatch(text):
            # No index begins with the series, and none is kept for this: a walk over that of studies, which holds it.
            where = """id IN (SELECT id FROM instance INDEXED BY instance_study
                WHERE study_instance_uid IS NOT NULL AND series_instance_uid = ? LIMIT ?)"""
            found = {one.number: one for one in self._list(where, (text, limit))}
        return sorted(found.values(), key=lambda one: -one.number)

    def _list(self, where: str, values: tuple[object, ...]) -> list[NumberedRow]:
        rows = self._read(f"{_NUMBERED} WHERE {where}", values)
        return [NumberedRow(row[-2], row[-1] / 1e9, transitions.entry_of(row[:-1])) for row in rows]


def _below(before: int | None) -> int:
    return before if before is not None else (1 << 63) - 1


def latency_words(bound_s: int | None) -> str:
    """The upper bound of a class of latencies, in words."""
    if bound_s is None:
        return "unknown"
    if bound_s == BEYOND_S:
        return "more than a day"
    for unit, size in (("h", 3600), ("min", 60)):
        if bound_s >= size:
            return f"{bound_s // size} {unit}"
    return f"{bound_s} s"
