"""Kept areas: what stays black, and how blocks shrink them; judged pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.privacy.pixels.area import KeptArea, Reach, Rectangle, covers

ROWS, COLUMNS = 40, 56


@st.composite
def rectangles(draw: st.DrawFn) -> Rectangle:
    left, right = sorted(draw(st.lists(st.integers(0, COLUMNS), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(draw(st.lists(st.integers(0, ROWS), min_size=2, max_size=2, unique=True)))
    return Rectangle(left, top, right, bottom)


several = st.lists(rectangles(), max_size=3).map(tuple)
reaches = st.builds(
    Reach, st.sampled_from([1, 2, 8, 16]), st.sampled_from([1, 8, 16]), st.integers(0, 3), st.integers(0, 3)
)


def plain_mask(area: KeptArea) -> np.ndarray:
    """Pixel by pixel, in the words of the contract."""
    found = np.zeros((ROWS, COLUMNS), bool)
    for row in range(ROWS):
        for column in range(COLUMNS):

            def holds(one: Rectangle, row: int = row, column: int = column) -> bool:
                return one.left <= column < one.right and one.top <= row < one.bottom

            found[row, column] = any(map(holds, area.kept)) and not any(map(holds, area.hidden))
    return found


@given(several, several)
def test_a_filled_picture_is_the_picture_where_kept_and_black_elsewhere(
    kept: tuple[Rectangle, ...], hidden: tuple[Rectangle, ...]
) -> None:
    area = KeptArea(ROWS, COLUMNS, kept, hidden)
    values = np.arange(1, ROWS * COLUMNS + 1, dtype=np.uint16).reshape(ROWS, COLUMNS)
    assert np.array_equal(area.filled(values, 0), np.where(plain_mask(area), values, 0))
    assert area.hides or plain_mask(area).all()
    assert area.pixels() == plain_mask(area).sum()


@given(several, several, reaches)
def test_a_pixel_beyond_reach_has_no_hidden_pixel_in_its_blocks_nor_in_their_margin(
    kept: tuple[Rectangle, ...], hidden: tuple[Rectangle, ...], reach: Reach
) -> None:
    area = KeptArea(ROWS, COLUMNS, kept, hidden)
    mask = plain_mask(area)
    shrunk = area.beyond_reach(reach).mask()
    for row, column in np.argwhere(shrunk):
        top = (row - reach.margin_rows) // reach.rows * reach.rows
        bottom = ((row + reach.margin_rows) // reach.rows + 1) * reach.rows
        left = (column - reach.margin_columns) // reach.columns * reach.columns
        right = ((column + reach.margin_columns) // reach.columns + 1) * reach.columns
        assert mask[max(0, top) : bottom, max(0, left) : right].all()


def test_whole_blocks_of_a_kept_rectangle_stay() -> None:
    area = KeptArea(ROWS, COLUMNS, (Rectangle(3, 8, 33, 40),)).beyond_reach(Reach(8, 8))
    assert area.kept == (Rectangle(8, 8, 32, 40),)


@given(several, several)
def test_rectangles_cover_others_if_every_pixel_is_covered(
    first: tuple[Rectangle, ...], second: tuple[Rectangle, ...]
) -> None:
    masks = [plain_mask(KeptArea(ROWS, COLUMNS, each)) for each in (first, second)]
    assert covers(first, second) == bool((masks[0] | ~masks[1]).all())


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="40 x 56"):
        KeptArea.nothing(ROWS, COLUMNS).filled(np.zeros((COLUMNS, ROWS), np.uint8), 0)
