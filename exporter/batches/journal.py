"""The journal of one start of a batch: what must survive its node, appended and synced by one writer.

    <crc32> <JSON header>TAB<JSON outcome>LF

Contract: `append` returns when its entries are durable; entries of many threads share a write and an fsync. Every start
makes a folder of its own, `run-K`, so that a start that was thought dead and still runs harms nobody: the next one
reads all earlier journals. A line that is torn or damaged is left out: its instance is exported again. Names are file
names of any bytes, so that headers are ASCII.

Must never: change or cut a journal of another start, or need a lock.
"""

from __future__ import annotations

import json
import os
import re
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from exporter.machine_conditions import storage_error
from exporter.outcome import InstanceIdentity
from exporter.results.ledger.types import WorkItem
from listener.foundation.disk import mapped
from listener.foundation.durable import fsync_folder, make_private_folders, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

JOURNAL: Final = "journal"
BEGUN, FINISHED, DEFERRED, INTERRUPTED, WITHDRAWN, ENDED = (
    "begun",
    "finished",
    "deferred",
    "interrupted",
    "withdrawn",
    "ended",
)
_RUN: Final = re.compile(r"run-([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One line of a journal."""

    event: str
    header: dict[str, Any]
    run: int = 0
    """Number of the start that wrote it."""
    offset: int = 0
    length: int = 0

    @property
    def name(self) -> str:
        """Name of its instance."""
        return str(self.header["name"])

    @property
    def place(self) -> tuple[int, int]:
        """Position of the instance: index of its unit, and position inside it."""
        unit, within = self.header["place"]
        return int(unit), int(within)

    @property
    def work(self) -> WorkItem:
        """The instance as its batch had it."""
        header = self.header
        return WorkItem(header["name"], Path(), header["size"], header["mtime"], "folder", header["mirrors"])

    @property
    def identity(self) -> InstanceIdentity | None:
        """Identity by which the instance is related to others; None if its work failed before it was known."""
        found = self.header.get("identity")
        return None if found is None else InstanceIdentity(*found)


def entry_for(event: str, work: WorkItem, place: tuple[int, int], **more: object) -> dict[str, Any]:
    """Header of an entry about an instance."""
    about = {"name": work.name, "size": work.size_bytes, "mtime": work.mtime_ns, "mirrors": work.mirrors}
    return {"event": event, "place": place, **about, **more}


@dataclass(slots=True)
class _Line:
    text: bytes
    is_durable: bool = False
    error: OSError | None = None


class BatchJournal:
    """The journal of this start, open for appending; thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Make the journal in the folder of a start.

        Raises:
            OutOfSpace, StorageUnavailable: It cannot be made.
        """
        self.path = folder / JOURNAL
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with mapped(lambda error: storage_error(f"journal {self.path}", error)):
            self._file = os.open(self.path, flags, 0o600)
            fsync_folder(folder)
        self._size = 0
        self._queue: list[_Line] = []
        self._queueing = threading.Lock()
        self._writing = threading.Lock()

    def append(self, *entries: tuple[dict[str, Any], bytes]) -> None:
        """Append headers with their outcomes (empty where an entry has none), durably, in this order.

        Raises:
            OutOfSpace: The disk or quota is full; nothing of it is in the journal.
            StorageUnavailable: The file system refuses.
        """
        line = _Line(b"".join(_encoded(header, outcome) for header, outcome in entries))
        with self._queueing:
            self._queue.append(line)
        with self._writing:
            if not line.is_durable and line.error is None:
                self._write()
        if line.error is not None:
            raise storage_error(f"journal {self.path}", line.error) from line.error

    def _write(self) -> None:
        """Write what is queued with one fsync; after an error, cut what was written in part."""
        with self._queueing:
            lines, self._queue = self._queue, []
        try:
            written = write_all(self._file, [line.text for line in lines])
            os.fsync(self._file)
        except OSError as error:
            for line in lines:
                line.error = error
            os.ftruncate(self._file, self._size)
            return
        self._size += written
        for line in lines:
            line.is_durable = True

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _encoded(header: dict[str, Any], outcome: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode("ascii") + b"\t" + outcome
    return b"%08x %b\n" % (zlib.crc32(text), text)


# -- reading ---------------------------------------------------------------------------------------------------------


def runs_of(batch: Path) -> list[int]:
    """Numbers of the starts of a batch, in their order."""
    try:
        names = os.listdir(batch)  # noqa: PTH208 - names only
    except FileNotFoundError:
        return []
    return sorted(int(found[1]) for found in map(_RUN.fullmatch, names) if found)


def run_folder(batch: Path, run: int) -> Path:
    """Folder of one start of a batch."""
    return batch / f"run-{run}"


def new_run(batch: Path) -> int:
    """Make the folder of the next start of a batch.

    Returns:
        Its number.

    Raises:
        OSError: The folder cannot be made.
    """
    make_private_folders(batch)
    number = max(runs_of(batch), default=0) + 1
    while True:
        try:
            run_folder(batch, number).mkdir(mode=0o700)
        except FileExistsError:  # another start was faster
            number += 1
        else:
            fsync_folder(batch)
            return number


def scan(batch: Path, run: int, size_bytes: int | None = None) -> list[JournalEntry]:
    """Read the journal of one start of a batch; outcomes are checked and left in the file.

    Args:
        batch: Folder of the batch.
        run: Number of the start.
        size_bytes: How much of the journal counts; None for all that is there now.

    Raises:
        OSError: The file cannot be read.
    """
    found: list[JournalEntry] = []
    try:
        file = (run_folder(batch, run) / JOURNAL).open("rb")
    except FileNotFoundError:
        return found
    with file:
        offset = 0
        for line in file:
            if size_bytes is not None and offset + len(line) > size_bytes:
                break
            header = _header(line)
            if header is not None:
                found.append(JournalEntry(header["event"], header, run, offset, len(line)))
            offset += len(line)
    return found


def outcomes(batch: Path, entries: Sequence[JournalEntry]) -> Iterator[bytes]:
    """Yield the JSON of the outcomes of entries, in their order.

    Raises:
        OSError: A journal cannot be read.
    """
    files: dict[int, int] = {}
    try:
        for entry in entries:
            if entry.run not in files:
                files[entry.run] = os.open(run_folder(batch, entry.run) / JOURNAL, os.O_RDONLY | os.O_CLOEXEC)
            line = os.pread(files[entry.run], entry.length, entry.offset)
            yield line.partition(b"\t")[2].rstrip(b"\n")
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def chosen(batch: Path, sizes: dict[int, int]) -> dict[str, JournalEntry]:
    """Finished entries of a batch by name, one for each instance: that of the first start, and its first there.

    Args:
        batch: Folder of the batch.
        sizes: How much of each journal counts, by number of the start.

    Raises:
        OSError: A journal cannot be read.
    """
    found: dict[str, JournalEntry] = {}
    for run, size_bytes in sorted(sizes.items()):
        for entry in scan(batch, run, size_bytes):
            if entry.event == FINISHED:
                found.setdefault(entry.name, entry)
    return found


def sizes_of(batch: Path) -> dict[int, int]:
    """Size of the journal of every start of a batch, by its number."""
    found = {}
    for run in runs_of(batch):
        path = run_folder(batch, run) / JOURNAL
        found[run] = path.stat().st_size if path.exists() else 0
    return found


def _header(line: bytes) -> dict[str, Any] | None:
    """Header of a line; None for a line that is damaged or cut."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if not line.endswith(b"\n") or int(checksum, 16) != zlib.crc32(text):
            return None
        header: dict[str, Any] = json.loads(text.partition(b"\t")[0])
    except ValueError:
        return None
    return header
