"""``failed-dicom/``: copies of the files that have no picture, by class, and a list that says why.

Contract: the list names every failure, its reason and its copy; a copy is whole or not there. Files of one name get a
suffix. What an earlier run copied and does not belong there now is removed, nothing else is.

Must never: make a copy where a privacy profile is on.
"""

from __future__ import annotations

import csv
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from exporter.errors import Reason, SkipReason
from exporter.pull.report import private_file
from listener.foundation.durable import make_private_folders
from listener.foundation.text import csv_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from exporter.niffler.row_store import SourceRow

FAILED: Final = "failed-dicom"
LIST: Final = "reasons.csv"
NO_PICTURE, BAD_PIXELS, OTHER, UNREADABLE, MANY_VALUES = 1, 2, 3, 4, 5
"""The classes, and names of their folders."""
MOST_VALUES: Final = 300
MOST_VALUES_WITH_PRIVATE: Final = 800
TOO_MANY_VALUES: Final = "many_values"
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
    """The file itself."""
    reason: str
    message: str


def class_of(row: SourceRow, reason: str) -> int:
    """The folder for a file that has no picture for that reason."""
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
        self._file = private_file(self._folder / LIST)

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
        """Name a failure in the list, and copy its file.

        Raises:
            OSError: The copy cannot be written.
        """
        name = self._copy(failure) if self._copies else ""
        row = (name, str(failure.path), failure.reason, failure.message)
        self._writer.writerow([failure.folder, *map(csv_text, row)])

    def _copy(self, failure: DicomFailure) -> str:
        """Copy a file under its own name.

        Returns:
            The copy's path below `failed-dicom`; empty where the file is none that can be read.
        """
        stem = failure.path.name.removesuffix(".dcm")
        number = 0
        while (name := f"{failure.folder}/{stem}{f'_{number}' if number else ''}.dcm") in self._kept:
            number += 1
        target = self._folder / name
        partial = target.with_name(f".{target.name}.part")
        try:
            if failure.path.is_symlink() or not failure.path.is_file():
                return ""
            if not _is_copy(failure.path, target):
                source = failure.path.open("rb")
                with source, partial.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                shutil.copystat(failure.path, partial)
                partial.replace(target)
        except PermissionError:
            with suppress(OSError):
                partial.unlink()
            return ""
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        self._kept.add(name)
        return name

    def _listed(self) -> set[str]:
        """Copies that the list of an earlier run names."""
        try:
            with (self._folder / LIST).open(encoding="utf-8", newline="") as file:
                rows = csv.reader(file)
                if next(rows, None) != [*_HEAD]:
                    return set()
                found = {row[1] for row in rows if len(row) == len(_HEAD) and row[1]}
        except (OSError, UnicodeDecodeError, csv.Error):
            return set()
        return {name for name in found if len(Path(name).parts) == 2 and ".." not in Path(name).parts}


def _is_copy(path: Path, target: Path) -> bool:
    """Whether an earlier run copied the file as it is."""
    try:
        mine, theirs = target.lstat(), path.stat()
    except OSError:
        return False
    return (mine.st_size, mine.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns) and not os.path.islink(target)  # noqa: PTH114 - `lstat` above
