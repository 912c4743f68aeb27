"""Slice segments of HEVC pictures that are missing or there twice, which FFmpeg's decoder passes over in silence.

Contract: `HevcSlices` gets every packet of a stream, reads the addresses of its slice segments, and counts pictures
that lack some. The first segment of a picture says that it is the first, and addresses ascend. Where the last segment
of a picture ends is known to a decoder only, so a picture is also compared with the others of its stream: most encoders
divide all pictures alike. What cannot be parsed is no verdict.

Source: ITU-T H.265 7.3.1.2 (NAL unit header), 7.3.2.2, 7.3.2.3 (parameter sets), 7.3.6.1 and 7.4.7.1 (slice segment
header), ISO/IEC 14496-15 8.3.3.1 (parameter sets in hvcC).
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from exporter.writers.pictures.nal_units import nal_units

if TYPE_CHECKING:
    from av import CodecContext, Packet, VideoFrame
    from av.video.stream import VideoStream

_SPS, _PPS = 33, 34
_FIRST_IRAP, _LAST_IRAP = 16, 23
_HEADER_BYTES: Final = 32
"""More than the fields up to slice_segment_address can have."""
_BAND: Final = 16
"""Rows and columns of the areas that are looked at; the smallest coding tree block."""


class _PictureParameters(NamedTuple):
    sequence: int
    dependent_segments: bool


class _Bits:
    """Fields of an RBSP, from the most significant bit on."""

    def __init__(self, unit: bytes) -> None:
        rbsp = unit.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(rbsp, "big")
        self._left = 8 * len(rbsp)

    def read(self, count: int) -> int:
        """The next bits.

        Raises:
            ValueError: The unit is too short.
        """
        if count > self._left:
            raise ValueError("a NAL unit is cut")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """An Exp-Golomb number (9.2)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)


class HevcSlices:
    """Counts the pictures of one HEVC stream that lack slice segments, or have some twice."""

    def __init__(self, context: CodecContext, *, start_codes: bool) -> None:
        """A stream whose parameter sets may be in the extradata of its container, as hvcC or with start codes.

        Of other codecs, whose missing slices the decoder reports, nothing is looked at.
        """
        self._is_hevc = context.name == "hevc"
        self._first_seen = False
        self._start_codes = start_codes
        self._address_bits: dict[int, int] = {}
        self._pictures: dict[int, _PictureParameters] = {}
        self._divisions: Counter[tuple[int, ...]] = Counter()
        self._damaged = 0
        extradata = context.extradata if self._is_hevc else None
        if extradata:
            self._parse(_configured(extradata) if extradata[0] == 1 else nal_units(extradata, start_codes=True))

    def add_picture(self, frame: VideoFrame) -> None:
        """Look at one decoded picture: the first one shows what was not decoded."""
        if self._is_hevc and not self._first_seen:
            self._damaged += has_unwritten_area(frame)
        self._first_seen = True

    def add(self, packet: Packet[VideoStream]) -> None:
        """Look at the units of one picture."""
        if not self._is_hevc:
            return
        addresses = self._parse(nal_units(bytes(packet), start_codes=self._start_codes))
        if not addresses:
            return
        if addresses[0] != 0 or any(b <= a for a, b in pairwise(addresses)):
            self._damaged += 1
        else:
            self._divisions[tuple(addresses)] += 1

    @property
    def damaged(self) -> int:
        """Pictures whose segments do not begin at 0 or do not ascend, or are fewer than those of most pictures."""
        if not self._divisions:
            return self._damaged
        usual, count = self._divisions.most_common(1)[0]
        if 2 * count < self._divisions.total():
            return self._damaged
        lacking = sum(n for division, n in self._divisions.items() if set(division) < set(usual))
        return self._damaged + lacking

    def _parse(self, units: list[bytes]) -> list[int]:
        """Addresses of the slice segments; parameter sets are remembered."""
        addresses = []
        for unit in units:
            if len(unit) < 3 or unit[0] & 1 or unit[1] >> 3:  # too short, or of another layer
                continue
            kind = unit[0] >> 1
            try:
                if kind == _SPS:
                    self._read_sequence(_Bits(unit[2:]))
                elif kind == _PPS:
                    self._read_picture(_Bits(unit[2:]))
                elif kind < 32:
                    addresses.append(self._address(_Bits(unit[2 : 2 + _HEADER_BYTES]), kind))
            except (ValueError, KeyError):
                continue
        return addresses

    def _read_sequence(self, bits: _Bits) -> None:
        bits.read(4)
        layers = bits.read(3)
        bits.read(1 + 96)
        present = [(bits.read(1), bits.read(1)) for _ in range(layers)]
        if layers:
            bits.read(2 * (8 - layers))
        for profile, level in present:
            bits.read(88 * profile + 8 * level)
        number = bits.golomb()
        if bits.golomb() == 3:
            bits.read(1)
        width, height = bits.golomb(), bits.golomb()
        if bits.read(1):
            for _ in range(4):
                bits.golomb()
        for _ in range(3):  # bit depths, length of picture order counts
            bits.golomb()
        for _ in range(3 * (layers + 1 if bits.read(1) else 1)):
            bits.golomb()
        block = 1 << 3 + bits.golomb() + bits.golomb()
        blocks = -(-width // block) * -(-height // block)
        self._address_bits[number] = (blocks - 1).bit_length()

    def _read_picture(self, bits: _Bits) -> None:
        number, sequence = bits.golomb(), bits.golomb()
        self._pictures[number] = _PictureParameters(sequence, bool(bits.read(1)))

    def _address(self, bits: _Bits, kind: int) -> int:
        """slice_segment_address; 0 of the first one."""
        first = bits.read(1)
        if _FIRST_IRAP <= kind <= _LAST_IRAP:
            bits.read(1)
        parameters = self._pictures[bits.golomb()]
        if first:
            return 0
        if parameters.dependent_segments:
            bits.read(1)
        return bits.read(self._address_bits[parameters.sequence])


def _configured(extradata: bytes) -> list[bytes]:
    """Parameter sets in an hvcC box."""
    units = []
    position = 23
    for _ in range(extradata[22] if len(extradata) > 22 else 0):
        count = int.from_bytes(extradata[position + 1 : position + 3], "big")
        position += 3
        for _ in range(count):
            length = int.from_bytes(extradata[position : position + 2], "big")
            units.append(extradata[position + 2 : position + 2 + length])
            position += 2 + length
            if position >= len(extradata):
                return units
    return units


def has_unwritten_area(frame: VideoFrame) -> bool:
    """Whether a fresh decoder's first picture has an area that was not decoded.

    The buffers of a fresh decoder are zero. No picture has luma and both chroma of 0: it is no colour (BT.601-7 2.5).
    """
    if len(frame.planes) < 3:
        return False
    unwritten: np.ndarray | None = None
    for plane in list(frame.planes)[:3]:
        wide = -(-frame.format.components[0].bits // 8)
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : wide * plane.width]
        step = max(1, _BAND * plane.height // frame.height)
        bands = lines[: plane.height // step * step].reshape(-1, step, lines.shape[1])
        width = min(bands.shape[2], max(1, _BAND * plane.width // frame.width))
        zero = ~np.stack([bands[..., :width].any(axis=(1, 2)), bands[..., -width:].any(axis=(1, 2))])
        rows = zero.shape[1] if unwritten is None else min(zero.shape[1], unwritten.shape[1])
        unwritten = zero if unwritten is None else unwritten[:, :rows] & zero[:, :rows]
    return unwritten is not None and bool(unwritten.any())
