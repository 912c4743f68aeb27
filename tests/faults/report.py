"""Rows of the fault report: what was injected, how often, what was violated, and the figure.

Contract: a row that this machine does not permit is `NOT RUN` with the reason, and is never counted as passed; a row
whose own code fails is a violation, not a skip, and so is one in which nothing was injected.
"""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class NotPermitted(Exception):
    """This machine does not permit the injection; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    fault: str
    """Row of the fault table and its name: ``F56 power cut``."""
    where: str
    """What it was injected into: ``spool on ext4``."""
    injected: int
    """How often."""
    violations: tuple[str, ...]
    """One sentence each; empty is what we promise."""
    figure: str
    """What was measured."""
    not_run: str | None = None
    """Why the row could not be run at all."""

    @property
    def passed(self) -> bool:
        return self.not_run is None and not self.violations

    @property
    def verdict(self) -> str:
        if self.not_run is not None:
            return "NOT RUN"
        return "ok" if not self.violations else "VIOLATED"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    cuts: int
    """Power cuts per file system and layer."""
    instances_per_cut: int
    """Acknowledged instances wanted before the current goes, in the rows with a sender."""
    points: int
    """Most crash points per system call; all there are, where there are fewer."""
    mutants: int
    """Mutated files of the decoder and element fuzz."""
    pdus: int
    """Mutated PDUs of the network fuzz."""
    soak_instances: int
    soak_associations: int
    steady_s: int
    """Seconds of ten associations each."""
    connects: int
    """Connections that are opened and closed."""
    volume_bytes: int
    """Sent in all, in the row of 100 GB."""


FULL = Scale(
    cuts=20,
    instances_per_cut=130,
    points=1000,
    mutants=20_000,
    pdus=5_000,
    soak_instances=20_000,
    soak_associations=2_000,
    steady_s=600,
    connects=1_000_000,
    volume_bytes=100_000_000_000,
)
QUICK = Scale(
    cuts=2,
    instances_per_cut=20,
    points=2,
    mutants=150,
    pdus=200,
    soak_instances=300,
    soak_associations=40,
    steady_s=3,
    connects=2_000,
    volume_bytes=100_000_000,
)


def attempt(fault: str, where: str, measure: Callable[[], Row]) -> Row:
    """The row that `measure` makes; `NOT RUN` where the machine does not permit it, violated where it fails itself."""
    started = time.monotonic()
    try:
        row = measure()
    except NotPermitted as reason:
        return Row(fault, where, 0, (), "-", not_run=str(reason))
    except Exception as error:  # noqa: BLE001 - a row that fails must show in the report, and the others still run
        traceback.print_exc(file=sys.stderr)
        return Row(fault, where, 0, (f"the row itself failed: {type(error).__name__}: {error}"[:300],), "-")
    violations = row.violations
    if row.not_run is None and not row.injected and not violations:
        violations = ("nothing was injected: nothing shown",)
    took = f"{time.monotonic() - started:.0f} s"
    return Row(row.fault, row.where, row.injected, violations, f"{row.figure}; took {took}", row.not_run)


def show(row: Row) -> str:
    """One row as lines of text."""
    text = f"{row.verdict:<9} {row.fault:<34} {row.where:<34} n={row.injected:<7} {row.not_run or row.figure}"
    shown = "".join(f"\n          ! {violation}" for violation in row.violations[:10])
    more = len(row.violations) - 10
    return text + shown + (f"\n          ! and {more} more" if more > 0 else "")


def total(rows: Iterable[Row]) -> str:
    """The last line of the report."""
    rows = list(rows)
    not_run = sum(row.not_run is not None for row in rows)
    violated = sum(bool(row.violations) for row in rows)
    passed = sum(row.passed for row in rows)
    injected = sum(row.injected for row in rows)
    return f"{passed} rows hold, {violated} violated, {not_run} not run; {injected} faults injected"
