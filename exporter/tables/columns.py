"""The columns of a table: their choice, names and types.

Contract: name and type of a column depend on the element (tag, private creator) and pydicom's data dictionaries, never
on the values in it: tables of different shards, runs and sites agree wherever they have a column in common. Columns
have a fixed order: our own, standard elements by tag, private ones by tag and creator, keys that are not elements.

| VR of the dictionary | type |
|---|---|
| IS, SL, SS, SV, UL, US (and US or SS) | 64-bit integer; UV: without sign |
| DS, FL, FD | 64-bit float |
| text, UIDs, dates and times, AT | text |
| SQ, private elements that no dictionary knows, keys that are no element's | JSON text |

VM 1 is a scalar, every other VM a list.

Source: PS3.6 (data dictionary), PS3.5 table 6.2-1 (value representations), PS3.5 6.4 (multiplicity).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from exporter.results.metadata.keys import KeyStyle, RecordElement, parse_key, parse_styled
from exporter.tables.errors import TableRequestError
from exporter.tables.lines import OWN_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exporter.tables.lines import Line, MetadataLines

MOST_COLUMNS: Final = 20_000
"""Most keys in one table; programs that open CSV or Parquet files need far fewer."""


class CellType(StrEnum):
    """Type of the cells of a column."""

    TEXT = "text"
    INTEGER = "integer"
    UNSIGNED = "unsigned"
    FLOAT = "float"
    BOOLEAN = "boolean"
    JSON = "json"


class ColumnChoice(StrEnum):
    """Which elements have a column."""

    ALL = "all"
    PUBLIC = "public"
    COMMON = "common"
    SPECIFIC = "specific"


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    name: str
    type: CellType
    is_list: bool = False
    keys: tuple[str, ...] = ()
    """Keys of the line; the first one with a value fills the cell. Empty for our own columns."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class ColumnRequest:
    """Requested columns and the style of their names."""

    style: KeyStyle = KeyStyle.KEYWORD
    choice: ColumnChoice = ColumnChoice.ALL
    share: float = 0.9
    """Least share of rows in which a common column is filled."""
    listed: tuple[str, ...] = ()
    """Specific columns: keywords, names or tags."""


_TYPES: Final[dict[str, CellType]] = {
    **dict.fromkeys(("IS", "SL", "SS", "SV", "UL", "US", "US or SS", "US or OW", "US or SS or OW"), CellType.INTEGER),
    "UV": CellType.UNSIGNED,
    **dict.fromkeys(("DS", "FL", "FD"), CellType.FLOAT),
    **dict.fromkeys(
        ("AE", "AS", "AT", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"), CellType.TEXT
    ),
}


class _KeySurvey:
    """Keys of some lines; for common columns also the number of lines with a value."""

    def __init__(self, choice: ColumnChoice) -> None:
        self.found: Counter[str] = Counter(OWN_KEYS)
        self._choice = choice

    def visit(self, line: Line) -> None:
        """Add the keys of a line.

        Raises:
            TableRequestError: There are more than `MOST_COLUMNS`.
        """
        if self._choice is ColumnChoice.COMMON:
            self.found.update([key for key, value in line.items() if value not in (None, [])])
        elif not line.keys() <= self.found.keys():
            new = line.keys() - self.found.keys()
            self.found.update(key for key in new if self._choice is ColumnChoice.ALL or not _is_private(key))
        if len(self.found) > MOST_COLUMNS:
            raise TableRequestError(
                f"the lines hold more than {MOST_COLUMNS} different elements; make a table of some of them with"
                " `--columns FILE`, or without private ones with `--columns public`"
            )


def choose_columns(lines: MetadataLines, request: ColumnRequest) -> tuple[Column, ...]:
    """The columns of elements that a table of these lines has: the first of the two passes.

    Raises:
        TableRequestError: A list names an unknown element or column, or there are more than `MOST_COLUMNS`.
        TableError: The lines cannot be read.
    """
    if request.choice is ColumnChoice.SPECIFIC:
        return _specific(request)
    keys = _KeySurvey(request.choice)
    lines.survey(keys.visit)
    if lines.counts.superseded:
        keys = _KeySurvey(request.choice)
        for line, _ in lines.rows():
            keys.visit(line)
    least = request.share * lines.counts.rows
    found = [key for key, number in keys.found.items() if key not in OWN_KEYS and number >= least]
    return _named_columns(
        found if request.choice is ColumnChoice.COMMON else keys.found.keys() - OWN_KEYS, request.style
    )


def element_column(element: RecordElement, style: KeyStyle, keys: Sequence[str] = ()) -> Column:
    """The column of an element."""
    vr, vm, _ = element.dictionary_entry
    kind = _TYPES.get(vr, CellType.JSON)
    description = f"({element.tag >> 16:04X},{element.tag & 0xFFFF:04X}) {vr or 'unknown VR'} {vm}".rstrip()
    return Column(
        element.named(style), kind, kind is not CellType.JSON and vm != "1", tuple(keys) or (element.key,), description
    )


def unique_names(columns: Iterable[Column]) -> tuple[Column, ...]:
    """The columns, renamed where two have the same name."""
    taken: set[str] = set()
    found = []
    for column in columns:
        name, number = column.name, 1
        while name in taken:
            number += 1
            name = f"{column.name} {number}"
        taken.add(name)
        found.append(Column(name, column.type, column.is_list, column.keys, column.description))
    return tuple(found)


@lru_cache(maxsize=MOST_COLUMNS)
def _is_private(key: str) -> bool:
    element = parse_key(key)
    return element is not None and element.is_private


def _named_columns(keys: Iterable[str], style: KeyStyle) -> tuple[Column, ...]:
    by_element: dict[RecordElement, list[str]] = {}
    others = []
    for key in sorted(keys):
        element = parse_key(key)
        if element is None:
            others.append(Column(key, CellType.JSON, keys=(key,), description="no element that the dictionary knows"))
        else:
            by_element.setdefault(element, []).append(key)
    ordered = sorted(by_element, key=lambda one: (one.is_private, one))
    return unique_names([*(element_column(one, style, by_element[one]) for one in ordered), *others])


def _specific(request: ColumnRequest) -> tuple[Column, ...]:
    """Columns of a list, in its order and whether or not a line has them, so that every shard has the same."""
    wanted: dict[RecordElement, None] = {}
    unknown = []
    for word in request.listed:
        element = element_named(word)
        if element is None:
            unknown.append(word)
        else:
            wanted[element] = None
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise TableRequestError(
            f"the list of columns names {unknown[0]!r}{more}, which is no element: permitted are keywords"
            " (`PatientID`), names (`Patient ID`), tags (`00100020`) and the keys of private elements in lines"
        )
    if not wanted:
        raise TableRequestError("the list of columns names no column: put one keyword, name or tag on each line")
    return unique_names(element_column(one, request.style) for one in wanted)


def element_named(word: str) -> RecordElement | None:
    """Element of a keyword, name, tag or key of a line; None if there is no such element."""
    from pydicom.datadict import dictionary_has_tag

    digits = word.strip("()").replace(",", "")
    if len(digits) == 8 and not set(digits) - set("0123456789abcdefABCDEF"):
        element = RecordElement(int(digits, 16))
        return element if element.is_private or dictionary_has_tag(element.tag) else None
    return parse_styled(word)
