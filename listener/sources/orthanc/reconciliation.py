"""One pass over the list of all instances, a page at a time: what the log of changes did not tell.

Contract: memory is that of one page. The list is read by offsets, and an instance that is deleted meanwhile moves all
that follow: each page therefore begins with the last entry of the one before, and where that is not so the pass goes
back a page, so often and no more; what it still misses, the next pass finds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from listener.sources.orthanc.filters import LABEL
from listener.sources.orthanc.memory import InstanceState

if TYPE_CHECKING:
    from listener.sources.orthanc.answers import ListedInstance
    from listener.sources.orthanc.memory import KnownInstance
    from listener.sources.orthanc.rest import Orthanc

MOST_STEPS_BACK: Final = 50


class ReconciliationPass:
    """One reconciliation."""

    def __init__(self, *, expanded: bool) -> None:
        self.expanded = expanded
        """Whether attachments are compared too."""
        self.listed = 0
        self.missed = 0
        """Instances that the log of changes should have told us of."""
        self.is_listed = False
        """Whether the end of the list was reached."""
        self.failed_after = b""
        """Failed instances up to this identifier are being tried again."""
        self._offset = 0
        self._last: bytes | None = None
        self._steps_back = 0
        self._fullest = 1

    def next_page(self, orthanc: Orthanc) -> tuple[ListedInstance, ...]:
        """The next page of the list; empty where a step back was made, or at the end."""
        overlap = 1 if self._last is not None else 0
        page = orthanc.listed(self._offset - overlap, expanded=self.expanded)
        if overlap and (not page or page[0].instance != self._last) and self._steps_back < MOST_STEPS_BACK:
            self._steps_back += 1
            self._offset = max(0, self._offset - max(len(page), 1000))
            self._last = None
            return ()
        # A page that is not full is the last one: what comes while we read is told by the log.
        self.is_listed = len(page) < self._fullest
        self._fullest = max(self._fullest, len(page))
        if page and page[0].instance == self._last:
            page = page[1:]
        if not page:
            self.is_listed = True
            return ()
        self._offset += len(page)
        self._last = page[-1].instance
        self.listed += len(page)
        return page


def is_settled(entry: ListedInstance, known: KnownInstance | None, filters: str) -> bool:
    """Whether nothing is to be done about a listed instance.

    Args:
        entry: The instance, as it is listed.
        known: What is remembered of it.
        filters: Fingerprint of the filters that hold now.
    """
    if known is None or known.state is InstanceState.GONE:
        return False
    if known.state is InstanceState.FAILED:
        return True  # all of them are tried again at the end of the pass
    if entry.uuid is not None and known.uuid != entry.uuid:
        return False
    return known.state is InstanceState.TAKEN or is_left_out(known, filters)


def is_left_out(known: KnownInstance, filters: str) -> bool:
    """Whether an instance that a filter left out would be left out still: labels may have changed."""
    why, _, fingerprint = (known.why or "").partition(":")
    return fingerprint == filters and why != LABEL
