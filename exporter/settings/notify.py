"""The section `notify`: who is notified of what, by e-mail and by webhook."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from listener.foundation.configuration import FilePath, Section, Spelling
from listener.foundation.fields import Port, PositiveInt, PositiveSeconds, is_loopback

EventName = Literal["run_ended", "failures", "disk_low", "source_silent", "source_back", "daemon_gave_up"]
Security = Literal["starttls", "tls", "none"]
PORTS: Final[dict[Security, int]] = {"starttls": 587, "tls": 465, "none": 25}
"""Submission (RFC 6409), submission over TLS (RFC 8314), SMTP (RFC 5321)."""
_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")
"""One bare address (RFC 5321 4.1.2, dot-string and domain): no display name, no list, no control character."""
_HOOK: Final = re.compile(
    r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?"
)


def is_address(text: str) -> bool:
    """Whether a text is one e-mail address."""
    return _ADDRESS.fullmatch(text) is not None


def fault_of_address(url: str, *, insecure: bool) -> str | None:
    """Why an address is not that of a webhook, as the end of a sentence; None where it is."""
    if not _HOOK.fullmatch(url):
        return "is no address of a webhook: https://, a host, a port and a path, without user and password"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError:
        port, host = 0, ""
    if port == 0:
        return "has a port that does not exist"
    if parts.scheme == "http" and not insecure and not is_loopback(host):
        return "speaks plain HTTP beyond loopback: use https://, or permit it with `insecure: true`"
    return None


def _address(value: str) -> str:
    if not is_address(value):
        permitted = {"permitted": "one e-mail address, name@host, without a display name"}
        raise PydanticCustomError("address", "is no e-mail address", permitted)
    return value


EmailAddress = Annotated[str, AfterValidator(_address)]
HostName = Annotated[
    str, Spelling(r"^([A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45})$", "a host name or an IP address, without a port")
]
DestinationName = Annotated[str, Spelling(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "letters, digits and ._-")]


class MailSection(Section):
    """E-mail, through a mail server that takes it from us."""

    to: tuple[EmailAddress, ...]
    """Addresses, one or several; each gets a mail of its own."""
    host: HostName
    """The mail server."""
    port: Port | None = None
    """Its port; default: 587 with `starttls`, 465 with `tls`, 25 with `none`."""
    security: Security = "starttls"
    """`starttls`: TLS begins after the greeting, and without it nothing is sent; `tls`: from the first byte; `none`:
    plain text, permitted on loopback, elsewhere with `insecure`."""
    sender: EmailAddress | None = None
    """Address in `From`, and envelope sender; default: `exporter` at this host."""
    username: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    """User name at the mail server; without one, nobody logs in."""
    password_file: FilePath | None = None
    """File whose first line is the password, readable by its owner alone (mode 0600); read for every mail."""
    ca_file: FilePath | None = None
    """Certificates that the server's certificate must descend from, PEM; without it, those of the system."""
    insecure: bool = False
    """Whether the server's certificate is not checked, and plain text is permitted beyond loopback."""

    @field_validator("to")
    @classmethod
    def _names_somebody(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        if not addresses:
            raise ValueError("names nobody: give one address or several")
        return addresses

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if (self.username is None) != (self.password_file is None):
            raise ValueError("`username` and `password_file` belong together: name both, or neither")
        if self.username is not None and self.security == "none" and not is_loopback(self.host):
            raise ValueError(f"a password goes to {self.host} over TLS only: set `security` to `starttls` or `tls`")
        if self.security == "none" and not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"`security: none` sends to {self.host} what others can read: use `starttls` or `tls`, or permit it"
                " with `insecure: true`"
            )
        return self

    @property
    def port_in_force(self) -> int:
        """The port, or the one that belongs to `security`."""
        return self.port or PORTS[self.security]


class WebhookSection(Section):
    """One address that gets every event as JSON in a POST request."""

    url: str | None = None
    """Address, `https://`, without user, password and query; plain `http://` on loopback only, unless `insecure`."""
    url_file: FilePath | None = None
    """Instead of `url`, where the address itself is the secret: file whose first line is the address, readable by its
    owner alone (mode 0600)."""
    name: DestinationName | None = None
    """Name of the webhook in logs and lists; default: its host and port, or that of its file."""
    secret_file: FilePath | None = None
    """File whose first line is the secret of the signature: 24 characters or more, or `whsec_` and base64; readable by
    its owner alone (mode 0600). Without it, requests are not signed."""
    ca_file: FilePath | None = None
    """Certificates that the server's certificate must descend from, PEM; without it, those of the system."""
    insecure: bool = False
    """Whether the server's certificate is not checked, and plain HTTP is permitted beyond loopback."""

    @model_validator(mode="after")
    def _has_one_address(self) -> Self:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("a webhook has one address: name `url` or `url_file`")
        if self.url is not None:
            if "*" in self.url:
                raise ValueError("`url` still has the asterisks by which `config show` hides it")
            if "?" in self.url:
                raise ValueError("`url` has a query, which may be a secret: put the address into a file, `url_file`")
            if (fault := fault_of_address(self.url, insecure=self.insecure)) is not None:
                raise ValueError(f"`url` {fault}")
        return self

    @property
    def label(self) -> str:
        """The name, or what stands for it."""
        if self.name is not None:
            return self.name
        return urlsplit(self.url).netloc if self.url is not None else self.url_file.name if self.url_file else ""


class FailureDigestSection(Section):
    """When failures become a message: all that are not yet in one, as numbers, in one message."""

    count: PositiveInt = 1
    """Failures within `window_s` from which on there is a message."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Part of the outcomes of `window_s` from which on there is one, too; of 20 outcomes or more."""
    window_s: PositiveSeconds = 3600.0
    """The time that is looked back; at most one message about failures in it."""


class NotifySection(Section):
    """Messages about what needs people; `exporter notify run` sends them, and a backfill that of its end."""

    name: Annotated[str, StringConstraints(max_length=64)] = ""
    """What messages call this installation; default: the host's name."""
    events: tuple[EventName, ...] = (
        "run_ended",
        "failures",
        "disk_low",
        "source_silent",
        "source_back",
        "daemon_gave_up",
    )
    """Kinds of events that are sent; docs/notifications.md says when each happens."""
    mail: MailSection | None = None
    """E-mail."""
    webhooks: tuple[WebhookSection, ...] = ()
    """Addresses that get events as JSON."""
    failures: FailureDigestSection = FailureDigestSection()
    """When failures become a message."""

    @field_validator("events")
    @classmethod
    def _names_one(cls, names: tuple[EventName, ...]) -> tuple[EventName, ...]:
        if not names:
            raise ValueError("names no event: without destinations nothing is sent, too")
        return names

    @field_validator("webhooks")
    @classmethod
    def _are_told_apart(cls, sections: tuple[WebhookSection, ...]) -> tuple[WebhookSection, ...]:
        labels = [section.label for section in sections]
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"holds two webhooks called {', '.join(twice)}: give each a `name` of its own")
        return sections

    @property
    def is_on(self) -> bool:
        """Whether there is anybody to notify."""
        return self.mail is not None or bool(self.webhooks)
