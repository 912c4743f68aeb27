"""What an upload is answered beyond what a C-STORE is answered: rows like those of `dimse/statuses`.

Contract: the table of failure and warning reasons of the store transaction (PS3.18 10.5.3 and Annex I) uses the codes
of C-STORE; these rows are the cases that only HTTP has.
"""

from __future__ import annotations

from typing import Final

from listener.intake import store_status
from listener.intake.store_status import Disposition, StoreStatus

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

UPLOAD_TABLE: Final = (
    store_status.SUCCESS,
    store_status.BAD_UID,
    store_status.MISMATCH_ACCEPTED,
    store_status.DAMAGED_ACCEPTED,
    store_status.OUT_OF_SPACE,
    store_status.STORAGE_FAILED,
    store_status.QUEUE_FULL,
    store_status.TOO_LARGE,
    store_status.DAMAGED,
    NOT_PART_10,
    BAD_META,
    OTHER_STUDY,
    CLASS_NOT_SUPPORTED,
    NOT_ENCODED_SO,
)
"""Every answer to an uploaded instance."""
