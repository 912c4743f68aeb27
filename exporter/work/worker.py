"""The worker process: exports one instance at a time, within limits, and answers with data only.

Contract: ``python -m exporter.work.worker`` reads lines of JSON on its standard input and writes lines ``<word>
<JSON>`` on what was its standard output; everything else that is printed goes to its standard error, which the parent
discards.

    parent                          worker
    {target, settings, limits}  ->
                                <-  ready {}
    {path, folder, ...}         ->
                                <-  identity {...}      unless the outcome comes before it
    "go" or "stop"              ->
                                <-  outcome {...} | final {...} | stopped {} | space "message" | unavailable "message"

`final` is an outcome too; the process ends after it, because its memory has grown too much.

A native decoder may crash, loop or eat memory here: the parent kills the process and starts another. The process never
outlives the exporter and leaves no core dump. It is a copy of the fork server of `exporter.work.worker_server`, or an
interpreter of its own where there is none.

Must never: take patient data on its command line, in its environment or in its title; send anything but JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from exporter.errors import OutOfSpace, StorageUnavailable
from exporter.outcome import InstanceIdentity, to_json
from exporter.work import protocol
from exporter.work.protocol import WorkerJob
from listener.foundation.cpu_limit import limit_cpu
from listener.foundation.processes import end_with_parent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.work.protocol import Export

_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38


class _Channel:
    """Both ends of the pipe, moved away from the descriptors that libraries print to."""

    def __init__(self) -> None:
        self._input: BinaryIO = os.fdopen(os.dup(0), "rb", closefd=True)
        self._output = os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)

    def receive(self) -> Any:
        """Wait for the next message; None when the parent is gone."""
        line = self._input.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def send(self, word: str, text: bytes) -> None:
        """Send one line; `text` is JSON, which has no raw newline."""
        rest = memoryview(b"%s %s\n" % (word.encode("ascii"), text))
        while rest:
            rest = rest[os.write(self._output, rest) :]


def main() -> int:
    """Serve jobs until the parent closes the pipe."""
    channel = _Channel()
    end_with_parent(signal.SIGKILL)
    _give_up_privileges()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.umask(0o077)  # also for files of libraries; the exporter gives media the permissions of the settings
    hello = channel.receive()
    if hello is None:
        return 0
    _set_limits(hello["limits"])
    module, _, name = hello["target"].partition(":")
    export: Export = getattr(import_module(module), name)(hello["settings"])
    channel.send("ready", b"{}")
    enough_bytes = _resident_bytes() + hello["limits"]["growth_bytes"]
    while (message := channel.receive()) is not None:
        job = WorkerJob(**message)
        _allow_cpu(hello["limits"], job.path)
        if not _answer(channel, export, job, enough_bytes):
            break
    return 0


def _answer(channel: _Channel, export: Export, job: WorkerJob, enough_bytes: int) -> bool:
    """Export one job and answer.

    Returns:
        Whether another job may follow.
    """
    steps = export(job)
    try:
        found = protocol.identify(steps)
        if isinstance(found, InstanceIdentity):
            channel.send("identity", json.dumps(protocol.message_of(found)).encode("ascii"))
            if channel.receive() != "go":
                steps.close()
                channel.send("stopped", b"{}")
                return True
            found = protocol.export(steps)
    except OutOfSpace as condition:
        channel.send("space", json.dumps(str(condition)).encode("ascii"))
    except StorageUnavailable as condition:
        channel.send("unavailable", json.dumps(str(condition)).encode("ascii"))
    else:
        is_final = _has_grown(enough_bytes)
        channel.send("final" if is_final else "outcome", to_json(found))
        return not is_final
    return True


def _has_grown(enough_bytes: int) -> bool:
    """Whether this process uses more memory than `enough_bytes` now.

    The most that it ever used is known at once; what it uses now takes the kernel longer to say than many a job.
    """
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return peak_bytes > enough_bytes and _resident_bytes() > enough_bytes


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - the parent may not look: no dumps allowed
        return int(file.read().split()[1]) * resource.getpagesize()


def _give_up_privileges() -> None:
    """Forbid core dumps and new privileges, and be the first to be killed when memory is short."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as knob:  # noqa: PTH123 - a knob of the kernel
        knob.write("500")


def _set_limits(limits: Mapping[str, float]) -> None:
    """Apply the limits of the whole process."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, int(limits["memory_bytes"])),
        (resource.RLIMIT_FSIZE, int(limits["file_bytes"])),
    ):
        hard = resource.getrlimit(kind)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bound, bound))


def _allow_cpu(limits: Mapping[str, float], path: str) -> None:
    """Limit the processor time of the next job, by the size of its file."""
    try:
        size_bytes = Path(path).stat().st_size
    except OSError:
        size_bytes = 0  # the job reports why it cannot be read
    limit_cpu(min(limits["cpu_s"], limits["cpu_base_s"] + size_bytes * limits["cpu_s_per_mb"] / 1e6))


if __name__ == "__main__":
    sys.exit(main())
