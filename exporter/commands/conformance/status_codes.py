"""Section 7.3 of the statement: status codes, each with its condition or its consequence.

Contract: codes of the storage service come from `listener.intake.store_status`, consequences of answers to queries from
`exporter.pull.statuses`; those of HTTP are `HTTP_CODES`, and the tests hold them against the application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.commands.conformance.markdown import not_applicable, paragraphs, table
from exporter.commands.conformance.overview import NO_PRINT, NO_WEB, NO_WORKFLOW
from exporter.pull.statuses import Verdict, verdict
from listener.intake import store_status
from listener.intake.store_status import STORE_TABLE, UPLOAD_TABLE, Disposition
from listener.sources.dimse.upper_layer.negotiation import REJECTIONS

if TYPE_CHECKING:
    from exporter.settings.settings import Settings
    from listener.intake.store_status import StoreStatus

CONDITIONS: Final = {
    "stored": "the instance is durable; it is exported later",
    "bad_uid": "the SOP Instance UID is no UID (PS3.5 9.1)",
    "mismatch_accepted": "class or UID of the data set are not those of the command, with `listener.mismatch: accept`",
    "damaged_accepted": "the data set is cut off or a length lies, with `listener.damaged: accept`",
    "out_of_space": "free space or files below `spool.refuse_below_bytes`, `spool.refuse_below_files`",
    "storage_failed": "the file system refused to write or to sync",
    "queue_full": "`spool.max_pending` instances wait for export",
    "too_large": "the data set is longer than `listener.limits.max_instance_bytes`",
    "identity_mismatch": "class or UID of the data set are not those of the command, with `listener.mismatch: refuse`",
    "damaged": "the data set is cut off or a length lies, with `listener.damaged: refuse`",
    "no_data_set": "a C-STORE-RQ without a data set",
    "class_not_negotiated": "the class of the command is not that of the presentation context",
    "not_part_10": "the part is no PS3.10 file",
    "bad_file_meta": "the file meta information cannot be read",
    "other_study": "the Study Instance UID is not that of the resource",
    "class_not_supported": "the SOP class is no storage class",
    "part_encoding": "media type, transfer syntax or encoding of the part",
}
"""Condition of each store status, by its word."""
HTTP_CODES: Final = {
    200: ("Success", "every instance is stored, without a warning"),
    202: ("Success", "some instances are stored with a warning, or others are not stored"),
    400: ("Failure", "the request breaks HTTP or multipart, has no instance, or names a study that is no UID"),
    401: ("Failure", "the token is missing or wrong"),
    404: ("Failure", "another resource"),
    405: ("Failure", "another method than POST"),
    406: ("Failure", "an answer of another media type is wanted"),
    408: ("Failure", "the body comes too slowly"),
    409: ("Failure", "no instance is stored; the answer says why for each"),
    413: ("Failure", "`dicomweb.limits.max_request_bytes` or `dicomweb.limits.max_instances` would be exceeded"),
    415: ("Failure", "a body of another media type, or with a Content-Encoding"),
    500: ("Failure", "a defect of the product; the client may send again"),
    503: ("Failure", "no space, or too many requests at once; Retry-After says when to come again"),
}
"""Answers to a request over HTTP: kind, condition."""
ACTION_CODES: Final = {
    0x0000: "the request is in the durable queue; its report follows",
    store_status.PROCESSING_FAILURE: "the request cannot be written to the queue",
    store_status.NO_SUCH_OBJECT_INSTANCE: "the requested SOP instance is not the well-known one of the push model",
    store_status.INVALID_ARGUMENT: (
        "no data set, one that is no request of PS3.4 Table J.3-1, or one in a deflated or private encoding"
    ),
    store_status.NO_SUCH_ACTION: "another action type than 1",
    store_status.RESOURCE_LIMITATION: "too many reports wait, or too many requests are being received; ask again later",
}
"""Answers to N-ACTION, with their conditions."""
ECHO_CODES: Final = {
    0x0000: "C-ECHO on a context of Verification",
    store_status.SOP_CLASS_NOT_SUPPORTED: "C-ECHO on a context of another class",
}
OTHER_CODES: Final = {store_status.UNRECOGNIZED_OPERATION: "an operation that the class of the context does not have"}
REJECTED: Final = {
    "called_ae_title_not_recognized": "the called AE title is not ours (`listener.check_called_ae_title`)",
    "calling_ae_title_not_recognized": "`listener.peers` lists neither the calling AE title nor the address",
    "application_context_not_supported": "another application context than that of DICOM",
    "protocol_version_not_supported": "bit 0 of the protocol version is not set",
    "user_identity_refused": "`listener.users` does not list the user identity, or it came without TLS",
    "temporary_congestion": "free space or files below `spool.reject_below_bytes`, `spool.reject_below_files`",
    "local_limit_exceeded": "too many connections, in all or from one address",
}
"""Condition of each rejection, by its word."""
_VERDICTS: Final = {
    Verdict.PENDING: "the next answer is waited for",
    Verdict.DONE: "what came is counted; what is missing is asked for again",
    Verdict.AGAIN: "asked again after a pause, up to `attempts` times; then the row is refused or incomplete",
    Verdict.NEVER: "not asked again: the row is refused, and the report says so",
    Verdict.DESTINATION: "the run ends: no request of it can succeed until the peer knows the destination",
}
_QUERY: Final = (0x0000, 0x0110, 0x0122, 0x0124, 0xA700, 0xA900, 0xC000, 0xFE00, 0xFF00, 0xFF01)
_RETRIEVE: Final = (0x0000, 0x0110, 0x0122, 0x0124, 0xA701, 0xA702, 0xA801, 0xA900, 0xB000, 0xC000, 0xFE00, 0xFF00)
_GET: Final = tuple(code for code in _RETRIEVE if code != 0xA801)


def bodies(settings: Settings) -> dict[str, str]:
    """Bodies by section number."""
    commits = settings.listener.commitment.enabled
    off = not_applicable("`listener.commitment.enabled` is off.")
    return {
        "7.3": "",
        "7.3.1": "",
        "7.3.1.1": table(
            ("Failure", "Behavior"),
            (
                ("time is over", "A-ABORT; the request counts as failed and is tried again, up to `attempts` times"),
                ("association aborted, network gone", "the same, on a new association"),
                ("association rejected as permanent", "the run of PULL ends with a sentence"),
                ("peer out of reach", "six tries with growing pauses, then the run ends; the same command goes on"),
            ),
        ),
        "7.3.1.2": paragraphs(
            "Table 7-3. Associations that are rejected (PS3.8 Table 9-21)",
            table(
                ("Result", "Source", "Reason", "Condition"),
                [(one.result, one.source, one.reason, REJECTED[one.word]) for one in REJECTIONS],
            ),
            "A connection from an address that no entry of `listener.peers` covers is closed without an answer. A "
            "PDU or message that breaks PS3.8 or PS3.7, or a deadline that passes, ends the association with "
            "A-ABORT (source 2). An instance whose association ends before its answer is not kept.",
        ),
        "7.3.2": paragraphs(
            "Verification, as SCP:",
            _codes(ECHO_CODES),
            "Any service:",
            _codes(OTHER_CODES),
            "C-CANCEL is not answered.",
        ),
        **{f"7.3.2.{number}": not_applicable(NO_WORKFLOW) for number in (1, 2, 3)},
        "7.3.2.4": not_applicable("nobody is notified of instances."),
        "7.3.2.5": "",
        "7.3.2.5.1": not_applicable("instances are never sent by C-STORE."),
        "7.3.2.5.2": paragraphs(
            "LISTENER, and PULL with C-GET. The Error Comment (0000,0902) has the words of the third column.",
            _store_codes(STORE_TABLE, "Error Comment"),
        ),
        "7.3.2.6": "",
        "7.3.2.6.1": not_applicable("commitment is given, never asked for."),
        "7.3.2.6.2": not_applicable("commitment is given, never asked for."),
        "7.3.2.6.3": _codes(ACTION_CODES) if commits else off,
        "7.3.2.6.4": table(
            ("Service Status", "Status Code", "Behavior"),
            (
                ("Success", "0000", "the report is delivered and forgotten"),
                ("any other", "any", "the report is sent again on a new association"),
            ),
        )
        if commits
        else off,
        "7.3.2.7": "Statuses that a peer ends its operations with. What is not listed counts as a failure that may "
        "pass.",
        "7.3.2.7.1": _consequences(_QUERY),
        "7.3.2.7.2": _consequences(_RETRIEVE),
        "7.3.2.7.3": _consequences(_GET),
        "7.3.2.8": not_applicable(NO_PRINT),
        "7.3.3": "",
        "7.3.3.1": "Every answer has `Cache-Control: no-store`. Answers without the Store Instances Response Module "
        "are one sentence of text.",
        "7.3.3.2": "",
        "7.3.3.2.1": not_applicable(NO_WEB),
        "7.3.3.2.2": not_applicable(NO_WEB),
        "7.3.3.3": "",
        "7.3.3.3.1": not_applicable("nothing can be retrieved."),
        "7.3.3.3.2": not_applicable("nothing is retrieved over HTTP."),
        "7.3.3.3.3": paragraphs(
            table(
                ("Service Status", "Status Code", "Condition"),
                [(kind, code, condition) for code, (kind, condition) in HTTP_CODES.items()],
            ),
            "Warning Reason (0008,1196) and Failure Reason (0008,1197) of one instance:",
            _store_codes(tuple(one for one in UPLOAD_TABLE if one.status), "Meaning"),
        ),
        "7.3.3.3.4": not_applicable("instances are never sent over HTTP."),
        "7.3.3.3.5": not_applicable("nothing can be searched for."),
        "7.3.3.3.6": not_applicable("nothing is searched for over HTTP."),
        "7.3.3.4": not_applicable(NO_WEB),
        "7.3.3.5": not_applicable(NO_WEB),
    }


def _kind(code: int) -> str:
    if code == 0:
        return "Success"
    if code >> 12 == 0xB:
        return "Warning"
    return {0xFE00: "Cancel", 0xFF00: "Pending", 0xFF01: "Pending"}.get(code, "Failure")


def _codes(codes: dict[int, str]) -> str:
    """A table of codes with their conditions."""
    return table(
        ("Service Status", "Status Code", "Condition"),
        [(_kind(code), f"{code:04X}", condition) for code, condition in codes.items()],
    )


def _store_codes(statuses: tuple[StoreStatus, ...], words: str) -> str:
    return table(
        ("Service Status", "Status Code", words, "Situation", "Condition", "The bytes are"),
        [
            (
                _kind(one.status),
                f"{one.status:04X}",
                one.comment or "-",
                f"`{one.word}`",
                CONDITIONS[one.word],
                _kept(one),
            )
            for one in statuses
        ],
    )


def _kept(status: StoreStatus) -> str:
    match status.kept:
        case Disposition.NEW:
            return "kept, waiting for export"
        case Disposition.QUARANTINE:
            return f"kept in quarantine as `{status.reason}`"
        case Disposition.NOWHERE:
            return "not kept"


def _consequences(codes: tuple[int, ...]) -> str:
    """What PULL does after each status."""
    rows = [(_kind(code), _range(code), _VERDICTS[verdict(code)]) for code in codes]
    return table(
        ("Service Status", "Status Code", "Behavior"), [*rows, ("-", "anything else", _VERDICTS[Verdict.AGAIN])]
    )


def _range(code: int) -> str:
    return "C000-CFFF" if code == 0xC000 else f"{code:04X}"
