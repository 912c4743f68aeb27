"""Recognition of archives by their content, and their opening.

Contract: a file is recognized by its first bytes, and for gzip, bzip2 and xz by its first unpacked block. A file that
begins like DICOM is not an archive, whatever else it holds. Unsupported kinds are recognized, to be named in messages.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.dicom.bytesource import FileBytes, MemoryBytes
from exporter.errors import ExportError, Unreadable
from exporter.inputs.archives.member import Budget
from exporter.inputs.archives.tarred import BLOCK, TarArchive, is_header
from exporter.inputs.archives.unpacked import COMPRESSIONS, Plain, Unpacked
from exporter.inputs.archives.zipped import END, LOCAL, ZipArchive
from listener.intake.file_meta import has_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.dicom.bytesource import ByteSource
    from exporter.inputs.archives.member import Archive

HEAD_BYTES: Final = 1 << 16
"""Most bytes that are examined."""
_SPANNED: Final = (b"PK\x07\x08PK\x03\x04", b"PK00PK\x03\x04")
"""Beginning of an archive that was, or could have been, split."""
_OTHERS: Final = {b"7z\xbc\xaf\x27\x1c": "7-Zip", b"Rar!\x1a\x07": "RAR", b"\x28\xb5\x2f\xfd": "Zstandard"}


def is_archive(source: ByteSource) -> bool:
    """Whether the bytes begin an archive that `opened` reads."""
    head = source.read_at(0, BLOCK)
    if has_prefix(head):
        return False
    if head.startswith((LOCAL, END, *_SPANNED)) or is_header(head):
        return True
    for magic, new_decoder in COMPRESSIONS.items():
        if head.startswith(magic):
            with suppress(ExportError):
                return is_header(Unpacked(source, new_decoder, Budget(HEAD_BYTES, 1)).read(BLOCK))
    return False


def looks_like_archive(path: Path) -> bool:
    """Whether the file at `path` is an archive; False if it cannot be read, which its worker reports."""
    try:
        with open_archive(path) as file:
            return is_archive(file.source)
    except ExportError:
        return False


def foreign_archive(head: bytes) -> str | None:
    """Kind of an unsupported archive that begins with `head`."""
    return next((kind for magic, kind in _OTHERS.items() if head.startswith(magic)), None)


def nested(head: bytes) -> bool:
    """Whether a member of an archive, which begins with `head`, is an archive itself, of any kind."""
    return foreign_archive(head) is not None or is_archive(MemoryBytes(head))


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """An open file that may be an archive, with its attributes when it was opened."""

    source: FileBytes
    descriptor: int
    about: os.stat_result

    @property
    def is_changed(self) -> bool:
        """Whether the archive has changed since."""
        now = os.fstat(self.descriptor)
        return (now.st_size, now.st_mtime_ns) != (self.about.st_size, self.about.st_mtime_ns)

    def archive(self, max_ratio: int, max_member_bytes: int) -> Archive:
        """Open the archive in the file."""
        budget = Budget(self.source.size, max_ratio)
        head = self.source.read_at(0, BLOCK)
        if head.startswith((LOCAL, END, *_SPANNED)):
            return ZipArchive(self.source, budget, max_member_bytes)
        for magic, new_decoder in COMPRESSIONS.items():
            if head.startswith(magic):
                return TarArchive(Unpacked(self.source, new_decoder, budget))
        return TarArchive(Plain(self.source))


@contextmanager
def open_archive(path: Path) -> Iterator[ArchiveFile]:
    """Open the file at `path` without following a link.

    Raises:
        Unreadable: It cannot be opened, or is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Unreadable(f"opening the file failed: {error.strerror}") from None
    about = os.fstat(descriptor)
    source = FileBytes(descriptor, about.st_size)
    try:
        if not stat.S_ISREG(about.st_mode):
            raise Unreadable("it is no regular file")
        yield ArchiveFile(source, descriptor, about)
    finally:
        source.close()
