"""Processor time that files cost a worker: ``python -m tests.product.costing FILE ...`` prints a line of JSON for each.

The files are exported as a worker process does it, each with the limit of processor time that its size permits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.settings.settings import LimitSettings

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one file cost."""

    name: str
    size_bytes: int
    cpu_s: float
    verdict: str
    """``exported``, ``skipped`` or a reason of failure."""

    @property
    def s_per_mb(self) -> float:
        """Seconds of processor time per megabyte; a file of less than 100 kB counts as that."""
        return self.cpu_s * 1e6 / max(self.size_bytes, 100_000)


def costs_of(paths: Iterable[Path], limits: LimitSettings) -> list[Cost]:
    """What each of the files costs; one that uses up its limit is a `timeout`."""
    left, found = list(paths), []
    while left:
        command = [sys.executable, "-m", "tests.product.costing", *map(str, left)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3600)
        for line in done.stdout.splitlines():
            cpu_s, verdict = json.loads(line)
            path = left.pop(0)
            found.append(Cost(path.stem, path.stat().st_size, cpu_s, verdict))
        if left:  # the process ended over the next one
            path = left.pop(0)
            size = path.stat().st_size
            found.append(Cost(path.stem, size, limits.allowed_cpu_s(size), f"ended with {done.returncode}"))
    return found


def main(paths: list[str]) -> None:
    """Export each file and say what it cost."""
    from exporter.settings.settings import Settings
    from exporter.work import pipeline, protocol
    from exporter.work.protocol import WorkerJob
    from exporter.work.supervisor import WorkerSetup
    from listener.foundation.cpu_limit import limit_cpu

    settings = Settings()
    export = pipeline.Pipeline(WorkerSetup.of(settings).settings)
    for path in paths:
        limit_cpu(settings.limits.allowed_cpu_s(Path(path).stat().st_size))
        with tempfile.TemporaryDirectory() as folder:
            before = time.process_time()
            outcome = protocol.run(export(WorkerJob(path, folder)), lambda _: None)
            cpu_s = time.process_time() - before
        print(json.dumps([cpu_s, getattr(outcome, "reason", outcome.status)]), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main(sys.argv[1:])
