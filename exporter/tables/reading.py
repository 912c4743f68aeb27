"""The Python interface: the table of a folder by batches, and one instance with its media and frame times.

Contract: reads only, except that the key of pseudonyms is made if a folder has none.
"""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporter.results.line import fs_name
from exporter.results.metadata.keys import KeyStyle
from exporter.results.stores.shard_index import index_of
from exporter.results.stores.shard_reading import ExtractedMedia, MediumDamaged
from exporter.tables.columns import ColumnChoice, ColumnRequest
from exporter.tables.datasets.samples import frame_records
from exporter.tables.errors import TableError
from exporter.tables.output_folder import ExportedFolder
from exporter.tables.own_columns import media_of
from exporter.tables.parquet_file import arrow_schema, record_batches
from exporter.tables.patients import REFERENCE_SHARES
from exporter.tables.projection import Projection

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    import numpy as np

    from exporter.tables.columns import Column
    from exporter.tables.lines import Line, MetadataLines

MOST_CANDIDATES: Final = 100
"""Most inputs with the same SOP Instance UID that are read."""
_SPACINGS: Final = ("Pixel Spacing", "Imager Pixel Spacing", "Nominal Scanned Pixel Spacing")
"""Elements with the spacing of rows and columns in mm (PS3.3 10.7.1)."""


@dataclass(frozen=True, slots=True)
class MetadataTable:
    """The metadata of a folder as a typed table that is read by batches; every iteration reads the lines anew.

    `pyarrow.table(table)`, DuckDB and Polars take it as it is (Arrow's C stream interface).
    """

    schema: Any
    """The `pyarrow.Schema`."""
    _folder: ExportedFolder
    _columns: tuple[Column, ...]
    _key_file: Path | None
    _shares: tuple[float, float, float]

    def __iter__(self) -> Iterator[Any]:
        """The rows as `pyarrow.RecordBatch`, one batch in memory at a time."""
        patients = self._folder.patients(self._key_file, self._shares)
        with self._folder.lines() as lines:
            yield from record_batches(self._columns, Projection(lines, patients, self._columns).batches())

    def reader(self) -> Any:
        """The rows as a `pyarrow.RecordBatchReader`."""
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def read_all(self) -> Any:
        """The whole table as a `pyarrow.Table`, in memory."""
        return self.reader().read_all()

    def to_pandas(self) -> Any:
        """The whole table as a `pandas.DataFrame`, in memory."""
        return self.read_all().to_pandas()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.reader().__arrow_c_stream__(requested_schema)


@dataclass(frozen=True, slots=True)
class LoadedInstance:
    """One exported instance."""

    record: dict[str, Any]
    """Its metadata line, its elements under their names."""
    media: tuple[Path, ...]
    """Its media files; for a folder of frames, the frames. Media in shards are copied into a folder for temporary
    files, which is there until this program ends."""
    frame_times_ms: np.ndarray[Any, np.dtype[np.float64]] | None
    """Times of the frames of the first medium from the first one, in ms, shape (frames,); None where there are none."""
    pixel_spacing_mm: tuple[float, float] | None
    """Distance of the first medium's rows and of its columns in mm; None where the instance does not say."""


def read_table(
    out: str | os.PathLike[str],
    *,
    keys: str = "keyword",
    columns: str | list[str] = "all",
    share: float = 0.9,
    key_file: str | os.PathLike[str] | None = None,
    shares: tuple[float, float, float] = REFERENCE_SHARES,
) -> MetadataTable:
    """The metadata of a folder as a table; see `exporter.read_table`."""
    listed = [] if isinstance(columns, str) else columns
    choice = ColumnChoice(columns) if isinstance(columns, str) else ColumnChoice.SPECIFIC
    request = ColumnRequest(KeyStyle(keys), choice, share, tuple(listed))
    folder = ExportedFolder.at(Path(out))
    key = None if key_file is None else Path(key_file)
    with folder.lines() as lines:
        table = Projection.of(lines, folder.patients(key, shares), request)
    return MetadataTable(arrow_schema(table.columns), folder, table.columns, key, shares)


def load_instance(out: str | os.PathLike[str], key: str) -> LoadedInstance:
    """One instance of a folder; see `exporter.load`.

    Raises:
        TableError: No line has that key, or lines of several inputs have it.
    """
    folder = ExportedFolder.at(Path(out))
    record = find_line(folder, key)
    found = [_path(folder.media, one) for one in media_of(record)]
    media = tuple(file for path in found for file in (_frames(path) if path.is_dir() else [path]))
    return LoadedInstance(record, media, _frame_times(record), _pixel_spacing(record))


def _path(media: Path, medium: dict[str, Any]) -> Path:
    """Path of a medium.

    Raises:
        TableError: It lies in a shard that is damaged.
    """
    path = str(medium.get("path") or "")
    if not index_of(media).exists():
        return media / fs_name(path)
    extracted = ExtractedMedia(media, [path])
    try:
        found = extracted.path(path, medium.get("sha256"))
    except MediumDamaged as error:
        raise TableError(f"medium {path}: {error}") from error
    atexit.register(extracted.close)
    return found or media / fs_name(path)


def find_line(folder: ExportedFolder, key: str) -> Line:
    """Last line of the instance with a `dicom_file`, SOP Instance UID or media file.

    Raises:
        TableError: No line has that key, or lines of several inputs have it.
    """
    with folder.lines() as lines:
        names = dict.fromkeys(line["dicom_file"] for line in lines.with_text(key) if _has_key(line, key))
        names = {key: None} if key in names else names
        last = {name: _last(lines, name) for name in list(names)[:MOST_CANDIDATES]}
    found = [line for line in last.values() if _has_key(line, key)]
    if len(found) != 1:
        number = f"{len(found)} inputs have" if found else "no input has"
        raise TableError(f"{number} that key: give `dicom_file`, a SOP Instance UID that one input has, or a medium")
    return found[0]


def _last(lines: MetadataLines, name: str) -> Line:
    *_, last = (line for line in lines.with_text(name) if line["dicom_file"] == name)
    return last


def _has_key(line: Line, key: str) -> bool:
    return key in (line["dicom_file"], line.get("SOP Instance UID"), *(one.get("path") for one in media_of(line)))


def _frames(folder: Path) -> list[Path]:
    return [folder / str(frame["file"]) for frame in frame_records(folder) if frame.get("file")]


def _frame_times(line: Line) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    import numpy as np

    timing = line["export"].get("timing")
    media = media_of(line)
    if not isinstance(timing, dict) or not media:
        return None
    times = timing.get("frame_times_ms")
    if times:
        return np.asarray(times, np.float64)
    rate, frames = timing.get("rate_hz"), media[0].get("frames")
    return None if not rate or not frames else np.arange(frames, dtype=np.float64) * (1000.0 / rate)


def _pixel_spacing(line: Line) -> tuple[float, float] | None:
    media = media_of(line)
    geometry = media[0].get("geometry") if media else None
    if isinstance(geometry, dict):
        spacing = geometry.get("pixel_spacing_mm") or _of_regions(geometry.get("regions") or [])
    else:
        spacing = next((value for key in _SPACINGS if isinstance(value := line.get(key), list)), None)
    if (
        not isinstance(spacing, list)
        or len(spacing) != 2
        or not all(isinstance(one, int | float) and one > 0 for one in spacing)
    ):
        return None
    return float(spacing[0]), float(spacing[1])


def _of_regions(regions: list[dict[str, Any]]) -> list[float] | None:
    """The spacing of the largest region that shows a two-dimensional picture in centimetres (PS3.3 C.8.5.5.1.15)."""

    def area(region: dict[str, Any]) -> float:
        left, top, right, bottom = region["box"]
        return float((right - left) * (bottom - top))

    flat = [one for one in regions if one.get("spatial_format") == "2D" and one.get("units") == ["cm", "cm"]]
    if not flat:
        return None
    horizontal, vertical = max(flat, key=area)["delta"]
    return [10 * abs(vertical or 0), 10 * abs(horizontal or 0)]
