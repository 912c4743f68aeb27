"""Packets of one tile of JPEG 2000 or HTJ2K: their headers are followed from the first to the last.

Contract: `check_packets` reads the header of each packet that the coding style announces, in the order of progression,
skips its body, and compares where the last one ends with where the tile ends. A packet that is missing or there twice,
and a tile of another size than the one that was coded, make the headers lead elsewhere.

Source: ITU-T T.800 B.5 to B.7 (resolutions, sub-bands, code-blocks), B.10 (packet headers), B.12 (progression), A.8
(SOP, EPH); T.814 B.1 (HTJ2K: code-block segments).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple

from exporter.errors import CorruptPixels

if TYPE_CHECKING:
    from collections.abc import Iterator

_BYPASS, _TERMINATE_ALL, _HIGH_THROUGHPUT = 0x01, 0x04, 0x40
_PADDING: Final = 8
"""Bytes behind the last packet of a tile that some writers leave."""


class Component(NamedTuple):
    """Sampling steps of a component on the reference grid (XRsiz, YRsiz)."""

    step_x: int
    step_y: int


@dataclass(frozen=True, slots=True)
class ComponentStyle:
    """SPcod or SPcoc: how one component is divided and coded."""

    levels: int = 0
    block_width_log2: int = 6
    block_height_log2: int = 6
    block_style: int = 0
    precincts: bytes = b""
    """PPy and PPx of each resolution in one byte; empty: 15."""

    @classmethod
    def read(cls, segment: bytes, *, own_precincts: bool) -> ComponentStyle:
        """The parameters at the beginning of `segment` (T.800 A.6.1, table A.15)."""
        levels = segment[0]
        return cls(
            levels=levels,
            block_width_log2=(segment[1] & 15) + 2,
            block_height_log2=(segment[2] & 15) + 2,
            block_style=segment[3],
            precincts=segment[5 : 6 + levels] if own_precincts else b"",
        )

    def precinct_log2(self, resolution: int) -> tuple[int, int]:
        """Width and height of precincts, as powers of two."""
        if resolution >= len(self.precincts):
            return 15, 15
        both = self.precincts[resolution]
        return both & 15, both >> 4

    @property
    def is_known(self) -> bool:
        """Whether the parameters are in their ranges (T.800 tables A.15 to A.21)."""
        return (
            self.levels <= 32
            and self.block_width_log2 + self.block_height_log2 <= 12
            and self.block_style < 0x80
            and len(self.precincts) in {0, self.levels + 1}
        )


@dataclass(frozen=True, slots=True)
class CodingStyle:
    """COD and COC, as they apply to one tile."""

    end_markers: bool = False
    """EPH marker segments follow packet headers."""
    progression: int = 0
    layers: int = 0
    default: ComponentStyle = ComponentStyle()
    components: dict[int, ComponentStyle] = field(default_factory=dict)

    def of(self, component: int) -> ComponentStyle:
        """The style of a component."""
        return self.components.get(component, self.default)

    @property
    def is_known(self) -> bool:
        """Whether packets of this style can be followed."""
        styles = (self.default, *self.components.values())
        return self.layers > 0 and self.progression <= 4 and all(style.is_known for style in styles)


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile as its headers describe it."""

    index: int
    area: tuple[int, int, int, int]
    """Left, top, right, bottom on the reference grid."""
    components: tuple[Component, ...]
    style: CodingStyle


class _Unfollowed(Exception):
    """The headers use what is not followed here, or more of them than the budget permits."""


class _Damaged(Exception):
    """The headers lead beyond the tile."""


def check_packets(body: bytes, tile: Tile, budget: float, notes: list[str]) -> float:
    """Follow the packets of one tile.

    Args:
        body: The packets: what follows SOD in the tile's tile-parts, joined.
        tile: What the headers say about it.
        budget: Code-blocks that may be visited.
        notes: Gets what is odd.

    Returns:
        What is left of the budget; 0 where it was not enough, and nothing is known of the packets.

    Raises:
        CorruptPixels: The packets do not end where the tile does.
    """
    try:
        walk = _PacketWalk(body, tile, budget)
        end = walk.end()
    except _Unfollowed:
        return 0
    except (_Damaged, IndexError):
        raise CorruptPixels(
            f"the packets of tile {tile.index} of the JPEG 2000 are incomplete, or coded for another tile size"
        ) from None
    left = len(body) - end
    if left > _PADDING and any(body[end:]):
        raise CorruptPixels(
            f"tile {tile.index} of the JPEG 2000 has {left} bytes behind its last packet: packets are there twice, "
            "or coded for another tile size"
        )
    if left:
        notes.append("bytes follow the last packet of a tile of the JPEG 2000: left out")
    return walk.budget


class _Resolution(NamedTuple):
    """Precinct grid of one resolution of one component."""

    bands: tuple[tuple[int, int, int, int], ...]
    """Left, top, right, bottom of its sub-bands."""
    across: int
    down: int
    first_x: int
    """Number of the leftmost precinct, counted from the origin of the resolution."""
    first_y: int
    log2: tuple[int, int]
    """Size of its precincts."""
    block_log2: tuple[int, int]


class _Band:
    """Code-blocks of one sub-band in one precinct, and what the packets so far said about them."""

    __slots__ = ("inclusion", "length_bits", "passes", "planes", "size")

    def __init__(self, across: int, down: int) -> None:
        self.size = across * down
        self.inclusion = _TagTree(across, down)
        self.planes = _TagTree(across, down)
        self.length_bits = [0] * self.size
        """Lblock; 0: the code-block was in no packet yet."""
        self.passes = [0] * self.size


class _TagTree:
    """Values of a tag tree, as far as they are known (T.800 B.10.2)."""

    __slots__ = ("closed", "lower", "parents")

    def __init__(self, across: int, down: int) -> None:
        parents: list[int] = []
        base = 0
        while across * down > 1:
            above = -(-across // 2)
            following = base + across * down
            parents += [following + (y >> 1) * above + (x >> 1) for y in range(down) for x in range(across)]
            base, across, down = following, above, -(-down // 2)
        self.parents = [*parents, -1]
        self.lower = [0] * len(self.parents)
        """Value, or a lower bound where it is not closed."""
        self.closed = [False] * len(self.parents)


class _PacketWalk:
    """Follows the packets of a tile."""

    def __init__(self, body: bytes, tile: Tile, budget: float) -> None:
        self.budget = budget
        self._body = body
        self._tile = tile
        self._at = 0
        self._bits = self._left = self._last = 0
        self._precincts: dict[tuple[int, int, int], list[_Band]] = {}
        self._grids = [self._resolutions(number) for number in range(len(tile.components))]
        packets = tile.style.layers * sum(grid.across * grid.down for grids in self._grids for grid in grids)
        if packets > len(body):  # a packet has at least one byte
            raise _Damaged
        self.budget -= packets / 4

    def end(self) -> int:
        """Offset of the end of the last packet."""
        size, ends = len(self._body), self._tile.style.end_markers
        for number, (layer, component, resolution, precinct) in enumerate(self._order()):
            if self._body[self._at : self._at + 2] == b"\xff\x91":  # SOP (T.800 A.8.1)
                if self._body[self._at + 4 : self._at + 6] != (number & 0xFFFF).to_bytes(2, "big"):
                    raise _Damaged
                self._at += 6
            length = self._header(layer, component, resolution, precinct)
            if ends:
                if self._body[self._at : self._at + 2] != b"\xff\x92":
                    raise _Damaged
                self._at += 2
            self._at += length
            if self._at > size:
                raise _Damaged
            if self.budget <= 0:
                raise _Unfollowed
        return self._at

    def _resolutions(self, number: int) -> list[_Resolution]:
        """Resolutions of a component (T.800 B.5 to B.7)."""
        style, (step_x, step_y) = self._tile.style.of(number), self._tile.components[number]
        steps = (step_x, step_y, step_x, step_y)
        area = [-(-edge // step) for edge, step in zip(self._tile.area, steps, strict=True)]
        found = []
        for resolution in range(style.levels + 1):
            shift = style.levels - resolution
            left, top, right, bottom = (-(-edge >> shift) for edge in area)
            width, height = style.precinct_log2(resolution)
            inner = (width, height) if resolution == 0 else (width - 1, height - 1)
            if min(inner) < 0:
                raise _Unfollowed
            empty = left >= right or top >= bottom
            first_x, first_y = left >> width, top >> height
            found.append(
                _Resolution(
                    bands=_bands(area, style.levels, resolution),
                    across=0 if empty else -(-right >> width) - first_x,
                    down=0 if empty else -(-bottom >> height) - first_y,
                    first_x=first_x,
                    first_y=first_y,
                    log2=(width, height),
                    block_log2=(min(style.block_width_log2, inner[0]), min(style.block_height_log2, inner[1])),
                )
            )
        return found

    def _order(self) -> Iterator[tuple[int, int, int, int]]:
        """(layer, component, resolution, precinct) of each packet, in order (T.800 B.12.1)."""
        layers, progression = range(self._tile.style.layers), self._tile.style.progression
        precincts = [
            (component, resolution, precinct)
            for component, grids in enumerate(self._grids)
            for resolution, grid in enumerate(grids)
            for precinct in range(grid.across * grid.down)
        ]
        if progression <= 1:
            precincts.sort(key=lambda p: (p[1], p[0], p[2]))
        else:
            place = self._place
            precincts.sort(
                key={
                    2: lambda p: (p[1], *place(p), p[0], p[2]),
                    3: lambda p: (*place(p), p[0], p[1], p[2]),
                    4: lambda p: (p[0], *place(p), p[1], p[2]),
                }[progression]
            )
        if progression == 0:
            return ((layer, *precinct) for layer in layers for precinct in precincts)
        if progression > 1:
            return ((layer, *precinct) for precinct in precincts for layer in layers)
        by_resolution = groupby(precincts, key=lambda p: p[1])
        return (
            (layer, *precinct)
            for _, group in by_resolution
            for same in (list(group),)
            for layer in layers
            for precinct in same
        )

    def _place(self, packet: tuple[int, int, int]) -> tuple[int, int]:
        """(y, x) on the reference grid where a precinct begins."""
        component, resolution, precinct = packet
        grid = self._grids[component][resolution]
        row, column = divmod(precinct, grid.across)
        shift = len(self._grids[component]) - 1 - resolution
        step_x, step_y = self._tile.components[component]
        y = ((grid.first_y + row) << grid.log2[1] + shift) * step_y
        x = ((grid.first_x + column) << grid.log2[0] + shift) * step_x
        return max(y, self._tile.area[1]), max(x, self._tile.area[0])

    def _bands_of(self, component: int, resolution: int, precinct: int) -> list[_Band]:
        key = (component, resolution, precinct)
        bands = self._precincts.get(key)
        if bands is None:
            bands = self._precincts[key] = self._new_bands(*key)
        return bands

    def _new_bands(self, component: int, resolution: int, precinct: int) -> list[_Band]:
        grid = self._grids[component][resolution]
        row, column = divmod(precinct, grid.across)
        inner = 1 if resolution else 0
        width, height = grid.log2[0] - inner, grid.log2[1] - inner
        x, y = (grid.first_x + column) << width, (grid.first_y + row) << height
        bands = []
        for left, top, right, bottom in grid.bands:
            left, right = max(left, x), min(right, x + (1 << width))  # noqa: PLW2901 - cut to the precinct
            top, bottom = max(top, y), min(bottom, y + (1 << height))  # noqa: PLW2901
            if left >= right or top >= bottom:
                continue
            across = -(-right >> grid.block_log2[0]) - (left >> grid.block_log2[0])
            down = -(-bottom >> grid.block_log2[1]) - (top >> grid.block_log2[1])
            if across * down > self.budget:
                raise _Unfollowed
            bands.append(_Band(across, down))
        return bands

    def _header(self, layer: int, component: int, resolution: int, precinct: int) -> int:
        """Read one packet header (T.800 B.10); returns the length of the body."""
        self._left = self._bits = self._last = length = 0
        if self._read(1):
            style = self._tile.style.of(component).block_style
            for band in self._bands_of(component, resolution, precinct):
                self.budget -= band.size / 8
                for block in range(band.size):
                    known = band.length_bits[block]
                    if self._read(1) if known else self._known(band.inclusion, block, layer + 1):
                        length += self._contribution(band, block, style)
        if self._last == 0xFF:  # a byte with the stuffed bit follows
            self._at += 1
        return length

    def _contribution(self, band: _Band, block: int, style: int) -> int:
        """Bytes that one code-block has in the packet."""
        self.budget -= 1
        if not band.length_bits[block]:
            planes = 1
            while not self._known(band.planes, block, planes):
                planes += 1
                if planes > 80:  # T.800 table A.11: an exponent has five bits, there are at most seven guard bits
                    raise _Damaged
            band.length_bits[block] = 3
        passes = self._passes()
        while self._read(1):
            band.length_bits[block] += 1
        bits = band.length_bits[block]
        if bits > 32:
            raise _Damaged
        before = band.passes[block]
        band.passes[block] = before + passes
        if not style & (_BYPASS | _TERMINATE_ALL | _HIGH_THROUGHPUT):
            return self._read(bits + passes.bit_length() - 1)
        return sum(self._read(bits + n.bit_length() - 1) for n in _segments(before, passes, style))

    def _passes(self) -> int:
        """Number of coding passes (T.800 table B.4)."""
        if not self._read(1):
            return 1
        if not self._read(1):
            return 2
        value = self._read(2)
        if value < 3:
            return 3 + value
        value = self._read(5)
        return 6 + value if value < 31 else 37 + self._read(7)

    def _known(self, tree: _TagTree, leaf: int, threshold: int) -> bool:
        """Whether the value of a leaf is below `threshold`, by reading on (T.800 B.10.2)."""
        lower, closed, parents = tree.lower, tree.closed, tree.parents
        if closed[leaf]:
            return lower[leaf] < threshold
        path = [leaf]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        least = 0
        for node in reversed(path):
            least = max(lower[node], least)
            while not closed[node] and least < threshold:
                if self._read(1):
                    closed[node] = True
                else:
                    least += 1
            lower[node] = least
        return closed[leaf] and least < threshold

    def _read(self, count: int) -> int:
        """The next bits of a packet header; behind a byte FF there are seven (T.800 B.10.1)."""
        bits, left = self._bits, self._left
        while left < count:
            byte = self._body[self._at]
            self._at += 1
            if self._last != 0xFF:
                bits, left = bits << 8 | byte, left + 8
            elif byte > 0x7F:
                raise _Damaged
            else:
                bits, left = bits << 7 | byte, left + 7
            self._last = byte
        left -= count
        self._bits, self._left = bits & (1 << left) - 1, left
        return bits >> left


def _bands(area: list[int], levels: int, resolution: int) -> tuple[tuple[int, int, int, int], ...]:
    """Left, top, right, bottom of the sub-bands of a resolution (T.800 equation B-15)."""
    left, top, right, bottom = area
    shift = levels if resolution == 0 else levels - resolution + 1
    origins = ((0, 0),) if resolution == 0 else ((1, 0), (0, 1), (1, 1))
    half = 1 << shift - 1 if shift else 0
    return tuple(
        (
            -(-(left - half * x) >> shift),
            -(-(top - half * y) >> shift),
            -(-(right - half * x) >> shift),
            -(-(bottom - half * y) >> shift),
        )
        for x, y in origins
    )


def _segments(before: int, passes: int, style: int) -> list[int]:
    """Passes in each of the codeword segments that a packet adds (T.800 B.10.7.2 and table D.9, T.814 B.1)."""
    if style & _HIGH_THROUGHPUT:
        if before + passes > 3:
            raise _Unfollowed  # placeholder passes, or several sets of them
        return [1, passes - 1] if before == 0 and passes > 1 else [passes]
    if style & _TERMINATE_ALL:
        return [1] * passes
    found = []
    end, step = 10, 2
    while passes:
        if end > before:
            part = min(passes, end - before)
            found.append(part)
            before, passes = before + part, passes - part
        end, step = end + step, 3 - step
    return found
