"""What is kept because something is wrong with it: one folder per reason, each file with a report beside it.

Contract: a file is in a reason's folder only after its report is durable there, and both are durable when a method
returns. Reasons are stable words and become folder names. Raises OSError as the kernel gave it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from listener.foundation.durable import Folder, write_all
from listener.spool.names import NAME, TIME_DIGITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

REASON: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
REPORT_SUFFIX: Final = ".reason.json"


class Quarantine:
    """The folder `quarantine/` of a spool."""

    def __init__(self, root: Path) -> None:
        self._root = Folder(root)
        self._kept = _Kept()

    def close(self) -> None:
        """Close the folder."""
        os.close(self._root.fd)

    @property
    def is_in_place(self) -> bool:
        """Whether the folder which is open is the one at its path."""
        return self._root.is_in_place

    def refresh(self) -> None:
        """Make sure that the folder which is open is the one at its path; see `Folder.refresh`.

        Raises:
            OSError: There is no folder at the path now.
        """
        self._root.refresh()

    def move_in(self, name: str, source: Folder, reason: str, report: Mapping[str, object]) -> Path:
        """Move a file here from another folder of the spool; its path now."""
        with self._made(reason) as folder:
            _write_report(folder, name, report)
            os.rename(name, name, src_dir_fd=source.fd, dst_dir_fd=folder.fd)
            os.fsync(folder.fd)
            os.fsync(source.fd)
            return folder.path / name

    def take_new(self, name: str, as_name: str, source: Folder, reason: str, report: Mapping[str, object]) -> Path:
        """Move a file here that was never committed, unless its bytes are here already; the path of what is kept.

        The second half of its name is made from the SHA-256 of its content, so that a sender that tries again and
        again fills the quarantine with one copy. The file must be synced; it stays in `source` where it is not needed.

        Args:
            name: Its name in `source`.
            as_name: A name of now.
            source: The folder it was received into.
            reason: Why.
            report: For the operator.
        """
        with self._made(reason) as folder:
            end = f"-{_content_hash(name, source.fd)[:16]}.dcm"
            kept = self._kept.find(folder, end)
            if kept is not None:
                return folder.path / kept
            final = as_name[:TIME_DIGITS] + end
            _write_report(folder, final, report)
            os.rename(name, final, src_dir_fd=source.fd, dst_dir_fd=folder.fd)
            os.fsync(folder.fd)
            self._kept.add(folder, final)
            return folder.path / final

    def files(self, reason: str | None = None) -> Iterator[tuple[str, Path, int]]:
        """Every file with its reason, path and size in bytes, oldest first within each reason."""
        for word in self.reasons():
            if reason is None or word == reason:
                with _opened(self._root.path / word) as folder:
                    for name in sorted(folder.entries(NAME)):
                        yield word, folder.path / name, folder.size_of(name) or 0

    def give_back(self, path: Path, target: Folder) -> bool:
        """Move one file of the quarantine to another folder of the spool, not synced yet.

        Returns:
            Whether it was there.
        """
        moved = False
        with suppress(FileNotFoundError):
            os.rename(path, path.name, dst_dir_fd=target.fd)
            moved = True
        with suppress(FileNotFoundError):
            path.with_name(path.name + REPORT_SUFFIX).unlink()
        return moved

    def reasons(self) -> list[str]:
        """The reasons there are, in order."""
        return sorted(name for name in self._root.entries() if REASON.fullmatch(name))

    def count(self, reason: str) -> int:
        """How many files are kept for a reason."""
        with _opened(self._root.path / reason) as folder:
            return len(folder.entries(NAME))

    @contextmanager
    def _made(self, reason: str) -> Iterator[Folder]:
        """The folder of a reason, made where it is not there yet."""
        if not REASON.fullmatch(reason):
            raise ValueError(f"a quarantine reason is a word of a-z, 0-9 and _, not {reason!r}")
        with suppress(FileExistsError):
            os.mkdir(reason, 0o700, dir_fd=self._root.fd)
            os.fsync(self._root.fd)
        with _opened(self._root.path / reason) as folder:
            yield folder


@contextmanager
def _opened(path: Path) -> Iterator[Folder]:
    folder = Folder(path)
    try:
        yield folder
    finally:
        os.close(folder.fd)


class _Kept:
    """Which refused files are kept, by the end of their names: a folder is listed once, not for every file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: dict[str, dict[str, str]] = {}

    def find(self, folder: Folder, end: str) -> str | None:
        """The name of the file whose name ends so; None where there is none, or none any more."""
        with self._lock:
            name = self._of(folder).get(end)
        return name if name is not None and folder.size_of(name) is not None else None

    def add(self, folder: Folder, name: str) -> None:
        with self._lock:
            self._of(folder)[name[TIME_DIGITS:]] = name

    def _of(self, folder: Folder) -> dict[str, str]:
        names = self._names.get(folder.path.name)
        if names is None:
            names = self._names[folder.path.name] = {name[TIME_DIGITS:]: name for name in folder.entries(NAME)}
        return names


def _write_report(folder: Folder, name: str, report: Mapping[str, object]) -> None:
    """Write `<name>.reason.json`: complete and durable before the item is beside it."""
    final = name + REPORT_SUFFIX
    partial = f".{final}.part"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=folder.fd)
    try:
        write_all(fd, [json.dumps(report, ensure_ascii=True, sort_keys=True).encode("ascii") + b"\n"])
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(partial, final, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)


def _content_hash(name: str, folder_fd: int) -> str:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    with os.fdopen(fd, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
