"""Reading a cohort: every fault at once, by row number, and never a word of what a cell holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exporter.pull.cohort import CohortUnusable, read_cohort
from exporter.pull.keys import Rank, WrongValue, checked, key_of
from exporter.pull.matching import matches

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "cohort.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_are_numbered_as_a_spreadsheet_does_and_wrong_ones_cost_only_themselves(tmp_path: Path) -> None:
    cohort = read_cohort(
        written(
            tmp_path,
            "PatientID,StudyDate,#note\r\n"
            "P1,20200101-20200131,mine\r\n"
            "\r\n"
            ",,\r\n"
            "P2,31.12.2020,\r\n"
            '"P3,20200101,\r\n'
            "P4,20200230,x\r\n"
            "P5,2020-02-29,\r\n"
            "P6,20200101,,surplus\r\n",
        )
    )
    assert [row.number for row in cohort.rows] == [2, 8]
    assert [[(key.keyword, value) for key, value in row.values] for row in cohort.rows] == [
        [("PatientID", "P1"), ("StudyDate", "20200101-20200131")],
        [("PatientID", "P5"), ("StudyDate", "20200229")],
    ]
    problems = {row.number: row.problem for row in cohort.wrong}
    assert list(problems) == [4, 5, 6, 7, 9]
    assert problems[4].startswith("is empty")
    assert "StudyDate is no date" in problems[5]
    assert "quotation marks" in problems[6]
    assert "StudyDate is no date" in problems[7]
    assert "4 cells under 3" in problems[9]
    assert not any(word in " ".join(problems.values()) for word in ("P2", "P3", "P4", "surplus"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiter_and_byte_order_mark_are_those_of_spreadsheets(tmp_path: Path, delimiter: str) -> None:
    text = f'PatientName{delimiter}AccessionNumber\n"Müller, Eva"{delimiter}A1\n'
    cohort = read_cohort(written(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert [value for _, value in cohort.rows[0].values] == ["Müller, Eva", "A1"]


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("PatientId,StudyDate", "column 1 is no keyword of the data dictionary; did you mean PatientID?"),
        ("PatientID,ProcedureCodeSequence", "column 2 is a sequence"),
        ("PatientID,PixelData", "column 2 holds binary values"),
        ("PatientID,PatientID", "column 2 is PatientID once more"),
        ("PatientID,QueryRetrieveLevel", "column 2 cannot be asked by"),
        ("SECRET^NAME,4711", "column 1 is no keyword"),
        ("#only,#notes", "no column is a key"),
        ("PatientID", "has a header and no rows"),
        ("", "is empty"),
    ],
)
def test_a_wrong_header_makes_the_file_unusable_and_is_not_repeated(tmp_path: Path, header: str, problem: str) -> None:
    row = "" if problem in {"has a header and no rows", "is empty"} else "\n1,2\n"
    with pytest.raises(CohortUnusable) as caught:
        read_cohort(written(tmp_path, header + row))
    assert problem in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_other_encodings(tmp_path: Path) -> None:
    with pytest.raises(CohortUnusable, match="UTF-16"):
        read_cohort(written(tmp_path, "PatientID\nP1\n".encode("utf-16")))
    mixed = read_cohort(written(tmp_path, b"PatientName\nM\xfcller\nMeier\n"))
    assert [row.number for row in mixed.wrong] == [2]
    latin = read_cohort(written(tmp_path, "PatientName\n山田^太郎\nMüller\n"), codec="latin-1")
    assert [row.number for row in latin.wrong] == [2]
    assert "character_set" in latin.wrong[0].problem


def test_a_line_without_end_is_one_wrong_row(tmp_path: Path) -> None:
    cohort = read_cohort(written(tmp_path, "PatientID\n" + "x" * 3_000_000 + "\nP2\n"))
    assert [row.number for row in cohort.wrong] == [2]
    assert [row.number for row in cohort.rows] == [3]


@pytest.mark.parametrize(
    ("keyword", "text", "value"),
    [
        ("StudyDate", "20200101", "20200101"),
        ("StudyDate", "-20200101", "-20200101"),
        ("StudyDate", "20200101-", "20200101-"),
        ("StudyTime", "08:00-0930", "0800-0930"),
        ("StudyInstanceUID", "1.2.3\\1.2.4", "1.2.3\\1.2.4"),
        ("PatientName", "M?ller*", "M?ller*"),
        ("ModalitiesInStudy", "US", "US"),
        ("InstanceNumber", "3", "3"),
        ("Rows", "512", "512"),
    ],
)
def test_values_as_the_standard_says(keyword: str, text: str, value: str) -> None:
    key = key_of(keyword)
    assert key is not None
    assert checked(key, text) == value


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("StudyDate", "-"),
        ("StudyDate", "2020*"),
        ("StudyDate", "20200131-20200101"),
        ("StudyDate", "20201301"),
        ("StudyTime", "2500"),
        ("StudyInstanceUID", "1.2.*"),
        ("StudyInstanceUID", "1." * 40 + "1"),
        ("PatientID", "a\\b"),
        ("PatientID", "a\x1bb"),
        ("PatientID", "*"),
        ("Modality", "us"),
        ("InstanceNumber", "1-3"),
        ("PatientID", "x" * 1025),
    ],
)
def test_values_that_are_none(keyword: str, text: str) -> None:
    key = key_of(keyword)
    assert key is not None
    with pytest.raises(WrongValue):
        checked(key, text)


def test_levels_of_keys() -> None:
    ranks = {name: key_of(name) for name in ("PatientID", "StudyDate", "Modality", "InstanceNumber", "Manufacturer")}
    assert {name: key.rank for name, key in ranks.items() if key is not None} == {
        "PatientID": Rank.STUDY,
        "StudyDate": Rank.STUDY,
        "Modality": Rank.SERIES,
        "InstanceNumber": Rank.INSTANCE,
        "Manufacturer": Rank.SERIES,
    }


@pytest.mark.parametrize(
    ("keyword", "wanted", "found", "is_match"),
    [
        ("StudyDate", "20200101-20200131", "20200131", True),
        ("StudyDate", "20200101-20200131", "20200201", False),
        ("StudyDate", "-20200131", "20190101", True),
        ("StudyDate", "20200101", "2020.01.01", True),
        ("StudyTime", "0800-0930", "093015.5", True),
        ("StudyTime", "0800-0930", "0931", False),
        ("PatientID", "p1 ", "P1", True),
        ("PatientID", "P1", "", False),
        ("PatientID", "P[1", "P[1", True),
        ("StudyDescription", "CHEST*", "Chest ap", True),
        ("PatientName", "Müller", "MUELLER", True),
        ("StudyInstanceUID", "1.2\\1.3", "1.3", True),
        ("InstanceNumber", "3", "03", True),
    ],
)
def test_whether_an_answer_is_what_was_asked_for(keyword: str, wanted: str, found: str, is_match: bool) -> None:
    key = key_of(keyword)
    assert key is not None
    assert matches([(key, wanted)], {keyword: (found,)} if found else {}) is is_match
