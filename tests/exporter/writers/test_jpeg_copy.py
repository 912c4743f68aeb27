"""JPEG baseline copied as it is: same scan, no text, and only where it shows what the instance means."""

from __future__ import annotations

import hashlib
import io
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exporter.dicom.timing import Schedule
from exporter.errors import CorruptPixels, VerifyFailed
from exporter.settings.settings import MediaSettings
from exporter.writers.video_parts.jpeg_copy import _check, bare_jpeg, shows, write_motion_jpeg
from tests.exporter.writers.media import presentation_times, video_settings, waves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BASELINE = "1.2.840.10008.1.2.4.50"
COPY = MediaSettings.model_validate({"image": {"copy_jpeg": True}, "video": {"copy_jpeg": True}})


def jpeg(image: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


def scan_of(data: bytes) -> bytes:
    return data[data.index(b"\xff\xda") : data.rindex(b"\xff\xd9")]


def picture(*, gray: bool = False) -> np.ndarray:
    return next(iter(waves(1, 64, 96, gray=gray)))


def with_text(data: bytes) -> bytes:
    comment = b"Planted^Token"
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


@pytest.mark.parametrize("gray", [False, True])
def test_an_image_is_copied_bit_by_bit_without_its_text(
    make_instance: Callable[..., Path], export: Callable[..., Any], gray: bool
) -> None:
    encoded = with_text(jpeg(picture(gray=gray)))
    elements = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"} if gray else {}
    photometric = {} if gray else {"PhotometricInterpretation": "YBR_FULL_422"}
    path = make_instance(
        encoded=[encoded + b"\0" * (len(encoded) % 2)], syntax=BASELINE, rows=64, columns=96, **elements, **photometric
    )
    result, folder = export(path, COPY)
    medium = result.media[0]
    written = (folder / medium.file).read_bytes()
    assert (medium.suffix, medium.codec, medium.transcoded) == (".jpg", "jpeg", False)
    assert scan_of(written) == scan_of(encoded)
    assert b"Planted" not in written
    assert Image.open(io.BytesIO(written)).size == (96, 64)


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": "60", "WindowWidth": "40"},
        {
            "RescaleSlope": "1",
            "RescaleIntercept": "0",
            "VOILUTFunction": "SIGMOID",
            "WindowCenter": "128",
            "WindowWidth": "90",
        },
    ],
)
def test_a_jpeg_that_does_not_show_the_display_values_is_encoded_anew(
    make_instance: Callable[..., Path], export: Callable[..., Any], elements: dict[str, str]
) -> None:
    encoded = jpeg(picture(gray=True))
    path = make_instance(
        encoded=[encoded + b"\0" * (len(encoded) % 2)], syntax=BASELINE, rows=64, columns=96,
        **({"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"} | elements),
    )  # fmt: skip
    result, _ = export(path, COPY)
    assert (result.media[0].suffix, result.media[0].transcoded) == (".png", True)


def test_it_is_off_by_default_and_framing_turns_it_off(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    encoded = jpeg(picture())
    path = make_instance(
        encoded=[encoded + b"\0" * (len(encoded) % 2)], syntax=BASELINE, rows=64, columns=96,
        PhotometricInterpretation="YBR_FULL_422",
    )  # fmt: skip
    assert export(path)[0].media[0].transcoded
    framed = MediaSettings.model_validate({"image": {"copy_jpeg": True, "framing": {"size": [48, 32]}}})
    assert export(path, framed)[0].media[0].transcoded


@pytest.mark.parametrize("extension", [".mp4", ".mov", ".mkv", ".avi"])
def test_a_cine_becomes_motion_jpeg_bit_by_bit_and_on_time(
    corpus: Path, export: Callable[..., Any], probe: Callable[..., Any], peer: Callable[..., str], extension: str
) -> None:
    import subprocess

    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    path = corpus / "suyashkumar__dicom" / "I_000005.dcm"
    result, folder = export(path, video_settings(copy_jpeg=True, extension=extension))
    medium = result.media[0]
    assert (medium.codec, medium.transcoded, medium.frames, medium.suffix) == ("mjpeg", False, 26, extension)
    probed = probe(folder / medium.file)
    assert int(probed["streams"][0]["nb_read_frames"]) == 26
    assert presentation_times(probed) == pytest.approx([0.04 * i for i in range(26)], abs=0.001)
    command = [peer("ffmpeg"), "-v", "error", "-i", str(folder / medium.file), "-c", "copy", "-f", "mjpeg", "-"]
    copied = subprocess.run(command, check=True, capture_output=True).stdout
    for encoded in generate_frames(dcmread(path).PixelData, number_of_frames=26):
        assert scan_of(encoded) in copied


def test_variable_times_hold_for_copied_jpegs(
    make_instance: Callable[..., Path], export: Callable[..., Any], probe: Callable[..., Any]
) -> None:
    encoded = [jpeg(image) for image in waves(5, 64, 96, gray=False)]
    path = make_instance(
        encoded=[data + b"\0" * (len(data) % 2) for data in encoded], syntax=BASELINE, rows=64, columns=96, frames=5,
        PhotometricInterpretation="YBR_FULL_422", FrameTimeVector=["10", "20", "30", "40", "50"],
    )  # fmt: skip
    result, folder = export(path, COPY)
    assert result.media[0].codec == "mjpeg"
    probed = probe(folder / result.media[0].file)
    assert presentation_times(probed) == pytest.approx([0, 0.02, 0.05, 0.09, 0.14], abs=0.001)
    assert float(probed["format"]["duration"]) == pytest.approx(0.15, abs=0.001)


def test_frames_of_different_codings_are_encoded_anew(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    images = list(waves(3, 64, 96, gray=False))
    encoded = [jpeg(images[0]), jpeg(images[1], subsampling=0), jpeg(images[2])]
    path = make_instance(
        encoded=[data + b"\0" * (len(data) % 2) for data in encoded], syntax=BASELINE, rows=64, columns=96, frames=3,
        PhotometricInterpretation="YBR_FULL_422",
    )  # fmt: skip
    assert export(path, COPY)[0].media[0].transcoded


def test_what_is_not_baseline_is_not_copied() -> None:
    assert bare_jpeg(jpeg(picture(), progressive=True)) is None
    assert bare_jpeg(imagecodecs.jpegls_encode(picture(gray=True))) is None
    assert bare_jpeg(b"\x89PNG") is None
    twelve = imagecodecs.ljpeg_encode(np.zeros((8, 8), np.uint16), bitspersample=12)
    assert bare_jpeg(twelve) is None


def test_restarts_profiles_and_thumbnails_are_told_apart() -> None:
    image = picture()
    plain = jpeg(image, icc_profile=b"\0" * 200, restart_marker_rows=2, comment=b"Planted")
    bare = bare_jpeg(with_text(plain))
    assert bare is not None
    assert scan_of(bare) == scan_of(plain)
    assert b"ICC_PROFILE" in bare
    assert b"Planted" not in bare
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(bare))), np.asarray(Image.open(io.BytesIO(plain))))
    assert shows(bare, np.asarray(Image.open(io.BytesIO(plain))))


def test_a_jpeg_without_an_end_is_corrupt() -> None:
    data = jpeg(picture())
    for cut in (3, 10, 200, len(data) // 2, len(data) - 1):
        with pytest.raises(CorruptPixels):
            bare_jpeg(data[:cut])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_copied_refused_or_corrupt(data: bytes) -> None:
    try:
        bare = bare_jpeg(b"\xff\xd8" + data)
    except CorruptPixels:
        return
    assert bare is None or bare.endswith(b"\xff\xd9")


def test_pixels_that_are_not_square_are_stated_in_every_copied_jpeg(
    corpus: Path, export: Callable[..., Any], probe: Callable[..., Any]
) -> None:
    result, folder = export(corpus / "suyashkumar__dicom" / "I_000003.dcm", COPY)
    assert result.media[0].codec == "mjpeg"
    assert probe(folder / result.media[0].file)["streams"][0]["sample_aspect_ratio"] == "5:4"


@pytest.mark.parametrize("options", [{}, {"keep_rgb": True}])
def test_the_shape_of_pixels_never_changes_the_colours(options: dict[str, Any]) -> None:
    data = jpeg(picture(), **options)
    for source in (data, data[:2] + data[20:] if not options else data):  # with and without a JFIF header
        stated = bare_jpeg(source, (4, 5))
        assert stated is not None
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(stated))), np.asarray(Image.open(io.BytesIO(source)))
        )
        assert options or Image.open(io.BytesIO(stated)).info["jfif_density"] == (4, 5)


@pytest.mark.parametrize("gray", [False, True])
def test_a_later_frame_that_lost_a_restart_interval_is_not_copied(
    make_instance: Callable[..., Path], export: Callable[..., Any], gray: bool
) -> None:
    """Colours are judged by the pixels of the first frame: the others are copied without being decoded."""
    first, second = (jpeg(image, restart_marker_rows=1, subsampling=0) for image in waves(2, 64, 96, gray=gray))
    cut = second[: second.index(b"\xff\xd2")] + second[second.index(b"\xff\xd3") :]
    elements = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"} if gray else {}
    photometric = {} if gray else {"PhotometricInterpretation": "YBR_FULL_422"}
    whole, damaged = (
        make_instance(
            encoded=[data + b"\0" * (len(data) % 2) for data in (first, last)],
            syntax=BASELINE,
            rows=64,
            columns=96,
            frames=2,
            **elements,
            **photometric,
        )
        for last in (second, cut)
    )
    result, _ = export(whole, COPY)
    assert result.media[0].codec == "mjpeg"
    with pytest.raises(CorruptPixels, match="restart intervals"):
        export(damaged, COPY)


def test_one_changed_byte_of_any_frame_of_a_written_motion_jpeg_is_found(tmp_path: Path) -> None:
    jpegs = [jpeg(image) for image in waves(30, 64, 96, gray=False)]
    schedule = Schedule(source="FrameTime", frames=30, period=Fraction(1, 25))
    path = tmp_path / "cine.mp4"
    write_motion_jpeg(path, jpegs, schedule, (96, 64), "mp4")
    written = path.read_bytes()
    digests = [hashlib.blake2b(data, digest_size=16).digest() for data in jpegs]
    for changed in (0, 1, 17, 29):  # some of them are decoded back, all are compared
        middle = written.index(jpegs[changed]) + len(jpegs[changed]) // 2
        path.write_bytes(written[:middle] + bytes([written[middle] ^ 1]) + written[middle + 1 :])
        with pytest.raises(VerifyFailed):
            _check(path, digests, schedule, (96, 64), "mp4")
