"""DICOM media (CD, DVD, USB) as input: the files that a DICOMDIR references, and its references without a file.

Contract: the directory records are read in one pass over their sequence, of limited size; the offsets between records
are not followed, so there are no cycles. A reference is resolved below the folder of the DICOMDIR, component by
component, ignoring case and the ``;1`` and final dot that some systems show for ISO 9660 names. Only a regular file
counts as existing.

Must never: follow a link, leave that folder, or assume that a referenced file exists.

Source: PS3.3 F.3 and F.5 (records), PS3.10 8.2 and 8.6 (File IDs, the name DICOMDIR), PS3.5 7.5 (sequences).
"""

from __future__ import annotations

import os
import re
import stat
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from exporter.dicom.bytesource import MemoryBytes
from exporter.dicom.structure import UNDEFINED, find_data_set
from exporter.errors import ExportError, SkipReason, TooLarge, Unreadable
from exporter.inputs.archives.found import open_archive
from exporter.inputs.contract import INSIDE, InputEntry
from exporter.inputs.place import entry_of, found_at
from exporter.outcome import Failed, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exporter.inputs.contract import EarlierOutcomes
    from exporter.inputs.scratch import Scratch
    from exporter.inputs.walk import WalkedFile

LARGEST_BYTES: Final = 64 << 20
"""Largest DICOMDIR that is read."""
MOST_REFERENCES: Final = 500_000
MOST_LISTED: Final = 1_000_000
"""Most entries of one folder whose names are compared without case."""
_KEPT_LISTINGS: Final = 64
_RECORDS, _IN_USE, _FILE_ID = 0x00041220, 0x00041410, 0x00041500
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_IS_DICOMDIR: Final = re.compile(r"dicomdir\.?(;1)?", re.IGNORECASE)
_VERSION: Final = re.compile(r"(.+?)\.?(;[0-9]+)?")


def is_dicomdir_name(name: str) -> bool:
    """Whether a file of that name can be the directory of a medium."""
    return _IS_DICOMDIR.fullmatch(name) is not None


# -- the records -----------------------------------------------------------------------------------------------------


def references(content: bytes) -> Iterator[tuple[str, ...]]:
    """The components of every Referenced File ID of a DICOMDIR, in the order of its records, each once.

    Raises:
        ExportError: It is not a DICOMDIR, or is damaged; references before the damage were yielded.
    """
    start = find_data_set(MemoryBytes(content))
    reader = _Elements(content, implicit=start.implicit, big_endian=start.big_endian)
    offset, seen = start.offset, set[tuple[str, ...]]()
    while offset < len(content):
        tag, value, length = reader.head(offset)
        if tag == _RECORDS:
            for item, end in reader.items(value, length):
                components = _reference(reader, item, end)
                if components and components not in seen:
                    if len(seen) >= MOST_REFERENCES:
                        raise TooLarge(f"the DICOMDIR references more than {MOST_REFERENCES} files")
                    seen.add(components)
                    yield components
            return
        offset = reader.behind(value, length)
    raise Unreadable("it has no (0004,1220) Directory Record Sequence")


def _reference(reader: _Elements, offset: int, end: int) -> tuple[str, ...]:
    """Components of the path that one record references; empty if it has no reference or is not in use."""
    components: tuple[str, ...] = ()
    while offset < end:
        tag, value, length = reader.head(offset)
        if tag == _IN_USE and reader.unsigned(value, length) == 0:
            return ()
        if tag == _FILE_ID and length < 1 << 16:
            text = os.fsdecode(reader.content[value : value + length])
            components = tuple(part.strip(" \0") for part in text.split("\\"))
        offset = reader.behind(value, length)
    return components if any(components) else ()


class _Elements:
    """Reads tags and lengths of elements in memory, in one encoding."""

    def __init__(self, content: bytes, *, implicit: bool, big_endian: bool) -> None:
        self.content = content
        self._implicit = implicit
        self._order = ">" if big_endian else "<"

    def head(self, offset: int) -> tuple[int, int, int]:
        """(tag, offset of the value, length) at `offset`.

        Raises:
            Unreadable: There is no whole head.
        """
        try:
            group, element, length = struct.unpack_from(f"{self._order}HHL", self.content, offset)
            if not self._implicit and group != 0xFFFE:
                if self.content[offset + 4 : offset + 6] in _LONG:
                    (length,) = struct.unpack_from(f"{self._order}L", self.content, offset + 8)
                    return group << 16 | element, offset + 12, length
                (length,) = struct.unpack_from(f"{self._order}H", self.content, offset + 6)
        except struct.error:
            raise Unreadable("the DICOMDIR is cut or damaged") from None
        return group << 16 | element, offset + 8, length

    def unsigned(self, value: int, length: int) -> int | None:
        """A value of two bytes."""
        if length != 2:
            return None
        return int.from_bytes(self.content[value : value + 2], "big" if self._order == ">" else "little")

    def behind(self, value: int, length: int) -> int:
        """Offset after a value, also of undefined length.

        Raises:
            Unreadable: The value has no end.
        """
        if length != UNDEFINED:
            if value + length > len(self.content):
                raise Unreadable("the DICOMDIR is cut or damaged")
            return value + length
        depth = 1
        while depth:
            tag, value, length = self.head(value)
            if tag in {_ITEM_END, _SEQUENCE_END}:
                depth -= 1
            elif length == UNDEFINED:
                depth += 1
            else:
                value = self.behind(value, length)
        return value

    def items(self, value: int, length: int) -> Iterator[tuple[int, int]]:
        """(start, end) of the items of a sequence.

        Raises:
            Unreadable: The sequence contains something else, or has no end.
        """
        begin, end = value, len(self.content)
        if length != UNDEFINED:
            end = min(end, value + length)
        while value < end:
            tag, start, size = self.head(value)
            if tag == _SEQUENCE_END and length == UNDEFINED:
                return
            if tag != _ITEM:
                raise Unreadable("the DICOMDIR is damaged: its records hold something that is no record")
            if size != UNDEFINED and start + size > len(self.content):
                yield start, len(self.content)
                raise Unreadable("the DICOMDIR is cut: its records do not end")
            value = self.behind(start, size)
            yield start, value if size != UNDEFINED else value - 8
        if length == UNDEFINED or value < begin + length:
            raise Unreadable("the DICOMDIR is cut: its records do not end")


# -- the files -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class MediaFolder:
    """The folder that a DICOMDIR describes."""

    root: Path
    """Without symbolic links."""
    _listings: dict[Path, dict[str, str]] = field(default_factory=dict)

    def find(self, components: tuple[str, ...]) -> str | None:
        """Path, relative to the folder, of the regular file that is referenced; None if absent."""
        here, names = self.root, []
        for number, component in enumerate(components, start=1):
            if not component or component in {".", ".."} or "/" in component or "\0" in component:
                return None
            name = self._name_in(here, component)
            if name is None:
                return None
            here /= name
            names.append(name)
            is_last = number == len(components)
            try:
                about = os.lstat(here)
            except OSError:
                return None
            if not _is(about, folder=not is_last):
                return None
        return "/".join(names)

    def _name_in(self, folder: Path, component: str) -> str | None:
        listing = self._listings.get(folder)
        if listing is None:
            listing = _listing(folder)
            if len(self._listings) >= _KEPT_LISTINGS:
                self._listings.clear()
            self._listings[folder] = listing
        return listing.get(component) or listing.get(_plain(component))


def _is(about: os.stat_result, *, folder: bool) -> bool:
    return stat.S_ISDIR(about.st_mode) if folder else stat.S_ISREG(about.st_mode)


def _listing(folder: Path) -> dict[str, str]:
    """Names in a folder, by name and by name without case and version."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in islice(entries, MOST_LISTED))
    except OSError:
        return {}
    listing: dict[str, str] = {}
    for name in names:
        listing.setdefault(_plain(name), name)
    return listing | {name: name for name in names}


def _plain(name: str) -> str:
    found = _VERSION.fullmatch(name)
    return (found[1] if found else name).casefold()


# -- entries ---------------------------------------------------------------------------------------------------------


class FileSet:
    """One DICOMDIR and its files."""

    def __init__(self, dicomdir: WalkedFile) -> None:
        self._found = dicomdir
        self._folder = MediaFolder(dicomdir.path.parent)

    def referenced(self) -> Iterator[str | tuple[str, ...]]:
        """Referenced paths, relative to the folder; the components of a path without a file.

        Raises:
            ExportError: The DICOMDIR cannot be read completely.
        """
        with open_archive(self._found.path) as file:
            if file.source.size > LARGEST_BYTES:
                raise TooLarge(f"the DICOMDIR has {file.source.size} bytes, read are {LARGEST_BYTES} at most")
            content = file.source.read_at(0, file.source.size)
        for components in references(content):
            yield self._folder.find(components) or components

    def missing(self, memory: EarlierOutcomes) -> Iterator[InputEntry]:
        """Entries for references without a file, and for those that had none in an earlier run and have one now."""
        prefix = f"{self._found.name}{INSIDE}"
        before, seen = set(memory.failed(prefix)), set[str]()

        def is_new(name: str) -> bool:
            return memory.key(name) not in before or not memory.is_done(name, 0, self._found.mtime_ns)

        try:
            for reference in self.referenced():
                if (
                    isinstance(reference, tuple)
                    and (key := memory.key(name := f"{prefix}{_shown(reference)}")) not in seen
                ):
                    seen.add(key)
                    if is_new(name):
                        yield self._entry(name, Failed.of(Unreadable(MISSING)))
        except ExportError as error:
            if is_new(name := f"{prefix}*"):
                message = f"the DICOMDIR cannot be read to its end, so that files may be missing: {error}"
                yield self._entry(name, Failed.of(type(error)(message)))
        else:
            for name in sorted(before - seen):
                message = "the DICOMDIR references it no more, or it is there now"
                yield self._entry(name, Skipped(SkipReason.DICOMDIR, message))

    def _entry(self, name: str, decided: Failed | Skipped) -> InputEntry:
        return InputEntry(name, 0, self._found.mtime_ns, decided=decided)


MISSING: Final = "referenced by the DICOMDIR, not there: the medium, or the copy of it, is not complete"


def _shown(components: tuple[str, ...]) -> str:
    """Name of a reference, without empty components, so that it cannot equal another kind of name."""
    parts = [part.replace("\0", "_").replace("/", "_") for part in components]
    return "/".join("_" if part in {"", ".", ".."} else part for part in parts)


@dataclass(frozen=True, slots=True)
class FileSetReader:
    """An `InputReader` of one DICOMDIR and the files that it references, and of no others."""

    path: Path
    """Path of the DICOMDIR, without symbolic links."""

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`; names are those of a run over the folder."""
        root, seen = self.path.parent, set[str]()
        dicomdir = found_at(root, self.path.name)
        files = FileSet(dicomdir)
        if not memory.is_done(dicomdir.name, dicomdir.size_bytes, dicomdir.mtime_ns):
            yield entry_of(dicomdir)
        with suppress(ExportError):  # `missing` tells of it
            for name in files.referenced():
                if isinstance(name, tuple) or name in seen:
                    continue
                seen.add(name)
                found = found_at(root, name)
                if not memory.is_done(name, found.size_bytes, found.mtime_ns, found.changed_ns):
                    yield entry_of(found)
        yield from files.missing(memory)

    @property
    def root(self) -> Path:
        """See `InputReader`."""
        return self.path.parent

    def members(self, container: str) -> Iterator[str]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`: what is missing from a medium has no file."""
        return iter(())

    def count(self) -> Iterator[int]:
        """See `InputReader`."""
        found = 1
        with suppress(ExportError):
            for reference in FileSet(found_at(self.path.parent, self.path.name)).referenced():
                found += isinstance(reference, str)
        yield found

    @contextmanager
    def together(self, names: Sequence[str], scratch: Scratch) -> Iterator[list[Path]]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`."""
        yield [self.path.parent / name for name in names if INSIDE not in name]
