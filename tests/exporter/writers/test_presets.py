"""Named presets: what they promise is in the file."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

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
