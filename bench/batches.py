"""Batches, measured: `python -m bench.batches scale [FILES ...]` and `python -m bench.batches overhead`.

`scale` makes folders of so many files and measures plan, status, merge and a second plan, with the peak of memory of
each. Batches do not run: journals and media are made here, an empty medium and a short record for every file.

`overhead` exports one folder with `--engine local` and with other engines, in turn, and fits what a task costs beside
the instances in it. Processor seconds are those of the command and all its children.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pydicom
from pydicom.data import get_testdata_file

from exporter.batches.journal import ENDED, FINISHED, BatchJournal, entry_for, new_run, run_folder
from exporter.batches.plan import BatchPlan
from exporter.outcome import Exported, InstanceIdentity, MediaFile, MediaType, to_json
from exporter.results.ledger.types import WorkItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.batches.plan import PlannedUnit

PER_FOLDER: Final = 1000
PER_BATCH: Final = 1000
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Cost:
    """What one command took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def cost_of(*arguments: object) -> Cost:
    """Run a command of `exporter`; its children are counted once it has waited for them."""
    command = [sys.executable, "-m", "exporter", *map(str, arguments)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    complaint = process.stderr.read() if process.stderr is not None else b""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command}: {complaint.decode()}")
    return Cost(time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


# -- many files ------------------------------------------------------------------------------------------------------


def make_files(root: Path, count: int) -> None:
    """Make empty files in folders: a plan opens none of them."""
    for number in range(count):
        folder = root / f"{number // PER_FOLDER:05}"
        if number % PER_FOLDER == 0:
            folder.mkdir(parents=True)
        os.close(os.open(folder / f"{number:07}.dcm", os.O_CREAT | os.O_WRONLY, 0o600))


def make_results(plan: BatchPlan) -> None:
    """Leave behind what a start of every batch would."""
    for batch in plan.batches:
        folder = plan.folder_of(batch.number)
        run = run_folder(folder, new_run(folder))
        with BatchJournal(run) as journal:
            (run / "media" / "0").mkdir(parents=True)
            entries = [_result(run, unit, number) for number, unit in enumerate(plan.units_of(batch.number))]
            journal.append(*entries)
            journal.append(({"event": ENDED, "complete": True}, b""))


def _result(run: Path, unit: PlannedUnit, number: int) -> tuple[dict[str, object], bytes]:
    name = f"media/0/{number}.png"
    os.close(os.open(run / name, os.O_CREAT | os.O_WRONLY, 0o600))
    digest = hashlib.sha256(unit.name.encode()).hexdigest()
    identity = InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", f"1.2.{unit.index}.1", "1.2.3", "1.2.3.4", digest)
    medium = MediaFile(name, ".png", MediaType.IMAGE, 0, EMPTY_SHA256, "png", width=1, height=1, frames=1)
    outcome = Exported(identity, (medium,), '{"PatientID": "P"}', digest, "0" * 64)
    work = WorkItem(unit.name, Path(), unit.size_bytes, unit.mtime_ns, "folder", unit.name)
    values = (
        identity.sop_class_uid,
        identity.sop_instance_uid,
        identity.study_instance_uid,
        identity.series_instance_uid,
        identity.content_sha256,
    )
    return entry_for(FINISHED, work, (unit.index, 0), identity=values), to_json(outcome)


def scale(counts: Sequence[int], base: Path | None) -> None:
    """Print one row for each number of files."""
    print("| files | batches | plan | second plan | merge | status | memory of plan, merge, status |")
    print("|---|---|---|---|---|---|---|")
    for count in counts:
        with tempfile.TemporaryDirectory(dir=base) as folder:
            root, output = Path(folder) / "in", Path(folder) / "out"
            make_files(root, count)
            planned = cost_of("batch", "plan", root, "--output", output, "--batches", max(1, count // PER_BATCH))
            plan = BatchPlan.read(output)
            make_results(plan)
            looked = cost_of("backfill", "status", output)
            merged = cost_of("batch", "merge", output)
            again = cost_of("batch", "plan", root, "--output", output)
            rates = [f"{count / one.wall_s:.0f}/s, {one.cpu_s / count * 1e6:.0f} us CPU" for one in (planned, again)]
            per_file = f"{merged.wall_s / count * 1e6:.0f} us a file, {merged.cpu_s / count * 1e6:.0f} us CPU"
            status = f"{looked.wall_s:.2f} s, {looked.cpu_s:.2f} s CPU"
            memory = ", ".join(f"{one.peak_mb:.0f}" for one in (planned, merged, looked))
            row = (f"{count:,}", len(plan.batches), *rates, per_file, status, f"{memory} MB")
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


# -- overhead --------------------------------------------------------------------------------------------------------


def make_slices(root: Path, count: int) -> None:
    """Make so many CT slices, each with a SOP Instance UID of its own."""
    root.mkdir()
    plane = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    for number in range(count):
        plane.SOPInstanceUID = plane.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        plane.save_as(root / f"{number:06}.dcm")


def overhead(files: int, batches: int, rounds: int, options: Sequence[str], base: Path | None) -> None:
    """Print the time of an engine beside `local`, and what one task costs."""
    with tempfile.TemporaryDirectory(dir=base) as folder:
        root, output = Path(folder) / "in", Path(folder) / "out"
        make_slices(root, files)
        ways = {"local": (), f"{batches} batches": ("--batches", batches), f"{4 * batches}": ("--batches", 4 * batches)}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, more in ways.items():
                before = _children()
                arguments = options if more else ()
                cost = cost_of("backfill", root, "--output", output, "--workers", 2, *arguments, *more)
                found[name].append((cost.wall_s, _children() - before))
                shutil.rmtree(output)
    wall, cpu = ({name: statistics.median(one[part] for one in found[name]) for name in ways} for part in (0, 1))
    few, many = list(ways)[1:]
    for what, taken in (("wall", wall), ("CPU", cpu)):
        task_s = (taken[many] - taken[few]) / (3 * batches)
        print(
            f"{what}: local {taken['local']:.1f} s, {few} {taken[few]:.1f} s, ratio {taken[few] / taken['local']:.3f};"
            f" {many} {taken[many]:.1f} s: {task_s:.2f} s for a task"
        )


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.batches", description=__doc__)
    parser.add_argument("--folder", type=Path, default=None, help="where to work [the folder for temporary files]")
    what = parser.add_subparsers(dest="what", required=True)
    many = what.add_parser("scale")
    many.add_argument("files", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    beside = what.add_parser("overhead")
    beside.add_argument("--files", type=int, default=20_000)
    beside.add_argument("--batches", type=int, default=4)
    beside.add_argument("--rounds", type=int, default=3)
    beside.add_argument("--options", default="--engine processes", help="of the engine, such as its scheduler")
    options = parser.parse_args()
    if options.what == "scale":
        scale(options.files, options.folder)
    else:
        overhead(options.files, options.batches, options.rounds, options.options.split(), options.folder)


if __name__ == "__main__":
    main()
