"""Section 6, fuzz plan (1): recorded sessions sent again with one PDU changed after a valid handshake.

The handshake of such a session succeeds, so that what is changed reaches the state behind it. Every connection must be
answered or closed in time, what comes back must be PDUs, whatever was acknowledged must be in the spool, and the
well-behaved sender beside it must never fail. Afterwards the exporter gets what the listener took.
"""

from __future__ import annotations

import collections
import contextlib
import random
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from listener.spool.names import NAME
from tests.faults.daemons import SMALL_MARKS, Footprint, daemons, wait_for
from tests.faults.recording import ASSOCIATE_AC, HEADER, P_DATA, BadAnswer, field_in, read_pdu, sessions, status_in
from tests.faults.report import Row, Scale, attempt
from tests.faults.senders import Canary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.recording import Session

DEADLINES: Final = """listener:
  port: {port}
  deadlines: {request_s: 3, pdu_s: 3, idle_s: 3}
"""
LATEST_S: Final = 12.0
"""Deadline of a PDU, linger after our last one, and a busy machine."""
C_STORE_RSP: Final = 0x8001
INTERESTING: Final = (
    0,
    1,
    2,
    5,
    6,
    7,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)


# -- mutations of the PDU at `at` ------------------------------------------------------------------------------------


def _flip(rng: random.Random, pdus: list[bytes], at: int) -> list[bytes]:
    """Change a few bytes of the body, more often near its front, where lengths and tags are."""
    body = bytearray(pdus[at])
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        near = min(len(body) - 1, int(rng.expovariate(1 / 40)) + HEADER.size)
        body[rng.choice((near, rng.randrange(len(body))))] = rng.choice((rng.randrange(256), 0, 255))
    pdus[at] = bytes(body)
    return pdus


def _field(rng: random.Random, pdus: list[bytes], at: int) -> list[bytes]:
    """Overwrite 2 or 4 bytes with a number that parsers dislike, in either byte order."""
    body = bytearray(pdus[at])
    size = rng.choice((2, 4))
    where = rng.randrange(HEADER.size, max(len(body) - size, HEADER.size + 1))
    where = min(where, int(rng.expovariate(1 / 60)) + HEADER.size) if rng.random() < 0.7 else where
    value = rng.choice(INTERESTING) & ((1 << 8 * size) - 1)
    body[where : where + size] = value.to_bytes(size, rng.choice(("big", "little")))
    pdus[at] = bytes(body)
    return pdus


def _header(rng: random.Random, pdus: list[bytes], at: int) -> list[bytes]:
    """Lie in the header: the type, or the length."""
    kind, length = HEADER.unpack_from(pdus[at])
    if rng.random() < 0.4:
        kind = rng.choice((0, 1, 2, 3, 5, 6, 7, 8, 0x16, 0x47, 0xFF))
    else:
        length = rng.choice((*INTERESTING, length - 1, length + 1, length // 2, length * 2)) & 0xFFFFFFFF
    pdus[at] = HEADER.pack(kind, length) + pdus[at][HEADER.size :]
    return pdus


def _pdv(rng: random.Random, pdus: list[bytes], at: int) -> list[bytes]:
    """Lie in the first presentation data value: its length, its context, its control bits."""
    if pdus[at][0] != P_DATA or len(pdus[at]) < 12:
        return _flip(rng, pdus, at)
    length, context, control = struct.unpack_from(">IBB", pdus[at], HEADER.size)
    match rng.randrange(3):
        case 0:
            length = rng.choice((*INTERESTING, length - 1, length + 1, length - 2)) & 0xFFFFFFFF
        case 1:
            context = rng.choice((0, 2, 1, 3, 255, context + 2)) & 0xFF
        case _:
            control = rng.choice((0, 1, 2, 3, 4, 0x80, 0xFF))
    pdus[at] = pdus[at][: HEADER.size] + struct.pack(">IBB", length, context, control) + pdus[at][HEADER.size + 6 :]
    return pdus


def _resize(rng: random.Random, pdus: list[bytes], at: int) -> list[bytes]:
    """Cut, double or stuff the body, with the header's length made to fit or not."""
    body = pdus[at][HEADER.size :]
    cut = rng.randrange(len(body) + 1)
    stuff = rng.randbytes(rng.choice((1, 2, 8, 64, 1000)))
    body = rng.choice((body[:cut], body[cut:], body[:cut] + stuff + body[cut:], body + body, b""))
    length = len(body) if rng.random() < 0.6 else HEADER.unpack_from(pdus[at])[1]
    pdus[at] = HEADER.pack(pdus[at][0], length) + body
    return pdus


def _order(rng: random.Random, pdus: list[bytes], at: int) -> list[bytes]:
    """Leave a PDU out, send it twice, or send it at another time."""
    match rng.randrange(3):
        case 0:
            del pdus[at]
        case 1:
            pdus.insert(at, pdus[at])
        case _:
            moved = pdus.pop(at)
            pdus.insert(rng.randrange(1, len(pdus) + 1), moved)
    return pdus


def _command(rng: random.Random, pdus: list[bytes], at: int) -> list[bytes]:
    """Change one element of a command set: field, message ID, data set type, priority, a UID's length."""
    tags = (b"\x00\x00\x00\x01", b"\x00\x00\x10\x01", b"\x00\x00\x00\x08", b"\x00\x00\x00\x07", b"\x00\x00\x00\x10")
    places = [found for tag in tags if (found := pdus[at].find(tag, HEADER.size)) >= 0]
    if not places:
        return _field(rng, pdus, at)
    where = rng.choice(places) + rng.choice((0, 2, 4, 8))
    value = rng.choice((*INTERESTING, 0x0020, 0x0021, 0x0030, 0x0101, 0x0FFF, 0x8001)) & 0xFFFF
    pdus[at] = pdus[at][:where] + struct.pack("<H", value) + pdus[at][where + 2 :]
    return pdus


def _foreign(rng: random.Random, pdus: list[bytes], at: int) -> list[bytes]:
    """Put something in front that has no place there."""
    other = rng.choice(
        (
            HEADER.pack(1, 0),
            HEADER.pack(2, 4) + bytes(4),
            HEADER.pack(7, 4) + bytes(4),
            HEADER.pack(6, 4) + bytes(4),
            HEADER.pack(4, 6) + struct.pack(">IBB", 2, 1, 3),
            b"GET / HTTP/1.0\r\n\r\n",
            rng.randbytes(rng.randrange(1, 200)),
            pdus[0],
        )
    )
    pdus.insert(at, other)
    return pdus


MUTATIONS: Final = (_flip, _flip, _field, _field, _header, _pdv, _pdv, _resize, _order, _command, _command, _foreign)


# -- one connection --------------------------------------------------------------------------------------------------


class Tally:
    """What came of all connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answers: collections.Counter[str] = collections.Counter()
        self.kept = 0
        """Responses that promise that the bytes are kept."""
        self.violations: list[str] = []
        self.slowest_s = 0.0

    def add(self, ended: str, statuses: list[int], seconds: float, what: str) -> None:
        with self._lock:
            self.answers[ended] += 1
            self.kept += sum(status in (0x0000, 0xB000, 0xB006, 0xB007) for status in statuses)
            self.slowest_s = max(self.slowest_s, seconds)
            if ended in {"silence", "no handshake", "bad answer"}:
                self.violations.append(f"{ended} after {seconds:.1f} s: {what}")


def play(port: int, session: Session, seed: int, tally: Tally) -> None:
    """Send one session with one change; take down what came back and how it ended."""
    rng = random.Random(seed)  # noqa: S311 - a seed makes the mutant again
    mutate = rng.choice(MUTATIONS)
    at = rng.randrange(1, len(session.pdus))
    pdus = mutate(rng, list(session.pdus), at)
    what = f"seed {seed}, {session.name}, PDU {at}, {mutate.__name__}"
    ending = rng.choice(("half-close", "half-close", "wait", "reset"))
    started = time.monotonic()
    statuses: list[int] = []
    ended = "closed"
    with socket.create_connection(("127.0.0.1", port), timeout=LATEST_S) as connection:
        try:
            connection.sendall(session.pdus[0])
            answer = read_pdu(connection)
            if answer is None or answer[0] != ASSOCIATE_AC:
                tally.add("no handshake", [], time.monotonic() - started, what)
                return
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"".join(pdus[1:]))
                if ending == "half-close":
                    connection.shutdown(socket.SHUT_WR)
                elif ending == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    tally.add("reset by us", [], 0.0, what)
                    return
            while (answer := read_pdu(connection)) is not None:
                ended = {P_DATA: "answered", 6: "released", 7: "aborted"}.get(answer[0], "closed")
                status = status_in(answer)
                if status is not None and field_in(answer) == C_STORE_RSP:
                    statuses.append(status)
        except TimeoutError:
            ended = "silence"
        except (BadAnswer, OSError) as error:
            ended = "bad answer" if isinstance(error, BadAnswer) else "closed"
            what += f": {error}"
    tally.add(ended, statuses, time.monotonic() - started, what)


# -- the row ---------------------------------------------------------------------------------------------------------


def fuzz(scratch: Path, scale: Scale, *, threads: int = 8) -> Row:
    """Mutated PDUs against the listener, the canary beside it; then the exporter over what was taken."""
    tally = Tally()
    data = scratch / "data"
    with daemons(data, scratch / "logs", extra=DEADLINES + SMALL_MARKS) as product:
        listener = product.start("listener")
        recorded = sessions(product.port, scratch)
        mutable = [session for session in recorded if len(session.pdus) > 1]
        before = Footprint.of_family(listener.pid)
        kept_before = _kept(data)
        with Canary(product.port) as canary, ThreadPoolExecutor(threads) as pool:
            for seed in range(scale.pdus):
                pool.submit(play, product.port, mutable[seed % len(mutable)], seed, tally)
        violations = [*tally.violations, *canary.failures]
        if listener.poll() is not None:
            violations.append(f"the listener ended with {listener.returncode}")
            return Row("F17-F23 network fuzz", "listener", scale.pdus, tuple(violations), "-")
        measure = partial(Footprint.of_family, listener.pid)
        wait_for(lambda: measure().threads <= before.threads, 60, "threads of the listener end")
        after = measure()
        kept = _kept(data) - kept_before - len(canary.acknowledged)
        if kept < tally.kept:
            violations.append(f"{tally.kept} instances acknowledged, {kept} in the spool")
        left = list((data / "spool" / "tmp").iterdir())
        violations += [f"{len(left)} files left in spool/tmp"] * bool(left)
        if after.processes != before.processes:
            violations.append("a process of the listener has ended")
        if after.descriptors > before.descriptors + 2:
            violations.append(f"descriptors grew from {before.descriptors} to {after.descriptors}")
        if "Traceback" in product.log("listener"):
            violations.append("a traceback in the log of the listener")
        settled = _export(product, violations)
    ends = ", ".join(f"{count} {word}" for word, count in tally.answers.most_common())
    figure = (
        f"{ends}; {tally.kept} kept; slowest {tally.slowest_s:.1f} s; resident {before.resident_kb >> 10} -> "
        f"{after.resident_kb >> 10} MB, descriptors {before.descriptors} -> {after.descriptors}; "
        f"{canary.figure}; {settled}"
    )
    return Row("F17-F23 network fuzz", "listener, then the exporter", scale.pdus, tuple(violations), figure)


def _kept(data: Path) -> int:
    spool = data / "spool"
    return sum(bool(NAME.fullmatch(p.name)) for f in ("new", "quarantine") for p in (spool / f).rglob("*.dcm"))


def _export(product: object, violations: list[str]) -> str:
    """Let the exporter work on everything the listener took; what it came to."""
    from tests.faults.daemons import Daemons

    assert isinstance(product, Daemons)
    product.stop("listener")
    exporter = product.start("run")
    status = product.settled(600)
    if exporter.poll() is not None:
        violations.append(f"the exporter ended with {exporter.returncode}")
    if (product.data / "spool" / "quarantine" / "internal").is_dir():
        count = len(list((product.data / "spool" / "quarantine" / "internal").glob("*.dcm")))
        violations += [f"{count} instances failed with `internal`"] * bool(count)
    violations += product.reconciled()
    return ", ".join(f"{status[word]} {word}" for word in ("exported", "skipped", "quarantined", "duplicates"))


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """The row of the network fuzz."""
    at = scratch / "network-fuzz"
    at.mkdir(parents=True)
    yield attempt("F17-F23 network fuzz", "listener", lambda: fuzz(at, scale))
