"""Header values of one instance under the column names of Niffler's PNG extractor, as the cells of its table.

Contract: a public element has its keyword, an element of a sequence item the path to it: ``0_Sequence_Child``, deeper
``0_Sequence__0_Child_Leaf``. Several values are ``(a, b)`` (binary numbers ``[a, b]``), decimal strings are numbers,
integer strings stay text. A private element has only its name. If a name occurs more than once, the last element has
the plain name, as in Niffler; each earlier one, which Niffler loses, has a column named with path, element and creator.

Must never: hold pixel data, or raise because of the content of an element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exporter.dicom.elements import READING_ERRORS, quiet_reading, unread_value
from exporter.results.metadata.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

Cell = int | float | str | None
"""Cell of a row; None is an empty cell, like a column that the row does not have."""

MOST_ITEM_VALUES: Final = 2000
"""A sequence item with more values than this becomes one value: their list as text."""
_PIXELS: Final = frozenset({"PixelData", "FloatPixelData", "DoubleFloatPixelData"})


def header_values(header: Dataset, *, private: bool) -> tuple[dict[str, Cell], int]:
    """Make the cells of one header.

    Returns:
        Cells by column, in the order of keywords, and the number of values.

    Args:
        header: The data set without pixel data.
        private: Whether private elements have columns.
    """
    with quiet_reading():
        found = _values(header, "", private=private)
        cells: dict[str, Cell] = {}
        last = {value.column: position for position, value in enumerate(found)}
        for position, value in enumerate(found):
            column = value.column if last[value.column] == position else value.full_column
            while column in cells:
                column = f"{column} (again)"
            cells[column] = _cell(value)
    return cells, len(found)


class _Value:
    """One value with its column."""

    __slots__ = ("column", "full_column", "is_private", "value")

    def __init__(self, column: str, value: Any, private_path: str = "") -> None:
        self.column = column
        self.value = value
        self.full_column = private_path or column
        """Column that it gets if a later private element has the same name."""
        self.is_private = bool(private_path)

    def __repr__(self) -> str:
        return f"({self.column!r}, {_inside(self.value)})"


def _values(dataset: Dataset, path: str, *, private: bool) -> list[_Value]:
    """Values of a data set or sequence item; those of nested items at the place of their sequence."""
    found: list[_Value] = []
    for keyword, value in _public(dataset):
        if not _is_sequence(value):
            found.append(_Value(f"{path}{keyword}", value))
            continue
        for number, item in enumerate(value):
            column = f"{path}{'_' if path else ''}{number}_{keyword}"
            inside = _values(item, f"{column}_", private=private)
            if len(inside) > MOST_ITEM_VALUES:
                found.append(_Value(column, str(inside)))
            else:
                found += inside
    if private:
        found += _private(dataset, path)
    return found


def _public(dataset: Dataset) -> Iterator[tuple[str, Any]]:
    """Keywords in their order, with the values that can be read."""
    from pydicom.datadict import keyword_for_tag, tag_for_keyword

    keywords = {keyword_for_tag(tag): tag for tag in dataset.keys()}  # noqa: SIM118 - it iterates over elements
    for keyword in sorted(keywords.keys() - _PIXELS - {""}):
        tag = keywords[keyword]
        if tag_for_keyword(keyword) != tag:
            continue  # a repeating group: its keyword leads to no element, so that it has no column there
        try:
            value = dataset[tag].value
        except READING_ERRORS:
            value = _unconverted(dataset, tag)
        yield keyword, value


def _private(dataset: Dataset, path: str) -> Iterator[_Value]:
    keys = Keys(dataset)
    for tag in sorted(dataset.keys()):
        if not tag.is_private:
            continue
        try:
            element = dataset[tag]
            # Niffler's reader looks no creator up for a sequence of undefined length.
            is_nameless = element.VR == "SQ" and element.is_undefined_length and element.private_creator
            name, value = "Private tag data" if is_nameless else str(element.name), element.value
        except READING_ERRORS:
            name, value = "Private tag data", _unconverted(dataset, tag)
        yield _Value(name, value, f"{path}{keys.key_for(int(tag))}")


def _unconverted(dataset: Dataset, tag: int) -> str | None:
    """Content of an element whose bytes do not fit its VR, as text; most often an IS with a fraction."""
    raw = unread_value(dataset, tag)
    return raw.decode("ascii", "backslashreplace").strip(" \0") if isinstance(raw, bytes) else None


def _is_sequence(value: Any) -> bool:
    from pydicom.sequence import Sequence

    return isinstance(value, Sequence)


def _cell(found: _Value) -> Cell:
    """Value as a cell; numbers stay numbers, because the column decides their format."""
    from pydicom.multival import MultiValue
    from pydicom.valuerep import IS, DSfloat

    value = found.value
    if isinstance(value, IS):
        return _finite(int(value)) if found.is_private else _text(value)
    if isinstance(value, DSfloat):
        return _finite(float(value))
    if type(value) in {int, float}:
        return _finite(value)
    if isinstance(value, MultiValue) and not found.is_private:
        inside = [*map(_inside, value)]
        return _text(f"({inside[0]},)" if len(inside) == 1 else f"({', '.join(inside)})")
    if isinstance(value, MultiValue | list | tuple) and not _is_sequence(value):
        return _text(f"[{', '.join(map(_listed, value))}]")
    return None if value is None else _text(value)


def _finite(value: float) -> Cell:
    """Number as a cell: empty for NaN, text for a number that JSON cannot hold."""
    if value != value:  # noqa: PLR0124 - NaN is not equal to itself
        return None
    return value if abs(value) < 1 << 63 else str(value)


def _text(value: Any) -> str:
    from pydicom.tag import BaseTag

    if _is_sequence(value):
        return str([_values(item, "", private=True) for item in value])
    if isinstance(value, BaseTag):
        return f"({value.group:04x}, {value.elem:04x})"
    return str(value).encode("utf-8", "backslashreplace").decode()


def _inside(value: Any) -> str:
    """A value within ``(a, b)``: text and strings of numbers in quotation marks."""
    from pydicom.tag import BaseTag
    from pydicom.valuerep import IS, DSfloat, PersonName

    if isinstance(value, DSfloat):
        return f"'{float(value)!r}'"
    if isinstance(value, BaseTag) or _is_sequence(value):
        return _text(value)
    if isinstance(value, IS | PersonName | str):
        return repr(str(value))
    return repr(value)


def _listed(value: Any) -> str:
    """A value within ``[a, b]``: text alone in quotation marks."""
    from pydicom.valuerep import IS, DSfloat

    return str(value) if isinstance(value, DSfloat | IS) else _inside(value)
