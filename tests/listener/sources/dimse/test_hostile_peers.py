"""What a peer can do wrong, by accident or not, with a well-behaved sender beside it that must not notice.

F.. are the numbers of the faults this project promises to withstand; here each is run in a small form.
"""

from __future__ import annotations

import os
import resource
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped] # it ships no types
import pytest

from tests.listener.requestor import (
    CT,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    Requestor,
    command,
    data_set,
    eventually,
    explicit,
    item,
    pdu,
    pdv,
    proposed,
    request,
    stored_data_set,
    user_information,
)
from tests.listener.well_behaved import PATIENCE_S, WellBehaved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.listener.requestor import Receiver

ATTACKER = "127.0.0.2"
FULL = os.environ.get("EXPORTER_TEST_PEERS") == "full"
WHY_NOT = "minutes long: EXPORTER_TEST_PEERS=full"
QUICK: dict[str, Any] = {
    "deadlines": {"request_s": 1.0, "pdu_s": 1.0, "idle_s": 30.0, "drain_s": 3.0},
    "limits": {"max_associations": 40, "max_associations_per_peer": 20, "max_instance_bytes": 2_000_000},
}


ANSWERED_OTHERWISE = ("f01", "f17_a_pdu", "f18_f24", "f19", "f21_every", "f21_a_command", "f22")
"""Rows whose answers the second engine gives in its own way: `engine_probe` lists them with the clause that decides."""
COSTS_MORE = ("f16", "f25_many")
"""pynetdicom asks each connection a thousand times a second whether something has come, and 360 in a storm keep others
waiting: see docs/receiving.md."""


@pytest.fixture(params=["native", pytest.param("pynetdicom", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "pynetdicom" and request.node.originalname.startswith(
        tuple(f"test_{row}_" for row in (*ANSWERED_OTHERWISE, *COSTS_MORE))
    ):
        pytest.skip("the second engine does it in its own way: see engine_probe and docs/receiving.md")
    return str(request.param)


# pynetdicom's threads break over some of what is sent to them, and leave sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Invalid value for VR UI"),  # pydicom's, about UIDs in command sets
]


@pytest.fixture
def attacked(receive: Callable[..., Receiver], engine: str) -> Iterator[Receiver]:
    """A receiver with short deadlines, while a well-behaved sender uses it; nothing is left over at the end."""
    receiver = receive(listener=dict(QUICK))
    threads = threading.active_count()
    with WellBehaved(receiver.requestor, PATIENCE_S if engine == "native" else 5 * PATIENCE_S):
        yield receiver
    eventually(lambda: threading.active_count() <= threads, "threads of the attack are gone")
    eventually(lambda: not list((receiver.spool / "tmp").iterdir()), "nothing half-received is left")


def established(receiver: Receiver, *contexts: bytes, **options: Any) -> Requestor:
    requestor = receiver.requestor(source=ATTACKER)
    assert requestor.associate(*contexts, **options)[0] == 2
    return requestor


# -- A. names, paths, identity -----------------------------------------------------------------------------------------

HOSTILE_NAMES = ["../../x", "/abs/x", "..", ".", "", "1" * 300, "a\0b", "a\nb", ";rm -rf", "%s%n", "\u202e1.2", "1.2/3"]


@pytest.mark.parametrize("uid", HOSTILE_NAMES)
def test_f01_a_uid_from_the_wire_is_never_a_path(attacked: Receiver, tmp_path: Path, uid: str) -> None:
    before = {p for p in tmp_path.rglob("*") if attacked.spool not in p.parents}
    with established(attacked) as requestor:
        statuses = [requestor.store(uid, data_set(u)).status for u in (uid, "1.2.3")]
        assert requestor.store("1.2.3.4", data_set(uid)).status in (0xA900, 0xC000)
    assert statuses[0] in (0xB007, 0xA900, 0xC000)
    assert statuses[1] == 0xA900
    assert {p for p in tmp_path.rglob("*") if attacked.spool not in p.parents} == before
    hostile = [p for p in attacked.spool.rglob("*.dcm") if not p.name[:20].isdigit() or len(p.name) != 41]
    assert hostile == []


@pytest.mark.parametrize("title", ["../secret/X", "x/../y", "\nFORGED", "WRONG"])
def test_f03_a_called_ae_title_that_is_not_ours_is_rejected(attacked: Receiver, title: str) -> None:
    with attacked.requestor(source=ATTACKER) as requestor:
        assert requestor.associate(called=title) == (3, bytes((0, 1, 1, 7)))


def test_f02_names_in_ae_titles_go_into_elements_and_never_into_paths(attacked: Receiver) -> None:
    with established(attacked, calling="../../etc/x") as requestor:
        assert requestor.store().status == 0
    assert not [p for p in attacked.spool.rglob("*") if "etc" in p.name]


def test_f02_hostile_identifiers_of_study_series_and_patient_never_become_paths(
    attacked: Receiver, tmp_path: Path
) -> None:
    before = {p for p in tmp_path.rglob("*") if attacked.spool not in p.parents}
    with established(attacked) as requestor:
        for number, name in enumerate(("../../x", "/abs/x", "..", ";rm -rf", "%s%n", "a\nb")):
            uid = f"1.88.{number}"
            content = data_set(uid) + explicit(0x00100020, b"LO", name.encode())
            more = explicit(0x0020000D, b"UI", name.encode()) + explicit(0x0020000E, b"UI", name.encode())
            at = content.index(explicit(0x7FE00010, b"OW", b"\1\2" * 500))
            assert requestor.store(uid, content[:at] + more + content[at:]).status in (0, 0xC000)
    assert {p for p in tmp_path.rglob("*") if attacked.spool not in p.parents} == before
    assert not [p for p in attacked.spool.rglob("*.dcm") if not p.name[:20].isdigit() or len(p.name) != 41]


def test_f08_a_class_that_was_not_negotiated_is_refused(attacked: Receiver) -> None:
    with established(attacked) as requestor:
        assert requestor.store(sop_class="1.2.840.10008.5.1.4.1.1.4").status == 0x0122
        assert requestor.store("1.2.3", data_set(sop_class="1.2.840.10008.5.1.4.1.1.4")).status == 0xA900


def test_f08_a_class_that_was_not_negotiated_is_kept_with_a_warning_where_mismatches_are(
    receive: Callable[..., Receiver],
) -> None:
    receiver = receive(listener={"mismatch": "accept"})
    deflated = "1.2.840.10008.1.2.1.99"
    with receiver.requestor() as requestor:
        assert requestor.associate(proposed(1, CT, EXPLICIT), proposed(3, CT, deflated))[0] == 2
        assert requestor.store("1.2.3", data_set("1.2.3"), sop_class="31").status == 0xB007
        assert requestor.store("1.2.3", b"\3\0", sop_class="31", context=3).status == 0xB007
        assert requestor.store("1.2.3", data_set("1.2.3")).status == 0
    assert sum(stored_data_set(p) == data_set("1.2.3") for p in receiver.new()) == 2


def test_f09_the_same_instance_from_two_senders_at_once_is_kept_from_both(attacked: Receiver) -> None:
    with established(attacked) as one, established(attacked) as other:
        for requestor in (one, other):
            requestor.send(pdu(4, pdv(1, 3, requestor.store_command("1.9.9"))))
            requestor.send(pdu(4, pdv(1, 0, data_set("1.9.9")[:50])))
        for requestor in (one, other):
            requestor.send(pdu(4, pdv(1, 2, data_set("1.9.9")[50:])))
        assert [one.response().status, other.response().status] == [0, 0]
    assert sum(stored_data_set(p) == data_set("1.9.9") for p in attacked.new()) == 2


def test_f09_a_hundred_times_the_same_bytes_are_a_hundred_items(attacked: Receiver) -> None:
    with established(attacked) as requestor:
        assert {requestor.store("1.9.10").status for _ in range(100)} == {0}
    assert sum(stored_data_set(p) == data_set("1.9.10") for p in attacked.new()) == 100


def test_f10_uids_that_differ_in_padding_or_zeros_overwrite_nothing(attacked: Receiver) -> None:
    with established(attacked) as requestor:
        uids = ("1.2.30", "1.2.030", "1.2.3", "1.2.3\0")
        before = attacked.new()
        for uid in uids:
            assert requestor.store(uid).status == 0
    kept = Counter(stored_data_set(path) for path in attacked.new() if path not in before)
    assert Counter(data_set(uid) for uid in uids) <= kept  # the well-behaved sender stores, too


# -- B. network --------------------------------------------------------------------------------------------------------


def test_f11_a_thousand_connections_that_say_nothing_and_go(attacked: Receiver) -> None:
    for _ in range(1000):
        socket.create_connection(("127.0.0.1", attacked.port), source_address=(ATTACKER, 0)).close()


def test_f12_silent_connections_are_closed_at_the_deadline(attacked: Receiver) -> None:
    with ExitStack() as stack:
        started = time.monotonic()
        silent = [stack.enter_context(attacked.requestor(source=f"127.0.0.{3 + n % 4}", wait_s=8.0)) for n in range(60)]
        assert all(requestor.is_closed() for requestor in silent)
        assert time.monotonic() - started < 8


STALLS = {
    "mid header": b"\1\0\0",
    "mid request": request(proposed(1, CT, EXPLICIT))[:-20],
    "mid value": None,
    "mid message": None,
}


@pytest.mark.parametrize("where", list(STALLS))
def test_f13_a_stall_is_cut_at_the_deadline(attacked: Receiver, where: str) -> None:
    stall = STALLS[where]
    if stall is not None:
        requestor = attacked.requestor(source=ATTACKER)
        requestor.send(stall)
    else:
        requestor = established(attacked)
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command())))
        content = pdu(4, pdv(1, 0, data_set()))
        requestor.send(content if where == "mid message" else content[:-30])
    with requestor:
        started = time.monotonic()
        assert requestor.is_closed()
        assert time.monotonic() - started < 6


def test_f13_a_trickle_of_single_bytes_is_cut_at_the_deadline(attacked: Receiver) -> None:
    with attacked.requestor(source=ATTACKER) as requestor:
        until = time.monotonic() + 6

        def trickle() -> None:
            for byte in request(proposed(1, CT, EXPLICIT)):
                assert time.monotonic() < until
                requestor.send(bytes((byte,)))
                time.sleep(0.1)  # the attack itself

        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            trickle()


@pytest.mark.skipif(not FULL, reason=WHY_NOT)
def test_f14_a_sender_of_256_kb_per_second_and_long_round_trips_is_not_cut_in_minutes(
    receive: Callable[..., Receiver],
) -> None:
    """The deadlines are the defaults; the sender pauses as if its window had to cross the world before each burst."""
    receiver = receive()
    content = data_set(pixels=os.urandom(75 << 20))
    with WellBehaved(receiver.requestor), receiver.requestor(source=ATTACKER) as requestor:
        assert requestor.associate()[0] == 2
        started = time.monotonic()
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command())))
        for number, start in enumerate(range(0, len(content), 16_000), 1):
            piece = content[start : start + 16_000]
            requestor.send(pdu(4, pdv(1, 2 if start + len(piece) == len(content) else 0, piece)))
            if number % 24 == 0:
                time.sleep(1.5)  # the slow line itself
        assert requestor.response().status == 0
        print(f"{len(content) >> 20} MB in {time.monotonic() - started:.0f} s")  # noqa: T201 - a figure
    assert any(p.stat().st_size > len(content) and stored_data_set(p) == content for p in receiver.new())


def test_f14_a_slow_but_steady_sender_is_not_cut(attacked: Receiver) -> None:
    content = data_set(pixels=os.urandom(60_000))
    with established(attacked) as requestor:
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command())))
        for start in range(0, len(content), 4096):
            requestor.send(pdu(4, pdv(1, 2 if start + 4096 >= len(content) else 0, content[start : start + 4096])))
            time.sleep(0.15)  # in all far longer than any one deadline
        assert requestor.response().status == 0


def test_f15_associations_beyond_the_limit_are_rejected_at_once_and_the_rest_is_served(attacked: Receiver) -> None:
    with ExitStack() as stack:
        answers = []
        for _ in range(60):
            requestor = stack.enter_context(attacked.requestor(source=ATTACKER))
            started = time.monotonic()
            answers.append(requestor.associate())
            assert time.monotonic() - started < 2
        accepted = [kind for kind, _ in answers if kind == 2]
        rejected = [body for kind, body in answers if kind == 3]
        assert len(accepted) == 20
        assert set(rejected) == {bytes((0, 2, 3, 2))}
        assert len(rejected) == 40


def test_f16_fifty_idle_associations_cost_next_to_nothing(receive: Callable[..., Receiver]) -> None:
    receiver = receive()
    with ExitStack() as stack:
        for _ in range(50):
            assert stack.enter_context(receiver.requestor()).associate()[0] == 2
        with WellBehaved(receiver.requestor):
            pass
        process = psutil.Process()
        before, started = sum(process.cpu_times()[:2]), time.monotonic()
        time.sleep(2)  # the measurement
        share = (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - started)
    print(f"50 idle associations: {share:.1%} of a core")  # noqa: T201 - a figure
    assert share < 0.05


BAD_PDUS = {
    "length 4 GiB": struct.pack(">BxI", 4, 0xFFFFFFFF),
    "length 0": struct.pack(">BxI", 4, 0),
    "length 1": struct.pack(">BxI", 4, 1) + b"x",
    "type 0": struct.pack(">BxI", 0, 4) + bytes(4),
    "type 8": struct.pack(">BxI", 8, 4) + bytes(4),
    "type 255": struct.pack(">BxI", 255, 0xFFFFFFFF),
    "longer than advertised": struct.pack(">BxI", 4, 131073),
    "a second request": request(proposed(1, CT, EXPLICIT)),
    "an accept": pdu(2, bytes(68)),
    "a release of 4 GiB": struct.pack(">BxI", 5, 0xFFFFFFFF),
}


@pytest.mark.parametrize("name", list(BAD_PDUS))
def test_f17_a_pdu_that_must_not_be_is_answered_with_an_abort(attacked: Receiver, name: str) -> None:
    with established(attacked) as requestor:
        started = time.monotonic()
        requestor.send(BAD_PDUS[name])
        kind, body = requestor.receive()
        assert kind == 7
        assert body[2] == 2  # by the service provider
        assert time.monotonic() - started < 1.5


def test_f17_a_claimed_length_takes_no_memory(attacked: Receiver) -> None:
    before = psutil.Process().memory_info().rss
    with attacked.requestor(source=ATTACKER) as requestor:
        requestor.send(struct.pack(">BxI", 1, 0xFFFFFFFF))
        with suppress(OSError):
            for _ in range(100):
                requestor.send(bytes(1 << 20))
        assert requestor.is_closed()
    assert psutil.Process().memory_info().rss - before < 8 << 20


CONTEXTS = [proposed(n, CT, EXPLICIT) for n in range(1, 256, 2)]
BAD_REQUESTS = {
    "no items": pdu(1, struct.pack(">HH", 1, 0) + b"EXPORTER".ljust(16) + b"X".ljust(16) + bytes(32)),
    "empty": pdu(1, b""),
    "item length lies": request(b"\x20\0\xff\xff" + bytes(20)),
    "no context": request(),
    "no user information": request(proposed(1, CT, EXPLICIT), user=b""),
    "even context": request(proposed(2, CT, EXPLICIT)),
    "context twice": request(proposed(1, CT, EXPLICIT), proposed(1, CT, EXPLICIT)),
    "128 even contexts": request(*(proposed(n, CT, EXPLICIT) for n in range(2, 256, 2))),
    "no transfer syntax": request(proposed(1, CT)),
    "UID of letters": request(proposed(1, "../../etc/passwd", EXPLICIT)),
    "UID of 64 KB": request(proposed(1, CT, "1" * 60000)),
    "64 KB of user information": request(
        proposed(1, CT, EXPLICIT), user=user_information(item(0x56, struct.pack(">H", 65000) + bytes(10)))
    ),
    "a data PDU first": pdu(4, pdv(1, 3, b"x" * 20)),
    "an HTTP request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + bytes(100),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600),
    "garbage": bytes(range(256)) * 8,
}


@pytest.mark.parametrize("name", list(BAD_REQUESTS))
def test_f18_f24_a_request_that_is_none_is_answered_and_its_place_is_free_at_once(
    attacked: Receiver, name: str
) -> None:
    with attacked.requestor(source=ATTACKER, wait_s=3.0) as requestor:
        requestor.send(BAD_REQUESTS[name])
        assert requestor.receive()[0] in (3, 7)
        requestor.sock.shutdown(socket.SHUT_WR)
        assert requestor.is_closed()


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ({"version": 0}, bytes((0, 1, 2, 2))),
        ({"application_context": b"1.2.3"}, bytes((0, 1, 1, 2))),
        ({"called": "SOMEBODY"}, bytes((0, 1, 1, 7))),
    ],
)
def test_f18_f26_a_request_that_does_not_fit_is_rejected_with_its_reason(
    attacked: Receiver, asked: dict[str, Any], answer: bytes
) -> None:
    with attacked.requestor(source=ATTACKER) as requestor:
        assert requestor.associate(**asked) == (3, answer)


def test_f18_as_many_contexts_as_there_can_be_are_answered(attacked: Receiver) -> None:
    with attacked.requestor(source=ATTACKER) as requestor:
        kind, body = requestor.associate(*CONTEXTS)
        assert kind == 2
        assert body.count(EXPLICIT.encode()) == 128


BAD_VALUES: dict[str, Callable[[Requestor], bytes]] = {
    "context that was not accepted": lambda r: pdu(4, pdv(99, 3, r.store_command())),
    "command after command": lambda r: pdu(4, pdv(1, 3, r.store_command())) * 2,
    "data before its command": lambda _: pdu(4, pdv(1, 2, data_set())),
    "data on another context": lambda r: pdu(4, pdv(1, 3, r.store_command()) + pdv(3, 2, data_set())),
    "value of length 0": lambda _: pdu(4, struct.pack(">IBB", 0, 1, 3)),
    "value of length 1": lambda _: pdu(4, struct.pack(">IBB", 1, 1, 3)),
    "value longer than its PDU": lambda _: pdu(4, struct.pack(">IBB", 500, 1, 3) + bytes(20)),
    "PDU of five bytes": lambda _: pdu(4, bytes(5)),
    "two messages interleaved": lambda r: pdu(4, pdv(1, 1, b"abc") + pdv(3, 3, r.store_command())),
    "endless command": lambda _: pdu(4, pdv(1, 1, bytes(60000))),
    "command that is none": lambda _: pdu(4, pdv(1, 3, b"\xff" * 64)),
    "empty command": lambda _: pdu(4, pdv(1, 3, b"")),
    "response to nothing": lambda _: pdu(
        4, pdv(1, 3, command({2: CT.encode(), 0x100: 0x8001, 0x120: 1, 0x800: 0x101}))
    ),
}


@pytest.mark.parametrize("name", list(BAD_VALUES))
def test_f19_values_out_of_place_end_the_association(attacked: Receiver, name: str) -> None:
    with established(attacked) as requestor:
        requestor.send(BAD_VALUES[name](requestor))
        assert requestor.receive()[0] == 7


def test_f20_an_endless_data_set_is_cut_and_takes_no_disk(attacked: Receiver) -> None:
    with established(attacked) as requestor:
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command())))
        piece = pdu(4, pdv(1, 0, bytes(100_000)))
        with suppress(OSError):
            for _ in range(200):
                requestor.send(piece)
        assert requestor.is_closed()
    assert sum(p.stat().st_size for p in attacked.spool.rglob("*") if p.is_file()) < 3_000_000


QUESTIONS: dict[str, tuple[dict[int, bytes | int], set[int]]] = {
    "store without data set": ({2: CT.encode(), 0x100: 1, 0x110: 7, 0x800: 0x101, 0x1000: b"1.2"}, {0xC000}),
    "find": ({2: CT.encode(), 0x100: 0x20, 0x110: 7, 0x800: 0x101}, {0x0211}),
    "move": ({2: CT.encode(), 0x100: 0x21, 0x110: 7, 0x800: 0x101}, {0x0211}),
    "N-ACTION": ({3: CT.encode(), 0x100: 0x130, 0x110: 7, 0x800: 0x101, 0x1001: b"1.2", 0x1008: 1}, {0x0211}),
    "echo on a storage context": ({2: VERIFICATION.encode(), 0x100: 0x30, 0x110: 7, 0x800: 0x101}, {0x0122}),
    "unheard of": ({2: CT.encode(), 0x100: 0x7777, 0x110: 7, 0x800: 0x101}, {0x0211}),
}


@pytest.mark.parametrize("name", list(QUESTIONS))
def test_f21_every_question_gets_an_answer(attacked: Receiver, name: str) -> None:
    elements, statuses = QUESTIONS[name]
    with established(attacked) as requestor:
        requestor.send(pdu(4, pdv(1, 3, command(elements))))
        response = requestor.response()
        assert response.status in statuses
        assert int.from_bytes(response.elements[0x0120], "little") == 7
        assert requestor.store().status == 0


@pytest.mark.parametrize("missing", [0x0100, 0x0110])
def test_f21_a_command_that_cannot_be_answered_ends_the_association(attacked: Receiver, missing: int) -> None:
    elements: dict[int, bytes | int] = {2: CT.encode(), 0x100: 1, 0x110: 7, 0x800: 0x102, 0x1000: b"1.2"}
    del elements[missing]
    with established(attacked) as requestor:
        requestor.send(pdu(4, pdv(1, 3, command(elements))))
        assert requestor.receive()[0] == 7


def test_f21_a_message_id_may_be_used_again_and_a_cancel_is_ignored(attacked: Receiver) -> None:
    with established(attacked) as requestor:
        requestor.send(pdu(4, pdv(1, 3, command({0x100: 0x0FFF, 0x120: 1, 0x800: 0x101}))))
        for _ in range(2):
            cmd = command({2: CT.encode(), 0x100: 1, 0x110: 5, 0x700: 0, 0x800: 0x102, 0x1000: b"1.2.3"})
            requestor.send(pdu(4, pdv(1, 3, cmd) + pdv(1, 2, data_set())))
            assert requestor.response().status == 0


@pytest.mark.parametrize("window", [(0, 0), (50, 50), (1, 1)])
def test_f22_any_asynchronous_window_is_answered_with_one(attacked: Receiver, window: tuple[int, int]) -> None:
    user = user_information(item(0x53, struct.pack(">HH", *window)))
    with attacked.requestor(source=ATTACKER) as requestor:
        kind, body = requestor.associate(user=user)
        assert kind == 2
        assert item(0x53, struct.pack(">HH", 1, 1)) in body
        many = b"".join(
            pdu(4, pdv(1, 3, requestor.store_command(f"1.2.{n}")) + pdv(1, 2, data_set(f"1.2.{n}")))
            for n in range(1, 30)
        )
        requestor.send(many)  # pipelined all the same
        assert [requestor.response().status for _ in range(29)] == [0] * 29


def test_f23_a_connection_that_breaks_anywhere_leaves_nothing(attacked: Receiver) -> None:
    with established(attacked) as model:
        stream = pdu(4, pdv(1, 3, model.store_command("1.77.1"))) + pdu(4, pdv(1, 2, data_set("1.77.1")))
    for cut in range(0, len(stream) - 1, 37):
        requestor = established(attacked)
        if cut % 2:  # a reset instead of an orderly close
            requestor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        requestor.send(stream[:cut])
        requestor.sock.close()
    content = data_set("1.77.1")
    assert not [p for p in attacked.new() if stored_data_set(p) == content]


def test_f25_many_short_associations_leave_no_threads_descriptors_or_memory(attacked: Receiver) -> None:
    process = psutil.Process()

    def storm(rounds: int) -> None:
        for n in range(rounds):
            with attacked.requestor(source=ATTACKER) as requestor:
                if n % 3 == 0:
                    requestor.associate(called="WRONG")
                elif n % 3 == 1:
                    requestor.associate()
                    requestor.send(pdu(7, bytes(4)))
                requestor.sock.shutdown(socket.SHUT_WR)
                requestor.is_closed()

    storm(60)
    files, memory = process.num_fds(), process.memory_info().rss
    storm(300)
    eventually(lambda: process.num_fds() <= files + 12, "descriptors are given back")
    assert process.memory_info().rss - memory < 6 << 20


def test_f26_only_listed_titles_and_networks_may_send(receive: Callable[..., Receiver]) -> None:
    peers = [{"ae_title": "MODALITY", "networks": ["127.0.0.1/32"]}, {"networks": ["127.0.0.9/32"]}]
    peers.append({"ae_title": "WELLBEHAVED"})
    receiver = receive(listener={"peers": peers})
    with WellBehaved(receiver.requestor):
        with receiver.requestor() as requestor:
            assert requestor.associate(calling="MODALITY")[0] == 2
        with receiver.requestor(source="127.0.0.9") as requestor:
            assert requestor.associate(calling="ANYBODY")[0] == 2
        for _ in range(20):
            with receiver.requestor() as requestor:
                assert requestor.associate(calling="STRANGER") == (3, bytes((0, 1, 1, 3)))


def test_f26_an_address_that_no_peer_has_is_closed_without_a_word(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"peers": [{"networks": ["127.0.0.1/32"]}]})
    with WellBehaved(receiver.requestor), receiver.requestor(source="127.0.0.5") as requestor:
        requestor.send(request(proposed(1, CT, EXPLICIT)))
        assert requestor.is_closed()
    assert receiver.count("connections_address_not_allowed") == 1


def test_f27_a_clock_that_is_set_back_and_forth_harms_nobody(
    attacked: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time_ns
    with established(attacked) as requestor:
        for step_h in (0, 1, -1, 5, -5):
            monkeypatch.setattr(time, "time_ns", lambda step_h=step_h: real() + step_h * 3600 * 10**9)
            assert requestor.store(f"1.2.{step_h + 10}").status == 0


def test_f28_out_of_descriptors_it_says_so_and_recovers(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"deadlines": {"request_s": 1.0}})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    with receiver.requestor() as before:
        assert before.associate()[0] == 2
        resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 12, hard))
        try:
            with suppress(OSError):
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            os.close(held.pop())  # for our own socket
            with receiver.requestor() as first:
                first.send(b"\1")
                receiver.wait_for("accept_failed")
        finally:
            for fd in held:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert before.echo().status == 0
        with receiver.requestor() as after:
            assert after.associate()[0] == 2
            assert after.store().status == 0


def test_f28_ipv6_alone_is_listened_on(receive: Callable[..., Receiver]) -> None:
    try:
        receiver = receive(listener={"host": "::1"})
    except Exception as error:  # noqa: BLE001 - whatever this machine lacks
        pytest.skip(f"no IPv6 here: {error}")
    with socket.create_connection(("::1", receiver.port), timeout=5) as sock:
        sock.sendall(request(proposed(1, CT, EXPLICIT)))
        assert sock.recv(6)[0] == 2


def test_a_sequence_nested_deeper_than_permitted_is_refused_at_once(attacked: Receiver) -> None:
    deep = (
        struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ) * 5000
    head = explicit(0x00080016, b"UI", CT.encode()) + explicit(0x00080018, b"UI", b"1.2.3")
    with established(attacked) as requestor:
        assert requestor.store("1.2.3", head + deep).status == 0xC000


def test_a_peer_that_never_reads_is_dropped(attacked: Receiver) -> None:
    with established(attacked) as requestor:
        requestor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        echo = pdu(4, pdv(3, 3, command({2: VERIFICATION.encode(), 0x100: 0x30, 0x110: 1, 0x800: 0x101})))
        requestor.sock.settimeout(0.5)
        until = time.monotonic() + 100

        def ask_and_never_listen() -> None:
            while time.monotonic() < until:
                with suppress(TimeoutError):
                    requestor.send(echo * 1000)

        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            ask_and_never_listen()


def test_tls_handshakes_that_stall_keep_nobody_waiting(receive: Callable[..., Receiver], certificate: Path) -> None:
    receiver = receive(listener={"tls": {"certificate": str(certificate), "handshake_s": 1.5}})
    context = ssl.create_default_context(cafile=str(certificate))
    with ExitStack() as stack:
        silent = [stack.enter_context(receiver.requestor(source=ATTACKER)) for _ in range(20)]
        silent[0].send(b"\x16\x03\x01\x02\x00\x01")
        silent[1].send(request(proposed(1, CT, EXPLICIT)))
        started = time.monotonic()
        with context.wrap_socket(
            socket.create_connection(("127.0.0.1", receiver.port), timeout=5), server_hostname="localhost"
        ) as sock:
            sock.sendall(request(proposed(1, CT, EXPLICIT), proposed(3, VERIFICATION, IMPLICIT)))
            assert sock.recv(6)[0] == 2
        assert time.monotonic() - started < 1.4
        assert all(requestor.is_closed() for requestor in silent)
