"""Structure of a DICOM file: a bounded walk over tags, value representations and lengths.

Contract: `find_data_set` says whether bytes are DICOM and where the data set begins; `walk` finds the pixel data
element and counts what a hostile header costs (elements, items, depth, bytes) before any library builds objects from
it. The walk reads heads of elements only, in one pass, without recursion, in memory that does not grow with the file.

Must never: interpret a value, trust a length beyond the bytes that are there, or recurse.

Source: PS3.10 chapter 7 (file), PS3.5 chapter 7 (data set), PS3.5 A.4 (encapsulation), PS3.5 6.2.2 (UN).
"""

from __future__ import annotations

import re
import struct
from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from exporter.dicom.bytesource import end_of_zeros
from exporter.errors import NotDicom, TooLarge, Unreadable

if TYPE_CHECKING:
    from exporter.dicom.bytesource import ByteSource
    from exporter.settings.settings import LimitSettings

UNDEFINED: Final = 0xFFFFFFFF
PIXEL_TAGS: Final = {0x7FE00010: "PixelData", 0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}
IMPLICIT_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
DEFLATED_LE: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE: Final = "1.2.840.10008.1.2.2"
GE_PRIVATE_BE: Final = "1.2.840.113619.5.2"
"""Implicit little endian with big endian pixel data, as old GE systems wrote it."""

SHORT_VR: Final = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VR: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_ITEM_BYTES: Final = b"\xfe\xff\x00\xe0"
_DELIMITER_BYTES: Final = b"\xfe\xff\xdd\xe0"
_PADDED: Final = "padding follows the last element"
_ITEM_ORDER: Final = (
    "the elements of a sequence item are not in ascending order (PS3.5 7.1): of two of one tag the last counts"
)
_MOST_RUNS: Final = 1000
"""Most runs of elements that the header is put together from."""
_MOST_NOTES: Final = 20
"""Most warnings about the order of elements."""
_WINDOW: Final = 1 << 16
_SMALL_FRAGMENT: Final = 1 << 12
"""Below this many bytes several heads of fragments are read at once."""
_UID: Final = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class DataSetStart:
    """Offsets of meta information and data set, and the encoding of the data set."""

    meta_offset: int | None
    """Offset of group 0002; None if absent."""
    offset: int
    """Offset of the data set."""
    transfer_syntax: str
    """Transfer syntax by the file; assumed from the bytes where the file has none."""
    implicit: bool
    big_endian: bool
    meta_implicit: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PixelElement:
    """The pixel data element of the data set's top level."""

    tag: int
    vr: str
    """``OB``, ``OW``, ``OF``, ``OD``, ...; empty in an implicit data set."""
    offset: int
    """Offset of its value."""
    length: int | None
    """Length as declared; None where it is undefined (encapsulated)."""


@dataclass(frozen=True, slots=True)
class LittleEndianUN:
    """A UN element of undefined length whose items are little endian in a big endian data set (PS3.5 6.2.2).

    A reader that knows one byte order cannot read its value.
    """

    tag: int | None
    """Tag of an element at the top level; None within sequences."""
    offset: int
    """Offset of its value."""
    length: int
    """Bytes of its value, the delimiter included."""


@dataclass(frozen=True, slots=True)
class DataSetStructure:
    """Findings of a walk over the data set."""

    header: tuple[tuple[int, int], ...]
    """(begin, end) of the runs of elements that are not pixel data, in the order of the file."""
    pixel: PixelElement | None
    elements: int
    """Number of elements and items, nested ones included."""
    top_elements: int
    """Number of elements in `header`."""
    sound: bool
    """False where the nesting made no sense; a tolerant reader may still read the header."""
    little_endian_un: tuple[LittleEndianUN, ...] = ()
    warnings: tuple[str, ...] = ()


class _Window:
    """Reads small pieces through one buffer."""

    __slots__ = ("_base", "_buffer", "_source", "size")

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._base = 0
        self._buffer = b""
        self.size = source.size

    def at(self, offset: int, length: int) -> tuple[bytes, int]:
        """A buffer and the index in it where `offset` is; `length` bytes follow unless the source ends."""
        index = offset - self._base
        if index < 0 or index + length > len(self._buffer):
            self._buffer = self._source.read_at(offset, max(_WINDOW, length))
            self._base = offset
            index = 0
        return self._buffer, index

    def bytes_at(self, offset: int, length: int) -> bytes:
        buffer, index = self.at(offset, length)
        return buffer[index : index + length]


def find_data_set(source: ByteSource) -> DataSetStart:
    """Beginning and encoding of the data set.

    Recognised are a file with preamble and prefix, one whose preamble is missing, and a bare data set that begins with
    plausible elements in ascending order.

    Raises:
        NotDicom: The bytes hold no DICOM data set.
        Unreadable: They do, and the meta information is damaged.
    """
    head = source.read_at(0, 132)
    if head[128:132] == b"DICM":
        return _behind_prefix(source, 132)
    if head[:4] == b"DICM":
        return _behind_prefix(source, 4, ("the preamble is missing",))
    if head[:4] == b"\x02\x00\x00\x00" or head[:3] == b"\x02\x00\x10":
        return _behind_prefix(source, 0, ("preamble and prefix are missing",))
    guess = _encoding_at(source, 0)
    if guess is None or not _plausible(source, guess):
        raise NotDicom("the file has neither the DICM prefix nor the beginning of a data set")
    return DataSetStart(None, 0, _syntax_of(*guess), *guess, warnings=("the file meta information is missing",))


def _behind_prefix(source: ByteSource, offset: int, warnings: tuple[str, ...] = ()) -> DataSetStart:
    syntax, end, meta_implicit = _meta(source, offset)
    notes = list(warnings)
    guess = None if syntax == DEFLATED_LE else _encoding_at(source, end)
    if syntax is None:
        if guess is None:
            raise Unreadable(
                "(0002,0010) Transfer Syntax UID is missing or no UID, and the bytes do not tell the encoding"
            )
        syntax = _syntax_of(*guess)
        notes.append("(0002,0010) Transfer Syntax UID is missing or no UID: taken from the bytes of the data set")
    stated = (syntax in {IMPLICIT_LE, GE_PRIVATE_BE}, syntax == EXPLICIT_BE)
    if guess is not None and guess != stated:
        notes.append("the data set is not encoded as (0002,0010) Transfer Syntax UID says: read as its bytes are")
        implicit, big_endian = guess
    else:
        implicit, big_endian = stated
    meta_offset = offset if end > offset else None
    return DataSetStart(meta_offset, end, syntax, implicit, big_endian, meta_implicit, tuple(notes))


def _meta(source: ByteSource, offset: int) -> tuple[str | None, int, bool]:
    """Transfer syntax, end, and whether group 0002 is (wrongly) implicit; its group length is not trusted."""
    window = _Window(source)
    syntax: str | None = None
    implicit = False
    for _ in range(256):
        head = window.bytes_at(offset, 12)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            return syntax, offset, implicit
        element = int.from_bytes(head[2:4], "little")
        vr = head[4:6]
        if vr in SHORT_VR:
            start, length = offset + 8, int.from_bytes(head[6:8], "little")
        elif vr in LONG_VR:
            start, length = offset + 12, int.from_bytes(head[8:12], "little")
        else:
            start, length, implicit = offset + 8, int.from_bytes(head[4:8], "little"), True
        if start + length > source.size:
            raise Unreadable(f"the file meta information ends inside (0002,{element:04X})")
        if element == 0x0010:
            text = source.read_at(start, min(length, 64)).rstrip(b" \0")
            named = text.decode("ascii", "replace").strip()
            # What is no UID may be anything, a patient's name too, and messages tell the transfer syntax.
            syntax = named if _UID.fullmatch(named) else None
        offset = start + length
    raise Unreadable("the file meta information has more than 256 elements")


def _syntax_of(implicit: bool, big_endian: bool) -> str:
    return IMPLICIT_LE if implicit else EXPLICIT_BE if big_endian else EXPLICIT_LE


def _encoding_at(source: ByteSource, offset: int) -> tuple[bool, bool] | None:
    """(implicit, big endian) of the element at `offset`, or None where the bytes do not tell."""
    head = source.read_at(offset, 8)
    if len(head) < 8:
        return None
    if head[4:6] in SHORT_VR or head[4:6] in LONG_VR:
        little, big = int.from_bytes(head[:2], "little"), int.from_bytes(head[:2], "big")
        # The first group of a data set is small (0008); read in the wrong order it is 0800.
        return False, big < little
    return True, False


def _plausible(source: ByteSource, guess: tuple[bool, bool]) -> bool:
    """Whether the first elements of a bare data set look like one: small groups, ascending tags, lengths that fit."""
    implicit, big_endian = guess
    walker = _Walker(source, implicit=implicit, big_endian=big_endian)
    offset, last = 0, 0
    for index in range(4):
        if offset == source.size and index:
            return True
        head = walker.element(offset)
        if head is None:
            return False
        tag, vr, start, length = head
        if tag <= last or not 0x00020000 < tag < 0x00110000 or (not implicit and vr is None):
            return index >= 2 and tag > last and tag >= 0x00110000
        if length == UNDEFINED:
            return index >= 1
        if start + length > source.size or (implicit and length > 0x10000):
            return False
        offset, last = start + length, tag
    return True


class _Walker:
    """Reads the head of one element, in one encoding."""

    __slots__ = ("_big", "_explicit", "_implicit", "_implicit_default", "_long", "_window")

    def __init__(self, source: ByteSource, *, implicit: bool, big_endian: bool) -> None:
        order = ">" if big_endian else "<"
        self._implicit_default = implicit
        self._implicit = struct.Struct(f"{order}HHI").unpack_from
        self._explicit = struct.Struct(f"{order}HH2sH").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from
        self._window = _Window(source)

    def rest(self, offset: int) -> bytes:
        """The bytes from `offset` where too few for a head are left."""
        return self._window.bytes_at(offset, 12)

    def element(self, offset: int, implicit: bool | None = None) -> tuple[int, bytes | None, int, int] | None:
        """(tag, VR or None, offset of the value, length) at `offset`; None where too few bytes are left."""
        buffer, index = self._window.at(offset, 12)
        left = len(buffer) - index
        if left < 8:
            return None
        group, element, length = self._implicit(buffer, index)
        tag = group << 16 | element
        if group == 0xFFFE or (self._implicit_default if implicit is None else implicit):
            return tag, None, offset + 8, length
        _, _, vr, short = self._explicit(buffer, index)
        if vr in LONG_VR:
            return (tag, vr, offset + 12, self._long(buffer, index + 8)[0]) if left >= 12 else None
        # A VR that is not known is read as pydicom reads it, with a short length.
        if vr in SHORT_VR or b"AA" <= vr <= b"ZZ":
            return tag, vr, offset + 8, short
        return tag, None, offset + 8, length  # a writer fell back to implicit VR in the middle

    def peek_tag(self, offset: int) -> int | None:
        """The tag at `offset`."""
        buffer, index = self._window.at(offset, 8)
        if len(buffer) - index < 8:
            return None
        group, element, _ = self._implicit(buffer, index)
        return int(group << 16 | element)


_DATA_SET, _SEQUENCE, _FRAGMENTS = range(3)


class _UnsoundError(Exception):
    """The nesting makes no sense; a tolerant reader may still read the header."""


class _Found(Exception):
    """The walk is at its end: the pixel data element, or None at the end of the data set."""

    def __init__(self, pixel: PixelElement | None, note: str | None = None) -> None:
        super().__init__()
        self.pixel = pixel
        self.note = note


class _TopLevel:
    """Record of the top level during a walk: the bytes of the header, and oddities of its elements."""

    def __init__(self, offset: int) -> None:
        self.runs: list[tuple[int, int]] = []
        """(begin, end) of elements that are read."""
        self.notes: list[str] = []
        self.last = 0
        """Greatest tag so far, pixel data included."""
        self.element = offset
        """Offset of the latest element: all elements before are whole."""
        self._run = offset
        self._noted = -1
        self._tags = array("I")
        self._seen: set[int] | None = None

    @property
    def count(self) -> int:
        """Number of elements that are read."""
        return len(self._tags)

    def note_tag(self, tag: int) -> bool:
        """Note the tag of the latest element.

        Returns:
            Whether it is the first of its tag: as for DCMTK and GDCM, that one counts.
        """
        if (tag <= self.last or self._seen is not None) and not self._is_new(tag):
            self.say(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) occurs more than once: the first one counts")
            return False
        self._tags.append(tag)
        self._noted = self.element
        self.last = max(self.last, tag)
        return True

    def _is_new(self, tag: int) -> bool:
        """Whether a tag did not occur before, where tags do not ascend."""
        if self._seen is None:
            self._seen = set(self._tags)
            self.say("the elements of the data set are not in ascending order (PS3.5 7.1)")
        if tag in self._seen:
            return False
        self._seen.add(tag)
        return True

    def leave_out(self, begin: int, end: int) -> None:
        """Leave the bytes from `begin` to `end` out of the header.

        Raises:
            Unreadable: That happened more often than any writer's mistake would explain.
        """
        if len(self.runs) >= _MOST_RUNS:
            raise Unreadable(f"over {_MOST_RUNS} elements of the data set are out of place")
        self.close(begin)
        self._run = end

    def close(self, end: int) -> None:
        """End the run of elements at `end`."""
        if end > self._run:
            self.runs.append((self._run, end))
        self._run = end

    def close_before_last(self) -> None:
        """Leave out the latest element, which is damaged, and what follows it."""
        if self._noted == self.element:
            self._tags.pop()
        self.close(max(self.element, self._run))

    def say(self, note: str) -> None:
        """Add a warning, unless there are many already."""
        if len(self.notes) < _MOST_NOTES and note not in self.notes:
            self.notes.append(note)


class _Walk:
    """One walk over a data set: an explicit stack of open sequences and items instead of recursion."""

    def __init__(self, source: ByteSource, start: DataSetStart, limits: LimitSettings) -> None:
        self.offset = start.offset
        self.elements = 0
        self.top = _TopLevel(start.offset)
        self.little_endian_un: list[LittleEndianUN] = []
        self._source = source
        self._walker = _Walker(source, implicit=start.implicit, big_endian=start.big_endian)
        self._big_endian = start.big_endian
        self._size = source.size
        self._start = start.offset
        self._limits = limits
        # The open level: its kind, its end (None where undefined), whether its elements are implicit, its byte order,
        # the tag of its latest element.
        self._kind = _DATA_SET
        self._end: int | None = source.size
        self._implicit = start.implicit
        self._stack: list[tuple[int, int | None, bool, _Walker, int]] = []
        self._last = 0
        self._drop_from: int | None = None
        self._un: tuple[int | None, int] = (None, 0)

    def step(self) -> None:
        """Read one head and go behind it."""
        self._leave_finished_levels()
        if self._drop_from is not None and not self._stack:
            self.top.leave_out(self._drop_from, self.offset)
            self._drop_from = None
        if not self._stack:
            self.top.element = self.offset
        head = self._walker.element(self.offset, self._kind != _DATA_SET or self._implicit)
        if head is None:
            if self._stack:
                raise Unreadable("the data set ends inside a sequence")
            if any(self._walker.rest(self.offset)):
                raise Unreadable("the data set ends inside the head of an element")
            raise _Found(None, _PADDED)
        self._count(head[2])
        if self._kind == _DATA_SET:
            self._element(*head)
        else:
            self._item(*head)

    def skip_pixels(self, pixel: PixelElement) -> None:
        """Go behind a pixel data element of the top level, whose head is at `offset`; its value is not read."""
        head = self.offset
        if pixel.length is not None:
            self.offset = min(self._size, pixel.offset + pixel.length)
        else:
            self.offset = min(self._size, self._behind_fragments(pixel.offset))
        self._start += self.offset - head  # the limit on a header's bytes does not count pixel data
        self.top.leave_out(head, self.offset)

    def _behind_fragments(self, offset: int) -> int:
        """Offset behind the sequence delimiter, or behind the last fragment without one.

        Only heads of fragments are read, many at once where fragments are small; the reader of the frames says what is
        missing.
        """
        buffer, base, length = b"", 0, _WINDOW
        for _ in range(self._limits.max_elements):
            at = offset - base
            if at + 8 > len(buffer):
                buffer, base, at = self._source.read_at(offset, _WINDOW if length < _SMALL_FRAGMENT else 8), offset, 0
            tag = buffer[at : at + 4]
            if tag == _DELIMITER_BYTES:
                return offset + 8
            if tag != _ITEM_BYTES:
                break
            length = int.from_bytes(buffer[at + 4 : at + 8], "little")
            offset += 8 + length
        return offset

    def _leave_finished_levels(self) -> None:
        while self._end is not None and self.offset >= self._end:
            if self.offset > self._end:
                raise _UnsoundError("an element reaches beyond its sequence item")
            if not self._stack:
                if self._drop_from is not None:
                    self.top.leave_out(self._drop_from, self.offset)
                raise _Found(None)
            self._leave()

    def _enter(self, kind: int, end: int | None, offset: int, *, implicit: bool) -> None:
        self._stack.append((self._kind, self._end, self._implicit, self._walker, self._last))
        if len(self._stack) > 2 * self._limits.max_depth:  # a sequence and its item are two levels
            raise TooLarge(f"sequences are nested deeper than {self._limits.max_depth} (limits.max_depth)")
        self._kind, self._end, self._implicit, self.offset, self._last = kind, end, implicit, offset, 0

    def _leave(self) -> None:
        inner = self._walker
        self._kind, self._end, self._implicit, self._walker, self._last = self._stack.pop()
        if inner is not self._walker:
            tag, value = self._un
            self.little_endian_un.append(LittleEndianUN(tag, value, self.offset - value))

    def _count(self, reached: int) -> None:
        self.elements += 1
        if self.elements > self._limits.max_elements:
            raise TooLarge(f"the data set has more than {self._limits.max_elements} elements (limits.max_elements)")
        if reached - self._start > self._limits.max_header_bytes:
            raise TooLarge(f"the header passes {self._limits.max_header_bytes} bytes (limits.max_header_bytes)")

    def _item(self, tag: int, _vr: bytes | None, value: int, length: int) -> None:
        """An item, a fragment, or the delimiter of their sequence."""
        if tag == _SEQUENCE_END and self._end is None:
            self.offset = value
            self._leave()
        elif tag != _ITEM:
            raise _UnsoundError("a sequence holds something other than items")
        elif self._kind == _FRAGMENTS:
            if length == UNDEFINED or value + length > self._size:
                raise Unreadable("the data set ends inside an encapsulated element")
            self.offset = value + length
        else:
            self._enter(_DATA_SET, None if length == UNDEFINED else value + length, value, implicit=self._implicit)

    def _element(self, tag: int, vr: bytes | None, value: int, length: int) -> None:
        """An element of a data set or item."""
        if tag >> 16 == 0xFFFE:
            self._delimiter(tag, value, length)
            return
        if not self._stack:
            # Group 0000 is a command's, and first in any order: what has no VR either is padding, or no element at all.
            if tag >> 16 == 0 and vr is None and (self.top.last >> 16 or tag == length == 0):
                self._zeros(tag, length)
                return
            self._note_top_level(tag, vr, value, length)
        elif tag <= self._last:
            self.top.say(_ITEM_ORDER)
        self._last = tag
        if length == UNDEFINED:
            nested = tag not in PIXEL_TAGS and vr in {b"SQ", b"UN", None}
            # PS3.5 6.2.2: UN of undefined length is a sequence in implicit little endian.
            implicit = self._implicit or vr == b"UN"
            self._enter(_SEQUENCE if nested else _FRAGMENTS, None, value, implicit=implicit)
            if self._is_little_endian_un(vr, value):
                self._walker = _Walker(self._source, implicit=True, big_endian=False)
                self._un = (tag if len(self._stack) == 1 else None, value)
        elif value + length > self._size:
            raise Unreadable(
                f"the data set ends inside ({tag >> 16:04X},{tag & 0xFFFF:04X}): "
                f"{length} bytes declared, {self._size - value} there"
            )
        elif self._is_sequence(tag, vr, value, length):
            self._enter(_SEQUENCE, value + length, value, implicit=self._implicit)
        else:
            self.offset = value + length
            if self.offset - self._start > self._limits.max_header_bytes:
                raise TooLarge(f"the header passes {self._limits.max_header_bytes} bytes (limits.max_header_bytes)")

    def _delimiter(self, tag: int, value: int, length: int) -> None:
        """A delimiter where an element is expected: the end of an item, or one that belongs to nothing."""
        if self._stack and self._end is None and tag == _ITEM_END:
            self.offset = value
            self._leave()
        elif length == 0 and tag in {_ITEM_END, _SEQUENCE_END} and (not self._stack or value == self._end):
            if not self._stack:
                self.top.say("a delimiter lies outside of any sequence: left out")
                self.top.leave_out(self.offset, value)
            self.offset = value
        else:
            raise _UnsoundError("a delimiter lies where an element belongs")

    def _zeros(self, tag: int, length: int) -> None:
        """Go behind zeros at the top level, to the end or to the next element."""
        end = end_of_zeros(self._source, self.offset)
        if end == self._size:
            raise _Found(None, _PADDED)
        if tag or length:
            raise Unreadable("bytes that are not elements follow the last element")
        self.top.say("zeros lie between elements: left out")
        begin, self.offset = self.offset, end - (end - self.offset) % 8
        self.top.leave_out(begin, self.offset)

    def _note_top_level(self, tag: int, vr: bytes | None, value: int, length: int) -> None:
        """An element of the top level: pixel data, or one more of its tag."""
        if tag in PIXEL_TAGS:
            self.top.last = max(self.top.last, tag)
            raise _Found(
                PixelElement(tag, (vr or b"").decode("latin-1"), value, None if length == UNDEFINED else length)
            )
        if not self.top.note_tag(tag):
            self._drop_from = self.offset

    def _is_little_endian_un(self, vr: bytes | None, value: int) -> bool:
        """Whether a sequence is UN in little endian, as PS3.5 6.2.2 has it, within a big endian data set."""
        return vr == b"UN" and self._big_endian and self._source.read_at(value, 4) in {_ITEM_BYTES, _DELIMITER_BYTES}

    def _is_sequence(self, tag: int, vr: bytes | None, value: int, length: int) -> bool:
        if vr is not None:
            return vr == b"SQ"
        # Without a VR: a public element that begins with an item; pydicom reads private ones of known length as bytes.
        return length >= 8 and not tag & 0x10000 and self._walker.peek_tag(value) == _ITEM


def walk(source: ByteSource, start: DataSetStart, limits: LimitSettings) -> DataSetStructure:
    """Walk the data set's elements; pixel data are passed over by their length, or by the heads of their fragments.

    What is wrong behind the pixel data costs no picture: it is left out, with a warning.

    Raises:
        TooLarge: A limit on elements, nesting or header bytes is passed.
        Unreadable: The data set ends inside an element.
    """
    state = _Walk(source, start, limits)
    try:
        while True:
            state.step()
    except _Found as found:
        end = state.offset
        state.top.close(end)
        if found.note is not None:
            state.top.say(found.note)
        if found.pixel is not None:
            return _layout(state, _walk_behind(state, found.pixel, source.size), sound=True)
        return _layout(state, None, sound=True)
    except _UnsoundError as error:
        state.top.close(state.offset)
        state.top.say(f"the nesting of sequences is damaged, elements in them may be missing: {error}")
        return _layout(state, None, sound=False)


def walk_behind(
    source: ByteSource, start: DataSetStart, pixel: PixelElement, head: int, limits: LimitSettings
) -> DataSetStructure:
    """Walk the elements behind a pixel data element whose head is at `head`; the header's runs are those behind it."""
    state = _Walk(source, replace(start, offset=head), limits)
    state.top.last = pixel.tag
    return _layout(state, _walk_behind(state, pixel, source.size), sound=True)


def _layout(state: _Walk, pixel: PixelElement | None, *, sound: bool) -> DataSetStructure:
    return DataSetStructure(
        tuple(state.top.runs),
        pixel,
        state.elements,
        state.top.count,
        sound,
        tuple(state.little_endian_un),
        tuple(dict.fromkeys(state.top.notes)),
    )


def _walk_behind(state: _Walk, pixel: PixelElement, size: int) -> PixelElement:
    """Walk on behind the pixel data to the end of the data set; never raises for what is there.

    Returns:
        The pixel data: the first that are not empty.
    """
    top = state.top
    try:
        state.skip_pixels(pixel)
        while state.offset < size:
            try:
                while True:
                    state.step()
            except _Found as found:
                if found.note is not None:
                    top.say(found.note)
                if found.pixel is None:
                    break
                top.say(
                    f"({found.pixel.tag >> 16:04X},{found.pixel.tag & 0xFFFF:04X}): the data set has pixel data more "
                    "than once: the first that are not empty are exported"
                )
                state.skip_pixels(found.pixel)
                pixel = found.pixel if pixel.length == 0 else pixel
        top.close(state.offset)
    except (Unreadable, TooLarge, _UnsoundError) as error:
        top.close_before_last()
        top.say(f"{size - top.element} bytes behind the pixel data are left out: {error}")
    return pixel


def pixel_element_at(source: ByteSource, start: DataSetStart, offset: int) -> PixelElement | None:
    """The pixel data element whose head is at `offset`; None if absent."""
    head = _Walker(source, implicit=start.implicit, big_endian=start.big_endian).element(offset)
    if head is None or head[0] not in PIXEL_TAGS:
        return None
    tag, vr, value, length = head
    return PixelElement(tag, (vr or b"").decode("latin-1"), value, None if length == UNDEFINED else length)
