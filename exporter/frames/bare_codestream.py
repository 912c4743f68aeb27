"""Codestreams without what pixels do not need: comments, application data, thumbnails, bytes behind their end.

Contract: `bare_codestream` returns a codestream that decodes to the same samples, bit by bit, as the given one, or None
where that cannot be said, such as of codestreams in a container, and of JPEG XL, which may hold further channels.

Source: ITU-T T.81 B.1, B.2 (JPEG), T.87 A.1, C.2 (JPEG-LS), T.800 A.2, A.4 (JPEG 2000), T.871 10.1 (JFIF), T.872 6.5.3
(Adobe).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol

from exporter.frames.codestream import Codec

if TYPE_CHECKING:
    from exporter.frames.codestream import Codestream

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_COM: Final = 0xFE
_APPLICATION: Final = range(0xE0, 0xF0)
_SCAN_ENDS: Final = {
    Codec.JPEG: re.compile(rb"\xff[^\0\xd0-\xd7\xff]"),
    Codec.JPEG_LS: re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]"),
}
"""The first marker behind entropy-coded data, in which FF is followed by 0, or in JPEG-LS by a byte below 80."""
_JFIF: Final = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_ADOBE: Final = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
_J2K_SOC, _J2K_SOT, _J2K_SOD, _J2K_EOC, _J2K_COM = b"\xff\x4f", b"\xff\x90", b"\xff\x93", b"\xff\xd9", b"\xff\x64"
_SOT_BYTES: Final = 12


class BareFrames(Protocol):
    """Frames that give their codestreams with nothing but pixels."""

    def bare(self, index: int) -> bytes | None:
        """The codestream of one frame without comments and application data; None where it cannot be given."""
        ...


def bare_codestream(data: bytes, header: Codestream) -> bytes | None:
    """A codestream with nothing but what its samples need; None where it cannot be had.

    Args:
        data: The codestream.
        header: What `sniff` read from it.
    """
    if header.codec is Codec.JPEG_2000:
        return _bare_jpeg_2000(data)
    return _bare_jpeg(data, header) if header.codec in _SCAN_ENDS else None


def _bare_jpeg(data: bytes, header: Codestream) -> bytes | None:
    """JPEG and JPEG-LS; the marks that say how colours are coded are written anew."""
    parts, at, size = [data[:2]], 2, len(data)
    while at + 4 <= size and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        end = at + 2 + (data[at + 2] << 8 | data[at + 3])
        if marker < 0xC0 or _SOI - 8 <= marker <= _EOI or end > size:
            break
        if marker == _SOS:
            found = _SCAN_ENDS[header.codec].search(data, end)
            end = found.start() if found else size
        if marker in _APPLICATION:
            mark = _colour_mark(data[at:end])
            if mark is None:
                return None
            parts.append(mark)
        elif marker != _COM:
            parts.append(data[at:end])
        at = end
    is_whole = data[at : at + 2] == b"\xff\xd9" and len(parts) > 1
    return b"".join((*parts, b"\xff\xd9")) if is_whole else None


def _colour_mark(segment: bytes) -> bytes | None:
    """What stands for an application segment: nothing, or the mark by which decoders choose colours.

    None where decoders change values by it.
    """
    content = segment[4:]
    if segment[1] == 0xE0 and content.startswith(b"JFIF\0"):
        return _JFIF
    if segment[1] == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:
        return _ADOBE + content[11:12]
    return None if segment[1] == 0xE8 and content.startswith(b"mrfx") else b""  # HP's colour transform of JPEG-LS


def _bare_jpeg_2000(data: bytes) -> bytes | None:
    """A bare codestream without the comments of its main header, ended behind its last tile-part."""
    if not data.startswith(_J2K_SOC):
        return None
    parts, at = [_J2K_SOC], 2
    while data[at : at + 2] != _J2K_SOT:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] != 0xFF or end + 2 > len(data) or end < at + 4:
            return None
        parts.append(b"" if data[at : at + 2] == _J2K_COM else data[at:end])
        at = end
    while data[at : at + 2] == _J2K_SOT:
        end = at + int.from_bytes(data[at + 6 : at + 10], "big")
        if end <= at + _SOT_BYTES or end > len(data) or not _is_bare_tile_part(data, at + _SOT_BYTES, end):
            return None
        parts.append(data[at:end])
        at = end
    return b"".join((*parts, _J2K_EOC))


def _is_bare_tile_part(data: bytes, at: int, end: int) -> bool:
    """Whether the header of a tile-part holds no comment: without one, its length would be another."""
    while data[at : at + 2] != _J2K_SOD:
        if data[at] != 0xFF or data[at : at + 2] == _J2K_COM or at + 4 > end:
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True
