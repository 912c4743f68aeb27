"""Memory and processor time of a peer whose pieces are tiny."""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from listener.sources.dimse.upper_layer.pdu import PDV_HEADER
from listener.sources.dimse.upper_layer.wire import Wire
from tests.listener.requestor import Receiver, data_set, eventually, pdu, pdv, stored_data_set

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def wires(count: int, turn: threading.Lock) -> Iterator[list[tuple[Wire, socket.socket]]]:
    """Connections that share a turn, and their peers."""
    with ExitStack() as stack:
        found = []
        with socket.create_server(("127.0.0.1", 0)) as server:
            for _ in range(count):
                peer = stack.enter_context(socket.create_connection(server.getsockname()))
                wire = Wire(server.accept()[0], pdu_s=5, stopping=lambda: False, turn=turn)
                stack.callback(wire.close, 0)
                wire.deadline = time.monotonic() + 5
                found.append((wire, peer))
        yield found


def take(wire: Wire, count: int) -> None:
    """Take presentation data values."""
    for _ in range(count):
        length, _, _ = wire.unpack(PDV_HEADER)
        assert sum(len(piece) for piece in wire.pieces(length - 2)) == length - 2


def test_peers_of_tiny_pieces_work_one_at_a_time_and_never_wait_for_their_peer_with_the_turn() -> None:
    turn = threading.Lock()
    with wires(1, turn) as ((wire, peer),):
        peer.sendall(pdv(1, 0, b"\0") * 200)
        take(wire, 200)
        peer.sendall(pdv(1, 0, b"\0"))
        take(wire, 1)
        assert turn.locked()
        reading = threading.Thread(target=take, args=(wire, 1))
        reading.start()
        eventually(lambda: not turn.locked(), "it waits for its peer without the turn")
        peer.sendall(pdv(1, 0, b"\0"))
        reading.join(100)
        assert turn.locked()
        wire.send(b"an answer")
        assert not turn.locked()


@pytest.mark.parametrize("size", [34, 1_000, 16_000, 100_000])
def test_peers_of_ordinary_pieces_take_no_turns(size: int) -> None:
    turn = threading.Lock()
    with wires(1, turn) as ((wire, peer),):
        wire.enlarge()
        sending = threading.Thread(target=peer.sendall, args=(pdv(1, 0, bytes(size)) * 1_000,))
        sending.start()
        for _ in range(1_000):
            take(wire, 1)
            assert not turn.locked()
        sending.join(100)


def test_pdvs_of_one_byte_take_no_more_memory_than_the_buffer(receiver: Receiver) -> None:
    content = data_set("1.2.3", pixels=bytes(50_000))
    step = 2_000
    values = [b"".join(pdv(1, 0, content[i : i + 1]) for i in range(at, at + step)) for at in range(0, 50_000, step)]
    body = b"".join(pdu(4, value) for value in values) + pdu(4, pdv(1, 2, content[50_000:]))
    with receiver.requestor(wait_s=60) as requestor:
        requestor.associate()
        tracemalloc.start()
        try:
            requestor.send(pdu(4, pdv(1, 3, requestor.store_command("1.2.3"))) + body)
            assert requestor.response().status == 0
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    (path,) = receiver.new()
    assert stored_data_set(path) == content
    assert peak < 2 << 20
