"""A backfill as Slurm jobs equals the local one, whatever happens to its tasks, its node and the job that merges."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from exporter.batches.engines.contract import EngineUnusable
from exporter.batches.engines.slurm import SlurmEngine
from exporter.settings.settings import Settings
from tests.exporter.batches.conftest import CINE, assert_sound, make_tree, result_of, run_locally
from tests.exporter.batches.slurm_cluster import until

if TYPE_CHECKING:
    from tests.exporter.batches.slurm_cluster import SlurmCluster

ROOT = Path(__file__).parents[3]
CINES = 40
"""So many that each of two batches works for some seconds, in which something can happen."""


@pytest.fixture(scope="module")
def long_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tree`, and enough files that something can happen meanwhile."""
    root = make_tree(tmp_path_factory.mktemp("slurm-in") / "in")
    cine = pydicom.dcmread(CINE)
    for number in range(CINES):
        cine.SOPInstanceUID = cine.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{number}"
        cine.save_as(root / f"{'at'[number % 2]}{number:03}.dcm")
    return root


@pytest.fixture(scope="module")
def expected(long_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    output = tmp_path_factory.mktemp("slurm-local") / "out"
    run_locally(long_tree, output)
    return result_of(output)


def exporter(cluster: SlurmCluster, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "exporter", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, check=False, timeout=100
    )


def submit(cluster: SlurmCluster, folder: Path, output: Path) -> None:
    options = ("--engine", "slurm", "--batches", "2", "--cpus", "1")
    done = exporter(cluster, "backfill", folder, "--output", output, *options)
    assert done.returncode == 0, done.stderr


def jobs(output: Path) -> dict[str, str]:
    said: dict[str, str] = json.loads((output / "batches" / "slurm.json").read_bytes())
    return said


def is_working(output: Path, number: int = 1, run: int = 1) -> bool:
    """Whether a start of a batch has finished something."""
    path = output / "batches" / str(number) / f"run-{run}" / "journal"
    return path.exists() and b'"finished"' in path.read_bytes()


def process_of(output: Path, number: int = 1, run: int = 1) -> int:
    path = output / "batches" / str(number) / f"run-{run}" / "status.json"
    return int(json.loads(path.read_bytes())["pid"])


def check(cluster: SlurmCluster, output: Path, expected: object) -> None:
    cluster.drained()
    logs = [path.read_text() for path in sorted((output / "batches").glob("slurm-*.log"))]
    assert (output / "batches" / "merged.json").exists(), logs
    assert result_of(output) == expected
    assert_sound(output)


@pytest.mark.slow
def test_an_array_and_the_job_after_it_make_the_local_result(
    cluster: SlurmCluster, long_tree: Path, expected: object, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    submit(cluster, long_tree, output)
    assert exporter(cluster, "backfill", long_tree, "--output", output, "--engine", "slurm").returncode == 1
    until(lambda: is_working(output))
    said = json.loads(exporter(cluster, "backfill", "status", output, "--json").stdout)
    assert said["running"] + said["done"] == 2
    assert exporter(cluster, "backfill", "resume", output).returncode == 1, "batches run"
    shown = cluster.call("scontrol", "show", "job", jobs(output)["array"])
    assert "JobName=exporter-batches" in shown
    assert not [path.name for path in long_tree.rglob("*.*") if path.name in shown]
    check(cluster, output, expected)


@pytest.mark.slow
def test_a_task_that_is_requeued_goes_on(
    cluster: SlurmCluster, long_tree: Path, expected: object, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    submit(cluster, long_tree, output)
    until(lambda: is_working(output))
    cluster.call("scontrol", "requeue", f"{jobs(output)['array']}_1")
    check(cluster, output, expected)


@pytest.mark.slow
def test_what_was_cancelled_is_resumed(
    cluster: SlurmCluster, long_tree: Path, expected: object, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    submit(cluster, long_tree, output)
    until(lambda: is_working(output))
    assert exporter(cluster, "backfill", "cancel", output).returncode == 0
    assert cluster.tasks() == []
    assert not (output / "exporter.db").exists()
    assert exporter(cluster, "backfill", "resume", output).returncode == 0
    check(cluster, output, expected)


@pytest.mark.slow
def test_tasks_that_are_asked_to_end_twice_go_on_in_the_next_rounds(
    cluster: SlurmCluster, long_tree: Path, expected: object, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    submit(cluster, long_tree, output)
    for run in (1, 2):  # as `--signal=B:TERM@` asks before the time limit
        until(lambda run=run: is_working(output, 1, run))
        cluster.call("scancel", "--signal=TERM", "--batch", f"{jobs(output)['array']}_1")
        until(lambda run=run: json.loads((output / "batches" / "rounds.json").read_bytes())["round"] > run)
    check(cluster, output, expected)


@pytest.mark.slow
def test_a_task_whose_process_is_killed_runs_again_in_the_next_round(
    cluster: SlurmCluster, long_tree: Path, expected: object, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    submit(cluster, long_tree, output)
    until(lambda: is_working(output))
    os.kill(process_of(output), signal.SIGKILL)
    check(cluster, output, expected)


@pytest.mark.slow
def test_an_orphan_of_a_killed_slurmstepd_works_on_beside_the_second_start(
    cluster: SlurmCluster, long_tree: Path, expected: object, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    submit(cluster, long_tree, output)
    until(lambda: is_working(output))
    process = process_of(output)
    supervisor = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    assert "slurmstepd" in Path(f"/proc/{supervisor}/comm").read_text()
    os.kill(process, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    cluster.call("scontrol", "update", f"NodeName={cluster.node}", "State=DOWN", "Reason=test")
    cluster.resume_node()
    try:
        merged = output / "batches" / "merged.json"
        until(lambda: (cluster.hurried() and is_working(output, 1, 2)) or merged.exists())
        with suppress(ProcessLookupError):  # where Slurm has found and killed it
            os.kill(process, signal.SIGCONT)
        check(cluster, output, expected)
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.mark.slow
def test_a_job_that_merges_and_is_killed_is_resumed(
    cluster: SlurmCluster, long_tree: Path, expected: object, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    submit(cluster, long_tree, output)
    begun = ("merge", "merged.json")
    until(
        lambda: (
            any((output / "batches" / name).exists() for name in begun) or list((output / "batches").glob(".merge-*"))
        )
    )
    cluster.call("scancel", "--signal=KILL", "--full", jobs(output)["merge"])
    cluster.drained()
    if not (output / "batches" / "merged.json").exists():
        assert exporter(cluster, "backfill", "resume", output).returncode in {0, 3}
    check(cluster, output, expected)


# -- without a cluster -----------------------------------------------------------------------------------------------


def test_the_jobs_are_printed_and_nothing_is_submitted(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"engine": {"slurm": {"partition": "gpu", "time": "2:00:00", "max_running": 7, "extra": ["--exclude=n1"]}}}
    )
    engine = SlurmEngine(tmp_path / "o u%t", settings)
    array, after = engine.array([1, 2, 3, 7]), engine.after("17")
    assert {"--array=1-3,7%7", "--partition=gpu", "--time=2:00:00", "--exclude=n1", "--mem=5120"} <= set(
        array.arguments
    )
    assert f"--output={tmp_path}/o u%%t/batches/slurm-%A_%a.log" in array.arguments
    assert array.script.startswith("#!/bin/sh\nexec ")
    assert array.script.endswith(f"-m exporter batch run --workers 2 '{tmp_path}/o u%t'\n")
    assert "--dependency=afterany:17" in after.arguments
    with pytest.raises(EngineUnusable, match="control characters"):
        SlurmEngine(tmp_path / "a\nb", settings)


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Programs of Slurm as shell scripts: what a site's Slurm refuses cannot be had without accounting."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\necho {name} \"$@\" >>'{folder}/calls'\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_refused_account_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1"
    stand_in(tmp_path / "bin", monkeypatch, sbatch=refusal)
    with pytest.raises(EngineUnusable, match=r"sbatch refuses: .*Invalid account"):
        SlurmEngine(tmp_path, Settings()).submit([1])


def test_an_array_without_the_job_after_it_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = (
        f"[ -e {tmp_path}/once ] && exec sh -c 'echo QOSMaxSubmitJobPerUserLimit >&2; exit 1'; touch {tmp_path}/once"
    )
    stand_in(tmp_path / "bin", monkeypatch, sbatch=f"{limit}; echo 41", scancel="")
    with pytest.raises(EngineUnusable, match="QOSMaxSubmitJobPerUserLimit"):
        SlurmEngine(tmp_path, Settings()).submit([1])
    assert (tmp_path / "bin" / "calls").read_text().splitlines()[-1] == "scancel 41"


def test_the_sites_array_size_bounds_the_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path / "bin", monkeypatch, scontrol="echo 'MaxArraySize            = 51'")
    assert SlurmEngine.most_tasks() == 50
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(EngineUnusable, match="scontrol is not installed"):
        SlurmEngine.most_tasks()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-0", 86400),
        ("1-2:30", 95400),
        ("1-2:30:15", 95415),
        ("0", None),
        ("UNLIMITED", None),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(text: str, seconds: float | None) -> None:
    assert SlurmEngine.seconds_of(text) == seconds


@pytest.mark.slow
def test_batches_for_slurm_are_as_long_as_half_of_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "bin", monkeypatch, scontrol="echo 'MaxArraySize = 51'")
    (tmp_path / "in").mkdir()
    for number in range(40):
        shutil.copy(CINE, tmp_path / "in" / f"{number:02}")
    command = [sys.executable, "-m", "exporter", "backfill", str(tmp_path / "in"), "--engine", "slurm", "--print"]

    def tasks(*options: str) -> int:
        done = subprocess.run(
            [*command, "--output", str(tmp_path / "out"), *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        found = re.search(r"--array=1-?(\d+)? ", done.stdout)
        assert found, done.stderr
        return int(found[1] or 1)

    assert tasks("--time", "1-0") == 1
    short = tasks("--time", "0:04", "--cpus", "1")
    assert 2 < short <= 50
    assert tasks("--time", "0:04", "--cpus", "1", "--max-tasks", "2") == 2
    assert tasks("--batches", "3") == 3
    refused = subprocess.run([*command, "--batches", "51"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "MaxArraySize" in refused.stderr
