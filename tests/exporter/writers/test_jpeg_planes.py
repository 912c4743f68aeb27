"""JPEG cines encoded from their own luma and chroma: the same colours and the same verdicts as over RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import imagecodecs
import numpy as np
import pytest
from pydicom.pixels import pixel_array

from exporter.dicom.instance import Instance
from exporter.frames import open_frames
from exporter.settings.settings import LimitSettings
from exporter.writers.video_parts.jpeg_planes import stream_frames
from exporter.writers.video_parts.pixel_format import Converter, StreamFrame, planes_of
from exporter.writers.video_parts.verify import FrameFingerprints, psnr
from tests.exporter.writers.media import video_settings, waves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

BASELINE = "1.2.840.10008.1.2.4.50"


def jpegs(images: Sequence[np.ndarray], subsampling: str, colour: str = "YCBCR") -> list[bytes]:
    encoded = []
    for image in images:
        data = imagecodecs.jpeg8_encode(
            image, level=95, colorspace="RGB", outcolorspace=colour, subsampling=subsampling
        )
        encoded.append(bytes(data) + b"\0" * (len(data) % 2))
    return encoded


@pytest.fixture
def cine(make_instance: Callable[..., Path]) -> Callable[..., Path]:
    """A JPEG cine of given pictures."""

    def make(images: Sequence[np.ndarray], subsampling: str = "422", colour: str = "YCBCR", **elements: Any) -> Path:
        rows, columns = images[0].shape[:2]
        label = {"PhotometricInterpretation": "YBR_FULL_422"} | elements
        encoded = jpegs(images, subsampling, colour)
        return make_instance(encoded=encoded, syntax=BASELINE, rows=rows, columns=columns, frames=len(images), **label)

    return make


def ready(path: Path) -> tuple[list[StreamFrame], Converter, list[np.ndarray]]:
    """The frames of an instance as they go to the encoder, and their display values."""
    limits = LimitSettings()
    with Instance.open(path, limits) as instance:
        frames = open_frames(instance, limits)
        display = list(frames.display())
        converter = Converter("yuv420p", *display[0].shape[:2], gray=False)
        witness = FrameFingerprints(len(display), 1 << 16, exact=False)
        return list(stream_frames(frames, display[0], converter, witness)), converter, display


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
@pytest.mark.parametrize(("rows", "columns"), [(96, 128), (64, 1280)])
def test_colours_of_every_sampling_are_those_of_the_display_values(
    cine: Callable[..., Path], subsampling: str, rows: int, columns: int
) -> None:
    frames, converter, display = ready(cine(list(waves(12, rows, columns, gray=False)), subsampling))
    assert [frame.display is None for frame in frames].count(True) == 4  # the direct way, without display values
    for frame, image in zip(frames, display, strict=True):
        assert frame.picture.format.name == "yuv420p"
        assert psnr(image, converter.back(frame.picture)) > 43


def test_frames_that_the_direct_way_would_blur_take_the_way_over_rgb(cine: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    blocks = [
        np.kron(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(12)
    ]
    frames, converter, display = ready(cine(blocks, "420"))
    for frame, image in zip(frames, display, strict=True):
        expected = planes_of(converter.convert(image))
        assert all(np.array_equal(a, b) for a, b in zip(expected, planes_of(frame.picture), strict=True))


@pytest.mark.parametrize(("colour", "label"), [("RGB", "RGB"), ("RGB", "YBR_FULL_422"), ("YCBCR", "RGB")])
@pytest.mark.parametrize("rows", [64, 65])
def test_an_exported_cine_has_the_colours_that_its_codestream_proves(
    cine: Callable[..., Path], export: Callable[..., Any], colour: str, label: str, rows: int
) -> None:
    images = list(waves(10, rows, 96, gray=False))
    path = cine(images, "444", colour, PhotometricInterpretation=label)
    result, folder = export(path, video_settings())
    with av.open(str(folder / result.media[0].file)) as container:
        shown = [frame.to_ndarray(format="rgb24")[:rows] for frame in container.decode(video=0)]
    assert len(shown) == 10
    for image, seen in zip(images, shown, strict=True):
        assert psnr(image, seen) > 33  # subsampled chroma and the encoder


def test_key_frames_are_the_encoders_choice_not_the_jpegs(
    cine: Callable[..., Path], export: Callable[..., Any]
) -> None:
    result, folder = export(cine(list(waves(12, 96, 128, gray=False))), video_settings())
    with av.open(str(folder / result.media[0].file)) as container:
        assert [packet.is_keyframe for packet in container.demux(video=0) if packet.size].count(True) == 1


def test_display_values_agree_with_another_decoder(cine: Callable[..., Path]) -> None:
    path = cine(list(waves(9, 96, 128, gray=False)))
    frames, converter, _ = ready(path)
    for frame, image in zip(frames, pixel_array(path), strict=True):
        assert psnr(image, converter.back(frame.picture)) > 40
