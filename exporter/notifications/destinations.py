"""Where messages go, as the section `notify` says: each e-mail address and each webhook is a destination of its own.

Contract: `name` stands for a destination in the queue, in logs and in lists, stays the same across restarts, and holds
no secret. Secrets are read when something is delivered, and once at the start, so that a command does not begin with a
file that cannot be used.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import urllib3

from exporter.notifications.mail import MailServer, Undelivered, message_of, post
from exporter.notifications.secrets import SecretUnusable, secret_line, signing_secret
from exporter.notifications.webhook import WebhookTarget, send
from exporter.settings.notify import fault_of_address
from listener.foundation.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.notifications.events import Event
    from exporter.settings.notify import MailSection, NotifySection, WebhookSection
    from listener.network.deadlines import Deadlines


class Destination(Protocol):
    """Somebody who gets events."""

    @property
    def name(self) -> str:
        """What stands for it."""

    def check(self) -> None:
        """Read the files that it needs.

        Raises:
            SecretUnusable: One cannot be used.
        """

    def deliver(self, event: Event, deadlines: Deadlines) -> None:
        """Deliver an event; return once it was taken.

        Raises:
            Undelivered: It was not.
        """


@dataclass(frozen=True, slots=True)
class MailDestination:
    """One e-mail address."""

    section: MailSection
    to: str
    installation: str
    version: str

    @property
    def name(self) -> str:
        """`mail` and the address."""
        return f"mail {self.to}"

    def check(self) -> None:
        """Read the password and the certificates.

        Raises:
            SecretUnusable: One cannot be used.
        """
        self.server()

    def server(self) -> MailServer:
        """The mail server with what is needed to speak to it.

        Raises:
            SecretUnusable: A file cannot be used.
        """
        return mail_server(self.section)

    def deliver(self, event: Event, deadlines: Deadlines) -> None:
        """Send a mail.

        Raises:
            Undelivered: It was not taken.
        """
        try:
            server = self.server()
        except SecretUnusable as error:
            raise Undelivered(str(error)) from error
        lines = [
            *event.lines(),
            "",
            f"installation: {self.installation}",
            f"version: {self.version}",
            f"event: {event.kind} {event.id}",
        ]
        subject = f"[{self.installation}] {event.what}"
        message = message_of(self.to, subject, lines, sender=self.section.sender, event=event.id, at=event.at)
        post(message, server, deadlines)


@dataclass(frozen=True, slots=True)
class WebhookDestination:
    """One webhook."""

    section: WebhookSection
    number: int
    installation: str
    version: str

    @property
    def name(self) -> str:
        """`webhook` and its label."""
        return f"webhook {self.section.label}"

    def check(self) -> None:
        """Read the address, the secret and the certificates.

        Raises:
            SecretUnusable: One cannot be used.
        """
        self._target()

    def deliver(self, event: Event, deadlines: Deadlines) -> None:
        """Post the event.

        Raises:
            Undelivered: It was not taken.
        """
        try:
            target = self._target()
        except SecretUnusable as error:
            raise Undelivered(str(error)) from error
        send(event, target, deadlines, installation=self.installation, version=self.version)

    def _target(self) -> WebhookTarget:
        section, key = self.section, f"notify.webhooks[{self.number}]"
        url = section.url or ""
        if section.url_file is not None:
            url = secret_line(section.url_file, f"{key}.url_file").strip()
            if (fault := fault_of_address(url, insecure=section.insecure)) is not None:
                raise SecretUnusable(f"`{key}.url_file`: the first line of {section.url_file} {fault}")
        context = None
        if url.startswith("https:"):
            context = tls_context(section.ca_file, f"{key}.ca_file", insecure=section.insecure)
        secret = None if section.secret_file is None else signing_secret(section.secret_file, f"{key}.secret_file")
        return WebhookTarget(section.label, url, context, secret)


def destinations_of(section: NotifySection, version: str) -> list[Destination]:
    """The destinations of a configuration."""
    installation = printable(section.name or socket.gethostname() or "dicom-media-exporter")
    found: list[Destination] = []
    if section.mail is not None:
        found += [MailDestination(section.mail, to, installation, version) for to in dict.fromkeys(section.mail.to)]
    found += [
        WebhookDestination(webhook, number, installation, version) for number, webhook in enumerate(section.webhooks)
    ]
    return found


def mail_server(section: MailSection) -> MailServer:
    """The mail server of a configuration.

    Raises:
        SecretUnusable: A file cannot be used.
    """
    password = None
    if section.password_file is not None:
        password = secret_line(section.password_file, "notify.mail.password_file")
    context = None
    if section.security != "none":
        context = tls_context(section.ca_file, "notify.mail.ca_file", insecure=section.insecure)
    return MailServer(section.host, section.port_in_force, section.security, context, section.username, password)


def tls_context(ca_file: Path | None, key: str, *, insecure: bool) -> ssl.SSLContext:
    """How a server's certificate is checked: against `ca_file` or the system's authorities; not at all if `insecure`.

    Raises:
        SecretUnusable: The certificates cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SecretUnusable(f"`{key}` {ca_file} cannot be used: {error.strerror or error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if insecure:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # it is what the configuration says
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
