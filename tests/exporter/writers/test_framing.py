"""Crop, square, zoom, resize: what happens to pixels happens to their measures."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from exporter.dicom.ultrasound import UltrasoundRegion, regions_of
from exporter.outcome import Geometry
from exporter.settings.settings import MediaSettings
from exporter.writers.pictures.framing import moved_region
from tests.exporter.writers.media import video_settings, waves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

ANATOMY = {
    "RegionSpatialFormat": 1,
    "RegionDataType": 1,
    "RegionLocationMinX0": 40,
    "RegionLocationMinY0": 10,
    "RegionLocationMaxX1": 159,
    "RegionLocationMaxY1": 89,
    "ReferencePixelX0": 60,
    "ReferencePixelY0": -4,
    "ReferencePixelPhysicalValueX": 0.0,
    "ReferencePixelPhysicalValueY": 1.5,
    "PhysicalUnitsXDirection": 3,
    "PhysicalUnitsYDirection": 3,
    "PhysicalDeltaX": 0.02,
    "PhysicalDeltaY": 0.025,
}
DOPPLER = ANATOMY | {
    "RegionSpatialFormat": 3,
    "RegionDataType": 3,
    "RegionLocationMinX0": 0,
    "RegionLocationMinY0": 95,
    "RegionLocationMaxX1": 199,
    "RegionLocationMaxY1": 119,
    "PhysicalUnitsXDirection": 4,
    "PhysicalUnitsYDirection": 7,
    "PhysicalDeltaX": 0.005,
    "PhysicalDeltaY": -1.25,
}
ROWS, COLUMNS = 120, 200


def item(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def regions(*items: dict[str, Any]) -> Sequence:
    return Sequence([item(**values) for values in items])


def cine(*, gray: bool = False) -> NDArray[np.uint8]:
    return np.stack(list(waves(4, ROWS, COLUMNS, gray=gray)))


@pytest.fixture
def exported(make_instance: Callable[..., Path], export: Callable[..., Any]) -> Callable[..., Any]:
    """The medium of a cine with two regions, with the given framing."""

    def run(*, elements: dict[str, Any] | None = None, **framing: Any) -> Any:
        given = {"SequenceOfUltrasoundRegions": regions(ANATOMY, DOPPLER)} | (elements or {})
        result, folder = export(make_instance(cine(), **given), video_settings(framing=framing))
        return result, folder / result.media[0].file

    return run


def test_regions_are_told_even_where_nothing_moves(exported: Callable[..., Any]) -> None:
    result, _ = exported()
    geometry = result.media[0].geometry
    assert geometry.scale == (1.0, 1.0)
    assert [region.spatial_format for region in geometry.regions] == ["2D", "spectral"]
    first, second = geometry.regions
    assert first.box == (40, 10, 160, 90)
    assert first.units == ("cm", "cm")
    assert first.delta == (0.02, 0.025)
    assert first.reference == (100, 6)
    assert first.value == (0.0, 1.5)
    assert second.units == ("s", "cm/s")


def test_a_crop_to_the_anatomy_keeps_every_millimetre(exported: Callable[..., Any]) -> None:
    result, _ = exported(crop="anatomy")
    medium = result.media[0]
    assert (medium.width, medium.height) == (120, 80)
    (region,) = medium.geometry.regions
    assert region.box == (0, 0, 120, 80)
    assert region.reference == (60, -4)
    assert region.delta == (0.02, 0.025)
    assert any("framing: box (40, 10, 160, 90)" in note for note in result.rendering.notes)


def test_a_resize_changes_the_worth_of_a_pixel(exported: Callable[..., Any]) -> None:
    result, _ = exported(crop="anatomy", size=[60, 160])
    (region,) = result.media[0].geometry.regions
    assert region.box == (0, 0, 60, 160)
    assert region.delta == pytest.approx((0.04, 0.0125))
    # the reference pixel's centre is at 60.5 of 120 columns and -3.5 of 80 rows
    assert region.reference == pytest.approx((60.5 / 2 - 0.5, -3.5 * 2 - 0.5))


def test_padding_to_a_square_moves_and_never_stretches(exported: Callable[..., Any]) -> None:
    result, _ = exported(crop="anatomy", shape="square_pad")
    medium = result.media[0]
    assert (medium.width, medium.height) == (120, 120)
    (region,) = medium.geometry.regions
    assert region.box == (0, 20, 120, 100)
    assert region.delta == (0.02, 0.025)


def test_a_square_crop_says_which_region_is_cut(exported: Callable[..., Any]) -> None:
    result, _ = exported(crop="anatomy", shape="square_crop", zoom=0.1)
    medium = result.media[0]
    assert (medium.width, medium.height) == (64, 64)
    (region,) = medium.geometry.regions
    assert not region.whole
    assert region.box == (0, 0, 64, 64)


def test_a_crop_to_all_regions_keeps_them_all(exported: Callable[..., Any]) -> None:
    result, _ = exported(crop="regions")
    assert (result.media[0].width, result.media[0].height) == (200, 110)
    assert [region.whole for region in result.media[0].geometry.regions] == [True, True]


def test_without_a_region_nothing_is_cropped_and_the_record_says_so(exported: Callable[..., Any]) -> None:
    result, _ = exported(elements={"SequenceOfUltrasoundRegions": regions(DOPPLER)}, crop="anatomy")
    assert (result.media[0].width, result.media[0].height) == (200, 120)
    assert any("not cropped" in note for note in result.rendering.notes)


def test_pixels_become_square_by_growing(exported: Callable[..., Any]) -> None:
    result, _ = exported(elements={"PixelAspectRatio": [4, 3]}, pixels="square")
    assert (result.media[0].width, result.media[0].height) == (200, 160)
    assert result.media[0].geometry.scale == pytest.approx((1.0, 160 / 120))
    result, _ = exported(elements={"PixelAspectRatio": [536, 670]}, pixels="square")
    assert (result.media[0].width, result.media[0].height) == (250, 120)


def test_the_picture_is_the_region_and_stays_where_it_was(
    exported: Callable[..., Any], peer: Callable[..., str]
) -> None:
    """Edges, not centres, of both grids agree: a bright square is found where the geometry says."""
    result, file = exported(crop="anatomy", size=[240, 160])
    command = [
        peer("ffmpeg"),
        "-v",
        "error",
        "-i",
        str(file),
        "-frames:v",
        "1",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    decoded = np.frombuffer(raw, np.uint8).reshape(160, 240, 3).astype(int)
    doubled = np.kron(cine()[0][10:90, 40:160].astype(int), np.ones((2, 2, 1), int))
    assert np.abs(decoded - doubled).mean() < 4
    assert result.media[0].geometry.scale == (2.0, 2.0)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(0, 60), st.integers(0, 40)),
    st.tuples(st.integers(61, 200), st.integers(41, 120)),
    st.tuples(st.floats(0.1, 8), st.floats(0.1, 8)),
    st.tuples(st.floats(0, 50), st.floats(0, 50)),
    st.tuples(st.floats(0, 200), st.floats(0, 120)),
)
def test_a_point_has_the_same_physical_value_before_and_after(
    start: tuple[int, int],
    end: tuple[int, int],
    scale: tuple[float, float],
    offset: tuple[float, float],
    point: tuple[float, float],
) -> None:
    region = UltrasoundRegion(40, 10, 160, 90, 1, 1, 3, 3, 0.02, -0.5, 60, -4, 0.25, 1.5)
    geometry = Geometry(
        source=(COLUMNS, ROWS),
        box=(float(start[0]), float(start[1]), float(end[0]), float(end[1])),
        scale=scale,
        offset=offset,
    )
    moved = moved_region(region, geometry)
    if moved is None:
        return
    for axis, (reference, delta, value) in enumerate(((100, 0.02, 0.25), (6, -0.5, 1.5))):
        before = value + (point[axis] - (reference + 0.5)) * delta
        x = (point[axis] - geometry.box[axis]) * scale[axis] + offset[axis]
        found = moved.value[axis], moved.reference[axis], moved.delta[axis]
        assert None not in found
        after = moved.value[axis] + (x - (moved.reference[axis] + 0.5)) * moved.delta[axis]  # type: ignore[operator]  # just tested
        assert after == pytest.approx(before, abs=1e-9, rel=1e-9)


def test_real_regions_of_the_corpus_keep_their_measures(corpus: Path, export: Callable[..., Any]) -> None:
    path = corpus / "suyashkumar__dicom" / "I_000002.dcm"
    plain = export(path)[0].media[0].geometry
    framed = export(path, video_settings(framing={"crop": "anatomy", "size": [200, 200]}))[0].media[0].geometry
    source, moved = plain.regions[0], framed.regions[0]
    for axis in (0, 1):
        width_before = (source.box[axis + 2] - source.box[axis]) * source.delta[axis]
        width_after = (moved.box[axis + 2] - moved.box[axis]) * moved.delta[axis]
        assert width_after == pytest.approx(width_before)


@pytest.mark.parametrize(
    "broken",
    [
        {"RegionLocationMinX0": 500, "RegionLocationMaxX1": 600},
        {"RegionLocationMinX0": None},
        {"RegionLocationMaxY1": None},
    ],
)
def test_regions_that_make_no_sense_are_no_regions(broken: dict[str, Any]) -> None:
    values = {key: value for key, value in (ANATOMY | broken).items() if value is not None}
    assert regions_of(item(SequenceOfUltrasoundRegions=regions(values)), ROWS, COLUMNS) == ()


def test_a_region_that_is_turned_or_too_large_is_put_right() -> None:
    turned = ANATOMY | {"RegionLocationMinX0": 159, "RegionLocationMaxX1": 40}
    (found,) = regions_of(item(SequenceOfUltrasoundRegions=regions(turned)), ROWS, COLUMNS)
    assert (found.left, found.right) == (40, 160)
    large = ANATOMY | {"RegionLocationMaxX1": 5000}
    (found,) = regions_of(item(SequenceOfUltrasoundRegions=regions(large)), ROWS, COLUMNS)
    assert found.right == COLUMNS
    assert regions_of(Dataset(), ROWS, COLUMNS) == ()


def test_images_are_framed_like_videos(make_instance: Callable[..., Path], export: Callable[..., Any]) -> None:
    image = cine(gray=True)[0]
    path = make_instance(image, SequenceOfUltrasoundRegions=regions(ANATOMY))
    result, folder = export(path, MediaSettings.model_validate({"image": {"framing": {"crop": "anatomy"}}}))
    np.testing.assert_array_equal(
        imagecodecs.png_decode((folder / result.media[0].file).read_bytes()), image[10:90, 40:160]
    )
    assert result.media[0].geometry.regions[0].box == (0, 0, 120, 80)


@pytest.mark.parametrize(("preset", "side", "gray"), [("echonet-112", 112, True), ("echoprime-224", 224, False)])
def test_research_presets_give_the_input_of_their_models(
    make_instance: Callable[..., Path],
    export: Callable[..., Any],
    ffmpeg_frames: Callable[..., Any],
    preset: str,
    side: int,
    gray: bool,
) -> None:
    path = make_instance(cine(), SequenceOfUltrasoundRegions=regions(ANATOMY, DOPPLER), FrameTime="20")
    result, folder = export(path, video_settings(preset=preset))
    medium = result.media[0]
    assert (medium.width, medium.height, medium.frames, medium.suffix) == (side, side, 4, ".mp4")
    assert result.timing.rate_hz == 50
    frames = ffmpeg_frames(folder / medium.file, side, side).astype(int)
    assert (np.abs(frames[..., 0] - frames[..., 2]).max() <= 3) == gray


def test_a_preset_of_framing_encodes_a_video_stream_anew(corpus: Path, export: Callable[..., Any]) -> None:
    path = corpus / "synthetic-video" / "us_cine_h264_hp41.102.dcm"
    result, _ = export(path, video_settings(preset="echonet-112"))
    medium = result.media[0]
    assert (medium.width, medium.height, medium.frames, medium.transcoded) == (112, 112, 27, True)
    assert result.timing.source == "FrameTime"
