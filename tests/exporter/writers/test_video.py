"""Multi-frame instances as video: every frame, its colours, its time, nothing else in the file."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.tag import Tag

from exporter.dicom.instance import Instance
from exporter.dicom.timing import schedule_of
from exporter.errors import CorruptPixels, EncodeFailed, VerifyFailed
from exporter.settings.settings import MediaSettings
from exporter.writers.video_parts.encoder import encode
from exporter.writers.video_parts.pixel_format import Converter
from exporter.writers.video_parts.verify import FrameFingerprints, check_video
from exporter.writers.video_parts.video_plan import EncodeJob, plan_of
from tests.exporter.writers.media import encoding, presentation_times, video_settings, waves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VECTOR = ["33.333", "50.000", "33.333", "41.7", "12.5", "250", "33.333", "33.333"]


def stack(frames: int, rows: int, columns: int, *, gray: bool) -> np.ndarray:
    return np.stack(list(waves(frames, rows, columns, gray=gray)))


@pytest.mark.parametrize(
    ("extension", "encoder", "pix_fmt", "options"),
    [
        (".mp4", "h264", "yuv420p", {"crf": "17"}),
        (".mp4", "h264", "yuv444p", {"crf": "17"}),
        (".mp4", "hevc", "yuv420p", {"crf": "20"}),
        (".mp4", "av1", "yuv420p", {"crf": "30", "preset": "9"}),
        (".mov", "h264", "yuv420p", {"crf": "17"}),
        (".mkv", "h264", "yuv420p", {"crf": "17"}),
        (".mkv", "ffv1", "bgr0", {}),
        (".webm", "vp9", "yuv420p", {"crf": "20"}),
        (".avi", "mjpeg", "yuvj420p", {}),
    ],
)
@pytest.mark.parametrize("gray", [False, True])
def test_every_container_and_encoder_keeps_frames_times_and_colours(
    make_instance: Callable[..., Path],
    export: Callable[..., Any],
    ffmpeg_frames: Callable[..., Any],
    probe: Callable[..., Any],
    extension: str,
    encoder: str,
    pix_fmt: str,
    options: dict[str, str],
    gray: bool,
) -> None:
    frames = stack(12, 64, 96, gray=gray)
    settings = video_settings(extension=extension, save_method_kwargs=encoding(encoder, pix_fmt, **options))
    result, folder = export(make_instance(frames, FrameTime="40"), settings)
    medium = result.media[0]
    assert (medium.suffix, medium.width, medium.height, medium.frames) == (extension, 96, 64, 12)
    assert medium.duration_s == pytest.approx(0.48)
    probed = probe(folder / medium.file)
    assert int(probed["streams"][0]["nb_read_frames"]) == 12
    assert presentation_times(probed) == pytest.approx([0.04 * i for i in range(12)], abs=0.001)
    assert float(probed["format"]["duration"]) == pytest.approx(0.48, abs=0.002)
    decoded = ffmpeg_frames(folder / medium.file, 64, 96).astype(int)
    expected = frames.astype(int) if not gray else np.repeat(frames[..., np.newaxis], 3, axis=-1).astype(int)
    off = np.abs(decoded.mean(axis=(1, 2)) - expected.mean(axis=(1, 2))).max()
    assert off < (0.01 if encoder == "ffv1" else 3.5)


def test_colours_come_back_through_a_decoder_that_honours_the_tags(
    make_instance: Callable[..., Path], export: Callable[..., Any], ffmpeg_frames: Callable[..., Any]
) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40), (128, 128, 128)]
    for rows, columns in ((64, 64), (720, 1280)):  # BT.601 and BT.709
        frames = np.stack([np.full((rows, columns, 3), colour, np.uint8) for colour in colours])
        result, folder = export(make_instance(frames))
        decoded = ffmpeg_frames(folder / result.media[0].file, rows, columns)
        for colour, image in zip(colours, decoded, strict=True):
            assert np.abs(image.reshape(-1, 3).mean(axis=0) - colour).max() <= 2.0, (rows, colour)


def test_variable_times_are_the_elements_within_a_millisecond(
    make_instance: Callable[..., Path], export: Callable[..., Any], probe: Callable[..., Any]
) -> None:
    frames = stack(8, 48, 64, gray=False)
    path = make_instance(frames, FrameTimeVector=VECTOR, FrameIncrementPointer=Tag("FrameTimeVector"))
    expected = np.cumsum([0.0, *(float(v) for v in VECTOR[1:])]) / 1000
    total = sum(float(v) for v in VECTOR) / 1000
    for extension in (".mp4", ".mkv", ".mov"):
        result, folder = export(path, video_settings(extension=extension))
        assert result.timing.variable
        assert result.timing.source == "FrameTimeVector"
        assert result.media[0].duration_s == pytest.approx(total)
        probed = probe(folder / result.media[0].file)
        assert presentation_times(probed) == pytest.approx(list(expected), abs=0.0006)
        assert float(probed["format"]["duration"]) == pytest.approx(total, abs=0.001)


@pytest.mark.parametrize("extension", [".mp4", ".mkv"])
@pytest.mark.parametrize("variable", [False, True])
def test_a_codec_with_few_ticks_per_second_has_the_times_within_a_millisecond(
    make_instance: Callable[..., Path],
    export: Callable[..., Any],
    probe: Callable[..., Any],
    extension: str,
    variable: bool,
) -> None:
    elements: dict[str, Any] = {"FrameTimeVector": VECTOR} if variable else {"FrameTime": "33.333"}
    settings = video_settings(extension=extension, save_method_kwargs=encoding("mpeg4"))
    result, folder = export(make_instance(stack(8, 48, 64, gray=False), **elements), settings)
    times = [0.0, *(float(v) for v in VECTOR[1:])] if variable else [0.0, *[33.333] * 7]
    probed = probe(folder / result.media[0].file)
    assert presentation_times(probed) == pytest.approx(list(np.cumsum(times) / 1000), abs=0.001)


@pytest.mark.parametrize(("rows", "columns"), [(1, 16386), (17000, 2)])
def test_a_picture_that_is_too_large_for_h264_is_refused_by_name(
    make_instance: Callable[..., Path], export: Callable[..., Any], rows: int, columns: int
) -> None:
    path = make_instance(np.zeros((2, rows, columns), np.uint8))
    with pytest.raises(EncodeFailed, match="above 16384 rows or columns"):
        export(path)
    export(path, video_settings(extension=".mkv", save_method_kwargs=encoding("ffv1", "yuv444p")))


@pytest.mark.parametrize("frame_time", ["1234567.891", "3599999.9999"])
def test_frames_that_are_many_minutes_apart_have_their_times(
    make_instance: Callable[..., Path], export: Callable[..., Any], probe: Callable[..., Any], frame_time: str
) -> None:
    result, folder = export(make_instance(stack(8, 48, 64, gray=False), FrameTime=frame_time))
    times = presentation_times(probe(folder / result.media[0].file))
    assert times == pytest.approx([number * float(frame_time) / 1000 for number in range(8)], abs=0.001)


def test_avi_refuses_variable_times_by_name(make_instance: Callable[..., Path], export: Callable[..., Any]) -> None:
    path = make_instance(stack(8, 48, 64, gray=True), FrameTimeVector=VECTOR)
    with pytest.raises(EncodeFailed, match="AVI holds no variable timing"):
        export(path, video_settings(extension=".avi"))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (65, 63), (64, 63), (65, 64), (9, 200)])
@pytest.mark.parametrize("gray", [False, True])
def test_odd_sizes_are_padded_by_repetition_never_cropped_and_said(
    make_instance: Callable[..., Path], export: Callable[..., Any], rows: int, columns: int, gray: bool
) -> None:
    result, _ = export(make_instance(stack(3, rows, columns, gray=gray)))
    medium = result.media[0]
    assert (medium.width, medium.height) == (columns + columns % 2, rows + rows % 2)
    assert any("padded to even size" in warning for warning in result.warnings)


def test_a_lossless_gray_stream_gives_back_every_pixel(
    make_instance: Callable[..., Path], export: Callable[..., Any], peer: Callable[[str], str]
) -> None:
    frames = stack(9, 65, 97, gray=True)
    settings = video_settings(save_method_kwargs=encoding("h264", "gray", qp="0"))
    result, folder = export(make_instance(frames, FrameTime="40"), settings)
    assert "decoded back: every pixel equal" in result.rendering.notes
    assert not result.warnings
    command = [peer("ffmpeg"), "-v", "error", "-i", str(folder / result.media[0].file), "-vsync", "passthrough"]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "gray", "-"], capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(done.stdout, np.uint8).reshape(frames.shape), frames)


def test_no_text_of_the_instance_no_date_and_no_title_is_in_the_file(
    make_instance: Callable[..., Path], export: Callable[..., Any], probe: Callable[..., Any]
) -> None:
    for extension in (".mp4", ".mkv", ".mov", ".avi"):
        result, folder = export(make_instance(stack(4, 48, 64, gray=True)), video_settings(extension=extension))
        file = folder / result.media[0].file
        assert b"Planted" not in file.read_bytes()
        probed = probe(file)
        tags = {**probed["format"].get("tags", {}), **probed["streams"][0].get("tags", {})}
        assert not {"creation_time", "title", "comment", "artist", "date"} & set(map(str.lower, tags))


def test_the_index_stands_before_the_pictures(make_instance: Callable[..., Path], export: Callable[..., Any]) -> None:
    result, folder = export(make_instance(stack(4, 48, 64, gray=True)))
    data = (folder / result.media[0].file).read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_the_same_frames_give_the_same_bytes_whatever_was_in_memory_before(tmp_path: Path) -> None:
    """x264's AVX-512 code reads uninitialised memory; odd sizes and half-filled macroblocks show it."""
    script = (
        "import sys, hashlib; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from fractions import Fraction\n"
        "from exporter.settings.settings import VideoSettings\n"
        "from exporter.dicom.timing import Schedule\n"
        "from exporter.writers.video_parts.encoder import encode\n"
        "from exporter.writers.video_parts.pixel_format import Converter\n"
        "from exporter.writers.video_parts.video_plan import EncodeJob, plan_of\n"
        "from exporter.writers.video_parts.verify import FrameFingerprints\n"
        "from tests.exporter.writers.media import waves\n"
        "plan = plan_of(VideoSettings(), gray=False)\n"
        "for rows, columns, gray in ((430, 480, False), (65, 97, True), (64, 96, True), (241, 321, False)):\n"
        "    path = Path(sys.argv[1]) / 'x'\n"
        "    path.unlink(missing_ok=True)\n"
        "    converter = Converter('yuv420p', rows, columns, gray=gray)\n"
        "    job = EncodeJob(path, plan, converter, Schedule('default', 12, Fraction(1, 30)))\n"
        "    encode(job, waves(12, rows, columns, gray=gray), FrameFingerprints(12, 1 << 20, exact=False))\n"
        "    print(hashlib.sha256(path.read_bytes()).hexdigest())\n"
    )
    root = str(__import__("pathlib").Path(__file__).parents[3])
    seen = set()
    for fill in ("0", "85", "255"):
        folder = tmp_path / fill
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder), root],
            env={**os.environ, "MALLOC_PERTURB_": fill},
            capture_output=True,
            check=True,
            text=True,
        )
        seen.add(done.stdout)
    assert len(seen) == 1


def job_for(path: Path, frames: np.ndarray, **settings: Any) -> tuple[EncodeJob, FrameFingerprints]:
    gray = frames.ndim == 3
    plan = plan_of(video_settings(**settings).video, gray=gray)
    converter = Converter(plan.pix_fmt, frames.shape[1], frames.shape[2], gray=gray)
    schedule = schedule_of(__import__("pydicom").Dataset(), len(frames))
    return EncodeJob(path, plan, converter, schedule), FrameFingerprints(
        len(frames), 1 << 16, exact=plan.exact(gray=gray)
    )


def test_verification_notices_other_pictures_other_colours_missing_frames_and_other_times(tmp_path: Path) -> None:
    frames = stack(6, 48, 64, gray=False)
    job, witness = job_for(tmp_path / "good", frames)
    encode(job, iter(frames), witness)
    check_video(job, witness)

    def against(others: np.ndarray, name: str, **settings: Any) -> None:
        """Encode `others`, and compare the file with what was seen of `frames`."""
        job, _ = job_for(tmp_path / name, others, **settings)
        encode(job, iter(others), FrameFingerprints(len(others), 1 << 16, exact=False))
        seen, remembered = job_for(tmp_path / f"{name}.seen", frames, **settings)
        encode(seen, iter(frames), remembered)
        check_video(EncodeJob(job.path, job.plan, job.converter, seen.schedule), remembered)

    with pytest.raises(VerifyFailed, match=r"another picture|reaches"):
        against(frames[::-1].copy(), "reversed")
    with pytest.raises(VerifyFailed, match=r"another picture|reaches|colours"):
        against(frames[..., ::-1].copy(), "bgr")
    with pytest.raises(VerifyFailed, match=r"5 of 6 frames|duration"):
        against(frames[:5], "short")


def test_verification_of_a_lossless_stream_notices_one_bit(tmp_path: Path) -> None:
    frames = stack(6, 48, 64, gray=False)
    job, _ = job_for(tmp_path / "one", frames, extension=".mkv", save_method_kwargs=encoding("ffv1", "bgr0"))
    changed = frames.copy()
    changed[3, 7, 9, 1] ^= 1
    encode(job, iter(changed), FrameFingerprints(6, 1 << 16, exact=True))
    remembered = FrameFingerprints(6, 1 << 16, exact=True)
    for index, image in enumerate(frames):
        remembered.add_frame(index, job.converter.convert(image), image)
    with pytest.raises(VerifyFailed, match="frame 4, decoded back, differs"):
        check_video(job, remembered)


def test_a_quality_below_the_floor_is_refused(make_instance: Callable[..., Path], export: Callable[..., Any]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (4, 64, 64), dtype=np.uint8)
    with pytest.raises(VerifyFailed, match="psnr_floor_db"):
        export(make_instance(noise), video_settings(save_method_kwargs=encoding("h264", "yuv420p", crf="51")))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"extension": ".xyz"}, "selects no container"),
        ({"save_method_kwargs": encoding("nosuch")}, "nosuch"),
        ({"save_method_kwargs": encoding("h264", "nosuch")}, "unknown"),
        ({"save_method_kwargs": encoding("h264", "yuv420p10le")}, "8 bits"),
        ({"save_method_kwargs": encoding("h264", "yuv420p", crf="high")}, "refused"),
        ({"save_method_kwargs": {"encoding_args": {"colour": "red"}}}, "cannot be set"),
        ({"extension": ".webm"}, "refused"),
    ],
)
def test_a_plan_that_is_impossible_is_refused_by_name(
    make_instance: Callable[..., Path], export: Callable[..., Any], video: dict[str, Any], message: str
) -> None:
    with pytest.raises(EncodeFailed, match=message):
        export(make_instance(stack(3, 32, 32, gray=True)), video_settings(**video))


def test_frames_that_change_size_or_number_are_refused(tmp_path: Path) -> None:
    frames = stack(3, 32, 32, gray=True)
    job, witness = job_for(tmp_path / "a", frames)
    with pytest.raises(EncodeFailed, match="a frame of shape"):
        encode(job, iter([frames[0], frames[1][:16]]), witness)
    for number, given in ((1, frames[:2]), (2, np.concatenate([frames, frames]))):
        job, witness = job_for(tmp_path / f"b{number}", frames)
        with pytest.raises(CorruptPixels, match="announced"):
            encode(job, iter(given), witness)


def test_pixels_that_are_not_square_keep_their_shape_on_screen(
    make_instance: Callable[..., Path], export: Callable[..., Any], probe: Callable[..., Any]
) -> None:
    result, folder = export(make_instance(stack(3, 48, 64, gray=True), PixelAspectRatio=[536, 670]))
    assert probe(folder / result.media[0].file)["streams"][0]["sample_aspect_ratio"] == "5:4"


def test_every_cine_of_the_corpus_has_the_times_of_its_elements(
    corpus: Path, corpus_catalog: list[dict[str, Any]], export: Callable[..., Any], probe: Callable[..., Any]
) -> None:
    checked = 0
    for row in corpus_catalog:
        if not (row.get("frame_time") or row.get("frame_time_vector") or "synthetic-video" in row["file"]):
            continue
        path = corpus / row["file"]
        with Instance.open(path, MediaSettings().limits) as instance:
            header = instance.header
            count = instance.pixels.frames if instance.pixels else 1
        if count < 2:
            continue
        if "FrameTimeVector" in header:
            expected = np.cumsum([0.0, *(float(v) for v in header.FrameTimeVector[1:])]) / 1000
        else:
            expected = np.arange(count) * float(header.FrameTime) / 1000
        result, folder = export(path)
        probed = probe(folder / result.media[0].file)
        assert presentation_times(probed) == pytest.approx(list(expected), abs=0.001), row["file"]
        assert int(probed["streams"][0]["nb_read_frames"]) == count
        assert float(probed["format"]["duration"]) == pytest.approx(result.media[0].duration_s, abs=0.002)
        checked += 1
    assert checked >= 10


def test_memory_does_not_grow_with_the_number_of_frames(tmp_path: Path) -> None:
    """In a process of its own, so that nobody else's memory counts."""
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from fractions import Fraction\n"
        "import numpy as np\n"
        "from exporter.dicom.timing import Schedule\n"
        "from exporter.writers.video_parts.encoder import encode\n"
        "from exporter.writers.video_parts.pixel_format import Converter\n"
        "from exporter.writers.video_parts.video_plan import EncodeJob, plan_of\n"
        "from exporter.writers.video_parts.verify import FrameFingerprints\n"
        "from tests.exporter.writers.media import encoding, video_settings\n"
        "settings = video_settings(save_method_kwargs=encoding('h264', crf='30', preset='ultrafast'))\n"
        "plan = plan_of(settings.video, gray=True)\n"
        "converter = Converter('yuv420p', 480, 640, gray=True)\n"
        "frames = [np.random.default_rng(i).integers(0, 9, (480, 640), dtype=np.uint8) for i in range(3)]\n"
        "resident = []\n"
        "def given():\n"
        "    for i in range(500):\n"
        "        if i in (120, 499):\n"
        "            resident.append(int(Path('/proc/self/statm').read_text().split()[1]) * 4096)\n"
        "        yield frames[i % 3]\n"
        "job = EncodeJob(Path(sys.argv[1]) / 'x', plan, converter, Schedule('default', 500, Fraction(1, 30)))\n"
        "encode(job, given(), FrameFingerprints(500, 480 * 640 * 3, exact=False))\n"
        "print((resident[1] - resident[0]) >> 20)\n"
    )
    root = str(__import__("pathlib").Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), root], capture_output=True, check=True, text=True
    )
    assert int(done.stdout) < 20, "380 frames of 0.45 MB went by"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may schedule in real time")
def test_no_encoder_makes_its_process_a_real_time_one(make_instance: Callable[..., Path], tmp_path: Path) -> None:
    """SVT-AV1 does, where it may, and leaves the process so: every program beside it would starve."""
    program = (
        "import os, sys; from exporter.settings.settings import MediaSettings;"
        "from exporter.work import pipeline, protocol; from exporter.work.protocol import WorkerJob;"
        "settings = MediaSettings.model_validate({'video': {'preset': 'small'}});"
        "steps = pipeline.export(settings, '0' * 64, WorkerJob(sys.argv[1], sys.argv[2]));"
        "outcome = protocol.run(steps, lambda _: None);"
        "print(outcome.media[0].codec, {os.sched_getscheduler(int(task)) for task in os.listdir('/proc/self/task')})"
    )
    path = make_instance(stack(12, 96, 96, gray=False), FrameTime="40")
    command = [sys.executable, "-c", program, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"libsvtav1 { {os.SCHED_OTHER} }\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may schedule in real time")
def test_no_encoder_that_is_only_tried_makes_its_process_a_real_time_one(tmp_path: Path) -> None:
    """Workers are started by the process that tries the encoders, and would inherit it."""
    program = (
        "import os, sys; from exporter.commands.app import main;"
        "print(main(['config', 'check', sys.argv[1]]));"
        "print({os.sched_getscheduler(int(task)) for task in os.listdir('/proc/self/task')})"
    )
    config = tmp_path / "exporter.yml"
    config.write_text("video:\n  preset: small\n")
    command = [sys.executable, "-c", program, str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", f"{ {os.SCHED_OTHER} }"]
