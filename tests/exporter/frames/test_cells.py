"""Native pixel cells become the stored values the Standard says they are."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from exporter.dicom.instance import Instance
from exporter.errors import BadGeometry, CorruptPixels
from exporter.frames import open_frames

from .conftest import EXPLICIT_BE

if TYPE_CHECKING:
    from .conftest import Build

SHAPE: dict[str, Any] = {"Rows": 16, "Columns": 12}


def stored(instance: Instance) -> list[np.ndarray]:
    return list(open_frames(instance, instance.limits).stored())


@pytest.mark.parametrize("allocated", [8, 16, 32])
@pytest.mark.parametrize("big_endian", [False, True])
def test_whole_cells_of_both_byte_orders(build: Build, allocated: int, big_endian: bool) -> None:
    top = min(1 << allocated, 1 << 31)
    values = np.random.default_rng(allocated).integers(0, top, (2, 16, 12)).astype(f"u{allocated // 8}")
    raw = values.astype(values.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
    if big_endian and allocated == 8:  # OW: 16-bit words
        raw = np.frombuffer(raw, "<u2").byteswap().tobytes()
    syntax = {"syntax": EXPLICIT_BE} if big_endian else {}
    frames = stored(build(raw, **syntax, **SHAPE, BitsAllocated=allocated, NumberOfFrames=2))
    assert [f.dtype for f in frames] == [values.dtype] * 2
    np.testing.assert_array_equal(np.stack(frames), values)


def test_bytes_of_odd_frames_lie_swapped_in_big_endian_words(build: Build) -> None:
    values = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    raw = np.frombuffer(values.tobytes() + b"\0", "<u2").byteswap().tobytes()
    frames = stored(build(raw, EXPLICIT_BE, Rows=3, Columns=3, NumberOfFrames=5, BitsAllocated=8))
    np.testing.assert_array_equal(np.stack(frames), values)


def test_bytes_in_big_endian_ob_are_not_swapped(build: Build) -> None:
    values = np.arange(16 * 12, dtype=np.uint8).reshape(16, 12)
    frames = stored(build(values.tobytes(), EXPLICIT_BE, vr="OB", **SHAPE, BitsAllocated=8))
    np.testing.assert_array_equal(frames[0], values)


def packed(values: np.ndarray) -> bytes:
    """12-bit cells one behind the other, the first in the lowest bits, as one great number."""
    number = sum(int(value & 0xFFF) << 12 * index for index, value in enumerate(values.ravel()))
    length = -(-12 * values.size // 16) * 2
    return number.to_bytes(length, "little")


def test_packed_cells_known_by_hand(build: Build) -> None:
    raw = bytes((0x01, 0x23, 0x45, 0x67, 0x89, 0xAB))
    instance = build(raw, Rows=2, Columns=2, BitsAllocated=12)
    assert stored(instance)[0].tolist() == [[0x301, 0x452], [0x967, 0xAB8]]


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", [(1, 16, 12), (5, 3, 3), (3, 1, 5)], ids=str)
def test_cells_of_twelve_bits_are_unpacked_wherever_their_frame_begins(
    build: Build, shape: tuple[int, int, int], signed: bool, big_endian: bool
) -> None:
    low = -2048 if signed else 0
    values = np.random.default_rng(3).integers(low, low + 4096, shape)
    raw = packed(values)
    if big_endian:  # the same words of 16 bits
        raw = np.frombuffer(raw, "<u2").byteswap().tobytes()
    syntax = {"syntax": EXPLICIT_BE} if big_endian else {}
    frames, rows, columns = shape
    instance = build(
        raw,
        **syntax,
        Rows=rows,
        Columns=columns,
        NumberOfFrames=frames,
        BitsAllocated=12,
        PixelRepresentation=int(signed),
    )
    np.testing.assert_array_equal(np.stack(stored(instance)), values)


def test_cells_that_only_say_twelve_bits_are_read_as_the_words_they_are(build: Build) -> None:
    values = np.random.default_rng(3).integers(0, 4096, (16, 12))
    instance = build(values.astype("<u2").tobytes(), **SHAPE, BitsAllocated=12)
    frames = open_frames(instance, instance.limits)
    np.testing.assert_array_equal(next(frames.stored()), values)
    assert any("read as 16" in warning for warning in frames.warnings)


def test_packed_cells_that_are_cut_are_refused(build: Build) -> None:
    with pytest.raises(CorruptPixels):
        stored(build(bytes(16 * 12 * 3 // 2 - 2), **SHAPE, BitsAllocated=12))


@pytest.mark.parametrize(("bits", "high"), [(12, 11), (12, 15), (10, 12), (9, 8), (16, 15), (1, 4)])
@pytest.mark.parametrize("signed", [False, True])
def test_bits_outside_the_stored_ones_are_removed_and_signs_extended(
    build: Build, bits: int, high: int, signed: bool
) -> None:
    low = -(1 << bits - 1) if signed else 0
    values = np.random.default_rng(bits).integers(low, low + (1 << bits), (16, 12))
    shift = high + 1 - bits
    garbage = np.random.default_rng(1).integers(0, 1 << 16, (16, 12))
    mask = ((1 << bits) - 1) << shift
    cells = ((values << shift) & mask) | (garbage & ~mask & 0xFFFF)
    instance = build(
        cells.astype("<u2").tobytes(), **SHAPE, BitsStored=bits, HighBit=high, PixelRepresentation=int(signed)
    )
    frame = stored(instance)[0]
    assert frame.dtype == (np.int16 if signed else np.uint16)
    np.testing.assert_array_equal(frame, values)


@pytest.mark.parametrize("columns", [8, 10, 5])
def test_single_bits_run_on_from_frame_to_frame(build: Build, columns: int) -> None:
    values = np.random.default_rng(3).integers(0, 2, (4, 3, columns)).astype(np.uint8)
    raw = np.packbits(values.reshape(-1), bitorder="little").tobytes()
    raw += b"\0" * (len(raw) % 2)
    frames = stored(build(raw, vr="OB", Rows=3, Columns=columns, NumberOfFrames=4, BitsAllocated=1))
    np.testing.assert_array_equal(np.stack(frames), values)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("allocated", [8, 16])
def test_colours_by_pixel_and_by_plane(build: Build, planar: int, allocated: int) -> None:
    values = np.random.default_rng(4).integers(0, 1 << allocated, (2, 16, 12, 3)).astype(f"u{allocated // 8}")
    laid_out = values.transpose(0, 3, 1, 2) if planar else values
    instance = build(
        laid_out.tobytes(),
        **SHAPE,
        NumberOfFrames=2,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=planar,
        BitsAllocated=allocated,
    )
    np.testing.assert_array_equal(np.stack(stored(instance)), values)


def test_two_pixels_share_their_chrominance_in_422(build: Build) -> None:
    raw = bytes([10, 20, 100, 200, 30, 40, 110, 210])
    instance = build(
        raw, Rows=1, Columns=4, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422", BitsAllocated=8
    )
    assert stored(instance)[0].tolist() == [[[10, 100, 200], [20, 100, 200], [30, 110, 210], [40, 110, 210]]]


def test_422_of_odd_width_is_impossible(build: Build) -> None:
    instance = build(
        bytes(6), Rows=1, Columns=3, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422", BitsAllocated=8
    )
    with pytest.raises(BadGeometry):
        stored(instance)


def test_422_that_is_not_subsampled_is_read_as_it_is(build: Build) -> None:
    values = np.random.default_rng(5).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    instance = build(
        values.tobytes(),
        Rows=4,
        Columns=4,
        SamplesPerPixel=3,
        PhotometricInterpretation="YBR_FULL_422",
        BitsAllocated=8,
    )
    frames = open_frames(instance, instance.limits)
    np.testing.assert_array_equal(next(iter(frames.stored())), values)
    assert frames.warnings


@pytest.mark.parametrize(("vr", "dtype"), [("OF", "<f4"), ("OD", "<f8")])
def test_floats_are_kept(build: Build, vr: str, dtype: str) -> None:
    values = np.random.default_rng(6).normal(size=(2, 16, 12)).astype(dtype)
    bits = 32 if vr == "OF" else 64
    instance = build(
        values.tobytes(), vr=vr, **SHAPE, NumberOfFrames=2, BitsAllocated=bits, BitsStored=None, HighBit=None
    )
    np.testing.assert_array_equal(np.stack(stored(instance)), values)


@pytest.mark.parametrize("missing", [1, 2, 100, 383])
def test_missing_bytes_are_never_filled_in(build: Build, missing: int) -> None:
    with pytest.raises(CorruptPixels, match="need 384"):
        stored(build(bytes(16 * 12 * 2 - missing), **SHAPE))


def test_missing_frames_are_refused_before_the_first(build: Build) -> None:
    instance = build(bytes(16 * 12 * 2 * 3), **SHAPE, NumberOfFrames=4)
    with pytest.raises(CorruptPixels):
        open_frames(instance, instance.limits)


def test_an_empty_value_is_corrupt(build: Build) -> None:
    instance = build(b"", **SHAPE)
    with pytest.raises(CorruptPixels, match="empty"):
        open_frames(instance, instance.limits)


def test_bytes_behind_the_frames_are_left_out_and_told(build: Build, ramp: np.ndarray) -> None:
    instance = build(ramp.tobytes() + bytes(100), **SHAPE)
    frames = open_frames(instance, instance.limits)
    np.testing.assert_array_equal(next(iter(frames.stored())), ramp)
    assert any("longer" in warning for warning in frames.warnings)


def test_old_ge_files_hold_big_endian_pixels_in_a_little_endian_data_set(build: Build, ramp: np.ndarray) -> None:
    instance = build(ramp.astype(">u2").tobytes(), "1.2.840.113619.5.2", **SHAPE)
    np.testing.assert_array_equal(stored(instance)[0], ramp)


def test_a_large_object_is_never_in_memory(build: Build) -> None:
    """400 frames of 1 MiB, sparse on the disk, shown with the window over all frames: two passes."""
    instance = build(bytes(2), Rows=1024, Columns=512, NumberOfFrames=400)
    content = instance.path.read_bytes()
    with instance.path.open("r+b") as file:
        file.seek(len(content) - 6)
        file.write(struct.pack("<I", 400 << 20))
        file.truncate(len(content) - 2 + (400 << 20))
    instance = Instance.open(instance.path, instance.limits)
    before = psutil.Process().memory_info().rss
    peak = before
    for frame in open_frames(instance, instance.limits).display():
        assert frame.shape == (1024, 512)
        peak = max(peak, psutil.Process().memory_info().rss)
    assert peak - before < 64 << 20
