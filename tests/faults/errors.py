"""F52: the n-th write, fsync, rename, ... of a running daemon fails with EIO, ENOSPC, EROFS or EDQUOT.

strace returns the error instead of making the call. What is acknowledged in spite of it must be kept; a failed fsync
must never be taken for a success; the same daemon, or the next one where it ends loudly, must be well again at once.
"""

from __future__ import annotations

import collections
import contextlib
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from listener.spool.spool import Spool
from tests.faults.crash_points import send
from tests.faults.daemons import ONE_PROCESS, Daemons, Keeper, Late, daemons, wait_for
from tests.faults.instances import instance
from tests.faults.invariants import check_settled, whole_spool_files
from tests.faults.report import Row, Scale, attempt
from tests.faults.tracing import attached
from tests.product.running import family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAULT: Final = "F52 error at the n-th call"
ERRORS: Final = ("EIO", "ENOSPC", "EROFS", "EDQUOT")
LISTENER_CALLS: Final = ("openat", "writev", "sync_file_range", "fdatasync", "fsync", "renameat", "unlinkat")
SYNCS: Final = ("fdatasync", "fsync")
LARGE: Final = 8_000
"""Frames of an instance that is flushed while it arrives, every 8 MiB; each has 4 KiB."""
EXPORTER_CALLS: Final = (
    "write", "pwrite64", "fsync", "fdatasync", "rename", "renameat", "unlinkat", "mkdir", "link", "symlink",
)  # fmt: skip
SETTLE_S: Final = 60.0


@dataclass
class Tally:
    """What was injected and what came of it."""

    injected: collections.Counter[str] = field(default_factory=collections.Counter)
    acknowledged: list[str] = field(default_factory=list)
    refused: int = 0
    slowest_s: float = 0.0
    violations: list[str] = field(default_factory=list)


def listener_row(
    scratch: Path,
    points: int,
    errors: tuple[str, ...] = ERRORS,
    calls: tuple[str, ...] = LISTENER_CALLS,
    *,
    frames: int = 1,
) -> Row:
    """Each error at each call of one instance of so many frames; the listener is never started again.

    Each thread counts its own calls: an instance that is large enough is synced by two.
    """
    tally = Tally()
    data = scratch / "data"
    path = scratch / "one.dcm"
    with daemons(data, scratch / "logs", extra=ONE_PROCESS) as product:
        listener = product.start("listener")
        for call in calls:
            for error in errors:
                for number in range(1, points + 1):
                    uid, content = instance(frames=frames)
                    path.write_bytes(content)
                    log = scratch / "strace.log"
                    options = ("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}")
                    with attached(listener.pid, log, *options):
                        stored = send(product, path)
                    if "INJECTED" not in log.read_text(errors="replace"):
                        break
                    tally.injected[call] += 1
                    here = f"{call} {number} {error}"
                    if stored and call in SYNCS:
                        tally.violations.append(f"{here}: acknowledged although a sync has failed")
                    _judge_listener(product, data, (uid, stored), tally, here)
                    if listener.poll() is not None:
                        tally.violations.append(f"{here}: the listener ended with {listener.returncode}")
                        return _row("listener", tally, 0)
        kept = whole_spool_files(data / "spool", tally.violations)
        tally.violations += ["an acknowledged instance is lost" for uid in tally.acknowledged if uid not in kept]
        if "Traceback" in product.log("listener"):
            tally.violations.append("a traceback in the log of the listener")
    return _row("listener" if frames == 1 else "listener, large instances", tally, 0)


def _judge_listener(product: Daemons, data: Path, answer: tuple[str, bool], tally: Tally, here: str) -> None:
    """The answer was true, and the next instance is stored without further ado."""
    uid, stored = answer
    path = data.parent / "next.dcm"
    if stored:
        tally.acknowledged.append(uid)
        if not whole_spool_files(data / "spool", tally.violations)[uid]:
            tally.violations.append(f"{here}: acknowledged, and not in the spool")
    else:
        tally.refused += 1
    uid, content = instance()
    path.write_bytes(content)
    started = time.monotonic()
    if send(product, path):
        tally.acknowledged.append(uid)
    else:
        tally.violations.append(f"{here}: the next instance is refused, too")
    tally.slowest_s = max(tally.slowest_s, time.monotonic() - started)


def exporter_row(scratch: Path, points: int, errors: tuple[str, ...], calls: tuple[str, ...] = EXPORTER_CALLS) -> Row:
    """Each error at each call while one instance is exported, in the daemon or in its worker."""
    tally = Tally()
    data = scratch / "data"
    with (
        daemons(data, scratch / "logs", extra="num_workers: 1\n") as product,
        Spool.open(data / "spool") as spool,
    ):
        product.start("run")
        keeper = Keeper(product)
        _hand_over(spool, tally)
        _wait_settled(keeper, spool, tally, "at the start")
        for call in calls:
            for error in errors:
                for number in range(1, points + 1):
                    log = scratch / "strace.log"
                    options = ["-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={number}"]
                    pid = product.processes["run"].pid
                    for worker in family(pid)[1:]:
                        options += ["-p", str(worker)]
                    with attached(pid, log, *options):
                        _hand_over(spool, tally)
                        _wait_briefly(product, spool, log)
                    if "INJECTED" not in log.read_text(errors="replace"):
                        break
                    tally.injected[call] += 1
                    if not _wait_settled(keeper, spool, tally, f"{call} {number} {error}"):
                        return _row("exporter", tally, keeper.restarts)
        product.settled(60)
        tally.violations += product.reconciled()
        product.stop("run")
        tally.violations += check_settled(data, tally.acknowledged)
        for path in (data / "spool" / "quarantine").rglob("*.dcm"):
            tally.violations.append(f"a good instance is in quarantine: {path.parent.name}")
    return _row("exporter", tally, keeper.restarts)


def _hand_over(spool: Spool, tally: Tally) -> None:
    """Put one instance into the spool, as the listener does."""
    uid, content = instance()
    incoming = spool.receive()
    incoming.write([content])
    incoming.commit()
    tally.acknowledged.append(uid)


def _is_settled(spool: Spool) -> bool:
    counts = spool.counts()
    return counts.new == 0 and counts.active == 0


def _wait_briefly(product: Daemons, spool: Spool, log: Path) -> None:
    """Until the instance is through, the daemon has ended, or the error was there and had a moment to take effect."""
    seen_at = 0.0

    def over() -> bool:
        nonlocal seen_at
        if _is_settled(spool) or product.processes["run"].poll() is not None:
            return True
        if not seen_at and log.is_file() and "INJECTED" in log.read_text(errors="replace"):
            seen_at = time.monotonic()
        return bool(seen_at) and time.monotonic() - seen_at > 1.5

    with contextlib.suppress(Late):
        wait_for(over, 30, "one instance")


def _wait_settled(keeper: Keeper, spool: Spool, tally: Tally, here: str) -> bool:
    """Whether everything is through in time; a daemon that ended loudly is started again, as systemd does."""
    started = time.monotonic()
    try:
        wait_for(lambda: keeper.look() or _is_settled(spool), SETTLE_S, f"{here}: well again")
        wait_for(lambda: keeper.look() or keeper.daemons.processes["run"].poll() is None, 10, f"{here}: running")
    except Late as late:
        tally.violations.append(str(late))
        return False
    tally.slowest_s = max(tally.slowest_s, time.monotonic() - started)
    return True


def _row(what: str, tally: Tally, restarts: int) -> Row:
    calls = ", ".join(f"{count} {call}" for call, count in tally.injected.items())
    figure = (
        f"{calls}; {len(tally.acknowledged)} acknowledged, {tally.refused} refused; well again after at most "
        f"{tally.slowest_s:.1f} s; {restarts} restarts"
    )
    return Row(FAULT, what, tally.injected.total(), tuple(tally.violations), figure)


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """Errors in the listener and in the exporter."""
    points = min(scale.points, 8)
    for name, measure in (
        ("listener", partial(listener_row, points=points)),
        ("listener-large", partial(listener_row, points=points, calls=("fdatasync", "fsync"), frames=LARGE)),
        ("exporter", partial(exporter_row, points=points, errors=("EIO", "ENOSPC", "EROFS"))),
    ):
        at = scratch / f"errors-{name}"
        at.mkdir(parents=True)
        yield attempt(FAULT, name, partial(measure, at))
