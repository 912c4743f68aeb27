"""One watched folder over a spool of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from listener.foundation.counters import Counters
from listener.settings.listener import ListenerSettings
from listener.sources.contract import Surroundings
from listener.sources.watch.source import WatchSource
from listener.spool.space import SpaceGuard

if TYPE_CHECKING:
    from pathlib import Path

    from listener.spool.spool import Spool

QUICK = {"quiet_s": 0.05, "look_every_s": 0.02}


class Watched:
    """A folder, its spool, and the source between them."""

    def __init__(self, folder: Path, data: Path, spool: Spool) -> None:
        self.folder = folder
        self.spool = spool
        self.space = SpaceGuard(spool.root, ListenerSettings().spool)
        self.counters = Counters()
        self.surroundings = Surroundings(spool, self.space, self.counters, data / "sources")
        self.source: WatchSource | None = None
        self.options: dict[str, Any] = {}
        """For the source, beside its settings."""

    def settings(self, more: dict[str, Any], listener: dict[str, Any] | None = None) -> ListenerSettings:
        entry = {"watch": str(self.folder)} | QUICK | more
        return ListenerSettings.model_validate({"listener": listener or {}, "sources": [entry]})

    def start(self, listener: dict[str, Any] | None = None, **more: Any) -> WatchSource:
        settings = self.settings(more, listener)
        self.source = WatchSource(settings.sources[0], settings, self.surroundings, **self.options)
        self.source.start()
        return self.source

    def stop(self) -> None:
        if self.source is not None:
            assert self.source.stop(5.0) == 0
            self.source = None

    def contents(self) -> list[bytes]:
        """What is in the spool, in order of arrival."""
        return [item.path.read_bytes() for item in self.spool.pending()]

    def looks(self) -> int:
        """Looks so far."""
        assert self.source is not None
        return self.source.looks

    def settled(self) -> int:
        """Looks that must have been before nothing more is to be expected."""
        return self.looks() + 8
