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
from typing import TYPE_CHECKING, Protocol, Self

from listener.foundation import locks
from listener.foundation.durable import Folder, FolderSync, fsync_folder, names_follow_files
from listener.spool.errors import SpoolBusy, SpoolUnusable, SpoolWriteFailed
from listener.spool.incoming import CommitPath, Incoming, SpoolItem
from listener.spool.names import NAME, SpoolNames, SpoolState, is_of, lock_file, received_at
from listener.spool.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path


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


class Spool:
    """The spool below one root folder; safe for use by many threads, and by one process per role."""

    def __init__(self, root: Path, settings: SpoolSettings | None, mark: int | None = None) -> None:
        self.root = root
        self.keep_days = settings.keep_days if settings is not None else 0.0
        self._names = SpoolNames(mark)
        self.tmp, self.new, self.active, self.done = (
            Folder(root / state) for state in (SpoolState.RECEIVING, SpoolState.NEW, SpoolState.ACTIVE, SpoolState.DONE)
        )
        self._quarantine = Quarantine(root / SpoolState.QUARANTINE)
        in_steps = settings is not None and settings.sync_folder == "always"
        is_one_sync_enough = not in_steps and names_follow_files(self.new.fd)
        self.commit_path = CommitPath(self.tmp, self.new, FolderSync(self.new.fd), self._names, is_one_sync_enough)

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
            for state in SpoolState:
                (root / state).mkdir(mode=0o700, exist_ok=True)
            fsync_folder(root)
            spool = cls(root, settings, mark)
        except OSError as error:
            raise _unusable(root, error) from error
        return spool

    def close(self) -> None:
        """Close the folders; the spool cannot be used after that."""
        self.commit_path.flusher.close()
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
        path = lock_file(self.root, role)
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
        return Incoming(self.commit_path)

    def recover_listener(self) -> int:
        """Delete what an earlier listener had not finished receiving: its senders got no success.

        An empty file in `new/` is such a one, too: without a journal a file system may show a name after a power cut
        whose file it had not yet written, and nothing empty was ever acknowledged.

        Returns:
            The number of files that were deleted.
        """
        empty = [name for name in self.new.entries(NAME) if self.new.size_of(name) == 0]
        partial = [(self.tmp, name) for name in self.tmp.entries()] + [(self.new, name) for name in empty]
        return _delete(partial)

    @property
    def mark(self) -> int:
        """What the names made here have in common."""
        return self._names.mark

    def recover_process(self, mark: int) -> int:
        """Delete what one receiving process had not finished when it ended.

        Returns:
            The number of files that were deleted.
        """
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
            incoming.sync()
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
        """Give quarantined items back to `new/`: one by its name, or all of one reason.

        Returns:
            Their number.
        """
        wanted = [path for word, path, _ in self._quarantine.files() if reason_or_name in (word, path.name)]
        moved = sum(self._quarantine.give_back(path, self.new) for path in wanted)
        if moved:
            os.fsync(self.new.fd)
        return moved

    def put_back_kept(self, names: Iterable[str]) -> None:
        """Give items of `done/` back to `new/`, durably."""
        for name in names:
            os.rename(name, name, src_dir_fd=self.done.fd, dst_dir_fd=self.new.fd)
        os.fsync(self.new.fd)
        os.fsync(self.done.fd)

    def recover_exporter(self) -> int:
        """Give what an earlier exporter had claimed back to `new/`.

        Returns:
            The number of items.
        """
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
        """Delete items of `done/` that arrived more than `keep_days` before `now` (seconds since 1970).

        Returns:
            Their number.
        """
        oldest_ns = int((now - self.keep_days * 86_400) * 1e9)
        names = [name for name in self.done.entries(NAME) if received_at(name) < oldest_ns]
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
