"""Encapsulated pixel data: which bytes of the file belong to which frame.

Contract: `index_frames` reads item heads, offset tables and at most the first bytes of each fragment, never the
fragments. It returns one tuple of spans per frame, or raises; what an offset table says is believed only where it
agrees with the fragments that are there.

Must never: trust an offset or a length beyond the bytes that are there, or guess silently which fragment belongs where.

Source: PS3.5 A.4 (fragments and Basic Offset Table), PS3.3 C.7.6.3.1.8 (Extended Offset Table).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.errors import CorruptPixels, TooLarge
from exporter.frames.codestream import starts_codestream

if TYPE_CHECKING:
    from exporter.dicom.bytesource import ByteSource

ITEM: Final = b"\xfe\xff\x00\xe0"
SEQUENCE_END: Final = b"\xfe\xff\xdd\xe0"
_HEAD: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Span:
    """A run of bytes in the data set."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Fragments:
    """The items of an encapsulated pixel data element."""

    spans: tuple[Span, ...]
    """The fragments, without the Basic Offset Table."""
    basic_offsets: tuple[int, ...]
    """The Basic Offset Table: offsets of frames from the first fragment's item tag; empty where it is empty."""
    complete: bool
    """Whether the sequence delimiter is there."""
    cut: bool
    """Whether the last fragment is shorter than it declares."""

    @property
    def item_offsets(self) -> dict[int, int]:
        """Index of each fragment by the offset of its item tag from that of the first fragment."""
        if not self.spans:
            return {}
        first = self.spans[0].offset
        return {span.offset - first: index for index, span in enumerate(self.spans)}


def read_fragments(source: ByteSource, offset: int, end: int, most: int) -> Fragments:
    """The items between `offset` and `end`.

    Args:
        source: The data set.
        offset: Where the first item (the Basic Offset Table) begins.
        end: Where the element ends at the latest.
        most: How many fragments are permitted.

    Raises:
        CorruptPixels: There is no Basic Offset Table item, or something else than items.
        TooLarge: More than `most` fragments.
    """
    spans: list[Span] = []
    table: tuple[int, ...] | None = None
    complete = cut = False
    while offset + 8 <= end:
        head = source.read_at(offset, 8)
        if head[:4] == SEQUENCE_END:
            complete = True
            break
        if head[:4] != ITEM:
            if table is None:
                raise CorruptPixels("(7FE0,0010) Pixel Data is encapsulated and does not begin with an item")
            break  # what follows is no item; whether frames are missing is decided by their number
        length = int(_HEAD.unpack_from(head, 4)[0])
        offset += 8
        there = min(length, end - offset)
        if table is None:
            if there < length:
                raise CorruptPixels("the data end inside the Basic Offset Table")
            raw = source.read_at(offset, min(length, 4 * most))
            table = struct.unpack(f"<{len(raw) // 4}I", raw[: len(raw) // 4 * 4])
        else:
            if len(spans) >= most:
                raise TooLarge(f"(7FE0,0010) Pixel Data has more than {most} fragments")
            spans.append(Span(offset, there))
            cut = there < length
        offset += length
    return Fragments(tuple(spans), table or (), complete, cut)


@dataclass(frozen=True, slots=True)
class ExtendedOffsets:
    """The Extended Offset Table: offsets like those of the basic one, and the exact length of each frame."""

    offsets: tuple[int, ...]
    lengths: tuple[int, ...]


Frame = tuple[Span, ...]


def index_frames(
    source: ByteSource, fragments: Fragments, frames: int, extended: ExtendedOffsets | None, notes: list[str]
) -> tuple[Frame, ...]:
    """Spans that make up each of the `frames` frames.

    Tried in this order: the Extended Offset Table, the Basic Offset Table (each only where all its entries point to
    fragments), all fragments for a single frame, one fragment per frame, and the beginnings of codestreams.

    Raises:
        CorruptPixels: Frames are missing, or fragments cannot be assigned to frames without doubt.
    """
    spans = fragments.spans
    if not spans:
        raise CorruptPixels("(7FE0,0010) Pixel Data holds no fragment")
    if not fragments.complete:
        notes.append("the sequence delimiter of (7FE0,0010) Pixel Data is missing")
    if extended is not None:
        found = _by_extended_offsets(fragments, extended, frames)
        if found is not None:
            return found
        notes.append("(7FE0,0001) Extended Offset Table does not fit the fragments: not used")
    if fragments.basic_offsets and not (frames == 1 and len(fragments.basic_offsets) == 1):
        found = _by_offsets(fragments, fragments.basic_offsets, frames, notes)
        if found is not None:
            return found
        notes.append("the Basic Offset Table does not fit the fragments: not used")
    if frames == 1:
        return (_refuse_cut(_first_frame_only(source, spans, notes), fragments),)
    if len(spans) == frames:
        return _refuse_cut_last(tuple((span,) for span in spans), fragments)
    if len(spans) < frames:
        raise CorruptPixels(f"(0028,0008) Number of Frames is {frames}, the pixel data hold {len(spans)} fragments")
    return _by_beginnings(source, fragments, frames, notes)


def _refuse_cut(frame: Frame, fragments: Fragments) -> Frame:
    if fragments.cut and frame[-1] == fragments.spans[-1]:
        raise CorruptPixels("the data end inside the last fragment")
    return frame


def _refuse_cut_last(frames: tuple[Frame, ...], fragments: Fragments) -> tuple[Frame, ...]:
    _refuse_cut(frames[-1], fragments)
    return frames


def _first_frame_only(source: ByteSource, spans: Frame, notes: list[str]) -> Frame:
    """The spans of a single frame: all of them, or up to the beginning of what is plainly a second codestream."""
    if len(spans) == 1:
        return spans
    if not starts_codestream(source.read_at(spans[0].offset, 12)):
        return spans
    for index, span in enumerate(spans[1:], 1):
        if starts_codestream(source.read_at(span.offset, min(12, span.length))) and _ends(source, spans[index - 1]):
            notes.append("the pixel data hold more frames than (0028,0008) Number of Frames says: the rest is left out")
            return spans[:index]
    return spans


def _ends(source: ByteSource, span: Span) -> bool:
    """Whether a codestream ends in `span` (EOI and EOC are the same bytes), up to two bytes of padding."""
    tail = source.read_at(span.offset + max(0, span.length - 4), min(4, span.length))
    return b"\xff\xd9" in tail


def _by_extended_offsets(fragments: Fragments, extended: ExtendedOffsets, frames: int) -> tuple[Frame, ...] | None:
    if len(extended.offsets) != frames or len(extended.lengths) not in {0, frames}:
        return None
    groups = _groups(fragments, extended.offsets)
    if groups is None:
        return None
    if not extended.lengths:
        return groups
    trimmed: list[Frame] = []
    for spans, length in zip(groups, extended.lengths, strict=True):
        total = sum(span.length for span in spans)
        # The lengths leave out what pads fragments to an even number of bytes.
        if not length <= total <= length + len(spans):
            return None
        last = spans[-1]
        excess = total - length
        if excess > last.length:
            return None
        trimmed.append((*spans[:-1], Span(last.offset, last.length - excess)))
    if fragments.cut:
        raise CorruptPixels("the data end inside the last fragment")
    return tuple(trimmed)


def _by_offsets(
    fragments: Fragments, offsets: tuple[int, ...], frames: int, notes: list[str]
) -> tuple[Frame, ...] | None:
    if len(offsets) < frames:
        return None
    groups = _groups(fragments, offsets)
    if groups is None:
        return None
    if len(groups) > frames:
        notes.append("the pixel data hold more frames than (0028,0008) Number of Frames says: the rest is left out")
        return groups[:frames]
    return _refuse_cut_last(groups, fragments)


def _groups(fragments: Fragments, offsets: tuple[int, ...]) -> tuple[Frame, ...] | None:
    """The fragments between consecutive offsets; None where an offset points to none, or offsets do not ascend."""
    index_of = fragments.item_offsets
    if offsets[0] != 0:
        return None
    starts: list[int] = []
    for offset in offsets:
        index = index_of.get(offset)
        if index is None or (starts and index <= starts[-1]):
            return None
        starts.append(index)
    ends = [*starts[1:], len(fragments.spans)]
    return tuple(fragments.spans[a:b] for a, b in zip(starts, ends, strict=True))


def _by_beginnings(source: ByteSource, fragments: Fragments, frames: int, notes: list[str]) -> tuple[Frame, ...]:
    """More fragments than frames and no table: a frame begins where a codestream does."""
    spans = fragments.spans
    heads = [source.read_at(span.offset, min(12, span.length)) for span in spans]
    starts = [i for i, head in enumerate(heads) if starts_codestream(head) and head[:2] == heads[0][:2]]
    if not starts or starts[0] != 0 or len(starts) < frames:
        raise CorruptPixels(
            f"{len(spans)} fragments cannot be assigned to {frames} frames: no offset table fits, "
            f"and {len(starts)} fragments begin a codestream"
        )
    ends = [*starts[1:], len(spans)]
    groups = tuple(spans[a:b] for a, b in zip(starts, ends, strict=True))
    if len(groups) > frames:
        notes.append("the pixel data hold more frames than (0028,0008) Number of Frames says: the rest is left out")
        return groups[:frames]
    return _refuse_cut_last(groups, fragments)


def read_frame(source: ByteSource, frame: Frame) -> bytes:
    """The bytes of one frame: its fragments joined.

    Raises:
        CorruptPixels: The file got shorter since it was opened.
    """
    data = (
        source.read_at(frame[0].offset, frame[0].length)
        if len(frame) == 1
        else b"".join(source.read_at(span.offset, span.length) for span in frame)
    )
    if len(data) != sum(span.length for span in frame):
        raise CorruptPixels("the file ends inside a frame")
    return data
