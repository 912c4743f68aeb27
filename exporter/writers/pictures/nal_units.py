"""NAL units of H.264 and HEVC packets, separated by start codes or by lengths.

Source: ISO/IEC 14496-10 and 23008-2 annex B (start codes), ISO/IEC 14496-15 (lengths of four bytes).
"""

from __future__ import annotations

import re
from typing import Final

_START_CODE: Final = re.compile(b"\0\0\1")


def nal_units(data: bytes, *, start_codes: bool) -> list[bytes]:
    """The units in `data`, without what separates them and without trailing zero bytes."""
    if start_codes:
        ends = [match.end() for match in _START_CODE.finditer(data)]
        borders = [*(end - 3 for end in ends[1:]), len(data)]
        return [data[start:stop].rstrip(b"\0") for start, stop in zip(ends, borders, strict=True)]
    units, position = [], 0
    while position + 4 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        units.append(data[position + 4 : position + 4 + length].rstrip(b"\0"))
        position += 4 + length
    return units
