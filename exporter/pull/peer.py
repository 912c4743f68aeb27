"""Associations with a peer: asking (C-FIND), having it send (C-MOVE, C-GET), and what can go wrong (PS3.4 Annex C).

Contract: every operation ends: with its answers, or with one of the errors here, within the times that the settings
give. What the library raises or returns for a peer that breaks the protocol is one of them, too. Nothing of an
identifier is ever part of a message.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from exporter.pull.matching import text_of
from exporter.pull.statuses import Verdict, verdict, words
from listener.sources.dimse.requesting import associate, release

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydicom import Dataset
    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

    from exporter.pull.settings import PullPeerSection, PullTLSSection

FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
"""Study Root Query/Retrieve Information Model - FIND (PS3.4 C.6.2.3)."""
MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
RELATIONAL: Final = b"\1"
"""Service class application information: relational queries (PS3.4 C.5.1.1)."""
UNCOMPRESSED: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
MAX_PDU_BYTES: Final = 131_072
ENDING_S: Final = 0.5
DRAIN_S: Final = 5.0
"""Time that a peer has to end a C-FIND that was cancelled."""

Responses = Iterator[tuple["Dataset", "Dataset | None"]]
Answer = dict[str, tuple[str, ...]]
"""One answer to a C-FIND: values by keyword."""


class PeerError(Exception):
    """An operation with the peer came to nothing: one sentence, without anything of an identifier."""


class PeerUnreachable(PeerError):
    """There is no association with the peer."""

    def __init__(self, sentence: str, *, may_pass: bool) -> None:
        super().__init__(sentence)
        self.may_pass = may_pass


class AssociationLost(PeerError):
    """The association ended, or the peer fell silent, in the middle of an operation."""


class TooSlow(PeerError):
    """A C-FIND had no end within its time, and was cancelled."""


class Refused(PeerError):
    """The peer ended an operation with a status that is no success."""

    def __init__(self, operation: str, status: int) -> None:
        super().__init__(f"{operation} was answered {words(status)}")
        self.status = status

    @property
    def verdict(self) -> Verdict:
        """What follows."""
        return verdict(self.status)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a C-FIND brought."""

    entries: tuple[Answer, ...]
    is_cut: bool = False
    """Whether there were more than wanted; the rest was cancelled."""


@dataclass(frozen=True, slots=True)
class Sent:
    """How a C-MOVE or C-GET ended, by the peer's own account, which need not be true."""

    status: int
    completed: int = 0
    failed: int = 0
    warning: int = 0


@dataclass(frozen=True, slots=True)
class Storage:
    """What a C-GET brings to the association: contexts for what comes, and who takes it."""

    contexts: tuple[PresentationContext, ...]
    handlers: tuple[tuple[Any, Callable[..., Any]], ...]


class Peer:
    """How a peer is reached."""

    def __init__(self, settings: PullPeerSection, calling_ae_title: str) -> None:
        self.settings = settings
        self._calling = calling_ae_title
        self._tls = None if settings.tls is None else _client_context(settings.tls)

    def __str__(self) -> str:
        return f"{self.settings.ae_title} at {self.settings.host}:{self.settings.port}"

    def converse(self, *models: str, storage: Storage | None = None, relational: bool = False) -> Conversation:
        """An association for these models.

        Raises:
            PeerUnreachable: There is none, or it does not offer a model.
        """
        from pynetdicom import AE, build_context

        settings = self.settings
        entity = AE(ae_title=self._calling)
        entity.maximum_pdu_size = MAX_PDU_BYTES
        entity.connection_timeout = entity.acse_timeout = settings.times.connect_s
        entity.dimse_timeout = settings.times.answer_s
        entity.network_timeout = None  # silence is judged message by message
        contexts = [build_context(model, list(UNCOMPRESSED)) for model in models]
        association = associate(
            entity,
            settings.host,
            settings.port,
            contexts=[*contexts, *(storage.contexts if storage else ())],
            ae_title=settings.ae_title,
            max_pdu=MAX_PDU_BYTES,
            ext_neg=[*_roles(storage), *(_relational(models) if relational else ())],
            tls_args=None if self._tls is None else (self._tls, settings.host),
            evt_handlers=list(storage.handlers) if storage else [],
        )
        if not association.is_established:
            raise self._unreachable(association)
        conversation = Conversation(association, settings)
        offered = {str(context.abstract_syntax) for context in association.accepted_contexts}
        if missing := [_NAMES[model] for model in models if model not in offered]:
            conversation.close()
            raise PeerUnreachable(f"{self} does not offer {' and '.join(missing)} (Study Root)", may_pass=False)
        return conversation

    def _unreachable(self, association: Association) -> PeerUnreachable:
        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None:
            reason = (answer.result, answer.result_source, answer.diagnostic)
            meaning = _REJECTIONS.get((reason[1] or 0, reason[2] or 0), "")
            sentence = (
                f"{self} rejects the association{meaning} (result {reason[0]}, source {reason[1]}, reason {reason[2]})"
            )
            return PeerUnreachable(sentence, may_pass=reason[0] != 1)
        obstacle, may_pass = self._obstacle()
        return PeerUnreachable(f"{self} cannot be reached: {obstacle}", may_pass=may_pass)

    def _obstacle(self) -> tuple[str, bool]:
        """Why there is no association, found out by trying the connection alone; and whether that may pass."""
        settings = self.settings
        try:
            with socket.create_connection((settings.host, settings.port), settings.times.connect_s) as plain:
                if self._tls is not None:
                    self._tls.wrap_socket(plain, server_hostname=settings.host).close()
        except ssl.SSLError as error:
            return f"TLS fails ({getattr(error, 'verify_message', '') or error.reason or 'no handshake'})", False
        except OSError as error:
            return error.strerror or "no answer", True
        return "it takes the connection and gives no answer to the request for an association", True


class Conversation:
    """One established association; used by one thread."""

    def __init__(self, association: Association, settings: PullPeerSection) -> None:
        self._association = association
        self._times = settings.times
        self._messages = 0

    @property
    def is_open(self) -> bool:
        """Whether it can still be used."""
        return bool(self._association.is_established)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release it, where it is still there."""
        release(self._association)

    def abort(self) -> None:
        """End it at once."""
        with suppress(RuntimeError):
            self._association.abort()

    def find(self, identifier: Dataset, keywords: Iterable[str], *, limit: int) -> Answers:
        """The answers to one C-FIND, as text.

        Args:
            identifier: What is asked, level included.
            keywords: What is kept of each answer.
            limit: Most answers; with one more, the operation is cancelled.

        Raises:
            Refused: It ended with a failure.
            TooSlow: It did not end in time.
            AssociationLost: The association ended first.
        """
        until = time.monotonic() + self._times.find_s
        wanted = tuple(keywords)
        entries: list[Answer] = []
        responses = self._send("C-FIND", lambda number: self._association.send_c_find(identifier, FIND, msg_id=number))
        for status, found in self._within(responses, until):
            match verdict(status):
                case Verdict.PENDING:
                    if found is not None:
                        entries.append(_plain(found, wanted))
                    if len(entries) > limit:
                        self._cancel(responses)
                        return Answers(tuple(entries[:limit]), is_cut=True)
                case Verdict.DONE:
                    return Answers(tuple(entries))
                case _:
                    raise Refused("C-FIND", status)
        raise AssociationLost(f"C-FIND did not end: {self._ending()}")

    def move(self, identifier: Dataset, to: str) -> Sent:
        """Have the peer send what the identifier names to an AE title.

        Raises:
            AssociationLost: It did not end.
        """
        return self._retrieve(
            "C-MOVE", lambda number: self._association.send_c_move(identifier, to, MOVE, msg_id=number)
        )

    def get(self, identifier: Dataset) -> Sent:
        """Have the peer send what the identifier names on this association.

        Raises:
            AssociationLost: It did not end.
        """
        return self._retrieve("C-GET", lambda number: self._association.send_c_get(identifier, GET, msg_id=number))

    def _retrieve(self, operation: str, send: Callable[[int], Responses]) -> Sent:
        self._association.dimse_timeout = self._times.answer_s
        for status, _ in self._send(operation, send):
            if "Status" not in status:
                break
            sent = Sent(int(status.Status), *(_count(status, name) for name in ("Completed", "Failed", "Warning")))
            if verdict(sent.status) is not Verdict.PENDING:
                return sent
        raise AssociationLost(f"{operation} did not end: {self._ending()}")

    def _send(self, operation: str, send: Callable[[int], Responses]) -> Responses:
        self._messages = self._messages % 65_535 + 1
        try:
            return send(self._messages)
        except (RuntimeError, ValueError, AttributeError, TypeError) as error:
            raise AssociationLost(f"{operation} could not be sent: {self._ending()}") from error

    def _within(self, responses: Responses, until: float) -> Iterator[tuple[int, Dataset | None]]:
        """Statuses and identifiers, until the last or until the time is over."""
        while (left := until - time.monotonic()) > 0:
            self._association.dimse_timeout = left + ENDING_S
            status, found = next(responses, (None, None))
            if status is None or "Status" not in status:
                if time.monotonic() < until:
                    return
                break
            yield int(status.Status), found
        if self.is_open:
            self._cancel(responses)
        raise TooSlow(f"C-FIND did not end within {self._times.find_s:g} s; it was cancelled")

    def _cancel(self, responses: Responses) -> None:
        """Ask the peer to stop answering (PS3.7 9.3.2.3), and go where it does not."""
        until = time.monotonic() + DRAIN_S
        with suppress(RuntimeError, ValueError):
            self._association.send_c_cancel(self._messages, query_model=FIND)
            while (left := until - time.monotonic()) > 0:
                self._association.dimse_timeout = left
                status, _ = next(responses, (None, None))
                if status is None or "Status" not in status or verdict(int(status.Status)) is not Verdict.PENDING:
                    return
        self.abort()

    def _ending(self) -> str:
        self._association.join(ENDING_S)  # its own thread may not have noticed yet
        if self._association.is_aborted:
            return "the association was aborted (a peer that does not know our AE title may do that)"
        return "the peer gave no answer in time" if self._association.is_established else "the association is gone"


_NUMBER: Final[dict[str, Callable[[str], Any]]] = {
    "US": int,
    "SS": int,
    "UL": int,
    "SL": int,
    "FL": float,
    "FD": float,
}
_NAMES: Final = {FIND: "C-FIND", MOVE: "C-MOVE", GET: "C-GET"}
_REJECTIONS: Final = {
    (1, 3): ": it does not know our AE title",
    (1, 7): ": it is not called by that AE title",
    (3, 1): ": it is congested",
    (3, 2): ": it has too many associations",
}
"""By source and reason (PS3.8 Table 9-21)."""


def identifier(
    level: str, keys: Mapping[str, str], *, returned: Iterable[str] = (), character_set: str = ""
) -> Dataset:
    """An identifier (PS3.4 C.4.1.1.3): the level, the keys, and what else shall be returned."""
    from pydicom import DataElement, Dataset, config
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    asked = Dataset()
    if not all(value.isascii() for value in keys.values()):
        asked.SpecificCharacterSet = character_set
    asked.QueryRetrieveLevel = level
    for keyword in {*returned} - keys.keys():
        setattr(asked, keyword, None)
    for keyword, text in keys.items():
        vr = dictionary_VR(keyword)
        value: Any = text.split("\\") if vr == "UI" else _NUMBER.get(vr, str)(text)
        # Ranges and wildcards are no values of their representation: they are written as they are.
        element = DataElement(tag_for_keyword(keyword) or 0, vr, value, validation_mode=config.IGNORE)
        asked.add(element)
    return asked


def _plain(found: Dataset, keywords: Sequence[str]) -> Answer:
    """What an answer says, as text; an element that cannot be read says nothing."""
    from exporter.elements import READING_ERRORS, quiet_reading

    answer: Answer = {}
    with quiet_reading():
        for keyword in keywords:
            try:
                values = text_of(found.get(keyword))
            except READING_ERRORS:
                continue
            values = tuple(value.strip(" \0") for value in values if value.strip(" \0"))
            if values:
                answer[keyword] = values
    return answer


def _count(status: Dataset, name: str) -> int:
    value = status.get(f"NumberOf{name}Suboperations")
    return value if isinstance(value, int) else 0


def _roles(storage: Storage | None) -> list[Any]:
    from pynetdicom import build_role

    classes = dict.fromkeys(str(context.abstract_syntax) for context in storage.contexts) if storage else {}
    return [build_role(uid, scp_role=True) for uid in classes]


def _relational(models: Iterable[str]) -> list[Any]:
    from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

    items = []
    for model in models:
        item = SOPClassExtendedNegotiation()
        item.sop_class_uid = model
        item.service_class_application_information = RELATIONAL
        items.append(item)
    return items


def _client_context(settings: PullTLSSection) -> ssl.SSLContext:
    """A context for the client's side.

    Raises:
        PeerUnreachable: A file is missing or is not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = settings.check_host
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise PeerUnreachable(
            f"the TLS files of the peer cannot be used ({error.strerror or error}): "
            f"ca {settings.ca or 'of the system'}, certificate {settings.certificate or 'none'}, "
            f"key {settings.key or 'in that file'}",
            may_pass=False,
        ) from error
    return context
