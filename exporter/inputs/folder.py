"""A folder of files, of any depth and any names, as input: the entries of `walk` and the members of archives.

Contract: there is one entry for everything below the folder except readable folders, named by its path relative to the
folder, and one for every member of an archive; media mirror the tree. Only new and changed files are opened.

Must never: follow a symbolic link, or read the exporter's own output as input.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.errors import SkipReason
from exporter.inputs.archives.found import looks_like_archive
from exporter.inputs.archives.members import ArchiveLimits, ArchiveMembers, container_of
from exporter.inputs.contract import INSIDE, InputEntry, InputUnusable
from exporter.inputs.fileset import FileSet, is_dicomdir_name
from exporter.inputs.place import entry_of, found_now
from exporter.inputs.walk import FileKind, Outputs, WalkedFile, count, foreseen, walk
from exporter.outcome import Skipped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from exporter.inputs.contract import EarlierOutcomes
    from exporter.inputs.scratch import Scratch


def input_folder(path: Path) -> Path:
    """Resolve the folder to export.

    Returns:
        Its absolute path without symbolic links.

    Raises:
        InputUnusable: It is missing, not a folder, or not readable.
    """
    try:
        folder = path.resolve(strict=True)
        next(folder.iterdir(), None)
    except NotADirectoryError:
        raise InputUnusable(f"{path} is no folder: give the folder that holds the DICOM files") from None
    except FileNotFoundError:
        raise InputUnusable(_absent(path)) from None
    except OSError as error:
        raise InputUnusable(f"the folder {path} cannot be read: {error.strerror}") from None
    return folder


def _absent(path: Path) -> str:
    if os.sep == "/" and re.match(r"[A-Za-z]:[\\/]|[A-Za-z]:$|\\\\", str(path)):
        hint = "give the folder where that drive or share is mounted (under WSL, `wslpath` tells it)"
        return f"{path} is a path of Windows, and this is another system: {hint}"
    return f"the folder {path} does not exist: give the folder that holds the DICOM files"


@dataclass(frozen=True, slots=True)
class FolderReader:
    """Reader of a folder and the archives in it, with or without its subfolders."""

    folder: Path
    """An absolute path without symbolic links."""
    outputs: Outputs
    """The exporter's own output, which is left out."""
    recursive: bool
    archives: ArchiveLimits | None
    """None if archives are treated like other files."""

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:
        """See `InputReader`."""
        closed = set()
        for found in foreseen(walk(self.folder, self.outputs, recursive=self.recursive), memory):
            if found.kind is FileKind.UNREADABLE:
                closed.add(found.name)
            yield from self.entries_of(found, memory, scratch)
        yield from map(reopened_entry, self.reopened(memory, closed))

    def entries_of(self, found: WalkedFile, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:
        """Entries of one file that `walk` found: itself, its members if it is an archive, what a DICOMDIR lacks."""
        if not memory.is_done(found.name, found.size_bytes, found.mtime_ns, found.changed_ns):
            archive = self._archive(found)
            if archive is None:
                yield entry_of(found_now(found))
            else:
                yield from archive.entries(memory, scratch)
        if found.kind is FileKind.REGULAR and is_dicomdir_name(found.place.rpartition("/")[2]):
            yield from FileSet(found).missing(memory)

    def reopened(self, memory: EarlierOutcomes, closed: Collection[str]) -> Iterator[str]:
        """Names of folders that an earlier run could not read and that are not among those `closed` now."""
        for name in memory.closed_folders(self.folder):
            if name not in closed and INSIDE not in name and _is_folder(self.folder / name.rstrip("/")):
                yield name

    @property
    def root(self) -> Path:
        """See `InputReader`."""
        return self.folder

    def members(self, container: str) -> Iterator[str]:
        """See `InputReader`."""
        if self.archives is not None:
            yield from ArchiveMembers(container, self.folder / container, self.archives).names()

    def _archive(self, found: WalkedFile) -> ArchiveMembers | None:
        """Members of a file that is an archive; None for any other file."""
        if self.archives is None or found.kind is not FileKind.REGULAR or not looks_like_archive(found.path):
            return None
        return ArchiveMembers(found.name, found.path, self.archives)

    def count(self) -> Iterator[int]:
        """See `InputReader`."""
        return count(self.folder, self.outputs, recursive=self.recursive)

    @contextmanager
    def together(self, names: Sequence[str], scratch: Scratch) -> Iterator[list[Path]]:
        """See `InputReader`."""
        by_archive: dict[str, list[str]] = {}
        paths = []
        for name in names:
            if container := container_of(name):
                by_archive.setdefault(container, []).append(name)
            else:
                paths.append(self.folder / name)
        with ExitStack() as stack:
            if self.archives is not None:
                for container, members in by_archive.items():
                    archive = ArchiveMembers(container, self.folder / container, self.archives)
                    paths += stack.enter_context(archive.copies(members, scratch)).values()
            yield paths


def reopened_entry(name: str) -> InputEntry:
    """The entry of a folder that could not be read by an earlier run and can be now."""
    message = "a folder that can be read now: what is in it has outcomes of its own"
    return InputEntry(name, 0, 0, decided=Skipped(SkipReason.NOT_REGULAR, message))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False
