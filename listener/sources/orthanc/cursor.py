"""How far a log of changes is dealt with, while its entries are finished in any order.

Contract: `position` never passes an entry that is still open. Memory is that of the entries between the oldest open one
and the newest read.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from listener.sources.orthanc.memory import Position

if TYPE_CHECKING:
    from listener.sources.orthanc.answers import Change


class Cursor:
    """The read end and the finished end of one log."""

    def __init__(self, position: Position) -> None:
        self.position = position
        """Everything up to here is finished; what is to be remembered durably."""
        self.read_to = position
        """Everything up to here was read."""
        self._entries: deque[Position] = deque()
        self._open: set[int] = set()

    @property
    def length(self) -> int:
        """Entries between both ends."""
        return len(self._entries)

    def read(self, change: Change, *, is_open: bool, vanished: int = 0) -> None:
        """The next entry was read; it stays open until `finish`, or is finished at once.

        Args:
            change: The entry.
            is_open: Whether something is to be done about it.
            vanished: How many before it are not there any more.
        """
        before = self.read_to
        self.read_to = Position(before.epoch, change.seq, change.fingerprint, before.vanished + vanished)
        self._entries.append(self.read_to)
        if is_open:
            self._open.add(change.seq)
        self._advance()

    def finish(self, seq: int) -> None:
        """An entry is dealt with, and remembered together with the position that follows."""
        self._open.discard(seq)
        self._advance()

    def _advance(self) -> None:
        while self._entries and self._entries[0].seq not in self._open:
            self.position = self._entries.popleft()
