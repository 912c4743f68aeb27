"""The keys of a record: an element's full name, and what is added where a name alone is not enough.

Contract: within one object no two elements get the same key. The rules, in order:

1. A standard element has its name: ``Patient's Name``, as the seed has it.
2. Repeating groups: the first group (``xx`` = 00) has the name, the others add their tag: ``Overlay Rows (6002,0010)``.
3. A private element that pydicom knows has its name in brackets, as the seed has it: ``[GE Image Name]``.
4. Where a name says nothing (private elements unknown to pydicom, private creators, group lengths, retired elements
   without a name, unknown elements) the tag is part of the key, for private ones with ``xx`` for the block and the
   creator: ``Private tag data (0019,xx1E GEMS_ACQU_01)``.
5. Where a key is there already, tag and creator are added as in 4, and, if even that is there, the tag itself.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Container

    from pydicom.dataset import Dataset

_MOST_CREATOR: Final = 64
"""Longest value of a private creator (PS3.5 table 6.2-1, LO)."""


class Keys:
    """The keys of one data set (not of its sequences' items)."""

    def __init__(self, header: Dataset) -> None:
        self._header = header
        self._creators: dict[int, str] = {}

    def of(self, tag: int) -> str:
        """The key by rules 1 to 4."""
        if tag >> 16 & 1:
            return self._private(tag)
        return _standard(tag)

    def told_apart(self, tag: int, taken: Container[str]) -> str:
        """The key by rule 5."""
        name = self._private_name(tag) if tag >> 16 & 1 else _name(tag)
        key = f"{name} ({self._place(tag)})"
        while key in taken:
            key = f"{key} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
        return key

    def _private(self, tag: int) -> str:
        name = self._private_name(tag)
        return name if name.startswith("[") else f"{name} ({self._place(tag)})"

    def _private_name(self, tag: int) -> str:
        creator = self.creator(tag)
        if creator:
            return _known_private(tag, creator) or "Private tag data"
        if tag & 0xFFFF == 0:
            return "Group Length"
        return "Private Creator" if tag & 0xFF00 == 0 else "Private tag data"

    def _place(self, tag: int) -> str:
        creator = self.creator(tag) if tag >> 16 & 1 else ""
        if creator:
            return f"{tag >> 16:04X},xx{tag & 0xFF:02X} {creator}"
        return f"{tag >> 16:04X},{tag & 0xFFFF:04X}"

    def creator(self, tag: int) -> str:
        """Private creator of the block of a private element; empty where none has reserved it (PS3.5 7.8.1)."""
        block = tag & 0xFFFF0000 | tag >> 8 & 0xFF
        if tag & 0xFFFF < 0x1000:
            return ""
        known = self._creators.get(block)
        if known is None:
            known = self._creators[block] = self._read_creator(block)
        return known

    def _read_creator(self, block: int) -> str:
        if block not in self._header:
            return ""
        value: Any = self._header.get_item(block).value
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
        text = text.encode("utf-8", "replace").decode("utf-8")
        return text.strip(" \0")[:_MOST_CREATOR]


def told_name(tag: int) -> str:
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
