"""Pauses the export daemon before a disk is full and resumes it later, with hysteresis between the two limits.

Contract: `DiskBackpressure.reason_to_pause` measures the file systems of media, metadata lines and ledger at most once
a second, publishes the figures for the listener, and returns why to pause, or None. The daemon pauses before these
disks are full, so that instances under way can be finished and their outcome written; it resumes by itself when space
is free again. The reserves are refilled while there is enough space.

Must never: raise for a disk that is full, broken or gone: the work on that disk reports it more precisely.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from listener.spool.space import FileSystemWatch, Free, SpaceLevel, Watermarks, publish_space

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from exporter.services.reserve import DiskReserve
    from exporter.settings.settings import SpaceSettings

log = structlog.get_logger()

LOOK_EVERY_S: Final = 1.0
FILL_EVERY_S: Final = 10.0


class DiskBackpressure:
    """Decides from free disk space whether new instances may be taken."""

    def __init__(
        self, settings: SpaceSettings, places: Mapping[str, Path], spool: Path, reserves: Iterable[DiskReserve]
    ) -> None:
        """Measure nothing yet.

        Args:
            settings: The limits.
            places: Folders whose file systems are watched, by the names of `listener.spool.space.PLACES`.
            spool: The spool's folder, in which the figures are published for the listener.
            reserves: Are refilled while there is enough space.
        """
        self._places = dict(places)
        of_bytes = Watermarks(0, settings.pause_below_bytes, settings.resume_above_bytes)
        of_files = Watermarks(0, settings.pause_below_files, settings.resume_above_files)
        self._levels = {name: FileSystemWatch(of_bytes, of_files) for name in self._places}
        self._spool = spool
        self._reserves = list(reserves)
        self._looked_at = self._filled_at = float("-inf")
        self.why: str | None = None
        """Which space is short, as a sentence; None while there is enough."""

    def reason_to_pause(self, memory_problem: str | None = None) -> str | None:
        """Measure free space, at most once a second.

        Args:
            memory_problem: Sentence for `exporter status` while fewer workers run than there are.

        Returns:
            Why to pause; None while there is enough space.
        """
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self._measure(memory_problem)
            # Not while paused: the space belongs to instances under way.
            if self.why is None and now - self._filled_at >= FILL_EVERY_S:
                self._filled_at = now
                for reserve in self._reserves:
                    reserve.fill()
        return self.why

    def _measure(self, memory_problem: str | None) -> None:
        found: dict[str, Free] = {}
        for name, path in self._places.items():
            with suppress(OSError):
                found[name] = Free.measure(path)
        low = [name for name, free in found.items() if self._levels[name].level_at(free) is not SpaceLevel.ENOUGH]
        was, self.why = self.why, f"too little room for {' and '.join(low)}" if low else None
        if (was is None) != (self.why is None):
            free = {name: {"bytes": one.bytes, "files": one.files} for name, one in found.items()}
            if self.why is not None:
                log.error("paused: no space", problem=self.why, free=free)
            else:
                log.info("resumed: free space restored", free=free)
        with suppress(OSError):  # the listener then no longer counts on these figures
            publish_space(self._spool, found, self.why, memory_problem)
