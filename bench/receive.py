"""Receiving, measured: every receiver, every size, every number of associations, interleaved round by round."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from bench.receivers import HERE, RECEIVERS, Missing, Receiver, Running, compile_preload, empty
from bench.report import REPORT, in_turn, machine, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True)
class Cell:
    """Instances of one size on so many associations at once."""

    name: str
    size_bytes: int
    count: int
    """Instances on each association."""
    associations: int


CELLS = (
    Cell("20 KB, 1 association", 20 << 10, 1000, 1),
    Cell("20 KB, 4 associations", 20 << 10, 400, 4),
    Cell("20 KB, 8 associations", 20 << 10, 200, 8),
    Cell("512 KB, 1 association", 512 << 10, 200, 1),
    Cell("512 KB, 4 associations", 512 << 10, 75, 4),
    Cell("512 KB, 8 associations", 512 << 10, 40, 8),
    Cell("50 MB, 1 association", 50 << 20, 4, 1),
    Cell("50 MB, 4 associations", 50 << 20, 1, 4),
    Cell("50 MB, 8 associations", 50 << 20, 1, 8),
)


@dataclass(frozen=True)
class Figure:
    """One measurement."""

    mb_s: float
    instances_s: float
    cpu_s_per_gb: float
    peak_mb: float


def measure(receiver: Receiver, cell: Cell, folder: Path, preloads: dict[str, Path]) -> Figure:
    """Start the receiver, send, stop it."""
    os.sync()  # what an earlier measurement left to be written is not charged to this one
    running = Running(receiver, Path(tempfile.mkdtemp(dir=folder)), preloads)
    arguments = [(running.port, cell.size_bytes, cell.count, n, receiver.pdu_bytes) for n in range(cell.associations)]
    try:
        with Racers("sender.py", arguments) as senders:
            before = running.cpu_s()
            times = senders.race()
            cpu_s, peak_mb = running.cpu_s() - before, running.peak_mb()
    except Unfinished as error:
        raise RuntimeError(f"{receiver.name} did not take every instance") from error
    finally:
        running.stop()
    return figure(cell, times, cpu_s, peak_mb)


def measure_disk(cell: Cell, folder: Path) -> Figure:
    """Write as much, durably, from as many processes, with no network and no receiver."""
    os.sync()
    here = Path(tempfile.mkdtemp(dir=folder))
    with Racers("disk.py", [(here, cell.size_bytes, cell.count, n) for n in range(cell.associations)]) as writers:
        times = writers.race()
    empty(here)
    return figure(cell, times, sum(cpu_s for _, _, cpu_s, _ in times), max(peak for *_, peak in times) / 1000)


def figure(cell: Cell, times: list[list[float]], cpu_s: float, peak_mb: float) -> Figure:
    """What follows from when each of the racers began and ended."""
    seconds = max(time[1] for time in times) - min(time[0] for time in times)
    count = cell.count * cell.associations
    size_mb = count * cell.size_bytes / 1e6
    return Figure(size_mb / seconds, count / seconds, cpu_s / size_mb * 1000, peak_mb)


class Unfinished(Exception):
    """A process ended without saying when."""


class Racers:
    """Processes of one of our scripts that are ready, then all begin at once."""

    def __init__(self, script: str, arguments: Sequence[Iterable[object]]) -> None:
        command = [sys.executable, "-S", str(HERE / script)]
        self._processes = [
            subprocess.Popen([*command, *map(str, own)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for own in arguments
        ]

    def __enter__(self) -> Self:
        for process in self._processes:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                raise RuntimeError("a process of the benchmark did not start")
        return self

    def race(self) -> list[list[float]]:
        """Let them begin; what each of them says at its end: the moments of begin and end, and more.

        Raises:
            Unfinished: One ended before.
        """
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = []
        for process in self._processes:
            assert process.stdout is not None
            said.append([float(word) for word in process.stdout.readline().split()])
            if len(said[-1]) < 2:
                raise Unfinished
        return said

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


DISK: Final = "the disk alone"
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it


def run(options: argparse.Namespace) -> None:
    """Measure everything and write the report: on a disk, then in memory, where only the receivers themselves count."""
    receivers = [r for r in RECEIVERS if options.only in r.name or r.name == "ours"]
    cells = [cell for cell in CELLS if re.search(options.cells, cell.name)]
    target = options.write or (None if options.only or options.cells else REPORT)
    places = [("Receive", Path(options.folder or tempfile.gettempdir()))]
    if options.folder is None and MEMORY.is_dir():
        places.append(("Receive, in memory", MEMORY))
    for title, place in places:
        with tempfile.TemporaryDirectory(dir=place) as temporary:
            comparison = Comparison(title, Path(temporary), receivers, cells)
            for turn in range(options.rounds):
                comparison.measure_once(turn)
                if target is not None:
                    write(target, comparison.section())  # after every round: a run that is cut leaves what it has
            print(comparison.section(), flush=True)


class Comparison:
    """Every receiver in every cell, in one place."""

    def __init__(self, title: str, folder: Path, receivers: list[Receiver], cells: list[Cell]) -> None:
        self._title = title
        self._folder = folder
        self._receivers = receivers
        self._cells = cells
        self._preloads = {kind: compile_preload(kind, folder) for kind in ("DURABLE", "VOLATILE")}
        self._figures: dict[tuple[str, str], list[Figure]] = defaultdict(list)
        self._absent: set[str] = set()

    def measure_once(self, turn: int) -> None:
        """One round: one after another, so that what a machine does beside it meets all alike."""
        for cell in self._cells:
            for receiver in in_turn((None, *self._receivers), turn):
                name = DISK if receiver is None else receiver.name
                try:
                    figure = self._measure(receiver, cell)
                except (Missing, RuntimeError) as error:
                    self._absent.add(f"{name}: {cell.name}: {error}")
                    continue
                self._figures[name, cell.name].append(figure)
                print(f"{turn + 1} {cell.name:24} {name:30} {figure.mb_s:8.0f} MB/s", flush=True)

    def _measure(self, receiver: Receiver | None, cell: Cell) -> Figure:
        if receiver is None:
            return measure_disk(cell, self._folder)
        return measure(receiver, cell, self._folder, self._preloads)

    def section(self) -> str:
        """The section of the report, from what is measured so far."""
        rounds = max(map(len, self._figures.values()), default=0)
        lines = [
            f"## {self._title}",
            "",
            f"{machine(self._folder)}; senders and receiver share the cores.",
            "",
            *legend(rounds),
        ]
        lines += tables(self._figures, [*(receiver.name for receiver in self._receivers), DISK], self._cells)
        if self._absent:
            lines += ["", "Not measured:", "", *(f"- {line}" for line in sorted(self._absent))]
        return "\n".join(lines) + "\n"


def middle(figures: list[Figure], name: str) -> float:
    """The median of one field."""
    return statistics.median([float(getattr(figure, name)) for figure in figures])


def legend(rounds: int) -> list[str]:
    """What the figures are."""
    text = (
        f"Medians of {rounds} interleaved rounds. MB/s / instances/s (CPU seconds of the receiver per GB; largest "
        "resident memory of its processes, MB). *durable*: content and name are on the disk before the answer; "
        "storescp syncs file and folder. *The disk alone*: as many processes write and sync files of the same size, "
        "and nothing else; nobody who answers only then can be much faster."
    )
    return [text, ""]


def tables(figures: dict[tuple[str, str], list[Figure]], names: list[str], cells: list[Cell]) -> list[str]:
    """Medians, and ratios of medians, as Markdown."""
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for cell in cells:
        row = []
        for name in names:
            found = figures.get((name, cell.name))
            row.append(
                f"{middle(found, 'mb_s'):.0f} / {middle(found, 'instances_s'):.0f} "
                f"({middle(found, 'cpu_s_per_gb'):.1f}; {middle(found, 'peak_mb'):.0f})"
                if found
                else "-"
            )
        lines.append(f"| {cell.name} | " + " | ".join(row) + " |")
    lines += ["", "Ours (durable) as a multiple of each, from the medians of throughput:", ""]
    lines += ratios(figures, names, cells, "mb_s")
    lines += ["", "Processor time per GB of ours (durable) as a multiple of each, from the medians:", ""]
    return lines + ratios(figures, names, cells, "cpu_s_per_gb")


def ratios(figures: dict[tuple[str, str], list[Figure]], names: list[str], cells: list[Cell], field: str) -> list[str]:
    """One field of ours, divided by that of each other, as Markdown."""
    lines = ["| | " + " | ".join(names[1:]) + " |", "|---" * len(names) + "|"]
    for cell in cells:
        ours = figures.get(("ours", cell.name))
        row = []
        for name in names[1:]:
            found = figures.get((name, cell.name))
            row.append(f"{middle(ours, field) / middle(found, field):.2f}" if ours and found else "-")
        lines.append(f"| {cell.name} | " + " | ".join(row) + " |")
    return lines
