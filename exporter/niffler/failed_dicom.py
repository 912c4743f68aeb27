"""``failed-dicom/``: copies of the files without pictures, by class, and a list of the reasons.

Contract: the list has every failure with its reason and its copy; a copy is complete or absent. Files of equal name get
a suffix. Copies of an earlier run that no longer belong there are removed; other files are left alone.

Must never: make a copy while a privacy profile is active.
"""

from __future__ import annotations

import csv
import hashlib
import os
import stat
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from exporter.errors import Reason, SkipReason
from exporter.results.output_names import COMPONENT_BYTES
from listener.foundation.durable import make_private_folders, replaced_text_file
from listener.foundation.text import csv_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from exporter.niffler.row_store import SourceRow

FAILED: Final = "failed-dicom"
LIST: Final = "reasons.csv"
NO_PICTURE, BAD_PIXELS, OTHER, UNREADABLE, MANY_VALUES = 1, 2, 3, 4, 5
"""Failure classes, named like their folders."""
MOST_VALUES: Final = 300
MOST_VALUES_WITH_PRIVATE: Final = 800
TOO_MANY_VALUES: Final = "many_values"
_PART_BYTES: Final = 1 << 20
_HEAD: Final = ("folder", "copy", "file", "reason", "message")
_CLASSES: Final[Mapping[str, int]] = {
    SkipReason.NO_MEDIA: NO_PICTURE,
    SkipReason.DICOMDIR: NO_PICTURE,
    Reason.BAD_GEOMETRY: BAD_PIXELS,
    Reason.CORRUPT_PIXELS: BAD_PIXELS,
    Reason.NOT_DICOM: UNREADABLE,
    Reason.UNREADABLE: UNREADABLE,
    SkipReason.NOT_REGULAR: UNREADABLE,
}


@dataclass(frozen=True, slots=True)
class DicomFailure:
    """Why one file is in a folder of `failed-dicom`."""

    folder: int
    path: Path
    """Path of the input file."""
    reason: str
    message: str


def class_of(row: SourceRow, reason: str) -> int:
    """Folder for a file that has no picture for a reason."""
    if reason == Reason.BAD_GEOMETRY and row.lacks:
        return NO_PICTURE
    return _CLASSES.get(reason, OTHER)


class FailedFolder:
    """`failed-dicom` of one output folder while a run fills it; a context manager that ends with its list.

    Args:
        output: The output folder.
        copies: Whether files are copied.
    """

    def __init__(self, output: Path, *, copies: bool) -> None:
        self._folder = output / FAILED
        self._copies = copies
        for number in range(NO_PICTURE, MANY_VALUES + 1):
            make_private_folders(self._folder.absolute() / str(number))
        self._earlier = self._listed()
        self._kept: set[str] = set()
        self._suffixes: Counter[str] = Counter()
        self._file = replaced_text_file(self._folder / LIST)

    def __enter__(self) -> Self:
        self._writer = csv.writer(self._file.__enter__(), lineterminator="\n")
        self._writer.writerow(_HEAD)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)
        if error is None:
            for name in self._earlier - self._kept:
                with suppress(OSError):
                    (self._folder / name).unlink()

    def add(self, failure: DicomFailure) -> None:
        """Add a failure to the list, and copy its file.

        Raises:
            OSError: The copy cannot be written.
        """
        name = self._copy(failure) if self._copies else ""
        row = (name, str(failure.path), failure.reason, failure.message)
        self._writer.writerow([failure.folder, *map(csv_text, row)])

    def _copy(self, failure: DicomFailure) -> str:
        """Copy a file under its own name.

        Returns:
            The copy's path below `failed-dicom`; empty where the file cannot be read.
        """
        stem = f"{failure.folder}/{_short(failure.path.name.removesuffix('.dcm'))}"
        name = f"{stem}.dcm"
        while name in self._kept:
            self._suffixes[stem] += 1
            name = f"{stem}_{self._suffixes[stem]}.dcm"
        target = self._folder / name
        if not _is_copy(failure.path, target) and not _copied(failure.path, target):
            return ""
        self._kept.add(name)
        return name

    def _listed(self) -> set[str]:
        """Copies in the list of an earlier run."""
        try:
            with (self._folder / LIST).open(encoding="utf-8", newline="") as file:
                rows = csv.reader(file)
                if next(rows, None) != [*_HEAD]:
                    return set()
                found = {row[1] for row in rows if len(row) == len(_HEAD) and row[1]}
        except (OSError, UnicodeDecodeError, csv.Error):
            return set()
        return {name for name in found if len(Path(name).parts) == 2 and ".." not in Path(name).parts}


def _short(stem: str) -> str:
    """File name without extension, cut so that a suffix fits into the limit of the file system."""
    raw = os.fsencode(stem)
    if len(raw) <= COMPONENT_BYTES:
        return stem
    return f"{os.fsdecode(raw[: COMPONENT_BYTES - 20])}~{hashlib.sha256(raw).hexdigest()[:16]}"


def _copied(path: Path, target: Path) -> bool:
    """Copy a file completely or not at all.

    Returns:
        False if the file cannot be read.

    Raises:
        OSError: The copy cannot be written.
    """
    partial = target.with_name(".part")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(fd, "rb") as source:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            return False
        try:
            with partial.open("wb") as file:
                while True:
                    try:
                        part = source.read(_PART_BYTES)
                    except OSError:
                        return False
                    if not part:
                        break
                    file.write(part)
            os.utime(partial, ns=(about.st_atime_ns, about.st_mtime_ns))
            partial.replace(target)
        finally:
            with suppress(OSError):
                partial.unlink()
    return True


def _is_copy(path: Path, target: Path) -> bool:
    """Whether an earlier run has copied the file, unchanged since."""
    try:
        mine, theirs = target.lstat(), path.stat()
    except OSError:
        return False
    return stat.S_ISREG(mine.st_mode) and (mine.st_size, mine.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)
