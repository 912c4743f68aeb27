"""Records in the DICOM JSON Model: what pydicom reads back, and the same table as of records under names."""

from __future__ import annotations

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
from exporter.results.metadata.record import record_text
from exporter.settings.settings import LimitSettings, MediaSettings, MetadataSettings
from exporter.tables.dicom_json import named
from exporter.tables.lines import OWN_KEYS

FILES = ("CT_small.dcm", "examples_ybr_color.dcm", "rtplan.dcm", "test-SR.dcm", "liver_1frame.dcm", "ExplVR_BigEnd.dcm")


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
