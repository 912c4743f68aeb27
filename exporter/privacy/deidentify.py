"""De-identification of a data set by the Basic Profile of PS3.15 and its options, nested data sets included.

Contract: the result is a new data set; nothing of the source is changed or shared but numbers. Each element gets there
by one of two rules. The first is the Standard's: Table E.1-1 names the attribute. The second holds for all others: an
element stays only if its VR cannot hold text, or its values are in a vocabulary; names, dates, times, AE titles, URIs
and UIDs are treated by VR. What the second rule takes away is listed by tag.

Sequences are walked with a list instead of recursion, so that no nesting is too deep. Pixel data, icons, overlays and
curves are never in the result: pixels are another part's work.

Must never: raise on what an element holds, keep an element because it could not be read, or claim what was not done.

Source: PS3.15 2026d Annex E; PS3.5 7.8 (private blocks).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from exporter.dicom.elements import quiet_reading, text_of
from exporter.dicom.structure import PIXEL_TAGS
from exporter.privacy.data_sets import (
    CODE_MACRO,
    CODE_MEANING,
    CODE_SCHEME,
    CODE_VALUES,
    code_item,
    is_empty,
    new_data_set,
    private_blocks,
    put,
    put_number,
)
from exporter.privacy.dates import (
    date_of,
    is_date_time,
    is_time,
    parsed_date_time,
    shifted_date,
    shifted_date_time,
    stated_age,
)
from exporter.privacy.pseudonyms import IDENTIFIER, PATIENT, Pseudonyms, plain_identifier
from exporter.privacy.rules import (
    BASIC_PROFILE_CODE,
    CLEAN_PIXEL_DATA_CODE,
    OPTION_CODES,
    Action,
    PrivacyOption,
    Rule,
    attribute_type,
    content_rule,
    rule_of,
    safe_private,
    text_type,
)
from exporter.privacy.values import (
    BULK_VRS,
    DATE_VRS,
    MOST_TEXT,
    NUMERIC_VRS,
    REMOVED,
    dummy,
    is_sound_bulk,
    is_valid_uid,
    is_well_known_uid,
    is_zone,
    readable,
    texts_at,
    texts_of,
)
from exporter.privacy.vocabulary import UNKNOWN_SCHEME, code_meaning, defined_terms, is_kept_text, is_known_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydicom.dataset import Dataset, FileMetaDataset

_CHARACTER_SET: Final = 0x00080005
_ZONE: Final = 0x00080201
_PATIENT_NAME: Final = 0x00100010
_PATIENT_ID: Final = 0x00100020
_CONTENT_SEQUENCE: Final = 0x0040A730
_GRAPHIC_ANNOTATIONS: Final = 0x00700001
_GROUP_NAMES: Final = frozenset((0x00700002, 0x00209056))
"""Graphic Layer and Stack ID: free names by which graphics and frames belong together; unknown ones are keyed."""
_FRAME_TIMES: Final = frozenset((0x00189074, 0x00189151))
"""Frame Acquisition DateTime and Frame Reference DateTime, whose dummies keep the intervals between frames."""
_CLAIMS: Final = frozenset((0x00120062, 0x00120063, 0x00120064, 0x00280303))
"""Attributes that say what was done to an object: only what was done here is said."""
_NEVER_KEPT: Final = frozenset((*PIXEL_TAGS, 0x00880200, 0x00282000, 0xFFFCFFFC))
"""Pixels, icons, colour profiles (which hold text) and padding."""
_REFERENCE_LISTS: Final = (0x00081115, 0x00081200)
"""Lists of the instances that an object refers to: with one, the references themselves stay (PS3.3 C.12.2)."""
_VALUE_TYPE: Final = 0x0040A040
_CONCEPT_NAME: Final = 0x0040A043
_CONTENT_VALUES: Final = frozenset((0x0040A120, 0x0040A121, 0x0040A122, 0x0040A123, 0x0040A124, 0x0040A160))
_CONTENT_CODE: Final = 0x0040A168
_MEASURED_VALUE: Final = 0x0040A300
_IDENTIFIES: Final = re.compile(r"(?:ID|Identifier|SerialNumber|OrderNumber\w*|AccessionNumber)$")
"""Keywords whose value is an identifier: where a value is due, a keyed one stands for it."""
_MOST_CHARACTERS: Final = {"SH": 16, "AE": 16, "CS": 16}
_FULL_DATES: Final = PrivacyOption.RETAIN_LONGITUDINAL_FULL_DATES
_MODIFIED_DATES: Final = PrivacyOption.RETAIN_LONGITUDINAL_MODIFIED_DATES


@dataclass(frozen=True, slots=True)
class PrivacyPolicy:
    """How instances are de-identified."""

    pseudonyms: Pseudonyms
    options: frozenset[PrivacyOption] = frozenset()
    cleans_pixels: bool = False
    """Whether the pixels of the same instance are cleaned, which is then claimed."""


@dataclass(frozen=True, slots=True)
class DeidentifiedDataSet:
    """A data set without what identifies, and what the second rule took away."""

    data_set: Dataset
    dropped: tuple[str, ...]
    """``(gggg,eeee)`` of attributes that no rule names and whose values could identify, ascending."""
    private_dropped: int
    """Number of private elements that are not in the result, those within dropped sequences not counted."""


@dataclass(slots=True)
class _Place:
    """One data set on the way: what is read, what is written, and what holds here."""

    source: Dataset
    target: Dataset
    parent: str | None
    """Keyword of the sequence that holds it; empty at the top, None within private sequences."""
    content: Action | None = None
    """Action for the value of a content item; None where no rule names its concept."""
    is_content_item: bool = False
    keeps_codes: bool = False
    """Whether codes stay that no dictionary has: an option retains the identity that they state."""
    skipped: frozenset[int] = field(default=frozenset())


def deidentify(
    source: Dataset, policy: PrivacyPolicy, identifying: frozenset[str] = frozenset()
) -> DeidentifiedDataSet:
    """A de-identified copy of a data set.

    Args:
        source: The data set; its pixel data, if it has any, are not copied.
        policy: Key and options.
        identifying: Words, in lower case, that identify this patient: no text that holds one is kept as known.
    """
    with quiet_reading():
        work = _Deidentification(source, policy, identifying)
        while work.places:
            work.walk(work.places.pop())
        work.claim()
    dropped = tuple(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in sorted(work.dropped))
    return DeidentifiedDataSet(work.result, dropped, work.private_dropped)


def weeks_for(source: Dataset, pseudonyms: Pseudonyms) -> int:
    """Whole weeks by which the dates of an instance are shifted: those of its patient, or study where it names none."""
    names = (text_of(source, keyword) for keyword in ("PatientID", "StudyInstanceUID", "SOPInstanceUID"))
    return pseudonyms.weeks(next(filter(None, map(plain_identifier, names)), ""))


def rebuilt_file_meta(data_set: Dataset, transfer_syntax: str) -> FileMetaDataset:
    """File meta information for a de-identified data set: nothing of the original's, who sent it least of all."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    from listener.intake.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID = UID(text_of(data_set, "SOPClassUID"))
    meta.MediaStorageSOPInstanceUID = UID(text_of(data_set, "SOPInstanceUID"))
    meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    return meta


@cache
def _dictionary_entry(tag: int) -> tuple[str, tuple[str, ...]] | None:
    """Keyword and VRs of a standard attribute; None where the dictionary has none."""
    from pydicom.datadict import dictionary_VR, keyword_for_tag

    try:
        vrs = tuple(dictionary_VR(tag).split(" or "))
    except KeyError:
        return None
    return (keyword_for_tag(tag), vrs) if vrs[0] != "NONE" else None


class _Deidentification:
    """One pass over one data set."""

    def __init__(self, source: Dataset, policy: PrivacyPolicy, identifying: frozenset[str]) -> None:
        from pydicom.dataset import Dataset

        self._source = source
        self._first_frame: datetime | None = None
        self.result = Dataset()
        self.places = [_Place(source, self.result, "")]
        self.dropped: set[int] = set()
        self.private_dropped = 0
        self._options = policy.options
        self._pseudonyms = policy.pseudonyms
        self._cleans_pixels = policy.cleans_pixels
        self._identifying = identifying
        self._sop_class = text_of(source, "SOPClassUID")
        self._lists_references = any(tag in source for tag in _REFERENCE_LISTS)
        self._patient = plain_identifier(text_of(source, "PatientID"))
        self._weeks = weeks_for(source, policy.pseudonyms) if _MODIFIED_DATES in policy.options else 0

    def walk(self, place: _Place) -> None:
        """Put into one data set what may be there, and its sequences' items onto the list."""
        blocks = None
        retains_private = PrivacyOption.RETAIN_SAFE_PRIVATE in self._options
        for base_tag in list(place.source.keys()):
            tag = int(base_tag)
            if tag & 0x10000 and not retains_private:
                self.private_dropped += tag & 0xFF00 != 0  # others reserve a block
            elif tag & 0x10000:
                blocks = private_blocks(place.source) if blocks is None else blocks
                self._private(place, tag, blocks)
            elif tag not in place.skipped:
                self._standard(place, tag)

    def claim(self) -> None:
        """Say in the data set what was done, and nothing that its source says of that (PS3.15 E.2, E.3)."""
        codes = [BASIC_PROFILE_CODE]
        codes += [CLEAN_PIXEL_DATA_CODE] if self._cleans_pixels else []
        codes += [OPTION_CODES[option] for option in PrivacyOption if option in self._options]
        items = [code_item(code, "DCM", meaning) for code, meaning in sorted(codes)]
        method = ["DICOM PS3.15 2026d", *(meaning for _, meaning in sorted(codes))]
        dates = "UNMODIFIED" if _FULL_DATES in self._options else "REMOVED"
        put(self.result, _CHARACTER_SET, "CS", "ISO_IR 192")
        put(self.result, 0x00120062, "CS", "YES")
        put(self.result, 0x00120063, "LO", method)
        put(self.result, 0x00120064, "SQ", items)
        put(self.result, 0x00280303, "CS", "MODIFIED" if _MODIFIED_DATES in self._options else dates)

    def _standard(self, place: _Place, tag: int) -> None:
        group = tag >> 16
        is_graphics = group & 0xFF00 in (0x5000, 0x6000)
        if (
            group < 8
            or not tag & 0xFFFF
            or is_graphics
            or tag in _NEVER_KEPT
            or tag in _CLAIMS
            or tag == _CHARACTER_SET
        ):
            return
        entry = _dictionary_entry(tag)
        if entry is None:
            self.dropped.add(tag)
            return
        keyword, vrs = entry
        if place.is_content_item and tag in _CONTENT_VALUES:
            self._content_value(place, tag, vrs[0])
            return
        rule = rule_of(tag)
        if rule is None:
            self._unnamed(place, tag, keyword, vrs)
            return
        kind = None
        if "/" in rule.basic and place.parent is not None and not (self._lists_references and "U*" in rule.basic):
            kind = attribute_type(self._sop_class, place.parent, keyword)
        action = rule.action(self._options, kind)
        if action in (Action.KEEP, Action.CLEAN) and not self._retained(place, tag, vrs[0], action):
            action = rule.action(frozenset(), kind)
        self._basic(place, tag, keyword, vrs[0], action)

    # The first rule: Table E.1-1 names the attribute.

    def _basic(self, place: _Place, tag: int, keyword: str, vr: str, action: Action) -> None:
        """Carry out an action of the Basic Profile."""
        if action is Action.UIDS_WITHIN:
            self._sequence(place, tag, keyword)
        elif action is Action.UID or (action is Action.DUMMY and vr == "UI"):
            self._uids(place, tag, keeps=False)
        elif action is Action.DUMMY and vr == "SQ":
            self._dummy_sequence(place, tag, keyword)
        elif action is Action.EMPTY and vr == "SQ":
            put(place.target, tag, "SQ", [])
        elif action in (Action.DUMMY, Action.EMPTY):
            put(place.target, tag, vr, self._substitute(place, tag, keyword, vr, is_due=action is Action.DUMMY))

    def _substitute(self, place: _Place, tag: int, keyword: str, vr: str, *, is_due: bool) -> Any:
        """A pseudonym for an identifier; for anything else a dummy where a value is due, and no value where not."""
        nothing = dummy(tag, vr) if is_due else None
        if tag in _FRAME_TIMES and is_due:
            return self._frame_time(place, tag) or nothing
        if tag == _PATIENT_NAME:
            return self._pseudonyms.of(PATIENT, self._patient) if self._patient else nothing
        if _IDENTIFIES.search(keyword) is None or vr not in ("LO", "SH", "UC", "CS"):
            return nothing
        value = plain_identifier("\\".join(texts_at(place.source, tag, vr)))
        if not value:
            return nothing
        pseudonym = self._pseudonyms.of(PATIENT if tag == _PATIENT_ID else IDENTIFIER, value)
        return pseudonym[: _MOST_CHARACTERS.get(vr)].upper() if vr == "CS" else pseudonym[: _MOST_CHARACTERS.get(vr)]

    def _frame_time(self, place: _Place, tag: int) -> str | None:
        """The time of a frame on the day of dummies, as long after midnight as it is after the first of the instance.

        None where a frame states no time, or the times of the instance span more than a day.
        """
        if self._first_frame is None:
            self._first_frame = min(_frame_times(self._source), default=None)
        (time,) = _times_of(place.source, tag) or (None,)
        if (
            time is None
            or self._first_frame is None
            or not timedelta(0) <= time - self._first_frame < timedelta(days=1)
        ):
            return None
        return f"{datetime(1900, 1, 1) + (time - self._first_frame):%Y%m%d%H%M%S.%f}"  # noqa: DTZ001 - local, as DT is

    def _retained(self, place: _Place, tag: int, vr: str, action: Action) -> bool:
        """Retain or clean a value as an option has it; False where this value may not be retained."""
        if vr == "SQ":
            self._sequence(place, tag, _keyword(tag), keeps_codes=action is Action.KEEP)
            return True
        if vr == "UI":
            self._uids(place, tag, keeps=True)
            return True
        if vr in DATE_VRS or tag == _ZONE:
            return self._dates(place, tag, vr, action)
        element = readable(place.source, tag)
        if vr in NUMERIC_VRS or vr in ("DS", "IS"):
            return put_number(place.source, place.target, tag, (vr,))
        values = texts_of(element)
        kept = self._kept_texts(values, vr, is_identity=action is Action.KEEP)
        if kept is None and vr == "AE" and values:  # C: another title that is the same for the same one
            kept = [self._pseudonyms.of(IDENTIFIER, value, 16).upper() for value in values]
        if kept is None:
            return False
        put(place.target, tag, vr, kept)
        return True

    def _kept_texts(self, values: list[str], vr: str, *, is_identity: bool) -> list[str] | None:
        """Texts that an option retains: whole ones as they are, ages and terms within bounds, cleaned ones if known."""
        if not values or vr == "PN" or vr in BULK_VRS or sum(map(len, values)) > MOST_TEXT:
            return None
        if vr == "AS":
            ages = [stated_age(value) for value in values]
            return None if None in ages else [age for age in ages if age is not None]
        if vr == "CS":
            return values if all(value.strip() in defined_terms() for value in values) else None
        if vr == "AE" and not is_identity:
            return None
        return values if is_identity or all(is_known_text(value, self._identifying) for value in values) else None

    def _dates(self, place: _Place, tag: int, vr: str, action: Action | None) -> bool:
        """Keep or shift dates and times; False where they are to go, or are none."""
        values = [value.strip(" \0") for value in texts_at(place.source, tag, vr)]
        if tag == _ZONE:
            kept = values if all(map(is_zone, values)) else None
        else:
            kept = self._permitted_dates(values, vr, action)
        if kept:
            put(place.target, tag, vr, kept)
        return bool(kept)

    @property
    def _action_for_dates(self) -> Action | None:
        """What the options say of dates that no rule names; None where they go."""
        if _FULL_DATES in self._options:
            return Action.KEEP
        return Action.CLEAN if _MODIFIED_DATES in self._options else None

    def _permitted_dates(self, values: list[str], vr: str, action: Action | None) -> list[str] | None:
        """Dates or times of an element as they may be seen: as they are, or shifted; None where they may not."""
        values = [value.strip(" \0") for value in values]
        if action is None:
            return None
        if vr == "TM":
            return values if all(map(is_time, values)) else None
        if action is Action.KEEP:
            is_date = date_of if vr == "DA" else is_date_time
            return values if all(map(is_date, values)) else None
        shift = shifted_date if vr == "DA" else shifted_date_time
        moved = [shift(value, self._weeks) for value in values]
        return None if None in moved else [value for value in moved if value is not None]

    def _uids(self, place: _Place, tag: int, *, keeps: bool) -> None:
        """Replace the UIDs of an element, those of classes and other registered things excepted."""
        values = [value.strip(" \0") for value in texts_at(place.source, tag, "UI")]
        put(place.target, tag, "UI", [self._uid(value, keeps=keeps) for value in values])

    def _uid(self, value: str, *, keeps: bool) -> str:
        if is_well_known_uid(value) or (keeps and is_valid_uid(value)):
            return value
        return self._pseudonyms.uid(value)

    # The second rule: no row of the table names the attribute.

    def _unnamed(self, place: _Place, tag: int, keyword: str, vrs: tuple[str, ...]) -> None:
        vr = vrs[0]
        if vr == "SQ":
            self._unnamed_sequence(place, tag, keyword)
        elif is_empty(place.source, tag):
            put(place.target, tag, vr, None)
        elif vr == "UI":
            self._uids(place, tag, keeps=PrivacyOption.RETAIN_UIDS in self._options)
        elif not self._kept_by_vr(place, tag, vrs):
            self.dropped.add(tag)
            needed = text_type(keyword)
            if needed != "3" and vr not in BULK_VRS:
                put(place.target, tag, vr, dummy(tag, vr) if needed[0] == "1" else None)

    def _kept_by_vr(self, place: _Place, tag: int, vrs: tuple[str, ...]) -> bool:
        """Keep what cannot hold text, or is in a vocabulary; False where neither is so."""
        vr = vrs[0]
        if (vr in NUMERIC_VRS or vr in ("DS", "IS")) and put_number(place.source, place.target, tag, vrs):
            return True
        if any(name in BULK_VRS for name in vrs):
            if not is_sound_bulk(place.source, tag):
                return False
            place.target.add(place.source[tag])
            return True
        if vr in DATE_VRS:
            return self._dates(place, tag, vr, self._action_for_dates)
        values = texts_at(place.source, tag, vr)
        kept: list[str] | None
        if tag in _GROUP_NAMES:
            kept = [self._pseudonyms.of(IDENTIFIER, value, 16).upper() for value in values]
        elif vr == "CS":
            kept = self._terms(texts_at(place.source, tag, vr, placed=True), tag)
        elif vr == "AS":
            kept = self._kept_texts(values, vr, is_identity=False)
        else:
            kept = self._known_texts(values, tag, vr)
        if not kept:
            return False
        put(place.target, tag, vr, kept)
        return True

    def _terms(self, values: list[str], tag: int) -> list[str] | None:
        """Defined terms; of several values those that are none are replaced, so that places keep their meaning."""
        plain = [value.strip(" \0") for value in values]
        if not any(value in defined_terms() for value in plain):
            return None
        kept = [value if not value or value in defined_terms() else "OTHER" for value in plain]
        if kept != plain:
            self.dropped.add(tag)
        return kept

    def _known_texts(self, values: list[str], tag: int, vr: str) -> list[str] | None:
        if vr in ("PN", "AE", "UR"):
            return None
        cleans = PrivacyOption.CLEAN_DESCRIPTORS in self._options
        is_known = all(
            is_kept_text(tag, value.strip(" \0"))
            or (cleans and len(value) <= MOST_TEXT and is_known_text(value, self._identifying))
            for value in values
        )
        return values if is_known else None

    # Sequences.

    def _unnamed_sequence(self, place: _Place, tag: int, keyword: str) -> None:
        if place.is_content_item and tag in (_CONTENT_CODE, _MEASURED_VALUE) and place.content is Action.DUMMY:
            if tag == _CONTENT_CODE:
                put(place.target, tag, "SQ", [code_item("0", UNKNOWN_SCHEME, REMOVED)])
            else:
                put(place.target, tag, "SQ", [])
        else:
            self._sequence(place, tag, keyword, keeps_codes=place.content is Action.KEEP)

    def _sequence(self, place: _Place, tag: int, keyword: str | None, *, keeps_codes: bool = False) -> None:
        """Keep a sequence: its items are walked later, but for content items that a rule removes."""
        element = readable(place.source, tag)
        if element is None or element.VR != "SQ":
            self.dropped.add(tag)
            return
        items = [
            made
            for item in element.value or ()
            if (made := self._item(item, keyword, keeps_codes=keeps_codes or place.keeps_codes)) is not None
        ]
        put(place.target, tag, "SQ", [made.target for made in items])
        self.places += items

    def _item(self, source: Dataset, keyword: str | None, *, keeps_codes: bool) -> _Place | None:
        """A place for one item; None where a rule removes the content item that it is."""
        from pydicom.dataset import Dataset

        place = _Place(source, Dataset(), keyword, keeps_codes=keeps_codes)
        if CODE_MEANING in source or any(tag in source for tag in CODE_VALUES):
            self._write_code(place)
            place.skipped = CODE_MACRO
        if _VALUE_TYPE in source and _CONCEPT_NAME in source:
            place.is_content_item = True
            rule = _content_rule_of(source)
            place.content = None if rule is None else rule.action(self._options)
            if place.content is Action.REMOVE:
                return None
        return place

    def _write_code(self, place: _Place) -> None:
        """Write the code of an item: with its standard meaning, or a keyed one where no dictionary has it."""
        scheme = "".join(texts_of(readable(place.source, CODE_SCHEME)))[:64].strip()
        tag, value = next(
            ((tag, text.strip()) for tag in CODE_VALUES for text in texts_of(readable(place.source, tag))),
            (CODE_VALUES[0], ""),
        )
        meaning = code_meaning(scheme, value)
        if meaning is None and place.keeps_codes:
            meaning = "".join(texts_of(readable(place.source, CODE_MEANING)))[:64] or REMOVED
        if meaning is None:
            keyed = self._pseudonyms.of(IDENTIFIER, f"{scheme}\\{value}", 16) if value else "0"
            tag, value, scheme, meaning = CODE_VALUES[0], keyed, UNKNOWN_SCHEME, REMOVED
        place.target.update(code_item(value, scheme, meaning, tag))

    def _dummy_sequence(self, place: _Place, tag: int, keyword: str) -> None:
        """A sequence whose content is to be replaced: one item that says nothing, or items cleaned by their rules."""
        if tag == _CONTENT_SEQUENCE:
            item = new_data_set()
            item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", REMOVED
            item.ConceptNameCodeSequence = [code_item("121106", "DCM", "Comment")]
            put(place.target, tag, "SQ", [item])
        elif tag == _GRAPHIC_ANNOTATIONS:
            item = new_data_set()
            item.GraphicLayer = REMOVED
            put(place.target, tag, "SQ", [item])
        elif keyword.endswith("CodeSequence"):
            put(place.target, tag, "SQ", [code_item("0", UNKNOWN_SCHEME, REMOVED)])
        else:
            self._sequence(place, tag, keyword)

    def _content_value(self, place: _Place, tag: int, vr: str) -> None:
        """The value of a content item, as the rule of its concept has it (PS3.15 Table E.3.4-1)."""
        values = texts_of(readable(place.source, tag))
        if vr == "UI":
            keeps = place.content is Action.KEEP or (
                place.content is None and PrivacyOption.RETAIN_UIDS in self._options
            )
            self._uids(place, tag, keeps=keeps)
            return
        kept = None
        if place.content is not Action.DUMMY:
            if vr in DATE_VRS:
                kept = self._permitted_dates(values, vr, place.content or self._action_for_dates)
            elif vr != "PN":
                kept = self._kept_texts(values, vr, is_identity=place.content is Action.KEEP)
        if not kept and place.content is None:
            self.dropped.add(tag)
        put(place.target, tag, vr, kept or dummy(tag, vr))

    # Private elements.

    def _private(self, place: _Place, tag: int, blocks: dict[tuple[int, int], str]) -> None:
        """Keep a private element that the Standard calls safe, by its VR."""
        group, block = tag >> 16, tag >> 8 & 0xFF
        if not block:
            return  # the reservation of a block: written with the first element that needs it
        creator = blocks.get((group, block), "")
        vr = safe_private().get((creator, group, tag & 0xFF))
        if vr is None or not self._safe(place, tag, vr):
            self.private_dropped += 1
            return
        put(place.target, group << 16 | block, "LO", creator)

    def _safe(self, place: _Place, tag: int, vr: str) -> bool:
        """Keep a safe private element of a VR that cannot hold text, or of known text; False where it may hold more."""
        element = readable(place.source, tag)
        if element is None or (vr not in ("??", element.VR) and element.VR != "UN"):
            return False
        if vr == "SQ":
            if element.VR == "SQ":
                self._sequence(place, tag, None)
            return element.VR == "SQ"
        if vr in NUMERIC_VRS or vr in ("DS", "IS", "??"):
            permitted = NUMERIC_VRS if vr == "??" else frozenset((vr,))
            return element.VR in permitted and put_number(place.source, place.target, tag, (element.VR,))
        values = texts_of(element)
        if vr == "UI" and element.VR == "UI":
            self._uids(place, tag, keeps=PrivacyOption.RETAIN_UIDS in self._options)
            return True
        is_known = all(value.strip() in defined_terms() or is_known_text(value, self._identifying) for value in values)
        if not values or not is_known or vr in BULK_VRS or "/" in vr or vr in ("PN", "AE", "UR", *DATE_VRS):
            return False
        put(place.target, tag, vr, values)
        return True


def _keyword(tag: int) -> str:
    entry = _dictionary_entry(tag)
    return "" if entry is None else entry[0]


def _frame_times(source: Dataset) -> Iterator[datetime]:
    """The times that the frames of a multi-frame object state, of either attribute."""
    for group in _items_of(source, 0x52009230):
        for content in _items_of(group, 0x00209111):
            for tag in _FRAME_TIMES:
                yield from _times_of(content, tag)


def _items_of(source: Dataset, tag: int) -> Iterable[Dataset]:
    """The items of a sequence; none where it is absent, or no sequence."""
    element = readable(source, tag) if tag in source else None
    return () if element is None or element.VR != "SQ" else element.value or ()


def _times_of(source: Dataset, tag: int) -> list[datetime]:
    """The one time that an element of VR DT states, without its zone; empty where it states none."""
    values = texts_of(readable(source, tag)) if tag in source else []
    time = None if len(values) != 1 else parsed_date_time(values[0])
    return [] if time is None else [time]


def _content_rule_of(item: Dataset) -> Rule | None:
    """The rule of a content item's concept; None where Table E.3.4-1 does not name it."""
    names = readable(item, _CONCEPT_NAME)
    if names is None or names.VR != "SQ" or not names.value:
        return None
    name = names.value[0]
    scheme = "".join(texts_of(readable(name, CODE_SCHEME)))
    value_type = "".join(texts_of(readable(item, _VALUE_TYPE)))
    for tag in CODE_VALUES:
        for code in texts_of(readable(name, tag)):
            return content_rule(scheme.strip(), code.strip(), value_type.strip())
    return None
