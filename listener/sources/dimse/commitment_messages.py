"""Data sets of storage commitment, and reports on an association of our own (PS3.4 J.3, PS3.3 C.14).

Contract: with `requesting` the only one that uses pynetdicom and pydicom, here only what they document; both are
imported when a peer first asks for commitment. Foreign exceptions end here.
"""

from __future__ import annotations

import ssl
from io import BytesIO
from typing import TYPE_CHECKING, Any

from listener.sources.dimse.commitment import Reference, Report
from listener.sources.dimse.requesting import associate, release
from listener.sources.dimse.storage import is_valid_uid
from listener.sources.dimse.syntaxes import (
    IMPLICIT_LITTLE,
    STORAGE_COMMITMENT_INSTANCE,
    STORAGE_COMMITMENT_PUSH,
    encoding_of,
)

if TYPE_CHECKING:
    from listener.settings import CommitmentTargetSection, TLSSection

TIMEOUT_S = 20.0


class InvalidRequest(Exception):
    """The data set of an N-ACTION-RQ is no request for storage commitment."""


class NotDelivered(Exception):
    """The requester did not take the report; the text says why, in our words."""


def parse_request(content: bytes, transfer_syntax: str) -> tuple[str, tuple[Reference, ...]]:
    """Transaction UID and references of a request (PS3.4 Table J.3-1).

    Raises:
        InvalidRequest: It is none.
    """
    from pynetdicom.dsutils import decode

    encoding = encoding_of(transfer_syntax)
    if encoding is None:
        raise InvalidRequest
    try:
        data_set = decode(BytesIO(content), not encoding.explicit_vr, encoding.little_endian)
        transaction_uid = str(data_set.TransactionUID)
        references = tuple(
            Reference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
            for item in data_set.ReferencedSOPSequence
        )
    except Exception as error:  # around one wire reply: pydicom raises whatever a broken data set makes it
        raise InvalidRequest from error
    uids = [transaction_uid, *(uid for r in references for uid in (r.sop_class_uid, r.sop_instance_uid))]
    if not references or not all(is_valid_uid(uid.encode("utf-8", "replace")) for uid in uids):
        raise InvalidRequest
    return transaction_uid, references


def encode_report(report: Report, transfer_syntax: str) -> bytes:
    """The data set of an N-EVENT-REPORT-RQ (PS3.4 Table J.3-2)."""
    from pynetdicom.dsutils import encode

    encoding = encoding_of(transfer_syntax) or encoding_of(IMPLICIT_LITTLE)
    assert encoding is not None  # noqa: S101 - implicit VR has an encoding
    encoded = encode(_data_set(report), not encoding.explicit_vr, encoding.little_endian)
    assert encoded is not None  # noqa: S101 - the data set is ours
    return bytes(encoded)


def deliver(report: Report, target: CommitmentTargetSection, tls: TLSSection | None) -> None:
    """Report on a new association (PS3.4 J.3.3), in the role of SCP (PS3.7 D.3.3.4).

    Raises:
        NotDelivered: The requester did not confirm.
    """
    from pynetdicom import AE, build_role

    ae = AE(report.responder)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = TIMEOUT_S
    ae.add_requested_context(STORAGE_COMMITMENT_PUSH)
    association = associate(
        ae,
        target.host,
        target.port,
        ae_title=target.ae_title,
        ext_neg=[build_role(STORAGE_COMMITMENT_PUSH, scp_role=True)],
        tls_args=(_client_context(tls), target.host) if target.tls else None,
    )
    if not association.is_established:
        raise NotDelivered("no association")
    try:
        status, _ = association.send_n_event_report(
            _data_set(report), report.event_type, STORAGE_COMMITMENT_PUSH, STORAGE_COMMITMENT_INSTANCE
        )
    except (ValueError, RuntimeError) as error:
        association.abort()
        raise NotDelivered("storage commitment was not accepted") from error
    release(association)
    if status.get("Status", None) != 0x0000:
        raise NotDelivered("not confirmed")


def _data_set(report: Report) -> Any:
    from pydicom.dataset import Dataset

    def item(reference: Reference) -> Dataset:
        one = Dataset()
        one.ReferencedSOPClassUID = reference.sop_class_uid
        one.ReferencedSOPInstanceUID = reference.sop_instance_uid
        if reference.failure is not None:
            one.FailureReason = reference.failure
        return one

    data_set = Dataset()
    data_set.TransactionUID = report.transaction_uid
    committed = [item(r) for r in report.references if r.failure is None]
    failed = [item(r) for r in report.references if r.failure is not None]
    if committed:
        data_set.ReferencedSOPSequence = committed
    if failed:
        data_set.FailedSOPSequence = failed
    return data_set


def _client_context(tls: TLSSection | None) -> ssl.SSLContext:
    """A context for our side of a report: our certificate shown, the requester's checked."""
    context = ssl.create_default_context(cafile=tls.client_ca if tls else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls is not None:
        context.load_cert_chain(tls.certificate, tls.key)
    return context
