"""Writing of media files: durable, hashed, and with every error of the operating system as one of ours.

Contract: a file that was sealed is on the disk, byte for byte what its hash says; one that was given to `HeldFiles` is
on its way there, and the publisher waits for it (`exporter.results.publish`). Every `OSError` of writing leaves
here as what `write_error` says; a failed fsync is never tried again (Linux reports an I/O
error once).
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from exporter.errors import EncodeFailed, StorageUnavailable, TooLarge
from exporter.machine_conditions import out_of_space
from exporter.outcome import MediaFile
from listener.foundation.disk import is_gone, is_too_large, mapped
from listener.foundation.durable import start_write_back

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from exporter.outcome import MediaType

_PIECE = 1 << 20
MOST_HELD = 256
"""Files of one worker that are held open until their instances are published: more than an engine has under way."""
_MOST_UNSYNCED = 64
"""Files that a batch holds open: far fewer than a process may."""


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


class SyncBatch:
    """Files that are made durable together: the disk works on the earlier ones while the later ones are made.

    Each file is held open until it is synced, so that an error of writing it back cannot be lost. All of them are
    durable once the block has ended without an error; after an error nothing is known of any.
    """

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._sync()
        finally:
            for descriptor in self._descriptors:
                os.close(descriptor)
            self._descriptors.clear()

    def add(self, descriptor: int) -> None:
        """Start writing a complete file out; sync the files so far where they are `_MOST_UNSYNCED`."""
        if len(self._descriptors) == _MOST_UNSYNCED:
            self._sync()
        start_write_back(descriptor, 0, 0)
        self._descriptors.append(os.dup(descriptor))

    def _sync(self) -> None:
        with writing("syncing media files"):
            while self._descriptors:
                os.fsync(self._descriptors[-1])
                os.close(self._descriptors.pop())


class HeldFiles:
    """Files that the publisher makes durable, with those of other instances: no instance waits for the disk alone.

    Each file is held open until that has happened, so that an error of writing it back cannot be lost: as many as there
    can be between a worker and the publication of its outcomes.
    """

    def __init__(self, most: int = MOST_HELD) -> None:
        self._descriptors: deque[int] = deque()
        self._most = most

    def add(self, descriptor: int) -> None:
        """Start writing a complete file out, and hold it open; the one held longest is let go where there are many."""
        start_write_back(descriptor, 0, 0)
        self._descriptors.append(os.dup(descriptor))
        if len(self._descriptors) > self._most:
            os.close(self._descriptors.popleft())


def write_new(path: Path, pieces: Iterable[bytes], batch: SyncBatch | HeldFiles | None = None) -> Sealed:
    """Write a file that is not there yet, hash what is written, and make it durable, at once or with its batch."""
    digest = hashlib.sha256()
    size = 0
    with writing("writing a media file"), path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
        file.flush()
        if batch is None:
            os.fsync(file.fileno())
        else:
            batch.add(file.fileno())
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


def media_file(
    path: Path, kind: MediaType, suffix: str, codec: str, sealed: Sealed | None = None, **details: Any
) -> MediaFile:
    """The media file at `path`, made durable here where `sealed` does not say that it is.

    Args:
        path: The partial file.
        kind: Kind of media.
        suffix: As `MediaFile.suffix`.
        codec: As `MediaFile.codec`.
        sealed: Size and hash, where the file is durable already.
        details: Further fields of `MediaFile`.
    """
    sealed = sealed or seal(path)
    return MediaFile(path.name, suffix, kind, sealed.bytes, sealed.sha256, codec, **details)
