"""The entries of an input reader as a source of work, and the run of every command that exports data at rest.

Contract: every entry of the reader comes back once, as a result that is durable and already counted in the progress.
Deferred entries are tried again when no new entry can begin; the entries of a container are final before it is.

Must never: keep a copy longer than its entry is under way.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.errors import ExportError, Reason
from exporter.inputs.contract import INSIDE
from exporter.outcome import Exported, Failed, Skipped
from exporter.privacy.input_names import InputNames, KeyedName
from exporter.results.ledger.types import InputRow, InstanceStatus, WorkItem
from exporter.work.contract import Deferred, KnownOutcome, PublishedResult, Returned
from exporter.work.feeder import Feeder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from exporter.inputs.contract import EarlierOutcomes, InputContent, InputEntry, InputReader
    from exporter.inputs.scratch import Scratch
    from exporter.outcome import Outcome
    from exporter.results.ledger import Ledger
    from exporter.series.found import SeriesTally
    from exporter.work.contract import FinalResult, PendingResult, WorkEngine

PATIENCE_S: Final = 60.0
"""Time that a folder of ours may be gone before the run ends for it; a full disk ends it at once."""
DRAIN_S: Final = 10.0
"""Time that work under way gets to finish when the run is to stop."""
MEMORY_TRIES: Final = 3
"""Times that an entry is run alone, and its worker killed, before the run leaves it pending."""


@dataclass(slots=True)
class Progress:
    """Counts of one run, updated while it runs."""

    listed: int | None = None
    """Number of entries, without those inside containers; None while they are being counted."""
    inside: int = 0
    """Entries inside containers that were opened so far."""
    unchanged: int = 0
    """Entries that an earlier run finished and that have not changed since."""
    failed_before: int = 0
    """Those of them that had failed."""
    exported: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    memory_short: int = 0
    """Entries that are left pending because memory is short: a rerun tries them again."""
    bytes: int = 0
    """Bytes of input read."""
    series: SeriesTally | None = None
    """Volumes of whole series, where `volume.series` asks for them."""

    @property
    def total(self) -> int | None:
        """Number of entries known so far; None while they are being counted."""
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
    """Outcomes of earlier runs, from the ledger; a finished entry is counted in `Progress` when it is looked up."""

    def __init__(
        self, ledger: Ledger, settings_sha256: str, progress: Progress, names: InputNames | None = None
    ) -> None:
        self._ledger = ledger
        self._names = names or InputNames()
        self._settings_sha256 = settings_sha256
        self._progress = progress
        self._foreseen: dict[str, InputRow | None] = {}

    def foresee(self, names: Sequence[str]) -> None:
        """See `EarlierOutcomes`."""
        self._foreseen = self._ledger.inputs([self.key(name) for name in names])

    def is_done(self, name: str, size_bytes: int, mtime_ns: int, changed_ns: int = 0) -> bool:
        """See `EarlierOutcomes`."""
        name = self.key(name)
        row = self._foreseen.pop(name) if name in self._foreseen else self._ledger.inputs([name])[name]
        if row is None or not row.is_final(size_bytes, self._names.time(mtime_ns), self._settings_sha256):
            return False
        if row.reason == Reason.UNREADABLE and changed_ns > row.updated_ns:
            return False
        if row.may_contain:
            inside = self._ledger.inside(f"{name}{INSIDE}", self._settings_sha256)
            if inside.pending:
                return False
            self._progress.unchanged += inside.finished
            self._progress.failed_before += inside.failed
            self._progress.inside += inside.finished
        self._progress.unchanged += 1
        self._progress.failed_before += row.state == InstanceStatus.FAILED
        self._progress.inside += INSIDE in name
        return True

    def key(self, name: str) -> str:
        """See `EarlierOutcomes`."""
        return self._names.name(name)

    def failed(self, prefix: str) -> list[str]:
        """See `EarlierOutcomes`."""
        return [KeyedName(name) for name in self._ledger.failed(self.key(prefix))]

    def closed_folders(self, root: Path) -> list[str]:
        """See `EarlierOutcomes`."""
        paths = (self._names.original(root, name) for name in self._ledger.closed_folders())
        return [path for path in paths if path is not None]


class EntrySource:
    """The unfinished entries of one reader, each with its content while it is under way or deferred."""

    def __init__(
        self,
        reader: InputReader,
        memory: EarlierOutcomes,
        scratch: Scratch,
        progress: Progress,
        names: InputNames | None = None,
    ) -> None:
        self._reader = reader
        self._names = names or InputNames()
        self._scratch = scratch
        self._progress = progress
        self._entries = reader.entries(memory, scratch)
        self._has_more = True
        self._is_waiting = False
        """Whether the last result was `Returned` (a machine condition): then no new entry begins."""
        self._ready: deque[InputEntry] = deque()
        """Entries that can begin: the last one of the reader, and containers whose members are final."""
        self._later: list[tuple[float, str, WorkItem]] = []
        """Deferred entries, ordered by the monotonic time when they are due."""
        self._contents: dict[str, InputContent] = {}
        """Content of entries under way or deferred, by name."""
        self._members: dict[str, str] = {}
        """Container of each entry under way or deferred, for entries inside a container."""
        self._open: Counter[str] = Counter()
        """Number of members under way or deferred, by container."""
        self._closing: dict[str, InputEntry] = {}
        """Containers that wait for their members."""
        self._short: Counter[str] = Counter()
        """Times that an entry was run alone and its worker was killed."""
        self.pending: dict[str, Failed] = {}
        """Entries that are left pending, and why."""

    def count(self, stop: threading.Event) -> None:
        """Count the entries of the reader for `Progress`; from another thread, until `stop` is set."""
        total = 0
        try:
            for total in self._reader.count():  # noqa: B007 - the last one counts
                if stop.is_set():
                    return
        except OSError:
            return
        self._progress.listed = total

    @property
    def is_exhausted(self) -> bool:
        """See `WorkSource`."""
        return not (self._has_more or self._ready or self._later)

    def next(self) -> WorkItem | None:
        """See `WorkSource`: a new entry where the machine and the space for copies permit it, else one that is due."""
        while not self._ready and self._may_begin:
            entry = next(self._entries, None)
            if entry is None:
                self._has_more = False
            else:
                self._take(keyed(entry, self._names))
        if self._ready:
            return self._begin(self._ready.popleft())
        if self._later and self._later[0][0] <= time.monotonic():
            return heapq.heappop(self._later)[2]
        return None

    @property
    def _may_begin(self) -> bool:
        is_full = bool(self._contents) and self._scratch.is_full
        return self._has_more and not self._is_waiting and not is_full

    def _take(self, entry: InputEntry) -> None:
        """Take an entry from the reader; a container waits until its members are final."""
        self._progress.inside += INSIDE in entry.name
        if entry.within is not None:
            self._members[entry.name] = entry.within
            self._open[entry.within] += 1
        if self._open[entry.name]:
            self._closing[entry.name] = entry
        else:
            self._ready.append(entry)

    def _begin(self, entry: InputEntry) -> WorkItem:
        decided, path = entry.decided, Path()
        if entry.content is not None:
            try:
                path = entry.content.readable()
            except ExportError as error:
                decided = Failed.of(error)
            else:
                self._contents[entry.name] = entry.content
        return WorkItem(entry.name, path, entry.size_bytes, entry.mtime_ns, "folder", entry.mirrors, decided=decided)

    def settle(self, result: FinalResult) -> None:
        """See `WorkSource`: counts the outcome and releases the content."""
        name = result.work.name
        self._is_waiting = False
        match result:
            case PublishedResult(work=work, outcome=outcome):
                self._progress.add(work, outcome)
            case KnownOutcome():
                raise AssertionError("a folder's file begins anew")
        self._release_content(name)
        container = self._members.pop(name, None)
        if container is not None:
            self._open[container] -= 1
            if not self._open[container]:
                del self._open[container]
                if container in self._closing:
                    self._ready.append(self._closing.pop(container))

    def put_back(self, result: PendingResult, due: float | None) -> None:
        """See `WorkSource`; an entry for which memory is short is left pending after `MEMORY_TRIES`."""
        name = result.work.name
        self._is_waiting = isinstance(result, Returned)
        if isinstance(result, Deferred) and result.memory_short:
            self._short[name] += 1
            if self._short[name] == MEMORY_TRIES:
                self._progress.memory_short += 1
                self.pending[name] = result.outcome
                due = None
        if due is None:
            self._release_content(name)  # its container stays open, so that a rerun looks into it again
        else:
            heapq.heappush(self._later, (due, name, result.work))

    def _release_content(self, name: str) -> None:
        content = self._contents.pop(name, None)
        if content is not None:
            content.release()


def keyed(entry: InputEntry, names: InputNames) -> InputEntry:
    """An entry under the names that ledger, lines and media have for it."""
    if not names.is_keyed:
        return entry
    mirrors, within = (None if path is None else names.name(path) for path in (entry.mirrors, entry.within))
    name, mtime_ns = names.name(entry.name), names.time(entry.mtime_ns)
    return replace(entry, name=name, mtime_ns=mtime_ns, mirrors=mirrors, within=within)


def originals(reader: InputReader, names: InputNames, wanted: Sequence[str]) -> list[str]:
    """Paths of the inputs that the ledger has under these names, without those that are gone."""
    if not names.is_keyed:
        return list(wanted)
    inside: dict[str, list[str]] = {}
    found = []
    for name in wanted:
        container, is_inside, _ = name.partition(INSIDE)
        if is_inside:
            inside.setdefault(container, []).append(name)
        elif (path := names.original(reader.root, name)) is not None:
            found.append(path)
    for container, members in inside.items():
        if (path := names.original(reader.root, container)) is not None:
            found += names.among(reader.members(path), members)
    return found


def exported(engine: WorkEngine, source: EntrySource, stop: threading.Event) -> Iterator[PublishedResult]:
    """Export all entries of a source; yield each result after it was counted in the progress.

    Raises:
        MachineCondition: The disk is full, or a folder of ours has gone; a rerun goes on from here.
        LedgerUnusable: Its files were removed or replaced meanwhile.
    """
    threading.Thread(target=source.count, args=(stop,), daemon=True).start()
    feeder = Feeder(engine, source, stop, patience_s=PATIENCE_S)
    while not (stop.is_set() or feeder.is_done):
        yield from feeder.turn()
    if stop.is_set():
        yield from feeder.drain(DRAIN_S)
        engine.check()
