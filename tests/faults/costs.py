"""F30-F45: processor time per byte of input over every hostile file, those that claim much and those of many parts."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Final

from exporter.settings.settings import LimitSettings
from tests.faults.report import Row, Scale, attempt
from tests.product.costing import costs_of
from tests.product.hostile import costly_files, hostile_files, write_hostile_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_S_PER_MB: Final = 20.0
"""Of a file of 100 kB or more; a smaller one counts as 100 kB."""
TOLD: Final = 3


def costs_row(scratch: Path) -> Row:
    """The worst seconds per megabyte, and what cost them."""
    files = write_hostile_files(scratch, hostile_files() | costly_files())
    costs = sorted(costs_of(files, LimitSettings()), key=lambda cost: -cost.s_per_mb)
    violations = [
        f"{cost.name}: {cost.cpu_s:.1f} s for {cost.size_bytes} bytes"
        for cost in costs
        if cost.s_per_mb > MOST_S_PER_MB
    ]
    verdicts = collections.Counter(cost.verdict for cost in costs)
    worst = "; ".join(
        f"{cost.name} {cost.s_per_mb:.1f} s/MB ({cost.cpu_s:.2f} s, {cost.size_bytes} bytes, {cost.verdict})"
        for cost in costs[:TOLD]
    )
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    return Row("F30-F45 cost per byte", "one worker process", len(costs), tuple(violations), f"worst: {worst}; {told}")


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """One row."""
    del scale
    scratch.mkdir(parents=True, exist_ok=True)
    yield attempt("F30-F45 cost per byte", "one worker process", lambda: costs_row(scratch))
