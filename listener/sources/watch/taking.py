"""One file out of the watched folder: copied into the spool, then left, moved or deleted.

Contract: `take` commits the bytes that the file had, unchanged, or nothing: a file that is not the one that was looked
at, or that changes while it is copied, is not committed. `take_away` removes the very file that was copied: the name
is moved first, and what turns out to be another file is put back.

Must never: overwrite a file, or delete one whose bytes are not durable in the spool.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from listener.sources.watch.folder import FILE_FLAGS, FOLDER_FLAGS, Signature, opened_folder, parted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from listener.sources.watch.folder import Candidate
    from listener.spool import Incoming, Spool

PIECE_BYTES: Final = 1 << 20
TAKEN_PREFIX: Final = "taken-"
"""Beginning of the name that a file has for the instant before it is deleted. It is no ignored name: a file that a
crash leaves under it is looked at like any other."""
GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""There is no such file any more, or a link is in its place."""


class Fate(Enum):
    """What became of a file that was to be copied."""

    STORED = "stored"
    """It is durable in the spool."""
    CHANGED = "changed"
    """It is not, or no longer, what it was when it was looked at."""
    GONE = "gone"
    UNREADABLE = "unreadable"
    BROKEN_OFF = "broken_off"


@dataclass(frozen=True, slots=True)
class Source:
    """Where files are taken from, and where to."""

    root: int
    """Descriptor of the watched folder."""
    spool: Spool
    is_over: Callable[[], bool]
    """Whether to break off."""


def take(source: Source, candidate: Candidate, buffer: bytearray) -> Fate:
    """Copy one file into the spool.

    Args:
        source: Where from, and where to.
        candidate: The file, as it was looked at.
        buffer: For one piece.

    Raises:
        SpoolWriteFailed: The spool could not take it.
    """
    folder, last = parted(candidate.name)
    try:
        with opened_folder(source.root, folder) as parent:
            fd = os.open(last, FILE_FLAGS, dir_fd=parent)
    except OSError as error:
        return Fate.GONE if error.errno in GONE else Fate.UNREADABLE
    try:
        if not _is_still(fd, candidate.signature):
            return Fate.CHANGED
        incoming = source.spool.receive()
        try:
            fate = _copy(fd, incoming, source.is_over, buffer)
            if fate is Fate.STORED:
                if incoming.size_bytes != candidate.signature.size_bytes or not _is_still(fd, candidate.signature):
                    return Fate.CHANGED
                incoming.commit()
            return fate
        finally:
            incoming.discard()  # harmless after `commit`
    finally:
        os.close(fd)


def _is_still(fd: int, signature: Signature) -> bool:
    found = os.fstat(fd)
    return stat.S_ISREG(found.st_mode) and Signature.of(found) == signature


def _copy(fd: int, incoming: Incoming, is_over: Callable[[], bool], buffer: bytearray) -> Fate:
    view = memoryview(buffer)
    while True:
        if is_over():
            return Fate.BROKEN_OFF
        try:
            count = os.readv(fd, [buffer])
        except OSError:
            return Fate.UNREADABLE
        if count == 0:
            return Fate.STORED
        incoming.write([view[:count]])


def take_away(root: int, candidate: Candidate, done: int | None) -> bool:
    """Remove a file that is durable in the spool: into the folder `done`, or for good.

    Args:
        root: Descriptor of the watched folder.
        candidate: The file that was copied.
        done: Descriptor of the folder it is moved to, below the same path; None deletes it.

    Returns:
        Whether it is away; False where another file has taken its place, which then stays.

    Raises:
        OSError: It cannot be moved.
    """
    folder, last = parted(candidate.name)
    try:
        with opened_folder(root, folder) as here, _target(here, folder, done) as there:
            aside = _free_name(there, last) if done is not None else _taken_name(last)
            os.rename(last, aside, src_dir_fd=here, dst_dir_fd=there)
            if not _is_at(there, aside, candidate.signature):
                _put_back(here, there, last, aside)
                return False
            if done is None:
                os.unlink(aside, dir_fd=here)
    except OSError as error:
        if error.errno in GONE:
            return True
        raise
    return True


@contextmanager
def _target(here: int, folder: str, done: int | None) -> Iterator[int]:
    """The folder that the file goes to; the same one where it is to be deleted."""
    if done is None:
        yield here
        return
    path = ""
    for part in folder.split("/") if folder else ():
        with opened_folder(done, path) as parent, suppress(FileExistsError):
            os.mkdir(part, dir_fd=parent)
        path = f"{path}/{part}" if path else part
    try:
        with opened_folder(done, path) as there:
            yield there
    except OSError as error:
        # A file or a link in the way of a folder is no sign that what we took is gone.
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        raise


def _taken_name(name: str) -> str:
    return f"{TAKEN_PREFIX}{secrets.token_hex(4)}-{os.fsdecode(os.fsencode(name)[-200:])}"


def _free_name(folder: int, name: str) -> str:
    """The name, or where there is such a file already, the name with something behind it; only we write there."""
    if _exists(folder, name):
        return f"{os.fsdecode(os.fsencode(name)[:200])}.{secrets.token_hex(8)}"
    return name


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_at(folder: int, name: str, signature: Signature) -> bool:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return stat.S_ISREG(found.st_mode) and Signature.of(found).is_same_content(signature)


def _put_back(here: int, there: int, name: str, aside: str) -> None:
    """Another file was at the name: back to it, or where that is taken again, beside it."""
    if _exists(here, name):
        name = f"{os.fsdecode(os.fsencode(name)[:200])}.{secrets.token_hex(8)}"
    os.rename(aside, name, src_dir_fd=there, dst_dir_fd=here)


def open_done(path: str, root: int) -> int:
    """Descriptor of the folder for files that were taken; it is made where it is not there.

    Args:
        path: Its path; a relative one is below the watched folder.
        root: Descriptor of the watched folder.

    Raises:
        OSError: It cannot be made or opened.
    """
    with suppress(FileExistsError):
        os.mkdir(path, dir_fd=root)
    return os.open(path, FOLDER_FLAGS, dir_fd=root)
