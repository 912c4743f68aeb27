"""One run of the extractor from start to end: rows, pictures, tables, failures, log.

Contract: every file of the run is in `metadata.csv`; if pictures are made, it is also in `mapping.csv` or in
`failed-dicom`. Tables appear when the run is complete; a stopped run leaves the earlier ones in place. A rerun exports
new and changed files and makes tables of all files.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from exporter.errors import Reason, SkipReason
from exporter.inputs.backfill import ExportTarget
from exporter.inputs.contract import InputUnusable
from exporter.inputs.folder import input_folder
from exporter.inputs.walk import Outputs
from exporter.machine_conditions import storage_error
from exporter.niffler.csv_tables import FileOutcome, TablePlan, write_tables
from exporter.niffler.failed_dicom import (
    FAILED,
    MANY_VALUES,
    MOST_VALUES,
    MOST_VALUES_WITH_PRIVATE,
    TOO_MANY_VALUES,
    UNREADABLE,
    DicomFailure,
    FailedFolder,
    class_of,
)
from exporter.niffler.header_reader import HeaderReader
from exporter.niffler.keyed_names import KEY_FILE, KeyedNames
from exporter.niffler.niffler_file import IMAGES
from exporter.niffler.row_store import RowStore
from exporter.niffler.source_files import SeenFiles, SourceFiles
from exporter.outcome import MediaType
from exporter.results.ledger import Ledger
from exporter.results.ledger.types import InstanceStatus
from exporter.results.line import shown
from exporter.writers.frames_folder import INDEX
from listener.foundation.disk import mapped
from listener.foundation.durable import make_private_folders
from listener.foundation.text import printable
from listener.settings.listener import DataFolder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from exporter.niffler.niffler_file import NifflerConfig
    from exporter.niffler.row_store import SourceRow
    from exporter.outcome import MediaFile
    from exporter.settings.settings import Settings

LOG: Final = "ImageExtractor.out"
_FAILURES: Final = frozenset(Reason)
PENDING: Final = "pending"
"""Reason of a file that is left for the next run."""
_OWN_FOLDERS: Final = (IMAGES, "meta", "maps", FAILED)
_OWN_FILES: Final = ("metadata.csv", "mapping.csv", LOG, KEY_FILE)


@dataclass(slots=True)
class ExtractionReport:
    """Counts of one run."""

    files: int = 0
    converted: int = 0
    """Files with pictures."""
    pictures: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Files without pictures, by reason."""
    seen: SeenFiles = field(default_factory=SeenFiles)
    empty_columns: list[str] = field(default_factory=list)
    """Requested columns that no file has."""

    @property
    def failures(self) -> Mapping[str, int]:
        """Counts of the reasons that are failures; files without pixel data and DICOMDIRs are not."""
        harmless = {SkipReason.NO_MEDIA, SkipReason.DICOMDIR}
        return {reason: count for reason, count in self.reasons.items() if reason not in harmless}

    def sentences(self, config: NifflerConfig) -> Iterator[str]:
        """Sentences for the user, beside the summary of the export."""
        yield f"metadata.csv: {self.files} files; mapping.csv: {self.pictures} pictures of {self.converted} files"
        if self.reasons:
            listed = ", ".join(f"{reason} {count}" for reason, count in sorted(self.reasons.items()))
            yield f"without a picture: {self.reasons.total()} ({listed}); {FAILED}/reasons.csv lists the reason of each"
        if self.seen.unseen_there:
            yield f"{self.seen.unseen_there} of them are DICOM but not called *.dcm: Niffler would have missed them"
        if self.seen.no_dicom:
            yield f"{self.seen.no_dicom} further files are not DICOM and not called *.dcm: ignored"
        if self.seen.elsewhere:
            yield f"{self.seen.elsewhere} files are not {config.depth} folders deep (Depth): ignored"
        if self.empty_columns:
            yield f"featureset.txt lists columns that no file has, which are empty: {', '.join(self.empty_columns)}"


class Extraction:
    """One run; a context manager around the export of its pictures.

    Args:
        config: Niffler's configuration.
        settings: Our settings for it, as `NifflerConfig.settings` makes them.
        workers: Worker processes instead of the configuration's.

    Raises:
        InputUnusable: The input folder cannot be read, holds nothing at that depth, or lies among the pictures.
        OutOfSpace, StorageUnavailable: The output folder cannot be written.
    """

    def __init__(self, config: NifflerConfig, settings: Settings, workers: int | None = None) -> None:
        self._config = config
        self._workers = config.workers if workers is None else workers
        self._settings = settings
        self._stack = ExitStack()
        folder = input_folder(config.dicom_home)
        if folder.is_relative_to(config.images.resolve()):
            raise InputUnusable(
                f"DICOMHome {config.dicom_home} lies among the pictures: choose another OutputDirectory"
            )
        with mapped(partial(storage_error, "making the output folder")):
            make_private_folders(config.output.absolute())
            self._rows = self._stack.enter_context(RowStore(config.output))
            names = KeyedNames.of_folder(config.output)
        headers = HeaderReader(settings, private=not config.public_only, workers=self._workers)
        self._stack.callback(headers.close)
        self.files = SourceFiles(
            folder=folder,
            outputs=self._outputs(folder),
            depth=config.depth,
            headers=headers,
            prints=config.print_images,
            names=names,
            level=config.level,
            rows=self._rows,
        )
        if next(self.files.walked(), None) is None:
            self._stack.close()
            raise InputUnusable(
                f"no file lies {config.depth} folders below {config.dicom_home}: set Depth to the number of folders"
                " between DICOMHome and the files"
            )
        self.files.seen.elsewhere = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def target(self, *, take_over: bool) -> ExportTarget:
        """Output folder and settings for the engine."""
        return ExportTarget(self._config.output, self._settings, self._workers, take_over)

    def finish(self) -> ExtractionReport:
        """Write tables and failures of all files that were read.

        Raises:
            TooManyColumns: No program could use the table.
            OutOfSpace, StorageUnavailable: A file cannot be written.
            LedgerUnusable: The outcomes of the files cannot be read.
        """
        config, report = self._config, ExtractionReport(seen=self.files.seen)
        plan = TablePlan(config.output, config.chunks, config.features, config.common_only)
        copies = self._settings.privacy.profile == "none"
        with ExitStack() as stack:
            ledger = None
            if config.print_images:
                ledger = stack.enter_context(Ledger.open_read_only(self.target(take_over=False).places.ledger))
            with mapped(partial(storage_error, "writing the tables")):
                failed = stack.enter_context(FailedFolder(config.output, copies=copies))
                report.empty_columns = write_tables(
                    self._rows, plan, lambda row: self._outcome(row, ledger, failed, report)
                )
        with mapped(partial(storage_error, "writing the log")):
            self._log(report)
        return report

    def _outcome(
        self, row: SourceRow, ledger: Ledger | None, failed: FailedFolder, report: ExtractionReport
    ) -> FileOutcome:
        """Result of one file; it is counted, and a failure is added to `failed-dicom`."""
        file = f"{shown(str(self._config.dicom_home))}/{shown(row.name)}"
        pictures: tuple[str, ...] = ()
        report.files += 1
        reason, message = row.verdict, row.message
        if ledger is None:
            has_pixels = row.has_pixels and not row.lacks
        else:
            entry = ledger.entry(row.name)
            has_pixels = entry is not None and entry.state is InstanceStatus.EXPORTED
            if has_pixels:
                pictures = tuple(self._pictures(ledger.media(row.name)))
            elif entry is not None and not reason:
                reason, message = entry.reason or PENDING, entry.message
        path = self.files.folder / row.name
        if not has_pixels:
            reason = reason or PENDING
            number = class_of(row, reason)
            if ledger is not None or number == UNREADABLE or reason in _FAILURES:
                report.reasons[reason] += 1
                failed.add(DicomFailure(number, path, reason, message))
        most = MOST_VALUES if self._config.public_only else MOST_VALUES_WITH_PRIVATE
        if row.values > most:
            message = f"{row.values} header values, more than {most}; it was processed all the same"
            failed.add(DicomFailure(MANY_VALUES, path, TOO_MANY_VALUES, message))
        report.converted += bool(pictures)
        report.pictures += len(pictures)
        return FileOutcome(file, has_pixels, pictures)

    def _pictures(self, media: tuple[MediaFile, ...]) -> Iterator[str]:
        """Names of the pictures of one instance in `mapping.csv`."""
        above = f"{shown(str(self._config.output))}/{IMAGES}/"
        for medium in media:
            if medium.kind is MediaType.IMAGE:
                yield f"{above}{shown(medium.file)}"
            elif medium.kind is MediaType.FRAMES:
                with mapped(partial(storage_error, "listing a folder of frames")):
                    names = sorted(os.listdir(self._config.images / medium.file))  # noqa: PTH208 - names alone
                yield from (f"{above}{shown(medium.file)}{shown(name)}" for name in names if name != INDEX)

    def _outputs(self, folder: Path) -> Outputs:
        """The output below the input folder."""
        output = self._config.output
        places = ExportTarget(output, self._settings).places
        folders = tuple(output / name for name in _OWN_FOLDERS)
        own = (DataFolder(output).notifications, *(output / name for name in _OWN_FILES))
        files = (places.ledger, places.metadata, *own)
        return Outputs.among((output, *folders) if output.resolve() != folder else folders, files)

    def _log(self, report: ExtractionReport) -> None:
        """Add counts and settings to the log, but no file name."""
        config = self._config
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        settings = (
            f"Depth {config.depth}, SplitIntoChunks {config.chunks}, PrintImages {config.print_images},"
            f" CommonHeadersOnly {config.common_only}, PublicHeadersOnly {config.public_only}, SpecificHeadersOnly"
            f" {config.features is not None}, processes {config.workers}, FlattenedToLevel {config.level}, is16Bit"
            f" {config.is_16_bit}"
        )
        self.note(f"{now} run complete: {settings}", *(f"{now} {text}" for text in report.sentences(config)))

    def note(self, *lines: str) -> None:
        """Add lines to the log.

        Raises:
            OSError: It cannot be written.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._config.output / LOG, flags, 0o600), "w", encoding="utf-8") as file:
            file.writelines(f"{printable(line)}\n" for line in lines)
