"""The plan of a backfill in batches: which files each batch exports, with which settings and which version.

Contract: planning lists names, sizes and times and opens no file; an archive or a DICOMDIR is one unit. Units are
numbered in walk order, and a batch is a range of them. The plan appears whole or not at all: it is made beside its
place and renamed. `plan.json` has the hash of every other file of the plan, so that one that was edited, cut or deleted
is refused. Memory grows with the number of units by sixteen bytes each.

    OUT/batches/plan.json       input, version, settings and batches
    OUT/batches/settings.json   the whole configuration
    OUT/batches/units-1         units of batch 1, one JSON array a line: index, kind, name, size, time of modification
    OUT/batches/1/run-1/        what the first start of batch 1 has left (`exporter.batches.journal`)

Must never: open a file of the input, or replace a plan of which something has run and is not merged.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from array import array
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from exporter.inputs.backfill import BATCHES, BackfillRequest, ExportTarget, reader_of
from exporter.inputs.entry_source import LedgerMemory, Progress
from exporter.inputs.fileset import is_dicomdir_name
from exporter.inputs.folder import FolderReader
from exporter.inputs.walk import FileKind, WalkedFile, walk
from exporter.machine_conditions import storage_error
from exporter.results.ledger import Ledger
from exporter.services.context import own_version
from exporter.settings.settings import Settings
from listener.foundation.disk import mapped
from listener.foundation.durable import fsync_folder, make_private_folders
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLAN: Final = "plan.json"
ROUNDS: Final = "rounds.json"
"""State of the rounds (`exporter.batches.rounds`); its presence says that the plan was submitted."""
SETTINGS: Final = "settings.json"
MERGED: Final = "merged.json"
"""Report of the merge; its presence says that nothing of the plan is left to do."""
MOST_BATCHES: Final = 200
"""Batches that are made unless a number is given: each is a task of a scheduler, which bounds their number."""
SMALLEST_BATCH: Final = 100
"""Units that a batch has at least, unless a number of batches is given: a task costs seconds to start."""
FILE_WEIGHT: Final = 300_000
"""Bytes of input that take as long as the fixed work for one file, about."""
SAMPLE: Final = 32
"""Units by which a host shows that it sees the same input."""
WHOLE: Final = "whole"
"""Kind of the one unit of an input that is an archive or a DICOMDIR itself."""
REOPENED: Final = "reopened"
"""Kind of a folder that could not be read by an earlier run, and can be now."""
_ABANDONED_S: Final = 24 * 3600.0
_FORM: Final = 1


class BatchUnusable(Unusable):
    """A plan, a batch or what a batch has left cannot be used."""


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """One thing in the input that a batch accounts for, with everything inside it."""

    index: int
    """Position among all units, in walk order."""
    kind: str
    """A `FileKind`, `WHOLE` or `REOPENED`."""
    name: str
    size_bytes: int
    mtime_ns: int

    def line(self) -> bytes:
        """The unit as a line of a units file: names are not UTF-8 always, so that JSON is kept to ASCII."""
        return json.dumps([self.index, self.kind, self.name, self.size_bytes, self.mtime_ns]).encode("ascii") + b"\n"


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """One batch, as the plan lists it."""

    number: int
    """From 1 on."""
    units: int
    bytes: int
    sha256: str
    """Of its units file."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """A plan, read or made."""

    output: Path
    """The output folder, absolute."""
    id: int
    """Random, 62 bits: one for each plan."""
    folder: str
    """The input: a folder, an archive or a DICOMDIR; absolute, without symbolic links."""
    version: str
    """Of the exporter that planned, and of every one that runs a batch."""
    settings_file_sha256: str
    units: int
    bytes: int
    batches: tuple[PlannedBatch, ...]
    sample: tuple[tuple[str, int, int], ...]
    """Name, size and time of modification of some files, spread over the input."""
    form: int = _FORM

    @property
    def root(self) -> Path:
        """Folder of everything that belongs to the plan."""
        return self.output / BATCHES

    def batch(self, number: int) -> PlannedBatch:
        """The batch of that number.

        Raises:
            BatchUnusable: There is no such batch.
        """
        if not 1 <= number <= len(self.batches):
            raise BatchUnusable(
                f"there is no batch {number}", f"the plan has {len(self.batches)}", "give a number from 1 on"
            )
        return self.batches[number - 1]

    def folder_of(self, number: int) -> Path:
        """Folder of what the starts of a batch leave."""
        return self.root / str(number)

    def units_of(self, number: int) -> list[PlannedUnit]:
        """Units of a batch, in walk order.

        Raises:
            BatchUnusable: Their file is not as it was planned.
        """
        batch, path = self.batch(number), self.root / f"units-{number}"
        hint = "plan again into another output folder, or put the file back"
        try:
            text = path.read_bytes()
        except OSError as error:
            raise BatchUnusable(f"batch file {path}", str(error.strerror), hint) from error
        if hashlib.sha256(text).hexdigest() != batch.sha256:
            raise BatchUnusable(f"batch file {path}", "it was changed after it was planned", hint)
        return [PlannedUnit(*json.loads(line)) for line in text.splitlines()]

    def settings(self) -> Settings:
        """The configuration of the plan.

        Raises:
            BatchUnusable: Its file is not as it was planned.
        """
        path, hint = self.root / SETTINGS, "plan again into another output folder, or put the file back"
        try:
            text = path.read_bytes()
        except OSError as error:
            raise BatchUnusable(f"settings of the plan {path}", str(error.strerror), hint) from error
        if hashlib.sha256(text).hexdigest() != self.settings_file_sha256:
            raise BatchUnusable(f"settings of the plan {path}", "they were changed after they were planned", hint)
        return Settings.model_validate_json(text)

    def request(self, settings: Settings) -> BackfillRequest:
        """Input and output as a backfill has them."""
        return BackfillRequest(Path(self.folder), self.output, settings)

    @classmethod
    def read(cls, output: Path) -> Self:
        """The plan in an output folder.

        Raises:
            BatchUnusable: There is none, or it cannot be read.
        """
        path = output.absolute() / BATCHES / PLAN
        try:
            said = json.loads(path.read_bytes())
            batches = tuple(PlannedBatch(**one) for one in said.pop("batches"))
            sample = tuple((str(name), int(size), int(mtime)) for name, size, mtime in said.pop("sample"))
            plan = cls(output.absolute(), batches=batches, sample=sample, **said)
        except FileNotFoundError:
            hint = "make one with `exporter batch plan DIR --output OUT`; on another host, check that OUT is mounted"
            raise BatchUnusable(f"there is no plan in {output}", hint=hint) from None
        except (OSError, ValueError, TypeError, LookupError) as error:
            why = error.strerror if isinstance(error, OSError) else "it was edited, or another version wrote it"
            raise BatchUnusable(f"plan {path}", str(why), "plan again into another output folder") from error
        if plan.form != _FORM:
            raise BatchUnusable(f"plan {path}", "another version wrote it", f"use version {plan.version}")
        return plan


@dataclass(frozen=True, slots=True)
class BatchSizing:
    """How long a batch is to run, and how long files take: from an estimate (`exporter.batches.estimate`)."""

    batch_s: float
    """Seconds that one batch is to take."""
    file_s: Mapping[int, float]
    """Mean seconds for one file in a batch, by the number of bits of its size; not empty."""

    def seconds_of(self, unit: PlannedUnit) -> float:
        """Seconds that a unit takes; a file of a size of which none was tried is as one of the next size."""
        if unit.kind != FileKind.REGULAR.value:
            return 0.0
        bits = unit.size_bytes.bit_length()
        return self.file_s[min(self.file_s, key=lambda tried: (abs(tried - bits), tried))]


def make_plan(
    request: BackfillRequest,
    batches: int | None = None,
    *,
    most: int = MOST_BATCHES,
    sizing: BatchSizing | None = None,
) -> BatchPlan:
    """Plan what a backfill would export, and put the plan into its output folder.

    A plan of which nothing has run, or that is merged, is replaced.

    Args:
        request: Input, output and settings.
        batches: Number of batches, where there are so many units; by default as many as are useful.
        most: Bound of that number, however long each batch then takes.
        sizing: How long batches are to run; None for batches of equal weight by size.

    Raises:
        BatchUnusable: Another plan is under way there, the media folder is on another file system, or instances are to
            be de-identified.
        InputUnusable: The input cannot be read, or is part of the output.
        LedgerUnusable: The ledger of earlier runs cannot be read.
    """
    refuse_unplannable(request)
    with mapped(lambda error: storage_error(f"plan in {request.output}", error)):
        return _made(request, batches or most, sizing, is_exact=batches is not None)


def refuse_unplannable(request: BackfillRequest) -> None:
    """Return where a backfill can be planned.

    Raises:
        BatchUnusable: Another plan is under way there, or instances are to be de-identified.
        InputUnusable: The input cannot be read, or is part of the output.
    """
    if request.settings.deidentifies:
        raise BatchUnusable(
            "batches cannot be planned for de-identified output",
            "a plan and its journals hold the names of inputs, which may name patients",
            "run the backfill without batches, or with privacy.profile: none",
        )
    refuse_plan_under_way(request.output.absolute() / BATCHES)
    reader_of(request)


def _made(request: BackfillRequest, most: int, sizing: BatchSizing | None, *, is_exact: bool) -> BatchPlan:
    output = request.output.absolute()
    root = output / BATCHES
    make_private_folders(output)
    _refuse_other_file_system(request.target)
    making = output / f".{BATCHES}-{secrets.token_hex(8)}"
    making.mkdir(mode=0o700)
    _remove_abandoned(making)
    try:
        plan = _written(request, making, most, sizing, is_exact=is_exact)
        if root.exists():
            root.rename(making / "former")
        making.rename(root)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    fsync_folder(output)
    shutil.rmtree(root / "former", ignore_errors=True)
    return plan


def _remove_abandoned(making: Path) -> None:
    """Remove plans whose making was killed long ago."""
    for other in making.parent.glob(f".{BATCHES}-*"):
        if making.stat().st_mtime - other.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(other, ignore_errors=True)


def refuse_plan_under_way(root: Path) -> None:
    """Return where a new plan may take the place of what is there.

    Raises:
        BatchUnusable: Something of a plan has run, and is not merged.
    """
    if not root.is_dir() or is_merged(root):
        return
    if not (root / ROUNDS).exists() and not any(_has_run(folder) for folder in root.iterdir()):
        return
    hint = "finish it first: `exporter backfill status OUT`, then `exporter backfill resume OUT`"
    raise BatchUnusable(f"a plan is under way in {root.parent}", hint=hint)


def is_merged(root: Path) -> bool:
    """Whether the plan in this folder is merged: nothing of it is left to do."""
    return (root / MERGED).exists()


def _has_run(folder: Path) -> bool:
    return folder.name.isdigit() and any(folder.glob("run-*"))


def _refuse_other_file_system(target: ExportTarget) -> None:
    """Return where media can be moved from a batch's folder by a rename.

    Raises:
        BatchUnusable: They cannot.
    """
    media = target.places.media
    while not media.exists():
        media = media.parent
    if media.stat().st_dev != target.output.stat().st_dev:
        hint = "choose a media.dir on the file system of the output folder"
        raise BatchUnusable(f"media folder {target.places.media}", "it is on another file system", hint)


def _written(
    request: BackfillRequest, root: Path, most: int, sizing: BatchSizing | None, *, is_exact: bool
) -> BatchPlan:
    """Write a plan into a folder."""
    text = _with_absolute_paths(request.settings).model_dump_json().encode()
    _write(root / SETTINGS, text)
    weights, sizes, total_bytes, sample = array("d"), array("Q"), 0, _Sample()
    every = root / "units"
    with open(every, "wb", opener=private) as file:
        for unit in _units(request, root):
            file.write(unit.line())
            weights.append(FILE_WEIGHT + unit.size_bytes if sizing is None else sizing.seconds_of(unit))
            sizes.append(unit.size_bytes)
            total_bytes += unit.size_bytes
            sample.add(unit)
    useful = len(weights) / SMALLEST_BATCH if sizing is None else sum(weights) / sizing.batch_s
    number_of = most if is_exact else max(1, min(most, math.ceil(useful)))
    batches = tuple(_split(root, every, weights, sizes, number_of))
    every.unlink()
    reader = reader_of(request)
    folder = reader.folder if isinstance(reader, FolderReader) else request.folder.resolve()
    plan = BatchPlan(
        request.output.absolute(),
        secrets.randbits(62),
        os.fspath(folder),
        own_version(),
        hashlib.sha256(text).hexdigest(),
        len(weights),
        total_bytes,
        batches,
        tuple(sample.chosen),
    )
    said = asdict(plan)
    del said["output"]
    _write(root / PLAN, json.dumps(said).encode("ascii"))
    fsync_folder(root)
    return plan


def _with_absolute_paths(settings: Settings) -> Settings:
    """The settings with absolute paths: a batch may run in another folder."""
    return Settings.model_validate(_absolute(settings.model_dump()))


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_absolute(one) for one in value]
    return value.absolute() if isinstance(value, Path) else value


def private(path: str, flags: int) -> int:
    """Open a file that is for its owner alone: the `opener` of `open`."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _write(path: Path, text: bytes) -> None:
    with open(path, "wb", opener=private) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


class _Sample:
    """Some regular files, evenly spread over all."""

    def __init__(self) -> None:
        self.chosen: list[tuple[str, int, int]] = []
        self._every = 1
        self._seen = 0

    def add(self, unit: PlannedUnit) -> None:
        if unit.kind != FileKind.REGULAR.value:
            return
        if self._seen % self._every == 0:
            self.chosen.append((unit.name, unit.size_bytes, unit.mtime_ns))
            if len(self.chosen) == 2 * SAMPLE:
                del self.chosen[1::2]
                self._every *= 2
        self._seen += 1


def _split(root: Path, every: Path, weights: array[float], sizes: array[int], number_of: int) -> Iterator[PlannedBatch]:
    """Write the units files: ranges of about equal weight."""
    left = sum(weights)
    at = 0
    with every.open("rb") as lines:
        for number in range(1, number_of + 1):
            if at == len(weights):
                return
            share, weight, size, start = left / (number_of - number + 1), 0.0, 0, at
            digest = hashlib.sha256()
            with open(root / f"units-{number}", "wb", opener=private) as file:
                while at < len(weights) and (at == start or weight + weights[at] / 2 <= share):
                    line = lines.readline()
                    file.write(line)
                    digest.update(line)
                    weight += weights[at]
                    size += sizes[at]
                    at += 1
                file.flush()
                os.fsync(file.fileno())
            left -= weight
            yield PlannedBatch(number, at - start, size, digest.hexdigest())


def _units(request: BackfillRequest, making: Path) -> Iterator[PlannedUnit]:
    """Units of the input that are not finished, in walk order, without what is in the folder `making`."""
    reader = reader_of(request)
    if not isinstance(reader, FolderReader):
        about = request.folder.stat()
        yield PlannedUnit(0, WHOLE, request.folder.name, about.st_size, about.st_mtime_ns)
        return
    path = request.places.ledger
    ledger = Ledger.open_read_only(path) if path.exists() else None
    try:
        memory = None if ledger is None else LedgerMemory(ledger, request.settings.settings_sha256, Progress())
        closed: set[str] = set()
        index = 0
        about = making.stat()
        outputs = replace(reader.outputs, folders=reader.outputs.folders | {(about.st_dev, about.st_ino)})
        for found in walk(reader.folder, outputs, recursive=reader.recursive):
            if found.kind is FileKind.UNREADABLE:
                closed.add(found.name)
            if memory is None or not _is_finished(found, memory):
                yield PlannedUnit(index, found.kind.value, found.name, found.size_bytes, found.mtime_ns)
                index += 1
        for name in () if memory is None else reader.reopened(memory, closed):
            yield PlannedUnit(index, REOPENED, name, 0, 0)
            index += 1
    finally:
        if ledger is not None:
            ledger.close()


def _is_finished(found: WalkedFile, memory: LedgerMemory) -> bool:
    """Whether nothing is left to do for a file; what a DICOMDIR references is looked for in every run."""
    if found.kind is FileKind.REGULAR and is_dicomdir_name(found.path.name):
        return False
    return memory.is_done(found.name, found.size_bytes, found.mtime_ns, found.changed_ns)
