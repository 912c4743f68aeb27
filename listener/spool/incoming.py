"""One file on its way into the spool, and the two orders of syncs by which it is committed.

Contract: a file is in `tmp/` until `Incoming.commit` returns; from then on its bytes and its name in `new/` survive a
power cut. Where the file system promises that one sync makes a file durable together with its name, a small file is
committed at once, otherwise in steps.

Must never: show a partial file outside `tmp/`, or call something durable whose fsync failed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from listener.foundation.durable import Buffer, Folder, FolderSync, start_write_back, write_all, write_out
from listener.spool.early_flush import EarlyFlush, Flusher
from listener.spool.errors import SpoolWriteFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from listener.spool.names import SpoolNames

SMALL_BYTES: Final = 1 << 20
"""Up to this size a file is made durable by one sync where the file system allows it."""
WRITE_BACK_BYTES: Final = 1 << 20
"""Large files are sent to the disk in steps of this size while they arrive,"""
FLUSH_BYTES: Final = 8 << 20
"""and flushed in steps of this size, so that the final fsync is short."""


@dataclass(frozen=True, slots=True)
class SpoolItem:
    """One received file, in the state that its folder tells."""

    name: str
    folder: Path
    size_bytes: int

    @property
    def path(self) -> Path:
        """Where it is in this state."""
        return self.folder / self.name


@dataclass(slots=True)
class CommitPath:
    """The way of every file from `tmp/` to `new/` in one spool."""

    tmp: Folder
    new: Folder
    arrivals: FolderSync
    """The shared fsync of `new/`."""
    names: SpoolNames
    names_follow_files: bool
    """Whether one sync of a small file makes it durable together with its name."""
    flusher: Flusher = field(default_factory=Flusher)

    def is_at_once(self, size_bytes: int) -> bool:
        """Whether a file of this size is made durable together with its name."""
        return self.names_follow_files and size_bytes <= SMALL_BYTES


class Incoming:
    """One file being received: in `tmp/` until `commit`, gone after `discard`."""

    __slots__ = ("_early", "_flush_at", "_path", "_written_back", "fd", "name", "size_bytes")

    def __init__(self, path: CommitPath) -> None:
        """Make a new, empty file in `tmp/`, open for writing.

        Raises:
            SpoolWriteFailed: The file system refuses.
        """
        self._path = path
        self._early: EarlyFlush | None = None
        self._written_back = 0
        self._flush_at = FLUSH_BYTES
        self.name = path.names.make()
        self.size_bytes = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.fd = os.open(self.name, flags, 0o600, dir_fd=path.tmp.fd)
        except OSError as error:
            raise SpoolWriteFailed("making a file in the spool", error) from error

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Append the buffers in order, all of them: the kernel may take less than it was given (at ENOSPC above all).

        Raises:
            SpoolWriteFailed: The file system refused; call `discard`.
        """
        try:
            self.size_bytes += write_all(self.fd, buffers)
        except OSError as error:
            raise SpoolWriteFailed("writing to the spool", error) from error
        if self.size_bytes - self._written_back >= WRITE_BACK_BYTES:
            self._start_write_back()

    def _start_write_back(self) -> None:
        start_write_back(self.fd, self._written_back, self.size_bytes - self._written_back)
        self._written_back = self.size_bytes
        if self.size_bytes >= self._flush_at:
            if self._early is None:
                self._early = EarlyFlush(self._path.tmp.path / self.name)
            if self._path.flusher.request_flush(self._early):
                self._flush_at = self.size_bytes + FLUSH_BYTES

    def begin_write_out(self) -> None:
        """Hint the kernel to start writing a small, complete file while the caller does other work."""
        if self._path.is_at_once(self.size_bytes):
            start_write_back(self.fd, 0, self.size_bytes)

    def commit(self) -> SpoolItem:
        """Make the file durable and visible in `new/`.

        Returns:
            The item; it survives a power cut.

        Raises:
            SpoolWriteFailed: It is not durable, and nothing of it is left.
        """
        name = self._path.names.renew(self.name)  # the file may have been made long before its content came
        if self._path.is_at_once(self.size_bytes):
            self._commit_at_once(name)
        else:
            self._commit_in_steps(name)
        return SpoolItem(name, self._path.new.path, self.size_bytes)

    def _commit_in_steps(self, name: str) -> None:
        """Sync the file, rename it into `new/`, sync the folder: in this order, each for its own reason."""
        tmp, new = self._path.tmp, self._path.new
        try:
            self.sync(is_content_enough=True)
            self._close()
            os.rename(self.name, name, src_dir_fd=tmp.fd, dst_dir_fd=new.fd)
        except OSError as error:
            # The kernel may report a lost write once only: the file counts as lost, it is never synced again.
            self.discard()
            raise SpoolWriteFailed("syncing a received file", error) from error
        try:
            self._path.arrivals.commit()
        except OSError as error:
            self._take_back(name)
            raise SpoolWriteFailed("syncing the spool folder", error) from error

    def _commit_at_once(self, name: str) -> None:
        """Write the file out, rename it into `new/`, sync it once: content, size and name become durable together.

        Two syncs are most of what a small file costs. Written out before the rename, it is not seen in `new/` without
        its content, after a power cut neither.
        """
        try:
            write_out(self.fd)
            os.rename(self.name, name, src_dir_fd=self._path.tmp.fd, dst_dir_fd=self._path.new.fd)
        except OSError as error:
            self.discard()
            raise SpoolWriteFailed("writing a received file", error) from error
        try:
            os.fsync(self.fd)  # not fdatasync: that may leave out the change that the rename made
            self._close()
        except OSError as error:
            self._take_back(name)
            self.discard()
            raise SpoolWriteFailed("syncing a received file", error) from error

    def _take_back(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self._path.new.fd)

    def sync(self, *, is_content_enough: bool = False) -> None:
        """Make the complete file durable, in `tmp/` still.

        Args:
            is_content_enough: Whether the file's times need not be durable: fdatasync(2).

        Raises:
            OSError: It failed, or an earlier flush has; the file counts as lost.
        """
        (os.fdatasync if is_content_enough else os.fsync)(self.fd)
        if self._early is not None:
            self._early.check()

    def discard(self) -> None:
        """Forget the file; harmless after `commit` or a second time, and never raises.

        On a disk that is broken or read-only the file stays in `tmp/`, where nobody takes it for an instance and
        `recover_listener` finds it; the caller has a peer to answer.
        """
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            os.unlink(self.name, dir_fd=self._path.tmp.fd)

    def _close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)
