"""The disk alone: writes files and makes each durable, as any receiver has to that answers only then, and nothing else.

Waits for a line on standard input, writes, says when it began and ended, its processor seconds and its memory in KB.
Usage: python disk.py FOLDER BYTES COUNT NUMBER
"""

from __future__ import annotations

import os
import resource
import sys
import time


def main(folder: str, size: int, count: int, number: int) -> None:
    content = os.urandom(1 << 18)
    whole, rest = divmod(size, len(content))
    names = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    before = time.process_time()
    started = time.monotonic()
    for n in range(count):
        file = os.open(f"{number}-{n}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=names)
        for _ in range(whole):
            os.write(file, content)
        os.write(file, content[:rest])
        os.fdatasync(file)
        os.close(file)
        os.fsync(names)
    ended = time.monotonic()
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(f"{started} {ended} {time.process_time() - before} {peak_kb}\n")


if __name__ == "__main__":
    main(sys.argv[1], *(int(a) for a in sys.argv[2:]))
