"""Section 8 of the statement: security profiles, ports, and what else guards the product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.commands.conformance.markdown import not_applicable, paragraphs, table, yes
from exporter.privacy.rules import OPTION_CODES, PrivacyOption
from listener.network.tls import CIPHERS_1_2

if TYPE_CHECKING:
    from exporter.settings.settings import Settings
    from listener.settings.listener import TLSSection


def bodies(settings: Settings) -> dict[str, str]:
    """Bodies by section number."""
    return {
        "8": "",
        "8.1": "Nothing is reachable from another machine unless the configuration says so: every port is on "
        "loopback by default. Beyond that, the configuration must name who may send, or say that anybody may. "
        "[guides/security.md](guides/security.md) follows the data and says how to harden an installation.",
        "8.2": "Required: none. Used where configured: DNS for host names, NTP of the host for the times of lines, "
        "logs and TLS. No DHCP, no LDAP.",
        "8.3": _ports(settings),
        "8.4": "",
        "8.4.1": table(
            ("Profile", "Support"),
            (
                ("Online Electronic Storage Secure Use", "N"),
                ("Basic Digital Signatures, Bit-preserving, SR Digital Signatures Secure Use", "N"),
                ("User Identity Negotiation", "see [8.5](#85-user-identity-negotiation-support)"),
                ("Audit Trail Message Format", "N"),
            ),
        ),
        "8.4.2": _transport(settings),
        "8.4.3": not_applicable("no DICOM medium is written, and encrypted files (PS3.15 D) are not read."),
        "8.4.4": _confidentiality(settings),
        "8.4.5": "Signatures are neither made nor verified (N). Received instances keep theirs, since their bytes "
        "do not change.",
        "8.4.6": not_applicable("there is no further profile."),
        "8.5": "",
        "8.5.1": not_applicable("no user identity is proposed."),
        "8.5.2": _users(settings),
        "8.6": paragraphs(
            "The same TLS as above, with the certificate of `status.tls`; or plain HTTP behind a proxy that speaks "
            "TLS (`status.behind_tls_proxy`). Beyond loopback one of the two is required.",
            "Every request must show the token of `dicomweb.token_file`: Bearer (RFC 6750), or the password of "
            "Basic (RFC 7617). Its hash is compared in constant time. No other authentication, no authorization by "
            "user.",
        ),
        "8.7": "",
        "8.7.1": "Folders of data are made for their owner alone (0700). Files are not encrypted: encrypt the file "
        "system.",
        "8.7.2": "Allow-lists of AE titles and networks, limits on connections, lengths, times and nesting for "
        "every peer ([7.2.1.2](#7212-association-parameters-of-listener)), and processes of their own, with limits "
        "on memory and time, for everything that decodes.",
        "8.7.3": "Logs, metrics and messages hold no patient data. The units of `exporter install-units` run "
        "without privileges.",
    }


def _ports(settings: Settings) -> str:
    listener, status, page = settings.listener, settings.status, settings.page
    rows = [
        ("LISTENER", "DIMSE" + (" over TLS" if listener.tls else ""), "in", listener.port, listener.host),
        ("STORE", "HTTP" + ("S" if status.tls else ""), "in, where it is on", status.port, status.host),
        ("page", "HTTP", "in", page.port, page.host),
        *(("PULL", "DIMSE" + (" over TLS" if one.tls else ""), "out", one.port, one.host) for one in settings.pull),
        *(
            ("LISTENER, reports of commitment", "DIMSE" + (" over TLS" if one.tls else ""), "out", one.port, one.host)
            for one in listener.commitment.targets
        ),
    ]
    return paragraphs(
        table(("Application Entity", "Protocol", "Direction", "Port", "Address"), rows), "Every port is configurable."
    )


def _tls(section: TLSSection | None) -> str:
    if section is None:
        return "off"
    client = "clients must show a certificate" if section.client_ca else "clients need no certificate"
    return f"on, TLS {section.minimum_version} or newer; {client}"


def _transport(settings: Settings) -> str:
    rows = [("LISTENER, as server", _tls(settings.listener.tls)), ("STORE, as server", _tls(settings.status.tls))]
    rows += [
        (
            f"PULL to {one.name}, as client",
            "off"
            if one.tls is None
            else f"on, TLS 1.2 or newer; host name {'checked' if one.tls.check_host else 'not checked'}",
        )
        for one in settings.pull
    ]
    return paragraphs(
        table(
            ("Profile (PS3.15 B)", "Support"),
            (
                ("BCP 195 RFC 8996, 9325 TLS Secure Transport Connection", "Y"),
                ("Modified BCP 195, Extended BCP 195, and non-downgrading ones", "N"),
                ("Basic TLS, AES TLS (retired)", "N"),
            ),
        ),
        table(("Connection", "With these settings"), rows),
        f"Cipher suites of TLS 1.2: those of `{CIPHERS_1_2}` (forward secrecy and authenticated encryption only), "
        "and of TLS 1.3 what the OpenSSL of the system offers.",
    )


def _confidentiality(settings: Settings) -> str:
    privacy = settings.privacy
    is_on = privacy.profile == "basic"
    rows = [("Basic Profile", "ALL", "Y", "N", yes(is_on))]
    rows += [
        (OPTION_CODES[option][1], "ALL", "Y", "N", yes(is_on and option.value in privacy.options))
        for option in PrivacyOption
    ]
    rows += [
        ("Clean Pixel Data Option", "ALL", "Y", "N", yes(is_on)),
        ("Clean Recognizable Visual Features Option", "ALL", "N", "N", "N"),
    ]
    own = [
        (entry.ae_title, settings.by_ae_title[entry.ae_title].privacy)
        for entry in settings.ae_titles
        if settings.by_ae_title[entry.ae_title].privacy != privacy
    ]
    return paragraphs(
        "Applied to what the exporter writes, never to what is in the spool.",
        table(("Profile or option", "AE", "De-identifier", "Re-identifier", "In force"), rows),
        table(
            ("Called AE title", "Profile", "Options"),
            [(title, one.profile, ", ".join(one.options) or "none") for title, one in own],
        )
        if own
        else "",
        "Attributes that the edition in use (2026d) does not name are removed unless their VR cannot hold text, or "
        "a closed vocabulary has their value; so are those of later editions. Pixels that nothing proves clean "
        f"follow `privacy.pixels` (`{privacy.pixels}`). [A.C.2.6](#ac26-attribute-confidentiality-details) has every "
        "attribute, [privacy.md](privacy.md) the rules.",
    )


def _users(settings: Settings) -> str:
    users = settings.listener.users
    if not users:
        return "A user identity is accepted and not looked at, without a positive response: `listener.users` is empty."
    kinds = sorted({"user name and passcode" if one.passcode_file else "user name" for one in users})
    answer = (
        "given where it is asked for" if settings.listener.engine == "native" else "not given for a user name alone"
    )
    return table(
        ("Identity (PS3.7 D.3.3.7)", "Support"),
        (
            ("user name; user name and passcode", f"Y, over TLS only; {len(users)} configured ({', '.join(kinds)})"),
            ("Kerberos, SAML, JSON Web Token", "N: the association is rejected"),
            ("positive response", answer),
        ),
    )
