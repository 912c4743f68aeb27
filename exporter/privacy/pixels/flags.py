"""Signs in a header that a picture holds burned-in text, or a face.

Contract: a sign can only forbid. That there is none proves nothing, and nothing here says that a picture is clean.
Sentences name elements, never their values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from exporter.dicom.elements import READING_ERRORS, base_tag_of, name_of, readable_value_of, text_of, unread_value
from exporter.frames.display import items_of
from exporter.privacy.pixels.rules import ladder_rules
from exporter.privacy.values import plain_texts, readable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydicom.dataset import Dataset

    from exporter.dicom.pixels import PixelDescription
    from exporter.privacy.pixels.rules import ClassRule

_DESCRIPTIONS = ("StudyDescription", "SeriesDescription", "ProtocolName", "PerformedProcedureStepDescription")
_SCANNED = frozenset({"CT", "MR", "PT", "X-ray 3D"})
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_STANDARD = "1.2.840.10008."
"""Root of the UIDs that the Standard defines (PS3.6 Annex A)."""


def burned_in(header: Dataset) -> str | None:
    """What says that a picture holds text; None where nothing does.

    (0028,0301) Burned In Annotation, where it says anything but NO; an absent one says nothing. Of a whole slide,
    (0048,0010) Specimen Label in Image likewise, and LABEL in (0008,0008) Image Type (PS3.3 C.8.12.4.1.1).
    """
    for keyword in ("BurnedInAnnotation", "SpecimenLabelInImage"):
        if text_of(header, keyword).upper() not in {"", "NO"}:
            return f"{name_of(keyword)} does not say NO"
    if text_of(header, "SOPClassUID") == _WHOLE_SLIDE and "LABEL" in values_of(header, "ImageType"):
        return f"{name_of('ImageType')} says that the picture is a label"
    return None


def why_unproven(header: Dataset) -> str | None:
    """Why no rule lets pictures of the SOP class of an instance pass; None where the class is not known."""
    sop_class = text_of(header, "SOPClassUID")
    found = next((one for one in ladder_rules().left_to_policy if sop_class in one.sop_classes), None)
    return None if found is None else f"nothing proves {found.name} clean: {found.why}"


def class_rule(header: Dataset) -> ClassRule | None:
    """The rule for the SOP class of an instance; None where there is none."""
    sop_class = text_of(header, "SOPClassUID")
    return next((rule for rule in ladder_rules().classes if sop_class in rule.sop_classes), None)


def flag_of(header: Dataset, pixels: PixelDescription, rule: ClassRule) -> str | None:
    """The first sign that a picture is not what its class is for; None where there is none."""
    if pixels.samples != 1 or pixels.photometric not in rule.photometric:
        return f"colour is no {rule.name} picture"
    if pixels.keyword == "PixelData" and pixels.bits_allocated not in rule.bits_allocated:
        return f"{name_of('BitsAllocated')} is not that of a {rule.name} picture"
    if text_of(header, "Modality").upper() not in {"", *rule.modalities}:
        return f"{name_of('Modality')} contradicts the SOP class"
    return _flag_of_elements(header, rule)


def _flag_of_elements(header: Dataset, rule: ClassRule) -> str | None:
    """The first sign among elements that say where a picture comes from; None where there is none."""
    present = next((key for key in ladder_rules().flagged_if_present if _is_there(header, key)), None)
    if present is not None:
        return f"{name_of(present)} is there: a captured or digitised picture"
    spoken = _speaks(header, rule)
    if spoken is not None:
        return f"{name_of(spoken)} speaks of a screen, a report, a rendering or the like"
    if rule.is_made_of_pictures and _is_of_unproven_pictures(header):
        return f"a {rule.name} of pictures that may show text can trace it"
    return None


def _speaks(header: Dataset, rule: ClassRule) -> str | None:
    """The first element, by keyword, that has a flagged word or value."""
    rules = ladder_rules()
    for keyword, words in rules.flagged_words.items():
        if _is_read(keyword, rule) and _begins_a_word(values_of(header, keyword), words):
            return keyword
    for keyword, whole in rules.flagged_values.items():
        if _is_read(keyword, rule) and any(_plain(value) in whole for value in values_of(header, keyword)):
            return keyword
    return None


def _is_read(keyword: str, rule: ClassRule) -> bool:
    return rule.words_of is None or keyword in rule.words_of


def _is_of_unproven_pictures(header: Dataset) -> bool:
    """Whether an instance refers, at any depth, to pictures that may hold text, or to a class of no standard."""
    rules = ladder_rules()
    unproven = rules.ultrasound.sop_classes.union(*(one.sop_classes for one in rules.left_to_policy))
    waiting = [header]
    while waiting:
        place = waiting.pop()
        sop_class = text_of(place, "ReferencedSOPClassUID")
        if sop_class in unproven or (sop_class and not sop_class.startswith(_STANDARD)):
            return True
        for tag in list(place.keys()):
            if place.get_item(tag).VR in {"SQ", "UN", None}:  # None: of implicit VR, not read yet
                element = readable(place, int(tag))
                waiting += (element.value or ()) if element is not None and element.VR == "SQ" else ()
    return False


def may_show_face(header: Dataset) -> bool:
    """Whether the header has a sign that the picture, or a volume of it, shows a recognisable face.

    A CT, MR or PT whose body part is not stated counts as such a sign. False is no statement that there is no face.
    """
    rules = ladder_rules().faces
    if text_of(header, "RecognizableVisualFeatures").upper() not in {"", "NO"}:
        return True
    if text_of(header, "SOPClassUID") in rules.sop_classes:
        return True
    rule = class_rule(header)
    if (rule.name if rule is not None else text_of(header, "Modality").upper()) not in _SCANNED:
        return False
    parts = {_plain(value).replace(" ", "") for value in values_of(header, "BodyPartExamined")}
    codes = set(_anatomic_codes(header))
    if parts & {part.replace(" ", "") for part in rules.body_parts} or codes & rules.codes:
        return True
    texts = [value for keyword in _DESCRIPTIONS for value in values_of(header, keyword)]
    return _begins_a_word(texts, rules.words) or not (parts or codes)


def values_of(header: Dataset, keyword: str) -> list[str]:
    """The values of an element as texts; none where it is absent, empty or cannot be read."""
    tag = base_tag_of(keyword)
    raw: Any = None if tag is None else header.get_item(tag)
    if raw is None:
        return []
    plain = plain_texts(raw, raw.VR or "")
    if plain is not None:
        return [text for text in (one.strip(" \0") for one in plain) if text]
    value = readable_value_of(header, keyword)
    if value is None:
        return []
    values: Iterable[object] = (value,) if isinstance(value, str | bytes | int | float) else _listed(value)
    return [text for text in (str(one).strip(" \0") for one in values) if text]


def _listed(value: object) -> Iterable[object]:
    try:
        return list(value)  # type: ignore[call-overload, no-any-return]  # a multi-valued element of pydicom
    except READING_ERRORS:
        return (value,)


def _is_there(header: Dataset, keyword: str) -> bool:
    """Whether an element is there with any value, be it one that cannot be read."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    return tag is not None and tag in header and unread_value(header, tag) not in {None, b"", ""}


def _anatomic_codes(header: Dataset) -> Iterable[str]:
    shared = items_of(header, "SharedFunctionalGroupsSequence")[:1]
    frames = items_of(header, "PerFrameFunctionalGroupsSequence")[:1]
    places = [header, *(item for group in (*shared, *frames) for item in items_of(group, "FrameAnatomySequence"))]
    for place in places:
        for item in items_of(place, "AnatomicRegionSequence"):
            yield text_of(item, "CodeValue")


def _plain(text: str) -> str:
    """Capitals and digits, one space between words."""
    return " ".join(re.findall(r"[^\W_]+", text.upper()))


def _begins_a_word(values: Iterable[str], words: Iterable[str]) -> bool:
    plain = [f" {_plain(value)}" for value in values]
    return any(f" {word}" in value for word in words for value in plain)
