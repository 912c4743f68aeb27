"""A listener as a process of its own: with limits, an environment and a memory of its own."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.listener.requestor import Requestor, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY = Path(__file__).parents[2]


class Process:
    """A listener process over its own folder."""

    def __init__(self, folder: Path, port: int, settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.port = port
        self.spool = folder / "data" / "spool"
        self._log = folder / "log"
        config = folder / "config.yml"
        config.write_text(json.dumps({"listener": {"port": port} | dict(settings), "log": {"format": "json"}}))
        command = [sys.executable, "-m", "listener", "--config", str(config), "--data", str(folder / "data")]
        with self._log.open("wb") as log:
            self.popen = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | environment
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def associations(self) -> list[dict[str, Any]]:
        """What the log says of each association that is over."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "association"]

    def requestor(self, **options: Any) -> Requestor:
        return Requestor(self.port, **options)

    def limit(self, which: int, value: int) -> None:
        """Set a limit of the listener's own process (prlimit(2)), which is not that of any further one."""
        resource.prlimit(self.popen.pid, which, (value, resource.prlimit(self.popen.pid, which)[1]))


@contextmanager
def listening(
    folder: Path, port: int, environment: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[Process]:
    process = Process(folder, port, settings, environment or {})
    try:
        eventually(lambda: "listening" in process.log or process.popen.poll() is not None, "it listens", 100)
        assert process.popen.poll() is None, process.log
        yield process
        assert process.popen.poll() is None, process.log
    finally:
        process.popen.send_signal(signal.SIGTERM)
        code = process.popen.wait(100)
    assert code == 0, process.log
