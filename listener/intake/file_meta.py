"""The file meta information that goes before a received data set (PS3.10 7.1), written and read again.

Contract: 128 zero bytes, ``DICM`` and group 0002, made here: a sender has no say in the preamble, and its AE title
and address go into the elements meant for them. The data set's bytes follow as they came.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from listener.intake.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from listener.intake.walk import LONG_VRS

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREAMBLE: Final = bytes(128) + b"DICM"
_SHORT: Final = struct.Struct("<HH2sH")


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


def elements_of(head: bytes) -> Iterator[tuple[int, bytes]]:
    """Group 0002 at the beginning of a Part 10 file, as far as `head` holds it (explicit VR little endian, PS3.10 7.1).

    Yields:
        Element number and value, padding included, of each element that is there as a whole.
    """
    if head[128 : len(_PREAMBLE)] != b"DICM":
        return
    at = len(_PREAMBLE)
    while at + _SHORT.size <= len(head):
        group, element, vr, length = _SHORT.unpack_from(head, at)
        at += _SHORT.size
        if vr in LONG_VRS:
            length = int.from_bytes(head[at : at + 4], "little")
            at += 4
        if group != 2 or at + length > len(head):
            return
        yield element, head[at : at + length]
        at += length


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
