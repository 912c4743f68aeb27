"""What a publication is about to do, noted where the next start finds it; and the repair of what it did not finish.

Contract: a note with the instance's name and the final names of its media is made beside the partial files before the
first of them is renamed, and removed after the commit. A final name that is promised and that the ledger does not own
belongs to a publication that a crash cut short: `recover` removes it, and its instance is exported anew.

A note is a symbolic link that leads nowhere: a journal writes it at once and in order with the renames that follow, so
that it needs no fsync of its own. Where a file system has no links, or the text is too long, it is a file and synced.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.discovery import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from exporter.ledger import Ledger

NOTE: Final = "promise"
_LONGEST_LINK: Final = 4000


class MediaFolderUnusable(Exception):
    """The media folder cannot be written: a matter for the administrator."""

    def __init__(self, path: Path, cause: OSError) -> None:
        super().__init__(
            f"the media folder {path} cannot be written: {cause.strerror}; mend it, or choose another with media.dir"
        )


@dataclass(frozen=True, slots=True)
class Promise:
    """One instance that is being published."""

    name: str
    targets: tuple[str, ...]
    """Final paths of its media, relative to the media folder."""


def make(folder: Path, promise: Promise) -> None:
    """Note a promise in a folder of partial files.

    Raises:
        FileExistsError: Something of that name is there.
        OSError: The file system refuses.
    """
    text = json.dumps([promise.name, *promise.targets])
    note = folder / NOTE
    if len(text) <= _LONGEST_LINK:
        try:
            note.symlink_to(text)
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
                raise
        else:
            return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(note, flags, 0o600), "w", encoding="ascii") as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except OSError:  # a full disk: half a note would look like the worker's at the next attempt
            note.unlink()
            raise


def withdraw(folder: Path) -> None:
    """Remove the note: what was promised is committed, or undone."""
    (folder / NOTE).unlink()


def standing(media: Path) -> Iterator[Promise]:
    """Every promise that is noted below a media folder now."""
    partial = media / PARTIAL
    for folder in partial.iterdir() if partial.is_dir() else ():
        note = folder / NOTE
        with suppress(OSError, ValueError):  # none there, or half of one: then nothing was renamed
            # Not Path.readlink: it would take a name's `//` (inside an archive) for one slash.
            text = os.readlink(note) if note.is_symlink() else note.read_text(encoding="ascii")  # noqa: PTH115
            name, *targets = json.loads(text)
            yield Promise(name, tuple(targets))


def recover(media: Path, ledger: Ledger) -> int:
    """Remove what an exporter that ended in between had renamed and not committed, and all partial files; how many.

    Raises:
        MediaFolderUnusable: The media folder cannot be made or written.
    """
    partial = media / PARTIAL
    try:
        partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        orphans = []
        for promise in standing(media):
            owned = {medium.file for medium in ledger.media(promise.name)}
            orphans += [target for target in promise.targets if target not in owned]
        remove(media, orphans)
        shutil.rmtree(partial)
        partial.mkdir(mode=0o700)
    except OSError as error:
        raise MediaFolderUnusable(media, error) from error
    superseded = ledger.superseded()
    remove(media, superseded)
    ledger.forget_superseded(superseded)
    return len(orphans)


def remove(media: Path, paths: Iterable[str]) -> None:
    """Delete outputs by their paths below the media folder; what is gone is fine."""
    for path in paths:
        if path.endswith("/"):
            shutil.rmtree(media / path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):
                (media / path).unlink()
