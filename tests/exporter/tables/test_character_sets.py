"""Text of every character set from the instance through lines to tables: what pydicom decodes, in valid UTF-8."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from pyarrow import parquet
from pydicom import dcmread
from pydicom.data import get_charset_files
from pydicom.datadict import dictionary_description

from exporter.commands.app import main
from tests.exporter.dicom.test_instance import element, part10

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

FILES = sorted(map(Path, get_charset_files("*.dcm")))
TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""VRs whose character set the instance chooses (PS3.5 6.1.2.3)."""
SCRIPTS = {
    "chrArab": "قباني",
    "chrGreek": "Διονυσιος",
    "chrH31": "山田^太郎=やまだ^たろう",
    "chrH32": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
    "chrHbrw": "שרון",
    "chrI2": "洪^吉洞=홍^길동",
    "chrJapMulti": "やまだ^たろう",
    "chrKoreanMulti": "김희중",
    "chrRuss": "\N{CYRILLIC CAPITAL LETTER EL}\N{CYRILLIC SMALL LETTER YU}\N{CYRILLIC SMALL LETTER KA}",
    "chrX1": "王^小東",
    "chrX2": "王^小东",
}
"""Words of every script that must be somewhere in a name: what pydicom decodes is no judge of itself."""
BAD = "chrBad"


class Exported(NamedTuple):
    lines: dict[str, Any]
    csv: dict[str, dict[str, str]]
    parquet: dict[str, dict[str, Any]]
    raw: bytes
    """All bytes of lines and CSV."""


def damaged() -> bytes:
    """An instance with numbers that are none, and text that is not in its character set."""
    return part10(
        b"".join(
            element(*one)
            for one in (
                (0x0008, 0x0005, "CS", b"ISO_IR 192"),
                (0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.7\0"),
                (0x0008, 0x0018, "UI", b"1.2.3\0"),
                (0x0010, 0x0010, "PN", b"\xffA\xfe^B "),
                (0x0018, 0x0050, "DS", b"NaN "),
                (0x0018, 0x1020, "LO", b"\xd0\xd1"),
                (0x0018, 0x9073, "FD", b"\0\0\0\0\0\0\xf8\x7f"),
                (0x0020, 0x0013, "IS", b"abc "),
            )
        )
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("charsets")
    (folder / "in").mkdir()
    for path in FILES:
        shutil.copy(path, folder / "in")
    (folder / "in" / f"{BAD}.dcm").write_bytes(damaged())
    out = folder / "out"
    assert main(["backfill", str(folder / "in"), "--output", str(out), "--workers", "0"]) == 0
    for form in ("csv", "parquet"):
        assert main(["metadata", form, str(out)]) == 0
    raw = (out / "metadata.jsonl").read_bytes()
    lines = [json.loads(line, parse_constant=refuse) for line in raw.splitlines()]
    with (out / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = parquet.read_table(out / "metadata.parquet").to_pylist()
    return Exported(
        {line["dicom_file"]: line for line in lines},
        {row["dicom_file"]: row for row in rows},
        {row["dicom_file"]: row for row in table},
        raw + (out / "metadata.csv").read_bytes(),
    )


def refuse(constant: str) -> None:
    raise AssertionError(f"JSON knows no {constant}")


def texts(header: Dataset) -> Iterator[tuple[str, str, list[str]]]:
    """Keyword, name and values of every text element of one level, as pydicom decodes them."""
    for one in header:
        if one.VR in TEXT and one.keyword and not one.is_empty:
            values = one.value if one.VM > 1 else [one.value]
            yield one.keyword, dictionary_description(one.tag), [str(value).rstrip() for value in values]


def nested(header: Dataset, record: dict[str, Any]) -> Iterator[tuple[Dataset, dict[str, Any]]]:
    """The items of all sequences, beside what a record has of them."""
    yield header, record
    for one in header:
        if one.VR == "SQ" and one.keyword:
            for item, said in zip(one.value, record[dictionary_description(one.tag)], strict=True):
                yield from nested(item, said)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_text_in_lines_and_tables_is_what_pydicom_decodes(exported: Exported, path: Path) -> None:
    header, line = dcmread(path), exported.lines[path.name]
    compared = 0
    for item, record in nested(header, line):
        for _, name, values in texts(item):
            assert record[name] == (values if len(values) > 1 else values[0])
            compared += 1
    assert compared
    for keyword, _, values in texts(header):
        in_parquet = exported.parquet[path.name][keyword]
        assert in_parquet == (values if isinstance(in_parquet, list) else values[0])
        in_csv = exported.csv[path.name][keyword].removeprefix("'")  # which no spreadsheet runs
        assert in_csv == values[0] or json.loads(in_csv) == values
    if path.stem in SCRIPTS:
        for name in (line["Patient's Name"], *(rows[path.name]["PatientName"] for rows in exported[1:3])):
            assert SCRIPTS[path.stem] in name


def test_lines_and_tables_are_valid_utf_8_without_nan(exported: Exported) -> None:
    text = exported.raw.decode("utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    assert len(exported.lines) == len(exported.csv) == len(exported.parquet) == len(FILES) + 1
    for row in exported.parquet.values():
        assert not [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]


def test_values_that_cannot_be_read_are_null_with_a_warning(exported: Exported) -> None:
    line, row = exported.lines[f"{BAD}.dcm"], exported.parquet[f"{BAD}.dcm"]
    assert [line[name] for name in ("Instance Number", "Slice Thickness", "Acquisition Duration")] == [None] * 3
    assert [row[name] for name in ("InstanceNumber", "SliceThickness", "AcquisitionDuration")] == [None] * 3
    assert [exported.csv[f"{BAD}.dcm"][name] for name in ("InstanceNumber", "SliceThickness")] == [""] * 2
    assert line["Patient's Name"] == row["PatientName"] == "\N{REPLACEMENT CHARACTER}A\N{REPLACEMENT CHARACTER}^B"
    warned = {sentence[:11] for sentence in line["export"]["warnings"]}
    assert {"(0010,0010)", "(0018,1020)", "(0020,0013)", "(0018,0050)", "(0018,9073)"} <= warned
