"""F64: what a daemon tells systemd's watchdog is true: a thread that hangs stops the sign of life, though others run.

systemd is not PID 1 on every machine, so its part is played here by its own protocol (sd_notify(3)): signs of life come
in on a socket, and a daemon that is silent for the time its unit allows is killed with SIGABRT and started again. The
thread is made to hang inside a system call by strace.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.faults.daemons import SMALL_MARKS, Daemons, Late, daemons, living, wait_for
from tests.faults.invariants import check_settled
from tests.faults.lifecycle import fill_spool
from tests.faults.report import Row, Scale, attempt
from tests.faults.tracing import attached
from tests.product.running import family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HANG: Final = "delay_enter=600000000"
"""Ten minutes in one system call."""
SEVERAL: Final = f"listener:\n  port: {{port}}\n  processes: 2\n{SMALL_MARKS}"
"""Whatever the machine has."""


class Supervisor(threading.Thread):
    """The watchdog's side of systemd: hears READY=1 and WATCHDOG=1."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.heard_at = 0.0
        self.heard = 0

    def run(self) -> None:
        with suppress(OSError):
            while words := self.socket.recv(4096):
                if b"WATCHDOG=1" in words or b"READY=1" in words:
                    self.heard_at = time.monotonic()
                    self.heard += 1

    def silent_s(self) -> float:
        return time.monotonic() - self.heard_at


def row(scratch: Path, name: str, call: str, allowed_s: float, patience_s: float) -> Row:
    """One thread hangs in that call; the daemon must fall silent, is killed as by systemd, and all is well again.

    Args:
        scratch: Where to work.
        name: ``listener`` or ``run``.
        call: The system call in which the thread hangs: the listener's accepting one, the exporter's ledger.
        allowed_s: `WatchdogSec` of the unit.
        patience_s: Until when it must have fallen silent for so long.
    """
    violations: list[str] = []
    notify = scratch / "notify"
    supervisor = Supervisor(notify)
    supervisor.start()
    environment = {"NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": str(int(allowed_s * 1e6))}
    data = scratch / "data"
    uids = fill_spool(data, 3)
    with daemons(data, scratch / "logs", extra=SEVERAL, environment=environment) as product:
        process = product.start(name)
        wait_for(lambda: supervisor.heard >= 3, 30 + 3 * allowed_s, "signs of life")
        with ExitStack() as stack:
            stack.enter_context(
                attached(process.pid, scratch / "strace.log", "-e", f"trace={call}", "-e", f"inject={call}:{HANG}")
            )
            uids += _touch(product, name, data)
            hung_at = time.monotonic()
            try:
                wait_for(lambda: supervisor.silent_s() > allowed_s, patience_s, "it falls silent")
            except Late:
                violations.append(f"a thread hangs, and {name} still says after {patience_s:.0f} s that it lives")
            silent_s = time.monotonic() - hung_at
            if process.poll() is not None:
                violations.append(f"{name} ended by itself: what was to be shown was not shown")
            others = family(process.pid)[1:]
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGABRT)
                os.kill(process.pid, signal.SIGKILL)
        if name == "listener":
            violations += _outlived(others)
        product.kill_all()
        started = time.monotonic()
        for one in ("listener", "run"):
            product.start(one)
        product.settled(120)
        well_s = time.monotonic() - started
        violations += product.reconciled()
        for one in ("listener", "run"):
            product.stop(one)
    supervisor.socket.close()
    violations += check_settled(data, uids)
    figure = (
        f"allowed {allowed_s:.0f} s: silence noticed {silent_s:.1f} s after the thread hung; started again, everything "
        f"exported after {well_s:.1f} s"
    )
    return Row("F64 watchdog tells the truth", f"{name}, hanging in {call}", 1, tuple(violations), figure)


def _outlived(others: list[int]) -> list[str]:
    """The listener was killed: its further processes have to end by themselves."""
    if not others:
        return ["the listener had no further process: nothing shown"]
    with suppress(Late):
        wait_for(lambda: not living(others), 5, "they end")
    remaining = living(others)
    return [f"{len(remaining)} of {len(others)} receiving processes outlive the listener"] * bool(remaining)


def _touch(product: Daemons, name: str, data: Path) -> list[str]:
    """Give the thread a reason to make the call: a connection, or an instance."""
    if name == "run":
        return fill_spool(data, 2)
    with socket.create_connection(("127.0.0.1", product.port), timeout=5):
        pass
    return []


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """A listener whose accepting thread hangs; an exporter whose ledger does, which takes a minute to be sure of."""
    cases = [("listener", "accept4", 4.0, 30.0)]
    if scale.pdus >= 5000:
        cases.append(("run", "fdatasync", 10.0, 150.0))
    for name, call, allowed_s, patience_s in cases:
        at = scratch / f"watchdog-{name}"
        at.mkdir(parents=True)
        yield attempt("F64 watchdog tells the truth", name, partial(row, at, name, call, allowed_s, patience_s))
