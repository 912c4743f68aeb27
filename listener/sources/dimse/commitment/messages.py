"""Data sets of storage commitment, and reports on an association of our own (PS3.4 J.3, PS3.3 C.14).

Contract: a request is read in time and memory that are in proportion to its length, whatever its nesting; a report is
delivered, or not, within `TIMEOUT_S` for each step.
"""

from __future__ import annotations

import ssl
import struct
import time
from typing import TYPE_CHECKING, Final

from listener.intake.reception import is_valid_uid
from listener.intake.transfer_syntaxes import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    STORAGE_COMMITMENT_INSTANCE,
    STORAGE_COMMITMENT_PUSH,
    Encoding,
    encoding_of,
)
from listener.intake.walk import (
    DELIMITERS,
    ITEM,
    ITEM_END,
    LONG_VRS,
    LONGEST_HEADER,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED,
)
from listener.sources.dimse.commitment.queue import CommitmentReport, Reference
from listener.sources.dimse.upper_layer.command import event_report_request
from listener.sources.dimse.upper_layer.pdu import RoleSelection
from listener.sources.dimse.upper_layer.scu import Proposal, RequestorTimes, contexts_of, request_association

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from listener.settings.listener import CommitmentTargetSection, TLSSection
    from listener.sources.dimse.upper_layer.negotiation import AcceptedContext
    from listener.sources.dimse.upper_layer.scu import RequestedAssociation

TIMEOUT_S: Final = 20.0
"""For a connection, for the answer to its A-ASSOCIATE-RQ, for one PDU, and for the confirmation of a report."""
_SOP_CLASS_UID: Final = 0x00081150
_SOP_INSTANCE_UID: Final = 0x00081155
_TRANSACTION_UID: Final = 0x00081195
_FAILURE_REASON: Final = 0x00081197
_FAILED_SOP_SEQUENCE: Final = 0x00081198
_REFERENCED_SOP_SEQUENCE: Final = 0x00081199
_WANTED: Final = {_SOP_CLASS_UID, _SOP_INSTANCE_UID, _TRANSACTION_UID, _REFERENCED_SOP_SEQUENCE}
_DEEPEST: Final = 64
"""Open sequences and items of undefined length within each other."""
_DELIMITER_BYTES: Final = 8


class InvalidRequest(Exception):
    """The data set of an N-ACTION-RQ is no request for storage commitment."""


class NotDelivered(Exception):
    """The requester did not take the report; the text says why, in our words."""


def parse_request(content: bytes, transfer_syntax: str) -> tuple[str, tuple[Reference, ...]]:
    """Transaction UID and references of a request (PS3.4 Table J.3-1).

    Raises:
        InvalidRequest: It is none.
    """
    encoding = encoding_of(transfer_syntax)
    if encoding is None:
        raise InvalidRequest
    reader = _Reader(content, encoding)
    try:
        found = reader.wanted(0, len(content))
        transaction_uid = reader.uid(found[_TRANSACTION_UID])
        references = tuple(
            Reference(reader.uid(item[_SOP_CLASS_UID]), reader.uid(item[_SOP_INSTANCE_UID]))
            for item in reader.items(found[_REFERENCED_SOP_SEQUENCE])
        )
    except (KeyError, struct.error) as error:
        raise InvalidRequest from error
    if not references:
        raise InvalidRequest
    return transaction_uid, references


class _Reader:
    """The elements of one data set; lengths are checked, nesting is bounded, nothing is recursive (PS3.5 7)."""

    def __init__(self, content: bytes, encoding: Encoding) -> None:
        self._content = content
        self._encoding = encoding
        order = "<" if encoding.little_endian else ">"
        self._tag = struct.Struct(f"{order}HH")
        self._short = struct.Struct(f"{order}H")
        self._long = struct.Struct(f"{order}I")

    def wanted(self, at: int, end: int) -> dict[int, tuple[int, int]]:
        """Start and end of the values between two offsets that a request is read for, by tag.

        Raises:
            InvalidRequest, struct.error: The lengths lie.
        """
        found = {}
        while at < end:
            explicit = self._encoding.explicit_vr
            tag, start, length, vr = self._header(at, explicit=explicit)
            at = self._end_of(start, length, explicit=explicit and vr != b"UN")
            if at > end:
                raise InvalidRequest
            if tag in _WANTED:
                found[tag] = (start, at)
        return found

    def items(self, value: tuple[int, int]) -> Iterator[dict[int, tuple[int, int]]]:
        """The items of a sequence, each as its elements by tag.

        Raises:
            InvalidRequest, struct.error: The lengths lie.
        """
        at, end = value
        while at < end:
            tag, start, length, _ = self._header(at, explicit=False)
            if tag == SEQUENCE_END:
                return
            if tag != ITEM:
                raise InvalidRequest
            at = self._end_of(start, length, explicit=self._encoding.explicit_vr, is_item=True)
            stop = at - _DELIMITER_BYTES if length == UNDEFINED else at
            if at > end:
                raise InvalidRequest
            yield self.wanted(start, stop)

    def uid(self, value: tuple[int, int]) -> str:
        """The UID in a value.

        Raises:
            InvalidRequest: It is none.
        """
        uid = self._content[value[0] : value[1]].rstrip(b"\0 ")
        if not is_valid_uid(uid):
            raise InvalidRequest
        return uid.decode("ascii")

    def _header(self, at: int, *, explicit: bool) -> tuple[int, int, int, bytes]:
        """Tag, start of the value, its length and its VR, of what begins at an offset; no VR where none is encoded."""
        group, element = self._tag.unpack_from(self._content, at)
        tag = group << 16 | element
        if not explicit or group == DELIMITERS:
            return tag, at + 8, self._long.unpack_from(self._content, at + 4)[0], b""
        vr = self._content[at + 4 : at + 6]
        if vr in SHORT_VRS:
            return tag, at + 8, self._short.unpack_from(self._content, at + 6)[0], vr
        if vr not in LONG_VRS:
            raise InvalidRequest
        return tag, at + LONGEST_HEADER, self._long.unpack_from(self._content, at + 8)[0], vr

    def _end_of(self, start: int, length: int, *, explicit: bool, is_item: bool = False) -> int:
        """Where a value ends; behind its delimiter where its length is undefined."""
        if length != UNDEFINED:
            return start + length
        at, open_levels = start, [(is_item, explicit)]
        while open_levels:
            in_item, explicit = open_levels[-1]
            tag, at, length, vr = self._header(at, explicit=explicit and in_item)
            if tag == (ITEM_END if in_item else SEQUENCE_END):
                open_levels.pop()
            elif in_item == (tag >> 16 == DELIMITERS) or len(open_levels) > _DEEPEST:
                raise InvalidRequest
            elif length == UNDEFINED:
                # UN of undefined length is a sequence in implicit VR, whatever is around it (PS3.5 6.2.2).
                open_levels.append((not in_item, explicit and vr != b"UN"))
            else:
                at += length
        return at


def encode_report(report: CommitmentReport, transfer_syntax: str) -> bytes:
    """The data set of an N-EVENT-REPORT-RQ (PS3.4 Table J.3-2)."""
    encode = _Encoder(encoding_of(transfer_syntax) or Encoding(explicit_vr=False, little_endian=True))
    failed = [encode.item(r) for r in report.references if r.failure is not None]
    committed = [encode.item(r) for r in report.references if r.failure is None]
    parts = [encode.uid(_TRANSACTION_UID, report.transaction_uid)]
    if failed:
        parts.append(encode.element(_FAILED_SOP_SEQUENCE, b"SQ", b"".join(failed)))
    if committed:
        parts.append(encode.element(_REFERENCED_SOP_SEQUENCE, b"SQ", b"".join(committed)))
    return b"".join(parts)


class _Encoder:
    """The elements of a report in one encoding; all lengths are explicit."""

    def __init__(self, encoding: Encoding) -> None:
        order = "<" if encoding.little_endian else ">"
        self._short = struct.Struct(f"{order}HH2sH" if encoding.explicit_vr else f"{order}HHI")
        self._long = struct.Struct(f"{order}HH2s2xI" if encoding.explicit_vr else f"{order}HHI")
        self._item = struct.Struct(f"{order}HHI")
        self._us = struct.Struct(f"{order}H")
        self._is_explicit = encoding.explicit_vr

    def item(self, reference: Reference) -> bytes:
        """One item of a sequence of references (PS3.3 C.14)."""
        value = self.uid(_SOP_CLASS_UID, reference.sop_class_uid) + self.uid(
            _SOP_INSTANCE_UID, reference.sop_instance_uid
        )
        if reference.failure is not None:
            value += self.element(_FAILURE_REASON, b"US", self._us.pack(reference.failure))
        return self._item.pack(ITEM >> 16, ITEM & 0xFFFF, len(value)) + value

    def uid(self, tag: int, uid: str) -> bytes:
        """An element of VR UI, padded to even length (PS3.5 9.1)."""
        return self.element(tag, b"UI", uid.encode("ascii") + b"\0" * (len(uid) & 1))

    def element(self, tag: int, vr: bytes, value: bytes) -> bytes:
        """One element."""
        header = self._long if vr == b"SQ" else self._short
        names = (tag >> 16, tag & 0xFFFF, vr) if self._is_explicit else (tag >> 16, tag & 0xFFFF)
        return header.pack(*names, len(value)) + value


def associate_for_reports(
    target: CommitmentTargetSection, responder: str, tls: TLSSection | None, stopping: Callable[[], bool]
) -> RequestedAssociation:
    """A new association for reports (PS3.4 J.3.3), in the role of SCP (PS3.7 D.3.3.4).

    Args:
        target: The requester's address.
        responder: Our AE title, as the requester called us.
        tls: Our certificate, and whom we trust.
        stopping: Whether the listener is to stop: what is under way ends then.

    Raises:
        RequestError: There is none.
        OSError: Our certificate, or those that we trust, cannot be read.
    """
    contexts = contexts_of([(STORAGE_COMMITMENT_PUSH, (EXPLICIT_LITTLE, IMPLICIT_LITTLE))])
    roles = (RoleSelection(STORAGE_COMMITMENT_PUSH, scu=False, scp=True),)
    return request_association(
        target.host,
        target.port,
        Proposal(responder, target.ae_title, contexts, roles),
        RequestorTimes(connect_s=TIMEOUT_S, pdu_s=TIMEOUT_S),
        tls=_client_context(tls) if target.tls else None,
        stopping=stopping,
    )


def check_accepted(association: RequestedAssociation) -> AcceptedContext:
    """The presentation context for reports.

    Raises:
        NotDelivered: The requester accepts the association without it.
    """
    context = association.context(STORAGE_COMMITMENT_PUSH)
    if context is None:
        raise NotDelivered("storage commitment was not accepted")
    return context


def deliver(report: CommitmentReport, association: RequestedAssociation) -> None:
    """Send a report that is judged, and have it confirmed (PS3.4 J.3.3).

    Raises:
        NotDelivered: The requester did not confirm; the association can be used for other reports.
        RequestError: The association is over.
    """
    context = check_accepted(association)
    number = association.next_message_id()
    uids = STORAGE_COMMITMENT_PUSH.encode("ascii"), STORAGE_COMMITMENT_INSTANCE.encode("ascii")
    command = event_report_request(number, *uids, report.event_type)
    association.send(context, command, encode_report(report, context.transfer_syntax))
    until = time.monotonic() + TIMEOUT_S
    status = association.response(number, within_s=TIMEOUT_S, until=until).status
    if status != 0x0000:
        raise NotDelivered(f"not confirmed (status 0x{status:04X})")


def _client_context(tls: TLSSection | None) -> ssl.SSLContext:
    """A context for our side of a report: our certificate shown, the requester's checked."""
    context = ssl.create_default_context(cafile=tls.client_ca if tls else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
