"""The values that travel in and out of the ledger."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from exporter.errors import SkipReason
from exporter.outcome import Exported, Failed, Skipped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from exporter.outcome import InstanceIdentity, MediaFile, Outcome

Source = Literal["spool", "folder"]

_LAST_TIME: Final = 253402300799.0
"""End of the year 9999: later ones cannot be written."""

LONGEST_WAIT_S: Final = 3600.0
"""Longest time between two attempts at one instance."""


class InstanceStatus(StrEnum):
    """State of an instance in the ledger; exactly one at any time."""

    ACTIVE = "active"
    """An attempt was begun and has not ended."""
    DEFERRED = "deferred"
    """Waits for another attempt: after a failure that may pass, an interruption, or `retry`."""
    EXPORTED = "exported"
    SKIPPED = "skipped"
    FAILED = "failed"
    """Failed for good; its file stays where it is (a folder's file)."""
    QUARANTINED = "quarantined"
    """Failed for good; its bytes are kept in the spool's quarantine."""


SUSPECT_AFTER: Final = 2
"""Interruptions after which an instance is tried with nothing else under way."""
FINAL = frozenset((InstanceStatus.EXPORTED, InstanceStatus.SKIPPED, InstanceStatus.FAILED, InstanceStatus.QUARANTINED))
"""States that end the work on an instance."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One instance to be exported: what the engine takes, and the ledger when an attempt begins."""

    name: str
    """Its key in the ledger: spool name, or path relative to the input folder as `os.fsdecode` gives it."""
    path: Path
    size_bytes: int
    mtime_ns: int
    source: Source
    mirrors: str | None = None
    """Relative path that output mirrors; None where output is named by identity."""
    ae_title: str = ""
    """Called AE title whose settings apply; empty for the top-level settings. Duplicates are looked for within it."""
    decided: Skipped | Failed | None = None
    """Its outcome, where that needs no worker."""


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One instance as the ledger has it."""

    name: str
    source: Source
    size_bytes: int
    mtime_ns: int
    state: InstanceStatus
    reason: str | None
    message: str
    attempts: int
    """Attempts begun, this one included while it is active; interrupted ones are not counted here."""
    not_before: float | None
    """Unix time before which a deferred instance is not tried again, as far as the clock was right; 0: at once."""
    identity: InstanceIdentity | None
    source_sha256: str | None
    settings_sha256: str | None
    duplicate_of: str | None
    conflict_with: str | None
    base: str | None
    """Output base that the instance owns."""
    line_seq: int | None
    """Number of the newest metadata line."""
    ae_title: str = ""
    """Called AE title whose settings apply; empty for the top-level settings."""
    interruptions: int = 0
    """Attempts that something outside the instance ended; an attempt that ends by itself sets this to zero."""


class InputRow(NamedTuple):
    """What the ledger knows of one input: a tuple, since a rerun makes a million of them."""

    size_bytes: int
    mtime_ns: int
    settings_sha256: str | None
    state: str
    reason: str | None
    updated_ns: int
    """Time of the last change, in nanoseconds since 1970."""

    def is_final(self, size_bytes: int, mtime_ns: int, settings_sha256: str) -> bool:
        """Whether the input, unchanged, was finished under these settings."""
        return self[:3] == (size_bytes, mtime_ns, settings_sha256) and self.state in FINAL

    @property
    def may_contain(self) -> bool:
        """Whether the input may be a container: then names inside count, too."""
        return self.state == InstanceStatus.FAILED or self.reason == SkipReason.ARCHIVE


@dataclass(frozen=True, slots=True)
class ContainerMembers:
    """Counts of the instances of a container in the ledger."""

    pending: int
    """Not finished, or under other settings."""
    finished: int
    failed: int
    """Instances among them that failed."""


@dataclass(frozen=True, slots=True)
class SeriesMember:
    """One exported file of a folder, and the series it belongs to."""

    study_uid: str
    series_uid: str
    name: str
    content_sha256: str


@dataclass(frozen=True, slots=True)
class DuplicateCheck:
    """Relation of an instance to others; see `exporter.results.ledger.relations`."""

    duplicate_of: str | None = None
    """Name of the instance with the same SOP Instance UID and the same content."""
    conflict_with: str | None = None
    """Name of an instance with the same SOP Instance UID and other content."""


@dataclass(frozen=True, slots=True)
class Completed:
    """How the work on one instance ended: what the publisher places, and `Ledger.finish_many` commits."""

    work: WorkItem
    outcome: Outcome
    """Of an export: the media have their final names once it is placed."""
    relation: DuplicateCheck = DuplicateCheck()
    folder: Path | None = None
    """Its folder of partial files."""
    settings_sha256: str | None = None
    line: bytes | None = None
    """One whole metadata line, newline included."""

    @property
    def state(self) -> InstanceStatus:
        """The state in which the ledger keeps it."""
        match self.outcome:
            case Exported():
                return InstanceStatus.EXPORTED
            case Skipped():
                return InstanceStatus.SKIPPED
            case Failed():
                return InstanceStatus.QUARANTINED if self.work.source == "spool" else InstanceStatus.FAILED

    @property
    def media(self) -> tuple[MediaFile, ...] | None:
        """The media from now on; None where those of an earlier export, and their line, stay in force."""
        if isinstance(self.outcome, Exported):
            return self.outcome.media
        return None if self.line is None else ()


class SettledRejection(IntEnum):
    """How far a rejection was carried out."""

    NOT_YET = 0
    FLAGGED = 1
    """Instances that it names say so in their lines."""
    WITHDRAWING = 2
    """Instances that it names are withdrawn, the volumes of their series may be there."""
    WITHDRAWN = 3


@dataclass(frozen=True, slots=True)
class InstanceRejection:
    """What one rejection note says of one instance, which may not have come yet."""

    sop_instance_uid: str
    note: str
    """`dicom_file` of the note: its name in the ledger."""
    study_uid: str
    series_uid: str
    code: str
    """Code value of the note's title."""
    noted_ns: int
    """When the ledger learned of it, in nanoseconds since 1970."""
    settled: SettledRejection = SettledRejection.NOT_YET


@dataclass(frozen=True, slots=True)
class Counts:
    """Instances by state. Files still in ``spool/new`` that were never begun are not here: the spool counts them."""

    active: int = 0
    deferred: int = 0
    exported: int = 0
    skipped: int = 0
    failed: int = 0
    quarantined: int = 0
    duplicates: int = 0
    """Instances of any state that are flagged as duplicates."""
    conflicts: int = 0
    rejected: int = 0
    """Instances that a rejection note names: withdrawn, refused, or exported and flagged."""
    by_reason: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Instances by (state, reason)."""
    by_source: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Instances by (state, source)."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """Deferred instances whose next attempt is not when it should be: late, or put off longer than ever is right."""

    late: int = 0
    """Due for longer than `LONGEST_WAIT_S`: no exporter runs, or it cannot get at them."""
    too_far: int = 0
    """Put off for longer than `LONGEST_WAIT_S`: the clock was wrong then, or is now."""
    furthest: float | None = None
    """Unix time that the last of those is put off until."""


def overdue_sentences(overdue: Overdue) -> list[str]:
    """Problems that an operator has to know; empty without any."""
    sentences = []
    if overdue.late:
        sentences.append(f"{overdue.late} of them have been due for over an hour: is the exporter running?")
    if overdue.too_far and overdue.furthest is not None:
        until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(min(overdue.furthest, _LAST_TIME)))
        sentences.append(
            f"{overdue.too_far} of them are put off until {until}: a clock was wrong;"
            " the exporter tries them soon after its next start, a backfill at once"
        )
    return sentences


@dataclass(frozen=True, slots=True)
class OutboxLine:
    """One committed metadata line and its place among all of them."""

    seq: int
    position: int
    """Sum of the lengths of all lines before it, in bytes."""
    length: int
    crc32: int
    text: bytes
