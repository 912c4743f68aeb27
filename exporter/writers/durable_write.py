"""A written file, made durable and hashed; and what the operating system says when it cannot be.

Contract: a file that was sealed is on the disk, byte for byte what its hash says. Every `OSError` of writing leaves
here as what `write_error` says; a failed fsync is never tried again (Linux reports an I/O
error once).
"""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from exporter.errors import EncodeFailed, StorageUnavailable, TooLarge, out_of_space
from listener.foundation.disk import is_gone, is_too_large, mapped

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Sealed:
    """Size and hash of a durable file."""

    bytes: int
    sha256: str


def writing(operation: str) -> AbstractContextManager[None]:
    """Map the operating system's errors of one write; see `write_error`."""
    return mapped(partial(write_error, operation))


def write_error(operation: str, error: OSError) -> Exception:
    """The error of ours that an `OSError` of writing means.

    Returns:
        OutOfSpace: The disk or a quota is full, or the disk read-only.
        StorageUnavailable: The folder to write in is gone.
        TooLarge: The file would pass the largest size that a worker may write.
        EncodeFailed: Anything else the operating system refuses.
    """
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    if is_gone(error):
        return StorageUnavailable(f"{operation}: the folder for partial files is gone ({name})")
    if is_too_large(error):
        return TooLarge(f"{operation}: the file would pass the largest size that a worker may write")
    return out_of_space(operation, error) or EncodeFailed(f"{operation}: the operating system refused ({name})")


def write_new(path: Path, pieces: Iterable[bytes]) -> Sealed:
    """Write a file that is not there yet, hash what is written, and make it durable."""
    digest = hashlib.sha256()
    size = 0
    with writing("writing a media file"), path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return Sealed(bytes=size, sha256=digest.hexdigest())


def seal(path: Path) -> Sealed:
    """Make a file durable that a library has written, and hash what is in it."""
    digest = hashlib.sha256()
    size = 0
    with writing("sealing a media file"), path.open("rb") as file:
        os.fsync(file.fileno())
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return Sealed(bytes=size, sha256=digest.hexdigest())
