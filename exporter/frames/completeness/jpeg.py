"""Scans and restart intervals of JPEG and JPEG-LS.

Contract: `check_jpeg` walks the markers from the frame header to EOI and compares what the frame header, the scan
headers and DRI announce with what is there. Entropy-coded bytes are searched for markers, never decoded.

Source: ITU-T T.81 A.2 (MCU), B.2 (markers), E.1.4 (restart), G.1.1 (progression); T.87 C.2, C.4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from exporter.errors import CorruptPixels
from exporter.frames.codestream import Codec

if TYPE_CHECKING:
    from exporter.frames.codestream import Codestream

_SOS, _EOI, _DHT, _DRI = 0xDA, 0xD9, 0xC4, 0xDD
_HUFFMAN_DCT: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC5, 0xC6})
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
# T.81 B.1.1.5: in entropy-coded data a zero follows each byte FF. T.87 A.1: the next bit is a zero.
_SCAN_END: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SCAN_END_LS: Final = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_RESTARTS: Final = re.compile(rb"\xff([\xd0-\xd7])")
_EMPTY_INTERVAL: Final = re.compile(rb"\xff[\xd0-\xd7]\xff[\xd0-\xd9]")
_CYCLE: Final = bytes(range(0xD0, 0xD8))


@dataclass(slots=True)
class _Image:
    """Announcements of the markers so far."""

    marker: int
    rows: int
    columns: int
    factors: dict[int, tuple[int, int]]
    """Horizontal and vertical sampling factor by component identifier, in the order of the frame header."""
    interval: int = 0
    """MCUs (JPEG-LS: lines) between restart markers; 0: none."""
    tables: set[int] = field(default_factory=set)
    """Tc and Th (T.81 B.2.4.2) of the Huffman tables that are defined."""
    scanned: set[int] = field(default_factory=set)
    """Components whose one scan was seen; not used for progressive images."""
    precision: dict[int, list[int | None]] = field(default_factory=dict)
    """Progressive: lowest bit sent of each of the 64 coefficients, by component; None: not sent."""
    notes: list[str] = field(default_factory=list)

    @property
    def is_jpeg_ls(self) -> bool:
        return self.marker == 0xF7


def check_jpeg(data: bytes, header: Codestream) -> tuple[str, ...]:
    """Check that each component has its scans, and each scan its restart intervals.

    Returns:
        What a progressive image leaves out although it may, and tables that are missing.

    Raises:
        CorruptPixels: A scan or a restart interval is missing, is there twice, or is not in its order.
    """
    image = _Image(
        marker=data[header.frame_header - 3],
        rows=header.rows,
        columns=header.columns,
        factors=_factors(data, header),
    )
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 2 > len(data):
            raise CorruptPixels("the codestream ends before its end marker (EOI)")
        marker = data[position + 1]
        if marker == 0xFF:  # fill bytes (T.81 B.1.1.2)
            position += 1
            continue
        if marker == _EOI:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if length < 2 or position + 2 + length > len(data):
            raise CorruptPixels("a marker segment of the JPEG codestream is longer than the data")
        segment = data[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == _SOS:
            position = _check_scan(image, segment, data, position)
        elif marker == _DRI:
            image.interval = int.from_bytes(segment, "big")
        elif marker == _DHT:
            _note_tables(image, segment)
    _check_components(image)
    return tuple(dict.fromkeys(image.notes))


def _factors(data: bytes, header: Codestream) -> dict[int, tuple[int, int]]:
    """Sampling factors of the frame header.

    Raises:
        CorruptPixels: A component is specified twice, or has a factor that T.81 does not permit.
    """
    factors = {}
    for index, component in enumerate(header.component_ids):
        both = data[header.frame_header + 7 + 3 * index]
        factors[component] = (both >> 4, both & 15)
    if len(factors) != header.components:
        raise CorruptPixels("the frame header of the JPEG specifies a component twice")
    if not all(1 <= factor <= 4 for pair in factors.values() for factor in pair):
        raise CorruptPixels("the frame header of the JPEG has a sampling factor outside 1 to 4")
    return factors


def _note_tables(image: _Image, segment: bytes) -> None:
    at = 0
    while at + 17 <= len(segment):
        image.tables.add(segment[at])
        at += 17 + sum(segment[at + 1 : at + 17])


def _check_scan(image: _Image, segment: bytes, data: bytes, position: int) -> int:
    """Check one scan whose entropy-coded data begin at `position`.

    Returns:
        Where they end.
    """
    count = segment[0] if segment else 0
    if not 1 <= count <= 4 or len(segment) != 4 + 2 * count:
        raise CorruptPixels("a scan header of the JPEG is damaged")
    components = list(segment[1 : 1 + 2 * count : 2])
    if not all(component in image.factors for component in components) or len(set(components)) != count:
        raise CorruptPixels("a scan of the JPEG names a component that its frame header does not have")
    if image.marker in _PROGRESSIVE:
        _check_progression(image, components, *segment[-3:])
    else:
        for component in components:
            if component in image.scanned:
                raise CorruptPixels(f"the JPEG has more than one scan of component {component}")
            image.scanned.add(component)
    if image.marker in _HUFFMAN_DCT:
        _check_tables(image, segment[2 : 2 + 2 * count : 2], *segment[-3:])
    end = (_SCAN_END_LS if image.is_jpeg_ls else _SCAN_END).search(data, position)
    if end is None:
        raise CorruptPixels("the codestream ends before its end marker (EOI)")
    _check_restarts(image, components, data, position, end.start())
    return end.start()


def _check_tables(image: _Image, selectors: bytes, first: int, _last: int, approximation: int) -> None:
    """Note where a scan names a Huffman table that was not defined: decoders take a typical one (T.81 K.3)."""
    progressive = image.marker in _PROGRESSIVE
    for selector in selectors:
        needed = set()
        if first == 0 and not (progressive and approximation >> 4):
            needed.add(selector >> 4)
        if first > 0 or not progressive:
            needed.add(0x10 | selector & 15)
        if not needed <= image.tables:
            image.notes.append("a scan of the JPEG names a Huffman table that is missing: a typical one is assumed")


def _check_progression(image: _Image, components: list[int], first: int, last: int, approximation: int) -> None:
    """A first scan of coefficients sends what was not sent; each further one adds the next bit (T.81 G.1.1.1)."""
    high, low = approximation >> 4, approximation & 15
    if not first <= last <= 63 or (high and low != high - 1):
        raise CorruptPixels("a scan header of the progressive JPEG is damaged")
    for component in components:
        sent = image.precision.setdefault(component, [None] * 64)
        count = last + 1 - first
        if sent[first : last + 1].count(high or None) != count:
            raise CorruptPixels(
                f"a scan of the progressive JPEG is missing or there twice: coefficients {first} to {last} "
                f"of component {component}"
            )
        if first and sent[0] is None:
            raise CorruptPixels(f"the first scan of component {component} of the progressive JPEG is missing")
        sent[first : last + 1] = [low] * count


def _check_components(image: _Image) -> None:
    if image.marker not in _PROGRESSIVE:
        missing = [component for component in image.factors if component not in image.scanned]
        if missing:
            raise CorruptPixels(f"the JPEG has no scan of component {missing[0]}")
        return
    for component in image.factors:
        sent = image.precision.get(component)
        if sent is None or sent[0] is None:
            raise CorruptPixels(f"the progressive JPEG has no scan of component {component}")
        unsent, rough = sent.count(None), 64 - sent.count(None) - sent.count(0)
        if unsent or rough:
            image.notes.append(
                f"the scans of the progressive JPEG leave out {unsent} of 64 coefficients of component {component} "
                f"and bits of {rough}: fine detail may be missing"
            )


def _check_restarts(image: _Image, components: list[int], data: bytes, start: int, end: int) -> None:
    """Compare the restart markers of a scan with DRI and the scan's number of MCUs (T.81 E.1.4)."""
    found = b"".join(_RESTARTS.findall(data, start, end))
    expected = -(-_units(image, components) // image.interval) - 1 if image.interval else 0
    if len(found) == expected + 1 and data[end - 2 : end] == b"\xff" + found[-1:]:
        found = found[:-1]  # a marker behind the last interval, which some writers add
    if len(found) != expected:
        raise CorruptPixels(
            f"a scan of the {Codec.JPEG_LS if image.is_jpeg_ls else Codec.JPEG} has {len(found) + 1} restart "
            f"intervals, its headers announce {expected + 1}"
        )
    if not expected:
        return
    if found != (_CYCLE * (expected // 8 + 1))[:expected]:
        raise CorruptPixels("the restart intervals of a scan are not in their order")
    if _EMPTY_INTERVAL.search(data, start, end) is not None or data[start : start + 2] == b"\xff\xd0":
        raise CorruptPixels("a restart interval of a scan is empty")


def _units(image: _Image, components: list[int]) -> int:
    """MCUs of a scan (T.81 A.2); of JPEG-LS its lines (T.87 C.2.5)."""
    if image.is_jpeg_ls:
        return image.rows
    widest = max(h for h, _ in image.factors.values())
    highest = max(v for _, v in image.factors.values())
    side = 1 if image.marker in {0xC3, 0xC7, 0xCB, 0xCF} else 8
    if len(components) > 1:
        return -(-image.columns // (side * widest)) * -(-image.rows // (side * highest))
    h, v = image.factors[components[0]]
    columns, rows = -(-image.columns * h // widest), -(-image.rows * v // highest)
    return -(-columns // side) * -(-rows // side)
