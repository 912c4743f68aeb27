"""What a source is: one way by which instances come into the spool.

Contract: a source is made with what it needs, then `start`ed; from then on it commits instances to the spool on its own
threads until it is `stop`ped. It acknowledges an instance to its peer only after `Incoming.commit` has returned. The
one suite in `tests/listener/sources` runs against every source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from listener.foundation.counters import Counters
    from listener.settings.listener import ListenerSettings
    from listener.spool.space import SpaceSignal
    from listener.spool.spool import Spool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every source gets."""

    spool: Spool
    space: SpaceSignal
    counters: Counters
    state: Path
    """Folder in which a source may remember how far it is, below a name of its own; it may not be there yet."""


class Source(Protocol):
    """One way in."""

    def start(self) -> str:
        """Begin to receive.

        Returns:
            A few words for the log: the address that is open now, and its clients.

        Raises:
            SourceUnusable: It cannot.
        """
        ...

    def is_alive(self) -> bool:
        """Whether the source does its work right now: the watchdog is fed only while it does."""
        ...

    def reload(self, settings: ListenerSettings) -> None:
        """Take over what may change while running; raises nothing, keeps the old where the new is unusable."""
        ...

    def stop(self, within_s: float) -> int:
        """Accept nothing new, and finish what is under way within `within_s` seconds.

        Returns:
            The number of associations, requests or downloads that were cut off.
        """
        ...
