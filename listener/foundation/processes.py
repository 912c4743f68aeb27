"""The environment of processes that run modules of ours.

Contract: a child finds the same package as its parent, and does not speak to the service manager in its place.
"""

from __future__ import annotations

import os
import site
from pathlib import Path
from typing import Final

_NOT_FOR_CHILDREN: Final = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})


def own_environment() -> dict[str, str]:
    """The environment for a child process that runs a module of ours."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
    folder = str(Path(__file__).resolve().parents[2])
    if folder not in site.getsitepackages():  # run from a checkout: the child shall find the same package
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, environment.get("PYTHONPATH")]))
    return environment
