"""One instance on its way into the spool: how it is judged, what its sender is answered, and where its bytes go.

Contract: a data set is never decoded; a reception ends in exactly one `StoreStatus`, success only once the spool has
committed. Trouble with the spool becomes a status, too: nothing here raises for it, so that the peer can be answered.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from listener.intake import store_status
from listener.intake.store_status import Disposition, StoreStatus
from listener.spool.errors import SpoolWriteFailed
from listener.spool.space import SpaceLevel

if TYPE_CHECKING:
    from listener.intake.walk import DataSetScanner
    from listener.settings.listener import ListenerSection
    from listener.spool.incoming import Incoming
    from listener.spool.space import SpaceSignal
    from listener.spool.spool import Spool

log = structlog.get_logger()


_UID: Final = re.compile(rb"[0-9]+(?:\.[0-9]+)*")


class StoreIdentity(NamedTuple):
    """What an instance is said to be, by its command or its file meta information."""

    sop_class_uid: bytes | None
    sop_instance_uid: bytes


def judge(walk: DataSetScanner | None, said: StoreIdentity, settings: ListenerSection) -> StoreStatus:
    """What a complete data set is, by its own lengths and UIDs (PS3.4 B.2.3).

    Args:
        walk: The walk over it; None where it could not be walked.
        said: What it should be.
        settings: What is refused.
    """
    if walk is not None:
        if walk.finish() is not None:
            return store_status.DAMAGED if settings.damaged == "refuse" else store_status.DAMAGED_ACCEPTED
        if (walk.sop_class_uid, walk.sop_instance_uid) != (said.sop_class_uid, said.sop_instance_uid):
            return store_status.MISMATCH if settings.mismatch == "refuse" else store_status.MISMATCH_ACCEPTED
    return store_status.SUCCESS if is_valid_uid(said.sop_instance_uid) else store_status.BAD_UID


class InstanceReception(ABC):
    """The bytes of one instance until it is complete or given up; the way in says what they are, in `_judge`."""

    __slots__ = ("_incoming", "_settings", "_situation", "_spool", "_walk", "size_bytes")

    def __init__(self, spool: Spool, settings: ListenerSection, refusal: StoreStatus | None) -> None:
        """Begin with no bytes and no file.

        Args:
            spool: Where they go.
            settings: What is refused.
            refusal: Why the instance is refused already.
        """
        self._spool = spool
        self._settings = settings
        self._incoming: Incoming | None = None
        self._walk: DataSetScanner | None = None
        self._situation = refusal
        self.size_bytes = 0

    def finish(self) -> StoreStatus:
        """Judge the complete instance, and make it durable where its status says.

        Returns:
            What its sender is answered.
        """
        situation = self._situation or self._judge()
        incoming = self._incoming
        if incoming is not None:
            try:
                if situation.kept is Disposition.NEW:
                    incoming.commit()
                elif situation.kept is Disposition.QUARANTINE:
                    self._spool.refuse(incoming, situation.reason or situation.word, self._report(situation))
                else:
                    incoming.discard()
            except SpoolWriteFailed as error:
                situation = failed(error)
            self._incoming = None
        self._situation = situation
        return situation

    def discard(self) -> None:
        """The instance will never be complete; harmless after `finish`."""
        if self._incoming is not None:
            self._incoming.discard()
            self._incoming = None

    def _give_up(self, situation: StoreStatus) -> None:
        self.discard()
        self._situation = situation

    @abstractmethod
    def _judge(self) -> StoreStatus:
        """The status of a complete instance that nothing was wrong with so far."""

    def _report(self, situation: StoreStatus) -> dict[str, object]:
        """What an operator reads beside the file in quarantine."""
        fault = self._walk.finish() if self._walk is not None else None
        return {
            "message": situation.comment,
            "status": f"0x{situation.status:04X}",
            "by": "listener",
            "cause": fault.cause if fault else situation.word,
            "offset": fault.offset if fault else None,
        }


def refusal_for_space(space: SpaceSignal) -> StoreStatus | None:
    """Why no instance can be taken now; None while there is room."""
    if space.state is not SpaceLevel.ENOUGH:
        return store_status.OUT_OF_SPACE
    return store_status.QUEUE_FULL if space.queue_full else None


def failed(error: SpoolWriteFailed) -> StoreStatus:
    """The status that trouble with the spool makes; the operator finds it in the log."""
    log.error("spool write failed", problem=str(error))
    return store_status.OUT_OF_SPACE if error.is_full else store_status.STORAGE_FAILED


def is_valid_uid(uid: bytes) -> bool:
    """Numbers with points between them, 64 characters at most (PS3.5 9.1); leading zeros are let pass."""
    return len(uid) <= 64 and _UID.fullmatch(uid) is not None


def stand_in_uid(uid: bytes) -> bytes:
    """A UID made from an invalid one, for (0002,0003) alone: the data set stays as it is (PS3.5 B.2)."""
    return b"2.25.%d" % int.from_bytes(hashlib.sha256(uid).digest()[:16], "big")
