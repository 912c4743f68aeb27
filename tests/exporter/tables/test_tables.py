"""Tables of metadata lines: which lines count, which columns there are, what cells hold, what is published."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import exporter
from exporter.commands.app import main
from exporter.results.metadata import keys
from exporter.results.metadata.keys import KeyStyle
from exporter.tables.columns import CellType, element_column, element_named
from exporter.tables.errors import TableError
from tests.exporter.tables.synthetic import made_line, write_lines

if TYPE_CHECKING:
    from pathlib import Path

FULL_WIDTH = "\N{FULLWIDTH EQUALS SIGN}"


def table_of(folder: Path, *options: str) -> pa.Table:
    target = folder / "t.parquet"
    assert main(["metadata", "parquet", str(folder), "--to", str(target), *options]) == 0
    return parquet.read_table(target)


def folder_of(tmp_path: Path, *lines: dict[str, Any]) -> Path:
    write_lines(tmp_path / "metadata.jsonl", list(lines))
    return tmp_path


def test_the_last_line_of_an_input_counts_across_rotated_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with gzip.open(tmp_path / "metadata.jsonl.2.gz", "wt") as file:
        file.write(json.dumps(made_line("a", Rows=1)) + "\n" + json.dumps(made_line("old", Rows=9)) + "\n")
    write_lines(tmp_path / "metadata.jsonl.1", [made_line("a", Rows=2), made_line("b", Rows=3)])
    write_lines(tmp_path / "metadata.jsonl", [made_line("a", Rows=4)])
    for age, name in enumerate(("metadata.jsonl", "metadata.jsonl.1", "metadata.jsonl.2.gz")):
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    table = table_of(tmp_path)
    found = list(zip(table["dicom_file"].to_pylist(), table["Rows"].to_pylist(), strict=True))
    assert found == [("old", 9), ("b", 3), ("a", 4)]
    assert "2 lines superseded" in capsys.readouterr().out


def test_lines_of_others_and_a_torn_last_line_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = {"dicom_file": "old", "export": {"status": "exported", "settings_sha256": "x"}, "Rows": 5}
    seed = {"dicom_file": "seed", "Patient's Name": "A^B"}
    text = "".join(json.dumps(line) + "\n" for line in (made_line("a", Rows=1), older, seed)) + "no JSON\n\n"
    (tmp_path / "metadata.jsonl").write_text(text + json.dumps(made_line("b"))[:-20])
    table = table_of(tmp_path)
    assert table["dicom_file"].to_pylist() == ["a", "old"]
    assert table["export_version"].to_pylist() == ["0.1.0", None]
    told = capsys.readouterr().out
    assert "2 lines of other programs or damaged left out; 1 incomplete last line left out" in told


def test_every_pass_sees_the_file_as_it_was_when_it_was_opened(tmp_path: Path) -> None:
    from exporter.tables.lines import MetadataLines

    folder = folder_of(tmp_path, made_line("a"), made_line("b"))
    with MetadataLines.open(folder / "metadata.jsonl") as lines:
        assert [line["dicom_file"] for line, _ in lines.rows()] == ["a", "b"]
        with (folder / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(made_line("a")) + "\n")
        assert [line["dicom_file"] for line, _ in lines.rows()] == ["a", "b"]


def test_types_come_from_the_dictionary_and_never_from_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(
        tmp_path,
        made_line("a", **{"Window Center": 40, "Rows": 2, "Image Type": "ORIGINAL", "Slice Thickness": 1}),
        made_line(
            "b",
            **{
                "Window Center": [40.5, 300],
                "Rows": "two",
                "Image Type": ["A", "B"],
                "Series Number": 1.5,
                "Modality": 5,
            },
        ),
        made_line("c", **{"Slice Thickness": [1, 2], "Content Sequence": [{"Rows": 1}], "Nobody's Name": {"x": 1}}),
        made_line("d", **{"Private tag data (0019,xx1E ACME)": "text", "[Suite id] (0009,xx02 GEMS_IDEN_01)": "S1"}),
    )
    table = table_of(folder)
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types["WindowCenter"] == "list<element: double>"
    assert (types["Rows"], types["ImageType"], types["SliceThickness"]) == ("int64", "list<element: string>", "double")
    assert types["SeriesNumber"] == "int64"
    rows = table.to_pylist()
    assert [row["WindowCenter"] for row in rows] == [[40.0], [40.5, 300.0], None, None]
    assert [row["Rows"] for row in rows] == [2, None, None, None]
    assert [row["SliceThickness"] for row in rows] == [1.0, None, None, None]
    assert rows[2]["ContentSequence"] == '[{"Rows":1}]'
    assert rows[2]["Nobody's Name"] == '{"x":1}'
    assert rows[3]["Private tag data (0019,xx1E ACME)"] == '"text"'
    assert rows[3]["[Suite id] (0009,xx02 GEMS_IDEN_01)"] == "S1"
    told = capsys.readouterr().out
    assert "4 values did not fit the type of their column and are empty there" in told
    assert "Rows 1" in told


def test_every_keyword_vr_and_vm_is_that_of_the_dictionary() -> None:
    from pydicom._dicom_dict import DicomDictionary

    for tag, (vr, vm, _, _, keyword) in DicomDictionary.items():
        element = keys.RecordElement(tag)
        assert keys.parse_key(element.key) == element
        column = element_column(element, KeyStyle.KEYWORD)
        assert column.name == (keyword or f"{tag:08X}")
        assert column.is_list == (vm != "1" and column.type is not CellType.JSON)
        assert (column.type is CellType.JSON) == (vr in {"SQ", "UN", "NONE", ""} or vr.startswith("O"))


def test_key_styles_and_names_that_collide_keep_every_value(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path,
        made_line(
            "a",
            **{
                "Overlay Rows": 1,
                "Overlay Rows (6002,0010)": 2,
                "Private tag data (0019,xx1E ACME)": 3,
                "Private tag data (0019,xx1E ACME) 2": 4,
                "Private Creator (0019,0010)": "ACME",
                "split": "mine",
            },
        ),
    )
    by_keyword = table_of(folder).to_pylist()[0]
    assert (by_keyword["OverlayRows"], by_keyword["OverlayRows_60020010"]) == (1, 2)
    assert by_keyword["split"] in {"train", "validation", "test"}
    assert by_keyword["split 2"] == '"mine"'
    by_tag = table_of(folder, "--keys", "tag").to_pylist()[0]
    assert (by_tag["60000010"], by_tag["60020010"]) == (1, 2)
    assert (by_tag["0019xx1E ACME"], by_tag["0019xx1E ACME 2"], by_tag["00190010"]) == ("3", "4", "ACME")
    by_name = table_of(folder, "--keys", "name").to_pylist()[0]
    assert by_name["Overlay Rows (6002,0010)"] == 2


def test_columns_public_common_and_of_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        made_line(str(n), Rows=n, **({"Columns": 2} if n else {"[Suite id] (0009,xx02 GEMS_IDEN_01)": "S"}))
        for n in range(10)
    ]
    folder = folder_of(tmp_path, *lines)
    assert [n for n in table_of(folder, "--columns", "public").column_names if "(" in n] == []
    assert table_of(folder, "--columns", "common").column_names[-2:] == ["Rows", "Columns"]
    assert table_of(folder, "--columns", "common", "--share", "0.95").column_names[-1] == "Rows"
    listed = tmp_path / "list.txt"
    listed.write_text("# those that are wanted\nPatientID\nColumns\n00280010\n[Suite id] (0009,xx02 GEMS_IDEN_01)\n")
    table = table_of(folder, "--columns", str(listed))
    assert table.column_names[-4:] == ["PatientID", "Columns", "Rows", "[Suite id] (0009,xx02 GEMS_IDEN_01)"]
    assert table["PatientID"].null_count == 10
    for text in ("PatientIDs\n", "\n# nothing\n"):
        listed.write_text(text)
        assert main(["metadata", "csv", str(folder), "--columns", str(listed)]) == 2
        assert "the list of columns names" in capsys.readouterr().err
    assert main(["metadata", "csv", str(folder), "--columns", "sonne"]) == 2
    assert not (folder / "metadata.csv").exists()


def test_too_many_different_elements_are_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        made_line(str(n), **{f"Private tag data ({n:04X},xx{m:02X} ACME)": m for m in range(256)})
        for n in range(0x1001, 0x1101, 2)
    ]
    folder = folder_of(tmp_path, *lines)
    assert main(["metadata", "csv", str(folder)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "more than 20000 different elements" in error
    assert main(["metadata", "csv", str(folder), "--columns", "public"]) == 0
    assert [path.name for path in folder.iterdir() if "partial" in path.name] == []


def test_csv_holds_nothing_that_a_spreadsheet_runs(tmp_path: Path) -> None:
    evil = ["=1+1", "+1", "@SUM(A1)", "-2+3", " \t=1", f"{FULL_WIDTH}1", "a\nb", "tab\there", "\x1b[31m", "plain"]
    folder = folder_of(tmp_path, *(made_line(text, **{"Series Description": text, "Rows": -5}) for text in evil))
    assert main(["metadata", "csv", str(folder)]) == 0
    text = (folder / "metadata.csv").read_bytes().decode("utf-8")
    assert len(text.splitlines()) == len(evil) + 1
    rows = list(csv.DictReader(text.splitlines()))
    shown = [
        "'=1+1",
        "'+1",
        "'@SUM(A1)",
        "'-2+3",
        " \\t=1",
        f"'{FULL_WIDTH}1",
        "a\\nb",
        "tab\\there",
        "\\x1b[31m",
        "plain",
    ]
    assert [row["SeriesDescription"] for row in rows] == shown
    for row in rows:
        assert not row["SeriesDescription"].lstrip().startswith(("=", "+", "-", "@", "\t", FULL_WIDTH))
    assert {row["Rows"] for row in rows} == {"-5"}
    frame = pd.read_csv(folder / "metadata.csv")
    assert frame.Rows.tolist() == [-5] * len(evil)


def test_text_of_every_script_arrives_in_csv_and_parquet(tmp_path: Path) -> None:
    names = [
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "Hong^Gildong=洪^吉洞=홍^길동",
        "Wang^XiaoDong=王^小东",
        "Люкceмбypг",  # noqa: RUF001
        "Διονυσιος",
        "שרון^דבורה",
    ]
    folder = folder_of(tmp_path, *(made_line(str(n), **{"Patient's Name": name}) for n, name in enumerate(names)))
    assert main(["metadata", "csv", str(folder)]) == 0
    assert pd.read_csv(folder / "metadata.csv").PatientName.tolist() == names
    assert table_of(folder)["PatientName"].to_pylist() == names
    found = duckdb.sql(f"SELECT PatientName FROM '{folder}/t.parquet' ORDER BY dicom_file").fetchall()  # noqa: S608
    assert [name for (name,) in found] == names


def test_tables_of_two_shards_concatenate(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = folder_of(tmp_path / "a", made_line("a", **{"Window Center": 40, "Patient ID": "1"}))
    two = folder_of(tmp_path / "b", made_line("b", **{"Window Center": [1.5, 2], "Rows": 3}))
    tables = [table_of(one), table_of(two)]
    assert pa.concat_tables(tables, promote_options="default")["WindowCenter"].to_pylist() == [[40.0], [1.5, 2.0]]
    joined = duckdb.sql(f"SELECT * FROM read_parquet(['{one}/t.parquet', '{two}/t.parquet'], union_by_name=true)")  # noqa: S608
    assert len(joined.fetchall()) == 2
    listed = tmp_path / "list.txt"
    listed.write_text("WindowCenter\nRows\n")
    same = [table_of(folder, "--columns", str(listed)) for folder in (one, two)]
    assert pa.concat_tables(same).num_rows == 2


def test_a_table_appears_whole_or_not_at_all_on_a_full_disk(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, *(made_line(f"{n}", **{"Image Comments": os.urandom(400).hex()}) for n in range(8000)))
    target = small_disk / "t.parquet"
    target.write_bytes(b"before")
    for kind, name in (("parquet", "t.parquet"), ("csv", "t.csv")):
        assert main(["metadata", kind, str(folder), "--to", str(small_disk / name)]) == 1
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert "disk is full" in error
    assert target.read_bytes() == b"before"
    assert [path.name for path in small_disk.iterdir() if "t." in path.name] == ["t.parquet"]


@pytest.mark.parametrize("to", ["metadata.jsonl", "no-folder/t.csv", "t.parquet"])
def test_a_target_that_makes_no_sense_is_refused(tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path, made_line("a"))
    before = (folder / "metadata.jsonl").read_bytes()
    assert main(["metadata", "csv", str(folder), "--to", str(folder / to)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (folder / "metadata.jsonl").read_bytes() == before
    assert main(["metadata", "csv", str(tmp_path / "nowhere")]) == 1


def test_csv_needs_no_pyarrow_and_parquet_says_what_is_missing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, made_line("a"))
    program = (
        "import sys; sys.modules['pyarrow'] = None; from exporter.commands.app import main;"
        f"print(main(['metadata', 'csv', {str(folder)!r}]), main(['metadata', 'parquet', {str(folder)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 1"
    assert "pip install 'dicom-media-exporter[tables]'" in done.stderr


def test_no_table_is_made_of_a_command_that_needs_none() -> None:
    program = "import exporter, exporter.commands.app, exporter.services.daemon, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.startswith(("pyarrow", "exporter.tables"))]


def test_series_have_the_names_of_idc_index_and_leave_duplicates_out(tmp_path: Path) -> None:
    series = {"Study Instance UID": "1", "Series Instance UID": "1.1", "Patient ID": "P", "Modality": "CT"}
    folder = folder_of(
        tmp_path,
        made_line("a", **series),
        made_line("b", **series, **{"Series Description": "late"}),
        made_line("c", export={"duplicate_of": "a"}, **series),
        made_line("d", **(series | {"Series Instance UID": "1.2"})),
        made_line("e", **{"Patient ID": "P"}),
    )
    assert main(["metadata", "series", str(folder)]) == 0
    frame = pd.read_csv(folder / "series.csv")
    assert frame.instanceCount.tolist() == [2, 1]
    assert frame.SeriesDescription.tolist()[0] == "late"
    assert {
        "PatientID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "Modality",
        "BodyPartExamined",
        "Manufacturer",
        "ManufacturerModelName",
        "series_size_MB",
    } <= set(frame.columns)


def test_a_mapping_has_one_row_per_medium(tmp_path: Path) -> None:
    media = [{"path": "a.png", "kind": "image", "bytes": 3, "sha256": "x"}, {"path": "a.raw.png", "kind": "image"}]
    folder = folder_of(tmp_path, made_line("a", export={"media": media}), made_line("b"))
    assert main(["metadata", "mapping", str(folder), "--to", str(tmp_path / "m.parquet")]) == 0
    rows = parquet.read_table(tmp_path / "m.parquet").to_pylist()
    assert [(row["dicom_file"], row["media_file"]) for row in rows] == [("a", "a.png"), ("a", "a.raw.png"), ("b", None)]


def test_read_table_is_lazy_and_typed_and_load_finds_one_instance(tmp_path: Path) -> None:
    timing = {"source": "FrameTime", "rate_hz": 25.0, "variable": False, "frame_times_ms": None}
    media = [{"path": "a.mp4", "kind": "video", "frames": 3, "geometry": None}]
    folder = folder_of(
        tmp_path,
        made_line("a", **{"SOP Instance UID": "9.9", "Pixel Spacing": [9, 9]}),
        made_line(
            "a", export={"media": media, "timing": timing}, **{"SOP Instance UID": "1.2", "Pixel Spacing": [2, 3]}
        ),
        made_line("b", **{"SOP Instance UID": "1.3"}),
        made_line("c", **{"SOP Instance UID": "1.3"}),
    )
    table = exporter.read_table(folder, columns=["PixelSpacing"])
    assert [batch.num_rows for batch in table] == [3]
    assert table.read_all().equals(pa.table(table))
    assert str(table.schema.field("PixelSpacing").type) == "list<item: double>"
    for key in ("a", "1.2", "a.mp4"):
        found = exporter.load(folder, key)
        assert found.frame_times_ms is not None
        assert found.frame_times_ms.tolist() == [0.0, 40.0, 80.0]
        assert found.media == (folder / "media" / "a.mp4",)
        assert found.pixel_spacing_mm == (2.0, 3.0)
    for key in ("9.9", "1.3", "nothing"):
        with pytest.raises(TableError, match="that key"):
            exporter.load(folder, key)


def test_a_name_a_keyword_and_a_tag_name_the_same_element() -> None:
    for word in ("PatientID", "Patient ID", "00100020", "(0010,0020)"):
        assert element_named(word) == keys.RecordElement(0x00100020)
    assert element_named("Patient") is None
    assert element_named("00100099") is None
