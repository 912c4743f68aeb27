"""Backfill: exports data at rest, with the same workers and the same publication as the daemon, without the spool.

Contract: every entry of the input ends as exactly one of exported, skipped and failed, under its name (in a folder, its
path relative to the folder); media mirror the tree. An entry that has not changed since it was finished (size, time of
modification, settings) is not read again, not even after a failure: it is tried again when the file changes or
`exporter failures retry` asks for it. Stopping at any point loses nothing: a rerun continues.

Must never: move, change or delete its input, or read its own output as input.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.errors import ExportError, SkipInstance
from exporter.inputs.archives.found import looks_like_archive
from exporter.inputs.archives.members import ArchiveLimits
from exporter.inputs.archives.reader import OneArchive
from exporter.inputs.contract import InputUnusable
from exporter.inputs.entry_source import EntrySource, LedgerMemory, Progress, exported, keyed, originals
from exporter.inputs.fileset import FileSetReader, is_dicomdir_name
from exporter.inputs.folder import FolderReader, input_folder
from exporter.inputs.place import entry_of, found_at
from exporter.inputs.scratch import Scratch
from exporter.inputs.walk import Outputs
from exporter.outcome import Skipped
from exporter.privacy.input_names import InputNames
from exporter.results.ledger import Ledger, LedgerUnusable
from exporter.results.output_names import PARTIAL, output_bases
from exporter.results.run_report import REPORT, is_run_report
from exporter.services.context import OutputPaths, open_export_context, own_version
from exporter.work.engine import EnginePolicy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from exporter.inputs.contract import EarlierOutcomes, InputEntry, InputReader
    from exporter.outcome import Outcome
    from exporter.services.context import ExportContext
    from exporter.settings.settings import Settings
    from exporter.work.contract import PublishedResult

RETRY_AFTER_S: Final = 2.0
BATCHES: Final = "batches"
"""Folder of batches below an output folder (`exporter.batches`)."""


@dataclass(frozen=True, slots=True)
class ExportTarget:
    """Output folder and settings of an export."""

    output: Path
    settings: Settings
    workers: int | None = None
    """Worker processes; default: `num_workers` of the settings."""
    take_over: bool = False
    """Whether to take the media folder from an exporter that cannot be reached, which the caller knows is dead."""

    @property
    def places(self) -> OutputPaths:
        """Where output goes."""
        from listener.settings.listener import DataFolder

        data = DataFolder(self.output)
        return OutputPaths(self.settings.media_folder(data), self.settings.metadata_file(data), data.ledger)

    def outputs_below(self, folder: Path) -> Outputs:
        """The output below an input folder, which is never read as input."""
        from exporter.series.folder import series_folders
        from listener.settings.listener import DataFolder

        places, series = self.places, series_folders(self.output)
        folders = [places.media, series.media, self.output / BATCHES]
        if self.output.resolve() != folder:
            folders.append(self.output)
        notifications = DataFolder(self.output).notifications
        folders.append(Path(f"{notifications}.reserve"))
        files = [places.ledger, places.metadata, series.ledger, series.metadata, notifications]
        with suppress(OSError):
            if is_run_report(self.output / REPORT):
                files.append(self.output / REPORT)
        if self.settings.config.file is not None:
            files.append(self.settings.config.file)
        return Outputs.among(tuple(folders), tuple(files))


@dataclass(frozen=True, slots=True)
class BackfillRequest:
    """Input and output of one backfill."""

    folder: Path
    output: Path
    settings: Settings
    workers: int | None = None
    """Worker processes; default: `num_workers` of the settings."""
    take_over: bool = False
    """See `ExportTarget`."""

    @property
    def target(self) -> ExportTarget:
        """Output folder and settings."""
        return ExportTarget(self.output, self.settings, self.workers, self.take_over)

    @property
    def places(self) -> OutputPaths:
        """Where output goes."""
        return self.target.places


def backfill(request: BackfillRequest, progress: Progress, stop: threading.Event) -> Iterator[PublishedResult]:
    """Export new and changed entries; yield one result per entry, in the order in which they finish.

    Args:
        request: Input, output and settings.
        progress: Updated during the run.
        stop: When set, no entry begins, entries under way get a moment to finish, and the iteration ends.

    Raises:
        InputUnusable: It cannot be read, or is part of the output.
        OutOfSpace: The disk is full; a rerun goes on from here.
        LedgerUnusable, MetadataFileUnusable, MediaFolderUnusable, WorkerUnstartable: Why it cannot run.
    """
    yield from export(reader_of(request), request.target, progress, stop)


def export(
    reader: InputReader,
    target: ExportTarget,
    progress: Progress,
    stop: threading.Event,
    *,
    skip_duplicates: bool = False,
) -> Iterator[PublishedResult]:
    """Export all unfinished entries of a reader; see `backfill`.

    With `skip_duplicates`, an instance whose content was exported before is skipped, as it is when received.
    """
    with _session(target, skip_duplicates=skip_duplicates) as (session, scratch):
        settings = target.settings
        names = session.names
        memory = LedgerMemory(session.ledger, settings.settings_sha256, progress, names)
        yield from exported(session.engine, EntrySource(reader, memory, scratch, progress, names), stop)
        if settings.volume.series and not stop.is_set():
            from exporter.series.folder import open_series_folder
            from exporter.series.found import write_found

            def together(wanted: Sequence[str]) -> AbstractContextManager[list[Path]]:
                return reader.together(originals(reader, names, wanted), scratch)

            with open_series_folder(target.output, settings, own_version()) as folder:
                progress.series = write_found(together, folder, session.ledger, settings, stop)


@contextmanager
def _session(
    target: ExportTarget, retry_after_s: float = RETRY_AFTER_S, *, skip_duplicates: bool = False
) -> Iterator[tuple[ExportContext, Scratch]]:
    workers = target.settings.workers if target.workers is None else target.workers
    policy = EnginePolicy(target.settings.limits.attempts, retry_after_s, skip_duplicates=skip_duplicates)
    places, copies_bytes = target.places, target.settings.archives.copies_bytes
    beside = places.media.absolute() / PARTIAL / f"copies-{os.getpid()}"
    made = Scratch.outside(copies_bytes) if target.settings.deidentifies else Scratch(beside, copies_bytes)
    with (  # copies are deleted after the workers that read them have ended
        made as scratch,
        open_export_context(
            target.settings, places, workers=workers, policy=policy, take_over=target.take_over
        ) as session,
    ):
        scratch.mark(session.ledger.mark)  # before the first copy
        yield session, scratch


def reader_of(request: BackfillRequest) -> InputReader:
    """Make the reader for the input of a request.

    Raises:
        InputUnusable: It cannot be read, or is part of the output.
    """
    settings, path = request.settings, request.folder
    archives = archive_limits(settings) if settings.archives.enabled else None
    if os.path.isfile(path):  # noqa: PTH113 - False, not an error, if the path cannot be read
        file = path.resolve()
        if archives is not None and looks_like_archive(file):
            return OneArchive(file, archives)
        if is_dicomdir_name(file.name):
            return FileSetReader(file)
    folder = input_folder(path)
    media = request.places.media
    if folder.is_relative_to(media.resolve()):
        raise InputUnusable(f"{path} lies inside the media folder {media}: choose another output folder")
    return FolderReader(folder, request.target.outputs_below(folder), settings.dicom.recursive, archives)


def archive_limits(settings: Settings) -> ArchiveLimits:
    """Limits for one archive, from the settings."""
    return ArchiveLimits(settings.archives.max_members, settings.limits.max_instance_bytes, settings.archives.max_ratio)


# -- for programs ----------------------------------------------------------------------------------------------------


def outcomes(
    folder: str | os.PathLike[str], output: str | os.PathLike[str], settings: Settings | None, workers: int | None
) -> Iterator[Outcome]:
    """See `exporter.backfill`."""
    request = BackfillRequest(Path(folder), Path(output), settings or _default_settings(), workers)
    stop = threading.Event()
    try:
        for published in backfill(request, Progress(), stop):
            yield replace(published.outcome, name=published.work.name)
    finally:
        stop.set()


def one_file(path: str | os.PathLike[str], output: str | os.PathLike[str], settings: Settings | None) -> Outcome:
    """See `exporter.export_file`."""
    target = ExportTarget(Path(output), settings or _default_settings(), workers=1)
    with _session(target, retry_after_s=0.0) as (session, scratch):
        source = EntrySource(OneFile(_whole_path(Path(path))), _Nothing(), scratch, Progress(), session.names)
        published = list(exported(session.engine, source, threading.Event()))
    if published:
        return replace(published[0].outcome, name=published[0].work.name)
    ((name, outcome),) = source.pending.items()
    return replace(outcome, name=name)


@dataclass(frozen=True, slots=True)
class OneFile:
    """One file, named by its absolute path, so that equal file names never meet; it is always exported again."""

    path: Path

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:  # noqa: ARG002 - the contract's shape
        """Yield the file; its output has the same name."""
        yield entry_of(found_at(self.path.parent, str(self.path)), mirrors=self.path.name)

    @property
    def root(self) -> Path:
        """See `InputReader`."""
        return self.path.parent

    def members(self, container: str) -> Iterator[str]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`: it has no containers."""
        return iter(())

    def count(self) -> Iterator[int]:
        """One."""
        yield 1

    @contextmanager
    def together(self, names: Sequence[str], scratch: Scratch) -> Iterator[list[Path]]:  # noqa: ARG002 - the contract's shape
        """Their paths."""
        yield [Path(name) for name in names]


def _whole_path(path: Path) -> Path:
    """Absolute path with symbolic links of its folders resolved; a file that is itself a link stays a link."""
    return path.parent.resolve() / path.name


def _default_settings() -> Settings:
    from exporter.settings.settings import Settings

    return Settings()


# -- dry run ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DryRunStep:
    """What a run would do with one entry."""

    name: str
    action: str
    """``export``, ``unchanged``, ``skip`` or ``fail``."""
    detail: str
    """The output name without extension, or the reason."""


class _Nothing:
    """No earlier outcomes: a dry run lists every entry, finished ones too."""

    def foresee(self, names: Sequence[str]) -> None:
        """Nothing is known."""

    def is_done(self, name: str, size_bytes: int, mtime_ns: int, changed_ns: int = 0) -> bool:  # noqa: ARG002 - the contract's shape
        """Never."""
        return False

    def key(self, name: str) -> str:
        """The name itself."""
        return name

    def failed(self, prefix: str) -> tuple[str, ...]:  # noqa: ARG002 - the contract's shape
        """Nothing is known."""
        return ()

    def closed_folders(self, root: Path) -> tuple[str, ...]:  # noqa: ARG002 - the contract's shape
        """Nothing is known."""
        return ()


def every_entry(request: BackfillRequest, scratch: Scratch) -> Iterator[InputEntry]:
    """Every entry of the input of a request, finished ones too.

    Raises:
        InputUnusable: It cannot be read.
    """
    yield from reader_of(request).entries(_Nothing(), scratch)


def plan(request: BackfillRequest) -> Iterator[DryRunStep]:
    """Say what `backfill` would do with every entry: files are opened, pixels are not read, nothing is written.

    Yields:
        One step per entry.

    Raises:
        InputUnusable: It cannot be read.
        LedgerUnusable: There is a ledger and it cannot be read.
    """
    yield from planned(reader_of(request), request.target)


def planned(reader: InputReader, target: ExportTarget) -> Iterator[DryRunStep]:
    """Say what `export` would do with every entry; see `plan`."""
    from tempfile import TemporaryDirectory

    ledger = Ledger.open_read_only(target.places.ledger) if target.places.ledger.exists() else None
    try:
        copies_bytes, names = target.settings.archives.copies_bytes, InputNames.of(target.settings)
        with TemporaryDirectory() as folder, Scratch(Path(folder) / "copies", copies_bytes) as scratch:
            for entry in reader.entries(_Nothing(), scratch):
                yield _plan(keyed(entry, names), ledger, target.settings)
    finally:
        if ledger is not None:
            ledger.close()


def _plan(entry: InputEntry, ledger: Ledger | None, settings: Settings) -> DryRunStep:
    if ledger is not None and ledger.unchanged(entry.name, entry.size_bytes, entry.mtime_ns, settings.settings_sha256):
        return DryRunStep(entry.name, "unchanged", "")
    if entry.decided is not None:
        return DryRunStep(entry.name, "skip" if isinstance(entry.decided, Skipped) else "fail", entry.decided.reason)
    if entry.content is None:
        raise AssertionError("an entry has a content or an outcome")
    from exporter.dicom.instance import Instance

    try:
        path = entry.content.readable()
        try:
            with Instance.open(path, settings.limits):
                pass
        finally:
            entry.content.release()
    except ExportError as error:
        return DryRunStep(entry.name, "fail", error.reason)
    except SkipInstance as skip:
        return DryRunStep(entry.name, "skip", skip.reason)
    return DryRunStep(entry.name, "export", output_bases(entry.mirrors)[0] if entry.mirrors is not None else "")


__all__ = [
    "BackfillRequest",
    "DryRunStep",
    "ExportTarget",
    "InputUnusable",
    "LedgerUnusable",
    "Progress",
    "backfill",
    "export",
    "plan",
]
