"""F11-F24 in full size: what peers do wrong, against a listener's own process, beside a sender that must not notice.

The sender is DCMTK's: one C-ECHO and one C-STORE from new associations, over and over. A row holds only if none of them
failed; its slowest round is part of the figure, as are the listener's memory, threads and descriptors before and after.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.faults.daemons import SMALL_MARKS, Daemons, Footprint, Late, daemons, family_cpu_s, wait_for
from tests.faults.invariants import whole_spool_files
from tests.faults.report import Row, Scale, attempt
from tests.faults.senders import Canary
from tests.listener.certificates import make_certificate
from tests.listener.requestor import CT, EXPLICIT, Requestor, data_set, pdu, pdv, proposed, request
from tests.listener.sources.dimse.test_hostile_peers import BAD_PDUS, BAD_REQUESTS, BAD_VALUES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S: Final = 5.0
SETTINGS: Final = f"""listener:
  port: {{port}}
  deadlines: {{request_s: {DEADLINE_S}, pdu_s: {DEADLINE_S}, idle_s: 60}}
{{tls}}
{SMALL_MARKS}"""
ATTACKER: Final = "127.0.0.2"
SLOWEST_S: Final = 5.0
"""The longest round of the well-behaved sender that is let pass, on two busy cores."""
ACCEPTED, REJECTED, ABORTED = 2, 3, 7


@dataclass
class Attack:
    """One attack on a listening port, and what came of it."""

    port: int
    pid: int
    scale: Scale
    violations: list[str] = field(default_factory=list)

    def times(self, full: int) -> int:
        """`full` times in the long form, a tenth of it in the quick one."""
        return full if self.scale.pdus >= 5000 else max(full // 10, 1)

    def connect(self, source: str = ATTACKER, wait_s: float = 20.0) -> Requestor:
        return Requestor(self.port, source=source, wait_s=wait_s)

    def established(self) -> Requestor:
        requestor = self.connect()
        if requestor.associate()[0] != ACCEPTED:
            self.violations.append("an association was not accepted")
        return requestor

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.violations.append(otherwise)


def _source(number: int) -> str:
    return f"127.0.0.{2 + number}"


# -- attacks: each returns its figure ----------------------------------------------------------------------------------


def connect_and_close(attack: Attack) -> tuple[int, str]:
    count = attack.times(1000)
    started = time.monotonic()
    for _ in range(count):
        attack.connect().sock.close()
    return count, f"{count} connections in {time.monotonic() - started:.1f} s"


def silent(attack: Attack, *, hosts: int) -> tuple[int, str]:
    """Connections that say nothing, from one address or many; each must be closed at the deadline for requests."""
    count = attack.times(200)
    with ExitStack() as stack:
        started = time.monotonic()
        opened = [stack.enter_context(attack.connect(_source(n % hosts))) for n in range(count)]
        open_for = []
        for requestor in opened:
            attack.expect(requestor.is_closed(), "a silent connection is still open after 20 s")
            open_for.append(time.monotonic() - started)
    attack.expect(max(open_for) < DEADLINE_S + 3, f"silent connections are open for {max(open_for):.1f} s")
    return count, f"{count} silent connections from {hosts} addresses closed after {max(open_for):.1f} s"


def stalls(attack: Attack) -> tuple[int, str]:
    """Connections that stop in the middle: of a header, a request, a value, a message."""
    each = attack.times(40)
    with ExitStack() as stack:
        stalled = []
        for number in range(4 * each):
            kind = number % 4
            requestor = attack.connect() if kind < 2 else attack.established()
            stalled.append(stack.enter_context(requestor))
            if kind == 0:
                requestor.send(b"\1\0\0")
            elif kind == 1:
                requestor.send(request(proposed(1, CT, EXPLICIT))[:-20])
            else:
                requestor.send(pdu(4, pdv(1, 3, requestor.store_command())))
                content = pdu(4, pdv(1, 0, data_set()))
                requestor.send(content[:-30] if kind == 2 else content)
        started = time.monotonic()
        for requestor in stalled:
            attack.expect(requestor.is_closed(), "a stalled connection is still open after 20 s")
        cut_s = time.monotonic() - started
    attack.expect(cut_s < DEADLINE_S + 3, f"stalled connections are cut after {cut_s:.1f} s")
    return 4 * each, f"{4 * each} stalled connections, the last cut {cut_s:.1f} s after the last byte"


def trickle(attack: Attack) -> tuple[int, str]:
    """One byte each half second, on many connections: progress of that kind must not prolong a deadline."""
    count = attack.times(40)
    whole = request(proposed(1, CT, EXPLICIT))
    with ExitStack() as stack:
        living = [stack.enter_context(attack.connect()) for _ in range(count)]
        started = time.monotonic()
        for byte in whole:
            for requestor in living[:]:
                try:
                    requestor.send(bytes((byte,)))
                except OSError:
                    living.remove(requestor)
            if not living or time.monotonic() - started > DEADLINE_S + 10:
                break
            time.sleep(0.5)  # the attack itself
        cut_s = time.monotonic() - started
    attack.expect(
        not living and cut_s < DEADLINE_S + 4, f"{len(living)} trickling connections live after {cut_s:.1f} s"
    )
    return count, f"{count} connections of a byte per 0.5 s, cut after {cut_s:.1f} s"


def at_once(attack: Attack, *, hosts: int) -> tuple[int, str]:
    """500 requests for an association in one instant: each is answered at once, by acceptance or as transient."""
    count = attack.times(500)
    asked = request(proposed(1, CT, EXPLICIT))
    answers: dict[str, int] = {}
    with ExitStack() as stack:
        eyes = stack.enter_context(selectors.DefaultSelector())
        started = time.monotonic()
        for number in range(count):
            sock = socket.socket()
            stack.callback(sock.close)
            sock.bind((_source(number % hosts), 0))
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(("127.0.0.1", attack.port))
            eyes.register(sock, selectors.EVENT_WRITE, sock)
        waiting = count
        while waiting and time.monotonic() - started < 20:
            for key, ready in eyes.select(1.0):
                sock = key.data
                if ready & selectors.EVENT_WRITE:
                    sock.send(asked)
                    eyes.modify(sock, selectors.EVENT_READ, sock)
                    continue
                with suppress(OSError):
                    word = _answer(sock.recv(1000))
                    answers[word] = answers.get(word, 0) + 1
                eyes.unregister(sock)
                waiting -= 1
        answered_s = time.monotonic() - started
    # One that has not got round to asking may have to make room for an address that holds fewer places.
    odd = set(answers) - {"accepted", "rejected 2,3,2", *(("closed",) if hosts > 1 else ())}
    attack.expect(not waiting, f"{waiting} of {count} requests were never answered")
    attack.expect(not odd, f"requests were answered with {sorted(odd)}")
    told = ", ".join(f"{number} {word}" for word, number in sorted(answers.items()))
    return count, f"{count} requests at once from {hosts} addresses, all answered after {answered_s:.1f} s: {told}"


def _answer(content: bytes) -> str:
    if content[:1] == b"\2":
        return "accepted"
    if content[:1] == b"\3":
        return f"rejected {content[7]},{content[8]},{content[9]}"
    return "closed" if not content else f"PDU {content[0]}"


def idle(attack: Attack) -> tuple[int, str]:
    """50 associations that are established and do nothing, beside nobody: what they cost the listener."""
    with ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(attack.established())
        seconds = float(attack.times(10))
        before = family_cpu_s(attack.pid)
        time.sleep(seconds)  # the measurement
        share = (family_cpu_s(attack.pid) - before) / seconds
    attack.expect(share < 0.05, f"50 idle associations take {share:.1%} of a core")
    return 50, f"50 idle associations take {share:.2%} of a core"


def lies(attack: Attack) -> tuple[int, str]:
    """PDUs that must not be, and 100 MB sent behind a claimed length of 4 GiB."""
    before = Footprint.of_family(attack.pid).resident_kb
    rounds = attack.times(20)
    slowest = 0.0
    for _ in range(rounds):
        for name, content in BAD_PDUS.items():
            with attack.established() as requestor:
                started = time.monotonic()
                requestor.send(content)
                attack.expect(requestor.receive()[0] == ABORTED, f"{name} is not answered with A-ABORT")
                slowest = max(slowest, time.monotonic() - started)
    with attack.connect() as requestor:
        requestor.send(struct.pack(">BxI", 1, 0xFFFFFFFF))
        with suppress(OSError):
            for _ in range(100):
                requestor.send(bytes(1 << 20))
        attack.expect(requestor.is_closed(), "a request of 4 GiB is still open")
    grown_mb = (Footprint.of_family(attack.pid).resident_kb - before) / 1024
    attack.expect(grown_mb < 16, f"memory grew by {grown_mb:.0f} MB")
    count = rounds * len(BAD_PDUS) + 1
    return (
        count,
        f"{count} PDUs that lie, aborted after at most {slowest * 1000:.0f} ms; memory grew by {grown_mb:.1f} MB",
    )


def malformed(attack: Attack) -> tuple[int, str]:
    """Requests that are none, HTTP and TLS among them, and values out of place: each answered, its place free."""
    rounds = attack.times(20)
    slowest = 0.0
    for _ in range(rounds):
        for name, content in BAD_REQUESTS.items():
            with attack.connect() as requestor:
                started = time.monotonic()
                requestor.send(content)
                attack.expect(requestor.receive()[0] in {REJECTED, ABORTED}, f"a request ({name}) is not answered")
                slowest = max(slowest, time.monotonic() - started)
        for name, make in BAD_VALUES.items():
            with attack.established() as requestor:
                started = time.monotonic()
                requestor.send(make(requestor))
                attack.expect(requestor.receive()[0] == ABORTED, f"a value ({name}) is not answered with A-ABORT")
                slowest = max(slowest, time.monotonic() - started)
    count = rounds * (len(BAD_REQUESTS) + len(BAD_VALUES))
    return count, f"{count} malformed requests and values, answered after at most {slowest * 1000:.0f} ms"


def breaks(attack: Attack) -> tuple[int, str]:
    """A transfer that breaks off at every byte, by a close or a reset."""
    with attack.established() as model:
        stream = pdu(4, pdv(1, 3, model.store_command("1.77.1"))) + pdu(4, pdv(1, 2, data_set("1.77.1")))
    cuts = range(0, len(stream) - 1, 1 if attack.scale.pdus >= 5000 else 37)
    for cut in cuts:
        requestor = attack.established()
        if cut % 2:
            requestor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        requestor.send(stream[:cut])
        requestor.sock.close()
    return len(cuts), f"a transfer broken off at {len(cuts)} places"


def silent_tls(attack: Attack) -> tuple[int, str]:
    """Silent TCP connections, half a hello, plain DICOM and garbage on the TLS port."""
    count = attack.times(200)
    hello = _client_hello()
    with ExitStack() as stack:
        started = time.monotonic()
        opened = []
        for number in range(count):
            requestor = stack.enter_context(attack.connect())
            opened.append(requestor)
            with suppress(OSError):
                requestor.send(
                    (b"", hello[: len(hello) // 2], request(proposed(1, CT, EXPLICIT)), b"\xff" * 500)[number % 4]
                )
        for requestor in opened:
            attack.expect(requestor.is_closed(), "a connection without a handshake is still open after 20 s")
        closed_s = time.monotonic() - started
    attack.expect(closed_s < DEADLINE_S + 3, f"connections without a handshake are open for {closed_s:.1f} s")
    return count, f"{count} connections without a handshake on the TLS port, all closed after {closed_s:.1f} s"


def _client_hello() -> bytes:
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


# -- rows --------------------------------------------------------------------------------------------------------------

ATTACKS: Final[tuple[tuple[str, str, Callable[[Attack], tuple[int, str]]], ...]] = (
    ("F11 connect and close", "DICOM port", connect_and_close),
    ("F12 silent connections", "DICOM port, one address", partial(silent, hosts=1)),
    ("F12 silent connections", "DICOM port, 20 addresses", partial(silent, hosts=20)),
    ("F13 stalls", "DICOM port", stalls),
    ("F13 one byte per 0.5 s", "DICOM port", trickle),
    ("F15 500 associations at once", "DICOM port, one address", partial(at_once, hosts=1)),
    ("F17 lengths that lie", "DICOM port", lies),
    ("F18-F21, F24 malformed", "DICOM port", malformed),
    ("F23 broken off at every byte", "DICOM port", breaks),
)


@contextmanager
def listening(scratch: Path, tls: str = "") -> Iterator[tuple[Daemons, int]]:
    """A listener as a process of its own, and its process id."""
    with daemons(scratch / "data", scratch / "logs", extra=SETTINGS.replace("{tls}", tls)) as product:
        yield product, product.start("listener").pid


def row(
    product: Daemons,
    pid: int,
    scale: Scale,
    named: tuple[str, str],
    measure: Callable[[Attack], tuple[int, str]],
    options: tuple[str, ...] = (),
) -> Row:
    """One attack beside the well-behaved sender."""
    attack = Attack(product.port, pid, scale)
    with Canary(product.port, period_s=0.3, options=options):
        pass  # whatever is made once only has been made
    before = Footprint.of_family(pid)
    with Canary(product.port, period_s=0.3, options=options) as canary:
        count, figure = measure(attack)
    attack.violations += canary.failures
    attack.expect(canary.slowest_s < SLOWEST_S, f"a round of the well-behaved sender took {canary.slowest_s:.1f} s")
    with suppress(Late):
        wait_for(lambda: _is_back(Footprint.of_family(pid), before), 15, "threads and descriptors are given back")
    after = Footprint.of_family(pid)
    attack.expect(
        _is_back(after, before),
        f"threads {before.threads} -> {after.threads}, descriptors {before.descriptors} -> {after.descriptors}",
    )
    attack.expect(after.processes == before.processes, "a process of the listener has ended")
    kept = whole_spool_files(product.data / "spool", attack.violations)
    lost = [uid for uid in canary.acknowledged if not kept[uid]]
    attack.expect(not lost, f"{len(lost)} acknowledged instances of the well-behaved sender are lost")
    grown = (after.resident_kb - before.resident_kb) / 1024
    return Row(*named, count, tuple(attack.violations), f"{figure}; {canary.figure}; resident {grown:+.1f} MB")


def _is_back(now: Footprint, before: Footprint) -> bool:
    return now.threads <= before.threads and now.descriptors <= before.descriptors + 1


def crowd_row(product: Daemons, pid: int, scale: Scale) -> Row:
    """500 at once from five addresses: more than there are places, so that nobody else gets one until they leave."""
    attack = Attack(product.port, pid, scale)
    count, figure = at_once(attack, hosts=5)
    with Canary(product.port, period_s=0.3) as canary:
        pass
    attack.violations += canary.failures
    return Row(
        "F15 500 associations at once", "DICOM port, five addresses", count, tuple(attack.violations),
        f"{figure}; afterwards {canary.figure}",
    )  # fmt: skip


def idle_row(product: Daemons, pid: int, scale: Scale) -> Row:
    """What idle associations cost; without another sender, whose work would be measured instead."""
    attack = Attack(product.port, pid, scale)
    count, figure = idle(attack)
    return Row("F16 idle associations", "DICOM port", count, tuple(attack.violations), figure)


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """Every attack on one listener that is never started again, and those on a TLS port on another."""
    scratch.mkdir(parents=True, exist_ok=True)
    with listening(scratch / "plain") as (product, pid):
        for fault, where, measure in ATTACKS:
            yield attempt(fault, where, partial(row, product, pid, scale, (fault, where), measure))
        yield attempt("F15 500 associations at once", "five addresses", partial(crowd_row, product, pid, scale))
        yield attempt("F16 idle associations", "DICOM port", partial(idle_row, product, pid, scale))
    certificates = scratch / "certificates"
    certificates.mkdir()
    own = make_certificate(certificates, "listener")
    tls = f"  tls: {{certificate: {own}, handshake_s: {DEADLINE_S}}}"
    options = ("+tla", "-ic")
    with listening(scratch / "tls", tls) as (product, pid):
        named = ("F24 silent and broken TLS", "TLS port")
        yield attempt(*named, partial(row, product, pid, scale, named, silent_tls, options))
