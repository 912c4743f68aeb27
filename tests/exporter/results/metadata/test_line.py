"""Lines: one JSON object, our keys first and ours alone, and the documentation that shows a real one."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from exporter.dicom.instance import Instance
from exporter.errors import BadWorkerAnswer, SkipReason
from exporter.outcome import Exported, InstanceIdentity, MediaFile, MediaType, Rendering, Skipped, Timing
from exporter.results.line import line, says_the_same, shown
from exporter.results.metadata.record import record_text
from exporter.settings.settings import LimitSettings

DOCUMENT = Path(__file__).parents[4] / "docs" / "metadata.md"
VIDEO = MediaFile(
    file="cine/us.mp4",
    suffix=".mp4",
    kind=MediaType.VIDEO,
    bytes=48213,
    sha256="9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
    codec="h264",
    width=640,
    height=480,
    frames=30,
    duration_s=1.0,
)


def exported(record: str = "{}", **changes: Any) -> Exported:
    facts: dict[str, Any] = {
        "identity": InstanceIdentity("1.2", "1.2.3", "1.2.1", "1.2.2", "a" * 64),
        "media": (VIDEO,),
        "record": record,
        "source_sha256": "b" * 64,
        "settings_sha256": "c" * 64,
    }
    return Exported(**(facts | changes))


def made(outcome: Exported | Skipped, **changes: Any) -> dict[str, Any]:
    text = line(outcome, **({"dicom_file": "cine/us.dcm", "version": "0.1.0"} | changes))
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    found: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return found


def test_a_line_has_the_seeds_keys_first_and_ours_under_one() -> None:
    found = made(exported('{"Patient\'s Name":"A^B","Rows":480}'))
    assert list(found) == ["dicom_file", "media_file", "media_type", "export", "Patient's Name", "Rows"]
    assert found["media_file"] == "cine/us.mp4"
    assert found["media_type"] == "video"
    assert found["export"]["media"][0]["path"] == "cine/us.mp4"


def test_every_key_of_export_is_always_there() -> None:
    full = made(exported(timing=Timing("FrameTime", 30.0), rendering=Rendering(window=(40.0, 400.0))))
    skipped = made(Skipped(SkipReason.NO_MEDIA, "nothing to see", record="{}"))
    assert full["export"].keys() == skipped["export"].keys()
    assert skipped["media_file"] is None
    assert skipped["media_type"] == "none"
    assert (skipped["export"]["status"], skipped["export"]["reason"]) == ("skipped", "no_media")
    assert full["export"]["timing"] == {
        "source": "FrameTime",
        "rate_hz": 30.0,
        "variable": False,
        "frame_times_ms": None,
    }
    assert full["export"]["rendering"]["window"] == [40.0, 400.0]


def test_a_line_names_the_media_and_the_other_instances() -> None:
    final = MediaFile("s/1.2.3.mp4", ".mp4", MediaType.VIDEO, 1, "d" * 64, "h264")
    found = made(exported(media=(final,)), duplicate_of="first.dcm", conflict_with="other.dcm")
    assert found["media_file"] == "s/1.2.3.mp4"
    assert found["export"]["duplicate_of"] == "first.dcm"
    assert found["export"]["conflict_with"] == "other.dcm"


@pytest.mark.parametrize("record", ["", "[]", "1", '{"a":NaN}', "{}{}", '{"a":1', '{"a":"\ud800"}', "nonsense"])
def test_what_is_no_json_object_is_no_record(record: str) -> None:
    if record == "":
        assert made(exported(record)).keys() == {"dicom_file", "media_file", "media_type", "export"}
        return
    with pytest.raises(BadWorkerAnswer) as caught:
        made(exported(record))
    assert "nonsense" not in str(caught.value)


def test_a_record_cannot_claim_our_keys() -> None:
    record = {
        "dicom_file": "x",
        "media_file": "y",
        "media_type": "z",
        "export": {"status": "x", "warnings": ["told"], "left_out": [{"element": "e", "vr": "OB", "bytes": 2}]},
    }
    found = made(exported(json.dumps(record), warnings=("first", "told")))
    assert (found["dicom_file"], found["media_file"], found["media_type"]) == ("cine/us.dcm", "cine/us.mp4", "video")
    assert found["export"]["status"] == "exported"
    assert found["export"]["warnings"] == ["first", "told"]
    assert found["export"]["left_out"] == [{"element": "e", "vr": "OB", "bytes": 2}]


@pytest.mark.parametrize(
    "told", [1, [], {"warnings": 3, "left_out": "x", "transfer_syntax_uid": []}, {"warnings": [4]}]
)
def test_nonsense_from_a_worker_under_our_key_is_nothing(told: object) -> None:
    found = made(exported(json.dumps({"export": told})))["export"]
    assert (found["warnings"], found["left_out"], found["transfer_syntax_uid"]) == ([], [], None)


def test_a_name_that_is_not_utf_8_is_shown_in_escapes() -> None:
    found = made(exported(), dicom_file=os.fsdecode(b"caf\xe9.dcm"))
    assert found["dicom_file"] == "caf\\xe9.dcm"


def test_what_terminals_obey_is_escaped() -> None:
    text = line(exported('{"a":"\u009b31m\u202e\u2028\ufeff\x7fé"}'), dicom_file="d", version="1")
    assert b"\\u009b31m\\u202e\\u2028\\ufeff\\u007f\xc3\xa9" in text
    assert json.loads(text)["a"] == "\u009b31m\u202e\u2028\ufeff\x7fé"


@given(st.text(), st.text(st.characters()), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_gives_one_line_of_valid_utf_8(warning: str, name: str, value: str) -> None:
    name = os.fsdecode(os.fsencode(name.encode("utf-8", "surrogatepass")))
    found = made(exported(json.dumps({"k": value}), warnings=(warning,)), dicom_file=name)
    assert found["k"] == value
    assert found["dicom_file"] == shown(name)


# -- the documentation -----------------------------------------------------------------------------------------------


def example() -> str:
    """The line of one real file, as `docs/metadata.md` shows it."""
    with Instance.open(Path(str(get_testdata_file("examples_palette.dcm"))), LimitSettings()) as instance:
        image = MediaFile(
            file="clinic/us-17.png",
            suffix=".png",
            kind=MediaType.IMAGE,
            bytes=241873,
            sha256="9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
            codec="png",
            width=800,
            height=350,
            frames=1,
        )
        outcome = exported(
            record_text(instance),
            identity=instance.identity,
            media=(image,),
            source_sha256=instance.source_sha256,
            rendering=Rendering(colour="PALETTE COLOR->RGB"),
        )
        assert instance.pixels is not None
        assert (instance.pixels.columns, instance.pixels.rows) == (image.width, image.height)
    return json.dumps(made(outcome, dicom_file="clinic/us-17.dcm"), indent=2, ensure_ascii=False)


def test_the_documentation_shows_a_real_line() -> None:
    shown_line = re.search(r"```json\n(.*?)\n```", DOCUMENT.read_text(), re.DOTALL)
    assert shown_line is not None
    assert shown_line[1] == example(), "put what `example` returns into docs/metadata.md"


def test_every_key_of_export_is_documented() -> None:
    text = DOCUMENT.read_text()
    found = made(exported(timing=Timing("FrameTime", 30.0), rendering=Rendering()))["export"]
    keys = {*found, *found["media"][0], *found["timing"], *found["rendering"], "dicom_file", "media_file", "media_type"}
    assert {key for key in keys if f"`{key}`" not in text} == set()
    assert {kind for kind in MediaType if f"`{kind}`" not in text} == set()


def test_lines_that_differ_in_relations_alone_say_the_same() -> None:
    plain = b'{"a":1,"export":{"warnings":[],"duplicate_of":null,"conflict_with":null}}\n'
    assert says_the_same(plain, plain.replace(b'"conflict_with":null', b'"conflict_with":"b"'))
    assert says_the_same(plain.replace(b'"duplicate_of":null', b'"duplicate_of":"b"'), plain)
    assert not says_the_same(plain, plain.replace(b'"a":1', b'"a":2'))
    assert not says_the_same(plain, plain.replace(b"[]", b'["x"]'))
    assert says_the_same(b"no line of ours\n", b"no line of ours\n")
    assert not says_the_same(b"no line of ours\n", plain)
    assert not says_the_same(b"[]\n", plain)
