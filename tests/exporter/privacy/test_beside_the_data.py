"""With a profile on, nothing that identifies a patient stands beside the data: names, ledger, output, reports."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from contextlib import closing
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import pytest

import exporter
from exporter.commands.app import main
from exporter.dicom.elements import quiet_reading
from exporter.inputs.scratch import Scratch
from exporter.outcome import Exported
from exporter.results.rebuild import rebuild
from exporter.results.reconcile import Folders, reconcile
from exporter.series.folder import series_folders
from exporter.settings.settings import load_settings
from tests.exporter.privacy import output
from tests.exporter.privacy.output import found_in, instance, left_behind, plant
from tests.exporter.writers.volumetric import CT, Stack, noise, save_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom.dataset import FileDataset

KEY = "a key of 32 bytes for tests alone"


class Setting:
    """An input with planted identifiers, a configuration with a key, and the commands run on them."""

    def __init__(self, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.capfd = capfd
        self.input = root / "in"
        self.out = root / "out"
        self.said: list[str] = []
        self.key("key", KEY)

    def key(self, name: str, text: str, mode: int = 0o600) -> Path:
        path = self.root / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def config(
        self, *, key: str = "key", profile: str = "basic", volume: dict[str, object] | None = None, **more: object
    ) -> str:
        path = self.root / "exporter.yml"
        privacy = {"profile": profile, "key_file": str(self.root / key), **more}
        copy = {"file": str(self.out / "copy.yml")}
        path.write_text(json.dumps({"privacy": privacy, "config": copy, "volume": volume or {}}))
        return str(path)

    def run(self, *words: str, config: str | None = "") -> int:
        arguments = [*words, *(["--config", config or self.config()] if config is not None else [])]
        code = main(arguments)
        captured = self.capfd.readouterr()
        self.said += [captured.out, captured.err]
        return code

    def backfill(self, config: str | None = "") -> int:
        return self.run("backfill", str(self.input), "--output", str(self.out), "--workers", "0", config=config)

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.out / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture
def setting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Setting:
    return Setting(tmp_path, capfd)


def test_what_is_planted_in_names_and_headers_is_nowhere_below_the_output_nor_said(setting: Setting) -> None:
    plant(setting.input)
    data = ("--data", str(setting.out))
    assert setting.backfill() == 3  # the text files are no instances
    lines = setting.lines()
    assert [line["export"]["status"] for line in lines] == ["exported"] * 3  # type: ignore[index]
    assert setting.backfill() == 3
    assert setting.lines() == lines
    assert "unchanged 7" in setting.said[-2]
    setting.run("backfill", str(setting.input), "--output", str(setting.out), "--dry-run")
    setting.run("status", *data, config=None)
    setting.run("failures", *data)
    setting.run("failures", "list", *data, "--json", config=None)
    assert setting.run("reconcile", *data) == 0
    assert setting.run("metadata", "csv", str(setting.out), config=None) == 0
    said = "\n".join(setting.said).replace(str(setting.root), "")
    assert found_in(said.encode()) == set()
    assert left_behind(setting.out) == {}
    assert setting.run("privacy", "check", str(setting.out), "--source", str(setting.input)) == 0


def test_no_copy_of_an_original_lies_below_the_output_and_a_crash_leaves_none_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mark = "0123456789abcdef"
    crashed = Scratch.outside(1 << 20)
    crashed.mark(mark)
    left = crashed.copy().finish()
    with Scratch.outside(1 << 20) as scratch:
        scratch.mark("fedcba9876543210")
        assert left.exists()  # another ledger's
    with Scratch.outside(1 << 20) as scratch:
        scratch.mark(mark)
        assert not left.exists()
        path = scratch.copy().finish()
        assert path.parent.stat().st_mode & 0o777 == 0o700
    assert not path.exists()
    assert not [*tmp_path.iterdir()]


def test_the_copy_of_the_configuration_names_no_place(setting: Setting) -> None:
    setting.input.mkdir()
    setting.backfill()
    copy = (setting.out / "copy.yml").read_text()
    assert "basic" in copy
    assert str(setting.root) not in copy


def test_the_operator_finds_a_failure_by_its_path_and_the_path_by_the_folder(setting: Setting) -> None:
    plant(setting.input)
    setting.backfill()
    path = f"{output.NAME}^{output.GIVEN}/{output.PATIENT}/{output.NAME}.txt"
    places = ("--data", str(setting.out), "--source", str(setting.input))
    assert setting.run("failures", "show", path, *places) == 0
    assert setting.run("failures", "show", str(setting.input / path), *places) == 0
    assert setting.run("failures", "retry", path, *places) == 0
    assert setting.backfill() == 3
    setting.run("failures", "list", *places)
    assert path in setting.said[-2]


def test_the_python_api_gives_keyed_names(tmp_path: Path, setting: Setting) -> None:
    plant(setting.input)
    settings = load_settings(tmp_path / "exporter.yml") if setting.config() else None
    for outcome in exporter.backfill(setting.input, setting.out, settings=settings, workers=0):
        assert found_in(repr(outcome).encode()) == set()
        assert not [*setting.out.glob("media/.partial/copies*")]  # of members of the archive
    alone = exporter.export_file(next(setting.input.glob("*/*/*.dcm")), tmp_path / "alone", settings=settings)
    assert isinstance(alone, Exported)
    assert found_in(repr(alone).encode()) == set()
    assert left_behind(tmp_path / "alone") == {}


def _other_key(setting: Setting) -> str:
    setting.key("other", KEY[::-1])
    return setting.config(key="other")


def _no_profile(setting: Setting) -> str:
    return setting.config(profile="none")


def _no_key(setting: Setting) -> str:
    return setting.config(key="absent")


def _open_key(setting: Setting) -> str:
    setting.key("open", KEY, 0o640)
    return setting.config(key="open")


def _short_key(setting: Setting) -> str:
    setting.key("short", "short")
    return setting.config(key="short")


def _empty_list(setting: Setting) -> str:
    (setting.root / "list").write_text("\n")
    return setting.config(exclude=str(setting.root / "list"))


def _no_list(setting: Setting) -> str:
    return setting.config(exclude=str(setting.root / "nothing"))


def _bad_table(setting: Setting) -> str:
    (setting.root / "table").write_text(f"original,pseudonym\n{output.PATIENT},\n")
    return setting.config(pseudonyms=str(setting.root / "table"))


@pytest.mark.parametrize(
    "fault", [_other_key, _no_profile, _no_key, _open_key, _short_key, _empty_list, _no_list, _bad_table]
)
def test_a_run_that_would_undo_what_an_output_began_with_does_not_start(
    setting: Setting, fault: Callable[[Setting], str]
) -> None:
    setting.input.mkdir()
    instance().save_as(setting.input / f"{output.NAME}.dcm")
    assert setting.backfill() == 0
    before = (setting.out / "metadata.jsonl").read_bytes()
    setting.said.clear()
    assert setting.backfill(fault(setting)) == 2
    sentence = setting.said[1]
    assert sentence.count("\n") == 1
    assert found_in(sentence.replace(str(setting.root), "").encode()) == set()
    assert (setting.out / "metadata.jsonl").read_bytes() == before


def test_an_output_of_originals_takes_no_profile(setting: Setting) -> None:
    setting.input.mkdir()
    instance().save_as(setting.input / "1.dcm")
    assert setting.backfill(setting.config(profile="none")) == 0
    assert setting.backfill() == 2
    assert setting.run("privacy", "check", str(setting.out), "--source", str(setting.input), config=None) == 3
    assert found_in("\n".join(setting.said).encode()) == set()


def test_what_would_keep_names_and_headers_of_inputs_is_refused_and_leaves_none(setting: Setting) -> None:
    plant(setting.input)
    niffler = setting.root / "niffler.json"
    niffler.write_text("{}")
    source, target = str(setting.input), ("--output", str(setting.out))
    no_batches = "batches cannot be planned for de-identified output"
    for words, code, said in (
        (("batch", "plan", source, *target), 1, no_batches),
        (("backfill", source, *target, "--engine", "processes"), 1, no_batches),
        (("backfill", "--niffler-config", str(niffler)), 2, "--niffler-config makes tables of headers as they are"),
    ):
        assert setting.run(*words) == code, setting.said[-2:]
        assert said in setting.said[-1]
        assert [path.name for path in setting.out.rglob("*") if path.is_file()] in ([], ["copy.yml"])
    assert found_in("".join(setting.said).encode()) == set()


def test_who_has_opted_out_is_skipped_and_withdrawn_and_comes_back_when_the_list_permits(setting: Setting) -> None:
    setting.input.mkdir()
    instance(1).save_as(setting.input / "1.dcm")
    instance(2, patient="OTHER0001", study="1.2.826.0.1.4712.1").save_as(setting.input / "2.dcm")
    assert setting.backfill() == 0
    (setting.root / "list").write_text(f"{output.PATIENT}\n")
    assert setting.backfill(setting.config(exclude=str(setting.root / "list"))) == 0
    assert len([*setting.out.glob("media/*.png")]) == 1
    told = setting.lines()[-1]
    assert told["export"]["status"] == "withdrawn"  # type: ignore[index]
    assert told["media_file"] is None
    assert setting.run("reconcile", "--data", str(setting.out)) == 0
    (setting.root / "list").write_text("NOBODY\n")
    assert setting.backfill(setting.config(exclude=str(setting.root / "list"))) == 0
    assert len([*setting.out.glob("media/*.png")]) == 2
    assert setting.run("reconcile", "--data", str(setting.out)) == 0
    assert left_behind(setting.out) == {}


def test_a_withdrawal_that_is_cut_off_is_finished_by_the_next_start(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporter.results import withdrawal

    setting.input.mkdir()
    instance(1).save_as(setting.input / "1.dcm")
    assert setting.backfill() == 0
    (setting.root / "list").write_text(f"{output.STUDY}\n")
    with monkeypatch.context() as cut:
        cut.setattr(withdrawal.intents, "remove", _cut_off)
        assert setting.backfill(setting.config(exclude=str(setting.root / "list"))) == 130
    assert [*setting.out.glob("media/*.png")]
    assert setting.backfill(setting.config(exclude=str(setting.root / "list"))) == 0
    assert not [*setting.out.glob("media/*.png")]
    assert len(setting.lines()) == 2


def _cut_off(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_table_gives_patients_their_pseudonyms_and_keeps_out_who_is_not_in_it(setting: Setting) -> None:
    setting.input.mkdir()
    instance(1).save_as(setting.input / "1.dcm")
    instance(2, patient="OTHER0001").save_as(setting.input / "2.dcm")
    instance(3, patient="").save_as(setting.input / "3.dcm")
    table = setting.root / "table.csv"
    table.write_text(f"original,pseudonym\n{output.PATIENT},S-001\n")
    config = setting.config(pseudonyms=str(table))
    assert setting.backfill(config) == 3
    assert [line["Patient ID"] for line in setting.lines()] == ["S-001"]
    table.write_text(f"original,pseudonym\n{output.PATIENT},S-002\nOTHER0001,S-001\n")
    assert setting.backfill(config) == 3
    statuses = [(line.get("Patient ID"), line["export"]["status"]) for line in setting.lines()]  # type: ignore[index]
    assert statuses[0] == ("S-001", "exported")
    assert statuses[1] == (None, "withdrawn")
    assert sorted(statuses[2:]) == [("S-001", "exported"), ("S-002", "exported")]
    assert left_behind(setting.out) == {}


def test_pseudonyms_that_are_asked_for_are_those_of_the_output(setting: Setting, tmp_path: Path) -> None:
    setting.input.mkdir()
    instance(1).save_as(setting.input / "1.dcm")
    setting.backfill()
    (line,) = setting.lines()
    for kind, value, expected in (
        ("patient", output.PATIENT, line["Patient ID"]),
        ("uid", output.STUDY, line["Study Instance UID"]),
        ("input", "1.dcm", line["dicom_file"]),
    ):
        assert setting.run("pseudonym", value, "--kind", kind) == 0
        assert setting.said[-2] == f"{expected}\n"
    crosswalk = tmp_path / "crosswalk.csv"
    assert setting.run("pseudonym", output.PATIENT, "--crosswalk", str(crosswalk)) == 0
    assert crosswalk.stat().st_mode & 0o777 == 0o600
    assert crosswalk.read_text().splitlines() == ["original,pseudonym", f"{output.PATIENT},{line['Patient ID']}"]
    assert setting.run("pseudonym", output.PATIENT, "--crosswalk", str(setting.out / "media" / "c.csv")) == 2
    assert setting.run("pseudonym", output.PATIENT, "--crosswalk", str(crosswalk)) == 2
    assert setting.run("pseudonym", output.PATIENT, config=None) == 2


def test_a_ledger_made_anew_knows_the_key_that_its_output_was_begun_with(setting: Setting) -> None:
    setting.input.mkdir()
    instance(1).save_as(setting.input / "1.dcm")
    setting.backfill()
    ledger = setting.out / "exporter.db"
    ledger.unlink()
    folders = Folders(ledger, setting.out / "media", setting.out / "metadata.jsonl", None)
    rebuild(folders)
    assert reconcile(folders).is_sound
    assert setting.backfill(_other_key(setting)) == 2
    assert setting.backfill() == 0
    assert len(setting.lines()) == 1


@pytest.mark.parametrize("place", ["notes.txt", f"{output.PATIENT}.txt"])
def test_a_check_finds_what_somebody_put_beside_the_data_and_says_where_alone(setting: Setting, place: str) -> None:
    setting.input.mkdir()
    instance(1).save_as(setting.input / "1.dcm")
    setting.backfill()
    (setting.out / place).write_text(f"{output.ACCESSION}\n")
    setting.said.clear()
    assert setting.run("privacy", "check", str(setting.out), "--source", str(setting.input)) == 3
    assert found_in("\n".join(setting.said).replace(str(setting.root), "").encode()) == set()
    assert ("notes.txt" in setting.said[0]) == (place == "notes.txt")


def test_media_in_a_shard_are_searched_and_one_that_cannot_be_read_is_named(setting: Setting) -> None:
    setting.input.mkdir()
    instance(1).save_as(setting.input / "1.dcm")
    assert setting.backfill() == 0
    assert setting.run("media", "compact", str(setting.out)) == 0
    assert not [*setting.out.glob("media/*.png")]
    check = ("privacy", "check", str(setting.out), "--source", str(setting.input))
    assert setting.run(*check) == 0
    with (setting.out / "media" / "shards" / "000001.tar").open("r+b") as shard:
        shard.seek(600)
        shard.write(b"damaged")
    setting.said.clear()
    assert setting.run(*check) == 3
    assert any("its shard is damaged" in text for text in setting.said)


def test_a_check_without_the_key_or_with_another_is_refused(setting: Setting) -> None:
    setting.input.mkdir()
    instance(1).save_as(setting.input / "1.dcm")
    setting.backfill()
    check = ("privacy", "check", str(setting.out), "--source", str(setting.input))
    assert setting.run(*check, config=None) == 2
    assert setting.run(*check, config=_other_key(setting)) == 2


@pytest.mark.slow
def test_the_volume_of_a_series_names_nobody_and_goes_with_its_patient(setting: Setting) -> None:
    planted = {"PatientID": output.PATIENT, "PatientName": output.NAME, "StudyInstanceUID": output.STUDY}
    pixels = noise((7, 6, 5)) & np.uint16(0x0FFF)
    inner = setting.input / output.NAME
    save_series(inner, Stack(), pixels, SOPClassUID=CT, Modality="CT", SeriesInstanceUID=output.SERIES, **planted)
    (inner / "0.dcm").rename(inner / f"{output.PATIENT}.dcm")
    assert setting.backfill(setting.config(volume={"series": True})) == 0
    (volume,) = setting.out.glob("series/*/*.nii.gz")
    assert nibabel.load(volume).shape == (5, 6, 7)  # type: ignore[attr-defined]
    assert left_behind(setting.out) == {}
    (setting.root / "list").write_text(f"{output.STUDY}\n")
    assert setting.backfill(setting.config(exclude=str(setting.root / "list"), volume={"series": True})) == 0
    assert not [path for path in setting.out.glob("series/**/*") if path.is_file()]
    *_, line = map(json.loads, (setting.out / "series.jsonl").read_text().splitlines())
    assert (line["export"]["status"], line["export"]["media"]) == ("withdrawn", [])
    assert reconcile(series_folders(setting.out)).is_sound
    assert not [path for path in setting.out.glob("media/**/*") if path.is_file()]


def test_times_of_change_are_keyed_in_the_ledger(setting: Setting) -> None:
    setting.input.mkdir()
    instance(1).save_as(setting.input / "1.dcm")
    setting.backfill()
    with closing(sqlite3.connect(setting.out / "exporter.db")) as connection:
        ((mtime_ns,),) = connection.execute("SELECT mtime_ns FROM instance").fetchall()
    assert mtime_ns != (setting.input / "1.dcm").stat().st_mtime_ns


def test_hostile_instances_fail_or_pass_without_a_trace(setting: Setting) -> None:
    setting.input.mkdir()
    for number, spoil in enumerate(SPOILT):
        data_set = instance(number)
        with quiet_reading():
            spoil(data_set)
            data_set.save_as(setting.input / f"{output.NAME}{number}.dcm")
    assert setting.backfill() in {0, 3}
    setting.run("failures", "--data", str(setting.out), config=None)
    assert setting.run("reconcile", "--data", str(setting.out)) == 0
    assert found_in("\n".join(setting.said).replace(str(setting.root), "").encode()) == set()
    assert left_behind(setting.out) == {}


def _two_contents(data_set: FileDataset) -> None:
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"{output.STUDY}.1"
    data_set.InstanceNumber = 4711


def _private_without_creator(data_set: FileDataset) -> None:
    data_set.add_new(0x00291010, "LO", f"{output.NAME} {output.PATIENT}")
    data_set.add_new(0x00290010, "LO", output.NAME)
    data_set.add_new(0x00290011, "LO", output.NAME)


def _no_date(data_set: FileDataset) -> None:
    data_set.add_new("StudyDate", "LO", f"{output.NAME} {output.BIRTH}")
    data_set.SpecificCharacterSet = "ISO_IR 126"


def _cut(data_set: FileDataset) -> None:
    data_set.PixelData = data_set.PixelData[:100]


def _burned_in(data_set: FileDataset) -> None:
    data_set.BurnedInAnnotation = "YES"


def _long(data_set: FileDataset) -> None:
    data_set.ImageComments = f"{output.NAME} " * 100_000


def _nobody(data_set: FileDataset) -> None:
    data_set.PatientID = ""


SPOILT = (_two_contents, _private_without_creator, _no_date, _cut, _burned_in, _long, _nobody)


def test_a_list_of_those_who_opted_out_needs_no_profile(setting: Setting) -> None:
    setting.input.mkdir()
    instance(1).save_as(setting.input / "1.dcm")
    (setting.root / "list").write_text(f"{output.PATIENT}\n")
    assert setting.backfill(setting.config(profile="none")) == 0
    assert setting.backfill(setting.config(profile="none", exclude=str(setting.root / "list"))) == 0
    assert [line["export"]["status"] for line in setting.lines()] == ["exported", "withdrawn"]  # type: ignore[index]
    assert not [*setting.out.glob("media/*.png")]
