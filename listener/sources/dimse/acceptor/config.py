"""What holds for new associations: the settings, with every file that they name read.

Contract: `terms_of` gives a frozen whole that replaces an earlier one, or raises `SourceUnusable` and changes nothing.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from listener.foundation.errors import SourceUnusable
from listener.network.tls import server_context
from listener.sources.dimse.upper_layer.negotiation import AddressRules, Credentials, NegotiationPolicy
from listener.sources.dimse.upper_layer.peer_pseudonyms import PeerPseudonyms

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from listener.settings.listener import ListenerSection


@dataclass(frozen=True, slots=True)
class AcceptorConfig:
    """What holds for new associations; replaced as a whole when the configuration is read again."""

    settings: ListenerSection
    policy: NegotiationPolicy
    tls: ssl.SSLContext | None
    names: PeerPseudonyms


def acceptor_config(settings: ListenerSection, key: bytes) -> AcceptorConfig:
    """What the settings say, with every file they name read now.

    Args:
        settings: The section `listener`.
        key: What names of peers are hashed with in logs.

    Raises:
        SourceUnusable: A certificate or a passcode cannot be read, or the engine is not installed.
    """
    if settings.engine == "pynetdicom" and importlib.util.find_spec("pynetdicom") is None:
        raise SourceUnusable(
            "listener.engine: the package pynetdicom is not installed; install it, or set `engine: native`"
        )
    context = server_context(settings.tls) if settings.tls is not None else None
    users = tuple(_credentials(user.name, user.passcode_file) for user in settings.users)
    return AcceptorConfig(
        settings,
        NegotiationPolicy(settings, AddressRules(settings.peers), users),
        context,
        PeerPseudonyms(settings, key),
    )


def _credentials(name: str, passcode_file: Path | None) -> Credentials:
    if passcode_file is None:
        return Credentials(name.encode(), None)
    try:
        with passcode_file.open("rb") as file:
            return Credentials(name.encode(), file.readline().rstrip(b"\r\n"))
    except OSError as error:
        raise SourceUnusable(f"the passcode file {passcode_file} cannot be read: {error.strerror}") from error
