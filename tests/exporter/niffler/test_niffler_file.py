"""Niffler's configuration is read strictly: what it means counts, what it cannot mean is one sentence."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from exporter.commands.app import main
from exporter.niffler.niffler_file import NifflerFileUnusable, read_niffler_file
from exporter.settings.settings import Settings, load_settings
from tests.exporter.niffler.making import configuration

if TYPE_CHECKING:
    from pathlib import Path

CORES = len(os.sched_getaffinity(0))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "home").mkdir()
    return tmp_path / "home", tmp_path / "home/root"


def test_booleans_and_numbers_may_be_strings_and_false_is_false(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    values = {"Depth": "3", "SplitIntoChunks": "2", "UseProcesses": "0.5", "PrintImages": "false", "is16Bit": "False"}
    config = read_niffler_file(configuration(tmp_path / "config.json", *folders, **values))
    assert (config.depth, config.chunks, config.processes) == (3, 2, 0.5)
    assert not config.print_images
    assert not config.is_16_bit


def test_single_values_can_be_changed_as_with_its_flags(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    path = configuration(tmp_path / "config.json", *folders)
    config = read_niffler_file(path, ["PrintImages=false", "FlattenedToLevel=series", "OutputDirectory=/a=b"])
    assert not config.print_images
    assert config.level == "series"
    assert str(config.output) == "/a=b"


@pytest.mark.parametrize(
    ("value", "workers"),
    [(0, CORES), (0.5, max(1, CORES // 2)), (1, 1), ("1", 1), (CORES, CORES), (CORES + 1000, CORES)],
)
def test_use_processes_is_all_half_or_a_number_of_cores(
    tmp_path: Path, folders: tuple[Path, Path], value: object, workers: int
) -> None:
    config = read_niffler_file(configuration(tmp_path / "config.json", *folders, UseProcesses=value))
    assert config.workers == workers


@pytest.mark.parametrize(
    ("key", "value", "field", "meaning"),
    [
        ("UseProcessors", 0.5, "processes", 0.5),
        ("UseHalfOfTheProcessorsOnly", True, "processes", 0.5),
        ("UseHalfOfTheProcessorsOnly", "false", "processes", 0.0),
        ("FlattenedToPatientLevel", "true", "level", "patient"),
        ("FlattenedToPatientLevel", False, "level", "series"),
    ],
)
def test_keys_of_earlier_versions_mean_what_they_meant(
    tmp_path: Path, folders: tuple[Path, Path], key: str, value: object, field: str, meaning: object
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"DICOMHome": str(folders[0]), "OutputDirectory": str(folders[1]), key: value}))
    config = read_niffler_file(path)
    assert getattr(config, field) == meaning
    newer = {"processes": "UseProcesses=1", "level": "FlattenedToLevel=study"}[field]
    assert getattr(read_niffler_file(path, [newer]), field) == {"processes": 1, "level": "study"}[field]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"Dept": 1}, "Dept: no such key (permitted: DICOMHome, "),
        ({"Depth": -1}, "Depth: -1 is no number from 0"),
        ({"Depth": 1.5}, "Depth: 1.5 is no whole number from 0"),
        ({"Depth": True}, "Depth: true is no number from 0"),
        ({"Depth": None}, "Depth: null is no number from 0"),
        ({"SplitIntoChunks": 0}, "SplitIntoChunks: 0 is no whole number from 1"),
        ({"SplitIntoChunks": "many"}, 'SplitIntoChunks: "many" is no number from 0'),
        ({"UseProcesses": 0.7}, "UseProcesses: 0.7 is neither 0 (all cores) nor 0.5 (half of them) nor a number"),
        ({"UseProcessors": 1}, "UseProcessors: says the same as UseProcesses: name one of them"),
        ({"PrintImages": "yes?"}, 'PrintImages: "yes?" is neither true nor false'),
        ({"PrintImages": [True]}, "PrintImages: [true] is neither true nor false"),
        (
            {"FlattenedToLevel": "Patient"},
            'FlattenedToLevel: "Patient" is no level (permitted: patient, study, series)',
        ),
        ({"DICOMHome": "/no/such"}, "DICOMHome: there is no folder /no/such"),
        ({"DICOMHome": 3}, "DICOMHome: 3 is no path of a folder"),
        ({"OutputDirectory": "/dev/null"}, "OutputDirectory: /dev/null is no folder"),
        ({"SendEmail": True, "YourEmail": "a@b.c, d@e.f"}, "YourEmail: SendEmail needs one e-mail address (name@host)"),
        ({"SendEmail": True, "YourEmail": "a@b.c\nBcc: d@e.f"}, "YourEmail: SendEmail needs one e-mail address"),
        ({"SendEmail": True, "YourEmail": "x; touch /tmp/y"}, "YourEmail: SendEmail needs one e-mail address"),
        ({"SpecificHeadersOnly": True}, "featureset.txt cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence_and_changes_nothing(
    tmp_path: Path,
    folders: tuple[Path, Path],
    values: dict[str, Any],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = configuration(tmp_path / "config.json", *folders, **values)
    assert main(["backfill", "--niffler-config", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: ")
    assert sentence in line
    assert not folders[1].exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no JSON: line 1: Expecting value"),
        ("[1, 2]", "is no JSON object of keys and values"),
        ('{"Depth": 1, "Depth": 2}', "Depth: is there more than once; name it once"),
        ('{"Depth": 1 2}', "is no JSON: line 1: Expecting ',' delimiter"),
        ("\xff", "is no JSON text: it is not UTF-8"),
        ("[" * 100_000, "is no JSON: it is nested too deep"),
        (" " * (1 << 21), "is larger than any configuration"),
        ("{}", "DICOMHome: is missing; name the folder"),
    ],
)
def test_a_file_that_is_no_configuration_is_told_from_one(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(NifflerFileUnusable) as told:
        read_niffler_file(path)
    assert sentence in str(told.value)


def test_every_fault_is_told_at_once(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    path = configuration(tmp_path / "config.json", *folders, Depth="x", is16Bit="y", Other=1)
    with pytest.raises(NifflerFileUnusable) as told:
        read_niffler_file(path, ["nonsense"])
    assert len(str(told.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "is_list"),
    [
        ("\n \n", False),
        ("Nonsense\nPatient ID?x\n".replace(" ", ""), False),
        ("0_ProcedureCodeSequence_CodeValue\nNonsense", True),
        ("[Suite id]", True),
        ("file", True),
    ],
)
def test_a_list_that_names_no_column_is_refused(
    tmp_path: Path, folders: tuple[Path, Path], text: str, is_list: bool
) -> None:
    (tmp_path / "featureset.txt").write_text(text)
    path = configuration(tmp_path / "config.json", *folders, SpecificHeadersOnly=True)
    if is_list:
        assert read_niffler_file(path).features == tuple(text.split("\n"))
        return
    with pytest.raises(NifflerFileUnusable, match="names no column; list keywords such as PatientID"):
        read_niffler_file(path)


def test_commas_that_are_missing_or_too_many_are_no_fault(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    path = tmp_path / "config.json"
    path.write_text(f'{{"DICOMHome": "{folders[0]}"\n "Depth": "2"\n "OutputDirectory": "{folders[1]}",\n}}')
    assert read_niffler_file(path).depth == 2


@pytest.mark.parametrize("arguments", [["--set", "Depth=1"], ["--mail-server", "localhost"]])
def test_options_of_niffler_need_its_configuration(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backfill", "x", *arguments]) == 2
    assert "belong to --niffler-config" in capsys.readouterr().err


def test_our_configuration_for_one_of_niffler_loads_and_means_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configuration(tmp_path / "config.json", tmp_path / "not here", tmp_path / "out", UseProcesses=1)
    assert main(["config", "from-niffler", str(path)]) == 0
    text = capsys.readouterr().out
    (tmp_path / "ours.yml").write_text(text)
    ours = load_settings(tmp_path / "ours.yml")
    meant = read_niffler_file(path, needs_folders=False).settings(Settings())
    assert ours.media_settings == meant.media_settings
    assert ours.media.dir == tmp_path / "out/extracted-images"
    assert ours.dicom.dir == tmp_path / "not here"
    assert ours.num_workers == 1
    for key in ("Depth (1)", "FlattenedToLevel (patient)", "PublicHeadersOnly", "SendEmail"):
        assert key in text


FIRST_FORM = """\
input:
  dir: /in
output:
  dir: /out
  metadata_file: /lines.jsonl
  stream_format: h264
  stream_args: {pix_fmt: yuv420p, options: {crf: "19"}}
num_workers: 3
"""


def test_our_configuration_for_the_first_form_of_the_exporters_loads_and_means_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yml").write_text(FIRST_FORM)
    assert main(["config", "from-dme", str(tmp_path / "config.yml")]) == 0
    (tmp_path / "ours.yml").write_text(capsys.readouterr().out)
    ours = load_settings(tmp_path / "ours.yml")
    assert (str(ours.dicom.dir), str(ours.media.dir)) == ("/in", "/out")
    assert (str(ours.metadata.file), ours.num_workers) == ("/lines.jsonl", 3)
    assert ours.video.save_method_kwargs.encoding_args.options == {"crf": "19"}


def test_a_key_that_neither_form_has_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yml").write_text(FIRST_FORM.replace("metadata_file", "metadatafile"))
    assert main(["config", "from-dme", str(tmp_path / "config.yml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'config.yml'}:5: output.metadatafile: unknown key (permitted: input.dir")
