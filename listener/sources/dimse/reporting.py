"""The thread that delivers storage commitment reports whose association is gone, until they are confirmed.

Contract: nothing it does can fail the receiver; what it cannot deliver stays in the queue.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import structlog

from listener.sources.dimse.commitment_messages import NotDelivered, deliver

if TYPE_CHECKING:
    from listener.counters import Counters
    from listener.settings import CommitmentTargetSection, ListenerSection
    from listener.sources.dimse.commitment import Commitments, Report
    from listener.sources.dimse.peer_names import PeerNames

log = structlog.get_logger()

LOOK_EVERY_S: Final = 5.0


class Reporting:
    """Delivers what is due."""

    def __init__(
        self, commitments: Commitments, settings: ListenerSection, counters: Counters, names: PeerNames
    ) -> None:
        self._commitments = commitments
        self._names = names
        self._settings = settings
        self._counters = counters
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reporting", daemon=True)

    def use(self, settings: ListenerSection, names: PeerNames) -> None:
        """Other targets, pauses and certificates from the next report on."""
        self._settings, self._names = settings, names
        self._commitments.settings = settings.commitment
        self._commitments.wake.set()

    def start(self) -> None:
        """Begin with what an earlier run left."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the report under way."""
        self._stopping.set()
        self._commitments.wake.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for report in self._commitments.due():
                if self._stopping.is_set():
                    return
                self._try(report)
            self._commitments.wake.wait(min(LOOK_EVERY_S, self._commitments.settings.retry_s))
            self._commitments.wake.clear()

    def _try(self, report: Report) -> None:
        """One try at one report; whatever happens is one line in the log."""
        requester = self._names.ae_title(report.requester)
        try:
            deliver(self._commitments.judged(report), self._target(report), self._settings.tls)
            self._commitments.delivered(report.name)
        except (NotDelivered, OSError, ValueError) as error:
            self._counters.add("commitment_report_failed")
            log.warning("commitment report not delivered", requester=requester, problem=str(error))
            self._postpone(report)
            return
        self._counters.add("commitment_reports_delivered")
        log.info("commitment report delivered", requester=requester, instances=len(report.references))

    def _target(self, report: Report) -> CommitmentTargetSection:
        target = next((t for t in self._commitments.settings.targets if t.ae_title == report.requester), None)
        if target is None:
            raise NotDelivered("no address is configured under `listener.commitment.targets`")
        return target

    def _postpone(self, report: Report) -> None:
        try:
            self._commitments.failed(report)
        except OSError as error:
            log.error("commitment queue cannot be written", problem=error.strerror)  # noqa: TRY400 - no traceback
