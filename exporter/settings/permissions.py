"""Permissions of media: mode and group of the files and folders that the exporter makes, whatever the umask.

Contract: a media file has its mode and group before it gets its final name; a folder has them before anything is in it.
A folder that is there keeps what its owner has given it, its set-group-ID bit included, and so passes its group on to
what is made in it (open(2), mkdir(2)). Everything else below a data folder is for its owner alone.

Must never: widen a mode beyond `media.mode`, or follow a link that is put in a file's place.
"""

from __future__ import annotations

import errno
import grp
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path

PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700
HIGHEST_GROUP_ID: Final = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class MediaPermissions:
    """Mode and group of media files; those of folders follow from them."""

    file_mode: int = PRIVATE_FILE
    group_id: int | None = None
    """None leaves the group that the system gives: the process's, or that of a set-group-ID folder."""

    @classmethod
    def of(cls, mode: str, group: str | None) -> Self:
        """The permissions that `media.mode` and `media.group` stand for.

        Raises:
            KeyError: There is no such group any more.
        """
        return cls(int(mode, 8), None if group is None else group_id_of(group))

    @property
    def folder_mode(self) -> int:
        """Mode of folders: who may read files may list and enter, and where a group is named, it is passed on."""
        may_enter = (self.file_mode & 0o444) >> 2
        passes_on = stat.S_ISGID if self.group_id is not None else 0
        return PRIVATE_FOLDER | self.file_mode & 0o777 | may_enter | passes_on

    def check(self, folder: Path) -> None:
        """See that files can be given to the group, by means of a folder of ours.

        Raises:
            OSError: We are not a member of the group.
        """
        if self.group_id is not None:
            os.chown(folder, -1, self.group_id)

    def apply(self, path: Path, found: os.stat_result | None = None) -> None:
        """Give a media file, or a folder of files, its mode and group, before it gets its final name.

        Args:
            path: The file or folder.
            found: What lstat(2) said of it, where that is known.

        Raises:
            OSError: The file system refuses, or a link is in the place of a file.
        """
        if found is None:
            found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(path) as entries:
                for entry in entries:
                    self._apply(entry.path, entry.stat(follow_symlinks=False), self.file_mode)
            self._apply(str(path), found, self.folder_mode)
        else:
            self._apply(str(path), found, self.file_mode)

    def make_folder(self, folder: Path) -> None:
        """Make a folder for media; the folder above it is there.

        Raises:
            FileExistsError: The folder exists, and stays unchanged.
            OSError: The file system refuses.
        """
        folder.mkdir(mode=PRIVATE_FOLDER)
        self._apply(str(folder), folder.lstat(), self.folder_mode)

    def make_folders(self, folder: Path) -> None:
        """Make a folder for media and those above it that are missing.

        Raises:
            OSError: The file system refuses.
        """
        if folder.is_dir():
            return
        self.make_folders(folder.parent)
        try:
            self.make_folder(folder)
        except FileExistsError:
            if not folder.is_dir():
                raise

    def _apply(self, path: str, found: os.stat_result, mode: int) -> None:
        wanted = mode | found.st_mode & stat.S_ISGID if stat.S_ISDIR(found.st_mode) else mode
        is_of_group = self.group_id in (None, found.st_gid)
        if stat.S_IMODE(found.st_mode) == wanted and is_of_group:
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not os.path.samestat(os.fstat(descriptor), found):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            if not is_of_group and self.group_id is not None:
                os.fchown(descriptor, -1, self.group_id)
            os.fchmod(descriptor, wanted)  # after the owner: chown(2) may clear the set-group-ID bit
        finally:
            os.close(descriptor)


def group_id_of(group: str) -> int:
    """Number of a group that is named, or given as a number; in containers a number may have no name.

    Raises:
        KeyError: There is no such group.
    """
    if not group.isdecimal():
        return grp.getgrnam(group).gr_gid
    if int(group) > HIGHEST_GROUP_ID:
        raise KeyError(group)
    return int(group)
