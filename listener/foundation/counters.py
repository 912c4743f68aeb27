"""Counters of a daemon: what came in, what was refused and why, in one small file that `exporter status` reads.

Contract: names are our own stable words, so that a peer cannot make the list grow; values only rise, except gauges.
The file is replaced as a whole, and is no part of any guarantee: it is not synced.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

FILE = "listener.json"


class Counters:
    """Counts of one daemon since it started; safe for use by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._gauges: dict[str, int] = {}
        self._started = time.time()

    def add(self, name: str, count: int = 1) -> None:
        """Count an event."""
        with self._lock:
            self._counts[name] += count

    def add_each(self, **counts: int) -> None:
        """Count several events at once."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def gauge(self, name: str, value: int) -> None:
        """Set a value that rises and falls."""
        with self._lock:
            self._gauges[name] = value

    def get(self, name: str) -> int:
        """The count of an event so far."""
        with self._lock:
            return self._counts[name]

    def all(self) -> dict[str, int]:
        """Every count so far."""
        with self._lock:
            return dict(self._counts)

    def snapshot(self) -> dict[str, object]:
        """Everything, as JSON values."""
        with self._lock:
            return {
                "pid": os.getpid(),
                "started": round(self._started, 3),
                "updated": round(time.time(), 3),
                "counts": dict(sorted(self._counts.items())),
                "gauges": dict(sorted(self._gauges.items())),
            }

    def write(self, folder: Path) -> None:
        """Replace the file of counters in `folder`; a full disk is no reason to stop."""
        partial = folder / f".{FILE}.part"
        with suppress(OSError):
            partial.write_text(json.dumps(self.snapshot(), separators=(",", ":")))
            partial.chmod(0o600)
            partial.replace(folder / FILE)


def read_counters(spool_root: Path) -> dict[str, Any] | None:
    """What the listener of this spool counted last; None where there is nothing to read."""
    try:
        found = json.loads((spool_root / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
