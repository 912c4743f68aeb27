"""F29, second half: 100 GB through several associations at once, while what has come is taken out of the spool.

Small, middle and large instances in turn, by DCMTK's storescu and dcmsend and by a fast sender of our own. Behind the
listener a process does with the spool what the exporter does, and compares every byte (`tests.faults.consumer`), so
that the disk need not hold it all.
"""

from __future__ import annotations

import collections
import math
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.faults.daemons import SMALL_MARKS, Late, daemons, wait_for
from tests.faults.invariants import spool_files
from tests.faults.network import ACCEPTED
from tests.faults.numbered import SIZES, content_of, file_of, uid_of
from tests.faults.report import NotPermitted, Row, Scale, attempt
from tests.faults.senders import REPOSITORY, Storescu, dcmsend
from tests.faults.watching import watched
from tests.listener.requestor import CT, EXPLICIT, Requestor, pdu, pdv, proposed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FAULT: Final = "F29 volume"
WHERE: Final = "listener, spool, a consumer"
SHARES: Final = dict(zip(SIZES, (0.05, 0.35, 0.60), strict=True))
"""Of all bytes, by size of instance."""
PER_ASSOCIATION: Final = dict(zip(SIZES, (250, 60, 4), strict=True))
FAST_SENDERS: Final = 4
SENDERS: Final = FAST_SENDERS + 2
"""At once: the fast ones, storescu and dcmsend."""
MOST_WAITING_BYTES: Final = 4 << 30
"""While more than that lies in the spool, no association is begun."""
SPARE_BYTES: Final = 2 << 30
PDU_BYTES: Final = 131_072
PATIENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one association sends."""

    size_bytes: int
    uids: tuple[str, ...]


def batches(total_bytes: int) -> list[Batch]:
    """Instances of every size, so many bytes of them together, in the order in which they are sent."""
    made = []
    first = 0
    for size_bytes, share in SHARES.items():
        count = max(1, round(total_bytes * share / size_bytes))
        each = min(PER_ASSOCIATION[size_bytes], math.ceil(count / SENDERS))  # few, too, are for every sender
        uids = [uid_of(size_bytes, number) for number in range(first, first + count)]
        made += [Batch(size_bytes, tuple(uids[at : at + each])) for at in range(0, count, each)]
        first += count
    random.Random(29).shuffle(made)  # noqa: S311 - the same order each time
    return made


class Load:
    """All senders of one run, and what they were told."""

    def __init__(self, port: int, scratch: Path, spool: Path, total_bytes: int) -> None:
        self.port, self.scratch, self.spool = port, scratch, spool
        self.violations: list[str] = []
        self.acknowledged: collections.Counter[str] = collections.Counter()
        self.stored: collections.Counter[tuple[str, int]] = collections.Counter()
        """How many instances by which kind of sender, of which size."""
        self.most_waiting_bytes = 0
        self.batches = batches(total_bytes)
        self._left = iter(self.batches)
        self._lock = threading.Lock()
        self._failed = threading.Event()

    @property
    def sent_bytes(self) -> int:
        """Pixel data of what was acknowledged."""
        return sum(count * size_bytes for (_, size_bytes), count in self.stored.items())

    @property
    def figure(self) -> str:
        """Who sent what."""
        words = []
        for sender in sorted({name for name, _ in self.stored}):
            counts = (f"{self.stored[sender, size]} of {size >> 10} KB" for size in SIZES)
            words.append(f"{sender} {', '.join(counts)}")
        return "; ".join(words)

    def run(self) -> None:
        """Send everything; returns once it is answered, raises what ended a sender."""
        senders = {f"fast {number + 1}": self._fast for number in range(FAST_SENDERS)}
        senders |= {"storescu": self._storescu, "dcmsend": self._dcmsend}
        with ThreadPoolExecutor(SENDERS) as pool:
            try:
                for over in [pool.submit(self._send_all, name, send) for name, send in senders.items()]:
                    over.result()
            finally:
                self._failed.set()  # where this is cut short, by a signal too, nobody goes on for hours

    def _send_all(self, name: str, send: Callable[[Batch, Path], list[str]]) -> None:
        try:
            while not self._failed.is_set() and (batch := self._next()) is not None:
                wait_for(self._has_room, PATIENCE_S, "the consumer takes something out of the spool")
                acknowledged = send(batch, self.scratch / name.replace(" ", "-"))
                with self._lock:
                    self.acknowledged.update(acknowledged)
                    self.stored[name.split(maxsplit=1)[0], batch.size_bytes] += len(acknowledged)
                if len(acknowledged) < len(batch.uids):
                    missing = len(batch.uids) - len(acknowledged)
                    self.violations.append(f"{name}: {missing} instances were not acknowledged as stored")
        except BaseException:
            self._failed.set()
            raise

    def _next(self) -> Batch | None:
        with self._lock:
            return next(self._left, None)

    def _has_room(self) -> bool:
        waiting = 0
        for entry in os.scandir(self.spool / "new"):
            try:
                waiting += entry.stat().st_size
            except FileNotFoundError:  # taken meanwhile
                continue
        self.most_waiting_bytes = max(self.most_waiting_bytes, waiting)
        return waiting < MOST_WAITING_BYTES

    def _fast(self, batch: Batch, _: Path) -> list[str]:
        acknowledged = []
        with Requestor(self.port, source="127.0.0.3", wait_s=PATIENCE_S) as requestor:
            requestor.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if requestor.associate(proposed(1, CT, EXPLICIT))[0] != ACCEPTED:
                return []
            for uid in batch.uids:
                requestor.send(message(requestor.store_command(uid), content_of(uid)))
                if requestor.response().status == 0:
                    acknowledged.append(uid)
            requestor.release()
        return acknowledged

    def _storescu(self, batch: Batch, folder: Path) -> list[str]:
        with files(batch, folder) as uid_of_path:
            sender = Storescu(self.port, folder)
            sender.send(uid_of_path)
        return sender.acknowledged

    def _dcmsend(self, batch: Batch, folder: Path) -> list[str]:
        with files(batch, folder) as uid_of_path:
            return dcmsend(self.port, uid_of_path, self.violations)


def message(command: bytes, content: bytes) -> bytes:
    """One C-STORE-RQ in the longest PDUs that the listener takes by default."""
    step = PDU_BYTES - 6
    parts = [pdu(4, pdv(1, 3, command))]
    for start in range(0, len(content), step):
        piece = content[start : start + step]
        is_last = start + step >= len(content)
        parts += [struct.pack(">BxIIBB", 4, len(piece) + 6, len(piece) + 2, 1, 2 * is_last), piece]
    return b"".join(parts)


@contextmanager
def files(batch: Batch, folder: Path) -> Iterator[dict[str, str]]:
    """A batch as files, for senders that read them: which path holds which UID."""
    folder.mkdir(parents=True)
    try:
        paths = {str(folder / f"{number:05d}.dcm"): uid for number, uid in enumerate(batch.uids)}
        for number, uid in enumerate(batch.uids):
            (folder / f"{number:05d}.dcm").write_bytes(file_of(uid))
        yield paths
    finally:
        shutil.rmtree(folder)


@contextmanager
def consumer(spool: Path, journal: Path) -> Iterator[None]:
    """A consumer of this spool; when the block ends, it takes the rest, and has ended after that.

    Raises:
        Late: It has not, or not well.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.consumer", str(spool), str(journal)], cwd=REPOSITORY, stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        yield
        process.stdin.close()
        wait_for(lambda: process.poll() is not None, PATIENCE_S * 5, "the consumer takes what is left")
        if process.returncode != 0:
            raise Late(f"the consumer ended with {process.returncode}")
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


def volume(scratch: Path, total_bytes: int) -> Row:
    """Send so many bytes; every acknowledged instance is found once, and is what it was."""
    needed = min(total_bytes, MOST_WAITING_BYTES) * 2 + SPARE_BYTES
    if shutil.disk_usage(scratch).free < needed:
        raise NotPermitted(f"{needed / 1e9:.0f} GB of free space are needed")
    data, journal = scratch / "data", scratch / "journal"
    with daemons(data, scratch / "logs", extra=SMALL_MARKS) as product:
        product.start("listener")
        load = Load(product.port, scratch, data / "spool", total_bytes)
        with consumer(data / "spool", journal), watched(product, threads_once=1) as found:  # early flushes
            load.run()
        found.violations += load.violations
        if product.stop("listener") != 0:
            found.violations.append("the listener did not end well")
    found.violations += differences(journal, load.acknowledged + collections.Counter(found.acknowledged))
    left = [*spool_files(data / "spool"), *(data / "spool" / "tmp").iterdir()]
    found.violations += [f"{len(left)} files are left in the spool"] * bool(left)
    sent_gb = load.sent_bytes / 1e9
    figure = (
        f"{sent_gb:.2f} GB in {found.seconds:.0f} s ({sent_gb * 1000 / found.seconds:.0f} MB/s) by "
        f"{len(load.batches)} associations, {SENDERS} at once: {load.figure}; "
        f"{load.acknowledged.total()} acknowledged, every byte of each compared; "
        f"at most {load.most_waiting_bytes / 1e6:.0f} MB waiting; "
        f"{found.cpu_s / max(sent_gb, 1e-9):.1f} s of a core per GB; {found.figure}"
    )
    return Row(FAULT, WHERE, load.acknowledged.total(), tuple(found.violations), figure)


def differences(journal: Path, acknowledged: collections.Counter[str]) -> list[str]:
    """Where what the consumer found is not what was acknowledged: each once, each right."""
    consumed: collections.Counter[str] = collections.Counter()
    wrong = 0
    with journal.open() as lines:
        for line in lines:
            uid, _, verdict = line.split()
            consumed[uid] += 1
            wrong += verdict != "right"
    found = (
        (wrong, "items are not what their sender sent"),
        ((acknowledged - consumed).total(), "acknowledged instances are lost"),
        ((consumed - acknowledged).total(), "items are there twice, or were never acknowledged"),
    )
    return [f"{count} {what}" for count, what in found if count]


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """The row."""
    at = scratch / "volume"
    at.mkdir(parents=True)
    yield attempt(FAULT, WHERE, partial(volume, at, scale.volume_bytes))
