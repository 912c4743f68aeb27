"""Rules of PS3.15 Annex E as data, and the action that they give for one attribute or content item.

Contract: an attribute has a rule if Table E.1-1 names its tag or, for overlays and curves, its group. The rule and the
options that are on give exactly one action; where the Basic Profile states several, the attribute's Type in the
instance's IOD decides, and without an IOD the one that keeps the object valid (PS3.15 E.3.1, note to Table E.1-1a).

Source: PS3.15 2026d, Tables E.1-1, E.3.4-1, E.3.10-1, sections E.3.1 to E.3.11; PS3.3 (Types).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


class PrivacyOption(StrEnum):
    """Options of the Basic Profile that have a column in Table E.1-1, in the order of the vendored tables."""

    RETAIN_SAFE_PRIVATE = "retain_safe_private"
    RETAIN_UIDS = "retain_uids"
    RETAIN_DEVICE_IDENTITY = "retain_device_identity"
    RETAIN_INSTITUTION_IDENTITY = "retain_institution_identity"
    RETAIN_PATIENT_CHARACTERISTICS = "retain_patient_characteristics"
    RETAIN_LONGITUDINAL_FULL_DATES = "retain_longitudinal_full_dates"
    RETAIN_LONGITUDINAL_MODIFIED_DATES = "retain_longitudinal_modified_dates"
    CLEAN_DESCRIPTORS = "clean_descriptors"
    CLEAN_STRUCTURED_CONTENT = "clean_structured_content"
    CLEAN_GRAPHICS = "clean_graphics"


class Action(StrEnum):
    """What happens to one attribute (PS3.15 Table E.1-1a)."""

    DUMMY = "D"
    EMPTY = "Z"
    REMOVE = "X"
    KEEP = "K"
    CLEAN = "C"
    UID = "U"
    UIDS_WITHIN = "U*"
    """Keep a sequence and replace the UIDs in its items."""


OPTION_CODES: Final = {
    PrivacyOption.CLEAN_GRAPHICS: ("113103", "Clean Graphics Option"),
    PrivacyOption.CLEAN_STRUCTURED_CONTENT: ("113104", "Clean Structured Content Option"),
    PrivacyOption.CLEAN_DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    PrivacyOption.RETAIN_LONGITUDINAL_FULL_DATES: (
        "113106",
        "Retain Longitudinal Temporal Information Full Dates Option",
    ),
    PrivacyOption.RETAIN_LONGITUDINAL_MODIFIED_DATES: (
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    ),
    PrivacyOption.RETAIN_PATIENT_CHARACTERISTICS: ("113108", "Retain Patient Characteristics Option"),
    PrivacyOption.RETAIN_DEVICE_IDENTITY: ("113109", "Retain Device Identity Option"),
    PrivacyOption.RETAIN_UIDS: ("113110", "Retain UIDs Option"),
    PrivacyOption.RETAIN_SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
    PrivacyOption.RETAIN_INSTITUTION_IDENTITY: ("113112", "Retain Institution Identity Option"),
}
"""Code and meaning of each option in coding scheme DCM (PS3.16 CID 7050)."""
BASIC_PROFILE_CODE: Final = ("113100", "Basic Application Confidentiality Profile")
CLEAN_PIXEL_DATA_CODE: Final = ("113101", "Clean Pixel Data Option")

_LEFT: Final = {"X": 0, "Z": 1, "D": 2, "U": 2, "U*": 2}
"""What an action leaves of an attribute: nothing, no value, or a value."""
_NEEDED: Final = {"3": 0, "2": 1, "2C": 1, "1": 2, "1C": 2}
"""What an attribute of each Type needs (PS3.5 7.4)."""
_OPTIONS: Final = tuple(PrivacyOption)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of Table E.1-1 or E.3.4-1."""

    basic: str
    """Action of the Basic Profile, several of them separated by ``/``."""
    letters: str
    """One letter for each option: ``K``, ``C`` or ``-``."""

    def action(self, options: frozenset[PrivacyOption], attribute_type: str | None = None) -> Action:
        """The action under these options; retaining, which was asked for by name, goes before cleaning.

        Args:
            options: Options that are on.
            attribute_type: Type of the attribute in the IOD (``1`` to ``3``); None where that is not known.
        """
        return _action(self.basic, self.letters, options, attribute_type)


@lru_cache(maxsize=4096)
def _action(basic: str, letters: str, options: frozenset[PrivacyOption], attribute_type: str | None) -> Action:
    """See `Rule.action`; a few dozen rules are asked for by every instance."""
    asked = {letter for option, letter in zip(_OPTIONS, letters, strict=True) if option in options}
    for letter in ("K", "C"):
        if letter in asked:
            return Action(letter)
    # Of several actions of the Basic Profile the weakest that the Type permits, else the strongest there is.
    permitted = basic.split("/")
    needed = _NEEDED[attribute_type or "1"]
    return Action(next((letter for letter in permitted if _LEFT[letter] >= needed), permitted[-1]))


def _rows(name: str) -> Iterator[list[str]]:
    """Rows of a vendored table, without its head."""
    for line in (files("exporter.privacy") / "tables" / name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            yield line.split("\t")


@cache
def attribute_rules() -> dict[str, Rule]:
    """Rules by tag as eight hexadecimal digits, those of overlays and curves with ``x``, and ``PRIVATE``."""
    return {tag: Rule(basic, letters) for tag, basic, letters in _rows("confidentiality_profile.tsv")}


@cache
def rule_of(tag: int) -> Rule | None:
    """The rule of a standard attribute; None where Table E.1-1 does not name it."""
    rules = attribute_rules()
    digits = f"{tag:08X}"
    for name in (digits, f"{digits[:2]}xx{digits[4:]}", f"{digits[:2]}xxxxxx"):
        if name in rules:
            return rules[name]
    return None


@cache
def content_rules() -> dict[tuple[str, str], dict[str, Rule]]:
    """Rules of content items by coding scheme and code of their concept names, then by value type."""
    rules: dict[tuple[str, str], dict[str, Rule]] = {}
    for scheme, code, value_type, basic, letters in _rows("content_items.tsv"):
        rules.setdefault((scheme, code), {})[value_type] = Rule(basic, letters)
    return rules


def content_rule(scheme: str, code: str, value_type: str) -> Rule | None:
    """The rule of a content item; of a value type that Table E.3.4-1 does not foresee, the concept's first one."""
    of_concept = content_rules().get((scheme, code))
    return None if of_concept is None else of_concept.get(value_type) or next(iter(of_concept.values()))


@cache
def safe_private() -> dict[tuple[str, int, int], str]:
    """Value representations of safe private attributes by creator, group and the last two digits of the element."""
    return {
        (creator, int(group, 16), int(element[:2], 16)): element[3:]
        for creator, group, elements in _rows("safe_private.tsv")
        for element in elements.split()
    }


@cache
def _types() -> tuple[dict[str, int], dict[tuple[str, str], dict[int, str]], dict[str, str]]:
    """IODs' numbers by SOP class, Types by place and IOD, and Types of text that no rule names by keyword."""
    classes: dict[str, int] = {}
    types: dict[tuple[str, str], dict[int, str]] = {}
    texts: dict[str, str] = {}
    for kind, *row in _rows("attribute_types.tsv"):
        if kind == "class":
            classes[row[0]] = int(row[1])
        elif kind == "text":
            texts[row[0]] = row[1]
        else:
            of_iod = types.setdefault((row[0], row[1]), {})
            for group in row[2:]:
                name, _, ranges = group.partition(":")
                for run in ranges.split(","):
                    first, _, last = run.partition("-")
                    of_iod.update(dict.fromkeys(range(int(first), int(last or first) + 1), name))
    return classes, types, texts


def attribute_type(sop_class: str, parent: str, keyword: str) -> str | None:
    """Type of an attribute with a compound action; None where the IOD is not known.

    Args:
        sop_class: SOP Class UID of the instance.
        parent: Keyword of the sequence that holds the attribute; empty at the top level.
        keyword: The attribute.
    """
    classes, types, _ = _types()
    iod = classes.get(sop_class)
    # What an IOD does not define is an extension of it, which may be absent (PS3.2, Standard Extended SOP Class).
    return None if iod is None else types.get((parent, keyword), {}).get(iod, "3")


def text_type(keyword: str) -> str:
    """Strictest Type, over all IODs, of an attribute that can hold text and that no rule names."""
    return _types()[2].get(keyword, "3")
