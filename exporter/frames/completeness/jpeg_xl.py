"""Parts of a JPEG XL container, and the sections of the frame in it.

Contract: `check_jpeg_xl` joins the codestream from its boxes and adds up the table of contents of a single frame: what
is behind the last section, or beyond the data, is an error. Headers that are not followed (ICC profiles, permuted
tables, several frames) give no verdict: the decoder finds a missing section itself, by the final state of its entropy
coder.

Source: ISO/IEC 18181-1 annexes C.2, D, F.1 to F.3 (frame header, TOC); 18181-2 9.8, 9.9 (boxes jxlc, jxlp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from exporter.errors import CorruptPixels
from exporter.frames.codestream import boxes_of
from exporter.frames.jpeg_xl_bits import BIT_DEPTH, ENUM, EXTRA_CHANNELS, BitsNotFollowed, JpegXlBits

_MOST_BOXES: Final = 1 << 16
_LAST_PART: Final = 0x80000000
_SECTION: Final = ((0, 10), (1024, 14), (17408, 22), (4211712, 30))
_PADDING: Final = 1
"""A byte that makes the fragment's length even (PS3.5 A.4)."""


def check_jpeg_xl(data: bytes) -> tuple[str, ...]:
    """Check the boxes of a container and the sections of a frame.

    Returns:
        What follows the frame.

    Raises:
        CorruptPixels: A part or a section is missing, is there twice, or is not in its order.
    """
    codestream = data if data[:2] == b"\xff\x0a" else _joined(data)
    try:
        end = _frame_end(codestream)
    except BitsNotFollowed:
        return ()
    if end > len(codestream):
        raise CorruptPixels(f"the sections of the JPEG XL frame need {end} bytes, {len(codestream)} are there")
    behind = codestream[end:]
    if any(behind):
        raise CorruptPixels(
            f"{len(behind)} bytes follow the last section of the JPEG XL frame: sections are there twice"
        )
    return ("zero bytes follow the JPEG XL frame: left out",) if len(behind) > _PADDING else ()


def _joined(data: bytes) -> bytes:
    """The codestream in the boxes of a container.

    Raises:
        CorruptPixels: A part is missing, is there twice, or is cut.
    """
    parts: list[bytes] = []
    whole = ended = False
    for kind, content, end, stop in boxes_of(data, 0, len(data), most=_MOST_BOXES):
        if kind in {b"jxlc", b"jxlp"} and stop > end:
            raise CorruptPixels("a box with the codestream of the JPEG XL is cut")
        if kind == b"jxlc":
            if whole or parts:
                raise CorruptPixels("the JPEG XL container holds more than one codestream")
            parts, whole, ended = [data[content:end]], True, True
        elif kind == b"jxlp":
            number = int.from_bytes(data[content : content + 4], "big")
            if whole or ended or number & ~_LAST_PART != len(parts):
                raise CorruptPixels(
                    f"part {number & ~_LAST_PART} of the JPEG XL codestream stands where {len(parts)} is due"
                )
            parts.append(data[content + 4 : end])
            ended = bool(number & _LAST_PART)
    if not ended:
        raise CorruptPixels("the last part of the JPEG XL codestream is missing")
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Image:
    """Properties of the image that its frame headers depend on."""

    width: int
    height: int
    xyb: bool


def _frame_end(data: bytes) -> int:
    """Offset of the end of the only frame of a codestream, in bytes."""
    bits = JpegXlBits(data, 2)
    image = _image(bits)
    bits.align()
    sections = _sections(bits, image)
    bits.refuse()  # a permuted table of contents
    bits.align()
    total = sum(bits.choice(_SECTION) for _ in range(sections))
    bits.align()
    return bits.position // 8 + total


def _image(bits: JpegXlBits) -> _Image:
    """Size header and image metadata, up to the first frame (D.1 to D.3)."""
    height, width = bits.size()
    xyb = True
    if not bits.read(1):  # all_default
        extra_fields = bits.read(1)
        if extra_fields:
            bits.read(3)  # orientation
            if bits.read(1):
                bits.size()  # intrinsic size
            bits.refuse()  # preview
            bits.refuse()  # animation
        bits.refuse()  # floating point samples
        bits.choice(BIT_DEPTH)
        bits.read(1)  # modular_16bit_buffers
        if bits.choice(EXTRA_CHANNELS):
            raise BitsNotFollowed  # extra channels
        xyb = bool(bits.read(1))
        _skip_colour_encoding(bits)
        if extra_fields and not bits.read(1):
            raise BitsNotFollowed  # tone mapping
        if bits.long():
            raise BitsNotFollowed  # extensions
    if not bits.read(1):  # default_m
        raise BitsNotFollowed
    return _Image(width, height, xyb)


def _skip_colour_encoding(bits: JpegXlBits) -> None:
    """Annex E.2."""
    if bits.read(1):
        return
    bits.refuse()  # an ICC profile
    space = bits.choice(ENUM)
    if space != 2 and bits.choice(ENUM) == 2:
        raise BitsNotFollowed  # a white point of its own
    if space not in {1, 2} and bits.choice(ENUM) == 2:
        raise BitsNotFollowed  # primaries of its own
    if space != 2:
        if bits.read(1):
            bits.read(24)  # gamma
        else:
            bits.choice(ENUM)
    bits.choice(ENUM)  # rendering intent


def _sections(bits: JpegXlBits, image: _Image) -> int:
    """Number of entries in the table of contents, from the frame header (F.2, F.3.1)."""
    shift, upsampling, passes = (1, 1, 1) if bits.read(1) else _division(bits, image)
    width, height, side = -(-image.width // upsampling), -(-image.height // upsampling), 128 << shift
    groups = -(-width // side) * -(-height // side)
    if groups == passes == 1:
        return 1
    return 2 + -(-width // (8 * side)) * -(-height // (8 * side)) + groups * passes


def _division(bits: JpegXlBits, image: _Image) -> tuple[int, int, int]:
    """(group_size_shift, upsampling, number of passes) of a frame header that is not all_default."""
    shift, upsampling = 1, 1
    if bits.read(2):
        raise BitsNotFollowed  # not a regular frame
    modular = bits.read(1)
    if bits.long() & 32:
        raise BitsNotFollowed  # the DC is another frame
    if not image.xyb and bits.read(1):
        bits.read(6)  # subsampling of YCbCr
    upsampling = bits.choice(((1, 0), (2, 0), (4, 0), (8, 0)))
    if modular:
        shift = bits.read(2)
    elif image.xyb:
        bits.read(6)  # quantisation of X and B
    passes = _passes(bits)
    bits.refuse()  # a size of its own
    # Blending, more frames, a name.
    if bits.choice(((0, 0), (1, 0), (2, 0), (3, 2))) or not bits.read(1) or bits.read(2):
        raise BitsNotFollowed
    _skip_restoration(bits, modular=bool(modular))
    if bits.long():
        raise BitsNotFollowed  # extensions
    return shift, upsampling, passes


def _passes(bits: JpegXlBits) -> int:
    """Number of passes (F.2, table F.6)."""
    passes = bits.choice(((1, 0), (2, 0), (3, 0), (4, 3)))
    if passes > 1:
        downsamplings = bits.choice(((0, 0), (1, 0), (2, 0), (3, 1)))
        bits.read(2 * (passes - 1))
        for _ in range(downsamplings):
            bits.choice(((1, 0), (2, 0), (4, 0), (8, 0)))
        for _ in range(downsamplings):
            bits.choice(((0, 0), (1, 0), (2, 0), (0, 3)))
    return passes


def _skip_restoration(bits: JpegXlBits, *, modular: bool) -> None:
    """Restoration filters (annex J.1)."""
    if bits.read(1):
        return
    if bits.read(1):
        bits.refuse()  # weights of its own
    if bits.read(2):
        if not modular:
            bits.refuse()  # sharpness
        bits.refuse()  # weights
        bits.refuse()  # sigma
        if modular:
            bits.read(16)
    if bits.long():
        raise BitsNotFollowed
