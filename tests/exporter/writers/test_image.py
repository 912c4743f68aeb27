"""Single-frame instances as images: display values in every format, decoded back, nothing else in the file."""

from __future__ import annotations

import errno
import io
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from exporter.dicom.instance import Instance
from exporter.errors import EncodeFailed, OutOfSpace, StorageUnavailable, TooLarge, VerifyFailed
from exporter.frames import open_frames
from exporter.outcome import MediaType
from exporter.settings.settings import MediaSettings
from exporter.writers.durable_write import write_error
from exporter.writers.image_parts.image_file import StillPlan, write_still
from tests.exporter.writers.media import waves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def image_settings(**image: Any) -> MediaSettings:
    return MediaSettings.model_validate({"image": image})


def picture(*, gray: bool, rows: int = 60, columns: int = 85) -> np.ndarray:
    return next(iter(waves(1, rows, columns, gray=gray)))


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


@pytest.mark.parametrize("gray", [False, True])
def test_png_is_the_default_and_holds_the_display_values(
    make_instance: Callable[..., Path], export: Callable[..., Any], gray: bool
) -> None:
    image = picture(gray=gray)
    result, folder = export(make_instance(image))
    (medium,) = result.media
    assert (medium.suffix, medium.kind, medium.codec) == (".png", MediaType.IMAGE, "png")
    assert (medium.width, medium.height, medium.frames) == (85, 60, 1)
    np.testing.assert_array_equal(np.asarray(opened(folder / medium.file)), image)


@pytest.mark.parametrize(
    ("extension", "parameters", "form", "lossless"),
    [
        (".jpg", {}, "JPEG", False),
        (".jpg", {"quality": 60}, "JPEG", False),
        (".jpeg", {"progressive": True, "quality": 90}, "JPEG", False),
        (".webp", {}, "WEBP", True),
        (".webp", {"quality": 80}, "WEBP", False),
        (".tiff", {}, "TIFF", True),
        (".tif", {"compression": "tiff_lzw"}, "TIFF", True),
        (".png", {"compress_level": 9}, "PNG", True),
        (".bmp", {}, "BMP", True),
        (".jp2", {}, "JPEG2000", True),
    ],
)
@pytest.mark.parametrize("gray", [False, True])
def test_pillow_writes_the_other_formats_with_the_configured_parameters(
    make_instance: Callable[..., Path],
    export: Callable[..., Any],
    extension: str,
    parameters: dict[str, Any],
    form: str,
    lossless: bool,
    gray: bool,
) -> None:
    image = picture(gray=gray)
    settings = image_settings(extension=extension, save_method_kwargs={"pil_writer_params": parameters})
    result, folder = export(make_instance(image), settings)
    assert result.media[0].suffix == extension
    read = opened(folder / result.media[0].file)
    assert read.format == form
    decoded = np.asarray(read if gray or form != "WEBP" else read.convert("RGB")).astype(int)
    if gray and decoded.ndim == 3:
        decoded = decoded[..., 0]
    assert np.abs(decoded - image).max() == 0 if lossless else np.abs(decoded - image).mean() < 6


def test_parameters_have_their_effect(make_instance: Callable[..., Path], export: Callable[..., Any]) -> None:
    path = make_instance(picture(gray=False, rows=200, columns=300))
    sizes = []
    for quality in (30, 95):
        params = {"pil_writer_params": {"quality": quality}}
        settings = image_settings(extension=".jpg", save_method_kwargs=params, psnr_floor_db=15)
        sizes.append(export(path, settings)[0].media[0].bytes)
    assert sizes[0] * 2 < sizes[1]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"extension": ".xyz"}, "permitted: .png"),
        ({"extension": ".jpg", "save_method_kwargs": {"pil_writer_params": {"quality": "awful"}}}, "quality"),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(
    make_instance: Callable[..., Path], export: Callable[..., Any], image: dict[str, Any], message: str
) -> None:
    with pytest.raises(EncodeFailed, match=message):
        export(make_instance(picture(gray=True)), image_settings(**image))


def test_a_picture_below_the_floor_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    with pytest.raises(VerifyFailed, match="psnr_floor_db"):
        write_still(tmp_path / "x", noise, StillPlan(".jpg", (("quality", 1),), psnr_floor_db=28))


def test_sixteen_bits_are_kept_by_png_and_tiff_and_refused_by_the_others(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 65535, (33, 47), dtype=np.uint16)
    write_still(tmp_path / "a", image, StillPlan(".png", (), 28))
    np.testing.assert_array_equal(imagecodecs.png_decode((tmp_path / "a").read_bytes()), image)
    write_still(tmp_path / "b", image, StillPlan(".tiff", (), 28))
    np.testing.assert_array_equal(np.asarray(opened(tmp_path / "b")), image)
    with pytest.raises(EncodeFailed, match="16-bit"):
        write_still(tmp_path / "c", image, StillPlan(".jpg", (), 28))


def test_a_colour_profile_is_kept_where_it_fits_the_picture(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for extension in (".png", ".jpg", ".tiff", ".webp"):
        result, folder = export(
            make_instance(picture(gray=False), ICCProfile=profile + b"\0" * (len(profile) % 2)),
            image_settings(extension=extension),
        )
        assert opened(folder / result.media[0].file).info["icc_profile"].rstrip(b"\0") == profile.rstrip(b"\0")
    result, folder = export(make_instance(picture(gray=True), ICCProfile=profile + b"\0" * (len(profile) % 2)))
    assert "icc_profile" not in opened(folder / result.media[0].file).info


def test_the_shape_of_pixels_is_kept(make_instance: Callable[..., Path], export: Callable[..., Any]) -> None:
    path = make_instance(picture(gray=True), PixelAspectRatio=[4, 3])
    result, folder = export(path)
    assert opened(folder / result.media[0].file).info["aspect"] == (4, 3)
    result, folder = export(path, image_settings(extension=".jpg"))
    read = opened(folder / result.media[0].file)
    assert (read.info["jfif_unit"], read.info["jfif_density"]) == (0, (4, 3))


def test_nothing_of_the_patient_is_in_the_file(make_instance: Callable[..., Path], export: Callable[..., Any]) -> None:
    path = make_instance(picture(gray=True))
    for extension in (".png", ".jpg", ".webp", ".tiff", ".bmp", ".jp2"):
        result, folder = export(path, image_settings(extension=extension))
        assert b"Planted" not in (folder / result.media[0].file).read_bytes()
        assert not opened(folder / result.media[0].file).getexif().keys() - {
            254,
            256,
            257,
            258,
            259,
            262,
            273,
            277,
            278,
            279,
            284,
        }


def test_a_full_disk_is_no_fault_of_the_instance() -> None:
    assert isinstance(write_error("writing", OSError(28, "No space left")), OutOfSpace)
    assert isinstance(write_error("writing", OSError(122, "Quota")), OutOfSpace)
    assert isinstance(write_error("writing", OSError(errno.EROFS, "Read-only")), OutOfSpace)
    assert isinstance(write_error("writing", OSError(errno.ESTALE, "Stale")), StorageUnavailable)


def test_a_file_that_cannot_be_written_is_the_instances_own_fault() -> None:
    assert isinstance(write_error("writing", OSError(5, "I/O")), EncodeFailed)
    assert isinstance(write_error("writing", OSError(errno.EFBIG, "File too large")), TooLarge)


def test_every_single_frame_of_the_corpus_is_what_the_frames_say(
    corpus: Path, corpus_catalog: list[dict[str, Any]], export: Callable[..., Any]
) -> None:
    checked = 0
    for row in corpus_catalog[::6]:
        if not row.get("pixel_decode_ok") or len(row.get("shape") or ()) == 0:
            continue
        path = corpus / row["file"]
        limits = MediaSettings().limits
        with Instance.open(path, limits) as instance:
            if instance.pixels is None or instance.pixels.frames != 1:
                continue
            expected = next(iter(open_frames(instance, limits).display()))
        result, folder = export(path)
        if result.media[0].suffix != ".png":
            continue
        np.testing.assert_array_equal(imagecodecs.png_decode((folder / result.media[0].file).read_bytes()), expected)
        checked += 1
    assert checked > 15
