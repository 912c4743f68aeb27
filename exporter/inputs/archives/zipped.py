"""A zip archive, read by its central directory, or without one header by header from the beginning.

Contract: the directory is read in windows, never whole; every size and offset in it is checked against the file before
it is used, and what a member unpacks to against its size and CRC-32. Members that lie over each other (the same bytes
unpacked again and again) are noticed when together they would take more room than the file has.

Must never: unpack more than a member declares, or decrypt.

Source: PKWARE APPNOTE 6.3.10, 4.3 to 4.5.
"""

from __future__ import annotations

import stat
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.errors import ExportError, Unreadable, UnsupportedSyntax
from exporter.inputs.archives.member import CHUNK, ArchiveMember, MemberKind
from exporter.inputs.archives.unpacked import Deflate, bzip2, decode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.dicom.bytesource import ByteSource
    from exporter.inputs.archives.member import Budget
    from exporter.inputs.archives.unpacked import Decoder

LOCAL: Final = b"PK\x03\x04"
CENTRAL: Final = b"PK\x01\x02"
END: Final = b"PK\x05\x06"
_END64: Final = b"PK\x06\x06"
_LOCATOR64: Final = b"PK\x06\x07"
_WINDOW: Final = 1 << 20
_CENTRAL_HEAD: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL_HEAD: Final = struct.Struct("<4s5H3L2H")
_END_HEAD: Final = struct.Struct("<4s4H2LH")
_END64_HEAD: Final = struct.Struct("<4sQ2H2L4Q")
_STORED, _DEFLATED, _BZIP2 = 0, 8, 12
_METHODS: Final = {9: "Deflate64", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_WINDOWS_HOSTS: Final = frozenset({0, 6, 10, 11, 14})
"""FAT, HPFS, NTFS and VFAT as the system that a member comes from (4.4.2.2)."""
_UNIX_HOSTS: Final = frozenset({3, 19})
_FULL: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ZipMember(ArchiveMember):
    """A member of a zip archive, and where it is."""

    method: int = _STORED
    packed_bytes: int = 0
    crc32: int = 0
    header: int = 0
    """Offset of its local header."""
    sizes_follow: bool = False
    """Whether sizes and CRC-32 stand behind the content; only where there is no directory."""


@dataclass(frozen=True, slots=True)
class _Directory:
    """Place of the central directory."""

    start: int
    end: int
    members: int
    shift: int
    """Number to add to every offset: length of the bytes before the archive."""


class ZipArchive:
    """An open zip archive."""

    def __init__(self, file: ByteSource, budget: Budget, max_member_bytes: int) -> None:
        self._file = file
        self._budget = budget
        self._max_member_bytes = max_member_bytes
        self._member = ZipMember(b"", False, 0, MemberKind.FOLDER)
        self._end_of_content: int | None = None
        """End of the content of a member whose sizes follow it, known once it was unpacked."""

    def members(self) -> Iterator[ArchiveMember]:
        """See `Archive`."""
        directory = self._directory()
        if directory is None:
            yield from self._scanned()
            raise Unreadable("the directory at the end of the archive is missing: it was cut")
        room = directory.start
        for member in self._listed(directory):
            room -= _LOCAL_HEAD.size + len(member.raw_name) + member.packed_bytes
            if room < 0:
                raise Unreadable("the members take more room than the archive has: they lie over each other")
            self._budget.check()
            self._member = member
            yield member

    def content(self) -> Iterator[bytes]:
        """See `Archive`."""
        member, file = self._member, self._file
        head = file.read_at(member.header, _LOCAL_HEAD.size)
        if len(head) < _LOCAL_HEAD.size or not head.startswith(LOCAL):
            raise Unreadable("the header of the member is not where the archive's directory says")
        *_, name_bytes, extra_bytes = _LOCAL_HEAD.unpack(head)
        start = member.header + _LOCAL_HEAD.size + name_bytes + extra_bytes
        if start + member.packed_bytes > file.size:
            raise Unreadable("the archive ends before the content of its member does: it was cut")
        end = file.size if member.sizes_follow else start + member.packed_bytes
        if member.method == _STORED:
            parts = self._stored(start, end)
        else:
            parts = self._unpacked(Deflate(-15) if member.method == _DEFLATED else bzip2(), start, end)
        most = self._max_member_bytes if member.sizes_follow else member.size_bytes
        size = crc32 = 0
        for part in parts:
            size += len(part)
            crc32 = zlib.crc32(part, crc32)
            self._budget.spend(len(part))
            if size > most:
                raise Unreadable("the member unpacks to more than the archive says")
            yield part
        if not member.sizes_follow and (size, crc32) != (member.size_bytes, member.crc32):
            raise Unreadable("the member is damaged: its size or CRC-32 is not what the archive says")

    def _stored(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            part = self._file.read_at(start, min(CHUNK, end - start))
            if not part:
                raise Unreadable("the archive ends before the content of its member does: it was cut")
            start += len(part)
            yield part

    def _unpacked(self, decoder: Decoder, start: int, end: int) -> Iterator[bytes]:
        while not decoder.eof:
            data = b""
            if decoder.needs_input:
                data = self._file.read_at(start, min(CHUNK, end - start))
                start += len(data)
                if not data:
                    raise Unreadable("the compressed member ends early: it was cut, or is damaged")
            part = decode(decoder, data, CHUNK)
            if part:
                yield part
        self._end_of_content = start - len(decoder.unused_data)

    # -- the directory -----------------------------------------------------------------------------------------------

    def _directory(self) -> _Directory | None:
        """Place of the directory; None where the archive has none.

        Raises:
            Unreadable: What stands at its end makes no sense.
        """
        tail_start = max(0, self._file.size - (1 << 16) - _END_HEAD.size)
        tail = self._file.read_at(tail_start, self._file.size - tail_start)
        at = len(tail)
        while (at := tail.rfind(END, 0, at + len(END) - 1)) >= 0:
            head = tail[at : at + _END_HEAD.size]
            if len(head) == _END_HEAD.size:
                _, disk, first_disk, _, members, size, offset, comment = _END_HEAD.unpack(head)
                if at + _END_HEAD.size + comment <= len(tail):
                    break
        else:
            return None
        end = tail_start + at
        if disk not in {0, 0xFFFF} or first_disk not in {0, 0xFFFF}:
            raise Unreadable("it is one part of an archive in several files: join them first")
        locator = self._file.read_at(end - 20, 20) if end >= 20 else b""
        if locator.startswith(_LOCATOR64):
            end, members, size, offset = self._directory64(end)
        start = end - size
        if start < offset:
            raise Unreadable("the directory of the archive is not where its end says")
        return _Directory(start, end, members, start - offset)

    def _directory64(self, end: int) -> tuple[int, int, int, int]:
        """(end, members, size, offset) of the directory of an archive with 64 bit sizes."""
        recorded = int.from_bytes(self._file.read_at(end - 12, 8), "little")
        for record in (recorded, end - 20 - _END64_HEAD.size):  # the second where something stands before the archive
            head = self._file.read_at(record, _END64_HEAD.size) if record >= 0 else b""
            if head.startswith(_END64) and len(head) == _END64_HEAD.size:
                break
        else:
            raise Unreadable("the end of the archive's directory (zip64) is damaged")
        values = _END64_HEAD.unpack(head)
        return record, values[7], values[8], values[9]

    def _listed(self, directory: _Directory) -> Iterator[ZipMember]:
        """The members that the directory lists."""
        offset, count = directory.start, 0
        window, base = b"", offset
        while offset < directory.end:
            index = offset - base
            head = window[index : index + _CENTRAL_HEAD.size]
            length = _CENTRAL_HEAD.size
            if len(head) == length:
                values = _CENTRAL_HEAD.unpack(head)
                length += values[10] + values[11] + values[12]
            if len(window) - index < length:
                if base + len(window) >= directory.end or (index == 0 and window):
                    raise Unreadable("the directory of the archive is cut")
                base = offset
                window = self._file.read_at(base, min(_WINDOW, directory.end - base))
                continue
            if values[0] != CENTRAL:
                raise Unreadable("the directory of the archive is damaged")
            name_end = index + _CENTRAL_HEAD.size + values[10]
            name = window[index + _CENTRAL_HEAD.size : name_end]
            yield _listed_member(values, name, window[name_end : name_end + values[11]], directory.shift)
            offset += length
            count += 1
        if count & 0xFFFF != directory.members & 0xFFFF:
            raise Unreadable("the archive says that it has another number of members than its directory lists")

    # -- without a directory -----------------------------------------------------------------------------------------

    def _scanned(self) -> Iterator[ZipMember]:
        """The members whose headers follow each other from the beginning, up to the first that does not."""
        offset = 0
        while True:
            head = self._file.read_at(offset, _LOCAL_HEAD.size)
            if len(head) < _LOCAL_HEAD.size or not head.startswith(LOCAL):
                return
            _, _, flags, method, _, _, crc32, packed, size, name_bytes, extra_bytes = _LOCAL_HEAD.unpack(head)
            rest = self._file.read_at(offset + _LOCAL_HEAD.size, name_bytes + extra_bytes)
            if len(rest) < name_bytes + extra_bytes:
                return
            name, extra = rest[:name_bytes], rest[name_bytes:]
            size, packed, _ = _sizes64(extra, size, packed, 0)
            sizes_follow = bool(flags & 8) and not packed
            if sizes_follow and method == _STORED and size == 0 and not name.endswith(b"/"):
                raise Unreadable("the directory of the archive is missing, and a member does not tell its size")
            self._budget.check()
            kind = MemberKind.FOLDER if name.endswith(b"/") else MemberKind.FILE
            self._member = ZipMember(
                name,
                b"\\" in name and b"/" not in name,
                size,
                kind,
                _problem(flags, method),
                method,
                packed,
                crc32,
                offset,
                sizes_follow and kind is MemberKind.FILE,
            )
            self._end_of_content = None
            yield self._member
            offset = self._behind(offset + _LOCAL_HEAD.size + len(rest))

    def _behind(self, start: int) -> int:
        """Offset behind the content that begins at `start`, its descriptor included."""
        if not self._member.sizes_follow:
            return start + self._member.packed_bytes
        if self._member.problem is not None:
            return self._file.size
        if self._end_of_content is None:
            for _ in self.content():
                pass
        end = self._end_of_content or self._file.size
        for length in (16, 12, 24, 20):
            if self._file.read_at(end + length, 4) in {LOCAL, CENTRAL, b""}:
                return end + length
        return self._file.size


def _listed_member(values: tuple[int, ...], name: bytes, extra: bytes, shift: int) -> ZipMember:
    _, made_by, _, flags, method, _, _, crc32, packed, size, _, _, _, _, _, attributes, offset = values
    host, mode = made_by >> 8, attributes >> 16
    size, packed, offset = _sizes64(extra, size, packed, offset)
    kind = MemberKind.FILE
    if name.endswith(b"/") or (host in _WINDOWS_HOSTS and name.endswith(b"\\")):
        kind = MemberKind.FOLDER if size == 0 else kind
    elif host in _UNIX_HOSTS and stat.S_IFMT(mode) not in {0, stat.S_IFREG}:
        kind = MemberKind.OTHER
    problem = _problem(flags, method)
    if problem is None and method == _STORED and packed != size:
        problem = Unreadable("the member is damaged: it is not compressed, and has two sizes")
    return ZipMember(name, host in _WINDOWS_HOSTS, size, kind, problem, method, packed, crc32, offset + shift)


def _problem(flags: int, method: int) -> ExportError | None:
    if flags & 1:
        return Unreadable("the member is encrypted: unpack the archive with its password, and export that folder")
    if method not in {_STORED, _DEFLATED, _BZIP2}:
        name = _METHODS.get(method, f"method {method}")
        return UnsupportedSyntax(f"the member is compressed with {name}, which is not read here: unpack the archive")
    return None


def _sizes64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Size, packed size and offset, those of 64 bits from the extra field where the others say so (4.5.3)."""
    while len(extra) >= 4:
        tag, length = struct.unpack_from("<2H", extra)
        if tag == 1:
            values = [int.from_bytes(extra[at : at + 8], "little") for at in range(4, 4 + length - 7, 8)]
            if size == _FULL and values:
                size = values.pop(0)
            if packed == _FULL and values:
                packed = values.pop(0)
            if offset == _FULL and values:
                offset = values.pop(0)
            break
        extra = extra[4 + length :]
    return size, packed, offset
