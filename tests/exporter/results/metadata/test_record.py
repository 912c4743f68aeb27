"""Records: the seed's keys, typed values, valid JSON whatever a header holds."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config, dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from exporter.dicom.elements import quiet_reading, read_elements
from exporter.dicom.instance import Instance
from exporter.errors import ExportError, SkipInstance
from exporter.results.metadata import record
from exporter.results.metadata.record import elements, record_text
from exporter.settings.settings import LimitSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _no_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests write what no writer should."""
    monkeypatch.setattr(config.settings, "writing_validation_mode", config.IGNORE)
    monkeypatch.setattr(config.settings, "reading_validation_mode", config.IGNORE)


def read_back(header: Dataset, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """The data set as it comes from a file: raw elements."""
    buffer = BytesIO()
    little, implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    with quiet_reading():
        dcmwrite(buffer, header, little_endian=little, implicit_vr=implicit)
    read, _ = read_elements(buffer.getvalue(), implicit=implicit, big_endian=not little)
    return read


def raw(*items: tuple[int, str, bytes]) -> Dataset:
    """A data set of elements with these very bytes, explicit VR little endian."""
    content = b""
    for tag, vr, value in items:
        head = (tag >> 16).to_bytes(2, "little") + (tag & 0xFFFF).to_bytes(2, "little") + vr.encode()
        long = vr in {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
        content += (
            head + (b"\0\0" + len(value).to_bytes(4, "little") if long else len(value).to_bytes(2, "little")) + value
        )
    return read_elements(content, implicit=False, big_endian=False)[0]


def values(header: Dataset) -> dict[str, Any]:
    found, _ = elements(header)
    text = orjson.dumps(found)
    assert json.loads(text, parse_constant=pytest.fail) == found
    return found


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("read_before", [False, True])
def test_values_are_typed(syntax: str, *, read_before: bool) -> None:
    header = Dataset()
    header.ImageType = ["ORIGINAL", "PRIMARY", "", "M"]
    header.SOPInstanceUID = "1.2.3"
    header.StudyDate = "20040119"
    header.StudyTime = "072730.5"
    header.Modality = "CT"
    header.PatientName = "Doe^Jane=\u5c71\u7530"
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientAge = "033Y"
    header.PatientComments = "one\\two \r\n three"
    header.PixelSpacing = ["0.5", "1e-3"]
    header.SliceThickness = "5"
    header.InstanceNumber = "-7"
    header.Rows = 512
    header.PixelRepresentation = 1
    header.SmallestImagePixelValue = -5
    header.RecommendedDisplayFrameRate = "25"
    header.FrameIncrementPointer = 0x00181063
    header.GridFrameOffsetVector = []
    header.StudyDescription = ""
    header.add_new(0x00189073, "FD", 1.25)
    header.ConceptNameCodeSequence = [Dataset(), Dataset()]
    header.ConceptNameCodeSequence[0].CodeValue = "T-1"
    header = read_back(header, syntax)
    if read_before:
        list(header.iterall())
    found, told = elements(header)
    assert found == {
        "Specific Character Set": "ISO_IR 192",
        "Image Type": ["ORIGINAL", "PRIMARY", "", "M"],
        "SOP Instance UID": "1.2.3",
        "Study Date": "20040119",
        "Study Time": "072730.5",
        "Modality": "CT",
        "Study Description": None,
        "Patient's Name": "Doe^Jane=\u5c71\u7530",
        "Patient's Age": "033Y",
        "Patient Comments": "one\\two \r\n three",
        "Slice Thickness": 5.0,
        "Instance Number": -7,
        "Recommended Display Frame Rate": 25,
        "Frame Increment Pointer": "(0018,1063)",
        "Pixel Spacing": [0.5, 0.001],
        "Rows": 512,
        "Pixel Representation": 1,
        "Smallest Image Pixel Value": -5,
        "Acquisition Duration": 1.25,
        "Concept Name Code Sequence": [{"Code Value": "T-1"}, {}],
        "Grid Frame Offset Vector": None,
    }
    assert [type(found[key]) for key in ("Slice Thickness", "Instance Number", "Rows")] == [float, int, int]
    assert not told.warnings


@pytest.mark.parametrize(
    ("vr", "text", "expected"),
    [
        ("DS", b"1e999999999", None),
        ("DS", b"NaN ", None),
        ("DS", b"-Infinity", None),
        ("DS", b"1_0 ", None),
        ("DS", b"1,5 ", None),
        ("DS", b"9" * 5000, None),
        ("DS", b"1.5\\garbage\\ 2 ", [1.5, None, 2.0]),
        ("DS", b"1\\\\3 ", [1.0, None, 3.0]),
        ("DS", b" \0", None),
        ("IS", b"9" * 5000, None),
        ("IS", b"99999999999999999999", None),
        ("IS", b"12.0", 12),
        ("IS", b"1.5 ", 1.5),
        ("IS", b"0x10", None),
        ("IS", b"3\\x ", [3, None]),
        ("FD", b"\0\0\0\0\0\0\xf8\x7f", None),
        ("FL", b"\0\0\x80\x7f", None),
        ("US", b"\1\0\2", 1),
        ("SL", b"\xff\xff\xff\xff\1\0\0\0", [-1, 1]),
    ],
)
def test_what_is_no_number_is_null_with_a_warning(vr: str, text: bytes, expected: object) -> None:
    tag = {"DS": 0x00180050, "IS": 0x00200013, "FD": 0x00189073, "FL": 0x00189417, "US": 0x00280010, "SL": 0x00186020}[
        vr
    ]
    found, told = elements(raw((tag, vr, text)))
    assert list(found.values()) == [expected]
    blank = not text.strip(b" \\\0")
    harmless = {b"1\\\\3 ", b"12.0", b"1.5 ", b"\xff\xff\xff\xff\1\0\0\0"}
    assert bool(told.warnings) == (text not in harmless and not blank)
    for warning in told.warnings:
        assert warning.startswith(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) ")
        assert "garbage" not in warning


def test_equal_bytes_are_read_by_their_vr_and_byte_order_however_often_they_came_before() -> None:
    for _ in range(2):
        assert values(raw((0x00080060, "CS", b"12"), (0x00200013, "IS", b"12"), (0x00280010, "US", b"12"))) == {
            "Modality": "12",
            "Instance Number": 12,
            "Rows": 0x3231,
        }
        header, _ = read_elements(b"\x00\x28\x00\x10US\x00\x0212", implicit=False, big_endian=True)
        assert values(header) == {"Rows": 0x3132}


def test_a_warning_about_a_value_comes_with_every_instance_that_has_it() -> None:
    for _ in range(2):
        _, notes = elements(raw((0x00200013, "IS", b"x ")))
        assert list(notes.warnings) == ["(0020,0013) Instance Number: a value is no finite number"]


def test_keys_of_private_elements_follow_the_creator_though_the_tags_are_equal() -> None:
    for creator in (b"ACME", b"OTHER ", b"ACME"):
        key = f"Private tag data (0009,xx01 {creator.decode().strip()})"
        assert values(raw((0x00090010, "LO", creator), (0x00091001, "LO", b"x ")))[key] == "x"


def test_one_bad_number_is_null_also_when_pydicom_has_read_it_before() -> None:
    header = raw((0x00180050, "DS", b"garbage "), (0x00280030, "DS", b"1.5\\nan "))
    with quiet_reading():
        assert header.SliceThickness is not None
        header.get("PixelSpacing")
    assert values(header) == {"Slice Thickness": None, "Pixel Spacing": [1.5, None]}


@pytest.mark.parametrize(
    ("charset", "encoded", "expected"),
    [
        (b"ISO_IR 100", "M\u00fcller^J\u00f6rg".encode("latin-1"), "M\u00fcller^J\u00f6rg"),
        (b"ISO_IR 192", "\u5c71\u7530^\u592a\u90ce".encode(), "\u5c71\u7530^\u592a\u90ce"),
        (
            b"ISO 2022 IR 6\\ISO 2022 IR 87 ",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
            "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce",
        ),
        (b"GB18030 ", "\u738b^\u5c0f\u4e1c".encode("gb18030"), "\u738b^\u5c0f\u4e1c"),
        (b"ISO_IR 192", b"M\xfcller", "M\ufffdller"),
        (b"NO SUCH SET ", b"M\xfcller", "M\u00fcller"),
        (b"ISO 2022 IR 87", b"\x1b$B\xff\xfe\x1b", None),
    ],
)
def test_text_is_unicode_whatever_its_character_set(charset: bytes, encoded: bytes, expected: str | None) -> None:
    found = values(raw((0x00080005, "CS", charset), (0x00100010, "PN", encoded)))
    if expected is not None:
        assert found["Patient's Name"] == expected
    json.dumps(found, ensure_ascii=False).encode()


def test_text_that_its_character_set_cannot_decode_is_said_to_be() -> None:
    _, told = elements(raw((0x00080005, "CS", b"ISO_IR 192"), (0x00100010, "PN", b"M\xfcller")))
    assert list(told.warnings) == [
        "(0010,0010) Patient's Name: text is not in the character set that the data set says"
    ]


def test_long_values_are_cut_and_told() -> None:
    header = raw(
        (0x00100010, "PN", b"A" * 60_000), (0x00104000, "UT", b"B" * 10_000_000), (0x00080060, "CS", b"\\" * 40_000)
    )
    found, told = elements(header)
    assert len(found["Patient Comments"]) == record.MOST_CHARACTERS
    assert len(found["Patient's Name"]) == 60_000
    assert list(told.warnings) == ["(0010,4000) Patient Comments: only the first 65536 characters are kept"]
    found, told = elements(raw((0x300A0001, "UC", b"1\\" * 200_000)))
    assert len(found["Unknown (300A,0001)"]) == record.MOST_VALUES
    assert told.warnings


# -- keys ------------------------------------------------------------------------------------------------------------


def test_repeating_groups_are_told_apart_by_their_tag() -> None:
    header = raw((0x60000010, "US", b"\1\0"), (0x60020010, "US", b"\2\0"), (0x60040010, "US", b"\3\0"))
    assert values(header) == {"Overlay Rows": 1, "Overlay Rows (6002,0010)": 2, "Overlay Rows (6004,0010)": 3}


def test_private_elements_are_told_apart_by_creator_and_tag() -> None:
    header = raw(
        (0x00090010, "LO", b"GEMS_IDEN_01"),
        (0x00090011, "LO", b"ACME "),
        (0x00090012, "LO", b"ACME "),
        (0x00091002, "SH", b"CT01"),
        (0x00091101, "LO", b"first "),
        (0x00091201, "LO", b"second"),
        (0x00091301, "LO", b"nobody's"),
    )
    assert values(header) == {
        "Private Creator (0009,0010)": "GEMS_IDEN_01",
        "Private Creator (0009,0011)": "ACME",
        "Private Creator (0009,0012)": "ACME",
        "[Suite id] (0009,xx02 GEMS_IDEN_01)": "CT01",
        "Private tag data (0009,xx01 ACME)": "first",
        "Private tag data (0009,xx01 ACME) 2": "second",
        "Private tag data (0009,1301)": "nobody's",
    }


@pytest.mark.parametrize("block", [0x10, 0x11, 0xF7])
@pytest.mark.parametrize("beside", [(), ((0x00090030, "LO", b"OTHER "), (0x00093001, "LO", b"other "))])
def test_the_key_of_a_private_element_is_the_same_in_every_file(
    block: int, beside: tuple[tuple[int, str, bytes], ...]
) -> None:
    mine = ((0x00090000 | block, "LO", b"SIEMENS MED "), (0x00090001 | block << 8, "LO", b"mine"))
    found = values(raw(*sorted((*mine, *beside))))
    assert found["Private tag data (0009,xx01 SIEMENS MED)"] == "mine"


def test_keys_of_private_elements_of_different_creators_never_meet() -> None:
    long = b"A" * 100
    creators = [b"ACME", b"ACME 2", b"ACME) 2", b"ACME (0009,1001)", b"acme", long, long + b"B", b"A\\B", b"[Suite id]"]
    keys = []
    for creator in creators:
        even = creator + b" " * (len(creator) % 2)
        header = raw(
            (0x00090010, "LO", even), (0x00090011, "LO", even), (0x00091001, "LO", b"x "), (0x00091101, "LO", b"y ")
        )
        keys += [key for key, value in values(header).items() if value in ("x", "y")]
    assert len(set(keys)) == 2 * len(creators)
    assert all("0009,xx01" in key for key in keys)


def test_a_name_that_says_nothing_still_tells_the_elements_apart() -> None:
    header = raw((0x00190010, "LO", b"SIEMENS CM VA0  CMS "), (0x00191050, "IS", b"1 "), (0x00191056, "IS", b"2 "))
    names = [key for key in values(header) if key.startswith("[")]
    assert all(key.endswith(" SIEMENS CM VA0  CMS)") for key in names)


@pytest.mark.parametrize("read_before", [False, True])
def test_the_creator_in_a_key_is_text_however_the_element_was_read(*, read_before: bool) -> None:
    header = raw(
        (0x00080005, "CS", b"ISO_IR 192"), (0x00090010, "LO", "F\u00fcrth ".encode()), (0x00091001, "LO", b"x ")
    )
    if read_before:
        list(header.iterall())
    assert values(header)["Private tag data (0009,xx01 F\u00fcrth)"] == "x"


def test_private_elements_are_left_out_where_they_are_not_wanted_and_counted() -> None:
    header = raw((0x00090010, "LO", b"ACME"), (0x00091001, "LO", b"Doe "), (0x00091002, "OB", b"Doe "))
    header.Rows = 7
    header.ContentSequence = [raw((0x00090010, "LO", b"ACME"), (0x00091001, "LO", b"Doe "), (0x00100020, "LO", b"1 "))]
    found, told = elements(header, private=False)
    assert found == {"Rows": 7, "Content Sequence": [{"Patient ID": "1"}]}
    assert (told.private, told.left_out) == (5, [])
    assert elements(header)[1].private == 0


def test_elements_without_a_name_have_their_tag() -> None:
    header = raw(
        (0x00080000, "UL", b"\4\0\0\0"),
        (0x00091001, "LO", b"x "),
        (0x00200002, "LO", b"y "),
        (0x00280000, "UL", b"\4\0\0\0"),
    )
    found = values(header)
    assert found["Group Length (0008,0000)"] == found["Group Length (0028,0000)"] == 4
    assert found["Unknown (0020,0002)"] == "y"
    assert len(found) == 4


def test_a_key_of_the_record_is_never_one_of_ours() -> None:
    header = raw((0x00090010, "LO", b"export"), (0x00091001, "LO", b"x "))
    assert not {"export", "dicom_file", "media_file", "media_type"} & values(header).keys()


# -- what is left out ------------------------------------------------------------------------------------------------


def test_binary_values_are_left_out_and_told() -> None:
    header = Dataset()
    header.RedPaletteColorLookupTableData = b"\0" * 512
    header.add_new(0x00091001, "UN", b"\1\2\3\4")
    header.IconImageSequence = [Dataset()]
    header.IconImageSequence[0].Rows = 8
    header.IconImageSequence[0].PixelData = b"\0" * 64
    header.IconImageSequence[0]["PixelData"].VR = "OB"
    found, told = elements(read_back(header))
    assert found == {"Icon Image Sequence": [{"Rows": 8}]}
    assert told.left_out == [
        {"element": "Private tag data (0009,1001)", "vr": "UN", "bytes": 4},
        {"element": "Red Palette Color Lookup Table Data", "vr": "OW", "bytes": 512},
        {"element": "Icon Image Sequence[0] > Pixel Data", "vr": "OB", "bytes": 64},
    ]


def test_deep_nesting_ends() -> None:
    header = inner = Dataset()
    for _ in range(100):
        inner.ContentSequence = [Dataset()]
        inner = inner.ContentSequence[0]
    inner.Rows = 1
    found, told = elements(header)
    depth = 0
    while found.get("Content Sequence"):
        found, depth = found["Content Sequence"][0], depth + 1
    assert depth == record.MOST_DEPTH
    assert list(told.warnings) == ["(0040,A730) Content Sequence: sequences nested deeper than 64 are left out"]


def test_too_many_elements_are_counted_not_kept() -> None:
    header = Dataset()
    header.ContentSequence = [Dataset() for _ in range(50)]
    for item in header.ContentSequence:
        item.CodeValue = "x"
    found, told = elements(header, most_elements=31)
    assert sum("Code Value" in item for item in found["Content Sequence"]) == 30
    assert told.unlisted == 20


def test_so_many_binary_elements_are_listed_and_no_more() -> None:
    header = raw(*((0x00091000 + index, "OB", b"\0\0") for index in range(256)))
    found, told = elements(header)
    assert found == {}
    assert (len(told.left_out), told.unlisted) == (record.MOST_NOTES, 56)


# -- whatever a header holds -----------------------------------------------------------------------------------------

_VRS = sorted({*record._TEXT, *record._NUMBERS, *record._BINARY, "AT", "DS", "IS", "SQ", "UN", "ZZ"})
_TAGS = st.sampled_from(
    [0x00100010, 0x00100020, 0x00104000, 0x00080008, 0x00091001, 0x60000022, 0x00080018, 0x00280030]
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(_TAGS, st.text(st.characters(), max_size=60) | st.lists(st.text(st.characters()), max_size=3)))
def test_any_text_gives_valid_utf_8_json(given_values: dict[int, Any]) -> None:
    header = Dataset()
    for tag, value in given_values.items():
        element = DataElement(tag, "UT", "")
        element.VR = "LO"
        element._value = MultiValue(str, value) if isinstance(value, list) else value
        header[tag] = element
    found, _ = elements(header)
    assert len(found) == len(given_values)
    assert json.loads(orjson.dumps(found).decode()) == found


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0x0008, 0x6010),
            st.integers(0, 0x20FF),
            st.sampled_from(_VRS),
            st.binary(max_size=40),
        ),
        max_size=12,
        unique_by=lambda item: item[:2],
    ),
    st.sampled_from([b"", b"ISO_IR 192", b"ISO 2022 IR 87", b"GBK ", b"\\ISO 2022 IR 149"]),
)
def test_any_bytes_give_a_record_in_which_every_element_is_told(
    items: list[tuple[int, int, str, bytes]], charset: bytes
) -> None:
    tagged = sorted(
        (group << 16 | element, vr, value + b"\0" * (len(value) % 2)) for group, element, vr, value in items
    )
    header = raw((0x00080005, "CS", charset), *(item for item in tagged if item[0] != 0x00080005))
    number = len(header)
    found, told = elements(header)
    assert len(found) + sum(" > " not in one["element"] for one in told.left_out) == number
    assert json.loads(orjson.dumps(found).decode(), parse_constant=pytest.fail) == found
    orjson.dumps(told.left_out)
    again, told_again = elements(raw((0x00080005, "CS", charset), *(item for item in tagged if item[0] != 0x00080005)))
    assert (list(again.items()), told_again) == (list(found.items()), told)


# -- real files ------------------------------------------------------------------------------------------------------


def plainly(header: Dataset) -> Iterator[tuple[int, tuple[str, Any]]]:
    """VR and value of every element that is not binary, by pydicom's own conversion, item by item."""
    for tag in list(header.keys()):
        element = header[tag]
        if element.VR == "SQ":
            yield int(tag), ("SQ", [dict(plainly(item)) for item in element.value or []])
        elif not isinstance(element.value, bytes) and element.VR not in record._BINARY:
            yield int(tag), (element.VR, element.value)


def compare(ours: Any, vr: str, value: Any) -> None:
    """Whether a value of ours is what pydicom says, in our words."""
    if vr == "SQ":
        assert len(ours) == len(value)
        for one, other in zip(ours, value, strict=True):
            compare_all(one, other)
        return
    several = list(value) if isinstance(value, MultiValue | list) else [value]
    mine = ours if isinstance(ours, list) else [ours] if several else []
    assert len(mine) == len(several)
    for one, other in zip(mine, several, strict=True):
        if one is None:
            assert other is None or str(other).strip(" \0") == "" or not is_number(other)
        elif vr in {"DS", "FL", "FD"}:
            assert isinstance(one, float)
            assert one == float(other)
        elif vr in {"IS", "US", "SS", "UL", "SL", "UV", "SV"}:
            assert one == int(other)
        else:
            assert one.strip(" \0") == str(other).strip(" \0")


def is_number(value: object) -> bool:
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]  # anything else raises
    except (TypeError, ValueError):
        return False


def compare_all(found: dict[str, Any], expected: dict[int, tuple[str, Any]]) -> None:
    assert len(found) == len(expected), "an element is missing, or two share a key"
    for ours, theirs in zip(found.values(), expected.values(), strict=True):
        compare(ours, *theirs)


@pytest.mark.slow
def test_every_element_of_every_real_file_is_told_as_pydicom_reads_it(
    corpus: Path, corpus_catalog: list[dict[str, Any]]
) -> None:
    records = elements_told = 0
    for row in corpus_catalog:
        try:
            with Instance.open(corpus / row["file"], LimitSettings()) as instance:
                text = record_text(instance)
            with Instance.open(corpus / row["file"], LimitSettings()) as instance, quiet_reading():
                expected = dict(plainly(instance.header))
        except (ExportError, SkipInstance):
            continue
        found = json.loads(text, parse_constant=pytest.fail)
        told = found.pop("export")
        assert isinstance(told["transfer_syntax_uid"], str)
        compare_all(found, expected)
        records += 1
        elements_told += len(found)
    assert records > 280
    assert elements_told > 15_000


@pytest.mark.parametrize("name", ["CT_small.dcm", "examples_ybr_color.dcm", "MR_small_bigendian.dcm", "rtplan.dcm"])
def test_the_seeds_keys_are_ours_and_say_the_same(name: str) -> None:
    path = Path(str(get_testdata_file(name)))
    with quiet_reading():
        seed = {
            element.name: str(element.value)
            for element in dcmread(path, stop_before_pixels=True)
            if element.VR not in {"SQ", "OB", "OW", "UN"}
        }
    with Instance.open(path, LimitSettings()) as instance:
        found = json.loads(record_text(instance))
    unclear = ("Private", "Group Length", "[")
    for key, text in seed.items():
        if key.startswith(unclear):
            assert any(ours.startswith(key) for ours in found)
            continue
        assert key in found, key
        if isinstance(found[key], str):
            assert found[key] == text.strip()
