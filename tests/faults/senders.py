"""Real senders that remember what was acknowledged, and the well-behaved one that must never fail."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.instances import STORAGE, instance, write_instances
from tests.faults.report import NotPermitted
from tests.pynetdicom_requestor import associate, release

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

REPOSITORY = Path(__file__).resolve().parents[2]
_FILE = re.compile(r"Sending file: (.*)$")
_DONE = re.compile(r"Received Store Response \((.*)\)")


def program(name: str) -> str:
    """A real peer's program from the system, never one of this virtual environment."""
    own = str(REPOSITORY / ".venv")
    folders = [f for f in os.environ.get("PATH", os.defpath).split(os.pathsep) if not f.startswith(own)]
    found = shutil.which(name, path=os.pathsep.join([*folders, "/usr/bin", "/usr/sbin"]))
    if found is None:
        raise NotPermitted(f"{name} is not installed")
    return found


class Storescu(threading.Thread):
    """DCMTK's storescu in a loop, over new files each time, until `stop`; its words tell what was acknowledged."""

    def __init__(self, port: int, folder: Path, *, batch: int = 60) -> None:
        super().__init__()
        self.port, self.folder, self.batch = port, folder, batch
        self.command = [program("storescu"), "-v", "-nh", "-R", "-to", "5", "-aec", "EXPORTER", "127.0.0.1"]
        self.acknowledged: list[str] = []
        self.refused: dict[str, int] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        round_ = 0
        while not self.stop.is_set():
            round_ += 1
            folder = self.folder / f"batch-{round_}"
            uid_of = write_instances(folder, self.batch)
            self.send(uid_of)
            shutil.rmtree(folder, ignore_errors=True)
            self.stop.wait(6.0 / self.batch)

    def send(self, uid_of: dict[str, str]) -> None:
        """Send these files once, on one association."""
        process = subprocess.Popen(
            [*self.command, str(self.port), *uid_of],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        current = None
        assert process.stdout is not None
        for line in process.stdout:
            if found := _FILE.search(line):
                current = uid_of.get(found[1])
            elif (found := _DONE.search(line)) and current is not None:
                if found[1] == "Success":
                    self.acknowledged.append(current)
                else:
                    self.refused[found[1]] = self.refused.get(found[1], 0) + 1
                current = None
            if self.stop.is_set():
                process.kill()
        process.wait(timeout=100)
        process.stdout.close()


def dcmsend(port: int, uid_of: dict[str, str], violations: list[str]) -> list[str]:
    """One association of DCMTK's dcmsend that sends these files; what was acknowledged: all, or it is a violation."""
    done = subprocess.run(
        [program("dcmsend"), "-v", "--no-halt", "-aec", "EXPORTER", "127.0.0.1", str(port), *uid_of],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=600,
    )
    if done.returncode != 0 or f"with status SUCCESS  : {len(uid_of)}" not in done.stdout + done.stderr:
        violations.append(f"dcmsend ended with {done.returncode}: {(done.stdout + done.stderr)[-200:]}")
        return []
    return list(uid_of.values())


class Pynetdicom(threading.Thread):
    """pynetdicom sending one instance after another until `stop`, reconnecting as long as it takes."""

    def __init__(self, port: int, *, pause_s: float = 0.0) -> None:
        super().__init__()
        self.port, self.pause_s = port, pause_s
        self.acknowledged: list[str] = []
        self.refused: dict[str, int] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        import pydicom
        from pydicom.uid import ExplicitVRLittleEndian
        from pynetdicom import AE

        entity = AE()
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
        entity.add_requested_context(STORAGE, ExplicitVRLittleEndian)
        while not self.stop.is_set():
            association = associate(entity, "127.0.0.1", self.port, ae_title="EXPORTER")
            while association.is_established and not self.stop.is_set():
                uid, data = instance()
                with contextlib.suppress(RuntimeError, ValueError):  # the association may end under our hands
                    status = association.send_c_store(pydicom.dcmread(io.BytesIO(data))).get("Status")
                    if status == 0:
                        self.acknowledged.append(uid)
                    else:
                        word = "no answer" if status is None else f"0x{status:04X}"
                        self.refused[word] = self.refused.get(word, 0) + 1
                self.stop.wait(self.pause_s)
            release(association)
            self.stop.wait(0.05)


class Canary(threading.Thread):
    """The well-behaved sender beside an attack: one C-ECHO and one C-STORE per period, each from a new association."""

    def __init__(self, port: int, *, period_s: float = 1.0, options: Sequence[str] = ()) -> None:
        super().__init__()
        self.port, self.period_s = port, period_s
        self.rounds = 0
        self.slowest_s = 0.0
        self.failures: list[str] = []
        self.failed_during: list[tuple[float, float]] = []
        """When each of them began and ended, on the monotonic clock."""
        self.acknowledged: list[str] = []
        self._done = threading.Event()
        words = [*options, "-to", "10", "-ta", "10", "-aec", "EXPORTER", "127.0.0.1", str(port)]
        self._echo = [program("echoscu"), *words]
        self._store = [program("storescu"), *words]

    def run(self) -> None:
        with tempfile.TemporaryDirectory(prefix="canary-") as folder:
            path = Path(folder) / "canary.dcm"
            while not self._done.is_set():
                uid, data = instance()
                path.write_bytes(data)
                started = time.monotonic()
                for command in (self._echo, [*self._store, str(path)]):
                    began = time.monotonic()
                    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
                    if done.returncode != 0:
                        words = (done.stderr + done.stdout).strip().splitlines()[-1:]
                        self.failures.append(f"the well-behaved sender failed: {Path(command[0]).name}: {words}")
                        self.failed_during.append((began, time.monotonic()))
                    elif command[0] == self._store[0]:
                        self.acknowledged.append(uid)
                self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                self.rounds += 1
                self._done.wait(max(0.0, self.period_s - (time.monotonic() - started)))

    def __enter__(self) -> Self:
        """Begin, and wait for the first round: the attack has to find it at work."""
        self.start()
        until = time.monotonic() + 100
        while not self.rounds and time.monotonic() < until:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        """End after one more round: what the attack left behind has to be harmless, too."""
        seen, until = self.rounds, time.monotonic() + 30
        while self.rounds == seen and time.monotonic() < until:
            time.sleep(0.01)
        self._done.set()
        self.join(60)

    @property
    def figure(self) -> str:
        return f"canary {self.rounds} rounds, {len(self.failures)} failed, slowest {self.slowest_s:.1f} s"
