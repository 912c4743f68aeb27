"""An open Orthanc storage folder: the reader for it, and remarks for the user before and after the run.

Contract: `opened_storage` refuses an unreadable folder with one sentence, before anything is written: a folder that is
not a storage, one whose attachments are elsewhere, an index of an unknown form. A lost index is reported, and the
content of the files is read instead.

Must never: permit output in the storage folder.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.inputs.backfill import export, planned
from exporter.inputs.contract import InputUnusable
from exporter.inputs.folder import input_folder
from exporter.inputs.orthanc_storage.index import INDEX, KNOWN_SCHEMAS, IndexLost, StorageIndex, open_index
from exporter.inputs.orthanc_storage.orphans import LIST, uuid_at
from exporter.inputs.orthanc_storage.stored import IndexedReader
from exporter.inputs.orthanc_storage.unindexed import UnindexedReader
from exporter.privacy.input_names import InputNames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.inputs.backfill import DryRunStep, ExportTarget
    from exporter.inputs.entry_source import Progress
    from exporter.work.contract import PublishedResult

MOST_THREADS: Final = 8
_LEVEL: Final = re.compile(r"[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class StorageRequest:
    """The storage folder of a request, and the way to read it."""

    folder: Path
    index: Path | None = None
    """The index, or the folder it is in, where that is not the storage folder (`IndexDirectory` of Orthanc)."""
    without_index: bool = False
    """Whether to recognize attachments by content even if there is an index."""


@dataclass(frozen=True, slots=True)
class OrthancStorage:
    """A storage folder that can be read."""

    reader: IndexedReader | UnindexedReader
    index: StorageIndex | None
    warnings: tuple[str, ...] = field(default=())
    """Remarks before the storage is read."""

    def export(self, target: ExportTarget, progress: Progress, stop: threading.Event) -> Iterator[PublishedResult]:
        """Export every instance that is not done, then look for what the index does not know.

        An instance that is there twice is exported once, as if it had been received.

        Raises:
            As `exporter.inputs.backfill.backfill`.
        """
        yield from export(self.reader, target, progress, stop, skip_duplicates=True)
        if not stop.is_set():
            self.reader.look_around(stop)

    def plan(self, target: ExportTarget) -> Iterator[DryRunStep]:
        """Step that `export` would do for each instance; every attachment is checked, and nothing is written."""
        yield from planned(self.reader, target)
        self.reader.look_around(threading.Event())

    def remarks(self, output: Path | None) -> list[str]:
        """Remarks after the storage was read; `output` is the folder of the list of orphans."""
        noticed = self.reader.noticed
        said = [] if self.index is None else list(_of_index(self.index))
        if noticed.missing:
            said.append(f"missing: {noticed.missing} instances of the index have no file")
        if noticed.elsewhere:
            said.append(f"elsewhere: {noticed.elsewhere} instances are at places that a storage plugin chose; not read")
        if noticed.headers or noticed.summaries:
            said.append(f"by content: {noticed.headers} headers and {noticed.summaries} summaries, no instances")
        where = "" if output is None else f", listed in {output / LIST}"
        if noticed.orphans:
            said.append(f"orphans: {noticed.orphans} attachments that the index does not know, not exported{where}")
        if noticed.strangers:
            said.append(f"strangers: {noticed.strangers} files that are no attachments, not read{where}")
        return said


def _of_index(index: StorageIndex) -> Iterator[str]:
    held = index.holdings
    text = f"index: schema {index.schema}, {held.instances} instances"
    left_out = [
        f"{count} {what}" for count, what in ((held.headers, "headers"), (held.summaries, "summaries")) if count
    ]
    if held.others:
        left_out.append(f"{held.others} attachments of users or plugins")
    yield text + (f"; left out: {', '.join(left_out)}" if left_out else "")
    if held.without_md5:
        yield f"not checked by MD5: {held.without_md5} instances, whose MD5 Orthanc has not stored"
    if index.has_changed:
        yield "the index has changed while it was read: run again with Orthanc stopped"


@contextmanager
def opened_storage(request: StorageRequest, target: ExportTarget, *, list_orphans: bool) -> Iterator[OrthancStorage]:
    """The storage folder, for reading.

    Args:
        request: Where it is.
        target: Where output goes: never into the folder.
        list_orphans: Whether orphans are listed in the output folder, or only counted.

    Raises:
        InputUnusable: It cannot be read, or output would lie in it.
    """
    folder = input_folder(request.folder)
    _refuse_output_within(folder, target)
    limits, output = target.settings.limits, target.output if list_orphans else None
    path = _index_of(request, folder)
    names = InputNames.of(target.settings)
    by_content = UnindexedReader(folder, target.places.ledger, limits, output, names)
    if request.without_index:
        _refuse_without_attachments(folder)
        yield OrthancStorage(by_content, None, (_told_by_content("the index is not used"),))
        return
    try:
        with open_index(path) as index:
            _refuse_if_elsewhere(folder, index)
            reader = IndexedReader(folder, index, limits, output, threads=_threads(target), names=names)
            yield OrthancStorage(reader, index, tuple(_warnings(index)))
    except IndexLost as lost:
        if request.index is not None:
            raise InputUnusable(f"{lost}: name the index of this storage with --index") from None
        _refuse_without_attachments(folder)
        yield OrthancStorage(by_content, None, (_told_by_content(str(lost)),))


def _threads(target: ExportTarget) -> int:
    """Threads that check attachments: one inflates as much as some four workers export."""
    workers = target.settings.workers if target.workers is None else target.workers
    return min(1 + workers // 4, MOST_THREADS)


def _warnings(index: StorageIndex) -> Iterator[str]:
    if index.is_live:
        yield "Orthanc seems to run: later changes are not seen, and what it deletes may be reported as missing"
    if index.is_newer:
        known = " and ".join(map(str, KNOWN_SCHEMAS))
        yield (
            f"the index has schema {index.schema}, known are {known}: the columns that are read are there, and "
            "every MD5 is checked"
        )


def _told_by_content(why: str) -> str:
    return (
        f"{why}: attachments are recognised by their content. Where Orthanc keeps its index in PostgreSQL or MySQL, or "
        f"in another folder (--index), it is not lost; without it nothing tells what is missing or was deleted"
    )


def _index_of(request: StorageRequest, folder: Path) -> Path:
    if request.index is None:
        return folder / INDEX
    return request.index / INDEX if request.index.is_dir() else request.index


def _refuse_output_within(folder: Path, target: ExportTarget) -> None:
    places = target.places
    own = target.settings.config.file
    temporary = Path(tempfile.gettempdir())
    outputs = [target.output, places.media, places.metadata, places.ledger, temporary]
    for path in (*outputs, *([] if own is None else [own])):
        if path.resolve().is_relative_to(folder):
            raise InputUnusable(f"{path} lies inside the storage folder, which is never written to: choose another")
        if folder.is_relative_to(places.media.resolve()):
            raise InputUnusable(f"{folder} lies inside the media folder {places.media}: choose another output folder")


def _refuse_without_attachments(folder: Path) -> None:
    if not _has_attachments(folder):
        raise InputUnusable(
            f"{folder} is no storage folder of an Orthanc: it holds no attachment, and no index is read; name "
            "Orthanc's StorageDirectory (plugins for object storage keep attachments elsewhere: then export from "
            "Orthanc while it runs)"
        )


def _refuse_if_elsewhere(folder: Path, index: StorageIndex) -> None:
    """Refuse an index whose attachments are not here at all.

    Raises:
        InputUnusable: There is not one.
    """
    held = index.holdings
    if not held.instances or _has_attachments(folder):
        return
    if held.elsewhere:
        where = "a storage plugin keeps them at places of its own, which are not read"
    else:
        where = "a plugin keeps them in object storage or in a database, or this copy is not complete"
    raise InputUnusable(
        f"the index lists {held.instances} instances, and {folder} holds no attachment: {where}; export from Orthanc "
        "while it runs"
    )


def _has_attachments(folder: Path) -> bool:
    """Whether at least one attachment lies at its place; nothing else below the folder is looked at."""
    return any(uuid_at(f"{first}/{second}/{name}") for first, second, name in _places(folder))


def _places(folder: Path) -> Iterator[tuple[str, str, str]]:
    for first in _folders(folder):
        for second in _folders(folder / first):
            with suppress(OSError), os.scandir(folder / first / second) as entries:
                for entry in entries:
                    yield first, second, entry.name


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if _LEVEL.fullmatch(entry.name) and entry.is_dir()]
    except OSError:
        return []
