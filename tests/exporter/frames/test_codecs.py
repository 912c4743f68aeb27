"""Every codec: exact where it is lossless, the right colours, and its header believed before its data."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from exporter.errors import BadGeometry, CorruptPixels, ExportError, TooLarge, UnsupportedSyntax
from exporter.frames import open_frames
from exporter.frames.codestream import Codec, sniff

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.dicom.instance import Instance

    from .conftest import Build

TS = "1.2.840.10008.1.2."
Encode = "Callable[[np.ndarray], bytes]"


def deflate(frame: np.ndarray) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(frame.tobytes()) + packer.flush()


def rle(frame: np.ndarray) -> bytes:
    """PS3.5 annex G: one segment per byte of a sample, most significant first."""
    samples = frame[..., np.newaxis] if frame.ndim == 2 else frame
    big = samples.astype(samples.dtype.newbyteorder(">"))
    planes = [
        np.ascontiguousarray(big[..., s]).view(np.uint8).reshape(*frame.shape[:2], -1)[..., b]
        for s in range(samples.shape[2])
        for b in range(samples.dtype.itemsize)
    ]
    segments = [imagecodecs.packbits_encode(np.ascontiguousarray(p).reshape(-1)) for p in planes]
    segments = [s + b"\0" * (len(s) % 2) for s in segments]
    starts = np.cumsum([64, *(len(s) for s in segments)])[:-1]
    header = [len(segments), *(int(s) for s in starts)]
    return struct.pack("<16I", *header, *([0] * (16 - len(header)))) + b"".join(segments)


LOSSLESS: dict[str, tuple[str, Callable[[np.ndarray], bytes]]] = {
    "JPEG lossless": ("4.70", lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=8 * a.itemsize)),
    "JPEG-LS": ("4.80", imagecodecs.jpegls_encode),
    "JPEG 2000": ("4.90", lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, codecformat="J2K")),
    "JPEG 2000 in JP2": ("4.90", lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, codecformat="JP2")),
    "HTJ2K": ("4.201", imagecodecs.htj2k_encode),
    "HTJ2K RPCL": ("4.202", imagecodecs.htj2k_encode),
    "JPEG XL": ("4.110", lambda a: imagecodecs.jpegxl_encode(a, lossless=True)),
    "JPEG XL in a container": ("4.112", lambda a: imagecodecs.jpegxl_encode(a, lossless=True, usecontainer=True)),
    "RLE": ("5", rle),
    "encapsulated uncompressed": ("1.98", lambda a: a.tobytes()),
    "deflated frames": ("8.1", deflate),
}
lossless = pytest.mark.parametrize(("syntax", "encode"), LOSSLESS.values(), ids=LOSSLESS)


def open_all(instance: Instance) -> list[np.ndarray]:
    return list(open_frames(instance, instance.limits).stored())


def described(values: np.ndarray, **elements: Any) -> dict[str, Any]:
    """Elements that describe frames of shape (frames, rows, columns[, 3])."""
    colour = values.ndim == 4
    return {
        "Rows": values.shape[1],
        "Columns": values.shape[2],
        "NumberOfFrames": values.shape[0],
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": 8 * values.itemsize,
        **({"PlanarConfiguration": 0} if colour else {}),
        **elements,
    }


@lossless
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_gray_is_exact(build: Build, syntax: str, encode: Any, dtype: type) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (2, 37, 23)).astype(dtype)
    found = open_all(build([encode(frame) for frame in values], TS + syntax, **described(values)))
    np.testing.assert_array_equal(np.stack(found), values)
    assert found[0].dtype == dtype


@lossless
def test_colours_are_exact(build: Build, syntax: str, encode: Any) -> None:
    values = np.random.default_rng(1).integers(0, 256, (2, 37, 23, 3)).astype(np.uint8)
    if "lossless" in str(encode) or syntax == "4.70":
        encode = lambda a: imagecodecs.jpeg8_encode(a, lossless=True, colorspace="RGB", outcolorspace="RGB")  # noqa: E731
    instance = build([encode(frame) for frame in values], TS + syntax, **described(values))
    np.testing.assert_array_equal(np.stack(open_all(instance)), values)
    np.testing.assert_array_equal(np.stack(list(open_frames(instance, instance.limits).display())), values)


@lossless
def test_signed_values_keep_their_sign(build: Build, syntax: str, encode: Any) -> None:
    values = np.random.default_rng(2).integers(-2048, 2048, (1, 37, 23)).astype(np.int16)
    cells = values.view(np.uint16) & 0x0FFF
    elements = described(cells, BitsStored=12, PixelRepresentation=1)
    found = open_all(build([encode(frame) for frame in cells], TS + syntax, **elements))
    np.testing.assert_array_equal(np.stack(found), values)


@lossless
@pytest.mark.parametrize("stated", ["4.50", "4.90", "4.80", "5", "1", "4.110", "8.1"])
def test_a_wrong_transfer_syntax_is_found_out_or_refused(build: Build, syntax: str, encode: Any, stated: str) -> None:
    values = np.random.default_rng(3).integers(0, 4096, (2, 37, 23)).astype(np.uint16)
    instance = build([encode(frame) for frame in values], TS + stated, **described(values))
    try:
        frames = open_frames(instance, instance.limits)
        found = list(frames.stored())
    except ExportError:
        assert syntax in {"1.98", "8.1"}  # neither has a header of its own
        return
    np.testing.assert_array_equal(np.stack(found), values)
    same_family = stated.startswith("4") and syntax.startswith("4")
    assert frames.warnings or same_family or stated == syntax


@pytest.mark.parametrize("form", ["defined length", "undefined length"])
@pytest.mark.parametrize("name", ["JPEG-LS", "JPEG 2000", "HTJ2K", "JPEG lossless"])
def test_codestreams_without_fragments_are_read(build: Build, name: str, form: str) -> None:
    syntax, encode = LOSSLESS[name]
    values = np.random.default_rng(4).integers(0, 4096, (1, 37, 23)).astype(np.uint16)
    raw = encode(values[0])
    raw += b"\0" * (len(raw) % 2)
    instance = build(raw, TS + syntax, undefined=form == "undefined length", **described(values))
    np.testing.assert_array_equal(open_all(instance)[0], values[0])


def test_twelve_bit_jpeg(build: Build) -> None:
    y, x = np.mgrid[:64, :48]
    values = ((x * 40 + y * 20) % 4096).astype(np.uint16)[np.newaxis]
    data = imagecodecs.jpeg8_encode(values[0], level=100, bitspersample=12)
    found = open_all(build([data], TS + "4.51", **described(values, BitsStored=12)))[0]
    assert int(np.abs(found.astype(int) - values[0]).max()) <= 40
    assert found.max() > 255


class TestColoursOfJpeg:
    COLOUR = (200, 60, 20)

    def encoded(self, *, rgb: bool, **markers: Any) -> bytes:
        """A plain colour as JPEG, in RGB or YCbCr, without the markers that would tell."""
        frame = np.tile(np.array(self.COLOUR, np.uint8), (16, 16, 1))
        data = imagecodecs.jpeg8_encode(
            frame, level=100, colorspace="RGB", outcolorspace="RGB" if rgb else "YCBCR", subsampling="444"
        )
        return self.marked(data, **markers)

    @staticmethod
    def marked(data: bytes, *, jfif: bool = False, adobe: int | None = None, ids: bytes | None = None) -> bytes:
        out, offset = [b"\xff\xd8"], 2
        if jfif:
            out.append(b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0")
        if adobe is not None:
            out.append(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([adobe]))
        while data[offset + 1] != 0xDA:
            length = 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
            segment = bytearray(data[offset : offset + length])
            if segment[1] == 0xC0:
                segment[10], segment[13], segment[16] = ids or b"\1\2\3"
            if segment[1] not in {0xE0, 0xEE}:
                out.append(bytes(segment))
            offset += length
        scan = bytearray(data[offset:])
        scan[5], scan[7], scan[9] = ids or b"\1\2\3"
        return b"".join(out) + bytes(scan)

    @pytest.mark.parametrize(
        ("rgb", "markers", "label"),
        [
            (False, {"jfif": True}, "RGB"),
            (False, {"adobe": 1}, "RGB"),
            (True, {"adobe": 0}, "YBR_FULL_422"),
            (True, {"ids": b"RGB"}, "YBR_FULL"),
            (True, {}, "RGB"),
            (False, {}, "YBR_FULL"),
            (False, {}, "YBR_FULL_422"),
            (False, {"jfif": True}, "YBR_FULL_422"),
            (True, {"adobe": 0}, "RGB"),
        ],
    )
    def test_markers_of_the_codestream_win_over_the_label(
        self, build: Build, rgb: bool, markers: dict[str, Any], label: str
    ) -> None:
        values = np.zeros((1, 16, 16, 3), np.uint8)
        instance = build(
            [self.encoded(rgb=rgb, **markers)], TS + "4.50", **described(values, PhotometricInterpretation=label)
        )
        frames = open_frames(instance, instance.limits)
        shown = next(iter(frames.display()))
        assert np.abs(shown.astype(int) - self.COLOUR).max() <= 3
        contradicts = bool(markers) and (label == "RGB") != rgb
        assert bool(frames.warnings) == contradicts
        stored = next(iter(frames.stored()))
        expected = self.COLOUR if rgb else (97, 85, 201)  # the same colour in YCbCr
        assert np.abs(stored.astype(int) - expected).max() <= 3

    def test_subsampled_components_are_never_rgb(self, build: Build) -> None:
        frame = np.tile(np.array(self.COLOUR, np.uint8), (16, 16, 1))
        data = self.marked(imagecodecs.jpeg8_encode(frame, level=100, subsampling="422"))
        instance = build([data], TS + "4.50", **described(frame[np.newaxis]))
        shown = next(iter(open_frames(instance, instance.limits).display()))
        assert np.abs(shown.astype(int) - self.COLOUR).max() <= 3


class TestHeadersThatLie:
    def patched(self, codec: str, rows: int, columns: int) -> bytes:
        frame = np.zeros((37, 23), np.uint16)
        data = bytearray(LOSSLESS[codec][1](frame))
        if codec.startswith("JPEG 2000"):
            struct.pack_into(">II", data, 8, columns, rows)
        else:
            at = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in {0xC3, 0xF7})
            struct.pack_into(">HH", data, at + 5, rows, columns)
        return bytes(data)

    @pytest.mark.parametrize("codec", ["JPEG lossless", "JPEG-LS", "JPEG 2000"])
    @pytest.mark.parametrize("size", [(30_000, 30_000), (65_000, 65_000), (38, 23), (37, 24)])
    def test_a_codestream_of_another_size_is_not_decoded(self, build: Build, codec: str, size: tuple[int, int]) -> None:
        values = np.zeros((1, 37, 23), np.uint16)
        instance = build([self.patched(codec, *size)], TS + LOSSLESS[codec][0], **described(values))
        with pytest.raises(BadGeometry, match=r"\(0028,0010\)"):
            open_all(instance)

    def test_a_codestream_of_other_components_is_not_decoded(self, build: Build) -> None:
        colour = np.zeros((1, 37, 23, 3), np.uint8)
        data = imagecodecs.jpegls_encode(colour[0])
        with pytest.raises(BadGeometry, match=r"\(0028,0002\)"):
            open_all(build([data], TS + "4.80", **described(colour[..., 0])))

    def test_frames_of_mixed_size_are_refused(self, build: Build) -> None:
        values = np.zeros((2, 37, 23), np.uint16)
        parts = [imagecodecs.jpegls_encode(values[0]), imagecodecs.jpegls_encode(values[0, :20])]
        frames = open_frames(instance := build(parts, TS + "4.80", **described(values)), instance.limits)
        iterator = frames.stored()
        next(iterator)
        with pytest.raises(BadGeometry):
            next(iterator)

    def test_a_compressed_frame_far_too_large_for_its_size_is_not_read(self, build: Build) -> None:
        values = np.zeros((1, 37, 23), np.uint16)
        instance = build([LOSSLESS["JPEG-LS"][1](values[0]), bytes(20 << 20)], TS + "4.80", **described(values))
        with pytest.raises(TooLarge):
            open_all(instance)


@pytest.mark.parametrize("name", [n for n in LOSSLESS if n != "encapsulated uncompressed"])
def test_a_cut_codestream_never_gives_a_picture(build: Build, name: str) -> None:
    syntax, encode = LOSSLESS[name]
    values = np.random.default_rng(5).integers(0, 4096, (1, 37, 23)).astype(np.uint16)
    whole = encode(values[0]).rstrip(b"\0") if name != "RLE" else encode(values[0])
    for cut in (4, 10, 100, len(whole) // 2, len(whole) - 80):
        with pytest.raises((CorruptPixels, BadGeometry)):
            open_all(build([whole[:-cut]], TS + syntax, **described(values)))


class TestRle:
    def test_single_bits_are_packed_in_bytes(self, build: Build) -> None:
        values = np.random.default_rng(6).integers(0, 2, (2, 5, 7)).astype(np.uint8)
        parts = [rle(np.packbits(f.reshape(-1), bitorder="little")[np.newaxis]) for f in values]
        found = open_all(build(parts, TS + "5", **described(values, BitsAllocated=1)))
        np.testing.assert_array_equal(np.stack(found), values)

    def test_a_bomb_decodes_into_its_frame_or_not_at_all(self, build: Build) -> None:
        bomb = struct.pack("<16I", 1, 64, *([0] * 14)) + b"\x81\0" * (2 << 20)
        values = np.zeros((1, 37, 23), np.uint8)
        with pytest.raises(CorruptPixels):
            open_all(build([bomb], TS + "5", **described(values)))

    @pytest.mark.parametrize("offsets", [(64, 64), (70, 64), (0, 64), (64, 1 << 31), (64, 0)])
    def test_segment_tables_that_lie_are_refused(self, build: Build, offsets: tuple[int, int]) -> None:
        values = np.zeros((1, 37, 23), np.uint16)
        good = rle(values[0])
        data = struct.pack("<16I", 2, *offsets, *([0] * 13)) + good[64:]
        with pytest.raises(CorruptPixels):
            open_all(build([data], TS + "5", **described(values)))


def test_an_inflating_frame_is_bounded_by_its_size(build: Build) -> None:
    bomb = deflate(np.zeros(64 << 20, np.uint8))
    values = np.zeros((1, 37, 23), np.uint8)
    with pytest.raises(CorruptPixels):
        open_all(build([bomb], TS + "8.1", **described(values)))


@pytest.mark.parametrize("syntax", ["4.94", "4.92", "4.66", "7.1", "4.204"])
def test_what_nothing_decodes_says_so(build: Build, syntax: str) -> None:
    values = np.zeros((1, 37, 23), np.uint8)
    with pytest.raises(UnsupportedSyntax):
        open_all(build([b"\xff\xd8\xff\xe0" + bytes(100)], TS + syntax, **described(values)))


def test_an_unknown_transfer_syntax_is_read_where_its_frames_are_known(build: Build) -> None:
    values = np.random.default_rng(7).integers(0, 256, (1, 37, 23)).astype(np.uint8)
    found = open_all(build([imagecodecs.jpegls_encode(values[0])], "1.3.6.1.4.1.99999.1", **described(values)))
    np.testing.assert_array_equal(found[0], values[0])
    with pytest.raises(UnsupportedSyntax):
        open_all(build([b"proprietary" * 20], "1.3.6.1.4.1.99999.1", **described(values)))


@pytest.mark.parametrize("codec", list(Codec))
def test_headers_tell_size_and_precision(codec: Codec) -> None:
    frame = np.zeros((37, 23, 3), np.uint8)
    encode: dict[Codec, Callable[[np.ndarray], bytes]] = {
        Codec.JPEG: imagecodecs.jpeg8_encode,
        Codec.JPEG_LS: imagecodecs.jpegls_encode,
        Codec.JPEG_2000: imagecodecs.jpeg2k_encode,
        Codec.JPEG_XL: imagecodecs.jpegxl_encode,
    }
    data = encode[codec](frame)
    header = sniff(data)
    assert header is not None
    assert (header.codec, header.rows, header.columns, header.components) == (codec, 37, 23, 3)
    assert header.precision == 8
    for length in range(2, 40):
        try:
            assert sniff(data[:length]) in {None, header}
        except CorruptPixels:
            continue


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("colour", [False, True])
def test_a_jpeg_that_lost_its_middle_never_gives_a_picture(build: Build, progressive: bool, colour: bool) -> None:
    """libjpeg decodes all of these, and fills with gray."""
    y, x = np.mgrid[:120, :160]
    waves = (127 + 60 * np.sin(x / 5) + 60 * np.cos(y / 7 + x / 31)).astype(np.uint8)
    frame = np.stack([waves, waves.T[:120, :120].repeat(2, axis=1)[:, :160], 255 - waves], -1) if colour else waves
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=90, progressive=progressive)
    whole = buffer.getvalue()
    label = "YBR_FULL_422" if colour else "MONOCHROME2"
    elements = described(frame[np.newaxis], PhotometricInterpretation=label)
    assert open_all(build([whole], TS + "4.50", **elements))
    scan = whole.index(b"\xff\xda") + 14
    for start in range(scan, len(whole) - 300, len(whole) // 12):
        cut = whole[:start] + whole[start + 250 :]
        with pytest.raises((CorruptPixels, BadGeometry)):
            open_all(build([cut], TS + "4.50", **elements))
