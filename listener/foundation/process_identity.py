"""Which process it is, beyond its number: whether it still runs can be said in its own kernel and namespace only.

Source: proc(5) for the start of a process, pid_namespaces(7).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def boot_id() -> str:
    """The kernel's boot id, the same in every container on it; empty where it cannot be read."""
    return text_of("/proc/sys/kernel/random/boot_id")


def process_namespace() -> str:
    """The namespace in which our process numbers count; empty where it cannot be read."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def is_running(pid: int, started: int) -> bool | None:
    """Whether a process of this namespace runs; None where there is one of its number that cannot be looked at."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    found = start_of(pid)
    return None if found < 0 else found == started


def start_of(pid: int) -> int:
    """Start of a process, in clock ticks since boot (proc(5)); -1 if no process has that number."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return -1
    return int(status.rpartition(b")")[2].split()[19])


def text_of(path: str) -> str:
    """Text of a file of the system in ASCII; empty where it cannot be read."""
    with suppress(OSError, ValueError):
        return Path(path).read_text(encoding="ascii").strip()
    return ""
