"""Pieces of data sets that de-identification reads and writes: elements, codes, private blocks.

Source: PS3.3 8.8 (Code Sequence Macro), PS3.5 7.8.1 (private blocks).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import MutableSequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from pydicom.tag import BaseTag

from exporter.privacy.values import BULK_VRS, NUMERIC_VRS, readable, texts_of

if TYPE_CHECKING:
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset

_DS: Final = rb" *[+-]?[0-9]{1,14}(?:\.[0-9]{0,12})?(?:[eE][+-]?[0-9]{1,2})? *"
_IS: Final = rb" *[+-]?[0-9]{1,9} *"
_PLAIN_NUMBERS: Final = {
    "DS": re.compile(rb"(?:%s\\)*%s" % (_DS, _DS)),
    "IS": re.compile(rb"(?:%s\\)*%s" % (_IS, _IS)),
}
CODE_MACRO: Final = frozenset(range(0x00080100, 0x00080125))
"""Attributes of the Code Sequence Macro (PS3.3 8.8), which are written anew."""
CODE_VALUES: Final = (0x00080100, 0x00080119, 0x00080120)
CODE_SCHEME: Final = 0x00080102
CODE_MEANING: Final = 0x00080104


def private_blocks(source: Dataset) -> dict[tuple[int, int], str]:
    """Creators by group and block; a creator that reserves two blocks of a group has neither (PS3.5 7.8.1)."""
    blocks: dict[tuple[int, int], str] = {}
    for base_tag in list(source.keys()):
        tag = int(base_tag)
        if tag & 0x10000 and 0x10 <= tag & 0xFFFF <= 0xFF:
            creator = "".join(texts_of(readable(source, tag))).strip(" \0")
            blocks[tag >> 16, tag & 0xFF] = creator
    reserved = Counter((group, creator) for (group, _), creator in blocks.items())
    return {place: creator for place, creator in blocks.items() if reserved[place[0], creator] == 1}


def is_empty(source: Dataset, tag: int) -> bool:
    """Whether an element has no value, which needs no reading."""
    value = source.get_item(BaseTag(tag)).value
    return value is None or (isinstance(value, bytes | str) and not value)


def new_data_set() -> Dataset:
    """An empty data set."""
    from pydicom.dataset import Dataset

    return Dataset()


def code_item(value: str, scheme: str, meaning: str, tag: int = CODE_VALUES[0]) -> Dataset:
    """An item of the Code Sequence Macro."""
    item = new_data_set()
    put(item, tag, {0x00080119: "UC", 0x00080120: "UR"}.get(tag, "SH"), value)
    put(item, CODE_SCHEME, "SH", scheme)
    put(item, CODE_MEANING, "LO", meaning[:64])
    return item


def put(target: Dataset, tag: int, vr: str, value: Any) -> None:
    """Put an element into a data set; a list of no values is an empty element."""
    from pydicom.dataelem import DataElement

    if isinstance(value, list) and vr != "SQ":
        value = value[0] if len(value) == 1 else value or None
    target.add(DataElement(BaseTag(tag), vr, value))


def _is_plain_number(raw: RawDataElement) -> bool:
    """Whether the bytes of an element of VR DS or IS are numbers of the Standard's form and nothing else."""
    form = _PLAIN_NUMBERS.get(raw.VR or "")
    return form is not None and type(raw.value) is bytes and form.fullmatch(raw.value) is not None


def put_number(source: Dataset, target: Dataset, tag: int, vrs: tuple[str, ...]) -> bool:
    """Put an element of numbers, whose bytes are not read if they cannot be anything else; False where they can."""
    from pydicom.dataelem import RawDataElement

    raw: Any = source.get_item(BaseTag(tag))
    if isinstance(raw, RawDataElement) and raw.VR in vrs and (raw.VR in NUMERIC_VRS or _is_plain_number(raw)):
        target[raw.tag] = raw
        return True
    element = readable(source, tag)
    if element is None or element.VR not in vrs or element.VR in BULK_VRS:
        return False
    values = element.value if isinstance(element.value, MutableSequence | tuple) else (element.value,)
    if not all(value is None or value == "" or isinstance(value, int | float | Decimal) for value in values):
        return False
    target.add(element)
    return True
