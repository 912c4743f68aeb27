"""Voxels on their way to a file: planes arrive in any order, the file holds them sorted; memory holds a few planes.

Contract: `VoxelFile` collects planes in a scratch file with a checksum each; `write` copies them in order behind
a header, compressed or not, fsyncs, and reads the finished file back: header and every plane must be as collected.
The same planes give the same bytes (gzip without time and name). Nothing stays behind but the file that was asked for.

Must never: hold a volume in memory, or leave voxels that no plane filled other than zero.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from typing import TYPE_CHECKING, Self

import numpy as np

from exporter.errors import EncodeFailed, VerifyFailed
from exporter.writers.durable_write import writing
from exporter.writers.volumes.formats import NIFTI_BYTES, code_of, nifti_header, nrrd_header, read_nifti_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO

    from numpy.typing import DTypeLike, NDArray

    from exporter.dicom.geometry import Grid
    from exporter.writers.volumes.formats import Scaling

BLOCK = 1 << 20
_COMPRESSION = 2
_GZIP = 31  # zlib's code for a gzip wrapper with the largest window; its header carries no time and no name


class VoxelFile:
    """Planes of ``(times, slices, rows, columns)`` voxels in a scratch file, little endian, the last row first.

    The scratch file is as large as the planes that were put, however many slices and times the grid has.
    """

    def __init__(self, scratch: Path, grid: Grid, dtype: DTypeLike) -> None:
        self.grid = grid
        self.dtype = np.dtype(dtype).newbyteorder("<")
        columns, rows, slices, times = grid.shape
        self.plane_bytes = columns * rows * self.dtype.itemsize
        self._planes = slices * times
        self._kept: dict[int, tuple[int, int]] = {}
        """Index of a plane: its place in the scratch file, its checksum."""
        self._scratch = scratch
        with writing("collect voxels"):
            self._fd = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the scratch file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._scratch.unlink(missing_ok=True)

    def store_plane(self, plane: NDArray[np.generic], *, slice_: int, time: int) -> None:
        """Store one plane ``(rows, columns)``, first row on top; a later one at its place replaces it.

        Raises:
            EncodeFailed: The plane has another shape than the grid.
            OutOfSpace: The disk is full.
        """
        columns, rows, _, _ = self.grid.shape
        if plane.shape != (rows, columns):
            raise EncodeFailed("collect voxels: a frame has another size than the volume")
        if not np.can_cast(plane.dtype, self.dtype, "safe"):
            raise EncodeFailed("collect voxels: a frame has another type of values than the volume")
        data = np.ascontiguousarray(plane[::-1], dtype=self.dtype).tobytes()
        index = self._index(slice_, time)
        slot = self._kept[index][0] if index in self._kept else len(self._kept)
        self._kept[index] = (slot, zlib.crc32(data))
        view, offset = memoryview(data), slot * self.plane_bytes
        with writing("collect voxels"):
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written

    def get(self, slice_: int, time: int) -> NDArray[np.generic] | None:
        """The plane as it was put, or None where none was."""
        index = self._index(slice_, time)
        if index not in self._kept:
            return None
        columns, rows, _, _ = self.grid.shape
        return np.frombuffer(self._read(index), self.dtype).reshape(rows, columns)[::-1]

    def _index(self, slice_: int, time: int) -> int:
        _, _, slices, times = self.grid.shape
        if not (0 <= slice_ < slices and 0 <= time < times):
            raise EncodeFailed("collect voxels: a plane lies outside the grid")
        return time * slices + slice_

    def _read(self, index: int) -> bytes:
        if index not in self._kept:
            return bytes(self.plane_bytes)
        slot, checksum = self._kept[index]
        with writing("collect voxels"):
            data = _pread(self._fd, self.plane_bytes, slot * self.plane_bytes)
        if zlib.crc32(data) != checksum:
            raise VerifyFailed("collect voxels: the scratch file gave other bytes back than were stored")
        return data

    def planes(self) -> Iterator[bytes]:
        """All planes in the order of the file."""
        for index in range(self._planes):
            yield self._read(index)


def _pread(fd: int, length: int, offset: int) -> bytes:
    parts = []
    while length:
        part = os.pread(fd, min(length, 1 << 30), offset)
        if not part:
            break
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)


def write(voxels: VoxelFile, target: Path, format_: str, scaling: Scaling, time_step_s: float | None = None) -> str:
    """Write a volume file and read it back; its SHA-256.

    Args:
        voxels: Every plane that the volume has.
        target: A name that does not exist yet.
        format_: ``nii.gz``, ``nii`` or ``nrrd``.
        scaling: For NIfTI; must be the identity for NRRD.
        time_step_s: Seconds between times, where known.

    Raises:
        EncodeFailed: The file system refuses.
        VerifyFailed: The file, read back, is not what was meant.
        OutOfSpace: The disk is full.
    """
    if format_ == "nrrd":
        header = nrrd_header(voxels.grid, voxels.dtype, compressed=True)
    else:
        header = nifti_header(voxels.grid, voxels.dtype, scaling, time_step_s)
    with writing("write volume"):
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=BLOCK) as file:
            meant = _write_blocks(file, header, voxels, format_)
            file.flush()
            os.fsync(file.fileno())
    return _verify(target, header, meant, voxels, format_)


def _write_blocks(file: BinaryIO, header: bytes, voxels: VoxelFile, format_: str) -> str:
    """Header and voxels; the SHA-256 of the voxels."""
    from isal import isal_zlib

    digest = hashlib.sha256()
    packer = None if format_ == "nii" else isal_zlib.compressobj(_COMPRESSION, isal_zlib.DEFLATED, _GZIP)
    file.write(packer.compress(header) if packer and format_ == "nii.gz" else header)
    for plane in voxels.planes():
        digest.update(plane)
        file.write(packer.compress(plane) if packer else plane)
    if packer:
        file.write(packer.flush())
    return digest.hexdigest()


def _verify(target: Path, header: bytes, meant: str, voxels: VoxelFile, format_: str) -> str:
    """Read the file back with zlib, another implementation than the one that wrote it."""
    whole, content = hashlib.sha256(), hashlib.sha256()
    head, size = b"", 0
    with writing("read volume back"), target.open("rb") as file:
        for part in _unpacked(file, format_, len(header), whole):
            missing = len(header) - len(head)
            head += part[:missing]
            content.update(part[missing:])
            size += len(part[missing:])
    _, _, slices, times = voxels.grid.shape
    if head != header or content.hexdigest() != meant or size != voxels.plane_bytes * slices * times:
        raise VerifyFailed("read volume back: header or voxels are not those that were written")
    if format_ != "nrrd":
        written = read_nifti_header(head[:NIFTI_BYTES])
        near = np.allclose(written.affine, voxels.grid.affine, rtol=1e-6, atol=1e-4)
        if written.shape != voxels.grid.shape or written.code != code_of(voxels.dtype) or not near:
            raise VerifyFailed("read volume back: shape, voxel type or affine is not the grid's")
    return whole.hexdigest()


def _unpacked(file: BinaryIO, format_: str, header_bytes: int, whole: hashlib._Hash) -> Iterator[bytes]:
    """The file's content without compression, in bounded parts; every byte read goes into `whole`."""
    if format_ == "nrrd":
        head = file.read(header_bytes)
        whole.update(head)
        yield head
    stream = None if format_ == "nii" else zlib.decompressobj(_GZIP)
    while block := file.read(BLOCK):
        whole.update(block)
        if stream is None:
            yield block
            continue
        try:
            while block and not stream.eof:
                yield stream.decompress(block, BLOCK)
                block = stream.unconsumed_tail
        except zlib.error:
            raise VerifyFailed("read volume back: the compressed stream is damaged") from None
    if stream is not None:
        yield stream.flush()
        if not stream.eof or stream.unused_data:
            raise VerifyFailed("read volume back: the compressed stream does not end where the file ends")
