"""Faults at exactly the n-th system call of a daemon, by strace: killed there, or an error returned there."""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.faults.daemons import wait_for
from tests.faults.report import NotPermitted

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITING: Final = (
    "write", "writev", "pwrite64", "sync_file_range", "fsync", "fdatasync", "rename", "renameat", "renameat2",
    "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "ftruncate", "symlink", "symlinkat",
)  # fmt: skip
"""The calls that change what is on the disk."""


def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        raise NotPermitted("strace is not installed")
    return found


def wrapped(inject: str, log: Path, *, trace: str | None = None) -> list[str]:
    """A command that runs another one with an injection: ``fsync:error=EIO:when=2``."""
    calls = trace or inject.partition(":")[0]
    # strace is quicker where the kernel filters calls for it, but then injected signals are lost (strace 6.1).
    quick = [] if ":signal=" in inject else ["--seccomp-bpf"]
    return [strace(), "-f", "-qq", *quick, "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={inject}"]


@contextmanager
def attached(pid: int, log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """strace on a running process and all its threads; it sees every call once the block begins."""
    process = subprocess.Popen(
        [strace(), "-f", "-qq", "-o", str(log), *options, "-p", str(pid)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: _is_traced(pid) or process.poll() is not None, 20, "strace attaches")
        if process.poll() is not None:
            raise NotPermitted("strace may not attach to a process here (ptrace)")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)  # it detaches, and the process goes on
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=100)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=100)


def killed_at(log: Path, call: str, number: int) -> bool:
    """Whether the injected signal killed a process: the n-th such call of a thread, or a later one, never returned."""
    made: collections.Counter[str] = collections.Counter()
    last: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        thread, _, said = line.partition(" ")
        said = said.strip()
        if said.startswith(f"{call}("):
            made[thread] += 1
        before = last.get(thread, "")
        was_inside = before.startswith((f"{call}(", f"<... {call} resumed>")) and before.endswith("= ?")
        if said == "+++ killed by SIGKILL +++" and was_inside and made[thread] >= number:
            return True
        last[thread] = said
    return False


def _is_traced(pid: int) -> bool:
    """Whether every thread of a process has a tracer."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)
    except OSError:
        return False
