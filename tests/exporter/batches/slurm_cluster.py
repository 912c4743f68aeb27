"""A real Slurm on loopback, of Debian's packages: started without systemd, in own folders and on free ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={node}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
SlurmdParameters=config_overrides
KillWait=15
MessageTimeout=30
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class SlurmCluster:
    """The commands of a running Slurm."""

    def __init__(self, environment: Mapping[str, str], node: str) -> None:
        self.environment = dict(environment)
        self.node = node

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0 or "Invalid job id" in done.stderr, done.stderr
        return done.stdout

    def tasks(self, state: str = "") -> list[str]:
        """Ids of jobs, each task by itself, in one state or in any."""
        listed = self.call("squeue", "--noheader", "--array", "--format=%i %T")
        return [line.split()[0] for line in listed.splitlines() if not state or line.split()[1] == state]

    def drained(self) -> None:
        """Return when no job waits or runs; a job that was requeued starts at once."""
        until(lambda: self.hurried() == [])

    def resume_node(self) -> None:
        """Set a node that was down to work again; it may have come back by itself."""
        self._tried("scontrol", "update", f"NodeName={self.node}", "State=RESUME")

    def hurried(self) -> list[str]:
        """Let jobs that were requeued start now, as an administrator can; the ids of all jobs."""
        for job in self.tasks("PENDING"):
            self._tried("scontrol", "release", job)
            self._tried("scontrol", "update", f"JobId={job}", "StartTime=now")
        if "drain" in self.call("sinfo", "--noheader", "--format=%T"):
            self.resume_node()
        return self.tasks()

    def _tried(self, *command: str) -> None:
        """Call a command that may refuse."""
        subprocess.run(command, env=self.environment, capture_output=True, check=False, timeout=60)


def until(condition: Callable[[], object], seconds: float = 100.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Start munged, slurmctld and slurmd; skip the test where that is not possible."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's slurm-wlm and munge (missing: {', '.join(missing) or 'root'})")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    node = socket.gethostname().partition(".")[0]
    configuration = folder / "slurm.conf"
    values = {"node": node, "folder": folder, "cpus": 4, "controller_port": free_port(), "node_port": free_port()}
    configuration.write_text(CONFIGURATION.format(**values))
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munged += [
        f"--pid-file={folder}/munged.pid",
        f"--log-file={folder}/munged.log",
        f"--seed-file={folder}/munged.seed",
    ]
    with ExitStack() as stack:
        _started(stack, munged, environment)
        until((folder / "munge.socket").exists)
        _started(stack, ["slurmctld", "-D", "-c", "-f", str(configuration)], environment)
        _started(stack, ["slurmd", "-D", "-c", "-f", str(configuration), "-N", node], environment)
        cluster = SlurmCluster(environment, node)
        until(lambda: "idle" in _answer(["sinfo", "--noheader", "--format=%T"], environment))
        yield cluster
        cluster.call("scancel", "--user=root")
        until(lambda: not cluster.tasks())


def _answer(command: list[str], environment: Mapping[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60).stdout


def _started(stack: ExitStack, command: list[str], environment: Mapping[str, str]) -> None:
    process = stack.enter_context(
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )
    stack.callback(process.terminate)
