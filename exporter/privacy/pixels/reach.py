"""How far a hidden pixel changes decoded values of visible ones, by codestream.

Contract: `reach_of` returns the reach of one encoded frame from its markers; None where it is the whole picture.

What it says, with the reason:

- Lossless: each pixel for itself. Native, RLE and deflated frames, JPEG's lossless processes, JPEG-LS with NEAR 0;
  of transfer syntaxes that permit lossless only JPEG 2000 and HTJ2K whose every COD and COC names the 5/3 wavelet, and
  JPEG XL whose colours are not XYB. Native 4:2:2 shares chrominance between two pixels: a block of two.
- JPEG by cosines: coefficients belong to blocks of 8 x 8 samples of one component (T.81 A.3.3), all components together
  to a minimum coded unit. Decoders that smooth subsampled chrominance look one sample beyond the block: a margin of one
  sampling step. Of progressive frames whose scans leave coefficients out, libjpeg guesses them from two blocks on each
  side (`do_block_smoothing`): a margin of two units more.
- JPEG-LS with NEAR above 0 predicts from values it has itself changed, along the whole scan; the wavelets of lossy JPEG
  2000 and the rate that its encoder shares out, and the filters of JPEG XL, know no block: the whole picture.
- Video streams predict from other pictures and filter over block edges: the whole picture (`ladder`).

It is presumed that an encoder quantises a block by what is in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.errors import CorruptPixels
from exporter.frames.codestream import Codec
from exporter.privacy.pixels.area import OWN_PIXEL, Reach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.frames.codestream import Codestream

_BLOCK: Final = 8
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SMOOTHED_UNITS: Final = 2
_LOSSLESS_ONLY: Final = frozenset(
    {
        "1.2.840.10008.1.2.4.90",  # JPEG 2000 (lossless only)
        "1.2.840.10008.1.2.4.92",  # JPEG 2000 part 2 (lossless only)
        "1.2.840.10008.1.2.4.201",  # HTJ2K (lossless only)
        "1.2.840.10008.1.2.4.202",  # HTJ2K with RPCL (lossless only)
        "1.2.840.10008.1.2.4.110",  # JPEG XL lossless
    }
)
_REVERSIBLE: Final = 1
PAIR: Final = Reach(columns=2, rows=1)
"""The reach of native cells sampled 4:2:2."""


def reach_of(data: bytes, header: Codestream, transfer_syntax: str, *, was_lossy: bool) -> Reach | None:
    """The reach of one encoded frame; None where it is the whole picture.

    Args:
        data: The codestream.
        header: What `sniff` read from it.
        transfer_syntax: Of the instance.
        was_lossy: Whether (0028,2110) Lossy Image Compression says that its values are approximate.

    Raises:
        CorruptPixels: Its markers make no sense.
    """
    if header.codec is Codec.JPEG:
        return OWN_PIXEL if header.lossless_process else _jpeg_reach(data, header)
    if header.codec is Codec.JPEG_LS:
        return OWN_PIXEL if all(near == 0 for near in _nears(data, header.frame_header)) else None
    if transfer_syntax not in _LOSSLESS_ONLY or was_lossy:
        return None
    if header.codec is Codec.JPEG_2000:
        return OWN_PIXEL if all(kind == _REVERSIBLE for kind in _wavelets(data)) else None
    return None if header.xyb else OWN_PIXEL


def _jpeg_reach(data: bytes, header: Codestream) -> Reach:
    """Of a JPEG frame header (T.81 B.2.2): sampling factors, and whether the frame is progressive."""
    start = header.frame_header
    factors = [data[start + 7 + 3 * number] for number in range(header.components)]
    across, down = max(factor >> 4 for factor in factors), max(factor & 15 for factor in factors)
    if not across or not down:
        raise CorruptPixels("a JPEG component has no sampling factor")
    columns, rows = _BLOCK * across, _BLOCK * down
    beside_columns, beside_rows = (across, down) if header.subsampled else (0, 0)
    if data[start - 3] in _PROGRESSIVE:
        beside_columns += _SMOOTHED_UNITS * columns
        beside_rows += _SMOOTHED_UNITS * rows
    return Reach(columns, rows, beside_columns, beside_rows)


def _nears(data: bytes, start: int) -> Iterator[int]:
    """NEAR of every scan of a JPEG-LS codestream (T.87 C.2.3); entropy-coded bytes hold no marker (T.87 A.1)."""
    at = data.find(b"\xff\xda", start)
    if at < 0:
        raise CorruptPixels("the JPEG-LS codestream has no scan")
    while at >= 0:
        components = data[at + 4] if at + 4 < len(data) else 0
        near = at + 5 + 2 * components
        if near >= len(data):
            raise CorruptPixels("a JPEG-LS scan header is cut")
        yield data[near]
        at = data.find(b"\xff\xda", near)


def _wavelets(data: bytes) -> Iterator[int]:
    """The transformation of every COD and COC segment, in main header and tile-parts (T.800 A.6.1, A.6.2)."""
    at = data.find(b"\xff\x4f\xff\x51") + 2
    wide = _number(data, at + 4 + 34, 2) > 256  # Csiz: component numbers have two bytes
    part_end = 0
    while at < len(data) and data[at : at + 2] != b"\xff\xd9":
        marker = _number(data, at, 2)
        if marker == 0xFF93:  # SOD: the packets of a tile-part, to its end
            if part_end <= at:
                raise CorruptPixels("a tile-part of the JPEG 2000 codestream makes no sense")
            at = part_end
            continue
        length = _number(data, at + 2, 2)
        if marker < 0xFF00 or length < 2:
            raise CorruptPixels("a marker segment of the JPEG 2000 codestream makes no sense")
        if marker == 0xFF90:  # SOT: the length of the tile-part, 0 for all that is left
            part_end = at + _number(data, at + 6, 4) if _number(data, at + 6, 4) else len(data)
        elif marker == 0xFF52:
            yield _number(data, at + 13, 1)
        elif marker == 0xFF53:
            yield _number(data, at + (11 if wide else 10), 1)
        at += 2 + length


def _number(data: bytes, at: int, size: int) -> int:
    part = data[at : at + size]
    if len(part) < size:
        raise CorruptPixels("the header of the JPEG 2000 codestream is cut")
    return int.from_bytes(part, "big")
