"""Who makes room for whom where every place is taken."""

from __future__ import annotations

import socket
from contextlib import ExitStack

from listener.network.connection_slots import ConnectionSlots
from listener.settings.listener import ReceiveLimitSection

LIMITS = ReceiveLimitSection(max_associations=3, max_associations_per_peer=3)


def test_the_oldest_silent_connection_makes_room_and_one_that_has_spoken_does_not() -> None:
    places = ConnectionSlots()
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(5)]
        for pair in pairs:
            for end in pair:
                stack.enter_context(end)
        for ours, _ in pairs[:3]:
            assert places.admit(ours, "192.0.2.1", LIMITS) is not None
        pairs[0][1].send(b"a request that nobody has read yet")
        assert places.admit(pairs[3][0], "192.0.2.2", LIMITS) is not None
        for _, peer in (pairs[0], pairs[2]):
            peer.setblocking(False)
            try:
                ended = peer.recv(1) == b""
            except BlockingIOError:
                ended = False
            assert not ended
        assert pairs[1][1].recv(1) == b""
        pairs[2][1].send(b"and another")
        assert places.admit(pairs[4][0], "192.0.2.3", LIMITS) is None
        assert places.displaced == 1
