"""Group 0002: what is written before a data set is read again, and nothing is made of what is torn or foreign."""

from __future__ import annotations

import struct

import pytest

from listener.intake.file_meta import AssociationParties, FileMeta, elements_of
from listener.intake.identity import IMPLEMENTATION_CLASS_UID

PARTIES = AssociationParties("SENDER", "RECEIVER", "dicom://192.0.2.1:11112", "dicom://192.0.2.2:104")
WRITTEN = FileMeta("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", PARTIES).encode(b"1.2.3.4")
DATA = struct.pack("<HH2sH", 0x0008, 0x0016, b"UI", 2) + b"1\0"


def test_what_is_written_is_read_again() -> None:
    read = {element: value.strip(b"\0 ") for element, value in elements_of(WRITTEN + DATA)}
    assert read.pop(0) == (len(WRITTEN) - 144).to_bytes(4, "little").strip(b"\0")
    assert read.pop(1) == b"\1"
    assert read.pop(0x13)
    assert read == {
        0x02: b"1.2.840.10008.5.1.4.1.1.2",
        0x03: b"1.2.3.4",
        0x10: b"1.2.840.10008.1.2.1",
        0x12: IMPLEMENTATION_CLASS_UID.encode("ascii"),
        0x16: b"SENDER",
        0x17: b"SENDER",
        0x18: b"RECEIVER",
        0x26: b"dicom://192.0.2.1:11112",
        0x27: b"dicom://192.0.2.1:11112",
        0x28: b"dicom://192.0.2.2:104",
    }


@pytest.mark.parametrize("length", range(0, len(WRITTEN), 7))
def test_a_torn_head_gives_whole_elements_only(length: int) -> None:
    whole = dict(elements_of(WRITTEN))
    assert dict(elements_of(WRITTEN[:length])).items() <= whole.items()


@pytest.mark.parametrize("head", [b"", bytes(1024), b"DICM" + WRITTEN, WRITTEN[:128] + b"dicm" + WRITTEN[132:]])
def test_what_is_no_part_10_file_has_no_elements(head: bytes) -> None:
    assert not list(elements_of(head))
