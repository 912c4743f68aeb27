"""Sections 7.1 and 7.2 of the statement: associations, as each application entity accepts or requests them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.commands.conformance import presentation
from exporter.commands.conformance.markdown import not_applicable, paragraphs, seconds, size, table
from exporter.pull.getting import COMPRESSED, MOST_CONTEXTS
from exporter.pull.peer import FIND, GET, MAX_PDU_BYTES, MOVE
from listener.intake.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from listener.intake.transfer_syntaxes import STORAGE_COMMITMENT_PUSH, VERIFICATION
from listener.network.http_server import LONGEST_HEADER, UNREAD_ANSWER_S
from listener.sources.dimse.commitment.messages import TIMEOUT_S
from listener.sources.dimse.upper_layer.pdu import APPLICATION_CONTEXT
from listener.sources.dimse.upper_layer.scu import LONGEST_SENT_PDU_BYTES

if TYPE_CHECKING:
    from exporter.settings.settings import Settings
    from listener.settings.listener import ListenerSection

_PARAMETER: Final = ("Name", "Value")
_ROLES: Final = {
    "native": (
        ("none", "accepted, requestor is SCU", "accepted, requestor is SCU"),
        ("SCU", "accepted; answer SCU", "accepted; answer SCU"),
        ("SCP", "refused (1); answer neither", "refused (1); answer neither"),
        ("SCU and SCP", "accepted; answer SCU", "accepted; answer SCU"),
    ),
    "pynetdicom": (
        ("none", "accepted, requestor is SCU", "accepted, requestor is SCU"),
        ("SCU", "accepted; answer SCU", "accepted; no answer"),
        ("SCP", "accepted; answer SCP", "accepted; no answer"),
        ("SCU and SCP", "accepted; answer SCU and SCP", "accepted; no answer"),
    ),
}
"""Answers to role selection by engine: what is proposed, then for the Storage classes and for Verification."""


def bodies(settings: Settings) -> dict[str, str]:
    """Bodies by section number."""
    return {
        "7": "",
        "7.1": "TCP/IP, over IPv4 or IPv6 as the host that is configured says. No other physical medium is specified.",
        "7.1.1": table(
            _PARAMETER,
            (
                ("Application Context Name", f"`{APPLICATION_CONTEXT}`"),
                ("Implementation Class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
                ("Implementation Version Name", f"`{IMPLEMENTATION_VERSION}`"),
                ("Outstanding operations (asynchronous window)", "1 performed, 1 invoked"),
                ("User Identity Negotiation as initiator", "not proposed"),
            ),
        ),
        "7.2": "",
        **_listener(settings),
        **_pull(settings),
        **_store(settings),
    }


def _listener(settings: Settings) -> dict[str, str]:
    listener, commitment = settings.listener, settings.listener.commitment
    deadlines, limits = listener.deadlines, listener.limits
    targets = ", ".join(f"`{one.ae_title}` at {one.host}:{one.port}" for one in commitment.targets)
    return {
        "7.2.1": f"AE titles: {', '.join(f'`{title}`' for title in sorted(listener.called_ae_titles))}, on "
        f"{listener.host}:{listener.port}. Upper layer: `{listener.engine}`.",
        "7.2.1.1": "A sender associates, sends C-STORE requests one after another, and gets one answer for each, "
        "after its data set is durable. It may ask for storage commitment where that is on. The exporter works "
        "apart from that; its outcome is never told to the sender.",
        "7.2.1.2": table(
            _PARAMETER,
            (
                ("Maximum PDU length received", size(limits.max_pdu_bytes)),
                ("Maximum PDU length sent", "that of the peer"),
                ("Longest A-ASSOCIATE-RQ", size(limits.max_request_bytes)),
                ("Longest data set", size(limits.max_instance_bytes)),
                ("Most connections at once", limits.max_associations),
                ("Most connections at once from one address", limits.max_associations_per_peer),
                ("Time for the A-ASSOCIATE-RQ (ARTIM)", seconds(deadlines.request_s)),
                ("Time for one PDU, and between the PDUs of a message", seconds(deadlines.pdu_s)),
                ("Time between messages", seconds(deadlines.idle_s)),
                ("Time to finish when the daemon stops", seconds(deadlines.drain_s)),
                ("Processes that receive", listener.processes),
            ),
        ),
        "7.2.1.3": paragraphs(
            "LISTENER requests associations only to deliver reports of storage commitment whose association is "
            "gone. (The operator's page asks LISTENER itself by C-ECHO whether it is ready.)",
            table(
                ("SOP Class", "UID", "Transfer Syntaxes", "Role"),
                (
                    (
                        "Storage Commitment Push Model",
                        f"`{STORAGE_COMMITMENT_PUSH}`",
                        presentation.UNCOMPRESSED,
                        "SCP",
                    ),
                ),
            ),
            f"Each step has {seconds(TIMEOUT_S)}. Addresses: {targets}."
            if targets
            else "With these settings it requests none: no address is configured (`listener.commitment.targets`).",
        ),
        "7.2.1.4": _acceptance(listener),
    }


def _acceptance(listener: ListenerSection) -> str:
    """What is accepted: the table that the probe of the tests reads."""
    syntaxes = presentation.verification_syntaxes(listener)
    of_verification = "ALL, and private ones" if syntaxes is None else ", ".join(f"`{one}`" for one in syntaxes)
    commits = presentation.is_accepted(listener, STORAGE_COMMITMENT_PUSH)
    who = "Any AE title from any address that reaches the port."
    if listener.peers:
        who = "Only these: " + "; ".join(
            f"{one.ae_title or 'any AE title'} from {', '.join(map(str, one.networks)) or 'any address'}"
            for one in listener.peers
        )
    called = "One of our AE titles must be called." if listener.check_called_ae_title else "Any AE title may be called."
    return paragraphs(
        f"{who} {called}",
        "Table 7-1. Presentation contexts that are accepted",
        table(
            ("SOP Class", "UID", "Transfer Syntaxes", "Role"),
            (
                ("Verification", f"`{VERIFICATION}`", of_verification, "SCP"),
                ("every class of Table 1-1, and of Table 1-1a with Y", "-", "ALL, and private ones", "SCP"),
                *(
                    (("Storage Commitment Push Model", f"`{STORAGE_COMMITMENT_PUSH}`", "ALL, and private ones", "SCP"),)
                    if commits
                    else ()
                ),
            ),
        ),
        "Every other abstract syntax is refused: abstract syntax not supported (3). One transfer syntax of a "
        "proposal is taken, by the order of Table 1-2"
        + (
            "."
            if listener.engine == "native"
            else "; of Verification the first of the four that is proposed. One that is offered in none of these is "
            "refused: transfer syntaxes not supported (4)."
        ),
        "Table 7-2. SCP/SCU role selection (PS3.7 D.3.3.4)",
        table(
            (
                "Proposed role of the requestor",
                "Storage classes" + (", Storage Commitment" if commits else ""),
                "Verification",
            ),
            _ROLES[listener.engine],
        ),
        table(
            ("Negotiation", "Answer"),
            (
                (
                    "Asynchronous operations window",
                    "(1,1) where one is proposed" if _is_native(listener) else "no answer",
                ),
                ("SOP Class Extended Negotiation of storage", "level 2 (full), no coercion"),
                ("SOP Class Common Extended Negotiation", "not answered"),
            ),
        ),
    )


def _is_native(listener: ListenerSection) -> bool:
    return listener.engine == "native"


def _pull(settings: Settings) -> dict[str, str]:
    peers = [
        (
            one.name,
            seconds(one.times.connect_s),
            seconds(one.times.pdu_s),
            seconds(one.times.find_s),
            seconds(one.times.answer_s),
            seconds(one.times.retrieve_s),
            one.parallel,
            "unlimited" if one.moves_per_minute is None else f"{one.moves_per_minute:g}",
        )
        for one in settings.pull
    ]
    return {
        "7.2.2": f"Calling AE title: `calling_ae_title` of the peer, by default `{settings.listener.ae_title}`.",
        "7.2.2.1": "For each row of the file: C-FIND at PATIENT or STUDY level and below; then C-MOVE or C-GET for "
        "what is not here yet; then a count of what came. Operations are cancelled with C-CANCEL where they have no "
        "end in their time.",
        "7.2.2.2": paragraphs(
            table(
                _PARAMETER,
                (
                    ("Maximum PDU length received", size(MAX_PDU_BYTES)),
                    ("Maximum PDU length sent", f"that of the peer, {size(LONGEST_SENT_PDU_BYTES)} at most"),
                    ("Most presentation contexts of a C-GET for storage", MOST_CONTEXTS),
                ),
            ),
            table(
                (
                    *("Peer", "Connection, A-ASSOCIATE-AC", "One PDU", "C-FIND", "Between answers", "C-MOVE or C-GET"),
                    *("Moves at once", "Requests per minute"),
                ),
                peers or [("none configured", "-", "-", "-", "-", "-", "-", "-")],
            ),
        ),
        "7.2.2.3": paragraphs(
            table(
                ("SOP Class", "UID", "Transfer Syntaxes", "Role", "Extended negotiation"),
                (
                    (
                        "Study Root - FIND",
                        f"`{FIND}`",
                        presentation.UNCOMPRESSED,
                        "SCU",
                        "relational queries, where needed",
                    ),
                    ("Study Root - MOVE", f"`{MOVE}`", presentation.UNCOMPRESSED, "SCU", "none"),
                    ("Study Root - GET", f"`{GET}`", presentation.UNCOMPRESSED, "SCU", "none"),
                    ("Storage classes, with GET", "[1.1](#11-content-and-transfer)", "see below", "SCP", "none"),
                ),
            ),
            "With C-GET each class has one context for both uncompressed transfer syntaxes, and one for each of "
            "these as far as contexts reach, in this order: " + ", ".join(f"`{uid}`" for uid in COMPRESSED) + ".",
        ),
        "7.2.2.4": not_applicable("PULL accepts no association; instances that a C-MOVE sends come to LISTENER."),
    }


def _store(settings: Settings) -> dict[str, str]:
    deadlines, limits = settings.dicomweb.deadlines, settings.dicomweb.limits
    return {
        "7.2.3": f"HTTP/1.1 on {settings.status.host}:{settings.status.port}, below `/dicom-web`; "
        + ("on." if settings.dicomweb.enabled else "off with these settings."),
        "7.2.3.1": "A client posts one request with one or many instances and gets one answer, after everything "
        "that it calls stored is durable.",
        "7.2.3.2": table(
            _PARAMETER,
            (
                ("Longest request", size(limits.max_request_bytes)),
                ("Longest instance", size(settings.listener.limits.max_instance_bytes)),
                ("Most instances of one request", limits.max_instances),
                ("Most requests at once", limits.max_requests),
                ("Most connections at once", limits.max_connections),
                ("Most connections at once from one address", limits.max_connections_per_peer),
                ("Longest request header", size(LONGEST_HEADER)),
                ("Time for a request header", seconds(deadlines.header_s)),
                ("Time without a byte of the body", seconds(deadlines.idle_s)),
                ("Slowest pace of a body", f"{deadlines.min_bytes_per_s} bytes/s"),
                ("Time to read an answer", seconds(UNREAD_ANSWER_S)),
            ),
        ),
        "7.2.3.3": not_applicable("STORE requests nothing."),
        "7.2.3.4": "STORE has no associations. A request must show the token of `dicomweb.token_file`.",
    }
