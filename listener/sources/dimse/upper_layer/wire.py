"""Reading PDUs from a connection: a buffer of fixed size, a deadline for every wait, nothing joined or copied twice.

Contract: a `Wire` hands out views into its buffer, valid until the next call that reads; before it reads, it calls
`before_read`, so that whoever holds views writes them away first. A peer that stalls or trickles meets a deadline: from
the first byte of a PDU to its last, and between PDUs. Memory is the buffer, whatever a peer claims. Peers whose pieces
are tiny share the processor time of one connection.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

from listener.sources.dimse.upper_layer import pdu
from listener.sources.dimse.upper_layer.pdu import HEADER, PDV_HEADER, AbortReason, InvalidPDU

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

TICK_S: Final = 1.0
"""Longest time in the kernel before deadlines and the order to stop are looked at."""
FIRST_BUFFER_BYTES: Final = 16 << 10
BUFFER_BYTES: Final = 256 << 10
"""Once data sets come; larger ones measured no faster."""
SAMPLE_HEADERS: Final = 128
SMALL_PIECE_BYTES: Final = 16
"""Bytes for each header of a PDU or a PDV, itself included: a peer below that over a sample sends next to nothing else;
a C-ECHO has 40."""
SEND_BUFFER_BYTES: Final = 64 << 10
_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)


class AssociationOver(Exception):
    """The association ends here: `ended` is a stable word for why, `farewell` the last PDU of ours."""

    ended: ClassVar[str]
    farewell: ClassVar[bytes] = b""


class ConnectionLost(AssociationOver):
    """The peer closed or reset the connection (PS3.8 9.2, event 17)."""

    ended = "connection_lost"


class DeadlineMissed(AssociationOver):
    """The peer did not send what it had to in time (PS3.8 9.2, event 18)."""

    ended = "deadline_missed"
    farewell = pdu.abort(AbortReason.NOT_SPECIFIED)


class AssociationStopped(AssociationOver):
    """The listener stops, and the peer is between two messages."""

    ended = "stopped"
    farewell = pdu.abort()


def _nothing() -> None:
    """Nobody holds views."""


class Wire:
    """One connection."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        pdu_s: float,
        stopping: Callable[[], bool],
        turn: threading.Lock | None = None,
    ) -> None:
        """Take over a connection.

        Args:
            sock: The connection.
            pdu_s: Longest time from the first byte of a PDU to its last.
            stopping: Whether waiting between two messages is to end.
            turn: Of all connections whose peers send tiny pieces: one of them at a time works on what it has read.
        """
        self._sock = sock
        self._pdu_s = pdu_s
        self._stopping = stopping
        self._buffer = bytearray(FIRST_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._encrypted = isinstance(sock, ssl.SSLSocket)
        self.before_read: Callable[[], None] = _nothing
        self._turn = turn
        self._takes_turns = self._has_turn = False
        self._headers = self._consumed = self._read_from = 0
        self.deadline = 0.0
        if self._encrypted:
            sock.settimeout(TICK_S)
        else:
            # Deadlines of the kernel instead of Python's, which cost a poll(2) for every read.
            sock.setblocking(True)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(TICK_S))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(pdu_s))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # All we send are short answers: a peer that never reads them fills little, and is found out soon.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def enlarge(self) -> None:
        """Make the buffer large: data sets are coming."""
        if len(self._buffer) < BUFFER_BYTES:
            self._consumed += self._start - self._read_from
            held = bytes(self._view[self._start : self._end])
            self._buffer = bytearray(BUFFER_BYTES)
            self._view = memoryview(self._buffer)
            self._view[: len(held)] = held
            self._start, self._end, self._read_from = 0, len(held), 0

    def _end_turn(self) -> None:
        if self._turn is not None and self._has_turn:
            self._has_turn = False
            self._turn.release()

    def _judge_pieces(self) -> None:
        """Take turns from now on where the peer's pieces are so small that they cost more to take than to send."""
        self._consumed += self._start - self._read_from
        self._read_from = self._start
        if self._headers >= SAMPLE_HEADERS:
            if self._consumed < self._headers * SMALL_PIECE_BYTES:
                self._takes_turns = self._turn is not None
            self._headers = self._consumed = 0

    def next_pdu(self, wait_s: float, *, between_messages: bool, until: float | None = None) -> tuple[int, int]:
        """Wait for a PDU; its type, and the length of what follows its header.

        Args:
            wait_s: How long it may take to begin.
            between_messages: Whether an order to stop ends the wait.
            until: When it must be complete, on the monotonic clock; without, so long after its first byte as any PDU.

        Raises:
            ConnectionLost, DeadlineMissed, Stopped: As their names say.
        """
        if self._start == self._end:
            self._read(time.monotonic() + wait_s, stoppable=between_messages, quick=not between_messages)
        self.deadline = time.monotonic() + self._pdu_s if until is None else until
        kind, length = self.unpack(HEADER)
        return int(kind), int(length)

    def unpack(self, header: struct.Struct) -> tuple[Any, ...]:
        """The fields of the header that comes next.

        Raises:
            ConnectionLost, DeadlineMissed: As their names say.
        """
        start = self._hold(header.size)
        self._headers += 1
        return header.unpack_from(self._buffer, start)

    def data_values(self, length: int, longest: int) -> Iterator[tuple[int, int, int]]:
        """The presentation data values of one P-DATA-TF (PS3.8 9.3.5): context ID, control header and size of each.

        The caller takes the `size` bytes of a value, by `pieces`, before it asks for the next.

        Args:
            length: Of what follows the header of the PDU.
            longest: What we said we receive.

        Raises:
            InvalidPDU: The lengths of the PDU and of its values do not fit each other, or us.
            ConnectionLost, DeadlineMissed: As their names say.
        """
        if not 6 <= length <= longest:
            raise InvalidPDU("P-DATA-TF longer than we said we receive, or empty")
        header, header_bytes = PDV_HEADER, PDV_HEADER.size
        while length:
            if length < header_bytes:
                raise InvalidPDU("presentation data value cut off")
            item_length, context_id, control = self.unpack(header)
            size = item_length - 2
            length -= header_bytes + size
            if size < 0 or length < 0:
                raise InvalidPDU("presentation data value longer than its PDU")
            yield context_id, control, size

    def read_exactly(self, length: int) -> memoryview:
        """The next `length` bytes in one piece; for control PDUs, never for data sets.

        Raises:
            ConnectionLost, DeadlineMissed: As their names say.
        """
        start = self._hold(length)
        return self._view[start : start + length]

    def _hold(self, length: int) -> int:
        """Have the next `length` bytes in one piece; where they begin. They are taken with that."""
        while self._end - self._start < length:
            if len(self._buffer) - self._start < length:
                self._make_room(length)
            self._read(self.deadline)
        start = self._start
        self._start += length
        return start

    def pieces(self, length: int) -> Iterator[memoryview]:
        """The next `length` bytes, in pieces as they come.

        Raises:
            ConnectionLost, DeadlineMissed: As their names say.
        """
        while length:
            held = self._end - self._start
            if not held:
                self._read(self.deadline, quick=True)
                continue
            size = min(length, held)
            piece = self._view[self._start : self._start + size]
            self._start += size
            length -= size
            yield piece

    def send(self, content: bytes) -> None:
        """Send bytes.

        Raises:
            ConnectionLost: They did not go out.
        """
        self._end_turn()
        try:
            if self._encrypted:
                self._sock.settimeout(self._pdu_s)
            self._sock.sendall(content)
            if self._encrypted:
                self._sock.settimeout(TICK_S)
        except (OSError, ValueError) as error:
            # What the peer does not read is thrown away now: the kernel would keep it for minutes after the close.
            with suppress(OSError, ValueError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise ConnectionLost from error

    def close(self, linger_s: float) -> None:
        """Close after our last PDU: let the peer read it first (PS3.8 9.2, state 13), for a while."""
        self._end_turn()
        until = time.monotonic() + linger_s
        try:
            self._sock.shutdown(socket.SHUT_WR)
            while time.monotonic() < until and not self._stopping():
                ready = select.poll()
                ready.register(self._sock.fileno(), select.POLLIN)
                if ready.poll(max(0.0, min(TICK_S, until - time.monotonic())) * 1000) and not self._drop():
                    break
        except (OSError, ValueError):
            pass  # the peer was quicker
        finally:
            self._sock.close()

    def _drop(self) -> bool:
        """Read and forget; whether the connection is still open."""
        try:
            return bool(self._sock.recv_into(self._view))
        except (BlockingIOError, TimeoutError, ssl.SSLWantReadError):
            return True

    def _read(self, until: float, *, stoppable: bool = False, quick: bool = False) -> None:
        """Wait for bytes until a moment of the monotonic clock, and read what there is."""
        self.before_read()
        self._judge_pieces()
        self._end_turn()
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):
            self._make_room(0)
        if quick and _QUICKACK is not None:
            # A sender that waits for our acknowledgement in the middle of a message must not wait for the timer.
            self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        while True:
            if stoppable and self._stopping():
                raise AssociationStopped
            count = self._receive()
            if time.monotonic() > until:
                raise DeadlineMissed
            if count:
                self._end += count
                self._read_from = self._start
                if self._takes_turns and self._turn is not None:
                    self._has_turn = self._turn.acquire()
                return

    def _receive(self) -> int:
        """One read of at most a tick; how many bytes came, 0 for none yet."""
        try:
            count = self._sock.recv_into(self._view[self._end :])
        except (BlockingIOError, TimeoutError):
            return 0
        except (OSError, ValueError) as error:
            raise ConnectionLost from error
        if not count:
            raise ConnectionLost
        return count

    def _make_room(self, length: int) -> None:
        """Move what is held to the front of the buffer, and make that longer where `length` needs it."""
        self.before_read()
        self._consumed += self._start - self._read_from
        held = bytes(self._view[self._start : self._end])
        if length > len(self._buffer):
            self._buffer = bytearray(length)
            self._view = memoryview(self._buffer)
        self._view[: len(held)] = held
        self._start, self._end, self._read_from = 0, len(held), 0


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
