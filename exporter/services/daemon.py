"""The export daemon: takes what the listener has put into the spool, oldest first, and exports it until told to stop.

Contract: one exporter works on one spool (a lock says so). An item is in `new/` until it is claimed, in `active/` until
its outcome is durable in the ledger, and then deleted, kept in `done/`, or in `quarantine/<reason>/`. What an exporter
that was killed had claimed is claimed again, and what it had already finished is only moved. The scan of `new/` is the
truth; a change of the folder only makes it come sooner. systemd's watchdog is fed while this loop, every worker's
supervisor and the publisher show progress.

Must never: delete an item before its outcome is durable, or take a full disk, or a folder of ours that is gone, for a
fault of an instance or of this program.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from exporter.dicom.received import called_ae_title
from exporter.errors import MachineCondition, OutOfSpace, StorageUnavailable
from exporter.outcome import Exported, Failed, Skipped
from exporter.results.ledger.types import InstanceStatus, WorkItem
from exporter.results.publish import FULL
from exporter.series.live import series_volumes
from exporter.services.context import OutputPaths, open_export_context
from exporter.services.pause import DiskBackpressure
from exporter.services.reserve import DiskReserve
from exporter.work.engine import Deferred, EnginePolicy, HeldBack, KnownOutcome, PublishedResult, Returned
from listener.foundation.notify import notify, watchdog_interval_s
from listener.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from exporter.results.ledger import Ledger
    from exporter.series.live import Keep
    from exporter.services.context import ExportContext
    from exporter.settings.settings import Settings
    from exporter.work.engine import Result
    from listener.settings.listener import DataFolder
    from listener.spool.spool import SpoolItem

log = structlog.get_logger()

WAIT_S: Final = 0.2
SCAN_S: Final = 5.0
"""`new/` is looked through at least so often, whatever its time of modification says."""
SCAN_ITEMS: Final = 10_000
DRAIN_S: Final = 30.0
"""Time that instances under way get to finish after SIGTERM; then they are put back."""
PATIENCE_S: Final = 10.0
"""Time that a received instance waits for the identity of one that came before it."""
PURGE_S: Final = 3600.0
LONGEST_PAUSE_S: Final = 5.0
"""A full disk is tried again after this time at the latest: with room, all is well again within as many seconds."""


@dataclass(slots=True)
class DaemonSignals:
    """What the daemon was told from outside."""

    stop: threading.Event
    """Finish what is under way, then end."""
    now: threading.Event
    """Do not even finish that."""

    @classmethod
    def none(cls) -> DaemonSignals:
        """No orders yet."""
        return cls(threading.Event(), threading.Event())


def run(settings: Settings, data: DataFolder, orders: DaemonSignals | None = None, *, take_over: bool = False) -> int:
    """Export until SIGTERM or SIGINT (twice: at once), or until `orders` say so; the exit code is 0 then.

    With `take_over`, an exporter of another host that has the media folder is taken for dead.

    Raises:
        SpoolUnusable, SpoolBusy: The spool is not ours to use.
        LedgerUnusable, MetadataFileUnusable, MediaFolderUnusable, WorkerUnstartable: Why it cannot run, or go on.
        OutOfSpace: The disk was full already at the start.
    """
    places = OutputPaths(settings.media_folder(data), settings.metadata_file(data), data.ledger)
    policy = EnginePolicy(attempts=settings.limits.attempts, patience_s=PATIENCE_S)
    kept_bytes = settings.room.reserve_bytes
    reserve = DiskReserve(Path(f"{data.ledger}.reserve"), kept_bytes)
    with (
        _signals(orders or DaemonSignals.none()) as told,
        Spool.open(data.spool, settings=settings.spool) as spool,
        spool.lock("exporter"),
        open_export_context(
            settings,
            places,
            workers=max(settings.workers, 1),
            policy=policy,
            reserve=reserve,
            take_over=take_over,
        ) as session,
        series_volumes(data.root / "series", settings) as keep,
    ):
        claimed = spool.recover_exporter()
        if claimed or session.interrupted or session.removed:
            log.warning(
                "an earlier run had not ended",
                claimed=claimed,
                attempts=session.interrupted,
                media_removed=session.removed,
            )
        watched = {"output": places.media, "lines": places.metadata.parent, "ledger": places.ledger.parent}
        spool_reserve = DiskReserve(spool.root / "reserve", kept_bytes // 4)
        pause = DiskBackpressure(settings.room, watched, spool.root, (reserve, spool_reserve))
        around = _Around(keep, pause, spool_reserve, policy.longest_wait_s)
        _Loop(session, spool, told, around, frozenset(settings.by_ae_title)).run()
    return 0


@dataclass(frozen=True, slots=True)
class _Around:
    """What the loop heeds beside spool and engine."""

    keep: Keep
    pause: DiskBackpressure
    spool_reserve: DiskReserve
    """Space in the spool for instances that go into quarantine."""
    longest_wait_s: float
    """Longest time that an instance is deferred for."""


class _Loop:
    """Between the spool and the engine."""

    def __init__(
        self, session: ExportContext, spool: Spool, orders: DaemonSignals, around: _Around, titles: frozenset[str]
    ) -> None:
        """Work with these; `titles` are the AE titles that have settings of their own."""
        self._engine = session.engine
        self._ledger = session.ledger
        self._keep = around.keep
        self._pausing = around.pause
        self._reserve = around.spool_reserve
        self._titles = titles
        self._spool = spool
        self._orders = orders
        self._items: dict[str, SpoolItem] = {}
        """What is claimed: under way, or waiting for `_unsettled`."""
        self._waiting: Iterator[SpoolItem] = iter(())
        self._changed_ns = -1
        self._scanned_at = -SCAN_S
        self._deferred = _deferred(session.ledger, around.longest_wait_s)
        """When what is deferred is due, in monotonic time."""
        self._unsettled: list[PublishedResult | KnownOutcome] = []
        self._unreleased: list[str] = []
        self._pause_s = 0.0
        self._resume_at = 0.0
        self._counts = {"exported": 0, "skipped": 0, "quarantined": 0}

    def run(self) -> None:
        """Until told to stop."""
        every_s = watchdog_interval_s()
        fed_at = purged_at = time.monotonic()
        notify("READY=1", "STATUS=exporting")
        log.info("exporting", spool=str(self._spool.root))
        while not self._orders.stop.is_set():
            self._fill()
            self._collect()
            self._engine.check()
            self._ledger.check()
            if self._engine.waits_for is not None:
                self._pause(self._engine.waits_for)
            now = time.monotonic()
            if every_s is not None and now - fed_at >= min(every_s, 10.0) and self._engine.is_alive:
                notify("WATCHDOG=1", f"STATUS={self._status()}")
                fed_at = now
            if now - purged_at >= PURGE_S:
                with suppress(OSError):  # an hour later, then
                    self._spool.purge(time.time())
                purged_at = now
        notify("STOPPING=1", "STATUS=finishing instances under way")
        self._drain()
        log.info("stopped", put_back=self._put_all_back(), **self._counts)

    def _status(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in self._counts.items())
        problem = self._engine.memory_problem
        return counts if problem is None else f"{counts}; {problem}"

    def _put_all_back(self) -> int:
        """Release what is still claimed; how many. A disk that refuses is no reason to end in disorder."""
        try:
            return self._spool.recover_exporter()
        except OSError:
            return 0  # the next start does it

    def _drain(self) -> None:
        """End the engine while its results are taken; what is not finished in time is put back."""
        ending = threading.Thread(target=self._engine.stop, args=(DRAIN_S,))
        ending.start()
        while ending.is_alive() or not self._engine.results.empty():
            if self._orders.now.is_set():
                self._engine.cancel()
            self._collect()
        ending.join()

    # -- spool -> engine ---------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Claim and hand in as much as the engine takes, unless there is no room for more."""
        if self._pausing.reason_to_pause(self._engine.memory_problem) is not None or time.monotonic() < self._resume_at:
            return
        try:
            self._claim_what_fits()
        except OSError as error:  # even a rename may need a block, and is refused on a disk that is read-only
            self._pause(_condition(error))

    def _claim_what_fits(self) -> None:
        while len(self._items) < self._engine.room:
            item = next(self._waiting, None)
            if item is None:
                if not self._scan():
                    return
            elif self._is_due(item.name):
                claimed = self._spool.claim(item)
                if claimed is not None:
                    self._items[item.name] = claimed
                    self._submit(claimed)

    def _submit(self, item: SpoolItem) -> None:
        try:
            work = self._work(item)
        except OSError as error:  # under which settings it is exported is not to be guessed
            log.warning("cannot be read now, tried again later", item=item.name, problem=str(_condition(error)))
            self._deferred[item.name] = time.monotonic() + LONGEST_PAUSE_S
            self._put_back(item.name)
        else:
            self._engine.submit(work)

    def _work(self, item: SpoolItem) -> WorkItem:
        arrived_ns = int(item.name[:20])
        title = called_ae_title(item.path, self._titles)
        return WorkItem(item.name, item.path, item.size_bytes, arrived_ns, "spool", ae_title=title)

    def _scan(self) -> bool:
        """Look through `new/` again, if there may be something; whether that was done."""
        self._spool.refresh()
        changed_ns = self._spool.new.path.stat().st_mtime_ns
        now = time.monotonic()
        due = any(at <= now for at in self._deferred.values())
        if changed_ns == self._changed_ns and not due and now - self._scanned_at < SCAN_S:
            return False
        if now - self._scanned_at < WAIT_S:
            return False
        if due:  # what somebody took away by hand is not waited for
            folder = self._spool.new.path
            self._deferred = {name: at for name, at in self._deferred.items() if at > now or (folder / name).exists()}
        self._changed_ns, self._scanned_at = changed_ns, now
        self._waiting = self._spool.pending(SCAN_ITEMS + len(self._deferred))
        return True

    def _is_due(self, name: str) -> bool:
        if self._deferred.get(name, 0.0) > time.monotonic():
            return False
        self._deferred.pop(name, None)
        return True

    # -- engine -> spool ---------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Take the results there are, waiting a moment for the first."""
        unsettled, self._unsettled = self._unsettled, []
        for settled in unsettled:
            self._settle(settled)
        unreleased, self._unreleased = self._unreleased, []
        for name in unreleased:
            self._put_back(name)
        result = self._next(WAIT_S)
        while result is not None:
            match result:
                case PublishedResult() | KnownOutcome():
                    self._settle(result)
                case Deferred():
                    self._deferred[result.work.name] = result.due
                    self._put_back(result.work.name)
                    problem = result.outcome.message
                    log.warning("deferred", item=result.work.name, reason=result.reason, problem=problem)
                case HeldBack():
                    self._deferred[result.work.name] = time.monotonic() + result.wait_s
                    self._put_back(result.work.name)
                    log.warning("interrupted before, tried again later", item=result.work.name, seconds=result.wait_s)
                case Returned():
                    self._put_back(result.work.name)
                    if result.condition is not None:
                        self._pause(result.condition)
            result = self._next(0.0)

    def _next(self, wait_s: float) -> Result | None:
        try:
            return self._engine.results.get(timeout=wait_s) if wait_s else self._engine.results.get_nowait()
        except queue.Empty:
            return None

    def _put_back(self, name: str) -> None:
        """Release an item; where the disk refuses, it stays claimed until it does not."""
        item = self._items[name]
        try:
            if self._spool.release(item) is None:
                self._spool.refresh()  # a folder that is not there now is no file that somebody took
                if self._spool.release(item) is None:
                    log.warning(
                        "gone from the spool", item=item.name, hint="`exporter reconcile` tells what is missing"
                    )
        except OSError as error:
            self._unreleased.append(name)
            self._pause(_condition(error))
        else:
            del self._items[name]

    def _settle(self, result: PublishedResult | KnownOutcome) -> None:
        """Move an item to where its outcome belongs; later, if the disk is full.

        What somebody has taken out of the spool by hand cannot be moved: the ledger keeps its outcome, and
        `exporter reconcile` tells what is missing.
        """
        item = self._items[result.work.name]
        try:
            try:
                self._move(item, result)
            except OSError as error:
                if error.errno not in FULL or not self._reserve.release():
                    raise
                self._move(item, result)
        except FileNotFoundError as error:
            if self._is_whole() and not item.path.exists():
                log.warning("gone from the spool", item=item.name, hint="`exporter reconcile` tells what is missing")
                del self._items[item.name]
            else:
                self._unsettled.append(result)
                self._pause(_condition(error))
        except OSError as error:
            self._unsettled.append(result)
            self._pause(_condition(error))
        else:
            del self._items[result.work.name]

    def _is_whole(self) -> bool:
        """Whether every folder of the spool is there."""
        try:
            self._spool.refresh()
        except OSError:
            return False
        return True

    def _move(self, item: SpoolItem, result: PublishedResult | KnownOutcome) -> None:
        if _is_failed(result) and self._is_pending(item.name):
            self._spool.release(item)
            log.info("to be tried again", item=item.name)
        elif isinstance(result, KnownOutcome):
            self._settle_known(item, result)
        else:
            self._settle_published(item, result)

    def _is_pending(self, name: str) -> bool:
        """Whether a failure was told to be tried again before its file got into quarantine, where a retry looks."""
        entry = self._ledger.entry(name)
        return entry is not None and entry.state is InstanceStatus.DEFERRED

    def _settle_published(self, item: SpoolItem, result: PublishedResult) -> None:
        seconds = round(result.seconds, 3)
        match result.outcome:
            case Exported(media=media, identity=identity):
                self._keep(item.path, identity, result.work.ae_title)
                self._spool.finish(item)
                self._count("exported")
                log.info("exported", item=item.name, media=media[0].kind, files=len(media), seconds=seconds)
            case Skipped(reason=reason):
                self._spool.finish(item)
                self._count("skipped")
                log.info("skipped", item=item.name, reason=reason, seconds=seconds)
            case Failed(reason=reason, message=message):
                self._spool.quarantine(item, reason, {"reason": reason, "message": message})
                self._count("quarantined")
                log.warning("quarantined", item=item.name, reason=reason, problem=message, seconds=seconds)
        self._pause_s = 0.0

    def _settle_known(self, item: SpoolItem, result: KnownOutcome) -> None:
        entry = result.entry
        if entry.state is InstanceStatus.QUARANTINED:
            reason = entry.reason or "internal"
            self._spool.quarantine(item, reason, {"reason": reason, "message": entry.message})
        else:
            if entry.state is InstanceStatus.EXPORTED and entry.identity is not None:
                self._keep(item.path, entry.identity, entry.ae_title)
            self._spool.finish(item)

    def _count(self, what: str) -> None:
        self._counts[what] += 1

    def _pause(self, why: MachineCondition) -> None:
        now = time.monotonic()
        if now < self._resume_at:
            return
        self._pause_s = min(max(2 * self._pause_s, 1.0), LONGEST_PAUSE_S)
        self._resume_at = now + self._pause_s
        event = "paused: no space" if isinstance(why, OutOfSpace) else "paused: a folder cannot be used"
        log.error(event, problem=str(why), seconds=self._pause_s)


def _condition(error: OSError) -> MachineCondition:
    """What an error of the spool's file system means."""
    if error.errno in FULL:
        return OutOfSpace("the spool's file system is full or read-only")
    return StorageUnavailable("the spool", error)


def _is_failed(result: PublishedResult | KnownOutcome) -> bool:
    if isinstance(result, KnownOutcome):
        return result.entry.state is InstanceStatus.QUARANTINED
    return isinstance(result.outcome, Failed)


def _deferred(ledger: Ledger, longest_wait_s: float) -> dict[str, float]:
    """When the deferred instances of the spool are due, by name, in monotonic time: soon, whatever the clock says.

    The ledger has Unix times. One that lies further ahead than an instance is ever deferred for comes from a clock that
    was wrong, then or now.
    """
    now, monotonic = time.time(), time.monotonic()
    due: dict[str, float] = {}
    too_far = 0
    for entry in ledger.entries(InstanceStatus.DEFERRED):
        if entry.source == "spool":
            wait_s = max((entry.not_before or 0.0) - now, 0.0)
            too_far += wait_s > longest_wait_s
            due[entry.name] = monotonic + min(wait_s, longest_wait_s)
    if too_far:
        log.warning(
            "instances were deferred by a clock that was wrong: tried again soon",
            instances=too_far,
            within_s=longest_wait_s,
        )
    return due


@contextmanager
def _signals(orders: DaemonSignals) -> Iterator[DaemonSignals]:
    """SIGTERM and SIGINT become orders, where this runs in the main thread."""

    def on_signal(_: int, __: FrameType | None) -> None:
        (orders.now if orders.stop.is_set() else orders.stop).set()

    if threading.current_thread() is not threading.main_thread():
        yield orders
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield orders
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
