"""Counters of a daemon: what came in, what was refused and why, in one small file that `exporter status` reads.

Contract: names are our own stable words, so that a peer cannot make the list grow; values only rise, except gauges.
The file is replaced as a whole, and is no part of any guarantee: it is not synced.

Arrivals are counted by source beside them: an instance of a source that the configuration does not name counts as
`OTHER`. They alone go on where the last process stopped.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE = "listener.json"
OTHER: Final = "other"
"""Source of instances from senders that the configuration does not name."""
SLOT_S: Final = 600
"""Arrivals are counted in slots of so many seconds ..."""
SLOTS: Final = 145
"""... of which as many are kept: a whole day and the slot that has begun."""
_ARRIVED: Final = "arrived "
"""Beginning of the count of one source, between the processes of a listener."""
_MOST_UNCHECKED: Final = 200
"""Most sources in a process that does not know which ones the configuration names."""


class SourceArrivals:
    """Instances from one source: all of them, the time of the last, and numbers by slot."""

    def __init__(self, number: int = 0, last: float = 0.0, slots: dict[int, int] | None = None) -> None:
        self.number = number
        self.last = last
        """Unix time."""
        self.slots = slots or {}
        """Instances by the number of the slot since 1970."""

    def add(self, number: int, now: float) -> None:
        """Count instances that arrived just now."""
        slot = int(now) // SLOT_S
        self.number += number
        self.last = now
        self.slots[slot] = self.slots.get(slot, 0) + number
        if len(self.slots) > SLOTS:
            self.slots = {one: count for one, count in self.slots.items() if slot - SLOTS < one <= slot}

    @classmethod
    def read(cls, found: Any) -> SourceArrivals | None:
        """What `as_json` made; None for anything else."""
        try:
            number, last, slots = int(found["number"]), float(found["last"]), found["slots"]
            return cls(number, last, {int(slot): int(count) for slot, count in slots[-SLOTS:]})
        except (TypeError, ValueError, LookupError, OverflowError):
            return None

    def as_json(self) -> dict[str, object]:
        """Everything, as JSON values."""
        return {"number": self.number, "last": round(self.last, 3), "slots": sorted(self.slots.items())}


class Counters:
    """Counts of one daemon since it started; safe for use by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._gauges: dict[str, int] = {}
        self._arrivals: dict[str, SourceArrivals] = {}
        self._sources: frozenset[str] | None = None
        self._unchecked: Counter[str] = Counter()
        self._started = time.time()

    def add(self, name: str, count: int = 1) -> None:
        """Count an event."""
        with self._lock:
            self._counts[name] += count

    def add_each(self, **counts: int) -> None:
        """Count several events at once."""
        with self._lock:
            for name, count in counts.items():
                self._add(name, count)

    def name_sources(self, names: Iterable[str]) -> None:
        """Give the sources that the configuration names, and a place to each in the file; all others become `OTHER`."""
        with self._lock:
            self._sources = frozenset((*names, OTHER))
            before = self._arrivals
            self._arrivals = {name: before.get(name, SourceArrivals()) for name in sorted(self._sources)}

    def arrived(self, source: str, count: int = 1) -> None:
        """Count instances that were acknowledged to their sender, or taken, from this source."""
        with self._lock:
            self._add(f"{_ARRIVED}{source}", count)

    def drain_arrivals(self) -> dict[str, int]:
        """Arrivals that were counted here since the last call, for `add_each` in the process that knows the sources."""
        with self._lock:
            drained, self._unchecked = self._unchecked, Counter()
        return {f"{_ARRIVED}{source}": count for source, count in drained.items()}

    def _add(self, name: str, count: int) -> None:
        if not name.startswith(_ARRIVED):
            self._counts[name] += count
            return
        source = name.removeprefix(_ARRIVED)
        if self._sources is not None:
            self._arrivals[source if source in self._sources else OTHER].add(count, time.time())
        else:
            has_room = source in self._unchecked or len(self._unchecked) < _MOST_UNCHECKED
            self._unchecked[source if has_room else OTHER] += count

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
                "sources": {name: one.as_json() for name, one in self._arrivals.items()},
            }

    def resume(self, folder: Path) -> None:
        """Go on with the arrivals that an earlier process wrote to its file in `folder`."""
        found = (read_counters(folder) or {}).get("sources")
        with self._lock:
            for name in self._arrivals:
                one = SourceArrivals.read(found.get(name)) if isinstance(found, dict) else None
                self._arrivals[name] = one or self._arrivals[name]

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
