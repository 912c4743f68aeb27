"""The keys of a record: an element's full name, with an addition where a name alone is not unique.

Contract: within one object no two elements get the same key. The rules, in order:

1. A standard element has its name: ``Patient's Name``, as the seed has it.
2. Repeating groups: the first group (``xx`` = 00) has the name, the others add their tag: ``Overlay Rows (6002,0010)``.
3. A private element has its name in brackets where pydicom knows it, as the seed has it, and always its tag, with
   ``xx`` for the block, and its creator: ``[Suite id] (0009,xx02 GEMS_IDEN_01)``,
   ``Private tag data (0019,xx1E ACME)``. Elements of a further block that the same creator reserved in the group add
   which one it is: ``Private tag data (0019,xx1E ACME) 2``. Where no creator reserved the block, the tag stays.
4. Where a name says nothing (private creators, group lengths, retired elements without a name, unknown elements) the
   tag is part of the key: ``Private Creator (0019,0010)``.
5. Where a key is there already, the tag is added.

So the key of an element depends on its own tag and, if it is private, on who reserved its block; never on which other
elements an instance has, and never on the number of the block.

These are the keys of style ``name``, which every reader of lines meets (`with_names`). Two other styles follow the same
rules: ``keyword`` (``PatientName``, ``OverlayRows_60020010``; private elements as above) and ``tag`` (``00100010``,
``0019xx1E ACME``, ``0019xx1E ACME 2``; a creator that ends in a number has the number of its block always).
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from exporter.dicom.elements import READING_ERRORS, unread_value

if TYPE_CHECKING:
    from collections.abc import Container
    from collections.abc import Set as AbstractSet

    from pydicom.dataset import Dataset

_MOST_CREATOR: Final = 64
"""Longest value of a private creator (PS3.5 table 6.2-1, LO)."""
_SHORTENED: Final = re.compile(r".{64}~[0-9a-f]{8}", re.DOTALL)
_ESCAPE: Final = b"\x1b"
_PRIVATE_KEY: Final = re.compile(r".* \(([0-9A-F]{4}),xx([0-9A-F]{2}) (.+)\)(?: (\d{1,4}))?", re.DOTALL)
_PRIVATE_TAG: Final = re.compile(r"([0-9A-F]{4})xx([0-9A-F]{2}) (.+?)(?: (\d{1,4}))?", re.DOTALL)
_NUMBERED: Final = re.compile(r" \d{1,4}\Z")
_PLAIN_TAG: Final = re.compile(r"(?:\w+_)?([0-9A-F]{8})", re.ASCII)
_TAG_KEY: Final = re.compile(r"[^()]*(?:\([^()]*\)[^()]*)* \(([0-9A-F]{4}),([0-9A-F]{4})\)", re.DOTALL)


class KeyStyle(StrEnum):
    """How elements are named, in lines and in tables."""

    KEYWORD = "keyword"
    NAME = "name"
    TAG = "tag"


@dataclass(frozen=True, slots=True, order=True)
class RecordElement:
    """The element that a key of a record stands for."""

    tag: int
    """Group and element; of a private element in a reserved block, the element without the number of its block."""
    creator: str = ""
    """Private creator of its block; empty for standard elements, and where none has reserved the block."""
    block: int = 1
    """Which of the blocks that its creator reserved in the group, from 1."""

    @property
    def is_private(self) -> bool:
        """Whether the group is odd (PS3.5 7.8)."""
        return bool(self.tag >> 16 & 1)

    @property
    def key(self) -> str:
        """The key by rules 1 to 4."""
        if not self.is_private:
            return _standard(self.tag)
        if not self.creator:
            return f"{_unreserved_name(self.tag)} ({self.tag >> 16:04X},{self.tag & 0xFFFF:04X})"
        name = _known_private(0x1000 | self.tag, self.creator) or "Private tag data"
        key = f"{name} ({self.tag >> 16:04X},xx{self.tag & 0xFF:02X} {_shortened(self.creator)})"
        return key if self.block == 1 else f"{key} {self.block}"

    def named(self, style: KeyStyle) -> str:
        """The key in a style."""
        if style is KeyStyle.TAG:
            if not self.creator:
                return f"{self.tag:08X}"
            key = f"{self.tag >> 16:04X}xx{self.tag & 0xFF:02X} {_shortened(self.creator)}"
            return key if self.block == 1 and not _NUMBERED.search(key) else f"{key} {self.block}"
        if style is KeyStyle.NAME or self.is_private:
            return self.key
        from pydicom.datadict import tag_for_keyword

        _, _, keyword = self.dictionary_entry
        ends_in_tag = self.key.endswith(f"({self.tag >> 16:04X},{self.tag & 0xFFFF:04X})")
        is_plain = tag_for_keyword(keyword) == self.tag or not ends_in_tag  # else a further one of a repeating group
        return keyword if keyword and is_plain else f"{keyword}_{self.tag:08X}".lstrip("_")

    @property
    def dictionary_entry(self) -> tuple[str, str, str]:
        """VR, VM and keyword in the data dictionaries; all of them empty for an element that is in none.

        Private elements, and a few retired ones, have no keyword.
        """
        from pydicom.datadict import dictionary_keyword, dictionary_VM, dictionary_VR, get_private_entry

        with suppress(KeyError):
            if not self.is_private:
                return dictionary_VR(self.tag), dictionary_VM(self.tag), dictionary_keyword(self.tag)
            if self.creator:
                vr, vm, *_ = get_private_entry(0x1000 | self.tag, self.creator)
                return vr, vm, ""
        if not self.creator and self.tag & 0xFFFF == 0:
            return "UL", "1", ""  # a group length (PS3.5 7.2)
        if self.is_private and not self.creator and 0x10 <= self.tag & 0xFFFF <= 0xFF:
            return "LO", "1", ""  # a private creator (PS3.5 7.8.1)
        return "", "", ""


@lru_cache(maxsize=8192)
def _styled(tag: int, creator: str, block: int, style: KeyStyle) -> str:
    return RecordElement(tag, creator, block).named(style)


def parse_key(key: str) -> RecordElement | None:
    """The element that a key stands for; None where the key is no element's name and holds no tag."""
    if (tag := _tags_by_name().get(key)) is not None:
        return RecordElement(tag)
    if found := _PRIVATE_KEY.fullmatch(key):
        return RecordElement(int(found[1], 16) << 16 | int(found[2], 16), found[3], int(found[4] or 1))
    if found := _TAG_KEY.fullmatch(key):
        return RecordElement(int(found[1], 16) << 16 | int(found[2], 16))
    return None


def parse_styled(key: str) -> RecordElement | None:
    """The element that a key of any style stands for; None where the key is no element's."""
    if (element := parse_key(key)) is not None:
        return element
    if (tag := _tags_by_keyword().get(key)) is not None:
        return RecordElement(tag)
    if found := _PLAIN_TAG.fullmatch(key):
        return RecordElement(int(found[1], 16))
    if found := _PRIVATE_TAG.fullmatch(key):
        return RecordElement(int(found[1], 16) << 16 | int(found[2], 16), found[3], int(found[4] or 1))
    return None


def with_names(record: dict[str, Any], own: AbstractSet[str] = frozenset()) -> dict[str, Any]:
    """A record under keys of style ``name``, whatever the style of its own, items of sequences included.

    A value whose name another one has already keeps its key.

    Args:
        record: Elements by their keys.
        own: Keys that are no element's.
    """
    found: dict[str, Any] = {}
    for key, value in record.items():
        if key in own:
            found[key] = value
            continue
        name = _name_of(key)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = [with_names(item) if isinstance(item, dict) else item for item in value]  # noqa: PLW2901 - its items
        found[name if name not in found else key] = value
    return found


@lru_cache(maxsize=16384)
def _name_of(key: str) -> str:
    element = None if parse_key(key) is not None else parse_styled(key)
    return key if element is None else element.key


def has_names(key: str) -> bool:
    """Whether a key can be of style ``name`` alone: that is quicker than to look at every key of a line."""
    return " " in key and key in _tags_by_name()


@cache
def _tags_by_keyword() -> dict[str, int]:
    """Tags of standard elements by their key of style ``keyword``."""
    return {RecordElement(tag).named(KeyStyle.KEYWORD): tag for tag in reversed(_dictionary_tags())}


def _dictionary_tags() -> tuple[int, ...]:
    """Tags of the standard elements; of repeating ones the first."""
    from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary

    return (*DicomDictionary, *(int(mask.replace("x", "0"), 16) for mask in RepeatersDictionary))


@cache
def _tags_by_name() -> dict[str, int]:
    """Tags of standard elements by their key, where that is their name alone."""
    keys = ((_standard(tag), tag) for tag in _dictionary_tags())
    return {key: tag for key, tag in keys if not key.endswith(f"({tag >> 16:04X},{tag & 0xFFFF:04X})")}


class Keys:
    """The keys of one data set (not of its sequences' items)."""

    def __init__(self, header: Dataset, style: KeyStyle = KeyStyle.NAME) -> None:
        self._header = header
        self._style = style
        self._blocks: dict[int, tuple[str, int]] | None = None

    def key_for(self, tag: int) -> str:
        """The key by rules 1 to 4."""
        if tag >> 16 & 1:
            return self._private(tag)
        return _standard(tag) if self._style is KeyStyle.NAME else _styled(tag, "", 1, self._style)

    def distinct_key(self, tag: int, taken: Container[str]) -> str:
        """The key by rule 5."""
        key = self.key_for(tag)
        while key in taken:
            key = f"{key} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
        return key

    def creator(self, tag: int) -> str:
        """Private creator of the block of a private element; empty where none has reserved it."""
        return self._block(tag)[0]

    def _private(self, tag: int) -> str:
        creator, which = self._block(tag)
        return _styled(tag & 0xFFFF00FF if creator else tag, creator, which, self._style)

    def _block(self, tag: int) -> tuple[str, int]:
        """Creator of the block of a private element, and which of its blocks it is, from 1 (PS3.5 7.8.1).

        The creator is empty where none has reserved the block.
        """
        if tag & 0xFFFF < 0x1000:
            return "", 1
        if self._blocks is None:
            self._blocks = self._read_blocks()
        return self._blocks.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF, ("", 1))

    def _read_blocks(self) -> dict[int, tuple[str, int]]:
        """Creator, and which of its blocks it is, by the tag of the creator element."""
        found: dict[int, tuple[str, int]] = {}
        counted: dict[tuple[int, str], int] = {}
        for tag in sorted(filter(_is_creator, map(int, self._header.keys()))):
            creator = self._read_creator(tag)
            which = counted[tag >> 16, creator] = counted.get((tag >> 16, creator), 0) + 1
            found[tag] = creator, which
        return found

    def _read_creator(self, tag: int) -> str:
        """The value of a private creator element; the same whether pydicom has read it before or not."""
        value = unread_value(self._header, tag)
        if isinstance(value, bytes) and value.isascii() and _ESCAPE not in value:
            text = value.decode("ascii")
        else:
            with suppress(*READING_ERRORS):
                value = self._header[tag].value
            if isinstance(value, bytes):
                text = value.decode("latin-1")
            elif value is None or isinstance(value, str):
                text = value or ""
            else:
                text = "\\".join(map(str, value)) if hasattr(value, "__iter__") else str(value)
        return text.encode("utf-8", "replace").decode("utf-8").strip(" \0")


def shared_keys(header: Dataset, style: KeyStyle) -> tuple[str, ...] | None:
    """The keys of all elements of a data set, in their order, as data sets with the same elements share them.

    They are valid because a key depends on the tags of a data set and the bytes of its private creators alone, and
    these are what they are kept by.

    Returns:
        None where two elements would get one key, or a private creator is no plain text: `Keys` decides.
    """
    tags = tuple(header.keys())
    creators = []
    for tag in _creator_tags(tags):
        creator = unread_value(header, tag)
        if type(creator) is not bytes or not creator.isascii() or _ESCAPE in creator:
            return None
        creators.append(creator)
    return _keys_by(tags, tuple(creators), style)


@lru_cache(maxsize=256)
def _creator_tags(tags: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(filter(_is_creator, tags))


@lru_cache(maxsize=256)
def _keys_by(tags: tuple[Any, ...], creators: tuple[bytes, ...], style: KeyStyle) -> tuple[str, ...] | None:
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset

    by_tag = dict(zip(_creator_tags(tags), creators, strict=True))
    header = Dataset({tag: RawDataElement(tag, "LO", len(raw), raw, 0, False, True) for tag, raw in by_tag.items()})
    keys = Keys(header, style)
    found = tuple(keys.key_for(int(tag)) for tag in tags)
    return found if len(set(found)) == len(found) else None


def _is_creator(tag: int) -> bool:
    """Whether a tag is that of a private creator (PS3.5 7.8.1)."""
    return bool(tag & 0x10000) and 0x10 <= tag & 0xFFFF <= 0xFF


def _unreserved_name(tag: int) -> str:
    """Name of an element of an odd group that lies in no reserved block."""
    if tag & 0xFFFF == 0:
        return "Group Length"
    return "Private Creator" if tag & 0xFF00 == 0 else "Private tag data"


def _shortened(creator: str) -> str:
    """A creator that is longer than its VR permits: its beginning, and a hash that tells it from others."""
    if len(creator) <= _MOST_CREATOR or _SHORTENED.fullmatch(creator):  # a key that was read has it so
        return creator
    return f"{creator[:_MOST_CREATOR]}~{hashlib.sha256(creator.encode()).hexdigest()[:8]}"


def tag_and_name(tag: int) -> str:
    """``(gggg,eeee) Name`` for messages: no word of it comes from the file."""
    name = "private element" if tag >> 16 & 1 else _name(tag)
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {name}"


@lru_cache(maxsize=8192)
def standard_vr(tag: int) -> str | None:
    """VR of a standard element in the dictionary, which may be ambiguous (``US or SS``); None for any other."""
    from pydicom.datadict import dictionary_VR

    if tag >> 16 & 1:
        return None
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UL" if tag & 0xFFFF == 0 else None


@lru_cache(maxsize=8192)
def _standard(tag: int) -> str:
    name = _name(tag)
    if name in _unclear_names() or (tag & 0xFFFF == 0) or _is_repeated(tag):
        return f"{name} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
    return name


@lru_cache(maxsize=8192)
def _name(tag: int) -> str:
    from pydicom.datadict import dictionary_description

    try:
        return dictionary_description(tag) or "Unnamed"
    except KeyError:
        return "Group Length" if tag & 0xFFFF == 0 else "Unknown"


@cache
def _unclear_names() -> frozenset[str]:
    """Names that more than one standard element has, and our words for elements without a name."""
    from collections import Counter

    from pydicom._dicom_dict import DicomDictionary

    counted = Counter(entry[2] for entry in DicomDictionary.values())
    return frozenset(name for name, number in counted.items() if number > 1) | {"Unnamed", "Unknown"}


def _is_repeated(tag: int) -> bool:
    """Whether the tag belongs to a repeating group or element, and is not the first of them."""
    from pydicom.datadict import dictionary_has_tag, mask_match

    mask = None if dictionary_has_tag(tag) else mask_match(tag)
    return mask is not None and any(
        digit != "0" for digit, place in zip(f"{tag:08X}", mask, strict=True) if place == "x"
    )


@lru_cache(maxsize=8192)
def _known_private(tag: int, creator: str) -> str | None:
    from pydicom.datadict import private_dictionary_description

    try:
        return f"[{private_dictionary_description(tag, creator)}]"
    except KeyError:
        return None
