"""F55, F56: the exporter ended again and again, in quick succession; no sound instance is judged for that.

Kills and power cuts come faster than the exporter can finish, so that the same instances are under way at one after the
other. Afterwards every sound instance is exported and the quarantine is empty. An instance that does end every exporter
that tries it must come to an end all the same: in quarantine, with all others exported.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sqlite3
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from exporter.results.ledger import Ledger, LedgerUnusable
from exporter.results.ledger.types import FINAL
from listener.spool.spool import Spool
from tests.faults.daemons import Late, daemons, wait_for
from tests.faults.disks import disk
from tests.faults.instances import instance
from tests.faults.invariants import check_settled
from tests.faults.report import Row, Scale, attempt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.daemons import Daemons

KILLS: Final = "F55 kills in quick succession"
CUTS: Final = "F56 cuts in quick succession"
POISON: Final = "F61 an instance that ends exporters"
FRAMES: Final = 300
"""Of a cine that takes as long to export as an exporter lives here."""
LONG_FRAMES: Final = 3000
"""Of one that is still under way when `TRIED_S` are over."""
TRIED_S: Final = 0.3
"""An instance that is under way for so long is with a worker: one that is given up is under way for a moment, too."""
CUTS_IN_A_SERIES: Final = 5
MOST_DEATHS: Final = 12


def _receive(data: Path, count: int, *, cines: int, frames: int = FRAMES) -> list[str]:
    """Commit so many new instances to the spool, the cines first; their UIDs."""
    uids = []
    with Spool.open(data / "spool") as spool:
        for number in range(count):
            uid, content = instance(frames=frames if number < cines else 1)
            incoming = spool.receive()
            incoming.write([content])
            incoming.commit()
            uids.append(uid)
    return uids


def _wait_for_work(data: Path, since_ns: int) -> None:
    """Wait until an exporter has something under way; not for long, since suspects may be all that is left."""
    with contextlib.suppress(Late):
        wait_for(lambda: _begun(data / "exporter.db", since_ns), 15, "the exporter is at work")


def _begun(ledger: Path, since_ns: int) -> list[str]:
    """Names of the instances under way that were begun since then: what an earlier exporter left looks like them."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db,
    ):
        found = db.execute("SELECT name FROM instance WHERE state = 'active' AND updated_ns > ?", (since_ns,))
        return [name for (name,) in found]
    return []


def _judged(data: Path, allowed: int = 0) -> list[str]:
    """What is in quarantine and should not be."""
    with Spool.open(data / "spool") as spool:
        reasons = sorted(reason for reason, _ in spool.quarantined())
    return [f"{len(reasons)} instances in quarantine: {', '.join(set(reasons))}"] if len(reasons) > allowed else []


def _finish(product: Daemons, received: list[str], violations: list[str]) -> float:
    """Let the exporter finish in peace; how long that took, in seconds."""
    started = time.monotonic()
    product.start("run")
    product.settled(600)
    took = time.monotonic() - started
    violations += product.reconciled()
    violations += ["the exporter did not end well"] * (product.stop("run") != 0)
    violations += check_settled(product.data, received)
    violations += ["a traceback in the log"] * ("Traceback" in product.log("run"))
    return took


def kills_row(scratch: Path, kills: int) -> Row:
    """SIGKILL so often, mostly before the exporter has got anywhere."""
    rng = random.Random(200)  # noqa: S311 - the moment of a kill is no secret
    violations: list[str] = []
    with daemons(scratch / "data", scratch / "logs") as product:
        received = _receive(product.data, 40 + kills, cines=3)
        for _ in range(kills):
            began_ns = time.time_ns()
            product.start("run")
            if rng.random() < 0.7:
                _wait_for_work(product.data, began_ns)
            time.sleep(rng.uniform(0, 1.0))
            if product.stop("run", signal.SIGKILL) != -signal.SIGKILL:
                violations.append("it ended by itself")
        with Ledger.open(product.data / "exporter.db") as ledger:
            ledger.recover()
            suspects = ledger.interrupted(1)
        took = _finish(product, received, violations)
        violations += _judged(product.data)
    worst = max(suspects.values(), default=0)
    figure = f"{len(received)} instances, {len(suspects)} of them interrupted at the end, one {worst} times; 0 judged"
    if violations:
        figure = figure.replace("0 judged", "violated")
    return Row(
        KILLS, "spool of 3 long cines and images", kills, tuple(violations), f"{figure}; all done {took:.0f} s later"
    )


def cuts_row(scratch: Path, kind: str, cuts: int) -> Row:
    """Power cuts in series: within one, nothing is let finish."""
    rng = random.Random(kind)  # noqa: S311 - the moment of a cut is no secret
    violations: list[str] = []
    received: list[str] = []
    slowest = 0.0
    with disk(scratch, kind) as target:
        data = target.mount / "data"
        while target.cuts < cuts:
            received += _receive(data, 60, cines=2)
            for _ in range(min(CUTS_IN_A_SERIES, cuts - target.cuts)):
                with daemons(data, scratch / "logs") as product:
                    began_ns = time.time_ns()
                    product.start("run")
                    _wait_for_work(data, began_ns)
                    time.sleep(rng.uniform(0, 0.5))
                    target.power_cut()
                    time.sleep(0.1)
                target.power_up()
            with daemons(data, scratch / "logs-whole") as product:
                slowest = max(slowest, _finish(product, received, violations))
            violations += _judged(data)
            if violations:
                break
    figure = f"{len(received)} instances in series of {CUTS_IN_A_SERIES} cuts; all done after {slowest:.0f} s at most"
    return Row(CUTS, f"spool+media+ledger+lines, {kind}", target.cuts, tuple(violations), figure)


def poison_row(scratch: Path) -> Row:
    """The exporter dies whenever it tries one of the instances, as if that had killed it."""
    violations: list[str] = []
    deaths = 0
    started = time.monotonic()
    with daemons(scratch / "data", scratch / "logs") as product:
        received = _receive(product.data, 30, cines=1, frames=LONG_FRAMES)
        with Spool.open(product.data / "spool") as spool:
            poison = next(item.name for item in spool.pending())
        while deaths < MOST_DEATHS:
            began_ns = time.time_ns()
            process = product.start("run")
            if not _is_tried(product.data / "exporter.db", poison, began_ns):
                break
            process.kill()
            product.stop("run", signal.SIGKILL)
            deaths += 1
        took = time.monotonic() - started
        violations += ["it is tried for ever"] * (deaths == MOST_DEATHS)
        with contextlib.suppress(Late):
            product.settled(120)
        violations += product.reconciled()
        if deaths < MOST_DEATHS:
            product.stop("run")
        violations += check_settled(product.data, received) + _judged(product.data, allowed=1)
        with Spool.open(product.data / "spool") as spool:
            held = [(reason, item.name) for reason, item in spool.quarantined()]
        violations += [f"in quarantine: {held}"] * (held != [("decoder_crash", poison)])
    figure = f"given up after {deaths} ends of the exporter and {took:.0f} s; {len(received) - 1} others exported"
    return Row(POISON, "spool of 1 such and 29 images", deaths, tuple(violations), figure)


def _is_tried(ledger: Path, name: str, since_ns: int) -> bool:
    """Wait until an instance is under way, or final; whether it is under way."""
    deadline = time.monotonic() + 300
    looked_at = 0.0
    while True:
        if name in _begun(ledger, since_ns):
            time.sleep(TRIED_S)
            if name in _begun(ledger, since_ns):
                return True
        now = time.monotonic()
        if now > deadline:
            raise Late("the instance is not tried")
        if now - looked_at > 1:
            looked_at = now
            with contextlib.suppress(LedgerUnusable), Ledger.open_read_only(ledger) as opened:
                entry = opened.entry(name)
                if entry is not None and entry.state in FINAL:
                    return False
        time.sleep(0.01)


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """Every row: 200 kills and 50 cuts in the long form."""
    for fault, name, measure in (
        (KILLS, "kills", partial(kills_row, kills=10 * scale.cuts)),
        (CUTS, "cuts-ext4", partial(cuts_row, kind="ext4", cuts=5 * scale.cuts // 4)),
        (CUTS, "cuts-xfs", partial(cuts_row, kind="xfs", cuts=5 * scale.cuts // 4)),
        (POISON, "poison", poison_row),
    ):
        at = scratch / f"interruptions-{name}"
        at.mkdir(parents=True)
        yield attempt(fault, name, partial(measure, at))
