"""The storage service: one C-STORE message at a time from the wire into the spool (PS3.4 Annex B, PS3.7 9.1.1).

Contract: an `IncomingDataSet` takes the data set of one message piece by piece and never raises: once it is refused, it
goes on swallowing bytes so that the association can be answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from listener.intake import store_status
from listener.intake.file_meta import AssociationParties, FileMeta
from listener.intake.reception import (
    InstanceReception,
    StoreIdentity,
    failed,
    is_valid_uid,
    judge,
    refusal_for_space,
    stand_in_uid,
)
from listener.intake.store_status import StoreStatus
from listener.intake.transfer_syntaxes import encoding_of
from listener.intake.walk import DataSetScanner
from listener.sources.dimse.acceptor.cpu_affinity import SMALL_BYTES
from listener.spool.errors import SpoolWriteFailed

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
        self.spool = surroundings.spool
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
                target, self._spare = self._spare or self.spool.receive(), None
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
                self._spare = self.spool.receive()
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
        return refusal_for_space(self._space)

    def _get_to_know(self, context: AcceptedContext) -> _Known:
        file_meta = FileMeta(context.abstract_syntax, context.transfer_syntax, self._parties)
        known = _Known(context.abstract_syntax.encode("ascii"), encoding_of(context.transfer_syntax), file_meta)
        self._known[context.context_id] = known
        return known


class IncomingDataSet(InstanceReception):
    """The data set of one message, on its way."""

    __slots__ = ("_head", "_is_of_context", "_most_bytes", "_seat", "_views", "command", "context")

    def __init__(
        self,
        storage: StorageService,
        context: AcceptedContext,
        command: Command,
        known: _Known,
        target: Incoming | StoreStatus,
    ) -> None:
        refusal = target if isinstance(target, StoreStatus) else None
        super().__init__(storage.spool, storage.settings, refusal)
        self.context = context
        self.command = command
        self._seat = storage.seat
        self._head = b""
        self._views: list[memoryview] = []
        self._is_of_context = command.sop_class_uid == known.sop_class_uid
        limits = storage.settings.limits
        self._most_bytes = limits.max_instance_bytes
        if isinstance(target, StoreStatus):
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
        if self._seat.is_gathered and self.size_bytes > SMALL_BYTES:
            self._seat.received(self.size_bytes)
        views, self._views = self._views, []
        if self._incoming is None or not (views or self._head):
            return
        head, self._head = self._head, b""
        try:
            self._incoming.write([head, *views] if head else views)
        except SpoolWriteFailed as error:
            self._give_up(failed(error))
            return
        if is_complete:
            self._incoming.begin_write_out()
        if self._walk is not None:
            for view in views:
                self._walk.feed(view)

    def finish(self) -> StoreStatus:
        """Judge the complete data set, and make it durable where its status says.

        Returns:
            What its sender is answered.
        """
        self.flush(is_complete=True)
        return super().finish()

    def discard(self) -> None:
        """The data set will never be complete."""
        self._views.clear()
        super().discard()

    def _judge(self) -> StoreStatus:
        """What the data set is, by its own lengths and UIDs (PS3.4 B.2.3)."""
        said = StoreIdentity(self.command.sop_class_uid, self.command.sop_instance_uid)
        situation = judge(self._walk, said, self._settings)
        if situation is store_status.SUCCESS and not self._is_of_context:
            return store_status.MISMATCH_ACCEPTED  # a data set that cannot be walked does not tell
        return situation
