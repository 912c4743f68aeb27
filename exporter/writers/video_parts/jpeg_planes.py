"""JPEG frames straight to the planes of a video stream, without the detour over RGB.

Contract: a frame takes the direct way only while frames that took both ways are as near to their display values one
way as the other: the first, and those that are compared with the decoded video by their colours. From the first frame
that is not, all take the way over RGB. Every JPEG is checked as it is when it becomes display values.

Both ways end in the matrix and range of the stream: a JPEG's luma and chroma are BT.601 of full range (T.871 7).
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final

from exporter.writers.video_parts.pixel_format import StreamFrame
from exporter.writers.video_parts.verify import psnr

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from av import VideoFrame
    from av.filter import Graph
    from numpy.typing import NDArray

    from exporter.frames import Frames
    from exporter.writers.video_parts.pixel_format import Converter
    from exporter.writers.video_parts.verify import FrameFingerprints

_PLANES: Final = frozenset({"yuvj420p", "yuvj422p", "yuvj444p"})
"""Formats of FFmpeg's JPEG decoder for luma and chroma of full range."""
_NEAR_DB: Final = 44.0
"""Above this both ways show the same to any eye ..."""
_AS_NEAR_DB: Final = 1.0
"""... and below it the direct one may be so much farther from the display values."""
_MATRICES: Final = {6: "smpte170m", 1: "bt709"}


def stream_frames(
    frames: Frames, first: NDArray[np.uint8], converter: Converter, witness: FrameFingerprints
) -> Iterator[StreamFrame]:
    """All frames, ready for the stream.

    Args:
        frames: Frames that `are_jpeg_planes`.
        first: Display values of the first of them.
        converter: Of a stream that `takes_planes`.
        witness: Says which frames it needs display values of.

    Raises:
        CorruptPixels: A frame is damaged.
    """
    graphs: dict[str, Graph] = {}
    is_direct = True
    for place, index in enumerate(frames.indices):
        planes = frames.planes(index) if is_direct else None
        picture = None
        if planes is not None and planes.format.name in _PLANES:
            graph = graphs.get(planes.format.name) or graphs.setdefault(planes.format.name, _graph(planes, converter))
            picture = _converted(planes, graph)
        if picture is not None and place and not witness.needs_display(place):
            yield StreamFrame(picture, None)
            continue
        display = converter.pad(frames.rgb(index) if place else first)
        is_direct = picture is not None and _is_as_near(picture, display, converter)
        ready = picture if picture is not None and is_direct else converter.convert(display)
        yield StreamFrame(ready, display)


def _graph(planes: VideoFrame, converter: Converter) -> Graph:
    """FFmpeg's conversion of matrix, range and sampling in one step."""
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=planes.width, height=planes.height, format=planes.format, time_base=Fraction(1))
    tags = f"all=bt709:iall=bt709:ispace=smpte170m:space={_MATRICES[converter.colours.matrix]}"
    colours = graph.add("colorspace", f"{tags}:irange=pc:range=tv:format={converter.pix_fmt}")
    sink = graph.add("buffersink")
    source.link_to(colours)
    colours.link_to(sink)
    graph.configure()
    return graph


def _converted(planes: VideoFrame, graph: Graph) -> VideoFrame:
    from av.video.frame import PictureType

    planes.pts = 0
    graph.push(planes)
    picture = graph.vpull()
    picture.pict_type = PictureType.NONE  # the JPEG is a key frame: the encoder would make each picture one
    return picture


def _is_as_near(direct: VideoFrame, display: NDArray[np.uint8], converter: Converter) -> bool:
    reached = psnr(display, converter.back(direct))
    return reached >= _NEAR_DB or reached >= psnr(display, converter.back(converter.convert(display))) - _AS_NEAR_DB
