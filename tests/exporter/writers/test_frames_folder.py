"""Multi-frame instances as folders of images with their times."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest

from exporter.dicom.instance import Instance
from exporter.errors import EncodeFailed, OutOfSpace, Reason
from exporter.outcome import Exported, Failed, MediaType
from exporter.settings.settings import MediaSettings
from exporter.work import pipeline, protocol
from exporter.work.protocol import WorkerJob
from exporter.writers import choose
from tests.exporter.writers.media import waves

if TYPE_CHECKING:
    from collections.abc import Callable

JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"


def frames_settings(**image: Any) -> MediaSettings:
    return MediaSettings.model_validate({"frames": {"enabled": True}, "image": image})


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def test_every_frame_is_a_numbered_image_with_its_time(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    frames = np.stack(list(waves(12, 50, 61, gray=False)))
    vector = [str(30 + 5 * (i % 3)) for i in range(12)]
    result, folder = export(make_instance(frames, FrameTimeVector=vector), frames_settings())
    (medium,) = result.media
    assert (medium.kind, medium.suffix, medium.frames) == (MediaType.FRAMES, ".frames/", 12)
    assert (medium.width, medium.height) == (61, 50)
    written = folder / medium.file
    lines = lines_of(written)
    assert [line["frame"] for line in lines] == list(range(1, 13))
    starts = np.cumsum([0, *(float(v) for v in vector[1:])])
    assert [line["time_ms"] for line in lines] == pytest.approx(list(starts))
    assert sum(line["duration_ms"] for line in lines) == pytest.approx(sum(float(v) for v in vector))
    for line, frame in zip(lines, frames, strict=True):
        np.testing.assert_array_equal(imagecodecs.png_decode((written / line["file"]).read_bytes()), frame)
    names = sorted(path.name for path in written.iterdir())
    assert names == [*(f"frame-{n:05d}.png" for n in range(1, 13)), "frames.jsonl"]


def test_both_outputs_stand_side_by_side_with_their_meaning(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    stored = np.random.default_rng(0).integers(-2000, 3000, (3, 40, 50), dtype=np.int16)
    path = make_instance(
        stored, RescaleSlope="0.5", RescaleIntercept="-1024", Modality="CT", WindowCenter="0", WindowWidth="400"
    )
    result, folder = export(path, frames_settings(outputs=["view8", "raw16"]))
    written = folder / result.media[0].file
    for line, frame in zip(lines_of(written), stored, strict=True):
        assert imagecodecs.png_decode((written / line["file"]).read_bytes()).dtype == np.uint8
        raw = imagecodecs.png_decode((written / line["raw"]).read_bytes())
        np.testing.assert_array_equal(raw.astype(int) + line["offset"], frame)
        assert (line["slope"], line["intercept"], line["linear"]) == (0.5, -1024.0, True)


def test_raw_alone_and_other_formats(make_instance: Callable[..., Path], export: Callable[..., Any]) -> None:
    path = make_instance(np.stack(list(waves(3, 40, 50, gray=True))))
    result, folder = export(path, frames_settings(outputs=["raw16"]))
    names = {p.name for p in (folder / result.media[0].file).iterdir()}
    assert names == {"frame-00001.raw.png", "frame-00002.raw.png", "frame-00003.raw.png", "frames.jsonl"}
    assert (result.media[0].width, result.media[0].height) == (50, 40)
    result, folder = export(path, frames_settings(extension=".jpg"))
    assert (folder / result.media[0].file / "frame-00001.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_jpeg_frames_are_copied_bit_by_bit_where_wanted(corpus: Path, export: Callable[..., Any]) -> None:
    path = corpus / "suyashkumar__dicom" / "I_000003.dcm"
    result, folder = export(path, frames_settings(copy_jpeg=True))
    medium = result.media[0]
    assert (medium.transcoded, medium.codec) == (False, "jpeg")
    files = sorted((folder / medium.file).glob("*.jpg"))
    assert len(files) == medium.frames == 17
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    dataset = dcmread(path)
    for file, encoded in zip(files, generate_frames(dataset.PixelData, number_of_frames=17), strict=True):
        scan = file.read_bytes()[file.read_bytes().index(b"\xff\xda") : -2]
        assert scan in encoded


def test_a_video_stream_becomes_frames_too(corpus: Path, export: Callable[..., Any]) -> None:
    result, folder = export(corpus / "synthetic-video" / "us_cine_hevc_main.107.dcm", frames_settings())
    medium = result.media[0]
    assert (medium.frames, medium.width, medium.height) == (27, 800, 600)
    lines = lines_of(folder / medium.file)
    assert lines[-1]["time_ms"] == pytest.approx(26 * 33.3333, abs=0.01)


def test_single_frames_stay_images_and_frames_are_off_by_default(make_instance: Callable[..., Path]) -> None:
    still = make_instance(next(iter(waves(1, 30, 30, gray=True))))
    cine = make_instance(np.stack(list(waves(3, 30, 30, gray=True))))
    for path, settings, kind in (
        (still, frames_settings(), MediaType.IMAGE),
        (cine, frames_settings(), MediaType.FRAMES),
        (cine, MediaSettings(), MediaType.VIDEO),
    ):
        with Instance.open(path, settings.limits) as instance:
            assert choose(instance, settings).kind is kind


def jpegs(*sizes: tuple[int, int]) -> tuple[list[np.ndarray], list[bytes]]:
    """Gray frames of these (rows, columns), and their lossless JPEGs."""
    frames = [np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8) for i, size in enumerate(sizes)]
    encoded = [imagecodecs.ljpeg_encode(frame, bitspersample=8) for frame in frames]
    return frames, [code + b"\0" * (len(code) % 2) for code in encoded]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"frames": {"enabled": True}},
        {"video": {"preset": "lossless"}},
        {"video": {"copy_jpeg": True}, "image": {"copy_jpeg": True}},
        {"image": {"outputs": ["raw16", "view8"]}},
    ],
    ids=str,
)
def test_where_later_frames_have_other_sizes_those_that_fit_become_a_folder(
    make_instance: Callable[..., Path], tmp_path: Path, settings: dict[str, Any]
) -> None:
    frames, encoded = jpegs((24, 32), (24, 32), (12, 32), (12, 16), (24, 32), (24, 33))
    path = make_instance(
        encoded=encoded,
        syntax=JPEG_LOSSLESS,
        rows=24,
        columns=32,
        frames=6,
        FrameTime="40",
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        RescaleSlope="1",
        RescaleIntercept="0",
    )
    folder = tmp_path / "out"
    folder.mkdir()
    whole = MediaSettings.model_validate(settings)
    outcome = protocol.run(pipeline.export(whole, "s" * 64, WorkerJob(str(path), str(folder))), lambda _: None)
    assert isinstance(outcome, Exported), outcome
    (medium,) = outcome.media
    assert (medium.kind, medium.frames, medium.width, medium.height) == (MediaType.FRAMES, 3, 32, 24)
    assert [entry.name for entry in folder.iterdir()] == [medium.file]
    lines = lines_of(folder / medium.file)
    assert [(line["frame"], line["time_ms"]) for line in lines] == [(1, 0), (2, 40), (5, 160)]
    for line in lines:
        shown = imagecodecs.png_decode((folder / medium.file / line["file"]).read_bytes())
        np.testing.assert_array_equal(shown, frames[line["frame"] - 1])
        if "raw" in line:
            raw = imagecodecs.png_decode((folder / medium.file / line["raw"]).read_bytes())
            np.testing.assert_array_equal(raw, frames[line["frame"] - 1])
    assert any(warning.startswith("of 6 frames") and warning.endswith(": 3-4, 6") for warning in outcome.warnings)


def test_where_no_frame_has_the_size_of_the_header_the_geometry_is_bad(
    make_instance: Callable[..., Path], tmp_path: Path
) -> None:
    _, encoded = jpegs((24, 32), (24, 32))
    gray = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    path = make_instance(encoded=encoded, syntax=JPEG_LOSSLESS, rows=48, columns=32, frames=2, **gray)
    folder = tmp_path / "out"
    folder.mkdir()
    outcome = protocol.run(
        pipeline.export(MediaSettings(), "s" * 64, WorkerJob(str(path), str(folder))), lambda _: None
    )
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.BAD_GEOMETRY


@pytest.mark.parametrize("outputs", [["view8"], ["view8", "raw16"]])
def test_every_file_of_the_folder_and_then_the_folder_is_durable(
    make_instance: Callable[..., Path],
    export: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    outputs: list[str],
) -> None:
    stored = np.random.default_rng(0).integers(0, 999, (70, 16, 16), dtype=np.uint16)  # more than one batch
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    before = len(list(Path("/proc/self/fd").iterdir()))
    result, folder = export(make_instance(stored, FrameTime="40"), frames_settings(outputs=outputs))
    written = folder / result.media[0].file
    assert sorted(synced) == sorted(map(str, (written, *written.iterdir())))
    assert synced[-1] == str(written)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(("number", "verdict"), [(errno.EIO, EncodeFailed), (errno.ENOSPC, OutOfSpace)])
def test_a_folder_whose_frame_does_not_become_durable_is_no_medium(
    make_instance: Callable[..., Path],
    export: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    verdict: type[Exception],
) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name == "frame-00003.png":
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    frames = np.stack(list(waves(5, 16, 16, gray=True)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(verdict):
        export(make_instance(frames, FrameTime="40"), frames_settings())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
