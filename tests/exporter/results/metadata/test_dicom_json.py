"""Records in other forms than names (keywords, tags, the DICOM JSON Model): nothing is lost, names come back."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from exporter.commands.app import main
from exporter.dicom.instance import Instance
from exporter.results.ledger import Ledger
from exporter.results.metadata.dicom_json import is_tag
from exporter.results.metadata.keys import KeyStyle, RecordElement, parse_styled, with_names
from exporter.results.metadata.record import elements, record_text
from exporter.settings.settings import LimitSettings, MediaSettings, MetadataSettings
from exporter.tables.dicom_json import named
from exporter.tables.lines import OWN_KEYS

FILES = ("CT_small.dcm", "examples_ybr_color.dcm", "rtplan.dcm", "test-SR.dcm", "liver_1frame.dcm", "ExplVR_BigEnd.dcm")

OF_SETTINGS = {"export_settings_sha256", "export_left_out"}
"""Columns that the form of the lines decides: a hash of the settings, and paths of keys."""


def record_of(path: Path, form: str) -> dict[str, Any]:
    with Instance.open(path, LimitSettings()) as instance:
        found: dict[str, Any] = json.loads(record_text(instance, MetadataSettings.model_validate({"record": form})))
    return found


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")  # values of the files that pydicom finds odd
def test_pydicom_reads_what_the_instance_holds(name: str) -> None:
    path = Path(str(get_testdata_file(name)))
    record = record_of(path, "dicom-json")
    attributes = {key: value for key, value in record.items() if key != "export"}
    assert all(is_tag(key) for key in attributes)
    found, expected = Dataset.from_json(attributes), pydicom.dcmread(path, stop_before_pixels=True)
    compared = 0
    for element in expected:
        if element.VR not in {"OB", "OW", "OF", "OD", "UN", "SQ", "DS"}:
            assert found[element.tag].VR == element.VR
            assert found[element.tag].value == element.value or element.is_empty
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("name", FILES)
def test_names_come_back_from_tags(name: str) -> None:
    path = Path(str(get_testdata_file(name)))
    names, tags = record_of(path, "names"), record_of(path, "dicom-json")
    names.pop("export")
    found = named(tags, OWN_KEYS)
    found.pop("export")
    assert found == names


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["keywords", "tags"])
def test_names_come_back_from_keywords_and_from_tags(name: str, form: str) -> None:
    path = Path(str(get_testdata_file(name)))
    names, other = record_of(path, "names"), record_of(path, form)
    assert len(other) == len(names)
    assert ("PatientName" if form == "keywords" else "00100010") in other
    names.pop("export")
    other.pop("export")
    assert with_names(other) == names
    assert with_names(names) == names


def test_a_key_of_any_style_is_that_of_one_element_alone() -> None:
    from pydicom._dicom_dict import DicomDictionary

    creators = ("ACME", "ACME 2", "ACME 2 1", "ACME 17", "ACME) 2", "xx01 ACME", "A" * 100, "00100020", "Patient ID")
    private = [RecordElement(0x00190001, creator, block) for creator in creators for block in (1, 2, 17)]
    further = [RecordElement(tag) for tag in (0x60020010, 0x60020000, 0x00091234, 0x00110010, 0x00134567, 0x00090000)]
    found = [*map(RecordElement, DicomDictionary), *private, *further]
    for style in KeyStyle:
        keys = [element.named(style) for element in found]
        assert len(set(keys)) == len(found)
        assert [element.key for element in map(parse_styled, keys) if element is not None] == [one.key for one in found]


def test_elements_whose_keys_would_collide_all_keep_their_values() -> None:
    values = {
        (0x0019, 0x0010): ("LO", "ACME"),
        (0x0019, 0x0011): ("LO", "ACME"),
        (0x0019, 0x1001): ("LO", "first"),
        (0x0019, 0x1101): ("LO", "second"),
        (0x6000, 0x0010): ("US", 3),
        (0x6002, 0x0010): ("US", 4),
    }
    header = Dataset()
    for tag, (vr, value) in values.items():
        header.add_new(tag, vr, value)
    item = Dataset()
    item.PatientID = "nested"
    header.OtherPatientIDsSequence = [item]
    expected, _ = elements(header)
    for form, keys in (
        ("keywords", ("Private tag data (0019,xx01 ACME) 2", "OverlayRows", "OverlayRows_60020010")),
        ("tags", ("0019xx01 ACME", "0019xx01 ACME 2", "60000010", "60020010")),
    ):
        found, _ = elements(header, form=form)
        assert set(keys) <= found.keys()
        assert list(found.values())[:-1] == list(expected.values())[:-1]
        assert with_names(found) == expected


def test_tables_do_not_depend_on_the_form_of_the_lines(tmp_path: Path) -> None:
    source = tmp_path / "dicom"
    source.mkdir()
    for name in ("CT_small.dcm", "rtplan.dcm"):
        shutil.copy(str(get_testdata_file(name)), source)
    tables = []
    for form in ("names", "keywords", "tags"):
        out = tmp_path / form
        assert main(["backfill", str(source), "--output", str(out), "--record", form, "--workers", "0"]) == 0
        (out / "pseudonym.key").write_bytes(b"k" * 32)
        assert main(["metadata", "csv", str(out)]) == 0
        tables.append((out / "metadata.csv").read_text())
        (out / "exporter.db").unlink()
        assert main(["reconcile", "--data", str(out), "--rebuild"]) == 0
        with Ledger.open_read_only(out / "exporter.db") as ledger:
            assert all(row.identity is not None and row.identity.study_instance_uid for row in ledger.entries())
    different = [
        {(name, cell) for name, cell in zip(*rows, strict=True) if name not in OF_SETTINGS}
        for rows in (list(csv.reader(text.splitlines()))[:2] for text in tables)
    ]
    assert different[0] == different[1] == different[2]


def test_only_a_form_that_is_used_changes_the_hash_of_the_settings() -> None:
    default = MediaSettings()
    assert MediaSettings(metadata=MetadataSettings(record="names")).settings_sha256 == default.settings_sha256
    assert MediaSettings(metadata=MetadataSettings(record="dicom-json")).settings_sha256 != default.settings_sha256


def test_a_ledger_is_made_anew_of_lines_in_that_form(tmp_path: Path) -> None:
    source, out = tmp_path / "dicom", tmp_path / "out"
    source.mkdir()
    shutil.copy(str(get_testdata_file("CT_small.dcm")), source)
    arguments = ["backfill", str(source), "--output", str(out), "--record", "dicom-json", "--workers", "0"]
    assert main(arguments) == 0
    before = (out / "metadata.jsonl").read_bytes()
    for path in out.glob("exporter.db*"):
        path.unlink()
    assert main(["reconcile", "--data", str(out), "--rebuild"]) == 0
    with Ledger.open_read_only(out / "exporter.db") as ledger:
        entry = ledger.entry("CT_small.dcm")
    assert entry is not None
    assert entry.identity is not None
    assert entry.identity.sop_instance_uid == json.loads(before)["00080018"]["Value"][0]
    assert main(arguments) == 0
    assert (out / "metadata.jsonl").read_bytes() == before
