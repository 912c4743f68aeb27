"""Compaction: files of finished studies become members of shards.

Contract: ledger and metadata lines stay as they are, since they name media by paths. A study is finished when none of
its instances is pending and none has changed for some time. Shard and index are durable before a file is removed, and
a file is removed only while it is the one that was copied. May be repeated, also after it was killed: what a shard
holds already is not copied again.

Must never: move media of a study that is under way, or remove a file whose bytes are not those of the ledger.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.results.stores.contract import InstanceMedia
from exporter.results.stores.shard_reading import MediaReader, MediumDamaged, sha256_of
from exporter.results.stores.shards import ShardsStore

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exporter.outcome import MediaFile
    from exporter.results.ledger import InstanceRow, Ledger
    from exporter.results.stores.shards import ShardLimits
    from exporter.settings.permissions import MediaPermissions

_CHUNK: Final = 256
"""Instances that share the fsyncs."""


@dataclass(slots=True)
class CompactionReport:
    """Counts of a compaction."""

    instances: int = 0
    files: int = 0
    bytes: int = 0
    unlike: int = 0
    """Instances with a file that is not as the ledger says: they stay as they are."""
    waiting: int = 0
    """Instances with files whose study is not finished."""


def compact(
    media: Path,
    ledger: Ledger,
    permissions: MediaPermissions,
    limits: ShardLimits,
    *,
    changed_before_ns: int,
    stop: threading.Event,
) -> CompactionReport:
    """Move the files of finished studies into shards, study by study.

    Args:
        media: The media folder.
        ledger: Of the output.
        permissions: Of shards.
        limits: When a shard is full.
        changed_before_ns: A study with an instance that changed later is not finished.
        stop: When set, it ends after the instances under way.

    Raises:
        ShardsBusy: Another process writes shards there.
        LedgerUnusable: The ledger cannot be read.
        OSError: The file system refuses; what was moved is in shards.
    """
    report = CompactionReport()
    with ExitStack() as stack:
        store = ShardsStore(media, permissions, ledger, limits)
        stack.callback(store.close)
        reader = stack.enter_context(MediaReader(media))
        chunk: list[InstanceMedia] = []
        unfinished = ledger.unfinished_studies(changed_before_ns)
        for row in ledger.exported_by_study():
            files = [one for one in ledger.media(row.name) if os.path.lexists(media / one.file)]
            if not files:
                continue
            if row.identity is not None and row.identity.study_instance_uid in unfinished:
                report.waiting += 1
                continue
            chunk.append(_instance(media, ledger, row))
            if len(chunk) == _CHUNK or stop.is_set():
                _move(chunk, store, reader, media, report)
                chunk = []
            if stop.is_set():
                break
        _move(chunk, store, reader, media, report)
    return report


def _instance(media: Path, ledger: Ledger, row: InstanceRow) -> InstanceMedia:
    found = ledger.media(row.name)
    study = row.identity.study_instance_uid if row.identity is not None else ""
    line = ledger.line(row.line_seq) if row.line_seq is not None else None
    return InstanceMedia(row.name, media, found, found, study, line or b"")


def _move(
    chunk: Sequence[InstanceMedia], store: ShardsStore, reader: MediaReader, media: Path, report: CompactionReport
) -> None:
    moved: list[tuple[InstanceMedia, list[tuple[Path, tuple[int, ...]]]]] = []
    for one in chunk:
        files = [(path, _state_of(path)) for medium in one.final for path in _files_of(media, medium)]
        if not one.line or not all(_is_as_published(media, medium) for medium in one.final):
            report.unlike += 1
            continue
        if not all(_is_in_shards(reader, medium) for medium in one.final):
            store.put(one)
        moved.append((one, files))
    if not moved:
        return
    store.sync()
    store.enter(durable=True)
    for one, files in moved:
        for path, state in files:
            with suppress(FileNotFoundError):
                if _state_of(path) == state:
                    report.bytes += path.lstat().st_size
                    path.unlink()
                    report.files += 1
        report.instances += 1
        for medium in one.final:
            _remove_empty_folders(media, media / medium.file.rstrip("/"), is_folder=medium.file.endswith("/"))
    store.finish_full()


def _files_of(media: Path, medium: MediaFile) -> Iterator[Path]:
    path = media / medium.file
    if path.is_dir() and not path.is_symlink():
        yield from sorted(path.iterdir())
    else:
        yield path


def _state_of(path: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced; empty if it is absent."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is_as_published(media: Path, medium: MediaFile) -> bool:
    """Whether a file or folder has the bytes that the ledger says."""
    path = media / medium.file
    try:
        return not path.is_symlink() and sha256_of(path) == medium.sha256
    except OSError:
        return False


def _is_in_shards(reader: MediaReader, medium: MediaFile) -> bool:
    """Whether shards hold a medium already, with the bytes that the ledger says: an earlier compaction was killed."""
    found = reader.in_shards(medium.file)
    if found is None or found.sha256 != medium.sha256:
        return False
    try:
        for entry in found.members:
            deque(reader.read(entry), maxlen=0)
    except MediumDamaged:
        return False
    return True


def _remove_empty_folders(media: Path, path: Path, *, is_folder: bool) -> None:
    folder = path if is_folder else path.parent
    with suppress(OSError):
        while folder != media:
            folder.rmdir()
            folder = folder.parent
