"""Device masks: hints by signature, and what cannot be believed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from exporter.privacy.pixels.area import Rectangle
from exporter.privacy.pixels.device_masks import DeviceMasks, vendored_masks

REPOSITORY = Path(__file__).resolve().parents[4]
VENDORED = REPOSITORY / "exporter/privacy/pixels/device_masks.json"
FACTS = REPOSITORY.parent / "shared/privacy/masks-ctp.json"


def header(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def own(*rows: dict[str, Any]) -> DeviceMasks:
    return DeviceMasks(()).with_rows(rows)


def row(*boxes: list[int], when: list[list[list[str]]] | None = None, **further: Any) -> dict[str, Any]:
    return {"when": when or [[["Manufacturer", "equals", "ACME"]]], "hide": [*boxes], **further}


def test_the_vendored_masks_are_those_of_their_three_sources() -> None:
    rows = json.loads(VENDORED.read_text())["masks"]
    assert len(vendored_masks()) == len(rows)
    counted = Counter(source for each in rows for source in each["from"])
    assert counted["ctp"] >= 49
    assert counted["stanford"] >= 184
    assert counted["deid"] == 102


def test_the_script_makes_the_vendored_rows_of_the_shared_facts(tmp_path: Path) -> None:
    if not FACTS.exists():
        pytest.skip("the shared facts are not beside the repository")
    recipe = tmp_path / "empty.dicom"
    recipe.write_text("FORMAT dicom\n")
    script = [sys.executable, str(REPOSITORY / "bench/vendor_device_masks.py"), str(FACTS), str(recipe)]
    made = json.loads(subprocess.run(script, capture_output=True, check=True, text=True).stdout)

    def said(document: dict[str, Any]) -> set[str]:
        rows = document["masks"]
        return {json.dumps([each["when"], each["hide"]]) for each in rows if {"ctp", "stanford"} & set(each["from"])}

    vendored = json.loads(VENDORED.read_text())
    assert said(made) == said(vendored)
    assert made["sha256"][FACTS.name] == vendored["sha256"][FACTS.name]


def test_the_script_reads_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.dicom"
    recipe.write_text(
        "FORMAT dicom\n%filter whitelist\nLABEL Clean # (A)\n  contains Modality CT\n"
        "%filter graylist\nLABEL One # (A)\n  contains Modality US\n  + equals Rows 600|768\n"
        "  ctpcoordinates 1,2,30,40\n"
        "LABEL Two # (A)\n  contains ImageType A || contains SeriesDescription B\n  coordinates 1,2,30,40\n"
        "LABEL Three # (A)\n  missing Manufacturer || empty Manufacturer\n%header\nREMOVE PatientID\n"
    )
    facts = tmp_path / "facts.json"
    facts.write_text("[]")
    script = [sys.executable, str(REPOSITORY / "bench/vendor_device_masks.py"), str(facts), str(recipe)]
    rows = json.loads(subprocess.run(script, capture_output=True, check=True, text=True).stdout)["masks"]
    test = "containsIgnoreCase"
    equal = "equalsIgnoreCase"
    assert rows == [
        {
            "from": ["deid"],
            "when": [[["Modality", test, "US"]], [["Rows", equal, "600"], ["Rows", equal, "768"]]],
            "hide": [[1, 2, 30, 40]],
        },
        {
            "from": ["deid"],
            "when": [[["ImageType", test, "A"], ["SeriesDescription", test, "B"]]],
            "hide": [[1, 2, 29, 38]],
        },
    ]


def test_a_device_that_a_source_names_is_masked_where_it_says() -> None:
    found = vendored_masks().hidden_by(
        header(Modality="US", Manufacturer="SIEMENS", ManufacturerModelName="S2000", Rows=768, Columns=1024), 768, 1024
    )
    assert Rectangle(0, 0, 1024, 60) in found.rectangles
    assert not found.vouched
    assert found.refusal is None


def test_two_sources_that_contradict_each_other_are_both_refused() -> None:
    found = vendored_masks().hidden_by(
        header(Modality="US", Manufacturer="TOSHIBA", ManufacturerModelName="AI700", Rows=960, Columns=1280), 960, 1280
    )
    assert found.refusal is not None
    assert "contradict" in found.refusal


def test_masks_of_one_device_of_which_one_hides_more_are_joined() -> None:
    masks = own(row([0, 0, 100, 10]), row([0, 0, 100, 20]))
    assert masks.hidden_by(header(Manufacturer="ACME"), 50, 100).refusal is None


def test_a_mask_outside_the_picture_is_refused() -> None:
    found = own(row([200, 0, 10, 10])).hidden_by(header(Manufacturer="ACME"), 50, 100)
    assert found.refusal == "device mask own 1 lies outside the picture"


def test_a_hint_that_reaches_outside_is_clipped_and_one_that_is_vouched_for_is_refused() -> None:
    box = [90, 0, 20, 10]
    assert own(row(box)).hidden_by(header(Manufacturer="ACME"), 50, 100).rectangles == (Rectangle(90, 0, 100, 10),)
    assert own(row(box, vouched=True)).hidden_by(header(Manufacturer="ACME"), 50, 100).refusal is not None


@pytest.mark.parametrize(
    ("test", "value", "wanted", "holds"),
    [
        ("equals", "600", "600", True),
        ("equals", "6000", "600", False),
        ("equalsIgnoreCase", "Acme", "ACME", True),
        ("contains", "ACME Scan", "Scan", True),
        ("contains", "ACME Scan", "scan", False),
        ("containsIgnoreCase", "ACME Scan", "scan", True),
        ("startsWith", "LOGIQ 7", "LOGIQ", True),
        ("startsWith", "GE LOGIQ 7", "LOGIQ", False),
        ("startsWithIgnoreCase", "logiq 7", "LOGIQ", True),
    ],
)
def test_signatures_test_values_as_their_sources_do(test: str, value: str, wanted: str, holds: bool) -> None:
    masks = own(row([0, 0, 1, 1], when=[[["ManufacturerModelName", test, wanted]]]))
    assert bool(masks.matching(header(ManufacturerModelName=value))) == holds


def test_one_test_of_each_group_must_hold_and_several_values_are_one_text() -> None:
    groups = [
        [["ImageType", "contains", "SCREEN"], ["ImageType", "contains", "DERIVED\\SECONDARY"]],
        [["Modality", "equals", "CT"]],
    ]
    masks = own(row([0, 0, 1, 1], when=groups))
    assert masks.matching(header(ImageType=["DERIVED", "SECONDARY"], Modality="CT"))
    assert not masks.matching(header(ImageType=["DERIVED", "SECONDARY"], Modality="MR"))
    assert not masks.matching(header(Modality="CT"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"hide": [[0, 0, 1, 1]]},
        {"when": [], "hide": [[0, 0, 1, 1]]},
        {"when": [[]], "hide": [[0, 0, 1, 1]]},
        {"when": [[["Rows", "resembles", "1"]]], "hide": [[0, 0, 1, 1]]},
        {"when": [[["Rows", "equals"]]], "hide": [[0, 0, 1, 1]]},
        {"when": [[["Rows", "equals", "1"]]], "hide": [[0, 0, 0, 1]]},
        {"when": [[["Rows", "equals", "1"]]], "hide": [[0, 0, 1]]},
    ],
)
def test_a_row_that_is_not_of_the_form_is_refused_with_its_number(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="device mask own 1: "):
        own(wrong)


def test_the_mask_of_the_documents_is_of_the_form_and_vouches_for_its_device_alone() -> None:
    documents = (REPOSITORY / "docs/privacy-pixels.md").read_text()
    masks = own(*json.loads(documents.partition("```json")[2].partition("```")[0]))
    elements = {
        "Manufacturer": "Acme",
        "ManufacturerModelName": "Scan 5 Pro",
        "SoftwareVersions": ["2.1.7", "b"],
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1",
        "Rows": 768,
        "Columns": 1024,
        "ImageType": ["ORIGINAL", "PRIMARY", "ABDOMEN"],
    }
    found = masks.hidden_by(header(**elements), 768, 1024)
    assert found.vouched
    assert found.rectangles == (Rectangle(0, 0, 1024, 60), Rectangle(880, 700, 1024, 768))
    for keyword in elements:
        assert not masks.matching(header(**{**elements, keyword: None}))
