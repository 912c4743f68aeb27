"""Walk a folder: all its files, in a fixed order.

Contract: `walk` yields every entry below a folder that is not itself a readable folder, exactly once, in an order that
does not depend on the file system, in memory that does not grow with their number. Names mean nothing here: a worker
decides later, by content, what is DICOM.

Must never: follow a symbolic link, open a file, or enter the exporter's own output.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.errors import OutOfSpace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from exporter.inputs.contract import EarlierOutcomes

SORTED_ENTRIES: Final = 10_000
"""Most names of one folder that are sorted in memory; more are sorted on disk."""
FIRST_TOGETHER: Final = 32
MOST_TOGETHER: Final = 512
"""Files that are looked up together: few at first, so that work begins at once."""


class FileKind(Enum):
    """Kind of an entry, from its folder alone."""

    REGULAR = "regular"
    OTHER = "other"
    """A symbolic link, FIFO, socket or device: never opened."""
    UNREADABLE = "unreadable"
    """A folder that cannot be listed, or an entry without accessible attributes."""


@dataclass(frozen=True, slots=True)
class WalkedFile:
    """One entry of the folder that was searched."""

    name: str
    """Path relative to that folder, as `os.fsdecode` gives it; ends in ``/`` for a folder that cannot be read."""
    place: str
    """Its absolute path."""
    kind: FileKind
    size_bytes: int
    mtime_ns: int
    changed_ns: int = 0
    """Time of the last change of the file or its permissions (ctime)."""

    @property
    def path(self) -> Path:
        """Its absolute path, made when it is asked for: of a million files that are done, nobody asks."""
        return Path(self.place)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Files and folders of the exporter, which are never input."""

    folders: frozenset[tuple[int, int]]
    """(device, inode) of folders that are not entered."""
    files: frozenset[str] = frozenset()
    """Absolute paths that are left out: the ledger's, the metadata file's."""
    companions: tuple[str, ...] = ()
    """Beginnings of absolute paths of files kept beside them (``exporter.db-wal``, ``metadata.jsonl.kept-1``)."""
    planned: frozenset[str] = frozenset()
    """Absolute paths of output folders that did not exist yet and may be made during the walk."""

    @classmethod
    def among(cls, folders: tuple[Path, ...], files: tuple[Path, ...]) -> Outputs:
        """The outputs among folders and files that are there or will be made."""
        found = [folder.stat() for folder in folders if folder.is_dir()]
        planned = frozenset(str(folder.resolve()) for folder in folders if not folder.is_dir())
        paths = frozenset(str(file.resolve()) for file in files)
        beside = tuple(f"{path}{sign}" for path in sorted(paths) for sign in ".-")
        return cls(frozenset((one.st_dev, one.st_ino) for one in found), paths, beside, planned)

    def is_entered(self, path: str, place: tuple[int, int] | None) -> bool:
        """Whether a folder, with its device and inode, is input."""
        return place not in self.folders and path not in self.planned

    def has(self, path: str) -> bool:
        """Whether a file is output."""
        return path in self.files or path.startswith(self.companions)


def walk(root: Path, outputs: Outputs, *, recursive: bool = True) -> Iterator[WalkedFile]:
    """Yield every entry below `root` that is not a readable folder.

    Args:
        root: An absolute path without symbolic links.
        outputs: The exporter's own output, which is left out.
        recursive: Whether folders below `root` are searched too.

    Raises:
        OSError: `root` itself cannot be read.
        OutOfSpace: There is no room on the disk for sorting a large folder.
    """
    folders = [""]
    while folders:
        folder = folders.pop()
        below: list[str] = []
        place = f"{root / folder}"
        try:
            for own_name in _sorted_names(root / folder):
                name = f"{folder}{own_name}"
                path = f"{place}/{own_name}"
                try:
                    about = os.lstat(path)
                except FileNotFoundError:
                    continue  # it is gone again
                except OSError:
                    yield WalkedFile(name, path, FileKind.UNREADABLE, 0, 0)
                    continue
                if stat.S_ISDIR(about.st_mode):
                    if recursive and outputs.is_entered(path, (about.st_dev, about.st_ino)):
                        below.append(f"{name}/")
                elif not outputs.has(path):
                    kind = FileKind.REGULAR if stat.S_ISREG(about.st_mode) else FileKind.OTHER
                    yield WalkedFile(name, path, kind, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        except OSError:
            if not folder:
                raise
            yield WalkedFile(folder, place, FileKind.UNREADABLE, 0, 0)
        folders.extend(sorted(below, reverse=True))


def foreseen(found: Iterator[WalkedFile], memory: EarlierOutcomes) -> Iterator[WalkedFile]:
    """The same files, of which `memory` is asked many at once: a few milliseconds of files ahead of the caller."""
    some = FIRST_TOGETHER
    while ahead := list(islice(found, some)):
        memory.foresee([one.name for one in ahead])
        yield from ahead
        some = min(2 * some, MOST_TOGETHER)


def count(root: Path, outputs: Outputs, *, recursive: bool = True) -> Iterator[int]:
    """Count the entries that `walk` will yield; faster than `walk`, since only folders are read.

    Raises:
        OSError: `root` itself cannot be read.
    """
    found = 0
    folders = [os.fspath(root)]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if recursive and outputs.is_entered(entry.path, _place(entry)):
                            folders.append(entry.path)
                    elif not outputs.has(entry.path):
                        found += 1
                        if found % 1000 == 0:
                            yield found
        except OSError:
            if folder == os.fspath(root):
                raise
            found += 1
    yield found


def _place(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    try:
        about = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _sorted_names(folder: Path) -> Iterator[str]:
    """Names in a folder, in the order of their bytes (which is that of code points, in UTF-8).

    Raises:
        OSError: The folder cannot be read.
        OutOfSpace: There is no room for sorting.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in islice(entries, SORTED_ENTRIES)]
        if len(names) < SORTED_ENTRIES:
            yield from sorted(names, key=os.fsencode)
            return
        try:
            yield from _sorted_on_disk(chain(names, (entry.name for entry in entries)))
        except sqlite3.Error as error:
            raise OutOfSpace(
                f"sorting the names of a large folder in the folder for temporary files: {error}"
            ) from error


def _sorted_on_disk(names: Iterable[str]) -> Iterator[str]:
    """Sort in constant memory: SQLite sorts in a file without a name."""
    with closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as sorter:
        sorter.executescript(
            """PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;
            CREATE TABLE entry (name BLOB);"""
        )
        sorter.execute("BEGIN")
        sorter.executemany("INSERT INTO entry VALUES (?)", ((os.fsencode(name),) for name in names))
        sorter.execute("COMMIT")
        for (name,) in sorter.execute("SELECT name FROM entry ORDER BY name"):
            yield os.fsdecode(name)
