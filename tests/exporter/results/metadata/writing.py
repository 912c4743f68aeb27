"""A process that begins, finishes and publishes as fast as it can, and says what it has acknowledged."""

from __future__ import annotations

import os
import sys
import threading
from itertools import count
from pathlib import Path

from exporter.results.ledger import InstanceStatus, Ledger
from exporter.results.metadata.jsonl import Appender
from tests.exporter.ledger_rows import begin, finish


def main(folder: Path, threads: int, number: int) -> None:
    run = os.urandom(4).hex()
    with Ledger.open(folder / "exporter.db") as ledger, Appender(folder / "metadata.jsonl", ledger) as appender:
        numbers = count()

        def work() -> None:
            while (mine := next(numbers)) < number:
                name = f"{run}-{mine}"
                begin(ledger, name, size_bytes=1, mtime_ns=2, source="folder")
                # Longer than a page: a signal may come in the middle of the write.
                line = b'{"name":"%s","pad":"%s"}\n' % (name.encode(), b"x" * (mine % 7 * 3000))
                finish(ledger, name, state=InstanceStatus.EXPORTED, line=line)
                os.write(1, f"{name}\n".encode())
                appender.publish()

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
