"""Receivers of instances that a peer sends: the running listener of the data folder, or one for this pull alone.

Contract: with `move`, exactly one listener receives while a pull is under way. Where none runs, the pull holds the
listener's lock and opens its port itself, with the section `listener` of the configuration and nothing of the other
sources. With `get` nobody's port is needed: instances are written beside whatever listener runs or comes; one that
starts empties `tmp/`, and what was under way there is not committed, not acknowledged, and asked for again.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Self

import structlog

from listener.daemon import ListenerDaemon
from listener.foundation.counters import Counters
from listener.foundation.errors import Unusable
from listener.settings.listener import ListenerSettings
from listener.sources.contract import Surroundings
from listener.spool.errors import SpoolBusy
from listener.spool.space import SpaceGuard, SpaceLevel
from listener.spool.spool import Spool
from listener.spool.view import holder_lives

if TYPE_CHECKING:
    from types import TracebackType

    from exporter.settings.pull import Method
    from exporter.settings.settings import Settings
    from listener.settings.listener import DataFolder

log = structlog.get_logger()

LOOK_EVERY_S = 1.0


class ReceiverGone(Unusable):
    """The listener of the data folder, which received for the pull, has ended."""

    def __init__(self) -> None:
        super().__init__("the listener that received for this data folder is gone", hint="start it")


class Receiver:
    """The receiver of one pull; a context manager."""

    def __init__(self, settings: Settings, data: DataFolder, method: Method) -> None:
        """A receiver that is not open yet."""
        self._settings = settings
        self._data = data
        self._method = method
        self._resources = ExitStack()
        self._own: ListenerDaemon | None = None
        self._stop = threading.Event()
        self.surroundings: Surroundings | None = None
        """Sink of the instances of a C-GET."""

    def __enter__(self) -> Self:
        """Hold the data folder against other pulls.

        Raises:
            SpoolUnusable: The spool cannot be used.
            SpoolBusy: Another pull works on this data folder.
        """
        with ExitStack() as undo:
            self._spool = undo.enter_context(Spool.open(self._data.spool, settings=self._settings.spool))
            undo.enter_context(self._spool.lock("pull"))
            self._resources = undo.pop_all()
        return self

    def start(self) -> None:
        """Begin to receive.

        Raises:
            SpoolUnusable, SourceUnusable: It cannot be done.
        """
        spool = self._spool
        with ExitStack() as undo:
            undo.push(self._resources.pop_all())
            if self._method == "get":
                self._clear(spool)
                space = SpaceGuard(spool.root, self._settings.spool)
                space.measure(spool.counts().new)
                self.surroundings = Surroundings(spool, space, Counters(), self._data.sources)
                looks = threading.Thread(target=self._look_around, args=(spool, space), name="look-around", daemon=True)
                looks.start()
                undo.callback(looks.join, 5)
                undo.callback(self._stop.set)
            else:
                self._start_own()
                undo.callback(self._stop_own)
            self._resources = undo.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    @property
    def is_own(self) -> bool:
        """Whether the port is ours, and not that of a listener that runs anyway."""
        return self._own is not None

    @property
    def is_there(self) -> bool:
        """Whether somebody receives now."""
        if self._method == "get":
            return True
        return self._own.is_alive() if self._own is not None else holder_lives(self._data.spool, "listener")

    @property
    def has_room(self) -> bool:
        """Whether the spool has room for more, as far as we measure it ourselves."""
        if self.surroundings is None:
            return True
        return self.surroundings.space.state is SpaceLevel.ENOUGH and not self.surroundings.space.queue_full

    @property
    def port(self) -> int | None:
        """Our own port, where it is ours."""
        return self._own.port if self._own is not None else None

    def _start_own(self) -> None:
        settings = self._settings.listener_settings
        by_itself = settings.listener.model_copy(update={"processes": 1})  # for a while, and seldom for many senders
        alone = ListenerSettings(listener=by_itself, spool=settings.spool, log=settings.log)
        daemon = ListenerDaemon(alone, self._data)
        try:
            daemon.start()
        except SpoolBusy as busy:
            if busy.role != "listener":
                raise
            log.info("receiving through the running listener")
            return
        self._own = daemon

    def _stop_own(self) -> None:
        if self._own is not None:
            self._own.stop()

    @staticmethod
    def _clear(spool: Spool) -> None:
        """Delete what a pull that was killed had not finished, unless a listener is there to do it."""
        with suppress(SpoolBusy), spool.lock("listener"):
            spool.recover_listener()

    def _look_around(self, spool: Spool, space: SpaceGuard) -> None:
        count_in = 0
        while not self._stop.wait(LOOK_EVERY_S):
            count_in -= 1
            with suppress(OSError):
                space.measure(spool.counts().new if count_in < 0 else None)
            count_in = 10 if count_in < 0 else count_in
