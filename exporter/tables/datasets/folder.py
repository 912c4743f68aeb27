"""`--format folder`: `images/`, `videos/` and `audio/`, each with train, validation and test and a table in each.

Contract: each of the three is a root that `datasets.load_dataset("imagefolder" | "videofolder" | "audiofolder",
data_dir=...)` loads directly: one kind of media, one `metadata.parquet` per split, one schema for all of them, and no
other file. One row per media file; a folder of frames is one row per frame. Media are hard links where the file system
permits, else copies. Kinds of media that no loader supports (volumes, waveforms, documents, reports) are counted.

Source: Hugging Face, "Create an image dataset", "Create a video dataset", "Create an audio dataset" (`ImageFolder`).
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from exporter.tables.columns import CellType, Column
from exporter.tables.datasets.card import FolderTable, write_card
from exporter.tables.datasets.croissant import write_croissant
from exporter.tables.parquet_file import ParquetTable, arrow_schema, record_batch
from exporter.tables.patients import SPLITS
from exporter.tables.projection import line_batches

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.tables.datasets.croissant import PublicationTerms
    from exporter.tables.datasets.samples import DatasetSamples, SampleFile
    from exporter.tables.projection import Batch, Projection

ROOTS: Final = {
    "image": ("images", frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".jp2"})),
    "frames": ("images", frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".jp2"})),
    "video": ("videos", frozenset({".mp4", ".mkv", ".mov", ".avi"})),
    "audio": ("audio", frozenset({".wav", ".flac"})),
}
"""Root and extensions of each kind of media that loaders support."""
TABLE: Final = "metadata.parquet"
_FILE_COLUMNS: Final = (
    Column("file_name", CellType.TEXT, description="The media file, beside this table"),
    Column("medium", CellType.INTEGER, description="Which medium of the instance it is, from 0"),
    Column("frame", CellType.INTEGER, description="Which frame it is, from 0, of a folder of frames"),
)
_ROW_GROUP_BYTES: Final = 8 << 20
"""Size of a row group, small because up to nine tables are written at once."""


@dataclass(slots=True)
class FolderSummary:
    """Counts of a folder data set."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of rows by root and split."""
    other_kinds: Counter[str] = field(default_factory=Counter)
    """Number of media that no loader supports, by kind."""
    copied: int = 0
    """Media files that could not be linked."""


def write_folder(
    partial: Path, samples: DatasetSamples, projection: Projection, terms: PublicationTerms
) -> FolderSummary:
    """Fill a folder with a data set.

    Raises:
        TableError: pyarrow is not installed, or the lines cannot be read.
        OSError: The folder cannot be written.
    """
    summary = FolderSummary()
    with ExitStack() as stack:
        tables = _Tables(partial, stack, projection)
        for lines in line_batches(samples):
            batch = projection.batch(lines)
            rows: dict[tuple[str, str], list[tuple[int, str, SampleFile]]] = {}
            for row, line in enumerate(lines):
                split, key = samples.patients.of(line).split, samples.key(line)
                samples.instances[split] += 1
                for file in samples.files(line):
                    root, suffixes = ROOTS.get(file.kind, ("", frozenset()))
                    if file.suffix not in suffixes:
                        summary.other_kinds[file.kind] += 1
                        continue
                    folder = tables.folder(root, split)
                    name = f"{key}{_number(file)}{file.suffix}"
                    summary.copied += _link(file.path, folder / name)
                    rows.setdefault((root, split), []).append((row, name, file))
            for place, found in rows.items():
                tables.write(place, batch, found)
                summary.rows[place] += len(found)
    written = [
        FolderTable(root, split, partial / root / split / TABLE, summary.rows[root, split])
        for root in sorted({root for root, _ in summary.rows})
        for split in SPLITS
        if (root, split) in summary.rows
    ]
    write_croissant(partial, tables.columns, written, terms)
    write_card(partial, tables.columns, written)
    return summary


class _Tables:
    """The tables of a data set, opened when their first row comes."""

    def __init__(self, partial: Path, stack: ExitStack, projection: Projection) -> None:
        self.columns = (*_FILE_COLUMNS, *projection.columns)
        self._partial = partial
        self._stack = stack
        self._schema = arrow_schema(self.columns)
        self._open: dict[tuple[str, str], ParquetTable] = {}

    def folder(self, root: str, split: str) -> Path:
        """The folder of a split, with its table."""
        folder = self._partial / root / split
        if (root, split) not in self._open:
            folder.mkdir(parents=True, mode=0o700)
            table = ParquetTable(folder / TABLE, self._schema, row_group_bytes=_ROW_GROUP_BYTES)
            self._open[root, split] = self._stack.enter_context(table)
        return folder

    def write(self, place: tuple[str, str], batch: Batch, found: list[tuple[int, str, SampleFile]]) -> None:
        """Add one row per media file."""
        rows = [row for row, _, _ in found]
        cells: list[list[Any]] = [
            [name for _, name, _ in found],
            [file.medium for _, _, file in found],
            [file.frame for _, _, file in found],
            *([column[row] for row in rows] for column in batch.columns),
        ]
        self._open[place].write(record_batch(self._schema, cells))


def _number(file: SampleFile) -> str:
    """Number in the name of a file that distinguishes the files of one instance."""
    medium = "" if file.medium == 0 else f"_{file.medium}"
    return medium if file.frame is None else f"{medium}_{file.frame:06d}"


def _link(source: Path, target: Path) -> bool:
    """Hard-link a media file to another name, or copy it if that is not possible.

    Returns:
        Whether it was copied.

    Raises:
        OSError: Neither can be done.
    """
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links, or too many of them
        shutil.copyfile(source, target)
        target.chmod(0o600)
        return True
    return False
