"""Input folders and configurations for runs of the extractor."""

from __future__ import annotations

import csv
import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pydicom
from pydicom import examples
from pydicom.data import get_testdata_file

from exporter.commands.app import main

csv.field_size_limit(1 << 30)

DEFAULTS: dict[str, Any] = {
    "Depth": 1,
    "SplitIntoChunks": 1,
    "PrintImages": True,
    "CommonHeadersOnly": False,
    "PublicHeadersOnly": True,
    "SpecificHeadersOnly": False,
    "UseProcesses": 1,
    "FlattenedToLevel": "patient",
    "is16Bit": True,
    "SendEmail": False,
    "YourEmail": "test@test.test",
}


def sample(name: str) -> Path:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return Path(path)


def small_home(folder: Path) -> Path:
    """One CT image in a folder of its own."""
    (folder / "a").mkdir(parents=True)
    shutil.copyfile(examples.get_path("ct"), folder / "a/ct.dcm")
    return folder


def mixed_home(folder: Path) -> Path:
    """One folder deep: pictures, a cine, what has no picture, what is none, and files at other depths."""
    for below in ("a", "b", "a/deep", "a/.hidden"):
        (folder / below).mkdir(parents=True)
    shutil.copyfile(examples.get_path("ct"), folder / "a/IM1.dcm")
    other = pydicom.dcmread(examples.get_path("ct"))
    other.StudyDescription = "=1+1"
    other.SeriesDescription = "one\ntwo"
    other.save_as(folder / "b/IM1.dcm")
    shutil.copyfile(examples.get_path("rgb_color"), folder / "a/cine.dcm")
    shutil.copyfile(examples.get_path("mr"), folder / "b/noextension")
    shutil.copyfile(sample("waveform_ecg.dcm"), folder / "a/ecg.dcm")
    shutil.copyfile(sample("MR_truncated.dcm"), folder / "a/cut.dcm")
    (folder / "a/text.dcm").write_text("no DICOM")
    (folder / "b/text.dcm").write_text("no DICOM either")
    (folder / "b/notes.txt").write_text("no DICOM, and not called so")
    shutil.copyfile(examples.get_path("mr"), folder / "top.dcm")
    shutil.copyfile(examples.get_path("mr"), folder / "a/deep/below.dcm")
    return folder


def configuration(path: Path, home: Path, output: Path, **values: Any) -> Path:
    """A `config.json` with every key."""
    path.write_text(json.dumps({"DICOMHome": str(home), "OutputDirectory": str(output), **DEFAULTS, **values}))
    return path


def extract(config: Path, *arguments: object, expect: int = 0) -> str:
    """`exporter backfill --niffler-config`, to its end, in this process; what it said."""
    workers = [] if "--workers" in arguments else ["--workers", "0"]
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(["backfill", "--niffler-config", str(config), *workers, *map(str, arguments)])
    assert code == expect, said.getvalue()
    return said.getvalue()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def mapping(path: Path) -> list[tuple[str, str]]:
    """The pairs of a `mapping.csv`; a blank stands before the second value."""
    header, *lines = path.read_text().splitlines(keepends=True)
    assert header == "Original DICOM file location, PNG location \n"
    pairs = []
    for file, picture in csv.reader(lines):
        assert picture.startswith(" ")
        pairs.append((file, picture[1:]))
    return pairs


def lines_of(output: Path) -> dict[str, dict[str, Any]]:
    """The metadata lines by file."""
    found = map(json.loads, (output / "metadata.jsonl").read_text().splitlines())
    return {line["dicom_file"]: line for line in found}
