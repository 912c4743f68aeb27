"""F56: the current goes, on ext4 and XFS, with nothing durable but what was synced.

The file system under the spool (then under everything) is stopped without a flush of its log and mounted again. What
was acknowledged before must be there, whole, exactly once. The same cuts with fsync removed must lose data: otherwise
this test would prove nothing.

"Before" is before the order to stop is given. The machine does not die with its disk here, and for an instant XFS lets
an fsync succeed whose log it has just thrown away (seen with bare system calls, too): answers given in that instant
are told apart as late, since a machine without current gives none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.faults import no_fsync
from tests.faults.daemons import Late, daemons, wait_for
from tests.faults.disks import disk
from tests.faults.invariants import check_settled, check_visible, whole_spool_files
from tests.faults.report import Row, Scale, attempt
from tests.faults.senders import REPOSITORY, Pynetdicom, Storescu
from tests.faults.spool_load import is_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.faults.daemons import Daemons
    from tests.faults.disks import Disk

FAULT: Final = "F56 power cut"
MUTATION: Final = "F56 power cut, every sync removed"
KINDS: Final = ("ext4", "xfs")


@dataclass
class Tally:
    """What the cuts of one row came to."""

    acknowledged: int = 0
    lost: int = 0
    damaged: int = 0
    partial: int = 0
    late: int = 0
    """Answers given after the order to stop, by a machine that should be dead."""
    unacknowledged: int = 0
    """Whole files whose acknowledgement was cut off on its way: permitted."""
    violations: list[str] = field(default_factory=list)

    @property
    def broken(self) -> bool:
        return bool(self.lost or self.damaged or self.partial or self.violations)

    @property
    def figure(self) -> str:
        counts = f"{self.acknowledged} acknowledged, {self.lost} lost, {self.damaged} damaged, {self.partial} partial"
        return f"{counts} (and {self.late} late answers)"


def _row(fault: str, where: str, cuts: int, tally: Tally, *, must_lose: bool) -> Row:
    if must_lose:
        found = (
            ()
            if tally.lost + tally.damaged + tally.partial
            else ("nothing was lost without fsync: the test proves nothing",)
        )
        return Row(fault, where, cuts, found, f"must lose, and did: {tally.figure}")
    violations = list(tally.violations)
    for count, what in (
        (tally.lost, "acknowledged instances lost"),
        (tally.damaged, "acknowledged instances with other bytes"),
        (tally.partial, "partial files visible"),
    ):
        if count:
            violations.append(f"{count} {what}")
    return Row(fault, where, cuts, tuple(violations), tally.figure)


# -- the spool alone -------------------------------------------------------------------------------------------------


def spool_row(
    scratch: Path, kind: str, cuts: int, *, removed: no_fsync.Removed | None = None, in_steps: bool = False
) -> Row:
    """Four threads of one process commit to the spool when the current goes."""
    tally = Tally()
    environment = {"LD_PRELOAD": str(no_fsync.build(scratch, removed))} if removed is not None else {}
    rng = random.Random(kind)  # noqa: S311 - the moment of a cut is no secret
    with disk(scratch, kind) as target:
        for number in range(cuts):
            _cut_spool(target, scratch / f"acknowledged-{number}", tally, rng, environment, in_steps=in_steps)
            if removed == "writing out" and tally.partial:
                break  # the instant in which it shows is short: it takes some cuts to hit it
    fault = FAULT if removed is None else f"F56 power cut, {removed} removed"
    where = f"spool alone, {'in steps, ' if in_steps else ''}4 threads, {kind}"
    return _row(fault, where, cuts, tally, must_lose=removed is not None)


def _cut_spool(
    target: Disk, journal: Path, tally: Tally, rng: random.Random, environment: Mapping[str, str], *, in_steps: bool
) -> None:
    spool = target.mount / "spool"
    journal.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.spool_load", str(spool), str(journal), "4", *["steps"][: int(in_steps)]],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
    )
    try:
        wait_for(lambda: journal.stat().st_size > 4000 or process.poll() is not None, 30, "the spool fills")
        time.sleep(rng.uniform(0, 0.4))
        told = journal.stat().st_size
        target.power_cut()
        process.wait(timeout=100)
    finally:
        process.kill()
        process.wait()
    target.power_up()
    here = {p.name: p for p in (spool / "new").iterdir()} if (spool / "new").is_dir() else {}
    lines = journal.read_text()
    tally.late += len(lines[told:].splitlines())
    for line in lines[:told].splitlines():
        name, size, digest = line.split()
        tally.acknowledged += 1
        path = here.pop(name, None)
        if path is None:
            tally.lost += 1
        elif path.stat().st_size != int(size) or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            tally.damaged += 1
    tally.unacknowledged += len(here)
    tally.partial += sum(not is_whole(path.read_bytes()) for path in here.values())
    shutil.rmtree(spool, ignore_errors=True)


# -- the daemons -----------------------------------------------------------------------------------------------------


def listener_row(scratch: Path, kind: str, scale: Scale, *, without_fsync: bool = False) -> Row:
    """DCMTK and pynetdicom send to the listener when the current goes; the spool is what is checked."""
    tally = Tally()
    environment = {"LD_PRELOAD": str(no_fsync.build(scratch))} if without_fsync else {}
    rng = random.Random(kind)  # noqa: S311 - the moment of a cut is no secret
    with disk(scratch, kind) as target:
        data = target.mount / "data"
        for _ in range(scale.cuts):
            with daemons(data, scratch / "logs", environment=environment) as product:
                product.start("listener")
                acknowledged = _cut_under_load(target, product, scratch, scale, rng, tally=tally)
            target.power_up()
            kept = whole_spool_files(data / "spool", tally.violations)
            tally.acknowledged += len(acknowledged)
            tally.lost += sum(uid not in kept for uid in acknowledged)
            # Without the exporter the spool only grows: keep the disk from filling.
            shutil.rmtree(data / "spool" / "new", ignore_errors=True)
    where = f"listener, storescu + pynetdicom, {kind}"
    if without_fsync:
        tally.violations.clear()
    return _row(MUTATION if without_fsync else FAULT, where, scale.cuts, tally, must_lose=without_fsync)


def product_row(scratch: Path, kind: str, scale: Scale, *, without_fsync: bool = False) -> Row:
    """Spool, media, ledger and metadata file are all on the disk whose current goes."""
    tally = Tally()
    environment = {"LD_PRELOAD": str(no_fsync.build(scratch))} if without_fsync else {}
    rng = random.Random(kind)  # noqa: S311 - the moment of a cut is no secret
    all_acknowledged: list[str] = []
    restarts = 0.0
    with disk(scratch, kind) as target:
        data = target.mount / "data"
        for _ in range(scale.cuts):
            with daemons(data, scratch / "logs", environment=environment) as product:
                product.start("run")
                product.start("listener")
                acknowledged = _cut_under_load(target, product, scratch, scale, rng, tally=tally, exporting=True)
            target.power_up()
            if not without_fsync:
                check_visible(data, tally.violations)
            all_acknowledged += acknowledged
            if without_fsync:
                continue
            with daemons(data, scratch / "logs") as product:
                started = time.monotonic()
                product.start("listener")
                product.start("run")
                product.settled()
                restarts = max(restarts, time.monotonic() - started)
                tally.violations += product.reconciled()
                product.stop("run")
                product.stop("listener")
            tally.violations += check_settled(data, all_acknowledged)
            if tally.broken:
                _keep(data, scratch.parent / f"evidence-{kind}")
                break
        if without_fsync:
            tally.lost = _lost_without_fsync(data, all_acknowledged)
    tally.acknowledged = len(all_acknowledged)
    row = _row(
        MUTATION if without_fsync else FAULT,
        f"spool+media+ledger+lines, {kind}",
        target.cuts,
        tally,
        must_lose=without_fsync,
    )
    return Row(
        row.fault, row.where, row.injected, row.violations, f"{row.figure}; slowest restart to settled {restarts:.1f} s"
    )


def _lost_without_fsync(data: Path, acknowledged: list[str]) -> int:
    """How many are nowhere to be found; nothing is started again, since nothing promises that it can."""
    kept = whole_spool_files(data / "spool", [])
    text = b""
    with contextlib.suppress(OSError):
        text = (data / "metadata.jsonl").read_bytes()
    return sum(uid not in kept and uid.encode() not in text for uid in acknowledged)


def _cut_under_load(
    target: Disk,
    product: Daemons,
    scratch: Path,
    scale: Scale,
    rng: random.Random,
    *,
    tally: Tally,
    exporting: bool = False,
) -> list[str]:
    """Send until enough was acknowledged and the exporter is at it, cut the current; tell what was acknowledged."""
    wanted = scale.instances_per_cut
    senders: list[Storescu | Pynetdicom] = [
        Storescu(product.port, scratch / "sending"),
        Pynetdicom(product.port, pause_s=0.01),
    ]
    for sender in senders:
        sender.start()
    try:
        with contextlib.suppress(Late):
            wait_for(lambda: sum(len(s.acknowledged) for s in senders) >= wanted, 60, "acknowledgements")
            if exporting:
                lines = product.data / "metadata.jsonl"
                size = lines.stat().st_size if lines.is_file() else 0
                wait_for(lambda: lines.is_file() and lines.stat().st_size > size, 60, "the exporter exports")
        time.sleep(rng.uniform(0, 0.3))
        acknowledged = [uid for sender in senders for uid in sender.acknowledged]
        target.power_cut()
        time.sleep(0.2)
    finally:
        for sender in senders:
            sender.stop.set()
        for sender in senders:
            sender.join(60)
    tally.late += sum(len(sender.acknowledged) for sender in senders) - len(acknowledged)
    if len(acknowledged) < wanted:
        raise Late(f"only {len(acknowledged)} instances were acknowledged before the cut")
    return acknowledged


def _keep(data: Path, where: Path) -> None:
    """Copy the data folder of a violation away from the disk that is about to vanish."""
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(data, where, symlinks=True)


def rows(scratch: Path, scale: Scale, kinds: tuple[str, ...] = KINDS) -> Iterator[Row]:
    """Every row of the power cut, one file system and layer after another."""
    for kind in kinds:
        few = replace(scale, cuts=min(scale.cuts, 3))
        for name, measure in (
            ("spool", partial(spool_row, kind=kind, cuts=scale.cuts)),
            ("spool-in-steps", partial(spool_row, kind=kind, cuts=scale.cuts, in_steps=True)),
            ("spool-no-sync", partial(spool_row, kind=kind, cuts=few.cuts, removed="every sync")),
            ("spool-no-file-sync", partial(spool_row, kind=kind, cuts=few.cuts, removed="file sync")),
            (
                "spool-no-folder-sync",
                partial(spool_row, kind=kind, cuts=2 * few.cuts, removed="folder sync", in_steps=True),
            ),
            # (ext4 shows no partial file in so few cuts: it takes the commit of another thread between two calls.)
            *[
                ("spool-no-writing-out", partial(spool_row, kind=kind, cuts=60, removed="writing out"))
                for _ in range(kind == "xfs")
            ],
            ("listener", partial(listener_row, kind=kind, scale=scale)),
            ("product", partial(product_row, kind=kind, scale=scale)),
            ("product-mutation", partial(product_row, kind=kind, scale=few, without_fsync=True)),
        ):
            at = scratch / f"power-{name}-{kind}"
            at.mkdir(parents=True)
            yield attempt(FAULT, f"{name}, {kind}", partial(measure, at))
