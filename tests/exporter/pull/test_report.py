"""The CSV files of a pull hold what a PACS said, and none of it acts in a terminal or a spreadsheet."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from exporter.pull.finding import PullTarget
from exporter.pull.report import FoundFile
from listener.foundation.durable import replaced_text_file

if TYPE_CHECKING:
    from pathlib import Path


def test_what_a_pacs_answers_stays_in_its_cell(tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    with replaced_text_file(path) as file:
        found = FoundFile(file, ("PatientID",))
        answer = {
            "PatientID": ("=cmd|' /C calc'!A0",),
            "StudyDescription": ("CT\r\n9,1.2.3,,forged",),
            "AccessionNumber": ("\x1b[31m\x00\x85\u202e\u2028",),
        }
        found.add(2, PullTarget("1.2.3", "@1.2", ("+1", "1.5")), answer)
    text = path.read_text("utf-8")
    assert text.count("\n") == len(text.splitlines()) == 3
    assert all(line.isprintable() for line in text.splitlines())
    header, *rows = csv.reader(text.splitlines())
    told = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["SOPInstanceUID"] for row in told] == ["'+1", "1.5"]
    assert told[0]["SeriesInstanceUID"] == "'@1.2"
    assert told[0]["#PatientID"] == "'=cmd|' /C calc'!A0"
    assert told[0]["#StudyDescription"] == "CT\\r\\n9,1.2.3,,forged"
    assert told[0]["#AccessionNumber"] == "\\x1b[31m\\x00\\x85\\u202e\\u2028"
