"""Locks between processes (flock(2)), and who holds them.

Contract: the kernel frees a lock when its process dies, so that none is ever left behind. A lock file stays, and says
in its first line which process has, or had, the lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What file systems answer that have no locks, or whose server does not answer for them (flock(2))."""
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class LockBusy(Exception):
    """Another process has the lock."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"it is locked by {holder}")
        self.holder = holder
        """``process 4711``, or ``an unknown process``."""


def lock_file_of(path: Path) -> Path:
    """The lock file of something that is not to be opened for its lock."""
    return path.with_name(f"{path.name}.lock")


def take(file: Path) -> int:
    """Lock a lock file, made where it is not there, and note in it who holds it.

    Returns:
        Its descriptor, which holds the lock until it is closed.

    Raises:
        LockBusy: Another process has it.
        OSError: It cannot be opened, or its file system has no locks.
    """
    descriptor = os.open(file, _FLAGS | os.O_CREAT, 0o600)
    try:
        try_to_lock(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    with suppress(OSError):  # who holds it is a help to people; a full disk must not stop a start
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor


def try_to_lock(descriptor: int) -> None:
    """Lock an open file or folder until its descriptor is closed, without waiting.

    Raises:
        LockBusy: Another process has it.
        OSError: Its file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockBusy(_holder(descriptor)) from None


def lock(path: Path, busy: tuple[str, str], refused: Callable[[str, str], Exception]) -> int:
    """Take the lock file of `path` for a part of the program that ends where it cannot have it.

    Args:
        path: What is locked.
        busy: Cause and hint where another process has it.
        refused: Makes the error from a cause and a hint.

    Returns:
        The descriptor, which holds the lock until it is closed.

    Raises:
        Exception: What `refused` makes.
    """
    try:
        return take(lock_file_of(path))
    except LockBusy as error:
        cause, hint = busy
        raise refused(f"{cause} ({error.holder})", hint) from error
    except OSError as error:
        hint = "check that its folder exists and who may write in it"
        if error.errno in _NO_LOCKS:
            hint = "use a file system that has locks (flock(2)), or mount this one with them"
        raise refused(f"its lock cannot be taken ({error.strerror})", hint) from error


@contextmanager
def turn(descriptor: int) -> Iterator[None]:
    """Wait for the lock of an open file or folder, and hold it while the block runs.

    Raises:
        OSError: Its file system has no locks.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_held(file: Path) -> bool:
    """Whether a process holds a lock file; False where there is none."""
    try:
        descriptor = os.open(file, _FLAGS)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_in_place(path: Path, descriptor: int) -> bool:
    """Whether the lock file of `path` is the file that is locked: another process would lock another one."""
    try:
        there = lock_file_of(path).stat()
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def _holder(descriptor: int) -> str:
    """The process that a lock file names; a folder names none."""
    noted = b""
    with suppress(OSError):
        noted = os.pread(descriptor, 32, 0)
    number = noted.partition(b"\n")[0]
    return f"process {number.decode('ascii')}" if number.isdigit() else "an unknown process"
