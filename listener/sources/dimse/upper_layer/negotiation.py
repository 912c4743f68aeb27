"""What an association request is answered: rejected with a reason, or accepted with its contexts (PS3.8 7.1, PS3.7 D).

Contract: a pure function of the request, the peer's address and the settings; no socket, no clock, no log.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from listener.intake.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from listener.intake.transfer_syntaxes import STORAGE_COMMITMENT_PUSH, VERIFICATION, choose, is_storage
from listener.sources.dimse.upper_layer import pdu
from listener.sources.dimse.upper_layer.pdu import ContextResult

if TYPE_CHECKING:
    from listener.settings.listener import ListenerSection, PeerSection

STORAGE_EXTENDED_ANSWER: Final = bytes((2, 0, 0, 0, 0, 0))
"""Level 2 (full) storage, digital signature level unspecified, no coercion of elements (PS3.4 Table B.3-2)."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row of the reasons to reject (PS3.8 Table 9-21)."""

    result: int
    source: int
    reason: int
    word: str
    """Stable word for logs and counters."""

    def encode(self) -> bytes:
        """The A-ASSOCIATE-RJ."""
        return pdu.associate_reject(self.result, self.source, self.reason)


WRONG_APPLICATION_CONTEXT: Final = Rejection(1, 1, 2, "application_context_not_supported")
UNKNOWN_CALLING_AE_TITLE: Final = Rejection(1, 1, 3, "calling_ae_title_not_recognized")
UNKNOWN_CALLED_AE_TITLE: Final = Rejection(1, 1, 7, "called_ae_title_not_recognized")
USER_IDENTITY_REFUSED: Final = Rejection(1, 1, 1, "user_identity_refused")
WRONG_PROTOCOL_VERSION: Final = Rejection(1, 2, 2, "protocol_version_not_supported")
TEMPORARY_CONGESTION: Final = Rejection(2, 3, 1, "temporary_congestion")
LOCAL_LIMIT_EXCEEDED: Final = Rejection(2, 3, 2, "local_limit_exceeded")
REJECTIONS: Final = (
    UNKNOWN_CALLED_AE_TITLE,
    UNKNOWN_CALLING_AE_TITLE,
    WRONG_APPLICATION_CONTEXT,
    WRONG_PROTOCOL_VERSION,
    USER_IDENTITY_REFUSED,
    TEMPORARY_CONGESTION,
    LOCAL_LIMIT_EXCEEDED,
)
"""Every reason to reject."""


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    """A presentation context of an established association."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """An association that is accepted: what to answer, and what holds from then on."""

    reply: bytes
    """The A-ASSOCIATE-AC."""
    contexts: dict[int, AcceptedContext]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user identity that is accepted, its passcode read from the file at start."""

    name: bytes
    passcode: bytes | None


class AddressRules:
    """Who may send: the allow-list of calling AE titles and networks."""

    def __init__(self, peers: tuple[PeerSection, ...]) -> None:
        self._peers = peers

    def knows_address(self, host: str) -> bool:
        """Whether anybody at this address may be allowed, so that its request is worth reading."""
        return not self._peers or any(_in_networks(host, peer) for peer in self._peers)

    def allows(self, host: str, calling_ae_title: str) -> bool:
        """Whether this AE title may send from this address."""
        return not self._peers or any(
            peer.ae_title in (None, calling_ae_title) and _in_networks(host, peer) for peer in self._peers
        )


@dataclass(frozen=True, slots=True)
class NegotiationPolicy:
    """What requests are judged by."""

    settings: ListenerSection
    addresses: AddressRules
    users: tuple[Credentials, ...] = ()


def negotiate(
    request: pdu.AssociateRequest, policy: NegotiationPolicy, host: str, *, encrypted: bool
) -> Acceptance | Rejection:
    """The answer to a request from `host`.

    Args:
        request: What the requestor proposes.
        policy: What it is judged by.
        host: The requestor's IP address.
        encrypted: Whether the connection is TLS; user identities count only then.
    """
    rejection = rejection_of(request, policy, host, encrypted=encrypted)
    if rejection is not None:
        return rejection
    settings = policy.settings
    roles = {role.sop_class_uid: role for role in request.roles}
    answers = [_answer(context, roles, commitment=settings.commitment.enabled) for context in request.contexts]
    identity = request.user_identity
    reply = pdu.associate_accept(
        request,
        pdu.AssociateAccept(
            contexts=tuple(answers),
            max_pdu_bytes=settings.limits.max_pdu_bytes,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version=IMPLEMENTATION_VERSION,
            # One operation at a time is all we do, whatever is asked (PS3.7 D.3.3.3).
            async_window=(1, 1) if request.async_window is not None else None,
            # The requestor is the SCU, we are the SCP (PS3.7 D.3.3.4).
            roles=tuple(pdu.RoleSelection(uid, scu=role.scu, scp=False) for uid, role in roles.items()),
            extended=tuple(
                pdu.ExtendedNegotiation(item.sop_class_uid, STORAGE_EXTENDED_ANSWER)
                for item in request.extended
                if is_storage(item.sop_class_uid)
            ),
            user_identity_response=b"" if policy.users and identity and identity.response_requested else None,
        ),
    )
    accepted = {
        answer.context_id: AcceptedContext(answer.context_id, context.abstract_syntax, answer.transfer_syntax)
        for context, answer in zip(request.contexts, answers, strict=True)
        if answer.result is ContextResult.ACCEPTANCE
    }
    return Acceptance(reply, accepted)


def rejection_of(
    request: pdu.AssociateRequest, policy: NegotiationPolicy, host: str, *, encrypted: bool
) -> Rejection | None:
    """The reason to reject a request as a whole; None where its presentation contexts are to be answered.

    Args:
        request: What the requestor says of itself; its contexts are not looked at.
        policy: What it is judged by.
        host: The requestor's IP address.
        encrypted: Whether the connection is TLS.
    """
    settings = policy.settings
    if not request.protocol_version & 1:
        return WRONG_PROTOCOL_VERSION
    if request.application_context != pdu.APPLICATION_CONTEXT:
        return WRONG_APPLICATION_CONTEXT
    if settings.check_called_ae_title and request.called_ae_title not in settings.called_ae_titles:
        return UNKNOWN_CALLED_AE_TITLE
    if not policy.addresses.allows(host, request.calling_ae_title):
        return UNKNOWN_CALLING_AE_TITLE
    if policy.users and not (encrypted and _is_known(request.user_identity, policy.users)):
        return USER_IDENTITY_REFUSED
    return None


def is_served(sop_class_uid: str, *, commitment: bool) -> bool:
    """Whether a presentation context for a class is accepted in the role of SCP.

    Args:
        sop_class_uid: The abstract syntax.
        commitment: Whether storage commitment is offered.
    """
    if sop_class_uid == STORAGE_COMMITMENT_PUSH:
        return commitment
    return sop_class_uid == VERIFICATION or is_storage(sop_class_uid)


def _is_known(identity: pdu.UserIdentity | None, users: tuple[Credentials, ...]) -> bool:
    if identity is None or identity.kind not in (1, 2):
        return False
    known = False
    for user in users:  # every one of them, so that the time tells nothing
        name = hmac.compare_digest(user.name, identity.primary)
        passcode = user.passcode is None or hmac.compare_digest(user.passcode, identity.secondary)
        known |= name and passcode
    return known


def _answer(
    context: pdu.ProposedContext, roles: dict[str, pdu.RoleSelection], *, commitment: bool
) -> pdu.ContextAnswer:
    uid = context.abstract_syntax
    transfer_syntax = choose(context.transfer_syntaxes)
    role = roles.get(uid)
    if not is_served(uid, commitment=commitment):
        result = ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
    elif role is not None and not role.scu:
        result = ContextResult.USER_REJECTION  # a requestor that would not be SCU has nothing to send here
    else:
        result = ContextResult.ACCEPTANCE
    return pdu.ContextAnswer(context.context_id, result, transfer_syntax)


def _in_networks(host: str, peer: PeerSection) -> bool:
    if not peer.networks:
        return True
    address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in peer.networks if network.version == address.version)
