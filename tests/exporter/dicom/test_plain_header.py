"""What is read the short way is what the walk and pydicom read, or it is not read the short way."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from exporter.dicom.bytesource import MemoryBytes
from exporter.dicom.elements import integer_of, numbers_of, read_elements, text_of, value_of
from exporter.dicom.plain_header import read_plain
from exporter.dicom.structure import DEFLATED_LE, find_data_set, walk
from exporter.errors import BadGeometry, ExportError
from exporter.settings.settings import LimitSettings

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = LimitSettings()
INSERTED = (
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"SQ\0\0",
    b"\0\0",
    b"\x08\0\x05\0CS\x02\0ab",
    b"\x09\0\x10\0LO\x02\0ab",
)


def read_both_ways(data: bytes) -> bool:
    """Compare both ways of reading a file; whether it was read the short way."""
    source = MemoryBytes(data)
    try:
        start = find_data_set(source)
    except ExportError:
        return False
    plain = None if start.transfer_syntax == DEFLATED_LE else read_plain(data, start, LIMITS)
    if plain is None:
        return False
    structure = walk(source, start, LIMITS)
    assert plain.structure == structure
    raw = b"".join(data[begin:end] for begin, end in structure.header)
    header, length = read_elements(raw, implicit=start.implicit, big_endian=False)
    assert (length, len(header)) == (len(raw), structure.top_elements)
    assert_equal(plain.header, header)
    return True


def encodings(header: Dataset) -> tuple[Any, ...]:
    found = (header._read_charset, header._parent_encoding)
    return header._read_implicit, header._read_little, *([one] if isinstance(one, str) else one for one in found)


def assert_equal(found: Dataset, expected: Dataset) -> None:
    assert list(found.keys()) == list(expected.keys())
    assert encodings(found) == encodings(expected)
    for tag in list(expected.keys()):
        one, other = found.get_item(tag), expected.get_item(tag)
        if isinstance(one, RawDataElement) and isinstance(other, RawDataElement):
            assert one._replace(value_tell=0) == other._replace(value_tell=0)
            continue
        one, other = found[tag], expected[tag]  # pydicom reads sequences of undefined length at once
        assert (one.VR, one.is_undefined_length) == (other.VR, other.is_undefined_length)
        if one.VR != "SQ":
            assert one.value == other.value
            continue
        assert len(one.value) == len(other.value)
        for item, expected_item in zip(one.value, other.value, strict=True):
            assert_equal(item, expected_item)


def mutant(data: bytes, source: random.Random) -> bytes:
    """A file with a few bytes of its header changed, removed or inserted, or cut."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(128, min(len(changed), 4000))
        match source.randrange(7):
            case 0 | 1 | 2:
                changed[at] = source.choice([0, 1, 2, 255, source.randrange(256), changed[at] ^ 1])
            case 3:
                del changed[at : at + source.choice([1, 2, 4, 8])]
            case 4 | 5:
                changed[at:at] = source.choice(INSERTED)
            case _:
                del changed[max(200, source.randrange(len(changed))) :]
    return bytes(changed)


def files(corpus: Path, most_bytes: int) -> list[bytes]:
    found = [path for path in sorted(corpus.rglob("*")) if path.is_file() and path.suffix != ".jsonl"]
    return [path.read_bytes() for path in found if 400 < path.stat().st_size < most_bytes]


def test_small_real_files_and_some_mutants_of_them_are_read_alike(corpus: Path) -> None:
    real = files(corpus, 20_000)
    assert sum(map(read_both_ways, real)) > len(real) / 2
    source = random.Random(1)  # noqa: S311 - a number makes the mutants again
    assert sum(read_both_ways(mutant(source.choice(real), source)) for _ in range(200)) > 10


@pytest.mark.slow
def test_all_real_files_and_ten_thousand_mutants_are_read_alike(corpus: Path) -> None:
    real = files(corpus, 1 << 30)
    assert sum(map(read_both_ways, real)) > 0.75 * len(real)
    source = random.Random(2)  # noqa: S311 - a number makes the mutants again
    small = [data[:200_000] for data in real]
    assert sum(read_both_ways(mutant(source.choice(small), source)) for _ in range(10_000)) > 1000


def explicit(tag: int, vr: str, value: bytes) -> bytes:
    head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + vr.encode()
    if vr in {"SQ", "UN", "OB", "UT"}:
        return head + b"\0\0" + len(value).to_bytes(4, "little") + value
    return head + len(value).to_bytes(2, "little") + value


def nested(levels: int) -> bytes:
    value = explicit(0x00080100, "SH", b"x ")
    for _ in range(levels):
        value = explicit(0x00081032, "SQ", b"\xfe\xff\x00\xe0" + len(value).to_bytes(4, "little") + value)
    return explicit(0x00080016, "UI", b"1.2\0") + value


def test_what_passes_a_limit_or_contradicts_itself_is_left_to_the_walk() -> None:
    data = nested(3)
    start = find_data_set(MemoryBytes(data))
    assert read_plain(data, start, LIMITS) is not None
    assert read_plain(data, start, LIMITS.model_copy(update={"max_depth": 2})) is None
    assert read_plain(data, start, LIMITS.model_copy(update={"max_elements": 4})) is None
    assert read_plain(data, start, LIMITS.model_copy(update={"max_header_bytes": 40})) is None
    assert read_plain(nested(40), start, LIMITS) is None
    assert read_plain(data + explicit(0x00080016, "UI", b"1.3\0"), start, LIMITS) is None
    assert read_plain(data + explicit(0x00090010, "ZZ", b"1.3\0"), start, LIMITS) is None
    assert read_plain(data[:-1], start, LIMITS) is None


VALUES = (
    b"",
    b" ",
    b"\0",
    b"1",
    b"-3 ",
    b"+4",
    b"1.5",
    b"1.5\\2",
    b"1\\",
    b"\\1",
    b"1e3",
    b"1_0",
    b"nan",
    b"\xb2",
    b"0x1",
)
TEXTS = (b"CT", b"CT ", b" CT", b"a\\b", b"1.2.3\0", b"\t", b"\0\0", b"M\xfcnchen", b"\x1b$B", b"a\0b", b"12\n")


@pytest.mark.parametrize("vr", ["AE", "CS", "DA", "DS", "IS", "LO", "SH", "SS", "UI", "US", "PN", "UN", "FD"])
def test_values_are_the_same_as_through_pydicom(vr: str) -> None:
    """Once pydicom has read an element, it is asked; before, plain bytes are."""
    for raw in (*VALUES, *TEXTS, b"\0\1", b"\xff\xff", b"\0\1\0\2", bytes(8)):
        found = []
        for is_read in (False, True):
            header = Dataset()
            tag = Tag(0x0028, 0x0010)
            header._dict[tag] = RawDataElement(tag, vr, len(raw), raw or None, 0, False, True)
            header.set_original_encoding(False, True, ["latin_1"])
            if is_read:
                with suppress(ValueError):
                    value_of(header, "Rows")
            found.append([text_of(header, "Rows"), repr(numbers_of(header, "Rows")), integer(header)])
        assert found[0] == found[1], (vr, raw)


def integer(header: Dataset) -> int | None:
    try:
        return integer_of(header, "Rows")
    except BadGeometry:
        return None
