"""Where planes lie, and which of them form grids."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.dicom.geometry import Grid, Plane, grids, sparse_grid
from exporter.errors import BadGeometry

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def plane(z: float, **changes: Any) -> Plane:
    known = Plane(position=(0.0, 0.0, z), row=AXIAL[0], column=AXIAL[1], spacing=(2.0, 1.0), size=(4, 3))
    return replace(known, **changes)


def place(grid: Grid, column: int, row: int, slice_: int) -> np.ndarray:
    """RAS millimetres of a pixel, through the affine."""
    return (grid.affine @ [column, grid.shape[1] - 1 - row, slice_, 1])[:3]


def order(grid: Grid) -> list[list[int]]:
    found = [[-1] * grid.shape[2] for _ in range(grid.shape[3])]
    for placed in grid.placed:
        found[placed.time][placed.slice] = placed.plane
    return found


angle = st.floats(-math.pi, math.pi)


def turned(axis: int, by: float) -> np.ndarray:
    i, j = (n for n in range(3) if n != axis)
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = math.cos(by)
    matrix[i, j], matrix[j, i] = -math.sin(by), math.sin(by)
    return matrix


@given(st.tuples(angle, angle, angle), st.permutations(range(5)), st.floats(0.2, 20), st.floats(-500, 500))
@settings(max_examples=150, deadline=None)
def test_every_pixel_of_any_stack_lies_where_the_standard_says(
    by: tuple[float, float, float], shuffled: list[int], step: float, offset: float
) -> None:
    row, column, normal = (turned(0, by[0]) @ turned(1, by[1]) @ turned(2, by[2])).T
    origin = np.array([offset, -offset / 3, 7])
    planes = [
        plane(0, position=tuple(origin + normal * step * k), row=tuple(row), column=tuple(column)) for k in shuffled
    ]

    (grid,) = grids(planes)

    assert grid.shape == (3, 4, 5, 1)
    assert grid.tilt_degrees == 0
    for placed in grid.placed:
        one = planes[placed.plane]
        for i, j in ((0, 0), (2, 0), (0, 3), (2, 3)):
            lps = np.array(one.position) + row * one.spacing[1] * i + column * one.spacing[0] * j
            assert np.allclose(place(grid, i, j, placed.slice), lps * [-1, -1, 1], atol=1e-6)


def test_slices_run_along_the_normal_whatever_their_order() -> None:
    (grid,) = grids([plane(z) for z in (4, 0, 6, 2)])
    assert order(grid) == [[1, 3, 0, 2]]
    assert grid.spacing == pytest.approx((1, 2, 2))
    assert not grid.warnings


def test_a_gap_cuts_the_stack_and_is_named() -> None:
    first, second = grids([plane(z) for z in (0, 2, 4, 10, 12, 14, 16)])
    assert (order(first), order(second)) == ([[0, 1, 2]], [[3, 4, 5, 6]])
    assert place(second, 0, 0, 0)[2] == pytest.approx(10)
    assert any("gap of 6 mm" in warning for warning in first.warnings)


def test_a_single_plane_before_a_gap_is_not_counted_to_the_stack_behind_it() -> None:
    first, second = grids([plane(z) for z in (0, 30, 32, 34, 36)])
    assert (order(first), order(second)) == ([[0]], [[1, 2, 3, 4]])


def test_steps_that_never_repeat_are_no_volume() -> None:
    with pytest.raises(BadGeometry, match="that is no volume"):
        grids([plane(float(k**2)) for k in range(40)])


def test_positions_rounded_by_the_writer_are_one_stack() -> None:
    (grid,) = grids([plane(round(k * 0.625, 1)) for k in range(20)])
    assert grid.shape[2] == 20
    assert any("deviate" in warning for warning in grid.warnings)


def test_repeated_positions_become_times_in_the_order_that_planes_tell() -> None:
    planes = [plane(z, order=(float(t),)) for z in (2, 0) for t in (3, 1, 2)]
    (grid,) = grids(planes)
    assert grid.shape == (3, 4, 2, 3)
    assert order(grid) == [[4, 1], [5, 2], [3, 0]]


def test_unequal_repetitions_are_told_apart_by_their_order() -> None:
    planes = [plane(z, order=(1.0,)) for z in (0, 2, 4)] + [plane(z, order=(2.0,)) for z in (0, 2)]
    first, second = grids(planes)
    assert (order(first), order(second)) == ([[0, 1, 2]], [[3, 4]])


def test_unequal_repetitions_without_order_are_refused() -> None:
    with pytest.raises(BadGeometry, match="duplicated"):
        grids([plane(0), plane(0), plane(2), plane(4)])


def test_other_orientations_sizes_and_stacks_get_their_own_grids() -> None:
    sagittal: dict[str, Any] = {"row": (0.0, 1.0, 0.0), "column": (0.0, 0.0, -1.0)}
    mixed = [plane(0), plane(2), plane(0, **sagittal), plane(2, size=(8, 8)), plane(4, stack="2")]
    assert [grid.shape for grid in grids(mixed)] == [(3, 4, 2, 1), (3, 4, 1, 1), (8, 8, 1, 1), (3, 4, 1, 1)]


def test_gantry_tilt_shears_the_affine_and_moves_no_voxel() -> None:
    tilted = [plane(0, position=(0.0, 0.5 * k, 2.0 * k)) for k in range(4)]
    (grid,) = grids(tilted)
    assert grid.tilt_degrees == pytest.approx(math.degrees(math.atan(0.25)))
    assert np.allclose(place(grid, 0, 0, 3), [0, -1.5, 6])
    assert grid.spacing[2] == pytest.approx(2)
    assert any("tilted by 14.04 degrees" in warning for warning in grid.warnings)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spacing": (0.0, 1.0)}, "Pixel Spacing"),
        ({"position": (math.nan, 0.0, 0.0)}, "finite"),
        ({"row": (1.0, 0.5, 0.0)}, "right angles"),
        ({"row": (0.5, 0.0, 0.0)}, "unit vectors"),
        ({"column": (1.0, 0.0, 0.0)}, "right angles"),
        ({"size": (0, 3)}, "Rows"),
        ({"position": (0.0, 0.0, 1e30)}, "kilometres"),
    ],
)
def test_impossible_planes_are_refused_by_name(changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadGeometry, match=words):
        grids([plane(0), plane(2, **changes)])
    with pytest.raises(BadGeometry, match=words):
        sparse_grid([plane(0), plane(2, **changes)])


def test_no_plane_is_no_volume() -> None:
    with pytest.raises(BadGeometry):
        grids([])


def test_scattered_orientations_are_no_volume() -> None:
    around = [(math.cos(a / 10), math.sin(a / 10), 0.0) for a in range(12)]
    with pytest.raises(BadGeometry, match="different orientations"):
        grids([plane(0, row=row, column=(-row[1], row[0], 0.0)) for row in around])


def test_frames_that_a_segmentation_left_out_are_empty_slices() -> None:
    grid = sparse_grid([plane(z) for z in (10, 4, 0, 4)])
    assert grid.shape == (3, 4, 6, 1)
    assert [placed.slice for placed in grid.placed] == [5, 2, 0, 2]
    assert any("3 of 6 slices have no frame" in warning for warning in grid.warnings)


def test_a_stated_step_wins_over_the_smallest_one_found() -> None:
    assert sparse_grid([plane(z) for z in (0, 4, 8)], step_mm=2).shape[2] == 5


def test_positions_off_the_lattice_are_refused() -> None:
    with pytest.raises(BadGeometry, match="multiples"):
        sparse_grid([plane(z) for z in (0, 2, 5.1)])
