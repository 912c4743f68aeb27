"""Delivery of storage commitment reports whose association is gone, until they are confirmed.

Contract: nothing it does can fail the receiver; what it cannot deliver stays in the queue. Every target has a thread of
its own while reports for it are due, with one association at a time: a target that stalls delays no other. Of a report
that waits only its name, its parties and its times are in memory.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from listener.sources.dimse.commitment.messages import NotDelivered, associate_for_reports, check_accepted, deliver
from listener.sources.dimse.commitment.queue import LONGEST_PAUSE_S, ScheduledReport
from listener.sources.dimse.upper_layer.scu import RequestError

if TYPE_CHECKING:
    from listener.foundation.counters import Counters
    from listener.settings.listener import CommitmentTargetSection, ListenerSection
    from listener.sources.dimse.commitment.queue import CommitmentQueue, CommitmentReport
    from listener.sources.dimse.upper_layer.peer_pseudonyms import PeerPseudonyms
    from listener.sources.dimse.upper_layer.scu import RequestedAssociation

log = structlog.get_logger()

LOOK_EVERY_S: Final = 5.0
MOST_ON_ONE_ASSOCIATION: Final = 100
"""Reports delivered one after another on one association."""
FINISH_S: Final = 2.0
"""For the report under way, once the listener is to stop."""


@dataclass(slots=True)
class _Requester:
    """What is known of the deliveries to one AE title."""

    failures: int = 0
    """In a row."""
    not_before: float = 0.0
    """On the monotonic clock."""
    thread: threading.Thread | None = None

    @property
    def is_ready(self) -> bool:
        """Whether its next association may begin."""
        is_busy = self.thread is not None and self.thread.is_alive()
        return not is_busy and time.monotonic() >= self.not_before

    @property
    def is_forgotten(self) -> bool:
        """Whether its last failure is so long ago that it says nothing any more."""
        return self.is_ready and time.monotonic() > self.not_before + LONGEST_PAUSE_S


class CommitmentReporter:
    """Delivers what is due."""

    def __init__(
        self, commitments: CommitmentQueue, settings: ListenerSection, counters: Counters, names: PeerPseudonyms
    ) -> None:
        self._commitments = commitments
        self._names = names
        self._settings = settings
        self._counters = counters
        self._stopping = threading.Event()
        self._abort_at = float("inf")
        self._requesters: dict[str, _Requester] = {}
        self._threads = [
            threading.Thread(target=self._run, name="reporting", daemon=True),
            threading.Thread(target=self._index, name="commitment index", daemon=True),
        ]

    def apply_settings(self, settings: ListenerSection, names: PeerPseudonyms) -> None:
        """Other targets, pauses and certificates from the next association on."""
        self._settings, self._names = settings, names
        self._commitments.settings = settings.commitment
        for requester in list(self._requesters.values()):
            requester.not_before = 0.0
        self._commitments.wake.set()

    def start(self) -> None:
        """Begin with what an earlier run left."""
        for thread in self._threads:
            thread.start()

    def begin_to_stop(self) -> None:
        """Begin no further report; the ones under way have a little time left."""
        self._abort_at = time.monotonic() + FINISH_S
        self._stopping.set()
        self._commitments.wake.set()

    def stop(self, within_s: float) -> bool:
        """Wait for the reports under way, which stay in the queue where they do not end.

        Args:
            within_s: Longest wait; a name lookup or a disk may take longer than any deadline of ours.

        Returns:
            Whether nothing uses the queue any more.
        """
        self.begin_to_stop()
        until = time.monotonic() + min(within_s, FINISH_S)
        self._abort_at = min(self._abort_at, until)
        deliveries = [r.thread for r in list(self._requesters.values()) if r.thread is not None]
        threads = [thread for thread in (*self._threads, *deliveries) if thread.is_alive()]
        for thread in threads:
            thread.join(max(0.0, until + 1.0 - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _is_over(self) -> bool:
        return time.monotonic() > self._abort_at

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except (OSError, RuntimeError) as error:  # a disk that fails, or no more threads
                log.error("commitment queue cannot be worked on", problem=str(error))  # noqa: TRY400 - no traceback
            self._commitments.wake.wait(min(LOOK_EVERY_S, self._commitments.settings.retry_s))
            self._commitments.wake.clear()

    def _index(self) -> None:
        """Keep the journal's index up to date, so that no request waits for it."""
        problem = ""
        while not self._stopping.is_set():
            try:
                self._commitments.journal.catch_up(self._stopping.is_set)
                problem = ""
            except OSError as error:
                if str(error) != problem:
                    problem = str(error)
                    log.error("commitment requests cannot be judged at present", problem=problem)  # noqa: TRY400 - no traceback
            self._stopping.wait(LOOK_EVERY_S)

    def _look(self) -> None:
        """Begin an association with every target that reports are due for and that has none."""
        due: dict[str, list[ScheduledReport]] = {}
        for report in self._commitments.due():
            due.setdefault(report.requester, []).append(report)
        for gone in [title for title, r in self._requesters.items() if title not in due and r.is_forgotten]:
            del self._requesters[gone]
        for title, reports in due.items():
            requester = self._requesters.setdefault(title, _Requester())
            if requester.is_ready and not self._stopping.is_set():
                self._begin(requester, reports)

    def _begin(self, requester: _Requester, due: list[ScheduledReport]) -> None:
        target = next((t for t in self._commitments.settings.targets if t.ae_title == due[0].requester), None)
        if target is None:
            self._has_failed(requester, due, "no address is configured under `listener.commitment.targets`")
            return
        # In advance, so that not even a defect of ours makes tries without a pause between them.
        requester.not_before = time.monotonic() + self._commitments.pause_s(requester.failures)
        requester.thread = threading.Thread(
            target=self._deliver, args=(requester, target, due), name="commitment reports", daemon=True
        )
        requester.thread.start()

    def _deliver(self, requester: _Requester, target: CommitmentTargetSection, due: list[ScheduledReport]) -> None:
        """One association with one target: whatever happens is one line in the log."""
        ours = due[0].responder
        try:
            with associate_for_reports(target, ours, self._settings.tls, self._is_over) as association:
                check_accepted(association)
                for scheduled in [one for one in due if one.responder == ours][:MOST_ON_ONE_ASSOCIATION]:
                    report = None if self._stopping.is_set() else self._commitments.read(scheduled.name)
                    if report is not None and ScheduledReport.of(report).is_due():
                        self._try(report, association)
            requester.failures, requester.not_before = 0, 0.0
        except (NotDelivered, RequestError, OSError, ValueError) as error:
            self._has_failed(requester, due, str(error))
        finally:
            self._commitments.wake.set()

    def _try(self, report: CommitmentReport, association: RequestedAssociation) -> None:
        """One try at one report.

        Raises:
            RequestError: The association is over.
            OSError: The queue or the journal cannot be used.
        """
        requester = self._names.ae_title(report.requester)
        try:
            deliver(self._commitments.judged(report), association)
        except NotDelivered as error:
            self._counters.add("commitment_report_failed")
            log.warning("commitment report not delivered", requester=requester, problem=str(error))
            self._commitments.failed(report)
            return
        except RequestError:
            if not self._stopping.is_set():
                self._commitments.failed(report)  # the others go first the next time
            raise
        self._commitments.delivered(report.name)
        self._counters.add("commitment_reports_delivered")
        log.info("commitment report delivered", requester=requester, instances=len(report.references))

    def _has_failed(self, requester: _Requester, due: list[ScheduledReport], problem: str) -> None:
        """No association, or none any more: leave the target alone for a while, longer each time."""
        if self._stopping.is_set():
            return
        requester.not_before = time.monotonic() + self._commitments.pause_s(requester.failures)
        requester.failures += 1
        self._counters.add("commitment_report_failed")
        title = self._names.ae_title(due[0].requester)
        log.warning("commitment reports not delivered", requester=title, problem=problem, waiting=len(due))
        try:
            for report in due:
                self._commitments.give_up(report)
        except OSError as error:
            log.error("commitment queue cannot be written", problem=error.strerror)  # noqa: TRY400 - no traceback
