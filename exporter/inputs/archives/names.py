"""Names of members in a run: unique, and never the name of another input.

Contract: a name is made of the bytes in the archive alone, so that it is the same in every run; empty and ``.`` parts,
a leading slash and a drive's colon are left out, and ``..`` becomes ``_``: a name says where a member stands, it leads
nowhere. Names that are equal then differ by a number behind `INSIDE`: ``a.zip//1.dcm`` and ``a.zip//1.dcm//2``.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Final

from exporter.inputs.contract import INSIDE

if TYPE_CHECKING:
    from exporter.inputs.archives.member import ArchiveMember

LONGEST_BYTES: Final = 4096
"""A longer name keeps its beginning and gets its hash."""
_DRIVE: Final = re.compile(rb"([A-Za-z]):(.*)", re.DOTALL)


def path_of(member: ArchiveMember) -> str:
    """The member's path within its archive; bytes that are not UTF-8 as `os.fsdecode` keeps them."""
    raw = member.raw_name.replace(b"\0", b"_")
    parts = re.split(rb"[/\\]" if member.from_windows else b"/", raw)
    if member.from_windows and (drive := _DRIVE.fullmatch(parts[0])):
        parts[:1] = [drive[1], drive[2]]
    kept = [b"_" if part == b".." else part for part in parts if part not in {b"", b"."}]
    name = b"/".join(kept) or b"_"
    if len(name) > LONGEST_BYTES:
        name = name[: LONGEST_BYTES - 40].rstrip(b"/") + b"~" + hashlib.sha256(name).hexdigest()[:32].encode()
    return os.fsdecode(name)


class MemberNames:
    """The names of one archive's members, in their order."""

    def __init__(self, container: str) -> None:
        self._container = container
        # Eight bytes of hash instead of the name: a million members may have long ones. Two names with one hash (by
        # chance, or made so) get a number that they would not need, the same in every run.
        self._seen: set[int] = set()
        self._repeated: dict[int, int] = {}

    def next_name(self, path: str) -> str:
        """The name of the next member, whose path is `path`."""
        key = int.from_bytes(hashlib.blake2b(os.fsencode(path), digest_size=8).digest(), "big")
        name = f"{self._container}{INSIDE}{path}"
        if key not in self._seen:
            self._seen.add(key)
            return name
        number = self._repeated.get(key, 1) + 1
        self._repeated[key] = number
        return f"{name}{INSIDE}{number}"
