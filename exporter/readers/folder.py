"""A folder of files, of any depth and any names: what `walk` finds, in its order, and what archives among it hold.

Contract: every entry below the folder that is no readable folder, under its path relative to it, and every member of an
archive; media mirror the tree. A file is looked at only where it is new or changed.

Must never: follow a symbolic link, or take the exporter's own output for input.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.discovery import Found, Kind, Outputs, count, walk
from exporter.errors import Reason, SkipReason
from exporter.outcome import Failed, Skipped
from exporter.readers.archives.found import looks_like_archive
from exporter.readers.archives.members import ArchiveLimits, ArchiveMembers, container_of
from exporter.readers.contract import Entry, InputUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exporter.readers.contract import Memory
    from exporter.readers.scratch import Scratch


def input_folder(path: Path) -> Path:
    """The folder to export, without symbolic links.

    Raises:
        InputUnusable: It is not there, no folder, or not readable.
    """
    try:
        folder = path.resolve(strict=True)
        next(folder.iterdir(), None)
    except NotADirectoryError:
        raise InputUnusable(f"{path} is no folder: give the folder that holds the DICOM files") from None
    except FileNotFoundError:
        raise InputUnusable(f"the folder {path} does not exist: give the folder that holds the DICOM files") from None
    except OSError as error:
        raise InputUnusable(f"the folder {path} cannot be read: {error.strerror}") from None
    return folder


@dataclass(frozen=True, slots=True)
class InPlace:
    """A file that is read where it is."""

    path: Path

    def readable(self) -> Path:
        """The file itself."""
        return self.path

    def release(self) -> None:
        """It stays."""


def entry_of(found: Found, mirrors: str | None = None) -> Entry:
    """What `walk` found, for the run; output mirrors its name unless told otherwise."""
    decided: Skipped | Failed | None = None
    if found.kind is Kind.OTHER:
        message = "a link, pipe, socket, device or folder: only regular files are read"
        decided = Skipped(SkipReason.NOT_REGULAR, message)
    elif found.kind is Kind.UNREADABLE:
        message = "cannot be looked at: it is not there, there is no permission, or its path is too long"
        decided = Failed(Reason.UNREADABLE, message, may_pass=False)
    content = InPlace(found.path) if decided is None else None
    return Entry(found.name, found.size_bytes, found.mtime_ns, content, decided, mirrors or found.name)


@dataclass(frozen=True, slots=True)
class FolderReader:
    """A folder, searched as deep as the settings say, and the archives in it."""

    folder: Path
    """An absolute path without symbolic links."""
    outputs: Outputs
    """What is left out."""
    recursive: bool
    archives: ArchiveLimits | None
    """None where archives are files like any other."""

    def entries(self, memory: Memory, scratch: Scratch) -> Iterator[Entry]:
        """See `Reader`."""
        for found in walk(self.folder, self.outputs, recursive=self.recursive):
            if memory.done(found.name, found.size_bytes, found.mtime_ns):
                continue
            archive = self._archive(found)
            if archive is None:
                yield entry_of(found)
            else:
                yield from archive.entries(memory, scratch)

    def _archive(self, found: Found) -> ArchiveMembers | None:
        """The archive that a file is; None where it is none."""
        if self.archives is None or found.kind is not Kind.REGULAR or not looks_like_archive(found.path):
            return None
        return ArchiveMembers(found.name, found.path, self.archives)

    def count(self) -> Iterator[int]:
        """See `Reader`."""
        return count(self.folder, self.outputs, recursive=self.recursive)

    @contextmanager
    def together(self, names: Sequence[str], scratch: Scratch) -> Iterator[list[Path]]:
        """See `Reader`."""
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
