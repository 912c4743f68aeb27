"""F62, F63, F65, F67: told to stop, hung, started over a long queue, started twice."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from listener.spool.spool import Spool
from tests.faults.daemons import SMALL_MARKS, Daemons, Footprint, Late, daemons, wait_for
from tests.faults.instances import instance
from tests.faults.invariants import check_settled, raw_lines, whole_spool_files
from tests.faults.recording import ABORT, read_pdu, sessions
from tests.faults.report import Row, Scale, attempt
from tests.faults.senders import Pynetdicom
from tests.product.running import family

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STOP_S: Final = 75.0
"""`TimeoutStopSec` of the units."""
START_S: Final = 30.0


def fill_spool(data: Path, count: int) -> list[str]:
    """Put that many instances into the spool, as the listener does."""
    uids = []
    with Spool.open(data / "spool") as spool:
        for number in range(count):
            uid, content = instance(frames=1 if number % 8 else 5)
            incoming = spool.receive()
            incoming.write([content])
            incoming.commit()
            uids.append(uid)
    return uids


def _timed_stop(product: Daemons, name: str, violations: list[str], *, twice: bool = False) -> float:
    """Seconds from SIGTERM to the end; an end by anything but itself is a violation."""
    process = product.processes.pop(name)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    if twice:
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
    try:
        code = process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        code = -1
    if code != 0:
        violations.append(f"{name} ended with {code} after SIGTERM")
    return time.monotonic() - started


def _has_more_lines(data: Path, lines: int) -> bool:
    return len(raw_lines(data / "metadata.jsonl")) > lines


def stop_row(scratch: Path) -> Row:
    """SIGTERM to a listener: idle, with an idle association, amid transfers; to an exporter, once and twice."""
    violations: list[str] = []
    figures: list[str] = []
    data = scratch / "data"
    with daemons(data, scratch / "logs", extra=SMALL_MARKS + "num_workers: 2\n") as product:
        product.start("listener")
        request = sessions(product.port, scratch)[1].pdus[0]
        figures.append(f"listener idle {_timed_stop(product, 'listener', violations):.1f} s")
        product.start("listener")
        with socket.create_connection(("127.0.0.1", product.port), timeout=30) as idle:
            idle.sendall(request)
            read_pdu(idle)
            figures.append(f"with an idle association {_timed_stop(product, 'listener', violations):.1f} s")
            answer = read_pdu(idle)
            if answer is None or answer[0] != ABORT:
                violations.append("an idle association was not told A-ABORT")
        product.start("listener")
        senders = [Pynetdicom(product.port) for _ in range(3)]
        for sender in senders:
            sender.start()
        wait_for(lambda: all(len(sender.acknowledged) > 10 for sender in senders), 60, "transfers")
        figures.append(f"amid transfers {_timed_stop(product, 'listener', violations):.1f} s")
        for sender in senders:
            sender.stop.set()
        for sender in senders:
            sender.join(60)
        acknowledged = [uid for sender in senders for uid in sender.acknowledged]
        kept = whole_spool_files(data / "spool", violations)
        violations += ["an acknowledged instance is lost" for uid in acknowledged if not kept[uid]]
        violations += ["files left in spool/tmp"] * bool(list((data / "spool" / "tmp").iterdir()))
        for twice in (False, True):
            fill_spool(data, 150)
            lines = len(raw_lines(data / "metadata.jsonl"))
            product.start("run")
            wait_for(partial(_has_more_lines, data, lines), 60, "the exporter exports")
            seconds = _timed_stop(product, "run", violations, twice=twice)
            figures.append(f"exporter amid exports{', told twice' if twice else ''} {seconds:.1f} s")
        product.start("run")
        product.settled(300)
        violations += product.reconciled()
        product.stop("run")
    violations += check_settled(data, acknowledged)
    return Row("F62 told to stop", "both daemons", 5, tuple(violations), "; ".join(figures))


def hung_row(scratch: Path) -> Row:
    """A worker that is stopped in the middle of an instance is replaced after `limits.wall_s`; nothing is lost."""
    violations: list[str] = []
    data = scratch / "data"
    uids = fill_spool(data, 30)
    with daemons(data, scratch / "logs", extra="num_workers: 1\nlimits: {wall_s: 4}\n") as product:
        exporter = product.start("run")
        wait_for(lambda: '"exported"' in product.log("run"), 60, "the exporter exports")
        worker = family(exporter.pid)[1]
        os.kill(worker, signal.SIGSTOP)
        started = time.monotonic()
        wait_for(lambda: worker not in family(exporter.pid), 60, "the hung worker is replaced")
        replaced_s = time.monotonic() - started
        product.settled(120)
        settled_s = time.monotonic() - started
        if exporter.poll() is not None:
            violations.append("the exporter ended")
        violations += product.reconciled()
        product.stop("run")
    violations += check_settled(data, uids)
    figure = f"limit 4 s: replaced after {replaced_s:.1f} s, everything exported after {settled_s:.1f} s"
    return Row("F63 hung worker", "exporter", 1, tuple(violations), figure)


def backlog_row(scratch: Path, count: int) -> Row:
    """Start over a very long queue: names alone are a million; the first are exported soon, memory stays small."""
    violations: list[str] = []
    data = scratch / "data"
    fill_spool(data, 20)
    new = data / "spool" / "new"
    originals = sorted(new.iterdir())  # a file may have 65,000 names on ext4
    for number, original in zip(range(count - len(originals)), itertools.cycle(originals), strict=False):
        os.link(original, new / f"{2_000_000_000_000_000_000 + number:020d}-{number:016x}.dcm")
    with daemons(data, scratch / "logs", extra=SMALL_MARKS) as product:
        started = time.monotonic()
        listener = product.start("listener")
        listening_s = time.monotonic() - started
        started = time.monotonic()
        exporter = product.start("run")
        wait_for(lambda: '"exported"' in product.log("run"), 120, "the first export")
        first_s = time.monotonic() - started
        time.sleep(5)
        footprints = (Footprint.of_family(listener.pid), Footprint.of(exporter.pid))
        resident = [footprint.resident_kb >> 10 for footprint in footprints]
        done = product.log("run").count('"item"')
        rate = done / (time.monotonic() - started)
        started = time.monotonic()
        product.status()
        status_s = time.monotonic() - started
    for what, seconds in (("listener", listening_s), ("exporter", first_s)):
        if seconds > START_S:
            violations.append(f"{what} needs {seconds:.0f} s to start")
    figure = (
        f"{count} items waiting: listening after {listening_s:.1f} s, first export after {first_s:.1f} s, {rate:.0f} "
        f"items/s, resident {resident[0]} and {resident[1]} MB; `exporter status` {status_s:.1f} s"
    )
    return Row("F65 backlog", "both daemons", 1, tuple(violations), figure)


def twice_row(scratch: Path) -> Row:
    """A second listener, exporter or backfill over the same folder refuses in one sentence, and harms nothing."""
    violations: list[str] = []
    data = scratch / "data"
    with daemons(data, scratch / "logs", extra=SMALL_MARKS) as first, daemons(data, scratch / "other") as second:
        second.extra = SMALL_MARKS
        first.start("listener")
        first.start("run")
        fill_spool(data, 3)
        first.settled(60)
        for name in ("listener", "run"):
            try:
                process = second.start(name, wait=False)
                code = process.wait(timeout=100)
            except (Late, subprocess.TimeoutExpired):
                code = 0
            words = second.log(name).strip()
            if code != 1 or "Traceback" in words or len(words.splitlines()) != 1:
                violations.append(f"the second {name} ended with {code}: {words[-200:]}")
        fill_spool(data, 3)
        first.settled(60)
        violations += first.reconciled()
    return Row(
        "F67 started twice", "both daemons", 2, tuple(violations), "the second refuses, exit code 1, one sentence"
    )


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """Every row of starting and stopping."""
    for fault, where, measure in (
        ("F62 told to stop", "both daemons", stop_row),
        ("F63 hung worker", "exporter", hung_row),
        ("F65 backlog", "both daemons", partial(backlog_row, count=scale.mutants * 50)),
        ("F67 started twice", "both daemons", twice_row),
    ):
        at = scratch / fault.replace(" ", "-")
        at.mkdir(parents=True)
        yield attempt(fault, where, partial(measure, at))
