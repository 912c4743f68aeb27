"""Instances whose SOP Instance UID tells every byte of them, so that whoever finds one can say whether it is right.

All of one size have their pixel data out of the same noise, each from a place of its own: one that got another's
bytes, in part or as a whole, is not right.
"""

from __future__ import annotations

import random
import re
import struct
from functools import cache
from typing import Final

from tests.listener.requestor import CT, EXPLICIT, data_set, explicit

SIZES: Final = (20 << 10, 512 << 10, 50 << 20)
"""Bytes of pixel data."""
_ROOT: Final = "1.2.826.0.1.3680043.10.29"
_PLACES: Final = 1 << 16
_FIRST: Final = 10**9
_UID: Final = re.compile(re.escape(_ROOT.encode()) + rb"\.([0-9])\.([0-9]{10})")
_LOOKED_AT: Final = 256
"""The UID is in the second element of the data set."""


@cache
def _noise() -> bytes:
    return random.Random(29).randbytes(max(SIZES) + _PLACES)  # noqa: S311 - noise


def uid_of(size_bytes: int, number: int) -> str:
    """The UID of the instance of this number; all are of one length."""
    return f"{_ROOT}.{SIZES.index(size_bytes)}.{_FIRST + number}"


def content_of(uid: str) -> bytes:
    """Its data set, in explicit VR little endian.

    Raises:
        ValueError: It is none of ours.
    """
    found = _UID.fullmatch(uid.encode())
    if found is None:
        raise ValueError("not a numbered instance")
    size_bytes, number = SIZES[int(found[1])], int(found[2])
    place = number * 40_503 % _PLACES & ~1  # neighbours lie far apart
    return data_set(uid, CT, _noise()[place : place + size_bytes])


def file_of(uid: str) -> bytes:
    """It as a file (PS3.10 7.1)."""
    meta = b"".join(
        (
            explicit(0x00020001, b"OB", b"\0\1"),
            explicit(0x00020002, b"UI", CT.encode()),
            explicit(0x00020003, b"UI", uid.encode()),
            explicit(0x00020010, b"UI", EXPLICIT.encode()),
            explicit(0x00020012, b"UI", b"1.2.826.0.1.3680043.10.29"),
        )
    )
    return bytes(128) + b"DICM" + explicit(0x00020000, b"UL", struct.pack("<I", len(meta))) + meta + content_of(uid)


def look_at(content: bytes) -> tuple[str, bool] | None:
    """Which numbered instance a file holds, and whether it is that to its last byte; None where it holds another."""
    if content[128:132] != b"DICM":
        return None
    start = 144 + int(struct.unpack_from("<I", content, 140)[0])
    found = _UID.search(content, start, start + _LOOKED_AT)
    if found is None:
        return None
    uid = found[0].decode()
    wanted = content_of(uid)
    return uid, len(content) == start + len(wanted) and content.startswith(wanted, start)
