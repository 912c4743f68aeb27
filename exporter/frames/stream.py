"""The video stream of an instance as a file: fragments joined, read by position, nothing copied.

Contract: a seekable read-only binary file over the encapsulated payload (PS3.5 A.4.4 to A.4.10: the fragments of a
video are one stream, whatever their number). Reads beyond the end give nothing.

Must never: read more of the instance than is asked for.
"""

from __future__ import annotations

import bisect
import io
import os
from itertools import accumulate
from typing import TYPE_CHECKING

from exporter.errors import CorruptPixels
from exporter.frames.fragments import ITEM, Span, read_fragments

if TYPE_CHECKING:
    from exporter.dicom.bytesource import ByteSource
    from exporter.dicom.pixels import PixelDescription
    from exporter.settings.settings import LimitSettings


class JoinedSpans(io.RawIOBase):
    """Spans of a source as one file."""

    def __init__(self, source: ByteSource, spans: tuple[Span, ...]) -> None:
        super().__init__()
        self._source = source
        self._spans = tuple(span for span in spans if span.length)
        self._ends = list(accumulate(span.length for span in self._spans))
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Position from the beginning of the first span."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; one beyond the end is permitted."""
        length = self._ends[-1] if self._ends else 0
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: length}[whence]
        if base + offset < 0:
            raise ValueError("a position before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer is wider
        """Fill `buffer` from the span at the position; short at its end, 0 at the end of the last."""
        index = bisect.bisect_right(self._ends, self._position)
        if index == len(self._ends):
            return 0
        span = self._spans[index]
        skip = self._position - (self._ends[index] - span.length)
        part = self._source.read_at(span.offset + skip, min(len(buffer), span.length - skip))
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)


def open_video(
    source: ByteSource, pixels: PixelDescription, limits: LimitSettings, notes: list[str]
) -> io.BufferedReader:
    """The video stream of an instance.

    Raises:
        CorruptPixels: There is no fragment, or the last one is cut.
        TooLarge: Too many fragments.
    """
    if source.read_at(pixels.offset, 4) != ITEM:
        if pixels.encapsulated or pixels.length == 0:
            raise CorruptPixels("(7FE0,0010) Pixel Data is encapsulated and does not begin with an item")
        notes.append("the video stream is not encapsulated in fragments")
        return io.BufferedReader(JoinedSpans(source, (Span(pixels.offset, pixels.length),)), 1 << 16)
    fragments = read_fragments(source, pixels.offset, pixels.offset + pixels.length, limits.max_elements)
    if not any(span.length for span in fragments.spans):
        raise CorruptPixels("(7FE0,0010) Pixel Data holds no byte of a video stream")
    if fragments.cut:
        raise CorruptPixels("the data end inside the last fragment of the video")
    if not fragments.complete:
        notes.append("the sequence delimiter of (7FE0,0010) Pixel Data is missing")
    return io.BufferedReader(JoinedSpans(source, fragments.spans), 1 << 16)
