"""Files below ``DICOMHome``: a row of the table for each, and an entry for the engine where there are pixel data.

Contract: a file counts if it is exactly `depth` folders deep, and is DICOM by its content or by Niffler's rule
(``*.dcm``, not hidden). Each has one row, in the order of the names. The engine gets instances with pixel data only;
instances without have no picture, and no other media are made of them here.

Must never: follow a symbolic link, or read the output as input.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from exporter.dicom.elements import READING_ERRORS, text_of
from exporter.dicom.instance import Instance
from exporter.errors import ExportError, Reason, SkipInstance, SkipReason
from exporter.inputs.contract import InputEntry
from exporter.inputs.place import entry_of
from exporter.inputs.walk import FileKind, Outputs, WalkedFile, walk
from exporter.niffler.header_values import header_values
from exporter.niffler.row_store import SourceRow
from exporter.outcome import Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exporter.inputs.contract import EarlierOutcomes
    from exporter.inputs.scratch import Scratch
    from exporter.niffler.keyed_names import KeyedNames, Level
    from exporter.niffler.row_store import RowStore
    from exporter.settings.settings import LimitSettings

NO_PIXELS: Final = "the instance has no pixel data"
NEEDED: Final = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")
"""Elements that pixel data need (PS3.3 C.7.6.3)."""


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
    private: bool
    """Whether rows have private elements."""
    limits: LimitSettings
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

    def read_all(self) -> None:
        """Add the rows of all files, without exporting anything."""
        for found in self.walked():
            row, _ = self._row(found)
            if row is not None:
                self.rows.append(row)

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`; every row is added on the way."""
        for found in self.walked():
            row, mirrored = self._row(found)
            if row is None:
                continue
            self.rows.append(row)
            if memory.is_done(found.name, found.size_bytes, found.mtime_ns, found.changed_ns):
                continue
            if row.verdict == SkipReason.NO_MEDIA:
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
        try:
            with Instance.open(found.path, self.limits) as instance:
                header = instance.header
                identifiers = (
                    text_of(header, "PatientID"),
                    text_of(header, "StudyInstanceUID"),
                    text_of(header, "SeriesInstanceUID"),
                )
                row.lacks = any(keyword not in header for keyword in NEEDED)
                row.has_pixels = _has_pixels(instance)
                row.cells, row.values = header_values(header, private=self.private)
        except SkipInstance as skip:
            row.verdict, row.message = skip.reason, str(skip)
            return "", "", ""
        except ExportError as error:
            row.verdict, row.message = error.reason, str(error)
            return "", "", ""
        except READING_ERRORS as error:
            row.verdict, row.message = Reason.UNREADABLE, f"its header cannot be read ({type(error).__name__})"
            return "", "", ""
        if not row.has_pixels:
            row.verdict, row.message = SkipReason.NO_MEDIA, NO_PIXELS
        return identifiers


def _has_pixels(instance: Instance) -> bool:
    """Whether an instance has pixel data, even if described incorrectly."""
    try:
        return instance.pixels is not None
    except ExportError:
        return True
