"""Which instances are under way: one job at a time for each, others wait for it or for their time.

Contract: raises nothing. Two jobs for one instance would take it twice; one that comes while another is under way
waits, and is given out with what is known of the instance by then. Used by one thread.
"""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from listener.sources.orthanc.downloads import DownloadJob, Downloads
    from listener.sources.orthanc.memory import KnownInstance


class InFlight:
    """The jobs of one server that are not over."""

    def __init__(self, downloads: Downloads) -> None:
        self._downloads = downloads
        self._under_way: set[bytes] = set()
        self._after: dict[bytes, DownloadJob] = {}
        self._delayed: list[tuple[float, int, DownloadJob]] = []
        self._order = itertools.count()
        self.freed: list[bytes] = []
        """Instances that are under way no more, and for which another job waits."""

    def __contains__(self, instance: bytes) -> bool:
        return instance in self._under_way

    def __len__(self) -> int:
        return len(self._under_way)

    def give_out(self, jobs: Iterable[DownloadJob]) -> None:
        """Have jobs done; where the instance is under way, after that, if the job settles changes, else not at all."""
        for job in jobs:
            if job.instance not in self._under_way:
                self._under_way.add(job.instance)
                self._downloads.submit(job)
            elif job.seqs:
                waiting = self._after.get(job.instance)
                self._after[job.instance] = replace(job, seqs=(*waiting.seqs, *job.seqs)) if waiting else job

    def give_again(self, job: DownloadJob) -> None:
        """A job that is under way has its turn once more."""
        self._downloads.submit(job)

    def delay(self, job: DownloadJob, pause_s: float) -> None:
        """The same after a pause."""
        heapq.heappush(self._delayed, (time.monotonic() + pause_s, next(self._order), job))

    def give_due(self) -> None:
        """Give those again whose pause is over."""
        now = time.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            self._downloads.submit(heapq.heappop(self._delayed)[2])

    def finish(self, instance: bytes) -> None:
        """A job is over."""
        self._under_way.discard(instance)
        if instance in self._after:
            self.freed.append(instance)

    def give_freed(self, known: Mapping[bytes, KnownInstance]) -> None:
        """Give out what waited for jobs that are over and remembered."""
        freed, self.freed = self.freed, []
        waiting = [self._after.pop(instance) for instance in freed if instance in self._after]
        self.give_out(replace(job, known=known.get(job.instance)) for job in waiting)

    def forget_waiting(self) -> None:
        """Jobs that wait for others are needed no more."""
        self._after.clear()
