"""A tar archive, read once from front to back: ustar, and the long names and sizes of GNU and pax.

Contract: one header at a time, each with a right checksum; texts that extend a header are bounded. A member whose
content was not asked for is passed over (in a plain file without reading it). An archive ends with its end mark;
where that is missing, something may be, and that is damage.

Must never: follow a link, rebuild a sparse file, or hold more than one header.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar 1.35, "Basic Tar Format".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.errors import TooLarge, Unreadable, UnsupportedSyntax
from exporter.inputs.archives.member import CHUNK, ArchiveMember, MemberKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.inputs.archives.unpacked import Stream

BLOCK: Final = 512
LONGEST_TEXT: Final = 1 << 20
"""Most bytes of a long name or of pax records."""
MOST_EXTENSIONS: Final = 16
"""Most extending headers before one member."""
_WITHOUT_CONTENT: Final = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
"""Links, devices, folders and pipes: a size that they have is that of something else."""
_NO_MEMBERS: Final = frozenset({b"5", b"D", b"V"})
"""Folders, lists of folders, labels."""
_FILES: Final = frozenset({b"0", b"\0", b"7"})
_PAX_SIZE: Final = re.compile(rb"[0-9]{1,19}")
_EMPTY: Final = bytes(BLOCK)


def is_header(block: bytes) -> bool:
    """Whether a block of 512 bytes is a header of tar: its checksum says so."""
    if len(block) < BLOCK:
        return False
    try:
        checksum = _octal(block[148:156])
    except Unreadable:
        return False
    unsigned = sum(block[:148]) + 8 * 0x20 + sum(block[156:BLOCK])
    signed = unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:BLOCK])
    return block != _EMPTY and checksum in {unsigned, signed}


@dataclass(slots=True)
class _Extensions:
    """Attributes of a member from headers before it."""

    name: bytes | None = None
    size: int | None = None
    is_sparse: bool = False


class TarArchive:
    """An open tar archive."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = 0
        """Bytes of the current member's content that were not read."""
        self._padding = 0

    def members(self) -> Iterator[ArchiveMember]:
        """See `Archive`."""
        is_ended = False
        while True:
            self._pass_over()
            block = self._stream.read(BLOCK)
            if not block.strip(b"\0"):
                if not block and not is_ended:
                    raise Unreadable("the archive ends without its end mark: it was cut, and members may be missing")
                if len(block) < BLOCK:
                    return
                is_ended = True
                continue
            if not is_header(block):
                damage = "bytes that are no member follow its end mark" if is_ended else "a header is damaged"
                raise Unreadable(f"the archive is damaged: {damage}")
            is_ended = False
            yield self._member(block)

    def content(self) -> Iterator[bytes]:
        """See `Archive`."""
        while self._left:
            part = self._stream.read(min(CHUNK, self._left))
            if not part:
                raise Unreadable("the archive ends before the content of its member does: it was cut")
            self._left -= len(part)
            yield part

    def _pass_over(self) -> None:
        """Go behind the current member."""
        size, self._left, self._padding = self._left + self._padding, 0, 0
        self._stream.skip(size)

    def _expect(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _member(self, block: bytes) -> ArchiveMember:
        """The member whose header, or whose first extending header, is `block`."""
        extensions = _Extensions()
        for _ in range(MOST_EXTENSIONS):
            kind = block[156:157]
            if kind not in {b"L", b"K", b"x", b"g", b"X"}:
                return self._described(block, kind, extensions)
            text = self._text(_size(block))
            if kind == b"L":
                extensions.name = text.rstrip(b"\0")
            elif kind in {b"x", b"X"}:
                _read_pax(text, extensions)
            block = self._stream.read(BLOCK)
            if not is_header(block):
                raise Unreadable("the archive is damaged: an extending header is not followed by another")
        raise TooLarge(f"a member of the archive has more than {MOST_EXTENSIONS} extending headers")

    def _described(self, block: bytes, kind: bytes, extensions: _Extensions) -> ArchiveMember:
        size = _size(block) if extensions.size is None else extensions.size
        name = _name(block) if extensions.name is None else extensions.name
        if kind == b"S":
            self._pass_over_map(block)
        self._expect(0 if kind in _WITHOUT_CONTENT else size)
        if kind in _NO_MEMBERS or (kind in _FILES and name.endswith(b"/") and not size):
            return ArchiveMember(name, False, 0, MemberKind.FOLDER)
        if kind in _WITHOUT_CONTENT:
            return ArchiveMember(name, False, 0, MemberKind.OTHER)
        problem = None
        if kind == b"S" or extensions.is_sparse:
            problem = UnsupportedSyntax(
                "the member is a sparse file of tar, which is not read here: unpack the archive"
            )
        elif kind == b"M":
            problem = UnsupportedSyntax("the member began in another volume of the archive: unpack it")
        return ArchiveMember(name, False, size, MemberKind.FILE, problem)

    def _pass_over_map(self, block: bytes) -> None:
        """Go behind the blocks that continue the map of a sparse file (GNU)."""
        goes_on = block[482]
        while goes_on:
            block = self._stream.read(BLOCK)
            if len(block) < BLOCK:
                raise Unreadable("the archive ends inside a header: it was cut")
            goes_on = block[504]

    def _text(self, size: int) -> bytes:
        if size > LONGEST_TEXT:
            raise TooLarge(f"a header of the archive is extended by more than {LONGEST_TEXT} bytes")
        text = self._stream.read(size)
        if len(text) < size:
            raise Unreadable("the archive ends inside a header: it was cut")
        self._stream.skip(-size % BLOCK)
        return text


def _name(block: bytes) -> bytes:
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0")[0]):
        name = prefix + b"/" + name
    return name


def _size(block: bytes) -> int:
    field = block[124:136]
    if field[0] & 0x80:  # base 256, for what octal digits cannot hold
        size = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] & 0x40 or size >= 1 << 63:
            raise Unreadable("the archive is damaged: a size makes no sense")
        return size
    return _octal(field)


def _octal(field: bytes) -> int:
    text = field.split(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if not re.fullmatch(rb"[0-7]+", text):
        raise Unreadable("the archive is damaged: a number in a header is not a number")
    return int(text, 8)


def _read_pax(text: bytes, extensions: _Extensions) -> None:
    r"""Take name and size from pax records (``<length> <key>=<value>\n``)."""
    offset = 0
    while offset < len(text):
        space = text.find(b" ", offset, offset + 10)
        digits = text[offset:space]
        if space < 0 or not digits.isdigit() or not text[offset:].rstrip(b"\0"):
            break
        end = offset + int(digits)
        if end <= space or end > len(text):
            break
        key, is_there, value = text[space + 1 : end].removesuffix(b"\n").partition(b"=")
        if not is_there:
            break
        if key == b"path":
            extensions.name = value
        elif key == b"size" and _PAX_SIZE.fullmatch(value):
            extensions.size = int(value)
        elif key.startswith(b"GNU.sparse."):
            extensions.is_sparse = True
        offset = end
    else:
        return
    if text[offset:].rstrip(b"\0"):
        raise Unreadable("the archive is damaged: records that extend a header make no sense")
