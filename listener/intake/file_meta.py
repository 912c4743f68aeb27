"""The file meta information, group 0002 (PS3.10 7.1): written before a received data set, and read wherever it is read.

Contract: of a received data set preamble, ``DICM`` and group 0002 are made here: a sender has no say in the preamble,
and its AE title and address go into the elements meant for them. The data set's bytes follow as they came. Of a file
there are three readers over one element: of its first bytes (`elements_of`), of bytes that arrive
(`ArrivingFileMeta`), and of a file at rest (`read_file_meta`), which reads what careless writers wrote, too.

Must never: hold a long value, put a value into a message, or trust (0002,0000) File Meta Information Group Length.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from listener.intake import store_status
from listener.intake.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from listener.intake.walk import LONG_VRS, SHORT_VRS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from listener.foundation.durable import Buffer
    from listener.intake.store_status import StoreStatus

PREFIX_BYTES: Final = 132
"""Preamble and prefix."""
LONGEST_META: Final = 65_536
"""Longest file meta information of an upload, in bytes."""
MOST_ELEMENTS: Final = 256
"""Most elements of the file meta information of a file at rest; the Standard knows some twenty."""
SOP_CLASS: Final = 0x0002
SOP_INSTANCE: Final = 0x0003
TRANSFER_SYNTAX: Final = 0x0010
IMPLEMENTATION_CLASS: Final = 0x0012
RECEIVING_AE_TITLE: Final = 0x0018

_PREFIX: Final = b"DICM"
_PREAMBLE: Final = bytes(128) + _PREFIX
_SHORT: Final = struct.Struct("<HH2sH")
_HEAD_BYTES: Final = 12
_LONGEST_VALUE: Final = 1024
"""Values are UIDs, titles and addresses; longer ones (private information) are not held."""
_WINDOW: Final = 4096


@dataclass(frozen=True, slots=True)
class AssociationParties:
    """Who sent and who received: AE titles, and addresses as ``dicom://host:port``."""

    sending_ae_title: str
    receiving_ae_title: str
    sending_address: str
    receiving_address: str


class FileMeta:
    """The file meta information of all instances of one presentation context."""

    __slots__ = ("_after", "_before")

    def __init__(self, sop_class_uid: str, transfer_syntax: str, parties: AssociationParties) -> None:
        self._before = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1" + _uid(0x0002, sop_class_uid.encode("ascii"))
        self._after = b"".join(
            (
                _uid(0x0010, transfer_syntax.encode("ascii")),
                _uid(0x0012, IMPLEMENTATION_CLASS_UID.encode("ascii")),
                _text(0x0013, b"SH", IMPLEMENTATION_VERSION),
                _text(0x0016, b"AE", parties.sending_ae_title),
                _text(0x0017, b"AE", parties.sending_ae_title),
                _text(0x0018, b"AE", parties.receiving_ae_title),
                _address(0x0026, parties.sending_address),
                _address(0x0027, parties.sending_address),
                _address(0x0028, parties.receiving_address),
            )
        )

    def encode(self, sop_instance_uid: bytes) -> bytes:
        """Preamble, prefix and group 0002 for one instance."""
        instance = _uid(0x0003, sop_instance_uid)
        length = len(self._before) + len(instance) + len(self._after)
        return b"".join((_PREAMBLE, _group_length(length), self._before, instance, self._after))


class MetaElement(NamedTuple):
    """The head of one element of group 0002; positions are those of the bytes that it was read from."""

    number: int
    vr: bytes
    """Empty where a writer used implicit value representation, against PS3.10 7.1."""
    start: int
    """Where its value begins."""
    length: int

    @property
    def end(self) -> int:
        """Where the next element begins."""
        return self.start + self.length


def has_prefix(head: Buffer) -> bool:
    """Whether bytes begin with a preamble and the prefix."""
    return bytes(head[PREFIX_BYTES - 4 : PREFIX_BYTES]) == _PREFIX


def element_at(held: Buffer, at: int) -> MetaElement | None:
    """The element of group 0002 whose head is at `at`; None if another group is there, or too few bytes are."""
    if len(held) < at + _SHORT.size:
        return None
    group, number, vr, length = _SHORT.unpack_from(held, at)
    if group != 2:
        return None
    start = at + _SHORT.size
    if vr in SHORT_VRS:
        return MetaElement(number, vr, start, length)
    if vr in LONG_VRS:
        return MetaElement(number, vr, start + 4, int.from_bytes(held[start : start + 4], "little"))
    return MetaElement(number, b"", start, int.from_bytes(held[at + 4 : start], "little"))


def elements_of(head: bytes) -> Iterator[tuple[int, bytes]]:
    """Group 0002 at the beginning of a Part 10 file, as far as `head` holds it.

    Yields:
        Element number and value, padding included, of each element that is there as a whole.
    """
    at = PREFIX_BYTES
    while has_prefix(head) and (element := element_at(head, at)) is not None and element.end <= len(head):
        yield element.number, head[element.start : element.end]
        at = element.end


def text_of(value: bytes) -> str:
    """A value of the default repertoire, without padding."""
    return value.rstrip(b" \0").decode("ascii", "replace").strip()


# -- a file at rest --------------------------------------------------------------------------------------------------


class DamagedFileMeta(ValueError):
    """The file meta information contradicts the file; the message has no values."""


@dataclass(frozen=True, slots=True)
class StoredFileMeta:
    """The file meta information of a file at rest."""

    begin: int
    """Offset of its first element."""
    end: int
    """Offset of the data set; the same as `begin` where there is no element."""
    values: dict[int, bytes] = field(default_factory=dict)
    """Values by element number, with padding; the last of equal ones, and none that is long."""
    warnings: tuple[str, ...] = ()

    def text(self, element: int) -> str:
        """The value of an element; empty if absent."""
        return text_of(self.values.get(element, b""))


def read_file_meta(read_at: Callable[[int, int], bytes], size: int) -> StoredFileMeta | None:
    """The file meta information of a file; None where neither prefix nor group 0002 are there.

    Args:
        read_at: Reads up to so many bytes (second) from an offset (first).
        size: Of the file, in bytes.

    Raises:
        DamagedFileMeta: It ends inside an element, or has too many.
    """
    head = read_at(0, PREFIX_BYTES)
    if has_prefix(head):
        return _stored(read_at, size, PREFIX_BYTES, ())
    if head[:4] == _PREFIX:
        return _stored(read_at, size, 4, ("the preamble is missing",))
    if head[:4] == b"\x02\x00\x00\x00" or head[:3] == b"\x02\x00\x10":
        return _stored(read_at, size, 0, ("preamble and prefix are missing",))
    return None


def _stored(read_at: Callable[[int, int], bytes], size: int, begin: int, warnings: tuple[str, ...]) -> StoredFileMeta:
    values: dict[int, bytes] = {}
    at = base = begin
    window = read_at(base, _WINDOW)
    for _ in range(MOST_ELEMENTS):
        if at + _HEAD_BYTES + _LONGEST_VALUE > base + len(window):
            base, window = at, read_at(at, _WINDOW)
        element = element_at(window, at - base)
        if element is None:
            return StoredFileMeta(begin, at, values, warnings)
        at = base + element.end
        if at > size:
            raise DamagedFileMeta(f"the file meta information ends inside (0002,{element.number:04X})")
        if element.length <= _LONGEST_VALUE:
            values[element.number] = window[element.start : element.end]
    raise DamagedFileMeta(f"the file meta information has more than {MOST_ELEMENTS} elements")


# -- a file that arrives ---------------------------------------------------------------------------------------------


class ArrivingFileMeta:
    """Preamble, prefix and group 0002, read while they arrive."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._at = PREFIX_BYTES
        self.fault: StoreStatus | None = None
        self.is_complete = False
        self.values: dict[int, bytes] = {}
        """Values of UI elements, without padding."""

    def feed(self, piece: memoryview) -> memoryview | None:
        """Take bytes; once it is complete, what of them belongs to the data set."""
        before = len(self._held)
        self._held += piece
        if len(self._held) < PREFIX_BYTES:
            return None
        if not has_prefix(self._held):
            self.fault = store_status.NOT_PART_10
            return None
        while self.fault is None and not self.is_complete and self._step():
            pass
        if self.fault is None and not self.is_complete and len(self._held) > LONGEST_META:
            self.fault = store_status.BAD_META
        if not self.is_complete:
            return None
        # What was held before and lies behind the end is a few bytes of one header at most.
        rest = bytes(self._held[self._at : before]) if self._at < before else b""
        self._held.clear()
        return memoryview(rest + bytes(piece)) if rest else piece[max(0, self._at - before) :]

    def _step(self) -> bool:
        """Go over one element; whether there may be a next one in what is held."""
        element = element_at(self._held, self._at)
        if element is None:
            self.is_complete = len(self._held) >= self._at + _SHORT.size
            return False
        if len(self._held) < element.start:
            return False
        if element.end > LONGEST_META or not element.vr:
            self.fault = store_status.BAD_META
        if self.fault is not None or len(self._held) < element.end:
            return False
        if element.vr == b"UI":
            self.values[element.number] = bytes(self._held[element.start : element.end]).rstrip(b"\0 ")
        self._at = element.end
        return True


# -- written ---------------------------------------------------------------------------------------------------------


def _group_length(length: int) -> bytes:
    """(0002,0000) File Meta Information Group Length."""
    return _SHORT.pack(2, 0, b"UL", 4) + length.to_bytes(4, "little")


def _uid(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) & 1)
    return _SHORT.pack(2, element, b"UI", len(value)) + value


def _text(element: int, vr: bytes, value: str) -> bytes:
    """A text element; left out where there is no value of the default repertoire."""
    encoded = "".join(c for c in value if " " <= c <= "~" and c != "\\").encode("ascii")
    if not encoded:
        return b""
    encoded += b" " * (len(encoded) & 1)
    return _SHORT.pack(2, element, vr, len(encoded)) + encoded


def _address(element: int, value: str) -> bytes:
    """A presentation address: VR UR, which has a 32-bit length (PS3.5 7.1.2)."""
    encoded = value.encode("ascii", "ignore")
    if not encoded:
        return b""
    encoded += b" " * (len(encoded) & 1)
    return struct.pack("<HH2sHI", 2, element, b"UR", 0, len(encoded)) + encoded
