"""One contract for every engine: what is submitted runs once, what is cancelled ends, and OUT stays consistent."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporter.batches.engines.contract import EngineUnusable
from exporter.batches.engines.dask_tasks import DaskEngine
from exporter.batches.engines.processes import ProcessesEngine
from exporter.batches.engines.slurm import SlurmEngine
from exporter.batches.journal import runs_of
from exporter.batches.merging import merge
from exporter.batches.plan import make_plan
from exporter.batches.rounds import RoundState, drive
from exporter.batches.running import is_complete
from exporter.settings.settings import Settings
from tests.exporter.batches.conftest import assert_sound, make_tree, request, result_of, run_locally
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.batches.engines.contract import BatchEngine
    from exporter.batches.plan import BatchPlan
    from tests.exporter.batches.slurm_cluster import SlurmCluster

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("EXPORTER_TEST_KILLS", "0")) or 3


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def dask_cluster(**variables: str) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers as processes of their own, with these variables in their environment."""
    address = f"tcp://127.0.0.1:{free_port()}"
    python = [sys.executable, "-m"]
    scheduler = [*python, "distributed.cli.dask_scheduler", "--host", address, "--no-dashboard", "--no-show"]
    worker = [*python, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    with ExitStack() as stack:
        started = []
        for command in (scheduler, worker, worker):
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, **variables},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            stack.callback(process.kill)
            started.append(process)
            if len(started) == 1:
                until(lambda: _answers(int(address.rpartition(":")[2])))
        yield address, started[1:]


@pytest.fixture(params=["processes", "dask", "slurm"])
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine_of(
    engine_name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Path], BatchEngine]]:
    if engine_name == "processes":
        yield lambda output: ProcessesEngine(output, at_once=2)
    elif engine_name == "slurm":
        cluster: SlurmCluster = request.getfixturevalue("cluster")
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        yield lambda output: SlurmEngine(output, Settings.model_validate({"engine": {"slurm": {"cpus": 1}}}))
    else:
        with dask_cluster() as (address, _):
            yield lambda output: DaskEngine(output, address)


def planned(tmp_path: Path, tree: Path, batches: int) -> BatchPlan:
    return make_plan(request(tree, tmp_path / "out"), batches)


@pytest.mark.slow
def test_what_is_submitted_runs_once_and_what_is_cancelled_ends(
    engine_of: Callable[[Path], BatchEngine], engine_name: str, tree: Path, tmp_path: Path
) -> None:
    plan = planned(tmp_path, tree, 3)
    engine = engine_of(plan.output)
    assert engine.alive() == frozenset()
    engine.submit([1, 2])
    assert engine.alive() <= {1, 2}
    until(lambda: not engine.alive())
    assert [runs_of(plan.folder_of(number)) for number in (1, 2, 3)] == [[1], [1], []]
    assert is_complete(plan.folder_of(1))
    assert is_complete(plan.folder_of(2))
    engine.submit([3])
    until(lambda: runs_of(plan.folder_of(3)) or not engine.alive())
    engine.cancel()
    assert engine.alive() == frozenset()
    assert drive(plan, RoundState(engine_name, 3), engine, threading.Event())
    merge(plan.output)
    assert_sound(plan.output)


@pytest.mark.slow
def test_a_batch_that_refuses_is_no_longer_alive(
    engine_of: Callable[[Path], BatchEngine], tree: Path, tmp_path: Path
) -> None:
    plan = planned(tmp_path, tree, 2)
    (plan.root / "units-2").write_text("edited")
    engine = engine_of(plan.output)
    engine.submit([2])
    until(lambda: not engine.alive())
    assert (plan.folder_of(2) / "refused.json").exists()
    engine.cancel()


@pytest.mark.slow
def test_no_scheduler_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.batches.engines.dask_tasks.ANSWER_S", 0.5)
    with pytest.raises(EngineUnusable, match=r"Dask scheduler tcp://127\.0\.0\.1:9"):
        DaskEngine(tmp_path, "tcp://127.0.0.1:9")


@pytest.mark.slow
def test_a_scheduler_that_hangs_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporter.batches.engines.dask_tasks.ANSWER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(EngineUnusable, match="Dask scheduler tcp"):
        DaskEngine(tmp_path, f"tcp://127.0.0.1:{silent.getsockname()[1]}")


# -- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_that_are_killed_at_random_leave_nothing_out_and_nothing_twice(tree: Path, tmp_path: Path) -> None:
    folder, output, chance = tmp_path / "in", tmp_path / "out", random.Random(5)  # noqa: S311 - no secret
    shutil.copytree(tree / "a", folder)
    shutil.copytree(tree / "b", folder / "b")
    run_locally(folder, tmp_path / "local")
    command = [sys.executable, "-m", "exporter", "backfill", str(folder), "--output", str(output), "--workers", "2"]
    command += ["--engine", "processes", "--batches", "2"]
    for kill in range(KILLS):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until(lambda: process.poll() is not None or _alive(output))
            time.sleep(chance.uniform(0.0, 3.0))
            for number in _alive(output)[:1]:
                os.kill(number, signal.SIGKILL)
            if kill % 2:
                process.kill()
            else:
                process.wait(100)
        command = [sys.executable, "-m", "exporter", "backfill", "resume", str(output)]
        until(lambda: not _alive(output))
    if not (output / "batches" / "merged.json").exists():
        subprocess.run(command, cwd=ROOT, check=False, timeout=100)
    assert result_of(output) == result_of(tmp_path / "local")
    assert_sound(output)


def _alive(output: Path) -> list[int]:
    """Process numbers of the starts of batches that run."""
    return list(filter(_is_process, _processes(output)))


def _processes(output: Path) -> list[int]:
    """Process numbers of the starts of batches that have not ended by themselves."""
    found = []
    for path in (output / "batches").glob("*/run-*/status.json"):
        said = json.loads(path.read_bytes())
        if not said["is_over"]:
            found.append(int(said["pid"]))
    return found


def _is_process(number: int) -> bool:
    try:
        return b"batch\0run" in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_costs_nothing(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "in")
    plan = planned(tmp_path, tree, 6)
    run_locally(tree, tmp_path / "local")
    with dask_cluster() as (address, workers):
        engine, stop = DaskEngine(plan.output, address), threading.Event()
        state = RoundState("dask", 3)
        driving = threading.Thread(target=drive, args=(plan, state, engine, stop))
        driving.start()
        until(lambda: any(runs_of(plan.folder_of(number)) for number in range(1, 7)))
        workers[0].kill()
        driving.join()
    merge(plan.output)
    assert result_of(plan.output) == result_of(tmp_path / "local")
    assert_sound(plan.output)


@pytest.mark.slow
def test_a_dask_worker_that_stood_still_and_wakes_as_an_orphan_does_no_harm(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "in")
    plan = planned(tmp_path, tree, 2)
    run_locally(tree, tmp_path / "local")
    with dask_cluster(DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="3s") as (address, workers):
        engine, stop = DaskEngine(plan.output, address), threading.Event()
        driving = threading.Thread(target=drive, args=(plan, RoundState("dask", 3), engine, stop))
        driving.start()
        until(lambda: _children(workers[0]) & {*_alive(plan.output)})
        stopped = [workers[0].pid, *_children(workers[0])]
        for process in stopped:
            os.kill(process, signal.SIGSTOP)
        until(lambda: any(len(runs_of(plan.folder_of(number))) == 2 for number in (1, 2)) or not driving.is_alive())
        assert driving.is_alive() or any(len(runs_of(plan.folder_of(number))) == 2 for number in (1, 2))
        for process in stopped:
            os.kill(process, signal.SIGCONT)
        driving.join()
        merge(plan.output)
    assert result_of(plan.output) == result_of(tmp_path / "local")
    assert_sound(plan.output)


def _children(process: subprocess.Popen[bytes]) -> set[int]:
    """Numbers of the child processes of all threads of a process."""
    tasks = Path(f"/proc/{process.pid}/task")
    return {int(word) for task in tasks.glob("*/children") for word in task.read_text().split()}
