"""Cines are handed over frame by frame: the same frames at one rate, a map of each, and a task file."""

from __future__ import annotations

import csv
import json
import threading
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from exporter.commands.app import main
from exporter.inputs.backfill import BackfillRequest, Progress, backfill
from exporter.settings.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CINE_CLASS = "1.2.840.10008.5.1.4.1.1.7.2"
FRAMES, SIDE = 7, 32


def save_cine(path: Path, **elements: Any) -> None:
    """A gray cine of noise, of which no two frames are alike."""
    meta = FileMetaDataset()
    uid = f"1.2.3.{sum(path.name.encode())}"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CINE_CLASS, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = CINE_CLASS, uid
    made.StudyInstanceUID, made.SeriesInstanceUID, made.Modality = "1.2.1", "1.2.2", "OT"
    made.Rows = made.Columns = SIDE
    made.NumberOfFrames, made.SamplesPerPixel, made.PhotometricInterpretation = FRAMES, 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.PixelSpacing = [0.5, 0.25]
    made.PixelData = np.random.default_rng(len(path.name)).integers(0, 255, (FRAMES, SIDE, SIDE), "u1").tobytes()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    made.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a cine of constant rate, one of variable rate, one without times, and a still picture."""
    root = tmp_path_factory.mktemp("handover")
    (root / "in").mkdir()
    save_cine(root / "in" / "steady.dcm", FrameTime=40, FrameIncrementPointer=0x00181063)
    vector = [0, 10, 20, 40, 10, 30, 50]
    save_cine(root / "in" / "varying.dcm", FrameTimeVector=vector, FrameIncrementPointer=0x00181065)
    save_cine(root / "in" / "still.dcm", NumberOfFrames=1, PixelData=bytes(SIDE * SIDE))
    export(root / "in", root / "out")
    return root / "out"


def export(source: Path, target: Path, **sections: Any) -> None:
    settings = Settings.model_validate({"num_workers": 0, **sections})
    for _ in backfill(BackfillRequest(source, target, settings), Progress(), threading.Event()):
        pass


def frames_of(path: Path, form: str = "gray") -> tuple[list[float], NDArray[np.uint8]]:
    """Times in seconds and samples of every frame."""
    with av.open(str(path)) as container:
        found = [(float(frame.time or 0), frame.to_ndarray(format=form)) for frame in container.decode(video=0)]
    return [time for time, _ in found], np.stack([samples for _, samples in found])


def medium_of(out: Path, name: str) -> Path:
    (found,) = (out / "media").glob(f"{name}.m*")
    return found


@pytest.fixture(scope="module")
def label_studio(out: Path) -> Path:
    target = out.parent / "label studio"
    assert main(["handover", str(out), "--to", "label-studio", "--output", str(target)]) == 0
    return target


@pytest.mark.parametrize(("name", "rate"), [("steady", 25.0), ("varying", 1000 * 6 / 160)])
def test_frame_n_of_the_video_is_frame_n_of_the_medium_at_n_periods(
    out: Path, label_studio: Path, name: str, rate: float
) -> None:
    times, samples = frames_of(label_studio / "videos" / f"{name}.mp4")
    before, expected = frames_of(medium_of(out, name))
    assert len(before) == FRAMES
    assert np.array_equal(samples, expected)
    assert times == pytest.approx([number / rate for number in range(FRAMES)], abs=1e-5)


def test_the_map_says_the_frame_the_time_and_the_scale_of_the_instance(label_studio: Path) -> None:
    whole = json.loads((label_studio / "maps" / "varying.json").read_text())
    assert (whole["frames"], whole["variable"], whole["mm_per_pixel"]) == (FRAMES, True, [0.25, 0.5])
    with (label_studio / "maps" / "varying.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["time_ms"]) for row in rows] == [0, 10, 30, 70, 80, 110, 160]
    assert [int(row["dicom_frame"]) for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [float(row["video_time_ms"]) for row in rows] == pytest.approx(
        [160 / 6 * n for n in range(FRAMES)], abs=1e-3
    )
    assert {(row["mm_per_pixel_x"], row["mm_per_pixel_y"]) for row in rows} == {("0.25", "0.5")}


def test_label_studio_gets_tasks_with_the_names_of_its_configuration(label_studio: Path) -> None:
    tasks = json.loads((label_studio / "tasks.json").read_text())
    config = ET.fromstring((label_studio / "config.xml").read_text())  # noqa: S314 - written a moment ago
    video = config.find("Video")
    assert video is not None
    assert [task["data"]["video"] for task in tasks] == [
        "/data/local-files/?d=label studio/videos/steady.mp4",
        "/data/local-files/?d=label studio/videos/varying.mp4",
    ]
    for task in tasks:
        assert {video.attrib["value"][1:], video.attrib["frameRate"][1:]} <= task["data"].keys()
        assert (label_studio / task["data"]["frame_map"]).is_file()
    assert [task["data"]["fps"] for task in tasks] == pytest.approx([25.0, 37.5])


def test_cvat_gets_a_manifest_whose_key_frames_are_those_of_the_video(out: Path) -> None:
    target = out.parent / "cvat"
    assert main(["handover", str(out), "--to", "cvat", "--output", str(target), "--prefix", ""]) == 0
    tasks = json.loads((target / "tasks.json").read_text())
    assert [task["data"]["server_files"] for task in tasks] == [
        [f"videos/{name}.mp4", f"videos/{name}.manifest.jsonl"] for name in ("steady", "varying")
    ]
    lines = [json.loads(line) for line in (target / "videos" / "varying.manifest.jsonl").read_text().splitlines()]
    assert lines[:3] == [
        {"version": "1.1"},
        {"type": "video"},
        {"properties": {"name": "varying.mp4", "resolution": [SIDE, SIDE], "length": FRAMES}},
    ]
    with av.open(str(target / "videos" / "varying.mp4")) as container:
        keys = [(n, frame.pts) for n, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    assert [(line["number"], line["pts"]) for line in lines[3:]] == keys


def test_frames_without_loss_stay_without_loss(out: Path, tmp_path: Path) -> None:
    export(out.parent / "in", tmp_path / "out", video={"preset": "lossless"})
    assert main(["handover", str(tmp_path / "out"), "--to", "cvat"]) == 0
    _, samples = frames_of(tmp_path / "out-handover" / "videos" / "steady.mp4")
    assert np.array_equal(samples, frames_of(medium_of(tmp_path / "out", "steady"))[1])


def test_what_cannot_be_handed_over_is_said_and_the_rest_is(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(out.parent / "in", tmp_path / "out")
    medium_of(tmp_path / "out", "steady").unlink()
    assert main(["handover", str(tmp_path / "out"), "--to", "cvat"]) == 3
    said = capsys.readouterr().out
    assert "1 cines" in said
    assert "steady.mp4: the file is missing in the media folder" in said
    assert "image 1" in said
    medium_of(tmp_path / "out", "varying").write_bytes(b"no video")
    assert main(["handover", str(tmp_path / "out"), "--to", "cvat"]) == 3
    assert "varying.mp4: its frames cannot be read" in capsys.readouterr().out


def test_a_video_that_changes_its_size_is_refused(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(out.parent / "in", tmp_path / "out")
    with av.open(str(medium_of(tmp_path / "out", "steady")), "w", format="mpegts") as output:
        for side, start in ((32, 0), (64, 4)):
            stream: Any = av.CodecContext.create("libx264", "w")
            stream.width = stream.height = side
            stream.pix_fmt, stream.framerate = "yuv420p", 25
            if start == 0:
                target = output.add_stream("libx264", rate=25)
                target.width = target.height = side
                target.pix_fmt = "yuv420p"
            for number in range(4):
                frame = av.VideoFrame(side, side, "yuv420p")
                frame.pts = start + number
                for packet in stream.encode(frame):
                    packet.stream = target
                    output.mux(packet)
            for packet in stream.encode(None):
                packet.stream = target
                output.mux(packet)
    assert main(["handover", str(tmp_path / "out"), "--to", "cvat"]) == 3
    assert "steady.mp4: its frames change their colours or size" in capsys.readouterr().out


def test_a_folder_that_is_not_ours_is_left_alone(out: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("kept")
    assert main(["handover", str(out), "--to", "cvat", "--output", str(tmp_path / "mine")]) == 1
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes"]
