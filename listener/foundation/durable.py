"""Durable files: writing all of a buffer, syncing folders together, replacing a file, looking names up in one folder.

Contract: the mechanics below the spool and all output. Raises OSError as the kernel gave it.
Must never: retry an fsync that failed, or take a later success for an earlier one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import stat
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from listener.foundation import locks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Buffer = bytes | bytearray | memoryview

MOST_BUFFERS: Final = 1024
"""`IOV_MAX`: the most buffers that one writev(2) takes."""


class FolderSync:
    """Leader and followers: one `fsync` of a folder serves everybody whose rename came before it started.

    A failed fsync fails for everybody it was to serve: a later success says nothing about what was lost before.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._turn = threading.Condition()
        self._finished = 0
        self._running = False
        self._failures: dict[int, OSError] = {}
        self.syncs = 0

    def commit(self) -> None:
        """Return once an fsync that started after this call has succeeded.

        Raises:
            OSError: That fsync failed.
        """
        with self._turn:
            mine = self._finished + (2 if self._running else 1)
            while self._running and self._finished < mine:
                self._turn.wait()
            if self._finished >= mine:
                failure = self._failures.get(mine)
                if failure is not None:
                    raise OSError(failure.errno, failure.strerror)
                return
            self._running = True
        failure = None
        try:
            os.fsync(self._fd)
        except OSError as error:
            failure = error
            raise
        finally:
            with self._turn:
                self._finished += 1
                self.syncs += 1
                if failure is not None:
                    self._failures[self._finished] = failure
                    self._failures.pop(self._finished - 64, None)
                self._running = False
                self._turn.notify_all()


class Folder:
    """One folder, held open: names below it are looked up in this folder and nowhere else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    @property
    def is_in_place(self) -> bool:
        """Whether the folder which is open is the one at its path."""
        then = os.fstat(self.fd)
        try:
            now = self.path.stat(follow_symlinks=False)
        except OSError:
            return False
        return (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino)

    def refresh(self) -> None:
        """Make sure that the folder which is open is the one at its path; open another that took its place.

        The descriptor keeps its number.

        Raises:
            OSError: There is no folder at the path now.
        """
        if not self.is_in_place:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.dup2(fd, self.fd, inheritable=False)
            finally:
                os.close(fd)

    def entries(self, pattern: re.Pattern[str] | None = None) -> list[str]:
        """The names in this folder, unordered; only those that match `pattern` from end to end."""
        names = os.listdir(self.fd)  # noqa: PTH208 - pathlib cannot list an open folder
        return names if pattern is None else [name for name in names if pattern.fullmatch(name)]

    def size_of(self, name: str) -> int | None:
        """Size of a regular file in bytes; None if it is gone or is something else."""
        try:
            found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None


def write_all(fd: int, buffers: Sequence[Buffer]) -> int:
    """Write every byte of the buffers in order.

    The kernel may take less than it was given (at ENOSPC above all, where the next call says so).

    Returns:
        The number of bytes.
    """
    return sum(_writev_all(fd, buffers[at : at + MOST_BUFFERS]) for at in range(0, len(buffers), MOST_BUFFERS))


def _writev_all(fd: int, buffers: Sequence[Buffer]) -> int:
    wanted = sum(map(len, buffers))
    written = os.writev(fd, buffers)
    done = written
    while done < wanted:
        skip, rest = written, list(buffers)
        while skip >= len(rest[0]):
            skip -= len(rest.pop(0))
        rest[0] = memoryview(rest[0])[skip:]
        buffers = rest
        written = os.writev(fd, buffers)
        done += written
    return wanted


def names_follow_files(folder: int) -> bool:
    """Whether fsync of a file makes its name in this folder durable, too, however lately it was moved there.

    POSIX promises that of the folder's own fsync alone. ext4 commits the transaction that the rename is part of
    (without a journal it writes the parent folder of a new name), XFS forces its log up to the change of the file's
    status that came with the rename. Both are cut from power, many times, in ``tests/faults``; of others nothing is
    taken for granted, nor where `write_out` is not permitted.

    Args:
        folder: Descriptor of an open folder.
    """
    try:
        write_out(folder)
    except OSError:
        return False
    return _file_system(os.fstat(folder).st_dev) in {"ext4", "xfs"}


def _file_system(device: int) -> str | None:
    """Type of the mounted file system with this device number; None where the system does not tell."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")  # proc(5): optional fields end with a dash
                if before.split()[2] == wanted:
                    return after.split()[0]
    except OSError:
        pass
    return None


def _load_sync_file_range() -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)


SYNC_FILE_RANGE: Final = _load_sync_file_range()
_WRITE: Final = 2
_WAIT_WRITE_WAIT: Final = 7


def start_write_back(fd: int, offset: int, size_bytes: int) -> None:
    """Ask the kernel to start writing a range (sync_file_range(2)): advice, so its result is of no interest."""
    if SYNC_FILE_RANGE is not None:
        SYNC_FILE_RANGE(fd, ctypes.c_int64(offset), ctypes.c_int64(size_bytes), _WRITE)


def write_out(fd: int) -> None:
    """Have the kernel write all of a file, and wait for that: an order of things, no durability.

    What is done to the file's name after this cannot reach the disk before its content: there is nothing left to write.
    It takes no flush of the disk and no commit of a journal, unlike fsync.

    Raises:
        OSError: The content could not be written; the kernel says so once only.
    """
    if SYNC_FILE_RANGE is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if SYNC_FILE_RANGE(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WAIT_WRITE_WAIT) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def make_private_folders(path: Path) -> None:
    """Make a folder and those above it that are missing, all of them for their owner alone.

    `Path.mkdir` with `parents` gives the mode to the last one only.
    """
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)  # another process may be quicker


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# -- files that appear complete or not at all ------------------------------------------------------------------------


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Give a partial file to write, which takes the place of `path` when the block ends well, and is gone when not.

    The partial file is private (0600) and beside its place. One that a killed process has left goes first.

    Raises:
        OSError: The file system refuses.
    """
    for left in leftovers(path, "partial"):
        if stat.S_ISREG(left.lstat().st_mode) and (descriptor := take_leftover(left)) is not None:
            left.unlink(missing_ok=True)
            os.close(descriptor)
    partial = partial_name(path, "partial")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(partial, flags, 0o600)
    try:
        mark_in_use(descriptor)
        yield partial
        fsync_file(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    finally:
        os.close(descriptor)
    fsync_folder(path.parent)


@contextmanager
def replaced_text_file(path: Path) -> Iterator[TextIO]:
    """Give an open text file (UTF-8, line breaks as written) that takes the place of `path`; see `replaced_file`.

    Raises:
        OSError: The file system refuses.
    """
    with (
        replaced_file(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


def partial_name(path: Path, word: str) -> Path:
    """A new hidden name beside `path`."""
    return path.with_name(f".{path.name}.{word}-{secrets.token_hex(6)}")


def leftovers(path: Path, word: str) -> list[Path]:
    """What lies beside `path` under a name of `partial_name`."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{word}-[0-9a-f]{{12}}")
    return [path.with_name(name) for name in sorted(os.listdir(path.parent)) if pattern.fullmatch(name)]  # noqa: PTH208


def mark_in_use(descriptor: int) -> None:
    """Lock a partial file or folder until its descriptor is closed, where the file system has locks."""
    with suppress(OSError):
        locks.try_to_lock(descriptor)


def take_leftover(path: Path) -> int | None:
    """Lock a partial file or folder; None where a process still has it, or nobody can know.

    Returns:
        Its descriptor, which holds the lock until it is closed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        locks.try_to_lock(descriptor)
    except (locks.LockBusy, OSError):
        os.close(descriptor)
        return None
    return descriptor


def fsync_file(path: Path) -> None:
    """Make the content of a file durable that somebody else has written."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
