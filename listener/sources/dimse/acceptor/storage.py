"""The storage service: one C-STORE message at a time from the wire into the spool (PS3.4 Annex B, PS3.7 9.1.1).

Contract: an `IncomingDataSet` takes the data set of one message piece by piece, never decodes it, and ends in exactly
one `StoreStatus` of the table in `statuses`; success only once the spool has committed. Trouble with the spool becomes
a situation, too: a reception never raises, it goes on swallowing bytes so that the association can be answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from listener.intake import store_status
from listener.intake.file_meta import AssociationParties, FileMeta
from listener.intake.reception import StoreIdentity, failed, is_valid_uid, judge, keep_data_set, stand_in_uid
from listener.intake.store_status import StoreStatus
from listener.intake.transfer_syntaxes import encoding_of
from listener.intake.walk import DataSetScanner
from listener.sources.dimse.acceptor.cpu_affinity import SMALL_BYTES
from listener.spool.errors import SpoolWriteFailed
from listener.spool.space import SpaceLevel

if TYPE_CHECKING:
    from listener.intake.transfer_syntaxes import Encoding
    from listener.settings.listener import ListenerSection
    from listener.sources.contract import Surroundings
    from listener.sources.dimse.acceptor.cpu_affinity import CpuAffinity
    from listener.sources.dimse.upper_layer.command import Command
    from listener.sources.dimse.upper_layer.negotiation import AcceptedContext
    from listener.spool.incoming import Incoming

log = structlog.get_logger()

MOST_VIEWS: Final = 256
"""Pieces held until they are written: a buffer full of PDVs of one byte would be 37,000 views of 200 bytes each."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is the same for all instances of one presentation context."""

    sop_class_uid: bytes
    encoding: Encoding | None
    file_meta: FileMeta


class StorageService:
    """The storage service of one association."""

    def __init__(
        self, surroundings: Surroundings, settings: ListenerSection, parties: AssociationParties, seat: CpuAffinity
    ) -> None:
        self._spool = surroundings.spool
        self._space = surroundings.space
        self.settings = settings
        self._parties = parties
        self._known: dict[int, _Known] = {}
        self._spare: Incoming | None = None
        self.seat = seat

    def begin_store(self, context: AcceptedContext, command: Command) -> IncomingDataSet:
        """Take up one C-STORE-RQ whose data set is about to come."""
        known = self._known.get(context.context_id) or self._get_to_know(context)
        target: Incoming | StoreStatus
        refusal = self._refusal(known, command)
        if refusal is not None:
            target = refusal
        else:
            try:
                target, self._spare = self._spare or self._spool.receive(), None
            except SpoolWriteFailed as error:
                target = failed(error)
        return IncomingDataSet(self, context, command, known, target)

    def prepare(self, last_bytes: int) -> None:
        """Make the next file while the sender is busy with the answer to the last: it is off the critical path.

        Args:
            last_bytes: Size of the instance that was answered.
        """
        self.seat.received(last_bytes)
        if self._spare is None:
            try:
                self._spare = self._spool.receive()
            except SpoolWriteFailed:
                self._spare = None  # said when it is needed

    def close(self) -> None:
        """Leave nothing behind."""
        if self._spare is not None:
            self._spare.discard()
            self._spare = None

    def _refusal(self, known: _Known, command: Command) -> StoreStatus | None:
        # dcmsend 3.6.7 sometimes says another class than that of its presentation context.
        if command.sop_class_uid != known.sop_class_uid and self.settings.mismatch == "refuse":
            return store_status.CLASS_NOT_NEGOTIATED
        if self._space.state is not SpaceLevel.ENOUGH:
            return store_status.OUT_OF_SPACE
        return store_status.QUEUE_FULL if self._space.queue_full else None

    def _get_to_know(self, context: AcceptedContext) -> _Known:
        file_meta = FileMeta(context.abstract_syntax, context.transfer_syntax, self._parties)
        known = _Known(context.abstract_syntax.encode("ascii"), encoding_of(context.transfer_syntax), file_meta)
        self._known[context.context_id] = known
        return known


class IncomingDataSet:
    """The data set of one message, on its way."""

    __slots__ = (
        "_head",
        "_incoming",
        "_is_of_context",
        "_most_bytes",
        "_situation",
        "_storage",
        "_views",
        "_walk",
        "command",
        "context",
        "size_bytes",
    )

    def __init__(
        self,
        storage: StorageService,
        context: AcceptedContext,
        command: Command,
        known: _Known,
        target: Incoming | StoreStatus,
    ) -> None:
        self.context = context
        self.command = command
        self.size_bytes = 0
        self._storage = storage
        self._head = b""
        self._views: list[memoryview] = []
        self._walk: DataSetScanner | None = None
        self._incoming: Incoming | None = None
        self._situation: StoreStatus | None = None
        self._is_of_context = command.sop_class_uid == known.sop_class_uid
        limits = storage.settings.limits
        self._most_bytes = limits.max_instance_bytes
        if isinstance(target, StoreStatus):
            self._situation = target
            return
        self._incoming = target
        if known.encoding is not None:
            self._walk = DataSetScanner(known.encoding, max_depth=limits.max_depth, max_elements=limits.max_elements)
        uid = command.sop_instance_uid
        self._head = known.file_meta.encode(uid if is_valid_uid(uid) else stand_in_uid(uid))

    @property
    def is_endless(self) -> bool:
        """Whether the sender went on far beyond the limit, so that swallowing more is no use."""
        return self.size_bytes > 2 * self._most_bytes

    def write(self, piece: memoryview) -> None:
        """Take the next bytes of the data set; the view is used until `flush`."""
        self.size_bytes += len(piece)
        if self._situation is None:
            if self.size_bytes > self._most_bytes:
                self._give_up(store_status.TOO_LARGE)
                return
            self._views.append(piece)
            if len(self._views) >= MOST_VIEWS:
                self.flush()

    def flush(self, *, is_complete: bool = False) -> None:
        """Write to the spool what came since the last time; views into buffers are free after that.

        Args:
            is_complete: Whether no more will come: the disk can begin while we look at what it writes.
        """
        if self._storage.seat.is_gathered and self.size_bytes > SMALL_BYTES:
            self._storage.seat.received(self.size_bytes)
        views, self._views = self._views, []
        if self._incoming is None or not (views or self._head):
            return
        head, self._head = self._head, b""
        try:
            self._incoming.write([head, *views] if head else views)
            if is_complete:
                self._incoming.begin_write_out()
        except SpoolWriteFailed as error:
            self._give_up(failed(error))
            return
        if self._walk is not None:
            for view in views:
                self._walk.feed(view)

    def finish(self) -> StoreStatus:
        """The data set is complete: judge it, and make it durable where it is kept."""
        self.flush(is_complete=True)
        if self._situation is None:
            self._situation = self._judge()
        if self._incoming is not None:
            try:
                keep_data_set(self._storage._spool, self._incoming, self._situation, self._walk)  # noqa: SLF001 - one service in two classes
            except SpoolWriteFailed as error:
                self._situation = failed(error)
            self._incoming = None
        return self._situation

    def discard(self) -> None:
        """The data set will never be complete."""
        self._views.clear()
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def _give_up(self, situation: StoreStatus) -> None:
        self.discard()
        self._situation = situation

    def _judge(self) -> StoreStatus:
        """What the data set is, by its own lengths and UIDs (PS3.4 B.2.3)."""
        said = StoreIdentity(self.command.sop_class_uid, self.command.sop_instance_uid)
        situation = judge(self._walk, said, self._storage.settings)
        if situation is store_status.SUCCESS and not self._is_of_context:
            return store_status.MISMATCH_ACCEPTED  # a data set that cannot be walked does not tell
        return situation
