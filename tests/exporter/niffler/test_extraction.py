"""A run with Niffler's configuration leaves its folders and tables, with every file accounted for."""

from __future__ import annotations

import re
import shutil
import signal
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import examples

from exporter.niffler.csv_tables import FileOutcome, TablePlan, write_tables
from exporter.niffler.failed_dicom import DicomFailure, FailedFolder
from exporter.niffler.header_values import header_values
from exporter.niffler.row_store import MOST_COLUMNS, RowStore, SourceRow, TooManyColumns, column_set, split_evenly
from tests.exporter.dicom.test_instance import bare, element, part10
from tests.exporter.niffler.making import configuration, extract, lines_of, mapping, mixed_home, rows, small_home
from tests.product.running import until

if TYPE_CHECKING:
    from collections.abc import Callable

HEX = re.compile(r"[0-9a-f]{56}")
FILES = ["a/IM1.dcm", "a/cine.dcm", "a/cut.dcm", "a/ecg.dcm", "a/text.dcm", "b/IM1.dcm", "b/noextension", "b/text.dcm"]


class Run:
    """One finished run, its input folder around its output folder."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.home = mixed_home(folder / "home")
        self.out = self.home / "root"
        self.config = configuration(folder / "config.json", self.home, self.out, SplitIntoChunks=3, Depth="1")
        self.said = extract(self.config, *arguments, expect=3)

    @property
    def table(self) -> dict[str, dict[str, str]]:
        return {row["file"].removeprefix(f"{self.home}/"): row for row in rows(self.out / "metadata.csv")}

    @property
    def pictures(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for file, picture in mapping(self.out / "mapping.csv"):
            found.setdefault(file.removeprefix(f"{self.home}/"), []).append(picture)
        return found

    @property
    def digests(self) -> set[str]:
        paths = [Path(picture).relative_to(self.out) for pictures in self.pictures.values() for picture in pictures]
        return {part.partition(".")[0] for path in paths for part in path.parts if HEX.match(part)}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("niffler"), "--workers", 1)


def test_every_file_at_the_depth_has_a_row_in_order(done: Run) -> None:
    assert list(done.table) == FILES
    assert [name for name, row in done.table.items() if row["has_pix_array"] == "True"] == [*done.pictures]
    assert {row["has_pix_array"]: row["category"] for row in done.table.values()} == {
        "True": "uncategorized",
        "False": "no image",
    }


def test_what_niffler_would_have_missed_is_said(done: Run) -> None:
    assert "1 of them are DICOM but not called *.dcm" in done.said
    assert "1 further files are not DICOM and not called *.dcm" in done.said
    assert "2 files are not 1 folders deep (Depth)" in done.said


def test_every_file_has_pictures_or_a_reason(done: Run) -> None:
    found = [
        (Path(row["file"]).relative_to(done.home).as_posix(), row["folder"], row["reason"], row["copy"])
        for row in rows(done.out / "failed-dicom/reasons.csv")
    ]
    assert sorted([*done.pictures, *(name for name, folder, _, _ in found if folder != "5")]) == FILES
    assert found == [
        ("a/cut.dcm", "2", "corrupt_pixels", "2/cut.dcm"),
        ("a/ecg.dcm", "1", "no_media", "1/ecg.dcm"),
        ("a/ecg.dcm", "5", "many_values", "5/ecg.dcm"),
        ("a/text.dcm", "4", "not_dicom", "4/text.dcm"),
        ("b/text.dcm", "4", "not_dicom", "4/text_1.dcm"),
    ]
    copies = {path.relative_to(done.out / "failed-dicom").as_posix() for path in done.out.glob("failed-dicom/*/*")}
    assert copies == {copy for _, _, _, copy in found}
    for name, _, _, copy in found:
        assert (done.out / "failed-dicom" / copy).read_bytes() == (done.home / name).read_bytes()


def test_pictures_lie_flat_below_their_patient_under_names_of_56_digits(done: Run) -> None:
    for pictures in done.pictures.values():
        for picture in pictures:
            patient, name, *frame = Path(picture).relative_to(done.out / "extracted-images").parts
            assert HEX.fullmatch(patient)
            assert HEX.fullmatch(name.partition(".")[0])
            assert bool(frame) == name.endswith(".frames")
            assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert len(done.pictures["a/cine.dcm"]) == pydicom.dcmread(done.home / "a/cine.dcm").get("NumberOfFrames", 1)


def test_equal_file_names_do_not_overwrite_each_other(done: Run) -> None:
    (one,), (other,) = done.pictures["a/IM1.dcm"], done.pictures["b/IM1.dcm"]
    assert Path(one).name.partition(".")[0] != Path(other).name.partition(".")[0]
    assert Path(one).parent == Path(other).parent


def test_names_cannot_be_computed_without_the_key(done: Run, tmp_path: Path) -> None:
    again = Run(tmp_path)
    assert not done.digests & again.digests
    shutil.rmtree(again.out)
    again.out.mkdir()
    shutil.copyfile(done.out / "names.key", again.out / "names.key")
    extract(again.config, expect=3)
    assert done.digests == again.digests


def test_sixteen_bit_pictures_give_the_modality_values_back_exactly(done: Run) -> None:
    values = lines_of(done.out)["a/IM1.dcm"]["export"]["media"][0]["values"]
    (picture,) = done.pictures["a/IM1.dcm"]
    with Image.open(picture) as image:
        assert image.mode.startswith("I;16")
        stored = np.asarray(image).astype(np.int64) + values["offset"]
    dataset = pydicom.dcmread(done.home / "a/IM1.dcm")
    assert np.array_equal(stored, dataset.pixel_array)
    assert stored.min() < 0 or values["intercept"] < 0
    assert (values["slope"], values["intercept"]) == (dataset.RescaleSlope, dataset.RescaleIntercept)


def test_parts_are_even_and_their_rows_are_those_of_the_whole(done: Run) -> None:
    parts = [rows(done.out / f"meta/metadata_{number}.csv") for number in range(3)]
    assert [len(part) for part in parts] == [3, 3, 2]
    whole = list(done.table.values())
    for row, merged in zip([row for part in parts for row in part], whole, strict=True):
        assert {column: cell for column, cell in merged.items() if cell} == {c: v for c, v in row.items() if v} | {
            column: merged[column] for column in row if _same_number(row[column], merged[column])
        }
    maps = [pair for number in range(3) for pair in mapping(done.out / f"maps/mapping_{number}.csv")]
    assert maps == mapping(done.out / "mapping.csv")


def _same_number(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def test_text_that_a_spreadsheet_would_run_is_marked_and_a_row_is_one_line(done: Run) -> None:
    row = done.table["b/IM1.dcm"]
    assert row["StudyDescription"] == "'=1+1"
    assert row["SeriesDescription"] == r"one\ntwo"
    assert len((done.out / "metadata.csv").read_text().splitlines()) == len(FILES) + 1
    assert row["RescaleIntercept"].startswith("-")  # a number is no formula


def test_the_log_counts_and_names_no_file(done: Run) -> None:
    log = (done.out / "ImageExtractor.out").read_text()
    assert "metadata.csv: 8 files" in log
    assert not re.search(r"IM1|ecg|home|CompressedSamples", log)


def test_what_holds_headers_is_for_its_owner_alone(done: Run) -> None:
    for name in ("metadata.csv", "mapping.csv", "meta", "maps", "failed-dicom", "failed-dicom/1", "names.key"):
        assert (done.out / name).stat().st_mode & 0o077 == 0, name


def test_a_rerun_finds_new_files_and_what_lies_in_the_output_is_no_input(tmp_path: Path) -> None:
    run = Run(tmp_path)
    before = (run.out / "metadata.csv").read_bytes()
    assert "exported 0" in extract(run.config, expect=3)
    assert (run.out / "metadata.csv").read_bytes() == before
    shutil.copyfile(examples.get_path("mr"), run.home / "b/new.dcm")
    (run.home / "a/text.dcm").unlink()
    assert "exported 1" in extract(run.config, "--set", "SplitIntoChunks=1", expect=3)
    assert list(run.table) == sorted([*FILES, "b/new.dcm"][0:4] + FILES[5:] + ["b/new.dcm"])
    assert [path.name for path in sorted((run.out / "meta").iterdir())] == ["metadata_0.csv"]
    assert [path.name for path in sorted((run.out / "failed-dicom/4").iterdir())] == ["text.dcm"]


@pytest.mark.parametrize(("output", "depth"), [("root", 3), (".", 2)])
def test_what_an_earlier_run_copied_into_the_output_is_no_input(tmp_path: Path, output: str, depth: int) -> None:
    home = tmp_path / "home"
    place = home / "/".join("abc"[:depth])
    place.mkdir(parents=True)
    (place / "text.dcm").write_text("no DICOM")
    config = configuration(tmp_path / "config.json", home, home / output, Depth=depth, PrintImages=False)
    for _ in range(2):
        extract(config, expect=3)
        assert len(rows(home / output / "metadata.csv")) == 1
    copy = home / output / "failed-dicom/4/text.dcm"
    assert copy.relative_to(home).as_posix().count("/") == depth


def test_our_configuration_says_what_niffler_has_no_key_for(tmp_path: Path) -> None:
    home, out = small_home(tmp_path / "home"), tmp_path / "out"
    (tmp_path / "ours.yml").write_text("limits:\n  max_frame_pixels: 100\n")
    config = configuration(tmp_path / "config.json", home, out)
    extract(config, "--config", tmp_path / "ours.yml", expect=3)
    (row,) = rows(out / "failed-dicom/reasons.csv")
    assert (row["folder"], row["reason"], row["copy"]) == ("3", "too_large", "3/ct.dcm")


@pytest.mark.parametrize(("level", "folders"), [("patient", 1), ("study", 2), ("series", 3)])
def test_levels_are_folders(tmp_path: Path, level: str, folders: int) -> None:
    home = small_home(tmp_path / "home")
    extract(configuration(tmp_path / "config.json", home, tmp_path / "out", FlattenedToLevel=level, is16Bit="false"))
    ((_, picture),) = mapping(tmp_path / "out/mapping.csv")
    *above, name = Path(picture).relative_to(tmp_path / "out/extracted-images").parts
    assert len(above) == folders
    assert all(map(HEX.fullmatch, above))
    assert HEX.fullmatch(name.removesuffix(".png"))
    with Image.open(picture) as image:
        assert image.mode == "L"


def test_without_pictures_there_are_tables_alone(tmp_path: Path) -> None:
    home, out = mixed_home(tmp_path / "home"), tmp_path / "out"
    extract(configuration(tmp_path / "config.json", home, out, PrintImages="false"), expect=3)
    assert [row["file"].removeprefix(f"{home}/") for row in rows(out / "metadata.csv")] == FILES
    assert mapping(out / "mapping.csv") == []
    assert [path for path in (out / "extracted-images").rglob("*") if path.is_file()] == []
    lines = lines_of(out)
    assert {*lines} == {name for name in FILES if not name.endswith("text.dcm")}  # which are not DICOM
    assert {line["media_type"] for line in lines.values()} == {"none"}
    assert lines["a/ecg.dcm"]["Modality"] == "ECG"


@pytest.mark.slow
def test_a_header_that_ends_its_process_costs_its_row_alone(tmp_path: Path) -> None:
    home, out = small_home(tmp_path / "home"), tmp_path / "out"
    plain = home / "a/ct.dcm"
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 18) + element(0x0008, 0x0104, "LO", b"x " * 5)
    nested = struct.pack("<HH2s2xI", 0x0040, 0xA730, b"SQ", 300_000 * len(item)) + item * 300_000
    (home / "a/hostile.dcm").write_bytes(part10(bare(instance="1.2.9") + nested))
    ours = tmp_path / "ours.yml"
    ours.write_text("limits: {cpu_s: 1, attempts: 1}\n")
    config = configuration(tmp_path / "config.json", home, out, PrintImages=False)
    said = extract(config, "--config", ours, "--workers", 1, expect=3)
    assert [Path(row["file"]).name for row in rows(out / "metadata.csv")] == [plain.name, "hostile.dcm"]
    assert [row["reason"] for row in rows(out / "failed-dicom/reasons.csv")] == ["timeout"]
    assert "timeout 1" in said


def test_columns_can_be_those_of_a_list_or_those_that_are_common(tmp_path: Path) -> None:
    home, out = mixed_home(tmp_path / "home"), tmp_path / "out"
    (tmp_path / "featureset.txt").write_text("PatientID\nNoSuchThing\n\nRows\n")
    config = configuration(tmp_path / "config.json", home, out, PrintImages=False, SpecificHeadersOnly="true")
    said = extract(config, expect=3)
    assert list(rows(out / "metadata.csv")[0]) == [
        "PatientID",
        "NoSuchThing",
        "Rows",
        "file",
        "has_pix_array",
        "category",
    ]
    assert "featureset.txt lists columns that no file has, which are empty: NoSuchThing" in said
    for name in ("a/text.dcm", "b/text.dcm", "a/ecg.dcm", "a/cut.dcm"):
        (home / name).unlink()
    extract(config, "--set", "SpecificHeadersOnly=false", "--set", "CommonHeadersOnly=true")
    common, parts = rows(out / "metadata.csv"), rows(out / "meta/metadata_0.csv")
    assert "Modality" in common[0]
    assert "KVP" not in common[0]
    assert "KVP" in parts[0]
    assert all(row[column] for row in common for column in row)


def test_private_columns_lose_no_value(tmp_path: Path) -> None:
    home, out = small_home(tmp_path / "home"), tmp_path / "out"
    extract(configuration(tmp_path / "config.json", home, out, PrintImages=False, PublicHeadersOnly=False))
    (row,) = rows(out / "metadata.csv")
    dataset = pydicom.dcmread(home / "a/ct.dcm")
    private = [element for element in dataset if element.tag.is_private]
    own = {column: cell for column, cell in row.items() if " " in column or column.startswith("[")}
    assert len(own) == len(private)
    assert own["[Suite id]"] == "CT01"
    assert own["Private Creator (0009,0010)"] == "GEMS_IDEN_01"


@pytest.mark.parametrize(
    ("values", "sentence", "code"),
    [
        ({"Depth": 7}, "no file lies 7 folders below", 2),
        ({"OutputDirectory": "/proc/x/y"}, "making the output folder", 1),
    ],
)
def test_what_keeps_a_run_from_running_is_one_sentence(
    tmp_path: Path, values: dict[str, Any], sentence: str, code: int
) -> None:
    config = configuration(tmp_path / "config.json", small_home(tmp_path / "home"), tmp_path / "out", **values)
    said = extract(config, expect=code)
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_a_full_disk_ends_the_run_in_a_sentence_and_half_publishes_nothing(
    tmp_path: Path, small_disk: Path, fill: Callable[[Path], None]
) -> None:
    home = small_home(tmp_path / "home")
    config = configuration(tmp_path / "config.json", home, small_disk / "out", PrintImages=False)
    extract(config)
    before = {path: path.read_bytes() for path in (small_disk / "out").rglob("*.csv")}
    fill(small_disk / "filler")
    said = extract(config, "--set", "PublicHeadersOnly=false", expect=1)
    assert "the disk is full" in said
    assert {path: path.read_bytes() for path in (small_disk / "out").rglob("*.csv")} == before
    assert not list((small_disk / "out").rglob("*.part"))


def test_a_run_that_is_stopped_publishes_no_table_and_the_next_one_goes_on(tmp_path: Path) -> None:
    home, out = small_home(tmp_path / "home"), tmp_path / "out"
    for number in range(200):
        shutil.copyfile(home / "a/ct.dcm", home / f"a/{number:03}.dcm")
    config = configuration(tmp_path / "config.json", home, out)
    command = [sys.executable, "-m", "exporter", "backfill", "--niffler-config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: any(out.glob("extracted-images/*/*.png")), seconds=100, describe="the first picture")
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert not (out / "metadata.csv").exists()
    assert not list(out.rglob("*.part"))
    done = len(list(out.glob("extracted-images/*/*.png")))
    assert f"exported {201 - done}; unchanged {done}" in extract(config)
    assert len(rows(out / "metadata.csv")) == len(mapping(out / "mapping.csv")) == 201


# -- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "parts", "sizes"),
    [(8, 3, [3, 3, 2]), (2, 5, [1, 1]), (0, 4, [0]), (10, 1, [10]), (4, 4, [1, 1, 1, 1])],
)
def test_rows_are_split_evenly_at_most_one_part_per_file(count: int, parts: int, sizes: list[int]) -> None:
    assert [end - start for start, end in split_evenly(count, parts)] == sizes


def test_with_privacy_there_is_a_list_and_no_copy(tmp_path: Path) -> None:
    source = tmp_path / "x.dcm"
    source.write_bytes(b"content")
    for copies, expected in ((True, ["1/x.dcm"]), (False, [])):
        with FailedFolder(tmp_path, copies=copies) as failed:
            failed.add(DicomFailure(1, source, "no_media", "the instance has no pixel data"))
        found = [path.relative_to(tmp_path / "failed-dicom").as_posix() for path in tmp_path.glob("failed-dicom/*/*")]
        assert found == expected
        (row,) = rows(tmp_path / "failed-dicom/reasons.csv")
        assert row["reason"] == "no_media"


def test_copies_have_names_that_any_file_system_takes_and_no_two_have_one(tmp_path: Path) -> None:
    long = "n" * 251 + ".dcm"
    sources = [tmp_path / f"{number}" / name for number in range(3) for name in (long, "x.dcm", "x_1.dcm")]
    with FailedFolder(tmp_path / "out", copies=True) as failed:
        for number, source in enumerate(sources):
            source.parent.mkdir(exist_ok=True)
            source.write_text(str(number))
            failed.add(DicomFailure(3, source, "internal", "an error"))
        failed.add(DicomFailure(4, tmp_path / "gone.dcm", "unreadable", "it is gone"))
    listed = rows(tmp_path / "out/failed-dicom/reasons.csv")
    assert [row["copy"] for row in listed[-1:]] == [""]
    copies = [tmp_path / "out/failed-dicom" / row["copy"] for row in listed[:-1]]
    assert len(set(copies)) == len(sources)
    assert [copy.read_text() for copy in copies] == [str(number) for number in range(len(sources))]


def test_a_run_that_fails_leaves_the_list_and_the_copies_of_the_last_one(tmp_path: Path) -> None:
    source = tmp_path / "x.dcm"
    source.write_bytes(b"content")
    with FailedFolder(tmp_path, copies=True) as failed:
        failed.add(DicomFailure(1, source, "no_media", "the instance has no pixel data"))
    with pytest.raises(ZeroDivisionError), FailedFolder(tmp_path, copies=True):
        raise ZeroDivisionError
    assert (tmp_path / "failed-dicom/1/x.dcm").is_file()
    assert len(rows(tmp_path / "failed-dicom/reasons.csv")) == 1


def test_a_table_with_more_columns_than_any_program_opens_is_refused() -> None:
    many = [SourceRow("x", {f"column {number}": "1" for number in range(MOST_COLUMNS + 1)})]
    with pytest.raises(TooManyColumns, match="more than 200000 columns: name those that are wanted"):
        column_set(many, None)
    assert column_set(many, ("column 7",)).names == ["column 7"]


def test_whole_numbers_look_as_pandas_writes_them(tmp_path: Path) -> None:
    with RowStore(tmp_path) as store:
        store.append(SourceRow("1", {"all": 1, "some": 8, "large": 1 << 60, "mixed": 2, "text": "-1"}))
        store.append(SourceRow("2", {"all": 2, "mixed": "x", "text": "-x"}))
        write_tables(store, TablePlan(tmp_path, 1, None, common_only=False), lambda row: FileOutcome(row.name, False))
    first, second = rows(tmp_path / "metadata.csv")
    assert [first[name] for name in ("all", "some", "mixed", "text")] == ["1", "8.0", "2", "-1"]
    assert first["large"] == str(1 << 60)
    assert (second["some"], second["text"]) == ("", "'-x")


def test_a_path_with_a_comma_is_quoted_in_the_mapping(tmp_path: Path) -> None:
    with RowStore(tmp_path) as store:
        store.append(SourceRow("a, b.dcm"))
        outcome = FileOutcome("IN/a, b.dcm", has_pixels=True, pictures=("OUT/c, d.png", "OUT/e.png"))
        write_tables(store, TablePlan(tmp_path, 1, None, common_only=False), lambda _: outcome)
    text = (tmp_path / "mapping.csv").read_text()
    assert text.splitlines()[1:] == ['"IN/a, b.dcm"," OUT/c, d.png"', '"IN/a, b.dcm", OUT/e.png']


def test_rows_can_be_read_from_any_of_them_on(tmp_path: Path) -> None:
    with RowStore(tmp_path) as store:
        for number in range(2500):
            store.append(SourceRow(str(number)))
        for start, end in ((0, 3), (1023, 1025), (1024, 1024), (2048, 2050), (2499, 9999), (2500, 9999)):
            assert [row.name for row in store.rows(start, end)] == [*map(str, range(start, min(end, 2500)))]


def test_values_that_do_not_fit_their_elements_are_told_as_they_are() -> None:
    dataset = pydicom.Dataset()
    dataset.add_new("PatientID", "LO", "x")
    for tag, vr, raw in (
        (0x00200013, "IS", b"1.5 "),
        (0x00280030, "DS", b"0.5\\1E-2"),
        (0x00180088, "DS", b"NaN "),
        (0x00181164, "DS", b"x\\y "),
        (0x00091001, "IS", b"7"),
        (0x00280010, "US", b"abc"),
    ):
        dataset[tag] = pydicom.dataelem.RawDataElement(pydicom.tag.Tag(tag), vr, len(raw), raw, 0, False, True)
    cells, count = header_values(dataset, private=True)
    assert count == 7
    assert cells == {
        "InstanceNumber": "1.5",
        "PixelSpacing": "('0.5', '0.01')",
        "SpacingBetweenSlices": None,
        "ImagerPixelSpacing": "('x', 'y')",
        "PatientID": "x",
        "Private tag data": 7,
        "Rows": "abc",
    }


def test_file_names_that_are_no_unicode_keep_their_rows(tmp_path: Path) -> None:
    with RowStore(tmp_path) as store:
        store.append(SourceRow("caf\udce9.dcm"))
        assert [row.name for row in store.rows()] == ["caf\udce9.dcm"]


def _peak_bytes(folder: Path, count: int) -> int:
    folder.mkdir()
    tracemalloc.start()
    with RowStore(folder) as store:
        for number in range(count):
            cells: dict[str, Any] = {f"column {column}": f"{number} {column}" for column in range(30)}
            store.append(SourceRow(f"{number}.dcm", cells))
        plan = TablePlan(folder, 4, None, common_only=True)
        write_tables(store, plan, lambda row: FileOutcome(row.name, True, (f"{row.name}.png",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    _peak_bytes(tmp_path / "first", 30)  # caches of the libraries
    few, many = (_peak_bytes(tmp_path / str(count), count) for count in (100, 1000))
    assert many < 1.2 * few
