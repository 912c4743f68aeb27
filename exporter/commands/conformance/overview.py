"""Sections 1 to 4 of the statement: what there is, for whom the document is, and the application entities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.commands.conformance import presentation
from exporter.commands.conformance.markdown import NO, YES, not_applicable, paragraphs, switched, table, yes
from exporter.commands.conformance.template import SECTIONS
from exporter.privacy.rules import OPTION_CODES, PrivacyOption
from exporter.pull.getting import COMMON_CLASSES
from exporter.pull.peer import FIND, GET, MOVE
from listener.intake.transfer_syntaxes import STORAGE_COMMITMENT_PUSH, VERIFICATION, is_storage

if TYPE_CHECKING:
    from exporter.settings.settings import Settings

NO_WORKFLOW: Final = "there is no worklist, no procedure step and no work item: the product is no modality and no RIS."
NO_PRINT: Final = "nothing is printed."
NO_WEB: Final = "of DICOM Web Services only the Store Transaction of the Studies Service is there."
REVISIONS: Final = (("1", "2026-11-28", "First statement on PS3.2 Annex N."),)
"""Revisions of the statement: number, day, what changed."""


def bodies(settings: Settings) -> dict[str, str]:
    """Bodies by section number."""
    return {
        "1": _OVERVIEW,
        "1.1": _content(settings),
        "1.1.1": not_applicable(
            "no structured report is created. Reports of any root template are read, and become text beside their line."
        ),
        "1.2": "Y: supported and on with the settings of this statement; OFF: supported, and switched off; N: not "
        "supported.",
        "1.2.1": _services(("Verification", VERIFICATION, _syntaxes(settings), "Y, to LISTENER itself", YES)),
        "1.2.2": paragraphs(
            _services(
                ("Storage SOP classes", "[1.1](#11-content-and-transfer)", "ALL (Table 1-2)", NO, YES),
                (
                    "Storage Commitment Push Model",
                    STORAGE_COMMITMENT_PUSH,
                    "ALL (Table 1-2)",
                    NO,
                    switched(settings.listener.commitment.enabled),
                ),
            ),
            "As user of C-GET, PULL is SCP of the Storage SOP classes on associations that it requests itself.",
        ),
        "1.2.3": not_applicable(NO_WORKFLOW),
        "1.2.4": _services(
            ("Study Root Query/Retrieve - FIND", FIND, presentation.UNCOMPRESSED, switched(settings.pull), NO),
            (
                "Study Root Query/Retrieve - MOVE",
                MOVE,
                presentation.UNCOMPRESSED,
                switched(any(p.method == "move" for p in settings.pull)),
                NO,
            ),
            (
                "Study Root Query/Retrieve - GET",
                GET,
                presentation.UNCOMPRESSED,
                switched(any(p.method == "get" for p in settings.pull)),
                NO,
            ),
        ),
        "1.2.5": not_applicable(NO_PRINT),
        "1.3": table(
            ("Service", "Transaction", "User agent", "Origin server"),
            (("Studies Service", "Store (STOW-RS)", NO, switched(settings.dicomweb.enabled)),),
        ),
        "1.3.1": not_applicable(NO_WEB),
        "1.3.2": "Store Transaction as origin server where `dicomweb.enabled` is set; no Retrieve, no Search.",
        **{f"1.3.{number}": not_applicable(NO_WEB) for number in range(3, 8)},
        "1.4": paragraphs(
            "File-set Reader: `exporter backfill` reads the files that a DICOMDIR references, on any medium that is "
            "mounted as a file system, and any PS3.10 file without one. No File-set is created or updated.",
            table(("Role", "Support"), (("Creator", "N"), ("Reader", "Y"), ("Updater", "N"))),
        ),
        "1.5": not_applicable("no video is received or sent in real time (PS3.22)."),
        "1.6": _profiles(settings),
        "1.7": "Data sets are kept as they came, in every character set. Lines are UTF-8; section "
        "[5.7](#57-specific-character-sets) says which character sets are decoded.",
        "2": _contents(),
        "3": "",
        "3.1": table(("Revision", "Date", "Change"), REVISIONS),
        "3.2": "Administrators of PACS and networks who connect the product, and engineers who integrate it. "
        "Readers should know the terms of PS3.3 to PS3.8, PS3.15 and PS3.18.",
        "3.3": "Conformance makes an exchange possible; it does not prove that two products work together. Test "
        "each connection with instances of its sender. The statement is made by `exporter conformance` from the "
        "program and its settings: with `--config FILE` it is that of one site. The probe that compares it with "
        "what the listener answers over associations is part of the tests of the product. The product is no medical "
        "device, is not for diagnosis, and gives nothing back over DICOM: what it makes of instances are files.",
        "3.4": _TERMS,
        "3.5": _ABBREVIATIONS,
        "3.6": "PS3.2 Annex N (2024c to 2026d), PS3.3 to PS3.8, PS3.10, PS3.15 2026d, PS3.16, PS3.18; BCP 195 (RFC "
        "8996, RFC 9325); RFC 6750, RFC 7617, RFC 9110, RFC 9112.",
        "4": "",
        "4.1": _FLOW,
        "4.1.1": "LISTENER waits for associations, answers C-ECHO, writes each data set of a C-STORE byte by byte "
        "into a durable queue (the spool) and answers with success only then. Where storage commitment is on, it "
        "reports what it holds. It never decodes a data set. The exporter takes instances from the spool and makes "
        "media.",
        "4.1.2": "PULL runs while `exporter pull` runs. It asks a PACS for what the rows of a CSV file name "
        "(C-FIND), and has it sent: with C-MOVE to LISTENER, or with C-GET on its own association. A peer is asked "
        "again for what did not come.",
        "4.1.3": "STORE takes instances over HTTP (STOW-RS) into the same spool, with the same checks.",
    }


_OVERVIEW: Final = (
    "The DICOM Media Exporter receives DICOM instances, or reads them from files, and makes media (PNG, JPEG, MP4, "
    "NIfTI, WAV, PDF and others) with one line of metadata for each. It receives as Storage SCP and over STOW-RS, "
    "fetches as Query/Retrieve SCU, reads media as File-set Reader, and can de-identify what it makes (PS3.15 Annex "
    "E). It is no archive: nothing can be queried or retrieved from it."
)


def _content(settings: Settings) -> str:
    """Classes and transfer syntaxes (Tables N.1-1 and N.1-2)."""
    listener = settings.listener
    by_get = frozenset(COMMON_CLASSES)
    classes = [
        (
            *(one.label, f"`{one.uid}`", "ALL", yes(presentation.is_accepted(listener, one.uid))),
            "Y" if one.uid in by_get else "on demand",
            switched(settings.dicomweb.enabled) if is_storage(one.uid) else NO,
            *("FSR", "Process"),
        )
        for one in presentation.taken_classes(listener)
    ]
    syntaxes = [
        ("ALL", one.label, f"`{one.uid}`", presentation.use_of_pixels(one.uid))
        for one in presentation.transfer_syntaxes()
    ]
    unlisted = [
        (kind, "Y" if presentation.is_accepted(listener, example) else "N")
        for kind, example in presentation.UNLISTED.items()
    ]
    return paragraphs(
        "Every SOP class below is taken in every transfer syntax. *DIMSE SCP* is LISTENER; *C-GET SCP* is PULL, "
        "which proposes the classes that a peer names, and those marked Y where it names none; *STOW-RS* is STORE; "
        "*Media* is `exporter backfill`. *Process*: the instance becomes media, or a line that says why it has "
        "none. Nothing is created, displayed or archived as a DICOM object, but for [de-identified "
        "instances](#aa2-de-identified-instances).",
        "Table 1-1. Storage SOP classes",
        table(
            ("SOP Class", "UID", "Transfer Syntax Set", "DIMSE SCP", "C-GET SCP", "STOW-RS", "Media", "Function"),
            classes,
        ),
        "UIDs that PS3.6 does not list, private ones and those of later editions:",
        "Table 1-1a. Other abstract syntaxes",
        table(("UID", "DIMSE SCP"), unlisted),
        "Transfer syntaxes in the order in which one of a proposal is taken; of those of equal rank the requestor's "
        "order decides: compressed and video first, then explicit and implicit little endian, deflated, big endian, "
        "private ones and others, references last. A transfer syntax that is not listed is accepted too. The last "
        "column says what the exporter does with pixel data.",
        "Table 1-2. Transfer syntaxes",
        table(("Set", "Transfer Syntax", "UID", "Pixel data"), syntaxes),
    )


def _services(*rows: tuple[str, str, str, str, str]) -> str:
    """One table of DIMSE services: name, UID, transfer syntaxes, SCU, SCP."""
    return table(
        ("Service", "SOP Class UID", "Transfer Syntax", "SCU", "SCP"),
        [(name, uid if uid.startswith("[") else f"`{uid}`", *rest) for name, uid, *rest in rows],
    )


def _syntaxes(settings: Settings) -> str:
    """Transfer syntaxes of Verification."""
    only = presentation.verification_syntaxes(settings.listener)
    return "ALL (Table 1-2)" if only is None else ", ".join(f"`{uid}`" for uid in only)


def _profiles(settings: Settings) -> str:
    privacy = settings.privacy
    in_force = set(privacy.options) if privacy.profile == "basic" else set()
    rows = [("Basic Application Level Confidentiality Profile", "Y", yes(privacy.profile == "basic"))]
    rows += [(OPTION_CODES[option][1], "Y", yes(option.value in in_force)) for option in PrivacyOption]
    rows.append(("Clean Pixel Data Option", "Y, by masks and refusal", yes(privacy.profile == "basic")))
    rows.append(("Clean Recognizable Visual Features Option", "N", "N"))
    return paragraphs(
        "De-identification of what leaves the exporter. [8.4.4](#844-attribute-confidentiality-profiles) has details.",
        table(("Profile or option (PS3.15 Annex E)", "Supported", "In force"), rows),
    )


def _contents() -> str:
    return "\n".join(
        f"{'  ' * (one.depth - 1)}- [{one.number} {one.title}](#{one.anchor})" for one in SECTIONS if one.depth <= 2
    )


_TERMS: Final = table(
    ("Term", "Meaning"),
    (
        ("Spool", "durable queue of received instances that wait for export"),
        ("Quarantine", "folder of instances that were refused or failed, with their bytes"),
        ("Line", "one JSON object of `metadata.jsonl` for one instance"),
        ("Store status", "answer to the sender of an instance"),
        ("Profile", "how instances are de-identified: `none` or `basic`"),
    ),
)
_ABBREVIATIONS: Final = table(
    ("Abbreviation", "Meaning"),
    (
        ("AE", "Application Entity"),
        ("DIMSE", "DICOM Message Service Element"),
        ("FSR", "File-set Reader"),
        ("IOD", "Information Object Definition"),
        ("PDU", "Protocol Data Unit"),
        ("SCP, SCU", "Service Class Provider, Service Class User"),
        ("SOP", "Service-Object Pair"),
        ("STOW-RS", "Store Transaction of the Studies Service"),
        ("TLS", "Transport Layer Security"),
    ),
)
_FLOW: Final = """\
```
senders, PACS --C-STORE, N-ACTION--> LISTENER --\\
HTTP clients  --POST /dicom-web----> STORE ------+--> spool --> exporter --> media, metadata.jsonl
PACS <--C-FIND, C-MOVE, C-GET------- PULL ------/                 ^
folders, archives, DICOM media -----------------------------------/
```

LISTENER and STORE belong to the daemon `listener` (or `exporter serve`), PULL to `exporter pull`. An Orthanc server \
can be polled over its own REST interface, which is not DICOM."""
