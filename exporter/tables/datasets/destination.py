"""The folder of a data set, which appears complete or not at all and may replace an earlier data set.

Contract: an existing folder that this module did not make is left alone.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.tables.errors import TableError
from exporter.tables.publication import writable
from listener.foundation.durable import (
    fsync_file,
    fsync_folder,
    leftovers,
    mark_in_use,
    partial_name,
    take_leftover,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.tables.output_folder import ExportedFolder

MARK: Final = ".exporter-"
"""Beginning of the name of a file that marks a folder as made by one of our commands: that command may replace it."""
_PARTIAL: Final = "partial"
_BEFORE: Final = "before"


@contextmanager
def data_set_folder(target: Path, source: ExportedFolder, command: str = "dataset") -> Iterator[Path]:
    """Give a folder to fill, which becomes `target` when the block ends without an error.

    What a killed run of the command has left beside `target` goes first.

    Args:
        target: The folder.
        source: What it is made from.
        command: Name of the command that makes it.

    Raises:
        TableError: `target` exists and is not ours, or it would be in or around the folder it is made from; or it
            cannot be written.
    """
    _check(target, source, command)
    with writable(target):
        _tidy(target, command)
        partial, before = partial_name(target, _PARTIAL), partial_name(target, _BEFORE)
        partial.mkdir(mode=0o700)
        descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            mark_in_use(descriptor)
            text = f"made by `exporter {command}`, which replaces this folder when it runs again\n"
            (partial / f"{MARK}{command}").write_text(text)
            yield partial
            _sync(partial)
            if target.exists():
                target.rename(before)
            partial.rename(target)
            fsync_folder(target.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):
                if not target.exists():
                    before.rename(target)
            raise
        finally:
            os.close(descriptor)
        shutil.rmtree(before, ignore_errors=True)


def _tidy(target: Path, command: str) -> None:
    """Remove what a killed run has left: its partial folder, and the data set that it was about to replace.

    An earlier data set whose place is empty gets it back. A folder without our mark is somebody else's, and one that is
    locked belongs to a run that is under way.
    """
    for left in (*leftovers(target, _BEFORE), *leftovers(target, _PARTIAL)):
        is_ours = not left.is_symlink() and (left / f"{MARK}{command}").is_file()
        if not is_ours or (descriptor := take_leftover(left)) is None:
            continue
        try:
            if f".{_BEFORE}-" in left.name and not target.exists():
                left.rename(target)
            else:
                shutil.rmtree(left)
        finally:
            os.close(descriptor)


def _sync(folder: Path) -> None:
    for above, _, files in os.walk(folder, topdown=False):
        for name in files:
            written = Path(above, name)
            if written.stat().st_nlink == 1:  # a hard link was durable before
                fsync_file(written)
        fsync_folder(Path(above))


def _check(target: Path, source: ExportedFolder, command: str) -> None:
    if not target.parent.is_dir():
        raise TableError(f"there is no folder {target.parent} for the data set")
    place = target.resolve()
    media, root = source.media.resolve(), source.root.resolve()
    if place.is_relative_to(media) or root.is_relative_to(place) or media.is_relative_to(place):
        raise TableError(f"the data set {target} would lie in the media folder, or around it: name another folder")
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir() or target.is_symlink():
        raise TableError(f"{target} is there and is no folder: name another")
    if any(target.iterdir()) and not (target / f"{MARK}{command}").is_file():
        raise TableError(
            f"{target} is there and was not made by `exporter {command}`: name another folder, or empty it"
        )
