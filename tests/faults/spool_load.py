"""A process that fills a spool from several threads and tells, outside of it, what was acknowledged.

``python -m tests.faults.spool_load ROOT JOURNAL THREADS [steps]``: each acknowledgement is one line
``<name> <size> <sha256>`` in JOURNAL, written after `Incoming.commit` returned; with ``steps``, small items are
committed as large ones are. Ends by itself once the spool refuses.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
from pathlib import Path

from listener.spool.errors import SpoolWriteFailed
from listener.spool.spool import Spool

SIZES = (500, 5_000, 20_000, 200_000) * 4 + (20_000_000,)
"""The largest is flushed while it arrives."""


def content(seed: int) -> bytes:
    """Bytes that prove themselves: the seed, then noise of it, of a length of it."""
    rng = random.Random(seed)  # noqa: S311 - noise
    return seed.to_bytes(8, "big") + rng.randbytes(rng.choice(SIZES))


def is_whole(data: bytes) -> bool:
    """Whether these bytes are all of what one seed makes."""
    return len(data) > 8 and content(int.from_bytes(data[:8], "big")) == data


def main(root: Path, journal: Path, threads: int, *, in_steps: bool) -> int:
    spool = Spool.open(root)
    if in_steps:
        spool.commit_path.names_follow_files = False
    spool.recover_listener()
    told = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    seeds = random.SystemRandom()

    def work() -> None:
        while True:
            data = content(seeds.getrandbits(62))
            try:
                incoming = spool.receive()
                for at in range(0, len(data), 65_536):
                    incoming.write([memoryview(data)[at : at + 65_536]])
                item = incoming.commit()
            except (SpoolWriteFailed, OSError):
                return
            os.write(told, f"{item.name} {len(data)} {hashlib.sha256(data).hexdigest()}\n".encode())

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), in_steps="steps" in sys.argv[4:]))
