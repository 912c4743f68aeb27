"""Annexes of the statement: created instances, security details, mapping of attributes, codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.commands.conformance.markdown import not_applicable, paragraphs, table
from exporter.privacy.rules import (
    BASIC_PROFILE_CODE,
    CLEAN_PIXEL_DATA_CODE,
    OPTION_CODES,
    PrivacyOption,
    attribute_rules,
)
from listener.network.tls import CIPHERS_1_2

if TYPE_CHECKING:
    from exporter.settings.settings import Settings

_NO_IOD: Final = "instances are never made from nothing; see [A.A.2](#aa2-de-identified-instances)."
_GROUPS: Final = {"50xxxxxx": "Curve Data", "60xx4000": "Overlay Comments", "60xx3000": "Overlay Data"}


def bodies(settings: Settings) -> dict[str, str]:
    """Bodies by section number."""
    return {
        "A.A": "",
        "A.A.1": "",
        "A.A.1.1": not_applicable(_NO_IOD),
        "A.A.1.2": not_applicable(_NO_IOD),
        "A.A.1.3": not_applicable("no private attribute is made."),
        "A.A.1.4": not_applicable(_NO_IOD),
        "A.A.2": paragraphs(
            "With `privacy.write_dicom: true` (here: " + ("on" if settings.privacy.write_dicom else "off") + ") the "
            "de-identified instance is written beside its media, as a PS3.10 file in Explicit VR Little Endian, "
            "with the SOP class of its source. Modules are those of the source, less what the profile removes.",
            table(
                ("Attribute", "Tag", "Value"),
                (
                    ("Patient Identity Removed", "(0012,0062)", "`YES`"),
                    ("De-identification Method", "(0012,0063)", "words for the profile and its options"),
                    ("De-identification Method Code Sequence", "(0012,0064)", "codes of [A.E](#ae-code-set-usage)"),
                    ("Longitudinal Temporal Information Modified", "(0028,0303)", "as the options say"),
                    ("Burned In Annotation", "(0028,0301)", "`NO`, where a mask cleaned the pixels"),
                ),
            ),
        ),
        "A.B": not_applicable(
            "no structured report is created. Content items are de-identified by Table E.3.4-1 of PS3.15."
        ),
        "A.C": "",
        "A.C.1": "",
        "A.C.1.1": "None of its own: the clock of the host, which NTP should keep.",
        "A.C.1.2": not_applicable("addresses are those of the host; no DHCP is used."),
        "A.C.1.3": not_applicable("no LDAP is used; the configuration is one file."),
        "A.C.1.4": not_applicable("no service is looked up in DNS, and none is announced."),
        "A.C.2": "",
        "A.C.2.1": not_applicable("the profile is not supported."),
        "A.C.2.2": not_applicable("no audit trail messages are made."),
        "A.C.2.3": not_applicable("no audit trail messages are sent."),
        "A.C.2.4": not_applicable("no audit trail messages are sent."),
        "A.C.2.5": table(
            ("Property", "Value"),
            (
                ("Versions", "TLS 1.2 and 1.3, or 1.3 alone (`minimum_version`)"),
                ("Cipher suites of TLS 1.2", f"`{CIPHERS_1_2}`, as OpenSSL writes it"),
                (
                    "Certificates",
                    "PEM; chain of ours, and the authorities that clients must descend from (`client_ca`)",
                ),
                ("Check of a peer", "chain and validity; as client the host name too, unless `check_host` is off"),
                ("Revocation", "not checked"),
                ("Expiry of ours", "warned of `warn_days` before, once a day; the certificate stays in use"),
            ),
        ),
        "A.C.2.6": _actions(settings),
        "A.C.2.7": not_applicable("signatures are neither made nor verified."),
        "A.C.2.8": not_applicable("there is no further profile."),
        "A.D": _mapping(),
        "A.E": paragraphs(
            "Codes of coding scheme DCM that de-identified instances and lines state (PS3.16 CID 7050):",
            table(
                ("Code", "Meaning"),
                [BASIC_PROFILE_CODE, CLEAN_PIXEL_DATA_CODE, *(OPTION_CODES[option] for option in PrivacyOption)],
            ),
            "Codes that no dictionary has become keyed ones of coding scheme `99DEIDENT` under the profile `basic`.",
        ),
    }


def _mapping() -> str:
    return paragraphs(
        "Nothing is mapped between DICOM services. Elements of an instance become keys of its line: "
        "[metadata.md](metadata.md) says how. Attributes that decide what is made:",
        table(
            ("Attribute", "Tag", "Decides"),
            (
                ("SOP Class UID, SOP Instance UID", "(0008,0016), (0008,0018)", "store status, duplicates, writer"),
                ("Rows, Columns, Bits, Samples, Photometric Interpretation", "(0028,xxxx)", "how pixels are decoded"),
                (
                    "Number of Frames, Frame Increment Pointer, Frame Time, Frame Time Vector",
                    "(0028,0008), (0028,0009), (0018,1063), (0018,1065)",
                    "video or image, and its times",
                ),
                ("Modality LUT, VOI LUT, Presentation LUT Shape", "(0028,1050) and others", "display values"),
                (
                    "Patient ID, Study, Series Instance UID",
                    "(0010,0020), (0020,000D), (0020,000E)",
                    "split, volumes, pseudonyms",
                ),
                ("Specific Character Set", "(0008,0005)", "how text is decoded"),
            ),
        ),
    )


def _actions(settings: Settings) -> str:
    """Every attribute of Table E.1-1 with its action (Table N.11-6)."""
    privacy = settings.privacy
    is_on = privacy.profile == "basic"
    options = frozenset(map(PrivacyOption, privacy.options)) if is_on else frozenset()
    rows = [
        (_name(tag), _spelled(tag), rule.basic, rule.action(options).value, "N")
        for tag, rule in sorted(attribute_rules().items())
    ]
    words = ", ".join(sorted(options)) or "none"
    return paragraphs(
        f"Action codes of PS3.15 Table E.1-1a. *Action* is that with the options in force ({words}), for an IOD that "
        "needs a value; where the IOD permits it, the weaker one of a compound action is taken. No attribute is "
        "encrypted (*Encrypted*).",
        table(("Attribute Name", "Tag", "Basic Profile", "Action", "Encrypted"), rows),
        "UIDs and identifiers are replaced by keyed ones (HMAC-SHA-256): the same for the same value and key, in "
        "every instance, run and machine, so that references stay whole. Dummy values are `REMOVED`, `OTHER`, "
        "`19000101`. Encrypted Attributes Data Set (PS3.15 E.1.1) is not supported: originals can be found again "
        "only by who has the key and the identifiers.",
    )


def _name(tag: str) -> str:
    from pydicom.datadict import dictionary_description

    if tag == "PRIVATE":
        return "Private attributes"
    if "x" in tag:
        return _GROUPS.get(tag, "Overlay or curve")
    try:
        return dictionary_description(int(tag, 16))
    except KeyError:
        return "of a later edition than the data dictionary in use"


def _spelled(tag: str) -> str:
    return "-" if tag == "PRIVATE" else f"({tag[:4]},{tag[4:]})"
