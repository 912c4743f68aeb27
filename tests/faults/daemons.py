"""The product's own daemons as processes, started, killed and started again; none outlives its block."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.ports import free_port
from tests.product.running import answers, family
from tests.written_at_once import write_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

COMMANDS = {
    "listener": [sys.executable, "-m", "listener"],
    "run": [sys.executable, "-m", "exporter", "run"],
    "serve": [sys.executable, "-m", "exporter", "serve"],
}
SMALL_MARKS = """spool:
  refuse_below_bytes: 8000000
  reject_below_bytes: 4000000
  resume_above_bytes: 10000000
  refuse_below_files: 20
"""
"""Water marks for file systems of a test's size."""
ONE_PROCESS = f"""listener:
  port: {{port}}
  processes: 1
{SMALL_MARKS}"""
"""For what is injected into one process: an association may be served by another one, where nothing is injected. The
code that receives is the same in all of them."""


class Late(Exception):
    """Something did not happen in its time."""


def wait_for(what: Callable[[], Any], seconds: float, describe: str) -> Any:
    """The first true value of `what`, asked again until the deadline.

    Raises:
        Late: There was none.
    """
    deadline = time.monotonic() + seconds
    while not (value := what()):
        if time.monotonic() > deadline:
            raise Late(f"not within {seconds:.0f} s: {describe}")
        time.sleep(0.05)
    return value


@dataclass
class Daemons:
    """The daemons over one data folder."""

    data: Path
    logs: Path
    extra: str = SMALL_MARKS
    port: int = field(default_factory=free_port)
    environment: Mapping[str, str] = field(default_factory=dict)
    media_dir: Path | None = None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        path = self.logs / "config.yml"
        extra = self.extra if "listener:" in self.extra else f"listener:\n  port: {self.port}\n{self.extra}"
        write_at_once(path, extra.replace("{port}", str(self.port)))
        return path

    def start(self, name: str, *, wrap: Sequence[str] = (), wait: bool = True) -> subprocess.Popen[bytes]:
        """Start `listener`, `run` or `serve`; with `wait`, returns once its port answers.

        Args:
            name: Which.
            wrap: A command that runs it, such as `strace ...`.
            wait: Whether to wait for the port.
        """
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*wrap, *COMMANDS[name], "--config", str(self.config), "--data", str(self.data)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        self.processes[name] = process
        if wait and name != "run":
            wait_for(lambda: process.poll() is not None or answers(self.port), 60, f"{name} answers")
            if process.poll() is not None:
                raise Late(f"{name} ended with {process.returncode}: {self.log(name)[-500:]}")
        return process

    def log(self, name: str) -> str:
        path = self.logs / f"{name}.log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        """End one and wait for it; its exit code."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            return process.wait(timeout=90)
        finally:
            _kill_group(process)

    def kill_all(self) -> None:
        """End every one of them, and what they started, now: also what outlived the one that started it."""
        for process in self.processes.values():
            _kill_group(process)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        self.processes.clear()

    def status(self) -> dict[str, Any]:
        """`exporter status --json`."""
        done = run("status", "--json", "--config", self.config, "--data", self.data)
        if done.returncode != 0:
            raise Late(f"exporter status: {done.stderr[-300:]}")
        return dict(json.loads(done.stdout))

    def settled(self, seconds: float = 300) -> dict[str, Any]:
        """The status once nothing is pending or active any more."""

        def quiet() -> dict[str, Any] | None:
            spool = self.data / "spool"
            if any(any((spool / folder).iterdir()) for folder in ("new", "active") if (spool / folder).is_dir()):
                return None
            status = self.status()
            return status if status["pending"] == 0 and status["active"] == 0 else None

        return dict(wait_for(quiet, seconds, "pending: 0"))

    def reconciled(self) -> list[str]:
        """What `exporter reconcile` complains of."""
        done = run("reconcile", "--config", self.config, "--data", self.data)
        return [] if done.returncode == 0 else [f"reconcile: {(done.stdout + done.stderr).strip()[-300:]}"]


class Keeper:
    """Starts daemons again that have ended, two seconds later, as systemd does by their units."""

    RESTART_S = 2.0

    def __init__(self, daemons: Daemons) -> None:
        self.daemons = daemons
        self.restarts = 0
        self._seen_dead: dict[str, float] = {}

    def look(self) -> bool:
        """Start again what has been dead long enough; always False, for use in a condition."""
        for name, process in list(self.daemons.processes.items()):
            if process.poll() is None:
                self._seen_dead.pop(name, None)
            elif time.monotonic() - self._seen_dead.setdefault(name, time.monotonic()) > self.RESTART_S:
                self.restarts += 1
                self.daemons.start(name, wait=False)
        return False


@contextmanager
def daemons(data: Path, logs: Path, **how: Any) -> Iterator[Daemons]:
    """Daemons over a data folder that end with the block."""
    logs.mkdir(parents=True, exist_ok=True)
    made = Daemons(data, logs, **how)
    try:
        yield made
    finally:
        made.kill_all()


def run(*arguments: object, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """`exporter ARGUMENTS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "exporter", *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout,
    )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that descend from it: workers lead groups of their own."""
    for pid in reversed(family(process.pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=100)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process, or a family of them, uses at one time."""

    resident_kb: int
    threads: int
    descriptors: int
    processes: frozenset[int] = frozenset()
    """Those of a family."""

    @classmethod
    def of(cls, pid: int) -> Footprint:
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return cls(
            int(fields["VmRSS"].split()[0]), int(fields["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir()))
        )

    @classmethod
    def of_family(cls, pid: int) -> Footprint:
        """A process and all that descend from it, added up; memory they share counts for each of them."""
        found = {pid: cls.of(pid)}
        for descendant in family(pid)[1:]:
            with contextlib.suppress(OSError, KeyError):  # it has ended meanwhile
                found[descendant] = cls.of(descendant)
        return cls(
            sum(one.resident_kb for one in found.values()),
            sum(one.threads for one in found.values()),
            sum(one.descriptors for one in found.values()),
            frozenset(found),
        )


def living(pids: Iterable[int]) -> list[int]:
    """Those of these processes that have not ended; one that nobody has waited for yet has."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}:
                found.append(pid)
    return found


def family_cpu_s(pid: int) -> float:
    """Processor time that a process and all that descend from it have taken, those that have ended included."""
    ticks = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # proc(5): utime, stime, cutime, cstime
    return ticks / os.sysconf("SC_CLK_TCK")
