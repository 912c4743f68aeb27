"""The answers to the sender of an instance: one table, with the clause of each row (PS3.4 Table B.2-1, PS3.7 Annex C).

Contract: every answer of the storage service, and every answer to an uploaded instance, is a `StoreStatus`. The status
on the wire, the words in (0000,0902) Error Comment and whether the bytes are kept follow from this table and nothing
else. 0x0000 means: the bytes are durable.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Disposition(Enum):
    """Where the bytes of the message are once it is answered."""

    NEW = "new"
    """In `new/`, waiting for export."""
    QUARANTINE = "quarantine"
    """In quarantine: the sender is told that we do not have it, an operator may look."""
    NOWHERE = "nowhere"
    """Nothing of it is visible."""


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """One row: what happened, and what follows."""

    status: int
    word: str
    """Stable word for logs and counters."""
    comment: str
    """(0000,0902) Error Comment: at most 64 characters, no values of the peer."""
    kept: Disposition
    clause: str
    reason: str | None = None
    """Folder below `quarantine/`, where the bytes are kept there."""

    @property
    def counter(self) -> str:
        """Its name among the daemon's counters."""
        return f"instances_{self.word}"

    @property
    def is_success(self) -> bool:
        """Success or warning: the sender may forget the instance (PS3.7 C.1, C.3)."""
        return self.status == 0 or self.status & 0xF000 == 0xB000


SUCCESS: Final = StoreStatus(0x0000, "stored", "", Disposition.NEW, "PS3.7 C.1.1, PS3.4 B.2.3")
BAD_UID: Final = StoreStatus(
    0xB007, "bad_uid", "SOP Instance UID is no UID; kept as received", Disposition.NEW, "PS3.4 Table B.2-1, PS3.5 9.1"
)
MISMATCH_ACCEPTED: Final = StoreStatus(
    0xB007, "mismatch_accepted", "Data set does not match its command; kept", Disposition.NEW, "PS3.4 Table B.2-1"
)
DAMAGED_ACCEPTED: Final = StoreStatus(
    0xB007, "damaged_accepted", "Data set is damaged; kept as received", Disposition.NEW, "PS3.4 Table B.2-1"
)
OUT_OF_SPACE: Final = StoreStatus(
    0xA700, "out_of_space", "Out of resources: storage", Disposition.NOWHERE, "PS3.4 Table B.2-1"
)
STORAGE_FAILED: Final = StoreStatus(
    0xA700, "storage_failed", "Out of resources: storage failed", Disposition.NOWHERE, "PS3.4 Table B.2-1"
)
QUEUE_FULL: Final = StoreStatus(
    0xA700, "queue_full", "Out of resources: too many items wait", Disposition.NOWHERE, "PS3.4 Table B.2-1"
)
TOO_LARGE: Final = StoreStatus(
    0xA700, "too_large", "Out of resources: instance exceeds our limit", Disposition.NOWHERE, "PS3.4 Table B.2-1"
)
MISMATCH: Final = StoreStatus(
    0xA900,
    "identity_mismatch",
    "Data set does not match SOP Class or Instance UID",
    Disposition.QUARANTINE,
    "PS3.4 Table B.2-1",
    reason="identity_mismatch",
)
DAMAGED: Final = StoreStatus(
    0xC000,
    "damaged",
    "Cannot understand: data set is cut off or lengths lie",
    Disposition.QUARANTINE,
    "PS3.4 Table B.2-1",
    reason="unreadable",
)
NO_DATA_SET: Final = StoreStatus(
    0xC000, "no_data_set", "Cannot understand: no data set", Disposition.NOWHERE, "PS3.7 9.3.1.1, PS3.4 Table B.2-1"
)
CLASS_NOT_NEGOTIATED: Final = StoreStatus(
    0x0122,
    "class_not_negotiated",
    "SOP Class is not that of the presentation context",
    Disposition.NOWHERE,
    "PS3.7 C.5.6",
)

STORE_TABLE: Final = (
    SUCCESS,
    BAD_UID,
    MISMATCH_ACCEPTED,
    DAMAGED_ACCEPTED,
    OUT_OF_SPACE,
    STORAGE_FAILED,
    QUEUE_FULL,
    TOO_LARGE,
    MISMATCH,
    DAMAGED,
    NO_DATA_SET,
    CLASS_NOT_NEGOTIATED,
)
"""Every answer to a C-STORE-RQ."""

# -- by HTTP alone; the codes of PS3.18 10.5.3 and Annex I are those of C-STORE ----------------------------------------

NOT_PART_10: Final = StoreStatus(
    0xC000, "not_part_10", "Cannot understand: no DICOM file", Disposition.QUARANTINE, "PS3.10 7.1", reason="not_dicom"
)
BAD_META: Final = StoreStatus(
    0xC000,
    "bad_file_meta",
    "Cannot understand: file meta information",
    Disposition.QUARANTINE,
    "PS3.10 7.1",
    reason="unreadable",
)
OTHER_STUDY: Final = StoreStatus(
    0xC409, "other_study", "Study Instance UID is not that of the address", Disposition.NOWHERE, "PS3.18 10.5.1"
)
"""The Standard leaves the digits after C free; these are what other archives answer."""
CLASS_NOT_SUPPORTED: Final = StoreStatus(
    0x0122, "class_not_supported", "SOP Class is no storage class", Disposition.NOWHERE, "PS3.7 C.5.6"
)
NOT_ENCODED_SO: Final = StoreStatus(
    0xC000, "part_encoding", "Cannot understand: media type or encoding of the part", Disposition.NOWHERE, "PS3.18 8.7"
)

_OF_A_COMMAND: Final = (MISMATCH, NO_DATA_SET, CLASS_NOT_NEGOTIATED)
UPLOAD_TABLE: Final = (
    *(status for status in STORE_TABLE if status not in _OF_A_COMMAND),
    *(NOT_PART_10, BAD_META, OTHER_STUDY, CLASS_NOT_SUPPORTED, NOT_ENCODED_SO),
)
"""Every answer to an uploaded instance."""

# -- other services ----------------------------------------------------------------------------------------------------

UNRECOGNIZED_OPERATION: Final = 0x0211
"""PS3.7 C.5.24: a service that was not negotiated."""
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
"""PS3.7 C.5.6."""
NO_SUCH_ACTION: Final = 0x0123
"""PS3.7 C.5.11."""
INVALID_ARGUMENT: Final = 0x0115
"""PS3.7 C.5.5."""
PROCESSING_FAILURE: Final = 0x0110
"""PS3.7 C.5.22."""
RESOURCE_LIMITATION: Final = 0x0213
"""PS3.7 Annex C.5: the queue of reports is full; the requester may ask again later."""
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
"""PS3.7 C.5.16; in a storage commitment report: we do not have it (PS3.3 C.14.1.1)."""
CLASS_INSTANCE_CONFLICT: Final = 0x0119
"""PS3.7 C.5.7."""
