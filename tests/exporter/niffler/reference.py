"""What the original made of the shared corpus, and the differences that `docs/migration.md` names.

A difference has one name; `name_of` gives it for one cell. What has no name fails the test.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 3_000_000
MISSING_WORDS = frozenset(
    {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"}
    | {"NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""What `pandas.read_csv` takes for a missing value by default."""
BROKEN_ROW = "IN/pydicom__deid-data__RGB_IMAGE.dcm"
"""Its file holds a carriage return in a value, which breaks its row there."""
Table = dict[str, dict[str, str]]
"""Rows by `file`."""

csv.field_size_limit(1 << 30)


def lay_out(corpus: Path, folder: Path) -> None:
    """The input folder of the original's runs: every file below 3 MB, as `<folder>__<file>`, called `.dcm`."""
    folder.mkdir()
    for path in sorted(corpus.rglob("*")):
        if path.is_file() and path.name != "catalog.jsonl" and path.stat().st_size < MOST_BYTES:
            above = path.parent.relative_to(corpus).as_posix().replace("/", "__")
            shutil.copyfile(path, folder / f"{above}__{path.name.removesuffix('.dcm')}.dcm")


def read_table(path: Path) -> Table:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return {row["file"]: row for row in csv.DictReader(io.StringIO(raw.decode(), newline=""))}


@dataclass(frozen=True)
class Verdicts:
    """Files below `failed-dicom/1..4`, and files with pictures."""

    failed: dict[str, int]
    pictured: frozenset[str]


def original_verdicts(folder: Path, kind: str) -> Verdicts:
    text = (folder / f"{kind}-failed.txt").read_text()
    failed = {}
    for line in text.split():
        _, number, name = line.split("/", 2)
        if number != "5":
            failed[name.removesuffix(".dcm")] = int(number)
    with gzip.open(folder / f"{kind}-mapping.csv.gz", "rt", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return Verdicts(failed, frozenset(Path(row[0]).name.removesuffix(".dcm") for row in rows))


def name_of(column: str, theirs: str, ours: str, row: dict[str, str], our_row: dict[str, str]) -> str | None:
    """Name of the difference between two cells; None where they are the same, `unnamed` where it has no name."""
    if theirs == ours:
        return None
    is_own = column in {"has_pix_array", "category"}
    is_private = " " in column or column.startswith("[")
    is_tag = column.endswith(("Pointer", "Attribute")) and re.fullmatch(r"\([0-9a-f]{4}, [0-9a-f]{4}\)", ours)
    has_values = not set(our_row.values()) <= {"", our_row["file"], "False", "no image"}
    rules = {
        "decoded-here": is_own and our_row["has_pix_array"] == "True",
        "broken-row": not is_own and row["file"] == BROKEN_ROW,
        "pixel-data": column in {"FloatPixelData", "DoubleFloatPixelData"} and not ours,
        "no-data-set": theirs and not has_values,
        "missing-words": not theirs and ours in MISSING_WORDS,
        "attribute-tags": is_tag and theirs and float(theirs) == int(ours[1:5] + ours[7:11], 16),
        "formulas": ours == f"'{theirs}" and theirs[:1] in set("=+-@"),
        "control-characters": ours == _escaped(theirs),
        "private-sequences": is_private and theirs.startswith("[(") and ours.startswith("[[("),
        "private-names": is_private and not ours and any(our_row[c] == theirs for c in our_row if c.startswith("[")),
    }
    return next((name for name, applies in rules.items() if applies), "unnamed")


def _escaped(text: str) -> str:
    return "".join(
        c if c.isprintable() or (c.isspace() and c > "~") else c.encode("unicode_escape").decode() for c in text
    )


def differences(theirs: Table, ours: Table) -> tuple[Counter[str], list[tuple[str, ...]]]:
    """Number of cells by the name of their difference, and those without a name."""
    found: Counter[str] = Counter()
    unnamed: list[tuple[str, ...]] = []
    for file, row in theirs.items():
        if not file.startswith("IN/"):
            found["broken-row"] += 1  # what a carriage return left over
            continue
        our_row = ours.get(file)
        if our_row is None:
            unnamed.append((file, "has no row"))
            continue
        for column, cell in row.items():
            ours_cell = our_row.get(column, "")
            name = name_of(column, cell, ours_cell, row, our_row)
            if name == "unnamed":
                unnamed.append((file, column, cell[:80], ours_cell[:80]))
            elif name is not None:
                found[name] += 1
    return found, unnamed
