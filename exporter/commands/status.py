"""`exporter status`: how far everything is, for people and for monitoring.

Contract: looks only, at a running exporter's data folder as at a finished backfill's output folder; answers at once.
An instance is counted in exactly one of pending, active, exported, skipped, quarantined and failed.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from exporter.commands import ExitCode
from exporter.commands.options import DataOptions, existing, in_words
from listener.foundation.text import printable
from listener.spool.view import SpoolView

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.results.ledger import Counts
    from exporter.results.ledger.types import Overdue


@dataclass(frozen=True, slots=True)
class Standing:
    """Numbers of instances by place."""

    pending: int = 0
    active: int = 0
    exported: int = 0
    skipped: int = 0
    quarantined: int = 0
    failed: int = 0
    duplicates: int = 0
    """Flagged as duplicates; also counted as skipped."""
    conflicts: int = 0
    """Same SOP Instance UID as another instance, other content; also counted in their state."""
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    """Numbers by state and reason: skipped, quarantined, failed and (waiting for another attempt) pending."""
    overdue: int = 0
    """Pending instances whose next attempt is late, or put off until a time that cannot be right."""
    receiving: int = 0
    paused: str | None = None
    """Why the exporter pauses."""
    memory: str | None = None
    """Number of workers that run, while memory is short."""
    listener: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        names = [name for name in self.__slots__ if name != "listener"]
        return {name: getattr(self, name) for name in names} | ({"listener": self.listener} if self.listener else {})


def status(
    places: DataOptions | None = None,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Show how many instances are pending, active, exported, skipped, quarantined, failed, and why."""
    places = places or DataOptions()
    if places.config is not None:
        places.settings()  # a configuration that is named must be right, whatever it says
    with in_words():
        standing = standing_of(existing(places.data))
    print(json.dumps(standing.as_json()) if as_json else _table(standing))
    return ExitCode.DONE


def standing_of(data: Path) -> Standing:
    """Count what spool and ledger of a data folder hold.

    Raises:
        LedgerUnusable: The ledger cannot be read.
    """
    from exporter.results.ledger import Counts, InstanceStatus, Ledger
    from exporter.results.ledger.types import Overdue

    spool = SpoolView.read(data / "spool")
    path = data / "exporter.db"
    if not path.is_file():
        return _standing(spool, Counts(), Counter(), Counter(), Overdue())
    with Ledger.open_read_only(path) as ledger:
        # The spool first: an instance that ends meanwhile is then counted once more rather than missed.
        counts = ledger.counts()
        active, deferred = (
            Counter({source: number for (of, source), number in counts.by_source.items() if of == state})
            for state in (InstanceStatus.ACTIVE, InstanceStatus.DEFERRED)
        )
        return _standing(spool, counts, active, deferred, ledger.overdue(time.time()))


def _standing(
    spool: SpoolView | None, counts: Counts, active: Counter[str], deferred: Counter[str], overdue: Overdue
) -> Standing:
    """The standing; `active` and `deferred` are instances of those states by where they came from."""
    waiting = deferred.total() if spool is None else deferred["folder"]
    if spool is not None:
        waiting += max(0, spool.waiting - active["spool"])
    reasons: dict[str, dict[str, int]] = {}
    for (state, reason), count in counts.by_reason.items():
        name = {"deferred": "pending"}.get(str(state), str(state))
        if reason and (spool is None or name != "quarantined"):
            reasons.setdefault(name, {})[reason] = count
    if spool is not None and spool.quarantined:
        reasons["quarantined"] = spool.quarantined
    return Standing(
        pending=waiting,
        active=active.total(),
        exported=counts.exported,
        skipped=counts.skipped,
        quarantined=counts.quarantined if spool is None else sum(spool.quarantined.values()),
        failed=counts.failed,
        duplicates=counts.duplicates,
        conflicts=counts.conflicts,
        reasons={state: dict(sorted(found.items())) for state, found in sorted(reasons.items())},
        overdue=overdue.late + overdue.too_far,
        receiving=0 if spool is None else spool.receiving,
        paused=None if spool is None else spool.paused,
        memory=None if spool is None else spool.memory,
        listener=None if spool is None else spool.listener,
    )


def _table(standing: Standing) -> str:
    """The status for people: one line per state, its reasons behind it."""
    lines = []
    for state in ("pending", "active", "exported", "skipped", "quarantined", "failed", "duplicates", "conflicts"):
        why = ", ".join(f"{reason} {count}" for reason, count in standing.reasons.get(state, {}).items())
        lines.append(f"{state:<12}{getattr(standing, state):>10}" + (f"   {why}" if why else ""))
    if standing.overdue:
        lines.append(f"overdue     {standing.overdue:>10}   of the pending: `exporter failures` says why")
    if standing.paused is not None:
        lines.append(f"exporter    pauses: {printable(standing.paused)}")
    if standing.memory is not None:
        lines.append(f"exporter    {printable(standing.memory)}")
    lines += _listener_lines(standing.listener or {})
    if standing.quarantined or standing.failed:
        lines.append("`exporter failures` says what failed and why.")
    return "\n".join(lines)


def _listener_lines(listener: dict[str, Any]) -> list[str]:
    """Last report of the listener."""
    lines = []
    if isinstance(updated := listener.get("updated"), int | float):
        lines.append(f"listener    last sign of life {max(0, time.time() - updated):.0f} s ago")
    for group in ("counts", "gauges"):
        values = listener.get(group)
        for name, value in sorted(values.items() if isinstance(values, dict) else ()):
            lines.append(f"  {printable(str(name)):<28}{printable(str(value)):>16}")
    return lines
