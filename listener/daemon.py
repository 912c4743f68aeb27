"""The receiving daemon: opens the spool, starts the sources, watches over both, drains when it is to stop.

Contract: `ListenerDaemon.start` either has everything running or raises and leaves nothing changed; `stop` accepts
nothing new, lets messages under way be answered, and says how many were cut off. The watchdog of systemd is fed only
while every source is alive and the spool can be measured. One process works on one spool as listener.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import structlog

from listener.foundation.counters import Counters
from listener.foundation.notify import notify, reloading, watchdog_interval_s
from listener.foundation.signals import STOP, handling
from listener.sources import further_sources
from listener.sources.contract import Surroundings
from listener.sources.dimse import DimseSource
from listener.spool.space import SpaceGuard, SpaceLevel
from listener.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from listener.settings.listener import DataFolder, ListenerSettings
    from listener.sources.contract import Source

log = structlog.get_logger()

TICK_S: Final = 1.0
COUNT_PENDING_EVERY_S: Final = 10.0


class ListenerDaemon:
    """Everything that receives, for one data folder."""

    def __init__(self, settings: ListenerSettings, data: DataFolder) -> None:
        self._settings = settings
        self._log_at_start = settings.log
        self._data = data
        self._resources = ExitStack()
        self._sources: list[Source] = []
        self._looks_stop = threading.Event()
        self._looks = threading.Thread(target=self._look_around, name="look-around", daemon=True)
        self._last_look = 0.0
        self._was_in_place = True
        self.counters = Counters()
        self.counters.name_sources(settings.source_names)
        self.opened: list[str] = []
        """What is open to whom, in a few words per source."""

    def start(self) -> None:
        """Open, lock and clear the spool, start every source.

        Raises:
            SpoolUnusable, SpoolBusy: The spool is not ours to use.
            SourceUnusable: A source cannot start.
        """
        with ExitStack() as undo:
            spool = undo.enter_context(Spool.open(self._data.spool, settings=self._settings.spool))
            undo.enter_context(spool.lock("listener"))
            spool.probe()
            self.counters.resume(spool.root)
            dropped = spool.recover_listener()
            if dropped:
                log.warning("partial files of an earlier run deleted", count=dropped)
            self._spool = spool
            self._space = SpaceGuard(spool.root, self._settings.spool)
            self._look()
            _move_sources(self._data)
            surroundings = Surroundings(spool, self._space, self.counters, self._data.sources)
            self._dimse = DimseSource(self._settings, surroundings)
            self._sources = [self._dimse, *further_sources(self._settings, surroundings)]
            for source in self._sources:
                self.opened.append(source.start())
                undo.callback(source.stop, 0.0)
            self._resources = undo.pop_all()
        self.counters.write(self._spool.root)  # whoever asks now sees that there is a listener
        self._looks.start()
        for line in self.opened:
            log.info("listening", what=line)

    @property
    def port(self) -> int:
        """The port of the DIMSE source."""
        return self._dimse.port

    def is_alive(self) -> bool:
        """Whether every source does its work and the spool was looked at lately."""
        return time.monotonic() - self._last_look < 30 and all(source.is_alive() for source in self._sources)

    def reload(self, settings: ListenerSettings) -> None:
        """Take over what may change while running."""
        self._settings = settings
        self._space.apply_settings(settings.spool)
        self.counters.name_sources(settings.source_names)
        for source in self._sources:
            source.reload(settings)
        log.info("configuration read again")
        if settings.log != self._log_at_start:
            log.warning("needs a restart", setting="log")

    def stop(self) -> int:
        """Drain and close.

        Returns:
            The number of associations that were cut off.
        """
        cut_off = sum(source.stop(self._settings.listener.deadlines.drain_s) for source in self._sources)
        self._looks_stop.set()
        if self._looks.is_alive():
            self._looks.join(5)
        self.counters.write(self._spool.root)
        self._resources.close()
        log.info("stopped", cut_off=cut_off)
        return cut_off

    def _look_around(self) -> None:
        """Measure space, count what waits, write the counters: over and over, on a thread of its own."""
        next_count = 0.0
        while not self._looks_stop.wait(TICK_S):
            pending = None
            try:
                if time.monotonic() >= next_count:
                    pending = self._spool.counts().new
                    next_count = time.monotonic() + COUNT_PENDING_EVERY_S
            except OSError as error:
                log.error("spool cannot be counted", problem=error.strerror)  # noqa: TRY400 - no traceback
            self._look(pending)
            self.counters.write(self._spool.root)

    def _look(self, pending: int | None = None) -> None:
        was, is_in_place = self._space.state, self._spool.is_in_place
        try:
            now = self._space.measure(pending, is_in_place=is_in_place)
        except OSError as error:
            log.error("spool cannot be measured", problem=error.strerror)  # noqa: TRY400 - no traceback
            return
        self._last_look = time.monotonic()
        self._gauge_room(now)
        if is_in_place is not self._was_in_place:
            self._was_in_place = is_in_place
            if is_in_place:
                log.info("the folders of the spool are back")
            else:
                log.error(
                    "a folder of the spool is gone: instances are refused",
                    hint="put it back, or start the listener again",
                )
        if now is not was:
            level = log.info if now is SpaceLevel.ENOUGH else log.error
            place = self._space.tightest
            free = self._space.free[place]
            words = {"was": was.name.lower(), "now": now.name.lower(), "place": place}
            level("room changed", **words, free_bytes=free.bytes, free_files=free.files)

    def _gauge_room(self, room: SpaceLevel) -> None:
        self.counters.gauge("free_bytes", self._space.free_bytes)
        self.counters.gauge("room", int(room))
        for place, free in self._space.free.items():
            self.counters.gauge(f"{place}_free_bytes", free.bytes)
            if free.files is not None:
                self.counters.gauge(f"{place}_free_files", free.files)


def _move_sources(data: DataFolder) -> None:
    """Move what sources remember into the spool, where earlier versions did not keep it."""
    if data.sources.exists() or not data.former_sources.is_dir():
        return
    try:
        data.former_sources.rename(data.sources)
    except OSError as error:  # another file system
        log.warning(
            "what sources remember cannot be moved into the spool: they begin anew, and find what comes again",
            folder=str(data.former_sources),
            problem=error.strerror,
        )


class ListenerSignals:
    """What signals ask for: SIGTERM and SIGINT to stop, SIGHUP to read the configuration again."""

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._hang_up = threading.Event()
        self.stop = threading.Event()
        """Set once we are to stop."""

    def wait(self, seconds: float) -> None:
        """Until an order comes, or so long."""
        self._wake.wait(seconds)
        self._wake.clear()

    def take_reload(self) -> bool:
        """Whether a reload was asked for since the last time."""
        asked = self._hang_up.is_set()
        self._hang_up.clear()
        return asked

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Heed signals while the block runs, so that an order which comes while we start is not lost."""
        with handling(self._heed, *STOP, signal.SIGHUP):
            yield

    def _heed(self, number: int) -> None:
        (self._hang_up if number == signal.SIGHUP else self.stop).set()
        self._wake.set()


def run(daemon: ListenerDaemon, orders: ListenerSignals, read_settings: Callable[[], ListenerSettings | None]) -> None:
    """Run a started daemon until a signal or the caller stops it.

    Args:
        daemon: It is stopped when this returns.
        orders: What signals asked for, also while the daemon started.
        read_settings: Reads the configuration; None, after saying why, where it is not usable now.
    """
    every_s = watchdog_interval_s()
    notify("READY=1", f"STATUS={'; '.join(daemon.opened)}")
    while not orders.stop.is_set():
        orders.wait(min(every_s or 5.0, 5.0))
        if orders.take_reload():
            reloading()
            settings = read_settings()
            if settings is not None:
                daemon.reload(settings)
            notify("READY=1")
        if every_s is not None and daemon.is_alive():
            notify("WATCHDOG=1")
    notify("STOPPING=1", "STATUS=finishing messages under way")
    daemon.stop()
