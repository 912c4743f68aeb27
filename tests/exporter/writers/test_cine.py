"""What becomes of several frames: cines are videos, sets of pictures are folders, labels and maps keep their values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from exporter.dicom.instance import Instance
from exporter.outcome import MediaType
from exporter.settings.settings import MediaSettings
from exporter.writers import choose
from exporter.writers.pictures.cine import is_cine
from tests.exporter.writers.media import waves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

_STORAGE = "1.2.840.10008.5.1.4.1.1."
ULTRASOUND = _STORAGE + "3.1"
SLIDE = _STORAGE + "77.1.6"
SEGMENTATION = _STORAGE + "66.4"
LABEL_MAP = _STORAGE + "66.7"
PARAMETRIC_MAP = _STORAGE + "30"
SECONDARY_CAPTURE = _STORAGE + "7.4"
NUCLEAR_MEDICINE = _STORAGE + "20"
TOMOSYNTHESIS = _STORAGE + "13.1.3"
ANGIOGRAPHY = _STORAGE + "12.1"
LABELS = 21
FRAME_TIME, PAGE_VECTOR, DETECTOR_VECTOR = 0x00181063, 0x00182001, 0x00540020


def labels(frames: int = 3, rows: int = 24, columns: int = 31) -> NDArray[np.uint8]:
    """Labels 0 to 20 in blocks, as a segmentation has them."""
    blocks = np.random.default_rng(4).integers(0, LABELS, (frames, rows // 4, columns // 4 + 1), dtype=np.uint8)
    return blocks.repeat(4, axis=1).repeat(4, axis=2)[:, :rows, :columns].copy()


def palette() -> NDArray[np.uint8]:
    """21 colours far from each other."""
    return np.random.default_rng(5).integers(0, 256, (LABELS, 3), dtype=np.uint8)


def palette_elements(colours: NDArray[np.uint8]) -> dict[str, Any]:
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [len(colours), 0, 16]
        entries = (colours[:, channel].astype("<u2") * 257).tobytes()
        elements[f"{name}PaletteColorLookupTableData"] = entries
    return elements


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def kind_of(path: Path, **settings: Any) -> MediaType:
    chosen = MediaSettings.model_validate(settings)
    with Instance.open(path, chosen.limits) as instance:
        return choose(instance, chosen).kind


@pytest.mark.parametrize(
    ("sop_class", "modality", "elements", "cine"),
    [
        (ULTRASOUND, "US", {"FrameTime": "40"}, True),
        (ULTRASOUND, "US", {}, True),
        (ULTRASOUND, "US", {"FrameIncrementPointer": FRAME_TIME}, True),
        (ANGIOGRAPHY, "XA", {}, True),
        (_STORAGE + "77.1.1.1", "ES", {}, True),
        (SECONDARY_CAPTURE, "US", {}, True),
        (SECONDARY_CAPTURE, "OT", {"FrameIncrementPointer": FRAME_TIME, "FrameTime": "40"}, True),
        (SECONDARY_CAPTURE, "OT", {"FrameIncrementPointer": FRAME_TIME}, True),
        (SECONDARY_CAPTURE, "OT", {"RecommendedDisplayFrameRate": 15}, True),
        (SECONDARY_CAPTURE, "OT", {"CineRate": "15"}, True),
        ("1.2.3.4", "OT", {"FrameTimeVector": ["0", "40", "50"]}, True),
        (SECONDARY_CAPTURE, "OT", {}, False),
        ("1.2.3.4", "", {}, False),
        (SECONDARY_CAPTURE, "US", {"FrameIncrementPointer": PAGE_VECTOR, "PageNumberVector": [1, 2, 3]}, False),
        (NUCLEAR_MEDICINE, "NM", {"FrameIncrementPointer": DETECTOR_VECTOR, "DetectorVector": [1, 2, 3]}, False),
        (NUCLEAR_MEDICINE, "NM", {"ActualFrameDuration": "60000"}, False),
        (SLIDE, "SM", {"CineRate": "15"}, False),
        (SECONDARY_CAPTURE, "SM", {"TotalPixelMatrixColumns": 90, "CineRate": "15"}, False),
        (SEGMENTATION, "SEG", {"FrameTime": "40"}, False),
        (LABEL_MAP, "SEG", {"FrameTime": "40"}, False),
        (PARAMETRIC_MAP, "OT", {"FrameTime": "40"}, False),
    ],
)
def test_frames_are_a_video_where_they_follow_each_other_in_time(
    make_instance: Callable[..., Path], sop_class: str, modality: str, elements: dict[str, Any], cine: bool
) -> None:
    path = make_instance(labels(), SOPClassUID=sop_class, Modality=modality, **elements)
    with Instance.open(path, MediaSettings().limits) as instance:
        assert is_cine(instance) == cine
    assert kind_of(path) is (MediaType.VIDEO if cine else MediaType.FRAMES)
    assert kind_of(path, video={"untimed": "video"}) is MediaType.VIDEO
    assert kind_of(path, frames={"enabled": True}) is MediaType.FRAMES


@pytest.mark.parametrize(("sop_class", "modality"), [(SLIDE, "SM"), (SEGMENTATION, "SEG"), (LABEL_MAP, "SEG")])
def test_a_label_map_in_palette_colours_keeps_each_colour_and_its_labels_on_request(
    make_instance: Callable[..., Path], export: Callable[..., Any], sop_class: str, modality: str
) -> None:
    stored, colours = labels(), palette()
    path = make_instance(stored, SOPClassUID=sop_class, Modality=modality, **palette_elements(colours))
    settings = MediaSettings.model_validate({"image": {"outputs": ["view8", "raw16"]}})
    result, folder = export(path, settings)
    (medium,) = result.media
    assert (medium.kind, medium.frames, medium.duration_s, result.timing) == (MediaType.FRAMES, 3, None, None)
    assert not result.warnings
    for line, frame in zip(lines_of(folder / medium.file), stored, strict=True):
        shown = imagecodecs.png_decode((folder / medium.file / line["file"]).read_bytes())
        np.testing.assert_array_equal(shown, colours[frame])
        raw = imagecodecs.png_decode((folder / medium.file / line["raw"]).read_bytes())
        np.testing.assert_array_equal(raw, frame)
        assert (line["offset"], line["slope"], line["intercept"]) == (0, 1.0, 0.0)


def test_a_single_palette_picture_has_its_numbers_as_raw_values(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    stored, colours = labels(1)[0], palette()
    path = make_instance(stored, RescaleSlope="2", **palette_elements(colours))
    result, folder = export(path, MediaSettings.model_validate({"image": {"outputs": ["view8", "raw16"]}}))
    view, raw = result.media
    np.testing.assert_array_equal(imagecodecs.png_decode((folder / view.file).read_bytes()), colours[stored])
    np.testing.assert_array_equal(imagecodecs.png_decode((folder / raw.file).read_bytes()), stored)
    assert (raw.values.slope, raw.values.intercept) == (1.0, 0.0)  # a palette's numbers are no measure
    assert not result.warnings


def test_a_cine_in_palette_colours_is_a_video_that_keeps_each_colour(
    make_instance: Callable[..., Path], export: Callable[..., Any], ffmpeg_frames: Callable[..., NDArray[np.uint8]]
) -> None:
    stored, colours = labels(5), palette()
    path = make_instance(stored, FrameTime="40", **palette_elements(colours))
    result, folder = export(path)
    (medium,) = result.media
    assert (medium.kind, medium.suffix, result.timing.source) == (MediaType.VIDEO, ".mp4", "FrameTime")
    np.testing.assert_array_equal(ffmpeg_frames(folder / medium.file, *stored.shape[1:]), colours[stored])
    assert not result.warnings


@pytest.mark.parametrize(
    ("settings", "elements"),
    [
        ({"video": {"save_method_kwargs": {"encoding_args": {"options": {"crf": "20"}}}}}, {"FrameTime": "40"}),
        ({"video": {"preset": "small"}}, {"FrameTime": "40"}),
        ({"image": {"extension": ".jpg"}, "frames": {"enabled": True}}, {"FrameTime": "40"}),
        ({"image": {"extension": ".jpg"}}, {"SOPClassUID": SLIDE}),
        ({"image": {"extension": ".jpg"}}, {"NumberOfFrames": 1}),
    ],
)
def test_lossy_pictures_of_labels_are_written_where_asked_for_and_said(
    make_instance: Callable[..., Path], export: Callable[..., Any], settings: dict[str, Any], elements: dict[str, Any]
) -> None:
    stored = labels(4, 80, 96)
    if "NumberOfFrames" in elements:
        stored, elements = stored[0], {}
    floors = {"image": {"psnr_floor_db": 1}, "video": {"psnr_floor_db": 1}}
    merged = {name: {**floors.get(name, {}), **settings.get(name, {})} for name in {*floors, *settings}}
    path = make_instance(stored, **palette_elements(palette()), **elements)
    result, _ = export(path, MediaSettings.model_validate(merged))
    assert any("lossy" in warning for warning in result.warnings)
    gray = make_instance(stored, **elements)
    assert not any("lossy" in warning for warning in export(gray, MediaSettings.model_validate(merged))[0].warnings)


def test_a_set_of_pictures_has_no_times_and_says_so(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    path = make_instance(np.stack(list(waves(3, 24, 30, gray=False))), SOPClassUID=SLIDE, Modality="SM")
    result, folder = export(path)
    lines = lines_of(folder / result.media[0].file)
    assert [(line["time_ms"], line["duration_ms"]) for line in lines] == [(None, None)] * 3
    assert any("set of pictures" in note for note in result.rendering.notes)


def test_the_default_rate_of_a_cine_is_told_in_the_warnings(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    path = make_instance(np.stack(list(waves(3, 24, 30, gray=True))))
    for settings in ({}, {"frames": {"enabled": True}}):
        result, _ = export(path, MediaSettings.model_validate(settings))
        assert result.timing.source == "default"
        assert any("default_rate_hz" in warning for warning in result.warnings)


def groups(count: int) -> dict[str, Any]:
    """Functional groups of a stack of planes, a millimetre apart."""
    per_frame = []
    for index in range(count):
        position, item = Dataset(), Dataset()
        position.ImagePositionPatient = ["0", "0", str(index)]
        item.PlanePositionSequence = Sequence([position])
        per_frame.append(item)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    measures.PixelSpacing = ["0.5", "0.5"]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    return {
        "PerFrameFunctionalGroupsSequence": Sequence(per_frame),
        "SharedFunctionalGroupsSequence": Sequence([shared]),
    }


def test_still_frames_with_the_planes_of_a_volume_are_one_whatever_their_class(
    make_instance: Callable[..., Path],
) -> None:
    stored = labels(4)
    path = make_instance(stored, SOPClassUID=TOMOSYNTHESIS, Modality="MG", **groups(4))
    assert kind_of(path) is MediaType.VOLUME
    assert kind_of(path, volume={"enabled": False}) is MediaType.FRAMES
    assert kind_of(make_instance(stored, SOPClassUID=ULTRASOUND, FrameTime="40", **groups(4))) is MediaType.VIDEO
    assert kind_of(make_instance(stored, SOPClassUID=SECONDARY_CAPTURE, Modality="OT")) is MediaType.FRAMES
