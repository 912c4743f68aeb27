"""Temporary copies of content that no worker can open in place: members of archives, compressed attachments.

Contract: copies are in a folder of this run, below the partial files of the media folder, which every start empties, so
that a crash leaves nothing for long. Where the output is de-identified they are in the system's folder for temporary
files, since they are originals; the next start with the same ledger removes what a crash left there. Their names are
numbers, and only the owner can read them (0600 in 0700). The run asks for no further entry while `is_full`, so copies
exceed the permitted size by one copy at most.

Must never: take a name from an input, or report a full disk as a bad input.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from exporter.errors import OutOfSpace
from exporter.machine_conditions import out_of_space
from exporter.results.intents import MediaFolderUnusable
from exporter.results.output_names import COPIES_OUTSIDE
from listener.foundation.disk import mapped

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType


class Scratch:
    """Copies of one run; each copy is used by one thread at a time."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Put copies into `folder`, made with the first copy; `is_full` at `limit_bytes`."""
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._number = 0
        self._counting = threading.Lock()
        self.used_bytes = 0
        """Bytes of the copies that are not yet released."""

    @classmethod
    def outside(cls, limit_bytes: int) -> Self:
        """Copies in the system's folder for temporary files."""
        return cls(Path(tempfile.gettempdir()) / f"{COPIES_OUTSIDE}{secrets.token_hex(8)}", limit_bytes)

    def mark(self, mark: str) -> None:
        """Put the mark of the ledger into the name of the folder, so that a later start knows its owner."""
        if not self._folder.name.startswith(COPIES_OUTSIDE):
            self._folder = self._folder.with_name(f"copies-{mark}-{os.getpid()}")
            return
        for left in self._folder.parent.glob(f"{COPIES_OUTSIDE}{mark}-*"):
            if not left.is_symlink() and left.stat().st_uid == os.geteuid():
                shutil.rmtree(left, ignore_errors=True)
        self._folder = self._folder.with_name(f"{COPIES_OUTSIDE}{mark}-{secrets.token_hex(8)}")

    @property
    def is_full(self) -> bool:
        """Whether copies take all the permitted space."""
        return self.used_bytes >= self._limit_bytes

    def copy(self) -> ScratchCopy:
        """Make a new empty copy, open for writing.

        Raises:
            OutOfSpace: The disk is full.
            MediaFolderUnusable: The folder cannot be used.
        """
        with self._counting:
            if not self._number:
                with self.errors():
                    self._folder.mkdir(mode=0o700)
            self._number += 1
            number = self._number
        return ScratchCopy(self, self._folder / str(number))

    def count(self, size_bytes: int) -> None:
        """Add to the size of the copies; negative for a removed copy."""
        with self._counting:
            self.used_bytes += size_bytes

    def errors(self) -> AbstractContextManager[None]:
        """Map errors to a full disk or an unusable folder.

        Raises:
            OutOfSpace, MediaFolderUnusable: Instead of an `OSError`.
        """
        what = f"folder of temporary copies {self._folder}"
        return mapped(lambda error: out_of_space(what, error) or MediaFolderUnusable(self._folder, error))

    def close(self) -> None:
        """Remove every copy."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ScratchCopy:
    """One temporary file: written, then read by a worker, then released."""

    def __init__(self, scratch: Scratch, path: Path) -> None:
        """Use `Scratch.copy`."""
        self.path = path
        self.size_bytes = 0
        self._scratch = scratch
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with scratch.errors():
            self._descriptor = os.open(path, flags, 0o600)

    def write(self, part: bytes | memoryview) -> None:
        """Append `part`.

        Raises:
            OutOfSpace: The disk is full; the copy is released.
        """
        rest = memoryview(part)
        try:
            with self._scratch.errors():
                while rest:
                    written = os.write(self._descriptor, rest)
                    self.size_bytes += written
                    self._scratch.count(written)
                    rest = rest[written:]
        except (OutOfSpace, MediaFolderUnusable):
            self.release()
            raise

    def finish(self) -> Path:
        """End writing.

        Returns:
            Path of the complete file.
        """
        self._close()
        return self.path

    def release(self) -> None:
        """Remove the file; harmless when repeated."""
        self._close()
        with suppress(OSError):
            self.path.unlink()
        self._scratch.count(-self.size_bytes)
        self.size_bytes = 0

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
