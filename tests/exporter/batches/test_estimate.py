"""An estimate says what a backfill costs, with an interval that holds."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from pathlib import Path

import pydicom
import pytest

from exporter.batches import estimate as estimating
from exporter.batches.estimate import Interval, estimate
from tests.exporter.batches.conftest import CINE, CT, MR, request, run_locally

ROOT = Path(__file__).parents[3]


def test_nine_of_ten_samples_have_the_sum_in_their_interval() -> None:
    chance = random.Random(1)  # noqa: S311 - a population is no secret
    groups = [[chance.lognormvariate(mean, 0.8) for _ in range(number)] for mean, number in ((1, 900), (3, 90), (5, 9))]
    total = sum(map(sum, groups))
    hits = 0
    for _ in range(100):
        sampled = [(len(group), chance.sample(group, min(len(group), 30))) for group in groups]
        found = estimating._total(sampled, 0.0)
        hits += found.low <= total <= found.high
    assert hits >= 90
    assert estimating._total([(2, [3.0, 5.0])], 0.0) == Interval(8.0, 8.0, 8.0), "all were sampled"


@pytest.mark.slow
def test_bytes_and_kinds_are_those_of_the_backfill_in_nine_of_ten_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "PER_GROUP", 6)
    tree, chance = tmp_path / "in", random.Random(2)  # noqa: S311 - contents of test files
    tree.mkdir()
    for number in range(40):
        plane = pydicom.dcmread(CT)
        plane.PixelData = bytes(chance.choice((0, 0, chance.randrange(256))) for _ in range(len(plane.PixelData)))
        plane.SOPInstanceUID = plane.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
        plane.save_as(tree / f"ct{number}")
    for number in range(10):
        (tree / f"mr{number}").write_bytes(MR.read_bytes())
        (tree / f"text{number}").write_text("no DICOM")
    (tree / "cine").write_bytes(CINE.read_bytes())
    run_locally(tree, tmp_path / "local")
    written = sum(path.stat().st_size for path in (tmp_path / "local" / "media").rglob("*") if path.is_file())
    hits = 0
    for seed in range(10):
        found = estimate(request(tree, tmp_path / "out"), threading.Event(), seed=seed)
        hits += found.output_bytes.low <= written <= found.output_bytes.high
        assert found.kinds == {"failed: not_dicom": 10, "image": 50, "video": 1}
        assert 0 <= found.core_seconds.low < found.core_seconds.expected < found.core_seconds.high
        assert (found.files, found.cores_for(1e9)) == (61, 1)
    assert hits >= 9
    assert not (tmp_path / "out").exists()
    command = [sys.executable, "-m", "exporter", "backfill", str(tree), "--output", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, "--estimate", "--json"], cwd=ROOT, capture_output=True, check=True, text=True, timeout=100
    )
    said = json.loads(done.stdout)
    assert said["kinds"]["image"] == 50
    assert said["output_bytes"][0] <= said["output_bytes"][1] <= said["output_bytes"][2]
