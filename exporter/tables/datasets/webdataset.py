"""`--format webdataset`: shards (`train-000000.tar`, ...) in which the files of a sample follow each other.

Contract: a shard has at most the permitted bytes, unless a single sample is larger; a sample is never split between
shards. A sample is `<key>.<ext>` (the first medium) and `<key>.json` (the row; JSON columns as objects). Further
media are `<key>.<number>.<ext>`, frames `<key>.<frame, six digits>.<ext>`. Keys have no dots: readers cut names at the
first one. Owner, mode and time of members are fixed: the same input gives the same bytes.

Source: WebDataset, "The WebDataset Format"; POSIX.1-1988 (ustar).
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import orjson

from exporter.tables.columns import CellType
from exporter.tables.datasets.card import write_shard_card
from exporter.tables.patients import SPLITS
from exporter.tables.projection import line_batches

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.tables.datasets.samples import DatasetSamples, SampleFile
    from exporter.tables.projection import Batch, Projection

MOST_SHARD_BYTES: Final = 10**9
_BLOCK: Final = 512
_END: Final = 2 * tarfile.RECORDSIZE
"""Most bytes of the end of an archive."""


def write_shards(
    partial: Path, samples: DatasetSamples, projection: Projection, most_bytes: int = MOST_SHARD_BYTES
) -> Counter[str]:
    """Fill a folder with shards.

    Returns:
        The number of shards by split.

    Raises:
        TableError: The lines cannot be read.
        OSError: The folder cannot be written.
    """
    with ExitStack() as stack:
        shards = {split: _Shards(partial, split, most_bytes, stack) for split in SPLITS}
        for lines in line_batches(samples):
            batch = projection.batch(lines)
            for row, line in enumerate(lines):
                files = samples.files(line)
                if not files:
                    continue
                split, key = samples.patients.of(line).split, samples.key(line)
                samples.instances[split] += 1
                shards[split].add(key, files, _row_json(projection, batch, row))
    counted = Counter({split: shards[split].number for split in SPLITS if shards[split].number})
    write_shard_card(partial, counted, samples.instances)
    return counted


class _Shards:
    """The shards of one split."""

    def __init__(self, folder: Path, split: str, most_bytes: int, stack: ExitStack) -> None:
        self.number = 0
        self._folder = folder
        self._split = split
        self._most_bytes = most_bytes
        self._stack = stack
        self._tar: tarfile.TarFile | None = None
        self._bytes = 0

    def add(self, key: str, files: list[SampleFile], row: bytes) -> None:
        """Add one sample, to a new shard if it does not fit into the present one."""
        members: list[tuple[str, Path | bytes, int]] = [
            (f"{key}{_extension(file)}", file.path, file.path.stat().st_size) for file in files
        ]
        members.insert(1, (f"{key}.json", row, len(row)))
        size = sum(_BLOCK + -(-member_bytes // _BLOCK) * _BLOCK for _, _, member_bytes in members)
        if self._tar is None or self._bytes + size + _END > self._most_bytes:
            self._tar = self._next()
        for name, content, member_bytes in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = member_bytes, 0o644
            if isinstance(content, bytes):
                self._tar.addfile(member, io.BytesIO(content))
            else:
                with content.open("rb") as file:
                    self._tar.addfile(member, file)
        self._bytes += size

    def _next(self) -> tarfile.TarFile:
        if self._tar is not None:
            self._tar.close()
        path = self._folder / f"{self._split}-{self.number:06d}.tar"
        self.number += 1
        self._bytes = 0
        return self._stack.enter_context(tarfile.open(path, "w", format=tarfile.USTAR_FORMAT))


def _extension(file: SampleFile) -> str:
    medium = f".{file.medium}" if file.medium else ""
    frame = "" if file.frame is None else f".{file.frame:06d}"
    return f"{medium}{frame}{file.suffix}"


def _row_json(projection: Projection, batch: Batch, row: int) -> bytes:
    """Row as JSON: cells that are not null, JSON columns as JSON values."""
    cells: dict[str, Any] = {}
    for column, values in zip(projection.columns, batch.columns, strict=True):
        value = values[row]
        if value is not None:
            cells[column.name] = orjson.Fragment(value) if column.type is CellType.JSON else value
    return orjson.dumps(cells)
