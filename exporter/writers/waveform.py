"""Waveforms (ECG, haemodynamic, respiratory, EEG, ...) to CSV in physical units, with a drawing beside it.

Contract: one CSV per multiplex group: first row names, one row per sample; ``time_s`` counts from the start of the
acquisition, every other column is one channel, ``label [unit]``, unit as the UCUM code of its sensitivity (``1`` for
uncalibrated samples). A channel with a skew of its own has its own time column before it. Padding is an empty cell.
Numbers are the shortest that read back as the same float64. The drawing shows the first `waveform.drawing_s` seconds at
25 mm/s, ECG voltages at 10 mm/mV.

Must never: filter, resample, round, or draw anything but what the CSV holds.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Final

import numpy as np

from exporter.errors import VerifyFailed
from exporter.outcome import MediaType
from exporter.writers.contract import InstancePart, Written
from exporter.writers.durable_write import media_file, write_new, writing
from exporter.writers.waveform_parts.drawing import draw, lay_out
from exporter.writers.waveform_parts.waveform_groups import groups_of, has_waveform
from listener.foundation.text import csv_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.outcome import MediaFile
    from exporter.settings.settings import MediaSettings
    from exporter.writers.contract import WriterTask
    from exporter.writers.waveform_parts.waveform_groups import WaveformGroup

SCORE: Final = 60
_ROWS: Final = 8192
_ECG_CLASSES: Final = "1.2.840.10008.5.1.4.1.1.9.1."


class WaveformWriter:
    """CSV and SVG (or PNG) files."""

    kind = MediaType.WAVEFORM
    part = InstancePart.WAVEFORM

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """`SCORE` for an instance with a waveform sequence, else None."""
        del settings
        return SCORE if has_waveform(instance) else None

    def write(self, task: WriterTask) -> Written:
        """A CSV, and a drawing where wanted, of every multiplex group.

        Raises:
            BadGeometry, CorruptPixels, UnsupportedSyntax, TooLarge: As `groups_of`.
            VerifyFailed: The CSV, read back, holds other numbers.
            OutOfSpace: The disk is full.
        """
        wanted = task.settings.waveform
        groups = groups_of(task.instance)
        media: list[MediaFile] = []
        warnings: list[str] = []
        for number, group in enumerate(groups, 1):
            base = "" if len(groups) == 1 else f".{number}"
            media.append(_table(task.folder / f"{len(media)}.part", group, base))
            warnings.extend(group.warnings)
            if wanted.drawing == "none":
                continue
            ecg = task.instance.sop_class_uid.startswith(_ECG_CLASSES)
            drawing, notes = lay_out(group, longest_s=wanted.drawing_s, ecg=ecg)
            warnings.extend(notes)
            path = task.folder / f"{len(media)}.part"
            draw(path, drawing, wanted.drawing)
            media.append(_medium(path, group, f"{base}.{wanted.drawing}", wanted.drawing))
        return Written(tuple(media), warnings=tuple(dict.fromkeys(warnings)))


def _medium(path: Path, group: WaveformGroup, suffix: str, codec: str) -> MediaFile:
    return media_file(path, MediaType.WAVEFORM, suffix, codec, duration_s=group.duration_s)


def _table(path: Path, group: WaveformGroup, base: str) -> MediaFile:
    write_new(path, _lines(group))
    _verify(path, group)
    return _medium(path, group, f"{base}.csv", "csv")


def _columns(group: WaveformGroup) -> list[tuple[str, int, bool]]:
    """Name, channel, and whether it is a time, of each column."""
    columns = [("time_s", -1, True)]
    for index, channel in enumerate(group.channels):
        name = f"{channel.label} [{channel.unit}]"
        if channel.skew_s:
            columns.append((f"time_s {channel.label}", index, True))
        columns.append((name, index, False))
    return columns


def _lines(group: WaveformGroup) -> Iterator[bytes]:
    columns = _columns(group)
    yield (",".join(_cell(name) for name, _, _ in columns) + "\n").encode()
    for start in range(0, len(group.raw), _ROWS):
        stop = min(start + _ROWS, len(group.raw))
        texts = [_texts(_values(group, channel, start, stop, time=time)) for _, channel, time in columns]
        yield ("\n".join(map(",".join, zip(*texts, strict=True))) + "\n").encode("ascii")


def _values(group: WaveformGroup, channel: int, start: int, stop: int, *, time: bool) -> NDArray[np.float64]:
    if not time:
        return group.physical(channel, start, stop)
    return group.times(None if channel < 0 else channel, start, stop)


def _texts(values: NDArray[np.float64]) -> list[str]:
    """Shortest decimal numbers that read back as the same values; empty for NaN."""
    return ["" if value != value else repr(value) for value in values.tolist()]  # noqa: PLR0124 - NaN differs from itself


def _cell(text: str) -> str:
    """A name as one CSV cell."""
    cell = csv_text(text)
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in '",') else cell


def _verify(path: Path, group: WaveformGroup) -> None:
    """Read the table with another reader and compare every number."""
    columns = _columns(group)
    with writing("reading a table back"), path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        if len(next(rows, [])) != len(columns):
            raise VerifyFailed("read table back: another number of columns")
        start = 0
        while block := [row for _, row in zip(range(_ROWS), rows, strict=False)]:
            stop = start + len(block)
            if stop > len(group.raw) or any(len(row) != len(columns) for row in block):
                raise VerifyFailed("read table back: another number of rows or columns")
            for index, (_, channel, time) in enumerate(columns):
                read = np.array([float(row[index] or "nan") for row in block])
                if not np.array_equal(read, _values(group, channel, start, stop, time=time), equal_nan=True):
                    raise VerifyFailed("read table back: other numbers than were written")
            start = stop
    if start != len(group.raw):
        raise VerifyFailed("read table back: rows are missing")
