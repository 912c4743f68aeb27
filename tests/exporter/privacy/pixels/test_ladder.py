"""The ladder: on which step each kind of instance ends, and what is kept of it."""

from __future__ import annotations

import dataclasses
import re
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from exporter.dicom.pixels import PixelDescription
from exporter.privacy.pixels import LadderStep, PixelDecision, PixelPolicy, decide
from exporter.privacy.pixels.area import Rectangle
from exporter.privacy.pixels.device_masks import DeviceMasks
from exporter.privacy.pixels.rules import ladder_rules

NATIVE = "1.2.840.10008.1.2.1"
MPEG4 = "1.2.840.10008.1.2.4.102"
US, CINE = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
CT, NM, SC = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.20", "1.2.840.10008.5.1.4.1.1.7"
DOSE, SEG, MAP = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("481.2", "66.4", "30"))
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
ROWS, COLUMNS = 480, 640
_PICTURES = re.compile(
    r"(?:Image|Dose|DICOS \dD AIT|DICOS Quadrupole.*|US Volume|(?<!Surface )Segmentation|Parametric Map"
    r"|Thickness Map|Topography Map|B-scan Volume Analysis) Storage(?! Commitment)(?! - Trial)"
)
"""Names of SOP classes with pictures; those of the trial classes are left out."""
ACME = DeviceMasks(()).with_rows([{"when": [[["Manufacturer", "equals", "ACME"]]], "hide": [[0, 0, 640, 40]]}])
VOUCHED = DeviceMasks(()).with_rows(
    [{"when": [[["Manufacturer", "equals", "ACME"]]], "hide": [[0, 0, 640, 40]], "vouched": True}]
)


def described(samples: int = 1, photometric: str = "MONOCHROME2", bits: int = 16) -> PixelDescription:
    return PixelDescription(
        ROWS, COLUMNS, samples, 1, photometric, bits, bits, bits - 1, False, 0, "PixelData", "OW", 0, 0, False
    )  # fmt: skip


def header(sop_class: str, **elements: Any) -> Dataset:
    made = Dataset()
    made.SOPClassUID = sop_class
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def region(left: int, top: int, right: int, bottom: int, **further: Any) -> Dataset:
    made = Dataset()
    made.RegionLocationMinX0, made.RegionLocationMinY0 = left, top
    made.RegionLocationMaxX1, made.RegionLocationMaxY1 = right, bottom
    for keyword, value in further.items():
        setattr(made, keyword, value)
    return made


def ultrasound(*regions: Dataset, **elements: Any) -> Dataset:
    return header(US, SequenceOfUltrasoundRegions=Sequence(regions), **elements)


def climbed(
    instance: Dataset,
    pixels: PixelDescription | None = None,
    syntax: str = NATIVE,
    policy: PixelPolicy = PixelPolicy.DENY,
    masks: DeviceMasks | None = None,
) -> PixelDecision:
    return decide(instance, pixels or described(), syntax, policy, masks or DeviceMasks(()))


def test_the_union_of_ultrasound_regions_is_kept_in_inclusive_locations() -> None:
    decision = climbed(ultrasound(region(100, 50, 299, 249), region(200, 200, 399, 299)))
    assert decision.step is LadderStep.ULTRASOUND_REGIONS
    assert decision.area is not None
    mask = decision.area.mask()
    assert mask[50:250, 100:300].all()
    assert mask[200:300, 200:400].all()
    assert mask.sum() == 200 * 200 + 100 * 200 - 50 * 100


def test_a_region_that_reaches_outside_is_clipped_and_noted() -> None:
    decision = climbed(ultrasound(region(100, 50, COLUMNS, 249)))
    assert decision.area is not None
    assert decision.area.kept == (Rectangle(100, 50, COLUMNS, 250),)
    assert any("clipped" in note for note in decision.notes)


NO_EVIDENCE = {
    "whole": [region(0, 0, COLUMNS - 1, ROWS - 1)],
    "nearly whole": [region(2, 2, COLUMNS - 3, ROWS - 3)],
    "larger than the picture": [region(0, 0, COLUMNS + 50, ROWS + 50)],
    "whole in quarters": [
        region(x, y, x + COLUMNS // 2 - 1, y + ROWS // 2 - 1) for x in (0, COLUMNS // 2) for y in (0, ROWS // 2)
    ],
    "reversed": [region(299, 50, 100, 249)],
    "reversed downwards": [region(100, 249, 299, 50)],
    "no location": [Dataset()],
    "elsewhere": [region(700, 50, 720, 249)],
    "scaled since": [region(100, 50, 1200, 900)],
    "without format and type": [region(0, 40, 639, 440, RegionSpatialFormat=0, RegionDataType=0)],
    "none": [],
}


@pytest.mark.parametrize("kind", NO_EVIDENCE)
def test_regions_that_prove_nothing_leave_it_to_the_policy(kind: str) -> None:
    instance = ultrasound(*NO_EVIDENCE[kind])
    assert climbed(instance).is_refused
    assert climbed(instance).step is LadderStep.POLICY
    blank = climbed(instance, policy=PixelPolicy.BLANK)
    assert blank.area is not None
    assert not blank.area.mask().any()
    allowed = climbed(instance, policy=PixelPolicy.ALLOW)
    assert allowed.area is not None
    assert allowed.area.mask().all()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nearly whole", "nearly the whole picture"),
        ("whole in quarters", "nearly the whole picture"),
        ("reversed", "empty or reversed"),
        ("no location", "no usable location"),
        ("elsewhere", "outside"),
        ("scaled since", "far outside to both sides"),
        ("without format and type", "neither a spatial format nor a data type"),
    ],
)
def test_the_reason_says_what_is_wrong_with_the_regions(kind: str, said: str) -> None:
    assert said in climbed(ultrasound(*NO_EVIDENCE[kind])).reason


def test_a_region_that_proves_nothing_does_not_spoil_the_others() -> None:
    decision = climbed(ultrasound(region(0, 0, COLUMNS - 1, ROWS - 1), region(100, 50, 299, 249)))
    assert decision.area is not None
    assert decision.area.kept == (Rectangle(100, 50, 300, 250),)


@pytest.mark.parametrize("value", [["1", "2"], "0", b"\0" * 8])
def test_regions_that_are_no_sequence_prove_nothing(value: Any) -> None:
    instance = header(US)
    instance.add_new(0x00186011, "OB" if isinstance(value, bytes) else "LO", value)
    assert climbed(instance).is_refused


def test_a_decision_on_a_picture_of_any_size_needs_no_picture() -> None:
    """The header claims 4 GiB of pixels; overlapping regions and the whole are counted by their edges."""
    side = 65_535
    pixels = dataclasses.replace(described(), rows=side, columns=side)
    regions = [region(n, n, side - 900 - n, side - 900 - n) for n in range(64)]
    tracemalloc.start()
    decision = climbed(ultrasound(*regions), pixels)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decision.area is None
    assert most < 16 << 20


def test_regions_of_what_is_no_ultrasound_prove_nothing() -> None:
    instance = ultrasound(region(100, 50, 299, 249))
    instance.SOPClassUID = SC
    assert climbed(instance).step is LadderStep.POLICY


def test_device_masks_hide_their_rectangles_inside_regions_too() -> None:
    decision = climbed(ultrasound(region(100, 10, 299, 249), Manufacturer="ACME"), masks=ACME)
    assert decision.step is LadderStep.ULTRASOUND_REGIONS
    assert decision.masks == ("own 1",)
    assert decision.area is not None
    mask = decision.area.mask()
    assert not mask[:40].any()
    assert mask[40:250, 100:300].all()


def test_a_device_mask_alone_is_no_proof_unless_people_vouch_for_it() -> None:
    instance = header(US, Manufacturer="ACME")
    assert climbed(instance, masks=ACME).is_refused
    allowed = climbed(instance, masks=ACME, policy=PixelPolicy.ALLOW)
    assert allowed.area is not None
    assert not allowed.area.mask()[:40].any()
    vouched = climbed(instance, masks=VOUCHED)
    assert vouched.step is LadderStep.DEVICE_MASK
    assert vouched.area is not None
    assert vouched.area.mask()[40:].all()
    assert not vouched.area.mask()[:40].any()


@pytest.mark.parametrize("policy", PixelPolicy)
def test_masks_that_cannot_be_believed_refuse_under_every_policy(policy: PixelPolicy) -> None:
    masks = DeviceMasks(()).with_rows([{"when": [[["Manufacturer", "equals", "ACME"]]], "hide": [[700, 0, 9, 9]]}])
    decision = climbed(header(CT, Manufacturer="ACME"), masks=masks, policy=policy)
    assert decision.is_refused
    assert decision.step is LadderStep.DEVICE_MASK


@pytest.mark.parametrize("said", ["YES", "Y", "MAYBE"])
def test_burned_in_annotation_denies_what_nothing_covers_even_where_the_unknown_is_allowed(said: str) -> None:
    for instance in (header(CT, BurnedInAnnotation=said), header(SC, BurnedInAnnotation=said)):
        assert climbed(instance).is_refused
        assert climbed(instance, policy=PixelPolicy.ALLOW).is_refused
    covered = climbed(ultrasound(region(100, 50, 299, 249), BurnedInAnnotation=said))
    assert covered.step is LadderStep.ULTRASOUND_REGIONS
    masked = climbed(header(CT, Manufacturer="ACME", BurnedInAnnotation=said), masks=ACME)
    assert masked.step is LadderStep.SOP_CLASS
    assert masked.area is not None
    assert not masked.area.mask()[:40].any()


@pytest.mark.parametrize("sop_class", [SC, US, "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3", ""])
def test_burned_in_annotation_no_proves_nothing(sop_class: str) -> None:
    assert climbed(header(sop_class, BurnedInAnnotation="NO")).is_refused


@pytest.mark.parametrize("rule", ladder_rules().classes, ids=lambda rule: rule.name)
def test_computed_pictures_pass_whole(rule: Any) -> None:
    for sop_class in rule.sop_classes:
        for modality in rule.modalities:
            instance = header(sop_class, Modality=modality, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
            instance.SeriesDescription = "Low dose lung screening"
            decision = climbed(instance, described(bits=min(rule.bits_allocated)))
            assert decision.step is LadderStep.SOP_CLASS
            assert decision.area is not None
            assert not decision.area.hides


def test_every_picture_class_of_the_standard_has_a_rule_or_a_reason_why_it_has_none() -> None:
    rules = ladder_rules()
    ruled = rules.ultrasound.sop_classes.union(*(one.sop_classes for one in (*rules.classes, *rules.left_to_policy)))
    without = {
        name
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and _PICTURES.search(name) and uid not in ruled
    }
    assert without == set()
    several = Counter(uid for one in (*rules.classes, *rules.left_to_policy) for uid in one.sop_classes)
    assert set(several.values()) == {1}


@pytest.mark.parametrize("classes", ladder_rules().left_to_policy, ids=lambda classes: classes.name)
def test_what_can_hold_text_is_left_to_the_policy_and_the_reason_says_why(classes: Any) -> None:
    for sop_class in classes.sop_classes:
        denied = climbed(header(sop_class))
        assert denied.is_refused
        assert denied.step is LadderStep.POLICY
        assert classes.name in denied.reason
        assert classes.why in denied.reason
        vouched = climbed(header(sop_class, Manufacturer="ACME"), masks=VOUCHED)
        assert vouched.step is LadderStep.DEVICE_MASK
        assert not vouched.is_refused


def test_the_documents_name_what_is_left_to_the_policy_with_its_reason() -> None:
    text = (Path(__file__).resolve().parents[4] / "docs/privacy-pixels.md").read_text()
    for classes in ladder_rules().left_to_policy:
        assert f"| {classes.name} | {classes.why} |" in text


def test_a_dose_may_be_called_dose() -> None:
    instance = header(DOSE, Modality="RTDOSE", SeriesDescription="Dose summary report", ImageType=["DERIVED", "DOSE"])
    assert climbed(instance).step is LadderStep.SOP_CLASS
    instance.ConversionType = "WSD"
    assert climbed(instance).step is LadderStep.POLICY


def referring(sop_class: str, to: str, depth: int) -> Dataset:
    """An instance that refers to a picture, some sequences deep."""
    made = header("", ReferencedSOPClassUID=to)
    for _ in range(depth):
        made = header("", SourceImageSequence=Sequence([made]))
    made.SOPClassUID = sop_class
    return made


@pytest.mark.parametrize("sop_class", [SEG, MAP])
def test_what_is_drawn_over_pictures_that_can_hold_text_does_not_pass(sop_class: str) -> None:
    pixels = described(bits=16)
    for source in (SC, US, "1.2.3.4"):
        for depth in (1, 4):
            decision = climbed(referring(sop_class, source, depth), pixels)
            assert decision.is_refused
            assert "can trace it" in decision.reason
    study = "1.2.840.10008.3.1.2.3.1"
    assert climbed(referring(sop_class, CT, 3), pixels).step is LadderStep.SOP_CLASS
    assert climbed(referring(sop_class, study, 1), pixels).step is LadderStep.SOP_CLASS
    assert climbed(referring(CT, SC, 2)).step is LadderStep.SOP_CLASS


@pytest.mark.parametrize("policy", [PixelPolicy.DENY, PixelPolicy.ALLOW])
def test_a_slide_whose_label_is_in_the_picture_leaves_under_no_policy_but_blank(policy: PixelPolicy) -> None:
    for elements in ({"ImageType": ["ORIGINAL", "PRIMARY", "LABEL"]}, {"SpecimenLabelInImage": "YES"}):
        assert climbed(header(SLIDE, **elements), policy=policy).is_refused
    tile = header(SLIDE, SpecimenLabelInImage="NO", ImageType=["ORIGINAL", "PRIMARY", "VOLUME"])
    assert climbed(tile, policy=policy).is_refused == (policy is PixelPolicy.DENY)


FLAGGED: dict[str, dict[str, Any]] = {
    "screen save": {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    "screen save in one word": {"ImageType": ["DERIVED", "SECONDARY", "SCREENSHOT"]},
    "conversion type": {"ConversionType": "WSD"},
    "secondary capture device": {"SecondaryCaptureDeviceManufacturer": "ACME"},
    "dose page": {"SeriesDescription": "Dose Report"},
    "dose page by type": {"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]},
    "protocol page": {"SeriesDescription": "Patient Protocol"},
    "rendering": {"ImageType": ["DERIVED", "SECONDARY", "VOLREN"]},
    "another modality": {"Modality": "OT"},
    "derived from a screen": {"DerivationDescription": "Screen capture with annotations"},
}


@pytest.mark.parametrize("kind", FLAGGED)
def test_computed_pictures_that_something_flags_do_not_pass(kind: str) -> None:
    assert climbed(header(CT, **FLAGGED[kind])).step is LadderStep.POLICY


@pytest.mark.parametrize("pixels", [described(3, "RGB", 8), described(1, "PALETTE COLOR"), described(bits=8)])
def test_a_ct_of_colours_or_of_eight_bits_is_a_screen(pixels: PixelDescription) -> None:
    assert climbed(header(CT), pixels).is_refused


def test_nuclear_medicine_may_have_eight_bits_and_a_palette() -> None:
    assert climbed(header(NM), described(1, "PALETTE COLOR", 8)).step is LadderStep.SOP_CLASS


def test_a_mask_over_a_video_stream_is_left_to_the_policy() -> None:
    instance = ultrasound(region(100, 50, 299, 249))
    instance.SOPClassUID = CINE
    assert climbed(instance, syntax=MPEG4).is_refused
    assert climbed(instance, syntax=NATIVE).step is LadderStep.ULTRASOUND_REGIONS
    allowed = climbed(instance, syntax=MPEG4, policy=PixelPolicy.ALLOW)
    assert allowed.area is not None
    assert allowed.area.kept == (Rectangle(100, 50, 300, 250),)


@pytest.mark.parametrize(
    ("elements", "face"),
    [
        ({"BodyPartExamined": "HEAD"}, True),
        ({"BodyPartExamined": "CHEST"}, False),
        ({"BodyPartExamined": "CHEST", "SeriesDescription": "NEURO ANGIO"}, True),
        ({"BodyPartExamined": "CHEST", "RecognizableVisualFeatures": "YES"}, True),
        ({"BodyPartExamined": "CHEST", "RecognizableVisualFeatures": "NO"}, False),
        ({"BodyPartExamined": "WHOLE BODY"}, True),
        ({"RecognizableVisualFeatures": "NO"}, True),
        ({}, True),
    ],
)
def test_faces_are_flagged_and_never_said_to_be_absent(elements: dict[str, Any], face: bool) -> None:
    decision = climbed(header(CT, **elements))
    assert decision.face == face
    assert decision.record()["recognisable_face"] in {"flagged", "not flagged"}


def test_an_anatomic_code_of_the_head_flags_a_face() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "69536005", "SCT", "Head"
    assert climbed(header(CT, BodyPartExamined="CHEST", AnatomicRegionSequence=Sequence([code]))).face


@given(st.lists(st.tuples(*[st.integers(0, 900)] * 4), max_size=5), st.sampled_from(PixelPolicy))
def test_whatever_the_regions_say_nothing_outside_their_union_is_kept(
    edges: list[tuple[int, int, int, int]], policy: PixelPolicy
) -> None:
    instance = header(US)
    instance.SequenceOfUltrasoundRegions = Sequence([region(*each) for each in edges])
    decision = climbed(instance, policy=policy)
    if decision.step is LadderStep.ULTRASOUND_REGIONS:
        assert decision.area is not None
        mask = decision.area.mask()
        for left, top, right, bottom in edges:
            mask[max(0, top) : max(0, bottom + 1), max(0, left) : max(0, right + 1)] = False
        assert not mask.any()
        assert decision.area.share() < 0.95


def test_no_sentence_of_a_decision_holds_a_value_of_the_header() -> None:
    secret = "DOE JANE"
    instance = header(
        CT, PatientName=secret, SeriesDescription=f"Dose Report {secret}", ImageType=["A", secret], Modality=secret[:3]
    )
    said = str(climbed(instance).record())
    assert "DOE" not in said
