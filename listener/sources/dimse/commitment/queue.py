"""Storage commitment, push model, as SCP: what was asked, what we hold, what still has to be reported (PS3.4 Annex J).

Contract: a request is answered with success only once it is in the durable queue; a report leaves the queue only when
the requester has confirmed it, or after `give_up_days`. *Committed* means: acknowledged here, so durable in the spool,
exported from it, or in quarantine with its bytes. What we cannot prove we report as 0x0112, never the other way.

The queue is a folder with one file for each report, `<name>.held` while the association that asked for it delivers it
and `<name>.json` when it is to be delivered on a new one; a rename is the only transition. No descriptor and no lock
belongs to a report. What a process that ended still held is released by name: a name carries the mark of its process.

The proof is a journal of acknowledged instances, one file per day. It is not synced for every instance: a power cut may
cost its last lines, and then a sender keeps an instance that it could have deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import structlog

from listener.foundation.backoff import Backoff
from listener.foundation.durable import Folder, fsync_folder, write_all
from listener.intake import store_status
from listener.sources.dimse.commitment.index import AcknowledgedIndex
from listener.spool.names import TIME_DIGITS, SpoolNames, is_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from listener.settings.listener import CommitmentSection

log = structlog.get_logger()

ACTION_REQUEST: Final = 1
"""(0000,1008) Action Type ID: request storage commitment (PS3.4 J.3.2)."""
ALL_COMMITTED: Final = 1
"""(0000,1002) Event Type ID: every instance is committed (PS3.4 J.3.3)."""
SOME_FAILED: Final = 2
"""(0000,1002) Event Type ID: failures exist (PS3.4 J.3.3)."""
LONGEST_REQUEST_BYTES: Final = 8 << 20
LONGEST_PAUSE_S: Final = 3600.0
MOST_COLLECTED_BYTES: Final = 32 << 20
"""Of requests that one process is receiving, all associations together; more are refused with 0x0213."""
REMEMBER_DAYS: Final = 90
MOST_REPORTS: Final = 50_000
"""Reports in the queue; a further request is refused with 0x0213."""
MOST_REPORTS_OF_ONE: Final = 10_000
"""Reports in the queue for one requester."""
_WAITING: Final = ".json"
_HELD: Final = ".held"
_PARTIAL: Final = ".part"
_LINE: Final = re.compile(rb"[0-9.]{1,64} [0-9.]{1,64}\n")


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance of a commitment request or report."""

    sop_class_uid: str
    sop_instance_uid: str
    failure: int | None = None
    """(0008,1197) Failure Reason; None where it is committed, or not yet looked for."""


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """One request for commitment, until its report is delivered."""

    name: str
    """Unique and lasting, unlike the message ID that it gets on an association."""
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


class RequestMemory:
    """Memory for the requests that are being received: a bound for all associations of a process together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left_bytes = MOST_COLLECTED_BYTES

    def reserve(self, size_bytes: int) -> bool:
        """Take so much of it; False where there is not so much left."""
        with self._lock:
            if size_bytes > self._left_bytes:
                return False
            self._left_bytes -= size_bytes
            return True

    def release(self, size_bytes: int) -> None:
        """Give back what was reserved."""
        with self._lock:
            self._left_bytes += size_bytes


class QueueFull(Exception):
    """There are too many reports that were not confirmed yet."""


class AcknowledgedLog:
    """The instances that were acknowledged, by day."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()
        self._fd = -1
        self._day = ""
        self._is_torn = False
        self._index = AcknowledgedIndex(folder)

    def record(self, sop_class_uid: bytes, sop_instance_uid: bytes) -> None:
        """An instance is about to be acknowledged.

        What is no UID is left out: nobody can ask for it, and a peer chooses it, line breaks included.
        """
        line = b"%s %s\n" % (sop_class_uid, sop_instance_uid)
        if _LINE.fullmatch(line) is None:
            return
        try:
            with self._lock:
                fd = self._today()
                if self._is_torn:
                    write_all(fd, [b"!\n"])  # what is left of a line must not become one of another instance
                self._is_torn = True
                write_all(fd, [line])
                self._is_torn = False
        except OSError as error:
            log.error("commitment journal cannot be written", problem=error.strerror)  # noqa: TRY400 - no traceback

    def judge(self, references: tuple[Reference, ...]) -> tuple[Reference, ...]:
        """The same references, each with its failure reason or none.

        Raises:
            IndexUnusable: Nothing can be said of any of them at present.
        """
        known = self._index.find({reference.sop_instance_uid for reference in references})
        return tuple(replace(r, failure=_failure(r, known.get(r.sop_instance_uid))) for r in references)

    def catch_up(self, stopping: Callable[[], bool]) -> None:
        """Prepare for the next `judge`.

        Raises:
            IndexUnusable: The disk is full, or cannot be read.
        """
        self._index.catch_up(stopping)

    def close(self) -> None:
        """Close today's file and the index."""
        with self._lock:
            self._close_day()
        self._index.close()

    def _close_day(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _today(self) -> int:
        day = time.strftime("%Y%m%d", time.gmtime())
        if day != self._day:
            self._close_day()
            self._day = ""
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._folder / f"{day}.log", flags, 0o600)
            self._day = day
            size = os.fstat(self._fd).st_size
            self._is_torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
            for old in sorted(self._folder.glob("*.log"))[:-REMEMBER_DAYS]:
                old.unlink(missing_ok=True)
        return self._fd


@dataclass(frozen=True, slots=True)
class ScheduledReport:
    """A report that waits for a new association, without what it is about."""

    name: str
    requester: str
    responder: str
    asked: float
    not_before: float
    """In seconds since 1970."""

    @classmethod
    def of(cls, report: CommitmentReport) -> ScheduledReport:
        """The report without its references."""
        return cls(report.name, report.requester, report.responder, report.asked, report.not_before)

    def is_due(self) -> bool:
        """Whether its pause is over; one that is longer than any was written while the clock was wrong."""
        return not 0 < self.not_before - time.time() <= LONGEST_PAUSE_S


class CommitmentQueue:
    """The queue of reports, one file each, and the journal they are judged by."""

    def __init__(self, spool_root: Path, settings: CommitmentSection, mark: int | None = None) -> None:
        """Open the queue below a spool.

        Args:
            spool_root: The spool's folder.
            settings: Targets and pauses.
            mark: Of the names that are made here, as in the spool; processes of one listener have different ones.
        """
        self.settings = settings
        self.journal = AcknowledgedLog(spool_root / "received")
        path = spool_root / "commitment"
        path.mkdir(mode=0o700, exist_ok=True)
        fsync_folder(spool_root)
        self._folder = Folder(path)
        self._names = SpoolNames(mark)
        self._scheduled: dict[str, ScheduledReport] = {}
        """What was read of the reports that wait; of the process that delivers them."""
        self._foreign: set[str] = set()
        """Files that are no reports, each logged once."""
        self.memory = RequestMemory()
        self.wake = threading.Event()
        """Set when there may be something to deliver."""

    def recover(self, mark: int | None = None) -> None:
        """Release what processes that have ended still held.

        Args:
            mark: Of the one process that has ended; without, no process works on this queue yet.
        """
        for entry in self._folder.entries():
            name, end = os.path.splitext(entry)  # noqa: PTH122 - names in an open folder are no paths
            if end == _PARTIAL and (mark is None or is_of(mark, name.lstrip("."))):
                with suppress(FileNotFoundError):
                    os.unlink(entry, dir_fd=self._folder.fd)
            elif end == _HELD and (mark is None or is_of(mark, name)):
                self.release_association(name)

    def accept(
        self, transaction_uid: str, requester: str, responder: str, references: tuple[Reference, ...]
    ) -> CommitmentReport:
        """Queue a request, durably, as being reported on the association it came by.

        Raises:
            OSError: It could not be made durable.
            QueueFull: Too many reports were not confirmed yet.
        """
        of_requester = hashlib.sha256(requester.encode("utf-8", "replace")).hexdigest()[:8]
        waiting = self._folder.entries()
        same = sum(name[TIME_DIGITS + 5 : TIME_DIGITS + 13] == of_requester for name in waiting)
        if len(waiting) >= MOST_REPORTS or same >= MOST_REPORTS_OF_ONE:
            raise QueueFull
        made = self._names.make()  # time, mark, 48 random bits
        name = f"{made[: TIME_DIGITS + 5]}{of_requester}{made[TIME_DIGITS + 13 : TIME_DIGITS + 17]}"
        report = CommitmentReport(name, transaction_uid, requester, responder, references, asked=time.time())
        self._put(report, _HELD)
        return report

    def judged(self, report: CommitmentReport) -> CommitmentReport:
        """The report with what is true now.

        Raises:
            IndexUnusable: Nothing can be said at present.
        """
        return replace(report, references=self.journal.judge(report.references))

    def delivered(self, name: str) -> None:
        """The requester has confirmed."""
        for end in (_HELD, _WAITING):
            with suppress(FileNotFoundError):
                os.unlink(f"{name}{end}", dir_fd=self._folder.fd)
        os.fsync(self._folder.fd)

    def release_association(self, name: str) -> None:
        """The association the request came by is over, or the report was refused there; harmless a second time."""
        with suppress(FileNotFoundError):
            folder = self._folder.fd
            os.rename(f"{name}{_HELD}", f"{name}{_WAITING}", src_dir_fd=folder, dst_dir_fd=folder)
        self.wake.set()

    def failed(self, report: CommitmentReport) -> None:
        """A try to deliver failed: later again, with longer and longer pauses, or never."""
        if self.give_up(ScheduledReport.of(report)):
            return
        not_before = time.time() + self.pause_s(report.attempts)
        again = replace(report, attempts=report.attempts + 1, not_before=not_before)
        self._put(again, _WAITING)
        self._scheduled[report.name] = ScheduledReport.of(again)

    def give_up(self, report: ScheduledReport) -> bool:
        """Drop a report that could not be delivered for too long; False where it is not that old, or delivered."""
        is_waiting = self._folder.size_of(f"{report.name}{_WAITING}") is not None
        if not is_waiting or time.time() - report.asked <= self.settings.give_up_days * 86_400:
            return False
        log.error("commitment report given up", report=report.name)
        self.delivered(report.name)
        return True

    def pause_s(self, attempts: int) -> float:
        """Pause after so many tries before the last one."""
        return Backoff(self.settings.retry_s, LONGEST_PAUSE_S).pause_after(attempts + 1)

    def due(self) -> Iterator[ScheduledReport]:
        """The reports to deliver now on a new association, the oldest first; each file is read once for that."""
        names = {name.removesuffix(_WAITING) for name in self._folder.entries() if name.endswith(_WAITING)}
        for gone in set(self._scheduled) - names:
            del self._scheduled[gone]
        for name in sorted(names):
            if name not in self._scheduled:
                report = self.read(name)
                if report is None:
                    continue
                self._scheduled[name] = ScheduledReport.of(report)
            if self._scheduled[name].is_due():
                yield self._scheduled[name]

    def read(self, name: str) -> CommitmentReport | None:
        """A report that waits; None where it is delivered meanwhile."""
        try:
            found = json.loads((self._folder.path / f"{name}{_WAITING}").read_bytes())
            references = tuple(Reference(str(c), str(i)) for c, i in found.pop("references"))
            return CommitmentReport(name=name, references=references, **found)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            if name not in self._foreign:
                self._foreign.add(name)
                log.error("commitment queue holds a file that is no report: move it away", name=name)  # noqa: TRY400 - no traceback
            return None

    def close(self) -> None:
        """Close the folder and the journal."""
        self.journal.close()
        os.close(self._folder.fd)

    def _put(self, report: CommitmentReport, end: str) -> None:
        """Replace a report's file, durably."""
        partial = f".{report.name}{_PARTIAL}"
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
            write_all(fd, [json.dumps(content).encode("ascii")])
            os.fsync(fd)
            os.rename(partial, f"{report.name}{end}", src_dir_fd=self._folder.fd, dst_dir_fd=self._folder.fd)
            os.fsync(self._folder.fd)
        except OSError:
            with suppress(OSError):
                os.unlink(partial, dir_fd=self._folder.fd)
            raise
        finally:
            os.close(fd)


def _failure(reference: Reference, classes: set[str] | None) -> int | None:
    if classes is None:
        return store_status.NO_SUCH_OBJECT_INSTANCE
    return None if reference.sop_class_uid in classes else store_status.CLASS_INSTANCE_CONFLICT
