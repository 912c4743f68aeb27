"""Storage commitment, push model, as SCP: what was asked, what we hold, what still has to be reported (PS3.4 Annex J).

Contract: a request is answered with success only once it is in the durable queue; a report leaves the queue only when
the requester has confirmed it, or after `give_up_days`. *Committed* means: acknowledged here, so durable in the spool,
exported from it, or in quarantine with its bytes. What we cannot prove we report as 0x0112, never the other way.

The proof is a journal of acknowledged instances, one file per day. It is not synced for every instance: a power cut may
cost its last lines, and then a sender keeps an instance that it could have deleted.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog

from listener.durable import Folder, fsync_folder, write_all
from listener.sources.dimse import statuses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from listener.settings import CommitmentSection

log = structlog.get_logger()

ACTION_REQUEST: Final = 1
"""(0000,1008) Action Type ID: request storage commitment (PS3.4 J.3.2)."""
ALL_COMMITTED: Final = 1
"""(0000,1002) Event Type ID: every instance is committed (PS3.4 J.3.3)."""
SOME_FAILED: Final = 2
"""(0000,1002) Event Type ID: failures exist (PS3.4 J.3.3)."""
LONGEST_REQUEST_BYTES: Final = 8 << 20
LONGEST_PAUSE_S: Final = 3600.0
REMEMBER_DAYS: Final = 90


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance that somebody asks about, or is told about."""

    sop_class_uid: str
    sop_instance_uid: str
    failure: int | None = None
    """(0008,1197) Failure Reason; None where it is committed, or not yet looked for."""


@dataclass(frozen=True, slots=True)
class Report:
    """One request for commitment, until its report is delivered."""

    name: str
    transaction_uid: str
    requester: str
    """Its AE title."""
    responder: str
    """The AE title it called us by."""
    references: tuple[Reference, ...]
    asked: float
    """When, in seconds since 1970."""
    attempts: int = 0
    not_before: float = 0.0

    @property
    def event_type(self) -> int:
        """What the report will be called."""
        return SOME_FAILED if any(reference.failure is not None for reference in self.references) else ALL_COMMITTED


class Journal:
    """The instances that were acknowledged, by day."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._fd = -1
        self._day = ""

    def note(self, sop_class_uid: bytes, sop_instance_uid: bytes) -> None:
        """An instance is about to be acknowledged."""
        line = b"%s %s\n" % (sop_class_uid, sop_instance_uid)
        try:
            with self._lock:
                write_all(self._today(), [line])
        except OSError as error:
            log.error("commitment journal cannot be written", problem=error.strerror)  # noqa: TRY400 - no traceback

    def judge(self, references: tuple[Reference, ...]) -> tuple[Reference, ...]:
        """The same references, each with its failure reason or none."""
        wanted = {reference.sop_instance_uid.encode("ascii") for reference in references}
        known: dict[str, set[str]] = {}
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as file:
                for line in file:
                    sop_class_uid, _, uid = line.rstrip(b"\n").partition(b" ")
                    if uid in wanted:
                        known.setdefault(uid.decode(), set()).add(sop_class_uid.decode())
        return tuple(replace(r, failure=_failure(r, known.get(r.sop_instance_uid))) for r in references)

    def close(self) -> None:
        """Close today's file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _today(self) -> int:
        day = time.strftime("%Y%m%d", time.gmtime())
        if day != self._day:
            self.close()
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._folder / f"{day}.log", flags, 0o600)
            self._day = day
            for old in sorted(self._folder.glob("*.log"))[:-REMEMBER_DAYS]:
                old.unlink(missing_ok=True)
        return self._fd


class Commitments:
    """The queue of reports, one file each, and the journal they are judged by."""

    def __init__(self, spool_root: Path, settings: CommitmentSection) -> None:
        self.settings = settings
        self.journal = Journal(spool_root / "received")
        path = spool_root / "commitment"
        path.mkdir(mode=0o700, exist_ok=True)
        fsync_folder(spool_root)
        self._folder = Folder(path)
        self._lock = threading.Lock()
        self._on_association: dict[str, int] = {}
        """Reports of ours that are being delivered on the association they were asked for on: a descriptor of each,
        locked (flock(2)) as long as that is so, which every process sees and no process can forget."""
        self.wake = threading.Event()
        """Set when there may be something to deliver."""

    def accept(self, transaction_uid: str, requester: str, responder: str, references: tuple[Reference, ...]) -> Report:
        """Queue a request, durably, as being reported on the association it came by.

        Raises:
            OSError: It could not be made durable.
        """
        name = f"{time.time_ns():020d}-{os.urandom(8).hex()}.json"
        report = Report(name, transaction_uid, requester, responder, references, asked=time.time())
        descriptor = self._put(report, lock=True)
        with self._lock:
            self._on_association[name] = descriptor
        return report

    def judged(self, report: Report) -> Report:
        """The report with what is true now."""
        return replace(report, references=self.journal.judge(report.references))

    def delivered(self, report: Report) -> None:
        """The requester has confirmed."""
        with suppress(FileNotFoundError):
            os.unlink(report.name, dir_fd=self._folder.fd)
        os.fsync(self._folder.fd)
        self.let_go(report)

    def let_go(self, report: Report) -> None:
        """The association the request came by is over."""
        with self._lock:
            descriptor = self._on_association.pop(report.name, None)
        if descriptor is not None:
            os.close(descriptor)
        self.wake.set()

    def failed(self, report: Report) -> None:
        """A try to deliver failed: later again, with longer and longer pauses, or never."""
        now = time.time()
        if now - report.asked > self.settings.give_up_days * 86_400:
            log.error("commitment report given up", report=report.name, attempts=report.attempts)
            self.delivered(report)
            return
        pause_s = min(self.settings.retry_s * 2**report.attempts, LONGEST_PAUSE_S)
        self._write(replace(report, attempts=report.attempts + 1, not_before=now + pause_s))

    def due(self) -> Iterator[Report]:
        """The reports to deliver now on a new association."""
        now = time.time()
        for name in sorted(self._folder.entries()):
            report = self._read(name) if name.endswith(".json") else None
            if report is not None and report.not_before <= now:
                yield report

    def close(self) -> None:
        """Close the folder and the journal."""
        for descriptor in self._on_association.values():
            os.close(descriptor)
        self._on_association.clear()
        self.journal.close()
        os.close(self._folder.fd)

    def _write(self, report: Report) -> None:
        os.close(self._put(report))

    def _put(self, report: Report, *, lock: bool = False) -> int:
        """Replace a report's file, durably; its descriptor, where asked for locked before anybody can see the file."""
        partial = f".{report.name}.part"
        content = {
            "transaction_uid": report.transaction_uid,
            "requester": report.requester,
            "responder": report.responder,
            "references": [[r.sop_class_uid, r.sop_instance_uid] for r in report.references],
            "asked": report.asked,
            "attempts": report.attempts,
            "not_before": report.not_before,
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(partial, flags, 0o600, dir_fd=self._folder.fd)
        try:
            if lock:
                fcntl.flock(fd, fcntl.LOCK_EX)
            write_all(fd, [json.dumps(content).encode("ascii")])
            os.fsync(fd)
            os.rename(partial, report.name, src_dir_fd=self._folder.fd, dst_dir_fd=self._folder.fd)
            os.fsync(self._folder.fd)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _read(self, name: str) -> Report | None:
        """A report of the queue; None where it is delivered meanwhile, or being delivered on its association."""
        try:
            with (self._folder.path / name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                found = json.loads(file.read())
            references = tuple(Reference(str(c), str(i)) for c, i in found.pop("references"))
            return Report(name=name, references=references, **found)
        except (FileNotFoundError, BlockingIOError):
            return None
        except (ValueError, TypeError, KeyError):
            log.error("commitment queue holds a file that is none of ours", name=name)  # noqa: TRY400 - no traceback
            return None


def _failure(reference: Reference, classes: set[str] | None) -> int | None:
    if classes is None:
        return statuses.NO_SUCH_OBJECT_INSTANCE
    return None if reference.sop_class_uid in classes else statuses.CLASS_INSTANCE_CONFLICT
