"""Tiles and tile-parts of JPEG 2000 and HTJ2K.

Contract: `check_jpeg_2000` walks the marker segments of the main header and of all tile-parts, compares them with the
tile grid of SIZ, with TPsot, TNsot and TLM, and has `packets` follow the packets of each tile.

Source: ITU-T T.800 A.4.2 (SOT), A.5.1 (SIZ), A.6 (COD, COC, POC), A.7 (TLM, PPM, PPT), B.3 (tile grid).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import Final

from exporter.errors import CorruptPixels
from exporter.frames.completeness.packets import CodingStyle, Component, ComponentStyle, Tile, check_packets

_SIZ_HEAD: Final = struct.Struct(">HHHIIIIIIIIH")
_SOT: Final = struct.Struct(">HHHIBB")
_EXTENSIONS: Final = 0x8000
"""Rsiz: capabilities of part 2 are used (T.801), which give packets other contents."""
_UNITS_PER_SAMPLE: Final = 1 / 512
_UNITS_AT_LEAST: Final = 4000
"""Code-blocks whose packet headers are read at most, which bounds the cost; a unit takes about 5 microseconds."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """Image and tiles on the reference grid, from SIZ."""

    image: tuple[int, int, int, int]
    """Left, top, right, bottom."""
    size: tuple[int, int]
    """Width and height of a tile."""
    origin: tuple[int, int]
    components: tuple[Component, ...]
    extended: bool

    @property
    def across(self) -> int:
        return -(-(self.image[2] - self.origin[0]) // self.size[0])

    @property
    def count(self) -> int:
        return self.across * -(-(self.image[3] - self.origin[1]) // self.size[1])

    def tile(self, index: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a tile, cut to the image (T.800 B.3)."""
        row, column = divmod(index, self.across)
        left, top = self.origin[0] + column * self.size[0], self.origin[1] + row * self.size[1]
        return (
            max(left, self.image[0]),
            max(top, self.image[1]),
            min(left + self.size[0], self.image[2]),
            min(top + self.size[1], self.image[3]),
        )


@dataclass(slots=True)
class _TileParts:
    """The tile-parts of one tile that were found."""

    count: int = 0
    announced: int = 0
    """TNsot; 0 where no tile-part has stated it."""
    style: CodingStyle | None = None
    bodies: list[tuple[int, int]] = field(default_factory=list)
    """(start, end) of the packets in each tile-part."""


def check_jpeg_2000(data: bytes) -> tuple[str, ...]:
    """Check that each tile of the grid has all its tile-parts, and each tile its packets.

    Returns:
        What is odd about numbers that do not decide.

    Raises:
        CorruptPixels: The tile grid does not fit the image, or a tile, tile-part or packet is missing or there twice.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    grid = _grid(data, start + 2)
    style, lengths, offset = _main_header(data, start + 2, grid)
    tiles, sizes = _tile_parts(data, offset, grid, style)
    notes: list[str] = []
    if lengths and lengths != sizes:
        if len(lengths) > len(sizes):
            raise CorruptPixels(f"the JPEG 2000 has {len(sizes)} tile-parts, its TLM segments announce {len(lengths)}")
        notes.append("the TLM segments of the JPEG 2000 do not fit its tile-parts: not used")
    if len(tiles) < grid.count:
        raise CorruptPixels(f"the JPEG 2000 has {len(tiles)} tiles, its SIZ segment announces {grid.count}")
    for index, parts in tiles.items():
        # Some writers announce one less than they write; one that is there twice repeats its number.
        if parts.announced and parts.count not in {parts.announced, parts.announced + 1}:
            raise CorruptPixels(
                f"tile {index} of the JPEG 2000 has {parts.count} tile-parts, its headers announce {parts.announced}"
            )
    _check_all_packets(data, grid, tiles, notes)
    return tuple(dict.fromkeys(notes))


def _grid(data: bytes, offset: int) -> _Grid:
    """SIZ at `offset`; its length was checked by `sniff`.

    Raises:
        CorruptPixels: The tile grid does not cover the image as T.800 A.5.1 and B.3 demand.
    """
    _, length, capabilities, *numbers, count = _SIZ_HEAD.unpack_from(data, offset)
    right, bottom, left, top, width, height, tile_left, tile_top = numbers
    table = data[offset + _SIZ_HEAD.size : offset + 2 + length]
    covers = (
        width
        and height
        and tile_left <= left < tile_left + width
        and tile_top <= top < tile_top + height
        and left < right
        and top < bottom
    )
    if not covers:
        raise CorruptPixels("the tile grid in the SIZ segment of the JPEG 2000 does not cover the image")
    grid = _Grid(
        image=(left, top, right, bottom),
        size=(width, height),
        origin=(tile_left, tile_top),
        components=tuple(Component(table[3 * i + 1], table[3 * i + 2]) for i in range(count)),
        extended=bool(capabilities & _EXTENSIONS),
    )
    if grid.count > 65535:
        raise CorruptPixels(f"the SIZ segment of the JPEG 2000 announces {grid.count} tiles, permitted are 65535")
    return grid


def _main_header(data: bytes, offset: int, grid: _Grid) -> tuple[CodingStyle | None, list[int], int]:
    """Coding style, lengths of tile-parts by TLM, and where the first tile-part begins."""
    style: CodingStyle | None = CodingStyle()
    lengths: list[int] = []
    while True:
        marker, segment, following = _segment(data, offset)
        if marker == 0xFF90:
            return style, lengths, offset
        if marker == 0xFF55:
            lengths += _tlm(segment)
        style = _styled(style, marker, segment, len(grid.components), in_tile=False)
        offset = following


def _segment(data: bytes, offset: int) -> tuple[int, bytes, int]:
    """(marker, content, where the next one begins); content and length of SOD are empty."""
    head = data[offset : offset + 4]
    if len(head) < 4 or head[0] != 0xFF:
        raise CorruptPixels("a header of the JPEG 2000 has no marker where one is due")
    marker = head[0] << 8 | head[1]
    if marker == 0xFF93:
        return marker, b"", offset + 2
    length = head[2] << 8 | head[3]
    if length < 2 or offset + 2 + length > len(data):
        raise CorruptPixels("a marker segment of the JPEG 2000 is longer than the data")
    return marker, data[offset + 4 : offset + 2 + length], offset + 2 + length


def _tlm(segment: bytes) -> list[int]:
    """Lengths of tile-parts (T.800 A.7.1)."""
    if len(segment) < 2:
        return []
    index_bytes, length_bytes = (segment[1] >> 4) & 3, 4 if segment[1] & 0x40 else 2
    step = index_bytes + length_bytes
    return [
        int.from_bytes(segment[at + index_bytes : at + step], "big") for at in range(2, len(segment) - step + 1, step)
    ]


def _styled(
    style: CodingStyle | None, marker: int, segment: bytes, components: int, *, in_tile: bool
) -> CodingStyle | None:
    """The coding style after one more marker segment; None where packets cannot be followed (POC, PPM, PPT).

    COD of a tile stands above COC of the main header (T.800 A.6.1).
    """
    if style is None or marker in {0xFF5F, 0xFF60, 0xFF61}:
        return None
    if marker == 0xFF52 and len(segment) >= 10:
        return replace(
            style,
            end_markers=bool(segment[0] & 4),
            progression=segment[1],
            layers=segment[2] << 8 | segment[3],
            default=ComponentStyle.read(segment[5:], own_precincts=bool(segment[0] & 1)),
            components={} if in_tile else style.components,
        )
    if marker == 0xFF53 and len(segment) >= 7:
        wide = 2 if components > 256 else 1
        own = ComponentStyle.read(segment[wide + 1 :], own_precincts=bool(segment[wide] & 1))
        return replace(style, components={**style.components, int.from_bytes(segment[:wide], "big"): own})
    return style


def _tile_parts(
    data: bytes, offset: int, grid: _Grid, style: CodingStyle | None
) -> tuple[dict[int, _TileParts], list[int]]:
    """The tile-parts by tile, and the lengths of all in the order of the codestream.

    Raises:
        CorruptPixels: A tile-part is not of this grid, is there twice, is not in its order, or is cut.
    """
    tiles: dict[int, _TileParts] = {}
    sizes: list[int] = []
    while data[offset : offset + 2] == b"\xff\x90":
        if offset + 12 > len(data):
            raise CorruptPixels("the last tile-part of the JPEG 2000 is cut")
        _, _, index, length, part, announced = _SOT.unpack_from(data, offset)
        if length == 0:  # the last one, up to EOC (T.800 A.4.2)
            end = data.rfind(b"\xff\xd9", offset)
            length = (end if end >= 0 else len(data)) - offset
        if length < 14 or offset + length > len(data):
            raise CorruptPixels(f"a tile-part of tile {index} of the JPEG 2000 is cut")
        if index >= grid.count:
            raise CorruptPixels(f"the JPEG 2000 has a tile {index}, its SIZ segment announces {grid.count}")
        tile = tiles.setdefault(index, _TileParts(style=style))
        if part != tile.count:
            raise CorruptPixels(f"tile-part {part} of tile {index} of the JPEG 2000 stands where {tile.count} is due")
        if announced and tile.announced and announced != tile.announced:
            raise CorruptPixels(f"the tile-parts of tile {index} of the JPEG 2000 announce different numbers of them")
        tile.announced = tile.announced or announced
        tile.count += 1
        _read_part_header(data, offset + 12, offset + length, tile, len(grid.components))
        sizes.append(length)
        offset += length
    return tiles, sizes


def _read_part_header(data: bytes, offset: int, end: int, tile: _TileParts, components: int) -> None:
    """Marker segments between SOT and SOD."""
    while True:
        marker, segment, offset = _segment(data, offset)
        if offset > end:
            raise CorruptPixels("the header of a tile-part of the JPEG 2000 is cut")
        if marker == 0xFF93:
            tile.bodies.append((offset, end))
            return
        tile.style = _styled(tile.style, marker, segment, components, in_tile=True)


def _check_all_packets(data: bytes, grid: _Grid, tiles: dict[int, _TileParts], notes: list[str]) -> None:
    left, top, right, bottom = grid.image
    samples = (right - left) * (bottom - top) * len(grid.components)
    budget = _UNITS_AT_LEAST + samples * _UNITS_PER_SAMPLE
    if grid.extended:
        return
    for index, parts in tiles.items():
        if parts.style is None or not parts.style.is_known:
            continue
        bodies = parts.bodies
        body = data[slice(*bodies[0])] if len(bodies) == 1 else b"".join(data[slice(*span)] for span in bodies)
        tile = Tile(index, grid.tile(index), grid.components, parts.style)
        budget = check_packets(body, tile, budget, notes)
        if budget <= 0:
            return
