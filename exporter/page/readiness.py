"""Whether instances can be received and exported now: the truth behind `/readyz`.

Contract: everything is tried, not assumed: the listener answers C-ECHO, its folder and the ledger can be written, the
exporter shows signs of life, and no disk is below its limit. Names and sentences are ours. An answer is kept for
`KEPT_S`, so that probes that come often cost one association only.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final

from exporter.errors import OutOfSpace
from exporter.page.problems import DISK_WORDS
from exporter.results.ledger.browsing import LedgerBrowser
from exporter.results.ledger.schema import LedgerUnusable
from listener.sources.dimse.upper_layer import command as dimse
from listener.sources.dimse.upper_layer.scu import (
    NotAccepted,
    Proposal,
    RequestError,
    RequestorTimes,
    contexts_of,
    request_association,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exporter.page.standing import Standing
    from exporter.settings.settings import Settings
    from listener.settings.listener import DataFolder, ListenerSection

KEPT_S: Final = 2.0
ANSWER_S: Final = 3.0
VERIFICATION: Final = "1.2.840.10008.1.1"
"""Verification SOP Class (PS3.4 A.4)."""
EXPLICIT_AND_IMPLICIT: Final = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
SILENT: Final = "its disk does not answer"


class Readiness:
    """The checks, and their last answers."""

    def __init__(self, settings: Settings, data: DataFolder, look: Callable[[], Standing]) -> None:
        """Check nothing yet.

        Args:
            settings: The configuration in force.
            data: The data folder.
            look: Gives the standing of now.
        """
        self._settings = settings
        self._data = data
        self._look = look
        self._checking = threading.Lock()
        self._checked_at = float("-inf")
        self._checks: dict[str, str] = {}

    def checks(self) -> dict[str, str]:
        """What is not ready, by check; an empty sentence where all is well."""
        with self._checking:
            if time.monotonic() - self._checked_at >= KEPT_S:
                self._checks = self._check()
                self._checked_at = time.monotonic()
            return self._checks

    def _check(self) -> dict[str, str]:
        standing = self._look()
        exporter = standing.daemons.get("exporter", "stopped")
        low = [problem.what for problem in standing.problems if problem.word in DISK_WORDS]
        return {
            "listener": _answers(self._settings.listener),
            "exporter": "" if exporter == "running" else f"the exporter is {exporter}",
            "spool": SILENT if "spool" in standing.unanswered else _is_writable(self._data.spool, "spool"),
            "ledger": SILENT if "ledger" in standing.unanswered else _ledger_works(self._data.ledger),
            "disk": "; ".join(low),
        }


def _answers(listener: ListenerSection) -> str:
    """Whether our listener answers C-ECHO (PS3.4 A.4); a sentence where it does not."""
    host = "127.0.0.1" if listener.host in {"0.0.0.0", "::", "localhost"} else listener.host  # noqa: S104 - not bound
    contexts = contexts_of([(VERIFICATION, EXPLICIT_AND_IMPLICIT)])
    proposal = Proposal("READYZ", listener.ae_title, contexts)
    times = RequestorTimes(connect_s=ANSWER_S, pdu_s=ANSWER_S, release_s=1.0)
    tls = _client_context() if listener.tls is not None else None
    try:
        with request_association(host, listener.port, proposal, times, tls=tls) as association:
            context = association.context(VERIFICATION)
            if context is None:
                return "the listener does not accept Verification"
            number = association.next_message_id()
            association.send(context, dimse.request(dimse.Field.C_ECHO_RQ, number, VERIFICATION, has_data_set=False))
            status = association.response(number, within_s=ANSWER_S).status
            return "" if status == 0 else f"the listener answers C-ECHO with status 0x{status:04X}"
    except NotAccepted:
        # It is up, and its peers are named: we are none of them. That it is not short of space, `disk` says.
        return "" if listener.peers or listener.users else "the listener rejects associations"
    except RequestError:
        # A listener that wants clients' certificates ends our handshake, and is up.
        is_up = listener.tls is not None and listener.tls.client_ca is not None
        return "" if is_up and _accepts(host, listener.port) else "the listener does not answer"


def _accepts(host: str, port: int) -> bool:
    import socket

    try:
        with closing(socket.create_connection((host, port), ANSWER_S)):
            return True
    except OSError:
        return False


def _client_context() -> ssl.SSLContext:
    """TLS to our own listener: the certificate is not what is in question here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _is_writable(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f"there is no {name} folder"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"the {name} folder cannot be written"


def _ledger_works(path: Path) -> str:
    """Whether the ledger can be read, and its file and folder can be written; a sentence where not."""
    if not path.is_file():
        return "there is no ledger yet"
    try:
        with closing(LedgerBrowser(path)) as ledger:
            ledger.counts()
    except (LedgerUnusable, OutOfSpace):
        return "the ledger cannot be read"
    return _is_writable(path.parent, "data") or ("" if os.access(path, os.W_OK) else "the ledger cannot be written")
