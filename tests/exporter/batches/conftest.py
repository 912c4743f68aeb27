"""A folder in which everything happens that depends on more than one file, and its local export."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from pydicom.data import get_testdata_file

from exporter.batches.plan import make_plan
from exporter.batches.running import run_batch
from exporter.inputs.backfill import BackfillRequest, Progress, backfill
from exporter.results.reconcile import Folders, reconcile
from exporter.settings.settings import Settings
from tests.exporter.batches.slurm_cluster import SlurmCluster, slurm_cluster
from tests.exporter.inputs.making import zipped

if TYPE_CHECKING:
    from collections.abc import Iterator

CT, MR, CINE = (
    Path(str(get_testdata_file(name))) for name in ("CT_small.dcm", "MR_small.dcm", "examples_ybr_color.dcm")
)


def make_tree(root: Path) -> Path:
    """Equal stems, equal UIDs, a changed copy, an archive with copies, a series, and files that are none."""
    for name, source in (
        ("a/x.dcm", CT),
        ("a/x.IMA", MR),
        ("a/X.acr", CT),
        ("b/copy.dcm", CT),
        ("b/cine.weird", CINE),
        ("z/last.dcm", MR),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, root / name)
    changed = pydicom.dcmread(CT)
    changed.PatientComments = "other content under the same UID"
    changed.save_as(root / "b" / "conflict.dcm")
    (root / "c.zip").write_bytes(zipped([("1.dcm", CT.read_bytes()), ("2/1", MR.read_bytes()), ("n.txt", b"no")]))
    for number in range(4):
        plane = pydicom.dcmread(CT)
        plane.SOPInstanceUID = plane.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        plane.SeriesInstanceUID = "1.2.4"
        plane.ImagePositionPatient = [0, 0, number * 5.0]
        plane.save_as(root / f"s{number}.dcm")
    (root / "notes.txt").write_text("no DICOM")
    (root / "odd\n'\udcff.dcm").write_bytes(MR.read_bytes())
    (root / "link").symlink_to(CT)
    return root


def request(folder: Path, output: Path, **sections: Any) -> BackfillRequest:
    return BackfillRequest(folder, output, Settings.model_validate(sections), workers=0)


def run_all(folder: Path, output: Path, batches: int, **sections: Any) -> None:
    """Plan, and run every batch, the last one first."""
    plan = make_plan(request(folder, output, **sections), batches)
    for batch in reversed(plan.batches):
        assert run_batch(plan, batch.number, workers=0, progress=Progress(), stop=threading.Event()).is_complete


def run_locally(folder: Path, output: Path, **sections: Any) -> None:
    for _ in backfill(request(folder, output, **sections), Progress(), threading.Event()):
        pass


def masked(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True)


def result_of(output: Path) -> tuple[list[str], dict[str, bytes], list[tuple[Any, ...]]]:
    """Everything that two exports have in common: lines in any order, media byte for byte, and the ledger's states."""
    from exporter.results.ledger import Ledger

    lines = sorted(masked(json.loads(text)) for text in (output / "metadata.jsonl").read_text().splitlines())
    files = {
        path.relative_to(output).as_posix(): b"" if path.name.endswith(".series.json") else path.read_bytes()
        for folder in ("media", "series")
        for path in (output / folder).rglob("*")
        if path.is_file()
    }
    with Ledger.open_read_only(output / "exporter.db") as ledger:
        rows = sorted(
            (
                *(one.name, one.state, one.reason, one.message, one.identity, one.base, one.size_bytes, one.mtime_ns),
                *(one.duplicate_of, one.conflict_with, one.settings_sha256, one.source_sha256, one.attempts),
            )
            for one in ledger.entries()
        )
    return lines, files, rows


def assert_sound(output: Path) -> None:
    report = reconcile(Folders(output / "exporter.db", output / "media", output / "metadata.jsonl"), deep=True)
    assert report.is_sound, report.faults
    assert not report.notes, report.notes


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("batches") / "in")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture(scope="session")
def local(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a local export of `tree`."""
    output = tmp_path_factory.mktemp("batches") / "local"
    run_locally(tree, output)
    assert_sound(output)
    return output
