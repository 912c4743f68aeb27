"""Whatever the batches, their merge equals the local export of the same folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.batches.merging import merge
from exporter.batches.plan import make_plan
from tests.exporter.batches.conftest import assert_sound, request, result_of, run_all, run_locally

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("batches", [3, 50])
def test_media_lines_and_ledger_are_those_of_a_local_run(tree: Path, local: Path, tmp_path: Path, batches: int) -> None:
    output = tmp_path / "out"
    run_all(tree, output, batches)
    report = merge(output)
    assert result_of(output) == result_of(local)
    assert (report.duplicates, report.conflicts > 0) == (6, True)
    assert_sound(output)


def test_a_second_plan_adds_what_is_new_as_a_second_local_run_does(tmp_path: Path, tree: Path) -> None:
    folder, output, other = tmp_path / "in", tmp_path / "out", tmp_path / "local"
    folder.mkdir()
    for name in ("s0.dcm", "s1.dcm"):
        shutil.copy(tree / name, folder)
    run_locally(folder, other)
    run_all(folder, output, 2)
    merge(output)
    assert make_plan(request(folder, output)).units == 0, "nothing is left to do"
    assert merge(output).exported == 0
    shutil.copy(tree / "s0.dcm", folder / "again.dcm")
    shutil.copy(tree / "s2.dcm", folder / "s1.dcm")  # changed
    shutil.copy(tree / "s3.dcm", folder / "s1.ima")  # wants the name of another
    run_locally(folder, other)
    run_all(folder, output, 2)
    merge(output)
    assert result_of(output) == result_of(other)
    assert_sound(output)


def test_one_archive_is_a_batch_of_its_own(tree: Path, tmp_path: Path) -> None:
    run_locally(tree / "c.zip", tmp_path / "local")
    run_all(tree / "c.zip", tmp_path / "out", 3)
    merge(tmp_path / "out")
    assert result_of(tmp_path / "out") == result_of(tmp_path / "local")


@pytest.mark.slow
def test_series_volumes_of_processes_are_those_of_a_local_run(tree: Path, tmp_path: Path) -> None:
    config, outputs = tmp_path / "config.yml", [tmp_path / "local", tmp_path / "processes"]
    config.write_text("volume: {series: true}\n")
    for output in outputs:
        command = [sys.executable, "-m", "exporter", "backfill", str(tree), "--config", str(config)]
        command += ["--output", str(output), "--workers", "2", "--engine", output.name]
        assert subprocess.run(command, cwd=ROOT, check=False, timeout=100).returncode == 3
        assert_sound(output)
    first, second = map(result_of, outputs)
    assert any(name.endswith(".nii.gz") and name.startswith("series/") for name in first[1])
    assert first == second
