"""The export daemon: takes what the listener has put into the spool, oldest first, and exports it until told to stop.

Contract: one exporter works on one spool (a lock says so). What an exporter that was killed had claimed is claimed
again, and what it had already finished is only moved. systemd's watchdog is fed while this loop, every worker's
supervisor and the publisher show progress.

Must never: take a full disk, or a folder of ours that is gone, for a fault of an instance or of this program.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from exporter.series.live import series_volumes
from exporter.services.context import OutputPaths, open_export_context
from exporter.services.pause import DiskBackpressure
from exporter.services.reserve import DiskReserve
from exporter.services.spool_source import SpoolSource
from exporter.work.engine import EnginePolicy
from exporter.work.feeder import Feeder
from listener.foundation.notify import notify, watchdog_interval_s
from listener.foundation.signals import stopping
from listener.spool.spool import Spool

if TYPE_CHECKING:
    from exporter.settings.settings import Settings
    from exporter.work.engine import Engine
    from listener.settings.listener import DataFolder

log = structlog.get_logger()

DRAIN_S: Final = 30.0
"""Time that instances under way get to finish after SIGTERM; then they are put back."""
PATIENCE_S: Final = 10.0
"""Time that a received instance waits for the identity of one that came before it."""
PURGE_S: Final = 3600.0


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
    told = orders or DaemonSignals.none()
    with (
        stopping(told.stop, told.now.set),
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
        source = SpoolSource(
            spool,
            session.ledger,
            keep=keep,
            reserve=spool_reserve,
            titles=frozenset(settings.by_ae_title),
            longest_wait_s=policy.longest_wait_s,
        )
        engine = session.engine
        feeder = Feeder(
            engine, source, told.stop, may_take=lambda: pause.reason_to_pause(engine.memory_problem) is None
        )
        _serve(engine, feeder, source, spool, told)
        for _ in feeder.drain(DRAIN_S, told.now):
            pass
        log.info("stopped", put_back=source.put_all_back(), **source.counts)
    return 0


def _serve(engine: Engine, feeder: Feeder, source: SpoolSource, spool: Spool, orders: DaemonSignals) -> None:
    """Export until told to stop."""
    every_s = watchdog_interval_s()
    fed_at = purged_at = time.monotonic()
    notify("READY=1", "STATUS=exporting")
    log.info("exporting", spool=str(spool.root))
    while not orders.stop.is_set():
        for _ in feeder.turn():
            pass
        now = time.monotonic()
        if every_s is not None and now - fed_at >= min(every_s, 10.0) and engine.is_alive:
            notify("WATCHDOG=1", f"STATUS={_status(engine, source)}")
            fed_at = now
        if now - purged_at >= PURGE_S:
            with suppress(OSError):  # an hour later, then
                spool.purge(time.time())
            purged_at = now
    notify("STOPPING=1", "STATUS=finishing instances under way")


def _status(engine: Engine, source: SpoolSource) -> str:
    counts = ", ".join(f"{count} {what}" for what, count in source.counts.items())
    problem = engine.memory_problem
    return counts if problem is None else f"{counts}; {problem}"
