"""Runs one command and says how long it took: seconds, processor seconds, the largest process in KB, the exit code.

A small process of its own: what wait4(2) says of a command's memory includes that of the process it was started from.
With a folder, it also says after how many seconds the first byte of a partial or complete output was in it.
Usage: python timed.py REPORT FOLDER|- COMMAND...
"""

from __future__ import annotations

import os
import sys
import threading
import time


def first_byte(folder: str, started: float, found: list[float], ended: threading.Event) -> None:
    """Look every 10 ms for a file that is not empty, and is neither database nor configuration."""
    while not ended.wait(0.01):
        for place, _, names in os.walk(folder):
            for name in names:
                path = f"{place}/{name}"
                is_output = ".part" in path or "/media/" in path
                try:
                    if is_output and os.stat(path).st_size:  # noqa: PTH116 - no import of pathlib
                        found.append(time.monotonic() - started)
                        return
                except OSError:
                    continue


def main(report: str, folder: str, command: list[str]) -> None:
    found: list[float] = []
    ended = threading.Event()
    started = time.monotonic()
    process = os.posix_spawnp(command[0], command, os.environ)
    watcher = threading.Thread(target=first_byte, args=(folder, started, found, ended))
    if folder != "-":
        watcher.start()
    _, status, used = os.wait4(process, 0)
    seconds = time.monotonic() - started
    ended.set()
    if folder != "-":
        watcher.join()
    code = os.waitstatus_to_exitcode(status)
    first = found[0] if found else -1.0
    with open(report, "w") as file:  # noqa: PTH123 - no import of pathlib
        file.write(f"{seconds} {used.ru_utime + used.ru_stime} {used.ru_maxrss} {code} {first}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
