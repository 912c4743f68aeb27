"""The walk: what ends where it says ends well; what lies is found; how it is cut into pieces never matters."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.intake.transfer_syntaxes import Encoding, encoding_of
from listener.intake.walk import DataSetFault, DataSetScanner
from tests.listener.requestor import CT, data_set, explicit, stored_data_set

if TYPE_CHECKING:
    from pathlib import Path

EXPLICIT = Encoding(explicit_vr=True, little_endian=True)
IMPLICIT = Encoding(explicit_vr=False, little_endian=True)


def walked(
    content: bytes, encoding: Encoding = EXPLICIT, step: int | None = None, **limits: int
) -> tuple[DataSetFault | None, DataSetScanner]:
    walk = DataSetScanner(
        encoding, max_depth=limits.get("max_depth", 64), max_elements=limits.get("max_elements", 100_000)
    )
    for start in range(0, len(content), step or len(content) or 1):
        walk.feed(memoryview(content)[start : start + (step or len(content))])
    return walk.finish(), walk


def cause(content: bytes, **options: Any) -> str | None:
    fault, _ = walked(content, **options)
    return fault.cause if fault else None


def sequence(*items: bytes, defined: bool) -> bytes:
    if defined:
        body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(i)) + i for i in items)
        return struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, len(body)) + body
    body = b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + i + struct.pack("<HHI", 0xFFFE, 0xE00D, 0) for i in items
    )
    return struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


NESTED = b"".join(
    (
        explicit(0x00080016, b"UI", CT.encode()),
        explicit(0x00080018, b"UI", b"1.2.3"),
        sequence(explicit(0x00100010, b"PN", b"A"), sequence(b"", defined=False), defined=True),
        sequence(sequence(explicit(0x00080018, b"UI", b"9.9"), defined=True), b"", defined=False),
        struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
        + struct.pack("<HHI", 0xFFFE, 0xE000, 0)
        + struct.pack("<HHI", 0xFFFE, 0xE000, 300)
        + bytes(300)
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        explicit(0xFFFCFFFC, b"OB", bytes(10)),
    )
)


@given(st.integers(1, 80))
def test_pieces_of_any_size_give_the_same_answer(step: int) -> None:
    fault, walk = walked(NESTED, step=step)
    assert fault is None
    assert (walk.sop_class_uid, walk.sop_instance_uid) == (CT.encode(), b"1.2.3")


def test_every_truncation_is_found_wherever_it_is() -> None:
    ends = set()
    for length in range(1, len(NESTED)):
        if cause(NESTED[:length]) is None:
            ends.add(length)
    # Between two elements of the outermost level a data set is complete, whatever should have followed.
    assert len(ends) == 5


@given(st.binary(max_size=300), st.integers(1, 40))
def test_no_bytes_at_all_make_it_raise(noise: bytes, step: int) -> None:
    for encoding in (EXPLICIT, IMPLICIT, Encoding(explicit_vr=True, little_endian=False)):
        walked(noise, encoding, step)
        walked(NESTED[:200] + noise, encoding, step)


@pytest.mark.parametrize("claimed", [0xFFFFFFFE, 0x7FFFFFFF, 1_000_000])
def test_a_length_beyond_the_end_is_found_without_reading_so_far(claimed: int) -> None:
    assert (
        cause(data_set()[:-1012] + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, claimed) + bytes(50)) == "cut_off"
    )


def test_an_item_longer_than_its_sequence_is_found() -> None:
    content = bytearray(sequence(explicit(0x00100010, b"PN", b"AB"), defined=True))
    struct.pack_into("<I", content, 16, 5000)
    assert cause(bytes(content)) == "length_lie"


def test_an_element_longer_than_its_item_is_found() -> None:
    content = bytearray(sequence(explicit(0x00100010, b"PN", b"AB"), defined=True))
    struct.pack_into("<H", content, 26, 500)
    assert cause(bytes(content) + bytes(600)) == "length_lie"


def test_depth_and_number_of_elements_are_bounded() -> None:
    deep = b""
    for _ in range(70):
        deep = sequence(deep, defined=False)
    assert cause(deep) == "too_deep"
    assert cause(deep, max_depth=80) is None
    assert cause(explicit(0x00100010, b"PN", b"A") * 50, max_elements=49) == "too_many_elements"


def test_implicit_vr_under_an_explicit_label_is_walked_as_what_it_is() -> None:
    content = b"".join(
        struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(v)) + v
        for tag, v in ((0x00080016, b"1.2\0"), (0x00080018, b"3\0"))
    )
    fault, walk = walked(content)
    assert fault is None
    assert (walk.sop_class_uid, walk.sop_instance_uid) == (b"1.2", b"3")
    assert cause(content[:-1]) == "cut_off"


def test_zeros_at_the_end_are_padding() -> None:
    assert cause(data_set() + bytes(100)) is None


def test_a_private_un_of_undefined_length_holds_implicit_vr() -> None:
    inner = struct.pack("<HHI", 0x0010, 0x0010, 2) + b"AB"
    content = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
    content += struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    assert cause(content + explicit(0x00100010, b"PN", b"A")) is None


@pytest.mark.parametrize("order", ["<", ">"], ids=["little endian items", "big endian items"])
def test_a_un_sequence_in_a_big_endian_data_set_may_be_little_endian(order: str) -> None:
    def big(tag: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack(">HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value

    inner = struct.pack(f"{order}HHI", 0x0010, 0x0010, 2) + b"AB"
    content = struct.pack(">HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF)
    content += struct.pack(f"{order}HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner
    content += struct.pack(f"{order}HHI", 0xFFFE, 0xE00D, 0) + struct.pack(f"{order}HHI", 0xFFFE, 0xE0DD, 0)
    content += big(0x00100010, b"PN", b"AB")
    encoding = Encoding(explicit_vr=True, little_endian=False)
    for step in range(1, len(content) + 1):
        assert walked(content, encoding, step)[0] is None
    assert cause(content[:-1], encoding=encoding) == "cut_off"


def test_of_a_uid_that_occurs_twice_the_first_counts() -> None:
    content = explicit(0x00080018, b"UI", b"1.2.3") + explicit(0x00080018, b"UI", b"9.9")
    assert walked(content)[1].sop_instance_uid == b"1.2.3"


def test_every_real_file_that_pydicom_reads_without_complaint_walks_to_its_end(
    corpus: Path, corpus_catalog: list[dict[str, Any]]
) -> None:
    wrong = []
    for path in sorted(p for p in corpus.rglob("*") if p.is_file() and p.suffix != ".jsonl"):
        content = path.read_bytes()
        if content[128:132] != b"DICM" or content[:128] != bytes(128):
            continue
        try:
            syntax = str(pydicom.dcmread(BytesIO(content), stop_before_pixels=True).file_meta.TransferSyntaxUID)
        except Exception:  # noqa: BLE001, S112 - broken files are not what this test is about
            continue
        encoding = encoding_of(syntax)
        if encoding is not None and walked(stored_data_set(path), encoding, 65536)[0] is not None:
            wrong.append(path.name)
    print(wrong)  # noqa: T201 - to be looked at when the test fails
    assert len(wrong) <= len(corpus_catalog) // 20
