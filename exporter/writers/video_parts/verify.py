"""Decode back what was written, and compare it with what was meant to be written.

Contract: a file passes only if FFmpeg's decoders read it from the disk as every user's player will, and it has every
frame, at its size, at its time, for the stated duration, and the right picture:

- exact plans (lossless, in the display's own samples): every frame equal, by hash;
- all others: on every frame the coarse grid of block means, on as many frames as `KEPT_BYTES` hold (a whole cine of
  ordinary size, evenly spread frames of a long one) every plane's PSNR at or above the plan's floor and, by the
  stream's own colour tags, the mean of every colour channel within `MEAN_TOLERANCE`.

`VerifyFailed` otherwise; what is compared never leaves this module.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from exporter.errors import VerifyFailed
from exporter.writers.video_parts.pixel_format import planes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av import VideoFrame
    from numpy.typing import NDArray

    from exporter.dicom.timing import Schedule
    from exporter.writers.video_parts.video_plan import EncodeJob

KEPT_BYTES = 24 << 20
"""Memory for frames that are compared sample by sample."""
MEAN_TOLERANCE = 3.0
"""Largest difference of a colour channel's mean, of 255: a wrong matrix or range moves it by more."""
TIME_TOLERANCE_S = 0.001
_PSNR_BLOCK = 1 << 16
_SMALLEST_MEAN = 16
"""Below this many rows or columns the siting of subsampled chroma moves the means by itself."""
_FULL = 2
_BT709, _BT601 = 1, 6
_LUMA_WEIGHTS = {_BT601: (0.299, 0.114), _BT709: (0.2126, 0.0722)}
"""Weights of red and blue in luma."""
_MOST_MEANS = 8
"""Frames whose colour means are compared: a matrix or a range is wrong for all frames or for none."""
_GRID_BYTES = 24 << 20
_GRID_ROWS = 160
"""A grid is taken over every n-th row of a plane, so that about this many rows are read."""
_MOST_IN_16_BITS = 257
"""So many samples of 8 bits can be added in 16 bits; sums of columns of a block are six times as fast there."""
_MOST_CELLS, _FEWEST_CELLS = 1024, 4


def psnr(expected: NDArray[np.uint8], actual: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in decibels of two arrays of one shape; infinite where they are equal."""
    difference = np.subtract(expected, actual, dtype=np.int16).ravel()
    error = 0.0
    for start in range(0, difference.size, _PSNR_BLOCK):  # float32 holds the sum of one block exactly enough
        block = difference[start : start + _PSNR_BLOCK].astype(np.float32)
        error += float(np.dot(block, block))
    error /= max(1, difference.size)
    return math.inf if error == 0 else 10 * math.log10(255 * 255 / error)


class FrameFingerprints:
    """Remembers, while frames are encoded, enough of each to recognise it decoded."""

    def __init__(self, frames: int, frame_bytes: int, *, exact: bool) -> None:
        self.exact = exact
        self._digests: list[bytes] = []
        self._frames = frames
        # One block per plane for all frames: small arrays kept between large ones that come and go would split the
        # heap, and every new frame would need fresh memory.
        self._grids: list[NDArray[np.float16]] = []
        self._seen = 0
        self._cells = max(_FEWEST_CELLS, min(_MOST_CELLS, _GRID_BYTES // (6 * max(1, frames))))
        self._kept: dict[int, list[NDArray[np.uint8]]] = {}
        self._means: dict[int, NDArray[np.float64]] = {}
        self._wanted = spread(frames, max(2, KEPT_BYTES // max(1, frame_bytes)))
        self._wanted_means = spread(frames, _MOST_MEANS)
        self.lowest_psnr_db = math.inf

    @property
    def seen(self) -> int:
        """Frames seen so far."""
        return self._seen

    def needs_display(self, index: int) -> bool:
        """Whether the display values of a frame are wanted beside the frame."""
        return self.exact or index in self._wanted_means

    def add_frame(self, index: int, frame: VideoFrame, display: NDArray[np.uint8] | None) -> None:
        """Remember the frame as it goes to the encoder, and its padded display values where they are needed."""
        self._seen += 1
        if display is None and self.needs_display(index):
            raise VerifyFailed(f"frame {index + 1} came without the display values that it is to be compared with")
        if self.exact and display is not None:
            self._digests.append(_digest(display))
            return
        planes = planes_of(frame)
        grids = [_grid(plane, self._cells) for plane in planes]
        if not self._grids:
            self._grids = [np.empty((self._frames, *grid.shape), np.float16) for grid in grids]
        for kept, grid in zip(self._grids, grids, strict=True):
            kept[index] = grid
        if index in self._wanted:
            self._kept[index] = [plane.copy() for plane in planes]
        if display is not None and index in self._wanted_means:
            self._means[index] = _means(display)

    def compare(self, index: int, frame: VideoFrame, job: EncodeJob) -> None:
        """Compare a decoded frame.

        Raises:
            VerifyFailed: It is not the picture that was encoded.
        """
        if self.exact:
            if _digest(job.converter.back(frame)) != self._digests[index]:
                raise VerifyFailed(f"frame {index + 1}, decoded back, differs from the display values")
            return
        if frame.format.name != job.converter.pix_fmt:
            frame = frame.reformat(format=job.converter.pix_fmt)
        planes = planes_of(frame)
        if index in self._kept:
            self._compare_samples(index, planes, job)
        if index in self._means and min(frame.width, frame.height) >= _SMALLEST_MEAN:
            self._compare_means(index, frame, planes, job)
        allowed = 255 * 10 ** (-job.plan.psnr_floor_db / 20)
        for plane, kept in zip(planes, self._grids, strict=True):
            error = float(np.sqrt(np.mean(np.square(_grid(plane, self._cells) - kept[index].astype(np.float32)))))
            if error > allowed:
                raise VerifyFailed(f"frame {index + 1}, decoded back, is another picture (block means {error:.1f} off)")

    def _compare_samples(self, index: int, planes: list[NDArray[np.uint8]], job: EncodeJob) -> None:
        expected = self._kept.pop(index)
        reached = min(psnr(a, b) for a, b in zip(expected, planes, strict=True))
        self.lowest_psnr_db = min(self.lowest_psnr_db, reached)
        if reached < job.plan.psnr_floor_db:
            raise VerifyFailed(
                f"frame {index + 1}, decoded back, reaches {reached:.1f} dB; permitted is {job.plan.psnr_floor_db:g} "
                "and above (video.psnr_floor_db)"
            )

    def _compare_means(self, index: int, frame: VideoFrame, planes: list[NDArray[np.uint8]], job: EncodeJob) -> None:
        allowed = MEAN_TOLERANCE + 255 * 10 ** (-job.plan.psnr_floor_db / 20) / 4
        off = float(np.abs(_mean_colour(frame, planes) - self._means[index]).max())
        if off > allowed:
            raise VerifyFailed(f"frame {index + 1}, decoded back, has other colours (channel means {off:.1f} off)")


def spread(frames: int, most: int) -> frozenset[int]:
    """Indices of up to `most` frames, evenly spread, the first and the last among them."""
    if frames <= most:
        return frozenset(range(frames))
    return frozenset(round(i * (frames - 1) / (most - 1)) for i in range(most))


def check_video(job: EncodeJob, witness: FrameFingerprints) -> None:
    """Decode the job's file and compare count, size, times, duration and pictures.

    Raises:
        VerifyFailed: Something differs; the message says what.
    """
    import av

    try:
        with av.open(str(job.path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = job.plan.threads
            if (stream.width, stream.height) != (job.converter.columns, job.converter.rows):
                raise VerifyFailed("the video, opened again, has another size")
            times = []
            for index, frame in enumerate(container.decode(stream)):
                if index >= witness.seen or frame.pts is None or frame.time_base is None:
                    raise VerifyFailed(
                        "the video, decoded back, has more frames than were encoded, or frames without time"
                    )
                witness.compare(index, frame, job)
                times.append(float(frame.pts * frame.time_base))
            duration = container.duration / av.time_base if container.duration else None
    except (av.FFmpegError, OSError, IndexError) as error:
        raise VerifyFailed(f"the video cannot be decoded back ({type(error).__name__})") from None
    if len(times) != witness.seen:
        raise VerifyFailed(f"the video, decoded back, has {len(times)} of {witness.seen} frames")
    # AVI stores no presentation times: readers count frames, some of them from the decoder's delay on
    end_s = check_times(job.schedule, times, first_s=times[0] if job.plan.container == "avi" else 0.0)
    if duration is None or abs(duration - end_s) > 2 * TIME_TOLERANCE_S:
        raise VerifyFailed("the video's duration is not the sum of its frame times")


def check_times(schedule: Schedule, times: Sequence[float], *, first_s: float = 0.0) -> float:
    """Compare the times of frames in a written file, in the order in which they are shown, with their schedule.

    Args:
        schedule: When each frame is to be shown.
        times: Presentation times in the file, in seconds; one or more.
        first_s: Time in the file that counts as 0.

    Returns:
        End of the last frame by the schedule, in seconds.

    Raises:
        VerifyFailed: A frame is more than `TIME_TOLERANCE_S` off its time.
    """
    ticks, unit = schedule.ticks(), float(schedule.time_base)
    worst = max(abs(time - first_s - tick * unit) for time, tick in zip(times, ticks, strict=False))
    if worst > TIME_TOLERANCE_S:
        raise VerifyFailed(f"a frame of the video, read back, is shown {worst * 1000:.1f} ms off its time")
    return ticks[-1] * unit


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def _means(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean red, green and blue of display values."""
    means = channel_means(image)
    return np.repeat(means, 3) if means.size == 1 else means


def channel_means(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean of each channel of (rows, columns[, channels]); rows are added first, which is four times faster."""
    rows, columns = image.shape[:2]
    sums = np.add.reduce(image.reshape(rows, -1), axis=0, dtype=np.uint32).astype(np.float64)
    means: NDArray[np.float64] = sums.reshape(columns, -1).sum(axis=0) / (rows * columns)
    return means


def _mean_colour(frame: VideoFrame, planes: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Mean red, green and blue of a decoded frame, by the matrix and range that the frame itself is tagged with.

    Matrices are linear, so the mean colour is the colour of the means: no resampling, no clipping, and none of the
    code that converted the frame (ITU-R BT.601-7 2.5, BT.709-6 3.2).
    """
    if frame.format.is_rgb:
        return _means(frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False))
    means = [float(plane.mean()) for plane in planes]
    full = int(frame.color_range) == _FULL or frame.format.name.startswith("yuvj")
    if len(planes) < 3:
        return np.repeat(means[0] if full or len(frame.format.components) == 1 else (means[0] - 16) * 255 / 219, 3)
    red, blue = _LUMA_WEIGHTS[_BT709 if int(frame.colorspace) == _BT709 else _BT601]
    luma, cb, cr = means[0], means[1] - 128, means[2] - 128
    if not full:
        luma, cb, cr = (luma - 16) * 255 / 219, cb * 255 / 224, cr * 255 / 224
    r = luma + 2 * (1 - red) * cr
    b = luma + 2 * (1 - blue) * cb
    return np.array([r, (luma - red * r - blue * b) / (1 - red - blue), b])


def _grid(plane: NDArray[np.uint8], cells: int) -> NDArray[np.float16]:
    """Means of about `cells` square blocks of samples (the last ones cover what is left)."""
    plane = plane[:: max(1, plane.shape[0] // _GRID_ROWS)]
    rows, columns, areas = _blocks(*plane.shape, cells)
    side = int(rows[1]) if len(rows) > 1 else len(plane)
    whole = len(plane) // side
    narrow = np.uint16 if side <= _MOST_IN_16_BITS else np.uint32
    sums = np.empty((len(rows), plane.shape[1]), narrow)
    np.add.reduce(plane[: whole * side].reshape(whole, side, -1), axis=1, dtype=narrow, out=sums[:whole])
    if whole < len(rows):
        np.add.reduce(plane[whole * side :], axis=0, dtype=narrow, out=sums[whole])
    means: NDArray[np.float16] = (np.add.reduceat(sums, columns, axis=1, dtype=np.uint32) / areas).astype(np.float16)
    return means


@lru_cache(maxsize=16)
def _blocks(height: int, width: int, cells: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """First row and first column of each block, and the samples in each: the same for all frames of a video."""
    side = max(1, math.ceil(math.sqrt(height * width / cells)))
    rows, columns = np.arange(0, height, side), np.arange(0, width, side)
    heights, widths = np.diff(np.append(rows, height)), np.diff(np.append(columns, width))
    return rows, columns, np.outer(heights, widths)
