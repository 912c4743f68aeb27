"""Multi-frame instances as video: encoded from display values, or copied where the pixel data already are encoded so.

Three ways, in this order: a video stream is copied (`remux`), JPEG frames become Motion JPEG where the settings want it
and the JPEGs show the display values (`jpeg_copy`), everything else is encoded (`encoder`). Framing moves pixels and a
mask hides some, so they always encode, without sound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.dicom.timing import Schedule, default_rate_warning, schedule_of
from exporter.errors import EncodeFailed
from exporter.outcome import MediaType, Rendering
from exporter.settings.settings import FramingSettings
from exporter.writers.contract import InstancePart, WriterTask, Written
from exporter.writers.durable_write import media_file
from exporter.writers.pictures.aspect_and_icc import pixel_aspect
from exporter.writers.pictures.cine import is_cine, is_moving, is_video_stream, keeps_values, lossy_warning
from exporter.writers.pictures.display_frames import peek, still_pictures, stream_pictures
from exporter.writers.pictures.framing import Framing, framing_of
from exporter.writers.video_parts.encoder import X264, encode
from exporter.writers.video_parts.jpeg_copy import CONTAINERS as JPEG_CONTAINERS
from exporter.writers.video_parts.jpeg_copy import bare_jpegs, same_jpegs, write_motion_jpeg
from exporter.writers.video_parts.jpeg_planes import stream_frames
from exporter.writers.video_parts.pixel_format import Converter, StreamFrame
from exporter.writers.video_parts.remux import probe_stream, remux
from exporter.writers.video_parts.verify import FrameFingerprints, check_video
from exporter.writers.video_parts.video_plan import (
    EncodeJob,
    VideoPlan,
    container_of,
    copies_streams,
    framing_settings,
    plan_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.frames import Frames
    from exporter.outcome import MediaFile
    from exporter.settings.settings import MediaSettings

SCORE = 50
_SMALLEST_AV1 = 64
"""SVT-AV1 takes no picture with fewer rows or columns."""
_LARGEST_X264 = 16384
_MPEG4_TICKS = 60_000
"""Below the 65,535 ticks per second of ISO/IEC 14496-2 6.3.3, vop_time_increment_resolution."""


class VideoWriter:
    """Writes the frames of an instance as one video."""

    kind = MediaType.VIDEO
    part = InstancePart.PIXELS

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """`SCORE` for cines and video streams, and for any several frames where the settings want that."""
        if not is_moving(instance):
            return None
        return SCORE if settings.video.untimed == "video" or is_cine(instance) else None

    def write(self, task: WriterTask) -> Written:
        """Write the video.

        Raises:
            ExportError: The frames cannot be decoded, or the video not written.
            OutOfSpace: The disk is full.
        """
        from exporter.frames import open_frames

        settings = task.settings.video
        framed = framing_settings(settings)
        if is_video_stream(task.instance):
            if copies_streams(settings) and task.instance.mask is None:
                return remux(task, plan_of(settings, gray=False).extension)
            return _stream_encoded(task, framed)
        frames = open_frames(task.instance, task.settings.limits)
        schedule = schedule_of(task.instance.header, frames.count, default_rate_hz=settings.default_rate_hz)
        if settings.copy_jpeg and framed == FramingSettings():
            copied = _copied(task, frames, schedule)
            if copied is not None:
                return copied
        warnings = (*schedule.warnings, *default_rate_warning(schedule))
        return _encoded(task, Shown(frames, still_pictures(frames, task.settings.display), schedule, framed, warnings))


@dataclass(frozen=True, slots=True)
class Shown:
    """Pictures to be encoded, and when they are shown."""

    frames: Frames
    images: Iterator[NDArray[np.uint8]]
    schedule: Schedule
    framing: FramingSettings
    warnings: tuple[str, ...]


def _stream_encoded(task: WriterTask, framed: FramingSettings) -> Written:
    from exporter.frames import open_frames

    limits = task.settings.limits
    frames = open_frames(task.instance, limits)
    with frames.open_stream() as source:
        found = probe_stream(task, source)
    images = stream_pictures(frames, found.kind, found.rate, limits)
    return _encoded(task, Shown(frames, images, found.schedule, framed, found.warnings))


def _encoded(task: WriterTask, shown: Shown) -> Written:
    first, images = peek(shown.images)
    framing = framing_of(shown.framing, task.instance, shown.frames, first.shape, pixel_aspect(shown.frames))
    gray = first.ndim == 2 or framing.gray
    columns, rows = framing.size
    exact = keeps_values(task.instance)
    plan, more = _fitting(plan_of(task.settings.video, gray=gray, keeps_values=exact), rows, columns)
    if exact and not plan.exact(gray=gray):
        more = (*more, lossy_warning("video"))
    converter = Converter(plan.pix_fmt, rows, columns, gray=gray)
    schedule = shown.schedule.within(_MPEG4_TICKS) if plan.encoder == "mpeg4" else shown.schedule
    job = EncodeJob(task.folder / "0.part", plan, converter, schedule, framing.aspect)
    witness = FrameFingerprints(
        shown.schedule.frames, converter.rows * converter.columns * 3, exact=plan.exact(gray=gray)
    )
    ready: Iterator[NDArray[np.uint8]] | Iterator[StreamFrame] = map(framing.apply, images)
    as_they_are = not framing.moves and not task.settings.display.overlays
    if as_they_are and shown.frames.are_jpeg_planes and converter.takes_planes:
        ready = stream_frames(shown.frames, first, converter, witness)
    encode(job, ready, witness)
    check_video(job, witness)
    medium = replace(
        _medium(job.path, plan.extension, plan.encoder, shown.schedule, (converter.columns, converter.rows)),
        geometry=framing.geometry(),
    )
    return Written(
        media=(medium,),
        timing=shown.schedule.timing,
        rendering=_noted(shown.frames.rendering, converter, witness, framing),
        warnings=(*shown.frames.warnings, *shown.warnings, *more, *_padding_warning(converter)),
    )


def _fitting(plan: VideoPlan, rows: int, columns: int) -> tuple[VideoPlan, tuple[str, ...]]:
    """The plan, or H.264 where AV1 takes no picture of this size.

    Raises:
        EncodeFailed: The encoder takes no picture of this size.
    """
    if plan.encoder in X264 and max(rows, columns) > _LARGEST_X264:
        raise EncodeFailed(
            f"{plan.encoder} takes no picture above {_LARGEST_X264} rows or columns: "
            "choose another encoder for it, such as ffv1 in .mkv"
        )
    if plan.encoder != "libsvtav1" or min(rows, columns) >= _SMALLEST_AV1:
        return plan, ()
    warning = f"AV1 takes no picture below {_SMALLEST_AV1} rows or columns: H.264 instead"
    return replace(plan, encoder="libx264", options=(("crf", "17"),)), (warning,)


def _copied(task: WriterTask, frames: Frames, schedule: Schedule) -> Written | None:
    """The frames' own JPEGs as Motion JPEG; None where they are no baseline JPEGs that show the display values."""
    extension = plan_of(task.settings.video, gray=False).extension
    container = container_of(extension)
    if frames.codec != "JPEG" or container not in JPEG_CONTAINERS:
        return None
    if container == "avi" and schedule.period is None:
        return None
    size = same_jpegs(frames, task.settings.display)
    if size is None:
        return None
    path = task.folder / "0.part"
    aspect = pixel_aspect(frames)
    # FFmpeg, and every player made of it, reads a video's JFIF ratio as width : height, T.871 10.1 as height : width
    stated = None if aspect is None else (aspect[1], aspect[0])
    write_motion_jpeg(path, bare_jpegs(frames, stated), schedule, size, container)
    framing = framing_of(FramingSettings(), task.instance, frames, (size[1], size[0], 3), aspect)
    medium = replace(_medium(path, extension, "mjpeg", schedule, size), transcoded=False, geometry=framing.geometry())
    notes = (*frames.rendering.notes, "the instance's own JPEGs, copied; segments of text left out")
    return Written(
        media=(medium,),
        timing=schedule.timing,
        rendering=replace(frames.rendering, notes=notes),
        warnings=(*frames.warnings, *schedule.warnings, *default_rate_warning(schedule)),
    )


def _medium(path: Path, suffix: str, codec: str, schedule: Schedule, size: tuple[int, int]) -> MediaFile:
    return media_file(
        path,
        MediaType.VIDEO,
        suffix,
        codec,
        width=size[0],
        height=size[1],
        frames=schedule.frames,
        duration_s=float(schedule.duration),
    )


def _padding_warning(converter: Converter) -> tuple[str, ...]:
    right, bottom = converter.padding
    if not right and not bottom:
        return ()
    return (f"padded to even size: {right} column(s) at the right, {bottom} row(s) at the bottom, by repetition",)


def _noted(rendering: Rendering, converter: Converter, witness: FrameFingerprints, framing: Framing) -> Rendering:
    notes = [*framing.notes, f"stream: {converter.pix_fmt}, {converter.colours.name}"]
    if witness.exact:
        notes.append("decoded back: every pixel equal")
    elif witness.lowest_psnr_db < 200:
        notes.append(f"decoded back: PSNR {witness.lowest_psnr_db:.1f} dB or better")
    return replace(rendering, notes=(*rendering.notes, *notes))
