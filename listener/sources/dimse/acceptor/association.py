"""One association from the connection to its end, in one thread: the upper layer's states, inline (PS3.8 9.2).

Contract: `Association.run` returns when the association is over, has closed the connection, left nothing half-received,
and written one log line that says who, how much and why it ended. It never raises for what a peer does.

The states of an acceptor are places in this code: 2 (awaiting the request) is `_request`, 3 is `negotiate`, 6 is
`_serve`, 8 is the branch for A-RELEASE-RQ, and 13 (awaiting the close) is `Wire.close`. There is no thread, queue or
timer beside it: every wait is a read with a deadline.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

import structlog

from listener.intake.file_meta import AssociationParties
from listener.sources.dimse.acceptor.cpu_affinity import CpuAffinity
from listener.sources.dimse.acceptor.services import PeerFacts, Services
from listener.sources.dimse.acceptor.stats import AssociationStats
from listener.sources.dimse.acceptor.storage import StorageService
from listener.sources.dimse.upper_layer import command as dimse
from listener.sources.dimse.upper_layer import pdu
from listener.sources.dimse.upper_layer.negotiation import TEMPORARY_CONGESTION, AcceptedContext, Rejection, negotiate
from listener.sources.dimse.upper_layer.pdu import AbortReason, InvalidPDU, PDUType
from listener.sources.dimse.upper_layer.wire import AssociationOver, ConnectionLost, Wire
from listener.spool.space import SpaceLevel

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from listener.sources.contract import Surroundings
    from listener.sources.dimse.acceptor.config import AcceptorConfig
    from listener.sources.dimse.commitment.queue import CommitmentQueue
    from listener.sources.dimse.upper_layer.data_set import DataSetSink

log = structlog.get_logger()

LONGEST_COMMAND_BYTES: Final = 16 << 10
"""A command set is a few hundred bytes."""
LONGEST_CONTROL_BYTES: Final = 1 << 10
"""A-RELEASE-RQ and A-ABORT are four bytes; longer ones come from something else."""
LINGER_S: Final = 2.0
"""How long a peer may take to read our last PDU and close."""


class Aborted(AssociationOver):
    """The peer aborted (PS3.8 9.2, event 16)."""

    ended = "aborted_by_peer"


class Released(AssociationOver):
    """The peer released (PS3.8 9.2, event 12)."""

    ended = "released"
    farewell = pdu.release_response()


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """What all associations of a process share."""

    surroundings: Surroundings
    commitments: CommitmentQueue | None
    stopping: Callable[[], bool]
    number: int = field(default_factory=os.getpid)
    """Of this process; those of one listener have different ones in a row."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Of the peers that send tiny pieces: together they get the processor time of one."""


class SlotHandle(Protocol):
    """The place of one connection among all that there may be."""

    @property
    def sock(self) -> socket.socket:
        """The connection."""
        ...

    @property
    def host(self) -> str:
        """The peer's address."""
        ...

    def replace_socket(self, sock: socket.socket) -> None:
        """The connection goes on under another object: TLS has taken over."""
        ...

    def mark_requested(self) -> None:
        """Its request is there."""
        ...

    def release(self) -> None:
        """The connection is over; harmless a second time."""
        ...


@dataclass(frozen=True, slots=True)
class Connection:
    """An accepted TCP connection."""

    place: SlotHandle
    own_host: str
    own_port: int

    @property
    def peer_host(self) -> str:
        """The peer's address."""
        return self.place.host

    def secure(self, terms: AcceptorConfig) -> socket.socket:
        """Shake hands where TLS is spoken, in the association's own thread.

        Returns:
            The socket that the peer is spoken to on.

        Raises:
            OSError, ValueError: The handshake failed.
        """
        if terms.tls is not None:
            plain = self.place.sock
            plain.settimeout(terms.settings.tls.handshake_s if terms.settings.tls else None)
            self.place.replace_socket(terms.tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False))
            self.place.sock.do_handshake()  # type: ignore[attr-defined] # the line above made it an SSLSocket
        return self.place.sock

    def parties(self, request: pdu.AssociateRequest, *, encrypted: bool) -> AssociationParties:
        """Who sends and who receives, as the file meta information says it."""
        scheme = "dicoms" if encrypted else "dicom"
        return AssociationParties(
            sending_ae_title=request.calling_ae_title,
            receiving_ae_title=request.called_ae_title,
            sending_address=f"{scheme}://{_in_url(self.peer_host)}",
            receiving_address=f"{scheme}://{_in_url(self.own_host)}:{self.own_port}",
        )


class Association:
    """One acceptor's association."""

    def __init__(self, connection: Connection, terms: AcceptorConfig, common: ProcessContext) -> None:
        self._connection = connection
        self._terms = terms
        self._settings = terms.settings
        self._common = common
        self._account = AssociationStats(common.surroundings.counters, connection.peer_host, terms.names)
        self._contexts: dict[int, AcceptedContext] = {}
        self._services: Services | None = None
        self._sink: DataSetSink | None = None
        self._command = bytearray()
        self._command_context = 0
        self._wire: Wire

    def run(self) -> None:
        """Serve the association to its end."""
        try:
            wire = self._open()
        except (OSError, ValueError):
            self._connection.place.sock.close()
            self._account.close("tls_handshake_failed" if self._terms.tls else "connection_lost")
            return
        self._wire = wire
        try:
            ended, farewell = self._live()
            self._forget()
            wire.send(farewell)
        except ConnectionLost:
            pass
        finally:
            self._forget()
            wire.close(LINGER_S)
        self._account.close(ended)

    def _live(self) -> tuple[str, bytes]:
        """The association's life: a word for how it ended, and our last PDU."""
        try:
            refusal = self._establish()
            if refusal is None:
                self._serve()
        except AssociationOver as over:
            return over.ended, over.farewell
        except (InvalidPDU, dimse.InvalidCommand) as error:
            log.warning("protocol error", peer=self._connection.peer_host, problem=str(error))
            reason = error.reason if isinstance(error, InvalidPDU) else AbortReason.NOT_SPECIFIED
            return "protocol_error", pdu.abort(reason)
        return f"rejected_{refusal.word}", refusal.encode()

    # -- establishing ------------------------------------------------------------------------------------------------

    def _open(self) -> Wire:
        """The connection as a wire."""
        common, deadlines = self._common, self._settings.deadlines
        sock = self._connection.secure(self._terms)
        return Wire(sock, pdu_s=deadlines.pdu_s, stopping=common.stopping, turn=common.turn)

    def _establish(self) -> Rejection | None:
        """State 2 and 3: read the request and answer it."""
        request = self._request()
        self._account.asked(request)
        connection, common = self._connection, self._common
        connection.place.mark_requested()
        encrypted = self._terms.tls is not None
        if common.surroundings.space.state is SpaceLevel.REJECT_ASSOCIATIONS:
            return TEMPORARY_CONGESTION
        answer = negotiate(request, self._terms.policy, connection.peer_host, encrypted=encrypted)
        if isinstance(answer, Rejection):
            return answer
        self._contexts = answer.contexts
        parties = connection.parties(request, encrypted=encrypted)
        peer = PeerFacts(self._wire, request.max_pdu_bytes, request.calling_ae_title, request.called_ae_title)
        storage = StorageService(common.surroundings, self._settings, parties, CpuAffinity(common.number))
        self._services = Services(peer, storage, common.commitments, self._account)
        self._wire.send(answer.reply)
        return None

    def _request(self) -> pdu.AssociateRequest:
        """State 2: the A-ASSOCIATE-RQ, within its deadline and its length."""
        deadlines = self._settings.deadlines
        until = time.monotonic() + deadlines.request_s
        kind, length = self._wire.next_pdu(deadlines.request_s, between_messages=True, until=until)
        if kind != PDUType.ASSOCIATE_RQ:
            known = kind in PDUType._value2member_map_
            raise InvalidPDU(
                "the first PDU is not A-ASSOCIATE-RQ",
                AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU,
            )
        if length > self._settings.limits.max_request_bytes:
            raise InvalidPDU("A-ASSOCIATE-RQ longer than permitted")
        return pdu.parse_associate_request(bytes(self._wire.read_exactly(length)))

    # -- established -------------------------------------------------------------------------------------------------

    def _serve(self) -> NoReturn:
        """State 6: messages, until something ends the association."""
        wire, deadlines = self._wire, self._settings.deadlines
        longest = self._settings.limits.max_pdu_bytes
        while True:
            idle = self._sink is None and not self._command
            kind, length = wire.next_pdu(deadlines.idle_s if idle else deadlines.pdu_s, between_messages=idle)
            if kind == PDUType.P_DATA_TF:
                for context_id, control, size in wire.data_values(length, longest):
                    if control & 1:
                        self._command_fragment(context_id, size, is_last=bool(control & 2))
                    else:
                        self._data_fragment(context_id, size, is_last=bool(control & 2))
                continue
            if length > LONGEST_CONTROL_BYTES:
                raise InvalidPDU("control PDU longer than any has to be", AbortReason.UNRECOGNIZED_PDU)
            wire.read_exactly(length)
            if kind == PDUType.RELEASE_RQ:
                raise Released
            if kind == PDUType.ABORT:
                raise Aborted
            known = kind in PDUType._value2member_map_
            raise InvalidPDU(
                "PDU that has no place in an established association",
                AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU,
            )

    def _command_fragment(self, context_id: int, size: int, *, is_last: bool) -> None:
        if self._sink is not None:
            raise InvalidPDU("command before the data set of the last one ended", AbortReason.UNEXPECTED_PARAMETER)
        if context_id not in self._contexts or (self._command and context_id != self._command_context):
            raise InvalidPDU("command on a presentation context that was not accepted")
        if len(self._command) + size > LONGEST_COMMAND_BYTES:
            raise InvalidPDU("command set longer than any has to be")
        self._command_context = context_id
        for piece in self._wire.pieces(size):
            self._command += piece
        if is_last:
            content, self._command = self._command, bytearray()
            assert self._services is not None  # noqa: S101 - the association is established
            self._sink = self._services.begin_message(self._contexts[context_id], dimse.parse_command(content))
            if self._sink is not None:
                self._wire.before_read = self._sink.flush

    def _data_fragment(self, context_id: int, size: int, *, is_last: bool) -> None:
        sink = self._sink
        if sink is None or context_id != sink.context.context_id:
            raise InvalidPDU("data set fragment without its command", AbortReason.UNEXPECTED_PARAMETER)
        write = sink.write
        for piece in self._wire.pieces(size):
            write(piece)
        if sink.is_endless:
            raise InvalidPDU("data set far beyond our limit", AbortReason.NOT_SPECIFIED)
        if is_last:
            assert self._services is not None  # noqa: S101 - the association is established
            self._sink = None
            self._services.end_message(sink)

    def _forget(self) -> None:
        """Leave nothing half-received; harmless a second time."""
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.discard()
            self._account.incomplete()
        services, self._services = self._services, None
        if services is not None:
            services.close()


def _in_url(host: str) -> str:
    """An address as a URL has it (RFC 3986 3.2.2)."""
    return f"[{host}]" if ":" in host else host
