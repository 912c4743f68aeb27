"""`media.store: files`: every medium is a file, or a folder of frames, under its name below the media folder.

Contract: see `exporter.results.stores.contract`. A note of what is going to be renamed (`exporter.results.intents`)
comes first, then the renames, then the fsync of their folders; the next start removes what was renamed and not
committed.

Files that a worker left to its batch need no fsync of their own where names follow files
(`listener.foundation.durable`): they are written out before the rename, and the fsync of the folder makes content and
name durable at once.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Final

from exporter.errors import BadWorkerAnswer
from exporter.results import intents
from exporter.results.intents import Intent
from exporter.results.output_names import PARTIAL
from exporter.results.stores.shard_removal import ShardsBusy, remove_members
from listener.foundation.disk import is_out_of_space
from listener.foundation.durable import fsync_folder, names_follow_files, write_out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exporter.outcome import MediaFile
    from exporter.results.stores.contract import InstanceMedia
    from exporter.settings.permissions import MediaPermissions

PARTIAL_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_KNOWN_FOLDERS: Final = 4096


class FilesStore:
    """Media as files below one media folder."""

    def __init__(self, media: Path, permissions: MediaPermissions) -> None:
        self._media = media
        self._partial = media / PARTIAL
        self._permissions = permissions
        self._folders: set[Path] = set()
        self._unsynced: set[Path] = set()
        self._half_done: dict[str, list[tuple[Path, Path]]] = {}
        """Renames done in an attempt that failed half-way, by instance: (partial, final) paths."""
        self._renamed: dict[str, dict[str, tuple[int, int]]] = {}
        """Files renamed and not yet committed, by instance: final path, and (device, inode)."""
        self._stray: dict[str, tuple[int, int]] = {}
        """Files of abandoned instances that could not be removed yet: final path, and (device, inode)."""

    def write_out(self, folder: Path, media: Sequence[MediaFile]) -> None:
        """See `MediaStore`."""
        for medium in media:
            if not medium.is_durable and PARTIAL_NAME.fullmatch(medium.file):
                self._write_out(folder / medium.file)

    def _write_out(self, path: Path) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
                return  # the worker's answer does not match its files, which the publisher reports
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return
            if self._names_follow:
                write_out(descriptor)
            else:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @cached_property
    def _names_follow(self) -> bool:
        """Whether the fsync of a folder makes files durable that were written out before they were renamed into it."""
        folder = os.open(self._partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return names_follow_files(folder)
        finally:
            os.close(folder)

    def take_back(self, name: str | None = None) -> None:
        """See `MediaStore`."""
        if name is not None:
            self._half_done.pop(name, None)
            self._stray.update(self._renamed.pop(name, {}))
        for path, file in list(self._stray.items()):
            with suppress(OSError):  # the media folder is not back yet
                self._partial.stat()
                with suppress(FileNotFoundError):
                    if _identity_of(self._media / path) == file:  # still the file that was renamed here
                        intents.remove(self._media, [path])
                del self._stray[path]

    def forget(self) -> None:
        """See `MediaStore`: a folder remembered as present may be gone."""
        self._folders.clear()

    def is_taken(self, path: str, *, may_replace: bool) -> bool:
        """See `MediaStore`."""
        # A folder remembered as present may be something else by now: then the rename fails, and all are forgotten.
        is_seen = (self._media / path).parent in self._folders
        return is_in_the_way(self._media, path, may_replace=may_replace, is_folder_seen=is_seen)

    def put(self, media: InstanceMedia) -> None:
        """Record the intent, then rename; undone where the file system fails half-way."""
        name, folder = media.name, media.folder
        try:
            intents.record(folder, Intent(name, tuple(medium.file for medium in media.final)))
        except FileExistsError:
            raise BadWorkerAnswer("the worker process left files that it was not asked for") from None
        done = self._half_done[name] = []
        renamed = self._renamed[name] = {}
        try:
            for number, (before, after) in enumerate(zip(media.partial, media.final, strict=True)):
                source, target = folder / before.file, self._media / after.file
                above, there = target.parent, source.lstat()
                self._make_folder(above)
                self._permissions.apply(source, there)
                if after.suffix.endswith("/") and target.is_dir():
                    target.rename(folder / f"{number}.old")  # a folder with files cannot be replaced at once
                renamed[after.file] = there.st_dev, there.st_ino
                self._rename(source, target)
                done.append((source, target))
                self._stray.pop(after.file, None)
                self._unsynced.add(above)
        except OSError:
            self.undo(name, folder)
            raise
        del self._half_done[name]

    def _rename(self, source: Path, target: Path) -> None:
        """Rename; a folder that was there, and was empty, may have been removed (`exporter media compact`)."""
        try:
            source.rename(target)
        except FileNotFoundError:
            if target.parent.exists() or not self._partial.exists():
                raise
            self._folders.clear()
            self._make_folder(target.parent)
            source.rename(target)

    def undo(self, name: str, folder: Path) -> None:
        """Undo the renames of an earlier attempt; those that fail now are undone before the next attempt."""
        done = self._half_done.get(name)
        if done is None:
            return
        while done:
            source, target = done[-1]
            target.rename(source)
            done.pop()
        with suppress(FileNotFoundError):
            intents.clear(folder)
        del self._half_done[name]

    def _make_folder(self, folder: Path) -> None:
        if folder in self._folders:
            return
        if folder != self._media:
            self._make_folder(folder.parent)
            with suppress(FileExistsError):
                self._permissions.make_folder(folder)
                self._unsynced |= {folder, folder.parent}
        if len(self._folders) >= _KNOWN_FOLDERS:
            self._folders.clear()
        self._folders.add(folder)

    def sync(self) -> None:
        """Make the new names durable."""
        try:
            while self._unsynced:
                folder = next(iter(self._unsynced))
                fsync_folder(folder)
                self._unsynced.remove(folder)  # not `pop`: it may remove another element than `next(iter(...))` gave
        except OSError as error:
            if not is_out_of_space(error):
                self._unsynced.clear()
            raise

    def finish(self, folders: Sequence[Path]) -> None:
        """See `MediaStore`."""
        self._renamed.clear()
        for folder in folders:
            with suppress(OSError):
                intents.clear(folder)

    def remove(self, paths: Sequence[str]) -> None:
        """See `MediaStore`; an earlier export, or `exporter media compact`, may have put them into shards."""
        try:
            remove_media(self._media, paths)
        except ShardsBusy as error:  # the next start does it
            raise OSError(errno.EBUSY, str(error)) from error

    def close(self) -> None:
        """Nothing is open."""


def remove_media(media: Path, paths: Sequence[str]) -> None:
    """Remove media that no instance owns any more, from shards and from files.

    Raises:
        ShardsBusy: Another process writes shards there.
        OSError: The file system refuses.
    """
    remove_members(media, paths)
    intents.remove(media, paths)


def is_in_the_way(media: Path, path: str, *, may_replace: bool, is_folder_seen: bool = False) -> bool:
    """Whether a file or folder is in the way of an output file or folder; one of its own kind may be replaced."""
    target = media / path
    for above in () if is_folder_seen else target.relative_to(media).parents:
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR((media / above).lstat().st_mode) and above.parts:
                return True
    try:
        there = target.lstat()
    except FileNotFoundError:
        return False
    same_kind = stat.S_ISDIR(there.st_mode) == path.endswith("/")
    return not (may_replace and same_kind)


def _identity_of(path: Path) -> tuple[int, int]:
    """(device, inode) of the file or folder at a path."""
    there = path.lstat()
    return there.st_dev, there.st_ino
