"""A backfill that runs can be cancelled from another shell or host, and whatever was cancelled goes on afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest

from exporter.batches.run_note import SILENT_S, cancel, cancellable, running
from listener.foundation.process_identity import boot_id, process_namespace
from tests.exporter.batches.conftest import CINE, assert_sound, result_of, run_locally
from tests.exporter.batches.test_engines import dask_cluster, until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output folder in which there is something of ours."""
    (tmp_path / "exporter.db").touch()
    return tmp_path


def notes(output: Path) -> list[str]:
    return sorted(path.name.partition("exporter.db.")[2].partition("-")[0] for path in output.glob("exporter.db.*-*"))


def test_what_runs_is_asked_to_stop_and_has_ended_when_cancelling_returns(output: Path) -> None:
    stop, cancelled = threading.Event(), threading.Event()
    asked: list[int] = []

    def other_shell() -> None:
        asked.append(cancel(output))
        cancelled.set()

    with cancellable(output, stop):
        until(lambda: running(output))
        assert running(output) == [f"process {os.getpid()} on {os.uname().nodename}"]
        thread = threading.Thread(target=other_shell)
        thread.start()
        assert stop.wait(100)
        assert notes(output) == ["stop"]
        assert not cancelled.is_set(), "it has not ended yet"
    assert cancelled.wait(100)
    thread.join()
    assert (asked, notes(output), cancel(output)) == ([1], [], 0)


def test_a_folder_that_is_not_ours_yet_gets_no_note_and_a_missing_note_stops_nothing(tmp_path: Path) -> None:
    stop = threading.Event()
    with cancellable(tmp_path / "out", stop):
        (tmp_path / "out").mkdir()
        assert list((tmp_path / "out").iterdir()) == []
        (tmp_path / "out" / "exporter.db").touch()
        until(lambda: notes(tmp_path / "out") == ["run"])
        for path in (tmp_path / "out").glob("exporter.db.run-*"):
            path.unlink()
        assert not stop.wait(1.5), "a look was due"


@pytest.mark.parametrize(
    ("about", "age_s", "is_alive"),
    [
        (["here", boot_id(), process_namespace(), os.getpid(), 1], 0.0, False),
        (["elsewhere", "other", "pid:[1]", os.getpid(), 1], 0.0, True),
        (["elsewhere", "other", "pid:[1]", os.getpid(), 1], SILENT_S + 1, False),
        ("half a li", 0.0, True),
        ("half a li", SILENT_S + 1, False),
    ],
)
def test_a_note_is_that_of_a_command_that_runs_as_far_as_can_be_known(
    output: Path, about: Any, age_s: float, is_alive: bool
) -> None:
    path = output / "exporter.db.run-1"
    path.write_text(json.dumps(about)[:-1] if isinstance(about, str) else json.dumps(about))
    os.utime(path, (time.time() - age_s,) * 2)
    assert bool(running(output)) is is_alive
    with cancellable(output, threading.Event()):
        until(lambda: len(notes(output)) == 1 + is_alive)
    assert cancel(output, waits=False) == is_alive


# -- the commands ----------------------------------------------------------------------------------------------------


def exporter(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "exporter", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture(scope="module")
def cines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is worked on for some seconds."""
    root = tmp_path_factory.mktemp("cines") / "in"
    root.mkdir()
    cine = pydicom.dcmread(CINE)
    for number in range(16):
        cine.SOPInstanceUID = cine.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{number}"
        cine.save_as(root / f"{number:03}.dcm")
    return root


@pytest.fixture(scope="module")
def exported(cines: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    output = tmp_path_factory.mktemp("cines-out") / "out"
    run_locally(cines, output)
    return result_of(output)


@pytest.fixture(params=["local", "processes", *(["dask"] if "EXPORTER_TEST_KILLS" in os.environ else [])])
def options(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    if request.param != "dask":
        yield ["--engine", request.param, "--workers", "1"]
        return
    with dask_cluster() as (address, _):
        yield ["--engine", "dask", "--scheduler", address, "--workers", "1"]


@pytest.mark.slow
def test_a_backfill_is_cancelled_from_another_shell_and_goes_on(
    cines: Path, exported: object, options: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "exporter", "backfill", str(cines), "--output", str(output), *options]
    is_local = options[1] == "local"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        made = "media/**/*.mp4" if is_local else "batches/*/run-*/media/**/*.mp4"
        until(lambda: any(output.glob(made)) or process.poll() is not None)
        done = exporter("backfill", "cancel", output)
        assert (done.returncode, done.stderr) == (0, "")
        complained = process.communicate(timeout=100)[1]
    assert process.returncode == 130, complained
    assert b"Traceback" not in complained
    assert notes(output) == []
    assert exporter("backfill", "cancel", output).returncode == is_local, "nothing runs; of batches that is noted"
    if is_local:
        assert_sound(output)
        assert "exporter status --data" in exporter("backfill", "status", output).stderr
        assert exporter(*command[3:]).returncode == 0
    else:
        said = json.loads(exporter("backfill", "status", output, "--json").stdout)
        assert (said["is_cancelled"], said["running"], said["at_work"]) == (True, 0, [])
        assert exporter("backfill", "resume", output).returncode == 0
    assert result_of(output) == exported
    assert_sound(output)
