"""The content tree of a structured report as plain values that JSON can hold.

Contract: every content item of the document, in order, with its relationship, concept name, value type and value.
Numbers are finite floats next to the decimal text that was stored; a value that an item lacks is None, with a warning.

Must never: follow a reference to another instance, or recurse deeper than permitted.

Source: PS3.3 C.17.3 (SR document content), C.18 (content item macros), C.17.6 (key object document).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.dicom.elements import READING_ERRORS, finite, is_present, quiet_reading, text_of
from exporter.errors import TooLarge, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydicom.dataset import Dataset

    from exporter.dicom.instance import Instance

Item = dict[str, Any]
"""A content item: ``position``, ``relationship``, ``type``, ``concept``, its value, ``children``."""


def read_tree(instance: Instance, most_depth: int) -> tuple[Item, list[str]]:
    """The document as JSON: its state and its content tree; and warnings.

    Raises:
        Unreadable: pydicom cannot read an element of the tree.
        TooLarge: Deeper than `most_depth`.
    """
    header = instance.header
    reader = _Reader(most_depth)
    try:
        with quiet_reading():
            tree: Item = {
                "document": {
                    "sop_class_uid": instance.sop_class_uid,
                    "completion": text_of(header, "CompletionFlag") or None,
                    "verification": text_of(header, "VerificationFlag") or None,
                    "preliminary": text_of(header, "PreliminaryFlag") or None,
                    "content_date": text_of(header, "ContentDate") or None,
                    "content_time": text_of(header, "ContentTime") or None,
                    "template": _template(header),
                },
                "content": reader.item(header, position="1", depth=0),
            }
    except READING_ERRORS as error:
        raise Unreadable(
            f"read report: an element of the content tree cannot be read ({type(error).__name__})"
        ) from None
    return tree, sorted(reader.warnings)


def has_tree(header: Dataset) -> bool:
    """Whether a data set holds the root of a content tree: a container with content (PS3.3 C.17.3)."""
    return is_present(header, "ContentSequence") and text_of(header, "ValueType") == "CONTAINER"


def _template(item: Dataset) -> str | None:
    template = _first(item, "ContentTemplateSequence")
    if template is None:
        return None
    resource, number = text_of(template, "MappingResource"), text_of(template, "TemplateIdentifier")
    return f"{resource} {number}".strip() or None


def _first(item: Dataset, keyword: str) -> Dataset | None:
    items = item.get(keyword)
    return items[0] if items else None


def _code(item: Dataset | None) -> Item | None:
    """A code: value (whichever of the three elements holds it), scheme, meaning. Source: PS3.3 8.8."""
    if item is None:
        return None
    value = text_of(item, "CodeValue") or text_of(item, "LongCodeValue") or text_of(item, "URNCodeValue")
    code: Item = {
        "value": value or None,
        "scheme": text_of(item, "CodingSchemeDesignator") or None,
        "meaning": text_of(item, "CodeMeaning") or None,
    }
    version = text_of(item, "CodingSchemeVersion")
    return {**code, "scheme_version": version} if version else code


class _Reader:
    """Reads content items; `warnings` collects values that cannot be represented."""

    def __init__(self, most_depth: int) -> None:
        self.warnings: set[str] = set()
        self._most_depth = most_depth
        self._values: dict[str, Callable[[Dataset], Item]] = {
            "CONTAINER": lambda item: {"continuity": text_of(item, "ContinuityOfContent") or None},
            "TEXT": lambda item: {"value": _text(item, "TextValue")},
            "CODE": lambda item: {"value": _code(_first(item, "ConceptCodeSequence"))},
            "NUM": self._number,
            "DATETIME": lambda item: {"value": _text(item, "DateTime")},
            "DATE": lambda item: {"value": _text(item, "Date")},
            "TIME": lambda item: {"value": _text(item, "Time")},
            "UIDREF": lambda item: {"value": _text(item, "UID")},
            "PNAME": lambda item: {"value": _text(item, "PersonName")},
            "COMPOSITE": self._reference,
            "IMAGE": self._reference,
            "WAVEFORM": self._reference,
            "SCOORD": lambda item: _coordinates(item, 2),
            "SCOORD3D": lambda item: _coordinates(item, 3),
            "TCOORD": _temporal,
            "TABLE": _table,
        }

    def item(self, source: Dataset, *, position: str, depth: int) -> Item:
        """One content item and everything below it."""
        if depth > self._most_depth:
            raise TooLarge(f"read report: content is nested deeper than {self._most_depth} (limits.max_depth)")
        item: Item = {"position": position}
        relationship = text_of(source, "RelationshipType")
        if relationship:
            item["relationship"] = relationship
        by_reference = _numbers(source, "ReferencedContentItemIdentifier")
        if by_reference:
            return {**item, "refers_to": ".".join(str(int(number)) for number in by_reference)}
        type_ = text_of(source, "ValueType").upper()
        item["type"] = type_ or None
        item["concept"] = _code(_first(source, "ConceptNameCodeSequence"))
        for name, keyword in (("observed", "ObservationDateTime"), ("uid", "ObservationUID")):
            text = text_of(source, keyword)
            if text:
                item[name] = text
        read = self._values.get(type_)
        if read is not None:
            item.update(read(source))
        else:
            self.warnings.add("report: a content item has no known value type; its value is not in the tree")
        if depth and (template := _template(source)):
            item["template"] = template
        children = source.get("ContentSequence") or ()
        if children:
            item["children"] = [
                self.item(child, position=f"{position}.{number}", depth=depth + 1)
                for number, child in enumerate(children, 1)
            ]
        return item

    def _number(self, source: Dataset) -> Item:
        """A measured value. Source: PS3.3 C.18.1."""
        measured = _first(source, "MeasuredValueSequence")
        qualifier = _code(_first(source, "NumericValueQualifierCodeSequence"))
        item: Item = {"value": None, "decimal": None, "unit": None}
        if measured is not None:
            decimals = _texts(measured, "NumericValue")
            exact = _numbers(measured, "FloatingPointValue") or _numbers(measured, "NumericValue")
            item["value"] = exact[0] if exact else None
            item["decimal"] = decimals[0] if decimals else None
            item["unit"] = _code(_first(measured, "MeasurementUnitsCodeSequence"))
            numerator, denominator = (
                _numbers(measured, keyword) for keyword in ("RationalNumeratorValue", "RationalDenominatorValue")
            )
            if numerator and denominator:
                item["rational"] = [numerator[0], denominator[0]]
        if item["value"] is None and qualifier is None:
            self.warnings.add("report: a numeric content item holds no number")
        return {**item, "qualifier": qualifier} if qualifier else item

    def _reference(self, source: Dataset) -> Item:
        """References to composite objects, images and waveforms. Source: PS3.3 C.18.3 to C.18.5."""
        references = [_referenced(item) for item in source.get("ReferencedSOPSequence") or ()]
        if not references:
            self.warnings.add("report: a reference names no instance")
        return {"references": references}


def _referenced(item: Dataset) -> Item:
    reference: Item = {
        "sop_class_uid": text_of(item, "ReferencedSOPClassUID") or None,
        "sop_instance_uid": text_of(item, "ReferencedSOPInstanceUID") or None,
    }
    for name, keyword in (
        ("frames", "ReferencedFrameNumber"),
        ("segments", "ReferencedSegmentNumber"),
        ("channels", "ReferencedWaveformChannels"),
    ):
        numbers = _numbers(item, keyword)
        if numbers:
            reference[name] = [int(number) for number in numbers]
    presentation = _first(item, "ReferencedSOPSequence")
    return {**reference, "presentation_state": _referenced(presentation)} if presentation is not None else reference


def _coordinates(source: Dataset, dimensions: int) -> Item:
    """Points of a spatial coordinate item. Source: PS3.3 C.18.6, C.18.9."""
    numbers = _numbers(source, "GraphicData")
    points = [numbers[start : start + dimensions] for start in range(0, len(numbers), dimensions)]
    item: Item = {"graphic": text_of(source, "GraphicType") or None, "points": points}
    frame = text_of(source, "ReferencedFrameOfReferenceUID")
    return {**item, "frame_of_reference_uid": frame} if frame else item


def _temporal(source: Dataset) -> Item:
    """Moments of a temporal coordinate item. Source: PS3.3 C.18.7."""
    item: Item = {"range": text_of(source, "TemporalRangeType") or None}
    for name, keyword in (("samples", "ReferencedSamplePositions"), ("offsets_s", "ReferencedTimeOffsets")):
        numbers = _numbers(source, keyword)
        if numbers:
            item[name] = numbers
    moments = _texts(source, "ReferencedDateTime")
    return {**item, "datetimes": moments} if moments else item


def _table(source: Dataset) -> Item:
    """Rows and columns of a table item. Source: PS3.3 C.18.10."""
    cells = []
    for cell in source.get("CellValuesSequence") or ():
        row, column = _numbers(cell, "TableRowNumber"), _numbers(cell, "TableColumnNumber")
        value = _texts(cell, "NumericValue") or _texts(cell, "TextValue")
        code = _code(_first(cell, "ConceptCodeSequence"))
        cells.append({"row": row, "column": column, "value": code or value})
    return {"cells": cells}


def _text(source: Dataset, keyword: str) -> str | None:
    """A text without its trailing padding."""
    value = source.get(keyword)
    return None if value is None else str(value).rstrip(" \0") or None


def _texts(source: Dataset, keyword: str) -> list[str]:
    """The stored text of every value of an element."""
    value = source.get(keyword)
    if value is None or (isinstance(value, str) and not value):
        return []
    values = [value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else list(value)
    return [str(getattr(one, "original_string", None) or one).strip(" \0") for one in values]


def _numbers(source: Dataset, keyword: str) -> list[float]:
    """Every value of an element as a finite number."""
    return [number for text in _texts(source, keyword) if (number := finite(text)) is not None]
