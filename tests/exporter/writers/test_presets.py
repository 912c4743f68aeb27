"""Named presets: what they promise is in the file."""

from __future__ import annotations

import io
import subprocess
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from pydicom.uid import MPEG4HP41

from exporter.writers.video_parts.verify import psnr
from tests.exporter.writers.media import encoding, video_settings, waves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("preset", "extension", "codec"), [("lossless", ".mkv", "ffv1"), ("lossless-h264", ".mp4", "h264")]
)
@pytest.mark.parametrize("gray", [False, True])
def test_lossless_presets_give_back_every_pixel_through_another_decoder(  # fixtures and parameters
    make_instance: Callable[..., Path],
    export: Callable[..., Any],
    probe: Callable[..., Any],
    peer: Callable[[str], str],
    preset: str,
    extension: str,
    codec: str,
    gray: bool,
) -> None:
    frames = np.stack(list(waves(7, 65, 97, gray=gray)))
    frames[3] = np.random.default_rng(0).integers(0, 255, frames[3].shape, dtype=np.uint8)
    result, folder = export(
        make_instance(frames, FrameTimeVector=[str(30 + i) for i in range(7)]), video_settings(preset=preset)
    )
    medium = result.media[0]
    assert (medium.suffix, medium.width, medium.height) == (extension, 97, 65)
    assert "decoded back: every pixel equal" in result.rendering.notes
    assert probe(folder / medium.file)["streams"][0]["codec_name"] == codec
    form = "gray" if gray else "rgb24"
    command = [peer("ffmpeg"), "-v", "error", "-i", str(folder / medium.file), "-vsync", "passthrough"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", form, "-"], capture_output=True, check=True).stdout
    np.testing.assert_array_equal(np.frombuffer(raw, np.uint8).reshape(frames.shape), frames)


def test_gray_presets_have_true_gray_streams(
    make_instance: Callable[..., Path], export: Callable[..., Any], probe: Callable[..., Any]
) -> None:
    path = make_instance(np.stack(list(waves(3, 64, 64, gray=True))))
    result, folder = export(path, video_settings(preset="lossless"))
    assert probe(folder / result.media[0].file)["streams"][0]["pix_fmt"] == "gray"


def test_small_is_smaller_than_the_default_and_falls_back_below_64_pixels(
    make_instance: Callable[..., Path], export: Callable[..., Any], probe: Callable[..., Any]
) -> None:
    frames = np.stack(list(waves(20, 240, 320, gray=False)))
    noise = np.random.default_rng(0).integers(0, 12, frames.shape, dtype=np.uint8)
    path = make_instance(np.clip(frames.astype(int) + noise, 0, 255).astype(np.uint8))
    small, folder = export(path, video_settings(preset="small"))
    assert probe(folder / small.media[0].file)["streams"][0]["codec_name"] == "av1"
    assert small.media[0].bytes * 1.5 < export(path)[0].media[0].bytes
    tiny, folder = export(make_instance(np.stack(list(waves(3, 40, 50, gray=False)))), video_settings(preset="small"))
    assert probe(folder / tiny.media[0].file)["streams"][0]["codec_name"] == "h264"
    assert any("AV1 takes no picture below" in warning for warning in tiny.warnings)


def key_frames(path: Path) -> list[int]:
    """Places of the frames that need no other, and the number of frames."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert all(packet.pts == packet.dts for packet in packets)
    return [index for index, packet in enumerate(packets) if packet.is_keyframe] + [len(packets)]


def test_training_has_a_key_frame_every_8_frames_whatever_the_pictures_and_their_times(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    frames = np.stack(list(waves(20, 64, 80, gray=False)))
    frames[5:7] = 255 - frames[5:7]  # a cut would get a key frame of its own
    for times in ({"FrameTime": "40"}, {"FrameTimeVector": [str(30 + i) for i in range(20)]}):
        result, folder = export(make_instance(frames, **times), video_settings(preset="training"))
        assert result.media[0].suffix == ".mp4"
        assert key_frames(folder / result.media[0].file) == [0, 8, 16, 20]


def test_training_encodes_a_video_stream_anew_that_other_presets_copy(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="h264") as output:
        stream: Any = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 64, "yuv420p"
        for image in waves(20, 64, 80, gray=False):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
    path = make_instance(encoded=[buffer.getvalue()], syntax=MPEG4HP41, rows=64, columns=80, frames=20, FrameTime="40")
    copied, _ = export(path, video_settings(preset="fast"))
    assert copied.media[0].transcoded is False
    result, folder = export(path, video_settings(preset="training"))
    assert result.media[0].transcoded is not False
    assert key_frames(folder / result.media[0].file) == [0, 8, 16, 20]


def test_fast_is_as_near_to_the_frames_as_the_default_and_less_than_half_as_large_again(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(1)
    frames = np.stack([np.clip(i + rng.normal(0, 9, i.shape), 0, 255) for i in waves(12, 120, 160, gray=True)])
    path = make_instance(frames.astype(np.uint8))
    reached, sizes = [], []
    for preset in ("default", "fast"):
        result, folder = export(path, video_settings(preset=preset))
        with av.open(str(folder / result.media[0].file)) as container:
            shown = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
        reached.append(psnr(frames.astype(np.uint8), shown))
        sizes.append(result.media[0].bytes)
    assert reached[1] > reached[0] - 0.3
    assert sizes[1] < 1.5 * sizes[0]


def test_keys_beside_a_preset_win_over_it(make_instance: Callable[..., Path], export: Callable[..., Any]) -> None:
    path = make_instance(np.stack(list(waves(3, 64, 64, gray=True))))
    result, _ = export(path, video_settings(preset="lossless", extension=".avi"))
    assert (result.media[0].suffix, result.media[0].codec) == (".avi", "ffv1")
    settings = video_settings(preset="lossless", save_method_kwargs=encoding("mjpeg", "yuvj420p"))
    assert export(path, settings)[0].media[0].codec == "mjpeg"
    settings = video_settings(preset="echonet-112", framing={"size": [64, 64]})
    assert export(path, settings)[0].media[0].width == 64


def test_a_preset_without_framing_still_copies_video_streams(corpus: Path, export: Callable[..., Any]) -> None:
    for preset, suffix in (("lossless", ".mkv"), ("small", ".mp4")):
        result, _ = export(corpus / "synthetic-video" / "us_cine_hevc_main.107.dcm", video_settings(preset=preset))
        assert (result.media[0].transcoded, result.media[0].suffix, result.media[0].codec) == (False, suffix, "hevc")
