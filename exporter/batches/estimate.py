"""What a backfill will cost, from a sample: time of one worker, output bytes, instances by kind.

Contract: the input is listed once; regular files are grouped by size (powers of two), and some of each group, at
random, are exported with one worker into a folder for temporary files, which is removed. Time and bytes have an
interval, from the spread inside the groups (stratified sampling) and a margin for what a sample of one machine cannot
see. Memory does not grow with the number of files.

Must never: write below the output folder, or change the input.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporter.batches.plan import BatchSizing, PlannedUnit
from exporter.batches.source import BatchReader, JournalMemory
from exporter.inputs.backfill import export, reader_of
from exporter.inputs.contract import INSIDE, InputUnusable
from exporter.inputs.entry_source import Progress
from exporter.inputs.folder import FolderReader
from exporter.inputs.walk import FileKind, walk
from exporter.outcome import Exported

if TYPE_CHECKING:
    import threading

    from exporter.inputs.backfill import BackfillRequest

PER_GROUP: Final = 30
"""Most files of one group that are exported."""
PER_GROUP_OF_PLAN: Final = 6
"""Likewise, for the size of batches, which need not be known as well."""
DEVIATIONS: Final = 2.6
"""Half of an interval, in standard errors: 99 of 100 samples of a normal distribution."""
MARGIN: Final = {"time": 0.25, "bytes": 0.03}
"""Share of a number that is added to its interval on either side: other load on the machine, above all."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A number, and the range in which it is to be expected."""

    expected: float
    low: float
    high: float

    def divided(self, by: float) -> Interval:
        """The interval of a part."""
        return Interval(self.expected / by, self.low / by, self.high / by)

    def as_json(self) -> list[float]:
        """Low, expected and high."""
        return [round(one, 3) for one in (self.low, self.expected, self.high)]


@dataclass(slots=True)
class SizeGroup:
    """Files of similar size, and what the sample of them took."""

    files: int = 0
    bytes: int = 0
    sample: list[PlannedUnit] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    output_bytes: list[float] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class BackfillEstimate:
    """What a backfill will cost on this machine with these settings."""

    files: int
    input_bytes: int
    sampled: int
    kinds: dict[str, int]
    """Expected number of instances by kind of media, or by status and reason where there are no media."""
    core_seconds: Interval
    """Time of one worker."""
    output_bytes: Interval
    """Bytes of media."""
    file_s: dict[int, float]
    """Mean seconds of one worker for one file, by the number of bits of its size."""

    def cores_for(self, seconds: float) -> int:
        """Workers that end within a time, by the high end of the interval."""
        return max(1, math.ceil(self.core_seconds.high / seconds))

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "files": self.files,
            "input_bytes": self.input_bytes,
            "sampled": self.sampled,
            "kinds": self.kinds,
            "core_seconds": self.core_seconds.as_json(),
            "output_bytes": self.output_bytes.as_json(),
            "cores_for_one_hour": self.cores_for(3600.0),
        }


def estimate(
    request: BackfillRequest, stop: threading.Event, *, seed: int | None = None, per_group: int = PER_GROUP
) -> BackfillEstimate:
    """Sample the input of a backfill.

    Args:
        request: Input and settings; nothing is written to its output.
        stop: When set, no further file is exported.
        seed: Of the choice of files; None for another choice each time.
        per_group: Most files of one group that are exported.

    Raises:
        InputUnusable: The input cannot be read, or is one archive or DICOMDIR.
        MachineCondition: The folder for temporary files is full.
    """
    groups = _grouped(request, random.Random(seed), per_group)  # noqa: S311 - a sample is no secret
    _export(request, groups, stop)
    kinds: Counter[str] = Counter()
    for group in groups.values():
        for kind, number in group.kinds.items():
            kinds[kind] += round(number * group.files / len(group.sample))
    files, size = sum(group.files for group in groups.values()), sum(group.bytes for group in groups.values())
    return BackfillEstimate(
        files,
        size,
        sum(len(group.sample) for group in groups.values()),
        dict(sorted(kinds.items())),
        _total([(group.files, group.seconds) for group in groups.values()], MARGIN["time"]),
        _total([(group.files, group.output_bytes) for group in groups.values()], MARGIN["bytes"]),
        {bits: sum(group.seconds) / len(group.seconds) for bits, group in groups.items() if group.seconds},
    )


def sizing(request: BackfillRequest, stop: threading.Event, *, task_s: float, cores: int) -> BatchSizing | None:
    """Sizes of batches that take half of the time limit of a task.

    Args:
        request: Input and settings.
        stop: When set, no further file is exported.
        task_s: Time limit of one task in seconds.
        cores: Workers of one task.

    Returns:
        None where there is nothing to be sampled, as in an input that is one archive.

    Raises:
        InputUnusable: The input cannot be read.
        MachineCondition: The folder for temporary files is full.
    """
    if not isinstance(reader_of(request), FolderReader):
        return None
    file_s = estimate(request, stop, per_group=PER_GROUP_OF_PLAN).file_s
    if not file_s:
        return None
    return BatchSizing(task_s / 2, {bits: seconds / cores for bits, seconds in file_s.items()})


def _grouped(request: BackfillRequest, chance: random.Random, per_group: int) -> dict[int, SizeGroup]:
    """Groups of regular files by the number of bits of their size, each with a sample (Vitter's algorithm R)."""
    reader, groups = reader_of(request), dict[int, SizeGroup]()
    if not isinstance(reader, FolderReader):
        return groups
    for found in walk(reader.folder, reader.outputs, recursive=reader.recursive):
        if found.kind is not FileKind.REGULAR:
            continue
        group = groups.setdefault(found.size_bytes.bit_length(), SizeGroup())
        group.files += 1
        group.bytes += found.size_bytes
        place = len(group.sample) if group.files <= per_group else chance.randrange(group.files)
        if place < per_group:
            unit = PlannedUnit(group.files, found.kind.value, found.name, found.size_bytes, found.mtime_ns)
            group.sample[place : place + 1] = [unit]
    return groups


def _export(request: BackfillRequest, groups: dict[int, SizeGroup], stop: threading.Event) -> None:
    """Export the sample with one worker, group by group, and note what each file took.

    Results come in small batches, so that the time between two of them says little about one file and much about a
    group. The first file is not timed: it waits for the worker to start.
    """
    reader = reader_of(request)
    if not isinstance(reader, FolderReader):
        raise InputUnusable(f"{request.folder} is one archive or DICOMDIR: an estimate needs a folder")
    units = [unit for _, group in sorted(groups.items()) for unit in group.sample]
    media = request.settings.media.model_copy(update={"dir": None})
    metadata = request.settings.metadata.model_copy(update={"file": None})
    plain = request.settings.model_copy(update={"media": media, "metadata": metadata})
    seconds, size = dict.fromkeys((unit.name for unit in units), 0.0), dict.fromkeys((unit.name for unit in units), 0.0)
    by_name = {unit.name: groups[unit.size_bytes.bit_length()] for unit in units}
    with tempfile.TemporaryDirectory(prefix="exporter-estimate-") as folder:
        target = replace(request.target, output=Path(folder), settings=plain, workers=1)
        last = None
        for result in export(BatchReader(reader, reader.folder, units, JournalMemory({})), target, Progress(), stop):
            now, outcome, name = time.monotonic(), result.outcome, result.work.name.partition(INSIDE)[0]
            if last is None:
                del seconds[name]
            elif name in seconds:
                seconds[name] += now - last
            last = now
            media_bytes = sum(one.bytes for one in outcome.media) if isinstance(outcome, Exported) else 0
            size[name] += media_bytes
            kind = (
                outcome.media[0].kind.value if isinstance(outcome, Exported) else f"{outcome.status}: {outcome.reason}"
            )
            by_name[name].kinds[kind] += 1
    for name, taken in seconds.items():
        by_name[name].seconds.append(taken)
    for name, written in size.items():
        by_name[name].output_bytes.append(written)


def _total(groups: list[tuple[int, list[float]]], margin: float) -> Interval:
    """Sum over all files, from the values of some of each group (Cochran, Sampling Techniques, 5.3 and 5.4)."""
    expected = variance = 0.0
    for files, values in groups:
        if not values:
            continue
        mean = sum(values) / len(values)
        expected += files * mean
        if 1 < len(values) < files:
            spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
            variance += files * (files - len(values)) * spread / len(values)
    half = DEVIATIONS * math.sqrt(variance) + margin * expected
    return Interval(expected, max(0.0, expected - half), expected + half)
