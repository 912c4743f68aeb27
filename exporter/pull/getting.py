"""C-GET: the instances come on the association that asked for them, and go into the spool as the listener's do.

Contract: judged and written by the same code as what the listener receives (`listener.sources.dimse.storage`): the
data set's bytes as they came, a status of the same table, success only once the spool has committed. Contexts are
proposed for the classes that are to come, one for each transfer syntax, so that a peer need not convert what it has.

A message is in memory until it is whole: one that grows beyond `max_get_bytes` ends the association. The folder
`tmp/` may be emptied by a listener that starts beside us: an instance under way is then not committed, answered
0xA700 and asked for again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from exporter.pull.peer import GET, Storage
from listener.sources.dimse import statuses
from listener.sources.dimse import storage as service
from listener.sources.dimse.command import Command, Field
from listener.sources.dimse.file_meta import Parties
from listener.sources.dimse.gathering import Seat
from listener.sources.dimse.negotiation import AcceptedContext

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pynetdicom import evt
    from pynetdicom.presentation import PresentationContext

    from exporter.pull.settings import PullPeerSection
    from listener.settings import ListenerSection
    from listener.sources.contract import Surroundings

MOST_CONTEXTS: Final = 126
"""An association has 128 (PS3.8 7.1.1.13); one is for C-GET itself."""
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
"""By how often they are met: where there are many classes, the last ones are not proposed."""


class Getter:
    """Takes what the C-GETs of one peer bring."""

    def __init__(
        self, settings: PullPeerSection, listener: ListenerSection, surroundings: Surroundings, ours: str
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._surroundings = surroundings
        self._ours = ours

    def storage(self, classes: Iterable[str]) -> tuple[Storage, Reception]:
        """What one association needs to take instances of these classes (of common ones, where there are none)."""
        from pynetdicom import evt

        reception = Reception(self._storage_service(), self._settings.max_get_bytes)
        handlers = ((evt.EVT_C_STORE, reception.take), (evt.EVT_PDU_RECV, reception.measure))
        return Storage(contexts_for(classes), handlers), reception

    def _storage_service(self) -> service.Storage:
        settings = self._settings
        scheme = "dicoms" if settings.tls else "dicom"
        parties = Parties(settings.ae_title, self._ours, f"{scheme}://{settings.host}:{settings.port}", "")
        return service.Storage(self._surroundings, self._listener, parties, Seat(os.getpid()))


class Reception:
    """The instances that come by one association."""

    def __init__(self, storage: service.Storage, max_bytes: int) -> None:
        self._storage = storage
        self._max_bytes = max_bytes
        self._message_bytes = 0
        self.is_too_large = False
        """Whether an instance was longer than may be held in memory."""

    def take(self, event: evt.Event) -> int:
        """One C-STORE request: into the spool, and the status it is answered."""
        self._message_bytes = 0
        request: Any = event.request  # a C-STORE-RQ
        context_id, abstract_syntax, transfer_syntax = event.context
        command = Command(
            field=Field.C_STORE_RQ,
            message_id=int(request.MessageID or 0),
            has_data_set=request.DataSet is not None,
            sop_class_uid=_ascii(request.AffectedSOPClassUID),
            sop_instance_uid=_ascii(request.AffectedSOPInstanceUID),
            type_id=None,
            status=None,
        )
        if request.DataSet is None:
            return statuses.NO_DATA_SET.status
        # The class of the context, not what pynetdicom says of it.
        context = AcceptedContext(int(context_id or 0), str(abstract_syntax), str(transfer_syntax))
        reception = self._storage.begin(context, command)
        reception.write(request.DataSet.getbuffer())
        return reception.finish().status

    def measure(self, event: evt.Event) -> None:
        """Every PDU that comes: ends the association where a message is longer than may be held."""
        from pynetdicom.pdu import P_DATA_TF

        if not isinstance(event.pdu, P_DATA_TF):
            return
        self._message_bytes += event.pdu.pdu_length
        if self._message_bytes > self._max_bytes:
            self.is_too_large = True
            event.assoc.abort(block=False)
            event.assoc.dimse.msg_queue.put((None, None))  # wakes who waits for the next message

    def close(self) -> None:
        """Nothing more will come."""
        self._storage.close()


def contexts_for(classes: Iterable[str]) -> tuple[PresentationContext, ...]:
    """Presentation contexts for what is to come, `MOST_CONTEXTS` at most."""
    from pynetdicom import StoragePresentationContexts, build_context

    wanted = [uid for uid in dict.fromkeys(classes) if uid and uid != GET][:MOST_CONTEXTS]
    if not wanted:
        wanted = [str(context.abstract_syntax) for context in StoragePresentationContexts][:MOST_CONTEXTS]
    room = (MOST_CONTEXTS - len(wanted)) // len(wanted)
    contexts = [build_context(uid, list(UNCOMPRESSED)) for uid in wanted]
    if room == 0:  # too many classes for a context each: one for all transfer syntaxes
        return tuple(build_context(uid, [*UNCOMPRESSED, *COMPRESSED]) for uid in wanted)
    return (*contexts, *(build_context(uid, syntax) for uid in wanted for syntax in COMPRESSED[:room]))


def _ascii(uid: Any) -> bytes:
    return str(uid or "").encode("ascii", "replace")
