"""Protocol data units of the upper layer, as bytes and as values (PS3.8 9.3, PS3.7 Annex D).

Contract: `parse_associate_request` takes the body of one A-ASSOCIATE-RQ and returns it as frozen values, or raises
`InvalidPDU`; it never reads outside the body and does work linear in its length. The encoders return whole PDUs.
Must never: raise anything but `InvalidPDU` for what a peer sent, or put what a peer sent into a message.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
"""The DICOM application context name (PS3.7 A.2.1)."""
HEADER: Final = struct.Struct(">BxI")
"""PDU type, reserved, PDU length."""
PDV_HEADER: Final = struct.Struct(">IBB")
"""Item length, presentation context ID, message control header (PS3.8 9.3.5.1, E.2)."""
PDV_IN_PDU: Final = struct.Struct(">BxIIBB")
"""Header of a P-DATA-TF and of the presentation data value that is all of it."""
_ITEM: Final = struct.Struct(">BxH")
_MOST_CONTEXTS: Final = 128
"""Context IDs are the odd numbers of one byte."""


class PDUType(IntEnum):
    """The first byte of a PDU (PS3.8 9.3.1)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


class InvalidPDU(Exception):
    """The peer's PDU breaks PS3.8; `reason` goes into the A-ABORT (PS3.8 Table 9-26)."""

    def __init__(self, message: str, reason: AbortReason | None = None) -> None:
        super().__init__(message)
        self.reason = AbortReason.INVALID_PARAMETER if reason is None else reason


class AbortReason(IntEnum):
    """Why the service provider aborts (PS3.8 Table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class ContextResult(IntEnum):
    """The answer to one proposed presentation context (PS3.8 Table 9-18)."""

    ACCEPTANCE = 0
    USER_REJECTION = 1
    NO_REASON = 2
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


@dataclass(frozen=True, slots=True)
class ProposedContext:
    """One presentation context as the requestor proposes it (PS3.8 9.3.2.2)."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContextAnswer:
    """The acceptor's answer to one presentation context (PS3.8 9.3.3.2)."""

    context_id: int
    result: ContextResult
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class RoleSelection:
    """SCP/SCU role selection of one SOP class (PS3.7 D.3.3.4)."""

    sop_class_uid: str
    scu: bool
    scp: bool


@dataclass(frozen=True, slots=True)
class ExtendedNegotiation:
    """SOP class extended negotiation (PS3.7 D.3.3.5)."""

    sop_class_uid: str
    information: bytes


@dataclass(frozen=True, slots=True, repr=False)
class UserIdentity:
    """User identity negotiation (PS3.7 D.3.3.7); has no repr, because it may hold a secret."""

    kind: int
    """1 user name, 2 user name and passcode, 3 Kerberos, 4 SAML, 5 JSON Web Token."""
    response_requested: bool
    primary: bytes
    secondary: bytes


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """One A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

    protocol_version: int
    called_ae_title: str
    calling_ae_title: str
    titles: bytes
    """The 64 bytes of titles and reserved field: they go back unchanged (PS3.8 9.3.3)."""
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_pdu_bytes: int
    """Longest PDU that the requestor receives; 0 means no limit (PS3.8 D.1)."""
    implementation_class_uid: str
    implementation_version: str
    async_window: tuple[int, int] | None
    roles: tuple[RoleSelection, ...]
    extended: tuple[ExtendedNegotiation, ...]
    user_identity: UserIdentity | None


@dataclass(frozen=True, slots=True)
class AssociateAccept:
    """What one A-ASSOCIATE-AC says (PS3.8 9.3.3)."""

    contexts: tuple[ContextAnswer, ...]
    max_pdu_bytes: int
    implementation_class_uid: str
    implementation_version: str
    async_window: tuple[int, int] | None = None
    roles: tuple[RoleSelection, ...] = ()
    extended: tuple[ExtendedNegotiation, ...] = ()
    user_identity_response: bytes | None = None


def parse_associate_request(body: bytes) -> AssociateRequest:
    """The A-ASSOCIATE-RQ whose bytes after the 6-byte PDU header are `body`.

    Raises:
        InvalidPDU: A field is missing, twice, or longer than what holds it.
    """
    if len(body) < 68:
        raise InvalidPDU("A-ASSOCIATE-RQ shorter than its fixed fields")
    contexts: dict[int, ProposedContext] = {}
    application_context: str | None = None
    user: _UserInformation | None = None
    for kind, value in _items(body, 68):
        match kind:
            case 0x10:
                application_context = _uid(value)
            case 0x20:
                context = _proposed_context(value)
                if context.context_id in contexts:
                    raise InvalidPDU("presentation context ID used twice")
                contexts[context.context_id] = context
            case 0x50:
                user = _user_information(value)
            case _:
                pass  # items that the Standard adds later are ignored (PS3.8 9.3.1)
    if application_context is None:
        raise InvalidPDU("A-ASSOCIATE-RQ without application context")
    if not 1 <= len(contexts) <= _MOST_CONTEXTS:
        raise InvalidPDU("A-ASSOCIATE-RQ without presentation context")
    if user is None:
        raise InvalidPDU("A-ASSOCIATE-RQ without user information")
    return AssociateRequest(
        protocol_version=int.from_bytes(body[:2], "big"),
        called_ae_title=_title(body[4:20]),
        calling_ae_title=_title(body[20:36]),
        titles=bytes(body[4:68]),
        application_context=application_context,
        contexts=tuple(contexts.values()),
        max_pdu_bytes=user.max_pdu_bytes,
        implementation_class_uid=user.implementation_class_uid,
        implementation_version=user.implementation_version,
        async_window=user.async_window,
        roles=tuple(user.roles),
        extended=tuple(user.extended),
        user_identity=user.user_identity,
    )


def associate_accept(request: AssociateRequest, answer: AssociateAccept) -> bytes:
    """A-ASSOCIATE-AC in answer to a request (PS3.8 9.3.3)."""
    user = [
        _item(0x51, struct.pack(">I", answer.max_pdu_bytes)),
        _item(0x52, answer.implementation_class_uid.encode("ascii")),
    ]
    if answer.async_window is not None:
        user.append(_item(0x53, struct.pack(">HH", *answer.async_window)))
    for role in answer.roles:
        uid = role.sop_class_uid.encode("ascii")
        user.append(_item(0x54, struct.pack(">H", len(uid)) + uid + bytes((role.scu, role.scp))))
    user.append(_item(0x55, answer.implementation_version.encode("ascii")))
    for extended in answer.extended:
        uid = extended.sop_class_uid.encode("ascii")
        user.append(_item(0x56, struct.pack(">H", len(uid)) + uid + extended.information))
    if answer.user_identity_response is not None:
        response = answer.user_identity_response
        user.append(_item(0x59, struct.pack(">H", len(response)) + response))
    parts = [struct.pack(">HH", 1, 0), request.titles, _item(0x10, APPLICATION_CONTEXT.encode("ascii"))]
    for context in answer.contexts:
        syntax = _item(0x40, context.transfer_syntax.encode("ascii"))
        parts.append(_item(0x21, bytes((context.context_id, 0, context.result, 0)) + syntax))
    parts.append(_item(0x50, b"".join(user)))
    return _pdu(PDUType.ASSOCIATE_AC, b"".join(parts))


def associate_request(request: AssociateRequest) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2); `titles` is not looked at.

    Raises:
        ValueError: An AE title is longer than 16 characters, or no ASCII.
    """
    titles = []
    for title in (request.called_ae_title, request.calling_ae_title):
        if len(title) > 16:
            raise ValueError("an AE title has 16 characters at most (PS3.5 6.2)")
        titles.append(title.encode("ascii").ljust(16))
    parts = [struct.pack(">HH", request.protocol_version, 0), *titles, bytes(32)]
    parts.append(_item(0x10, request.application_context.encode("ascii")))
    for context in request.contexts:
        syntaxes = b"".join(_item(0x40, uid.encode("ascii")) for uid in context.transfer_syntaxes)
        proposed = bytes((context.context_id, 0, 0, 0)) + _item(0x30, context.abstract_syntax.encode("ascii"))
        parts.append(_item(0x20, proposed + syntaxes))
    user = [
        _item(0x51, struct.pack(">I", request.max_pdu_bytes)),
        _item(0x52, request.implementation_class_uid.encode("ascii")),
    ]
    for role in request.roles:
        uid = role.sop_class_uid.encode("ascii")
        user.append(_item(0x54, struct.pack(">H", len(uid)) + uid + bytes((role.scu, role.scp))))
    user.append(_item(0x55, request.implementation_version.encode("ascii")))
    for extended in request.extended:
        uid = extended.sop_class_uid.encode("ascii")
        user.append(_item(0x56, struct.pack(">H", len(uid)) + uid + extended.information))
    parts.append(_item(0x50, b"".join(user)))
    return _pdu(PDUType.ASSOCIATE_RQ, b"".join(parts))


def parse_associate_accept(body: bytes) -> AssociateAccept:
    """The A-ASSOCIATE-AC whose bytes after the 6-byte PDU header are `body`.

    The transfer syntax of a context that was not accepted is not significant (PS3.8 9.3.3.2) and not looked at.

    Raises:
        InvalidPDU: A field is missing, twice, or longer than what holds it.
    """
    if len(body) < 68:
        raise InvalidPDU("A-ASSOCIATE-AC shorter than its fixed fields")
    contexts: dict[int, ContextAnswer] = {}
    user: _UserInformation | None = None
    for kind, value in _items(body, 68):
        if kind == 0x21:
            answer = _context_answer(value)
            if answer.context_id in contexts:
                raise InvalidPDU("presentation context ID answered twice")
            contexts[answer.context_id] = answer
        elif kind == 0x50:
            user = _user_information(value)
    if user is None:
        raise InvalidPDU("A-ASSOCIATE-AC without user information")
    return AssociateAccept(
        contexts=tuple(contexts.values()),
        max_pdu_bytes=user.max_pdu_bytes,
        implementation_class_uid=user.implementation_class_uid,
        implementation_version=user.implementation_version,
        async_window=user.async_window,
        roles=tuple(user.roles),
        extended=tuple(user.extended),
    )


def release_request() -> bytes:
    """A-RELEASE-RQ (PS3.8 9.3.6)."""
    return _pdu(PDUType.RELEASE_RQ, bytes(4))


def associate_reject(result: int, source: int, reason: int) -> bytes:
    """A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return _pdu(PDUType.ASSOCIATE_RJ, bytes((0, result, source, reason)))


def release_response() -> bytes:
    """A-RELEASE-RP (PS3.8 9.3.7)."""
    return _pdu(PDUType.RELEASE_RP, bytes(4))


def abort(reason: AbortReason | None = None) -> bytes:
    """A-ABORT (PS3.8 9.3.8): by the service user, or by the service provider for a reason."""
    source = 0 if reason is None else 2
    return _pdu(PDUType.ABORT, bytes((0, 0, source, reason or 0)))


def data_transfer(context_id: int, *, is_command: bool, content: bytes, max_pdu_bytes: int) -> bytes:
    """One command set or data set as P-DATA-TF PDUs that the peer is willing to receive (PS3.8 9.3.5)."""
    step = max(max_pdu_bytes - 6, 64) if max_pdu_bytes else len(content)
    parts: list[bytes] = []
    for start in range(0, len(content), step):
        fragment = content[start : start + step]
        is_last = start + step >= len(content)
        control = (1 if is_command else 0) | (2 if is_last else 0)
        size = len(fragment)
        parts += (PDV_IN_PDU.pack(PDUType.P_DATA_TF, size + 6, size + 2, context_id, control), fragment)
    return b"".join(parts)


class _UserInformation:
    """The user information item while its sub-items are read (PS3.7 D.3.3)."""

    def __init__(self) -> None:
        self.max_pdu_bytes = 0
        self.implementation_class_uid = ""
        self.implementation_version = ""
        self.async_window: tuple[int, int] | None = None
        self.roles: list[RoleSelection] = []
        self.extended: list[ExtendedNegotiation] = []
        self.user_identity: UserIdentity | None = None


def _user_information(content: memoryview) -> _UserInformation:
    user = _UserInformation()
    for kind, value in _items(content, 0):
        match kind:
            case 0x51:
                _needs(value, 4)
                user.max_pdu_bytes = int.from_bytes(value[:4], "big")
            case 0x52:
                user.implementation_class_uid = _uid(value)
            case 0x53:
                _needs(value, 4)
                user.async_window = (int.from_bytes(value[:2], "big"), int.from_bytes(value[2:4], "big"))
            case 0x54:
                uid, rest = _counted(value)
                _needs(rest, 2)
                user.roles.append(RoleSelection(_uid(uid), scu=rest[0] == 1, scp=rest[1] == 1))
            case 0x55:
                user.implementation_version = _printable(value)
            case 0x56:
                uid, rest = _counted(value)
                user.extended.append(ExtendedNegotiation(_uid(uid), bytes(rest)))
            case 0x58:
                user.user_identity = _user_identity(value)
            case _:
                pass  # 0x57, common extended negotiation, is never answered (PS3.7 D.3.3.6)
    return user


def _user_identity(value: memoryview) -> UserIdentity:
    _needs(value, 2)
    primary, rest = _counted(value[2:])
    secondary = _counted(rest)[0] if rest else rest
    return UserIdentity(value[0], value[1] == 1, bytes(primary), bytes(secondary))


def _proposed_context(value: memoryview) -> ProposedContext:
    _needs(value, 4)
    context_id = value[0]
    if not context_id & 1:
        raise InvalidPDU("presentation context ID is even")
    abstract_syntaxes = []
    transfer_syntaxes = []
    for kind, uid in _items(value, 4):
        if kind == 0x30:
            abstract_syntaxes.append(_uid(uid))
        elif kind == 0x40:
            transfer_syntaxes.append(_uid(uid))
    if len(abstract_syntaxes) != 1 or not transfer_syntaxes:
        raise InvalidPDU("presentation context without one abstract syntax and a transfer syntax")
    return ProposedContext(context_id, abstract_syntaxes[0], tuple(transfer_syntaxes))


def _context_answer(value: memoryview) -> ContextAnswer:
    _needs(value, 4)
    if value[2] != ContextResult.ACCEPTANCE:
        known = value[2] in ContextResult._value2member_map_
        return ContextAnswer(value[0], ContextResult(value[2]) if known else ContextResult.NO_REASON, "")
    syntaxes = [_uid(uid) for kind, uid in _items(value, 4) if kind == 0x40]
    if len(syntaxes) != 1:
        raise InvalidPDU("accepted presentation context without one transfer syntax")
    return ContextAnswer(value[0], ContextResult.ACCEPTANCE, syntaxes[0])


def _items(content: bytes | memoryview, start: int) -> Iterator[tuple[int, memoryview]]:
    """Type and value of each item from `start` to the end."""
    view = memoryview(content)
    end = len(view)
    while start < end:
        if start + 4 > end:
            raise InvalidPDU("item header cut off")
        kind, length = _ITEM.unpack_from(view, start)
        start += 4
        if start + length > end:
            raise InvalidPDU("item longer than what holds it")
        yield kind, view[start : start + length]
        start += length


def _counted(value: memoryview) -> tuple[memoryview, memoryview]:
    """A field with a two-byte length in front, and what follows it."""
    _needs(value, 2)
    length = int.from_bytes(value[:2], "big")
    _needs(value, 2 + length)
    return value[2 : 2 + length], value[2 + length :]


def _needs(value: memoryview, length: int) -> None:
    if len(value) < length:
        raise InvalidPDU("field longer than the item that holds it")


def _uid(value: memoryview) -> str:
    """A UID; padding with zero is tolerated, anything but up to 64 digits and points is not (PS3.8 F, PS3.5 9.1)."""
    uid = bytes(value).rstrip(b"\0 ")
    if not uid or len(uid) > 64 or uid.strip(b"0123456789."):
        raise InvalidPDU("UID of other characters than digits and points, or longer than 64")
    return uid.decode("ascii")


def _title(value: bytes | memoryview) -> str:
    """An AE title without its padding (PS3.8 9.3.2)."""
    return bytes(value).decode("latin-1").strip(" \0")


def _printable(value: memoryview) -> str:
    return "".join(c for c in bytes(value[:16]).decode("latin-1") if " " <= c <= "~")


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _pdu(kind: PDUType, body: bytes) -> bytes:
    return HEADER.pack(kind, len(body)) + body
