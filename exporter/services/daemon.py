"""The export daemon: exports the instances that the listener has put into the spool, oldest first, until a signal.

Contract: one exporter works on one spool (a lock ensures it). Instances that a killed exporter had claimed are claimed
again; those that it had finished are only moved. systemd's watchdog is fed while this loop, every worker's
supervisor and the publisher show progress.

Must never: report a full disk or a missing folder as a fault of an instance or of this program.
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
from exporter.services.context import OutputPaths, open_export_context, own_version
from exporter.services.pause import DiskBackpressure
from exporter.services.reserve import DiskReserve
from exporter.services.spool_source import SpoolSource
from exporter.work.engine import EnginePolicy
from exporter.work.feeder import Feeder
from listener.foundation.arrivals_hint import ArrivalsHint
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
    """Requests to stop, set by signal handlers or by a caller."""

    stop: threading.Event
    """Finish instances under way, then end."""
    now: threading.Event
    """End at once, without finishing them."""

    @classmethod
    def none(cls) -> DaemonSignals:
        """Signals of which none is set."""
        return cls(threading.Event(), threading.Event())


def run(settings: Settings, data: DataFolder, signals: DaemonSignals | None = None, *, take_over: bool = False) -> int:
    """Export until SIGTERM or SIGINT (a second one ends at once), or until `signals` are set.

    Args:
        settings: The whole configuration.
        data: The data folder.
        signals: Requests to stop; None: only signals of the operating system.
        take_over: Whether to take the media folder from an exporter on another host, which the caller knows is dead.

    Returns:
        Exit code 0.

    Raises:
        SpoolUnusable, SpoolBusy: The spool is not ours to use.
        LedgerUnusable, MetadataFileUnusable, MediaFolderUnusable, WorkerUnstartable: Why it cannot run, or go on.
        OutOfSpace: The disk was full already at the start.
    """
    places = OutputPaths(settings.media_folder(data), settings.metadata_file(data), data.ledger)
    policy = EnginePolicy(attempts=settings.limits.attempts, patience_s=PATIENCE_S)
    kept_bytes = settings.room.reserve_bytes
    reserve = DiskReserve(Path(f"{data.ledger}.reserve"), kept_bytes)
    received = signals or DaemonSignals.none()
    with (
        stopping(received.stop, received.now.set),
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
        series_volumes(
            data.root,
            settings,
            own_version(),
            session.names,
            data.spool / "series" if settings.deidentifies else None,
            ledger=session.ledger,
            rejections=session.rejections,
        ) as keep,
    ):
        claimed = spool.recover_exporter()
        if claimed or session.interrupted or session.removed:
            log.warning(
                "recovered from an unclean shutdown",
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
            names=session.names,
            longest_wait_s=policy.longest_wait_s,
        )
        engine = session.engine
        feeder = Feeder(
            engine, source, received.stop, may_take=lambda: pause.reason_to_pause(engine.memory_problem) is None
        )
        with ArrivalsHint(spool.new.path, feeder.wake):
            _serve(engine, feeder, source, spool, received)
        for _ in feeder.drain(DRAIN_S, received.now):
            pass
        log.info("stopped", put_back=source.put_all_back(), **source.counts)
    return 0


def _serve(engine: Engine, feeder: Feeder, source: SpoolSource, spool: Spool, signals: DaemonSignals) -> None:
    """Export until `signals.stop` is set."""
    every_s = watchdog_interval_s()
    fed_at = purged_at = time.monotonic()
    notify("READY=1", "STATUS=exporting")
    log.info("exporting", spool=str(spool.root))
    while not signals.stop.is_set():
        for _ in feeder.turn():
            pass
        now = time.monotonic()
        if every_s is not None and now - fed_at >= min(every_s, 10.0) and engine.is_alive:
            notify("WATCHDOG=1", f"STATUS={_status(engine, source)}")
            fed_at = now
        if now - purged_at >= PURGE_S:
            with suppress(OSError):  # tried again an hour later
                spool.purge(time.time())
            purged_at = now
    notify("STOPPING=1", "STATUS=finishing instances under way")


def _status(engine: Engine, source: SpoolSource) -> str:
    counts = ", ".join(f"{count} {what}" for what, count in source.counts.items())
    problem = engine.memory_problem
    return counts if problem is None else f"{counts}; {problem}"
