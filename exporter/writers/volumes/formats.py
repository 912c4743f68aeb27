"""Headers of the two volume formats, NIfTI-1 and NRRD, and reading them back.

Contract: bytes in, bytes out; a header says shape, type, affine and scaling of the voxels that follow it in Fortran
order (``i`` fastest). No time, no name, nothing of the patient is ever written into it.

Source: nifti1.h (NIfTI-1 data format standard, 2003), https://teem.sourceforge.net/nrrd/format.html (NRRD0005).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exporter.errors import UnsupportedSyntax, VerifyFailed

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from exporter.dicom.geometry import Grid

NIFTI_BYTES = 352
"""Header of 348 bytes and four bytes that say "no extensions"."""
NIFTI_LONGEST = 32767

_NIFTI = struct.Struct("<i10s18sihcB8h3f3hh8f3fhBB4f2i80s24s2h6f12f16s4s")
_NIFTI_CODE = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768}
_NRRD_TYPE = {
    "u1": "uint8",
    "i1": "int8",
    "u2": "uint16",
    "i2": "int16",
    "u4": "uint32",
    "i4": "int32",
    "f4": "float",
    "f8": "double",
}
_MILLIMETRES, _SECONDS = 2, 8
_SCANNER = 1


@dataclass(frozen=True, slots=True)
class Scaling:
    """Real value = stored value x slope + intercept (PS3.3 C.11.1.1.2)."""

    slope: float = 1.0
    intercept: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether stored values are the real values."""
        return self.slope == 1.0 and self.intercept == 0.0


AS_STORED = Scaling()
"""Stored values are the real values."""


def code_of(dtype: DTypeLike) -> str:
    """The type of voxels as ``u2``, ``f4``, ...

    Raises:
        UnsupportedSyntax: Neither format holds such numbers.
    """
    kind = np.dtype(dtype)
    code = f"{kind.kind}{kind.itemsize}"
    if code not in _NIFTI_CODE:
        raise UnsupportedSyntax(f"write volume: voxels of type {kind.name} fit neither NIfTI nor NRRD")
    return code


def nifti_header(grid: Grid, dtype: DTypeLike, scaling: Scaling, time_step_s: float | None = None) -> bytes:
    """The first 352 bytes of a NIfTI-1 file; voxels follow in little endian.

    The affine is written as sform, and as qform too where it is a rotation (it is not for tilted slices).

    Raises:
        UnsupportedSyntax: More than 32767 voxels along an axis, or a voxel type NIfTI-1 does not have.
    """
    if max(grid.shape) > NIFTI_LONGEST:
        raise UnsupportedSyntax(
            f"write volume: NIfTI-1 holds {NIFTI_LONGEST} voxels along an axis; set volume.format to nrrd"
        )
    kind = np.dtype(dtype)
    dimensions = (3 if grid.shape[3] == 1 else 4, *grid.shape, 1, 1, 1)
    quaternion, handedness = _quaternion(grid)
    affine = grid.affine
    return (
        _NIFTI.pack(
            348,
            b"",
            b"",
            0,
            0,
            b"r",
            0,
            *dimensions,
            *(0.0, 0.0, 0.0),
            0,
            _NIFTI_CODE[code_of(kind)],
            kind.itemsize * 8,
            0,
            *(handedness, *grid.spacing, time_step_s or 0.0, 0.0, 0.0, 0.0),
            float(NIFTI_BYTES),
            scaling.slope,
            scaling.intercept,
            0,
            0,
            _MILLIMETRES | (_SECONDS if time_step_s else 0),
            *(0.0, 0.0, 0.0, 0.0),
            *(0, 0),
            b"",
            b"",
            0 if grid.tilt_degrees else _SCANNER,
            _SCANNER,
            *quaternion,
            *affine[:3, 3],
            *affine[0],
            *affine[1],
            *affine[2],
            b"",
            b"n+1\0",
        )
        + b"\0\0\0\0"
    )


def _quaternion(grid: Grid) -> tuple[tuple[float, float, float], float]:
    """Parts b, c, d of the rotation and ``qfac``; zeros where the affine is no rotation (nifti1.h, method 2)."""
    if grid.tilt_degrees:
        return (0.0, 0.0, 0.0), 1.0
    axes = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    handedness = 1.0 if np.linalg.det(axes) > 0 else -1.0
    axes[:, 2] *= handedness
    # Bar-Itzhack, J. Guidance 23(6), 2000: the quaternion nearest to a rounded rotation is an eigenvector of this
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = axes
    symmetric = np.array(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    b, c, d, a = (float(part) for part in np.linalg.eigh(symmetric)[1][:, -1])
    sign = -1.0 if a < 0 else 1.0
    return (sign * b, sign * c, sign * d), handedness


def nrrd_header(grid: Grid, dtype: DTypeLike, *, compressed: bool) -> bytes:
    """The header of an NRRD file with its voxels attached, in LPS millimetres; voxels follow in little endian.

    NRRD knows no scaling: the voxels must be real values.

    Raises:
        UnsupportedSyntax: A voxel type NRRD does not have.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine + 0.0
    spatial = [_vector(lps[:3, axis]) for axis in range(3)]
    timed = grid.shape[3] > 1
    sizes = grid.shape if timed else grid.shape[:3]
    lines = (
        "NRRD0005",
        f"type: {_NRRD_TYPE[code_of(dtype)]}",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {' '.join(spatial)}{' none' if timed else ''}",
        f"kinds: domain domain domain{' list' if timed else ''}",
        "endian: little",
        f"encoding: {'gzip' if compressed else 'raw'}",
        f"space origin: {_vector(lps[:3, 3])}",
    )
    return ("\n".join(lines) + "\n\n").encode("ascii")


def _vector(numbers: NDArray[np.float64]) -> str:
    return "(" + ",".join(repr(float(number)) for number in numbers) + ")"


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Contents of a written header."""

    shape: tuple[int, int, int, int]
    code: str
    affine: NDArray[np.float64]
    scaling: Scaling


def read_nifti_header(header: bytes) -> ReadBack:
    """Contents of the first 352 bytes of a file, read by offset and not by the structure that wrote them.

    Raises:
        VerifyFailed: It is no NIfTI-1 header in little endian with an sform.
    """
    if len(header) != NIFTI_BYTES or header[344:348] != b"n+1\0" or header[:4] != b"\x5c\x01\0\0":
        raise VerifyFailed("read volume back: no NIfTI-1 header")
    sizes = np.frombuffer(header, "<i2", 8, 40)
    code, bits = (int(number) for number in np.frombuffer(header, "<i2", 2, 70))
    slope, intercept = (float(number) for number in np.frombuffer(header, "<f4", 2, 112))
    if int(np.frombuffer(header, "<i2", 1, 254)[0]) != _SCANNER or int(sizes[0]) not in (3, 4):
        raise VerifyFailed("read volume back: no sform, or not three or four axes")
    names = [name for name, known in _NIFTI_CODE.items() if known == code and int(name[1]) * 8 == bits]
    if len(names) != 1:
        raise VerifyFailed("read volume back: unknown voxel type")
    affine = np.eye(4)
    affine[:3] = np.frombuffer(header, "<f4", 12, 280).reshape(3, 4)
    i, j, k, t = (int(size) for size in sizes[1:5])
    return ReadBack((i, j, k, t), names[0], affine, Scaling(slope, intercept))
