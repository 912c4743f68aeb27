"""A bounded walk over the elements of a data set while it arrives: lengths and tags only, nothing is decoded.

Contract: `DataSetScanner.feed` takes the data set in pieces of any size and skips values by their lengths, so that its
work is in the number of elements, not of bytes; `DataSetScanner.finish` says whether the elements ended exactly where
the bytes did. The two UIDs that a command must agree with (PS3.4 B.2.3) are picked up on the way, and where asked for
the Study Instance UID. Memory: one element header and the nesting.

Must never: raise for what a peer sent, or look at a value other than those UIDs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from listener.intake.transfer_syntaxes import Encoding

UNDEFINED: Final = 0xFFFFFFFF
SHORT_VRS: Final = frozenset(
    (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL")
).union((b"SS", b"ST", b"TM", b"UI", b"UL", b"US"))
"""Value representations with a 16-bit length (PS3.5 Table 7.1-2)."""
LONG_VRS: Final = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
"""Value representations with two reserved bytes and a 32-bit length (PS3.5 Table 7.1-1)."""
SHORT_VRS_BUT_UI: Final = SHORT_VRS - {b"UI"}
LONGEST_HEADER: Final = 12
LONGEST_UID: Final = 256
"""UIDs have 64 characters; of a longer value only this much is of interest."""

ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
SOP_CLASS_UID: Final = 0x00080016
SOP_INSTANCE_UID: Final = 0x00080018
DELIMITERS: Final = 0xFFFE
STUDY_INSTANCE_UID: Final = 0x0020000D
IDENTITY: Final = (SOP_CLASS_UID, SOP_INSTANCE_UID)
IDENTITY_ELEMENTS: Final = (0x0016, 0x0018)
"""The same, within group 0008."""
PIXEL_DATA: Final = 0x7FE00010

_LITTLE_ENDIAN: Final = (struct.Struct("<HH2sH"), struct.Struct("<I"), struct.Struct("<HHI"))
"""Tag, VR and 16-bit length; a 32-bit length; tag and 32-bit length."""
_BIG_ENDIAN: Final = (struct.Struct(">HH2sH"), struct.Struct(">I"), struct.Struct(">HHI"))


@dataclass(frozen=True, slots=True)
class DataSetFault:
    """Why a data set is not what its lengths say; `cause` is a stable word."""

    cause: str
    offset: int
    """Where in the data set, in bytes."""


@dataclass(slots=True)
class _Level:
    """One open sequence, item or string of fragments."""

    items: bool
    """Whether items are expected (a sequence), or elements (an item, the data set)."""
    fragments: bool
    """Whether the items are fragments of pixel data, which hold no elements."""
    end: int | None
    """Offset where it ends; None where a delimiter says so."""
    explicit: bool
    heads: struct.Struct
    """Reads tag and 32-bit length in the byte order of this level."""
    may_be_little: bool = False
    """Whether its first item tells the byte order: UN in a big endian data set."""


class DataSetScanner:
    """One walk over one data set."""

    def __init__(self, encoding: Encoding, *, max_depth: int, max_elements: int, study: bool = False) -> None:
        self._short, self._long, self._implicit = _LITTLE_ENDIAN if encoding.little_endian else _BIG_ENDIAN
        self._max_depth = max_depth
        self._elements_left = max_elements
        self._big_endian = not encoding.little_endian
        self._levels = [
            _Level(items=False, fragments=False, end=None, explicit=encoding.explicit_vr, heads=self._implicit)
        ]
        self._skip = 0
        self._carry = b""
        self._offset = 0
        self._fault: DataSetFault | None = None
        self._padding = False
        self.sop_class_uid: bytes | None = None
        self.sop_instance_uid: bytes | None = None
        self.study_instance_uid: bytes | None = None
        """Only where `study` asked for it: it takes a closer look at every UID."""
        self._quick_vrs = SHORT_VRS_BUT_UI if study else SHORT_VRS
        self._wanted = (*IDENTITY, STUDY_INSTANCE_UID) if study else IDENTITY

    def feed(self, piece: memoryview) -> None:
        """Walk on over the next bytes of the data set."""
        length = len(piece)
        if self._skip >= length:
            self._skip -= length
            self._offset += length
            return
        if self._is_over():
            return
        if self._carry:
            piece = memoryview(self._carry + bytes(piece))
            length = len(piece)
            self._carry = b""
        position = self._skip
        self._offset += position
        self._skip = 0
        while position < length and not self._is_over():
            ordinary = self._ordinary(piece, position)
            if ordinary:
                position += ordinary
                self._offset += ordinary
                continue
            used = self._step(piece, position)
            if used == 0:
                self._carry = bytes(piece[position:])
                return
            position += used
            self._offset += used
        if position > length:
            self._skip = position - length
            self._offset -= self._skip

    def finish(self) -> DataSetFault | None:
        """What is wrong, now that no more bytes come; None where the elements ended with the bytes."""
        if self._fault is None:
            while len(self._levels) > 1 and self._levels[-1].end == self._offset:
                self._levels.pop()
            if self._elements_left < 0:
                self._fault = DataSetFault("too_many_elements", self._offset)
            elif self._skip or self._carry:
                self._fault = DataSetFault("cut_off", self._offset)
            elif len(self._levels) > 1:
                self._fault = DataSetFault("delimiter_missing", self._offset)
        return self._fault

    def _is_over(self) -> bool:
        return self._fault is not None or self._padding

    def _ordinary(self, piece: memoryview, position: int) -> int:
        """Walk over what most data sets are made of, without a call per element: explicit VR, 16-bit lengths, no UIDs.

        Returns:
            Bytes walked over; 0 where the next header needs a closer look.
        """
        level = self._levels[-1]
        if level.items or not level.explicit:
            return 0
        limit = len(piece) - 8
        if level.end is not None:
            limit = min(limit, position + level.end - self._offset - 1)
        start, elements, unpack, quick_vrs = position, 0, self._short.unpack_from, self._quick_vrs
        while position <= limit:
            group, element, vr, length = unpack(piece, position)
            if vr not in quick_vrs or (group == 8 and element in IDENTITY_ELEMENTS):
                break
            position += 8 + length
            elements += 1
        self._elements_left -= elements
        return position - start

    def _step(self, piece: memoryview, position: int) -> int:
        """Walk over one element or item header and what can be skipped after it.

        Returns:
            Bytes from `position` to the next header, which may lie beyond this piece; 0 where this piece holds too
            little of the header.
        """
        level = self._levels[-1]
        while level.end is not None and self._offset >= level.end:
            if self._offset > level.end:
                self._fault = DataSetFault("length_lie", self._offset)
                return 1
            self._levels.pop()
            level = self._levels[-1]
        if position + 8 > len(piece):
            return 0
        self._elements_left -= 1
        if self._elements_left < 0:
            self._fault = DataSetFault("too_many_elements", self._offset)
            return 1
        if level.items:
            return self._item(piece, position, level)
        return self._element(piece, position, level)

    def _item(self, piece: memoryview, position: int, level: _Level) -> int:
        group, element, length = level.heads.unpack_from(piece, position)
        if level.may_be_little:
            level.may_be_little = False
            if group != DELIMITERS:
                level.heads = _LITTLE_ENDIAN[2]
                group, element, length = level.heads.unpack_from(piece, position)
        tag = group << 16 | element
        if tag == SEQUENCE_END and level.end is None:
            self._levels.pop()
            return 8
        if tag != ITEM or (level.fragments and length == UNDEFINED):
            self._fault = DataSetFault("item_expected", self._offset)
            return 8
        if level.fragments:
            return 8 + int(length)
        self._open(items=False, fragments=False, length=length, header=8, explicit=level.explicit)
        return 8

    def _element(self, piece: memoryview, position: int, level: _Level) -> int:
        header = 8
        vr = b""
        if level.explicit:
            group, element, vr, length = self._short.unpack_from(piece, position)
            if vr in LONG_VRS:
                header = LONGEST_HEADER
                if position + header > len(piece):
                    self._elements_left += 1
                    return 0
                (length,) = self._long.unpack_from(piece, position + 8)
            elif vr not in SHORT_VRS:
                return self._odd_element(piece, position, level)
        else:
            group, element, length = level.heads.unpack_from(piece, position)
            if group == DELIMITERS:
                return self._odd_element(piece, position, level)
        tag = group << 16 | element
        if length == UNDEFINED or vr == b"SQ":
            return self._open_sequence(tag, vr, length, header, level)
        if tag in self._wanted and len(self._levels) == 1:
            wanted = min(length, LONGEST_UID)
            value = bytes(piece[position + header : position + header + wanted])
            if len(value) < wanted:
                self._elements_left += 1
                return 0
            self._note(tag, value.rstrip(b"\0 "))
        if level.end is not None and self._offset + header + length > level.end:
            self._fault = DataSetFault("length_lie", self._offset)
        return header + int(length)

    def _note(self, tag: int, uid: bytes) -> None:
        """Keep the first UID of its tag, as readers do where an element occurs more than once."""
        if tag == SOP_CLASS_UID:
            self.sop_class_uid = self.sop_class_uid or uid
        elif tag == SOP_INSTANCE_UID:
            self.sop_instance_uid = self.sop_instance_uid or uid
        else:
            self.study_instance_uid = self.study_instance_uid or uid

    def _odd_element(self, piece: memoryview, position: int, level: _Level) -> int:
        """An element whose VR is none of explicit VR encoding: a delimiter, padding, or not explicit at all."""
        group, element, length = level.heads.unpack_from(piece, position)
        tag = group << 16 | element
        if tag == ITEM_END and len(self._levels) > 1 and level.end is None:
            self._levels.pop()
            return 8
        if self._offset == 0 and level.explicit:
            # A data set in implicit VR under a wrong label: readers cope with it, so it is walked as what it is.
            level.explicit = False
            return self._element(piece, position, level)
        if tag == 0 and length == 0 and len(self._levels) == 1:
            self._padding = True
            return len(piece) - position
        self._fault = DataSetFault("unknown_vr", self._offset)
        return 8

    def _open_sequence(self, tag: int, vr: bytes, length: int, header: int, level: _Level) -> int:
        fragments = tag == PIXEL_DATA and length == UNDEFINED
        # UN of undefined length is a sequence in implicit VR little endian, whatever is around it (PS3.5 6.2.2).
        explicit = level.explicit and vr != b"UN"
        if length == UNDEFINED and level.explicit and vr not in (b"SQ", b"UN", b"OB", b"OW"):
            self._fault = DataSetFault("undefined_length", self._offset)
            return header
        self._open(items=True, fragments=fragments, length=length, header=header, explicit=explicit)
        # Its items are little endian by PS3.5 6.2.2, in a big endian data set too; some writers keep big endian.
        self._levels[-1].may_be_little = self._big_endian and vr == b"UN" and length == UNDEFINED
        return header

    def _open(self, *, items: bool, fragments: bool, length: int, header: int, explicit: bool) -> None:
        if len(self._levels) > 2 * self._max_depth:
            self._fault = DataSetFault("too_deep", self._offset)
            return
        end = None if length == UNDEFINED else self._offset + header + length
        outer = self._levels[-1].end
        if end is not None and outer is not None and end > outer:
            self._fault = DataSetFault("length_lie", self._offset)
            return
        heads = self._levels[-1].heads
        self._levels.append(_Level(items=items, fragments=fragments, end=end, explicit=explicit, heads=heads))
