"""Which fragments belong to which frame: offset tables that are right, empty, lying or extended."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest

from exporter.errors import CorruptPixels, ExportError, TooLarge
from exporter.frames import open_frames
from exporter.frames.stream import JoinedSpans
from exporter.settings.settings import LimitSettings

from .conftest import fragments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.dicom.instance import Instance

    from .conftest import Build

JPEG_LS = "1.2.840.10008.1.2.4.80"
RLE = "1.2.840.10008.1.2.5"
H264 = "1.2.840.10008.1.2.4.102"


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4096, (3, 16, 12)).astype(np.uint16)


@pytest.fixture
def frames(values: np.ndarray) -> list[bytes]:
    encoded = [imagecodecs.jpegls_encode(frame) for frame in values]
    return [data + b"\0" * (len(data) % 2) for data in encoded]


def halves(frames: list[bytes]) -> list[bytes]:
    """Each frame in two fragments."""

    def split() -> Iterator[bytes]:
        for frame in frames:
            middle = len(frame) // 4 * 2
            yield frame[:middle]
            yield frame[middle:]

    return list(split())


def offsets(parts: list[bytes], every: int = 1) -> list[int]:
    positions = np.cumsum([0, *(len(part) + 8 for part in parts)])[:-1]
    return [int(p) for p in positions[::every]]


def check(instance: Instance, values: np.ndarray) -> list[str]:
    found = open_frames(instance, instance.limits)
    np.testing.assert_array_equal(np.stack(list(found.stored())), values)
    return found.warnings


SHAPE: dict[str, Any] = {"Rows": 16, "Columns": 12, "NumberOfFrames": 3, "BitsStored": 12}


def test_one_fragment_per_frame_needs_no_table(build: Build, frames: list[bytes], values: np.ndarray) -> None:
    assert check(build(frames, JPEG_LS, **SHAPE), values) == []


def test_a_table_tells_which_fragments_are_a_frame(build: Build, frames: list[bytes], values: np.ndarray) -> None:
    parts = halves(frames)
    assert check(build(parts, JPEG_LS, table=offsets(parts, 2), **SHAPE), values) == []


def test_without_a_table_a_frame_begins_where_a_codestream_does(
    build: Build, frames: list[bytes], values: np.ndarray
) -> None:
    assert check(build(halves(frames), JPEG_LS, **SHAPE), values) == []


@pytest.mark.parametrize("lie", [[0, 4, 8], [0, 0, 0], [8, 16, 24], [0, 0xFFFFFFF0, 0xFFFFFFFE], [0], [0] * 50])
def test_a_table_that_lies_is_not_believed(
    build: Build, frames: list[bytes], values: np.ndarray, lie: list[int]
) -> None:
    for parts in (frames, halves(frames)):
        warnings = check(build(parts, JPEG_LS, table=lie, **SHAPE), values)
        assert any("Basic Offset Table" in warning for warning in warnings)


def test_a_single_frame_is_all_its_fragments(build: Build, frames: list[bytes], values: np.ndarray) -> None:
    instance = build(halves(frames[:1]), JPEG_LS, **{**SHAPE, "NumberOfFrames": 1})
    assert check(instance, values[:1]) == []


def test_an_extended_table_gives_exact_lengths(build: Build, frames: list[bytes], values: np.ndarray) -> None:
    lengths = [len(frame.rstrip(b"\0")) for frame in frames]
    instance = build(
        frames,
        JPEG_LS,
        **SHAPE,
        ExtendedOffsetTable=struct.pack("<3Q", *offsets(frames)),
        ExtendedOffsetTableLengths=struct.pack("<3Q", *lengths),
    )
    assert check(instance, values) == []
    assert [len(data) for data in open_frames(instance, instance.limits).encoded()] == lengths


@pytest.mark.parametrize("table", [(0, 1, 2), (0, 2**63, 2**64 - 2)], ids=str)
def test_an_extended_table_that_lies_is_not_believed(
    build: Build, frames: list[bytes], values: np.ndarray, table: tuple[int, ...]
) -> None:
    instance = build(
        frames,
        JPEG_LS,
        **SHAPE,
        ExtendedOffsetTable=struct.pack("<3Q", *table),
        ExtendedOffsetTableLengths=struct.pack("<3Q", 1, 2, 3),
    )
    assert any("Extended Offset Table" in warning for warning in check(instance, values))


def test_extra_frames_are_left_out_and_told(build: Build, frames: list[bytes], values: np.ndarray) -> None:
    for table in (None, offsets(frames)):
        for count in (1, 2):
            instance = build(frames, JPEG_LS, table=table, **{**SHAPE, "NumberOfFrames": count})
            warnings = check(instance, values[:count])
            assert any("more frames" in warning for warning in warnings)


@pytest.mark.parametrize("table", [False, True])
def test_missing_frames_are_refused(build: Build, frames: list[bytes], table: bool) -> None:
    instance = build(frames, JPEG_LS, table=offsets(frames) if table else None, **{**SHAPE, "NumberOfFrames": 4})
    with pytest.raises(CorruptPixels):
        open_frames(instance, instance.limits)


def test_fragments_that_cannot_be_told_apart_are_refused(build: Build) -> None:
    rle = struct.pack("<16I", 2, 64, 70, *([0] * 13)) + bytes(100)
    instance = build([rle, rle, rle, rle], RLE, **SHAPE)
    with pytest.raises(CorruptPixels, match="cannot be assigned"):
        open_frames(instance, instance.limits)


def test_a_missing_sequence_delimiter_is_told(build: Build, frames: list[bytes], values: np.ndarray) -> None:
    raw = fragments(frames, delimiter=False)
    warnings = check(build(raw, JPEG_LS, undefined=True, **SHAPE), values)
    assert any("delimiter" in warning for warning in warnings)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_data_that_end_inside_the_last_fragment_are_refused(build: Build, frames: list[bytes], cut: int) -> None:
    raw = fragments(frames, delimiter=False)[:-cut]
    for count in (1, 3):
        parts = raw if count == 3 else fragments(frames[:1], delimiter=False)[:-cut]
        instance = build(parts, JPEG_LS, undefined=True, **{**SHAPE, "NumberOfFrames": count})
        with pytest.raises(CorruptPixels):
            list(open_frames(instance, instance.limits).stored())


@pytest.mark.parametrize("drop", [0, 1, 2, 3, 4, 5])
def test_a_missing_fragment_never_gives_a_picture(build: Build, frames: list[bytes], drop: int) -> None:
    parts = halves(frames)
    del parts[drop]
    instance = build(parts, JPEG_LS, **SHAPE)
    with pytest.raises(ExportError):
        list(open_frames(instance, instance.limits).stored())


def test_a_delimiter_inside_a_fragment_ends_nothing(build: Build) -> None:
    raw = b"\xfe\xff\xdd\xe0\0\0\0\0" * 48
    instance = build([raw], "1.2.840.10008.1.2.1.98", Rows=16, Columns=12)
    frame = next(iter(open_frames(instance, instance.limits).stored()))
    assert frame.tobytes() == raw[:384]


def test_too_many_fragments_are_refused(build: Build) -> None:
    instance = build([b""] * 1001, RLE, Rows=16, Columns=12)
    with pytest.raises(TooLarge):
        open_frames(instance, LimitSettings(max_elements=1000))


def test_a_value_without_items_is_refused(build: Build) -> None:
    for value in (b"abcdefgh" * 10, b"\xfe\xff\xdd\xe0\0\0\0\0", fragments([])):
        instance = build(value, RLE, undefined=True, Rows=16, Columns=12)
        with pytest.raises(CorruptPixels):
            open_frames(instance, instance.limits)


class TestVideo:
    def test_the_fragments_of_a_video_are_one_file(self, build: Build) -> None:
        payload = np.random.default_rng(1).bytes(100_000)
        parts = [payload[:2], payload[2:2], payload[2:70_002], payload[70_002:]]
        instance = build(parts, H264, Rows=16, Columns=12, NumberOfFrames=9)
        frames = open_frames(instance, instance.limits)
        assert frames.is_video_stream
        with frames.open_stream() as file:
            assert file.read() == payload
            for offset in (0, 1, 2, 69_999, 70_001, 99_999):
                file.seek(offset)
                assert file.read(7) == payload[offset : offset + 7]
            assert file.seek(-5, 2) == len(payload) - 5
            assert file.read(100) == payload[-5:]
            file.seek(len(payload) + 10)
            assert file.read(1) == b""

    def test_a_cut_video_is_refused(self, build: Build) -> None:
        raw = fragments([bytes(1000)], delimiter=False)[:-10]
        instance = build(raw, H264, undefined=True, Rows=16, Columns=12)
        with pytest.raises(CorruptPixels):
            open_frames(instance, instance.limits).open_stream()

    def test_positions_before_the_beginning_do_not_exist(self, build: Build) -> None:
        instance = build([bytes(10)], H264, Rows=16, Columns=12)
        with pytest.raises(ValueError, match="before"):
            JoinedSpans(instance.data, ()).seek(-1)
