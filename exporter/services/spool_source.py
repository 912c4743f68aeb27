"""The spool as a source of work: instances that the listener has received, oldest first.

Contract: an item is in `new/` until it is claimed, in `active/` until its outcome is durable in the ledger, and then
deleted, kept in `done/`, or in `quarantine/<reason>/`. The scan of `new/` is the truth; a change of the folder only
makes it come sooner. Items that were removed from the spool by hand are forgotten: the ledger keeps their outcome, and
`exporter reconcile` lists what is missing.

Must never: delete an item before its outcome is durable.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from exporter.dicom.received import called_ae_title
from exporter.machine_conditions import storage_error
from exporter.outcome import Exported, Failed, Skipped
from exporter.results.ledger.types import InstanceStatus, WorkItem
from exporter.work.contract import Deferred, HeldBack, KnownOutcome, NotNow
from exporter.work.feeder import LONGEST_PAUSE_S
from listener.foundation.disk import is_out_of_space, mapped
from listener.spool.names import received_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from exporter.privacy.input_names import InputNames
    from exporter.results.ledger import Ledger
    from exporter.series.live import Keep
    from exporter.services.reserve import DiskReserve
    from exporter.work.contract import FinalResult, PendingResult, PublishedResult
    from listener.spool.incoming import SpoolItem
    from listener.spool.spool import Spool

log = structlog.get_logger()

SCAN_ITEM_S: Final = 20e-6
"""Time between two scans of `new/`, for each item that the earlier one has found: a full spool is not read all the
time, and one that was empty at once."""
JUST_NOW_NS: Final = 10**9
"""Within this time another file may have come without another modification time of `new/`, which is coarse."""
SCAN_S: Final = 5.0
"""Longest time between two scans of `new/`, whatever its modification time."""
SCAN_ITEMS: Final = 10_000
_condition: Final = partial(storage_error, "the spool")


class SpoolSource:
    """The instances in one spool, for the exporter that has its lock."""

    is_exhausted: Final = False
    """More may always come."""

    def __init__(
        self,
        spool: Spool,
        ledger: Ledger,
        *,
        keep: Keep,
        reserve: DiskReserve,
        titles: frozenset[str],
        names: InputNames,
        longest_wait_s: float,
    ) -> None:
        """Take instances from `spool`.

        Args:
            spool: Is locked.
            ledger: Has the deferred instances.
            keep: Is called with an exported instance before its file leaves the spool.
            reserve: Space in the spool for instances that go into quarantine.
            titles: AE titles that have settings of their own.
            names: What everything beside the data calls them.
            longest_wait_s: Longest time that an instance is deferred for.
        """
        self._spool = spool
        self._ledger = ledger
        self._keep = keep
        self._reserve = reserve
        self._titles = titles
        self._names = names
        self._items: dict[str, SpoolItem] = {}
        """Claimed items, by name."""
        self._waiting: Iterator[SpoolItem] = iter(())
        self._found = 0
        """Items that the last scan has found."""
        self._changed_ns = -1
        self._scanned_at = -SCAN_S
        self._deferred = _deferred(ledger, longest_wait_s)
        """Monotonic times when deferred items are due, by name."""
        self.counts = {"exported": 0, "skipped": 0, "quarantined": 0}
        """Instances by outcome."""

    # -- spool -> engine ---------------------------------------------------------------------------------------------

    def next(self) -> WorkItem | None:
        """See `WorkSource`: claims the oldest item that is due."""
        with _problems():  # a rename can need a block, and fails on a read-only file system
            has_scanned = False
            while True:
                item = next(self._waiting, None)
                if item is None:
                    if has_scanned or not self._scan():
                        return None
                    has_scanned = True
                    continue
                self._found += 1
                if self._is_due(item.name):
                    work = self._claim(item)
                    if work is not None:
                        return work

    def _claim(self, item: SpoolItem) -> WorkItem | None:
        try:
            title = self._names.ae_title(called_ae_title(item.path, self._titles))
        except OSError as error:  # the settings depend on the AE title: it cannot be guessed
            log.warning("cannot be read now: deferred", item=item.name, problem=str(_condition(error)))
            self._deferred[item.name] = time.monotonic() + LONGEST_PAUSE_S
            return None
        claimed = self._spool.claim(item)
        if claimed is None:
            return None
        self._items[item.name] = claimed
        arrived_ns = received_at(item.name)
        return WorkItem(item.name, claimed.path, claimed.size_bytes, arrived_ns, "spool", ae_title=title)

    def _scan(self) -> bool:
        """Scan `new/` again if it changed, or an item is due, or the last scan is long ago.

        Returns:
            Whether it was scanned.
        """
        self._spool.refresh()
        changed_ns = self._spool.new.path.stat().st_mtime_ns
        now = time.monotonic()
        due = any(at <= now for at in self._deferred.values())
        if changed_ns == self._changed_ns and not due and now - self._scanned_at < SCAN_S:
            return False
        if now - self._scanned_at < self._found * SCAN_ITEM_S:
            return False
        if due:  # forget deferred items that were removed by hand
            folder = self._spool.new.path
            self._deferred = {name: at for name, at in self._deferred.items() if at > now or (folder / name).exists()}
        is_settled = abs(time.time_ns() - changed_ns) > JUST_NOW_NS
        self._changed_ns, self._scanned_at, self._found = changed_ns if is_settled else -1, now, 0
        self._waiting = self._spool.pending(SCAN_ITEMS + len(self._deferred))
        return True

    def _is_due(self, name: str) -> bool:
        if self._deferred.get(name, 0.0) > time.monotonic():
            return False
        self._deferred.pop(name, None)
        return True

    # -- engine -> spool ---------------------------------------------------------------------------------------------

    def put_back(self, result: PendingResult, due: float | None) -> None:
        """See `WorkSource`: releases the item."""
        name = result.work.name
        item = self._items[name]
        with _problems():
            if self._spool.release(item) is None:
                self._spool.refresh()  # raises if the folder, not the item, is gone
                if self._spool.release(item) is None:
                    self._say_gone(name)
        del self._items[name]
        if due is not None:
            self._deferred[name] = due
        if isinstance(result, Deferred):
            log.warning("deferred", item=name, reason=result.reason, problem=result.outcome.message)
        elif isinstance(result, HeldBack):
            log.warning("interrupted repeatedly: deferred", item=name, seconds=result.wait_s)

    def put_all_back(self) -> int:
        """Release what is still claimed, as far as the disk permits.

        Returns:
            Number of items.
        """
        try:
            return self._spool.recover_exporter()
        except OSError:
            return 0  # left for the next start

    def settle(self, result: FinalResult) -> None:
        """See `WorkSource`: moves the item to where its outcome belongs."""
        item = self._items[result.work.name]
        with _problems():
            try:
                self._move_with_reserve(item, result)
            except FileNotFoundError:
                self._spool.refresh()  # raises where a folder is gone
                if item.path.exists():
                    raise
                self._say_gone(item.name)
        del self._items[item.name]

    def _move_with_reserve(self, item: SpoolItem, result: FinalResult) -> None:
        try:
            self._move(item, result)
        except OSError as error:
            if not is_out_of_space(error) or not self._reserve.release():
                raise
            self._move(item, result)

    def _move(self, item: SpoolItem, result: FinalResult) -> None:
        if _is_failed(result) and self._is_pending(item.name):
            self._spool.release(item)
            log.info("pending again: another process asked for a retry", item=item.name)
        elif isinstance(result, KnownOutcome):
            self._settle_known(item, result)
        else:
            self._settle_published(item, result)

    def _is_pending(self, name: str) -> bool:
        """Whether `exporter failures retry` made this failure pending before its file was in quarantine."""
        entry = self._ledger.entry(name)
        return entry is not None and entry.state is InstanceStatus.DEFERRED

    def _settle_published(self, item: SpoolItem, result: PublishedResult) -> None:
        seconds = round(result.seconds, 3)
        match result.outcome:
            case Exported(media=media, identity=identity):
                self._keep(item.path, identity, result.work.ae_title)
                self._spool.finish(item)
                self.counts["exported"] += 1
                log.info("exported", item=item.name, media=media[0].kind, files=len(media), seconds=seconds)
            case Skipped(reason=reason):
                self._spool.finish(item)
                self.counts["skipped"] += 1
                log.info("skipped", item=item.name, reason=reason, seconds=seconds)
            case Failed(reason=reason, message=message):
                self._spool.quarantine(item, reason, {"reason": reason, "message": message})
                self.counts["quarantined"] += 1
                log.warning("quarantined", item=item.name, reason=reason, problem=message, seconds=seconds)

    def _settle_known(self, item: SpoolItem, result: KnownOutcome) -> None:
        entry = result.entry
        if entry.state is InstanceStatus.QUARANTINED:
            reason = entry.reason or "internal"
            self._spool.quarantine(item, reason, {"reason": reason, "message": entry.message})
        else:
            if entry.state is InstanceStatus.EXPORTED and entry.identity is not None:
                self._keep(item.path, entry.identity, entry.ae_title)
            self._spool.finish(item)

    @staticmethod
    def _say_gone(name: str) -> None:
        log.warning("item is missing from the spool", item=name, hint="`exporter reconcile` lists what is missing")


def _problems() -> AbstractContextManager[None]:
    """Map errors of the spool's file system.

    Raises:
        NotNow: There was one.
    """
    return mapped(lambda error: NotNow(_condition(error)))


def _is_failed(result: FinalResult) -> bool:
    if isinstance(result, KnownOutcome):
        return result.entry.state is InstanceStatus.QUARANTINED
    return isinstance(result.outcome, Failed)


def _deferred(ledger: Ledger, longest_wait_s: float) -> dict[str, float]:
    """Monotonic times when the deferred instances of the spool are due, by name; at most `longest_wait_s` ahead.

    The ledger has Unix times. A time further ahead than the longest deferral comes from a clock that was wrong, then or
    now.
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
            "due times are too far ahead (was the clock wrong?): shortened",
            instances=too_far,
            within_s=longest_wait_s,
        )
    return due
