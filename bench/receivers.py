"""The receivers that are measured: how each is started on a free port over its own folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Receiver:
    """One way to receive."""

    name: str
    durable: bool
    command: Callable[[int, Path], list[str]]
    preload: str = ""
    pdu_bytes: int = 131072
    """The longest PDU it takes as configured here."""


class Missing(Exception):
    """A program that is needed is not installed."""


def system(name: str) -> str:
    """A program of the system; the virtual environment has a storescp of its own."""
    own = str(Path(sys.prefix))
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not p.startswith(own))
    found = shutil.which(name, path=f"{path}:/usr/sbin")
    if found is None:
        raise Missing(name)
    return found


def compile_preload(kind: str, folder: Path) -> Path:
    """The shared object that makes durable, or makes volatile."""
    target = folder / f"{kind.lower()}.so"
    source = HERE / "preload.c"
    subprocess.run(
        [system("cc"), "-shared", "-fPIC", "-O2", f"-D{kind}", "-o", str(target), str(source), "-ldl"], check=True
    )
    return target


def _ours(port: int, folder: Path, engine: str = "native") -> list[str]:
    config = folder / "listener.yml"
    spool = "spool:\n  refuse_below_bytes: 0\n  reject_below_bytes: 0\n"
    config.write_text(f"listener:\n  port: {port}\n  engine: {engine}\n{spool}")
    return [sys.executable, "-m", "listener", "--config", str(config), "--data", str(folder), "--log-level", "error"]


def _ours_on_pynetdicom(port: int, folder: Path) -> list[str]:
    return _ours(port, folder, "pynetdicom")


def _storescp(port: int, folder: Path) -> list[str]:
    return [system("storescp"), "-od", str(folder), str(port)]


def _storescp_fork(port: int, folder: Path) -> list[str]:
    return [system("storescp"), "--fork", "-B", "-pdu", "131072", "-od", str(folder), str(port)]


def _orthanc(port: int, folder: Path) -> list[str]:
    config = {
        "Name": "bench",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomAet": "EXPORTER",
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    return [system("Orthanc"), str(folder / "orthanc.json")]


def _usual(port: int, folder: Path) -> list[str]:
    return [sys.executable, str(HERE / "usual_handler.py"), str(port), str(folder)]


OURS = Receiver("ours", True, _ours)
OURS_ON_PYNETDICOM = Receiver("ours, engine pynetdicom", True, _ours_on_pynetdicom)
RECEIVERS = (
    OURS,
    OURS_ON_PYNETDICOM,
    Receiver("ours, not durable", False, _ours, preload="VOLATILE"),
    Receiver("storescp as shipped", False, _storescp, pdu_bytes=16384),
    Receiver("storescp --fork -B", False, _storescp_fork),
    Receiver("storescp --fork -B, durable", True, _storescp_fork, preload="DURABLE"),
    Receiver("Orthanc", True, _orthanc, pdu_bytes=16384),
    Receiver("pynetdicom's usual handler", False, _usual),
)


class Running:
    """One receiver, running."""

    def __init__(self, receiver: Receiver, folder: Path, preloads: dict[str, Path]) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        environment = dict(os.environ)
        if receiver.preload:
            environment["LD_PRELOAD"] = str(preloads[receiver.preload])
        self.process = subprocess.Popen(
            receiver.command(self.port, folder),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    self.stop()
                    raise RuntimeError(f"{self.process.args!r} does not listen") from None
                time.sleep(0.02)
            else:
                break
        # What a receiver does for itself once it listens is not charged to the first instances.
        spent = -1.0
        while spent != self.cpu_s() and time.monotonic() < until:
            spent = self.cpu_s()
            time.sleep(0.3)

    def cpu_s(self) -> float:
        """Processor time so far, of the process, its children that ended and its children that run."""
        ticks = 0
        for pid in [self.process.pid, *children(self.process.pid)]:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(int(f) for f in (fields[11:15] if pid == self.process.pid else fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def peak_mb(self) -> float:
        """Largest resident memory of its processes that run now, all together, in MB: what they share counts twice."""
        peak = 0
        for pid in [self.process.pid, *children(self.process.pid)]:
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                continue
            peak += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return peak / 1000

    def stop(self) -> None:
        """End it, and empty what it received."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(15)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
            break
        empty(self.folder)


def empty(folder: Path) -> None:
    """Give the space of all files below a folder back.

    The files themselves stay until everything is measured: ext4 without a journal does not use an inode again for the
    first minutes after its file was deleted, and looks at every such one before it takes the next, so that whoever
    creates files after thousands were deleted pays up to a millisecond for each.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                os.truncate(os.path.join(place, name), 0)  # noqa: PTH118 - a million names; Path is slow


def children(pid: int) -> list[int]:
    """Child processes that run now."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in found.split()]
