"""Small valid instances of every transfer syntax we read, to be broken: made here or found in pydicom's own files."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from tests.product.hostile import element, header, meta

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

IMPLICIT, EXPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
FOUND: Final = (
    "CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "ExplVR_BigEnd.dcm",
    "image_dfl.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_jpeg_dcmtk.dcm", "JPEG2000.dcm", "JPEG-LL.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "JPEGLSNearLossless_16.dcm", "MR_small_RLE.dcm", "SC_rgb_small_odd.dcm",
    "OBXXXX1A.dcm", "examples_palette.dcm", "examples_overlay.dcm", "test-SR.dcm", "rtplan.dcm", "liver_1frame.dcm",
    "nested_priv_SQ.dcm", "priv_SQ.dcm", "UN_sequence.dcm", "vlut_04.dcm", "mlut_18.dcm", "JPGExtended.dcm",
    "HTJ2K_08_RGB.dcm", "emri_small_jpeg_2k_lossless.dcm", "waveform_ecg.dcm", "DICOMDIR",
)  # fmt: skip
"""Names in pydicom's test files; those that are not installed are left out."""
LARGEST: Final = 300_000
SIDE: Final = 64


def encapsulated(syntax: str, frames: list[bytes], *, offsets: bool = True, **changed: Any) -> bytes:
    """A file whose encapsulated frames are these, with a basic offset table or without."""
    uid = "2.25.1234567890"
    frames = [frame + b"\0" * (len(frame) % 2) for frame in frames]
    table, at = b"", 0
    for frame in frames:
        table += struct.pack("<I", at)
        at += len(frame) + 8
    table = table if offsets else b""
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    pixels += struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table
    for frame in frames:
        pixels += struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    pixels += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return meta(syntax, uid) + header(uid, frames=b"%d" % len(frames), **changed) + pixels


@cache
def seeds() -> dict[str, bytes]:
    """Name and bytes of every seed."""
    made: dict[str, bytes] = {name: make() for name, make in _makers().items()}
    from pydicom.data import get_testdata_file

    for name in FOUND:
        try:
            path = get_testdata_file(name, download=False)
        except (ValueError, OSError):
            path = None
        if path is not None:
            with open(str(path), "rb") as file:  # noqa: PTH123 - pydicom's helper gives a str
                data = file.read()
            if len(data) <= LARGEST:
                made[name] = data
    return made


def _makers() -> dict[str, Callable[[], bytes]]:
    import imagecodecs
    import numpy as np

    rng = np.random.default_rng(1)
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE))
    grey8 = (ramp + rng.integers(0, 9, (SIDE, SIDE))).astype(np.uint8)
    grey16 = (ramp * 31 + rng.integers(0, 9, (SIDE, SIDE))).astype(np.uint16)
    grey12 = (grey16 & 0xFFF).astype(np.uint16)
    colour = np.stack([grey8, grey8[::-1], grey8.T], axis=-1).copy()
    us = struct.Struct("<H").pack
    rgb: dict[str, Any] = {"samples": us(3), "photometric": b"RGB ", "extra": element(0x0028, 0x0006, b"US", us(0))}
    sixteen: dict[str, Any] = {"allocated": us(16), "stored": us(16), "high": us(15)}
    twelve: dict[str, Any] = {"allocated": us(16), "stored": us(12), "high": us(11)}
    jp = "1.2.840.10008.1.2.4."

    def native(syntax: str, **changed: Any) -> bytes:
        uid = "2.25.1234567890"
        body = header(uid, frames=b"3 ", **changed) + element(0x7FE0, 0x0010, b"OW", grey8.tobytes() * 3)
        if syntax == DEFLATED:
            packer = zlib.compressobj(6, zlib.DEFLATED, -15)
            body = packer.compress(body) + packer.flush()
        return meta(syntax, uid) + body

    def j2k(image: np.ndarray[Any, Any], **how: Any) -> bytes:
        return bytes(imagecodecs.jpeg2k_encode(image, codecformat="j2k", **how))

    makers: dict[str, Callable[[], bytes]] = {
        "native": lambda: native(EXPLICIT),
        "deflated": lambda: native(DEFLATED),
        "jpeg": lambda: encapsulated(jp + "50", [bytes(imagecodecs.jpeg8_encode(grey8))] * 2),
        "jpeg colour": lambda: encapsulated(jp + "50", [bytes(imagecodecs.jpeg8_encode(colour))], **_ybr(rgb)),
        "jpeg 12": lambda: encapsulated(
            jp + "51", [bytes(imagecodecs.jpeg8_encode(grey12, bitspersample=12))], **twelve
        ),
        "jpeg lossless": lambda: encapsulated(
            jp + "70", [bytes(imagecodecs.jpeg8_encode(grey16, lossless=True))], **sixteen
        ),
        "jpeg-ls": lambda: encapsulated(jp + "80", [bytes(imagecodecs.jpegls_encode(grey16))], **sixteen),
        "jpeg-ls near": lambda: encapsulated(jp + "81", [bytes(imagecodecs.jpegls_encode(grey8, level=3))]),
        "jpeg-ls colour": lambda: encapsulated(jp + "80", [bytes(imagecodecs.jpegls_encode(colour))], **rgb),
        "jpeg 2000": lambda: encapsulated(jp + "90", [j2k(grey16, reversible=True)] * 2, offsets=False, **sixteen),
        "jpeg 2000 lossy": lambda: encapsulated(jp + "91", [j2k(grey8, level=40)]),
        "jpeg 2000 colour": lambda: encapsulated(jp + "90", [j2k(colour, reversible=True)], **rgb),
        "jpeg xl": lambda: encapsulated(jp + "110", [bytes(imagecodecs.jpegxl_encode(grey8, lossless=True))]),
        "htj2k": lambda: encapsulated(jp + "201", [bytes(imagecodecs.htj2k_encode(grey8))]),
        "rle": lambda: encapsulated("1.2.840.10008.1.2.5", [_rle(grey8)] * 3),
        "rle 16": lambda: encapsulated("1.2.840.10008.1.2.5", [_rle(grey16)], **sixteen),
        "h264": lambda: encapsulated(jp + "102", [_video("h264")], **_ybr(rgb)),
        "hevc": lambda: encapsulated(jp + "107", [_video("hevc")], **_ybr(rgb)),
        "mpeg2": lambda: encapsulated(jp + "100", [_video("mpeg2video")], **_ybr(rgb)),
    }
    return {name: make for name, make in makers.items() if _works(make)}


def _works(make: Callable[[], bytes]) -> bool:
    """Whether this build of the codecs can encode it; a seed that cannot be made is no finding."""
    try:
        make()
    except (RuntimeError, TypeError, ValueError, AttributeError, ImportError):
        return False
    return True


def _ybr(rgb: dict[str, Any]) -> dict[str, Any]:
    return {**rgb, "photometric": b"YBR_FULL_422"}


def _rle(image: np.ndarray[Any, Any]) -> bytes:
    from pydicom.pixels.encoders.base import get_encoder
    from pydicom.uid import RLELossless

    bits = image.itemsize * 8
    return get_encoder(RLELossless).encode(
        image,
        rows=SIDE,
        columns=SIDE,
        samples_per_pixel=1,
        bits_allocated=bits,
        bits_stored=bits,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
    )


def _video(codec: str) -> bytes:
    import av
    import numpy as np

    buffer = io.BytesIO()
    kind = {"h264": "h264", "hevc": "hevc", "mpeg2video": "mpeg2video"}[codec]
    encoder = {"h264": "libx264", "hevc": "libx265", "mpeg2video": "mpeg2video"}[codec]
    with av.open(buffer, "w", format=kind) as container:
        stream = cast("av.VideoStream", container.add_stream(encoder, rate=25))
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        if codec == "hevc":
            stream.options = {"x265-params": "log-level=none"}
        for k in range(8):
            picture = np.roll(np.tile(np.arange(SIDE, dtype=np.uint8) * 3, (SIDE, 1)), k, axis=1)
            frame = av.VideoFrame.from_ndarray(np.stack([picture] * 3, axis=-1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
