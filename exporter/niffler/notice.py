"""The e-mail at the end of a run, sent through a mail server: no shell, and no header injection by an address.

Contract: after a success it has Niffler's subject and text; after a failure it has counts by reason, never a file name
or a value. If the server does not accept it, that is reported and the run does not fail.
"""

from __future__ import annotations

import re
import smtplib
import socket
from email.message import EmailMessage
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

DONE: Final = ("The image conversion has been complete", "Niffler has successfully completed the png conversion")
"""Subject and text of Niffler's own mail."""
FAILED_SUBJECT: Final = "The image conversion has failed"
TIMEOUT_S: Final = 20.0
_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")
"""One bare address (RFC 5321 4.1.2, dot-string and domain): no display name, no list, no control character."""


class NoticeUndelivered(Exception):
    """The mail was not sent: why, in one sentence."""


def is_address(text: str) -> bool:
    """Whether a text is one e-mail address."""
    return _ADDRESS.fullmatch(text) is not None


def success_notice(to: str) -> EmailMessage:
    """The mail of a run in which nothing failed."""
    return _message(to, *DONE)


def failure_notice(to: str, converted: int, reasons: Mapping[str, int], ended_early: str = "") -> EmailMessage:
    """The mail of a run in which something failed, or that ended early.

    Args:
        to: The address.
        converted: Files with pictures.
        reasons: Number of files by the reason of their failure.
        ended_early: Why the run ended before it was complete; names no file.
    """
    lines = [f"The png conversion ended before it was complete: {ended_early}"] if ended_early else []
    lines.append(f"Files converted: {converted}")
    lines.append(f"Files that failed: {sum(reasons.values())}")
    lines += [f"  {reason}: {count}" for reason, count in sorted(reasons.items())]
    return _message(to, FAILED_SUBJECT, "\n".join(lines))


def _message(to: str, subject: str, text: str) -> EmailMessage:
    message = EmailMessage()
    message["From"] = f"exporter@{socket.gethostname() or 'localhost'}"
    message["To"] = to
    message["Subject"] = subject
    message.set_content(text)
    return message


def send_notice(message: EmailMessage, server: str) -> None:
    """Hand a mail to a mail server.

    Args:
        message: The mail with its recipient.
        server: ``host`` or ``host:port``; port 25 by default.

    Raises:
        NoticeUndelivered: The server cannot be reached or does not accept the mail.
    """
    host, _, port = server.partition(":")
    try:
        with smtplib.SMTP(host, int(port or 25), timeout=TIMEOUT_S) as connection:
            connection.send_message(message)
    except smtplib.SMTPException as error:
        why = f"it answers {type(error).__name__}"
    except OSError as error:
        why = error.strerror or type(error).__name__
    else:
        return
    raise NoticeUndelivered(f"the mail server {server} did not take the e-mail of this run: {why}")
