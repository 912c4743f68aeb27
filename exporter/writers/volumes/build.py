"""Volume files made of frames: values of the voxels, and one file for every grid.

Contract: `build` takes the frames of one instance or series once, in order of storage, and writes one file per grid;
`build_segmentation` does so for segmentations. Stored values stay as they are wherever the format can say how to read
them (NIfTI: one slope and intercept for all); otherwise voxels are the real values, and a warning says so.

Must never: hold more than a few frames, or leave a scratch file behind.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exporter.dicom.geometry import Grid, grids, sparse_grid
from exporter.errors import BadGeometry, CorruptPixels, UnsupportedSyntax
from exporter.outcome import MediaFile, MediaType
from exporter.writers.durable_write import Sealed, media_file, writing
from exporter.writers.volumes.formats import AS_STORED, Scaling
from exporter.writers.volumes.voxels import VoxelFile, write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from exporter.writers.volumes.planes import VolumeFrame


_LARGEST = 1e27
"""Times any stored value it still fits 32-bit floating point."""


@dataclass(frozen=True, slots=True)
class VolumeTarget:
    """Folder and format of volume files."""

    folder: Path
    format: str
    """``nii.gz``, ``nii`` or ``nrrd``."""
    first: int = 0
    """Number of the first file: files are ``<number>.part``."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Range of the stored values."""

    lowest: float
    highest: float
    """Limits of the stored values, from bits stored and pixel representation; infinite for floating point."""


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """One finished, verified, durable volume file."""

    file: str
    """Name below the target's folder."""
    sha256: str
    grid: Grid
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Voxels:
    """The way from stored values to voxels."""

    dtype: np.dtype[np.generic]
    apply: bool
    """Whether voxels are real values; otherwise they are the stored ones, and `scaling` goes into the header."""
    scaling: Scaling = AS_STORED
    warnings: tuple[str, ...] = ()


def build(
    frames: Sequence[VolumeFrame], arrays: Iterable[NDArray[np.generic]], target: VolumeTarget, stored: Stored
) -> tuple[VolumeFile, ...]:
    """Write one volume file per grid that the frames' planes form.

    Args:
        frames: What the headers say of each frame.
        arrays: Stored values ``(rows, columns)`` of each frame, in the same order.
        target: Folder and format.
        stored: Limits of the stored values.

    Raises:
        BadGeometry: The planes form no volume.
        CorruptPixels: There are fewer arrays than frames.
        EncodeFailed, VerifyFailed, OutOfSpace: As `exporter.writers.volumes.voxels.write`.
    """
    return build_grids(grids([frame.plane for frame in frames]), frames, arrays, target, stored)


def build_grids(
    found: Sequence[Grid],
    frames: Sequence[VolumeFrame],
    arrays: Iterable[NDArray[np.generic]],
    target: VolumeTarget,
    stored: Stored,
) -> tuple[VolumeFile, ...]:
    """As `build`, for grids that are known already; frames that belong to none of them are passed over.

    Raises:
        CorruptPixels: There are fewer arrays than frames.
        EncodeFailed, VerifyFailed, OutOfSpace: As `exporter.writers.volumes.voxels.write`.
    """
    places = {placed.plane: (index, placed) for index, grid in enumerate(found) for placed in grid.placed}
    with ExitStack() as stack:
        files: dict[int, tuple[VoxelFile, _Voxels]] = {}
        count = 0
        for number, array in enumerate(arrays):
            count += 1
            if number not in places:
                continue
            index, placed = places[number]
            if index not in files:
                how = _voxels([frames[p.plane].scaling for p in found[index].placed], array, target.format, stored)
                scratch = target.folder / f"{target.first + index}.voxels.part"
                files[index] = (stack.enter_context(VoxelFile(scratch, found[index], how.dtype)), how)
            voxels, how = files[index]
            voxels.store_plane(_values(array, frames[number].scaling, how), slice_=placed.slice, time=placed.time)
        if count < len(frames):
            raise CorruptPixels(f"write volume: {count} of {len(frames)} frames are there")
        return tuple(_finish(*files[index], index, target) for index in range(len(found)))


def media_of(files: Sequence[VolumeFile], target: VolumeTarget) -> tuple[MediaFile, ...]:
    """The volume files of one instance or series as media: numbered where there are several."""
    if len(files) == 1:
        return (_medium(files[0], f".{target.format}", target),)
    return tuple(_medium(file, f".{number}.{target.format}", target) for number, file in enumerate(files, 1))


def _medium(file: VolumeFile, suffix: str, target: VolumeTarget) -> MediaFile:
    path = target.folder / file.file
    columns, rows, slices, times = file.grid.shape
    with writing("measuring a volume file"):
        size = path.stat().st_size
    return media_file(
        path,
        MediaType.VOLUME,
        suffix,
        "nrrd" if target.format == "nrrd" else "nifti-1",
        Sealed(size, file.sha256),
        width=columns,
        height=rows,
        frames=slices * times,
    )


def _values(array: NDArray[np.generic], scaling: Scaling, how: _Voxels) -> NDArray[np.generic]:
    if not how.apply:
        return array
    real = array.astype(np.float64) * scaling.slope + scaling.intercept
    return real.astype(how.dtype) if how.dtype.kind == "f" else np.rint(real).astype(how.dtype)


def _voxels(scalings: list[Scaling], array: NDArray[np.generic], format_: str, stored: Stored) -> _Voxels:
    """The voxel type of a grid whose frames have these scalings."""
    if max(max(abs(one.slope), abs(one.intercept)) for one in scalings) > _LARGEST:
        raise UnsupportedSyntax("write volume: slope or intercept is too large for numbers of 32 bits")
    common = scalings[0] if len(set(scalings)) == 1 else None
    if common is not None and (common.is_identity or format_ != "nrrd"):
        return _Voxels(array.dtype, apply=False, scaling=common)
    if common is not None and (integer := _integer_type(common, array, stored)) is not None:
        return _Voxels(integer, apply=True)
    wide = array.dtype.itemsize > 2 and array.dtype != np.float32
    notes = () if common else ("volume: slope and intercept differ between frames; voxels are the real values",)
    return _Voxels(np.dtype(np.float64 if wide else np.float32), apply=True, warnings=notes)


def _integer_type(scaling: Scaling, array: NDArray[np.generic], stored: Stored) -> np.dtype[np.generic] | None:
    """The integer type that holds every real value exactly, or None."""
    whole = float(scaling.slope).is_integer() and float(scaling.intercept).is_integer()
    if array.dtype.kind not in "iu" or not whole:
        return None
    ends = [limit * scaling.slope + scaling.intercept for limit in (stored.lowest, stored.highest)]
    for candidate in (np.int16, np.int32):
        limits = np.iinfo(candidate)
        if limits.min <= min(ends) and max(ends) <= limits.max:
            return np.dtype(candidate)
    return None


def _finish(voxels: VoxelFile, how: _Voxels, index: int, target: VolumeTarget) -> VolumeFile:
    name = f"{target.first + index}.part"
    digest = write(voxels, target.folder / name, target.format, how.scaling)
    return VolumeFile(name, digest, voxels.grid, (*voxels.grid.warnings, *how.warnings))


@dataclass(frozen=True, slots=True)
class Segments:
    """Meaning of a segmentation's frames."""

    type: str
    """(0062,0001) Segmentation Type: ``BINARY``, ``FRACTIONAL`` or ``LABELMAP``."""
    largest_fraction: float = 255.0
    """(0062,000E) Maximum Fractional Value: the stored value that means 1."""
    step_mm: float | None = None
    """Distance of neighbouring slices, where the header tells it."""


def build_segmentation(
    frames: Sequence[VolumeFrame], arrays: Iterable[NDArray[np.generic]], target: VolumeTarget, segments: Segments
) -> VolumeFile:
    """Write a segmentation as one volume file on the regular grid of all its slices; slices without a frame are 0.

    A label map, or binary segments that nowhere overlap, become one volume whose voxels are segment numbers. Segments
    that overlap, and fractional ones, become a fourth axis in ascending order of segment number (fractional: 0 to 1).

    Raises:
        BadGeometry: The frames' planes form no grid, or two frames of one segment lie at one place.
        CorruptPixels: There are fewer arrays than frames.
        EncodeFailed, VerifyFailed, OutOfSpace: As `exporter.writers.volumes.voxels.write`.
    """
    grid = sparse_grid([frame.plane for frame in frames], step_mm=segments.step_mm)
    slices = {placed.plane: placed.slice for placed in grid.placed}
    by_value = segments.type == "LABELMAP"
    numbers = [0] if by_value else sorted({frame.segment for frame in frames})
    if len({(slices[i], 0 if by_value else frame.segment) for i, frame in enumerate(frames)}) < len(frames):
        raise BadGeometry("write volume: two frames of one segment lie at one place")
    columns, rows, depth, _ = grid.shape
    layered = Grid((columns, rows, depth, len(numbers)), grid.affine, grid.placed, grid.tilt_degrees, grid.warnings)
    with ExitStack() as stack:
        layers: VoxelFile | None = None
        count = 0
        for number, array in enumerate(arrays):
            count += 1
            if number >= len(frames):
                break
            if layers is None:
                layers = stack.enter_context(VoxelFile(_scratch(target, 0), layered, array.dtype))
            layers.store_plane(
                array, slice_=slices[number], time=0 if by_value else numbers.index(frames[number].segment)
            )
        if layers is None or count < len(frames):
            raise CorruptPixels(f"write volume: {count} of {len(frames)} frames are there")
        fraction = Scaling(1 / segments.largest_fraction) if segments.type == "FRACTIONAL" else Scaling()
        if by_value or segments.type == "FRACTIONAL":
            return _finish_fraction(stack, layers, fraction, target)
        labels = stack.enter_context(VoxelFile(_scratch(target, 1), grid, np.uint8 if numbers[-1] < 256 else np.uint16))
        if _merge(layers, labels, numbers):
            return _finish(labels, _Voxels(labels.dtype, apply=False), 0, target)
        note = f"volume: segments overlap; the fourth axis holds the {len(numbers)} segments in ascending order"
        return _finish(layers, _Voxels(layers.dtype, apply=False, warnings=(note,)), 0, target)


def _scratch(target: VolumeTarget, which: int) -> Path:
    return target.folder / f"{target.first}.{which}.voxels.part"


def _finish_fraction(stack: ExitStack, layers: VoxelFile, fraction: Scaling, target: VolumeTarget) -> VolumeFile:
    if fraction.is_identity or target.format != "nrrd":
        return _finish(layers, _Voxels(layers.dtype, apply=False, scaling=fraction), 0, target)
    real = stack.enter_context(VoxelFile(_scratch(target, 1), layers.grid, np.float32))
    how = _Voxels(real.dtype, apply=True)
    _, _, slices, times = layers.grid.shape
    for time in range(times):
        for slice_ in range(slices):
            plane = layers.get(slice_, time)
            if plane is not None:
                real.store_plane(_values(plane, fraction, how), slice_=slice_, time=time)
    return _finish(real, how, 0, target)


def _merge(layers: VoxelFile, labels: VoxelFile, numbers: list[int]) -> bool:
    """Put segment numbers into `labels`; False as soon as two segments share a voxel."""
    for slice_ in range(layers.grid.shape[2]):
        label: NDArray[np.generic] | None = None
        for time, number in enumerate(numbers):
            plane = layers.get(slice_, time)
            if plane is None:
                continue
            inside = plane != 0
            if label is None:
                label = np.zeros(plane.shape, labels.dtype)
            if (label[inside] != 0).any():
                return False
            label[inside] = number
        if label is not None:
            labels.store_plane(label, slice_=slice_, time=0)
    return True
