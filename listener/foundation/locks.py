"""Lock files beside what only one process may work with: ledger and metadata file.

Contract: the kernel frees a lock when its process dies, so that none is ever left behind; the file itself stays.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def lock_file_of(path: Path) -> Path:
    """The lock file of what is at `path`: `<path>.lock`."""
    return path.with_name(f"{path.name}.lock")


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of what is at `path`; never creates its lock file."""
    try:
        descriptor = os.open(lock_file_of(path), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def lock(path: Path, busy: tuple[str, str], refused: Callable[[str, str], Exception]) -> int:
    """Lock `<path>.lock`; its descriptor, which holds the lock until it is closed.

    Args:
        path: What is locked.
        busy: Cause and hint where another process has it.
        refused: Makes the error from a cause and a hint.

    Raises:
        Exception: What `refused` makes, if the lock cannot be had.
    """
    try:
        descriptor = os.open(lock_file_of(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        hint = "check that its folder exists and who may write in it"
        raise refused(f"its lock cannot be opened ({error.strerror})", hint) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise refused(*busy) from error
    except OSError as error:
        os.close(descriptor)
        hint = "use a file system that has locks (flock(2)), or mount this one with them"
        raise refused(f"its lock cannot be taken ({error.strerror})", hint) from error
    return descriptor


def is_in_place(path: Path, descriptor: int) -> bool:
    """Whether `<path>.lock` is the file that is locked: another process would lock another one."""
    try:
        there = lock_file_of(path).stat()
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))
