"""Values that cannot identify anybody: codes with their standard meaning, defined terms, units, makers and models.

Contract: a value is kept only if it is in one of these lists, which are closed and reviewed; nothing is kept because it
looks harmless. A code that no dictionary has is replaced by a keyed one of a private coding scheme, so that equal codes
stay equal.

Source: PS3.16 (codes, through pydicom's dictionary), PS3.3 (defined terms), UCUM (units).
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any, Final

UNKNOWN_SCHEME: Final = "99DEIDENT"
"""Coding scheme of codes that stand for ones that no dictionary has."""
_SCHEMES: Final = {"SRT": "SRT", "SNM3": "SRT", "99SDM": "SRT", "SNOMED-RT": "SRT"}
_MAKER_AND_MODEL: Final = frozenset((0x00080070, 0x00081090))
_CONVOLUTION_KERNEL: Final = 0x00181210
_KERNEL: Final = re.compile(
    r"(?:[BDHTUI][0-9]{2}[fhmsu]?|(?:Br|Hr|Hv|Bl|Bv|Bf|Hf|Hc|Qr|Sa|Ub|Ur)[0-9]{2}[dfhmsu]?|FC[0-9]{2}"
    r"|STANDARD|STND|SOFT|BONE|BONEPLUS|LUNG|DETAIL|EDGE|CHST|A|B|C|D|E|F|YA|YB|YC|UA|UB|UC)"
)
_WORD: Final = re.compile(r"[^\W\d_]+")
_NUMBER: Final = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,2})?")
_TEXT_TOKEN: Final = re.compile(r"[^\W_]+(?:\.[0-9]+)?")
_MONTH: Final = re.compile(
    r"jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?"
)
"""Words that make a date of the numbers beside them, so that no text with one is known."""


@cache
def defined_terms() -> frozenset[str]:
    """Defined terms and enumerated values of VR CS."""
    return frozenset(_listed("defined_terms.txt"))


@cache
def _devices() -> frozenset[str]:
    """Makers and models, without case."""
    return frozenset(name.casefold() for name in _listed("device_models.txt"))


@cache
def common_words() -> frozenset[str]:
    """Words, in lower case, of defined terms, makers and models: they stand in every output, of whatever patient."""
    terms = {*defined_terms(), *_devices()}
    return frozenset(word.lower() for term in terms for word in (term, *_TEXT_TOKEN.findall(term)))


def _listed(name: str) -> list[str]:
    return [term for line in _lines(name) for term in line.split(";")]


def _lines(name: str) -> list[str]:
    text = (files("exporter.privacy") / "tables" / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


@cache
def code_meanings() -> dict[tuple[str, str], str]:
    """Standard meanings by coding scheme and code."""
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping

    schemes: dict[str, Any] = concepts
    meanings = {
        (scheme, code): str(meaning)
        for scheme, of_keyword in schemes.items()
        for codes in of_keyword.values()
        for code, (meaning, _) in codes.items()
    }
    for code, modern in mapping["SRT"].items():
        meaning = meanings.get(("SCT", modern))
        if meaning is not None:
            meanings["SRT", code] = meaning
    return meanings


@cache
def standard_meanings() -> frozenset[str]:
    """All standard meanings."""
    return frozenset(code_meanings().values())


def code_meaning(scheme: str, code: str) -> str | None:
    """The standard meaning of a code; None where no dictionary has it."""
    return code_meanings().get((_SCHEMES.get(scheme, scheme), code))


@cache
def _kept_texts() -> dict[int, frozenset[str]]:
    """The keep list: values, in upper case, by attributes of VR LO and SH that no rule names."""
    rows = (line.split(";") for line in _lines("kept_texts.txt"))
    return {int(tag, 16): frozenset(values) for tag, *values in rows}


def is_kept_text(tag: int, value: str) -> bool:
    """Whether the attribute is on the keep list and the value in its vocabulary."""
    if tag in _MAKER_AND_MODEL:
        return value.casefold() in _devices()
    if tag == _CONVOLUTION_KERNEL:
        return _KERNEL.fullmatch(value) is not None
    return value.upper() in _kept_texts().get(tag, ())


@cache
def _words() -> frozenset[str]:
    """Words of defined terms, of standard meanings and of protocols' names, in lower case, without those of months.

    Of meanings only words that occur in lower case: eponyms, such as Meyer's, are capitalised everywhere.
    """
    words = {word for meaning in code_meanings().values() for word in _WORD.findall(meaning) if word.islower()}
    words |= {word.lower() for term in defined_terms() for word in _WORD.findall(term)}
    words = {word for word in words if len(word) > 2} | set(_listed("protocol_words.txt"))
    return frozenset(word for word in words if _MONTH.fullmatch(word) is None)


def is_known_text(value: str, identifying: frozenset[str]) -> bool:
    """Whether a text consists of words of the vocabulary and single numbers of two digits between them.

    Numbers side by side are a date or a telephone number as well as a size, so no text with such may stay.

    Args:
        value: The text.
        identifying: Words, in lower case, that identify the patient of this instance: a name may be a common word.
    """
    tokens = _TEXT_TOKEN.findall(value.casefold())
    was_number = False
    for token in tokens:
        is_number = _NUMBER.fullmatch(token) is not None
        if token in identifying or (was_number if is_number else token not in _words()):
            return False
        was_number = is_number
    return bool(tokens)
