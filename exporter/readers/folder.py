"""A folder of files, of any depth and any names: what `walk` finds, in its order.

Contract: every entry below the folder that is no readable folder, under its path relative to it; media mirror the tree.

Must never: follow a symbolic link, or take the exporter's own output for input.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.discovery import Found, Kind, Outputs, count, walk
from exporter.errors import Reason, SkipReason
from exporter.outcome import Failed, Skipped
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


class FolderReader:
    """A folder, searched as deep as the settings say."""

    def __init__(self, folder: Path, outputs: Outputs, *, recursive: bool) -> None:
        """Read `folder`, an absolute path without symbolic links, but for `outputs`."""
        self._folder = folder
        self._outputs = outputs
        self._recursive = recursive

    def entries(self, memory: Memory, scratch: Scratch) -> Iterator[Entry]:  # noqa: ARG002 - the contract's shape
        """See `Reader`."""
        for found in walk(self._folder, self._outputs, recursive=self._recursive):
            if not memory.done(found.name, found.size_bytes, found.mtime_ns):
                yield entry_of(found)

    def count(self) -> Iterator[int]:
        """See `Reader`."""
        return count(self._folder, self._outputs, recursive=self._recursive)

    @contextmanager
    def together(self, names: Sequence[str], scratch: Scratch) -> Iterator[list[Path]]:  # noqa: ARG002 - the contract's shape
        """See `Reader`."""
        yield [self._folder / name for name in names]
