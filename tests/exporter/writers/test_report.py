"""Structured reports as trees: every item, code and number of the document."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from exporter.dicom.instance import Instance
from exporter.errors import TooLarge, Unreadable
from exporter.outcome import MediaType
from exporter.settings.settings import LimitSettings, MediaSettings, ReportSettings
from exporter.writers import choose
from exporter.writers.contract import WriterTask, Written
from exporter.writers.report import ReportWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLASSES = "1.2.840.10008.5.1.4.1.1.88."
COMPREHENSIVE, COMPREHENSIVE_3D, KEY_OBJECTS = CLASSES + "33", CLASSES + "34", CLASSES + "59"
SETTINGS = MediaSettings()
REAL = [
    "ImagingDataCommons__highdicom/sr_document.dcm",
    "ImagingDataCommons__highdicom/sr_document_with_multiple_groups.dcm",
    "pydicom-wheel/reportsi.dcm",
    "pydicom-wheel/reportsi_with_empty_number_tags.dcm",
    "pydicom-wheel/test-SR.dcm",
]


def written(path: Path, folder: Path, settings: MediaSettings = SETTINGS) -> Written:
    out = folder / "out"
    out.mkdir()
    with Instance.open(path, settings.limits) as instance:
        assert isinstance(choose(instance, settings), ReportWriter)
        result = ReportWriter().write(WriterTask(instance, out, settings))
    assert sorted(entry.name for entry in out.iterdir()) == sorted(medium.file for medium in result.media)
    return result


def tree_of(path: Path, folder: Path) -> tuple[dict[str, Any], str]:
    result = written(path, folder)
    assert [(m.suffix, m.kind) for m in result.media] == [(".json", MediaType.REPORT), (".txt", MediaType.REPORT)]
    read = (folder / "out").joinpath
    tree: dict[str, Any] = json.loads(read(result.media[0].file).read_text("utf-8"))
    return tree, read(result.media[1].file).read_text("utf-8")


def items(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield item
    for child in item.get("children", ()):
        yield from items(child)


def codes(value: Any) -> Iterator[tuple[str | None, str | None, str | None]]:
    """Every code anywhere in a tree."""
    if isinstance(value, dict):
        if value.keys() >= {"value", "scheme", "meaning"}:
            yield value["value"], value["scheme"], value["meaning"]
        for inner in value.values():
            yield from codes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from codes(inner)


@pytest.mark.parametrize("name", REAL)
def test_every_number_and_code_that_dcmtk_sees_is_in_the_tree(
    peer: Callable[[str], str], corpus: Path, tmp_path: Path, name: str
) -> None:
    tree, text = tree_of(corpus / name, tmp_path)
    command = [peer("dsr2xml"), "-Ee", "-Ec", "-Er", "+Wt", str(corpus / name)]
    judged = subprocess.run(command, check=True, capture_output=True, timeout=100).stdout
    content = ET.fromstring(judged).find(".//document/content")  # noqa: S314 - DCMTK's output
    assert content is not None

    def of(element: ET.Element, tag: str) -> str | None:
        found = element.find(tag)
        return found.text if found is not None else None

    seen: Counter[tuple[str | None, str | None, str | None]] = Counter()
    for element in content.iter():
        scheme = element.find("scheme")
        if scheme is not None:
            seen[of(element, "value"), of(scheme, "designator"), of(element, "meaning")] += 1
    ours = Counter(codes(tree["content"]))
    assert seen, "the judge saw no code at all"
    assert not seen - ours

    numbers = [of(element, "value") for element in content.iter() if element.tag == "num"]
    decimals = [item["decimal"] for item in items(tree["content"]) if item.get("type") == "NUM"]
    assert Counter(number for number in numbers if number) == Counter(d for d in decimals if d)
    for item in items(tree["content"]):
        if item.get("type") == "NUM" and item["decimal"]:
            assert item["value"] == pytest.approx(float(item["decimal"]), rel=1e-12)  # it may have a double beside it

    texts = [of(element, "value") for element in content.iter() if element.tag == "text"]
    told = [item["value"] for item in items(tree["content"]) if item.get("type") == "TEXT"]
    assert Counter((t or "").split()[0] for t in texts if (t or "").split()) == Counter(
        t.split()[0] for t in told if t and t.split()
    )
    uids = {e.get("uid") for e in content.iter() if e.tag == "instance"}
    references = [r for i in items(tree["content"]) for r in i.get("references", ())]
    references += [r["presentation_state"] for r in references if "presentation_state" in r]
    assert uids <= {r["sop_instance_uid"] for r in references}
    for decimal in filter(None, decimals):
        assert decimal in text


def coded(value: str, meaning: str, scheme: str = "DCM", *, keyword: str = "CodeValue") -> Dataset:
    code = Dataset()
    setattr(code, keyword, value)
    code.CodingSchemeDesignator, code.CodeMeaning = scheme, meaning
    return code


def content_item(type_: str | None, relationship: str = "CONTAINS", **elements: Any) -> Dataset:
    item = Dataset()
    item.RelationshipType = relationship
    if type_ is not None:
        item.ValueType = type_
        item.ConceptNameCodeSequence = [coded("1", type_.lower())]
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def saved(path: Path, children: list[Dataset], sop_class: str = COMPREHENSIVE_3D, **elements: Any) -> Path:
    document = Dataset()
    document.SOPClassUID, document.SOPInstanceUID = UID(sop_class), generate_uid()
    document.SpecificCharacterSet = "ISO_IR 192"
    document.ValueType, document.ContinuityOfContent = "CONTAINER", "SEPARATE"
    document.CompletionFlag, document.VerificationFlag = "COMPLETE", "VERIFIED"
    document.ConceptNameCodeSequence = [coded("121070", "Findings")]
    document.ContentSequence = children
    for keyword, value in elements.items():
        setattr(document, keyword, value)
    document.file_meta = FileMetaDataset()
    document.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    document.file_meta.MediaStorageSOPInstanceUID = document.SOPInstanceUID
    document.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document.save_as(path, enforce_file_format=True)
    return path


def measured(value: str | None, **extra: Any) -> Dataset:
    number = Dataset()
    if value is not None:
        number.NumericValue = value
    number.MeasurementUnitsCodeSequence = [coded("mm", "millimeter", "UCUM")]
    for keyword, one in extra.items():
        setattr(number, keyword, one)
    return number


def reference(**extra: Any) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UID("1.2.3"), UID("1.2.3.4")
    for keyword, value in extra.items():
        setattr(item, keyword, value)
    return item


def test_every_value_type_is_told(tmp_path: Path) -> None:
    frame_uid = "1.2.9"
    cell = Dataset()
    cell.TableRowNumber, cell.TableColumnNumber, cell.TextValue = 1, 2, "inside"
    children = [
        content_item("TEXT", TextValue="größer\nals zuvor"),
        content_item("CODE", ConceptCodeSequence=[coded("http://x/y", "far", "URN", keyword="URNCodeValue")]),
        content_item("NUM", MeasuredValueSequence=[measured("12.50", FloatingPointValue=12.5000001)]),
        content_item(
            "NUM", MeasuredValueSequence=[], NumericValueQualifierCodeSequence=[coded("114000", "Not a number")]
        ),
        content_item("DATETIME", DateTime="20200102030405"),
        content_item("DATE", Date="20200102"),
        content_item("TIME", Time="030405"),
        content_item("UIDREF", UID="1.2.3"),
        content_item("PNAME", PersonName="Müller^Eva"),
        content_item("COMPOSITE", ReferencedSOPSequence=[reference()]),
        content_item("IMAGE", ReferencedSOPSequence=[reference(ReferencedFrameNumber=[2, 5])]),
        content_item("WAVEFORM", ReferencedSOPSequence=[reference(ReferencedWaveformChannels=[1, 3])]),
        content_item("SCOORD", GraphicType="POLYLINE", GraphicData=[1.0, 2.0, 3.5, 4.0]),
        content_item(
            "SCOORD3D",
            GraphicType="POINT",
            GraphicData=[1.0, 2.0, 3.0],
            ReferencedFrameOfReferenceUID=frame_uid,
        ),
        content_item("TCOORD", TemporalRangeType="SEGMENT", ReferencedTimeOffsets=[0.5, 1.5]),
        content_item("TABLE", CellValuesSequence=[cell]),
        content_item(None, "INFERRED FROM", ReferencedContentItemIdentifier=[1, 3]),
    ]
    tree, text = tree_of(saved(tmp_path / "in.dcm", children), tmp_path)
    told = tree["content"]["children"]
    assert tree["document"]["verification"] == "VERIFIED"
    assert told[0]["value"] == "größer\nals zuvor"
    assert told[1]["value"] == {"value": "http://x/y", "scheme": "URN", "meaning": "far"}
    assert (told[2]["value"], told[2]["decimal"], told[2]["unit"]["value"]) == (12.5000001, "12.50", "mm")
    assert (told[3]["value"], told[3]["qualifier"]["value"]) == (None, "114000")
    assert [item["value"] for item in told[4:9]] == ["20200102030405", "20200102", "030405", "1.2.3", "Müller^Eva"]
    assert told[9]["references"] == [{"sop_class_uid": "1.2.3", "sop_instance_uid": "1.2.3.4"}]
    assert told[10]["references"][0]["frames"] == [2, 5]
    assert told[11]["references"][0]["channels"] == [1, 3]
    assert told[12]["points"] == [[1.0, 2.0], [3.5, 4.0]]
    assert (told[13]["points"], told[13]["frame_of_reference_uid"]) == ([[1.0, 2.0, 3.0]], frame_uid)
    assert (told[14]["range"], told[14]["offsets_s"]) == ("SEGMENT", [0.5, 1.5])
    assert told[15]["cells"][0]["value"] == ["inside"]
    assert (told[16]["relationship"], told[16]["refers_to"]) == ("INFERRED FROM", "1.3")
    assert len(text.splitlines()) == 2 + len(children) + 1  # the flags, the title, and one text of two lines
    assert "  contains num (1, DCM): 12.50 mm" in text.splitlines()


def test_a_key_object_selection_is_a_report(tmp_path: Path) -> None:
    children = [content_item("IMAGE", ReferencedSOPSequence=[reference()])]
    tree, _ = tree_of(saved(tmp_path / "in.dcm", children, KEY_OBJECTS), tmp_path)
    assert tree["content"]["children"][0]["references"][0]["sop_instance_uid"] == "1.2.3.4"


def test_what_an_item_cannot_tell_is_null_and_said(tmp_path: Path) -> None:
    children = [content_item("NUM"), content_item("SOMETHING"), content_item("IMAGE")]
    result = written(saved(tmp_path / "in.dcm", children), tmp_path)
    tree = json.loads((tmp_path / "out" / result.media[0].file).read_text())
    assert tree["content"]["children"][0]["value"] is None
    assert len(result.warnings) == 3


def test_numbers_that_json_has_not_are_null(tmp_path: Path) -> None:
    children = [content_item("NUM", MeasuredValueSequence=[measured(None, FloatingPointValue=float("nan"))])]
    tree, _ = tree_of(saved(tmp_path / "in.dcm", children), tmp_path)
    assert tree["content"]["children"][0]["value"] is None


def test_a_tree_deeper_than_the_limit_is_refused(tmp_path: Path) -> None:
    item = content_item("TEXT", TextValue="deep")
    for _ in range(30):
        item = content_item("CONTAINER", ContentSequence=[item])
    path = saved(tmp_path / "in.dcm", [item])
    assert written(path, tmp_path).media
    shallow = tmp_path / "shallow"
    shallow.mkdir()
    with pytest.raises(TooLarge, match="max_depth"):
        written(path, shallow, MediaSettings(limits=LimitSettings(max_depth=20)))


def test_an_element_that_cannot_be_read_is_a_named_reason(tmp_path: Path) -> None:
    path = saved(tmp_path / "in.dcm", [content_item("TEXT", TextValue="a text of 20 letters")])
    damaged = path.read_bytes().replace(b"\x40\x00\x60\xa1UT", b"\x40\x00\x60\xa1UV")
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(Unreadable, match="content tree"):
        written(path, tmp_path)


def test_the_text_can_be_left_out(tmp_path: Path) -> None:
    settings = MediaSettings(report=ReportSettings(text=False))
    result = written(saved(tmp_path / "in.dcm", [], COMPREHENSIVE), tmp_path, settings)
    assert [medium.suffix for medium in result.media] == [".json"]


@pytest.fixture
def careless() -> Iterator[None]:
    """pydicom writes what the standard does not permit."""
    with config.disable_value_validation():
        yield


HOSTILE = "\x1b]0;x\x07\x85[COMPLETE, VERIFIED]\u2028\u202e\x00\u2066.\x9b31m"


@pytest.mark.usefixtures("careless")
def test_no_text_of_a_document_makes_a_line_of_its_own_or_acts_on_a_terminal(tmp_path: Path) -> None:
    hostile = coded("1\n2", f"meaning\n[COMPLETE, VERIFIED]\r\ncontains forged: 1 mm{HOSTILE}", f"S\n{HOSTILE[:12]}")
    children = [
        content_item("TEXT", TextValue=f"one\r\ncontains forged: 2 mm\n\n[VERIFIED]\ttab{HOSTILE}"),
        content_item("CODE", ConceptCodeSequence=[hostile]),
        content_item("PNAME", PersonName=f"Doe^Jane\nforged{HOSTILE}"),
        content_item("NUM", MeasuredValueSequence=[measured("1.5")]),
        content_item("UIDREF", UID="1.2.3"),
    ]
    for child in children[1:]:
        child.ConceptNameCodeSequence = [hostile]
    path = saved(tmp_path / "in.dcm", children, ConceptNameCodeSequence=[hostile], VerificationFlag="UNVERIFIED")
    tree, text = tree_of(path, tmp_path)
    lines = text.removesuffix("\n").split("\n")
    assert lines[0] == "[COMPLETE, UNVERIFIED]"
    assert lines[1].startswith("meaning\\n[COMPLETE, VERIFIED]\\r\\ncontains forged: 1 mm\\x1b]0;x")
    assert [line[:12] for line in lines[2:]] == [
        "  contains t",
        "      | cont",
        "      | ",
        "      | [VER",
        *["  contains m"] * 4,
    ]
    assert lines[5].startswith("      | [VERIFIED]    tab\\x1b]0;x\\x07\\x85[COMPLETE, VERIFIED]\\u2028\\u202e\\x00")
    assert all(line.isprintable() for line in lines)
    assert tree["content"]["children"][0]["value"].startswith("one\r\ncontains forged")
    raw = (tmp_path / "out" / "0.part").read_text("utf-8")
    assert all(character.isprintable() or character == "\n" for character in raw)


@pytest.mark.usefixtures("careless")
@pytest.mark.parametrize(
    ("elements", "first"),
    [
        ({"CompletionFlag": "COMPLETE", "VerificationFlag": ""}, "[COMPLETE]"),
        ({"CompletionFlag": "", "VerificationFlag": ""}, "[no completion or verification flag]"),
        (
            {"CompletionFlag": "PARTIAL], [VERIFIED", "VerificationFlag": "UNVERIFIED"},
            "[unknown flag 'PARTIAL], [VERIFIED', UNVERIFIED]",
        ),
    ],
)
def test_the_first_line_is_the_state_of_the_document_whatever_its_title_says(
    tmp_path: Path, elements: dict[str, str], first: str
) -> None:
    title = coded("", "[COMPLETE, VERIFIED]", "")
    path = saved(tmp_path / "in.dcm", [], ConceptNameCodeSequence=[title], **elements)
    _, text = tree_of(path, tmp_path)
    assert text.splitlines() == [first, "[COMPLETE, VERIFIED]"]


def test_text_of_every_script_stays_as_it_is(tmp_path: Path) -> None:
    told = "山田\u3000太郎, \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645, Größe\u00a05, क्\u200dष"
    _, text = tree_of(saved(tmp_path / "in.dcm", [content_item("TEXT", TextValue=told)]), tmp_path)
    assert told in text
