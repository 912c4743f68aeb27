"""Writers of other distributions: found by their entry points, the same in every process, refused where unusable."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

import exporter
from exporter.outcome import Exported, Failed, WriterOrigin
from exporter.settings.settings import MediaSettings, Settings
from exporter.work import pipeline
from exporter.writers.discovery import GROUP, WriterUnusable, check_origins, enabled_writers, installed_writers
from tests.product.running import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCUMENTATION = Path(__file__).resolve().parents[3] / "docs/media.md"
ACME = WriterOrigin("registration", "acme-registration", "1.0")
TINY = """
from exporter.outcome import MediaType
from exporter.writers.contract import InstancePart, Written
from exporter.writers.durable_write import media_file, write_new

class Tiny:
    kind = MediaType.REPORT
    part = InstancePart.{part}

    def score(self, instance, settings):
        return {score}

    def write(self, task):
        path = task.folder / "0.part"
        write_new(path, [b"tiny"])
        return Written((media_file(path, self.kind, ".tiny", "text"),))
"""


def distribution(folder: Path, name: str, source: str, points: dict[str, str], version: str = "1.0") -> None:
    """Lay a distribution of one module out as an installer would."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name.replace('-', '_')}.py").write_text(source)
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = "".join(f"{point} = {value}\n" for point, value in points.items())
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of distributions that this process and its children find."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    installed_writers.cache_clear()
    yield folder
    installed_writers.cache_clear()
    for name in [name for name, module in sys.modules.items() if str(folder) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


@pytest.fixture
def documented(plugins: Path) -> Path:
    """The distribution of the documentation, word by word."""
    text = DOCUMENTATION.read_text()
    (project,) = re.findall(r"^```toml\n(# pyproject\.toml\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    (source,) = re.findall(r"^```python\n(# acme_registration\.py\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    found = tomllib.loads(project)["project"]
    distribution(plugins, found["name"], source, found["entry-points"][GROUP], found["version"])
    return plugins


@pytest.fixture
def registrations(tmp_path: Path) -> Path:
    """A folder with one spatial registration."""
    matrix, holder, item, dataset = Dataset(), Dataset(), Dataset(), Dataset()
    matrix.FrameOfReferenceTransformationMatrix = [1, 0, 0, 0.123456, *([0] * 11), 1]
    holder.MatrixSequence = [matrix]
    item.MatrixRegistrationSequence = [holder]
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.1"
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (generate_uid() for _ in range(3))
    dataset.RegistrationSequence = [item]
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    folder = tmp_path / "in"
    folder.mkdir()
    dataset.save_as(folder / "registration.dcm", enforce_file_format=True)
    return folder


def line_of(out: Path) -> dict[str, Any]:
    (line,) = (out / "metadata.jsonl").read_text().splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.usefixtures("documented")
def test_the_documented_writer_exports_through_the_command_line(registrations: Path, tmp_path: Path) -> None:
    config = tmp_path / "exporter.yml"
    config.write_text("writers:\n- name: registration\n  options: {digits: 3}\n")
    assert run("config", "check", config).returncode == 0
    done = run("backfill", registrations, "--output", tmp_path / "out", "--config", config)
    assert done.returncode == 0, done.stderr
    line = line_of(tmp_path / "out")
    assert (line["media_file"], line["media_type"]) == ("registration.json", "report")
    assert line["export"]["writers"] == [
        {"name": "registration", "distribution": "acme-registration", "version": "1.0"}
    ]
    written = json.loads((tmp_path / "out/media/registration.json").read_text())
    assert written["matrices"][0][:4] == [1, 0, 0, 0.123]
    told = run("explain", registrations / "registration.dcm").stdout
    assert "report by registration of acme-registration 1.0" in told


@pytest.mark.usefixtures("documented")
@pytest.mark.parametrize("workers", [0, 1])
def test_the_writer_is_there_with_and_without_worker_processes_until_the_settings_switch_it_off(
    registrations: Path, tmp_path: Path, workers: int
) -> None:
    path = registrations / "registration.dcm"
    exported = exporter.export_file(path, tmp_path / "on", Settings(num_workers=workers))
    assert isinstance(exported, Exported), exported
    assert exported.writers == (ACME,)
    off = Settings.model_validate({"num_workers": workers, "writers": [{"name": "registration", "enabled": False}]})
    assert exporter.export_file(path, tmp_path / "off", off).status == "skipped"


def test_without_writers_of_others_the_line_says_null_and_the_hash_is_as_ever(
    plugins: Path, make_instance: Callable[..., Path], tmp_path: Path
) -> None:
    import numpy as np

    distribution(plugins, "tiny", TINY.format(part="DOCUMENT", score=None), {"tiny": "tiny:Tiny"})
    outcome = exporter.export_file(make_instance(np.zeros((8, 8), np.uint8)), tmp_path / "out", Settings(num_workers=0))
    assert isinstance(outcome, Exported)
    assert line_of(tmp_path / "out")["export"]["writers"] is None
    named = MediaSettings.model_validate({"writers": [{"name": "tiny"}]})
    assert named.settings_sha256 != MediaSettings().settings_sha256
    assert "writers" not in MediaSettings().model_dump(exclude_defaults=True)


def test_writers_come_in_the_order_of_their_names_whatever_the_order_of_their_folders(plugins: Path) -> None:
    source = TINY.format(part="CONTENT", score=1)
    for name in ("zebra", "adder", "mouse"):
        distribution(plugins, f"of-{name}", source, {name: f"of_{name}:Tiny"})
    assert [one.origin.name for one in installed_writers()] == ["adder", "mouse", "zebra"]


def test_a_distribution_without_metadata_is_named_unknown(plugins: Path) -> None:
    distribution(plugins, "bare", TINY.format(part="CONTENT", score=1), {"tiny": "bare:Tiny"})
    (plugins / "bare-1.0.dist-info/METADATA").unlink()
    assert [one.origin for one in installed_writers()] == [WriterOrigin("tiny", "unknown", "unknown")]


@pytest.mark.parametrize(
    ("source", "point", "expected"),
    [
        ("import no_such_module", "one:Tiny", "cannot be imported (ModuleNotFoundError"),
        ("1 / 0", "one:Tiny", "cannot be imported (ZeroDivisionError"),
        ("import sys; sys.exit(0)", "one:Tiny", "cannot be imported (SystemExit"),
        ("def broken(", "one:Tiny", "cannot be imported (SyntaxError"),
        ("", "one:Tiny", "cannot be imported (AttributeError"),
        ("Tiny = 7", "one:Tiny", "it is no class but int"),
        ("class Tiny:\n def __init__(self, x): pass", "one:Tiny", "expected is a class that needs no arguments"),
        ("class Tiny: pass", "one:Tiny", "`kind` is None"),
        (TINY.replace("REPORT", "NONE").format(part="CONTENT", score=1), "one:Tiny", "`kind` is <MediaType.NONE"),
        (TINY.replace("InstancePart.{part}", "'pixels'").format(score=1), "one:Tiny", "`part` is 'pixels'"),
        (TINY.replace("def write", "def writes").format(part="CONTENT", score=1), "one:Tiny", "method write(task)"),
        (TINY.replace(", settings)", ")").format(part="CONTENT", score=1), "one:Tiny", "score(instance, settings)"),
    ],
)
def test_a_writer_that_cannot_be_used_ends_the_command_before_anything_is_written(
    plugins: Path, registrations: Path, tmp_path: Path, source: str, point: str, expected: str
) -> None:
    distribution(plugins, "one", source, {"faulty": point}, "2.5")
    with pytest.raises(WriterUnusable, match=re.escape(expected)) as caught:
        installed_writers()
    for named in ("'faulty'", point, "distribution one 2.5"):
        assert named in str(caught.value)
    with pytest.raises(WriterUnusable):
        exporter.export_file(registrations / "registration.dcm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [("backfill", "IN", "--output", "OUT"), ("run", "--data", "OUT"), ("serve", "--data", "OUT")]
)
def test_commands_say_which_writer_cannot_be_used_and_exit_as_for_a_wrong_configuration(
    plugins: Path, registrations: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    distribution(plugins, "one", "import no_such_module", {"faulty": "one:Tiny"})
    places = {"IN": registrations, "OUT": tmp_path / "out"}
    done = run(*(places.get(argument, argument) for argument in arguments))
    assert done.returncode == 2, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert "'faulty' (one:Tiny) of the distribution one 1.0" in sentence
    assert "no_such_module" in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("names", "expected"), [(("same", "same"), "of-a"), (("image", "other"), "of the exporter")])
def test_two_writers_of_one_name_are_refused(plugins: Path, names: tuple[str, str], expected: str) -> None:
    for folder, name in zip("ab", names, strict=True):
        distribution(plugins, f"of-{folder}", TINY.format(part="CONTENT", score=1), {name: f"of_{folder}:Tiny"})
    with pytest.raises(WriterUnusable, match=expected):
        installed_writers()


@pytest.mark.usefixtures("documented")
def test_settings_of_a_writer_that_is_not_installed_are_refused() -> None:
    settings = MediaSettings.model_validate({"writers": [{"name": "registrations"}]})
    with pytest.raises(WriterUnusable, match=r"'registrations', which is not installed \(installed: registration\)"):
        enabled_writers(settings.writers)


@pytest.mark.usefixtures("documented")
def test_a_worker_that_finds_other_writers_than_its_exporter_does_not_start() -> None:
    check_origins([{"name": "registration", "distribution": "acme-registration", "version": "1.0"}])
    values = {"media": {}, "settings_sha256": "", "installed_writers": []}
    with pytest.raises(WriterUnusable, match=r"registration of acme-registration 1\.0\) than .*\(none\)"):
        pipeline.Pipeline(values)


def test_two_writers_that_fit_equally_well_are_an_error_of_the_instance(
    plugins: Path, registrations: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        distribution(plugins, name, TINY.format(part="CONTENT", score=50), {name: f"{name}:Tiny"})
    outcome = exporter.export_file(registrations / "registration.dcm", tmp_path / "out", Settings(num_workers=0))
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.may_pass) == ("internal", False)
    assert "one.Tiny and two.Tiny have the same score (50)" in outcome.message


@pytest.mark.parametrize(("score", "suffix"), [(49, ".png"), (51, ".tiny"), (50, None)])
def test_the_higher_score_writes_whatever_the_kind(
    plugins: Path, make_instance: Callable[..., Path], tmp_path: Path, score: int, suffix: str | None
) -> None:
    import numpy as np

    distribution(plugins, "tiny", TINY.format(part="PIXELS", score=score), {"tiny": "tiny:Tiny"})
    outcome = exporter.export_file(make_instance(np.zeros((8, 8), np.uint8)), tmp_path / "out", Settings(num_workers=0))
    if suffix is None:
        assert isinstance(outcome, Failed)
        assert "ImageWriter" in outcome.message
        return
    assert isinstance(outcome, Exported)
    assert [medium.suffix for medium in outcome.media] == [suffix]
