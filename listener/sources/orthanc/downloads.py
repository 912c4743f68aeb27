"""Downloads: some threads, each of which takes one instance after another from the server into the spool.

Contract: for every job there is exactly one result, unless we stop first. `Taken` means that the spool has committed
the file and its length and MD5 were those the server told. A trouble is the server's where it says so of itself, or
where the server does not answer the simplest question either; else it is the instance's.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from listener.sources.orthanc.troubles import AnswerTooLarge, OrthancTrouble, WithinErrors, WrongChecksum
from listener.spool.errors import SpoolWriteFailed
from listener.spool.space import SpaceLevel

if TYPE_CHECKING:
    from listener.sources.contract import Surroundings
    from listener.sources.orthanc.answers import RemoteInstance
    from listener.sources.orthanc.filters import Filters
    from listener.sources.orthanc.memory import KnownInstance
    from listener.sources.orthanc.rest import Orthanc

log = structlog.get_logger()

LOOK_FOR_ROOM_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class DownloadTerms:
    """What may change while running."""

    filters: Filters
    max_instance_bytes: int


@dataclass(frozen=True, slots=True)
class DownloadJob:
    """One instance to deal with."""

    instance: bytes
    epoch: int
    seqs: tuple[int, ...] = ()
    """Numbers of the changes that this job settles; none where reconciliation found it."""
    is_retry: bool = False
    """Whether it counted as failed already: it is tried once."""
    tries: int = 0
    known: KnownInstance | None = None
    """What was remembered of it when the job was given out."""
    delete: bytes | None = None
    """Instead of taking it, delete it, if its MD5 still is this one."""


@dataclass(frozen=True, slots=True)
class Taken:
    """It is durable in the spool."""

    job: DownloadJob
    uuid: bytes
    md5: bytes
    size_bytes: int
    is_verified: bool
    """Whether the server keeps an MD5, and it was that."""


@dataclass(frozen=True, slots=True)
class AlreadyStored:
    """It was taken before, with this content."""

    job: DownloadJob
    uuid: bytes
    md5: bytes | None


@dataclass(frozen=True, slots=True)
class Gone:
    """The server does not hold it any more."""

    job: DownloadJob


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A filter leaves it out."""

    job: DownloadJob
    why: str
    uuid: bytes


@dataclass(frozen=True, slots=True)
class Deleted:
    """It was to be deleted from the server."""

    job: DownloadJob
    is_done: bool
    """False where its content is another by now, or it was gone."""


@dataclass(frozen=True, slots=True)
class Troubled:
    """The instance could not be dealt with, this time."""

    job: DownloadJob
    trouble: OrthancTrouble


@dataclass(frozen=True, slots=True)
class Requeued:
    """Nothing is wrong with the instance: the server, or our own disk, does not do its work now."""

    job: DownloadJob
    trouble: OrthancTrouble | SpoolWriteFailed


Verdict = Taken | AlreadyStored | Gone | LeftOut | Deleted | Troubled
Result = Verdict | Requeued


class Downloads:
    """The threads of one server."""

    def __init__(self, orthanc: Orthanc, terms: DownloadTerms, surroundings: Surroundings, count: int) -> None:
        self.terms = terms
        """Replaced as a whole; a job under way keeps those it began with."""
        self.gate = threading.Event()
        """Closed while the server is left alone."""
        self.gate.set()
        self._orthanc = orthanc
        self._surroundings = surroundings
        self._stopping = threading.Event()
        self._jobs: queue.SimpleQueue[DownloadJob | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._busy: set[bytes] = set()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"orthanc-download-{number}", daemon=True)
            for number in range(count)
        ]

    def start(self) -> None:
        """Begin to take jobs."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin no more downloads; those under way go on."""
        self._stopping.set()
        self.gate.set()
        for _ in self._threads:
            self._jobs.put(None)

    def join(self, within_s: float) -> None:
        """Wait for what is under way."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join(within_s / len(self._threads))

    @property
    def is_running(self) -> bool:
        """Whether any thread lives."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def is_whole(self) -> bool:
        """Whether every thread lives."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Jobs that nobody works on yet."""
        return self._jobs.qsize()

    @property
    def under_way(self) -> int:
        """Jobs that somebody works on."""
        with self._lock:
            return len(self._busy)

    def submit(self, job: DownloadJob) -> None:
        """Do this when its turn comes."""
        self._jobs.put(job)

    def results(self, within_s: float) -> list[Result]:
        """What has come out since; waits for the first so long."""
        found: list[Result] = []
        with suppress(queue.Empty):
            found.append(self._results.get(timeout=within_s) if within_s > 0 else self._results.get_nowait())
            while True:
                found.append(self._results.get_nowait())
        return found

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            while not self.gate.wait(LOOK_FOR_ROOM_S) and not self._stopping.is_set():
                pass
            if self._stopping.is_set() or not self._has_room():
                continue
            with self._lock:
                self._busy.add(job.instance)
            try:
                self._results.put(self._judged(job))
            finally:
                with self._lock:
                    self._busy.discard(job.instance)

    def _has_room(self) -> bool:
        """Wait until the spool takes more; False where we stop first."""
        space = self._surroundings.space
        while space.state is not SpaceLevel.ENOUGH or space.queue_full:
            if self._stopping.wait(LOOK_FOR_ROOM_S):
                return False
        return True

    def _judged(self, job: DownloadJob) -> Result:
        """The result of one job, whatever happens."""
        try:
            return self._delete(job, job.delete) if job.delete is not None else self._take(job)
        except SpoolWriteFailed as error:
            return Requeued(job, error)
        except (AnswerTooLarge, WrongChecksum) as trouble:
            return Troubled(job, trouble)
        except OrthancTrouble as trouble:
            return self._whose(job, trouble)
        except Exception:  # around one instance: a defect of ours must not stop all the others
            log.exception("taking an instance failed inside")
            return Troubled(job, WithinErrors("a defect of this program"))

    def _whose(self, job: DownloadJob, trouble: OrthancTrouble) -> Result:
        """Whether a trouble is the server's or the instance's: the server's where it cannot say who it is."""
        if trouble.of_server:
            return Requeued(job, trouble)
        try:
            self._orthanc.system()
        except OrthancTrouble as again:
            return Requeued(job, again)
        return Troubled(job, trouble)

    def _take(self, job: DownloadJob) -> Result:
        terms = self.terms
        held = self._orthanc.instance(job.instance)
        if held is None:
            return Gone(job)
        why = terms.filters.refuses(job.instance, held)
        if why is not None:
            return LeftOut(job, f"{why}:{terms.filters.fingerprint}", held.uuid)
        # An MD5 that is remembered is that of content which was taken, whatever came after.
        known = job.known if job.known is not None and job.known.md5 is not None else None
        if known is not None and known.uuid == held.uuid:
            return AlreadyStored(job, held.uuid, known.md5)
        md5 = self._orthanc.md5(job.instance)
        if known is not None and md5 is not None and known.md5 == md5:
            return AlreadyStored(job, held.uuid, md5)
        if held.size_bytes > terms.max_instance_bytes:
            raise AnswerTooLarge(f"{held.size_bytes} bytes, at most {terms.max_instance_bytes} are taken")
        return self._download(job, held, md5)

    def _download(self, job: DownloadJob, held: RemoteInstance, md5: bytes | None) -> Result:
        incoming = self._surroundings.spool.receive()
        try:
            found = self._orthanc.download(job.instance, held, md5, lambda piece: incoming.write([piece]))
            if found is None:
                return Gone(job)
            incoming.commit()
        finally:
            incoming.discard()
        return Taken(job, held.uuid, found, held.size_bytes, is_verified=md5 is not None)

    def _delete(self, job: DownloadJob, md5: bytes) -> Result:
        """Delete it if it still is what we have; nothing on the server's side can make these two one step."""
        is_ours = self._orthanc.md5(job.instance) == md5
        return Deleted(job, is_done=is_ours and self._orthanc.delete(job.instance))
