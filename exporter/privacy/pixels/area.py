"""Rectangles of pixels, and the part of a picture that is kept.

Contract: edges count from the left and upper corner, the right and lower ones are exclusive. A kept area is a union of
rectangles without others; it can be cut to whole blocks of a codec, which only ever makes it smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, order=True)
class Rectangle:
    """A rectangle of pixels; empty where an edge is not before the opposite one."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def is_empty(self) -> bool:
        """Whether no pixel lies inside."""
        return self.right <= self.left or self.bottom <= self.top

    @property
    def pixels(self) -> int:
        """Number of pixels inside."""
        return 0 if self.is_empty else (self.right - self.left) * (self.bottom - self.top)

    def within(self, other: Rectangle) -> Rectangle:
        """The part that lies in another rectangle."""
        return Rectangle(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a hidden pixel changes decoded values: all of its block, and `margin` pixels beyond the block."""

    columns: int = 1
    """Width of a block."""
    rows: int = 1
    margin_columns: int = 0
    margin_rows: int = 0


OWN_PIXEL = Reach()
"""The reach of every lossless codec."""


@dataclass(frozen=True, slots=True)
class KeptArea:
    """The pixels of a picture that may leave: those in `kept` and not in `hidden`."""

    rows: int
    columns: int
    kept: tuple[Rectangle, ...]
    hidden: tuple[Rectangle, ...] = ()

    @classmethod
    def whole(cls, rows: int, columns: int, hidden: Iterable[Rectangle] = ()) -> KeptArea:
        """All of a picture but some rectangles."""
        picture = Rectangle(0, 0, columns, rows)
        inside = (rectangle.within(picture) for rectangle in hidden)
        return cls(rows, columns, (picture,), tuple(r for r in inside if not r.is_empty))

    @classmethod
    def nothing(cls, rows: int, columns: int) -> KeptArea:
        """None of a picture."""
        return cls(rows, columns, ())

    @property
    def picture(self) -> Rectangle:
        """The whole picture."""
        return Rectangle(0, 0, self.columns, self.rows)

    @property
    def hides(self) -> bool:
        """Whether any pixel is hidden."""
        return bool(self.hidden) or self.picture not in self.kept

    def mask(self) -> NDArray[np.bool_]:
        """``(rows, columns)``, true where pixels are kept."""
        found = np.zeros((self.rows, self.columns), np.bool_)
        for rectangle in self.kept:
            found[_slices(rectangle)] = True
        for rectangle in self.hidden:
            found[_slices(rectangle)] = False
        return found

    def pixels(self) -> int:
        """Number of pixels that are kept, counted without a mask: headers may claim any size."""
        total, cuts = 0, list(self.hidden)
        for rectangle in self.kept:
            total += sum(piece.pixels for piece in _uncovered(rectangle, cuts))
            cuts.append(rectangle)
        return total

    def share(self) -> float:
        """Share of the picture that is kept, 0 to 1."""
        return self.pixels() / self.picture.pixels

    def beyond_reach(self, reach: Reach) -> KeptArea:
        """The pixels that no hidden pixel changes: whole blocks, less their margin.

        The edges of the picture are no border to hidden pixels and stay.
        """
        if reach == OWN_PIXEL or not self.hides:
            return self
        kept = (_shrunk(rectangle, reach, self.picture) for rectangle in self.kept)
        grown = (_grown(rectangle, reach).within(self.picture) for rectangle in self.hidden)
        return KeptArea(self.rows, self.columns, tuple(r for r in kept if not r.is_empty), tuple(grown))

    def filled(self, values: NDArray[Any], black: Any) -> NDArray[Any]:
        """A picture of ``(rows, columns[, samples])`` with `black` wherever pixels are hidden; `values` itself if none.

        Raises:
            ValueError: The picture has another size.
        """
        if values.shape[:2] != (self.rows, self.columns):
            raise ValueError(f"a mask of {self.rows} x {self.columns} over a picture of {values.shape[:2]}")
        if not self.hides:
            return values
        fill = np.asarray(black, values.dtype)
        if fill.ndim and (fill == fill[0]).all():
            fill = fill[0]  # one number is written several times as fast as three in turn
        picture = np.empty_like(values, order="C")
        picture[...] = fill
        for rectangle in self.kept:
            picture[_slices(rectangle)] = values[_slices(rectangle)]
        for rectangle in self.hidden:
            picture[_slices(rectangle)] = fill
        return picture


def covers(first: Iterable[Rectangle], second: Iterable[Rectangle]) -> bool:
    """Whether the union of the first rectangles covers each of the second ones."""
    cuts = tuple(first)
    return not any(_uncovered(rectangle, cuts) for rectangle in second)


def _uncovered(one: Rectangle, cuts: Iterable[Rectangle]) -> tuple[Rectangle, ...]:
    """What is left of a rectangle without others, as disjoint rectangles."""
    rest: tuple[Rectangle, ...] = () if one.is_empty else (one,)
    for cut in cuts:
        rest = _without(rest, cut)
    return rest


def _without(rest: tuple[Rectangle, ...], cut: Rectangle) -> tuple[Rectangle, ...]:
    """What is left of disjoint rectangles when another is cut out."""
    found: list[Rectangle] = []
    for one in rest:
        inner = one.within(cut)
        if inner.is_empty:
            found.append(one)
            continue
        pieces = (
            Rectangle(one.left, one.top, one.right, inner.top),
            Rectangle(one.left, inner.bottom, one.right, one.bottom),
            Rectangle(one.left, inner.top, inner.left, inner.bottom),
            Rectangle(inner.right, inner.top, one.right, inner.bottom),
        )
        found += [piece for piece in pieces if not piece.is_empty]
    return tuple(found)


def _slices(rectangle: Rectangle) -> tuple[slice, slice]:
    return slice(rectangle.top, rectangle.bottom), slice(rectangle.left, rectangle.right)


def _shrunk(one: Rectangle, reach: Reach, picture: Rectangle) -> Rectangle:
    return Rectangle(
        one.left if one.left == picture.left else _up(one.left, reach.columns) + reach.margin_columns,
        one.top if one.top == picture.top else _up(one.top, reach.rows) + reach.margin_rows,
        one.right if one.right == picture.right else _down(one.right, reach.columns) - reach.margin_columns,
        one.bottom if one.bottom == picture.bottom else _down(one.bottom, reach.rows) - reach.margin_rows,
    )


def _grown(one: Rectangle, reach: Reach) -> Rectangle:
    return Rectangle(
        _down(one.left, reach.columns) - reach.margin_columns,
        _down(one.top, reach.rows) - reach.margin_rows,
        _up(one.right, reach.columns) + reach.margin_columns,
        _up(one.bottom, reach.rows) + reach.margin_rows,
    )


def _down(position: int, step: int) -> int:
    return position // step * step


def _up(position: int, step: int) -> int:
    return -(-position // step) * step
