"""F15, second half: ten associations a second for ten minutes, with the limits as they are by default; all are served.

The schedule does not wait for the listener: an association is begun when its time has come, whether or not the one
before it is over. A third of them stays for a second between two instances, so that some are always open.
"""

from __future__ import annotations

import collections
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.faults.daemons import SMALL_MARKS, daemons
from tests.faults.invariants import whole_spool_files
from tests.faults.network import ACCEPTED, ATTACKER, REJECTED
from tests.faults.report import Row, Scale, attempt
from tests.faults.watching import watched
from tests.listener.requestor import Requestor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAULT: Final = "F15 10 associations per second"
PER_SECOND: Final = 10
STAY_S: Final = 1.0
RELEASED: Final = 6
LATE_S: Final = 2.0
"""If the schedule itself is later than that, the row has not shown what it is for."""


class Tally:
    """What came of all associations."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ended: collections.Counter[str] = collections.Counter()
        self.acknowledged: list[str] = []
        self.slowest_s = 0.0
        self.latest_s = 0.0


def _associate(port: int, number: int, due: float, tally: Tally) -> None:
    """One association: an echo, an instance, or two with a pause between."""
    started = time.monotonic()
    uids: list[str] = []
    stay_s = 0.0
    try:
        with Requestor(port, source=ATTACKER) as requestor:
            answer, body = requestor.associate()
            ended = "served"
            if answer == REJECTED:
                ended = f"rejected {body[1]},{body[2]},{body[3]}"
            elif answer != ACCEPTED:
                ended = f"answered with PDU type {answer}"
            elif number % 3 == 0:
                if requestor.echo().status != 0:
                    ended = "echo failed"
            else:
                wanted = [f"1.2.826.0.1.3680043.10.15.{number + 1}.{of + 1}" for of in range(number % 3)]
                for uid in wanted:
                    if uids:
                        stay_s = STAY_S
                        time.sleep(stay_s)  # a sender that takes its time
                    if requestor.store(uid).status == 0:
                        uids.append(uid)
                if uids != wanted:
                    ended = "store failed"
            if answer == ACCEPTED and requestor.release() != RELEASED:
                ended = "no release"
    except (OSError, AssertionError) as error:
        ended = f"failed: {type(error).__name__}"
    with tally.lock:
        tally.ended[ended] += 1
        tally.acknowledged += uids
        tally.latest_s = max(tally.latest_s, started - due)
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - started - stay_s)


def steady(scratch: Path, seconds: int) -> Row:
    """Ten a second for so long."""
    tally = Tally()
    count = seconds * PER_SECOND
    with daemons(scratch / "data", scratch / "logs", extra=SMALL_MARKS) as product:
        product.start("listener")
        with watched(product) as found, ThreadPoolExecutor(50) as pool:
            first = time.monotonic()
            for number in range(count):
                due = first + number / PER_SECOND
                time.sleep(max(0.0, due - time.monotonic()))  # the schedule is what is tried
                pool.submit(_associate, product.port, number, due, tally)
        kept = whole_spool_files(product.data / "spool", found.violations)
        if product.stop("listener") != 0:
            found.violations.append("the listener did not end well")
    wrong = [uid for uid in (*tally.acknowledged, *found.acknowledged) if kept[uid] != 1]
    found.violations += [f"{len(wrong)} acknowledged instances are not there exactly once"] * bool(wrong)
    found.violations += [f"{times} associations {what}" for what, times in tally.ended.items() if what != "served"]
    if tally.latest_s > LATE_S:
        found.violations.append(f"the schedule of this row was {tally.latest_s:.1f} s late: nothing shown")
    rejected = sum(times for what, times in tally.ended.items() if what.startswith("rejected"))
    figure = (
        f"{count} associations in {found.seconds:.0f} s, the latest {tally.latest_s * 1000:.0f} ms late: "
        f"{tally.ended['served']} served, {rejected} rejected, {count - tally.ended['served'] - rejected} otherwise; "
        f"slowest {tally.slowest_s:.1f} s; {len(tally.acknowledged)} instances acknowledged; {found.figure}"
    )
    return Row(FAULT, "DICOM port, default limits", count, tuple(found.violations), figure)


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """The row."""
    at = scratch / "steady"
    at.mkdir(parents=True)
    yield attempt(FAULT, "DICOM port, default limits", partial(steady, at, scale.steady_s))
