"""What an upload is answered beyond what a C-STORE is answered: rows like those of `dimse/statuses`.

Contract: the table of failure and warning reasons of the store transaction (PS3.18 10.5.3 and Annex I) uses the codes
of C-STORE; these rows are the cases that only HTTP has.
"""

from __future__ import annotations

from typing import Final

from listener.sources.dimse import statuses
from listener.sources.dimse.statuses import Kept, Situation

NOT_PART_10: Final = Situation(
    0xC000, "not_part_10", "Cannot understand: no DICOM file", Kept.QUARANTINE, "PS3.10 7.1", reason="not_dicom"
)
BAD_META: Final = Situation(
    0xC000,
    "bad_file_meta",
    "Cannot understand: file meta information",
    Kept.QUARANTINE,
    "PS3.10 7.1",
    reason="unreadable",
)
OTHER_STUDY: Final = Situation(
    0xC409, "other_study", "Study Instance UID is not that of the address", Kept.NOWHERE, "PS3.18 10.5.1"
)
"""The Standard leaves the digits after C free; these are what other archives answer."""
CLASS_NOT_SUPPORTED: Final = Situation(
    0x0122, "class_not_supported", "SOP Class is no storage class", Kept.NOWHERE, "PS3.7 C.5.6"
)
NOT_ENCODED_SO: Final = Situation(
    0xC000, "part_encoding", "Cannot understand: media type or encoding of the part", Kept.NOWHERE, "PS3.18 8.7"
)

UPLOAD_TABLE: Final = (
    statuses.SUCCESS,
    statuses.BAD_UID,
    statuses.MISMATCH_ACCEPTED,
    statuses.DAMAGED_ACCEPTED,
    statuses.OUT_OF_SPACE,
    statuses.STORAGE_FAILED,
    statuses.QUEUE_FULL,
    statuses.TOO_LARGE,
    statuses.DAMAGED,
    NOT_PART_10,
    BAD_META,
    OTHER_STUDY,
    CLASS_NOT_SUPPORTED,
    NOT_ENCODED_SO,
)
"""Every answer to an uploaded instance."""
