"""Killed at any system call: nothing that is not de-identified shows, and the next start ends what was begun."""

from __future__ import annotations

import collections
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from exporter.commands.app import main
from exporter.settings.settings import FramesSettings, MediaSettings
from tests.exporter.frames.conftest import build
from tests.exporter.privacy import output
from tests.exporter.privacy.output import instance, left_behind
from tests.exporter.privacy.pixels.test_masked import CODINGS, area, picture
from tests.exporter.work.test_deidentification import key_file, run, ultrasound
from tests.faults.tracing import attached, strace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.exporter.frames.conftest import Build

__all__ = ["build", "key_file"]

pytestmark = pytest.mark.slow
EVERY_POINT = bool(os.environ.get("EXPORTER_TEST_KILLS"))
SAMPLE = 16
"""Points of a short run, evenly spread over all."""
WITHDRAWING = ("rename", "unlink", "fsync", "fdatasync", "pwrite64", "write")


def sampled(points: list[tuple[str, int]], count: int) -> list[tuple[str, int]]:
    return points if EVERY_POINT else points[:: max(1, len(points) // count)]


class Workers:
    """Copies of this process that export one masked cine each, under a tracer from the first system call on."""

    def __init__(self, path: Path, key: Path, logs: Path) -> None:
        self._path, self._key, self._logs = path, key, logs
        self._media = MediaSettings(frames=FramesSettings(enabled=True))

    def export(self, folder: Path, *options: str) -> tuple[bool, str]:
        """Export into a folder; whether it came to its end, and what the tracer saw."""
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
            run(self._path, folder, self._key, self._media)
            os._exit(0)
        os.waitpid(child, os.WUNTRACED)
        log = self._logs / f"{folder.name}.log"
        with attached(child, log, *options):
            os.kill(child, signal.SIGCONT)
            status = os.waitpid(child, 0)[1]
        return status == 0, log.read_text(errors="replace")


def calls_in(log: str) -> list[tuple[str, int]]:
    """System calls of a log by name and number within one thread."""
    made: collections.Counter[tuple[str, str]] = collections.Counter(re.findall(r"^(\d+) +(\w+)\(", log, re.MULTILINE))
    most: dict[str, int] = {}
    for (_, call), count in made.items():
        most[call] = max(count, most.get(call, 0))
    return [(call, number) for call, count in most.items() for number in range(1, count + 1)]


def test_a_worker_that_is_killed_at_a_system_call_of_a_masked_cine_shows_no_frame_that_is_not_masked(
    tmp_path: Path, key_file: Path, build: Build
) -> None:
    values = np.concatenate([picture(seed, seed, samples=3) for seed in range(4)])
    path = ultrasound(build, CODINGS["native RGB"], values, NumberOfFrames=4, FrameTime="40", PatientName="GROUSZEK^A")
    (tmp_path / "logs").mkdir()
    run(path, tmp_path / "first", key_file, MediaSettings(frames=FramesSettings(enabled=True)))  # libraries are loaded
    workers = Workers(path, key_file, tmp_path / "logs")
    is_done, log = workers.export(tmp_path / "counted", "-e", "trace=all")
    points = calls_in(log)
    assert is_done
    assert len(points) > 100
    killed = 0
    for call, number in sampled(points, SAMPLE):
        folder = tmp_path / f"{call}-{number}"
        is_done, _ = workers.export(folder, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        killed += not is_done
        assert_masked(folder)
    assert killed > SAMPLE / 2
    assert_masked(tmp_path / "counted")


def assert_masked(folder: Path) -> None:
    """Every file below a folder names nobody, and every picture that can be read is black where it is hidden."""
    hidden = ~area().mask()
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        assert b"grouszek" not in file.read_bytes().lower(), file
        with suppress(OSError), Image.open(file) as image:  # of a cut one nothing can be seen
            assert not np.asarray(image)[hidden].any(), file


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., list[str]]:
    """Makes an output of two patients; a call gives the command that withdraws the first of them."""
    (tmp_path / "in").mkdir()
    (tmp_path / "key").write_text("k" * 32)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "list").write_text(f"{output.PATIENT}\n")
    instance(1).save_as(tmp_path / "in/1.dcm")
    instance(2, "ZOTHER12", "1.2.826.0.1.4711.88.1").save_as(tmp_path / "in/2.dcm")
    config = f"privacy: {{profile: basic, key_file: {tmp_path / 'key'}%s}}\n"
    (tmp_path / "all.yml").write_text(config % "")
    (tmp_path / "less.yml").write_text(config % f", exclude: {tmp_path / 'list'}")

    def command(out: Path) -> list[str]:
        words = ["backfill", str(tmp_path / "in"), "--output", str(out), "--workers", "0", "--config"]
        assert main([*words, str(tmp_path / "all.yml")]) == 0
        assert len([*out.glob("media/*.png")]) == 2
        return [*words, str(tmp_path / "less.yml")]

    return command


def test_a_withdrawal_that_is_killed_at_a_system_call_is_finished_by_the_next_start(
    exported: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}

    def withdraw(out: Path, *options: str) -> tuple[bool, str]:
        log = tmp_path / f"{out.name}.log"
        traced = [strace(), "-f", "-qq", "-o", str(log), *options]
        command = [*traced, sys.executable, "-m", "exporter", *exported(out)]
        done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=100)
        return done.returncode == 0, log.read_text(errors="replace")

    is_done, log = withdraw(tmp_path / "counted", "-e", f"trace={','.join(WITHDRAWING)}")
    points = calls_in(log)
    assert is_done
    killed = 0
    for call, number in sampled(points, 4):
        out = tmp_path / f"{call}-{number}"
        is_done, _ = withdraw(out, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        killed += not is_done
        assert left_behind(out) == {}, (call, number)
        words = ["--config", str(tmp_path / "less.yml")]
        assert main(["backfill", str(tmp_path / "in"), "--output", str(out), "--workers", "0", *words]) == 0
        assert len([*out.glob("media/*.png")]) == 1, (call, number)
        assert main(["reconcile", "--data", str(out), *words]) == 0, (call, number)
        said = (out / "metadata.jsonl").read_text()
        assert said.count('"status":"withdrawn"') == 1, (call, number)
        assert left_behind(out) == {}, (call, number)
    assert killed > 1
    capfd.readouterr()
