"""Display frames in the pixel format of a video stream, with matrix and range chosen, applied and tagged alike.

Contract: what is tagged in the stream is what was computed, so that any decoder that honours the tags gives back the
display colours. Frames are never cropped: where chroma subsampling needs even sizes, the last column or row is
repeated.

Matrix: ITU-R BT.601 (SMPTE 170M) up to 576 rows and below 1280 columns, ITU-R BT.709 above, which is also what players
assume of untagged streams. Range: limited (16-235) for YCbCr, full for gray and RGB streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import EncodeFailed

if TYPE_CHECKING:
    from av import VideoFrame
    from numpy.typing import NDArray

_HD_COLUMNS, _SD_ROWS = 1280, 576
_SMPTE170M, _BT709, _RGB = 6, 1, 0
"""Code points of ISO/IEC 23091-2 for matrix, primaries and transfer."""
_LIMITED, _FULL = 1, 2
_LIMITED_LUMA = np.rint(16 + np.arange(256) * 219 / 255).astype(np.uint8)
"""Full-range gray to limited-range luma (BT.601 and BT.709 alike)."""


@dataclass(frozen=True, slots=True)
class Colours:
    """The colour tags of a stream (ISO/IEC 23091-2 code points; range as FFmpeg numbers it)."""

    matrix: int
    primaries: int
    transfer: int
    range: int

    @property
    def name(self) -> str:
        """Name of the colour space in the metadata line."""
        matrix = {_SMPTE170M: "BT.601", _BT709: "BT.709", _RGB: "RGB"}[self.matrix]
        return f"{matrix} {'limited' if self.range == _LIMITED else 'full'} range"


@dataclass(frozen=True, slots=True)
class StreamFrame:
    """One frame as it goes to the encoder."""

    picture: VideoFrame
    """In the pixel format and the colours of the stream."""
    display: NDArray[np.uint8] | None
    """Its display values at the stream's size; None where they were not made."""


class Converter:
    """Turns display frames of one size into frames of one pixel format."""

    def __init__(self, pix_fmt: str, rows: int, columns: int, *, gray: bool) -> None:
        """A converter for frames of (rows, columns) gray or (rows, columns, 3) RGB.

        Raises:
            EncodeFailed: FFmpeg knows no such pixel format, or it is not one of 8 bits per sample.
        """
        import av
        from av.video.reformatter import VideoReformatter

        try:
            form = av.VideoFormat(pix_fmt)
        except ValueError:
            raise EncodeFailed(f"video pix_fmt {pix_fmt!r} is unknown") from None
        if max(component.bits for component in form.components) > 8 or form.has_palette:
            raise EncodeFailed(f"video pix_fmt {pix_fmt!r} is not supported: display frames have 8 bits per sample")
        self.pix_fmt = pix_fmt
        self.gray = gray
        self._single = len(form.components) == 1
        self._rgb = form.is_rgb
        self._planar_yuv = not form.is_rgb and not self._single and form.is_planar and len(form.components) == 3
        self._size = (rows, columns)
        step_x = 2 if form.chroma_width(2) == 1 and not self._single else 1
        step_y = 2 if form.chroma_height(2) == 1 and not self._single else 1
        self.rows = -(-rows // step_y) * step_y
        self.columns = -(-columns // step_x) * step_x
        full = self._rgb or self._single or pix_fmt.startswith("yuvj")
        standard = _BT709 if columns >= _HD_COLUMNS or rows > _SD_ROWS else _SMPTE170M
        self.colours = Colours(
            matrix=_RGB if self._rgb else standard,
            primaries=standard,
            transfer=standard,
            range=_FULL if full else _LIMITED,
        )
        self._reformatter = VideoReformatter()

    @property
    def padding(self) -> tuple[int, int]:
        """Columns added at the right, rows added at the bottom."""
        return self.columns - self._size[1], self.rows - self._size[0]

    def pad(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame at the stream's size, last column and row repeated; gray in three channels for an RGB stream.

        Raises:
            EncodeFailed: The frame is not of the size or kind that was announced.
        """
        if image.shape[:2] != self._size or (image.ndim == 2) != self.gray:
            raise EncodeFailed(f"a frame of shape {image.shape} among frames of {self._size}")
        right, bottom = self.padding
        if right or bottom:
            image = np.pad(image, ((0, bottom), (0, right), *([(0, 0)] * (image.ndim - 2))), mode="edge")
        return np.repeat(image[:, :, np.newaxis], 3, axis=2) if self.gray and self._rgb else image

    def convert(self, image: NDArray[np.uint8]) -> VideoFrame:
        """The padded frame in the stream's pixel format."""
        if self.gray and self._planar_yuv:
            return self._gray_in_yuv(image)
        return self._reformat(image)

    def stream_frame(self, image: NDArray[np.uint8]) -> StreamFrame:
        """Display values, padded and converted.

        Raises:
            EncodeFailed: The frame is not of the size or kind that was announced.
        """
        padded = self.pad(image)
        return StreamFrame(self.convert(padded), padded)

    @property
    def takes_planes(self) -> bool:
        """Whether the stream holds YCbCr of limited range in planes, and its frames need no padding."""
        return self._planar_yuv and not self.gray and self.padding == (0, 0) and self.colours.range == _LIMITED

    def back(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """A decoded frame as display values at the stream's size: gray for gray streams, RGB otherwise."""
        form = "gray" if self._single else "rgb24"
        colours = self.colours
        converted = self._reformatter.reformat(
            frame,
            format=form,
            src_colorspace=_swscale_matrix(colours),
            src_color_range=colours.range,
            dst_color_range=_FULL,
            interpolation=_flags(),
            threads=1,
        )
        return converted.to_ndarray().astype(np.uint8, copy=False)

    def _reformat(self, image: NDArray[np.uint8]) -> VideoFrame:
        import av

        form = "gray" if image.ndim == 2 else "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=form)
        if form == self.pix_fmt:
            return frame
        return self._reformatter.reformat(
            frame,
            format=self.pix_fmt,
            dst_colorspace=_swscale_matrix(self.colours),
            src_color_range=_FULL,
            dst_color_range=self.colours.range,
            interpolation=_flags(),
            threads=1,
        )

    def _gray_in_yuv(self, image: NDArray[np.uint8]) -> VideoFrame:
        """Gray in a YCbCr stream: luma by table, chroma neutral; no resampling, no rounding of colour matrices."""
        import av

        frame = av.VideoFrame(self.columns, self.rows, self.pix_fmt)
        luma = image if self.colours.range == _FULL else _LIMITED_LUMA[image]
        for index, plane in enumerate(frame.planes):
            buffer: Any = plane
            rows = np.frombuffer(buffer, np.uint8).reshape(plane.height, plane.line_size)
            if index == 0:
                rows[:, : plane.width] = luma
                rows[:, plane.width :] = 0
            else:
                rows[...] = 128
        return frame


def planes_of(frame: VideoFrame) -> list[NDArray[np.uint8]]:
    """Views of a frame's planes without the padding of their lines; a packed plane keeps its interleaved samples."""
    views = []
    for plane in frame.planes:
        buffer: Any = plane
        lines = np.frombuffer(buffer, np.uint8)
        packed = 1 if len(frame.planes) > 1 else max(1, frame.format.padded_bits_per_pixel // 8)
        views.append(lines.reshape(plane.height, plane.line_size)[:, : plane.width * packed])
    return views


def _swscale_matrix(colours: Colours) -> int:
    """The matrix as libswscale numbers it (its own constants, not those of ISO/IEC 23091-2)."""
    from av.video.reformatter import Colorspace

    return int(Colorspace.ITU709 if colours.matrix == _BT709 else Colorspace.ITU601)


def _flags() -> int:
    """Chroma from all samples, exact rounding, and the same result on every processor."""
    from av.video.reformatter import Interpolation

    return int(
        Interpolation.BICUBIC
        | Interpolation.ACCURATE_RND
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.BITEXACT
    )
