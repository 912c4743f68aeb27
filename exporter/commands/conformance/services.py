"""Section 5 of the statement: services and how they work together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.commands.conformance.markdown import not_applicable, paragraphs, table
from exporter.commands.conformance.overview import NO_PRINT, NO_WEB, NO_WORKFLOW
from listener.intake import store_status
from listener.sources.dicomweb import response
from listener.sources.dimse.commitment.queue import REMEMBER_DAYS

if TYPE_CHECKING:
    from exporter.settings.pull import PullPeerSection
    from exporter.settings.settings import Settings


def bodies(settings: Settings) -> dict[str, str]:
    """Bodies by section number."""
    return {
        "5": "",
        "5.1": table(
            ("Service", "LISTENER", "PULL", "STORE"),
            (
                ("Verification", "SCP", "", ""),
                ("Storage", "SCP", "SCP, with C-GET", ""),
                ("Storage Commitment Push Model", "SCP, where it is on", "", ""),
                ("Query/Retrieve, Study Root", "", "SCU of FIND, MOVE, GET", ""),
                ("Studies Service, Store Transaction", "", "", "origin server"),
            ),
        ),
        "5.2": "",
        **{f"5.2.{number}": not_applicable(NO_WORKFLOW) for number in (1, 2, 3)},
        "5.2.4": not_applicable("nobody is notified of instances: they cannot be retrieved from here."),
        "5.2.5": "",
        "5.2.5.1": not_applicable("instances are never sent by C-STORE."),
        "5.2.5.1.1": not_applicable("nothing is sent, and what is received is kept in the transfer syntax it came in."),
        "5.2.5.2": _storage(settings),
        "5.2.6": "",
        "5.2.6.1": not_applicable("commitment is given, never asked for."),
        "5.2.6.2": _commitment(settings),
        **_retrieval(settings),
        "5.2.8": not_applicable(NO_PRINT),
        "5.3": f"Base of all resources: `/dicom-web`, on `{settings.status.host}:{settings.status.port}`.",
        "5.3.1": not_applicable(NO_WEB),
        "5.3.2": "",
        "5.3.2.1": table(
            ("Direction", "Media type"),
            (
                ("request", '`multipart/related; type="application/dicom"`, each part `application/dicom`'),
                ("response", f"`{response.JSON}` (default), `{response.XML}`"),
            ),
        ),
        "5.3.2.2": not_applicable("nothing can be retrieved."),
        "5.3.2.3": "",
        "5.3.2.3.1": not_applicable("instances are never sent over HTTP."),
        "5.3.2.3.2": _store(settings),
        "5.3.2.4": not_applicable("nothing can be searched for."),
        **{f"5.3.{number}": not_applicable(NO_WEB) for number in range(3, 9)},
        "5.4": "File-set Reader (PS3.10 8.3): `exporter backfill DICOMDIR` reads the directory records in one pass "
        "and exports what they reference; File IDs are compared without case and without `;1`. A reference without "
        "a file fails as `unreadable`. No Media Storage Application Profile (PS3.11) is checked, and none is "
        "refused.",
        "5.5": not_applicable("no video is received or sent in real time (PS3.22)."),
        "5.6": "An instance that comes twice, by whatever ways, is exported once: same SOP Instance UID and same "
        "content make a duplicate, other content under the same UID a conflict that is kept and named. Success over "
        "one way in means the same as over another: the bytes are durable. Space limits of the spool hold for all "
        "of them.",
        "5.7": _character_sets(settings),
    }


def _storage(settings: Settings) -> str:
    listener = settings.listener
    kept = (
        "refused with 0x{:04X} and kept in quarantine" if listener.mismatch == "refuse" else "kept, answered 0x{:04X}"
    )
    mismatch = store_status.MISMATCH if listener.mismatch == "refuse" else store_status.MISMATCH_ACCEPTED
    damaged_words = "refused with 0x{:04X}, a copy kept" if listener.damaged == "refuse" else "kept, answered 0x{:04X}"
    damaged = store_status.DAMAGED if listener.damaged == "refuse" else store_status.DAMAGED_ACCEPTED
    keep = f"{settings.spool.keep_days:g} days after export" if settings.spool.keep_days else "until they are exported"
    return paragraphs(
        "Table 5-1. Levels of conformance (PS3.4 B.4.1)",
        table(
            ("Level", "Value"),
            (("Storage", "2 (Full): every element is kept, private ones too"), ("Digital signature", "unspecified")),
        ),
        "Attributes that are coerced: none. The data set is written as it came; group 0002 is made anew and says "
        "who sent it to whom.",
        table(
            ("Situation", "What happens"),
            (
                ("data set is not what its command says", kept.format(mismatch.status)),
                ("data set is cut off, or lengths lie", damaged_words.format(damaged.status)),
                ("instance is received again", "kept again, and exported once"),
                ("how long bytes are kept", f"{keep}; what fails stays in quarantine"),
                ("access to stored instances", "none over DICOM; media and lines are files"),
                ("relational classes (PS3.4 B.3.1.4)", "not negotiated: every class is taken"),
            ),
        ),
    )


def _commitment(settings: Settings) -> str:
    section = settings.listener.commitment
    if not section.enabled:
        return not_applicable("`listener.commitment.enabled` is off; the presentation context is refused.")
    targets = ", ".join(f"`{one.ae_title}` at {one.host}:{one.port}" for one in section.targets) or "none"
    return paragraphs(
        "A request is answered once it is in a durable queue. The report (N-EVENT-REPORT) follows at once on the "
        "same association; if that is gone or does not confirm, on a new one to the address that the settings give "
        f"for the requester. Addresses: {targets}. Tried again after {section.retry_s:g} s, doubled each time to an "
        f"hour at most, for {section.give_up_days} days.",
        "Table 5-2. Failure reasons in the Failed SOP Sequence (0008,1198)",
        table(
            ("Reason", "Condition"),
            (
                (f"0x{store_status.NO_SUCH_OBJECT_INSTANCE:04X}", "the instance was not acknowledged here"),
                (
                    f"0x{store_status.CLASS_INSTANCE_CONFLICT:04X}",
                    "it was acknowledged with another SOP class",
                ),
            ),
        ),
        "*Committed* means: acknowledged here, so in the spool, exported from it, or in quarantine with its bytes. "
        f"Proof is kept for {REMEMBER_DAYS} days. Bytes are deleted once their media and line are durable, unless "
        "`spool.keep_days` says otherwise: a requester that needs the DICOM instances for good must keep them, or "
        "have an archive. Storage Media File-Set ID and UID and Retrieve AE Title are not supported.",
    )


def _retrieval(settings: Settings) -> dict[str, str]:
    """Query/Retrieve: what is asked, and what is fetched by which operation."""
    moves = [one for one in settings.pull if one.method == "move"]
    gets = [one for one in settings.pull if one.method == "get"]
    return {
        "5.2.7": paragraphs(
            "SCU only, of the Study Root. Before instances are fetched they are counted at the IMAGE level; a study is "
            "complete when each of them is here. What is missing is asked for again by its UID.",
            _peers(settings),
        ),
        "5.2.7.1": paragraphs(
            "Keys are those that the columns of a CSV file name, by keyword: any attribute of the data dictionary but "
            "sequences and binary ones. Levels PATIENT (by its studies), STUDY, SERIES and IMAGE; hierarchical "
            "queries, "
            "relational ones proposed where a row has no key of a study.",
            table(
                ("Value representation", "Matching Type", "Query Value Source"),
                (
                    ("DA, TM", "SINGLE_VALUE, RANGE", "USER"),
                    ("UI", "SINGLE_VALUE, UID", "USER; GENERATED for the unique keys of the levels above"),
                    ("text, codes, PN", "SINGLE_VALUE, WILDCARD", "USER"),
                    ("numbers", "SINGLE_VALUE", "USER"),
                    ("unique keys and numbers of instances", "UNIVERSAL", "EMPTY"),
                ),
            ),
            "Answers that do not match what was asked are left out, names of persons excepted. C-FIND-CANCEL is sent "
            "where there are more answers than `max_matches`, or no end within `times.find_s`.",
        ),
        "5.2.7.2": paragraphs(
            "The destination is LISTENER, by the AE title that the peer knows it by (`move_to`). C-MOVE-CANCEL is sent "
            "where there is no end within `times.retrieve_s`.",
            _destinations(moves, settings),
        ),
        "5.2.7.3": "Instances come on the association of PULL, which is SCP of the Storage classes there. Peers "
        "that are "
        "asked so: " + (", ".join(one.name for one in gets) or "none is configured") + ".",
        "5.2.7.4": not_applicable("no other model is used: neither Patient Root nor Composite Instance Root."),
        "5.2.7.5": not_applicable("nothing can be queried or retrieved from here, in any model."),
    }


def _peers(settings: Settings) -> str:
    if not settings.pull:
        return "No peer is configured (`pull`); each one that is added has these properties."
    return table(
        ("Peer", "AE Title", "Address", "Method", "Level"),
        [
            (one.name, f"`{one.ae_title}`", f"{one.host}:{one.port}", f"C-{one.method.upper()}", one.level)
            for one in settings.pull
        ],
    )


def _destinations(moves: list[PullPeerSection], settings: Settings) -> str:
    if not moves:
        return "No peer is asked so with these settings."
    return table(
        ("Peer", "Destination"), [(one.name, f"`{one.move_to or settings.listener.ae_title}`") for one in moves]
    )


def _store(settings: Settings) -> str:
    section = settings.dicomweb
    state = "It is on." if section.enabled else "It is off (`dicomweb.enabled`); with it, this holds."
    return paragraphs(
        state,
        table(
            ("Resource", "Support"),
            (("`POST /dicom-web/studies`", "Y"), ("`POST /dicom-web/studies/{study}`", "Y; other studies are refused")),
        ),
        table(
            ("Header field", "Values"),
            (
                ("Content-Type", '`multipart/related; type="application/dicom"; boundary=...`'),
                ("Accept", f"`{response.JSON}`, `{response.XML}`, `application/json`, `*/*`; none means JSON"),
                ("Content-Length, Transfer-Encoding", "either; both together are refused"),
                ("Content-Encoding", "none"),
                ("Authorization", "`Bearer TOKEN`, or `Basic` with the token as password"),
            ),
        ),
        "Metadata with bulk data (`application/dicom+json`, `application/dicom+xml`) are not taken. The answer is "
        "the Store Instances Response Module (PS3.18 Annex I); Retrieve URL is empty, since nothing can be "
        "retrieved. SOP classes and transfer syntaxes: those of Table 1-1, private ones too.",
    )


def _character_sets(settings: Settings) -> str:
    from pydicom.charset import python_encoding

    terms = [f"`{term}`" for term in python_encoding if term and term.startswith(("ISO", "GB"))]
    asked = ", ".join(f"{one.name}: `{one.character_set}`" for one in settings.pull) or "no peer is configured"
    return paragraphs(
        "Received data sets are not decoded: every character set is kept. For lines, names and reports these "
        "defined terms are decoded, with code extensions (ISO 2022) where they have them: " + ", ".join(terms) + ".",
        "What cannot be decoded becomes U+FFFD, and the line has a warning. Everything written is UTF-8. Keys of "
        f"queries that are not ASCII are sent in the character set of the peer ({asked}); answers in any of the "
        "above are read.",
    )
