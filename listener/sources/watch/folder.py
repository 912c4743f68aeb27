"""The watched folder as it is now: a look at all of it, and opening what was found there.

Contract: `look` passes over every entry once and keeps at most so many files as it was told, the oldest; its memory
does not grow with the folder. Names are looked up one by one in folders that are held open, so that nothing outside is
ever reached, also where a folder is replaced by a link between the look and the opening.

Must never: follow a symbolic link below the folder, or open a FIFO, a device or a socket to wait there.
"""

from __future__ import annotations

import errno
import fnmatch
import heapq
import os
import re
import stat
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from listener.settings.watch import WatchSection

DEEPEST: Final = 64
"""Deepest folder that is looked into."""
FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Signature:
    """What changes when a file does; all of it by the file system's own account."""

    size_bytes: int
    mtime_ns: int
    inode: int
    ctime_ns: int
    """Changes also with owner and permissions, which is of interest for a file that could not be read."""

    @classmethod
    def from_stat(cls, found: os.stat_result) -> Signature:
        """The signature of what `stat` found."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)

    def is_same_content(self, other: Signature) -> bool:
        """Whether nothing was written in between: renaming or permissions are of no interest."""
        mine = (self.size_bytes, self.mtime_ns, self.inode)
        return mine == (other.size_bytes, other.mtime_ns, other.inode)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One regular file that may be taken."""

    name: str
    """Path below the watched folder, with `/`."""
    signature: Signature


@dataclass(slots=True)
class FolderScan:
    """What one look found."""

    candidates: list[Candidate] = field(default_factory=list)
    """The oldest files that are wanted, oldest first."""
    entries: int = 0
    """Entries, without those whose names are ignored."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Entries that are not taken, by stable words."""
    complete: bool = True
    """Whether everything could be looked at, to the end."""


class NamePatterns:
    """Which names are taken."""

    def __init__(self, settings: WatchSection) -> None:
        self._patterns = _any_of(settings.patterns)
        self._ignore = _any_of(settings.ignore)

    def is_ignored(self, name: str) -> bool:
        """Whether a file or folder of this name is left alone."""
        return self._ignore is not None and self._ignore.match(name.lower()) is not None

    def is_wanted(self, name: str) -> bool:
        """Whether a file of this name is taken, if its name is not ignored."""
        return self._patterns is None or self._patterns.match(name.lower()) is not None


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    """One expression for all patterns; None where there is nothing to match."""
    if not patterns or patterns == ("*",):
        return None
    return re.compile("|".join(fnmatch.translate(pattern.lower()) for pattern in patterns))


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What a look is to do."""

    most: int
    """So many candidates at most."""
    is_over: Callable[[], bool]
    """Whether to break off."""
    leave_out: tuple[int, int] | None = None
    """Device and inode of a folder that is not entered."""


def scan(root: int, settings: WatchSection, wanted: Callable[[Candidate], bool], asked: ScanOptions) -> FolderScan:
    """Look at everything in the folder.

    Args:
        root: Descriptor of the watched folder.
        settings: What is taken.
        wanted: Whether a regular file of a wanted name is still to be taken.
        asked: How many, and when to stop.

    Raises:
        OSError: The folder itself cannot be listed.
    """
    walk = _Walk(root, settings, asked)
    walk.found.candidates = heapq.nsmallest(asked.most, filter(wanted, walk.files()), key=_age)
    return walk.found


def _age(candidate: Candidate) -> tuple[int, str]:
    return candidate.signature.mtime_ns, candidate.name


class _Walk:
    """One walk over the folder, in depth: what is open at a time is one folder of each level."""

    def __init__(self, root: int, settings: WatchSection, asked: ScanOptions) -> None:
        self._root = root
        self._recursive = settings.recursive
        self._names = NamePatterns(settings)
        self._asked = asked
        self.found = FolderScan()

    def files(self) -> Iterator[Candidate]:
        """Every regular file of a wanted name."""
        return self._files_of(self._root, ".", "", 0)

    def _files_of(self, outer: int, last: str, path: str, depth: int) -> Iterator[Candidate]:
        """Files of one folder and below it; `path` ends in `/`, except for the watched folder itself."""
        fd = os.open(last, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=outer)
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) == self._asked.leave_out:
                return
            with os.scandir(fd) as entries:
                for entry in entries:
                    if self._asked.is_over():
                        self.found.complete = False
                        return
                    found = self._look_at(entry, path, depth)
                    if isinstance(found, Candidate):
                        yield found
                    elif found is _Kind.FOLDER:
                        yield from self._below(fd, entry.name, path, depth)
        finally:
            os.close(fd)

    def _below(self, fd: int, name: str, path: str, depth: int) -> Iterator[Candidate]:
        try:
            yield from self._files_of(fd, name, f"{path}{name}/", depth + 1)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):  # gone, or no folder any more
                self.found.skipped["unreadable_folder"] += 1
                self.found.complete = False

    def _look_at(self, entry: os.DirEntry[str], path: str, depth: int) -> Candidate | _Kind:
        """The entry as a file that may be taken, or as a folder to go into; what is passed over is counted."""
        found: Candidate | _Kind | str
        if self._names.is_ignored(entry.name):
            found = "ignored"
        elif entry.is_dir(follow_symlinks=False):
            deeper = "folder" if not self._recursive else "too_deep" if depth >= DEEPEST else None
            found = deeper or _Kind.FOLDER
        elif self._names.is_wanted(entry.name):
            found = _file(entry, path + entry.name)
        else:
            found = "other_name"
        self.found.entries += found != "ignored"
        if isinstance(found, str):
            self.found.skipped[found] += 1
            return _Kind.NOTHING
        return found


class _Kind(Enum):
    FOLDER = auto()
    NOTHING = auto()


def _file(entry: os.DirEntry[str], name: str) -> Candidate | _Kind | str:
    """The file, or a word that says why it is none that can be taken."""
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return _Kind.NOTHING
    except OSError:
        return "unreadable"
    if not stat.S_ISREG(status.st_mode):
        return "not_regular"
    return Candidate(name, Signature.from_stat(status)) if status.st_size else "empty"


@contextmanager
def opened_folder(root: int, name: str) -> Iterator[int]:
    """Descriptor of a folder below `root`; every part of its path must be a real folder.

    Raises:
        OSError: It is gone, or a link is in the way.
    """
    fd = os.open(".", FOLDER_FLAGS, dir_fd=root)
    try:
        for part in name.split("/") if name else ():
            inner = os.open(part, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def parted(name: str) -> tuple[str, str]:
    """Folder and last part of a path below the watched folder."""
    folder, _, last = name.rpartition("/")
    return folder, last


def status_of(root: int, name: str) -> os.stat_result | None:
    """What is at a path below the watched folder now; None where nothing is.

    Raises:
        OSError: It cannot be told.
    """
    folder, last = parted(name)
    try:
        with opened_folder(root, folder) as fd:
            return os.stat(last, dir_fd=fd, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def open_root(path: Path) -> int:
    """Descriptor of the watched folder; that itself may be reached over links, since the operator named it.

    Raises:
        OSError: It is not there.
    """
    return os.open(path, FOLDER_FLAGS)
