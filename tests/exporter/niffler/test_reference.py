"""Beside what the original made of the same files: no cell differs but for a reason that `docs/migration.md` names."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import CORPUS, REPOSITORY
from tests.exporter.niffler.making import configuration, extract, rows
from tests.exporter.niffler.reference import differences, lay_out, original_verdicts, read_table

ORIGINAL = CORPUS.parent / "niffler"
PAGE = REPOSITORY / "docs/migration.md"
WITHOUT_PICTURES = {"decoded-here"}
"""Differences that a run for the tables alone may lack or have in another number: it decodes nothing."""


def section(title: str) -> list[list[str]]:
    """The cells of the rows of a table of the page, without its head."""
    text = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def named() -> dict[str, tuple[int, int]]:
    """Differences that the page names, with the number of cells of the public and the private table."""
    return {row[0].strip("`"): (int(row[1]), int(row[2])) for row in section("Named differences")}


@pytest.fixture(scope="module")
def home(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not ORIGINAL.is_dir():
        pytest.skip("what the original made is not beside the repository")
    folder = tmp_path_factory.mktemp("corpus")
    lay_out(corpus, folder / "IN")
    return folder


@pytest.mark.parametrize("kind", ["public", pytest.param("private", marks=pytest.mark.slow)])
def test_tables_differ_in_nothing_that_is_not_named(home: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    public = kind == "public"
    config = configuration(
        home / "config.json", Path("IN"), Path(f"OUT-{kind}"), Depth=0, PublicHeadersOnly=public, PrintImages=False
    )
    extract(config, expect=3)
    theirs, ours = read_table(ORIGINAL / f"{kind}-metadata.csv.gz"), read_table(home / f"OUT-{kind}/metadata.csv")
    found, unnamed = differences(theirs, ours)
    assert unnamed == []
    expected = {name: counts[not public] for name, counts in named().items() if counts[not public]}
    for name in WITHOUT_PICTURES:
        found.pop(name, None)
        expected.pop(name, None)
    assert found == expected
    assert [file for file in ours if file not in theirs] == []
    new = [column for column in next(iter(ours.values())) if column not in next(iter(theirs.values()))]
    assert all(" (" in column or column.startswith("[") for column in new)  # elements of one name, and newer names
    assert bool(new) is not public


@pytest.mark.slow
def test_every_failure_of_either_is_stated(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    extract(configuration(home / "config.json", Path("IN"), Path("OUT"), Depth=0), "--workers", 2, expect=3)
    theirs, ours = read_table(ORIGINAL / "public-metadata.csv.gz"), read_table(home / "OUT/metadata.csv")
    found, unnamed = differences(theirs, ours)
    assert unnamed == []
    assert found == {name: counts[0] for name, counts in named().items() if counts[0]}
    private = read_table(ORIGINAL / "private-metadata.csv.gz")
    decoded = [file for file, row in private.items() if ours.get(file, row)["has_pix_array"] != row["has_pix_array"]]
    assert named()["decoded-here"][1] == 2 * len(decoded)
    verdicts = original_verdicts(ORIGINAL, "public")
    pictured = {Path(file).stem for file, row in ours.items() if row["has_pix_array"] == "True"}
    by_class = Counter((number, name in pictured) for name, number in verdicts.failed.items())
    stated = {int(row[0]): (int(row[1]), int(row[2])) for row in section("Files that failed there")}
    assert stated == {
        number: (by_class[number, True] + by_class[number, False], by_class[number, True]) for number in stated
    }
    assert sum(count for count, _ in stated.values()) == len(verdicts.failed)
    assert (
        "exports 146 of the 192 files that Niffler put below `failed-dicom/1` to `3`, and all of the 114"
        in PAGE.read_text()
    )
    assert (len(verdicts.failed), len(verdicts.failed.keys() & pictured), len(verdicts.pictured)) == (192, 146, 114)
    assert verdicts.pictured <= pictured
    reasons: dict[tuple[str, str], set[str]] = {}
    for row in rows(home / "OUT/failed-dicom/reasons.csv"):
        if row["folder"] != "5":
            reasons.setdefault((row["folder"], row["reason"]), set()).add(Path(row["file"]).stem)
    stated_here = section("Files without a picture here")
    listed = {(row[0], row[1].strip("`")): set(re.findall(r"`([^`]+)`", row[3])) for row in stated_here}
    assert listed == reasons
    assert [int(row[2]) for row in stated_here] == list(map(len, listed.values()))
