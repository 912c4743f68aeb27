"""Every line of `docs/migration.md` is true: each row of its tables has a check here."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
import yaml
from PIL import Image
from pydicom import examples

from exporter.commands.app import main
from exporter.niffler.niffler_file import read_niffler_file
from tests.exporter.niffler.making import DEFAULTS, configuration, extract, mapping, mixed_home, rows, small_home
from tests.exporter.niffler.test_notice import Mailbox, mailbox
from tests.exporter.niffler.test_reference import section

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["mailbox"]

EARLIER = ("UseProcessors", "UseHalfOfTheProcessorsOnly", "FlattenedToPatientLevel")


# -- side by side ---------------------------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with configurations of both tools and something to read at two depths."""
    home = tmp_path / "home"
    (home / "a/b/c").mkdir(parents=True)
    for place in ("ct.dcm", "a/b/c/ct.dcm"):
        shutil.copyfile(examples.get_path("ct"), home / place)
    configuration(tmp_path / "config.json", home, tmp_path / "niffler", Depth=0, SendEmail=True)
    ours = {"num_workers": 0, "dicom": {"dir": "home"}, "media": {"dir": "media"}, "metadata": {"file": "lines.jsonl"}}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(ours))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("there", "here"), section("Side by side"))
def test_what_stands_side_by_side_runs(
    workspace: Path, there: str, here: str, mailbox: tuple[Mailbox, str], capsys: pytest.CaptureFixture[str]
) -> None:
    box, server = mailbox
    command = here.strip("`").replace("localhost:25", server)
    if "--niffler-config" in command and "--mail-server" not in command:
        command += f" --mail-server {server}"
    program, *arguments = shlex.split(command)
    assert program == "exporter"
    code = main([*arguments, "--workers", "0"] if arguments[0] == "backfill" else arguments)
    said = capsys.readouterr()
    assert code == 0, said.err
    if arguments[0] == "config":
        (workspace / "ours.yml").write_text(said.out)
        assert main(["config", "check", "ours.yml"]) == 0
    elif "config.yml" in arguments:
        assert sorted(path.name for path in (workspace / "media").rglob("ct.png")) == ["ct.png", "ct.png"]
        assert len((workspace / "lines.jsonl").read_text().splitlines()) == 2
    else:
        (row,) = rows(workspace / "niffler/metadata.csv")
        assert row["file"].removeprefix(f"{workspace}/home/") == ("a/b/c/ct.dcm" if "Depth 3" in there else "ct.dcm")
        assert bool(mapping(workspace / "niffler/mapping.csv")) == ("PrintImages" not in there)
        assert [message["Subject"] for message in box.messages] == ["The image conversion has been complete"]


# -- keys -----------------------------------------------------------------------------------------------------------


class ExtractorHarness:
    """A place for one key's check."""

    def __init__(self, folder: Path, mail: tuple[Mailbox, str]) -> None:
        self.folder = folder
        self.mail = mail
        self.out = folder / "out"

    def extract(self, home: Path, expect: int = 0, **values: Any) -> str:
        config = configuration(self.folder / "config.json", home, self.out, **values)
        return extract(config, "--mail-server", self.mail[1], expect=expect)

    def files(self) -> list[str]:
        return [Path(row["file"]).name for row in rows(self.out / "metadata.csv")]


def _dicom_home(harness: ExtractorHarness) -> None:
    home = small_home(harness.folder / "home")
    harness.out = home / "root"
    for _ in range(2):  # the second time there are copies and pictures one folder deep
        harness.extract(home, Depth=1)
        assert harness.files() == ["ct.dcm"]
    shutil.copyfile(examples.get_path("ct"), home / "top.dcm")
    harness.extract(home, Depth=0)
    assert harness.files() == ["top.dcm"]
    harness.out = home
    harness.extract(home, Depth=0)
    assert harness.files() == ["top.dcm"]


def _output_directory(harness: ExtractorHarness) -> None:
    home = small_home(harness.folder / "home")
    harness.extract(home, PrintImages=False)
    shutil.copyfile(examples.get_path("mr"), home / "a/new.dcm")
    harness.extract(home, PrintImages=False)
    assert harness.files() == ["ct.dcm", "new.dcm"]


def _depth(harness: ExtractorHarness) -> None:
    home = mixed_home(harness.folder / "home")
    said = harness.extract(home, Depth=0, PrintImages=False)
    assert harness.files() == ["top.dcm"]
    assert "elsewhere" not in said
    shutil.copyfile(home / "top.dcm", home / "a/named otherwise")
    said = harness.extract(home, expect=3, PrintImages=False)
    assert "2 of them are DICOM but not called *.dcm: Niffler would have missed them" in said
    assert "2 files are not 1 folders deep" in said


def _split_into_chunks(harness: ExtractorHarness) -> None:
    home = small_home(harness.folder / "home")
    shutil.copyfile(home / "a/ct.dcm", home / "a/second.dcm")
    harness.extract(home, SplitIntoChunks=7, PrintImages=False)
    assert sorted(path.name for path in (harness.out / "meta").iterdir()) == ["metadata_0.csv", "metadata_1.csv"]
    assert sorted(path.name for path in (harness.out / "maps").iterdir()) == ["mapping_0.csv", "mapping_1.csv"]


def _print_images(harness: ExtractorHarness) -> None:
    harness.extract(small_home(harness.folder / "home"), PrintImages=False)
    assert harness.files() == ["ct.dcm"]
    assert not [path for path in (harness.out / "extracted-images").rglob("*") if path.is_file()]
    assert b'"media_type":"none"' in (harness.out / "metadata.jsonl").read_bytes()


def _common_headers_only(harness: ExtractorHarness) -> None:
    home = small_home(harness.folder / "home")
    lacking = pydicom.dcmread(home / "a/ct.dcm")
    del lacking.KVP
    for number in range(10):
        (lacking.save_as if number < 1 else pydicom.dcmread(home / "a/ct.dcm").save_as)(home / f"a/{number}.dcm")
    harness.extract(home, CommonHeadersOnly=True, PrintImages=False, SplitIntoChunks=2)
    assert "KVP" in rows(harness.out / "metadata.csv")[0]  # in 10 of 11
    lacking.save_as(home / "a/1.dcm")
    harness.extract(home, CommonHeadersOnly=True, PrintImages=False, SplitIntoChunks=2)
    assert "KVP" not in rows(harness.out / "metadata.csv")[0]  # in 9 of 11
    assert "KVP" in rows(harness.out / "meta/metadata_0.csv")[0]


def _public_headers_only(harness: ExtractorHarness) -> None:
    home = small_home(harness.folder / "home")
    harness.extract(home, PrintImages=False)
    public = rows(harness.out / "metadata.csv")[0]
    harness.extract(home, PrintImages=False, PublicHeadersOnly=False)
    private = rows(harness.out / "metadata.csv")[0]
    assert "[Suite id]" in private
    assert all(column.startswith("[") or " " in column for column in private.keys() - public.keys())
    assert not any(column.startswith("[") or " " in column for column in public)


def _specific_headers_only(harness: ExtractorHarness) -> None:
    (harness.folder / "featureset.txt").write_text("Modality\nNothing\n")
    said = harness.extract(small_home(harness.folder / "home"), PrintImages=False, SpecificHeadersOnly=True)
    assert list(rows(harness.out / "metadata.csv")[0]) == ["Modality", "Nothing", "file", "has_pix_array", "category"]
    assert "featureset.txt lists columns that no file has, which are empty: Nothing" in said


def _use_processes(harness: ExtractorHarness) -> None:
    home = small_home(harness.folder / "home")
    for value in (0, 0.5, 1, "2", 500):
        config = read_niffler_file(configuration(harness.folder / "config.json", home, harness.out, UseProcesses=value))
        assert config.workers >= 1


def _flattened_to_level(harness: ExtractorHarness) -> None:
    home = small_home(harness.folder / "home")
    for number, study in enumerate(("1.2.3", "1.2.4")):
        nobody = pydicom.dcmread(home / "a/ct.dcm")
        nobody.PatientID, nobody.StudyInstanceUID = "", study
        nobody.save_as(home / f"a/nobody-{number}.dcm")
    harness.extract(home)
    folders = [Path(picture).parent.name for _, picture in mapping(harness.out / "mapping.csv")]
    assert len(set(folders)) == 3
    assert all(len(folder) == 56 for folder in folders)


def _is_16_bit(harness: ExtractorHarness) -> None:
    home = small_home(harness.folder / "home")
    shutil.copyfile(examples.get_path("palette_color"), home / "a/palette.dcm")
    modes = {}
    for value in ("true", "false"):
        harness.out = harness.folder / value
        harness.extract(home, is16Bit=value)
        (picture, *_) = [picture for file, picture in mapping(harness.out / "mapping.csv") if file.endswith("ct.dcm")]
        with Image.open(picture) as image:
            modes[value] = image.mode
    assert modes == {"true": "I;16", "false": "L"}


def _send_email(harness: ExtractorHarness) -> None:
    home = mixed_home(harness.folder / "home")
    harness.extract(home, Depth=0, PrintImages=False, SendEmail=True)
    harness.extract(home, expect=3, PrintImages=False, SendEmail=True)
    harness.extract(home, Depth=0, PrintImages=False, SendEmail=False)
    subjects = [message["Subject"] for message in harness.mail[0].messages]
    assert subjects == ["The image conversion has been complete", "The image conversion has failed"]


def _your_email(harness: ExtractorHarness) -> None:
    harness.extract(small_home(harness.folder / "home"), PrintImages=False, SendEmail=True, YourEmail="me@host.example")
    assert harness.mail[0].recipients == ["me@host.example"]


CHECKS: dict[str, Callable[[ExtractorHarness], None]] = {
    "DICOMHome": _dicom_home,
    "OutputDirectory": _output_directory,
    "Depth": _depth,
    "SplitIntoChunks": _split_into_chunks,
    "PrintImages": _print_images,
    "CommonHeadersOnly": _common_headers_only,
    "PublicHeadersOnly": _public_headers_only,
    "SpecificHeadersOnly": _specific_headers_only,
    "UseProcesses": _use_processes,
    "FlattenedToLevel": _flattened_to_level,
    "is16Bit": _is_16_bit,
    "SendEmail": _send_email,
    "YourEmail": _your_email,
}


@pytest.mark.parametrize("key", [row[0].strip("`") for row in section("Niffler's keys")])
def test_each_key_does_what_the_page_says(tmp_path: Path, key: str, mailbox: tuple[Mailbox, str]) -> None:
    CHECKS[key](ExtractorHarness(tmp_path, mailbox))


def test_the_page_has_every_key() -> None:
    assert {row[0].strip("`") for row in section("Niffler's keys")} == {"DICOMHome", "OutputDirectory", *DEFAULTS}


# -- output and names -----------------------------------------------------------------------------------------------


def test_the_page_names_everything_in_the_output_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    extract(configuration(tmp_path / "config.json", mixed_home(tmp_path / "home"), out), expect=3)
    listed = {row[0].strip("`").rstrip("/") for row in section("Niffler's output")}
    folders = {row[0].strip("`") for row in section("Classes of failures")}
    assert folders == {f"failed-dicom/{number}" for number in range(1, 6)}
    assert all((out / name).is_dir() for name in folders)
    found = {path.name for path in out.iterdir() if path.name.partition(".db")[0] != "exporter"}
    assert found - {"metadata.jsonl.lock"} == listed - {"exporter.db"}


def test_the_first_form_of_the_exporters_keys_is_that_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Any] = {"output.stream_args": {"pix_fmt": "yuv420p"}, "num_workers": 7}
    table = {row[0].strip("`"): row[1].strip("`") for row in section("The exporter's keys")}
    assert len(table) == 6
    for old, new in table.items():
        given = values.get(old, "h264" if "format" in old else "/somewhere")
        (tmp_path / "config.yml").write_text(yaml.safe_dump(_nested({"input.dir": "/in"} | {old: given})))
        assert main(["config", "from-dme", str(tmp_path / "config.yml")]) == 0
        assert yaml.safe_load(capsys.readouterr().out) == _nested({"dicom.dir": "/in"} | {new: given})


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for path, value in values.items():
        *above, last = path.split(".")
        place = whole
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
    return whole


# -- the sample configurations ---------------------------------------------------------------------------------------

NIFFLER_SAMPLES = (
    """{
\t"DICOMHome": "/opt/data/new-study",
\t"OutputDirectory": "/opt/data/new-study/root",
\t"Depth": 0,
\t"SplitIntoChunks": 1,
\t"PrintImages": true,
\t"CommonHeadersOnly": false,
\t"PublicHeadersOnly": true,
\t"SpecificHeadersOnly": false
\t"UseProcesses": 0,
\t"FlattenedToLevel": "patient",
\t"is16Bit":true,
\t"SendEmail": true,
\t"YourEmail": "test@test.test",

}
""",
    json.dumps(
        {
            "DICOMHome": "/opt/data/new-study",
            "OutputDirectory": "/opt/data/new-study/root",
            "Depth": 0,
            "SplitIntoChunks": 1,
            "PrintImages": True,
            "CommonHeadersOnly": False,
            "UseProcesses": 0,
            "FlattenedToLevel": "patient",
            "is16Bit": True,
            "SendEmail": True,
            "YourEmail": "test@test.test",
        }
    ),
)
"""With all keys (its commas are not where JSON has them), and of the version before."""
EXPORTER_SAMPLE = """\
num_workers: 32
dicom:
  dir: "/zfs/wficai/pda/batch_2/"
  recursive: true
media:
  dir: "/scratch/dane2/dme/batch_2/"
  overwrite: true
metadata:
  file: "/scratch/dane2/dme/metadata.jsonl"
  append: false
config:
  file: "/scratch/dane2/dme/config.yml"
video:
  extension: ".mp4"
  save_method_kwargs:
    encoding_format: "h264"
    encoding_args:
      pix_fmt: "yuv420p"
      options:
        crf: "17"
image:
  extension: ".png"
  save_method_kwargs:
    pil_writer_params: {}
"""
_APART = """
set -e
for entry in /*; do
  if [ -L "$entry" ]; then cp -P "$entry" "$1/"
  elif [ -d "$entry" ] && [ "$entry" != /opt ]; then mkdir -p "$1$entry"; mount --rbind "$entry" "$1$entry"
  fi
done
exec chroot "$1" sh -c 'cd "$0"; exec "$@"' "$PWD" $2
"""
"""A root of its own, in which absolute paths of samples can be made: nothing of it is left outside."""


def apart(folder: Path, home: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command where one DICOM file lies in `home`, an absolute path."""
    if str(sys.prefix).startswith("/opt") or str(sys.base_prefix).startswith("/opt"):
        pytest.skip("this Python lies where a sample's data lie")
    root = folder / "root"
    (root / home.strip("/")).mkdir(parents=True)
    shutil.copyfile(examples.get_path("ct"), root / home.strip("/") / "ct.dcm")
    unshare = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mount namespaces are not permitted here")
    whole = [*unshare, "sh", "-c", _APART, "sh", str(root), f"{sys.executable} -m exporter {command}"]
    return subprocess.run(whole, check=False, capture_output=True, text=True, cwd=folder, timeout=120)


@pytest.mark.parametrize("text", NIFFLER_SAMPLES)
def test_the_sample_of_niffler_runs_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    done = apart(tmp_path, "/opt/data/new-study", "backfill --niffler-config config.json --mail-server 127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "did not take the mail" in done.stderr  # there is no mail server
    out = tmp_path / "root/opt/data/new-study/root"
    (row,) = rows(out / "metadata.csv")
    assert row["file"] == "/opt/data/new-study/ct.dcm"
    assert len(list((out / "extracted-images").glob("*/*.png"))) == 1


def test_the_sample_of_the_exporter_runs_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(EXPORTER_SAMPLE)
    # 32 workers are its wish, and one file needs one of them.
    done = apart(tmp_path, "/zfs/wficai/pda/batch_2", "backfill --config config.yml --output out --workers 1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "root/scratch/dane2/dme/batch_2/ct.png").is_file()
    assert len((tmp_path / "root/scratch/dane2/dme/metadata.jsonl").read_text().splitlines()) == 1
