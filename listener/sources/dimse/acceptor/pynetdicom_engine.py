"""One association on pynetdicom's upper layer instead of ours (`listener.engine: pynetdicom`).

Contract: as that of `association`. PDUs, state machine, presentation contexts, roles, command sets and responses are
pynetdicom's; who may send, transfer syntax preferred, limits, space, store statuses, spool, counters and log line are
those of the native engine. The handler of a C-STORE returns after the commit: success means durable bytes here too.

pynetdicom gathers a whole message in memory, believes every length and knows no deadline inside a PDU. So what came of
a data set is moved to the spool after each PDU, a PDU beyond our limits is not read, and the thread of `run` watches
over deadlines. pynetdicom is imported in this module and nowhere else in the product.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association as Service
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ
from pynetdicom.presentation import negotiate_unrestricted
from pynetdicom.transport import AddressInformation, AssociationSocket

from listener.intake import store_status
from listener.intake.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from listener.intake.transfer_syntaxes import VERIFICATION, choose, is_storage
from listener.sources.dimse.acceptor.association import LINGER_S, LONGEST_COMMAND_BYTES
from listener.sources.dimse.acceptor.cpu_affinity import CpuAffinity
from listener.sources.dimse.acceptor.stats import AssociationStats
from listener.sources.dimse.acceptor.storage import StorageService
from listener.sources.dimse.upper_layer import pdu
from listener.sources.dimse.upper_layer.command import Command, Field
from listener.sources.dimse.upper_layer.negotiation import (
    STORAGE_EXTENDED_ANSWER,
    TEMPORARY_CONGESTION,
    WRONG_PROTOCOL_VERSION,
    AcceptedContext,
    rejection_of,
)
from listener.sources.dimse.upper_layer.pdu import ContextResult
from listener.spool.space import SpaceLevel

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BytesIO

    from listener.sources.dimse.acceptor.association import Connection, ProcessContext
    from listener.sources.dimse.acceptor.config import AcceptorConfig
    from listener.sources.dimse.acceptor.storage import IncomingDataSet

log = structlog.get_logger()

# Events, messages and service users are `Any` here: pynetdicom gives them their attributes at run time.
_config.LOG_HANDLER_LEVEL = "none"
_config.UNRESTRICTED_STORAGE_SERVICE = True  # private, retired and future storage classes too (PS3.4 B.5)

TICK_S: Final = 0.25
"""Deadlines and the order to stop are looked at so often."""
READ_BYTES: Final = 1 << 16
MOST_WAITING: Final = 100
"""Messages that are complete and not yet answered; one is all that was negotiated (PS3.7 D.3.3.3)."""
CAN_ABORT: Final = ("Sta3", "Sta6")
"""States in which pynetdicom's machine knows an A-ABORT of the acceptor's (PS3.8 Table 9-10); others break it."""
LONGEST_IGNORED_BYTES: Final = 1 << 20
"""Data sets of messages that are no C-STORE: none of them is served here."""


def is_served(sop_class_uid: str, transfer_syntax: str) -> bool:
    """Whether pynetdicom accepts a presentation context of a class with one transfer syntax."""
    asked = build_context(sop_class_uid, [transfer_syntax])
    asked.context_id = 1
    (answer,), _ = negotiate_unrestricted([asked], [build_context(VERIFICATION)])
    return answer.result == ContextResult.ACCEPTANCE


def verification_syntaxes() -> tuple[str, ...]:
    """Transfer syntaxes in which pynetdicom accepts Verification, the one it takes first at the front."""
    return tuple(map(str, build_context(VERIFICATION).transfer_syntax))


class BoundedSocket(AssociationSocket):
    """A socket of pynetdicom that reads no PDU longer than any we permit, and says since when it waits for a peer."""

    longest_bytes = 0
    is_over = False
    """Nothing more is read: Linux goes on giving what a peer sends after `shutdown`."""
    waiting_since: float | None = None
    """When the reading or sending that is under way began (`time.monotonic`); None between PDUs."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes; fewer where the peer closed or the association is over.

        Raises:
            OSError: It is more than is permitted, or the connection broke.
        """
        if nr_bytes > self.longest_bytes:
            raise OSError(errno.EMSGSIZE, "PDU longer than permitted")
        self.waiting_since = time.monotonic()
        wire: Any = self.socket
        content = bytearray()
        while len(content) < nr_bytes and not self.is_over:
            piece = wire.recv(min(nr_bytes - len(content), READ_BYTES))
            if not piece:
                break
            content += piece
        self.waiting_since = None
        return content

    def send(self, bytestream: bytes) -> None:
        """Send a PDU; a peer that does not read keeps the calling thread here until the connection is closed."""
        self.waiting_since = time.monotonic()
        super().send(bytestream)
        self.waiting_since = None


class PynetdicomAssociation:
    """One acceptor's association, served by two threads of pynetdicom and watched by ours."""

    def __init__(self, connection: Connection, terms: AcceptorConfig, common: ProcessContext) -> None:
        self._connection = connection
        self._terms = terms
        self._common = common
        self._account = AssociationStats(common.surroundings.counters, connection.peer_host, terms.names)
        self._storage: StorageService | None = None
        self._receptions: dict[BytesIO, IncomingDataSet] = {}
        """Data sets that are not answered yet, by the buffer that pynetdicom hands from message to request."""
        self._ignored_bytes = 0
        self._last_activity = time.monotonic()
        self._ended = ""
        self._is_closed = threading.Event()

    def run(self) -> None:
        """Serve the association to its end."""
        try:
            sock = self._connection.secure(self._terms)
            sock.settimeout(None)
            service = self._service(sock)
        except (OSError, ValueError):
            self._connection.place.sock.close()
            self._account.close("tls_handshake_failed" if self._terms.tls else "connection_lost")
            return
        self._last_activity = time.monotonic()
        service.start()
        self._watch(service)
        self._end(service, sock)
        self._account.close(self._ended or ("released" if service.is_released else "connection_lost"))

    def _service(self, sock: socket.socket) -> Service:
        """An association of pynetdicom on a connection that is there."""
        settings = self._terms.settings
        entity = AE(settings.ae_title)
        # Deadlines are looked after here; pynetdicom's own for the request acts after ours.
        entity.acse_timeout = settings.deadlines.request_s + 4 * TICK_S
        entity.network_timeout = entity.dimse_timeout = None
        service = Service(entity, "acceptor")
        wire = BoundedSocket(service, client_socket=sock)
        wire.longest_bytes = max(settings.limits.max_pdu_bytes, settings.limits.max_request_bytes)
        service.set_socket(wire)
        us, peer = service.acceptor, service.requestor
        us.ae_title = settings.ae_title
        us.maximum_length = settings.limits.max_pdu_bytes
        us.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        us.implementation_version_name = IMPLEMENTATION_VERSION
        us.supported_contexts = [build_context(VERIFICATION)]
        us.address_info = AddressInformation.from_tuple(sock.getsockname())
        peer.address_info = AddressInformation.from_tuple(sock.getpeername())
        service.bind(evt.EVT_REQUESTED, self._guarded(self._requested))
        service.bind(evt.EVT_SOP_EXTENDED, _answer_extended)
        service.bind(evt.EVT_PDU_RECV, self._guarded(self._received))
        service.bind(evt.EVT_PDU_SENT, self._sent)
        service.bind(evt.EVT_DIMSE_RECV, self._guarded(self._completed))
        service.bind(evt.EVT_C_STORE, self._store)
        service.bind(evt.EVT_C_ECHO, self._echo)
        service.bind(evt.EVT_CONN_CLOSE, self._closed)
        return service

    # -- watching over it --------------------------------------------------------------------------------------------

    def _watch(self, service: Service) -> None:
        """Wait until the association is over, or has to be."""
        while not (self._ended or (self._is_closed.is_set() and self._storage is None)):
            service.join(TICK_S)
            if not (service.is_alive() and service.dul.is_alive()):
                return  # where one of the threads broke over what a peer sent, the other would wait
            reason = self._reason_to_end(service)
            if reason:
                self._abort(service, reason)

    def _reason_to_end(self, service: Service) -> str:
        """A word for why the association has to end now; empty where it need not."""
        deadlines = self._terms.settings.deadlines
        now = time.monotonic()
        silent_s = now - self._last_activity
        wire: Any = service.dul.socket  # a BoundedSocket
        waiting_since = wire.waiting_since
        if waiting_since is not None and now - waiting_since > deadlines.pdu_s:
            return "deadline_missed"  # a peer that stops inside a PDU, or does not read what we answer
        if self._storage is None:
            permitted_s = deadlines.request_s
        elif service.dimse.message is not None:
            permitted_s = deadlines.pdu_s
        elif self._receptions or service.dimse.msg_queue.qsize():
            return ""  # a message is complete: the peer waits for us
        elif self._common.stopping() and silent_s > TICK_S:
            return "stopped"
        else:
            permitted_s = deadlines.idle_s
        return "deadline_missed" if silent_s > permitted_s else ""

    def _abort(self, service: Service, word: str) -> None:
        self._ended = self._ended or word
        if service.dul.state_machine.current_state in CAN_ABORT:
            service.abort(block=False)

    def _end(self, service: Service, sock: socket.socket) -> None:
        """Have both threads end, close the connection and leave nothing half-received."""
        if (self._ended or service.is_aborted or service.is_rejected) and not self._is_closed.wait(LINGER_S):
            # Our last PDU had its time. The kernel would keep for minutes what the peer does not take: reset instead.
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire: Any = service.dul.socket
        wire.is_over = True
        with suppress(OSError):
            # Of the plain class: TLS would drop state that the reading thread is using.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        service.dul.to_user_queue.put(None)  # type: ignore[arg-type] # what it gets where no request came in time
        service.kill()
        service.join()
        begun = set(self._receptions)
        message: Any = service.dimse.message
        if message is not None:
            begun.add(message.data_set)  # of which not a PDU was moved
        for buffer in begun:
            self._account.incomplete()
            if buffer in self._receptions:
                self._receptions.pop(buffer).discard()
        if self._storage is not None:
            self._storage.close()

    def _guarded(self, handler: Callable[[Any], None]) -> Callable[[Any], None]:
        """Let nothing go on after a defect of ours: pynetdicom only logs what a notification raises."""

        @functools.wraps(handler)
        def run(event: Any) -> None:
            try:
                handler(event)
            except BaseException:
                self._abort(event.assoc, "failed_inside")
                raise

        return run

    # -- what pynetdicom's threads report ----------------------------------------------------------------------------

    def _requested(self, event: Any) -> None:
        """State 3: reject the request, or have pynetdicom answer its contexts, the transfer syntax we prefer first."""
        service, connection = event.assoc, self._connection
        request = _request_of(service.requestor)
        self._account.asked(request)
        connection.place.mark_requested()
        encrypted = self._terms.tls is not None
        refusal = rejection_of(request, self._terms.policy, connection.peer_host, encrypted=encrypted)
        if self._common.surroundings.space.state is SpaceLevel.REJECT_ASSOCIATIONS:
            refusal = TEMPORARY_CONGESTION
        if refusal is not None:
            service.acse.send_reject(refusal.result, refusal.source, refusal.reason)
            self._ended = f"rejected_{refusal.word}"
            return
        for context in service.requestor.primitive.presentation_context_definition_list:
            first = choose(tuple(map(str, context.transfer_syntax)))
            context.transfer_syntax = [first, *(uid for uid in context.transfer_syntax if uid != first)]
        parties = connection.parties(request, encrypted=encrypted)
        seat = CpuAffinity(self._common.number)
        self._storage = StorageService(self._common.surroundings, self._terms.settings, parties, seat)

    def _received(self, event: Any) -> None:
        """A PDU is read and not yet taken apart: move what the one before it brought."""
        self._last_activity = time.monotonic()
        if isinstance(event.pdu, A_ABORT_RQ):
            self._ended = self._ended or "aborted_by_peer"
        message = event.assoc.dimse.message
        if message is not None:
            self._move(event.assoc, message)

    def _sent(self, event: Any) -> None:
        self._last_activity = time.monotonic()
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            self._ended = self._ended or f"rejected_{WRONG_PROTOCOL_VERSION.word}"  # pynetdicom's own reason
        if isinstance(event.pdu, A_ABORT_RQ):
            self._ended = self._ended or "protocol_error"

    def _completed(self, event: Any) -> None:
        """A message is complete: move the rest of it."""
        self._move(event.assoc, event.message, is_last=True)
        self._ignored_bytes = 0

    def _closed(self, _: Any) -> None:
        self._is_closed.set()

    def _move(self, service: Service, message: Any, *, is_last: bool = False) -> None:
        """Move what came of a data set from pynetdicom's memory into the spool."""
        buffer = message.data_set
        size_bytes = buffer.tell()
        reception = self._receptions.get(buffer) or self._begin(service, message, is_last=is_last)
        if reception is not None:
            reception.write(memoryview(buffer.getvalue()))
            reception.flush()
        else:
            self._ignored_bytes += size_bytes
        buffer.seek(0)
        buffer.truncate()
        if (
            message.encoded_command_set.tell() > LONGEST_COMMAND_BYTES
            or self._ignored_bytes > LONGEST_IGNORED_BYTES
            or max(len(self._receptions), service.dimse.msg_queue.qsize()) > MOST_WAITING
            or (reception is not None and reception.is_endless)
        ):
            log.warning("protocol error", peer=self._connection.peer_host, problem="message beyond our limits")
            self._abort(service, "protocol_error")

    def _begin(self, service: Service, message: Any, *, is_last: bool) -> IncomingDataSet | None:
        """Begin with a data set where one of a C-STORE comes."""
        command = message.command_set
        if command.get("CommandField") != Field.C_STORE_RQ or command.get("CommandDataSetType") == 0x0101:
            return None
        context = next((one for one in service.accepted_contexts if one.context_id == message.context_id), None)
        if context is None or context.abstract_syntax == VERIFICATION or not (is_last or message.data_set.tell()):
            return None
        assert self._storage is not None  # noqa: S101 - the association is established
        said = Command(
            field=Field.C_STORE_RQ,
            message_id=command.get("MessageID", 0),
            has_data_set=True,
            sop_class_uid=str(command.get("AffectedSOPClassUID", "")).encode("latin-1", "replace"),
            sop_instance_uid=str(command.get("AffectedSOPInstanceUID", "")).encode("latin-1", "replace"),
            type_id=None,
            status=None,
        )
        accepted = AcceptedContext(message.context_id, str(context.abstract_syntax), str(context.transfer_syntax[0]))
        self._receptions[message.data_set] = reception = self._storage.begin_store(accepted, said)
        return reception

    # -- services ----------------------------------------------------------------------------------------------------

    def _store(self, event: Any) -> Dataset:
        """Judge and commit a data set that is complete; what it is answered."""
        started = time.monotonic()
        answer = Dataset()
        if not isinstance(event.request, C_STORE) or event.context.abstract_syntax == VERIFICATION:
            answer.Status = store_status.UNRECOGNIZED_OPERATION
            return answer
        buffer: Any = event.request.DataSet
        reception, situation, size_bytes = self._receptions.get(buffer), store_status.NO_DATA_SET, 0
        if self._ended:
            situation = store_status.STORAGE_FAILED  # the association is being aborted: not all may have been moved
        elif reception is not None:
            situation, size_bytes = reception.finish(), reception.size_bytes
            del self._receptions[buffer]
        self._account.count_answer(situation, size_bytes, time.monotonic() - started)
        answer.Status = situation.status
        if situation.comment:
            answer.ErrorComment = situation.comment
        return answer

    def _echo(self, event: Any) -> int:
        self._account.counters.add("echoes")
        return 0x0000 if event.context.abstract_syntax == VERIFICATION else store_status.SOP_CLASS_NOT_SUPPORTED


def _answer_extended(event: Any) -> dict[Any, bytes]:
    """What we are as storage SCP (PS3.4 B.3.1), for the classes that are asked about."""
    return {uid: STORAGE_EXTENDED_ANSWER for uid in event.app_info if is_storage(str(uid))}


def _request_of(requestor: Any) -> pdu.AssociateRequest:
    """What a requestor says of itself, as `rejection_of` and the log line read it."""
    primitive, identity = requestor.primitive, requestor.user_identity
    shown = None
    if identity is not None:
        shown = pdu.UserIdentity(
            identity.user_identity_type,
            bool(identity.positive_response_requested),
            identity.primary_field or b"",
            identity.secondary_field or b"",
        )
    return pdu.AssociateRequest(
        protocol_version=1,  # pynetdicom rejects any other by itself
        called_ae_title=primitive.called_ae_title,
        calling_ae_title=primitive.calling_ae_title,
        titles=b"",
        application_context=str(primitive.application_context_name),
        contexts=(),
        max_pdu_bytes=requestor.maximum_length or 0,
        implementation_class_uid=str(requestor.implementation_class_uid or ""),
        implementation_version=requestor.implementation_version_name or "",
        async_window=None,
        roles=(),
        extended=(),
        user_identity=shown,
    )
