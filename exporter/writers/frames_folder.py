"""Multi-frame instances as a folder of numbered images and `frames.jsonl`, which tells when each is shown.

Contract: frame n of the instance is `frame-<n>` (from 1, padded with zeros so that names sort); the images are written
as the `image` settings say. The folder is complete, every file in it verified and durable, before its name is told; it
becomes visible by one rename, like any medium.

`frames.jsonl` has one object per frame, in order: `frame`, `file` (of `view8`), `raw` (of `raw16`), `time_ms` from the
first frame, `duration_ms`, and of raw values `offset`, `slope`, `intercept`, `linear` as in the record. Times are null
where no element gives any and the frames are no cine (`exporter.writers.pictures.cine`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from exporter.dicom.timing import Schedule, default_rate_warning, schedule_of
from exporter.errors import CorruptPixels
from exporter.outcome import Geometry, MediaFile, MediaType, Rendering
from exporter.writers.contract import InstancePart, WriterTask, Written
from exporter.writers.durable_write import write_new, writing
from exporter.writers.image import NO_RAW, View, lossy_warnings
from exporter.writers.image_parts.image_file import Still, write_still
from exporter.writers.image_parts.raw import RescaleElements, has_raw, raw_form, write_raw
from exporter.writers.pictures.aspect_and_icc import pixel_aspect
from exporter.writers.pictures.cine import has_times, is_moving, is_video_stream
from exporter.writers.pictures.display_frames import peek, still_pictures, stream_pictures
from exporter.writers.pictures.framing import framing_of
from exporter.writers.video_parts.jpeg_copy import bare_jpegs, same_jpegs
from exporter.writers.video_parts.remux import probe_stream
from listener.foundation.durable import fsync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.frames import Frames
    from exporter.settings.settings import MediaSettings

T = TypeVar("T")

SCORE_WANTED = 60
"""Above the video writer, where the settings want frames."""
SCORE_UNTIMED = 40
"""Below the video writer, which takes cines, and whatever the settings want as video."""
INDEX = "frames.jsonl"
_FEWEST_DIGITS = 5


class FramesWriter:
    """Writes every frame of an instance as an image of its own."""

    kind = MediaType.FRAMES
    part = InstancePart.PIXELS

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """Fits instances of several frames: best where the settings want folders, else where no video is fitting."""
        if not is_moving(instance):
            return None
        return SCORE_WANTED if settings.frames.enabled else SCORE_UNTIMED

    def write(self, task: WriterTask) -> Written:
        """Write the folder.

        Raises:
            ExportError: A frame cannot be decoded, or its image not written.
            OutOfSpace: The disk is full.
        """
        from exporter.frames import open_frames

        frames = open_frames(task.instance, task.settings.limits)
        if is_video_stream(task.instance):
            with frames.open_stream() as source:
                found = probe_stream(task, source)
            images = stream_pictures(frames, found.kind, found.rate, task.settings.limits)
            count, schedule = found.schedule.frames, found.schedule
            return _write(task, Numbered(frames, count, images, schedule, measures=False, warnings=found.warnings))
        return _write(task, _stills(task, frames))

    def write_fitting(self, task: WriterTask) -> Written:
        """Write the frames that have the size that the header says, and name the others.

        Raises:
            ExportError: There is none, a frame cannot be decoded, or its image not written.
            OutOfSpace: The disk is full.
        """
        from exporter.frames import open_frames

        frames = open_frames(task.instance, task.settings.limits)
        frames.keep_fitting()
        left_out = _ranges(sorted(set(range(frames.count)) - set(frames.indices)))
        note = f"of {frames.count} frames these have another size than the header says and are left out: {left_out}"
        numbered = _stills(task, frames)
        return _write(task, replace(numbered, warnings=(*numbered.warnings, note)))


def _ranges(indices: list[int]) -> str:
    """Frame numbers from 1, runs of them joined: ``2, 5-9``; the first twenty runs."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    texts = [str(a + 1) if a == b else f"{a + 1}-{b + 1}" for a, b in runs[:20]]
    return ", ".join((*texts, "...") if len(runs) > len(texts) else texts)


@dataclass(frozen=True, slots=True)
class Numbered:
    """Frames to be written, one by one."""

    frames: Frames
    count: int
    """Number of frames announced."""
    images: Iterator[NDArray[np.uint8]]
    schedule: Schedule | None
    """When frames are shown; None where they are no cine and no element gives times."""
    measures: bool
    """Whether there are stored values that mean something."""
    warnings: tuple[str, ...]

    @property
    def numbers(self) -> Sequence[int]:
        """Number of each image among the frames of the instance, from 1."""
        if self.frames.is_video_stream:
            return range(1, self.count + 1)
        return [index + 1 for index in self.frames.indices]


def _stills(task: WriterTask, frames: Frames) -> Numbered:
    """The frames of an instance that is no video stream; with times where they are a cine or an element gives any."""
    rate = task.settings.video.default_rate_hz
    schedule = schedule_of(task.instance.header, frames.count, default_rate_hz=rate)
    timed = has_times(task.instance, schedule)
    warnings = (*schedule.warnings, *(default_rate_warning(schedule) if timed else ()))
    measures = task.instance.pixels is not None and has_raw(task.instance.pixels)
    images = still_pictures(frames, task.settings.display)
    return Numbered(frames, frames.count, images, schedule if timed else None, measures=measures, warnings=warnings)


@dataclass(slots=True)
class _Folder:
    """What is written so far."""

    path: Path
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    bytes: int = 0
    codecs: list[str] = field(default_factory=list)
    copied: bool = False
    size: tuple[int, int] = (0, 0)
    geometry: Geometry | None = None
    notes: tuple[str, ...] = ()

    def line(self, number: int) -> dict[str, Any]:
        """What `frames.jsonl` will say of a frame."""
        return self.lines.setdefault(number, {})

    def add(self, name: str, still: Still) -> str:
        """Remember one file."""
        self.hashes[name] = still.sealed.sha256
        self.bytes += still.sealed.bytes
        if still.codec not in self.codecs:
            self.codecs.append(still.codec)
        return name


def _write(task: WriterTask, numbered: Numbered) -> Written:
    folder = _Folder(task.folder / "0.part")
    with writing("making a folder of frames"):
        folder.path.mkdir()
    outputs = task.settings.image.outputs
    warnings = list(numbered.warnings)
    if "raw16" in outputs and not numbered.measures:
        warnings.append(NO_RAW)
    if "view8" in outputs or not numbered.measures:
        _write_views(task, numbered, folder)
        warnings += lossy_warnings(task)
    if "raw16" in outputs and numbered.measures:
        _write_raws(task, numbered, folder)
    schedule = numbered.schedule
    if schedule is None:
        folder.notes += ("no element says when frames are shown: they are a set of pictures, not a cine",)
    _write_index(schedule, folder)
    with writing("sealing a folder of frames"):
        fsync_folder(folder.path)
    listing = "".join(sorted(f"{sha256}  {name}\n" for name, sha256 in folder.hashes.items()))
    medium = MediaFile(
        file=folder.path.name,
        suffix=".frames/",
        kind=MediaType.FRAMES,
        bytes=folder.bytes,
        sha256=hashlib.sha256(listing.encode()).hexdigest(),
        codec="+".join(folder.codecs),
        transcoded=not folder.copied,
        width=folder.size[0],
        height=folder.size[1],
        frames=len(numbered.numbers),
        duration_s=float(schedule.duration) if schedule is not None else None,
        geometry=folder.geometry,
    )
    rendering: Rendering = numbered.frames.rendering
    return Written(
        media=(medium,),
        timing=schedule.timing if schedule is not None else None,
        rendering=replace(rendering, notes=(*rendering.notes, *folder.notes)),
        warnings=(*numbered.frames.warnings, *warnings),
    )


def _write_views(task: WriterTask, numbered: Numbered, folder: _Folder) -> None:
    """Display values of every frame, or their own JPEGs where the settings want them and they show them."""
    settings, frames = task.settings.image, numbered.frames
    first, images = peek(numbered.images)
    framing = framing_of(settings.framing, task.instance, frames, first.shape, pixel_aspect(frames))
    folder.size, folder.geometry, folder.notes = framing.size, framing.geometry(), framing.notes
    view = View(settings, frames, framing)
    if not frames.is_video_stream and view.may_copy and same_jpegs(frames, task.settings.display) is not None:
        for number, jpeg in _counted(bare_jpegs(frames, framing.aspect), numbered.numbers):
            name = f"{_stem(number, numbered.count)}.jpg"
            folder.line(number)["file"] = folder.add(name, Still(write_new(folder.path / name, (jpeg,)), "jpeg"))
        folder.copied = True
        folder.notes += ("the instance's own JPEGs, copied; segments of text left out",)
        return
    for number, image in _counted(images, numbered.numbers):
        name = f"{_stem(number, numbered.count)}{settings.extension}"
        shown = framing.apply(image)
        still = write_still(folder.path / name, shown, view.plan(gray=shown.ndim == 2))
        folder.line(number)["file"] = folder.add(name, still)


def _write_raws(task: WriterTask, numbered: Numbered, folder: _Folder) -> None:
    """Stored values of every frame, with what they mean."""
    rescale = RescaleElements(task.instance.header)
    for number, stored in _counted(numbered.frames.stored(), numbered.numbers):
        form = raw_form(stored)
        name = f"{_stem(number, numbered.count)}{form.suffix}"
        line = folder.line(number)
        line["raw"] = folder.add(name, write_raw(folder.path / name, stored, form))
        line |= asdict(rescale.values(number - 1, form))
        folder.size = (stored.shape[1], stored.shape[0]) if folder.size == (0, 0) else folder.size


def _counted(frames: Iterable[T], numbers: Sequence[int]) -> Iterator[tuple[int, T]]:
    """Frames with their number, exactly as many as announced.

    Raises:
        CorruptPixels: There are more or fewer.
    """
    count = 0
    for count, frame in enumerate(frames, start=1):
        if count > len(numbers):
            raise CorruptPixels(f"more frames than the {len(numbers)} announced")
        yield numbers[count - 1], frame
    if count != len(numbers):
        raise CorruptPixels(f"{count} frames where {len(numbers)} were announced")


def _stem(number: int, count: int) -> str:
    return f"frame-{number:0{max(_FEWEST_DIGITS, len(str(count)))}d}"


def _write_index(schedule: Schedule | None, folder: _Folder) -> None:
    ticks, unit = (schedule.ticks(), schedule.time_base) if schedule is not None else ((), 0)
    rows = []
    for number, line in sorted(folder.lines.items()):
        times: dict[str, float | None] = {"time_ms": None, "duration_ms": None}
        if ticks:
            start, end = ticks[number - 1] * unit, ticks[number] * unit
            times = {"time_ms": float(start * 1000), "duration_ms": float((end - start) * 1000)}
        rows.append(json.dumps({"frame": number} | line | times).encode() + b"\n")
    sealed = write_new(folder.path / INDEX, rows)
    folder.hashes[INDEX] = sealed.sha256
    folder.bytes += sealed.bytes
