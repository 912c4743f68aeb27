"""The lines of a metadata file and its rotated files, which are the same in every pass over them.

Contract: files are opened once and read up to the size they had then, so that every pass sees the same lines while an
exporter appends. Of each `dicom_file` the last line counts, across all files. Lines of other programs, damaged lines
and an incomplete last line are ignored and counted. Lines of earlier versions of ours are read. Records are given under
the names of `exporter.results.metadata.keys`, in whichever form the lines hold them.

Memory: one line, and 16 bytes for each line there is.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from array import array
from bisect import bisect_left
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import orjson

from exporter.results.metadata.dicom_json import is_tag
from exporter.results.metadata.inspection import MOST_LINE_BYTES
from exporter.results.metadata.keys import has_names, with_names
from exporter.results.metadata.rotation import open_rotated, rotated_files
from exporter.tables.errors import TableError
from listener.foundation.text import json_escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

Line = dict[str, Any]
"""One parsed line: our keys and the elements."""
OWN_KEYS: Final = frozenset({"dicom_file", "media_file", "media_type", "export"})
"""Keys of a line that are no element's."""


@dataclass(slots=True)
class LineCounts:
    """Numbers of lines in the files."""

    lines: int = 0
    """Lines of ours, superseded ones included."""
    superseded: int = 0
    """Lines of a `dicom_file` that has a later one."""
    others: int = 0
    """Lines of other programs, and damaged ones."""
    torn: int = 0
    """Last lines that are not complete."""

    @property
    def rows(self) -> int:
        """Lines that count."""
        return self.lines - self.superseded


@dataclass(slots=True)
class _Source:
    """One open file."""

    path: Path
    file: BinaryIO
    size: int | None
    """Bytes to read; None for all of a compressed file."""


@dataclass(slots=True)
class MetadataLines:
    """The lines of one metadata file and of its rotated files; a context manager."""

    sources: list[_Source]
    counts: LineCounts
    _stack: ExitStack = field(default_factory=ExitStack)
    _key: bytes = field(default_factory=lambda: os.urandom(16))
    """Key of the hashes, so that no file names can be made to collide."""
    _repeated: array[int] | None = None
    _remaining: array[int] = field(default_factory=lambda: array("Q"))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a metadata file and those that were rotated away from it.

        Raises:
            TableError: There is no such file, or it cannot be read.
        """
        with ExitStack() as stack:
            sources = [_open(one, stack) for one in rotated_files(path)]
            if path.is_file() or not sources:
                sources.append(_open(path, stack, plain=True))
            return cls(sources, LineCounts(), stack.pop_all())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def date(self) -> str:
        """The day on which the newest line was written, in UTC, as YYYY-MM-DD."""
        newest = max(source.path.stat().st_mtime for source in self.sources)
        return datetime.fromtimestamp(newest, UTC).date().isoformat()

    def rows(self) -> Iterator[tuple[Line, int]]:
        """The last line of every `dicom_file` with its size in bytes, in the order of the files.

        Raises:
            TableError: A file cannot be read any more.
        """
        repeated = self._repeated if self._repeated is not None else self.survey()
        remaining = self._remaining[:]
        for line, size in self._lines(LineCounts()):
            if repeated:
                value = self._hash(line)
                place = bisect_left(repeated, value)
                if place < len(repeated) and repeated[place] == value:
                    remaining[place] -= 1
                    if remaining[place]:
                        continue
            yield line, size

    def with_text(self, text: str) -> Iterator[Line]:
        """All lines that contain a text, superseded ones too; others are not parsed.

        Raises:
            TableError: A file cannot be read any more.
        """
        wanted = json_escaped(orjson.dumps(text)[1:-1])
        for line, _ in self._lines(LineCounts(), wanted):
            yield line

    def survey(self, visit: Callable[[Line], None] = lambda _line: None) -> array[int]:
        """Count the lines, superseded ones too, and find the inputs that have more than one.

        Returns:
            The hashes of those inputs, in order.

        Raises:
            TableError: A file cannot be read.
        """
        import numpy as np

        hashes = array("Q")
        self.counts = LineCounts()
        for line, _ in self._lines(self.counts):
            hashes.append(self._hash(line))
            visit(line)
        ordered = np.frombuffer(hashes, np.uint64) if hashes else np.empty(0, np.uint64)
        ordered.sort()  # in place: the array itself is sorted
        is_first = np.ones(len(ordered), bool)
        is_first[1:] = ordered[1:] != ordered[:-1]
        starts = np.flatnonzero(is_first)
        numbers = np.diff(starts, append=len(ordered))
        self._repeated = array("Q", ordered[starts[numbers > 1]].tobytes())
        self._remaining = array("Q", numbers[numbers > 1].astype(np.uint64).tobytes())
        self.counts.lines, self.counts.superseded = len(ordered), len(ordered) - len(starts)
        return self._repeated

    def _hash(self, line: Line) -> int:
        """A 64-bit hash of `dicom_file`; among a million names the odds that two share one are 1 in 30 million."""
        name = line["dicom_file"].encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(name, digest_size=8, key=self._key).digest())

    def _lines(self, counts: LineCounts, wanted: bytes = b"") -> Iterator[tuple[Line, int]]:
        for source in self.sources:
            try:
                for line, size in _lines_of(source, counts, wanted):
                    yield _named(line), size
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise _unreadable(source.path, error) from error


def _open(path: Path, stack: ExitStack, *, plain: bool = False) -> _Source:
    try:
        file: Any = stack.enter_context(path.open("rb") if plain else open_rotated(path))
        packed = not plain and path.suffix in {".gz", ".xz", ".bz2"}
        return _Source(path, file, None if packed else os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise TableError(
            f"there is no {path}: name the data folder of an exporter, the output folder of a backfill or its"
            " metadata file"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> TableError:
    cause = getattr(error, "strerror", None) or "it is damaged"
    return TableError(f"{path} cannot be read: {cause}")


def _lines_of(source: _Source, counts: LineCounts, wanted: bytes) -> Iterator[tuple[Line, int]]:
    """Our lines in one file that contain the given bytes; other lines are counted."""
    source.file.seek(0)
    left = source.size if source.size is not None else -1
    while left and (text := source.file.readline(min(MOST_LINE_BYTES, left) if left > 0 else MOST_LINE_BYTES)):
        left -= len(text) if left > 0 else 0
        if wanted not in text:
            continue
        line = _parse(text)
        if line is not None:
            yield line, len(text)
        elif text.endswith(b"\n") or len(text) == MOST_LINE_BYTES:
            counts.others += bool(text.strip())
        else:
            counts.torn += 1


def _parse(text: bytes) -> Line | None:
    try:
        line = orjson.loads(text)
        ours = isinstance(line["dicom_file"], str) and isinstance(line["export"]["status"], str)
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    return line if ours else None


def _named(line: Line) -> Line:
    """Line under names, in whichever form its record is."""
    first = next((key for key in line if key not in OWN_KEYS), "")
    if has_names(first):
        return line
    if not (is_tag(first) and isinstance(line[first], dict)):
        return with_names(line, OWN_KEYS)
    from exporter.tables.dicom_json import named

    return named(line, OWN_KEYS)
