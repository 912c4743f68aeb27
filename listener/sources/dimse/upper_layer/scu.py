"""Associations that we request, on our own upper layer: one thread, no timer beside it (PS3.8 9.2, PS3.7 9.1, 10.1).

Contract: every call ends within the deadlines that it is given, or soon after `stopping` is true, and raises nothing
but a `RequestError`, after which the connection is closed. Memory is the buffer of the wire, one command set and one
data set of at most `longest_data_bytes`, whatever lengths a peer claims; instances that come by C-GET go piece by
piece to where received ones go (`storage`). What comes is never decoded here.

    with request_association("192.0.2.1", 104, proposal, times, stopping=stop.is_set) as association:
        context = association.context(STORAGE_COMMITMENT_PUSH)            # None where the peer does not accept it
        number = association.next_message_id()
        association.send(context, command.event_report_request(number, ...), data_set)
        association.response(number, within_s=20.0).status                # releases at the end, aborts after an error
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, Protocol, Self, TypeVar

import structlog

from listener.intake.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from listener.intake.store_status import NO_DATA_SET, UNRECOGNIZED_OPERATION
from listener.sources.dimse.upper_layer import command as dimse
from listener.sources.dimse.upper_layer import pdu
from listener.sources.dimse.upper_layer.connecting import TICK_S, NoConnection, connect
from listener.sources.dimse.upper_layer.negotiation import AcceptedContext
from listener.sources.dimse.upper_layer.pdu import AbortReason, ContextResult, InvalidPDU, PDUType, ProposedContext
from listener.sources.dimse.upper_layer.wire import (
    SEND_BUFFER_BYTES,
    AssociationOver,
    AssociationStopped,
    ConnectionLost,
    DeadlineMissed,
    Wire,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from listener.intake.store_status import StoreStatus
    from listener.sources.dimse.upper_layer.data_set import DataSetSink

log = structlog.get_logger()

LONGEST_ACCEPT_BYTES: Final = 128 << 10
"""128 contexts with a role each are 20 KiB; a server's answer to a user identity may be longer."""
LONGEST_CONTROL_BYTES: Final = 1 << 10
LONGEST_COMMAND_BYTES: Final = 16 << 10
LONGEST_SENT_PDU_BYTES: Final = 128 << 10
MOST_STRAYS: Final = 1000
"""Messages of one association that have nothing to do with what was asked."""
FAREWELL_S: Final = 0.5
"""For our last PDU to go out, and for the peer to read it."""


class RequestError(Exception):
    """An association that we requested did not come about, or ended; the text is in our words."""


class NotConnected(RequestError):
    """There is no connection: TCP or TLS."""

    def __init__(self, cause: NoConnection) -> None:
        super().__init__(str(cause))
        self.may_pass = cause.may_pass


class NotAccepted(RequestError):
    """The peer rejects the association (PS3.8 Table 9-21)."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"the association is rejected (result {result}, source {source}, reason {reason})")
        self.result, self.source, self.reason = result, source, reason


class AssociationBroken(RequestError):
    """The association ended before its time; `ended` is a stable word for why."""

    def __init__(self, ended: str, problem: str = "") -> None:
        super().__init__(problem or _PROBLEMS.get(ended, ended))
        self.ended = ended


class AbortedByPeer(AssociationOver):
    """The peer aborted (PS3.8 9.2, event 16)."""

    ended = "aborted_by_peer"


class ReleasedByPeer(AssociationOver):
    """The peer released in the middle of what we asked (PS3.8 9.2, event 12)."""

    ended = "released_by_peer"
    farewell = pdu.release_response()


_PROBLEMS: Final = {
    "aborted_by_peer": "the association was aborted (a peer that does not know our AE title may do that)",
    "connection_lost": "the association is gone",
    "deadline_missed": "the peer gave no answer in time",
    "released_by_peer": "the peer released the association",
    "stopped": "it was to stop",
}


@dataclass(frozen=True, slots=True)
class RequestorTimes:
    """How long a peer may keep us waiting."""

    connect_s: float
    """For the connection with its TLS handshake, and once more for the answer to A-ASSOCIATE-RQ."""
    pdu_s: float
    """From the first byte of a PDU to its last, and for 64 KiB of ours to go out."""
    release_s: float = 5.0
    """For A-RELEASE-RP."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is proposed (PS3.8 9.3.2)."""

    calling_ae_title: str
    called_ae_title: str
    contexts: tuple[ProposedContext, ...]
    roles: tuple[pdu.RoleSelection, ...] = ()
    extended: tuple[pdu.ExtendedNegotiation, ...] = ()
    max_pdu_bytes: int = 128 << 10
    """Longest PDU that we receive."""

    def encode(self) -> bytes:
        """The A-ASSOCIATE-RQ."""
        return pdu.associate_request(
            pdu.AssociateRequest(
                protocol_version=1,
                called_ae_title=self.called_ae_title,
                calling_ae_title=self.calling_ae_title,
                titles=b"",
                application_context=pdu.APPLICATION_CONTEXT,
                contexts=self.contexts,
                max_pdu_bytes=self.max_pdu_bytes,
                implementation_class_uid=IMPLEMENTATION_CLASS_UID,
                implementation_version=IMPLEMENTATION_VERSION,
                async_window=None,
                roles=self.roles,
                extended=self.extended,
                user_identity=None,
            )
        )


def contexts_of(pairs: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[ProposedContext, ...]:
    """Presentation contexts from abstract syntaxes and their transfer syntaxes: 1, 3, 5, ... (PS3.8 9.3.2.2)."""
    return tuple(ProposedContext(2 * at + 1, uid, syntaxes) for at, (uid, syntaxes) in enumerate(pairs))


Arriving = TypeVar("Arriving", bound="DataSetSink")


class InstanceStorage(Protocol[Arriving]):
    """Where the instances that come by C-GET go."""

    def begin(self, context: AcceptedContext, command: dimse.Command) -> Arriving:
        """Take up one C-STORE-RQ whose data set is about to come."""
        ...

    def ended(self, reception: Arriving) -> StoreStatus:
        """Judge and keep an instance that is complete."""
        ...


class Response(NamedTuple):
    """One response to a request of ours."""

    status: int
    suboperations: dimse.Suboperations
    data: bytes
    """Its data set; empty where there is none, or where it is not kept."""
    transfer_syntax: str


class _Message(NamedTuple):
    context: AcceptedContext
    command: dimse.Command
    suboperations: dimse.Suboperations
    data: bytes


class RequestorWire(Wire):
    """A wire whose every wait ends soon after the order to stop."""

    def __init__(self, sock: socket.socket, *, pdu_s: float, stopping: Callable[[], bool]) -> None:
        super().__init__(sock, pdu_s=pdu_s, stopping=stopping)
        if self._encrypted:
            sock.settimeout(TICK_S)
        else:
            tick = struct.pack("ll", int(TICK_S), int(TICK_S % 1 * 1_000_000))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, tick)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, tick)

    def check(self, until: float) -> None:
        """Raise where the time is over, or we are to stop: what a peer that floods us never has a read do."""
        if self._stopping():
            raise AssociationStopped
        if time.monotonic() > until:
            raise DeadlineMissed

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come that was not taken, the end of the connection included."""
        ready = select.poll()
        ready.register(self._sock.fileno(), select.POLLIN)
        decrypted = self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0
        return self._start == self._end and not decrypted and not ready.poll(0)

    def send(self, content: bytes, within_s: float | None = None) -> None:
        """Send bytes; without a time, as long as the deadlines give for so many.

        Raises:
            ConnectionLost, DeadlineMissed, Stopped: They did not go out.
        """
        until = time.monotonic() + (within_s or self._pdu_s * (1 + len(content) // SEND_BUFFER_BYTES))
        left = memoryview(content)
        while left:
            try:
                left = left[self._sock.send(left) :]
                if left:
                    self.check(until)
            except (BlockingIOError, TimeoutError, ssl.SSLWantWriteError):
                self.check(until)
            except (OSError, ValueError) as error:
                raise ConnectionLost from error

    def _read(self, until: float, *, stoppable: bool = False, quick: bool = False) -> None:  # noqa: ARG002
        super()._read(until, stoppable=True, quick=quick)


def request_association(
    host: str,
    port: int,
    proposal: Proposal,
    times: RequestorTimes,
    *,
    tls: ssl.SSLContext | None = None,
    stopping: Callable[[], bool] = lambda: False,
    storage: InstanceStorage[Any] | None = None,
) -> RequestedAssociation:
    """An association that is established; some of its contexts may not be accepted.

    Args:
        host: Name or address of the peer.
        port: Its port.
        proposal: What is proposed.
        times: How long it may keep us waiting.
        tls: How the connection is encrypted.
        stopping: Whether we are to stop: everything ends with `AssociationBroken("stopped")` then.
        storage: Takes what C-GET brings.

    Raises:
        NotConnected, NotAccepted, AssociationBroken: No association was established.
        ValueError: The proposal cannot be encoded.
    """
    request = proposal.encode()
    try:
        sock = connect(host, port, tls, time.monotonic() + times.connect_s, stopping)
    except NoConnection as error:
        raise NotConnected(error) from error
    except AssociationOver as over:
        raise AssociationBroken(over.ended) from over
    wire = RequestorWire(sock, pdu_s=times.pdu_s, stopping=stopping)
    association = RequestedAssociation(wire, proposal, times, storage)
    association.establish(request)
    return association


class RequestedAssociation:
    """One requestor's association; used by one thread."""

    def __init__(
        self, wire: RequestorWire, proposal: Proposal, times: RequestorTimes, storage: InstanceStorage[Any] | None
    ) -> None:
        self._wire = wire
        self._proposal = proposal
        self._times = times
        self._storage = storage
        self._contexts: dict[int, AcceptedContext] = {}
        self._peer_max_pdu_bytes = LONGEST_SENT_PDU_BYTES
        self._command = bytearray()
        self._command_context = 0
        self._message: tuple[AcceptedContext, dimse.Command, dimse.Suboperations] | None = None
        self._data = bytearray()
        self._reception: DataSetSink | None = None
        self._longest_data_bytes: int | None = None
        self._messages: deque[_Message] = deque()
        self._strays = 0
        self._number = 0
        self._progress = 0.0
        self.is_open = True
        self.last_instance = 0.0
        """When the last one was complete, on the monotonic clock."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.release()
        else:
            self.abort()

    @property
    def is_idle(self) -> bool:
        """Whether it can be used for another operation: the peer has neither ended it nor said more."""
        return self.is_open and not self._messages and self._wire.is_quiet

    # -- establishing and ending ---------------------------------------------------------------------------------------

    def establish(self, request: bytes) -> None:
        """Send this A-ASSOCIATE-RQ and take the answer (PS3.8 9.2, state 5).

        Raises:
            NotAccepted, AssociationBroken: It is no A-ASSOCIATE-AC.
        """
        rejection: bytes | None = None
        try:
            self._wire.send(request)
            until = time.monotonic() + self._times.connect_s
            kind, length = self._wire.next_pdu(self._times.connect_s, between_messages=True, until=until)
            if kind == PDUType.ASSOCIATE_AC:
                if length > LONGEST_ACCEPT_BYTES:
                    raise InvalidPDU("A-ASSOCIATE-AC longer than any has to be")  # noqa: TRY301
                self._accepted(pdu.parse_associate_accept(bytes(self._wire.read_exactly(length))))
            elif kind == PDUType.ASSOCIATE_RJ and length == 4:
                rejection = bytes(self._wire.read_exactly(length))
            else:
                self._control(kind, length)
        except (AssociationOver, InvalidPDU) as error:
            self._break(error)
        if rejection is not None:
            self._close(b"")
            raise NotAccepted(*rejection[1:])

    def _accepted(self, answer: pdu.AssociateAccept) -> None:
        proposed = {context.context_id: context for context in self._proposal.contexts}
        for one in answer.contexts:
            context = proposed.get(one.context_id)
            # A context or a transfer syntax that was not proposed cannot be used (PS3.8 9.3.3.2).
            if one.result is ContextResult.ACCEPTANCE and context and one.transfer_syntax in context.transfer_syntaxes:
                self._contexts[one.context_id] = AcceptedContext(
                    one.context_id, context.abstract_syntax, one.transfer_syntax
                )
        if answer.max_pdu_bytes:
            self._peer_max_pdu_bytes = min(answer.max_pdu_bytes, LONGEST_SENT_PDU_BYTES)

    def context(self, abstract_syntax: str, transfer_syntax: str | None = None) -> AcceptedContext | None:
        """The accepted context of an abstract syntax (and a transfer syntax), where there is one."""
        return next(
            (
                one
                for one in self._contexts.values()
                if one.abstract_syntax == abstract_syntax and transfer_syntax in (None, one.transfer_syntax)
            ),
            None,
        )

    def release(self) -> None:
        """Release it, where it is still there; abort where the peer does not answer. Raises nothing."""
        if not self.is_open:
            return
        try:
            self._discard()
            self._wire.send(pdu.release_request(), self._times.release_s)
            until = time.monotonic() + self._times.release_s
            while True:
                self._wire.check(until)
                kind, length = self._wire.next_pdu(until - time.monotonic(), between_messages=True, until=until)
                if kind == PDUType.RELEASE_RP:
                    break
                if kind == PDUType.P_DATA_TF and length <= self._proposal.max_pdu_bytes:
                    for _ in self._wire.pieces(length):
                        pass  # what was on its way when we released (PS3.8 9.2, state 7)
                elif kind == PDUType.RELEASE_RQ and length <= LONGEST_CONTROL_BYTES:
                    self._wire.read_exactly(length)
                    self._wire.send(pdu.release_response())  # both at once (PS3.8 9.2, states 9 and 11)
                else:
                    self._control(kind, length)
        except InvalidPDU as error:
            self._close(pdu.abort(error.reason))
        except AssociationOver as over:
            self._close(over.farewell)
        else:
            self._close(b"")

    def abort(self) -> None:
        """End it at once, where it is still there (PS3.8 7.3). Raises nothing."""
        if self.is_open:
            self._close(pdu.abort())

    def _close(self, farewell: bytes) -> None:
        self.is_open = False
        self._discard()
        try:
            if farewell:
                self._wire.send(farewell, FAREWELL_S)
        except AssociationOver:
            farewell = b""
        finally:
            self._wire.close(FAREWELL_S if farewell else 0.0)

    def _discard(self) -> None:
        """Leave nothing half-received."""
        reception, self._reception = self._reception, None
        if reception is not None:
            reception.discard()

    def _break(self, error: AssociationOver | InvalidPDU | dimse.InvalidCommand) -> NoReturn:
        if isinstance(error, AssociationOver):
            self._close(error.farewell)
            raise AssociationBroken(error.ended) from error
        self._close(pdu.abort(error.reason if isinstance(error, InvalidPDU) else AbortReason.NOT_SPECIFIED))
        raise AssociationBroken("protocol_error", f"the peer broke the protocol: {error}") from error

    # -- sending -------------------------------------------------------------------------------------------------------

    def next_message_id(self) -> int:
        """A number for the next request (PS3.7 9.3.1.1)."""
        self._number = self._number % 65_535 + 1
        return self._number

    def send(self, context: AcceptedContext, command: bytes, data: bytes = b"") -> None:
        """Send one message: its command set, and its data set where it has one.

        Raises:
            AssociationBroken: It did not go out.
        """
        if not self.is_open:
            raise AssociationBroken("connection_lost")
        try:
            self._send(context, command, is_command=True)
            step = max(self._peer_max_pdu_bytes - 6, 64)
            for start in range(0, len(data), step):
                part = data[start : start + step]
                control = 2 if start + step >= len(data) else 0
                head = pdu.PDV_IN_PDU.pack(PDUType.P_DATA_TF, len(part) + 6, len(part) + 2, context.context_id, control)
                self._wire.send(head + part)
        except AssociationOver as over:
            self._break(over)

    def cancel(self, context: AcceptedContext, message_id: int) -> None:
        """Ask the peer to end an operation (PS3.7 9.3.2.3).

        Raises:
            AssociationBroken: It did not go out.
        """
        self.send(context, dimse.cancel_request(message_id))

    def _send(self, context: AcceptedContext, content: bytes, *, is_command: bool) -> None:
        self._wire.send(
            pdu.data_transfer(
                context.context_id, is_command=is_command, content=content, max_pdu_bytes=self._peer_max_pdu_bytes
            )
        )

    # -- receiving -----------------------------------------------------------------------------------------------------

    def response(
        self,
        message_id: int,
        *,
        within_s: float,
        until: float = float("inf"),
        longest_data_bytes: int | None = None,
    ) -> Response:
        """The next response to the request of that number; other messages are answered or passed over, and counted.

        Args:
            message_id: Of the request.
            within_s: How long it may take; the time begins anew whenever more of an instance has come.
            until: When it must be there all the same, on the monotonic clock.
            longest_data_bytes: Longest data set that is kept; None keeps none.

        Raises:
            AssociationBroken: It did not come.
        """
        if not self.is_open:
            raise AssociationBroken("connection_lost")
        self._longest_data_bytes = longest_data_bytes
        self._progress = time.monotonic()
        try:
            while True:
                while not self._messages:
                    self._read_pdu(min(self._progress + within_s, until))
                message = self._messages.popleft()
                command = message.command
                if command.is_response and command.message_id == message_id and command.status is not None:
                    syntax = message.context.transfer_syntax
                    return Response(command.status, message.suboperations, message.data, syntax)
                self._stray(message)
        except (AssociationOver, InvalidPDU, dimse.InvalidCommand) as error:
            self._break(error)

    def _stray(self, message: _Message) -> None:
        """A message that is no answer to what was asked: another number (PS3.7 6.1), or a request."""
        self._strays += 1
        if self._strays > MOST_STRAYS:
            raise InvalidPDU("messages without end that nobody asked for", AbortReason.NOT_SPECIFIED)
        if self._strays == 1:
            log.info("messages passed over", command=f"0x{message.command.field:04X}", of=message.command.message_id)
        if not message.command.is_response and message.command.field != dimse.Field.C_CANCEL_RQ:
            self._send(message.context, dimse.response(message.command, UNRECOGNIZED_OPERATION), is_command=True)

    def _read_pdu(self, until: float) -> None:
        """One PDU of an established association (PS3.8 9.2, state 6)."""
        wire = self._wire
        wire.check(until)
        is_idle = self._message is None and not self._command
        kind, length = wire.next_pdu(until - time.monotonic(), between_messages=is_idle)
        wire.deadline = min(wire.deadline, max(until, time.monotonic()))
        if kind != PDUType.P_DATA_TF:
            self._control(kind, length)
        for context_id, control, size in wire.data_values(length, self._proposal.max_pdu_bytes):
            if control & 1:
                self._command_fragment(context_id, size, is_last=bool(control & 2))
            else:
                self._data_fragment(context_id, size, is_last=bool(control & 2))

    def _control(self, kind: int, length: int) -> NoReturn:
        """Any other PDU ends the association."""
        if length > LONGEST_CONTROL_BYTES:
            raise InvalidPDU("control PDU longer than any has to be", AbortReason.UNRECOGNIZED_PDU)
        self._wire.read_exactly(length)
        if kind == PDUType.RELEASE_RQ:
            raise ReleasedByPeer
        if kind == PDUType.ABORT:
            raise AbortedByPeer
        known = kind in PDUType._value2member_map_
        raise InvalidPDU(
            "PDU that has no place here", AbortReason.UNEXPECTED_PDU if known else AbortReason.UNRECOGNIZED_PDU
        )

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
        if not is_last:
            return
        content, self._command = self._command, bytearray()
        command, suboperations = dimse.parse_response(content)
        self._message = (self._contexts[context_id], command, suboperations)
        if self._storage is not None and command.field == dimse.Field.C_STORE_RQ:
            if not command.has_data_set:
                self._message = None
                answer = dimse.response(command, NO_DATA_SET.status, comment=NO_DATA_SET.comment)
                self._send(self._contexts[context_id], answer, is_command=True)
                return
            self._wire.enlarge()
            self._reception = self._storage.begin(self._contexts[context_id], command)
            self._wire.before_read = self._reception.flush
        elif not command.has_data_set:
            self._complete()

    def _data_fragment(self, context_id: int, size: int, *, is_last: bool) -> None:
        if self._message is None or context_id != self._message[0].context_id:
            raise InvalidPDU("data set fragment without its command", AbortReason.UNEXPECTED_PARAMETER)
        if self._reception is not None:
            self._instance_fragment(self._reception, size, is_last=is_last)
            return
        longest = self._longest_data_bytes
        for piece in self._wire.pieces(size):
            if longest is not None:
                self._data += piece
        if longest is not None and len(self._data) > longest:
            raise InvalidPDU("data set longer than any has to be", AbortReason.NOT_SPECIFIED)
        if is_last:
            self._complete()

    def _instance_fragment(self, reception: DataSetSink, size: int, *, is_last: bool) -> None:
        for piece in self._wire.pieces(size):
            reception.write(piece)
        if size:
            self._progress = time.monotonic()
        if reception.is_endless:
            raise InvalidPDU("data set far beyond our limit", AbortReason.NOT_SPECIFIED)
        if is_last:
            self._stored(reception)

    def _stored(self, reception: DataSetSink) -> None:
        """An instance is complete: keep it and answer."""
        assert self._storage is not None  # noqa: S101 - there is no reception without it
        self._reception = self._message = None
        situation = self._storage.ended(reception)
        self._progress = self.last_instance = time.monotonic()
        answer = dimse.response(reception.command, situation.status, comment=situation.comment)
        self._send(reception.context, answer, is_command=True)

    def _complete(self) -> None:
        assert self._message is not None  # noqa: S101 - its command was there
        data, self._data = bytes(self._data), bytearray()
        self._messages.append(_Message(*self._message, data))
        self._message = None
