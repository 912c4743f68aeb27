"""Export folders of real files as a user would, and let independent decoders judge the media files.

Contract: `survey` exports twice through `exporter.backfill`: with every default, and with what shows each pixel
(`view8` and `raw16`, multi-frames as folders of images, no volumes). Media are then read from disk by Pillow, NumPy,
ffprobe and FFmpeg alone. A judge that cannot read a file has no say on it; that is counted, never hidden.
"""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import exporter
from exporter.settings.settings import Settings
from tests.fidelity import decoders, reference

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydicom.dataset import Dataset

    from exporter.outcome import Outcome
    from tests.fidelity.reference import Window

DEFAULTS = Settings(num_workers=2)
EVERY_PIXEL = Settings.model_validate(
    {
        "num_workers": 2,
        "image": {"outputs": ["view8", "raw16"]},
        "frames": {"enabled": True},
        "volume": {"enabled": False},
    }
)


@dataclass
class Finding:
    """What was found for one file; differences are the worst over the frames that were judged."""

    file: str
    syntax: str
    name: str
    photometric: str
    bits: str
    frames: int = 1
    refused: str = ""
    """Reason and message of the product."""
    confirmed: str = ""
    """What other decoders make of a refused file."""
    raw: float | None = None
    """`raw16` against an independent decoder's stored values."""
    raw_judge: str = ""
    formula: float | None = None
    """`view8` against the float64 reference, of 255."""
    dcmtk: float | None = None
    """`view8` against DCMTK's picture, of 255."""
    second: float | None = None
    """Lossy: `view8` against a second decoder's picture, of 255."""
    means: float | None = None
    """Lossy: colour means against the second decoder's."""
    video_means: float | None = None
    """Colour means of the default video, decoded by FFmpeg, against `view8`."""
    times: float | None = None
    """Worst presentation time against the elements, in milliseconds."""
    timing: str = ""
    because: str = ""
    """Why a judge is known to differ."""
    warnings: tuple[str, ...] = ()


@dataclass
class Exports:
    """The two exports of one folder."""

    folder: Path
    default: dict[str, Outcome] = field(default_factory=dict)
    pixels: dict[str, Outcome] = field(default_factory=dict)
    default_media: Path = Path()
    pixel_media: Path = Path()


def export(folder: Path, out: Path) -> Exports:
    """Both exports of a folder."""
    found = Exports(folder, default_media=out / "default" / "media", pixel_media=out / "pixels" / "media")
    for name, settings, outcomes in (("default", DEFAULTS, found.default), ("pixels", EVERY_PIXEL, found.pixels)):
        for outcome in exporter.backfill(folder, out / name, settings):
            outcomes[str(outcome.name)] = outcome
    return found


def survey(exports: Exports) -> list[Finding]:
    """The findings on every file of the folder that has pixels, in order of their names."""
    found = []
    for name in sorted(exports.pixels):
        finding = judge(exports, name)
        if finding is not None:
            found.append(finding)
    return found


def judge(exports: Exports, name: str) -> Finding | None:
    """What is found for one file; None where it has no pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on odd headers
        return _judged(exports, name)


def _judged(exports: Exports, name: str) -> Finding | None:
    path = exports.folder / name
    try:
        header = decoders.header_of(path)
    except Exception:  # noqa: BLE001 - pydicom's view is only for description
        return None
    if not any(keyword in header for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        return None
    outcome = exports.pixels[name]
    finding = _described(name, header)
    if outcome.status == "failed":
        finding.refused = f"{outcome.reason}: {outcome.message}"
        finding.confirmed = decoders.refusals(path)
        return finding
    if outcome.status != "exported":
        return None
    finding.warnings = outcome.warnings
    if finding.syntax not in decoders.VIDEO:
        _judge_pixels(exports, name, header, finding)
        _judge_video_means(exports, name, finding)
    _judge_times(exports, name, header, finding)
    return finding


def _described(name: str, header: Dataset) -> Finding:
    from pydicom.uid import UID

    syntax = str(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else ""
    stored = header.get("BitsStored") or header.get("BitsAllocated")
    sign = "s" if header.get("PixelRepresentation") else ""
    bits = "float" if "PixelData" not in header else f"{stored}{sign}/{header.get('BitsAllocated')}"
    photometric = str(header.get("PhotometricInterpretation") or "?")
    if int(header.get("SamplesPerPixel") or 1) == 3 and header.get("PlanarConfiguration"):
        photometric += " (planar)"
    frames = str(header.get("NumberOfFrames") or 1)
    title = UID(syntax).name if syntax else "not stated"
    return Finding(name, syntax, title, photometric, bits, frames=int(frames) if frames.isdigit() else 1)


def medium(outcome: Outcome, media: Path, suffixes: Iterable[str]) -> Path | None:
    """The media file of an outcome that ends so."""
    if outcome.status != "exported":
        return None
    for suffix in suffixes:
        for one in outcome.media:
            if one.suffix == suffix:
                return media / one.file
    return None


def pictures(outcome: Outcome, media: Path) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """(display values, stored values) by frame, as they are in the media files."""
    folder = medium(outcome, media, (".frames/",))
    if folder is not None:
        lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
        shown = {line["frame"] - 1: picture(folder / line["file"]) for line in lines}
        raw = {line["frame"] - 1: _raw(folder / line["raw"], line["offset"]) for line in lines if "raw" in line}
        return shown, raw
    view = medium(outcome, media, (".png",))
    stored = medium(outcome, media, (".raw.png", ".raw.npy"))
    if stored is None or outcome.status != "exported":
        return ({} if view is None else {0: picture(view)}), {}
    values = next(one.values for one in outcome.media if one.suffix.startswith(".raw"))
    return ({} if view is None else {0: picture(view)}), {0: _raw(stored, 0 if values is None else values.offset)}


def picture(path: Path) -> np.ndarray:
    """An image file's samples."""
    with Image.open(path) as image:
        return np.array(image)


def _raw(path: Path, offset: int) -> np.ndarray:
    if path.suffix == ".npy":
        values: np.ndarray = np.load(path)
        return values
    return picture(path).astype(np.int64) + offset


def few_of(frames: int) -> list[int]:
    """The frames that are judged where each costs a process."""
    return sorted({0, frames // 2, frames - 1})


def _judge_pixels(exports: Exports, name: str, header: Dataset, finding: Finding) -> None:
    path, outcome = exports.folder / name, exports.pixels[name]
    shown, raw = pictures(outcome, exports.pixel_media)
    few = few_of(finding.frames)
    lossy = finding.syntax in decoders.LOSSY
    theirs = decoders.stored_values(path, header, few)
    if theirs is not None:
        finding.raw_judge = theirs.judge
        compared = [worst(raw[i], values) for i, values in theirs.frames.items() if i in raw]
        if compared:
            finding.raw = max(compared)
    # The pipeline is judged on independent stored values; those of lossy codecs differ, so there on our own.
    stored = raw if lossy and raw else theirs.frames if theirs is not None else {}
    gray = int(header.get("SamplesPerPixel") or 1) == 1 and finding.photometric != "PALETTE COLOR"
    ranges = reference.automatic(header, (raw or stored).items()) if gray and (raw or stored) else None
    if stored:
        finding.formula = _against_formula(header, stored, shown, ranges, lossy=lossy)
    finding.dcmtk = _against_dcmtk(path, header, shown, few, finding, ranges)
    pillow = decoders.JPEG | decoders.JPEG_2000  # FFmpeg 5 and Pillow read no HTJ2K and no colour JPEG-LS
    if lossy and finding.syntax in pillow and int(header.get("SamplesPerPixel") or 1) == 3:
        _against_second(header, shown, finding)


def worst(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Greatest difference; infinite where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return float(np.nan_to_num(difference, nan=0.0).max())


def _against_formula(
    header: Dataset,
    stored: dict[int, np.ndarray],
    shown: dict[int, np.ndarray],
    ranges: Window | None,
    *,
    lossy: bool,
) -> float | None:
    label = header.get("PhotometricInterpretation")
    differences = []
    for index, values in stored.items():
        if index not in shown:
            continue
        if label == "PALETTE COLOR":
            expected = reference.palette(values, header)
        elif values.ndim == 3:
            if lossy:
                return None
            expected = reference.rgb(values, label, int(header.BitsStored))
        else:
            how = reference.window(header, index)
            if how.kind == "automatic" and ranges is not None:
                how = ranges
            expected = reference.gray(values, header, index, how)
            if shown[index].ndim == 3:
                expected = np.repeat(expected[..., np.newaxis], 3, axis=-1)
                coloured = values >= int(header.RedPaletteColorLookupTableDescriptor[1])
                expected[coloured] = reference.palette(values, header)[coloured]
        differences.append(worst(shown[index], expected))
    return max(differences) if differences else None


def _against_dcmtk(
    path: Path, header: Dataset, shown: dict[int, np.ndarray], few: list[int], finding: Finding, ranges: Window | None
) -> float | None:
    """DCMTK applies the first VOI table (`+Wl 1`), the first window (`+Wi 1`), or the range of the frame (`+Wm`).

    Where the range is one of all frames, or a window is a functional group's, the numbers are handed over (`+Ww`);
    values of up to 8 bits without a window are shown as they are (`-W`).
    """
    differences = []
    for index in few:
        if index not in shown:
            continue
        theirs = decoders.dcmtk_picture(path, finding.syntax, _window_option(header, index, finding, ranges), index)
        if theirs is None:
            continue
        ours = shown[index] if shown[index].ndim == 3 else shown[index][..., np.newaxis]
        differences.append(worst(ours, theirs))
    return max(differences) if differences else None


def _window_option(header: Dataset, index: int, finding: Finding, ranges: Window | None) -> list[object]:
    if int(header.get("SamplesPerPixel") or 1) == 3 or header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return []
    how = reference.window(header, index)
    if how.kind == "LUT":
        return ["+Wl", 1]
    if how.kind != "automatic":
        grouped = reference.group_item(header, index, "FrameVOILUTSequence") is not header
        return ["+Ww", how.centre, how.width] if grouped else ["+Wi", 1]
    if int(header.get("BitsStored") or 16) <= 8:
        return ["-W"]
    if finding.frames > 1 and ranges is not None:  # LINEAR, which DCMTK applies, is half a value and one value off
        return ["+Ww", ranges.centre + 0.5, ranges.width + 1]
    return ["+Wm"]


def pillow_picture(encoded: bytes) -> np.ndarray | None:
    """RGB of a JPEG as Pillow shows it."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return None


def _against_second(header: Dataset, shown: dict[int, np.ndarray], finding: Finding) -> None:
    """Lossy colours: FFmpeg's picture of JPEG 2000, Pillow's of JPEG, and FFmpeg's means of both.

    FFmpeg repeats subsampled chrominance where libjpeg interpolates: its JPEG pictures differ by more than rounding.
    """
    try:
        encoded = decoders.codestreams(header)
    except Exception:  # noqa: BLE001 - a judge that cannot read a file has no say on it
        return
    differences, means = [], []
    for index in few_of(finding.frames):
        if index not in shown or index >= len(encoded):
            continue
        ours = shown[index]
        jpeg = encoded[index][:2] == b"\xff\xd8"
        other = decoders.ffmpeg_frame(encoded[index], header, "jpeg_pipe" if jpeg else "j2k_pipe", "rgb24")
        if other is not None and other.shape == ours.shape:
            means.append(float(np.abs(ours.mean((0, 1)) - other.mean((0, 1))).max()))
        if jpeg:
            other = pillow_picture(encoded[index])
        if other is not None:
            differences.append(worst(ours, other))
    finding.second = max(differences, default=None)
    finding.means = max(means, default=None)


def _judge_video_means(exports: Exports, name: str, finding: Finding) -> None:
    """The default video's colours as FFmpeg shows them, against the display values."""
    outcome = exports.default.get(name)
    if outcome is None or finding.frames < 2:
        return
    video = medium(outcome, exports.default_media, (".mp4",))
    shown, _ = pictures(exports.pixels[name], exports.pixel_media)
    if video is None or outcome.status != "exported" or not shown:
        return
    one = next(m for m in outcome.media if m.suffix == ".mp4")
    few = [i for i in few_of(finding.frames) if i in shown]
    found = decoders.video_frames(video, int(one.height or 0), int(one.width or 0), few)
    differences = []
    for index, frame in found.items():
        ours = shown[index] if shown[index].ndim == 3 else np.repeat(shown[index][..., np.newaxis], 3, axis=-1)
        inside = frame[: ours.shape[0], : ours.shape[1]]
        differences.append(float(np.abs(inside.mean((0, 1)) - ours.mean((0, 1))).max()))
    finding.video_means = max(differences, default=None)


def expected_times(header: Dataset, frames: int) -> tuple[str, list[float]] | None:
    """(element, milliseconds of every frame) as the header has them, read without the product (PS3.3 C.7.6.5)."""
    pointed = header.get("FrameIncrementPointer")
    pointers = (
        [pointed] if not isinstance(pointed, (list, tuple)) and not hasattr(pointed, "__iter__") else list(pointed)
    )
    vector = header.get("FrameTimeVector")
    if vector is not None and hasattr(vector, "__len__") and len(vector) == frames and 0x00181063 not in pointers:
        return "FrameTimeVector", np.cumsum([0.0, *(float(v) for v in vector[1:])]).tolist()
    for keyword, milliseconds in (
        ("FrameTime", float),
        ("CineRate", lambda v: 1000 / float(v)),
        ("RecommendedDisplayFrameRate", lambda v: 1000 / float(v)),
        ("ActualFrameDuration", float),
    ):
        value = header.get(keyword)
        if value not in {None, ""} and float(value) > 0:
            return keyword, [i * milliseconds(value) for i in range(frames)]
    return None


def _judge_times(exports: Exports, name: str, header: Dataset, finding: Finding) -> None:
    outcome = exports.default.get(name)
    video = medium(outcome, exports.default_media, (".mp4",)) if outcome is not None else None
    if video is None or finding.frames < 2 or outcome is None or outcome.status != "exported":
        return
    timing = outcome.timing
    finding.timing = timing.source if timing is not None else ""
    expected = expected_times(header, finding.frames)
    if expected is None or "PerFrameFunctionalGroupsSequence" in header:
        return
    found = decoders.presentation_times(video)
    finding.timing = expected[0]
    if len(found) != len(expected[1]):
        finding.times = float("inf")
        return
    finding.times = max(abs(1000 * (f - found[0]) - e) for f, e in zip(found, expected[1], strict=True))
