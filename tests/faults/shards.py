"""F54-F56 on `media.store: shards`: a backfill is killed, or loses its current, in the middle of a shard.

What the ledger had as exported before must be in a shard with its bytes; the next run goes on, and ends with every
instance once, as an undisturbed run into files has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.results.ledger import InstanceStatus, Ledger, LedgerUnusable
from exporter.results.reconcile import Folders, reconcile
from exporter.results.stores.shard_reading import MediaReader
from tests.faults import no_fsync
from tests.faults.crash_points import NO_BYTECODE
from tests.faults.daemons import wait_for
from tests.faults.disks import disk
from tests.faults.instances import instance
from tests.faults.report import Row, Scale, attempt
from tests.faults.senders import REPOSITORY
from tests.faults.tracing import killed_at, wrapped
from tests.product.running import family

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CALLS: Final = ("writev", "pwrite64", "fsync", "fdatasync", "rename", "ftruncate", "unlink")
"""Calls of the exporter itself that change shards, index or partial files."""
KINDS: Final = ("ext4", "xfs")


@dataclass(slots=True)
class _Tally:
    """What the interruptions of one row came to."""

    interrupted: int = 0
    exported: int = 0
    """Instances that were exported before an interruption, in all."""
    lost: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def figure(self) -> str:
        """Counts in words."""
        return f"{self.interrupted} interruptions; {self.exported} exported before them, {self.lost} lost"


def write_input(folder: Path, instances: int) -> Path:
    """Write small instances of several studies."""
    for number in range(instances):
        path = folder / f"{number // 10}" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(instance(study=f"1.2.826.0.1.3680043.10.{number // 10}")[1])
    return folder


def _started(
    source: Path,
    output: Path,
    *,
    wrap: list[str] | None = None,
    environment: Mapping[str, str] | None = None,
    workers: int = 1,
) -> subprocess.Popen[bytes]:
    config = output.parent / "shards.yml"
    config.write_text(f"media: {{store: shards, shard_instances: 25}}\nnum_workers: {workers}\n")
    command = [sys.executable, "-m", "exporter", "backfill", source, "--output", output, "--config", config]
    return subprocess.Popen(
        [*(wrap or []), *map(str, command)],
        cwd=REPOSITORY,
        env={**os.environ, **NO_BYTECODE, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _exported(output: Path) -> dict[str, str]:
    """Paths and hashes of the media that the ledger has as exported now."""
    try:
        with Ledger.open_read_only(output / "exporter.db") as ledger:
            names = [row.name for row in ledger.entries(InstanceStatus.EXPORTED)]
            return {one.file: one.sha256 for name in names for one in ledger.media(name)}
    except LedgerUnusable:
        return {}


def _lost(output: Path, exported: Mapping[str, str]) -> int:
    """How many of these media no shard has, before anything is repaired."""
    lost = 0
    with MediaReader(output / "media") as reader:
        bytes_of_shards = {
            name: path.read_bytes()
            for name, path in ((path.name, path) for path in (output / "media" / "shards").rglob("*.tar"))
        }
        for path, sha256 in exported.items():
            found = reader.in_shards(path)
            if found is not None:
                entry = found.members[0]
                data = bytes_of_shards.get(entry.shard, b"")[entry.offset : entry.offset + entry.length]
                lost += hashlib.sha256(data).hexdigest() != sha256
            else:  # committed, and not in the index yet: it is found in an unfinished shard
                lost += not any(_holds(data, sha256) for data in bytes_of_shards.values())
    return lost


def _holds(shard: bytes, sha256: str) -> bool:
    return f'"sha256":"{sha256}"'.encode() in shard


def _finish(source: Path, output: Path) -> None:
    process = _started(source, output)
    if process.wait(timeout=300) != 0:
        raise AssertionError(f"the run after an interruption ended with {process.returncode}")


def _check_end(output: Path, instances: int, tally: _Tally, here: str) -> None:
    """Everything is there once, and nothing else."""
    report = reconcile(Folders(output / "exporter.db", output / "media", output / "metadata.jsonl"), deep=True)
    tally.violations += [f"{here}: {fault.kind} {fault.subject}: {fault.message}" for fault in report.faults]
    exported = _exported(output)
    if len(exported) != instances:
        tally.violations.append(f"{here}: {len(exported)} of {instances} instances are exported")
    keys: Counter[str] = Counter()
    for path in (output / "media" / "shards").glob("*.tar"):
        with tarfile.open(path) as archive:
            keys.update(name for name in archive.getnames() if name.endswith(".json"))
    if len(keys) != instances or set(keys.values()) != {1}:
        tally.violations.append(f"{here}: {len(keys)} samples of {instances}, at most {max(keys.values())} times")
    if list((output / "media" / "shards" / ".partial").iterdir()):
        tally.violations.append(f"{here}: an unfinished shard is left")
    lines = [json.loads(text)["dicom_file"] for text in (output / "metadata.jsonl").read_bytes().splitlines()]
    if len(lines) != len(set(lines)) or len(lines) != instances:
        tally.violations.append(f"{here}: {len(lines)} lines of {len(set(lines))} instances")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, and see what it has started end, too: nobody may have files open on a disk that is unmounted."""
    started = family(process.pid)[1:]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=100)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), 100, "the workers end")


def kill_row(scratch: Path, kills: int, instances: int) -> Row:
    """A backfill is killed again and again at random moments, each time after it has exported something."""
    tally, rng = _Tally(), random.Random(kills)  # noqa: S311 - the moment of a kill is no secret
    source, output = write_input(scratch / "in", instances), scratch / "out"
    for number in range(kills):
        before = len(_exported(output))
        process = _started(source, output)
        try:
            wait_for(lambda: len(_exported(output)) > before or process.poll() is not None, 100, "it exports")  # noqa: B023 - called here
            time.sleep(rng.uniform(0, 0.2))
        finally:
            _end(process)
        exported = _exported(output)
        tally.interrupted += 1
        tally.exported += len(exported)
        tally.lost += (lost := _lost(output, exported))
        if lost:
            tally.violations.append(f"kill {number + 1}: {lost} media lost")
    _finish(source, output)
    _check_end(output, instances, tally, "at the end")
    return Row(
        "F55 kill -9 at random", "backfill into shards", tally.interrupted, tuple(tally.violations), tally.figure
    )


def points_row(scratch: Path, points: int, calls: tuple[str, ...] = CALLS) -> Row:
    """Two instances; the exporter dies at the n-th call, for each n that it comes to."""
    tally = _Tally()
    source = write_input(scratch / "in", 2)
    for call in calls:
        for number in range(1, points + 1):
            here, output = f"{call} {number}", scratch / f"{call}-{number}" / "out"
            output.parent.mkdir()
            wrap = wrapped(f"{call}:signal=KILL:when={number}", output.parent / "strace.log")
            process = _started(source, output, wrap=wrap, workers=0)  # one process: it is the one that dies
            code = process.wait(timeout=300)
            _end(process)
            if code == 0 and not killed_at(output.parent / "strace.log", call, number):
                break
            exported = _exported(output)
            tally.interrupted += 1
            tally.exported += len(exported)
            tally.lost += (lost := _lost(output, exported))
            if lost:
                tally.violations.append(f"{here}: {lost} media lost")
            _finish(source, output)
            _check_end(output, 2, tally, here)
            shutil.rmtree(output.parent)
    return Row("F54 crash points", "backfill into shards", tally.interrupted, tuple(tally.violations), tally.figure)


def power_row(scratch: Path, kind: str, cuts: int, instances: int, *, without_fsync: bool = False) -> Row:
    """The current of the output's disk goes while a backfill writes shards; the input lies on another disk."""
    tally, rng = _Tally(), random.Random(kind)  # noqa: S311 - the moment of a cut is no secret
    environment = {"LD_PRELOAD": str(no_fsync.build(scratch))} if without_fsync else {}
    source = write_input(scratch / "in", instances)
    with disk(scratch, kind) as target:
        output = target.mount / "data" / "out"
        output.parent.mkdir()
        for number in range(cuts):
            before = len(_exported(output))
            process = _started(source, output, environment=environment)
            try:
                wait_for(lambda: len(_exported(output)) > before or process.poll() is not None, 100, "it exports")  # noqa: B023 - called here
                time.sleep(rng.uniform(0, 0.3))
                exported = _exported(output)
                target.power_cut()
            finally:
                _end(process)
            target.power_up()
            tally.interrupted += 1
            tally.exported += len(exported)
            after = _exported(output)
            gone = sum(path not in after for path in exported) + _lost(output, after)
            tally.lost += gone
            if gone and not without_fsync:
                tally.violations.append(f"cut {number + 1}: {gone} media lost")
        if not without_fsync:
            _finish(source, output)
            _check_end(output, instances, tally, "at the end")
    if without_fsync and not tally.lost:
        tally.violations.append("nothing was lost without fsync: the test proves nothing")
    where = f"backfill into shards, {kind}{', every sync removed' if without_fsync else ''}"
    return Row("F56 power cut", where, tally.interrupted, tuple(tally.violations), tally.figure)


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """Every row of this store."""
    measures = [
        ("kills", partial(kill_row, kills=scale.cuts, instances=40 * scale.cuts)),
        ("points", partial(points_row, points=scale.points)),
        *[
            (f"power-{kind}", partial(power_row, kind=kind, cuts=scale.cuts, instances=40 * scale.cuts))
            for kind in KINDS
        ],
        ("power-no-sync", partial(power_row, kind="ext4", cuts=1, instances=80, without_fsync=True)),
    ]
    for name, measure in measures:
        at = scratch / name
        at.mkdir(parents=True)
        yield attempt("F54-F56 shards", name, partial(measure, at))
