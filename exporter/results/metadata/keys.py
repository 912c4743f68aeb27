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
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from exporter.dicom.elements import READING_ERRORS, unread_value

if TYPE_CHECKING:
    from collections.abc import Container

    from pydicom.dataset import Dataset

_MOST_CREATOR: Final = 64
"""Longest value of a private creator (PS3.5 table 6.2-1, LO)."""
_ESCAPE: Final = b"\x1b"


class Keys:
    """The keys of one data set (not of its sequences' items)."""

    def __init__(self, header: Dataset) -> None:
        self._header = header
        self._blocks: dict[int, tuple[str, int]] | None = None

    def key_for(self, tag: int) -> str:
        """The key by rules 1 to 4."""
        if tag >> 16 & 1:
            return self._private(tag)
        return _standard(tag)

    def told_apart(self, tag: int, taken: Container[str]) -> str:
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
        if not creator:
            return f"{_unreserved_name(tag)} ({tag >> 16:04X},{tag & 0xFFFF:04X})"
        name = _known_private(tag, creator) or "Private tag data"
        key = f"{name} ({tag >> 16:04X},xx{tag & 0xFF:02X} {_shortened(creator)})"
        return key if which == 1 else f"{key} {which}"

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
        for tag in sorted(int(tag) for tag in self._header.keys()):  # noqa: SIM118 - it iterates over elements
            if not tag & 0x10000 or not 0x10 <= tag & 0xFFFF <= 0xFF:
                continue
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


def _unreserved_name(tag: int) -> str:
    """Name of an element of an odd group that lies in no reserved block."""
    if tag & 0xFFFF == 0:
        return "Group Length"
    return "Private Creator" if tag & 0xFF00 == 0 else "Private tag data"


def _shortened(creator: str) -> str:
    """A creator that is longer than its VR permits: its beginning, and a hash that tells it from others."""
    if len(creator) <= _MOST_CREATOR:
        return creator
    return f"{creator[:_MOST_CREATOR]}~{hashlib.sha256(creator.encode()).hexdigest()[:8]}"


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
