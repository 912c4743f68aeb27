"""Completeness of a compressed frame: every unit that its own headers announce is there once, in its order.

Contract: `check_completeness` reads markers, tables and packet headers, never samples. It runs before a decoder, since
decoders fill what is missing with black or gray and report success. Units are scans and restart intervals (JPEG,
JPEG-LS), tiles, tile-parts and packets (JPEG 2000, HTJ2K), and the parts of a container and the sections of a frame
(JPEG XL). The cost is linear in the bytes of the frame and bounded by its number of samples.

Must never: decode, trust a length beyond the bytes that are there, or refuse what the codec's standard permits.

Modules: `jpeg` (JPEG, JPEG-LS), `jpeg_2000` (tiles and tile-parts), `packets` (packets of one tile), `jpeg_xl`.

    jpeg       scans and restart intervals
    jpeg_2000  tiles and tile-parts
    packets    packets of JPEG 2000 tiles
    jpeg_xl    boxes and sections
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.frames.codestream import Codec
from exporter.frames.completeness.jpeg import check_jpeg
from exporter.frames.completeness.jpeg_2000 import check_jpeg_2000
from exporter.frames.completeness.jpeg_xl import check_jpeg_xl

if TYPE_CHECKING:
    from exporter.frames.codestream import Codestream


def check_completeness(data: bytes, header: Codestream) -> tuple[str, ...]:
    """Check that the units which a codestream announces are there.

    Args:
        data: The codestream.
        header: What `sniff` read from it.

    Returns:
        What is odd or left out by the writer and does not make the samples wrong.

    Raises:
        CorruptPixels: A unit is missing, is there twice, or is not in its order.
    """
    if header.codec is Codec.JPEG_2000:
        return check_jpeg_2000(data)
    if header.codec is Codec.JPEG_XL:
        return check_jpeg_xl(data)
    return check_jpeg(data, header)


__all__ = ["check_completeness"]
