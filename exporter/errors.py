"""Errors of one export: the class is the verdict, the message is for people.

Contract: everything that can go wrong with one instance is raised as an `ExportError` subclass; nobody inspects
messages. Foreign exceptions (pydicom, imagecodecs, PyAV, OSError) are mapped at the boundary that calls the library.

    ExportError                     reason             retried
    ├─ NotDicom                     not_dicom          no
    ├─ Unreadable                   unreadable         no
    │  └─ SourceUnread, SourceGone  unreadable         once (the disk may be to blame)
    ├─ IdentityMismatch             identity_mismatch  no
    ├─ BadGeometry                  bad_geometry       no
    ├─ TooLarge                     too_large          no
    │  └─ MemoryShort               too_large          yes
    ├─ UnsupportedSyntax            unsupported_syntax no
    ├─ CorruptPixels                corrupt_pixels     no
    ├─ DecoderCrash                 decoder_crash      once
    │  └─ AttemptsInterrupted       decoder_crash      no
    ├─ ExportTimeout                timeout            once (wall time)
    │  └─ ProcessorTimeSpent        timeout            no
    ├─ EncodeFailed                 encode_failed      once
    ├─ VerifyFailed                 verify_failed      once
    ├─ PrivacyUnknown               privacy_unknown    no
    └─ InternalError                internal           once
       ├─ WritersTied               internal           no
       └─ BadWorkerAnswer           internal           no
    MachineCondition              (not a verdict on the instance: the exporter pauses)
    ├─ OutOfSpace
    └─ StorageUnavailable
    SkipInstance                    a `SkipReason`: nothing is wrong, there is nothing to do

An error becomes an outcome by `Failed.of` alone, so that the class is the only place that says whether another attempt
can succeed. Messages name operation, ``(gggg,eeee) Name``, what was found and what was permitted; never a patient's
value.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Why an instance failed: stable words, also the directory names under ``spool/quarantine/``."""

    NOT_DICOM = "not_dicom"
    UNREADABLE = "unreadable"
    IDENTITY_MISMATCH = "identity_mismatch"
    BAD_GEOMETRY = "bad_geometry"
    TOO_LARGE = "too_large"
    UNSUPPORTED_SYNTAX = "unsupported_syntax"
    CORRUPT_PIXELS = "corrupt_pixels"
    DECODER_CRASH = "decoder_crash"
    TIMEOUT = "timeout"
    ENCODE_FAILED = "encode_failed"
    VERIFY_FAILED = "verify_failed"
    PRIVACY_UNKNOWN = "privacy_unknown"
    INTERNAL = "internal"


class SkipReason(StrEnum):
    """Why an instance has no media although nothing is wrong with it."""

    NO_MEDIA = "no_media"
    """There is no kind of media for such instances; a metadata line is written."""
    DICOMDIR = "dicomdir"
    """The file is a directory of other files."""
    ARCHIVE = "archive"
    """The file is an archive: what it holds has outcomes of its own."""
    NOT_REGULAR = "not_regular"
    """A link, pipe, socket or device."""
    DUPLICATE = "duplicate"
    """The same instance with the same content was exported before."""
    EXCLUDED = "excluded"
    """The configuration excludes it; or no instance but what Orthanc keeps beside one, where its index is lost."""
    REJECTED = "rejected"
    """A rejection note names the instance, and the configuration withdraws what such notes name."""


class ExportError(Exception):
    """One instance cannot be exported; `reason` and `may_pass` are the verdict."""

    reason: ClassVar[Reason]
    may_pass: ClassVar[bool] = False
    """Whether another attempt can succeed (a crash, a time-out); a corrupt stream stays corrupt."""


class NotDicom(ExportError):
    """The file holds no DICOM data set."""

    reason = Reason.NOT_DICOM


class Unreadable(ExportError):
    """The file is DICOM, but its data set or the file itself cannot be read."""

    reason = Reason.UNREADABLE


class IdentityMismatch(ExportError):
    """SOP class or instance UID of the C-STORE command differ from the data set (PS3.4 B.2.3, status A9xx)."""

    reason = Reason.IDENTITY_MISMATCH


class BadGeometry(ExportError):
    """Rows, columns, frames, bits or samples are missing, contradict each other or the codestream."""

    reason = Reason.BAD_GEOMETRY


class FrameSizesDiffer(BadGeometry):
    """A frame has another size, or another number of samples, than the header says."""


class TooLarge(ExportError):
    """A limit of the configuration (bytes, pixels, frames, depth) would be exceeded."""

    reason = Reason.TOO_LARGE


class UnsupportedSyntax(ExportError):
    """The transfer syntax or a feature of it is known, but cannot be decoded here."""

    reason = Reason.UNSUPPORTED_SYNTAX


class CorruptPixels(ExportError):
    """The pixel data are truncated or the codec refuses them."""

    reason = Reason.CORRUPT_PIXELS


class EncodeFailed(ExportError):
    """The output encoder refused."""

    reason = Reason.ENCODE_FAILED
    may_pass = True


class VerifyFailed(ExportError):
    """The written file, decoded back, is not what was meant to be written."""

    reason = Reason.VERIFY_FAILED
    may_pass = True


class DecoderCrash(ExportError):
    """The worker process died, or answered what makes no sense, while it had the instance."""

    reason = Reason.DECODER_CRASH
    may_pass = True


class AttemptsInterrupted(DecoderCrash):
    """Every attempt was cut off by the end of the exporter, the last one with nothing else under way."""

    may_pass = False


class ExportTimeout(ExportError):
    """The attempt took longer than `limits.wall_s` permits, of which a busy machine may be the cause."""

    reason = Reason.TIMEOUT
    may_pass = True


class ProcessorTimeSpent(ExportTimeout):
    """The attempt used more processor time than is permitted for its size, and would do so again."""

    may_pass = False


class MemoryShort(TooLarge):
    """The machine has too little memory for the instance now, though `limits.memory_mb` permits it."""

    may_pass = True


class PrivacyUnknown(ExportError):
    """The output cannot be proven to identify nobody, so there is none."""

    reason = Reason.PRIVACY_UNKNOWN


class InternalError(ExportError):
    """A defect of ours; the message names the exception's type and its place."""

    reason = Reason.INTERNAL
    may_pass = True


class WritersTied(InternalError):
    """Two writers fit the instance equally well: which one writes is not left to chance."""

    may_pass = False


class BadWorkerAnswer(InternalError):
    """What a worker says about its media or its record cannot be so: its input may have taken it over."""

    may_pass = False


class MachineCondition(Exception):
    """A condition of the machine: says nothing about any instance; the exporter pauses and tries again later."""


class OutOfSpace(MachineCondition):
    """A disk or quota is full, or a disk read-only."""


class StorageUnavailable(MachineCondition):
    """A folder of ours cannot be used at the moment: it is gone, or its file system answers with errors."""

    def __init__(self, what: str, error: OSError | None = None) -> None:
        super().__init__(what if error is None else f"{what}: {error.strerror or type(error).__name__}")


class SkipInstance(Exception):
    """There is nothing to export here, for a reason."""

    def __init__(self, reason: SkipReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
