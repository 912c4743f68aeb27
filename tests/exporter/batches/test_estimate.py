"""An estimate says what a backfill costs, with an interval that holds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from exporter.batches import estimate as estimating
from exporter.batches.estimate import Interval, estimate
from exporter.inputs.backfill import Progress, backfill
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


def make_mixed_tree(tree: Path, *, planes: int, others: int, cines: int) -> None:
    """Images of random and of equal content, files that are no DICOM, and cines."""
    tree.mkdir()
    chance = random.Random(2)  # noqa: S311 - contents of test files
    for number in range(planes):
        plane = pydicom.dcmread(CT)
        plane.PixelData = bytes(chance.choice((0, 0, chance.randrange(256))) for _ in range(len(plane.PixelData)))
        plane.SOPInstanceUID = plane.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
        plane.save_as(tree / f"ct{number}")
    for number in range(others):
        (tree / f"mr{number}").write_bytes(MR.read_bytes())
        (tree / f"text{number}").write_text("no DICOM")
    for number in range(cines):
        (tree / f"cine{number}").write_bytes(CINE.read_bytes())


@pytest.mark.slow
@pytest.mark.skipif("EXPORTER_TEST_ESTIMATE" not in os.environ, reason="minutes on an idle machine")
def test_time_and_bytes_of_the_backfill_are_in_the_interval_of_nine_of_ten_samples(tmp_path: Path) -> None:
    tree, output = tmp_path / "in", tmp_path / "out"
    make_mixed_tree(tree, planes=200, others=40, cines=8)
    results = backfill(replace(request(tree, output), workers=1), Progress(), threading.Event())
    times = [time.monotonic() for _ in results]  # the first waits for the worker to start
    taken = times[-1] - times[0]
    written = sum(path.stat().st_size for path in (output / "media").rglob("*") if path.is_file())
    found = [estimate(request(tree, tmp_path / "none"), threading.Event(), seed=seed) for seed in range(10)]
    seconds, size = [one.core_seconds for one in found], [one.output_bytes for one in found]
    assert sum(one.low <= taken <= one.high for one in seconds) >= 9, (taken, seconds)
    assert sum(one.low <= written <= one.high for one in size) >= 9, (written, size)


@pytest.mark.slow
def test_bytes_and_kinds_are_those_of_the_backfill_in_nine_of_ten_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "PER_GROUP", 6)
    tree = tmp_path / "in"
    make_mixed_tree(tree, planes=40, others=10, cines=1)
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
