"""What holds for new associations: the settings, with every file that they name read.

Contract: `terms_of` gives a frozen whole that replaces an earlier one, or raises `SourceUnusable` and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from listener.sources.contract import SourceUnusable
from listener.sources.dimse.negotiation import AddressRules, Credentials, Policy
from listener.sources.dimse.peer_names import PeerNames
from listener.sources.dimse.tls import server_context

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from listener.settings import ListenerSection


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for new associations; replaced as a whole when the configuration is read again."""

    settings: ListenerSection
    policy: Policy
    tls: ssl.SSLContext | None
    names: PeerNames


def terms_of(settings: ListenerSection, key: bytes) -> Terms:
    """What the settings say, with every file they name read now.

    Args:
        settings: The section `listener`.
        key: What names of peers are hashed with in logs.

    Raises:
        SourceUnusable: A certificate or a passcode cannot be read.
    """
    context = server_context(settings.tls) if settings.tls is not None else None
    users = tuple(_credentials(user.name, user.passcode_file) for user in settings.users)
    return Terms(settings, Policy(settings, AddressRules(settings.peers), users), context, PeerNames(settings, key))


def _credentials(name: str, passcode_file: Path | None) -> Credentials:
    if passcode_file is None:
        return Credentials(name.encode(), None)
    try:
        with passcode_file.open("rb") as file:
            return Credentials(name.encode(), file.readline().rstrip(b"\r\n"))
    except OSError as error:
        raise SourceUnusable(f"the passcode file {passcode_file} cannot be read: {error.strerror}") from error
