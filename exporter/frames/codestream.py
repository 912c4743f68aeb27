"""Headers of compressed frames, read from the first bytes before any decoder sees them.

Contract: `sniff` recognises JPEG (all processes), JPEG-LS, JPEG 2000 / HTJ2K (bare or in JP2) and JPEG XL (bare or in a
container) by their own markers and returns size, components and precision; every length is checked against the bytes
that are there. RLE and deflated frames have no header with a size.

Must never: decode, allocate by what a header claims, or trust the DICOM header.

Source: ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS), T.800 A and I (JPEG 2000), T.814 (HTJ2K), ISO/IEC 18181-1 and -2
(JPEG XL).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from exporter.errors import CorruptPixels
from exporter.frames.jpeg_xl_bits import BIT_DEPTH, ENUM, EXTRA_CHANNELS, JpegXlBits


class Codec(StrEnum):
    """Codestreams that are recognised by their bytes."""

    JPEG = "JPEG"
    JPEG_LS = "JPEG-LS"
    JPEG_2000 = "JPEG 2000"
    JPEG_XL = "JPEG XL"


@dataclass(frozen=True, slots=True)
class Codestream:
    """Size and colour of one compressed frame, as its own header says."""

    codec: Codec
    rows: int
    columns: int
    components: int
    precision: int
    """Bits per sample, 1 to 38."""
    signed: bool = False
    lossless_process: bool = False
    """JPEG: one of the lossless processes (SOF3), where no colour transform is part of the codec."""
    jfif: bool = False
    """JPEG: has an APP0 JFIF marker, which demands YCbCr of three components."""
    adobe_transform: int | None = None
    """JPEG: colour transform of the APP14 Adobe marker: 0 none (RGB), 1 YCbCr."""
    component_ids: tuple[int, ...] = ()
    subsampled: bool = False
    """Whether components differ in size."""
    multiple_component_transform: bool = False
    """JPEG 2000: components are decorrelated (RCT or ICT); decoders undo it."""
    colour_space: int | None = None
    """JP2: EnumCS of the colour specification box: 16 sRGB, 17 gray, 18 sYCC."""
    uniform: bool = True
    """Whether all components have one precision and one sign."""
    tiles: int = 1
    """JPEG 2000: number of tiles in the tile grid, 0 without a grid."""
    xyb: bool = False
    """JPEG XL: colours are coded as XYB, as lossy encoders do."""
    frame_header: int = 0
    """JPEG: offset of the frame header's content."""


_JPEG_LS_SOF: Final = 0xF7
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})


def sniff(data: bytes) -> Codestream | None:
    """The header of the codestream in `data`, or None where its beginning is that of no known codestream.

    Raises:
        CorruptPixels: It begins like a codestream and its header is damaged or cut.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:4] == b"\xff\x4f\xff\x51":
        return _jpeg_2000(data, 0, None)
    if data[:12] == b"\x00\x00\x00\x0cjP  \r\n\x87\n" or data[:12] == b"\x00\x00\x00\x0cjP\x20\x20\x0d\x0a\x87\x0a":
        return _jp2(data)
    if data[:2] == b"\xff\x0a":
        return _jpeg_xl(data)
    if data[:12] == b"\x00\x00\x00\x0cJXL \r\n\x87\n":
        return _jpeg_xl_container(data)
    return None


def starts_codestream(head: bytes) -> bool:
    """Whether `head` (12 bytes or more) is how a codestream begins."""
    return (
        head[:3] == b"\xff\xd8\xff"
        or head[:4] == b"\xff\x4f\xff\x51"
        or head[:2] == b"\xff\x0a"
        or head[:8] in {b"\x00\x00\x00\x0cjP  ", b"\x00\x00\x00\x0cJXL "}
    )


def _u16(data: bytes, offset: int) -> int:
    part = data[offset : offset + 2]
    if len(part) < 2:
        raise CorruptPixels("the header of the codestream is cut")
    return part[0] << 8 | part[1]


def _u32(data: bytes, offset: int) -> int:
    return _u16(data, offset) << 16 | _u16(data, offset + 2)


def _jpeg(data: bytes) -> Codestream:
    """JPEG and JPEG-LS: markers up to the frame header (T.81 B.2.2, T.87 C.2.2)."""
    offset, size = 2, len(data)
    jfif, adobe = False, None
    while True:
        while offset < size and data[offset] == 0xFF and offset + 1 < size and data[offset + 1] == 0xFF:
            offset += 1  # fill bytes
        if offset + 4 > size or data[offset] != 0xFF:
            raise CorruptPixels("reading the JPEG header failed: no frame header (SOF) before the data end")
        marker = data[offset + 1]
        if marker in _STANDALONE:
            offset += 2
            continue
        if marker in {0xD9, 0xDA}:
            raise CorruptPixels("reading the JPEG header failed: image data without a frame header (SOF)")
        length = _u16(data, offset + 2)
        body = offset + 4
        if length < 2 or offset + 2 + length > size:
            raise CorruptPixels("reading the JPEG header failed: a marker segment is longer than the data")
        if marker == 0xE0 and data[body : body + 5] == b"JFIF\0":
            jfif = True
        elif marker == 0xEE and data[body : body + 5] == b"Adobe" and length >= 14:
            adobe = data[body + 11]
        elif marker == _JPEG_LS_SOF or (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}):
            return _jpeg_frame(data, body, length - 2, marker, jfif=jfif, adobe=adobe)
        offset += 2 + length


def _jpeg_frame(data: bytes, body: int, length: int, marker: int, *, jfif: bool, adobe: int | None) -> Codestream:
    """The frame header at `body`."""
    if length < 6:
        raise CorruptPixels("reading the JPEG header failed: the frame header is cut")
    components = data[body + 5]
    if length < 6 + 3 * components or components == 0:
        raise CorruptPixels("reading the JPEG header failed: the frame header is cut")
    specifications = [data[body + 6 + 3 * i : body + 9 + 3 * i] for i in range(components)]
    rows = _u16(data, body + 1)
    if rows == 0:  # T.81 B.2.5: the number of lines follows the first scan in a DNL segment
        at = data.find(b"\xff\xdc\x00\x04", body)
        rows = _u16(data, at + 4) if at >= 0 else 0
    return Codestream(
        codec=Codec.JPEG_LS if marker == _JPEG_LS_SOF else Codec.JPEG,
        rows=rows,
        columns=_u16(data, body + 3),
        components=components,
        precision=data[body],
        lossless_process=marker in {0xC3, 0xC7, 0xCB, 0xCF},
        jfif=jfif,
        adobe_transform=adobe,
        component_ids=tuple(s[0] for s in specifications),
        subsampled=len({s[1] for s in specifications}) > 1,
        frame_header=body,
    )


def boxes_of(data: bytes, offset: int, end: int, *, most: int = 256) -> list[tuple[bytes, int, int, int]]:
    """Boxes in `data`, at most `most`.

    Returns:
        (type, beginning of the content, end of what is there, end that the box states); a last box may state an end
        beyond the data.
    """
    found: list[tuple[bytes, int, int, int]] = []
    while offset + 8 <= end and len(found) < most:
        length, kind = _u32(data, offset), data[offset + 4 : offset + 8]
        content = offset + 8
        if length == 1:
            length = _u32(data, offset + 8) << 32 | _u32(data, offset + 12)
            content = offset + 16
        stop = end if length == 0 else offset + length
        if stop < content:
            raise CorruptPixels("the box structure of the codestream's container is damaged")
        found.append((kind, content, min(stop, end), stop))
        offset = stop
    return found


def _jp2(data: bytes) -> Codestream:
    """The codestream in a JP2 file (T.800 I.4); DICOM wants it bare, and some writers keep the boxes."""
    colour_space: int | None = None
    for kind, content, end, _ in boxes_of(data, 0, len(data)):
        if kind == b"jp2h":
            for inner, at, _, _ in boxes_of(data, content, end):
                if inner == b"colr" and colour_space is None and data[at : at + 1] == b"\x01":
                    colour_space = _u32(data, at + 3)
        elif kind == b"jp2c":
            return _jpeg_2000(data, content, colour_space)
    raise CorruptPixels("reading the JP2 header failed: it holds no codestream")


def _jpeg_2000(data: bytes, offset: int, colour_space: int | None) -> Codestream:
    """SIZ and COD of the main header (T.800 A.5.1, A.6.1)."""
    if data[offset : offset + 4] != b"\xff\x4f\xff\x51":
        raise CorruptPixels("reading the JPEG 2000 header failed: no SIZ marker")
    siz = offset + 6
    components = _u16(data, siz + 34)
    if components == 0 or _u16(data, offset + 4) < 38 + 3 * components:
        raise CorruptPixels("reading the JPEG 2000 header failed: the SIZ segment is cut")
    table = data[siz + 36 : siz + 36 + 3 * components]
    if len(table) < 3 * components:
        raise CorruptPixels("reading the JPEG 2000 header failed: the SIZ segment is cut")
    depths, steps_x, steps_y = table[0::3], table[1::3], table[2::3]
    if 0 in steps_x or 0 in steps_y:
        raise CorruptPixels("reading the JPEG 2000 header failed: a component has no sampling step")
    left, top = _u32(data, siz + 10), _u32(data, siz + 14)
    columns = -(-_u32(data, siz + 2) // steps_x[0]) - -(-left // steps_x[0])
    rows = -(-_u32(data, siz + 6) // steps_y[0]) - -(-top // steps_y[0])
    if rows <= 0 or columns <= 0:
        raise CorruptPixels("reading the JPEG 2000 header failed: the image has no area")
    return Codestream(
        codec=Codec.JPEG_2000,
        rows=rows,
        columns=columns,
        components=components,
        precision=(depths[0] & 0x7F) + 1,
        signed=bool(depths[0] & 0x80),
        subsampled=len(set(steps_x)) > 1 or len(set(steps_y)) > 1,
        multiple_component_transform=_has_component_transform(data, offset + 4 + _u16(data, offset + 4)),
        colour_space=colour_space,
        uniform=len(set(depths)) == 1,
        tiles=_tiles(data, siz),
    )


def _tiles(data: bytes, siz: int) -> int:
    """Number of tiles (T.800 equation B-5)."""
    right, bottom, _, _, width, height, left, top = (_u32(data, siz + 2 + 4 * i) for i in range(8))
    return -(-(right - left) // width) * -(-(bottom - top) // height) if width and height else 0


def _has_component_transform(data: bytes, offset: int) -> bool:
    """SGcod's multiple component transformation of the COD segment."""
    while offset + 4 <= len(data):
        marker = _u16(data, offset)
        if marker == 0xFF52:
            return data[offset + 8 : offset + 9] == b"\x01"
        if marker == 0xFF90 or marker < 0xFF00:  # the first tile-part, or no marker at all
            break
        offset += 2 + _u16(data, offset + 2)
    raise CorruptPixels("reading the JPEG 2000 header failed: no COD segment")


def without_trailing_segments(data: bytes) -> bytes | None:
    """The JPEG 2000 codestream ended behind its last tile-part; None where it ends there, or a tile-part is cut.

    Some writers pad with a comment segment between the last tile-part and the end marker, which T.800 A.4 forbids.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    offset = start + 2
    while data[offset : offset + 2] != b"\xff\x90":  # marker segments of the main header
        if offset + 4 > len(data) or data[offset] != 0xFF:
            return None
        offset += 2 + _u16(data, offset + 2)
    while data[offset : offset + 2] == b"\xff\x90":  # tile-parts, by their lengths (T.800 A.4.2)
        length = _u32(data, offset + 6) if offset + 10 <= len(data) else 0
        if length < 14 or offset + length > len(data):
            return None
        offset += length
    ends_there = offset + 2 > len(data) or data[offset : offset + 2] == b"\xff\xd9"
    return None if ends_there else data[start:offset] + b"\xff\xd9"


def _jpeg_xl_container(data: bytes) -> Codestream:
    """The codestream header in a JPEG XL container (ISO/IEC 18181-2): box ``jxlc``, or the first ``jxlp``."""
    for kind, content, end, _ in boxes_of(data, 0, len(data)):
        if kind in {b"jxlc", b"jxlp"}:
            start = content + (4 if kind == b"jxlp" else 0)
            if data[start : start + 2] == b"\xff\x0a":
                return _jpeg_xl(data[start : min(end, start + 4096)])
    raise CorruptPixels("reading the JPEG XL header failed: the container holds no codestream")


def _jpeg_xl(data: bytes) -> Codestream:
    """Size header and, of the image metadata, bit depth and colour channels (ISO/IEC 18181-1 D.2, D.3)."""
    bits = JpegXlBits(data, 2)
    rows, columns = bits.size()
    precision, components, xyb = 8, 3, 1
    if not bits.read(1):  # not all_default
        if bits.read(1):  # extra_fields
            bits.read(3)  # orientation
            if bits.read(1):
                bits.size()  # intrinsic size
            if bits.read(1) or bits.read(1):
                raise CorruptPixels("reading the JPEG XL header failed: previews and animations are not frames")
        if bits.read(1):  # floating point samples
            raise CorruptPixels("reading the JPEG XL header failed: floating point samples are not permitted")
        precision = bits.choice(BIT_DEPTH)
        bits.read(1)  # modular_16bit_buffers
        if bits.choice(EXTRA_CHANNELS):
            raise CorruptPixels("reading the JPEG XL header failed: extra channels are not permitted")
        xyb = bits.read(1)
        components = _jpeg_xl_components(bits)
    return Codestream(Codec.JPEG_XL, rows, columns, components, precision, xyb=bool(xyb))


def _jpeg_xl_components(bits: JpegXlBits) -> int:
    """1 where the colour encoding is gray, else 3."""
    if bits.read(1):  # all_default: sRGB
        return 3
    bits.read(1)  # want_icc
    space = bits.choice(ENUM)  # RGB, gray, XYB, unknown
    return 1 if space == 1 else 3
