"""What we request comes about with real peers, and ends in time with those that stall, lie or flood."""

from __future__ import annotations

import ssl
import struct
import threading
import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pynetdicom import AE, evt

from listener.sources.dimse.upper_layer import command as dimse
from listener.sources.dimse.upper_layer import pdu
from listener.sources.dimse.upper_layer.scu import (
    AssociationBroken,
    NotAccepted,
    NotConnected,
    Proposal,
    RequestError,
    RequestorTimes,
    contexts_of,
    request_association,
)
from tests.listener.sources.dimse.scripted_peer import Gone, Line, ScriptedPeer, element, message, p_data, response
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from listener.sources.dimse.upper_layer.scu import RequestedAssociation, Response

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
ECHO = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
SHORT = RequestorTimes(connect_s=0.5, pdu_s=0.5, release_s=0.5)
PROPOSAL = Proposal("OURS", "PEER", contexts_of([(FIND, (IMPLICIT,)), (ECHO, (IMPLICIT,))]))
LEVEL = element(0x00080052, b"STUDY")


def associate(port: int, **options: Any) -> RequestedAssociation:
    return request_association("127.0.0.1", port, PROPOSAL, SHORT, **options)


def find(association: RequestedAssociation, within_s: float = 0.5, most: int = 100_000) -> list[Response]:
    """The responses to one C-FIND."""
    context = association.context(FIND)
    assert context is not None
    number = association.next_message_id()
    association.send(context, dimse.request(dimse.Field.C_FIND_RQ, number, FIND), LEVEL)
    found: list[Response] = []
    until = time.monotonic() + 2 * within_s
    while len(found) < most:
        found.append(association.response(number, within_s=within_s, until=until, longest_data_bytes=1000))
        if found[-1].status not in (0xFF00, 0xFF01):
            break
    return found


def answers(*parts: Callable[[int, int], bytes]) -> Callable[[Line], None]:
    """A script: accept, take a request, answer by what `parts` make of context and message ID; then as it should."""

    def script(line: Line) -> None:
        line.accept()
        context_id, command, _ = line.read_message()
        for part in parts:
            line.send(part(context_id, command.message_id))
        line.serve_release()

    return script


def pending(context_id: int, number: int) -> bytes:
    return message(context_id, response(0x20, number, 0xFF00, has_data=True), LEVEL)


def done(context_id: int, number: int) -> bytes:
    return message(context_id, response(0x20, number, 0x0000))


# -- peers that do as they should --------------------------------------------------------------------------------------


@pytest.fixture
def real_peer() -> Iterator[int]:
    """pynetdicom with three answers to each C-FIND; its port."""

    def answer(_: evt.Event) -> Iterator[tuple[int, Dataset]]:
        for number in range(3):
            found = Dataset()
            found.PatientID = str(number)
            yield 0xFF00, found

    entity = AE("PEER")
    entity.add_supported_context(FIND)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)])
    assert server is not None
    yield server.server_address[1]
    server.shutdown()


def test_a_real_peer_answers_again_and_again_on_one_association(real_peer: int) -> None:
    with associate(real_peer) as association:
        assert association.context(ECHO) is None  # it was not accepted
        for _ in range(3):
            assert [one.status for one in find(association, within_s=10)] == [0xFF00] * 3 + [0]
    assert not association.is_open


def test_answers_in_fragments_of_any_size_are_put_together() -> None:
    def crumbs(context_id: int, number: int) -> bytes:
        command = response(0x20, number, 0xFF00, has_data=True)
        parts = [p_data(context_id, 1, command[at : at + 1]) for at in range(len(command))]
        parts += [p_data(context_id, 1, b""), p_data(context_id, 3, b"")]
        return b"".join(parts) + p_data(context_id, 0, LEVEL) + p_data(context_id, 2, b"")

    with ScriptedPeer(answers(crumbs, done)) as peer, associate(peer.port) as association:
        first, last = find(association)
    assert (first.data, last.status) == (LEVEL, 0)


def test_several_messages_in_one_pdu_are_each_an_answer() -> None:
    def both(context_id: int, number: int) -> bytes:
        parts = (pending(context_id, number), done(context_id, number))
        values = b"".join(part[6:] for whole in parts for part in split(whole))
        return struct.pack(">BxI", 4, len(values)) + values

    with ScriptedPeer(answers(both)) as peer, associate(peer.port) as association:
        assert [one.status for one in find(association)] == [0xFF00, 0]


def split(content: bytes) -> Iterator[bytes]:
    """PDUs one by one."""
    while content:
        length = 6 + int.from_bytes(content[2:6], "big")
        yield content[:length]
        content = content[length:]


def test_what_answers_another_message_is_passed_over_and_is_not_the_end() -> None:
    def other(context_id: int, number: int) -> bytes:
        return done(context_id, number + 7) + pending(context_id, number + 7)

    with ScriptedPeer(answers(other, pending, other, done)) as peer, associate(peer.port) as association:
        assert [one.status for one in find(association)] == [0xFF00, 0]


def test_a_request_of_the_peer_is_refused_and_what_we_asked_goes_on() -> None:
    refused: list[int] = []

    def script(line: Line) -> None:
        line.accept()
        context_id, command, _ = line.read_message()
        store = dimse.request(dimse.Field.C_STORE_RQ, 9, FIND, sop_instance_uid="1.2")
        line.respond(context_id, store, LEVEL)
        refused.append(line.read_message()[1].status or 0)
        line.send(done(context_id, command.message_id))
        line.serve_release()

    with ScriptedPeer(script) as peer, associate(peer.port) as association:
        assert [one.status for one in find(association)] == [0]
    assert refused == [0x0211]


@pytest.mark.parametrize("end", [pdu.release_request(), pdu.abort(), b""], ids=["release", "abort", "close"])
def test_an_association_that_the_peer_ends_while_it_is_idle_is_known_to_be_over(end: bytes) -> None:
    ended = threading.Event()

    def script(line: Line) -> None:
        line.accept()
        context_id, command, _ = line.read_message()
        line.send(done(context_id, command.message_id))
        assert ended.wait(100)
        line.send(end)

    with ScriptedPeer(script) as peer, associate(peer.port) as association:
        find(association)
        assert association.is_idle
        ended.set()
        until = time.monotonic() + 100
        while association.is_idle:
            assert time.monotonic() < until


@pytest.mark.parametrize("max_pdu_bytes", [0, 1, 50, 128, 16_384])
def test_a_message_is_sent_in_pdus_that_the_peer_receives(max_pdu_bytes: int) -> None:
    data = bytes(100_000)
    longest: list[int] = []

    def script(line: Line) -> None:
        line.read_request()
        line.send(line.answer(max_pdu_bytes=max_pdu_bytes))
        read = line.read_pdu

        def noted() -> tuple[int, bytes]:
            kind, body = read()
            longest.append(len(body))
            return kind, body

        line.read_pdu = noted  # type: ignore[method-assign]
        context_id, command, taken = line.read_message()
        assert taken == data
        line.send(done(context_id, command.message_id))
        line.serve_release()

    with ScriptedPeer(script) as peer, associate(peer.port) as association:
        context = association.context(FIND)
        assert context is not None
        association.send(context, dimse.request(dimse.Field.C_FIND_RQ, 1, FIND), data)
        assert association.response(1, within_s=5).status == 0
    # Limits below any use are met as far as they can be: 64 bytes of a message go into each.
    assert max(longest) <= max(max_pdu_bytes or 128 << 10, 70)


def test_a_rejection_says_its_reason() -> None:
    def script(line: Line) -> None:
        line.read_request()
        line.send(pdu.associate_reject(1, 1, 3))

    with ScriptedPeer(script) as peer, pytest.raises(NotAccepted) as caught:
        associate(peer.port)
    assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 3)


def test_nobody_there_is_said_with_the_systems_word() -> None:
    with pytest.raises(NotConnected, match="Connection refused"):
        associate(free_port())


# -- peers that stall, lie or flood ------------------------------------------------------------------------------------


def garbage(_context_id: int, _number: int) -> bytes:
    return struct.pack(">BxI", 4, 1 << 20) + bytes(1 << 20)


def nothing_but(content: bytes) -> Callable[[Line], None]:
    """A script that answers the request for an association with this, and then says nothing."""

    def script(line: Line) -> None:
        line.read_request()
        line.send(content or b"")
        line.hold()

    return script


def part_of_the_answer(size: int) -> Callable[[Line], None]:
    def script(line: Line) -> None:
        line.read_request()
        line.send(line.answer()[:size])
        line.hold()

    return script


def flood(part: Callable[[int, int], bytes]) -> Callable[[Line], None]:
    """A script that answers a request with the same without end."""

    def script(line: Line) -> None:
        line.accept()
        context_id, command, _ = line.read_message()
        content = part(context_id, command.message_id)
        while True:
            line.send(content)

    return script


def then_hold(*parts: Callable[[int, int], bytes]) -> Callable[[Line], None]:
    def script(line: Line) -> None:
        line.accept()
        context_id, command, _ = line.read_message()
        for part in parts:
            line.send(part(context_id, command.message_id))
        line.hold()

    return script


HUGE = 0xFFFFFFFF
FLOOD = "protocol_error, deadline_missed"
BAD: dict[str, tuple[Callable[[Line], None], str]] = {
    "no answer to the request for an association": (nothing_but(b""), "deadline_missed"),
    "half a header of A-ASSOCIATE-AC": (part_of_the_answer(3), "deadline_missed"),
    "half a body of A-ASSOCIATE-AC": (part_of_the_answer(90), "deadline_missed"),
    "an A-ASSOCIATE-AC of 4 GiB": (nothing_but(struct.pack(">BxI", 2, HUGE) + bytes(100_000)), "protocol_error"),
    "an A-ASSOCIATE-AC of zeros": (nothing_but(struct.pack(">BxI", 2, 200) + bytes(200)), "protocol_error"),
    "another PDU than an answer": (nothing_but(struct.pack(">BxI", 77, HUGE)), "protocol_error"),
    "A-ABORT for an answer": (nothing_but(pdu.abort()), "aborted_by_peer"),
    "no response": (then_hold(), "deadline_missed"),
    "half a header of P-DATA-TF": (then_hold(lambda c, n: done(c, n)[:3]), "deadline_missed"),
    "half a body of P-DATA-TF": (then_hold(lambda c, n: done(c, n)[:30]), "deadline_missed"),
    "a command without its data set": (
        then_hold(lambda c, n: p_data(c, 3, response(0x20, n, 0xFF00, has_data=True))),
        "deadline_missed",
    ),
    "a P-DATA-TF of 4 GiB": (flood(lambda _c, _n: struct.pack(">BxI", 4, HUGE) + bytes(1 << 20)), "protocol_error"),
    "a value longer than its PDU": (
        then_hold(lambda c, _: struct.pack(">BxIIBB", 4, 10, HUGE, c, 3) + bytes(4)),
        "protocol_error",
    ),
    "a value of length 0": (then_hold(lambda c, _: struct.pack(">BxIIBB", 4, 6, 0, c, 3)), "protocol_error"),
    "pending without end": (flood(lambda c, n: pending(c, n) * 100), "deadline_missed"),
    "answers to others without end": (flood(lambda c, n: done(c, n + 1) * 100), FLOOD),
    "garbage without end": (flood(garbage), "protocol_error"),
    "empty fragments without end": (flood(lambda c, _: p_data(c, 1, b"") * 1000), "deadline_missed"),
    "fragments of a byte without end": (flood(lambda c, _: p_data(c, 1, b"x") * 20_000), FLOOD),
    "a data set without end": (
        flood(lambda c, n: p_data(c, 3, response(0x20, n, 0xFF00, has_data=True)) + p_data(c, 0, bytes(9000)) * 9),
        FLOOD,
    ),
    "a context that was not accepted": (then_hold(lambda c, n: done(c + 100, n)), "protocol_error"),
    "a release in the middle": (then_hold(lambda _c, _n: pdu.release_request()), "released_by_peer"),
    "an abort in the middle": (then_hold(lambda c, n: pending(c, n) + pdu.abort()), "aborted_by_peer"),
    "the end of the connection": (lambda line: line.accept(), "connection_lost"),
    "a second A-ASSOCIATE-AC": (then_hold(lambda _c, _n: pdu.associate_reject(1, 1, 1)), "protocol_error"),
}


@pytest.mark.parametrize("mode", BAD)
def test_a_bad_peer_is_left_within_the_deadlines_and_costs_no_memory(mode: str) -> None:
    script, ended = BAD[mode]
    with ScriptedPeer(script) as peer:
        tracemalloc.start()
        started = time.monotonic()
        with pytest.raises(AssociationBroken) as caught:
            find(associate(peer.port))
        took = time.monotonic() - started
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert caught.value.ended in ended  # the deadline is first where the machine is busy
    assert took < 4  # three deadlines of 0.5 s, and one of 1 s
    assert peak < 40 << 20


def flood_release(line: Line) -> None:
    while True:
        line.send(p_data(1, 1, b"x") * 1000)


@pytest.mark.parametrize("answer", [b"", b"\x16\x03", b"HTTP/1.1 400\r\n"], ids=["silence", "half", "no TLS"])
def test_a_tls_handshake_that_stalls_or_is_none_ends_in_time(answer: bytes) -> None:
    def script(line: Line) -> None:
        line.send(answer)
        line.hold()

    context = ssl.create_default_context()
    with ScriptedPeer(script) as peer:
        started = time.monotonic()
        with pytest.raises(NotConnected) as caught:
            request_association("127.0.0.1", peer.port, PROPOSAL, SHORT, tls=context)
        assert time.monotonic() - started < 3
    assert caught.value.may_pass == (not answer.startswith(b"HTTP"))


def accept_of() -> bytes:
    """The body of an A-ASSOCIATE-AC with everything in it."""
    request = pdu.parse_associate_request(PROPOSAL.encode()[6:])
    accept = pdu.AssociateAccept(
        tuple(pdu.ContextAnswer(one.context_id, pdu.ContextResult.ACCEPTANCE, IMPLICIT) for one in request.contexts),
        16_384,
        "1.2.3",
        "SCRIPTED",
        async_window=(1, 1),
        roles=(pdu.RoleSelection(FIND, scu=True, scp=True),),
        extended=(pdu.ExtendedNegotiation(FIND, b"\1"),),
    )
    return pdu.associate_accept(request, accept)[6:]


def test_what_we_encode_as_a_request_is_what_an_acceptor_reads() -> None:
    proposal = replace(
        PROPOSAL,
        roles=(pdu.RoleSelection(FIND, scu=False, scp=True),),
        extended=(pdu.ExtendedNegotiation(FIND, b"\1"),),
    )
    read = pdu.parse_associate_request(proposal.encode()[6:])
    assert (read.calling_ae_title, read.called_ae_title) == ("OURS", "PEER")
    assert (read.contexts, read.roles, read.extended) == (proposal.contexts, proposal.roles, proposal.extended)
    assert read.max_pdu_bytes == proposal.max_pdu_bytes


def test_a_title_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(ValueError, match="16 characters"):
        replace(PROPOSAL, called_ae_title="X" * 17).encode()


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_an_acceptance_of_any_bytes_is_read_or_invalid(data: st.DataObject) -> None:
    body = bytearray(accept_of())
    for _ in range(data.draw(st.integers(0, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(pdu.InvalidPDU):
        answer = pdu.parse_associate_accept(bytes(body[: data.draw(st.integers(0, len(body)))]))
        assert len(answer.contexts) <= 2


@pytest.mark.parametrize(
    "script",
    [
        lambda line: line.hold(),
        lambda line: line.send(pdu.release_response()[:4]),
        lambda line: line.send(pdu.release_request()),
        lambda line: line.send(pdu.abort()),
        flood_release,
        lambda line: line.send(struct.pack(">BxI", 4, HUGE)),
    ],
    ids=["silence", "half", "release of its own", "abort", "data without end", "4 GiB"],
)
def test_a_release_that_is_not_answered_ends_in_time(script: Callable[[Line], None]) -> None:
    def whole(line: Line) -> None:
        line.accept()
        context_id, command, _ = line.read_message()
        line.send(done(context_id, command.message_id))
        line.read_pdu()
        script(line)
        line.hold()

    with ScriptedPeer(whole) as peer:
        association = associate(peer.port)
        find(association)
        started = time.monotonic()
        association.release()
        assert time.monotonic() - started < 2.5
        assert not association.is_open


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4), st.integers(0, 400))
def test_a_peer_whose_bytes_are_wrong_anywhere_costs_its_association_and_its_time(
    changes: list[tuple[int, int]], cut: int
) -> None:
    def script(line: Line) -> None:
        line.read_request()
        accept = line.answer()
        content = bytearray(accept + pending(1, 1) + done(1, 2) + pending(1, 1) + done(1, 1) + pdu.release_response())
        for at, value in changes:
            content[at % len(content)] = value
        line.send(bytes(content[: len(accept)]))
        line.read_pdu()
        line.send(bytes(content[len(accept) : len(accept) + cut]))
        line.hold()

    times = RequestorTimes(connect_s=0.3, pdu_s=0.2, release_s=0.2)
    with ScriptedPeer(script) as peer:
        started = time.monotonic()
        with (
            suppress(RequestError),
            request_association("127.0.0.1", peer.port, PROPOSAL, times) as association,
            suppress(AssertionError),  # the context is no longer accepted
        ):
            find(association, within_s=0.2)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("mode", ["no answer to the request for an association", "no response", "pending without end"])
def test_the_order_to_stop_ends_every_wait(mode: str) -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    long = RequestorTimes(connect_s=60, pdu_s=60)
    with ScriptedPeer(BAD[mode][0]) as peer:
        started = time.monotonic()
        with pytest.raises(AssociationBroken) as caught:
            find(request_association("127.0.0.1", peer.port, PROPOSAL, long, stopping=stop.is_set), within_s=60)
        assert time.monotonic() - started < 3
    assert caught.value.ended == "stopped"


def test_a_peer_that_reads_nothing_does_not_hold_what_we_send() -> None:
    def script(line: Line) -> None:
        line.accept()
        line.over.wait(20)
        raise Gone

    with ScriptedPeer(script) as peer:
        association = associate(peer.port)
        context = association.context(FIND)
        assert context is not None
        started = time.monotonic()
        with pytest.raises(RequestError):
            association.send(context, dimse.request(dimse.Field.C_FIND_RQ, 1, FIND), bytes(32 << 20))
        assert time.monotonic() - started < 5
