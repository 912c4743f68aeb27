"""F25: thousands of instances and associations, many of them broken off or rejected: memory, threads, files stay flat.

Measured from outside while it runs: the listener, all its processes together, and the exporter's main process (its
workers are replaced by design when they grow). The first quarter warms caches up; growth is counted from there.
"""

from __future__ import annotations

import contextlib
import random
import socket
import statistics
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.faults.daemons import SMALL_MARKS, Footprint, daemons, wait_for
from tests.faults.instances import write_instances
from tests.faults.invariants import check_settled
from tests.faults.recording import read_pdu, sessions
from tests.faults.report import Row, Scale, attempt
from tests.faults.senders import Canary, dcmsend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.faults.recording import Session

PER_ASSOCIATION: Final = 250
GROWTH: Final = 0.10
GROWTH_KB: Final = 12_000


class Gauges(threading.Thread):
    """Samples of several footprints, by name, four a second."""

    def __init__(self, measures: Mapping[str, Callable[[], Footprint]]) -> None:
        super().__init__(daemon=True)
        self._measures = measures
        self._done = threading.Event()
        self.samples: dict[str, list[Footprint]] = {name: [] for name in measures}
        self._taken_at: dict[str, list[float]] = {name: [] for name in measures}

    def run(self) -> None:
        while not self._done.wait(0.25):
            for name, measure in self._measures.items():
                with contextlib.suppress(OSError, KeyError):
                    self.samples[name].append(measure())
                    self._taken_at[name].append(time.monotonic())

    def stop(self) -> None:
        self._done.set()
        self.join(10)

    def slope_kb_per_h(self, name: str) -> float:
        """How resident memory rises once the first quarter has warmed caches up: the straight line through the rest."""
        first = len(self.samples[name]) // 4
        resident = [sample.resident_kb for sample in self.samples[name][first:]]
        if len(resident) < 2:
            return 0.0
        return statistics.linear_regression(self._taken_at[name][first:], resident).slope * 3600


def soak(scratch: Path, scale: Scale) -> Row:
    """Senders, breakers and strangers at once, until the numbers are reached."""
    data = scratch / "data"
    violations: list[str] = []
    rng = random.Random(25)  # noqa: S311 - which session breaks where is no secret
    with daemons(data, scratch / "logs", extra=SMALL_MARKS) as product:
        measures = {
            "listener": partial(Footprint.of_family, product.start("listener").pid),
            "exporter": partial(Footprint.of, product.start("run").pid),
        }
        recorded = [session for session in sessions(product.port, scratch) if len(session.pdus) > 2]
        product.settled(60)
        before = {name: measure() for name, measure in measures.items()}
        gauges = Gauges(measures)
        gauges.start()
        started = time.monotonic()
        batches = [
            min(PER_ASSOCIATION, scale.soak_instances - at) for at in range(0, scale.soak_instances, PER_ASSOCIATION)
        ]
        breaks = scale.soak_associations - len(batches)
        acknowledged: list[str] = []
        with Canary(product.port) as canary, ThreadPoolExecutor(3) as pool:
            stored = [
                pool.submit(_store, product.port, scratch / f"batch-{number}", size, violations)
                for number, size in enumerate(batches)
            ]
            broken = pool.submit(_break, product.port, recorded, breaks, rng, violations)
            for future in stored:
                acknowledged += future.result()
            ended = broken.result()
        sent_s = time.monotonic() - started
        status = product.settled(1800)
        all_s = time.monotonic() - started
        violations += canary.failures
        wait_for(lambda: measures["listener"]().threads <= before["listener"].threads, 60, "threads end")
        after = {name: measure() for name, measure in measures.items()}
        gauges.stop()
        figures = [flat(name, gauges.samples[name], before[name], after[name], violations) for name in measures]
        violations += product.reconciled()
        for name in ("run", "listener"):
            if product.stop(name) != 0:
                violations.append(f"{name} did not end well")
    violations += check_settled(data, [*acknowledged, *canary.acknowledged])
    count = len(acknowledged)
    figure = (
        f"{count} instances stored in {sent_s:.0f} s, all exported after {all_s:.0f} s ({status['exported']} media); "
        f"{len(batches)} associations that store, {ended}; {'; '.join(figures)}; {canary.figure}"
    )
    return Row("F25 soak", "listener and exporter", count + breaks, tuple(violations), figure)


def _store(port: int, folder: Path, size: int, violations: list[str]) -> list[str]:
    """One association of DCMTK that stores a folder; what was acknowledged."""
    import shutil

    uid_of = write_instances(folder, size, every_nth_is_cine=200)
    acknowledged = dcmsend(port, uid_of, violations)
    shutil.rmtree(folder)
    return acknowledged


def _break(port: int, recorded: list[Session], count: int, rng: random.Random, violations: list[str]) -> str:
    """Associations that are broken off, rejected, aborted, or never begin."""
    numbers = {"broken off": 0, "rejected": 0, "aborted": 0, "silent": 0}
    for _ in range(count):
        kind = rng.choice(tuple(numbers))
        numbers[kind] += 1
        session = rng.choice(recorded)
        request = session.pdus[0]
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                if kind == "silent":
                    continue
                if kind == "rejected":
                    request = request[:10] + b"SOMEBODY ELSE   " + request[26:]
                connection.sendall(request)
                answer = read_pdu(connection)
                if answer is None or answer[0] != (3 if kind == "rejected" else 2):
                    violations.append(
                        f"a request that was to be {kind} was answered {answer[:1] if answer else None!r}"
                    )
                if kind == "rejected":
                    continue
                whole = b"".join(session.pdus[1:-1])
                connection.sendall(whole[: rng.randrange(1, len(whole))])
                if kind == "aborted":
                    connection.sendall(struct.pack(">BxI", 7, 4) + bytes(4))
                else:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (ConnectionError, TimeoutError) as error:
            if kind != "aborted":  # where the abort lies within a data set, the listener may close first
                violations.append(f"{kind}: {type(error).__name__}")
    return ", ".join(f"{number} {kind}" for kind, number in numbers.items())


def flat(name: str, samples: list[Footprint], before: Footprint, after: Footprint, violations: list[str]) -> str:
    """Whether a process uses at the end what it used after the first quarter."""
    warm = max(sample.resident_kb for sample in samples[: max(len(samples) // 4, 1)])
    most = max(sample.resident_kb for sample in samples)
    if after.resident_kb > warm * (1 + GROWTH) + GROWTH_KB:
        violations.append(f"{name} grew from {warm >> 10} to {after.resident_kb >> 10} MB")
    if after.threads > before.threads:
        violations.append(f"{name}: threads {before.threads} -> {after.threads}")
    if after.descriptors > before.descriptors + 2:
        violations.append(f"{name}: descriptors {before.descriptors} -> {after.descriptors}")
    if after.processes != before.processes:
        ended = len(before.processes - after.processes)
        violations.append(f"{name}: processes {len(before.processes)} -> {len(after.processes)}, {ended} have ended")
    return (
        f"{name} {before.resident_kb >> 10} MB at first, {warm >> 10} warm, {most >> 10} at most, "
        f"{after.resident_kb >> 10} after; threads {before.threads} -> {after.threads}, descriptors "
        f"{before.descriptors} -> {after.descriptors}"
    )


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """The soak."""
    at = scratch / "soak"
    at.mkdir(parents=True)
    yield attempt("F25 soak", "listener and exporter", partial(soak, at, scale))
