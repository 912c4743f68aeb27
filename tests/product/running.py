"""The product as its users run it: its own commands as processes, real peers on loopback."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.written_at_once import write_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def until(what: Callable[[], Any], *, seconds: float, describe: str) -> Any:
    """The first true value of `what`, asked again until the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = what()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {describe}")
        time.sleep(0.05)


def run(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`exporter ARGUMENTS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "exporter", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def answers(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@dataclass
class Product:
    """A data folder and the daemons over it; every process it starts ends with it."""

    data: Path
    port: int
    extra: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        path = self.data.parent / f"{self.data.name}.yml"
        write_at_once(path, f"listener:\n  port: {self.port}\n{self.extra}")
        return path

    def start(self, name: str, *, ready: bool = True) -> subprocess.Popen[bytes]:
        """Start `listener`, `run` or `serve`; returns once the port answers where there is one."""
        command = {
            "listener": [sys.executable, "-m", "listener"],
            "run": [sys.executable, "-m", "exporter", "run"],
            "serve": [sys.executable, "-m", "exporter", "serve"],
        }[name]
        log = (self.data.parent / f"{self.data.name}-{name}.log").open("ab")
        process = subprocess.Popen(
            [*command, "--config", str(self.config), "--data", str(self.data)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        log.close()
        self.processes[name] = process
        if ready and name != "run":
            until(lambda: process.poll() is not None or answers(self.port), seconds=30, describe=f"{name} answers")
            assert process.poll() is None, self.log(name)
        return process

    def log(self, name: str) -> str:
        """What a process has written so far."""
        return (self.data.parent / f"{self.data.name}-{name}.log").read_text(errors="replace")

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        """End a process and wait for it; its exit code."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        return process.wait(timeout=100)

    def status(self) -> dict[str, Any]:
        """`exporter status --json`."""
        done = run("status", "--json", "--data", self.data)
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def settled(self, *, seconds: float = 300) -> dict[str, Any]:
        """The status once nothing is pending or active any more."""

        def quiet() -> Mapping[str, Any] | None:
            status = self.status()
            return status if status["pending"] == 0 and status["active"] == 0 else None

        return dict(until(quiet, seconds=seconds, describe="pending: 0"))

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The metadata lines; a torn or empty line is an error here."""
        text = (self.data / "metadata.jsonl").read_bytes()
        assert not text or text.endswith(b"\n"), "the last line is torn"
        return [json.loads(line) for line in text.splitlines()]

    @property
    def media(self) -> list[Path]:
        """Every visible media file."""
        root = self.data / "media"
        return [p for p in root.rglob("*") if p.is_file() and ".partial" not in p.parts] if root.is_dir() else []


def peak_resident_mb(pid: int) -> float:
    """The most memory a living process ever had resident, in MiB (VmHWM of proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                children = (task / "children").read_text().split()
                found.extend(int(child) for child in children)
    return found
