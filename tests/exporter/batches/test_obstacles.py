"""Obstacles around batches: full and read-only disks, names of 4 KB, clocks: one sentence, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from exporter.batches.merging import merge
from exporter.batches.plan import make_plan
from exporter.batches.view import look_at
from tests.exporter.batches.conftest import CT, assert_sound, request, result_of, run_all, run_locally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]


def test_names_of_four_kilobytes_are_those_of_a_local_run(tmp_path: Path) -> None:
    root = tmp_path / "in"
    deep = root / "a\n\udcff'\""
    while len(os.fsencode(deep)) < 3700:
        deep /= "d" * 200
    deep.mkdir(parents=True)
    (deep / "x.dcm").write_bytes(CT.read_bytes())
    (root / "y.dcm").write_bytes(CT.read_bytes())
    run_locally(root, tmp_path / "local")
    run_all(root, tmp_path / "out", 2)
    merge(tmp_path / "out")
    assert result_of(tmp_path / "out") == result_of(tmp_path / "local")
    assert len((tmp_path / "out" / "metadata.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(("behind_s", "is_running"), [(-300.0, True), (100.0, True), (300.0, False)])
def test_a_batch_runs_while_it_shows_signs_of_life_by_the_file_systems_clock(
    tree: Path, tmp_path: Path, behind_s: float, is_running: bool
) -> None:
    plan = make_plan(request(tree, tmp_path / "out"), 1)
    status = plan.folder_of(1) / "run-1" / "status.json"
    status.parent.mkdir(parents=True)
    said = {"host": "h", "pid": 1, "seconds": 9.0, "before": 0, "is_over": False, "exported": 2, "bytes": 0}
    status.write_text(json.dumps(said | {"skipped": {}, "failed": {}}))
    os.utime(status, (time.time() - behind_s,) * 2)
    view = look_at(plan)
    assert (view.running, view.waiting) == (is_running, not is_running)


# -- disks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def remount(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Mount a file system in memory at ``out``, and change its options."""
    (tmp_path / "out").mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs", tmp_path / "out"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", "--lazy", tmp_path / "out"], check=True)

        def changed(options: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{options}", tmp_path / "out"], check=True)

        yield changed


def exporter(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "exporter", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


def assert_one_sentence(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert done.returncode == code, done.stderr
    told = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(told) == 1, done.stderr
    assert words in told[0].lower()


@pytest.mark.slow
def test_an_output_that_is_full_or_read_only_loses_nothing(tmp_path: Path, remount: Callable[[str], None]) -> None:
    root, output = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    plane = pydicom.dcmread(CT)
    for number in range(12):
        plane.SOPInstanceUID = plane.file_meta.MediaStorageSOPInstanceUID = f"1.2.8.{number}"
        plane.save_as(root / f"{number:02}.dcm")
    run_locally(root, tmp_path / "local")
    remount("size=200k")
    assert exporter("batch", "plan", root, "--output", output, "--batches", 1).returncode == 0
    assert_one_sentence(exporter("batch", "run", output, 1, "--workers", 1), 1, "disk is full")
    remount("size=64m,ro")
    assert_one_sentence(exporter("batch", "run", output, 1, "--workers", 1), 1, "read-only")
    remount("size=64m,rw")
    assert exporter("batch", "run", output, 1, "--workers", 1).returncode == 0
    remount("size=64m,ro")
    assert_one_sentence(exporter("batch", "merge", output), 1, "read-only")
    remount("size=64m,rw")
    assert exporter("batch", "merge", output).returncode == 0
    assert result_of(output) == result_of(tmp_path / "local")
    assert_sound(output)
