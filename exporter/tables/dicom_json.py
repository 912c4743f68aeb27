"""A line whose record is in the DICOM JSON Model, under the keys and with the values of a line that has names.

Contract: a record of `exporter.results.metadata.dicom_json` is converted to what `exporter.results.metadata.record`
would have written, except for values that the model cannot hold.

Source: PS3.18 F.2.
"""

from __future__ import annotations

from typing import Any

from exporter.results.metadata.dicom_json import is_tag, plain_value
from exporter.results.metadata.keys import RecordElement


def named(line: dict[str, Any], own: frozenset[str]) -> dict[str, Any]:
    """The line with names for tags; `own` are its keys that are no element's."""
    return {key: line[key] for key in line if key in own} | _data_set(line)


def _data_set(attributes: dict[str, Any]) -> dict[str, Any]:
    creators = _creators(attributes)
    return {
        _element(int(key, 16), creators).key: _value(attribute)
        for key, attribute in attributes.items()
        if is_tag(key) and isinstance(attribute, dict)
    }


def _creators(attributes: dict[str, Any]) -> dict[int, tuple[str, int]]:
    """Private creator and the index of its block, by group and block."""
    found: dict[int, tuple[str, int]] = {}
    for key in sorted(attributes):
        if not is_tag(key) or not isinstance(attributes[key], dict):
            continue
        tag = int(key, 16)
        if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
            creator = str(_value(attributes[key]) or "").strip(" \0")
            blocks = [which for other, (name, which) in found.items() if name == creator and other >> 16 == tag >> 16]
            found[tag] = creator, max(blocks, default=0) + 1
    return found


def _element(tag: int, creators: dict[int, tuple[str, int]]) -> RecordElement:
    if tag >> 16 & 1 and tag & 0xFFFF >= 0x1000:
        creator, which = creators.get(tag & 0xFFFF0000 | tag >> 8 & 0xFF, ("", 1))
        if creator:
            return RecordElement(tag & 0xFFFF00FF, creator, which)
    return RecordElement(tag)


def _value(attribute: dict[str, Any]) -> Any:
    value = plain_value(attribute)
    if attribute.get("vr") == "SQ":
        return [_data_set(item) for item in value if isinstance(item, dict)]
    return value
