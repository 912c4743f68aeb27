"""F55: kill -9 of a further receiving process of the listener, again and again, while senders store.

The listener itself goes on: it is never started again, what was acknowledged is kept, and whoever is served by another
process notices nothing. A sender whose association was in the killed process is cut off; the well-behaved one may be,
too, but only while a kill is under way, which is what its tolerance here comes to.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import psutil  # type: ignore[import-untyped] # it ships no types

from tests.faults.daemons import SMALL_MARKS, Late, daemons, living, wait_for
from tests.faults.invariants import whole_spool_files
from tests.faults.report import Row, Scale, attempt
from tests.faults.senders import Canary, Pynetdicom, Storescu
from tests.product.running import family

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.faults.daemons import Daemons

FAULT: Final = "F55 kill -9 of a receiving process"
WHERE: Final = "listener of 3 processes"
PROCESSES: Final = 3
"""Whatever the machine has: two that can be killed."""
SETTINGS: Final = f"listener:\n  port: {{port}}\n  processes: {PROCESSES}\n{SMALL_MARKS}"
BACK_S: Final = 60.0
SLOWEST_S: Final = 5.0
ENDED: Final = "a receiving process ended unexpectedly"


def _serves(pid: int) -> bool:
    """Whether a process has a connection over TCP."""
    with suppress(psutil.NoSuchProcess):
        return any(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process(pid).net_connections("tcp"))
    return False


def _kill_one(listener: int, victims: Callable[[], list[int]], violations: list[str]) -> tuple[float, float]:
    """Kill the first of the victims there are; from when until when its associations may have been cut off."""
    victim = wait_for(victims, BACK_S, "a process that can be killed")[0]
    began = time.monotonic()
    with suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    wait_for(lambda: not living([victim]), BACK_S, "it is dead")
    try:
        wait_for(lambda: victim not in family(listener), BACK_S, "its end is noticed")
        ended = time.monotonic()
        wait_for(lambda: len(family(listener)) == PROCESSES, BACK_S, "another one is started")
    except Late as late:
        violations.append(str(late))
        ended = time.monotonic()
    return began, ended


def _victims(listener: int, rng: random.Random, *, serving: bool) -> list[int]:
    """The processes that are not the listener's own, in any order; only those that serve somebody, if so wished."""
    others = [pid for pid in family(listener)[1:] if not serving or _serves(pid)]
    rng.shuffle(others)
    return others


def _lost(product: Daemons) -> list[int]:
    """How many associations each killed process had, as the listener tells."""
    lines = (json.loads(line) for line in product.log("listener").splitlines() if line.startswith("{"))
    return [int(line["associations_lost"]) for line in lines if line["event"] == ENDED]


def inexcusable(canary: Canary, kills: list[tuple[float, float]]) -> list[str]:
    """The failures of the well-behaved sender during which no process was being killed."""
    return [
        failure
        for failure, (began, ended) in zip(canary.failures, canary.failed_during, strict=True)
        if not any(began <= dead and killed <= ended for killed, dead in kills)
    ]


def killed_members(scratch: Path, kills: int) -> Row:
    """So many kills under load."""
    rng = random.Random(55)  # noqa: S311 - which process dies is no secret
    violations: list[str] = []
    times: list[tuple[float, float]] = []
    data = scratch / "data"
    with daemons(data, scratch / "logs", extra=SETTINGS) as product:
        listener = product.start("listener")
        # Short associations: each of them may be served by a process that has just been started.
        senders = [Pynetdicom(product.port)] + [Storescu(product.port, scratch / f"{n}", batch=60) for n in range(3)]
        with Canary(product.port, period_s=0.3) as canary:
            for sender in senders:
                sender.start()
            try:
                while len(times) < kills and listener.poll() is None:
                    time.sleep(rng.uniform(0.2, 1.2))
                    aim = partial(_victims, listener.pid, rng, serving=len(times) % 2 == 0)  # or while they start
                    times.append(_kill_one(listener.pid, aim, violations))
            finally:
                for sender in senders:
                    sender.stop.set()
                for sender in senders:
                    sender.join(60)
        if listener.poll() is not None:
            violations.append(f"the listener ended with {listener.returncode}")
        tmp = data / "spool" / "tmp"
        with suppress(Late):
            wait_for(lambda: not any(tmp.iterdir()), 10, "what the dead had begun is deleted")
        violations += [f"{len(list(tmp.iterdir()))} files left in spool/tmp"] * any(tmp.iterdir())
        lost = _lost(product)
        if "Traceback" in product.log("listener"):
            violations.append("a traceback in the log of the listener")
        if product.processes["listener"] is listener and product.stop("listener") != 0:
            violations.append("the listener did not end well")
    if len(lost) != len(times):
        violations.append(f"{len(times)} processes were killed, {len(lost)} are told of")
    if not sum(lost):
        violations.append("no process that was killed had an association: nothing shown")
    wrong = inexcusable(canary, times)
    violations += wrong
    if canary.slowest_s > SLOWEST_S:
        violations.append(f"a round of the well-behaved sender took {canary.slowest_s:.1f} s")
    kept = whole_spool_files(data / "spool", violations)
    acknowledged = [uid for one in (*senders, canary) for uid in one.acknowledged]
    missing = [uid for uid in acknowledged if kept[uid] != 1]
    violations += [f"{len(missing)} acknowledged instances are not there exactly once"] * bool(missing)
    figure = (
        f"{sum(lost)} associations cut off by {len(times)} kills; {len(acknowledged)} acknowledged; longest until its "
        f"end was noticed {max((dead - killed for killed, dead in times), default=0.0) * 1000:.0f} ms; "
        f"{canary.figure}, {len(canary.failures) - len(wrong)} of them by a kill"
    )
    return Row(FAULT, WHERE, len(times), tuple(violations), figure)


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """The row."""
    at = scratch / "members"
    at.mkdir(parents=True)
    yield attempt(FAULT, WHERE, partial(killed_members, at, 100 if scale.pdus >= 5000 else 6))
