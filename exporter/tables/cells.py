"""Cells: the values of one column of a batch, in its type; a value that does not fit is null, and is counted.

Contract: a cell holds the value of the line or null, never another value. An integer fits a float column; no other
type is converted. A single value fits a list column, several values do not fit a scalar one. There is no NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from exporter.tables.columns import CellType
from listener.foundation.text import json_escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.tables.columns import Column

_MISFIT: Final = object()
_NONE: Final = type(None)
_RANGES: Final = {CellType.INTEGER: (-(1 << 63), (1 << 63) - 1), CellType.UNSIGNED: (0, (1 << 64) - 1)}


def json_text(value: Any) -> str:
    """Value as JSON text, with control characters of terminals escaped."""
    return json_escaped(orjson.dumps(value)).decode()


def fit(column: Column, values: Sequence[Any]) -> tuple[list[Any], int]:
    """Convert values to cells of a column.

    Returns:
        The cells, and the number of values that did not fit and became null.
    """
    kinds = set(map(type, values))
    if kinds <= {_NONE}:
        return list(values), 0
    if column.type is CellType.JSON:
        return [None if value is None else json_text(value) for value in values], 0
    if not column.is_list and column.type is CellType.TEXT and kinds <= {str, _NONE}:
        return list(values), 0
    if not column.is_list and column.type is CellType.FLOAT and kinds <= {float, _NONE}:
        return list(values), 0  # a parsed line holds neither NaN nor Infinity
    if not column.is_list and column.type is CellType.INTEGER and kinds <= {int, _NONE} and _is_narrow(values):
        return list(values), 0
    one = _SCALARS[column.type]
    cells = [None if value is None else _list(one, value) if column.is_list else one(value) for value in values]
    misfits = sum(cell is _MISFIT for cell in cells)
    return ([None if cell is _MISFIT else cell for cell in cells] if misfits else cells), misfits


def _is_narrow(values: Sequence[int | None]) -> bool:
    low, high = _RANGES[CellType.INTEGER]
    return all(low <= value <= high for value in values if value is not None)


def _list(one: Callable[[Any], Any], value: Any) -> Any:
    cells = [None if item is None else one(item) for item in (value if isinstance(value, list) else [value])]
    return _MISFIT if any(cell is _MISFIT for cell in cells) else cells


def _text(value: Any) -> Any:
    return value if type(value) is str else _MISFIT


def _float(value: Any) -> Any:
    return float(value) if type(value) is float or type(value) is int else _MISFIT


def _integer(value: Any) -> Any:
    low, high = _RANGES[CellType.INTEGER]
    return value if type(value) is int and low <= value <= high else _MISFIT


def _unsigned(value: Any) -> Any:
    low, high = _RANGES[CellType.UNSIGNED]
    return value if type(value) is int and low <= value <= high else _MISFIT


def _boolean(value: Any) -> Any:
    return value if type(value) is bool else _MISFIT


_SCALARS: Final[dict[CellType, Callable[[Any], Any]]] = {
    CellType.TEXT: _text,
    CellType.FLOAT: _float,
    CellType.INTEGER: _integer,
    CellType.UNSIGNED: _unsigned,
    CellType.BOOLEAN: _boolean,
}
