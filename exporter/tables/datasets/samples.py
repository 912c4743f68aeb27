"""Samples: the rows of a data set with their media files, in the order of their keys.

Contract: the order of the keys follows from the names of the inputs and the key of pseudonyms, never from the order of
the lines, so that the speed of workers has no effect. A key is 32 hexadecimal digits. Missing media are counted, never
guessed.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import orjson

from exporter.results.stores.shard_reading import MediumDamaged
from exporter.tables.errors import TableError
from exporter.tables.own_columns import media_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.results.stores.shard_reading import ExtractedMedia
    from exporter.tables.lines import Line, MetadataLines
    from exporter.tables.patients import Patients

FRAMES: Final = "frames.jsonl"
"""The list of the frames in a folder of frames (`exporter.writers.frames_folder`)."""


@dataclass(frozen=True, slots=True)
class SampleFile:
    """One media file of a sample."""

    kind: str
    """Kind of its medium."""
    path: Path
    medium: int
    """Which medium of the instance it is, from 0."""
    frame: int | None = None
    """Which frame it is, from 0, where the medium is a folder of frames."""

    @property
    def suffix(self) -> str:
        """File name extension with its dot, `.nii.gz` in one."""
        suffixes = PurePosixPath(self.path.name).suffixes
        return "".join(suffixes[-2:]) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


@dataclass(slots=True)
class DatasetSamples:
    """The instances with media among some lines."""

    lines: MetadataLines
    media: Path
    """The media folder."""
    extracted: ExtractedMedia
    """The media in it, wherever they are kept."""
    patients: Patients
    missing: int = 0
    """Number of media in the lines that are missing in the media folder."""
    instances: Counter[str] = field(default_factory=Counter)
    """Number of samples by split."""

    def __iter__(self) -> Iterator[tuple[Line, int]]:
        """The lines of instances with media and their sizes in bytes, in the order of their keys."""
        with closing(sqlite3.connect("")) as database:  # "": on disk, and deleted when it is closed
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("CREATE TABLE lines (key TEXT PRIMARY KEY, line BLOB) WITHOUT ROWID")
            with_media = ((self.key(line), orjson.dumps(line)) for line, _ in self.lines.rows() if media_of(line))
            database.executemany("INSERT INTO lines VALUES (?, ?)", with_media)
            for _, text in database.execute("SELECT key, line FROM lines ORDER BY key"):
                yield orjson.loads(text), len(text)

    def key(self, line: Line) -> str:
        """The key of the sample that an instance is."""
        return self.patients.pseudonym("sample", line["dicom_file"])

    def files(self, line: Line) -> list[SampleFile]:
        """Existing media files of an instance; a folder of frames is given as its frames.

        Media in shards are copied into files, which are there until the next instance is asked about; damaged ones are
        missing.
        """
        self.extracted.forget()
        found = []
        for number, medium in enumerate(media_of(line)):
            path = self._path(medium)
            files = [] if path is None else list(_files(path, str(medium.get("kind")), number))
            self.missing += not files
            found += files
        return found

    def _path(self, medium: dict[str, Any]) -> Path | None:
        """Path of a media file.

        Raises:
            TableError: The line names a path outside the media folder.
        """
        text = str(medium.get("path") or "")
        parts = PurePosixPath(text).parts
        if not parts or ".." in parts or PurePosixPath(text).is_absolute():
            raise TableError("a line names a medium outside the media folder: it is none of ours")
        with suppress(MediumDamaged):
            return self.extracted.path(text, medium.get("sha256"))
        return None


def _files(path: Path, kind: str, medium: int) -> Iterator[SampleFile]:
    if path.is_dir():
        for frame in frame_records(path):
            if isinstance(name := frame.get("file"), str) and (path / PurePosixPath(name).name).is_file():
                yield SampleFile(kind, path / PurePosixPath(name).name, medium, frame.get("frame"))
    elif path.is_file():
        yield SampleFile(kind, path, medium)


def frame_records(folder: Path) -> list[dict[str, Any]]:
    """Records of `frames.jsonl` in a folder of frames; empty if it is missing or invalid."""
    try:
        found = [orjson.loads(text) for text in (folder / FRAMES).read_bytes().splitlines()]
    except (OSError, orjson.JSONDecodeError):
        return []
    return [one for one in found if isinstance(one, dict)]
