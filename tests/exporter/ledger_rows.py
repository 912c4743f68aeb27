"""Rows of a ledger, begun and finished without a worker or media."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import Reason, SkipReason
from exporter.outcome import Exported, Failed, InstanceIdentity, MediaFile, Outcome, Skipped
from exporter.results.ledger import Completed, DuplicateCheck, InstanceStatus, Ledger, WorkItem

if TYPE_CHECKING:
    from exporter.results.ledger import InstanceRow
    from exporter.results.ledger.types import Source

NOBODY = InstanceIdentity("", "", "", "", "")
"""The identity of an instance whose identity does not matter; the ledger keeps none."""


def work(name: str, *, size_bytes: int = 1, mtime_ns: int = 2, source: Source = "folder") -> WorkItem:
    """A work item without a file."""
    return WorkItem(name, Path(name), size_bytes, mtime_ns, source)


def begin(
    ledger: Ledger,
    name: str,
    *,
    size_bytes: int = 1,
    mtime_ns: int = 2,
    source: Source = "folder",
    ae_title: str = "",
    number: int | None = None,
) -> InstanceRow:
    """Begin an attempt."""
    item = WorkItem(name, Path(name), size_bytes, mtime_ns, source, ae_title=ae_title)
    return ledger.begin_attempt(item, number)


def finish(
    ledger: Ledger,
    name: str,
    *,
    state: InstanceStatus = InstanceStatus.EXPORTED,
    reason: str = "internal",
    message: str = "",
    identity: InstanceIdentity = NOBODY,
    media: tuple[MediaFile, ...] = (),
    settings_sha256: str | None = None,
    source_sha256: str = "",
    duplicate_of: str | None = None,
    conflict: str | None = None,
    line: bytes | None = None,
) -> tuple[str, ...]:
    """Commit an outcome that puts the instance into `state`; its media give up these paths."""
    outcome: Outcome
    match state:
        case InstanceStatus.EXPORTED:
            outcome = Exported(identity, media, "{}", source_sha256, settings_sha256 or "")
        case InstanceStatus.SKIPPED:
            outcome = Skipped(SkipReason(reason), message, identity, source_sha256=source_sha256)
        case _:
            outcome = Failed(Reason(reason), message, may_pass=False, identity=identity, source_sha256=source_sha256)
    item = work(name, source="spool" if state is InstanceStatus.QUARANTINED else "folder")
    relation = DuplicateCheck(duplicate_of, conflict)
    return ledger.finish_many([Completed(item, outcome, relation, settings_sha256=settings_sha256, line=line)])
