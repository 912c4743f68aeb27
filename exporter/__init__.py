"""Turn DICOM instances into media with one line of metadata each.

    import exporter

    outcome             = exporter.export_file("cine.dcm", "out/")
    for outcome in exporter.backfill("dicom/", "out/"):
        ...

Both put ``media/``, ``metadata.jsonl`` and ``exporter.db`` into the output folder, work in killable child processes,
and can be called from a plain script: no ``__main__`` guard is needed, no state is kept between calls.

    errors              verdicts on instances, conditions of the machine
    machine_conditions  errors of the operating system that say nothing about an instance
    outcome             what comes of one instance
    settings            the configuration of the exporter
    dicom               one DICOM file at rest
    frames              encoded to stored to display values
    privacy             elements and pixels without what identifies, keyed pseudonyms
    writers             one module per kind of media
    results             publication, ledger, metadata lines
    work                engine, workers, pipeline
    series              volumes of whole series
    services            daemons, and what every run opens
    inputs              folders, archives, DICOM media, Orthanc storage
    batches             a backfill in pieces that run anywhere
    tables              tables and data sets of the metadata lines
    pull                instances asked of a PACS
    page                what people and monitoring see of it all
    notifications       what people and programs are notified of
    niffler             Niffler's PNG extractor: its configuration, tables and folders
    commands            the command line

Each may import those above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.outcome import Exported, Failed, Outcome, Skipped

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from exporter.settings.settings import Settings
    from exporter.tables.reading import LoadedInstance, MetadataTable

__all__ = ["Exported", "Failed", "Outcome", "Skipped", "backfill", "export_file", "load", "read_table"]


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


def read_table(
    out: str | os.PathLike[str],
    *,
    keys: str = "keyword",
    columns: str | list[str] = "all",
    share: float = 0.9,
    key_file: str | os.PathLike[str] | None = None,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> MetadataTable:
    """The metadata of a folder as a typed table: one row per instance, read lazily, by batches.

    Args:
        out: Data folder of an exporter, output folder of a backfill, or a metadata file.
        keys: What columns of elements are called: `keyword`, `name` or `tag`.
        columns: `all`, `public` (no private elements), `common`, or a list of keywords, names or tags.
        share: Of common columns, the least share of rows in which they are filled.
        key_file: Key of patient pseudonyms; default: the key in `out`, made where there is none.
        shares: Shares of train, validation and test, by patient.

    Returns:
        A table that yields `pyarrow.RecordBatch`; `read_all` and `to_pandas` hold it in memory.

    Raises:
        exporter.tables.errors.TableError: There are no lines, pyarrow is missing, or columns and shares make no sense.
    """
    from exporter.tables import reading

    return reading.read_table(out, keys=keys, columns=columns, share=share, key_file=key_file, shares=shares)


def load(out: str | os.PathLike[str], key: str) -> LoadedInstance:
    """One exported instance: its record, its media and the times of its frames.

    Args:
        out: As for `read_table`.
        key: Its `dicom_file`, its SOP Instance UID, or the path of one of its media.

    Returns:
        The line, paths of media, times of frames in ms (NumPy) and the distance of pixels in mm.

    Raises:
        exporter.tables.errors.TableError: There are no lines, or no single instance has that key.
    """
    from exporter.tables import reading

    return reading.load_instance(out, key)
