"""Files below ``DICOMHome``: a row of the table for each, and an entry for the engine where there are pixel data.

Contract: a file counts if it is exactly `depth` folders deep, and is DICOM by its content or by Niffler's rule
(``*.dcm``, not hidden). Each has one row, in the order of the names. If pictures are made, the engine gets instances
with pixel data only: instances without have no picture, and no other media are made of them here.

Must never: follow a symbolic link, or read the output as input.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from exporter.errors import Reason, SkipReason
from exporter.inputs.contract import InputEntry
from exporter.inputs.place import entry_of
from exporter.inputs.walk import FileKind, Outputs, WalkedFile, walk
from exporter.niffler.header_reader import ReadHeader
from exporter.niffler.row_store import SourceRow
from exporter.outcome import Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exporter.inputs.contract import EarlierOutcomes
    from exporter.inputs.scratch import Scratch
    from exporter.niffler.header_reader import HeaderReader
    from exporter.niffler.keyed_names import KeyedNames, Level
    from exporter.niffler.row_store import RowStore

NO_PIXELS: Final = "the instance has no pixel data"


@dataclass(slots=True)
class SeenFiles:
    """Numbers of files found below the folder."""

    unseen_there: int = 0
    """DICOM files that Niffler would have missed: no ``.dcm``, or hidden."""
    no_dicom: int = 0
    """Files that are not DICOM, neither by content nor by name."""
    elsewhere: int = 0
    """Files at other depths."""


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The files of one run."""

    folder: Path
    """An absolute path without symbolic links."""
    outputs: Outputs
    depth: int
    headers: HeaderReader
    prints: bool
    """Whether pictures are made; otherwise every instance gets its metadata line from the engine, and no media."""
    names: KeyedNames
    level: Level
    rows: RowStore
    seen: SeenFiles = field(default_factory=SeenFiles)

    def walked(self) -> Iterator[WalkedFile]:
        """Walk the files at the right depth, of any content, and unreadable folders above it."""
        for found in walk(self.folder, self.outputs, recursive=self.depth > 0):
            if self._is_here(found.name):
                yield found
            else:
                self.seen.elsewhere += 1

    def _is_here(self, name: str) -> bool:
        return name.count("/") == self.depth or (name.endswith("/") and name.count("/") < self.depth)

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`; every row is added on the way."""
        for found in self.walked():
            row, mirrored = self._row(found)
            if row is None:
                continue
            self.rows.append(row)
            if memory.is_done(found.name, found.size_bytes, found.mtime_ns, found.changed_ns):
                continue
            if row.verdict == SkipReason.NO_MEDIA and self.prints:
                decided = Skipped(SkipReason.NO_MEDIA, NO_PIXELS)
                yield InputEntry(found.name, found.size_bytes, found.mtime_ns, decided=decided)
            else:
                yield entry_of(found, mirrored)

    @property
    def root(self) -> Path:
        """See `InputReader`."""
        return self.folder

    def members(self, container: str) -> Iterator[str]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`: it has no containers."""
        return iter(())

    def count(self) -> Iterator[int]:
        """See `InputReader`."""
        number = 0
        for found in walk(self.folder, self.outputs, recursive=self.depth > 0):
            number += self._is_here(found.name)
            if number % 1000 == 0:
                yield number
        yield number

    @contextmanager
    def together(self, names: Sequence[str], scratch: Scratch) -> Iterator[list[Path]]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`."""
        yield [self.folder / name for name in names]

    def _row(self, found: WalkedFile) -> tuple[SourceRow | None, str]:
        """Row of a file (None if it has no row), and the path of its media with an extension to be removed."""
        own_name = os.path.basename(found.name)  # noqa: PTH119 - not a path of this system yet
        is_hidden = any(part.startswith(".") for part in found.name.split("/"))
        is_seen_there = own_name.endswith(".dcm") and not is_hidden
        row = SourceRow(found.name)
        identifiers = ("", "", "")
        if found.kind is FileKind.REGULAR:
            identifiers = self._read(found, row)
        elif found.kind is FileKind.UNREADABLE:
            row.verdict, row.message = Reason.UNREADABLE, "it cannot be looked at"
            is_seen_there = True
        else:
            row.verdict, row.message = SkipReason.NOT_REGULAR, "a link or no regular file: links are not followed"
        if not is_seen_there:
            if row.verdict in {Reason.NOT_DICOM, Reason.UNREADABLE, SkipReason.NOT_REGULAR, SkipReason.DICOMDIR}:
                self.seen.no_dicom += 1
                return None, ""
            self.seen.unseen_there += 1
        return row, f"{self.names.mirrored(found.name, identifiers, self.level)}.dcm"

    def _read(self, found: WalkedFile, row: SourceRow) -> tuple[str, str, str]:
        """Read the header of a file into its row.

        Returns:
            Patient ID, Study Instance UID and Series Instance UID.
        """
        read = self.headers.read(found.path)
        if not isinstance(read, ReadHeader):
            row.verdict, row.message = read.reason, read.message
            return "", "", ""
        row.cells, row.values, row.has_pixels, row.lacks = read.cells, read.values, read.has_pixels, read.lacks
        if not row.has_pixels:
            row.verdict, row.message = SkipReason.NO_MEDIA, NO_PIXELS
        return read.identifiers
