"""Notes of publications that have begun, for the next start, which repairs those that did not finish.

Contract: a note with the instance's name and the final names of its media is made beside the partial files before the
first of them is renamed, and removed after the commit. A final name that is promised and that the ledger does not own
belongs to a publication that a crash cut short: `recover` removes it, and its instance is exported anew.

A note is a name, or a few: hard links to one empty file that spell its text. A journal writes a name at once and in
order with the renames that follow, so that it needs no fsync of its own; and no inode is made or deleted for a note
(ext4 passes over every inode that was deleted in the last minutes when it makes one). A longer text is a symbolic link
that leads nowhere. Where a file system has no links, or the text is longer still, it is a file and synced.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from exporter.results.output_names import PARTIAL
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from exporter.results.ledger import Ledger

NOTE: Final = "promise"
_LONGEST_LINK: Final = 4000
_PART: Final = 200
"""Characters of a note in one name: leaves room within the 255 bytes of common file systems."""
_MOST_PARTS: Final = 4
_PART_NAME: Final = re.compile(rf"{NOTE}-([1-9])of([1-9])-([A-Za-z0-9_=-]+)")
"""Name that spells a part of a note: its number, how many there are, and its characters of base64 (RFC 4648 5)."""
_WITHOUT_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_MARKED: Final = re.compile(r"(?:copies-)?([0-9a-f]{16})-")
"""Prefix of the names in `.partial`: the mark of the ledger whose exporter made them."""


class MediaFolderUnusable(Unusable):
    """The media folder cannot be written."""

    def __init__(self, path: Path, cause: OSError) -> None:
        hint = "mend it, or choose another with media.dir"
        super().__init__(f"the media folder {path} cannot be written", cause.strerror or "system error", hint)


@dataclass(frozen=True, slots=True)
class Intent:
    """One instance that is being published."""

    name: str
    targets: tuple[str, ...]
    """Final paths of its media, relative to the media folder."""


def record(folder: Path, promise: Intent) -> None:
    """Note a promise in a folder of partial files.

    Raises:
        FileExistsError: There is a note already.
        OSError: The file system refuses.
    """
    text = json.dumps([promise.name, *promise.targets])
    note = folder / NOTE
    if any(name == NOTE or _PART_NAME.fullmatch(name) for name in os.listdir(folder)):  # noqa: PTH208 - names alone
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(note))
    if _spelled(folder, text):
        return
    if len(text) <= _LONGEST_LINK:
        try:
            note.symlink_to(text)
        except OSError as error:
            if error.errno not in _WITHOUT_LINKS:
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


def _spelled(folder: Path, text: str) -> bool:
    """Note a text in names.

    Returns:
        Whether that is possible: it is short enough, and the file system has hard links.

    Raises:
        OSError: The file system refuses; no name is left.
    """
    spelling = base64.urlsafe_b64encode(text.encode("ascii")).decode("ascii")
    parts = [spelling[at : at + _PART] for at in range(0, len(spelling), _PART)]
    if len(parts) > _MOST_PARTS:
        return False
    empty = empty_file(folder)
    names: list[Path] = []
    try:
        for number, part in enumerate(parts, 1):
            name = folder / f"{NOTE}-{number}of{len(parts)}-{part}"
            try:
                name.hardlink_to(empty)
            except FileNotFoundError:
                empty.touch(mode=0o600)
                name.hardlink_to(empty)
            names.append(name)
    except OSError as error:
        for name in names:
            name.unlink()
        if error.errno not in _WITHOUT_LINKS:
            raise
        return False
    return True


def empty_file(folder: Path) -> Path:
    """The file whose names spell the notes of one exporter; beside its folders of partial files."""
    return folder.with_name(f"{folder.name.rpartition('-')[0]}-notes")


def clear(folder: Path) -> None:
    """Remove the note: what was promised is committed, or undone."""
    found = [name for name in os.listdir(folder) if _PART_NAME.fullmatch(name)]  # noqa: PTH208 - names alone
    for name in found or [NOTE]:
        (folder / name).unlink()


def pending(media: Path) -> Iterator[Intent]:
    """Every promise that is noted below a media folder now."""
    partial = media / PARTIAL
    for folder in partial.iterdir() if partial.is_dir() else ():
        yield from _noted(folder)


def _noted(folder: Path) -> Iterator[Intent]:
    """The intent in a folder of partial files; none if absent or incomplete: then nothing was renamed.

    There are several only where a worker that was taken over has left some.
    """
    note = folder / NOTE
    texts: list[str] = []
    with suppress(OSError, ValueError):
        texts += _read_spelled(folder)
    with suppress(OSError, ValueError):
        # Not Path.readlink: it would take a name's `//` (inside an archive) for one slash.
        texts.append(os.readlink(note) if note.is_symlink() else note.read_text(encoding="ascii"))  # noqa: PTH115
    for text in texts:
        with suppress(ValueError, TypeError):
            name, *targets = json.loads(text)
            yield Intent(name, tuple(targets))


def _read_spelled(folder: Path) -> Iterator[str]:
    """The complete texts that names in a folder spell."""
    parts: dict[int, dict[int, str]] = {}
    for found in filter(None, map(_PART_NAME.fullmatch, os.listdir(folder))):  # noqa: PTH208 - names alone
        parts.setdefault(int(found[2]), {})[int(found[1])] = found[3]
    for count, spelled in parts.items():
        if sorted(spelled) == list(range(1, count + 1)):
            yield base64.urlsafe_b64decode("".join(spelled[number] for number in sorted(spelled))).decode("ascii")


def _is_ours(name: str, marks: set[str | None], other: str | None) -> bool:
    """Whether something in `.partial` was made by an exporter of the ledger with one of these marks."""
    if name.lstrip(".").startswith("owner"):
        return False  # see `exporter.results.ownership`
    marked = _MARKED.match(name)
    return marked[1] in marks if marked is not None else other is None or other in marks


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def recover(media: Path, ledger: Ledger, other: str | None = None, lost: str | None = None) -> int:
    """Remove what an exporter of this ledger had renamed and not committed when it ended, and its partial files.

    Leftovers of exporters with other ledgers stay: their next start removes it. What has no ledger's mark
    is of an earlier version; it is ours unless another ledger's exporter had the folder last. Media that were renamed
    are ours only where the ledger knows the instance.

    Args:
        media: The media folder.
        ledger: The ledger that is worked with.
        other: Mark of another ledger whose exporter had the folder last and did not give it back.
        lost: Mark that this ledger had before it was lost and made anew.

    Returns:
        Number of media that were renamed and not committed.

    Raises:
        MediaFolderUnusable: The media folder cannot be made or written.
    """
    partial = media / PARTIAL
    try:
        partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        orphans = []
        ours = [folder for folder in partial.iterdir() if _is_ours(folder.name, {ledger.mark, lost}, other)]
        for promise in chain.from_iterable(map(_noted, ours)):
            if lost is not None or ledger.entry(promise.name) is not None:
                owned = {medium.file for medium in ledger.media(promise.name)}
                orphans += [target for target in promise.targets if target not in owned]
        remove(media, orphans)
        for folder in ours:
            _delete(folder)
    except OSError as error:
        raise MediaFolderUnusable(media, error) from error
    superseded = ledger.superseded()
    remove(media, superseded)
    ledger.forget_superseded(superseded)
    return len(orphans)


def remove(media: Path, paths: Iterable[str]) -> None:
    """Delete outputs by their paths below the media folder; missing ones are no error."""
    for path in paths:
        if path.endswith("/"):
            shutil.rmtree(media / path, ignore_errors=True)
        else:
            with suppress(FileNotFoundError, NotADirectoryError):
                (media / path).unlink()
