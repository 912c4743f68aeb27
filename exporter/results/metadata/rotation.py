"""Whether a metadata file was rotated: whole and untouched, but under another name; and where rotated ones lie.

Contract: looks only. A file counts as rotated where it is certain that no line went with it: it has the device, inode,
size and time of modification that the ledger remembers, and its old name is free or names an empty file. Everything
else (deleted, compressed at once, copied and truncated) is not rotation, and the caller takes the lines for lost.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FACTS: Final[tuple[str, ...]] = ("device", "inode", "size", "mtime_ns")
"""Keys under which the ledger remembers what the file looked like when it was last written."""
_NUMBERED: Final = re.compile(r"[.-](\d[\d.:TZ_-]{0,30})(\.gz|\.xz|\.bz2)?")
"""Endings that logrotate and its like put behind a name: a number or a date, and that of a compressor."""
START: Final[str] = "start_seq"
"""Key under which it remembers after which line the present file begins; 0 before the first rotation."""


def facts(status: os.stat_result) -> dict[str, int]:
    """Properties that distinguish one file, and one state of a file, from another."""
    # SQLite's integers are signed, the kernel's are not.
    mask = (1 << 63) - 1
    return dict(
        zip(FACTS, (status.st_dev & mask, status.st_ino & mask, status.st_size, status.st_mtime_ns), strict=True)
    )


def rotated_files(path: Path) -> list[Path]:
    """The rotated files beside a metadata file, oldest first; of one that lies there packed and unpacked the latter.

    Their age is that of their last line, which neither a rename nor a packer changes.
    """
    found: dict[str, Path] = {}
    with suppress(FileNotFoundError):
        for other in sorted(path.parent.iterdir()):
            ending = _NUMBERED.fullmatch(other.name.removeprefix(path.name)) if other.is_file() else None
            if ending is not None and other.name.startswith(path.name):
                found.setdefault(ending[1], other)  # sorted: unpacked comes first
    return sorted(found.values(), key=lambda other: (other.stat().st_mtime_ns, other.name))


def open_rotated(path: Path) -> BinaryIO | gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File:
    """A rotated file, unpacked while it is read."""
    match path.suffix:
        case ".gz":
            return gzip.open(path, "rb")
        case ".xz":
            return lzma.open(path, "rb")
        case ".bz2":
            return bz2.open(path, "rb")
        case _:
            return path.open("rb")


def is_rotated(path: Path, seen: Mapping[str, int], *, descriptor: int = -1) -> bool:
    """Whether the file that was at `path` lives on under another name.

    Args:
        path: Where it was.
        seen: Its `FACTS` as they were left.
        descriptor: Of the file, where it is still open: it is then found wherever it was moved on its file system;
            otherwise only in its folder.

    Raises:
        OSError: The file or its folder cannot be looked at.
    """
    with suppress(FileNotFoundError):
        now = path.stat()
        if now.st_size or facts(now)["inode"] == seen.get("inode"):
            return False
    if descriptor >= 0:
        status = os.fstat(descriptor)
        return status.st_nlink > 0 and facts(status) == seen
    with suppress(FileNotFoundError), os.scandir(path.parent) as entries:
        return any(_is(entry, seen) for entry in entries)
    return False


def _is(entry: os.DirEntry[str], seen: Mapping[str, int]) -> bool:
    with suppress(FileNotFoundError):
        return facts(entry.stat(follow_symlinks=False)) == seen
    return False
