"""The Orthanc source: one server polled, its new instances downloaded into the spool.

Contract: `start` needs no server to be there; it is spoken to whenever it answers. Every thread of one server is made
and ended here. What is under way at a stop may finish in the time there is; what is cut off then is taken again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import structlog

from listener.foundation.errors import SourceUnusable
from listener.sources.orthanc.client import OrthancClient
from listener.sources.orthanc.contact import ServerHealth
from listener.sources.orthanc.downloads import Downloads, DownloadTerms
from listener.sources.orthanc.filters import Filters
from listener.sources.orthanc.memory import SyncState
from listener.sources.orthanc.poller import Poller
from listener.sources.orthanc.rest import Orthanc

if TYPE_CHECKING:
    from listener.settings.listener import ListenerSettings
    from listener.settings.orthanc import OrthancSection
    from listener.sources.contract import Surroundings

log = structlog.get_logger()

END_WITHIN_S: Final = 5.0
"""How long threads may take to end once their connections are broken."""
STUCK_AFTER_S: Final = 60.0


class OrthancSource:
    """Instances from one Orthanc server."""

    def __init__(self, settings: OrthancSection, surroundings: Surroundings) -> None:
        self._settings = settings
        self._surroundings = surroundings
        self._running: _Running | None = None

    def start(self) -> str:
        """Open what is remembered and begin to poll; raises `SourceUnusable` where a file of ours cannot be used."""
        self._running = _Running(self._settings, self._surroundings)
        self._running.start()
        return f"new instances of Orthanc {self._settings.label} at {self._settings.url}"

    def is_alive(self) -> bool:
        """Whether every thread lives and goes round; a server that is away is no fault of ours."""
        return self._running is not None and self._running.is_alive()

    def reload(self, settings: ListenerSettings) -> None:
        """Take over filters, pauses and whether to delete, and look at everything again."""
        found = next((one for one in settings.orthanc if one.label == self._settings.label), None)
        if found is None:
            log.warning(
                "orthanc is polled until the next start, although its section is gone", server=self._settings.label
            )
            return
        fixed = ("url", "name", "credentials_file", "ca_file", "parallel", "connect_s", "answer_s", "least_bytes_per_s")
        if found.model_copy(update={key: getattr(self._settings, key) for key in fixed}) != found:
            log.warning("some settings of orthanc need a new start", server=self._settings.label, keys=list(fixed))
        self._settings = found
        if self._running is not None:
            self._running.reload(found)

    def stop(self, within_s: float) -> int:
        """End polling and downloads.

        Returns:
            The number of downloads that were cut off.
        """
        running, self._running = self._running, None
        return running.stop(within_s) if running is not None else 0


class _Running:
    """All the parts of one running source."""

    def __init__(self, settings: OrthancSection, surroundings: Surroundings) -> None:
        self._slack_s = STUCK_AFTER_S + 2 * (settings.connect_s + settings.answer_s)
        self._client = OrthancClient(settings)
        try:
            self._memory = SyncState.open(settings.state_file(surroundings.state))
        except SourceUnusable:
            self._client.close()
            raise
        self._orthanc = Orthanc(self._client)
        self._contact = ServerHealth(settings, self._client, self._orthanc)
        self._downloads = Downloads(self._orthanc, self._terms(settings), surroundings, settings.parallel)
        self._poller = Poller(settings, self._contact, self._memory, self._downloads, surroundings.counters)

    def start(self) -> None:
        self._client.deadlines.start()
        self._downloads.start()
        self._poller.start()

    def is_alive(self) -> bool:
        whole = self._poller.is_alive() and self._downloads.is_whole and self._client.deadlines.is_alive()
        return whole and time.monotonic() - self._poller.beat < self._slack_s

    def reload(self, settings: OrthancSection) -> None:
        self._downloads.terms = self._terms(settings)
        self._contact.reload(settings)
        self._poller.reload(settings)

    def stop(self, within_s: float) -> int:
        self._poller.stop()
        self._downloads.stop()
        self._poller.join(within_s)
        cut_off = self._downloads.under_way if self._poller.is_alive() else 0
        self._client.deadlines.cut_all()
        self._downloads.join(END_WITHIN_S)
        self._poller.join(END_WITHIN_S)
        self._client.close()
        if not self._poller.is_alive():
            self._memory.close()
        return cut_off

    def _terms(self, settings: OrthancSection) -> DownloadTerms:
        return DownloadTerms(Filters(settings.only, self._orthanc), settings.max_instance_bytes)
