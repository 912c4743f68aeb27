"""Multi-frames with every timing element, and video streams in every wrapping, exported and read back by ffprobe.

Contract: what is expected is written down here from the elements, in milliseconds; the product's own timing is not
asked. Streams are encoded by the system's FFmpeg.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import exporter
from exporter.settings.settings import Settings
from tests.fidelity import decoders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

INLINE = Settings(num_workers=0)
FRAMES = 7
OFFSETS = [0.0, 33.3, 66.6, 141.6, 141.9, 1141.9, 1175.2]
"""Milliseconds of seven frames, at anything but a constant rate."""
VIDEO_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.1.1"
CINE_CLASS = "1.2.840.10008.5.1.4.1.1.3.1"
ENHANCED_XA = "1.2.840.10008.5.1.4.1.1.12.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.2"


@dataclass(frozen=True)
class Timed:
    """What one cine or stream came to."""

    name: str
    source: str
    """The element that the record names."""
    frames: int
    worst_ms: float
    """Greatest difference of a presentation time from the elements."""
    same: bool | None = None
    """Streams: whether packets' payloads are those of the encapsulated stream."""
    plays: bool | None = None
    """Streams: whether FFmpeg decodes the file, without complaint, to the pictures of the original."""


def data_set(syntax: str, sop_class: str, frames: int, rows: int, columns: int, *, colour: bool) -> Dataset:
    """An instance of gray or colour frames without pixels."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = UID(syntax)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID("1.2.826.0.1.3680043.8.498.7")
    made.StudyInstanceUID = made.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.8"
    made.Rows, made.Columns, made.NumberOfFrames = rows, columns, frames
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.SamplesPerPixel = 3 if colour else 1
    made.PhotometricInterpretation = "YBR_PARTIAL_420" if colour else "MONOCHROME2"
    if colour:
        made.PlanarConfiguration = 0
    return made


def _pointer(keyword: str) -> int:
    from pydicom.datadict import tag_for_keyword

    return tag_for_keyword(keyword) or 0


def _grouped(macro: str, keyword: str, values: list[Any]) -> dict[str, Any]:
    from pydicom.dataset import Dataset

    items = []
    for value in values:
        inner, group = Dataset(), Dataset()
        setattr(inner, keyword, value)
        setattr(group, macro, [inner])
        items.append(group)
    return {"PerFrameFunctionalGroupsSequence": items}


def _moments() -> list[str]:
    """`OFFSETS` from a moment shortly before midnight."""
    start = (23 * 3600 + 59 * 60 + 59) * 1000
    found = []
    for offset in OFFSETS:
        total = start + offset
        day, rest = divmod(total, 86_400_000)
        hours, rest = divmod(rest, 3_600_000)
        minutes, rest = divmod(rest, 60_000)
        found.append(f"2026013{int(day)}{int(hours):02d}{int(minutes):02d}{rest / 1000:09.6f}")
    return found


def timing_cases() -> Iterator[tuple[str, str, dict[str, Any], list[float]]]:
    """(name, element that decides, elements, milliseconds of every frame)."""
    vector = [0.0, *np.diff(OFFSETS).round(3).tolist()]
    vector_text = [f"{v:.3f}" for v in vector]
    yield "FrameTime 40", "FrameTime", {"FrameTime": "40"}, [40.0 * i for i in range(FRAMES)]
    yield "FrameTime 33.333, 1000 frames", "FrameTime", {"FrameTime": "33.333"}, [33.333 * i for i in range(1000)]
    elements: dict[str, Any] = {"FrameTimeVector": vector_text, "FrameIncrementPointer": _pointer("FrameTimeVector")}
    yield "FrameTimeVector", "FrameTimeVector", elements, OFFSETS
    yield "FrameTimeVector, no pointer", "FrameTimeVector", {"FrameTimeVector": vector_text}, OFFSETS
    yield (
        "FrameTimeVector with a first value",
        "FrameTimeVector",
        {**elements, "FrameTimeVector": ["50.000", *vector_text[1:]]},
        OFFSETS,
    )
    both = {"FrameTime": "20", "FrameTimeVector": vector_text, "CineRate": "5"}
    yield (
        "pointer to FrameTime",
        "FrameTime",
        {**both, "FrameIncrementPointer": _pointer("FrameTime")},
        [20.0 * i for i in range(FRAMES)],
    )
    yield (
        "pointer to FrameTimeVector",
        "FrameTimeVector",
        {
            **both,
            "FrameIncrementPointer": _pointer("FrameTimeVector"),
        },
        OFFSETS,
    )
    seconds = [o / 1000 for o in OFFSETS]
    yield (
        "TemporalPositionTimeOffset",
        "TemporalPositionTimeOffset",
        _grouped("TemporalPositionSequence", "TemporalPositionTimeOffset", seconds),
        OFFSETS,
    )
    for keyword in ("FrameReferenceDateTime", "FrameAcquisitionDateTime"):
        yield f"{keyword} over midnight", keyword, _grouped("FrameContentSequence", keyword, _moments()), OFFSETS
    yield "CineRate 24", "CineRate", {"CineRate": "24"}, [i * 1000 / 24 for i in range(FRAMES)]
    yield (
        "RecommendedDisplayFrameRate 15",
        "RecommendedDisplayFrameRate",
        {"RecommendedDisplayFrameRate": "15"},
        [i * 1000 / 15 for i in range(FRAMES)],
    )
    yield (
        "ActualFrameDuration 125",
        "ActualFrameDuration",
        {"ActualFrameDuration": "125"},
        [125.0 * i for i in range(FRAMES)],
    )


def timed_cine(name: str, elements: dict[str, Any], expected: list[float]) -> Timed:
    """Export a synthetic cine and read its presentation times."""
    frames = len(expected)
    grouped = "PerFrameFunctionalGroupsSequence" in elements
    made = data_set("1.2.840.10008.1.2.1", ENHANCED_XA if grouped else CINE_CLASS, frames, 16, 16, colour=False)
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    made.PixelData = (np.arange(frames, dtype=np.uint8)[:, np.newaxis] * 3 + np.zeros(256, np.uint8)).tobytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cine.dcm"
        made.save_as(path, enforce_file_format=True)
        outcome = exporter.export_file(path, Path(folder) / "out", INLINE)
        if outcome.status != "exported":
            return Timed(name, outcome.status, 0, float("inf"))
        found = decoders.presentation_times(Path(folder) / "out" / "media" / outcome.media[0].file)
    source = outcome.timing.source if outcome.timing is not None else ""
    return Timed(name, source, len(found), worst_of(found, expected))


def worst_of(found: list[float], expected: list[float]) -> float:
    """Greatest difference in milliseconds of times in seconds, the first of which counts as zero."""
    if len(found) != len(expected):
        return float("inf")
    return max(abs(1000 * (f - found[0]) - e) for f, e in zip(found, expected, strict=True))


STREAMS = {
    # name: (transfer syntax, options of the encoder, FFmpeg's format)
    "MPEG-2 program stream": ("1.2.840.10008.1.2.4.100", "-c:v mpeg2video -bf 2", "vob"),
    "MPEG-2 program stream with sound": ("1.2.840.10008.1.2.4.100", "-c:v mpeg2video -bf 2 -c:a mp2", "vob"),
    "MPEG-2 transport stream": ("1.2.840.10008.1.2.4.101", "-c:v mpeg2video -bf 2", "mpegts"),
    "MPEG-2 elementary, interlaced": ("1.2.840.10008.1.2.4.101", "-c:v mpeg2video -flags +ildct+ilme", "mpeg2video"),
    "MP4, index at the end": ("1.2.840.10008.1.2.4.102", "-c:v libx264 -bf 3", "mp4"),
    "MP4 with sound, index at the end": ("1.2.840.10008.1.2.4.103", "-c:v libx264 -bf 3 -c:a aac", "mp4"),
    "MP4, fragmented": (
        "1.2.840.10008.1.2.4.102.1",
        "-c:v libx264 -bf 2 -movflags +frag_keyframe+empty_moov",
        "mp4",
    ),
    "H.264 transport stream": ("1.2.840.10008.1.2.4.104", "-c:v libx264 -bf 2", "mpegts"),
    "H.264 elementary, B-pyramid": ("1.2.840.10008.1.2.4.105", "-c:v libx264 -bf 5 -b-pyramid normal", "h264"),
    "HEVC elementary": ("1.2.840.10008.1.2.4.107", "-c:v libx265 -x265-params log-level=none", "hevc"),
    "HEVC Main 10": (
        "1.2.840.10008.1.2.4.108",
        "-c:v libx265 -pix_fmt yuv420p10le -x265-params log-level=none",
        "hevc",
    ),
}
STREAM_FRAMES = 50


def made_stream(name: str, folder: Path) -> Path | None:
    """A stream of 25 pictures per second that FFmpeg has encoded from a moving test picture."""
    _, options, form = STREAMS[name]
    target = folder / "stream"
    inputs = ["-f", "lavfi", "-i", "testsrc2=s=160x120:r=25"]
    if "-c:a" in options:
        inputs += ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]
    pixels = [] if "pix_fmt" in options else ["-pix_fmt", "yuv420p"]
    length = ["-t", str(STREAM_FRAMES / 25)]
    made = decoders.run("ffmpeg", "-v", "error", "-y", *inputs, *length, *pixels, *options.split(), "-f", form, target)
    return None if made is None else target


def copied_stream(name: str, folder: Path) -> Timed | None:
    """A stream in an instance of three fragments, exported."""
    stream = made_stream(name, folder)
    if stream is None:
        return None
    made = data_set(STREAMS[name][0], VIDEO_CLASS, STREAM_FRAMES, 120, 160, colour=True)
    made.FrameTime = "40"
    path = folder / "stream.dcm"
    _encapsulate(made, stream.read_bytes())
    _save(made, path)
    return judged_stream(name, path, stream, [40.0 * i for i in range(STREAM_FRAMES)], folder / "out")


def _encapsulate(made: Dataset, payload: bytes) -> None:
    from pydicom.encaps import itemize_fragment

    step = (len(payload) // 3 + 1) // 2 * 2
    pieces = [payload[:step], payload[step : 2 * step], payload[2 * step :]]
    made.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" + b"".join(itemize_fragment(piece) for piece in pieces)
    made["PixelData"].is_undefined_length = True


def _save(made: Dataset, path: Path) -> None:
    from pydicom.uid import AllTransferSyntaxes

    syntax = made.file_meta.TransferSyntaxUID
    if syntax not in AllTransferSyntaxes:
        raise ValueError(syntax)
    made.save_as(path, enforce_file_format=True)


def judged_stream(name: str, path: Path, stream: Path, expected: list[float], out: Path) -> Timed:
    """Export an instance that holds `stream`; packets, times and pictures of the copy against the original's."""
    outcome = exporter.export_file(path, out, INLINE)
    if outcome.status != "exported":
        return Timed(name, f"{outcome.status}: {outcome.reason}", 0, float("inf"), same=False, plays=False)
    copy = out / "media" / outcome.media[0].file
    codec = outcome.media[0].codec
    times = decoders.presentation_times(copy)
    source = outcome.timing.source if outcome.timing is not None else ""
    same = units_of(copy, codec) == units_of(stream, codec)
    pictures, complaint = pictures_of(copy)
    plays = bool(pictures) and not complaint and pictures == pictures_of(stream)[0]
    return Timed(name, source, len(times), worst_of(times, expected), same=same, plays=plays)


def units_of(path: Path, codec: str) -> list[bytes]:
    """The units of a video as bare bytes, by FFmpeg: NAL units, or the whole elementary stream of MPEG-2."""
    filters = {"h264": ("-bsf:v", "h264_mp4toannexb"), "hevc": ("-bsf:v", "hevc_mp4toannexb")}.get(codec, ())
    form = codec if codec in {"h264", "hevc"} else "mpeg2video"
    answer = decoders.run("ffmpeg", "-v", "error", "-i", path, "-map", "0:v:0", "-c", "copy", *filters, "-f", form, "-")
    if answer is None:
        return []
    if not filters:
        return [answer[0].rstrip(b"\0")]
    units = [unit.strip(b"\0") for unit in re.split(b"\0\0\1", answer[0])]
    headers = {"h264": {7, 8, 9}, "hevc": {32, 33, 34, 35}}[codec]
    # Parameter sets and delimiters may stand once in a container's header and again in the stream.
    kept = [u for u in units if u and (u[0] & 31 if codec == "h264" else u[0] >> 1 & 63) not in headers]
    return [*kept, b"", *sorted({u for u in units if u and u not in kept})]


def pictures_of(path: Path) -> tuple[list[str], str]:
    """(a hash per picture in order of display, what FFmpeg complained of)."""
    options = ("-v", "error", "-i", path, "-map", "0:v:0", "-vsync", "passthrough", "-f", "framemd5", "-")
    answer = decoders.run("ffmpeg", *options)
    if answer is None:
        return [], "FFmpeg fails"
    lines = [line for line in answer[0].decode().splitlines() if line and not line.startswith("#")]
    return [line.rsplit(",", 1)[1].strip() for line in lines], answer[1]


def corpus_streams(corpus: Path) -> Iterator[Timed]:
    """The streams of the corpus; times by their own elements."""
    from pydicom.encaps import generate_fragments

    for path in sorted((corpus / "synthetic-video").glob("*.dcm")):
        header = decoders.header_of(path)
        with tempfile.TemporaryDirectory() as folder:
            stream = Path(folder) / "stream"
            stream.write_bytes(b"".join(list(generate_fragments(header.PixelData))))
            step = float(header.FrameTime) if "FrameTime" in header else 1000 / float(header.CineRate)
            expected = [step * i for i in range(int(header.NumberOfFrames))]
            yield judged_stream(path.name, path, stream, expected, Path(folder) / "out")


def dcm2niix_version() -> str:
    """What judges the volumes, in tests/exporter/writers/test_volume.py."""
    path = decoders.program("dcm2niix")
    if path is None:
        return "not installed"
    said = subprocess.run([path, "--version"], capture_output=True, check=False, text=True).stdout.split()
    return said[-1] if said else "unknown"
