"""Instances that hold several parts: the SOP class names the main medium, the other parts become further media."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

import exporter
from exporter.dicom.instance import Instance
from exporter.outcome import Exported, Failed, MediaType
from exporter.settings.settings import MediaSettings, Settings
from exporter.writers import choose_all
from exporter.writers.contract import WriterTask, Written
from tests.exporter.writers.sampled import ECG, multiplex_group, save_waveform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_STORAGE = "1.2.840.10008.5.1.4.1.1."
REPORT = _STORAGE + "88.33"
PDF_CLASS = _STORAGE + "104.1"
SECONDARY_CAPTURE = _STORAGE + "7"
PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"
NO_WORKERS = Settings(num_workers=0)


def report_elements() -> dict[str, Any]:
    text = Dataset()
    text.RelationshipType, text.ValueType, text.TextValue = "CONTAINS", "TEXT", "a finding"
    return {"ValueType": "CONTAINER", "ContinuityOfContent": "SEPARATE", "ContentSequence": Sequence([text])}


def document_elements(document: bytes = PDF) -> dict[str, Any]:
    padded = document + b"\0" * (len(document) % 2)
    return {"EncapsulatedDocument": padded, "EncapsulatedDocumentLength": len(document)}


@pytest.fixture
def make(make_instance: Callable[..., Path]) -> Callable[..., Path]:
    """Writes an instance of a class without pixels, or with a black picture."""

    def run(sop_class: str, *, picture: bool = False, **elements: Any) -> Path:
        path = make_instance(np.zeros((8, 8), np.uint8), SOPClassUID=sop_class, Modality="OT", **elements)
        if not picture:
            dataset = dcmread(path)
            del dataset.PixelData, dataset.Rows, dataset.Columns
            dataset.save_as(path)
        return path

    return run


def written(path: Path, folder: Path, **settings: Any) -> Written:
    folder.mkdir()
    chosen = MediaSettings.model_validate(settings)
    with Instance.open(path, chosen.limits) as instance:
        result = choose_all(instance, chosen).write(WriterTask(instance, folder, chosen))
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(medium.file for medium in result.media)
    assert len({medium.suffix for medium in result.media}) == len(result.media)
    return result


def test_a_report_with_a_document_is_a_report_and_then_a_document(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(REPORT, **report_elements(), **document_elements())
    result = written(path, tmp_path / "out")
    assert [medium.suffix for medium in result.media] == [".json", ".txt", ".pdf"]
    tree, document = (tmp_path / "out" / result.media[index].file for index in (0, 2))
    assert json.loads(tree.read_text())["content"]["children"][0]["value"] == "a finding"
    assert document.read_bytes() == PDF
    assert not result.warnings


def test_a_report_with_bytes_of_no_known_kind_says_so(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(REPORT, **report_elements(), **document_elements(b"\x7fELF" + bytes(60)))
    result = written(path, tmp_path / "out")
    assert [medium.suffix for medium in result.media] == [".json", ".txt"]
    (warning,) = result.warnings
    assert "encapsulated document" in warning
    assert "unsupported_syntax" in warning


@pytest.mark.parametrize(
    ("sop_class", "picture", "suffixes"),
    [
        (REPORT, True, [".json", ".txt", ".png", ".pdf"]),
        (PDF_CLASS, True, [".pdf", ".png", ".json", ".txt"]),
        (PDF_CLASS, False, [".pdf", ".json", ".txt"]),
        (SECONDARY_CAPTURE, True, [".png", ".json", ".txt", ".pdf"]),
        ("1.2.3.4", False, [".json", ".txt", ".pdf"]),
    ],
)
def test_the_class_names_the_main_medium_and_nothing_is_left_out(
    make: Callable[..., Path], tmp_path: Path, sop_class: str, picture: bool, suffixes: list[str]
) -> None:
    path = make(sop_class, picture=picture, **report_elements(), **document_elements())
    assert [medium.suffix for medium in written(path, tmp_path / "out").media] == suffixes


def test_a_report_class_without_content_does_not_hide_its_picture(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(REPORT, picture=True)
    assert written(path, tmp_path / "out").media[0].kind is MediaType.IMAGE


def test_pixels_that_contradict_themselves_do_not_keep_a_report_back(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(REPORT, picture=True, **report_elements())
    dataset = dcmread(path)
    dataset.BitsAllocated = 24
    dataset.save_as(path)
    result = written(path, tmp_path / "out")
    assert [medium.kind for medium in result.media] == [MediaType.REPORT, MediaType.REPORT]
    assert any("bad_geometry" in warning for warning in result.warnings)


def test_two_parts_of_one_suffix_get_names_of_their_own(tmp_path: Path) -> None:
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(np.zeros((40, 2), np.int16), "SS", 100)], sop_class=ECG)
    both = dcmread(path)
    both.Rows = both.Columns = 2
    both.SamplesPerPixel, both.PhotometricInterpretation = 1, "MONOCHROME2"
    both.BitsAllocated = both.BitsStored = 8
    both.HighBit, both.PixelRepresentation, both.PixelData = 7, 0, bytes(4)
    both["PixelData"].VR = "OB"
    both.save_as(path)
    result = written(path, tmp_path / "ecg", waveform={"drawing": "png"})
    assert [medium.suffix for medium in result.media] == [".csv", ".png", ".image.png"]
    both.SOPClassUID = SECONDARY_CAPTURE
    both.save_as(path)
    result = written(path, tmp_path / "picture", waveform={"drawing": "png"})
    assert [medium.suffix for medium in result.media] == [".png", ".csv", ".waveform.png"]


def test_the_line_lists_all_media_and_names_the_main_one(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(REPORT, **report_elements(), **document_elements())
    outcome = exporter.export_file(path, tmp_path / "out", NO_WORKERS)
    assert isinstance(outcome, Exported)
    line = json.loads((tmp_path / "out" / "metadata.jsonl").read_text())
    assert line["media_type"] == "report"
    assert line["media_file"] == f"{path.stem}.json"
    assert [medium["path"] for medium in line["export"]["media"]] == [
        f"{path.stem}{suffix}" for suffix in (".json", ".txt", ".pdf")
    ]
    assert (tmp_path / "out" / "media" / f"{path.stem}.pdf").read_bytes() == PDF


def test_a_main_medium_that_cannot_be_written_fails_the_instance(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make(PDF_CLASS, **report_elements(), **document_elements(b"MZ" + bytes(62)))
    outcome = exporter.export_file(path, tmp_path / "out", NO_WORKERS)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "unsupported_syntax"
    assert not list((tmp_path / "out" / "media").rglob("*.json"))
