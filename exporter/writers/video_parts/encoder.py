"""Frames to a video file: encode, mux with exact presentation times, nothing in the file but the stream.

Contract: frames are consumed one at a time; only the encoder's own look-ahead is held. The same frames, plan and
schedule give the same bytes. Containers get no creation time, title or other text (FFmpeg's ``bitexact`` flags).

Must never: drop, repeat, crop or reorder a frame.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

from exporter.errors import CorruptPixels, EncodeFailed
from exporter.writers.durable_write import write_error
from exporter.writers.video_parts.ordinary_priority import ordinary_priority
from exporter.writers.video_parts.pixel_format import StreamFrame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from av.container import OutputContainer
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from exporter.dicom.timing import Schedule
    from exporter.writers.video_parts.verify import FrameFingerprints
    from exporter.writers.video_parts.video_plan import EncodeJob, VideoPlan

_LOOKAHEAD_BYTES = 64 << 20
X264 = frozenset({"libx264", "libx264rgb"})
_MP4_FAMILY = frozenset({"mp4", "mov"})


def encode(job: EncodeJob, frames: Iterable[NDArray[np.uint8] | StreamFrame], witness: FrameFingerprints) -> None:
    """Write `frames`, display values or ready for the stream, as one video to the job's path; `witness` sees each.

    Raises:
        EncodeFailed: The encoder or the container refuses.
        CorruptPixels: There are fewer or more frames than the schedule has.
        OutOfSpace: The disk is full.
    """
    with ordinary_priority():
        _encode(job, frames, witness)


def _encode(job: EncodeJob, frames: Iterable[NDArray[np.uint8] | StreamFrame], witness: FrameFingerprints) -> None:
    ticks = job.schedule.ticks()
    with foreign(f"opening {job.plan.encoder} in {job.plan.container}"):
        container, stream = _open(job)
    with closing(container, f"closing {job.plan.container}"):
        count = 0
        for image in frames:
            if count == job.schedule.frames:
                raise CorruptPixels(f"more frames than the {job.schedule.frames} announced")
            with foreign(f"encoding frame {count + 1} with {job.plan.encoder}"):
                ready = image if isinstance(image, StreamFrame) else job.converter.stream_frame(image)
                frame = ready.picture
                witness.add_frame(count, frame, ready.display)
                frame.pts = ticks[count]
                frame.duration = ticks[count + 1] - ticks[count]
                frame.time_base = job.schedule.time_base
                _mux(container, stream.encode(frame), ticks)
            count += 1
        if count != job.schedule.frames:
            raise CorruptPixels(f"{count} frames where {job.schedule.frames} were announced")
        with foreign(f"finishing {job.plan.container}"):
            _mux(container, stream.encode(None), ticks)


def _open(job: EncodeJob) -> tuple[OutputContainer, VideoStream]:
    import av
    from av.codec.context import Flags

    plan, schedule, colours = job.plan, job.schedule, job.converter.colours
    if plan.container == "avi" and schedule.period is None:
        raise EncodeFailed("AVI holds no variable timing (permitted for this instance: .mp4, .mov, .mkv)")
    if plan.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only: the library writes its banner to stderr otherwise
    container = av.open(str(job.path), "w", format=plan.container, options=container_options(plan.container, schedule))
    stream: Any = container.add_stream(
        plan.encoder,
        rate=schedule.rate.limit_denominator(1_000_000),
        options=_options(plan, schedule, job.converter.rows, job.converter.columns),
    )
    context = stream.codec_context
    stream.width, stream.height = job.converter.columns, job.converter.rows
    stream.pix_fmt = job.converter.pix_fmt
    context.time_base = schedule.time_base
    stream.time_base = schedule.time_base
    context.thread_count = plan.threads
    context.flags |= Flags.bitexact
    context.color_range = colours.range
    context.colorspace = colours.matrix
    context.color_primaries = colours.primaries
    context.color_trc = colours.transfer
    if job.aspect is not None:
        vertical, horizontal = job.aspect
        context.sample_aspect_ratio = Fraction(horizontal, vertical).limit_denominator(1000)
    for name, value in plan.attributes:
        setattr(context, name, value)
    return container, stream


def container_options(container: str, schedule: Schedule) -> dict[str, str]:
    """Muxer options: index first, time scales that hold the schedule exactly, no text."""
    options = {"fflags": "+bitexact"}
    if container in _MP4_FAMILY:
        scale = str(schedule.time_base.denominator)
        options |= {"movflags": "+faststart", "movie_timescale": scale, "video_track_timescale": scale}
    return options


def _options(plan: VideoPlan, schedule: Schedule, rows: int, columns: int) -> dict[str, str]:
    """The encoder's private options: those of the plan, and what exact times and equal bytes need.

    Variable timing goes without B-frames unless the plan asks for them: decoding times then equal presentation times,
    so that durations are exact to the tick and a reader that ignores edit lists is right too. AVI has decoding times
    only.
    """
    options = dict(plan.options)
    in_order = schedule.period is None or plan.container == "avi"
    if plan.encoder in X264:
        if in_order:
            options.setdefault("bf", "0")
        if "preset" not in options:
            options.setdefault("rc-lookahead", str(_lookahead(rows, columns)))
        options["x264-params"] = _joined(_same_bytes(), options.get("x264-params"))
        if not options["x264-params"]:
            del options["x264-params"]
    elif plan.encoder == "libx265":
        quiet = "log-level=none:info=0"  # it writes to stderr otherwise
        options["x265-params"] = _joined(quiet, "bframes=0" if in_order else None, options.get("x265-params"))
    return options


def _lookahead(rows: int, columns: int) -> int:
    """Frames that x264 looks ahead: its own 40, fewer where they would take over `_LOOKAHEAD_BYTES`."""
    return max(8, min(40, _LOOKAHEAD_BYTES // max(1, rows * columns * 3 // 2)))


def _joined(*parts: str | None) -> str:
    return ":".join(part for part in parts if part)


@cache
def _same_bytes() -> str | None:
    """Keep x264 off its AVX-512 code, which reads uninitialised memory in its macroblock tree.

    Measured with x264 core 165: the same frames gave different bytes from run to run (and by MALLOC_PERTURB_) with
    AVX-512, and equal bytes with anything from SSE4.2 to AVX2. A processor with AVX-512 has all of the sets named.
    """
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - no path of ours
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return None
    return "asm=MMX2,SSE2Fast,LZCNT,SSSE3,SSE4.2,AVX,FMA3,BMI2,AVX2" if "avx512f" in flags else None


def _mux(container: OutputContainer, packets: Iterable[Any], ticks: tuple[int, ...]) -> None:
    """Mux packets with the duration of the frame each one holds: encoders guess it, mostly by the nominal rate."""
    from bisect import bisect_left

    for packet in packets:
        if packet.pts is not None:
            index = bisect_left(ticks, packet.pts)
            if index < len(ticks) - 1 and ticks[index] == packet.pts:
                packet.duration = ticks[index + 1] - ticks[index]
        container.mux(packet)


@contextmanager
def closing(container: OutputContainer, operation: str) -> Iterator[None]:
    """Finish and close a container at the end; after an error only close it, so that the error stays the verdict."""
    import av

    try:
        yield
    except BaseException:
        with suppress(av.FFmpegError, OSError, ValueError):
            container.close()
        raise
    with foreign(operation):
        container.close()


@contextmanager
def foreign(operation: str) -> Iterator[None]:
    """Map what PyAV raises. Its messages may quote file names, never values; they are not passed on."""
    import av

    try:
        yield
    except (av.FFmpegError, OSError) as error:
        if isinstance(error, OSError):
            raise write_error(operation, error) from None
        raise EncodeFailed(f"{operation}: FFmpeg refused ({type(error).__name__})") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise EncodeFailed(f"{operation}: PyAV refused ({type(error).__name__})") from None
