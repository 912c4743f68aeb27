"""A child process under test: its arguments say what it does, and what it has to say is one line of JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from listener.foundation.processes import end_with_parent


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
    elif what == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("deaf")
    elif what == "end":
        return int(arguments[0])
    time.sleep(600)
    return 0


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
