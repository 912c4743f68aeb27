"""E-mail through a mail server: the boundary to smtplib, whose errors all end here.

Contract: one mail, one recipient, one answer: `post` returns after the server took the mail, and raises `Undelivered`
with one sentence otherwise, in `WITHIN_S` whatever the server does. With STARTTLS, nothing but greeting and EHLO goes
out before the certificate was checked. Headers are made from one line of printable text: none can begin another.

Must never: show a password, or send one without TLS beyond loopback.

Source: RFC 5321 (SMTP), RFC 3207 (STARTTLS), RFC 8314 (TLS from the first byte), RFC 3834 (Auto-Submitted).
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final

from listener.foundation.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.settings.notify import Security
    from listener.network.deadlines import Deadlines

WITHIN_S: Final = 60.0
"""Time for one mail, from the connection to the last answer."""
STEP_S: Final = 20.0
"""Time for one answer."""
LONGEST_SUBJECT: Final = 200
LONGEST_ANSWER: Final = 200


class Undelivered(Exception):
    """A destination did not take a message: why, as one sentence without a secret."""


@dataclass(frozen=True, slots=True)
class MailServer:
    """A mail server, and how it is spoken to."""

    host: str
    port: int
    security: Security = "none"
    context: ssl.SSLContext | None = None
    """How certificates are checked; needed unless `security` is `none`."""
    username: str | None = None
    password: str | None = None


def own_address() -> str:
    """`exporter` at this host."""
    host = socket.gethostname()
    return f"exporter@{host if host.isascii() and host else 'localhost'}"


def message_of(
    to: str, subject: str, lines: Iterable[str], *, sender: str | None = None, event: str = "", at: float | None = None
) -> EmailMessage:
    """A mail to one address.

    Args:
        to: The address.
        subject: One line; what could end it becomes an escape.
        lines: The text.
        sender: Address in `From`; None for `own_address`.
        event: Id of the event, for `Message-ID` and `X-Event-ID`: the same in every attempt.
        at: Unix time of `Date`.
    """
    message = EmailMessage()
    origin = sender or own_address()
    message["From"] = Address(addr_spec=origin)
    message["To"] = Address(addr_spec=to)
    message["Subject"] = printable(subject)[:LONGEST_SUBJECT]
    message["Auto-Submitted"] = "auto-generated"
    if at is not None:
        message["Date"] = format_datetime(datetime.fromtimestamp(at, UTC))
    if event:
        message["Message-ID"] = f"<{event}@{origin.rpartition('@')[2]}>"
        message["X-Event-ID"] = event
    message.set_content("".join(f"{printable(line)}\n" for line in lines))
    return message


def post(message: EmailMessage, server: MailServer, deadlines: Deadlines, *, within_s: float = WITHIN_S) -> None:
    """Hand a mail to a mail server.

    Args:
        message: The mail, with one recipient.
        server: The server.
        deadlines: Keep the time.
        within_s: Time for all of it.

    Raises:
        Undelivered: The server cannot be reached, is not the one that is meant, or does not take the mail.
    """
    with deadlines.within(within_s) as limit:
        client: smtplib.SMTP | None = None
        try:
            client = _connected(server, deadlines)
            client.send_message(message)
            with suppress(smtplib.SMTPException, OSError):  # the mail is theirs, whatever they say now
                client.quit()
        except (smtplib.SMTPException, OSError, ValueError) as error:
            why = "it did not answer in time" if limit.expired else _why(error)
        else:
            return
        finally:
            if client is not None:
                client.close()
    raise Undelivered(f"the mail server {server.host}, port {server.port}, did not take the mail: {why}")


def _connected(server: MailServer, deadlines: Deadlines) -> smtplib.SMTP:
    """A client after greeting, TLS and login."""
    sock = socket.create_connection((server.host, server.port), STEP_S)
    # No name of ours is looked up: that could take longer than everything else.
    client = smtplib.SMTP(local_hostname=_own_name())
    try:
        deadlines.attach(sock.fileno())
        client.sock = _secured(sock, server) if server.security == "tls" else sock
        code, text = client.getreply()
        _expect_220(code, text)
        client.ehlo_or_helo_if_needed()
        if server.security == "starttls":
            _start_tls(client, sock, server)
        if server.username is not None and server.password is not None:
            client.login(server.username, server.password)
    except BaseException:
        client.close()
        sock.close()
        raise
    return client


def _start_tls(client: smtplib.SMTP, sock: socket.socket, server: MailServer) -> None:
    """Begin TLS, and begin anew: nothing that was said before counts (RFC 3207 4.2)."""
    if not client.has_extn("starttls"):
        raise smtplib.SMTPNotSupportedError("it does not offer STARTTLS")
    code, text = client.docmd("STARTTLS")
    _expect_220(code, text)
    client.sock = _secured(sock, server)
    client.file = None  # with it go bytes that somebody put after the answer, in plain text
    client.helo_resp = client.ehlo_resp = None
    client.esmtp_features = {}
    client.does_esmtp = False
    client.ehlo_or_helo_if_needed()


def _expect_220(code: int, text: bytes) -> None:
    if code != 220:
        raise smtplib.SMTPResponseException(code, text)


def _secured(sock: socket.socket, server: MailServer) -> ssl.SSLSocket:
    if server.context is None:
        raise ValueError("no context for TLS")
    return server.context.wrap_socket(sock, server_hostname=server.host)


def _own_name() -> str:
    name = socket.gethostname()
    return name if name and name.isascii() and name.isprintable() and " " not in name else "localhost"


def _why(error: Exception) -> str:
    """What an error means, as part of a sentence."""
    match error:
        case smtplib.SMTPAuthenticationError():
            why = f"it refuses user name or password (status {error.smtp_code})"
        case smtplib.SMTPRecipientsRefused():
            why = f"it refuses the recipient: {_answer(*next(iter(error.recipients.values())))}"
        case smtplib.SMTPSenderRefused():
            why = f"it refuses the sender: {_answer(error.smtp_code, error.smtp_error)}"
        case smtplib.SMTPResponseException():
            why = f"it answers {_answer(error.smtp_code, error.smtp_error)}"
        case smtplib.SMTPServerDisconnected():
            is_late = isinstance(error.__context__, TimeoutError)
            why = "it did not answer in time" if is_late else "it ended the connection"
        case smtplib.SMTPException():
            why = printable(str(error.args[0])) if error.args else type(error).__name__
        case _:
            why = reason_of(error)
    return why


def reason_of(error: Exception) -> str:
    """What an error of a connection means, as part of a sentence."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not accepted ({error.verify_message}); `ca_file` names another authority"
        case ssl.SSLError():
            return f"TLS failed ({error.reason or 'the connection broke'})"
        case socket.gaierror():
            return "its name resolves to nothing"
        case TimeoutError():
            return "it did not answer in time"
        case OSError():
            return error.strerror or type(error).__name__
        case _:
            return type(error).__name__


def _answer(code: int, text: bytes | str) -> str:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return f"{code} {printable(said)[:LONGEST_ANSWER]}".strip()
