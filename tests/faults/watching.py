"""The listener watched from outside while a long row runs: all its processes together, a canary beside them."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.faults.daemons import Footprint, Late, family_cpu_s, wait_for
from tests.faults.senders import Canary
from tests.faults.soak import Gauges, flat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.daemons import Daemons

NAME: Final = "listener"
WORTH_A_SLOPE_S: Final = 60.0


@dataclass
class Watched:
    """What a row finds, and what was measured beside it; the latter once the block has ended."""

    violations: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    """What the well-behaved sender was told is stored."""
    seconds: float = 0.0
    cpu_s: float = 0.0
    figure: str = ""


@contextmanager
def watched(product: Daemons, *, threads_once: int = 0) -> Iterator[Watched]:
    """Measure the listener, which is running, and its descendants while the block goes on.

    Args:
        product: The daemons; the listener is running.
        threads_once: How many threads each process makes when it first needs them, and keeps.
    """
    listener = product.processes[NAME]
    found = Watched()
    with Canary(product.port, period_s=0.3) as first:
        pass  # whatever is made once only has been made
    measure = partial(Footprint.of_family, listener.pid)
    before = measure()
    before = replace(before, threads=before.threads + threads_once * len(before.processes))
    gauges = Gauges({NAME: measure})
    gauges.start()
    try:
        with Canary(product.port) as canary:
            started, cpu_s = time.monotonic(), family_cpu_s(listener.pid)
            yield found
            found.seconds, found.cpu_s = time.monotonic() - started, family_cpu_s(listener.pid) - cpu_s
    finally:
        gauges.stop()
    found.violations += [*first.failures, *canary.failures]
    found.acknowledged += [*first.acknowledged, *canary.acknowledged]
    if listener.poll() is not None:
        found.violations.append(f"the listener ended with {listener.returncode}")
        return
    with suppress(Late):
        wait_for(lambda: measure().threads <= before.threads, 60, "threads end")
    after = measure()
    slope = gauges.slope_kb_per_h(NAME)
    told = f"slope {slope:+.0f} KB/h" if found.seconds >= WORTH_A_SLOPE_S else "too short for a slope"
    with (product.logs / f"{NAME}.log").open("rb") as lines:  # it may be long
        if any(b"Traceback" in line for line in lines):
            found.violations.append("a traceback in the log of the listener")
    processes = f" ({len(after.processes)} processes)" if len(after.processes) > 1 else ""
    found.figure = (
        f"{flat(NAME + processes, gauges.samples[NAME], before, after, found.violations)}, {told}, "
        f"{found.cpu_s / max(found.seconds, 0.1):.0%} of a core; {canary.figure}"
    )
