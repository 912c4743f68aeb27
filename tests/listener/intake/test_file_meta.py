"""Group 0002: what is written before a data set is read again, and nothing is made of what is torn or foreign."""

from __future__ import annotations

import struct

import pytest

from listener.intake.file_meta import (
    LONGEST_META,
    ArrivingFileMeta,
    AssociationParties,
    DamagedFileMeta,
    FileMeta,
    StoredFileMeta,
    elements_of,
    read_file_meta,
)
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


def stored(content: bytes) -> StoredFileMeta | None:
    return read_file_meta(lambda offset, length: content[offset : offset + length], len(content))


def long_element(number: int, value: bytes) -> bytes:
    return struct.pack("<HH2sHI", 2, number, b"OB", 0, len(value)) + value


@pytest.mark.parametrize("filler", [*range(3960, 4200, 6), 1 << 16])
def test_a_file_at_rest_a_head_and_an_upload_say_the_same_wherever_a_long_value_ends(filler: int) -> None:
    content = WRITTEN[:132] + long_element(0x0102, bytes(filler)) + WRITTEN[132:] + DATA
    found = stored(content)
    assert found is not None
    assert {**dict(elements_of(content)), 0x0102: None} == {**found.values, 0x0102: None}
    assert found.text(0x10) == "1.2.840.10008.1.2.1"
    assert found.end == len(content) - len(DATA)
    arriving = ArrivingFileMeta()
    rest = arriving.feed(memoryview(content))
    if filler < LONGEST_META - 1000:
        assert rest is not None
        assert bytes(rest) == DATA
        assert arriving.values.items() <= {tag: text.rstrip(b"\0 ") for tag, text in found.values.items()}.items()
    else:
        assert arriving.fault is not None


def test_a_careless_or_damaged_file_is_read_as_far_as_it_makes_sense() -> None:
    implicit = bytes(128) + b"DICM" + struct.pack("<HHI", 2, 0x10, 18) + b"1.2.840.10008.1.2\0" + DATA
    found = stored(implicit)
    assert found is not None
    assert (found.text(0x10), found.end) == ("1.2.840.10008.1.2", len(implicit) - len(DATA))
    for content, warning in (
        (WRITTEN[128:], "the preamble is missing"),
        (WRITTEN[132:], "preamble and prefix are missing"),
    ):
        found = stored(content)
        assert found is not None
        assert (found.text(3), found.warnings) == ("1.2.3.4", (warning,))
    assert stored(DATA) is None
    for damaged in (WRITTEN[:-3], bytes(128) + b"DICM" + long_element(0x0102, b"") * 257):
        with pytest.raises(DamagedFileMeta):
            stored(damaged)
