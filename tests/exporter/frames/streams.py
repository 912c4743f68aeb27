"""Compressed frames and video streams whose units are known: where each begins and ends, by construction.

A `Stream` has the bytes of one sound frame (or of a video) and the damaged forms that tests derive from it: each unit
removed, and each one doubled. The originals are made by Pillow (OpenJPEG, libjpeg-turbo), imagecodecs (CharLS, OpenJPH,
libjxl), zlib and PyAV; streams that no encoder here makes are put together from several.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

SYNTAX = "1.2.840.10008.1.2."
ROWS, COLUMNS = 128, 160
PICTURES = 6


@dataclass(frozen=True)
class Stream:
    """A sound stream, and what may be cut out of it."""

    syntax: str
    data: bytes
    units: tuple[tuple[int, int], ...] = ()
    """(start, end) of each unit in `data`."""
    elements: dict[str, Any] = field(default_factory=dict)
    forms: tuple[tuple[str, bytes], ...] = ()
    """Damaged forms beyond removed and doubled units."""

    @property
    def is_video(self) -> bool:
        return "FrameTime" in self.elements

    def damaged(self) -> Iterator[tuple[str, bytes]]:
        """Every damaged form with its name."""
        for number, (start, end) in enumerate(self.units):
            yield f"unit {number} removed", self.data[:start] + self.data[end:]
            yield f"unit {number} doubled", self.data[:end] + self.data[start:]
        yield from self.forms


def gray() -> np.ndarray:
    """Waves with noise, 8 bits: nothing in it repeats."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    noise = np.random.default_rng(7).normal(0, 6, (ROWS, COLUMNS))
    return np.clip(127 + 50 * np.sin(x / 9) + 50 * np.cos(y / 7 + x / 31) + noise, 0, 255).astype(np.uint8)


def colour() -> np.ndarray:
    return np.stack([gray(), gray()[::-1], 255 - gray()], -1)


def deep() -> np.ndarray:
    """The waves with 12 bits."""
    return gray().astype(np.uint16) * 16 + gray()[::-1, ::-1] % 16


def described(values: np.ndarray, **elements: Any) -> dict[str, Any]:
    rgb = values.ndim == 3
    return {
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "SamplesPerPixel": 3 if rgb else 1,
        "PhotometricInterpretation": "RGB" if rgb else "MONOCHROME2",
        "BitsAllocated": 8 * values.itemsize,
        "BitsStored": 8 * values.itemsize,
        "HighBit": 8 * values.itemsize - 1,
        "PixelRepresentation": 0,
        **({"PlanarConfiguration": 0} if rgb else {}),
        **elements,
    }


# JPEG 2000 ------------------------------------------------------------------------------------------------------------


def openjpeg(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG2000", no_jp2=True, **{"irreversible": False, **options})
    return buffer.getvalue()


def tile_parts(data: bytes) -> list[tuple[int, int]]:
    """Where the tile-parts are, by Psot."""
    offset = data.index(b"\xff\x90\x00\x0a")
    found = []
    while data[offset : offset + 2] == b"\xff\x90":
        length = struct.unpack_from(">I", data, offset + 6)[0]
        found.append((offset, offset + length))
        offset += length
    assert data[offset:] == b"\xff\xd9"
    return found


def retiled(data: bytes, sizes: tuple[int, ...]) -> Iterator[tuple[str, bytes]]:
    """The codestream with other values of XTsiz and YTsiz."""
    for name, offset in (("XTsiz", 24), ("YTsiz", 28)):
        for size in sizes:
            if size != struct.unpack_from(">I", data, offset)[0]:
                yield f"{name} {size}", data[:offset] + struct.pack(">I", size) + data[offset + 4 :]


def packets_cut(data: bytes, *, keep_lengths: bool) -> Iterator[tuple[str, bytes]]:
    """Each packet of a single tile-part removed and doubled, by its PLT segment; Psot is put right."""
    (start, end) = tile_parts(data)[0]
    at, lengths = start + 12, []
    while data[at : at + 2] == b"\xff\x58":
        size = struct.unpack_from(">H", data, at + 2)[0]
        value = 0
        for byte in data[at + 5 : at + 2 + size]:
            value = value << 7 | byte & 0x7F
            if byte < 0x80:
                lengths.append(value)
                value = 0
        at += 2 + size
    assert data[at : at + 2] == b"\xff\x93"
    body = at + 2
    edges = [body, *(body + total for total in accumulate(lengths))]
    assert edges[-1] == end
    header = data[start:body] if keep_lengths else data[start : start + 12] + b"\xff\x93"
    for number, (first, last) in enumerate(pairwise(edges)):
        for what, content in (
            ("removed", data[body:first] + data[last:end]),
            ("doubled", data[body:last] + data[first:end]),
        ):
            part = bytearray(header + content)
            struct.pack_into(">I", part, 6, len(part))
            yield f"packet {number} {what}", data[:start] + bytes(part) + data[end:]


def jpeg_2000_tiles(**options: Any) -> Stream:
    data = openjpeg(gray(), tile_size=(64, 64), **options)
    forms = tuple(retiled(data, (0, 1, 16, 32, 63, 65, 70, 79, 100, 127, 128, 160, 1000, 0xFFFFFFFF)))
    return Stream(SYNTAX + "4.90", data, tuple(tile_parts(data)), described(gray()), forms)


def jpeg_2000_packets(values: np.ndarray, **options: Any) -> Stream:
    data = openjpeg(values, plt=True, **{"mct": 1, **options})
    forms = (*packets_cut(data, keep_lengths=True), *packets_cut(data, keep_lengths=False))
    label = {"PhotometricInterpretation": "YBR_RCT"} if values.ndim == 3 and options.get("mct", 1) else {}
    return Stream(SYNTAX + "4.90", data, (), described(values, **label), forms)


def htj2k(**options: Any) -> Stream:
    data = imagecodecs.htj2k_encode(gray(), **options)
    parts = tile_parts(data)
    forms = tuple(retiled(data, (1, 63, 65, 70, 128, 1000))) if "tile" in options else ()
    return Stream(SYNTAX + "4.201", data, tuple(parts), described(gray()), forms)


# JPEG and JPEG-LS -----------------------------------------------------------------------------------------------------


def libjpeg(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", **{"quality": 90, "subsampling": 0, **options})
    return buffer.getvalue()


def scans(data: bytes) -> list[tuple[int, int]]:
    """Where the scans are: from SOS to the next marker that is no restart."""
    found = []
    behind = rb"\xff[\x80-\xcf\xd8-\xfe]" if b"\xff\xf7" in data else rb"\xff[\x01-\xcf\xd8-\xfe]"
    for match in re.finditer(rb"\xff\xda\x00[\x06-\x0c]", data):
        following = re.compile(behind).search(data, match.end())
        assert following is not None
        found.append((match.start(), following.start()))
    return found


def restart_intervals(data: bytes) -> list[tuple[int, int]]:
    """Each restart interval of each scan, with the marker behind it (the last: with the one before it)."""
    found = []
    for start, end in scans(data):
        first = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
        marks = [match.start() for match in re.compile(rb"\xff[\xd0-\xd7]").finditer(data, first, end)]
        found += pairwise([first, *(mark + 2 for mark in marks)])
        found.append((marks[-1], end))
    return found


def jpeg(values: np.ndarray, *, by_scans: bool = False, **options: Any) -> Stream:
    data = libjpeg(values, **options)
    units = scans(data) if by_scans else restart_intervals(data)
    label = {"PhotometricInterpretation": "YBR_FULL_422"} if values.ndim == 3 else {}
    return Stream(SYNTAX + "4.50", data, tuple(units), described(values, **label))


def segment(data: bytes, marker: int) -> bytes:
    """The first marker segment of its kind."""
    at = data.index(bytes((0xFF, marker)))
    return data[at : at + 2 + struct.unpack_from(">H", data, at + 2)[0]]


def one_scan_per_component(planes: list[bytes], frame_marker: int) -> bytes:
    """Images of one component each as an image of three components, each in a scan of its own."""
    frame = bytearray(segment(planes[0], frame_marker))
    specifications = b"".join(bytes((number, *frame[11:13])) for number in (1, 2, 3))
    frame[2:4], frame[9:] = struct.pack(">H", 17), b"\x03" + specifications
    start = planes[0].index(bytes((0xFF, frame_marker)))
    parts = [planes[0][:start], bytes(frame)]
    tables = planes[0][start + len(segment(planes[0], frame_marker)) : scans(planes[0])[0][0]]
    parts.append(tables)
    for number, plane in enumerate(planes, 1):
        first, end = scans(plane)[0]
        scan = bytearray(plane[first:end])
        scan[5] = number
        parts.append(bytes(scan))
    return b"".join(parts) + b"\xff\xd9"


def in_bands(bands: list[bytes], frame_marker: int, rows: int, interval: int) -> bytes:
    """Images of some rows each as the restart intervals of one image."""
    first, end = scans(bands[0])[0]
    head = bytearray(bands[0][:first])
    struct.pack_into(">H", head, head.index(bytes((0xFF, frame_marker))) + 5, rows)
    parts = [bytes(head), b"\xff\xdd\x00\x04" + struct.pack(">H", interval)]
    coded = []
    for band in bands:
        start, end = scans(band)[0]
        coded.append(band[start + 2 + struct.unpack_from(">H", band, start + 2)[0] : end])
    parts.append(bands[0][first : first + 2 + struct.unpack_from(">H", bands[0], first + 2)[0]])
    for number, interval_data in enumerate(coded):
        parts += [bytes((0xFF, 0xD0 + (number - 1) % 8))] if number else []
        parts.append(interval_data)
    return b"".join(parts) + b"\xff\xd9"


def jpeg_components() -> Stream:
    data = one_scan_per_component([libjpeg(colour()[..., i]) for i in range(3)], 0xC0)
    label = {"PhotometricInterpretation": "YBR_FULL"}
    return Stream(SYNTAX + "4.50", data, tuple(scans(data)), described(colour(), **label))


def lossless_bands() -> Stream:
    """All bands alike, so that one Huffman table serves them."""
    band = deep()[:16]
    values = np.tile(band, (10, 1))
    encoded = imagecodecs.jpeg8_encode(band, lossless=True, bitspersample=16)
    data = in_bands([encoded] * 10, 0xC3, len(values), 16 * COLUMNS)
    return Stream(SYNTAX + "4.70", data, tuple(restart_intervals(data)), described(values))


def pieces(start: int, end: int, count: int) -> tuple[tuple[int, int], ...]:
    edges = [start + (end - start) * i // count for i in range(count + 1)]
    return tuple(pairwise(edges))


def lossless(values: np.ndarray) -> Stream:
    """The scan, and pieces of its entropy-coded data: the lines that the frame header announces."""
    rgb = {"colorspace": "RGB", "outcolorspace": "RGB"} if values.ndim == 3 else {}
    data = imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=8 * values.itemsize, **rgb)
    (start, end) = scans(data)[0]
    return Stream(SYNTAX + "4.70", data, ((start, end), *pieces(start + 20, end, 12)), described(values))


def twelve_bits() -> Stream:
    data = imagecodecs.jpeg8_encode(deep(), level=95, bitspersample=12)
    elements = described(deep(), BitsStored=12, HighBit=11)
    return Stream(SYNTAX + "4.51", data, tuple(scans(data)), elements)


def jpeg_ls_bands() -> Stream:
    bands = [imagecodecs.jpegls_encode(deep()[start : start + 16]) for start in range(0, ROWS, 16)]
    data = in_bands(bands, 0xF7, ROWS, 16)
    return Stream(SYNTAX + "4.80", data, tuple(restart_intervals(data)), described(deep()))


def jpeg_ls_components() -> Stream:
    data = one_scan_per_component([imagecodecs.jpegls_encode(colour()[..., i]) for i in range(3)], 0xF7)
    return Stream(SYNTAX + "4.80", data, tuple(scans(data)), described(colour()))


def jpeg_ls(values: np.ndarray) -> Stream:
    data = imagecodecs.jpegls_encode(values)
    (start, end) = scans(data)[0]
    return Stream(SYNTAX + "4.80", data, ((start, end), *pieces(start + 20, end, 12)), described(values))


# RLE, deflate, JPEG XL ------------------------------------------------------------------------------------------------


def rle(values: np.ndarray) -> Stream:
    """Segments removed and doubled, with the header as it was and with one that says so."""
    planes = values.reshape(ROWS * COLUMNS, -1).view(np.uint8)
    order = np.arange(planes.shape[1]).reshape(-1, values.itemsize)[:, ::-1].ravel()
    segments = [imagecodecs.packbits_encode(np.ascontiguousarray(planes[:, i]).tobytes()) for i in order]
    segments = [s + b"\0" * (len(s) % 2) for s in segments]

    def framed(chosen: list[bytes]) -> bytes:
        offsets = list(accumulate([64, *(len(s) for s in chosen[:-1])]))[: len(chosen)]
        return struct.pack("<16I", len(chosen), *offsets, *[0] * (15 - len(offsets))) + b"".join(chosen)

    data = framed(segments)
    units = tuple(pairwise(accumulate([64, *(len(s) for s in segments)])))
    forms = []
    for number in range(len(segments)):
        forms.append((f"segment {number} removed", framed(segments[:number] + segments[number + 1 :])))
        forms.append((f"segment {number} doubled", framed(segments[: number + 1] + segments[number:])))
    return Stream(SYNTAX + "5", data, units, described(values), tuple(forms))


def flushed(parts: list[bytes]) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """Deflated parts, each one in blocks that refer to no other part."""
    packer = zlib.compressobj(wbits=-15)
    packed = [packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH) for part in parts[:-1]]
    packed.append(packer.compress(parts[-1]) + packer.flush())
    return b"".join(packed), tuple(pairwise(accumulate([0, *(len(p) for p in packed)])))


def deflated(values: np.ndarray) -> Stream:
    raw = values.tobytes()
    data, units = flushed([raw[i : i + len(raw) // 8] for i in range(0, len(raw), len(raw) // 8)])
    return Stream(SYNTAX + "8.1", data, units, described(values))


def jpeg_xl(values: np.ndarray, **options: Any) -> Stream:
    """Pieces of the frame's sections."""
    data = imagecodecs.jpegxl_encode(values, usecontainer=False, **{"lossless": True, **options})
    label = {"PhotometricInterpretation": "RGB"} if values.ndim == 3 else {}
    units = (*pieces(40, len(data), 16), (len(data) - 40, len(data)), (len(data) - 3, len(data)))
    return Stream(SYNTAX + "4.110", data, units, described(values, **label))


def jpeg_xl_parts() -> Stream:
    """A container whose codestream is in boxes ``jxlp``."""
    bare = imagecodecs.jpegxl_encode(gray(), lossless=True)
    assert bare[:2] == b"\xff\x0a"
    parts = [bare[start:end] for start, end in pieces(0, len(bare), 5)]

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    boxes = [b"\0\0\0\x0cJXL \r\n\x87\n", box(b"ftyp", b"jxl \0\0\0\0jxl ")]
    boxes += [
        box(b"jxlp", struct.pack(">I", number | (number == len(parts) - 1) << 31) + part)
        for number, part in enumerate(parts)
    ]
    edges = list(accumulate([0, *(len(b) for b in boxes)]))
    return Stream(SYNTAX + "4.110", b"".join(boxes), tuple(pairwise(edges))[2:], described(gray()))


# Video ----------------------------------------------------------------------------------------------------------------


def encoded_video(codec: str, form: str, options: dict[str, str], rows: int, columns: int) -> bytes:
    import av

    buffer = io.BytesIO()
    buffer.name = f"stream.{form}"
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = columns, rows, "yuv420p"
        stream.codec_context.thread_count = 1
        base = np.tile(colour(), (-(-rows // ROWS), -(-columns // COLUMNS), 1))[:rows, :columns]
        for number in range(PICTURES):
            image = np.ascontiguousarray(np.roll(base, 5 * number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def video(syntax: str, codec: str, form: str, options: dict[str, str]) -> Stream:
    """Slices (NAL units of H.264 and HEVC, slices of MPEG-2) as units."""
    rows, columns = ROWS // 2, COLUMNS // 2
    data = encoded_video(codec, form, options, rows, columns)
    starts = [match.start() for match in re.finditer(b"\0\0\1", data)]
    starts = [start - (start > 0 and data[start - 1] == 0) for start in starts]
    is_slice = {
        "h264": lambda head: head & 31 in {1, 5},
        "hevc": lambda head: head >> 1 & 63 < 32,
        "mpeg2video": lambda head: 1 <= head <= 0xAF,
    }[form]
    units = [
        (start, end)
        for start, end in pairwise([*starts, len(data)])
        if is_slice(data[data.index(b"\0\0\1", start) + 3])
    ]
    elements = described(
        colour()[:rows, :columns],
        PhotometricInterpretation="YBR_PARTIAL_420",
        NumberOfFrames=PICTURES,
        FrameTime="40",
    )
    return Stream(SYNTAX + syntax, data, tuple(units), elements)
