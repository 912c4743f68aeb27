"""What identifies the patient and the people of one instance, collected before anything is written, and searched for.

Contract: names, identifiers, dates and UIDs are taken from every depth of the original data set, by VR and by keyword,
private elements included. A search finds them in bytes and in text, in any case, with and without diacritics, in the
order and with the separators that people use, as ASCII, UTF-8, Latin-1, UTF-16 of either order, and in the encoding of
the original. Short ones are searched for only in text, as whole words: in compressed pixels four letters occur by
chance. Words of one and two letters are searched for only in whole names, since terms of the Standard are as short.

A finding says of what kind an identifier is, never its value.

Source: PS3.5 6.2.1 (person names), PS3.15 E.2 (verification of de-identified objects).
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final

from exporter.dicom.elements import READING_ERRORS, quiet_reading
from exporter.errors import PrivacyUnknown
from exporter.privacy.dates import date_of, shifted_date
from exporter.privacy.rules import Action, PrivacyOption, rule_of
from exporter.privacy.values import BULK_VRS, NUMERIC_VRS, is_well_known_uid, readable, texts_of
from exporter.privacy.vocabulary import common_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

LEAST_BYTES: Final = 6
"""Shortest spelling, in bytes, that is searched for where anything may stand, not only text."""
_LEAST_LETTERS: Final = 3
"""Shortest word of a name, and shortest identifier with a letter in it, that is searched for by itself."""
_LEAST_DIGITS: Final = 6
"""Shortest identifier of digits alone: shorter ones occur as rows, doses and numbers of frames."""
_IDENTIFIES: Final = re.compile(
    r"(?:IDs?|Identifier|SerialNumber|AccessionNumber|OrderNumber\w*|Institution(?:Name|Address)|DepartmentName"
    r"|StationName|PatientAddress|TelephoneNumbers?|MedicalRecordLocator)$"
)
"""Keywords of attributes whose text is an identifier, if a rule names them."""
_WORDS: Final = re.compile(r"[^\W_]+")
_NO_DAY: Final = date(1900, 1, 1)
"""The day that dummies state: searched for, it would be found in every output."""
_UIDS: Final = re.compile(r"[0-9]+(?:\.[0-9]+){3,}")
_UID_BYTES: Final = re.compile(rb"[0-9]+(?:\.[0-9]+){3,}")
_DOT_OR_END: Final = re.compile(r"\.|$")
_DECIMAL_BEFORE: Final = re.compile(r"\d\.")
_DECIMAL_AFTER: Final = re.compile(r"\.\d")
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MOST_SPELLINGS: Final = 20_000
_MOST_IDENTIFIER: Final = 256
_NO_TEXT_VRS: Final = NUMERIC_VRS | BULK_VRS - {"UN"} | {"DS", "IS", "CS", "TM", "AS"}
_IDENTIFIER_VRS: Final = frozenset(["AE", "LO", "LT", "SH", "ST", "UC", "UT"])


@dataclass(frozen=True, slots=True)
class CollectedIdentifiers:
    """Spellings of what identifies the people of an instance, folded to lower case without diacritics."""

    spellings: dict[str, str] = field(default_factory=dict)
    """Kind by spelling: ``name``, ``identifier`` or ``date``."""
    uids: set[str] = field(default_factory=set)
    encoded: dict[bytes, str] = field(default_factory=dict)
    """Kind by bytes, as the original data set encodes names that are not ASCII."""
    common: set[str] = field(default_factory=set)
    """Names and identifiers that are terms of the Standard or makers: found everywhere, so not searched for alone."""

    @property
    def words(self) -> frozenset[str]:
        """Words, in lower case, that keep a text from being a known one though the vocabulary has them."""
        return frozenset(
            self.common.union(word for word, kind in self.spellings.items() if kind in ("name", "identifier"))
        )

    def found_in_text(self, text: str) -> frozenset[str]:
        """Kinds of the identifiers that occur in a text as whole words."""
        lower = text.casefold()
        forms = {lower, _folded(text)}
        kinds = {kind for form in forms for kind in self._found(form)}
        return frozenset(kinds | ({"uid"} if self._holds_uid(_UIDS.findall(lower)) else set()))

    def found_in_run(self, text: str, least: int) -> frozenset[str]:
        """Kinds of the identifiers that occur anywhere in a run of letters whose words may stand without a space.

        Args:
            text: The run.
            least: Shortest spelling that is searched for.
        """
        forms = {form for one in (text.casefold(), _folded(text)) for form in (one, "".join(one.split()))}
        kinds = {
            kind
            for spelling, kind in self.spellings.items()
            if len(spelling) >= least and any(spelling in form for form in forms)
        }
        return frozenset(kinds | ({"uid"} if any(uid in form for uid in self.uids for form in forms) else set()))

    def found_in_bytes(self, data: bytes, least_bytes: int = LEAST_BYTES) -> frozenset[str]:
        """Kinds of the identifiers that occur in bytes of any kind, those with long enough spellings.

        Args:
            data: A whole file or part of one; in bare samples of pixels letters occur by chance more often.
            least_bytes: Shortest spelling that is searched for.
        """
        lower = data.lower()
        texts = [run.lower() for run in (_ascii_runs(data, least_bytes), _utf_16_runs(data, least_bytes))]
        kinds = {kind for raw, kind in self.encoded.items() if len(raw) >= least_bytes and raw in data}
        for spelling, kind in self.spellings.items():
            raws = [spelling.encode()] if spelling.isascii() else _encodings(spelling)
            places = texts if spelling.isascii() else (lower,)
            if kind not in kinds and any(
                len(raw) >= least_bytes and _occurs(place, raw) for raw in raws for place in places
            ):
                kinds.add(kind)
        stated = (uid.decode() for text in texts for uid in _UID_BYTES.findall(text))
        return frozenset(kinds | ({"uid"} if self._holds_uid(stated) else set()))

    def _found(self, text: str) -> Iterator[str]:
        return (kind for spelling, kind in self.spellings.items() if _stands_in(text, spelling))

    def _holds_uid(self, stated: Iterable[str]) -> bool:
        """Whether one of these UIDs, or what it begins with, is one of the instance's."""
        return any(uid[: dot.start()] in self.uids for uid in stated for dot in _DOT_OR_END.finditer(uid))


def collect_identifiers(
    source: Dataset, options: frozenset[PrivacyOption] = frozenset(), weeks: int = 0
) -> CollectedIdentifiers:
    """The identifiers of an instance, but for those that an option retains.

    Args:
        source: The original data set.
        options: Options of the de-identification.
        weeks: Weeks by which it shifts dates: a date that another one of the instance is shifted to says nothing.

    Raises:
        PrivacyUnknown: There are more than can be searched for.
    """
    found = CollectedIdentifiers()
    days: set[date] = set()
    with quiet_reading():
        for dataset, element in _elements(source):
            vr = element.VR
            if vr == "PN":
                _collect_names(found, texts_of(element), _raw_names(dataset, element))
            elif not _is_retained(element, options):
                if vr in ("DA", "DT"):
                    days |= _days_of(texts_of(element))
                elif vr == "UI":
                    _collect_uids(found, texts_of(element))
                elif vr in _IDENTIFIER_VRS:
                    _collect_texts(found, element)
    for day in sorted(days - {_NO_DAY} - {_moved(day, weeks) for day in days if weeks}):
        _note_all(found, _date_spellings(day), "date")
    return found


def _is_retained(element: DataElement, options: frozenset[PrivacyOption]) -> bool:
    """Whether an option keeps the value as it is, so that it must be found in the output."""
    rule = None if element.tag.is_private else rule_of(int(element.tag))
    if rule is not None:
        return rule.action(options) is Action.KEEP
    if element.VR == "UI":
        return PrivacyOption.RETAIN_UIDS in options
    return element.VR in ("DA", "DT") and PrivacyOption.RETAIN_LONGITUDINAL_FULL_DATES in options


def _collect_texts(found: CollectedIdentifiers, element: DataElement) -> None:
    """Note the texts of an attribute that names a patient, a person, a device or a place, in a wrong VR as well."""
    from pydicom.datadict import dictionary_VR

    if not _is_collected(int(element.tag)):
        return
    if dictionary_VR(element.tag) == "PN":
        _collect_names(found, texts_of(element), [])
    else:
        for value in texts_of(element):
            _collect_identifier(found, value)


@cache
def _is_collected(tag: int) -> bool:
    """Whether the text of an attribute is noted: a rule names the attribute, and it is a name or an identifier."""
    from pydicom.datadict import dictionary_VR, keyword_for_tag

    if tag & 0x10000 or rule_of(tag) is None:
        return False
    try:
        return dictionary_VR(tag) == "PN" or _IDENTIFIES.search(keyword_for_tag(tag)) is not None
    except KeyError:  # a rule names a whole group, the dictionary not all of it
        return False


def _collect_uids(found: CollectedIdentifiers, values: list[str]) -> None:
    for value in values:
        if not is_well_known_uid(value) and value.count(".") >= 3:
            found.uids.add(value.strip(" \0"))


def _elements(source: Dataset) -> Iterator[tuple[Dataset, DataElement]]:
    """Every element that pydicom can read and that is more than a number, with its data set, at any depth."""
    waiting = [source]
    while waiting:
        dataset = waiting.pop()
        for tag, unread in list(dataset.items()):
            vr = unread.VR
            if vr in _NO_TEXT_VRS or (vr in _IDENTIFIER_VRS and not _is_collected(int(tag))):
                continue
            element = readable(dataset, tag)
            if element is None:
                continue
            if element.VR == "SQ":
                waiting += element.value or ()
            else:
                yield dataset, element


def _raw_names(dataset: Dataset, element: DataElement) -> list[bytes]:
    """The parts of a name that are not ASCII, in the encoding of their data set and in those of Unicode."""
    from pydicom.charset import encode_string

    term = getattr(dataset, "_character_set", None) or ["latin_1"]
    encodings = [term] if isinstance(term, str) else list(term)
    raws = []
    for value in texts_of(element):
        for part in re.split(r"[\^=]", value):
            if not part.isascii():
                raws += [part.encode(name, "surrogatepass") for name in ("utf-8", "utf-16-le", "utf-16-be")]
                with contextlib.suppress(*READING_ERRORS):
                    raws.append(encode_string(part, encodings))
    return raws


def _collect_names(found: CollectedIdentifiers, values: list[str], raws: list[bytes]) -> None:
    """Note the parts of names, and whole names in the orders that people write them in."""
    for raw in raws:
        found.encoded.setdefault(raw, "name")
    for value in values:
        _note_all(found, _name_spellings(value), "name")


@lru_cache(maxsize=1024)
def _name_spellings(value: str) -> tuple[str, ...]:
    """The words of a name, and the whole name; the instances of one patient have the same."""
    spellings = []
    for group in value.split("="):
        parts = [part.strip() for part in group.split("^") if part.strip()]
        words = [word for part in parts for word in _WORDS.findall(part)]
        spellings += [word for word in words if len(word) >= _LEAST_LETTERS or not word.isascii()]
        if len(parts) > 1:
            for first, second in ((parts[0], parts[1]), (parts[1], parts[0])):
                spellings += [f"{first}{sign}{second}" for sign in ("", " ", ", ", ",", "_", "-", ".", "^")]
            spellings += [" ".join(parts), "^".join(parts)]
    return _forms(spellings)


def _days_of(values: list[str]) -> set[date]:
    """The days that values of VR DA and DT state."""
    days = (date_of(value[:8] if value[:8].isdigit() else value) for value in values)
    return {day for day in days if day is not None}


def _moved(day: date, weeks: int) -> date:
    """A day some weeks later; the day of dummies where it would leave the calendar."""
    moved = shifted_date(f"{day:%Y%m%d}", weeks)
    return (date_of(moved) if moved else None) or _NO_DAY


@lru_cache(maxsize=1024)
def _date_spellings(day: date) -> tuple[str, ...]:
    """A date as standards and people write it; the instances of one study have the same."""
    return _forms(_written(day))


def _written(day: date) -> Iterator[str]:
    year, month, number = f"{day.year:04d}", f"{day.month:02d}", f"{day.day:02d}"
    yield year + month + number
    for separator in ("-", ".", "/", " "):
        yield separator.join((year, month, number))
        yield separator.join((number, month, year))
        yield separator.join((month, number, year))
        yield separator.join((str(day.day), str(day.month), year))
        yield separator.join((str(day.month), str(day.day), year))
        yield separator.join((number, _MONTHS[day.month - 1], year))
        yield separator.join((str(day.day), _MONTHS[day.month - 1], year))
    yield f"{_MONTHS[day.month - 1]} {day.day}, {year}"
    yield f"{number}{month}{year}"
    yield f"{month}{number}{year}"


def _collect_identifier(found: CollectedIdentifiers, value: str) -> None:
    """Note an identifier as it stands, and without separators and leading zeros."""
    value = value.strip(" \0")
    bare = "".join(_WORDS.findall(value))
    for spelling in (value, bare, bare.lstrip("0")) if len(value) <= _MOST_IDENTIFIER else ():
        if len(spelling) >= (_LEAST_DIGITS if spelling.isdigit() else _LEAST_LETTERS):
            _note(found, spelling, "identifier")


def _note(found: CollectedIdentifiers, spelling: str, kind: str) -> None:
    _note_all(found, _forms((spelling,)), kind)


def _note_all(found: CollectedIdentifiers, forms: Iterable[str], kind: str) -> None:
    """Note spellings in the forms in which they are searched for.

    Raises:
        PrivacyUnknown: There are too many.
    """
    for form in forms:
        if len(found.spellings) >= _MOST_SPELLINGS:
            raise PrivacyUnknown(
                f"the instance has over {_MOST_SPELLINGS} spellings of names, dates and identifiers, too many to search"
                " for"
            )
        if form in common_words():
            found.common.add(form)
        else:
            found.spellings.setdefault(form, kind)


def _forms(spellings: Iterable[str]) -> tuple[str, ...]:
    """Spellings in lower case, with and without diacritics, each once."""
    found: dict[str, None] = {}
    for spelling in spellings:
        lower = spelling.casefold()
        found |= dict.fromkeys((lower,) if lower.isascii() else (lower, _folded(spelling)))
    return tuple(form for form in found if form)


def _folded(text: str) -> str:
    """A text in lower case without diacritics, so that ``MÜLLER`` and ``Muller`` are one."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def _stands_in(text: str, spelling: str) -> bool:
    """Whether a spelling occurs in a text with no letter or digit of its kind right before or after it.

    A whole number does not occur in a decimal one.
    """
    is_number = spelling.isdigit()
    at = text.find(spelling)
    while at >= 0:
        end = at + len(spelling)
        before, after = text[max(0, at - 2) : at], text[end : end + 2]
        is_part = _joins(before[-1:], spelling[0]) or _joins(spelling[-1], after[:1])
        is_decimal = is_number and (_DECIMAL_BEFORE.fullmatch(before) or _DECIMAL_AFTER.fullmatch(after))
        if not is_part and not is_decimal:
            return True
        at = text.find(spelling, at + 1)
    return False


def _joins(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word or number."""
    return (left.isdigit() and right.isdigit()) or (left.isalpha() and right.isalpha())


def _encodings(spelling: str) -> Iterator[bytes]:
    """A spelling that is not ASCII in the encodings that it may stand in, its ASCII letters in lower case."""
    for form in {spelling, spelling.upper(), spelling.title(), spelling.capitalize()}:
        for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
            with contextlib.suppress(UnicodeEncodeError):
                yield form.encode(encoding).lower()


def _occurs(data: bytes, raw: bytes) -> bool:
    """Whether bytes hold a spelling that is no part of a longer number."""
    at = data.find(raw)
    while at >= 0:
        before, after = data[max(0, at - 1) : at], data[at + len(raw) : at + len(raw) + 1]
        if not (before.isdigit() and raw[:1].isdigit()) and not (after.isdigit() and raw[-1:].isdigit()):
            return True
        at = data.find(raw, at + 1)
    return False


def _ascii_runs(data: bytes, least: int) -> bytes:
    """Runs of printable ASCII in bytes of any kind, a line each: little of what is compressed, all of what is text."""
    import numpy as np

    values = np.frombuffer(data, np.uint8)
    return b"\n".join(_runs(data, (values >= 0x20) & (values < 0x7F), 1, least))


def _utf_16_runs(data: bytes, least: int) -> bytes:
    """Runs of printable ASCII in UTF-16 of either order, a line each, without their zeros."""
    import numpy as np

    values = np.frombuffer(data, np.uint8)
    if not len(values):
        return b""
    starts = (values[:-1] >= 0x20) & (values[:-1] < 0x7F) & (values[1:] == 0)
    # A run of big endian ends without a zero: seen from its first letter on it is one of little endian, less one.
    return b"\n".join(run.replace(b"\0", b"") for run in _runs(data, starts, 2, least - 1))


def _runs(data: bytes, starts: np.ndarray, step: int, least: int) -> Iterator[bytes]:
    """Pieces of bytes that are `least` characters or longer.

    Args:
        data: The bytes.
        starts: Where a character begins, one bool for each byte.
        step: Bytes from one character to the next.
        least: Fewest characters of a run.
    """
    import numpy as np

    last = len(starts) - step * (least - 1)
    if last <= 0:
        return
    whole = starts[:last].copy()
    for number in range(1, least):
        whole &= starts[number * step : number * step + last]
    places = np.flatnonzero(whole)
    if not len(places):
        return
    breaks = np.flatnonzero(np.diff(places) > step) + 1
    begins = places[np.concatenate(([0], breaks))]
    ends = places[np.concatenate((breaks - 1, [len(places) - 1]))]
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        yield data[begin : end + step * least + 1]
