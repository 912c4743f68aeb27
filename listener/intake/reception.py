"""What a complete data set is answered, and where its bytes go: for every way in.

Contract: a data set is never decoded; it ends in exactly one `StoreStatus`.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from listener.intake import store_status
from listener.intake.store_status import Disposition, StoreStatus

if TYPE_CHECKING:
    from listener.intake.walk import DataSetScanner
    from listener.settings.listener import ListenerSection
    from listener.spool.errors import SpoolWriteFailed
    from listener.spool.incoming import Incoming
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


def keep_data_set(spool: Spool, incoming: Incoming, situation: StoreStatus, walk: DataSetScanner | None) -> None:
    """Put the bytes where the situation says, durably.

    Raises:
        SpoolWriteFailed: They are not there.
    """
    match situation.kept:
        case Disposition.NEW:
            incoming.commit()
        case Disposition.QUARANTINE:
            fault = walk.finish() if walk is not None else None
            report = {
                "message": situation.comment,
                "status": f"0x{situation.status:04X}",
                "by": "listener",
                "cause": fault.cause if fault else situation.word,
                "offset": fault.offset if fault else None,
            }
            spool.refuse(incoming, situation.reason or situation.word, report)
        case Disposition.NOWHERE:
            incoming.discard()


def failed(error: SpoolWriteFailed) -> StoreStatus:
    """The situation that trouble with the spool makes, told to the operator."""
    log.error("spool write failed", problem=str(error))
    return store_status.OUT_OF_SPACE if error.is_full else store_status.STORAGE_FAILED


def is_valid_uid(uid: bytes) -> bool:
    """Numbers with points between them, 64 characters at most (PS3.5 9.1); leading zeros are let pass."""
    return len(uid) <= 64 and _UID.fullmatch(uid) is not None


def stand_in_uid(uid: bytes) -> bytes:
    """A UID made from what is none, for (0002,0003) alone: the data set stays as it is (PS3.5 B.2)."""
    return b"2.25.%d" % int.from_bytes(hashlib.sha256(uid).digest()[:16], "big")
