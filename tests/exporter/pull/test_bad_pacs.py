"""A PACS that stalls, lies about lengths, floods us or never ends: each pull ends in time, in little memory."""

from __future__ import annotations

import signal
import struct
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from exporter.pull import asking, fetching, getting, peer
from exporter.pull.outcome import RowState
from exporter.pull.request import PullEnded
from listener.sources.dimse.upper_layer import command as dimse
from listener.sources.dimse.upper_layer import pdu
from tests.exporter.pull.running import Puller
from tests.listener.sources.dimse.scripted_peer import Gone, Line, ScriptedPeer, message, p_data, response

if TYPE_CHECKING:
    from collections.abc import Callable

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY, SERIES, INSTANCE = "1.2.3", "1.2.3.4", "1.2.3.4.5"
HUGE = 0xFFFFFFFF
UNDEFINED = struct.pack("<I", HUGE)


def explicit(tag: int, vr: bytes, value: bytes) -> bytes:
    """An element in explicit VR little endian; a sequence where the VR is SQ or UN."""
    value += b"\0" * (len(value) & 1)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return (
        head
        + (struct.pack("<HI" if vr in (b"SQ", b"UN") else "<H", *((0,) * (vr in (b"SQ", b"UN"))), len(value)))
        + value
    )


UIDS = explicit(0x0020000D, b"UI", STUDY.encode()) + explicit(0x0020000E, b"UI", SERIES.encode())
INSTANCE_UIDS = explicit(0x00080016, b"UI", CT.encode()) + explicit(0x00080018, b"UI", INSTANCE.encode())
ANSWERS = {"STUDY": explicit(0x0020000D, b"UI", STUDY.encode()), "SERIES": UIDS, "IMAGE": INSTANCE_UIDS + UIDS}
DATA_SET = INSTANCE_UIDS + UIDS
OPENED = struct.pack("<HH2sH", 8, 0x1140, b"SQ", 0) + UNDEFINED + struct.pack("<HH", 0xFFFE, 0xE000) + UNDEFINED
CLOSED = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
DEEP = ANSWERS["STUDY"] + OPENED * 10_000 + CLOSED * 10_000


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    line: Line
    context_id: int
    number: int
    level: str

    def respond(self, field_: int, status: int, data: bytes | None = None, **options: Any) -> None:
        command = response(field_, self.number, status, has_data=data is not None, **options)
        self.line.respond(self.context_id, command, data)

    def store(self, data: bytes = DATA_SET, uid: str = INSTANCE) -> int:
        """Send an instance; the status it is answered."""
        context_id = self.line.context_of(CT)
        store = dimse.request(dimse.Field.C_STORE_RQ, 77, CT, sop_instance_uid=uid)
        self.line.respond(context_id, store, data)
        return self.line.read_message()[1].status or 0


def good_find(asked: Asked) -> None:
    asked.respond(0x20, 0xFF00, ANSWERS[asked.level])
    asked.respond(0x20, 0x0000)


def good_get(asked: Asked) -> None:
    asked.store()
    asked.respond(0x10, 0x0000, counts=(0, 1, 0, 0))


@dataclass
class BadPacs:
    """An archive of one instance; a test replaces what it does at one step."""

    accept: Callable[[Line], None] = lambda line: line.send(line.answer())
    find: Callable[[Asked], None] = good_find
    retrieve: Callable[[Asked], None] = good_get
    release: Callable[[Line], None] = lambda line: line.send(pdu.release_response())
    reached: threading.Event = field(default_factory=threading.Event)

    def __call__(self, line: Line) -> None:
        line.read_request()
        if self.accept is not BadPacs.accept:
            self.reached.set()
        self.accept(line)
        line.release = self.release  # type: ignore[attr-defined]
        while True:
            context_id, command, data = line.read_message()
            level = next((word for word in ANSWERS if word.encode() in data), "STUDY")
            asked = Asked(line, context_id, command.message_id, level)
            if command.field == dimse.Field.C_FIND_RQ:
                if self.find is not good_find:
                    self.reached.set()
                self.find(asked)
            elif command.field != dimse.Field.C_CANCEL_RQ:
                self.reached.set()
                self.retrieve(asked)


def says(*parts: bytes) -> Callable[[Line], None]:
    def accept(line: Line) -> None:
        for part in parts:
            line.send(part)
        line.hold()
        raise Gone

    return accept


def half(size: int) -> Callable[[Line], None]:
    return lambda line: says(line.answer()[:size])(line)


def answers(make: Callable[[Asked], bytes], *, again: bool = False) -> Callable[[Asked], None]:
    """Send these bytes for an answer, once or without end, and then say nothing."""

    def answer(asked: Asked) -> None:
        content = make(asked)
        asked.line.send(content)
        while again:
            asked.line.send(content)
        asked.line.hold()
        raise Gone

    return answer


def pending(field_: int, *, data: bytes | None = None, count: int = 100) -> Callable[[Asked], bytes]:
    def make(asked: Asked) -> bytes:
        command = response(field_, asked.number, 0xFF00, has_data=data is not None)
        return message(asked.context_id, command, data) * count

    return make


def end(asked: Asked) -> bytes:
    return message(asked.context_id, response(0x20, asked.number, 0))


def answer_of(data: bytes) -> Callable[[Asked], None]:
    def answer(asked: Asked) -> None:
        asked.respond(0x20, 0xFF00, data)
        asked.respond(0x20, 0)

    return answer


def others_first(asked: Asked) -> None:
    """Answers to another message come first, a final one among them (PS3.7 6.1)."""
    other = response(0x20, asked.number + 9, 0)
    asked.line.respond(asked.context_id, other)
    good_find(asked)


def odd_class(asked: Asked) -> None:
    """What is to come has a class that cannot be proposed: common ones are."""
    odd = explicit(0x00080016, b"UI", b"/../\xe4" * 20)
    asked.respond(0x20, 0xFF00, ANSWERS[asked.level].replace(INSTANCE_UIDS[: 8 + len(CT) + len(CT) % 2], odd))
    asked.respond(0x20, 0)


def store_without_end(asked: Asked) -> None:
    for number in range(100_000):
        asked.store(uid=f"1.2.3.9.{number}")


def drip(asked: Asked) -> None:
    """Say that it goes on, without ever doing so."""
    while True:
        asked.respond(0x21, 0xFF00, counts=(5, 0, 0, 0))
        asked.line.over.wait(0.05)
        if asked.line.over.is_set():
            raise Gone


def half_an_instance(asked: Asked) -> None:
    store = dimse.request(dimse.Field.C_STORE_RQ, 77, CT, sop_instance_uid=INSTANCE)
    context_id = asked.line.context_of(CT)
    asked.line.send(p_data(context_id, 3, store) + p_data(context_id, 0, DATA_SET[:20]) + b"\4\0\0")
    asked.line.hold()


def instance_without_end(asked: Asked) -> None:
    store = dimse.request(dimse.Field.C_STORE_RQ, 77, CT, sop_instance_uid=INSTANCE)
    context_id = asked.line.context_of(CT)
    asked.line.send(p_data(context_id, 3, store))
    while True:
        asked.line.send(p_data(context_id, 0, bytes(100_000)))


def abort(asked: Asked) -> None:
    asked.line.send(pdu.abort())


def huge(_: Asked) -> bytes:
    return struct.pack(">BxI", 4, HUGE) + bytes(1 << 20)


def is_moved(pacs: dict[str, Any]) -> dict[str, Any]:
    return {"method": "move"} | pacs


LOST = RowState.INCOMPLETE
NO_ANSWER = "gives no answer to the request"
MODES: dict[str, tuple[dict[str, Any], RowState | type[PullEnded], str]] = {
    # the answer to the request for an association
    "says nothing": ({"accept": says()}, PullEnded, NO_ANSWER),
    "half a header of A-ASSOCIATE-AC": ({"accept": half(4)}, PullEnded, NO_ANSWER),
    "half a body of A-ASSOCIATE-AC": ({"accept": half(80)}, PullEnded, NO_ANSWER),
    "an A-ASSOCIATE-AC of 4 GiB": ({"accept": says(struct.pack(">BxI", 2, HUGE), bytes(9999))}, PullEnded, "broke"),
    "aborts": ({"accept": says(pdu.abort())}, PullEnded, "aborted"),
    "closes": ({"accept": lambda line: line.sock.close()}, PullEnded, NO_ANSWER),
    # C-FIND
    "no answer to C-FIND": ({"find": answers(lambda _: b"")}, RowState.REFUSED, "did not end within"),
    "half a header in C-FIND": ({"find": answers(lambda a: end(a)[:4])}, RowState.REFUSED, "no answer in time"),
    "half a body in C-FIND": ({"find": answers(lambda a: end(a)[:40])}, RowState.REFUSED, "no answer in time"),
    "a PDU of 4 GiB in C-FIND": ({"find": answers(huge, again=True)}, RowState.REFUSED, "broke the protocol"),
    "a value longer than its PDU": (
        {"find": answers(lambda a: struct.pack(">BxIIBB", 4, 10, HUGE, a.context_id, 3) + bytes(4))},
        RowState.REFUSED,
        "broke the protocol",
    ),
    "pending without end and without answers": (
        {"find": answers(pending(0x20), again=True)},
        RowState.REFUSED,
        "more than 10 matches",
    ),
    "empty PDUs without end": (
        {"find": answers(lambda a: p_data(a.context_id, 1, b"") * 999, again=True)},
        RowState.REFUSED,
        "did not end within",
    ),
    "an answer nested 10,000 deep": ({"find": answer_of(DEEP)}, RowState.REFUSED, "too_deep"),
    "an answer nested deep in UN": (
        {"find": answer_of(DEEP.replace(b"SQ\0\0", b"UN\0\0"))},
        RowState.REFUSED,
        "cannot be read",
    ),
    "lengths of items that lie": (
        {
            "find": answer_of(
                ANSWERS["STUDY"] + OPENED[:12] + struct.pack("<HHI", 0xFFFE, 0xE000, 0x7FFFFFFF) + bytes(9)
            )
        },
        RowState.REFUSED,
        "cannot be read",
    ),
    "an element longer than the answer": (
        {"find": answer_of(ANSWERS["STUDY"] + struct.pack("<HH2sH", 8, 0x1030, b"LO", 60_000))},
        RowState.REFUSED,
        "cannot be read (cut_off)",
    ),
    "a context that was not accepted": (
        {"find": answers(lambda a: message(99, response(0x20, a.number, 0)))},
        RowState.REFUSED,
        "broke the protocol",
    ),
    "answers to another message first": ({"find": others_first}, RowState.COMPLETE, ""),
    "a SOP class that is no UID": ({"find": odd_class}, RowState.COMPLETE, ""),
    "a status that is unknown": ({"find": lambda a: a.respond(0x20, 0x1234)}, RowState.REFUSED, "0x1234"),
    "an abort in C-FIND": ({"find": abort}, RowState.REFUSED, "aborted"),
    "a release in C-FIND": (
        {"find": answers(lambda _: pdu.release_request())},
        RowState.REFUSED,
        "the peer released the association",
    ),
    # C-GET
    "no answer to C-GET": ({"retrieve": answers(lambda _: b"")}, LOST, "no answer in time"),
    "half an instance": ({"retrieve": half_an_instance}, LOST, "no answer in time"),
    "an instance without end": ({"retrieve": instance_without_end, "max_get_bytes": 1 << 20}, LOST, "max_get_bytes"),
    "instances without end": ({"retrieve": store_without_end}, LOST, "more instances than were asked for"),
    "a PDU of 4 GiB in C-GET": ({"retrieve": answers(huge, again=True)}, LOST, "broke the protocol"),
    "success without an instance": (
        {"retrieve": lambda a: a.respond(0x10, 0, counts=(0, 65_535, 0, 0))},
        LOST,
        "the peer says that it sent everything",
    ),
    "an abort in C-GET": ({"retrieve": abort}, LOST, "aborted"),
    # C-MOVE
    "no answer to C-MOVE": (is_moved({"retrieve": answers(lambda _: b"")}), LOST, "no answer in time"),
    "pending without end in C-MOVE": (is_moved({"retrieve": drip}), LOST, "says that it goes on"),
    "a flood of pending in C-MOVE": (
        is_moved({"retrieve": answers(pending(0x21), again=True)}),
        LOST,
        "says that it goes on",
    ),
    # A-RELEASE
    "no answer to a release": ({"release": lambda line: line.hold()}, RowState.COMPLETE, ""),
    "half an answer to a release": ({"release": says(b"\6\0\0")}, RowState.COMPLETE, ""),
}


def high_water_bytes() -> int:
    """The most memory that this process had since `reset_high_water`."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) << 10


def reset_high_water() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # proc(5)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TRIES", 1)
    monkeypatch.setattr(fetching, "SHORT_SETTLE_S", 0.1)
    monkeypatch.setattr(getting, "SPARE_INSTANCES", 20)
    monkeypatch.setattr(peer, "DRAIN_S", 0.5)
    monkeypatch.setattr(peer, "STANDSTILL", 3)
    monkeypatch.setattr(peer, "MOST_RESPONSES", 2000)


def puller_of(folder: Path, port: int, pacs: dict[str, Any], **times: float) -> Puller:
    """Who pulls the one study, with short deadlines."""
    short = {"connect_s": 1, "pdu_s": 1, "find_s": 1.5, "answer_s": 1, "settle_s": 0.1} | times
    settings = {"method": "get", "attempts": 1, "parallel": 1, "max_matches": 10, "times": short}
    settings |= {key: pacs[key] for key in ("method", "max_get_bytes") if key in pacs}
    puller = Puller(folder, "BAD", port, settings, {"deadlines": {"drain_s": 1}})
    puller.write(["StudyInstanceUID", STUDY])
    return puller


def script_of(pacs: dict[str, Any]) -> BadPacs:
    return BadPacs(**{key: value for key, value in pacs.items() if key not in ("method", "max_get_bytes")})


@pytest.mark.parametrize("mode", MODES)
def test_a_bad_pacs_costs_its_row_or_the_run_in_time_and_no_memory(tmp_path: Path, mode: str) -> None:
    pacs, expected, words = MODES[mode]
    with ScriptedPeer(script_of(pacs)) as server:
        puller = puller_of(tmp_path, server.port, pacs)
        reset_high_water()
        before, started = high_water_bytes(), time.monotonic()
        if isinstance(expected, RowState):
            (outcome,) = puller.pull().outcomes
            assert outcome.state is expected
            assert words in outcome.problem
        else:
            with pytest.raises(PullEnded, match=words):
                puller.pull()
        assert time.monotonic() - started < 30  # a few seconds, on a machine that does nothing else
        assert high_water_bytes() - before < 64 << 20
    assert len(puller.new()) == (1 if expected is RowState.COMPLETE else len(puller.new()))
    assert not list((puller.data / "spool" / "tmp").iterdir())


def test_an_instance_by_c_get_is_in_the_spool_and_never_in_memory(tmp_path: Path) -> None:
    """200 MB as they come: their own bytes, within the memory of any other instance."""
    size = 200 << 20
    head = DATA_SET + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, size)
    fragment = bytes(100_000)

    def retrieve(asked: Asked) -> None:
        context_id = asked.line.context_of(CT)
        store = dimse.request(dimse.Field.C_STORE_RQ, 77, CT, sop_instance_uid=INSTANCE)
        asked.line.send(p_data(context_id, 3, store) + p_data(context_id, 0, head))
        for left in range(size, 0, -len(fragment)):
            part = fragment[:left]
            asked.line.send(p_data(context_id, 2 * (left <= len(fragment)), part))
        assert asked.line.read_message()[1].status == 0
        asked.respond(0x10, 0x0000, counts=(0, 1, 0, 0))

    with ScriptedPeer(BadPacs(retrieve=retrieve)) as server:
        puller = puller_of(tmp_path, server.port, {}, answer_s=30)
        reset_high_water()
        before = high_water_bytes()
        (outcome,) = puller.pull().outcomes
        assert outcome.state is RowState.COMPLETE
        assert high_water_bytes() - before < 64 << 20
    (kept,) = puller.new()
    content = kept.read_bytes()
    assert content.endswith(head + bytes(size))


@pytest.mark.parametrize(
    ("mode", "by"),
    [
        ("says nothing", signal.SIGTERM),
        ("half a body in C-FIND", signal.SIGINT),
        ("no answer to C-GET", signal.SIGTERM),
        ("pending without end in C-MOVE", signal.SIGINT),
    ],
)
def test_a_pull_that_a_bad_pacs_holds_stops_at_a_signal(tmp_path: Path, mode: str, by: signal.Signals) -> None:
    """Within the drain time (1 s), though the deadlines are far away; the row stays for the next run."""
    pacs, _, _ = MODES[mode]
    script = script_of(pacs)
    long = dict.fromkeys(("connect_s", "pdu_s", "find_s", "answer_s"), 300)
    with ScriptedPeer(script) as server:
        puller = puller_of(tmp_path, server.port, pacs, **long)
        process = puller.start()
        try:
            assert script.reached.wait(100)
            signalled = time.monotonic()
            process.send_signal(by)
            out, err = process.communicate(timeout=100)
        finally:
            process.kill()
        assert time.monotonic() - signalled < 10
    assert process.returncode == 130, (out, err)
    assert "the same command goes on" in err
