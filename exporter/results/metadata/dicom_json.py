"""Elements in the DICOM JSON Model: keys are tags, each value stands beside its VR.

Contract: `as_attributes` gives what PS3.18 F.2 asks for, from the values that `exporter.results.metadata.record` makes;
`plain_value` goes back. Binary elements are left out there, and told in `left_out`: there are no bulk data to point to.

Source: PS3.18 F.2.2 (attributes), F.2.3 and table F.2.3-1 (VR and JSON types), F.2.5 (empty values).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exporter.results.metadata.keys import KeyStyle, RecordElement, standard_vr

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_DIGITS: Final = frozenset("0123456789ABCDEF")


def tag_key(tag: int) -> str:
    """The name of an attribute: eight hexadecimal digits."""
    return f"{tag:08X}"


def is_tag(key: str) -> bool:
    """Whether a key of a line is the name of an attribute."""
    return len(key) == 8 and set(key) <= _DIGITS


def as_attributes(header: Dataset, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The attributes of a data set.

    Args:
        header: The data set.
        values: Its values as a record has them, by `tag_key`; items of sequences are attributes already.
    """
    return {key: _attribute(_vr(header, int(key, 16)), value) for key, value in values.items()}


def plain_value(attribute: Any) -> Any:
    """The value of an attribute as a record has it; None for what is no attribute.

    Items of sequences stay attributes.
    """
    if not isinstance(attribute, dict):
        return None
    values = attribute.get("Value")
    if not isinstance(values, list):
        return [] if attribute.get("vr") == "SQ" else None
    vr = attribute.get("vr")
    if vr == "SQ":
        return values
    if vr == "PN":
        values = [_joined(name) for name in values]
    elif vr == "AT":
        values = [f"({tag[:4]},{tag[4:]})" if isinstance(tag, str) else None for tag in values]
    return values if len(values) > 1 else values[0] if values else None


def text_in(line: dict[str, Any], tag: int) -> str:
    """The value of a standard element in a line of any form, as text; empty without one."""
    element = RecordElement(tag)
    values = (line.get(element.named(style)) for style in KeyStyle)
    return next((str(plain_value(one) if isinstance(one, dict) else one) for one in values if one), "")


def _vr(header: Dataset, tag: int) -> str:
    """The VR of an element that was read; of an ambiguous one, what pydicom made of it."""
    return str(header.get_item(tag).VR or standard_vr(tag) or "UN")


def _attribute(vr: str, value: Any) -> dict[str, Any]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    if vr == "PN":
        values = [None if not name else _groups(name) for name in values]
    elif vr == "AT":
        values = [text[1:5] + text[6:10] for text in values]
    return {"vr": vr, "Value": values} if values else {"vr": vr}


def _groups(name: str) -> dict[str, str]:
    return {group: text for group, text in zip(_GROUPS, name.split("="), strict=False) if text}


def _joined(name: Any) -> str | None:
    if not isinstance(name, dict):
        return None
    return "=".join(str(name.get(group) or "") for group in _GROUPS).rstrip("=") or None
