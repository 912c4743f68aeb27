"""F25, second half: a million connections opened and closed; memory, threads, descriptors stay flat.

``python -m tests.faults.connects PORT COUNT NUMBER SECONDS`` is one connector, a process of its own: it opens COUNT
connections one after another, for SECONDS at most, and prints as JSON how they ended. Most are reset at once, which
leaves no TIME_WAIT behind; some say a few bytes of garbage or half a request first; every fiftieth asks and waits for
the answer, so that a connector is never further ahead of the listener than that: what would be measured otherwise is
the kernel's queue, and those in it would be in the well-behaved sender's way.
"""

from __future__ import annotations

import collections
import json
import os
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.faults.daemons import SMALL_MARKS, daemons
from tests.faults.invariants import whole_spool_files
from tests.faults.network import ABORTED, ACCEPTED, REJECTED
from tests.faults.report import Row, Scale, attempt
from tests.faults.senders import REPOSITORY
from tests.faults.watching import watched
from tests.listener.requestor import CT, EXPLICIT, Requestor, pdu, proposed, request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAULT: Final = "F25 connects"
CONNECTORS: Final = 2
ADDRESSES: Final = 8
"""Of each connector: 127.0.0.2 and following."""
LONGEST_S: Final = 3600.0
ASKED: Final = request(proposed(1, CT, EXPLICIT))
STRANGER: Final = request(proposed(1, CT, EXPLICIT), called="SOMEBODY ELSE")
RESET: Final = struct.pack("ii", 1, 0)
WAIT_S: Final = 20.0


def _one(port: int, source: str, number: int) -> tuple[str, float]:
    """One connection: how it ended, and how long connecting took."""
    started = time.monotonic()
    with Requestor(port, source=source, wait_s=WAIT_S) as requestor:
        connected_s = time.monotonic() - started
        if number % 100 == 98:
            return "closed", connected_s
        requestor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if number % 50 == 49:
            requestor.send(ASKED if number % 100 == 49 else STRANGER)
            answer = requestor.receive()[0]
            if answer == ACCEPTED and number % 100 == 49:
                requestor.send(pdu(ABORTED, bytes(4)))
                return "aborted", connected_s
            return "rejected" if answer == REJECTED and number % 100 == 99 else f"answered with {answer}", connected_s
        if number % 10 == 3:
            requestor.send(os.urandom(1 + number % 7))
            return "garbage", connected_s
        if number % 10 == 7:
            requestor.send(ASKED[: 1 + number % (len(ASKED) - 1)])
            return "broken off", connected_s
    return "reset", connected_s


KINDS: Final = frozenset(("closed", "aborted", "rejected", "garbage", "broken off", "reset"))


def connector(port: int, count: int, first_address: int, seconds: float) -> dict[str, object]:
    """Open and close that many connections, or as many as there is time for."""
    ended: collections.Counter[str] = collections.Counter()
    slowest_s = 0.0
    until = time.monotonic() + seconds
    for number in range(count):
        if time.monotonic() > until:
            break
        try:
            how, connected_s = _one(port, f"127.0.0.{first_address + number % ADDRESSES}", number)
        except OSError as error:
            how, connected_s = f"failed: {type(error).__name__}", WAIT_S
        ended[how] += 1
        slowest_s = max(slowest_s, connected_s)
    return {"ended": ended, "slowest_s": slowest_s}


def connects(scratch: Path, count: int, *, longest_s: float = LONGEST_S) -> Row:
    """That many connections, by several processes."""
    ended: collections.Counter[str] = collections.Counter()
    slowest_s = 0.0
    with daemons(scratch / "data", scratch / "logs", extra=SMALL_MARKS) as product:
        product.start("listener")
        with watched(product) as found:
            for told in _run_connectors(product.port, count, longest_s):
                ended.update(told["ended"])
                slowest_s = max(slowest_s, told["slowest_s"])
        kept = whole_spool_files(product.data / "spool", found.violations)
        log_mb = (scratch / "logs" / "listener.log").stat().st_size / 1e6
        if product.stop("listener") != 0:
            found.violations.append("the listener did not end well")
    done = sum(ended.values())
    if done < count:
        found.violations.append(f"only {done} of {count} connections in {longest_s:.0f} s")
    found.violations += [f"{times} connections {how}" for how, times in ended.items() if how not in KINDS]
    lost = [uid for uid in found.acknowledged if kept[uid] != 1]
    found.violations += [f"{len(lost)} acknowledged instances of the well-behaved sender are lost"] * bool(lost)
    kinds = ", ".join(f"{times} {how}" for how, times in ended.most_common())
    figure = (
        f"{done} connections from {CONNECTORS * ADDRESSES} addresses in {found.seconds:.0f} s "
        f"({done / found.seconds:.0f}/s): {kinds}; slowest connect {slowest_s:.2f} s; log {log_mb:.1f} MB; "
        f"{found.figure}"
    )
    return Row(FAULT, "DICOM port, default limits", done, tuple(found.violations), figure)


def _run_connectors(port: int, count: int, longest_s: float) -> list[dict[str, object]]:
    """What each connector tells; none outlives this call."""
    processes = []
    with ExitStack() as stack:
        for number in range(CONNECTORS):
            share = count // CONNECTORS + (number < count % CONNECTORS)
            words = (port, share, 2 + number * ADDRESSES, longest_s)
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.faults.connects", *map(str, words)],
                    cwd=REPOSITORY,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            processes.append(process)
        told = [process.communicate(timeout=longest_s + 60)[0] for process in processes]
    return [json.loads(words) for words in told]


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """The row."""
    at = scratch / "connects"
    at.mkdir(parents=True)
    yield attempt(FAULT, "DICOM port, default limits", partial(connects, at, scale.connects))


if __name__ == "__main__":
    result = connector(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    sys.stdout.write(json.dumps(result))
