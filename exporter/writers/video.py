"""Multi-frame instances as video: encoded from display values, or copied where the pixel data already are a stream."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from exporter.errors import CorruptPixels
from exporter.outcome import MediaType, Medium, Rendering
from exporter.timing import schedule_of
from exporter.writers.contract import Task, Written
from exporter.writers.encoder import Job, encode
from exporter.writers.pixel_format import Converter
from exporter.writers.plan import plan_of
from exporter.writers.presentation import pixel_aspect
from exporter.writers.remux import is_video_stream, remux
from exporter.writers.sealing import seal
from exporter.writers.verify import Witness, check_video

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from exporter.instance import Instance
    from exporter.settings import MediaSettings

SCORE = 50


class VideoWriter:
    """Writes the frames of an instance as one video."""

    kind = MediaType.VIDEO

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """Fits instances with pixel data of several frames, and video streams of any length."""
        del settings
        if is_video_stream(instance):
            return SCORE
        pixels = instance.pixels
        return SCORE if pixels is not None and pixels.frames > 1 else None

    def write(self, task: Task) -> Written:
        """Write the video.

        Raises:
            ExportError: The frames cannot be decoded, or the video not written.
            OutOfSpace: The disk is full.
        """
        if is_video_stream(task.instance):
            return remux(task)
        return _encoded(task)


def _encoded(task: Task) -> Written:
    from exporter.frames import DisplayOptions, open_frames

    settings, instance = task.settings.video, task.instance
    plan = plan_of(settings)
    frames = open_frames(instance, task.settings.limits)
    schedule = schedule_of(instance.header, frames.count, default_rate_hz=settings.default_rate_hz)
    first, images = _peek(frames.display(DisplayOptions()))
    gray = first.ndim == 2
    rows, columns = first.shape[:2]
    converter = Converter(plan.gray_pix_fmt if gray else plan.pix_fmt, rows, columns, gray=gray)
    name = "0.part"
    job = Job(
        path=task.folder / name,
        plan=plan,
        converter=converter,
        schedule=schedule,
        aspect=pixel_aspect(frames),
    )
    witness = Witness(
        frames.count, converter.rows * converter.columns * 3 // (2 if not gray else 1), exact=plan.exact(gray=gray)
    )
    encode(job, images, witness)
    check_video(job, witness)
    sealed = seal(job.path)
    medium = Medium(
        file=name,
        suffix=settings.extension,
        kind=MediaType.VIDEO,
        bytes=sealed.bytes,
        sha256=sealed.sha256,
        codec=plan.encoder,
        width=converter.columns,
        height=converter.rows,
        frames=frames.count,
        duration_s=float(schedule.duration),
    )
    return Written(
        media=(medium,),
        timing=schedule.timing,
        rendering=_noted(frames.rendering, converter, witness),
        warnings=(*schedule.warnings, *_padding_warning(converter)),
    )


def _peek(images: Iterator[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], Iterator[NDArray[np.uint8]]]:
    first = next(images, None)
    if first is None:
        raise CorruptPixels("the instance holds no frame")
    return first, chain((first,), images)


def _padding_warning(converter: Converter) -> tuple[str, ...]:
    right, bottom = converter.padding
    if not right and not bottom:
        return ()
    return (f"padded to even size: {right} column(s) at the right, {bottom} row(s) at the bottom, by repetition",)


def _noted(rendering: Rendering | None, converter: Converter, witness: Witness) -> Rendering:
    from dataclasses import replace

    notes = [f"stream: {converter.pix_fmt}, {converter.colours.name}"]
    if witness.exact:
        notes.append("decoded back: every pixel equal")
    elif witness.lowest_psnr_db < 200:
        notes.append(f"decoded back: PSNR {witness.lowest_psnr_db:.1f} dB or better")
    rendering = rendering or Rendering()
    return replace(rendering, notes=(*rendering.notes, *notes))
