"""A child process under test: its arguments say what it does, and what it has to say is one line of JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from listener.foundation.fork_server import ForkServer
from listener.foundation.processes import ChildProcess, end_with_parent

NAME = "tests.listener.foundation.child"


def main(what: str, *arguments: str) -> int:
    if what == "follow":
        end_with_parent(signal.SIGTERM)
        say(dict(os.environ))
    elif what == "describe":
        say(
            {
                "environment": dict(os.environ),
                "descriptors": sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()),
            }
        )
        return 0
    elif what == "start":  # a child of its own, and ends if so wished
        say(subprocess.Popen(["sleep", "600"]).pid)
        if arguments == ("and end",):
            return 0
    elif what == "hold":
        return hold()
    elif what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("deaf")
    elif what == "end":
        return int(arguments[0])
    time.sleep(600)
    return 0


def load() -> None:
    """Load nothing: what this module needs it has imported."""


def load_slowly() -> None:
    """Load what takes longer than any test."""
    time.sleep(600)


def copied() -> int:
    """Do what the first line says, in a copy of a fork server."""
    return main(*sys.stdin.readline().split())


def hold() -> int:
    """Hold a fork server and one child of it, until killed."""
    server = ForkServer(f"{NAME}:copied", load=f"{NAME}:load")
    with server:
        child = ChildProcess(NAME, fork=server.fork)
        child.start(with_pipes=True)
        say(descendants(os.getpid()))
        time.sleep(600)
    return 0


def descendants(pid: int) -> list[int]:
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
