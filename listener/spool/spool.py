"""The durable hand-over between receiving and exporting: the folder an item is in is its state.

Contract: `tmp/` holds what is being received, `new/` what waits, `active/` what the exporter works on, `done/` what is
kept after export, `quarantine/<reason>/` what could not be exported, with `<name>.reason.json` beside it. A rename is
the only transition; names are made here. An item is committed at the instant `Incoming.commit` returns: its bytes are
on disk, and so is its name in `new/`. ``docs/spool.md`` has the table of states and what a crash leaves behind.

Must never: take a name from the wire, show a partial file outside `tmp/`, or call something durable whose fsync failed.
"""

from __future__ import annotations

import errno
import heapq
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, Self

from listener.foundation import disk, locks
from listener.foundation.durable import (
    Buffer,
    Folder,
    FolderSync,
    fsync_folder,
    names_follow_files,
    start_write_back,
    write_all,
    write_out,
)
from listener.foundation.errors import Unusable
from listener.spool.early_flush import EarlyFlush, Flusher
from listener.spool.names import NAME, SpoolNames, is_of
from listener.spool.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

FOLDERS: Final = ("tmp", "new", "active", "done", "quarantine")
SMALL_BYTES: Final = 1 << 20
"""Up to this size an item is made durable by one sync where the file system allows it."""
WRITE_BACK_BYTES: Final = 1 << 20
"""Large items are sent to the disk in steps of this size while they arrive,"""
FLUSH_BYTES: Final = 8 << 20
"""and flushed in steps of this size, so that the final fsync is short."""


class SpoolUnusable(Unusable):
    """The spool folder cannot be used at all."""

    def __init__(self, path: Path, cause: str, hint: str) -> None:
        super().__init__(f"the spool folder {path} cannot be used", cause, hint)
        self.path = path


class SpoolBusy(Unusable):
    """Another daemon of the same role works on this spool."""

    def __init__(self, role: str, path: Path, holder: str) -> None:
        super().__init__(
            f"another {role} already works on the spool {path.parent} ({holder})",
            hint="stop it, or give this one another data folder with --data",
        )
        self.role = role


class SpoolWriteFailed(Exception):
    """An item could not be made durable; nothing of it is visible, and its sender must not be told otherwise."""

    def __init__(self, operation: str, cause: OSError) -> None:
        super().__init__(f"{operation} failed: {cause.strerror or cause}")
        self.is_full = disk.is_full(cause) or disk.is_too_large(cause)
        """Whether a disk, a quota or a file is as large as it may be, as against broken or read-only."""


class SpoolSettings(Protocol):
    """What the spool needs to know of the configuration (`listener.settings.listener.SpoolSection`)."""

    @property
    def keep_days(self) -> float:
        """Days that exported items stay in `done/`; 0 deletes them at once."""
        ...

    @property
    def sync_folder(self) -> str:
        """``always``: the folder is synced for every item, whatever the file system."""
        ...


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


@dataclass(frozen=True, slots=True)
class SpoolCounts:
    """How many items are in each state."""

    receiving: int
    new: int
    active: int
    done: int
    quarantined_by_reason: Mapping[str, int] = field(default_factory=dict)

    @property
    def quarantined(self) -> int:
        """Items in quarantine, all reasons together."""
        return sum(self.quarantined_by_reason.values())


class Incoming:
    """One file being received: in `tmp/` until `commit`, gone after `discard`."""

    __slots__ = ("_early", "_flush_at", "_spool", "_written_back", "fd", "name", "size_bytes")

    def __init__(self, spool: Spool, name: str, fd: int) -> None:
        self._spool = spool
        self._early: EarlyFlush | None = None
        self._written_back = 0
        self._flush_at = FLUSH_BYTES
        self.name = name
        self.fd = fd
        self.size_bytes = 0

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
            self._begin_with_the_disk()

    def _begin_with_the_disk(self) -> None:
        start_write_back(self.fd, self._written_back, self.size_bytes - self._written_back)
        self._written_back = self.size_bytes
        if self.size_bytes >= self._flush_at:
            if self._early is None:
                self._early = EarlyFlush(self._spool.tmp.path / self.name)
            if self._spool.flusher.request_flush(self._early):
                self._flush_at = self.size_bytes + FLUSH_BYTES

    def begin_write_out(self) -> None:
        """Have the disk begin with a small item that is complete: advice, for who has something to do meanwhile."""
        if self._spool.is_committed_at_once(self.size_bytes):
            start_write_back(self.fd, 0, self.size_bytes)

    def commit(self) -> SpoolItem:
        """Make the item durable and visible in `new/`; when this returns, it survives a power cut.

        Raises:
            SpoolWriteFailed: It is not durable, and nothing of it is left.
        """
        return self._spool._commit(self)  # noqa: SLF001 - one mechanism in two classes of this module

    def discard(self) -> None:
        """Forget the file; harmless after `commit` or a second time, and never raises.

        On a disk that is broken or read-only the file stays in `tmp/`, where nobody takes it for an instance and
        `recover_listener` finds it; whoever discards has a peer to answer.
        """
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            os.unlink(self.name, dir_fd=self._spool.tmp.fd)

    def _sync(self, sync: Callable[[int], None]) -> None:
        """Sync the complete file by `os.fsync` or `os.fdatasync`.

        Raises:
            OSError: It failed, or an earlier flush has.
        """
        sync(self.fd)
        if self._early is not None:
            self._early.check()

    def _close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


class Spool:
    """The spool below one root folder; safe for use by many threads, and by one process per role."""

    def __init__(self, root: Path, settings: SpoolSettings | None, mark: int | None = None) -> None:
        self.root = root
        self.keep_days = settings.keep_days if settings is not None else 0.0
        self._names = SpoolNames(mark)
        self.tmp, self.new, self.active, self.done = (Folder(root / f) for f in FOLDERS[:4])
        self._quarantine = Quarantine(root / FOLDERS[4])
        self._arrivals = FolderSync(self.new.fd)
        self.flusher = Flusher()
        in_steps = settings is not None and settings.sync_folder == "always"
        self.names_follow_files = not in_steps and names_follow_files(self.new.fd)
        """Whether one sync of a small file makes it durable together with its name."""

    @classmethod
    def open(cls, root: Path, *, settings: SpoolSettings | None = None, mark: int | None = None) -> Self:
        """The spool below `root`; makes its folders, private to the user who runs this.

        Args:
            root: Folder of the spool; its parents are made too.
            settings: How long exported items are kept.
            mark: Of the names that are made here, where several processes of one listener receive.

        Raises:
            SpoolUnusable: A folder cannot be made, opened or written.
        """
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in FOLDERS:
                (root / folder).mkdir(mode=0o700, exist_ok=True)
            fsync_folder(root)
            spool = cls(root, settings, mark)
        except OSError as error:
            raise _unusable(root, error) from error
        return spool

    def close(self) -> None:
        """Close the folders; the spool cannot be used after that."""
        self.flusher.close()
        for folder in (self.tmp, self.new, self.active, self.done):
            os.close(folder.fd)
        self._quarantine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def probe(self) -> None:
        """Write, sync and remove a file, as proof that the spool works now.

        Raises:
            SpoolUnusable: It does not.
        """
        try:
            incoming = self.receive()
            try:
                incoming.write([b"probe"])
                os.fsync(incoming.fd)
            finally:
                incoming.discard()
        except SpoolWriteFailed as error:
            raise SpoolUnusable(self.root, str(error), "free space, or check the file system") from error
        except OSError as error:
            raise _unusable(self.root, error) from error

    @property
    def is_in_place(self) -> bool:
        """Whether the folders which are open are those at their paths: what is moved into others nobody would find."""
        folders = (self.tmp, self.new, self.active, self.done, self._quarantine)
        return all(folder.is_in_place for folder in folders)

    def refresh(self) -> None:
        """Make sure that the folders which are open are those at their paths; open others that took their place.

        Raises:
            OSError: One of them is not there now.
        """
        for folder in (self.tmp, self.new, self.active, self.done):
            folder.refresh()
        self._quarantine.refresh()

    @contextmanager
    def lock(self, role: str) -> Iterator[None]:
        """Hold the spool for one role (``listener``, ``exporter``) until the block ends or the process dies.

        Raises:
            SpoolBusy: Another process holds it.
            SpoolUnusable: The lock file cannot be made.
        """
        path = self.root / f"{role}.lock"
        try:
            fd = locks.take(path)
        except locks.LockBusy as error:
            raise SpoolBusy(role, path, error.holder) from error
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            yield
        finally:
            os.close(fd)

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self) -> Incoming:
        """A new, empty file in `tmp/`, open for writing.

        Raises:
            SpoolWriteFailed: The file system refuses.
        """
        name = self._names.make()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, 0o600, dir_fd=self.tmp.fd)
        except OSError as error:
            raise SpoolWriteFailed("making a file in the spool", error) from error
        return Incoming(self, name, fd)

    def is_committed_at_once(self, size_bytes: int) -> bool:
        """Whether an item of this size is made durable together with its name."""
        return self.names_follow_files and size_bytes <= SMALL_BYTES

    def _commit(self, incoming: Incoming) -> SpoolItem:
        name = self._names.renew(incoming.name)  # the file may have been made long before its content came
        if self.is_committed_at_once(incoming.size_bytes):
            self._commit_at_once(incoming, name)
        else:
            self._commit_in_steps(incoming, name)
        return SpoolItem(name, self.new.path, incoming.size_bytes)

    def _commit_in_steps(self, incoming: Incoming, name: str) -> None:
        """Sync the file, rename it into `new/`, sync the folder: in this order, each for its own reason."""
        try:
            incoming._sync(os.fdatasync)  # noqa: SLF001 - one mechanism in two classes of this module
            incoming._close()  # noqa: SLF001 - one mechanism in two classes of this module
            os.rename(incoming.name, name, src_dir_fd=self.tmp.fd, dst_dir_fd=self.new.fd)
        except OSError as error:
            # The kernel may report a lost write once only: the file counts as lost, it is never synced again.
            incoming.discard()
            raise SpoolWriteFailed("syncing a received file", error) from error
        try:
            self._arrivals.commit()
        except OSError as error:
            self._take_back(name)
            raise SpoolWriteFailed("syncing the spool folder", error) from error

    def _commit_at_once(self, incoming: Incoming, name: str) -> None:
        """Write the file out, rename it into `new/`, sync it once: content, size and name become durable together.

        Two syncs are most of what a small file costs. Written out before the rename, it is not seen in `new/` without
        its content, after a power cut neither.
        """
        try:
            write_out(incoming.fd)
            os.rename(incoming.name, name, src_dir_fd=self.tmp.fd, dst_dir_fd=self.new.fd)
        except OSError as error:
            incoming.discard()
            raise SpoolWriteFailed("writing a received file", error) from error
        try:
            os.fsync(incoming.fd)  # not fdatasync: that may leave out the change that the rename made
            incoming._close()  # noqa: SLF001 - one mechanism in two classes of this module
        except OSError as error:
            self._take_back(name)
            incoming.discard()
            raise SpoolWriteFailed("syncing a received file", error) from error

    def _take_back(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self.new.fd)

    def recover_listener(self) -> int:
        """Delete what an earlier listener had not finished receiving (its senders got no success); how many.

        An empty file in `new/` is such a one, too: without a journal a file system may show a name after a power cut
        whose file it had not yet written, and nothing empty was ever acknowledged.
        """
        empty = [name for name in self.new.entries(NAME) if self.new.size_of(name) == 0]
        partial = [(self.tmp, name) for name in self.tmp.entries()] + [(self.new, name) for name in empty]
        return _delete(partial)

    @property
    def mark(self) -> int:
        """What the names made here have in common."""
        return self._names.mark

    def recover_process(self, mark: int) -> int:
        """Delete what one receiving process that ended had not finished; how many."""
        return _delete([(self.tmp, name) for name in self.tmp.entries(NAME) if is_of(mark, name)])

    # -- exporting ---------------------------------------------------------------------------------------------------

    def pending(self, limit: int | None = None) -> Iterator[SpoolItem]:
        """The items of `new/` as they are now, oldest first.

        Args:
            limit: At most so many, the oldest; memory then stays small in a folder of a million.
        """
        if limit is None:
            names = self.new.entries(NAME)
            names.sort()
        else:
            with os.scandir(self.new.fd) as entries:
                names = heapq.nsmallest(limit, (e.name for e in entries if NAME.fullmatch(e.name)))
        for name in names:
            size_bytes = self.new.size_of(name)
            if size_bytes:  # what is empty was never acknowledged: see `recover_listener`
                yield SpoolItem(name, self.new.path, size_bytes)

    def claim(self, item: SpoolItem) -> SpoolItem | None:
        """Take an item of `new/` to work on; None if somebody else has it."""
        return self._move(item, self.new, self.active)

    def release(self, item: SpoolItem) -> SpoolItem | None:
        """Give a claimed item back to `new/`; it keeps its place in the order."""
        return self._move(item, self.active, self.new)

    def finish(self, item: SpoolItem) -> None:
        """Retire a claimed item whose outcome is durable elsewhere: to `done/` where items are kept, else delete it."""
        if self.keep_days > 0:
            self._move(item, self.active, self.done)
            return
        with suppress(FileNotFoundError):
            os.unlink(item.name, dir_fd=self.active.fd)

    def quarantine(self, item: SpoolItem, reason: str, report: Mapping[str, object]) -> SpoolItem:
        """Keep an item that could not be exported, durably, with a report for the operator.

        Args:
            item: An item of `active/`, `new/` or a committed one wherever it is now.
            reason: One of the stable words of failure; it becomes a folder name.
            report: What is worth knowing, as JSON; never values of the data set.
        """
        source = self.active if self.active.size_of(item.name) is not None else self.new
        path = self._quarantine.move_in(item.name, source, reason, report)
        return SpoolItem(item.name, path.parent, item.size_bytes)

    def refuse(self, incoming: Incoming, reason: str, report: Mapping[str, object]) -> SpoolItem:
        """Keep a received file that is not accepted, durably, straight from `tmp/` into quarantine.

        The same bytes are kept once, however often their sender tries: the second half of the name is then made from
        their SHA-256 instead of chance.

        Raises:
            SpoolWriteFailed: It could not be kept, and nothing of it is left.
        """
        try:
            incoming._sync(os.fsync)  # noqa: SLF001 - one mechanism in two classes of this module
            path = self._quarantine.take_new(incoming.name, self._names.make(), self.tmp, reason, report)
        except OSError as error:
            incoming.discard()
            raise SpoolWriteFailed("keeping a refused file", error) from error
        incoming.discard()  # closes it; there is nothing of it in `tmp/` unless the same bytes were kept before
        return SpoolItem(path.name, path.parent, incoming.size_bytes)

    def quarantined(self, reason: str | None = None) -> Iterator[tuple[str, SpoolItem]]:
        """The items in quarantine with their reasons, oldest first within each reason."""
        for word, path, size_bytes in self._quarantine.files(reason):
            yield word, SpoolItem(path.name, path.parent, size_bytes)

    def requeue(self, reason_or_name: str) -> int:
        """Give quarantined items back to `new/`: one by its name, or all of one reason; how many."""
        wanted = [path for word, path, _ in self._quarantine.files() if reason_or_name in (word, path.name)]
        moved = sum(self._quarantine.give_back(path, self.new) for path in wanted)
        if moved:
            os.fsync(self.new.fd)
        return moved

    def recover_exporter(self) -> int:
        """Give what an earlier exporter had claimed back to `new/`; how many."""
        names = self.active.entries(NAME)
        for name in names:
            os.rename(name, name, src_dir_fd=self.active.fd, dst_dir_fd=self.new.fd)
        return len(names)

    # -- housekeeping ------------------------------------------------------------------------------------------------

    def counts(self) -> SpoolCounts:
        """How many items are in each state now."""
        return SpoolCounts(
            receiving=len(self.tmp.entries(NAME)),
            new=len(self.new.entries(NAME)),
            active=len(self.active.entries(NAME)),
            done=len(self.done.entries(NAME)),
            quarantined_by_reason={word: self._quarantine.count(word) for word in self._quarantine.reasons()},
        )

    def purge(self, now: float) -> int:
        """Delete items of `done/` that arrived more than `keep_days` before `now` (seconds since 1970); how many."""
        oldest_ns = int((now - self.keep_days * 86_400) * 1e9)
        names = [name for name in self.done.entries(NAME) if int(name[:20]) < oldest_ns]
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self.done.fd)
        return len(names)

    def _move(self, item: SpoolItem, source: Folder, target: Folder) -> SpoolItem | None:
        try:
            os.rename(item.name, item.name, src_dir_fd=source.fd, dst_dir_fd=target.fd)
        except FileNotFoundError:
            return None
        return SpoolItem(item.name, target.path, item.size_bytes)


def _delete(files: Sequence[tuple[Folder, str]]) -> int:
    for folder, name in files:
        with suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=folder.fd)
    return len(files)


def _unusable(path: Path, error: OSError) -> SpoolUnusable:
    hints = {
        errno.EACCES: "give the user who runs this the right to write there, or choose another folder with --data",
        errno.EPERM: "give the user who runs this the right to write there, or choose another folder with --data",
        errno.EROFS: "the file system is read-only: remount it, or choose another folder with --data",
        errno.ENOTDIR: "a file is in the way: move it, or choose another folder with --data",
        errno.EEXIST: "a file is in the way: move it, or choose another folder with --data",
        errno.ELOOP: "a symbolic link is in the way: spool folders must be real folders",
        errno.ENOSPC: "free some space first",
    }
    hint = hints.get(error.errno or 0, "check the file system, or choose another folder with --data")
    return SpoolUnusable(path, error.strerror or str(error), hint)
