"""Make `exporter/privacy/pixels/device_masks.json` from its sources: facts on where devices burn text into pictures.

    python bench/vendor_device_masks.py MASKS_CTP.json DEID.dicom > exporter/privacy/pixels/device_masks.json

`MASKS_CTP.json` holds rows read out of the pixel scripts of RSNA's CTP and Stanford's mirc-ctp; `DEID.dicom` is the
recipe `deid/data/deid.dicom` of the package deid 0.4.13 (MIT). Taken are signatures, rectangles and the source of each
row. Left out are rows without rectangles (they name a device or a kind of picture, not a place; kinds of pictures are
the flags of `ladder.yaml`) and rows that call a picture clean, which no hint can.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from pydicom.datadict import keyword_for_tag

SOURCES = {"RSNA CTP": "ctp", "Stanford": "stanford"}
MISSPELT = {
    "Manfacturer": "Manufacturer",
    "Manufacture": "Manufacturer",
    "SoftwareVersion": "SoftwareVersions",
    "[1018,1018]": "SecondaryCaptureDeviceManufacturerModelName",
}
Test = list[str]
Row = dict[str, Any]


def keyword(element: str) -> str:
    element = MISSPELT.get(element, element)
    if element.startswith("["):
        element = keyword_for_tag(int(element.strip("[]").replace(",", ""), 16)) or element
    return element


def from_ctp(rows: list[Row]) -> list[Row]:
    made = []
    for row in rows:
        groups = []
        for group in row["all_of"]:
            tests = group["any_of"]
            assert not any(test["not"] for test in tests)
            groups.append([[keyword(t["element"]), t["test"], t["value"]] for t in tests])
        source = next(short for name, short in SOURCES.items() if row["source"].startswith(name))
        boxes = [[box["x"], box["y"], box["width"], box["height"]] for box in row["black_out"]]
        made.append({"from": [source], "when": groups, "hide": boxes})
    return made


def tests_of(clause: str) -> list[list[Test]]:
    """Groups of tests of one line of a recipe: `A || B` is one group of two, `A+B` in a value two groups."""
    action, element, value = (*clause.strip().split(" ", 2), "")[:3]
    test = {"contains": "containsIgnoreCase", "equals": "equalsIgnoreCase"}[action]
    parts = re.split(r"(?<=\w)\+(?=\w)", value.strip())
    return [[[keyword(element), test, alternative] for alternative in part.split("|")] for part in parts]


def from_recipe(text: str) -> list[Row]:
    made: list[Row] = []
    kind = ""
    row: Row = {}
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("%"):
            kind = line
        elif line.startswith("LABEL"):
            row = {"from": ["deid"], "when": [], "hide": []}
            if kind in {"%filter graylist", "%filter blacklist"}:
                made.append(row)
        elif line.startswith(("coordinates", "ctpcoordinates")):
            left, top, third, fourth = (int(n) for n in line.partition(" ")[2].split(","))
            is_size = line.startswith("ctp")
            row["hide"].append([left, top, third, fourth] if is_size else [left, top, third - left, fourth - top])
        elif kind == "%header":
            break
        elif line and not line.startswith("#") and kind.startswith("%filter") and "LABEL" not in line:
            clauses = [clause for clause in line.removeprefix("+").split("||") if clause.strip()]
            if any(clause.split()[0] in {"missing", "empty"} for clause in clauses):
                row["when"].append([])  # only rows without rectangles have such tests
            elif len(clauses) == 1:
                row["when"] += tests_of(clauses[0])
            else:
                row["when"].append([test for clause in clauses for group in tests_of(clause) for test in group])
    return [row for row in made if row["hide"]]


def merged(rows: list[Row]) -> list[Row]:
    """The rows, those that say the same joined."""
    found: dict[str, Row] = {}
    for row in rows:
        key = json.dumps([sorted(row["when"]), row["hide"]])
        if key in found:
            found[key]["from"] = sorted({*found[key]["from"], *row["from"]})
        else:
            found[key] = row
    return list(found.values())


def main() -> None:
    ctp, recipe = (Path(name) for name in sys.argv[1:3])
    rows = merged(from_ctp(json.loads(ctp.read_text())) + from_recipe(recipe.read_text()))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (ctp, recipe)}
    sources = {
        "ctp": "RSNA CTP, DicomPixelAnonymizer.script",
        "stanford": "Stanford mirc-ctp, stanford-scrubber.script",
        "deid": "deid 0.4.13 (MIT), deid/data/deid.dicom",
    }
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    print(f'{{"sources":{json.dumps(sources)},\n"sha256":{json.dumps(digests)},\n"masks":[\n{lines}\n]}}')


if __name__ == "__main__":
    main()
