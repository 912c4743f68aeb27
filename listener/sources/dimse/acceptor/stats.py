"""The account of one association: counts while it lives, one log line when it is over.

Contract: who, how many, how many bytes, how long, why it ended; addresses, and names as `peer_names` shows them; never
anything of a data set.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from listener.foundation.counters import OTHER
from listener.intake import store_status

if TYPE_CHECKING:
    from listener.foundation.counters import Counters
    from listener.intake.store_status import StoreStatus
    from listener.sources.dimse.upper_layer.pdu import AssociateRequest
    from listener.sources.dimse.upper_layer.peer_pseudonyms import PeerPseudonyms

log = structlog.get_logger()

QUIET_ENDS = ("released", "probe", "stopped")
"""Ends that are nobody's fault."""


class AssociationStats:
    """Counts of one association, added to those of the daemon."""

    def __init__(self, counters: Counters, peer_host: str, names: PeerPseudonyms) -> None:
        self.counters = counters
        self._names = names
        self._peer_host = peer_host
        self._started = time.monotonic()
        self._request: AssociateRequest | None = None
        self._answers: Counter[str] = Counter()
        self._data_bytes = 0
        self._slowest_s = 0.0

    def asked(self, request: AssociateRequest) -> None:
        """The request is there."""
        self._request = request

    def count_answer(self, situation: StoreStatus, size_bytes: int = 0, commit_s: float = 0.0) -> None:
        """A C-STORE was answered."""
        self._answers[situation.word] += 1
        if situation.is_success:
            self._data_bytes += size_bytes
            self.counters.add_each(**{situation.counter: 1, "bytes_stored": size_bytes})
            self.counters.arrived(self._request.calling_ae_title if self._request else OTHER)
        else:
            self.counters.add(situation.counter)
        self._slowest_s = max(self._slowest_s, commit_s)

    def incomplete(self) -> None:
        """A data set will never be complete."""
        self._answers["incomplete"] += 1
        self.counters.add("instances_incomplete")

    def close(self, ended: str) -> None:
        """Write the line."""
        request, names = self._request, self._names
        if request is None and ended == "connection_lost":
            ended = "probe"  # connected and went without a request: a load balancer, a port scan
        self.counters.add(f"associations_{ended}")
        level = log.info if ended in QUIET_ENDS else log.warning
        level(
            "association",
            ended=ended,
            peer=self._peer_host,
            calling=names.ae_title(request.calling_ae_title) if request else "",
            called=names.ae_title(request.called_ae_title) if request else "",
            implementation=names.implementation(request.implementation_version) if request else "",
            stored=self._answers[store_status.SUCCESS.word],
            answers=dict(self._answers),
            bytes=self._data_bytes,
            seconds=round(time.monotonic() - self._started, 3),
            slowest_commit_s=round(self._slowest_s, 3),
        )
