"""The display frames of any instance, encoded one by one or as a video stream, one after the other.

Contract: `pictures` yields as many frames as it has decoded and never more than the limits permit; colours of a stream
come through its own matrix and range.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from exporter.errors import CorruptPixels, TooLarge
from exporter.frames import DisplayOptions
from exporter.writers.pictures.video_stream import StreamKind, open_stream, reading, video_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction

    import numpy as np
    from av import VideoFrame
    from numpy.typing import NDArray

    from exporter.frames import Frames
    from exporter.settings.settings import DisplaySettings, LimitSettings

_UNSPECIFIED = 2


def still_pictures(frames: Frames, display: DisplaySettings) -> Iterator[NDArray[np.uint8]]:
    """Display values of frames that are encoded one by one."""
    return frames.display(DisplayOptions(**display.model_dump()))


def peek(images: Iterator[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], Iterator[NDArray[np.uint8]]]:
    """The first frame, and all frames.

    Raises:
        CorruptPixels: There is no frame.
    """
    first = next(images, None)
    if first is None:
        raise CorruptPixels("the instance holds no frame")
    return first, chain((first,), images)


def stream_pictures(
    frames: Frames, kind: StreamKind, rate: Fraction, limits: LimitSettings
) -> Iterator[NDArray[np.uint8]]:
    """Display values of a video stream, in order of display.

    Raises:
        CorruptPixels: The stream cannot be decoded.
        TooLarge: It has more pictures than ``limits.max_frames``.
    """
    from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

    flags = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
    reformatter = VideoReformatter()

    def rgb(frame: VideoFrame) -> NDArray[np.uint8]:
        matrix = int(frame.colorspace)
        if matrix == _UNSPECIFIED:
            matrix = int(Colorspace.ITU709 if frame.width >= 1280 or frame.height > 576 else Colorspace.ITU601)
        elif matrix != 1:
            matrix = int(Colorspace.ITU601)
        full = int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")
        converted = reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=matrix,
            src_color_range=2 if full else 1,
            dst_color_range=2,
            interpolation=int(flags),
            threads=1,
        )
        return converted.to_ndarray().astype("uint8", copy=False)

    with frames.open_stream() as source, open_stream(source, kind, rate, limits) as container:
        decoded = container.decode(video_of(container))
        count = 0
        while True:
            with reading("decoding the stream"):
                frame = next(decoded, None)
            if frame is None:
                return
            count += 1
            if count > limits.max_frames:
                raise TooLarge(f"the video has over {limits.max_frames} pictures (limits.max_frames)")
            with reading("converting a picture"):
                image = rgb(frame)
            yield frames.masked_picture(image)
