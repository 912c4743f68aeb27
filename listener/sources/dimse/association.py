"""One association from the connection to its end, in one thread: the upper layer's states, inline (PS3.8 9.2).

Contract: `Association.run` returns when the association is over, has closed the connection, left nothing half-received,
and written one log line that says who, how much and why it ended. It never raises for what a peer does.

The states of an acceptor are places in this code: 2 (awaiting the request) is `_request`, 3 is `negotiate`, 6 is
`_serve`, 8 is the branch for A-RELEASE-RQ, and 13 (awaiting the close) is `Wire.close`. There is no thread, queue or
timer beside it: every wait is a read with a deadline.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from listener.sources.dimse import command as dimse
from listener.sources.dimse import pdu, statuses
from listener.sources.dimse.file_meta import Parties
from listener.sources.dimse.negotiation import (
    TEMPORARY_CONGESTION,
    Acceptance,
    AcceptedContext,
    Rejection,
    negotiate,
)
from listener.sources.dimse.pdu import AbortReason, InvalidPDU, PDUType
from listener.sources.dimse.storage import Reception, Storage
from listener.sources.dimse.syntaxes import VERIFICATION
from listener.sources.dimse.wire import AssociationOver, ConnectionLost, Wire
from listener.space import Room

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable

    from listener.settings import ListenerSection
    from listener.sources.contract import Surroundings
    from listener.sources.dimse.negotiation import Policy

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
class Terms:
    """What holds for new associations; replaced as a whole when the configuration is read again."""

    settings: ListenerSection
    policy: Policy
    tls: ssl.SSLContext | None


@dataclass(frozen=True, slots=True)
class Connection:
    """An accepted TCP connection."""

    sock: socket.socket
    peer_host: str
    own_host: str
    own_port: int
    has_asked: Callable[[], None]
    """Told once the request is there: a connection that only stays silent may be displaced."""


@dataclass(slots=True)
class _Tally:
    """What happened on one association, for its log line."""

    started: float = field(default_factory=time.monotonic)
    calling_ae_title: str = ""
    called_ae_title: str = ""
    implementation: str = ""
    requested: bool = False
    answers: Counter[str] = field(default_factory=Counter)
    data_bytes: int = 0
    slowest_s: float = 0.0


class _Unanswered:
    """The sink of a data set that nobody wants."""

    def write(self, piece: memoryview) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class _Message:
    """A message whose data set is on its way."""

    context_id: int
    command: dimse.Command
    sink: Reception | _Unanswered


class Association:
    """One acceptor's association."""

    def __init__(
        self, connection: Connection, terms: Terms, surroundings: Surroundings, stopping: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._terms = terms
        self._settings = terms.settings
        self._surroundings = surroundings
        self._stopping = stopping
        self._tally = _Tally()
        self._contexts: dict[int, AcceptedContext] = {}
        self._peer_max_pdu_bytes = 0
        self._message: _Message | None = None
        self._command = bytearray()
        self._command_context = 0
        self._storage: Storage | None = None
        self._wire: Wire

    def run(self) -> None:
        """Serve the association to its end."""
        try:
            wire = self._open()
        except (OSError, ValueError):
            self._connection.sock.close()
            self._log("tls_handshake_failed" if self._terms.tls else "connection_lost")
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
        self._log(ended)

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
        """The connection as a wire; the TLS handshake happens here, in the association's own thread."""
        sock = self._connection.sock
        if self._terms.tls is not None:
            sock.settimeout(self._settings.tls.handshake_s if self._settings.tls else None)
            sock = self._terms.tls.wrap_socket(sock, server_side=True)
        return Wire(sock, pdu_s=self._settings.deadlines.pdu_s, stopping=self._stopping)

    def _establish(self) -> Rejection | None:
        """State 2 and 3: read the request and answer it."""
        request = self._request()
        tally = self._tally
        tally.calling_ae_title, tally.called_ae_title = request.calling_ae_title, request.called_ae_title
        tally.implementation = request.implementation_version
        tally.requested = True
        self._connection.has_asked()
        encrypted = self._terms.tls is not None
        host = self._connection.peer_host
        answer: Acceptance | Rejection
        if self._surroundings.space.state is Room.REJECT_ASSOCIATIONS:
            answer = TEMPORARY_CONGESTION
        else:
            answer = negotiate(request, self._terms.policy, host, encrypted=encrypted)
        if isinstance(answer, Rejection):
            return answer
        self._contexts = answer.contexts
        self._peer_max_pdu_bytes = request.max_pdu_bytes
        connection = self._connection
        scheme = "dicoms" if encrypted else "dicom"
        parties = Parties(
            sending_ae_title=request.calling_ae_title,
            receiving_ae_title=request.called_ae_title,
            sending_address=f"{scheme}://{_in_url(host)}",
            receiving_address=f"{scheme}://{_in_url(connection.own_host)}:{connection.own_port}",
        )
        self._storage = Storage(self._surroundings, self._settings, parties)
        self._wire.send(answer.reply)
        return None

    def _request(self) -> pdu.AssociateRequest:
        """State 2: the A-ASSOCIATE-RQ, within its deadline and its length."""
        deadlines = self._settings.deadlines
        until = time.monotonic() + deadlines.request_s
        kind, length = self._wire.next_pdu(deadlines.request_s, between_messages=True)
        self._wire.deadline = until
        if kind != PDUType.ASSOCIATE_RQ:
            known = kind in PDUType._value2member_map_
            raise InvalidPDU(
                "the first PDU is not A-ASSOCIATE-RQ",
                AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU,
            )
        if length > self._settings.limits.max_request_bytes:
            raise InvalidPDU("A-ASSOCIATE-RQ longer than permitted")
        return pdu.parse_associate_request(bytes(self._wire.take(length)))

    # -- established -------------------------------------------------------------------------------------------------

    def _serve(self) -> NoReturn:
        """State 6: messages, until something ends the association."""
        wire, deadlines = self._wire, self._settings.deadlines
        longest = self._settings.limits.max_pdu_bytes
        while True:
            idle = self._message is None and not self._command
            kind, length = wire.next_pdu(deadlines.idle_s if idle else deadlines.pdu_s, between_messages=idle)
            if kind == PDUType.P_DATA_TF:
                if not 6 <= length <= longest:
                    raise InvalidPDU("P-DATA-TF longer than we said we receive, or empty")
                self._data(length)
                continue
            if length > LONGEST_CONTROL_BYTES:
                raise InvalidPDU("control PDU longer than any has to be", AbortReason.UNRECOGNIZED_PDU)
            wire.take(length)
            if kind == PDUType.RELEASE_RQ:
                raise Released
            if kind == PDUType.ABORT:
                raise Aborted
            known = kind in PDUType._value2member_map_
            raise InvalidPDU(
                "PDU that has no place in an established association",
                AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU,
            )

    def _data(self, left: int) -> None:
        """The presentation data values of one P-DATA-TF (PS3.8 9.3.5)."""
        wire = self._wire
        while left:
            if left < pdu.PDV_HEADER.size:
                raise InvalidPDU("presentation data value cut off")
            length, context_id, control = pdu.PDV_HEADER.unpack(wire.take(pdu.PDV_HEADER.size))
            size = length - 2
            left -= pdu.PDV_HEADER.size + size
            if size < 0 or left < 0:
                raise InvalidPDU("presentation data value longer than its PDU")
            if control & 1:
                self._command_fragment(context_id, size, is_last=bool(control & 2))
            else:
                self._data_fragment(context_id, size, is_last=bool(control & 2))

    def _command_fragment(self, context_id: int, size: int, *, is_last: bool) -> None:
        if self._message is not None:
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
            self._begin(self._contexts[context_id], dimse.parse_command(content))

    def _data_fragment(self, context_id: int, size: int, *, is_last: bool) -> None:
        message = self._message
        if message is None or context_id != message.context_id:
            raise InvalidPDU("data set fragment without its command", AbortReason.UNEXPECTED_PARAMETER)
        write = message.sink.write
        for piece in self._wire.pieces(size):
            write(piece)
        if isinstance(message.sink, Reception) and message.sink.is_endless:
            raise InvalidPDU("data set far beyond our limit", AbortReason.NOT_SPECIFIED)
        if is_last:
            self._end(message)

    # -- messages ----------------------------------------------------------------------------------------------------

    def _begin(self, context: AcceptedContext, command: dimse.Command) -> None:
        """A command set is complete: answer it, or get ready for its data set."""
        is_store = command.field == dimse.Field.C_STORE_RQ and context.abstract_syntax != VERIFICATION
        if not command.has_data_set:
            self._answer(context.context_id, command, self._status_without_data_set(context, command, is_store))
            return
        sink: Reception | _Unanswered = _Unanswered()
        if is_store and self._storage is not None:
            self._wire.enlarge()
            sink = self._storage.begin(context, command)
        self._wire.before_read = sink.flush
        self._message = _Message(context.context_id, command, sink)

    def _end(self, message: _Message) -> None:
        """A data set is complete: answer its message."""
        sink = message.sink
        self._message = None
        if isinstance(sink, _Unanswered):
            self._answer(message.context_id, message.command, statuses.UNRECOGNIZED_OPERATION)
            return
        started = time.monotonic()
        situation = sink.finish()
        self._count(situation, sink.size_bytes, time.monotonic() - started)
        self._send(message.context_id, dimse.response(message.command, situation.status, comment=situation.comment))
        if self._storage is not None:
            self._storage.prepare()

    def _status_without_data_set(self, context: AcceptedContext, command: dimse.Command, is_store: bool) -> int | None:
        """The status for a message that is complete with its command; None where there is no answer (PS3.7 9.3.2.3)."""
        if command.is_response:
            raise InvalidPDU("response to nothing we asked", AbortReason.UNEXPECTED_PARAMETER)
        if command.field == dimse.Field.C_CANCEL_RQ:
            return None
        if command.field == dimse.Field.C_ECHO_RQ:
            is_verification = context.abstract_syntax == VERIFICATION
            self._surroundings.counters.add("echoes")
            return 0x0000 if is_verification else statuses.SOP_CLASS_NOT_SUPPORTED
        if is_store:
            self._count(statuses.NO_DATA_SET, 0, 0.0)
            return statuses.NO_DATA_SET.status
        return statuses.UNRECOGNIZED_OPERATION

    def _answer(self, context_id: int, command: dimse.Command, status: int | None) -> None:
        if status is not None:
            self._send(context_id, dimse.response(command, status))

    def _send(self, context_id: int, content: bytes) -> None:
        self._wire.send(
            pdu.data_transfer(context_id, is_command=True, content=content, max_pdu_bytes=self._peer_max_pdu_bytes)
        )

    # -- accounts ----------------------------------------------------------------------------------------------------

    def _count(self, situation: statuses.Situation, size_bytes: int, seconds: float) -> None:
        tally, counters = self._tally, self._surroundings.counters
        tally.answers[situation.word] += 1
        counters.add(f"instances_{situation.word}")
        if situation.is_success:
            tally.data_bytes += size_bytes
            counters.add("bytes_stored", size_bytes)
        tally.slowest_s = max(tally.slowest_s, seconds)

    def _forget(self) -> None:
        """Leave nothing half-received."""
        message, self._message = self._message, None
        if message is not None and isinstance(message.sink, Reception):
            message.sink.discard()
            self._tally.answers["incomplete"] += 1
            self._surroundings.counters.add("instances_incomplete")
        if self._storage is not None:
            self._storage.close()

    def _log(self, ended: str) -> None:
        tally = self._tally
        if not tally.requested and ended == "connection_lost":
            ended = "probe"  # connected and went without a request: a load balancer, a port scan
        self._surroundings.counters.add(f"associations_{ended}")
        level = log.info if ended in ("released", "probe", "stopped") else log.warning
        level(
            "association",
            ended=ended,
            peer=self._connection.peer_host,
            calling=tally.calling_ae_title,
            called=tally.called_ae_title,
            implementation=tally.implementation,
            stored=tally.answers[statuses.SUCCESS.word],
            answers=dict(tally.answers),
            bytes=tally.data_bytes,
            seconds=round(time.monotonic() - tally.started, 3),
            slowest_commit_s=round(tally.slowest_s, 3),
        )


def _in_url(host: str) -> str:
    """An address as a URL has it (RFC 3986 3.2.2)."""
    return f"[{host}]" if ":" in host else host
