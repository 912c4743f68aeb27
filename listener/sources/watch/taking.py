"""One file out of the watched folder: copied into the spool, then left, moved or deleted.

Contract: `take` commits the bytes that the file had, unchanged, or nothing: a file that is not the one that was looked
at, or that changes while it is copied, is not committed. `move` and `delete` take away the very file that was copied:
the name is moved first, and what turns out to be another file is put back.

Must never: overwrite a file, or delete one whose bytes are not durable in the spool.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from listener.sources.watch.folder import FILE_FLAGS, FOLDER_FLAGS, Signature, opened_folder, parted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from listener.sources.watch.folder import Candidate
    from listener.spool.incoming import Incoming
    from listener.spool.spool import Spool

PIECE_BYTES: Final = 1 << 20
TAKEN_PREFIX: Final = "taken-"
"""Beginning of the name that a file has for the instant before it is deleted. It is no ignored name: a file that a
crash leaves under it is looked at like any other."""
GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""There is no such file any more, or a link is in its place."""


class CopyResult(Enum):
    """What became of a file that was to be copied."""

    STORED = "stored"
    """It is durable in the spool."""
    CHANGED = "changed"
    """It is not, or no longer, what it was when it was looked at."""
    GONE = "gone"
    UNREADABLE = "unreadable"
    BROKEN_OFF = "broken_off"


@dataclass(frozen=True, slots=True)
class CopySource:
    """Where files are taken from, and where to."""

    root: int
    """Descriptor of the watched folder."""
    spool: Spool
    is_over: Callable[[], bool]
    """Whether to break off."""


def copy_into_spool(source: CopySource, candidate: Candidate, buffer: bytearray) -> CopyResult:
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
        return CopyResult.GONE if error.errno in GONE else CopyResult.UNREADABLE
    try:
        if not _is_still(fd, candidate.signature):
            return CopyResult.CHANGED
        incoming = source.spool.receive()
        try:
            fate = _copy(fd, incoming, source.is_over, buffer)
            if fate is CopyResult.STORED:
                if incoming.size_bytes != candidate.signature.size_bytes or not _is_still(fd, candidate.signature):
                    return CopyResult.CHANGED
                incoming.commit()
            return fate
        finally:
            incoming.discard()  # harmless after `commit`
    finally:
        os.close(fd)


def _is_still(fd: int, signature: Signature) -> bool:
    found = os.fstat(fd)
    return stat.S_ISREG(found.st_mode) and Signature.from_stat(found) == signature


def _copy(fd: int, incoming: Incoming, is_over: Callable[[], bool], buffer: bytearray) -> CopyResult:
    view = memoryview(buffer)
    while True:
        if is_over():
            return CopyResult.BROKEN_OFF
        try:
            count = os.readv(fd, [buffer])
        except OSError:
            return CopyResult.UNREADABLE
        if count == 0:
            return CopyResult.STORED
        incoming.write([view[:count]])


def delete(root: int, candidate: Candidate) -> bool:
    """Delete a file that is durable in the spool.

    Args:
        root: Descriptor of the watched folder.
        candidate: The file that was copied.

    Returns:
        Whether it is gone; False where another file has taken its place, which then stays.

    Raises:
        OSError: It cannot be deleted.
    """
    folder, last = parted(candidate.name)
    try:
        with opened_folder(root, folder) as here:
            aside = _taken_name(last)
            if not _set_aside(here, last, here, aside, candidate.signature):
                return False
            os.unlink(aside, dir_fd=here)
    except OSError as error:
        if error.errno not in GONE:  # somebody else has taken it away
            raise
    return True


def move(root: int, candidate: Candidate, done: int) -> bool:
    """Move a file that is durable in the spool to the same path below another folder; see `delete`.

    Args:
        root: Descriptor of the watched folder.
        candidate: The file that was copied.
        done: Descriptor of the folder it goes to.
    """
    folder, last = parted(candidate.name)
    try:
        with opened_folder(root, folder) as here, _mirrored(done, folder) as there:
            return _set_aside(here, last, there, _free_name(there, last), candidate.signature)
    except OSError as error:
        if error.errno not in GONE:  # as above
            raise
    return True


def _set_aside(here: int, name: str, there: int, aside: str, signature: Signature) -> bool:
    """Give the file another name, if it is the one that was copied; whether it was."""
    os.rename(name, aside, src_dir_fd=here, dst_dir_fd=there)
    if _is_at(there, aside, signature):
        return True
    # Another file was at the name: back to it, or where that is taken again, beside it.
    back = _free_name(here, name)
    os.rename(aside, back, src_dir_fd=there, dst_dir_fd=here)
    return False


@contextmanager
def _mirrored(done: int, folder: str) -> Iterator[int]:
    """The folder of the same path below `done`, made where it is not there."""
    path = ""
    for part in folder.split("/") if folder else ():
        with _in_the_way(), opened_folder(done, path) as parent, suppress(FileExistsError):
            os.mkdir(part, dir_fd=parent)
        path = f"{path}/{part}" if path else part
    with ExitStack() as stack:
        with _in_the_way():
            there = stack.enter_context(opened_folder(done, path))
        yield there


@contextmanager
def _in_the_way() -> Iterator[None]:
    """A file or a link in the way of our own folder is no sign that the file which was copied is gone."""
    try:
        yield
    except OSError as error:
        if error.errno in GONE:
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
    return stat.S_ISREG(found.st_mode) and Signature.from_stat(found).is_same_content(signature)


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
