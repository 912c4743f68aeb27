"""Feed the engine from a reader, and account for every entry: the one run behind every command that reads at rest.

Contract: every entry of the reader comes back once, as a result that is durable, counted first in the tally. What is
deferred is tried again when it is due; what a container holds is final before the container is. When told to stop,
nothing new begins and work under way gets a moment to finish.

Must never: keep a copy longer than its entry is under way, or ask a reader for more than the engine has room for.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.errors import ExportError, MachineCondition, OutOfSpace, Reason
from exporter.inputs.contract import INSIDE
from exporter.outcome import Exported, Failed, Skipped
from exporter.results.ledger.types import InstanceStatus, WorkItem
from exporter.work.engine import DECIDED_ROOM, Deferred, HeldBack, KnownOutcome, PublishedResult, Returned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.inputs.contract import InputContent, InputEntry, InputReader
    from exporter.inputs.scratch import Scratch
    from exporter.outcome import Outcome
    from exporter.results.ledger import Ledger
    from exporter.series.found import SeriesTally
    from exporter.services.context import ExportContext
    from exporter.work.engine import Result

WAIT_S: Final = 0.2
PATIENCE_S: Final = 60.0
"""Time that a folder of ours may be gone before the run ends for it; a full disk ends it at once."""
AGAIN_S: Final = 1.0
DRAIN_S: Final = 10.0
"""Time that work under way gets to finish when the run is told to stop."""
MEMORY_TRIES: Final = 3
"""Times that an entry is run alone, and its worker killed, before the run leaves it pending."""


@dataclass(slots=True)
class Progress:
    """How far a run is: updated while it runs."""

    listed: int | None = None
    """Entries there are, but for those inside containers; None while they are being counted."""
    inside: int = 0
    """Entries inside containers that were come to."""
    unchanged: int = 0
    """Entries that were finished before and are as they were."""
    failed_before: int = 0
    """Those of them that had failed."""
    exported: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    memory_short: int = 0
    """Entries that are left pending because memory is short: a rerun tries them again."""
    bytes: int = 0
    """Of the input that was read."""
    series: SeriesTally | None = None
    """Volumes of whole series, where `volume.series` asks for them."""

    @property
    def total(self) -> int | None:
        """Entries there are, as far as is known; None while they are being counted."""
        return None if self.listed is None else self.listed + self.inside

    @property
    def settled(self) -> int:
        """Entries that are accounted for."""
        return self.unchanged + self.exported + self.skipped.total() + self.failed.total()

    def add(self, work: WorkItem, outcome: Outcome) -> None:
        """Count one outcome."""
        self.bytes += work.size_bytes
        match outcome:
            case Exported():
                self.exported += 1
            case Skipped():
                self.skipped[outcome.reason] += 1
            case Failed():
                self.failed[outcome.reason] += 1


class LedgerMemory:
    """What the ledger knows of earlier runs, counted in the tally where it is asked for."""

    def __init__(self, ledger: Ledger, settings_sha256: str, tally: Progress) -> None:
        self._ledger = ledger
        self._settings_sha256 = settings_sha256
        self._tally = tally

    def is_done(self, name: str, size_bytes: int, mtime_ns: int, changed_ns: int = 0) -> bool:
        """See `Memory`."""
        entry = self._ledger.finished(name, size_bytes, mtime_ns, self._settings_sha256)
        if entry is None or (entry.reason == Reason.UNREADABLE and changed_ns > entry.updated_ns):
            return False
        if entry.may_contain:
            inside = self._ledger.inside(f"{name}{INSIDE}", self._settings_sha256)
            if inside.pending:
                return False
            self._tally.unchanged += inside.finished
            self._tally.failed_before += inside.failed
            self._tally.inside += inside.finished
        self._tally.unchanged += 1
        self._tally.failed_before += entry.state is InstanceStatus.FAILED
        self._tally.inside += INSIDE in name
        return True

    def failed(self, prefix: str) -> list[str]:
        """See `Memory`."""
        return self._ledger.failed(prefix)

    def closed_folders(self) -> list[str]:
        """See `Memory`."""
        return self._ledger.closed_folders()


class Feeder:
    """One run: feeds the engine, repeats what was deferred, stops when told."""

    def __init__(self, session: ExportContext, scratch: Scratch, tally: Progress, stop: threading.Event) -> None:
        self._engine = session.engine
        self._scratch = scratch
        self._tally = tally
        self._stop = stop
        self._under_way = 0
        self._trouble_since: float | None = None
        """When a condition of the machine was met that has not passed yet."""
        self._decided: set[str] = set()
        """Names of those under way that need no worker."""
        self._later: list[tuple[float, str, WorkItem]] = []
        """What is deferred, by the monotonic time when it is due."""
        self._contents: dict[str, InputContent] = {}
        """Of entries under way or deferred, by name."""
        self._members: dict[str, str] = {}
        """Container of each entry under way or deferred that lies in one."""
        self._open: Counter[str] = Counter()
        """Members under way or deferred, by container."""
        self._closing: dict[str, InputEntry] = {}
        """Containers that wait for their members."""
        self._short: Counter[str] = Counter()
        """Times that an entry was run alone and its worker was killed."""
        self.pending: dict[str, Failed] = {}
        """Entries that the run leaves pending, and why."""

    def results(self, reader: InputReader, ledger: Ledger, settings_sha256: str) -> Iterator[PublishedResult]:
        """Every entry's result, each counted in the tally first.

        Raises:
            MachineCondition: The disk is full, or a folder of ours has gone; a rerun goes on from here.
            LedgerUnusable: Its files were removed or replaced meanwhile.
        """
        threading.Thread(target=self._count, args=(reader,), daemon=True).start()
        entries = reader.entries(LedgerMemory(ledger, settings_sha256, self._tally), self._scratch)
        more = True
        while not self._stop.is_set() and (more or self._later or self._under_way):
            ledger.check()
            while more and self._has_room():
                entry = next(entries, None)
                more = entry is not None
                if entry is not None:
                    self._take(entry)
            if not more or self._scratch.is_full or self._trouble_since is not None:
                self._submit_later()
            yield from self._collect(WAIT_S)
        if self._stop.is_set():
            yield from self._drain()

    def _has_room(self) -> bool:
        """Whether another entry can usefully begin; copies that wait for a worker take room too."""
        idle = not self._under_way and not self._later
        if self._trouble_since is not None:
            return False
        has_room = self._for_workers < self._engine.room and len(self._decided) < DECIDED_ROOM
        return has_room and (idle or not self._scratch.is_full) and not self._stop.is_set()

    @property
    def _for_workers(self) -> int:
        return self._under_way - len(self._decided)

    def _count(self, reader: InputReader) -> None:
        total = 0
        try:
            for total in reader.count():  # noqa: B007 - the last one counts
                if self._stop.is_set():
                    return
        except OSError:
            return
        self._tally.listed = total

    def _drain(self) -> Iterator[PublishedResult]:
        """End the engine while its results are taken: what finishes in time counts."""
        ending = threading.Thread(target=self._engine.stop, args=(DRAIN_S,))
        ending.start()
        while ending.is_alive() or not self._engine.results.empty():
            yield from self._collect(WAIT_S)
        ending.join()

    def _take(self, entry: InputEntry) -> None:
        """Begin an entry; a container waits until its members are final."""
        self._tally.inside += INSIDE in entry.name
        if entry.within is not None:
            self._members[entry.name] = entry.within
            self._open[entry.within] += 1
        if self._open[entry.name]:
            self._closing[entry.name] = entry
        else:
            self._submit(entry)

    def _submit(self, entry: InputEntry) -> None:
        decided, path = entry.decided, Path()
        if entry.content is not None:
            try:
                path = entry.content.readable()
            except ExportError as error:
                decided = Failed(error.reason, str(error), may_pass=False)
            else:
                self._contents[entry.name] = entry.content
        work = WorkItem(entry.name, path, entry.size_bytes, entry.mtime_ns, "folder", entry.mirrors)
        self._under_way += 1
        if decided is None:
            self._engine.submit(work)
        else:
            self._decided.add(work.name)
            self._engine.submit_decided(work, decided)

    def _submit_later(self) -> None:
        """Try again what was deferred and is due."""
        while self._later and self._later[0][0] <= time.monotonic() and self._for_workers < self._engine.room:
            self._engine.submit(heapq.heappop(self._later)[2])
            self._under_way += 1

    def _collect(self, wait_s: float) -> Iterator[PublishedResult]:
        """The results there are, waiting a moment for the first.

        Raises:
            MachineCondition: An instance came back because of it, or cannot be committed for that reason.
        """
        try:
            result: Result | None = self._engine.results.get(timeout=wait_s)
        except queue.Empty:
            self._engine.check()
            if self._engine.waits_for is not None:
                self._bear(self._engine.waits_for)
            return
        while result is not None:
            self._under_way -= 1
            self._decided.discard(result.work.name)
            match result:
                case PublishedResult():
                    self._trouble_since = None
                    self._tally.add(result.work, result.outcome)
                    self._end(result.work.name)
                    yield result
                case Deferred():
                    self._trouble_since = None
                    self._repeat(result)
                case HeldBack():
                    self._trouble_since = None
                    self._again(result.work, result.wait_s)
                case Returned():
                    self._take_back(result)
                case KnownOutcome():
                    raise AssertionError("a folder's file begins anew")
            try:
                result = self._engine.results.get_nowait()
            except queue.Empty:
                result = None

    def _repeat(self, result: Deferred) -> None:
        """Try an entry again when it is due, unless the memory of this machine does not hold it."""
        name = result.work.name
        self._short[name] += result.memory_short
        if self._short[name] < MEMORY_TRIES:
            heapq.heappush(self._later, (result.due, name, result.work))
            return
        self._tally.memory_short += 1
        self.pending[name] = result.outcome
        self._let_go(name)  # its container stays open, so that a rerun looks into it again

    def _take_back(self, result: Returned) -> None:
        if result.condition is None or self._stop.is_set():
            self._let_go(result.work.name)
        else:
            self._again(result.work, AGAIN_S)
            self._bear(result.condition)

    def _again(self, work: WorkItem, wait_s: float) -> None:
        heapq.heappush(self._later, (time.monotonic() + wait_s, work.name, work))

    def _bear(self, condition: MachineCondition) -> None:
        """Go on in spite of a condition that may pass in a moment.

        Raises:
            MachineCondition: It is none of these, or has lasted for too long.
        """
        if self._stop.is_set():
            return
        now = time.monotonic()
        self._trouble_since = self._trouble_since or now
        if isinstance(condition, OutOfSpace) or now - self._trouble_since > PATIENCE_S:
            raise condition

    def _let_go(self, name: str) -> None:
        content = self._contents.pop(name, None)
        if content is not None:
            content.release()

    def _end(self, name: str) -> None:
        """An entry is final: its container may be, too."""
        self._let_go(name)
        container = self._members.pop(name, None)
        if container is None:
            return
        self._open[container] -= 1
        if not self._open[container]:
            del self._open[container]
            closing = self._closing.pop(container, None)
            if closing is not None and not self._stop.is_set():
                self._submit(closing)
