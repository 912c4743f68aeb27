"""C-GET: the instances come on the association that asked for them, and go into the spool as the listener's do.

Contract: judged and written by the same code as what the listener receives (`listener.sources.dimse.acceptor.storage`):
the data set's bytes as they came, a status of the same table, success only once the spool has committed. Contexts are
proposed for the classes that are to come, one for each transfer syntax, so that a peer need not convert what it has.

An instance goes to the spool as it comes; one that is longer than `max_get_bytes` is refused. The folder
`tmp/` may be emptied by a listener that starts beside us: an instance under way is then not committed, answered
0xA700 and asked for again.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from exporter.pull.peer import GET, StorageContexts
from listener.intake import store_status
from listener.intake.file_meta import AssociationParties
from listener.sources.dimse.acceptor import storage as service
from listener.sources.dimse.acceptor.cpu_affinity import CpuAffinity
from listener.sources.dimse.upper_layer.pdu import AbortReason, InvalidPDU

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.settings.pull import PullPeerSection
    from listener.intake.store_status import StoreStatus
    from listener.settings.listener import ListenerSection
    from listener.sources.contract import Surroundings
    from listener.sources.dimse.upper_layer.command import Command
    from listener.sources.dimse.upper_layer.negotiation import AcceptedContext

MOST_CONTEXTS: Final = 126
"""An association has 128 (PS3.8 7.1.1.13); one is for C-GET itself."""
MOST_INSTANCES: Final = 65_535
"""Sub-operations of one C-GET: they are counted in 16 bits (PS3.7 Table E.1-1)."""
SPARE_INSTANCES: Final = 1000
"""Instances more than the peer named before: others may have come there meanwhile."""
UNCOMPRESSED: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
COMPRESSED: Final = tuple(
    "1.2.840.10008.1.2." + end
    for end in (
        *("4.50", "4.70", "4.90", "4.91", "4.80", "4.81", "5", "4.51", "4.57"),
        *("4.102", "4.103", "4.104", "4.105", "4.106", "4.107", "4.108", "4.100", "4.101"),
        *("4.100.1", "4.101.1", "4.102.1", "4.103.1", "4.104.1", "4.105.1", "4.106.1"),
        *("4.201", "4.202", "4.203", "4.92", "4.93", "1.99", "2"),
    )
)
"""Transfer syntaxes by frequency: with many classes, the last ones are not proposed."""


_UID: Final = re.compile(r"[0-9.]{1,64}", re.ASCII)
_COMMON: Final = (
    "1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 10 104.1 104.2 11 11.1 11.2 11.3 11.4 11.5 12.1 12.1.1 12.2 12.2.1 12.3 128 128.1 "
    "129 13.1.1 13.1.2 13.1.3 130 131 14.1 14.2 2 2.1 2.2 20 3 3.1 30 4 4.1 4.2 4.3 4.4 481.1 481.2 481.3 481.4 481.5 "
    "481.6 481.7 481.8 481.9 5 6 6.1 6.2 66 66.1 66.2 66.3 66.4 66.5 67 68.1 68.2 7 7.1 7.2 7.3 7.4 77.1 77.1.1 "
    "77.1.1.1 77.1.2 77.1.2.1 77.1.3 77.1.4 77.1.4.1 77.1.5.1 77.1.5.2 77.1.5.3 77.1.5.4 77.1.6 77.2 78.1 78.2 78.3 "
    "78.4 78.5 78.6 78.7 78.8 79.1 8 80.1 81.1 88.11 88.22 88.33 88.34 88.40 88.50 88.59 88.65 88.67 88.68 88.69 88.70 "
    "9 9.1.1 9.1.2 9.1.3 9.2.1 9.3.1 9.4.1 9.4.2 9.5.1 9.6.1"
)
COMMON_CLASSES: Final = tuple("1.2.840.10008.5.1.4.1.1." + end for end in _COMMON.split())
"""SOP classes that are proposed by default (PS3.4 Table B.5-1, retired ones among them)."""


class Getter:
    """Takes what the C-GETs of one peer bring."""

    def __init__(
        self, settings: PullPeerSection, listener: ListenerSection, surroundings: Surroundings, ours: str
    ) -> None:
        self._settings = settings
        longest = settings.max_get_bytes or listener.limits.max_instance_bytes
        limits = listener.limits.model_copy(update={"max_instance_bytes": longest})
        self._listener = listener.model_copy(update={"limits": limits})
        self._surroundings = surroundings
        self._ours = ours

    def storage(self, classes: Iterable[str], count: int | None) -> tuple[StorageContexts, GetReception]:
        """The parts of one association that takes instances.

        Args:
            classes: SOP classes to come; common ones if empty.
            count: Number of instances to come, if known.
        """
        most = 2 * count + SPARE_INSTANCES if count is not None else MOST_INSTANCES
        reception = GetReception(self._storage_service(), most)
        return StorageContexts(syntaxes_for(classes), reception), reception

    def _storage_service(self) -> service.StorageService:
        settings = self._settings
        scheme = "dicoms" if settings.tls else "dicom"
        parties = AssociationParties(settings.ae_title, self._ours, f"{scheme}://{settings.host}:{settings.port}", "")
        return service.StorageService(self._surroundings, self._listener, parties, CpuAffinity(os.getpid()))


class GetReception:
    """The instances that come by one association."""

    def __init__(self, storage: service.StorageService, most: int) -> None:
        self._storage = storage
        self._left = most
        self._reception: service.IncomingDataSet | None = None
        self.is_too_large = False
        """Whether an instance was longer than it may be."""

    def begin(self, context: AcceptedContext, command: Command) -> service.IncomingDataSet:
        """Take up one C-STORE-RQ whose data set is about to come.

        Raises:
            InvalidPDU: More come than can have been asked for: the association ends.
        """
        self._left -= 1
        if self._left < 0:
            raise InvalidPDU("more instances than were asked for", AbortReason.NOT_SPECIFIED)
        self._reception = self._storage.begin_store(context, command)
        return self._reception

    def ended(self, reception: service.IncomingDataSet) -> StoreStatus:
        """Judge and keep an instance that is complete."""
        situation = reception.finish()
        self.is_too_large |= situation is store_status.TOO_LARGE
        self._storage.prepare(reception.size_bytes)
        return situation

    def close(self) -> None:
        """End the reception: no more instances will come."""
        self.is_too_large |= self._reception is not None and self._reception.is_endless
        self._storage.close()


def syntaxes_for(classes: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Classes with transfer syntaxes, for a presentation context each: `MOST_CONTEXTS` at most."""
    # They are what the peer said.
    wanted = [uid for uid in dict.fromkeys(classes) if _UID.fullmatch(uid) and uid != GET][:MOST_CONTEXTS]
    wanted = wanted or list(COMMON_CLASSES)
    room = (MOST_CONTEXTS - len(wanted)) // len(wanted)
    if room == 0:  # too many classes for a context each: one for all transfer syntaxes
        return tuple((uid, (*UNCOMPRESSED, *COMPRESSED)) for uid in wanted)
    return (
        *((uid, UNCOMPRESSED) for uid in wanted),
        *((uid, (syntax,)) for uid in wanted for syntax in COMPRESSED[:room]),
    )
