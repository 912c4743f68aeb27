"""The keys a cohort may have: keywords of the data dictionary, their levels, and how their values are written.

Contract: `column_fault` and `checked` never repeat what they were given: a header that is missing makes the first
patient's identifiers look like column names. Value representations as PS3.5 6.2, matching as PS3.4 C.2.2.2.
"""

from __future__ import annotations

import calendar
import difflib
import re
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


class Rank(IntEnum):
    """Levels of the Study Root model, from the top (PS3.4 C.6.2.1): patients are part of their studies."""

    STUDY = 0
    SERIES = 1
    INSTANCE = 2

    @property
    def level(self) -> str:
        """(0008,0052) Query/Retrieve Level."""
        return ("STUDY", "SERIES", "IMAGE")[self]


UIDS: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
"""The unique key of each level."""

_STUDY: Final = frozenset(
    {
        "StudyInstanceUID",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "StudyID",
        "ReferringPhysicianName",
        "StudyDescription",
        "ModalitiesInStudy",
        "SOPClassesInStudy",
        "NameOfPhysiciansReadingStudy",
        "PhysiciansOfRecord",
        "ConsultingPhysicianName",
        "RequestingPhysician",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
        "AdmittingDiagnosesDescription",
        "AdmissionID",
        "StudyStatusID",
        "StudyPriorityID",
        "StudyComments",
        "OtherStudyNumbers",
        "TimezoneOffsetFromUTC",
    }
)
_SERIES: Final = frozenset(
    {
        "SeriesInstanceUID",
        "Modality",
        "SeriesNumber",
        "SeriesDate",
        "SeriesTime",
        "SeriesDescription",
        "Laterality",
        "BodyPartExamined",
        "PatientPosition",
        "ProtocolName",
        "PerformingPhysicianName",
        "OperatorsName",
        "AnatomicalOrientationType",
        "PerformedProcedureStepID",
        "PerformedProcedureStepDescription",
        "PerformedProcedureStepStartDate",
        "PerformedProcedureStepStartTime",
        "PerformedProcedureStepEndDate",
        "PerformedProcedureStepEndTime",
        "PerformedStationAETitle",
        "PerformedStationName",
        "PerformedLocation",
        "NumberOfSeriesRelatedInstances",
        "RequestedProcedureID",
        "RequestedProcedureDescription",
        "ScheduledProcedureStepID",
        "ScheduledProcedureStepDescription",
        "Manufacturer",
        "ManufacturerModelName",
        "InstitutionName",
        "InstitutionAddress",
        "InstitutionalDepartmentName",
        "StationName",
        "DeviceSerialNumber",
        "DeviceUID",
        "SoftwareVersions",
        "FrameOfReferenceUID",
        "SynchronizationFrameOfReferenceUID",
        "PositionReferenceIndicator",
        "PatientSpeciesDescription",
    }
)
_OURS: Final = frozenset({"SpecificCharacterSet", "QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability"})
"""Said by us or by the peer, never asked for."""

TEXT: Final = frozenset({"AE", "AS", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
NUMBERS: Final = {
    "IS": re.compile(r"[+-]?\d{1,12}"),
    "DS": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "US": re.compile(r"\d{1,5}"),
    "SS": re.compile(r"[+-]?\d{1,5}"),
    "UL": re.compile(r"\d{1,10}"),
    "SL": re.compile(r"[+-]?\d{1,10}"),
    "FL": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "FD": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
}
LONGEST: Final = 1024
"""Longest value of a key; wildcards and lists may be longer than the value representation permits (PS3.5 6.2)."""

_DATE: Final = re.compile(r"\d{8}")
_ISO_DATE: Final = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_TIME: Final = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")
_DATE_TIME: Final = re.compile(r"[0-9.+-]{4,60}")
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_AGE: Final = re.compile(r"[0-9?*]{1,3}[DWMY?*]?|\*")
_CODE: Final = re.compile(r"[A-Z0-9 _*?]{1,64}")


@dataclass(frozen=True, slots=True)
class MatchingKey:
    """One column of a cohort."""

    keyword: str
    vr: str
    rank: Rank


class WrongValue(Exception):
    """A cell cannot be a key; says what is permitted, never what is there."""


def key_of(keyword: str) -> MatchingKey | None:
    """The key of that keyword; None where nothing can be asked by it."""
    vr = _vr_of(keyword)
    if vr is None or keyword in _OURS or not _can_be_asked(vr):
        return None
    return MatchingKey(keyword, vr, _rank(keyword))


def column_fault(name: str) -> str:
    """Why a column name is no key, as the end of a sentence; a guess is given only where it is near."""
    vr = _vr_of(name)
    if name in _OURS:
        return "cannot be asked by: it is set by the exporter or the peer"
    if vr == "SQ":
        return "is a sequence, and sequences cannot be asked by"
    if vr is not None:
        return "holds binary values, and they cannot be asked by"
    near = difflib.get_close_matches(name.strip().replace(" ", "").replace("_", ""), _keywords(), 1, 0.75)
    hint = f"did you mean {near[0]}?" if near else "give it one, or begin its name with # where it is yours"
    return f"is no keyword of the data dictionary; {hint}"


def checked(key: MatchingKey, text: str) -> str:
    """The value that a cell says, as it goes over the wire.

    Raises:
        WrongValue: It is no value of that key.
    """
    if len(text) > LONGEST:
        raise WrongValue(f"is longer than {LONGEST} characters")
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text):
        raise WrongValue("holds a control character")
    return _CHECKS.get(key.vr, _text)(key, text)


def _date(_key: MatchingKey, text: str) -> str:
    iso = _ISO_DATE.fullmatch(text)
    if iso is not None:
        text = "".join(iso.groups())
    first, dash, last = text.partition("-")
    if not all(_is_date(part) for part in (first, last) if part) or not (first or last):
        raise WrongValue(
            "is no date (YYYYMMDD or YYYY-MM-DD) and no range of dates (YYYYMMDD-YYYYMMDD, either end open)"
        )
    if dash and first and last and first > last:
        raise WrongValue("is a range of dates that ends before it begins")
    return text


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text) or not text.isascii():
        return False
    year, month, day = int(text[:4]), int(text[4:6]), int(text[6:])
    return year >= 1 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]


def _time(_key: MatchingKey, text: str) -> str:
    text = text.replace(":", "")
    first, dash, last = text.partition("-")
    if not all(_TIME.fullmatch(part) and part.isascii() for part in (first, last) if part) or not (first or last):
        raise WrongValue("is no time (HHMMSS, HHMM or HH) and no range of times (either end open)")
    if dash and first and last and first > last:
        raise WrongValue("is a range of times that ends before it begins")
    return text


def _date_time(_key: MatchingKey, text: str) -> str:
    if not _DATE_TIME.fullmatch(text):
        raise WrongValue("is no date with time (YYYYMMDDHHMMSS) and no range of them")
    return text


def _uid(_key: MatchingKey, text: str) -> str:
    uids = text.split("\\")
    if not all(len(uid) <= 64 and uid.isascii() and _UID.fullmatch(uid) for uid in uids):
        raise WrongValue("is no UID (digits and points, up to 64) and no list of UIDs (a backslash between them)")
    return text


def _number(key: MatchingKey, text: str) -> str:
    if not NUMBERS[key.vr].fullmatch(text) or not text.isascii():
        raise WrongValue("is no number, and numbers have no ranges and no wildcards")
    return text


def _age(_key: MatchingKey, text: str) -> str:
    if not _AGE.fullmatch(text) or not text.isascii():
        raise WrongValue("is no age (three digits and D, W, M or Y)")
    return text


def _code(_key: MatchingKey, text: str) -> str:
    if not _CODE.fullmatch(text):
        raise WrongValue("is no code: capital letters, digits, space and _, with * and ? as wildcards")
    return text


def _text(_key: MatchingKey, text: str) -> str:
    if "\\" in text:
        raise WrongValue("holds a backslash, which would make it several values")
    if not text.strip("*"):
        raise WrongValue("is a wildcard for anything: leave the cell empty instead")
    return text


_CHECKS: Final[dict[str, Callable[[MatchingKey, str], str]]] = {
    "DA": _date,
    "TM": _time,
    "DT": _date_time,
    "UI": _uid,
    "AS": _age,
    "CS": _code,
    **dict.fromkeys(NUMBERS, _number),
}


def _can_be_asked(vr: str) -> bool:
    return vr in TEXT or vr in _CHECKS


def _rank(keyword: str) -> Rank:
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword) or 0
    if keyword in _SERIES:
        return Rank.SERIES
    return Rank.STUDY if keyword in _STUDY or tag >> 16 == 0x0010 else Rank.INSTANCE


def _vr_of(keyword: str) -> str | None:
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    tag = tag_for_keyword(keyword)
    if tag is None or tag >> 16 in {0x0000, 0x0002, 0x0004}:
        return None
    return dictionary_VR(tag)


@cache
def _keywords() -> tuple[str, ...]:
    from pydicom._dicom_dict import DicomDictionary  # the table itself: there is no public list of keywords

    return tuple(entry[4] for entry in DicomDictionary.values() if entry[4] and _can_be_asked(entry[0]))
