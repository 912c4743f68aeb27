"""Export a folder: the same workers and the same publication as the daemon, without the spool.

Contract: every entry below the folder ends as exactly one of exported, skipped and failed, under its path relative to
the folder; media mirror the tree. What has not changed since it was finished (size, time of modification, settings) is
not read again, failures included: they are tried again when the file changes or `exporter failures retry` says so.
Stopping at any point loses nothing: a rerun goes on.

Must never: move, change or delete its input, or take its own output for input.

(The module is not called ``backfill`` because `exporter.backfill` is the function.)
"""

from __future__ import annotations

import heapq
import queue
import stat
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.discovery import Found, Kind, Outputs, output_bases, walk
from exporter.discovery import count as count_entries
from exporter.engine import Deferred, Known, Policy, Published, Returned
from exporter.errors import OutOfSpace, Reason, SkipReason
from exporter.ledger import Ledger, LedgerUnusable, State
from exporter.outcome import Exported, Failed, Outcome, Skipped
from exporter.publish import Work
from exporter.session import Places, opened

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from exporter.engine import Result
    from exporter.session import Session
    from exporter.settings import Settings
    from exporter.volumes.found import SeriesTally

WAIT_S: Final = 0.2
DRAIN_S: Final = 10.0
"""Time that work under way gets to finish when the run is told to stop."""
RETRY_AFTER_S: Final = 2.0


class InputUnusable(Exception):
    """There is no folder to export there, or not one that can be read."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to export and where to."""

    folder: Path
    output: Path
    settings: Settings
    workers: int | None = None
    """Worker processes; default: `num_workers` of the settings."""

    @property
    def places(self) -> Places:
        """Where output goes."""
        from listener.settings import DataFolder

        data = DataFolder(self.output)
        return Places(self.settings.media_folder(data), self.settings.metadata_file(data), data.ledger)

    @property
    def series(self) -> Path:
        """Where volumes of whole series go."""
        return self.output / "series"


@dataclass(slots=True)
class Tally:
    """How far a run is: updated while it runs."""

    total: int | None = None
    """Entries there are; None while they are being counted."""
    unchanged: int = 0
    """Entries that were finished before and are as they were."""
    failed_before: int = 0
    """Those of them that had failed."""
    exported: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    """Of the input that was read."""
    series: SeriesTally | None = None
    """Volumes of whole series, where `volume.series` asks for them."""

    @property
    def done(self) -> int:
        """Entries that are accounted for."""
        return self.unchanged + self.exported + self.skipped.total() + self.failed.total()

    def add(self, work: Work, outcome: Outcome) -> None:
        """Count one outcome."""
        self.bytes += work.size_bytes
        match outcome:
            case Exported():
                self.exported += 1
            case Skipped():
                self.skipped[outcome.reason] += 1
            case Failed():
                self.failed[outcome.reason] += 1


def backfill(request: Request, tally: Tally, stop: threading.Event) -> Iterator[Published]:
    """Export what is new or changed below the folder, one result per entry as they come.

    Args:
        request: What and where.
        tally: Updated as the run goes on.
        stop: When set, nothing new begins, work under way gets a moment to finish, and the iteration ends.

    Raises:
        InputUnusable: The folder cannot be read, or is part of the output.
        OutOfSpace: The disk is full; a rerun goes on from here.
        LedgerUnusable, MetadataFileUnusable, MediaFolderUnusable, WorkerUnstartable: Why it cannot run.
    """
    folder = input_folder(request.folder)
    places = request.places
    if folder.is_relative_to(places.media.resolve()):
        raise InputUnusable(
            f"{request.folder} lies inside the media folder {places.media}: choose another output folder"
        )
    workers = request.settings.workers if request.workers is None else request.workers
    policy = Policy(request.settings.limits.attempts, RETRY_AFTER_S, skip_duplicates=False)
    with opened(request.settings, places, workers=workers, policy=policy) as session:
        outputs = own_outputs(folder, request)
        recursive = request.settings.dicom.recursive
        threading.Thread(target=_count, args=(folder, outputs, recursive, tally, stop), daemon=True).start()
        found = _changed(walk(folder, outputs, recursive=recursive), session.ledger, request.settings, tally)
        yield from _Run(session, tally, stop).results(found)
        if request.settings.volume.series and not stop.is_set():
            from exporter.volumes.found import write_found

            tally.series = write_found(folder, request.series, session.ledger, request.settings, stop)


def input_folder(path: Path) -> Path:
    """The folder to export, without symbolic links.

    Raises:
        InputUnusable: It is not there, no folder, or not readable.
    """
    try:
        folder = path.resolve(strict=True)
        next(folder.iterdir(), None)
    except NotADirectoryError:
        raise InputUnusable(f"{path} is no folder: give the folder that holds the DICOM files") from None
    except FileNotFoundError:
        raise InputUnusable(f"the folder {path} does not exist: give the folder that holds the DICOM files") from None
    except OSError as error:
        raise InputUnusable(f"the folder {path} cannot be read: {error.strerror}") from None
    return folder


def own_outputs(folder: Path, request: Request) -> Outputs:
    """What below the input folder is output: never taken for input."""
    places = request.places
    folders = [places.media, request.series]
    if request.output.resolve() != folder:
        folders.append(request.output)
    files = [places.ledger, places.metadata]
    if request.settings.config.file is not None:
        files.append(request.settings.config.file)
    return Outputs.of(tuple(one for one in folders if one.is_dir()), tuple(files))


def _count(folder: Path, outputs: Outputs, recursive: bool, tally: Tally, stop: threading.Event) -> None:
    total = 0
    try:
        for total in count_entries(folder, outputs, recursive=recursive):  # noqa: B007 - the last one counts
            if stop.is_set():
                return
    except OSError:
        return
    tally.total = total


def _changed(entries: Iterator[Found], ledger: Ledger, settings: Settings, tally: Tally) -> Iterator[Found]:
    """The entries that were not finished as they are, under these settings."""
    failed = {entry.name for entry in ledger.entries(State.FAILED)}
    settings_sha256 = settings.settings_sha256
    for found in entries:
        if ledger.unchanged(found.name, found.size_bytes, found.mtime_ns, settings_sha256):
            tally.unchanged += 1
            tally.failed_before += found.name in failed
        else:
            yield found


class _Run:
    """One run: feeds the engine, repeats what was deferred, stops when told."""

    def __init__(self, session: Session, tally: Tally, stop: threading.Event) -> None:
        self._engine = session.engine
        self._tally = tally
        self._stop = stop
        self._under_way = 0
        self._later: list[tuple[float, str, Work]] = []

    def results(self, entries: Iterator[Found]) -> Iterator[Published]:
        """Every entry's result, each counted in the tally first."""
        more = True
        while not self._stop.is_set() and (more or self._later or self._under_way):
            while more and self._under_way < self._engine.room:
                found = next(entries, None)
                more = found is not None
                if found is not None:
                    self._submit(found)
            if not more:
                self._submit_later()
            yield from self._collect(WAIT_S)
        if self._stop.is_set():
            yield from self._drain()

    def _drain(self) -> Iterator[Published]:
        """End the engine while its results are taken: what finishes in time counts."""
        ending = threading.Thread(target=self._engine.stop, args=(DRAIN_S,))
        ending.start()
        while ending.is_alive() or not self._engine.results.empty():
            yield from self._collect(WAIT_S)
        ending.join()

    def _submit(self, found: Found) -> None:
        mirrors = found.path.name if found.name.startswith("/") else found.name
        work = Work(found.name, found.path, found.size_bytes, found.mtime_ns, "folder", mirrors)
        self._under_way += 1
        match found.kind:
            case Kind.REGULAR:
                self._engine.submit(work)
            case Kind.OTHER:
                message = "a link, pipe, socket, device or folder: only regular files are read"
                self._engine.submit_decided(work, Skipped(SkipReason.NOT_REGULAR, message))
            case Kind.UNREADABLE:
                message = "cannot be looked at: it is not there, there is no permission, or its path is too long"
                self._engine.submit_decided(work, Failed(Reason.UNREADABLE, message, may_pass=False))

    def _submit_later(self) -> None:
        """Try again what was deferred and is due."""
        while self._later and self._later[0][0] <= time.time() and self._under_way < self._engine.room:
            self._engine.submit(heapq.heappop(self._later)[2])
            self._under_way += 1

    def _collect(self, wait_s: float) -> Iterator[Published]:
        """The results there are, waiting a moment for the first.

        Raises:
            OutOfSpace: An instance came back because the disk is full, or cannot be committed for that reason.
        """
        try:
            result: Result | None = self._engine.results.get(timeout=wait_s)
        except queue.Empty:
            self._engine.check()
            if self._engine.waits_for_space is not None and not self._stop.is_set():
                raise OutOfSpace(self._engine.waits_for_space) from None
            return
        while result is not None:
            self._under_way -= 1
            match result:
                case Published():
                    self._tally.add(result.work, result.outcome)
                    yield result
                case Deferred():
                    heapq.heappush(self._later, (result.not_before, result.work.name, result.work))
                case Returned():
                    if result.out_of_space is not None and not self._stop.is_set():
                        raise OutOfSpace(result.out_of_space)
                case Known():
                    raise AssertionError("a folder's file begins anew")
            try:
                result = self._engine.results.get_nowait()
            except queue.Empty:
                result = None


# -- for programs ----------------------------------------------------------------------------------------------------


def outcomes(
    folder: str | os.PathLike[str], output: str | os.PathLike[str], settings: Settings | None, workers: int | None
) -> Iterator[Outcome]:
    """See `exporter.backfill`."""
    request = Request(Path(folder), Path(output), settings or _default_settings(), workers)
    stop = threading.Event()
    try:
        for published in backfill(request, Tally(), stop):
            yield replace(published.outcome, name=published.work.name)
    finally:
        stop.set()


def one_file(path: str | os.PathLike[str], output: str | os.PathLike[str], settings: Settings | None) -> Outcome:
    """See `exporter.export_file`."""
    request = Request(Path(path).parent, Path(output), settings or _default_settings(), workers=1)
    policy = Policy(request.settings.limits.attempts, 0.0, skip_duplicates=False)
    with opened(request.settings, request.places, workers=1, policy=policy) as session:
        run = _Run(session, Tally(), threading.Event())
        (published,) = run.results(iter([look_at(_whole_path(Path(path)))]))
    return replace(published.outcome, name=published.work.name)


def _whole_path(path: Path) -> Path:
    """One path for one file, however it was named; a link in the place of the file stays one."""
    return path.parent.resolve() / path.name


def look_at(path: Path) -> Found:
    """One file as `walk` finds it, under its whole path: files of one name in different folders stay apart."""
    try:
        about = path.lstat()
    except OSError:
        return Found(str(path), path, Kind.UNREADABLE, 0, 0)
    kind = Kind.REGULAR if stat.S_ISREG(about.st_mode) else Kind.OTHER
    return Found(str(path), path, kind, about.st_size, about.st_mtime_ns)


def _default_settings() -> Settings:
    from exporter.settings import Settings

    return Settings()


# -- what would be done ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do with one entry."""

    name: str
    action: str
    """``export``, ``unchanged``, ``skip`` or ``fail``."""
    detail: str
    """The output name without extension, or the reason."""


def plan(request: Request) -> Iterator[Plan]:
    """What `backfill` would do with every entry, told without writing anything; files are opened, pixels are not read.

    Raises:
        InputUnusable: The folder cannot be read.
        LedgerUnusable: There is a ledger and it cannot be read.
    """
    folder = input_folder(request.folder)
    ledger = Ledger.open_read_only(request.places.ledger) if request.places.ledger.exists() else None
    try:
        for found in walk(folder, own_outputs(folder, request), recursive=request.settings.dicom.recursive):
            yield _plan(found, ledger, request.settings)
    finally:
        if ledger is not None:
            ledger.close()


def _plan(found: Found, ledger: Ledger | None, settings: Settings) -> Plan:
    from exporter.errors import ExportError, SkipInstance
    from exporter.instance import Instance

    if ledger is not None and ledger.unchanged(found.name, found.size_bytes, found.mtime_ns, settings.settings_sha256):
        return Plan(found.name, "unchanged", "")
    if found.kind is Kind.OTHER:
        return Plan(found.name, "skip", SkipReason.NOT_REGULAR)
    if found.kind is Kind.UNREADABLE:
        return Plan(found.name, "fail", Reason.UNREADABLE)
    try:
        with Instance.open(found.path, settings.limits):
            pass
    except ExportError as error:
        return Plan(found.name, "fail", error.reason)
    except SkipInstance as skip:
        return Plan(found.name, "skip", skip.reason)
    return Plan(found.name, "export", output_bases(found.name)[0])


__all__ = ["InputUnusable", "LedgerUnusable", "Plan", "Request", "Tally", "backfill", "plan"]
