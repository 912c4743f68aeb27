"""PNG: any picture comes back bit by bit from decoders that are not ours, and nothing else is in the file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from exporter.writers.image_parts.png import encode
from exporter.writers.image_parts.png_check import holds

if TYPE_CHECKING:
    from numpy.typing import NDArray


def png(image: NDArray[Any], **options: Any) -> bytes:
    return b"".join(encode(image, **options))


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], 8
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        name, body = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        assert struct.unpack_from(">I", data, position + 8 + length)[0] == zlib.crc32(name + body)
        found.append((name, body))
        position += 12 + length
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.booleans(), st.sampled_from(["u1", "u2"]), st.integers(0, 2**32 - 1))
def test_any_picture_comes_back_bit_by_bit(rows: int, columns: int, colour: bool, kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = (rows, columns, 3) if colour else (rows, columns)
    noise = random.integers(0, np.iinfo(kind).max, shape, dtype=kind, endpoint=True)
    np.testing.assert_array_equal(imagecodecs.png_decode(png(noise)), noise)
    smooth = np.cumsum(random.integers(0, 3, shape), axis=1).astype(kind)
    np.testing.assert_array_equal(imagecodecs.png_decode(png(smooth)), smooth)
    assert holds(png(noise), noise)
    assert holds(png(smooth), smooth)


@pytest.mark.parametrize("shape", [(3000, 50), (5, 200_000), (1, 1), (1, 300_000, 3), (1031, 257, 3)])
def test_pictures_larger_than_a_block_of_rows_come_back(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 255, shape, dtype=np.uint8)
    np.testing.assert_array_equal(imagecodecs.png_decode(png(image)), image)
    image16 = image.astype(np.uint16) * 257
    np.testing.assert_array_equal(imagecodecs.png_decode(png(image16)), image16)
    assert holds(png(image), image)
    assert holds(png(image16), image16)


def test_pillow_reads_it_too_and_a_view_with_strides_is_no_trap() -> None:
    image = np.random.default_rng(2).integers(0, 255, (80, 120, 3), dtype=np.uint8)[::2, ::-1]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)
    big_endian = np.arange(600, dtype=">u2").reshape(20, 30)
    np.testing.assert_array_equal(imagecodecs.png_decode(png(big_endian.astype(np.uint16))), big_endian)


def test_only_chunks_about_pixels_are_written() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = png(np.zeros((4, 4, 3), np.uint8), icc_profile=profile, aspect=(536, 670))
    named = dict(chunks(data))
    assert list(named) == [b"IHDR", b"iCCP", b"pHYs", b"IDAT", b"IEND"]
    assert struct.unpack(">IIB", named[b"pHYs"]) == (536, 670, 0)
    opened = Image.open(io.BytesIO(data))
    assert opened.info["icc_profile"] == profile


def test_square_pixels_need_no_chunk() -> None:
    assert b"pHYs" not in png(np.zeros((4, 4), np.uint8), aspect=(7, 7))


def test_the_same_picture_gives_the_same_bytes() -> None:
    image = np.random.default_rng(3).integers(0, 255, (300, 400), dtype=np.uint8)
    assert png(image) == png(image.copy())


def test_smooth_pictures_are_within_a_quarter_of_pillows_size() -> None:
    y, x = np.mgrid[0:512, 0:512]
    image = (127 + 100 * np.sin(x / 40) * np.cos(y / 60)).astype(np.uint8)
    image += np.random.default_rng(4).integers(0, 4, image.shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    assert len(png(image)) < 1.25 * len(buffer.getvalue())


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.int16),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
)
def test_what_png_cannot_hold_is_refused(image: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="PNG takes"):
        png(image)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_file_that_was_changed_anywhere_does_not_hold_its_picture(kind: str, axis: int) -> None:
    image = np.cumsum(np.random.default_rng(3).integers(0, 3, (40, 50)), axis=axis).astype(kind)
    data = png(image, icc_profile=bytes(200), aspect=(1, 2))
    assert holds(data, image)
    for at in range(len(data)):
        assert not holds(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :], image)
        assert not holds(data[:at], image)
    assert not holds(data + b"\0", image)
    assert not holds(data, image[::-1])
    assert not holds(data, image.astype("u1" if kind == "u2" else "u2"))
    assert not holds(data, image[:, :-1])


def test_a_picture_that_differs_in_one_sample_is_not_held() -> None:
    image = np.zeros((300, 700), np.uint16)
    for row, column in ((0, 0), (0, 699), (150, 3), (299, 699)):
        other = image.copy()
        other[row, column] = 1
        assert not holds(png(image), other)


def filtered(image: NDArray[np.uint8], kind: int, rows: bytes) -> bytes:
    """A PNG whose image data are `rows`, each behind the number of a filter."""
    data = b"".join(bytes([kind]) + rows[at : at + image.shape[1]] for at in range(0, len(rows), image.shape[1]))
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    whole = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def test_filters_that_it_does_not_know_are_left_to_libpng() -> None:
    image = np.random.default_rng(4).integers(0, 255, (20, 30), dtype=np.uint8)
    assert holds(filtered(image, 0, image.tobytes()), image)
    assert not holds(filtered(image, 3, image.tobytes()), image)
    assert not holds(filtered(image, 0, image.tobytes()[:-30]), image)
