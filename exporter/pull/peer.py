"""Associations with a peer: asking (C-FIND), having it send (C-MOVE, C-GET), and what can go wrong (PS3.4 Annex C).

Contract: every operation ends: with its answers, or with one of the errors here, within the times that the settings
give and soon after the order to stop. Nothing of an identifier is ever part of a message.
"""

from __future__ import annotations

import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from exporter.pull.identifiers import Answer, UnreadableAnswer, encode, read_answer
from exporter.pull.statuses import Verdict, verdict, words
from listener.sources.dimse.upper_layer import command as dimse
from listener.sources.dimse.upper_layer.pdu import ExtendedNegotiation, RoleSelection
from listener.sources.dimse.upper_layer.scu import (
    AssociationBroken,
    NotAccepted,
    NotConnected,
    Proposal,
    RequestError,
    RequestorTimes,
    contexts_of,
    request_association,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pydicom import Dataset

    from exporter.settings.pull import PullPeerSection, PullTLSSection
    from listener.sources.dimse.upper_layer.negotiation import AcceptedContext
    from listener.sources.dimse.upper_layer.scu import InstanceStorage, RequestedAssociation, Response

FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
"""Study Root Query/Retrieve Information Model - FIND (PS3.4 C.6.2.3)."""
MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"
RELATIONAL: Final = b"\1"
"""Service class application information: relational queries (PS3.4 C.5.1.1)."""
UNCOMPRESSED: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
MAX_PDU_BYTES: Final = 131_072
ENDING_S: Final = 0.5
"""So long after the time of an operation its next answer is waited for: then it can be cancelled, not aborted."""
DRAIN_S: Final = 5.0
"""Time that a peer has to end an operation that was cancelled."""
LONGEST_ANSWER_BYTES: Final = 1 << 20
"""One identifier; they have some hundred bytes."""
MOST_ANSWER_BYTES: Final = 64 << 20
"""All identifiers of one C-FIND: 200,000 of 335 bytes."""
MOST_RESPONSES: Final = 131_072
"""To one C-MOVE or C-GET: it counts its sub-operations in 16 bits (PS3.7 Table E.1-1), and may say each once more."""
STANDSTILL: Final = 10
"""So many times `answer_s` a C-MOVE or C-GET may say that it goes on while its numbers stand still."""


class PeerError(Exception):
    """An operation with the peer came to nothing: one sentence, without anything of an identifier."""


class PeerUnreachable(PeerError):
    """There is no association with the peer."""

    def __init__(self, sentence: str, *, may_pass: bool) -> None:
        super().__init__(sentence)
        self.may_pass = may_pass


class AssociationLost(PeerError):
    """The association ended, or the peer fell silent, in the middle of an operation."""


class PeerTooSlow(PeerError):
    """A C-FIND had no end within its time, and was given up."""


class AnswersUnusable(PeerError):
    """The answers to a C-FIND are unreadable or too many: the peer's instances remain unknown."""


class PullStopped(Exception):
    """The run is to stop; operations under way stay as they are."""


class StopOrder:
    """Time at which operations are cut: at once, or some time after the order to stop, so that they may finish."""

    def __init__(self, stop: threading.Event, grace_s: float) -> None:
        self._stop = stop
        self._grace_s = grace_s
        self._since: float | None = None

    def at_once(self) -> bool:
        """Whether a question is to end: it is asked again anyway."""
        return self._stop.is_set()

    def after_grace(self) -> bool:
        """Whether what brings instances is to end."""
        if not self._stop.is_set():
            return False
        if self._since is None:
            self._since = time.monotonic()
        return time.monotonic() - self._since >= self._grace_s


class PeerRefused(PeerError):
    """The peer ended an operation with a status that is no success."""

    def __init__(self, operation: str, status: int) -> None:
        super().__init__(f"{operation} was answered {words(status)}")
        self.status = status

    @property
    def verdict(self) -> Verdict:
        """Consequence of the status."""
        return verdict(self.status)


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to a C-FIND."""

    entries: tuple[Answer, ...]
    is_cut: bool = False
    """Whether there were more than wanted; the rest was cancelled."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Final state of a C-MOVE or C-GET by the peer's own account, which need not be true."""

    status: int
    completed: int = 0
    failed: int = 0
    warning: int = 0


@dataclass(frozen=True, slots=True)
class StorageContexts:
    """Storage side of a C-GET: classes and transfer syntaxes of the instances, and their sink."""

    syntaxes: tuple[tuple[str, tuple[str, ...]], ...]
    instances: InstanceStorage[Any]


class PullPeer:
    """Address and credentials of a peer."""

    def __init__(self, settings: PullPeerSection, calling_ae_title: str, stop: StopOrder) -> None:
        self.settings = settings
        self._calling = calling_ae_title
        self._stop = stop
        self._tls = None if settings.tls is None else _client_context(settings.tls)

    def __str__(self) -> str:
        return f"{self.settings.ae_title} at {self.settings.host}:{self.settings.port}"

    def converse(
        self, *models: str, storage: StorageContexts | None = None, relational: bool = False
    ) -> QueryAssociation:
        """An association for these models.

        Raises:
            PeerUnreachable: No association comes about, or it lacks a model.
            Stopped: The run is to stop.
        """
        settings, times = self.settings, self.settings.times
        syntaxes = storage.syntaxes if storage else ()
        proposal = Proposal(
            self._calling,
            settings.ae_title,
            contexts_of([*((model, UNCOMPRESSED) for model in models), *syntaxes]),
            roles=tuple(RoleSelection(uid, scu=False, scp=True) for uid in dict.fromkeys(uid for uid, _ in syntaxes)),
            extended=tuple(ExtendedNegotiation(model, RELATIONAL) for model in models if relational),
            max_pdu_bytes=MAX_PDU_BYTES,
        )
        try:
            association = request_association(
                settings.host,
                settings.port,
                proposal,
                RequestorTimes(times.connect_s, times.pdu_s),
                tls=self._tls,
                stopping=self._stop.at_once if FIND in models else self._stop.after_grace,
                storage=storage.instances if storage else None,
            )
        except RequestError as error:
            raise self._unreachable(error) from error
        contexts = {model: context for model in models if (context := association.context(model)) is not None}
        if missing := [_NAMES[model] for model in models if model not in contexts]:
            association.release()
            raise PeerUnreachable(f"{self} does not offer {' and '.join(missing)} (Study Root)", may_pass=False)
        return QueryAssociation(association, contexts, settings)

    def _unreachable(self, error: RequestError) -> PeerUnreachable:
        """The error of this module for a request that found no peer.

        Raises:
            Stopped: The run is to stop.
        """
        match error:
            case NotAccepted():
                meaning = _REJECTIONS.get((error.source, error.reason), "")
                numbers = f"result {error.result}, source {error.source}, reason {error.reason}"
                sentence = f"{self} rejects the association{meaning} ({numbers})"
                return PeerUnreachable(sentence, may_pass=error.result != 1)
            case NotConnected():
                return PeerUnreachable(f"{self} cannot be reached: {error}", may_pass=error.may_pass)
            case AssociationBroken(ended="stopped"):
                raise PullStopped from error
            case AssociationBroken(ended="deadline_missed" | "connection_lost"):
                obstacle = "it takes the connection and gives no answer to the request for an association"
                return PeerUnreachable(f"{self} cannot be reached: {obstacle}", may_pass=True)
            case _:
                return PeerUnreachable(f"{self} cannot be reached: {error}", may_pass=True)


class QueryAssociation:
    """One established association; used by one thread."""

    def __init__(
        self,
        association: RequestedAssociation,
        contexts: Mapping[str, AcceptedContext],
        settings: PullPeerSection,
    ) -> None:
        self._association = association
        self._contexts = contexts
        self._times = settings.times

    @property
    def is_open(self) -> bool:
        """Whether the association can still be used."""
        return self._association.is_idle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def close(self) -> None:
        """Release it, where it is still there."""
        self._association.release()

    def abort(self) -> None:
        """End it at once."""
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
            AnswersUnusable: An answer cannot be read, or they are too long together.
            AssociationLost: The association ended first.
            Stopped: The run is to stop.
        """
        until = time.monotonic() + self._times.find_s
        wanted = tuple(keywords)
        entries: list[Answer] = []
        size_bytes = 0
        number = self._send("C-FIND", FIND, dimse.Field.C_FIND_RQ, identifier)
        while True:
            if time.monotonic() >= until:
                self._cancel(FIND, number)
                raise PeerTooSlow(f"C-FIND did not end within {self._times.find_s:g} s; it was cancelled")
            try:
                response = self._response("C-FIND", number, until, LONGEST_ANSWER_BYTES)
            except AssociationLost as error:
                if time.monotonic() < until:
                    raise
                raise PeerTooSlow(f"C-FIND did not end within {self._times.find_s:g} s; it was given up") from error
            if verdict(response.status) is Verdict.DONE:
                return Answers(tuple(entries))
            if verdict(response.status) is not Verdict.PENDING:
                raise PeerRefused("C-FIND", response.status)
            size_bytes += len(response.data)
            if size_bytes > MOST_ANSWER_BYTES:
                self._cancel(FIND, number)
                raise AnswersUnusable(f"the answers to C-FIND are longer than {MOST_ANSWER_BYTES >> 20} MiB together")
            entries.append(self._read(response, wanted))
            if len(entries) > limit:
                self._cancel(FIND, number)
                return Answers(tuple(entries[:limit]), is_cut=True)

    def _read(self, response: Response, wanted: Sequence[str]) -> Answer:
        """One answer; one that is empty lacks its unique key, and is left out and counted for that."""
        try:
            return read_answer(response.data, response.transfer_syntax, wanted)
        except UnreadableAnswer as error:
            self.abort()
            raise AnswersUnusable(f"an answer to C-FIND cannot be read ({error.cause})") from error

    def move(self, identifier: Dataset, to: str) -> Sent:
        """Have the peer send what the identifier names to an AE title.

        Raises:
            AssociationLost: It did not end.
            Stopped: The run is to stop.
        """
        return self._retrieve("C-MOVE", MOVE, dimse.Field.C_MOVE_RQ, identifier, to)

    def get(self, identifier: Dataset) -> Sent:
        """Have the peer send what the identifier names on this association.

        Raises:
            AssociationLost: It did not end.
            Stopped: The run is to stop.
        """
        return self._retrieve("C-GET", GET, dimse.Field.C_GET_RQ, identifier)

    def _retrieve(self, operation: str, model: str, field: dimse.Field, identifier: Dataset, to: str = "") -> Sent:
        started = moved = time.monotonic()
        until = started + self._times.retrieve_s
        number = self._send(operation, model, field, identifier, to)
        most = 0
        for _ in range(MOST_RESPONSES):
            status, counts, *_ = self._response(operation, number, until)
            if verdict(status) is not Verdict.PENDING:
                return Sent(status, counts.completed, counts.failed, counts.warning)
            now = time.monotonic()
            done = counts.completed + counts.failed + counts.warning
            if done > most:
                most, moved = done, now
            standstill = now - max(moved, self._association.last_instance)
            if now >= until or standstill > STANDSTILL * self._times.answer_s:
                break
        self._cancel(model, number)
        raise AssociationLost(f"{operation} did not end: the peer says that it goes on, and does not; it was cancelled")

    def _send(self, operation: str, model: str, field: dimse.Field, identifier: Dataset, to: str = "") -> int:
        """Send a request; its message ID."""
        context = self._contexts[model]
        number = self._association.next_message_id()
        try:
            data = encode(identifier, context.transfer_syntax)
            self._association.send(context, dimse.request(field, number, model, move_destination=to), data)
        except RequestError as error:
            raise self._lost(operation, error) from error
        return number

    def _response(self, operation: str, number: int, until: float, longest_data_bytes: int | None = None) -> Response:
        within_s = float("inf") if operation == "C-FIND" else self._times.answer_s
        try:
            return self._association.response(
                number, within_s=within_s, until=until + ENDING_S, longest_data_bytes=longest_data_bytes
            )
        except RequestError as error:
            raise self._lost(operation, error) from error

    @staticmethod
    def _lost(operation: str, error: RequestError) -> AssociationLost:
        """The error of this module for an association that broke.

        Raises:
            Stopped: The run is to stop.
        """
        if isinstance(error, AssociationBroken) and error.ended == "stopped":
            raise PullStopped from error
        return AssociationLost(f"{operation} did not end: {error}")

    def _cancel(self, model: str, number: int) -> None:
        """Ask the peer to stop answering (PS3.7 9.3.2.3), and go where it does not."""
        until = time.monotonic() + DRAIN_S
        with suppress(RequestError):
            self._association.cancel(self._contexts[model], number)
            while time.monotonic() < until:
                response = self._association.response(number, within_s=DRAIN_S, until=until)
                if verdict(response.status) is not Verdict.PENDING:
                    return
        self.abort()


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
"""Meaning of a rejection by source and reason (PS3.8 Table 9-21)."""


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
