"""The two receiving engines against each other: instances, negotiation, and the memory that a large instance takes."""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.receive import Cell, Comparison, Racers
from bench.receivers import OURS, OURS_ON_PYNETDICOM, Receiver, Running
from bench.report import REPORT, in_turn, write

if TYPE_CHECKING:
    import argparse

ENGINES = (OURS, OURS_ON_PYNETDICOM)
CELLS = [
    Cell("512 KB, 1 association", 512 << 10, 200, 1),
    Cell("512 KB, 8 associations", 512 << 10, 40, 8),
    Cell("1 GB, 1 association", 1 << 30, 1, 1),
]
ASSOCIATIONS = 100


def run(options: argparse.Namespace) -> None:
    """Measure both, round by round, and write the section of the report."""
    with tempfile.TemporaryDirectory(dir=options.folder or tempfile.gettempdir()) as temporary:
        folder = Path(temporary)
        comparison = Comparison("Engines", folder, list(ENGINES), CELLS)
        asked: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for turn in range(options.rounds):
            comparison.measure_once(turn)
            for engine in in_turn(ENGINES, turn):
                asked[engine.name].append(negotiate(engine, folder))
            text = comparison.section() + "\n".join(negotiation(asked)) + "\n"
            write(options.write or REPORT, text)
        print(text, flush=True)


def negotiate(receiver: Receiver, folder: Path) -> tuple[float, float]:
    """Associations of 128 contexts in a second, and the processor time of each in milliseconds."""
    running = Running(receiver, Path(tempfile.mkdtemp(dir=folder)), {})
    try:
        with Racers("negotiator.py", [(running.port, ASSOCIATIONS)]) as racers:
            before = running.cpu_s()
            ((started, ended, *_),) = racers.race()
            spent_s = running.cpu_s() - before
    finally:
        running.stop()
    return ASSOCIATIONS / (ended - started), spent_s / ASSOCIATIONS * 1000


def negotiation(asked: dict[str, list[tuple[float, float]]]) -> list[str]:
    """What asking for associations costs, as Markdown."""
    lines = ["", f"{ASSOCIATIONS} associations of 128 presentation contexts, one after another:", ""]
    lines += ["| | associations/s | processor time of each |", "|---|---|---|"]
    for name, figures in asked.items():
        rate, cost_ms = (statistics.median(column) for column in zip(*figures, strict=True))
        lines.append(f"| {name} | {rate:.0f} | {cost_ms:.2f} ms |")
    return lines
