"""Files that workers read in place: their attributes and their entries.

Must never: follow a symbolic link, or open anything.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.errors import SkipReason, Unreadable
from exporter.inputs.contract import InputEntry
from exporter.inputs.walk import FileKind, WalkedFile
from exporter.outcome import Failed, Skipped

if TYPE_CHECKING:
    from pathlib import Path


def found_at(root: Path, name: str) -> WalkedFile:
    """Attributes of the entry `name` below `root`, as `walk` finds them."""
    return _found(name, f"{root / name}")


def found_now(found: WalkedFile) -> WalkedFile:
    """Attributes of a file that `walk` found a moment ago; as they were, if it is gone."""
    now = _found(found.name, found.place)
    return found if now.kind is FileKind.UNREADABLE else now


def _found(name: str, place: str) -> WalkedFile:
    try:
        about = os.lstat(place)
    except OSError:
        return WalkedFile(name, place, FileKind.UNREADABLE, 0, 0)
    kind = FileKind.REGULAR if stat.S_ISREG(about.st_mode) else FileKind.OTHER
    return WalkedFile(name, place, kind, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class InPlace:
    """A file that workers read in place."""

    path: Path

    def readable(self) -> Path:
        """The file itself."""
        return self.path

    def release(self) -> None:
        """Leave the file where it is."""


def entry_of(found: WalkedFile, mirrors: str | None = None) -> InputEntry:
    """The entry of a file that `walk` found; output mirrors its name, or `mirrors`."""
    decided: Skipped | Failed | None = None
    if found.kind is FileKind.OTHER:
        message = "a link, pipe, socket, device or folder: only regular files are read"
        decided = Skipped(SkipReason.NOT_REGULAR, message)
    elif found.kind is FileKind.UNREADABLE:
        message = "cannot be looked at: it is not there, there is no permission, or its path is too long"
        decided = Failed.of(Unreadable(message))
    content = InPlace(found.path) if decided is None else None
    return InputEntry(found.name, found.size_bytes, found.mtime_ns, content, decided, mirrors or found.name)
