"""Turn DICOM instances into media with one line of metadata each.

    import exporter

    outcome = exporter.export_file("cine.dcm", "out/")
    for outcome in exporter.backfill("dicom/", "out/"):
        ...

Both put ``media/``, ``metadata.jsonl`` and ``exporter.db`` into the output folder, work in killable child processes,
and can be called from a plain script: no ``__main__`` guard is needed, no state is kept between calls.

    errors    verdicts on instances, conditions of the machine
    outcome   what comes of one instance
    settings  the configuration of the exporter
    dicom     one DICOM file at rest
    frames    encoded to stored to display values
    writers   one module per kind of media
    results   publication, ledger, metadata lines
    work      engine, workers, pipeline
    series    volumes of whole series
    services  daemons, and what every run opens
    inputs    folders, archives, DICOM media, Orthanc storage
    pull      instances asked of a PACS
    niffler   Niffler's PNG extractor: its configuration, tables and folders
    commands  the command line

Each may import those above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.outcome import Exported, Failed, Outcome, Skipped

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from exporter.settings.settings import Settings

__all__ = ["Exported", "Failed", "Outcome", "Skipped", "backfill", "export_file"]


def export_file(
    path: str | os.PathLike[str], out_dir: str | os.PathLike[str], settings: Settings | None = None
) -> Outcome:
    """Export one DICOM file; media go to ``<out_dir>/media``, named like the file.

    Starts and ends a worker process: for many files, `backfill` is faster. The same file again is exported anew, under
    the same name.

    Args:
        path: The DICOM file, of any name.
        out_dir: Output folder; made if absent.
        settings: `exporter.settings.settings.Settings`; default: every default.

    Returns:
        Exported, Skipped or Failed; `MediaFile.file` is relative to the media folder.

    Raises:
        OutOfSpace, StorageUnavailable: The disk is full, or a folder of ours has gone; the same call goes on.
        LedgerUnusable, MetadataFileUnusable, MediaFolderUnusable, WorkerUnstartable: Why nothing can be exported there.
    """
    from exporter.inputs import backfill

    return backfill.one_file(path, out_dir, settings)


def backfill(
    dir: str | os.PathLike[str],  # noqa: A002 - the documented name
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    workers: int | None = None,
) -> Iterator[Outcome]:
    """Export every DICOM file below a folder that is new or changed since the last run; media mirror the tree.

    Args:
        dir: The folder to export; it is never changed.
        out: Output folder; made if absent.
        settings: `exporter.settings.settings.Settings`; default: every default.
        workers: Worker processes; default: `num_workers` of the settings, which is one per processor.

    Yields:
        One outcome per file, as they come, its `name` the path relative to `dir`; nothing for files that were finished
        before and have not changed. Closing the iterator stops the run; calling again goes on.

    Raises:
        InputUnusable: The folder cannot be read.
        OutOfSpace, StorageUnavailable, LedgerUnusable, MetadataFileUnusable, MediaFolderUnusable, WorkerUnstartable: As
            `export_file`.
    """
    from exporter.inputs import backfill

    return backfill.outcomes(dir, out, settings, workers)
