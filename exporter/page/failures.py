"""Instances that failed for good, and trying them again: the one way for the command and for the page.

Contract: lists what the ledger has as failed or quarantined, and what the listener itself put into quarantine. Looking
changes nothing; `retry` makes failures pending again: a running exporter takes them up at once, a backfill with its
next run. It may be repeated, and by two people at once: each failure is made pending once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from listener.spool import view

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.results.ledger import InstanceRow

REMEDIES: Final = {
    "not_dicom": "The file holds no DICOM data set: ask its sender what it is; there is nothing to try again.",
    "unreadable": "The file is cut off or cannot be read: send it again, or check the disk and permissions.",
    "identity_mismatch": "The sender named another instance than it sent: report it to the sender's manufacturer.",
    "bad_geometry": "Its header contradicts itself or its pixels: send it again from the archive, or report it.",
    "too_large": "It is beyond a limit of the configuration: raise the one that the message names, then try again.",
    "unsupported_syntax": "Its transfer syntax cannot be decoded here: send it in another one.",
    "corrupt_pixels": "Its pixel data are damaged: send it again from the archive.",
    "decoder_crash": "Its decoder crashed: try again once; if it fails again, report the instance as a defect.",
    "timeout": "It took longer than `limits` permit: try again when the machine is less busy, or raise the limit.",
    "encode_failed": "The encoder refused it: check `video` and `image` in the configuration, then try again.",
    "verify_failed": "The media were not what they should be and were discarded: try again; then report a defect.",
    "privacy_unknown": "Nobody could say what may leave: name a rule for it under `privacy`, then try again.",
    "internal": "A defect of the exporter: report it with the message; try again after an update.",
}
"""What to do about each reason."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One instance that failed for good."""

    id: str
    """Its name in the spool, or its path relative to the folder that was exported."""
    state: str
    reason: str
    message: str
    attempts: int = 0
    """0 where the listener itself refused it."""
    size_bytes: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    """Report beside the bytes in quarantine."""


def remedy(reason: str) -> str:
    """The sentence that says what to do about failures of a reason."""
    return REMEDIES.get(reason, "Look at the message, and try again once its cause is gone.")


def without_name(message: str, name: str) -> str:
    """A message without the path of its file."""
    return message.replace(name, "its file") if name else message


def failures_of(data: Path) -> Iterator[Failure]:
    """Everything that failed for good in a data or output folder."""
    from exporter.results.ledger import InstanceStatus, Ledger

    in_ledger = set()
    path = data / "exporter.db"
    if path.is_file():
        with Ledger.open_read_only(path) as ledger:
            for state in (InstanceStatus.FAILED, InstanceStatus.QUARANTINED):
                for entry in ledger.entries(state):
                    in_ledger.add(entry.name)
                    yield _of_entry(entry)
    if (spool := view.SpoolView.read(data / "spool")) is not None:
        for refused in spool.refused():
            if refused.name not in in_ledger:
                yield Failure(refused.name, "quarantined", refused.reason, refused.message)


def _of_entry(entry: InstanceRow) -> Failure:
    return Failure(entry.name, str(entry.state), entry.reason or "", entry.message, entry.attempts, entry.size_bytes)


def retry(data: Path, *, name: str | None = None, reason: str | None = None) -> int:
    """Make one failure, or all of one reason, pending again.

    The ledger comes first: a file that is then still in quarantine is listed on, and taken by another `retry`; a file
    that came first would meet a ledger that has it as finished.

    Returns:
        Number of failures that are pending again.

    Raises:
        LedgerUnusable, SpoolUnusable: They cannot be written.
    """
    from exporter.results.ledger import Ledger
    from listener.spool.spool import Spool

    in_ledger = moved = 0
    if (data / "exporter.db").is_file():
        with Ledger.open(data / "exporter.db", exclusive=False) as ledger:
            in_ledger = len(ledger.retry(name=name, reason=reason))
    if (data / "spool").is_dir():
        with Spool.open(data / "spool") as spool:
            moved = spool.requeue(name or reason or "")
    # The ledger also names what waits since an earlier retry: where there are files, those that moved are the number.
    return moved or in_ledger
