"""Request of a pull: a cohort, a peer, the level to fetch, and the destination."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from exporter.pull.pace import Clock
from exporter.settings.windows import Window
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.pull.cohort import Cohort, Row
    from exporter.settings.pull import Level, PullPeerSection
    from exporter.settings.settings import Settings
    from listener.settings.listener import DataFolder


class PullEnded(Unusable):
    """The run cannot go on: one sentence; the same command goes on where it stopped."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Request of a pull."""

    cohort: Cohort
    settings: Settings
    peer: PullPeerSection
    level: Level
    data: DataFolder
    again: bool = False
    """Whether what is complete is fetched once more, too."""
    any_time: bool = False
    """Whether the peer's window is left out of account."""
    clock: Clock = field(default_factory=Clock)

    @property
    def calling(self) -> str:
        """AE title that we call ourselves."""
        return self.peer.calling_ae_title or self.settings.listener.ae_title

    @property
    def address(self) -> str:
        """The peer, as the journal knows it."""
        return f"{self.peer.ae_title}@{self.peer.host}:{self.peer.port}"

    @property
    def folder(self) -> Path:
        """Folder of journal and report; inside the spool, whose files are originals, where the rest names nobody."""
        return (self.data.spool if self.settings.deidentifies else self.data.root) / "pull"

    @property
    def is_out_of_reach(self) -> bool:
        """Whether our listener takes connections of this machine only, and the peer is on another."""
        here = self.peer.host == "localhost" or self.peer.host.startswith("127.") or self.peer.host == "::1"
        return self.settings.listener.is_loopback and not here

    def digest(self, row: Row) -> str:
        """Key of a row in the journal."""
        return row.digest(self.address, self.level)

    @property
    def window(self) -> Window | None:
        """Time window in which the peer may be asked."""
        return None if self.peer.window is None or self.any_time else Window.parse(self.peer.window)
