"""Image planes in the patient, and the regular grids of voxels that they form.

Contract: pure arithmetic on what headers say; no pixels, no files, no DICOM library. `grids` sorts planes along their
normal, checks orientation, spacing, gaps, tilt and duplicates, and gives every regular piece its affine. It never
invents a plane, never averages over a gap and never resamples: what is no grid is cut into grids, or refused by name.

Axes of a grid: ``i`` runs along a row (increasing column number), ``j`` runs against the column direction (the last
row first, as NIfTI converters store it), ``k`` along the normal ``row x column``, ``t`` over repetitions of a position.
Affines map ``(i, j, k, 1)`` to millimetres in RAS (NIfTI); DICOM's own patient coordinates are LPS (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exporter.errors import BadGeometry

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray

MOST_GRIDS = 8
"""Most pieces that one set of planes may fall into; beyond that the planes are scattered, not stacked."""

COSINE_TOLERANCE = 1e-3
"""Largest deviation from unit length, right angle and the first plane's orientation (headers carry 4 to 6 decimals)."""
SAME_PLACE_MM = 1e-3
"""Planes nearer than this along the normal are at one position."""
STEP_TOLERANCE = 0.1
"""A step that differs by more than this part from its run's step is a gap ..."""
ROUNDING_MM = 0.11
"""... unless writers that round positions to one decimal explain it."""
REGULAR_MM = 1e-2
"""Positions farther than this from their regular grid are worth a warning."""
FARTHEST_MM = 1e6
"""Beyond it a position or spacing is damaged, and 32-bit affines could not hold it to 1e-4 mm anyway."""
TILT_DEGREES = 0.05
"""Slices that shift by more than this angle from their normal are tilted (gantry tilt), and the affine is sheared."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Vector = tuple[float, float, float]
Order = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Plane:
    """One image plane in patient coordinates, as the Image Plane Module or its functional groups give it."""

    position: Vector
    """Centre of the first pixel, millimetres, LPS. Source: (0020,0032) Image Position (Patient)."""
    row: Vector
    """Direction of increasing column number. Source: first half of (0020,0037) Image Orientation (Patient)."""
    column: Vector
    """Direction of increasing row number. Source: second half of (0020,0037)."""
    spacing: tuple[float, float]
    """Millimetres between rows, between columns. Source: (0028,0030) Pixel Spacing, PS3.3 10.7.1.3."""
    size: tuple[int, int]
    """Rows, columns."""
    thickness: float | None = None
    """Millimetres; the step of a grid of one slice only. Source: (0018,0088) or (0018,0050)."""
    stack: Hashable = None
    """Planes of different stacks never share a grid. Source: (0020,9056) Stack ID, echo, image type."""
    order: Order = ()
    """Sorts planes at one position: time point, echo, ... Source: (0020,9157) Dimension Index Values and others."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Place of one plane in the grid."""

    plane: int
    """Index into the planes that were given."""
    slice: int
    """Index ``k``."""
    time: int
    """Index ``t``."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular grid of voxels and the planes that fill it."""

    shape: tuple[int, int, int, int]
    """Columns, rows, slices, times: lengths of ``i, j, k, t``."""
    affine: NDArray[np.float64]
    """(4, 4): ``(i, j, k, 1)`` to millimetres in RAS, with ``j`` counted from the last row."""
    placed: tuple[Placed, ...]
    """A cell for each plane, in the order of storage: ``t`` outermost, then ``k``."""
    tilt_degrees: float = 0.0
    """Angle between the slices' normal and the step from slice to slice."""
    warnings: tuple[str, ...] = ()

    @property
    def spacing(self) -> Vector:
        """Millimetres from voxel to voxel along ``i, j, k`` (along the normal where the grid is tilted)."""
        i, j = (float(np.linalg.norm(self.affine[:3, axis])) for axis in (0, 1))
        step = float(np.linalg.norm(self.affine[:3, 2]))
        return (i, j, step * math.cos(math.radians(self.tilt_degrees)))


def grids(planes: Sequence[Plane]) -> tuple[Grid, ...]:
    """The regular grids that the planes form, ordered by their first plane.

    Planes with other orientation, spacing, size or stack go to another grid; so do planes beyond a gap. Repeated
    positions become the fourth axis, if every position is repeated alike, or if `Plane.order` says which planes
    belong together.

    Raises:
        BadGeometry: No plane, impossible values, more than `MOST_GRIDS` pieces, or ambiguous duplicates.

    Source: PS3.3 C.7.6.2.1.1 (equation of the pixel's place), C.7.6.16.2.2 (stacks), C.7.6.17 (dimensions).
    """
    if not planes:
        raise BadGeometry("stack planes: there are no planes")
    for plane in planes:
        _check(plane)
    found: list[Grid] = []
    for members in _alike(planes):
        for times in _repetitions(planes, members):
            found.extend(_regular_pieces(planes, times))
            if len(found) > MOST_GRIDS:
                raise BadGeometry(
                    f"stack planes: {len(planes)} planes fall into more than {MOST_GRIDS} regular pieces; "
                    "(0020,0032) Image Position (Patient) is not that of a volume"
                )
    found.sort(key=lambda grid: min(placed.plane for placed in grid.placed))
    if len(found) > 1:
        note = f"volume: {len(planes)} planes fall into {len(found)} separate regular grids"
        found = [_with_warning(grid, note) for grid in found]
    return tuple(found)


def sparse_grid(planes: Sequence[Plane], *, step_mm: float | None = None, most_slices: int = 100_000) -> Grid:
    """One grid over planes of which some are left out on purpose, as a segmentation leaves out its empty frames.

    Several planes may lie in one slice (one per segment); all are placed at time 0, in the order they were given.
    Slices without a plane belong to the grid and stay empty.

    Args:
        planes: One orientation, size and spacing.
        step_mm: (0018,0088) Spacing Between Slices, where the header tells it; else the smallest step found.
        most_slices: Largest number of slices.

    Raises:
        BadGeometry: Positions are no multiples of one step, or the planes differ in more than their position.

    Source: PS3.3 C.8.20.2 (empty frames need not be encoded), C.7.6.16.2.1.
    """
    if not planes:
        raise BadGeometry("stack planes: there are no planes")
    for plane in planes:
        _check(plane)
    if len(_alike(planes)) > 1:
        raise BadGeometry("stack planes: orientation, size or spacing differ between frames")
    normal = _normal(planes[0])
    heights = np.array([np.asarray(plane.position) @ normal for plane in planes])
    lowest, highest = planes[int(heights.argmin())], planes[int(heights.argmax())]
    extent = float(heights.max() - heights.min())
    if extent <= SAME_PLACE_MM:
        placed = tuple(Placed(index, 0, 0) for index in range(len(planes)))
        return _filled(lowest, normal * _thickness(lowest), 1, placed, ())
    for step in (step_mm, *_common_steps(heights)):
        if step is None or not math.isfinite(step) or step <= SAME_PLACE_MM:
            continue
        count = round(extent / step) + 1
        exact = extent / (count - 1) if count > 1 else step
        slices = (heights - heights.min()) / exact
        if count <= most_slices and abs(exact / step - 1) <= COSINE_TOLERANCE * 10 and _whole(slices):
            break
    else:
        raise BadGeometry("stack planes: slice positions are not multiples of one step")
    along = (np.asarray(highest.position) - np.asarray(lowest.position)) / (count - 1)
    numbers = np.rint(slices).astype(int)
    placed = tuple(Placed(index, int(number), 0) for index, number in enumerate(numbers))
    empty = count - len(set(numbers.tolist()))
    notes = (f"volume: {empty} of {count} slices have no frame and are empty",) if empty else ()
    return _filled(lowest, along, count, placed, notes)


def _common_steps(heights: NDArray[np.float64]) -> tuple[float, float]:
    """The smallest step between heights, and the largest length of which every step is a multiple."""
    steps = np.diff(np.sort(heights))
    steps = steps[steps > 2 * SAME_PLACE_MM]
    smallest = float(steps.min())
    common = smallest
    for step in steps.tolist():
        longer, shorter = max(step, common), min(step, common)
        while shorter > STEP_TOLERANCE / 2 * smallest:
            longer, shorter = shorter, abs(longer - round(longer / shorter) * shorter)
        common = longer
    return smallest, common


def _whole(slices: NDArray[np.float64]) -> bool:
    return float(np.abs(slices - np.rint(slices)).max()) <= STEP_TOLERANCE / 2


def _filled(
    lowest: Plane, step: NDArray[np.float64], count: int, placed: tuple[Placed, ...], notes: tuple[str, ...]
) -> Grid:
    rows, columns = lowest.size
    return Grid((columns, rows, count, 1), _affine(lowest, step), placed, _tilt(step, _normal(lowest)), notes)


def _tilt(step: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """Degrees between the step from slice to slice and the normal; 0 below what rounding explains."""
    degrees = math.degrees(math.acos(min(1.0, float(step @ normal) / float(np.linalg.norm(step)))))
    return degrees if degrees > TILT_DEGREES else 0.0


def _check(plane: Plane) -> None:
    numbers = (*plane.position, *plane.row, *plane.column, *plane.spacing)
    if not all(math.isfinite(number) for number in numbers):
        raise BadGeometry("stack planes: position, orientation or spacing is not a finite number")
    if not 0 < min(plane.spacing) <= max(plane.spacing) <= FARTHEST_MM:
        raise BadGeometry("stack planes: (0028,0030) Pixel Spacing is not a length greater than 0")
    if max(abs(number) for number in plane.position) > FARTHEST_MM:
        raise BadGeometry("stack planes: (0020,0032) Image Position (Patient) lies kilometres away")
    if min(plane.size) <= 0:
        raise BadGeometry("stack planes: (0028,0010) Rows or (0028,0011) Columns is not greater than 0")
    row, column = np.asarray(plane.row), np.asarray(plane.column)
    lengths_off = max(abs(float(np.linalg.norm(v)) - 1) for v in (row, column))
    if lengths_off > COSINE_TOLERANCE or abs(float(row @ column)) > COSINE_TOLERANCE:
        raise BadGeometry(
            "stack planes: (0020,0037) Image Orientation (Patient) is not a pair of unit vectors at right angles"
        )


def _alike(planes: Sequence[Plane]) -> list[list[int]]:
    """Indices of the planes, grouped by stack, size, spacing and orientation; in order of first appearance."""
    groups: list[list[int]] = []
    for index, plane in enumerate(planes):
        for group in groups:
            if _fits(plane, planes[group[0]]):
                group.append(index)
                break
        else:
            if len(groups) >= MOST_GRIDS:
                raise BadGeometry(
                    f"stack planes: more than {MOST_GRIDS} different orientations, sizes, spacings or stacks; "
                    "that is no volume"
                )
            groups.append([index])
    return groups


def _fits(plane: Plane, other: Plane) -> bool:
    if plane.stack != other.stack or plane.size != other.size:
        return False
    turned = max(abs(a - b) for a, b in zip((*plane.row, *plane.column), (*other.row, *other.column), strict=True))
    scaled = max(abs(a / b - 1) for a, b in zip(plane.spacing, other.spacing, strict=True))
    return turned <= COSINE_TOLERANCE and scaled <= COSINE_TOLERANCE


def _normal(plane: Plane) -> NDArray[np.float64]:
    normal = np.cross(np.asarray(plane.row, float), np.asarray(plane.column, float))
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


Stacked = list[list[int]]
"""Indices of the planes of each time, from the lowest position to the highest; all times have the same positions."""


def _repetitions(planes: Sequence[Plane], members: list[int]) -> list[Stacked]:
    """Planes of one orientation, split into sets of times that share their positions."""
    normal = _normal(planes[members[0]])
    height = {index: float(np.asarray(planes[index].position) @ normal) for index in members}
    members = sorted(members, key=lambda index: (height[index], planes[index].order, index))
    positions: list[list[int]] = []
    for index in members:
        if positions and height[index] - height[positions[-1][0]] <= SAME_PLACE_MM:
            positions[-1].append(index)
        else:
            positions.append([index])
    for place in positions:
        place.sort(key=lambda index: (planes[index].order, index))
    counts = {len(place) for place in positions}
    if len(counts) == 1:
        return [[[place[time] for place in positions] for time in range(counts.pop())]]
    return _by_order(planes, positions, counts)


def _by_order(planes: Sequence[Plane], positions: list[list[int]], counts: set[int]) -> list[Stacked]:
    """Planes whose positions are repeated unequally: `Plane.order` must say which belong to one time."""
    by_order: dict[Order, dict[int, int]] = {}
    for place, indices in enumerate(positions):
        for index in indices:
            if by_order.setdefault(planes[index].order, {}).setdefault(place, index) != index:
                raise BadGeometry(
                    f"stack planes: positions hold {min(counts)} to {max(counts)} planes, and nothing tells which "
                    "belong together; (0020,0032) Image Position (Patient) is duplicated"
                )
    same_places: dict[tuple[int, ...], Stacked] = {}
    for order in sorted(by_order):
        at = by_order[order]
        same_places.setdefault(tuple(sorted(at)), []).append([at[place] for place in sorted(at)])
    if len(same_places) > MOST_GRIDS:
        raise BadGeometry(f"stack planes: positions hold {min(counts)} to {max(counts)} planes in no common pattern")
    return list(same_places.values())


def _regular_pieces(planes: Sequence[Plane], times: Stacked) -> list[Grid]:
    """Grids of equal steps: the planes are cut wherever the step changes."""
    first = times[0]
    normal = _normal(planes[first[0]])
    heights = np.array([np.asarray(planes[index].position) @ normal for index in first])
    steps = np.diff(heights)
    pieces: list[tuple[int, int]] = []
    start = 0
    while start < len(first):
        stop = _end_of_run(steps, start)
        pieces.append((start, stop))
        start = stop
    if len(pieces) > MOST_GRIDS:
        raise BadGeometry(
            f"stack planes: the steps between {len(first)} planes vary from {steps.min():.4g} to {steps.max():.4g} mm; "
            "that is no volume"
        )
    notes = tuple(
        f"volume: gap of {steps[stop - 1]:.4g} mm between slices (median step {np.median(steps):.4g} mm): cut there"
        for _, stop in pieces[:-1]
    )
    return [_grid(planes, [time[start:stop] for time in times], notes) for start, stop in pieces]


def _end_of_run(steps: NDArray[np.float64], start: int) -> int:
    """Index after the last plane that follows plane `start` in equal steps."""
    if start >= len(steps):
        return start + 1
    median = float(np.median(steps))

    def equal(step: float, reference: float) -> bool:
        return abs(step - reference) <= max(STEP_TOLERANCE * reference, min(ROUNDING_MM, 0.4 * reference))

    reference = float(steps[start])
    if not equal(reference, median) and start + 1 < len(steps) and equal(float(steps[start + 1]), median):
        return start + 1
    stop = start
    while stop < len(steps) and equal(float(steps[stop]), reference):
        stop += 1
    return stop + 1


def _grid(planes: Sequence[Plane], times: Stacked, notes: tuple[str, ...]) -> Grid:
    """The grid of planes at equal steps: origin at the last row of the lowest plane."""
    lowest = planes[times[0][0]]
    places = np.array([planes[index].position for index in times[0]])
    normal = _normal(lowest)
    count = len(places)
    warnings = list(notes)
    if count > 1:
        step = (places[-1] - places[0]) / (count - 1)
        off = float(np.abs(places - (places[0] + np.arange(count)[:, None] * step)).max())
        if off > REGULAR_MM:
            warnings.append(f"volume: slice positions deviate up to {off:.3g} mm from the regular grid")
    else:
        step = normal * _thickness(lowest)
        if not lowest.thickness or lowest.thickness <= 0:
            warnings.append("volume: one slice without thickness; its step is 1 mm by convention")
    tilt = _tilt(step, normal)
    if tilt:
        warnings.append(f"volume: slices are tilted by {tilt:.2f} degrees; the affine is sheared, voxels are untouched")
    others = np.array([[planes[index].position for index in time] for time in times])
    moved = float(np.abs(others - places).max())
    if moved > REGULAR_MM:
        warnings.append(f"volume: slice positions move up to {moved:.3g} mm between repetitions; the first is written")
    rows, columns = lowest.size
    placed = tuple(Placed(index, k, t) for t, time in enumerate(times) for k, index in enumerate(time))
    return Grid((columns, rows, count, len(times)), _affine(lowest, step), placed, tilt, tuple(warnings))


def _thickness(plane: Plane) -> float:
    return plane.thickness if plane.thickness and plane.thickness > 0 else 1.0


def _affine(lowest: Plane, step: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(i, j, k)`` to RAS, with ``j`` counted from the last row. Source: PS3.3 equation C.7.6.2.1-1."""
    between_rows, between_columns = lowest.spacing
    down = np.asarray(lowest.column) * between_rows
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(lowest.row) * between_columns
    affine[:3, 1] = -down
    affine[:3, 2] = step
    affine[:3, 3] = np.asarray(lowest.position) + down * (lowest.size[0] - 1)
    return np.asarray(_LPS_TO_RAS @ affine + 0.0, dtype=np.float64)


def _with_warning(grid: Grid, note: str) -> Grid:
    return Grid(grid.shape, grid.affine, grid.placed, grid.tilt_degrees, (*grid.warnings, note))
