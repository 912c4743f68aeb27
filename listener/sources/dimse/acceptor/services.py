"""What the messages of one association are answered: storage, verification, storage commitment (PS3.7 9, 10).

Contract: every request gets exactly one response, C-CANCEL none; what is no service here is answered 0x0211. A message
whose data set is on its way is a sink: it takes the pieces, and `end` answers it. Raises `InvalidPDU` where a peer's
message has no place, and what the wire raises when an answer cannot be sent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from listener.intake import store_status
from listener.intake.transfer_syntaxes import STORAGE_COMMITMENT_INSTANCE, STORAGE_COMMITMENT_PUSH, VERIFICATION
from listener.sources.dimse.acceptor.storage import IncomingDataSet
from listener.sources.dimse.commitment.index import IndexUnusable
from listener.sources.dimse.commitment.queue import ACTION_REQUEST, LONGEST_REQUEST_BYTES, QueueFull
from listener.sources.dimse.upper_layer import command as dimse
from listener.sources.dimse.upper_layer import pdu
from listener.sources.dimse.upper_layer.pdu import AbortReason, InvalidPDU

if TYPE_CHECKING:
    from listener.sources.dimse.acceptor.stats import AssociationStats
    from listener.sources.dimse.acceptor.storage import StorageService
    from listener.sources.dimse.commitment.queue import CommitmentQueue, CommitmentReport, RequestMemory
    from listener.sources.dimse.upper_layer.data_set import DataSetSink
    from listener.sources.dimse.upper_layer.negotiation import AcceptedContext
    from listener.sources.dimse.upper_layer.wire import Wire

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """How the peer is spoken to."""

    wire: Wire
    max_pdu_bytes: int
    """Longest PDU it receives; 0 means no limit."""
    calling_ae_title: str
    called_ae_title: str


class BufferedDataSet:
    """A small data set that is read as a whole, or one that nobody wants."""

    def __init__(self, context: AcceptedContext, command: dimse.Command, memory: RequestMemory | None) -> None:
        """Begin with nothing.

        Args:
            context: That it comes on.
            command: That it belongs to.
            memory: What it may be kept in; None forgets it.
        """
        self.context = context
        self.command = command
        self.content = bytearray()
        self.is_too_much = False
        """Whether it was forgotten because other requests take all memory there is for them."""
        self._memory = memory
        self._size_bytes = 0

    @property
    def is_endless(self) -> bool:
        """Whether it is longer than any such data set has to be."""
        return self._size_bytes > LONGEST_REQUEST_BYTES

    def write(self, piece: memoryview) -> None:
        """Copy, or forget."""
        self._size_bytes += len(piece)
        if self._memory is None or self.is_endless or self.is_too_much:
            return
        if self._memory.reserve(len(piece)):
            self.content += piece
        else:
            self.is_too_much = True
            self.discard()

    def flush(self) -> None:
        """No views are held."""

    def discard(self) -> None:
        """Forget what was kept; harmless a second time."""
        content, self.content = self.content, bytearray()
        if self._memory is not None:
            self._memory.release(len(content))


class Services:
    """The services of one association."""

    def __init__(
        self, peer: PeerFacts, storage: StorageService, commitments: CommitmentQueue | None, account: AssociationStats
    ) -> None:
        self._peer = peer
        self._storage = storage
        self._commitments = commitments
        self._account = account
        self._unconfirmed: dict[int, str] = {}
        """Names of the reports that were sent on this association and not yet answered, by message ID."""
        self._last_message_id = 0

    def begin_message(self, context: AcceptedContext, command: dimse.Command) -> DataSetSink | None:
        """A command set is complete: a sink where a data set follows, else it is answered."""
        is_store = command.field == dimse.Field.C_STORE_RQ and context.abstract_syntax != VERIFICATION
        if command.is_response:
            self._confirmed(command)
        if not command.has_data_set:
            self._answer_command(context, command, is_store=is_store)
            return None
        if is_store:
            self._peer.wire.enlarge()
            return self._storage.begin_store(context, command)
        commitments = self._commitments if self._is_commitment(context, command) else None
        return BufferedDataSet(context, command, commitments.memory if commitments is not None else None)

    def end_message(self, sink: DataSetSink) -> None:
        """A data set is complete: answer its message."""
        if isinstance(sink, IncomingDataSet):
            started = time.monotonic()
            situation = sink.finish()
            if self._commitments is not None and situation.is_success:
                self._commitments.journal.record(sink.command.sop_class_uid, sink.command.sop_instance_uid)
            self._account.count_answer(situation, sink.size_bytes, time.monotonic() - started)
            self._respond(sink.context, sink.command, situation.status, situation.comment)
            self._storage.prepare(sink.size_bytes)
        elif isinstance(sink, BufferedDataSet) and self._is_commitment(sink.context, sink.command):
            try:
                self._commit(sink)
            finally:
                sink.discard()
        elif not sink.command.is_response:
            self._respond(sink.context, sink.command, store_status.UNRECOGNIZED_OPERATION)

    def close(self) -> None:
        """The association is over."""
        self._storage.close()
        if self._commitments is not None:
            for name in self._unconfirmed.values():
                self._commitments.release_association(name)

    def _answer_command(self, context: AcceptedContext, command: dimse.Command, *, is_store: bool) -> None:
        """Answer a message that is complete with its command (PS3.7 9.3)."""
        if command.is_response or command.field == dimse.Field.C_CANCEL_RQ:
            return
        if command.field == dimse.Field.C_ECHO_RQ:
            self._account.counters.add("echoes")
            known = context.abstract_syntax == VERIFICATION
            self._respond(context, command, 0x0000 if known else store_status.SOP_CLASS_NOT_SUPPORTED)
        elif is_store:
            situation = store_status.NO_DATA_SET
            self._account.count_answer(situation)
            self._respond(context, command, situation.status, situation.comment)
        elif self._is_commitment(context, command):
            self._respond(context, command, store_status.INVALID_ARGUMENT)
        else:
            self._respond(context, command, store_status.UNRECOGNIZED_OPERATION)

    # -- storage commitment ------------------------------------------------------------------------------------------

    def _is_commitment(self, context: AcceptedContext, command: dimse.Command) -> bool:
        return context.abstract_syntax == STORAGE_COMMITMENT_PUSH and command.field == dimse.Field.N_ACTION_RQ

    def _commit(self, sink: BufferedDataSet) -> None:
        """Queue a request for commitment, answer it, and report at once (PS3.4 J.3)."""
        from listener.sources.dimse.commitment.messages import InvalidRequest, parse_request

        context, command, commitments = sink.context, sink.command, self._commitments
        if commitments is None or command.type_id != ACTION_REQUEST:
            self._respond(context, command, store_status.NO_SUCH_ACTION)
            return
        if command.sop_instance_uid != STORAGE_COMMITMENT_INSTANCE.encode("ascii"):
            self._respond(context, command, store_status.NO_SUCH_OBJECT_INSTANCE)
            return
        if sink.is_too_much:
            self._respond(context, command, store_status.RESOURCE_LIMITATION)
            return
        try:
            transaction_uid, references = parse_request(bytes(sink.content), context.transfer_syntax)
            peer = self._peer
            report = commitments.accept(transaction_uid, peer.calling_ae_title, peer.called_ae_title, references)
        except InvalidRequest:
            self._respond(context, command, store_status.INVALID_ARGUMENT)
            return
        except QueueFull:
            log.warning("commitment request refused: too many reports were not confirmed yet")
            self._respond(context, command, store_status.RESOURCE_LIMITATION)
            return
        except OSError as error:
            log.error("commitment request cannot be queued", problem=error.strerror)  # noqa: TRY400 - no traceback
            self._respond(context, command, store_status.PROCESSING_FAILURE)
            return
        self._account.counters.add("commitment_requests")
        self._unconfirmed[message_id := self._next_message_id()] = report.name
        self._respond(context, command, 0x0000)
        try:
            self._report(context, message_id, commitments.judged(report))
        except IndexUnusable as error:
            log.error("commitment request is judged later", problem=str(error))  # noqa: TRY400 - no traceback
            del self._unconfirmed[message_id]
            commitments.release_association(report.name)

    def _next_message_id(self) -> int:
        """A message ID that no unanswered report has (PS3.7 9.1, 10.1: distinguishable from others in progress).

        The numbers rise and begin anew after 65,535, so that a late or second answer finds its own report or none.
        """
        while True:
            self._last_message_id = self._last_message_id % 0xFFFF + 1
            if self._last_message_id not in self._unconfirmed:
                return self._last_message_id

    def _report(self, context: AcceptedContext, message_id: int, report: CommitmentReport) -> None:
        """N-EVENT-REPORT-RQ on the association the request came by."""
        from listener.sources.dimse.commitment.messages import encode_report

        uids = STORAGE_COMMITMENT_PUSH.encode("ascii"), STORAGE_COMMITMENT_INSTANCE.encode("ascii")
        self._send(context, dimse.event_report_request(message_id, *uids, report.event_type), is_command=True)
        self._send(context, encode_report(report, context.transfer_syntax), is_command=False)

    def _confirmed(self, response: dimse.Command) -> None:
        """A response to a report of ours; a failure leaves it in the queue, for a new association."""
        name = self._unconfirmed.get(response.message_id)
        if response.field != dimse.Field.N_EVENT_REPORT_RSP or name is None or self._commitments is None:
            raise InvalidPDU("response to nothing we asked", AbortReason.UNEXPECTED_PARAMETER)
        del self._unconfirmed[response.message_id]
        if response.status == 0x0000:
            self._commitments.delivered(name)
            self._account.counters.add("commitment_reports_delivered")
        else:
            self._commitments.release_association(name)

    # -- sending -----------------------------------------------------------------------------------------------------

    def _respond(self, context: AcceptedContext, command: dimse.Command, status: int, comment: str = "") -> None:
        self._send(context, dimse.response(command, status, comment=comment), is_command=True)

    def _send(self, context: AcceptedContext, content: bytes, *, is_command: bool) -> None:
        peer = self._peer
        peer.wire.send(
            pdu.data_transfer(
                context.context_id, is_command=is_command, content=content, max_pdu_bytes=peer.max_pdu_bytes
            )
        )
