"""The e-mail at the end of a run of Niffler's extractor: its words, and the mail server that takes it.

Contract: after a success it has Niffler's subject and text; after a failure it has counts by reason, never a file name
or a value. It goes the way of every mail, `exporter.notifications.mail`.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from exporter.notifications.destinations import mail_server
from exporter.notifications.mail import MailServer, message_of, post
from listener.network.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import EmailMessage

    from exporter.settings.notify import MailSection

DONE: Final = ("The image conversion has been complete", "Niffler has successfully completed the png conversion")
"""Subject and text of Niffler's own mail."""
FAILED_SUBJECT: Final = "The image conversion has failed"
DEFAULT_PORT: Final = 25


def success_notice(to: str, *, sender: str | None = None) -> EmailMessage:
    """The mail of a run in which nothing failed."""
    subject, text = DONE
    return message_of(to, subject, [text], sender=sender)


def failure_notice(
    to: str, converted: int, reasons: Mapping[str, int], *, ended_early: str = "", sender: str | None = None
) -> EmailMessage:
    """The mail of a run in which something failed, or that ended early.

    Args:
        to: The address.
        converted: Files with pictures.
        reasons: Number of files by the reason of their failure.
        ended_early: Why the run ended before it was complete; names no file.
        sender: Address in `From`; None for `exporter` at this host.
    """
    lines = [f"The png conversion ended before it was complete: {ended_early}"] if ended_early else []
    lines.append(f"Files converted: {converted}")
    lines.append(f"Files that failed: {sum(reasons.values())}")
    lines += [f"  {reason}: {count}" for reason, count in sorted(reasons.items())]
    return message_of(to, FAILED_SUBJECT, lines, sender=sender)


def send_notice(message: EmailMessage, server: str | None, mail: MailSection | None) -> None:
    """Hand a mail to a mail server.

    Args:
        message: The mail with its recipient.
        server: ``host`` or ``host:port`` of a server that is spoken to in plain text; None for that of `mail`.
        mail: The section `notify.mail`; without one, and without `server`, this machine's server takes the mail.

    Raises:
        Undelivered: The server cannot be reached or does not accept the mail.
        SecretUnusable: A file that `mail` names cannot be used.
    """
    if server is None and mail is not None:
        found = mail_server(mail)
    else:
        host, _, port = (server or "localhost").partition(":")
        found = MailServer(host, int(port or DEFAULT_PORT))
    with closing(_Started("niffler-deadlines")) as deadlines:
        post(message, found, deadlines)


class _Started(Deadlines):
    """Deadlines that are enforced from the beginning."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.start()

    def close(self) -> None:
        """End."""
        self.stop()
