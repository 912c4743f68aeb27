"""Plain headers in one pass: little endian, tags in ascending order, known VRs, sound nesting, all of it in memory.

Contract: `read_plain` finds in such a data set what `exporter.dicom.structure.walk` finds, and makes the data set that
pydicom makes of it, at a fraction of the cost: nothing is read twice, and pydicom's reader does not run. For whatever
is not plain it returns None: then the walk and pydicom decide, and say why. A test compares both ways over the corpus
and over mutants of it.

Must never: be more tolerant than the walk, interpret a value other than (0008,0005), or recurse beyond `_DEEPEST`.

Source: PS3.5 chapter 7 (data set), PS3.5 A.4 (encapsulation).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from exporter.dicom.elements import READING_ERRORS, quiet_reading
from exporter.dicom.structure import PIXEL_TAGS, UNDEFINED, DataSetStructure, PixelElement
from listener.intake.walk import LONG_VRS, SHORT_VRS

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from exporter.dicom.structure import DataSetStart
    from exporter.settings.settings import LimitSettings

_DEEPEST: Final = 32
"""Deepest nesting of a plain header; deeper ones are walked without recursion."""
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_CHARACTER_SET: Final = 0x00080005
_LAST_COMMAND: Final = 0x0000FFFF
_MOST_CHARACTER_SET: Final = 256
_MOST_FRAGMENTS: Final = 1000
_VRS: Final = {vr: (vr.decode(), vr in LONG_VRS) for vr in sorted(SHORT_VRS | LONG_VRS)}
"""Name of a VR, and whether its length has four bytes, by its bytes."""
_explicit = struct.Struct("<HH2sH").unpack_from
_implicit = struct.Struct("<HHI").unpack_from
_long = struct.Struct("<I").unpack_from


class _NotPlainError(Exception):
    """The data set is to be read by the walk and by pydicom."""


@dataclass(frozen=True, slots=True)
class PlainHeader:
    """A plain data set without its pixel data."""

    structure: DataSetStructure
    header: Dataset


def read_plain(data: bytes, start: DataSetStart, limits: LimitSettings) -> PlainHeader | None:
    """Read the data set that begins at `start.offset` and ends with `data`.

    Args:
        data: The bytes of the whole file.
        start: Beginning and encoding of the data set.
        limits: Where one of them is passed, the header is not plain.

    Returns:
        None where the data set is not plain.
    """
    if start.big_endian:
        return None
    scan = _Scan(data, start.offset, implicit=start.implicit)
    try:
        scan.top_level(min(limits.max_depth, _DEEPEST))
        encoding = _encodings(scan.character_set)
    except (_NotPlainError, struct.error):
        return None
    head = scan.offset if scan.pixel is None else scan.pixel_head
    if scan.count > limits.max_elements or head + 12 - start.offset > limits.max_header_bytes:
        return None
    structure = DataSetStructure(
        ((start.offset, head),) if head > start.offset else (), scan.pixel, scan.count, len(scan.elements), sound=True
    )
    return PlainHeader(structure, _data_set(scan.elements, encoding, implicit=start.implicit))


class _Scan:
    """One pass over the elements of a data set in memory."""

    def __init__(self, data: bytes, offset: int, *, implicit: bool) -> None:
        self.offset = offset
        self.elements: dict[Any, Any] = {}
        """Elements of the top level as pydicom keeps unread ones, by tag."""
        self.count = 0
        """Number of heads, nested ones included."""
        self.pixel: PixelElement | None = None
        self.pixel_head = 0
        self.character_set: bytes | None = None
        self._data = data
        self._start = offset
        self._is_implicit = implicit

    def top_level(self, levels: int) -> None:
        """Read all elements, and find the end of the pixel data; sequences may be nested in so many levels.

        Raises:
            _NotPlainError: The data set is not plain.
            struct.error: It ends inside the head of an element.
        """
        from pydicom.dataelem import RawDataElement

        data, elements, implicit, start = self._data, self.elements, self._is_implicit, self._start
        offset, end, last = self.offset, len(self._data), _LAST_COMMAND
        vr: str | None = None
        if implicit and data[offset + 4 : offset + 6].isalpha():
            raise _NotPlainError  # pydicom takes two letters for a VR
        while offset < end:
            value = offset + 8
            if implicit:
                group, element, length = _implicit(data, offset)
            else:
                group, element, code, length = _explicit(data, offset)
                vr, is_long = _known_vr(code)
                if is_long:
                    (length,) = _long(data, value)
                    value += 4
            tag = group << 16 | element
            if tag <= last or group == 0xFFFE:
                raise _NotPlainError
            last = tag
            self.count += 1
            if tag in PIXEL_TAGS:
                self.pixel_head = offset
                self.pixel = PixelElement(tag, vr or "", value, None if length == UNDEFINED else length)
                offset = value + length if length != UNDEFINED else self._behind_fragments(value)
                if offset < end:
                    raise _NotPlainError  # elements behind the pixel data, or padding
                break
            raw, offset = self._value(tag, vr, value, length, levels)
            if offset > end:
                raise _NotPlainError
            key = base_tag(tag)
            elements[key] = RawDataElement(key, vr, length, raw, value - start, implicit, True)
        self.offset = offset

    def _value(self, tag: int, vr: str | None, value: int, length: int, levels: int) -> tuple[bytes | None, int]:
        """The bytes of an element of the top level as pydicom keeps them, and the offset behind it."""
        stop = after = value + length
        if self._is_sequence(tag, vr, value, length):
            after = self._sequence(value, None if length == UNDEFINED else stop, levels)
            stop = after - 8 if length == UNDEFINED else after
        raw = self._data[value:stop] if length else _empty_values()[vr]
        if tag == _CHARACTER_SET:
            if vr not in {"CS", None} or not 0 < length <= _MOST_CHARACTER_SET:
                raise _NotPlainError
            self.character_set = raw
        return raw, after

    def _is_sequence(self, tag: int, vr: str | None, value: int, length: int) -> bool:
        """Whether an element is to be walked; as the walk decides it.

        Raises:
            _NotPlainError: It has an undefined length and is no sequence.
        """
        if vr is not None:
            if length == UNDEFINED and vr != "SQ":
                raise _NotPlainError
            return vr == "SQ"
        if length == UNDEFINED:
            raise _NotPlainError
        return length >= 8 and not tag & 0x10000 and self._data[value : value + 4] == b"\xfe\xff\x00\xe0"

    def _sequence(self, offset: int, end: int | None, levels: int) -> int:
        """Walk the items of a sequence; returns the offset behind it, its delimiter included."""
        if levels == 0:
            raise _NotPlainError
        data = self._data
        most = len(data) if end is None else end
        while end is None or offset < end:
            group, element, length = _implicit(data, offset)
            tag = group << 16 | element
            self.count += 1
            offset += 8
            if tag == _SEQUENCE_END and end is None:
                return offset
            if tag != _ITEM:
                raise _NotPlainError
            offset = self._item(offset, None if length == UNDEFINED else offset + length, levels)
            if offset > most:
                raise _NotPlainError
        return offset

    def _item(self, offset: int, end: int | None, levels: int) -> int:
        """Walk the elements of an item; returns the offset behind it, its delimiter included."""
        data, implicit, last = self._data, self._is_implicit, 0
        if end is not None and end > len(data):
            raise _NotPlainError
        vr: str | None
        while end is None or offset < end:
            group, element, length = _implicit(data, offset)
            tag = group << 16 | element
            self.count += 1
            value = offset + 8
            if tag == _ITEM_END and end is None:
                return value
            if tag <= last or group == 0xFFFE or tag == _CHARACTER_SET:
                raise _NotPlainError
            last = tag
            vr = None
            if not implicit:
                vr, is_long = _known_vr(data[offset + 4 : offset + 6])
                if is_long:
                    (length,) = _long(data, value)
                    value += 4
                else:
                    length >>= 16
            if self._is_sequence(tag, vr, value, length):
                offset = self._sequence(value, None if length == UNDEFINED else value + length, levels - 1)
            else:
                offset = value + length
            if offset > (len(data) if end is None else end):
                raise _NotPlainError
        return offset

    def _behind_fragments(self, offset: int) -> int:
        """Offset behind the delimiter of encapsulated pixel data.

        Raises:
            _NotPlainError: It has none, or something else lies between the fragments.
        """
        for _ in range(_MOST_FRAGMENTS):
            group, element, length = _implicit(self._data, offset)
            tag = group << 16 | element
            offset += 8
            if tag == _SEQUENCE_END:
                return offset
            if tag != _ITEM:
                break
            offset += length
        raise _NotPlainError


def _known_vr(code: bytes) -> tuple[str, bool]:
    """Name of a VR, and whether its length has four bytes.

    Raises:
        _NotPlainError: No VR has that code.
    """
    known = _VRS.get(code)
    if known is None:
        raise _NotPlainError
    return known


def _data_set(elements: dict[Any, Any], encoding: Any, *, implicit: bool) -> Dataset:
    """The data set as pydicom's `read_dataset` makes it."""
    from pydicom.charset import default_encoding
    from pydicom.dataset import Dataset

    header = Dataset(elements, parent_encoding=default_encoding)
    header.set_original_encoding(implicit, True, encoding)
    return header


@lru_cache(maxsize=8192)
def base_tag(tag: int) -> Any:
    """The tag as pydicom's own kind of integer: one object for each, since comparing two is slow."""
    from pydicom.tag import BaseTag

    return BaseTag(tag)


@cache
def _empty_values() -> dict[str | None, bytes | None]:
    """The value of an empty element as pydicom keeps it, by VR."""
    from pydicom.dataelem import empty_value_for_VR

    names = [None, *(name for name, _ in _VRS.values())]
    return {name: empty_value_for_VR(name, raw=True) for name in names}  # type: ignore[misc]  # raw ones are bytes


@lru_cache(maxsize=256)
def _encodings(raw: bytes | None) -> Any:
    """Python's names of the character sets in (0008,0005), as pydicom finds them; of none where it is absent.

    Raises:
        _NotPlainError: pydicom cannot read the element.
    """
    from pydicom.charset import convert_encodings, default_encoding
    from pydicom.dataelem import RawDataElement, convert_raw_data_element

    if raw is None:
        return default_encoding
    element = RawDataElement(base_tag(_CHARACTER_SET), "CS", len(raw), raw, 0, False, True)
    try:
        with quiet_reading():
            return convert_encodings(convert_raw_data_element(element).value)
    except READING_ERRORS:
        raise _NotPlainError from None
