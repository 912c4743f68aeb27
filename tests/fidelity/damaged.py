"""One instance for every line of "bad input": each must end in a named reason, or in a record that says what is odd."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import exporter
from tests.exporter.frames import streams
from tests.fidelity.cines import CINE_CLASS, INLINE, STREAM_FRAMES, VIDEO_CLASS, data_set, made_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

NATIVE, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"
ROWS, COLUMNS = 24, 32


@dataclass(frozen=True)
class Verdict:
    """What became of a damaged instance."""

    name: str
    told: str
    """The reason and message, or the warnings and notes of the record; empty where nothing is told."""
    silent: bool
    """Exported, and nothing told."""
    same: bool
    """Whether a second run gave the same bytes and words."""


def _native(frames: int = 1) -> Dataset:
    made = data_set(NATIVE, CINE_CLASS, frames, ROWS, COLUMNS, colour=False)
    ramp = np.arange(frames * ROWS * COLUMNS, dtype=np.uint32) % 251
    made.PixelData = ramp.astype(np.uint8).tobytes()
    return made


def _encoded(shapes: list[tuple[int, int]]) -> tuple[Dataset, list[bytes]]:
    """JPEG frames of these sizes in an instance that says `ROWS` x `COLUMNS`."""
    import io

    from PIL import Image

    frames = []
    for rows, columns in shapes:
        buffer = io.BytesIO()
        ramp = (np.add.outer(np.arange(rows) * 5, np.arange(columns) * 3) % 256).astype(np.uint8)
        Image.fromarray(ramp).save(buffer, "JPEG", quality=90)
        frames.append(buffer.getvalue())
    return data_set(JPEG, CINE_CLASS, len(shapes), ROWS, COLUMNS, colour=False), frames


def _with(made: Dataset, frames: list[bytes], *, has_bot: bool = True) -> Dataset:
    from pydicom.encaps import encapsulate

    made.PixelData = encapsulate(frames, has_bot=has_bot)
    made["PixelData"].is_undefined_length = True
    return made


def _frames_missing() -> Dataset:
    made = _native(4)
    made.PixelData = made.PixelData[: 3 * ROWS * COLUMNS]
    return made


def _encoded_frames_missing() -> Dataset:
    made, frames = _encoded([(ROWS, COLUMNS)] * 3)
    made.NumberOfFrames = 4
    return _with(made, frames)


def _fragment_short() -> Dataset:
    made, frames = _encoded([(ROWS, COLUMNS)] * 3)
    return _with(made, [frames[0], frames[1][: len(frames[1]) // 2], frames[2]])


def _table_lies() -> Dataset:
    made, frames = _encoded([(ROWS, COLUMNS)] * 3)
    made = _with(made, frames)
    data = bytearray(made.PixelData)
    data[12:16] = (4711).to_bytes(4, "little")
    made.PixelData = bytes(data)
    return made


def _other_size() -> Dataset:
    made, frames = _encoded([(ROWS * 2, COLUMNS)])
    return _with(made, frames)


def _mixed_sizes() -> Dataset:
    made, frames = _encoded([(ROWS, COLUMNS), (ROWS, COLUMNS), (ROWS + 8, COLUMNS)])
    return _with(made, frames)


def _beyond_palette() -> Dataset:
    made = _native()
    made.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [16, 0, 8])
        setattr(made, f"{colour}PaletteColorLookupTableData", bytes(range(0, 256, 16)))
    return made


def _element(keyword: str, value: str, **more: str) -> Callable[[], Dataset]:
    def make() -> Dataset:
        made = _native()
        for name, text in {keyword: value, **more}.items():
            _raw_text(made, name, text)
        return made

    return make


def _raw_text(made: Dataset, keyword: str, text: str) -> None:
    """An element whose bytes are `text`, whatever its VR permits."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(keyword) or 0)
    value = text.encode() + b" " * (len(text) % 2)
    vr = "IS" if keyword == "NumberOfFrames" else "DS"
    made._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def _video_ends_early() -> Dataset | None:
    from pydicom.encaps import encapsulate

    with tempfile.TemporaryDirectory() as folder:
        stream = made_stream("H.264 elementary, B-pyramid", Path(folder))
        if stream is None:
            return None
        payload = stream.read_bytes()
    made = data_set("1.2.840.10008.1.2.4.102", VIDEO_CLASS, STREAM_FRAMES, 120, 160, colour=True)
    made.FrameTime = "40"
    made.PixelData = encapsulate([payload[: len(payload) * 2 // 3]], has_bot=False)
    made["PixelData"].is_undefined_length = True
    return made


def _unit_missing(name: str, *, form: str = "") -> Callable[[], Dataset]:
    """A frame of `tests.exporter.frames.streams` without its second unit, or in another damaged form."""

    def make() -> Dataset:
        stream: streams.Stream = getattr(streams, name)()
        forms = dict(stream.damaged())
        made = data_set(stream.syntax, CINE_CLASS, 1, streams.ROWS, streams.COLUMNS, colour=False)
        return _with(made, [forms[form or "unit 1 removed"]])

    return make


def _video_of_another_size() -> Dataset | None:
    made = _video_ends_early()
    if made is not None:
        made.Rows, made.Columns = 2400, 3200
    return made


CASES: dict[str, Callable[[], Dataset | None]] = {
    "frames missing, native": _frames_missing,
    "frames missing, encapsulated": _encoded_frames_missing,
    "fragment short": _fragment_short,
    "offset table lies": _table_lies,
    "Rows x Columns are not the codestream's": _other_size,
    "frames of mixed size": _mixed_sizes,
    "palette index beyond the table": _beyond_palette,
    "window width 0": _element("WindowWidth", "0", WindowCenter="100"),
    "slope 0": _element("RescaleSlope", "0", RescaleIntercept="1"),
    "slope NaN": _element("RescaleSlope", "NaN", RescaleIntercept="0"),
    "NumberOfFrames is no number": _element("NumberOfFrames", "one"),
    "video stream ends early": _video_ends_early,
    "JPEG 2000 tile missing": _unit_missing("jpeg_2000_tiles"),
    "JPEG 2000 of another tile size": _unit_missing("jpeg_2000_tiles", form="XTsiz 1"),
    "Rows x Columns are not the video's": _video_of_another_size,
}


def verdict(name: str) -> Verdict | None:
    """Export one damaged instance twice; None where FFmpeg is missing to make it."""
    made = CASES[name]()
    if made is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.dcm"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, on what is to be odd
            made.save_as(path, enforce_file_format=True)
        told, again = (_outcome(path, Path(folder) / run) for run in ("first", "second"))
    return Verdict(name, told[0], silent=told[1] and not told[0], same=told == again)


def _outcome(path: Path, out: Path) -> tuple[str, bool, str]:
    """(what is told, whether there is a picture, hash of the media)."""
    outcome = exporter.export_file(path, out, INLINE)
    if outcome.status == "failed":
        return f"{outcome.reason}: {outcome.message}", False, ""
    if outcome.status == "skipped":
        return f"{outcome.reason}: {outcome.message}", False, ""
    notes = outcome.rendering.notes if outcome.rendering is not None else ()
    # What every export of this kind says is not said of the damage.
    odd = [n for n in (*outcome.warnings, *notes) if not n.startswith(("stream:", "decoded back:"))]
    return "; ".join(dict.fromkeys(odd)), True, outcome.media[0].sha256
