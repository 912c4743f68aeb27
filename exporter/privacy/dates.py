"""Dates and times as DICOM writes them: recognised strictly, and shifted by whole weeks.

Contract: what is no date of the calendar is none here; a date is shifted exactly or not at all.

Source: PS3.5 6.2 (VR DA, DT, TM; the form with dots of ACR-NEMA), PS3.15 E.3.6.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Final

_DATE: Final = re.compile(r"([0-9]{4})(\.?)([0-9]{2})\2([0-9]{2})")
_TIME: Final = re.compile(r"(?:[01][0-9]|2[0-3])(?::?[0-5][0-9](?::?(?:[0-5][0-9]|60)(?:\.[0-9]{1,6})?)?)?")
_DATE_TIME: Final = re.compile(
    r"([0-9]{4}(?:[0-9]{2}(?:[0-9]{2})?)?)((?:[01][0-9]|2[0-3])(?:[0-5][0-9](?:(?:[0-5][0-9]|60)(?:\.[0-9]{1,6})?)?)?)?"
    r"([+-][01][0-9][0-5][0-9])?"
)
_AGE: Final = re.compile(r"[0-9]{3}[DWMY]")
_OLDEST_AGE_YEARS: Final = 89
_PER_YEAR: Final = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}


def date_of(text: str) -> date | None:
    """The date that a value of VR DA states; None where it states none."""
    found = _DATE.fullmatch(text.strip(" \0"))
    if found is None:
        return None
    try:
        return date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return None


def is_time(text: str) -> bool:
    """Whether a value of VR TM states a time."""
    return _TIME.fullmatch(text.strip(" \0")) is not None


def is_date_time(text: str) -> bool:
    """Whether a value of VR DT states a date, to whatever precision, with or without a time."""
    found = _DATE_TIME.fullmatch(text.strip(" \0"))
    if found is None:
        return False
    year, month, day = found[1][:4], found[1][4:6] or "01", found[1][6:8] or "01"
    return (len(found[1]) == 8 or not found[2]) and date_of(year + month + day) is not None


def parsed_date_time(text: str) -> datetime | None:
    """Date and time of a value of VR DT to the second or finer, without its zone; None where it does not state both."""
    found = _DATE_TIME.fullmatch(text.strip(" \0"))
    if found is None or len(found[1]) != 8 or len(found[2] or "") < 6:
        return None
    whole, _, fraction = found[2].partition(".")
    try:
        time = datetime.strptime(found[1] + whole, "%Y%m%d%H%M%S")  # noqa: DTZ007 - zones of one object are alike
    except ValueError:
        return None
    return time.replace(microsecond=int(f"{fraction:0<6}"))


def shifted_date(text: str, weeks: int) -> str | None:
    """A value of VR DA some weeks later, written without dots; None where it is no date or leaves the calendar."""
    original = date_of(text)
    if original is None:
        return None
    try:
        moved = original + timedelta(weeks=weeks)
    except OverflowError:
        return None
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"


def shifted_date_time(text: str, weeks: int) -> str | None:
    """A value of VR DT some weeks later, time and zone as they were; None where the day is not stated."""
    text = text.strip(" \0")
    if not is_date_time(text) or not text[4:8].isdigit():
        return None
    moved = shifted_date(text[:8], weeks)
    return None if moved is None else moved + text[8:]


def stated_age(text: str) -> str | None:
    """A value of VR AS, ages above 89 years as ``090Y``; None where it is no age.

    Source: PS3.15 E.3.7 and 45 CFR 164.514(b)(2)(i)(C): ages over 89 are aggregated.
    """
    text = text.strip(" \0")
    if _AGE.fullmatch(text) is None:
        return None
    return "090Y" if int(text[:3]) / _PER_YEAR[text[3]] >= _OLDEST_AGE_YEARS + 1 else text
