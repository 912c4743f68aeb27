from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from exporter.dicom.elements import quiet_reading, read_elements
from exporter.privacy.deidentify import PrivacyPolicy, deidentify, rebuilt_file_meta
from exporter.privacy.identifiers import collect_identifiers
from exporter.privacy.pseudonyms import Pseudonyms
from exporter.privacy.rules import PrivacyOption, rule_of
from exporter.privacy.vocabulary import UNKNOWN_SCHEME, code_meanings
from exporter.results.metadata.record import elements
from tests.exporter.privacy.planted import TEXT, attributes, encoded, planted, read

if TYPE_CHECKING:
    from exporter.privacy.deidentify import DeidentifiedDataSet

PSEUDONYMS = Pseudonyms(b"a key of thirty-two bytes or more")
CT = "1.2.840.10008.5.1.4.1.1.2"


def deidentified(data_set: Dataset, *options: PrivacyOption) -> DeidentifiedDataSet:
    return deidentify(data_set, PrivacyPolicy(PSEUDONYMS, frozenset(options)))


def reread(data_set: Dataset) -> Dataset:
    return read(encoded(data_set))


CLASSES = {
    "ultrasound": "1.2.840.10008.5.1.4.1.1.6.1",
    "cine": "1.2.840.10008.5.1.4.1.1.3.1",
    "CT": CT,
    "secondary capture": "1.2.840.10008.5.1.4.1.1.7",
    "enhanced CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "report": "1.2.840.10008.5.1.4.1.1.88.33",
    "presentation state": "1.2.840.10008.5.1.4.1.1.11.1",
    "PDF": "1.2.840.10008.5.1.4.1.1.104.1",
    "ECG": "1.2.840.10008.5.1.4.1.1.9.1.1",
    "structure set": "1.2.840.10008.5.1.4.1.1.481.3",
    "segmentation": "1.2.840.10008.5.1.4.1.1.66.4",
    "unknown": "1.2.3.4",
}


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_planted_token_is_left_in_the_tree_or_its_json(seed: int, kind: str, implicit: bool) -> None:
    print(f"seed {seed}")  # noqa: T201 - shown with a failure
    source = planted(seed, CLASSES[kind], implicit=implicit)
    assert len(source.tokens) > 1_850
    result = deidentified(source.data_set)
    assert _left(result, source.tokens) == []
    assert len(result.dropped) > 300


@pytest.mark.parametrize("seed", [4, 5])
def test_cleaning_options_leave_no_token_either(seed: int) -> None:
    print(f"seed {seed}")  # noqa: T201 - shown with a failure
    source = planted(seed)
    cleaning = (option for option in PrivacyOption if option.startswith("clean") or option == "retain_safe_private")
    assert _left(deidentified(source.data_set, *cleaning), source.tokens) == []


def _left(result: DeidentifiedDataSet, tokens: dict[str, int]) -> list[tuple[str, str]]:
    raw = encoded(result.data_set).decode("latin-1")
    texts = raw + result.data_set.to_json(suppress_invalid_tags=False) + json.dumps(elements(result.data_set)[0])
    return [(token, f"{tag:08X}") for token, tag in tokens.items() if token in texts]


def test_the_planted_attributes_are_those_that_can_hold_one() -> None:
    source = planted(1)
    raw = encoded(source.data_set).decode("latin-1")
    assert [token for token in source.tokens if token not in raw] == []
    assert {"LO", "SH", "ST", "LT", "UT", "UC", "PN", "DA", "UI", "OB"} <= TEXT


def _ct() -> Dataset:
    image = Dataset()
    image.SOPClassUID = CT
    image.SOPInstanceUID, image.SeriesInstanceUID, image.StudyInstanceUID = "1.2.3.1", "1.2.3.2", "1.2.3.3"
    image.FrameOfReferenceUID = "1.2.3.4"
    image.PatientID, image.PatientName, image.PatientBirthDate = "P-17", "DOE^JANE", "19310203"
    image.PatientAge, image.PatientSex, image.StudyDate, image.StudyTime = "093Y", "F", "20200229", "101112"
    image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL", "DOE"]
    image.Manufacturer, image.ManufacturerModelName = "GE MEDICAL SYSTEMS", "LightSpeed VCT"
    image.StudyDescription, image.SeriesDescription = "CT Chest w contrast", "Jane's second scan"
    image.InstitutionName, image.StationName = "St. Elsewhere", "CT-ROOM-4"
    image.ImagePositionPatient, image.ImageOrientationPatient = [1.5, -2, 3], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness, image.KVP = [0.7, 0.7], 1.25, 120
    image.Rows, image.Columns, image.BitsAllocated = 512, 512, 16
    image.WindowCenter, image.WindowWidth, image.RescaleSlope, image.RescaleIntercept = 40, 400, 1, -1024
    image.RescaleType, image.ConvolutionKernel, image.PatientPosition = "HU", "STANDARD", "HFS"
    image.BodyPartExamined = "CHEST"
    return image


def test_what_research_needs_stays() -> None:
    source = reread(_ct())
    result = deidentified(source).data_set
    for keyword in (
        *(
            "SOPClassUID",
            "Modality",
            "Manufacturer",
            "ManufacturerModelName",
            "ImagePositionPatient",
            "BodyPartExamined",
        ),
        *("ImageOrientationPatient", "PixelSpacing", "SliceThickness", "KVP", "Rows", "Columns", "BitsAllocated"),
        *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "RescaleType", "PatientPosition"),
        "ConvolutionKernel",
    ):
        assert result[keyword].value == source[keyword].value, keyword
    assert list(result.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL", "OTHER"]


def test_what_identifies_goes_or_is_keyed() -> None:
    result = deidentified(reread(_ct()))
    data_set = result.data_set
    assert data_set.PatientID == PSEUDONYMS.of("patient", "P-17")
    assert str(data_set.PatientName) == data_set.PatientID
    assert (data_set.PatientBirthDate, data_set.StudyDate, data_set.StudyTime) in (("", "", ""), (None, None, None))
    assert data_set.StudyInstanceUID == PSEUDONYMS.uid("1.2.3.3")
    for keyword in ("PatientAge", "StudyDescription", "SeriesDescription", "InstitutionName", "StationName"):
        assert keyword not in data_set, keyword
    assert result.dropped == ("(0008,0008)",)


def test_options_retain_what_they_name_and_are_claimed() -> None:
    options = (
        PrivacyOption.RETAIN_PATIENT_CHARACTERISTICS,
        PrivacyOption.RETAIN_LONGITUDINAL_MODIFIED_DATES,
        PrivacyOption.RETAIN_INSTITUTION_IDENTITY,
        PrivacyOption.CLEAN_DESCRIPTORS,
    )
    data_set = deidentified(reread(_ct()), *options).data_set
    assert (data_set.PatientAge, data_set.PatientSex) == ("090Y", "F")
    assert data_set.InstitutionName == "St. Elsewhere"
    assert data_set.StudyDescription == "CT Chest w contrast"
    assert "SeriesDescription" not in data_set
    assert data_set.StudyTime == "101112"
    assert data_set.StudyDate != "20200229"
    codes = [item.CodeValue for item in data_set.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105", "113107", "113108", "113112"]
    assert data_set.PatientIdentityRemoved == "YES"
    assert data_set.LongitudinalTemporalInformationModified == "MODIFIED"


def test_only_what_was_done_is_claimed_whatever_the_source_says() -> None:
    source = _ct()
    source.PatientIdentityRemoved, source.DeidentificationMethod = "YES", "by Jane Doe"
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "113101", "DCM", "Clean Pixel Data Option"
    source.DeidentificationMethodCodeSequence = [item]
    data_set = deidentified(reread(source)).data_set
    assert [code.CodeValue for code in data_set.DeidentificationMethodCodeSequence] == ["113100"]
    assert "Jane" not in str(data_set.DeidentificationMethod)
    assert data_set.LongitudinalTemporalInformationModified == "REMOVED"
    with_pixels = deidentify(source, PrivacyPolicy(PSEUDONYMS, cleans_pixels=True)).data_set
    assert [code.CodeValue for code in with_pixels.DeidentificationMethodCodeSequence] == ["113100", "113101"]


def test_no_item_claims_what_was_not_done_to_it() -> None:
    code, item, source = Dataset(), Dataset(), _ct()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113101", "DCM", "Clean Pixel Data Option"
    item.PatientIdentityRemoved, item.DeidentificationMethodCodeSequence = "YES", [code]
    source.ReferencedSeriesSequence = [item]
    assert len(deidentified(reread(source)).data_set.ReferencedSeriesSequence[0]) == 0


def test_names_titles_and_uris_of_known_words_are_still_names_titles_and_uris() -> None:
    source = Dataset()
    for tag, vr in attributes().items():
        if vr in ("PN", "AE", "UR") and rule_of(tag) is None:
            source.add(DataElement(tag, vr, "liver"))
    assert {element.VR for element in source} == {"PN", "UR"}
    kept = deidentified(source, PrivacyOption.CLEAN_DESCRIPTORS).data_set
    assert [element.tag for element in kept if element.value == "liver"] == []


@pytest.mark.parametrize("text", ["normal 03.02.31", "03 may 31", "liver 12 34 56", "chest 1980", "liver-Doe", "..."])
def test_a_text_that_may_hold_a_date_a_number_or_a_name_is_no_known_text(text: str) -> None:
    source = Dataset()
    source.StudyDescription = text
    assert "StudyDescription" not in deidentified(source, PrivacyOption.CLEAN_DESCRIPTORS).data_set


def test_terms_keep_their_places_among_empty_and_unknown_ones() -> None:
    source = Dataset()
    source.ImageType = ["ORIGINAL", "PRIMARY", "", "DOE", "", "AXIAL"]
    assert deidentified(source).data_set.ImageType == ["ORIGINAL", "PRIMARY", "", "OTHER", "", "AXIAL"]
    source.ImageType = ["ORIGINAL", "", "AXIAL"]
    result = deidentified(source)
    assert result.data_set.ImageType == ["ORIGINAL", "", "AXIAL"]
    assert result.dropped == ()


def test_an_element_of_numbers_that_holds_text_goes() -> None:
    source = Dataset()
    with quiet_reading():
        source.add(DataElement(0x00280010, "US", "DOE JANE"))
        source.add(DataElement(0x00280002, "US", 3))
    result = deidentified(source)
    assert "Rows" not in result.data_set
    assert result.data_set.SamplesPerPixel == 3


def test_codes_get_their_standard_meaning_and_unknown_ones_a_keyed_value() -> None:
    source = _ct()
    items = []
    for scheme, code, meaning in (
        ("SCT", "51185008", "Jane's chest"),
        ("99LOCAL", "DOE7", "Doe"),
        ("99LOCAL", "DOE7", "x"),
    ):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, scheme, meaning
        items.append(item)
    source.AnatomicRegionSequence = items
    known, first, second = deidentified(reread(source)).data_set.AnatomicRegionSequence
    assert (known.CodeValue, known.CodeMeaning) == ("51185008", code_meanings()["SCT", "51185008"])
    assert first.CodingSchemeDesignator == UNKNOWN_SCHEME
    assert first.CodeValue == second.CodeValue != "DOE7"
    assert first.CodeMeaning == "REMOVED"


def test_references_between_instances_hold_and_classes_stay() -> None:
    image, other = _ct(), Dataset()
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, image.SOPInstanceUID
    other.SOPClassUID, other.ReferencedInstanceSequence = "1.2.840.10008.5.1.4.1.1.11.1", [item]
    reference = deidentified(other).data_set.ReferencedInstanceSequence[0]
    assert reference.ReferencedSOPInstanceUID == deidentified(image).data_set.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == CT


def test_a_nesting_of_a_thousand_is_walked() -> None:
    raw = _element(0x00100010, b"PN", b"DOE^JANE")
    for _ in range(1_000):
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(raw)) + raw
        raw = struct.pack("<HH2sHI", 0x0008, 0x1115, b"SQ", 0, len(item)) + item
    assert collect_identifiers(read(raw)).found_in_text("Jane Doe") == {"name"}
    result = deidentified(read(raw)).data_set
    depth, holder = 0, result
    while "ReferencedSeriesSequence" in holder:
        holder = holder.ReferencedSeriesSequence[0]
        depth += 1
    assert depth == 1_000
    assert "DOE" not in str(holder.get("PatientName", ""))


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def test_wrong_value_representations_hide_nothing() -> None:
    raw = b"".join(
        (
            _element(0x00080018, b"LO", b"DOE^JANE"),
            _element(0x00080060, b"LO", b"DOEJANE "),
            _element(0x00100010, b"LO", b"DOE^JANE"),
            _element(0x00100020, b"US", b"DOEJANE1"),
            _element(0x00180050, b"LO", b"DOE JANE"),
            _element(0x00280010, b"SH", b"DOE JANE"),
            _element(0x00280030, b"ZZ", b"DOE JANE"),
        )
    )
    result = deidentified(read(raw))
    assert b"DOE" not in encoded(result.data_set)
    assert result.data_set.SOPInstanceUID == PSEUDONYMS.uid("DOE^JANE")
    assert result.data_set.Modality == "OT"
    assert {"(0018,0050)", "(0028,0010)", "(0028,0030)"} <= set(result.dropped)


def test_un_that_holds_a_sequence_is_walked_or_gone() -> None:
    name = struct.pack("<HHI", 0x0010, 0x0010, 8) + b"DOE^JANE"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(name)) + name
    for tag in (0x00081115, 0x00091001, 0x0008FFFF):
        raw = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"UN", 0, len(item)) + item
        open_end = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"UN", 0, 0xFFFFFFFF)
        open_end += item + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        for data in (raw, open_end):
            data_set, _ = read_elements(data, implicit=False, big_endian=False)
            assert b"DOE" not in encoded(deidentified(data_set).data_set)


def _private(creator: str, *blocks: int) -> Dataset:
    source = Dataset()
    for block in blocks:
        source.add(DataElement(Tag(0x0019, block), "LO", creator))
        source.add(DataElement(Tag(0x0019, block << 8 | 0x0C), "IS", "1000"))
        source.add(DataElement(Tag(0x0019, block << 8 | 0x0D), "CS", "DOE"))
        source.add(DataElement(Tag(0x0019, block << 8 | 0x99), "FD", 1.0))
    return source


def test_safe_private_elements_stay_only_with_the_option() -> None:
    source = _private("SIEMENS MR HEADER", 0x10)
    assert not [element for element in deidentified(source).data_set if element.tag.is_private]
    assert deidentified(source).private_dropped == 3
    kept = deidentified(source, PrivacyOption.RETAIN_SAFE_PRIVATE)
    assert [int(element.tag) for element in kept.data_set if element.tag.is_private] == [0x00190010, 0x0019100C]
    assert kept.private_dropped == 2


def test_private_blocks_without_creator_or_claimed_twice_are_dropped() -> None:
    nobody = _private("SIEMENS MR HEADER", 0x10)
    del nobody[Tag(0x0019, 0x0010)]
    for source in (nobody, _private("SIEMENS MR HEADER", 0x10, 0x11), _private("SIEMENS MR HEADER?", 0x10)):
        kept = deidentified(source, PrivacyOption.RETAIN_SAFE_PRIVATE).data_set
        assert not [element for element in kept if element.tag.is_private]


def test_a_safe_private_sequence_is_cleaned_by_vr() -> None:
    item = Dataset()
    item.PatientName, item.ReferencedSOPInstanceUID, item.Rows = "DOE^JANE", "1.2.3.1", 4
    source = Dataset()
    source.add(DataElement(0x20010010, "LO", "Philips Imaging DD 001"))
    source.add(DataElement(0x2001105F, "SQ", [item]))
    kept = deidentified(source, PrivacyOption.RETAIN_SAFE_PRIVATE).data_set[0x2001105F].value[0]
    assert "DOE" not in str(kept.get("PatientName", ""))
    assert kept.ReferencedSOPInstanceUID == PSEUDONYMS.uid("1.2.3.1")
    assert kept.Rows == 4


def test_a_uid_in_a_safe_private_element_is_replaced() -> None:
    source = Dataset()
    source.add(DataElement(0x00990010, "LO", "NQHeader"))
    source.add(DataElement(0x00991002, "UI", "1.2.3.1"))
    kept = deidentified(source, PrivacyOption.RETAIN_SAFE_PRIVATE).data_set
    assert kept[0x00991002].value == PSEUDONYMS.uid("1.2.3.1")


def test_a_character_set_that_lies_changes_nothing() -> None:
    for term in (b"ISO_IR 999", b"ISO 2022 IR 87", b"\xff\xfe", b"DOE^JANE"):
        raw = _element(0x00080005, b"CS", term) + _element(0x00080080, b"LO", b"M\xfcnchen\x1b$B")
        raw += _element(0x00100010, b"PN", b"D\xd6E^J\xc4NE ")
        for options in ((), (PrivacyOption.RETAIN_INSTITUTION_IDENTITY,)):
            result = deidentified(read(raw), *options).data_set
            assert result.SpecificCharacterSet == "ISO_IR 192"
            assert b"^J" not in encoded(result)


def test_a_text_of_ten_megabytes_goes() -> None:
    source = Dataset()
    with quiet_reading():
        source.add(DataElement(0x00081030, "UT", "liver " * 2_000_000))
        source.add(DataElement(0x00080080, "UT", "liver " * 2_000_000))
    result = deidentified(source, PrivacyOption.CLEAN_DESCRIPTORS, PrivacyOption.RETAIN_INSTITUTION_IDENTITY)
    assert len(encoded(result.data_set)) < 10_000


def test_pixels_icons_overlays_curves_and_padding_are_gone() -> None:
    source = _ct()
    source.PixelData, source.IconImageSequence = b"DOE^JANE", [Dataset()]
    for tag, vr in ((0x60003000, "OW"), (0x60000040, "CS"), (0x50003000, "OW"), (0xFFFCFFFC, "OB"), (0x00282000, "OB")):
        source.add(DataElement(tag, vr, "ROI" if vr == "CS" else b"DOE^JANE"))
    result = deidentified(source, *(option for option in PrivacyOption if option.startswith("clean"))).data_set
    kept = {int(tag) for tag in result.keys()}  # noqa: SIM118 - a data set iterates over elements
    assert not kept & {0x7FE00010, 0x00880200, 0x60003000, 0x60000040, 0x50003000, 0xFFFCFFFC, 0x00282000}


def test_bytes_stay_only_where_nothing_else_fits_in() -> None:
    source = Dataset()
    source.RedPaletteColorLookupTableDescriptor = [16, 0, 16]
    source.RedPaletteColorLookupTableData = bytes(32)
    assert "RedPaletteColorLookupTableData" in deidentified(source).data_set
    source.RedPaletteColorLookupTableData = bytes(32) + b"DOE^JANE"
    assert "RedPaletteColorLookupTableData" not in deidentified(source).data_set


def _frames(*times: str) -> Dataset:
    source = Dataset()
    source.PerFrameFunctionalGroupsSequence = []
    for number, time in enumerate(times):
        group, content = Dataset(), Dataset()
        with quiet_reading():
            content.FrameAcquisitionDateTime = time
        content.StackID, content.InStackPositionNumber = f"S{number % 2}", number
        group.FrameContentSequence = [content]
        source.PerFrameFunctionalGroupsSequence.append(group)
    return source


def _contents(result: Dataset) -> list[Dataset]:
    return [group.FrameContentSequence[0] for group in result.PerFrameFunctionalGroupsSequence]


def test_intervals_between_frames_and_their_stacks_stay() -> None:
    frames = _frames("20200229101112.5", "20200229101112.75", "20200229101113")
    contents = _contents(deidentified(reread(frames)).data_set)
    times = [content.FrameAcquisitionDateTime for content in contents]
    assert times == ["19000101000000.000000", "19000101000000.250000", "19000101000000.500000"]
    assert contents[0].StackID == contents[2].StackID != contents[1].StackID
    assert not {content.StackID for content in contents} & {"S0", "S1"}
    assert [content.InStackPositionNumber for content in contents] == [0, 1, 2]


def test_times_of_frames_that_are_none_or_days_apart_say_nothing() -> None:
    for times in (("20200229101112", "DOE"), ("20200229101112", "20200302101112"), ("2020", "20200230101112")):
        contents = _contents(deidentified(reread(_frames(*times))).data_set)
        assert contents[1].FrameAcquisitionDateTime.startswith("19000101000000")


def _content(value_type: str, code: tuple[str, str], **values: object) -> Dataset:
    item, name = Dataset(), Dataset()
    name.CodingSchemeDesignator, name.CodeValue = code
    name.CodeMeaning = "whatever"
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = "CONTAINS", value_type, [name]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _report() -> Dataset:
    measured = Dataset()
    measured.NumericValue = "12.5"
    report = _content("CONTAINER", ("DCM", "126000"))
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    report.ContentSequence = [
        _content("NUM", ("SCT", "410668003"), MeasuredValueSequence=[measured]),
        _content("TEXT", ("DCM", "121106"), TextValue="Jane Doe was here"),
        _content("PNAME", ("DCM", "121008"), PersonName="DOE^JANE"),
        _content("TEXT", ("DCM", "121022"), TextValue="ACC-17"),
        _content("TEXT", ("DCM", "111043"), TextValue="liver"),
    ]
    return report


def test_content_of_reports_goes_without_the_option_and_is_cleaned_with_it() -> None:
    basic = deidentified(_report()).data_set
    assert [item.TextValue for item in basic.ContentSequence] == ["REMOVED"]
    cleaned = deidentified(_report(), PrivacyOption.CLEAN_STRUCTURED_CONTENT).data_set
    assert b"Doe" not in encoded(cleaned)
    assert b"DOE" not in encoded(cleaned)
    assert b"ACC-17" not in encoded(cleaned)
    types = [item.ValueType for item in cleaned.ContentSequence]
    assert types[0] == "NUM"
    assert "12.5" in str(cleaned.ContentSequence[0].MeasuredValueSequence[0].NumericValue)
    assert cleaned.ContentSequence[-1].TextValue == "liver"


def test_file_meta_information_is_made_anew() -> None:
    data_set = deidentified(_ct()).data_set
    meta = rebuilt_file_meta(data_set, "1.2.840.10008.1.2.1")
    assert meta.MediaStorageSOPInstanceUID == data_set.SOPInstanceUID
    assert meta.MediaStorageSOPClassUID == CT
    assert "SourceApplicationEntityTitle" not in meta
    assert "PrivateInformation" not in meta


def test_the_source_is_not_changed() -> None:
    source = reread(_ct())
    before = encoded(source)
    deidentified(source, *(option for option in PrivacyOption if "full" not in option))
    assert encoded(source) == before


def test_what_differs_only_in_values_that_go_gives_the_same_bytes() -> None:
    one, other = _ct(), _ct()
    other.PatientName, other.PatientBirthDate, other.PatientAge = "ROE^RICHARD^^^", "19990909", "007D"
    other.SeriesDescription, other.InstitutionName = "something else, and longer", ""
    other.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "ROE"]
    other.add(DataElement(0x00091001, "UN", b"anything"))
    assert encoded(deidentified(reread(one)).data_set) == encoded(deidentified(reread(other)).data_set)
    other.PatientID = "P-18"
    assert encoded(deidentified(reread(one)).data_set) != encoded(deidentified(reread(other)).data_set)


def test_a_name_that_is_a_common_word_is_no_known_text() -> None:
    source = Dataset()
    source.StudyDescription = "brown liver"
    policy = PrivacyPolicy(PSEUDONYMS, frozenset((PrivacyOption.CLEAN_DESCRIPTORS,)))
    assert "StudyDescription" in deidentify(source, policy).data_set
    assert "StudyDescription" not in deidentify(source, policy, frozenset(("brown",))).data_set


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_make_it_raise(raw: bytes, implicit: bool) -> None:
    try:
        data_set, _ = read_elements(b"\x08\x00\x60\x00CS\x02\x00CT" + raw, implicit=implicit, big_endian=False)
    except Exception:  # noqa: BLE001 - what cannot be read never comes here
        return
    for options in ((), tuple(option for option in PrivacyOption if "full" not in option)):
        assert encoded(deidentified(data_set, *options).data_set)
        assert collect_identifiers(data_set, frozenset(options)).found_in_bytes(b"") == frozenset()
