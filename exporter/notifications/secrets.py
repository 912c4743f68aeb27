"""Passwords, secrets of signatures and secret addresses, from files that their owner alone can read.

Contract: a message names the key and the file, never what is in it. Files are read for every use, so that a new
password needs no restart.

Source: Standard Webhooks (standardwebhooks.com), "Signature scheme": secrets of 24 to 64 bytes, in base64 after
``whsec_``.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from typing import TYPE_CHECKING, Final

from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from pathlib import Path

LONGEST: Final = 4096
SHORTEST_SIGNING: Final = 24
_ENCODED: Final = "whsec_"


class SecretUnusable(Unusable):
    """A file that holds a secret cannot be used."""

    exit_code = 2


def secret_line(path: Path, key: str) -> str:
    """The first line of a file that only its owner can read.

    Args:
        path: The file.
        key: Key of the configuration that names it.

    Raises:
        SecretUnusable: It cannot be read, others can read it, or its first line is no secret.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            line = file.readline(LONGEST + 1)
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise SecretUnusable(f"`{key}` {path} cannot be read: {cause}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise SecretUnusable(f"`{key}`: others can read {path}; keep it from them: chmod 600 {path}")
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    if not text or len(line) > LONGEST or not text.isprintable():
        raise SecretUnusable(f"`{key}`: the first line of {path} is empty, too long or holds a control character")
    return text


def signing_secret(path: Path, key: str) -> bytes:
    """The secret of signatures in a file.

    Raises:
        SecretUnusable: See `secret_line`; or it is too short, or no base64 after ``whsec_``.
    """
    text = secret_line(path, key).strip()
    try:
        secret = base64.b64decode(text.removeprefix(_ENCODED), validate=True) if text.startswith(_ENCODED) else None
    except (binascii.Error, ValueError):
        secret = b""
    secret = text.encode() if secret is None else secret
    if len(secret) < SHORTEST_SIGNING:
        raise SecretUnusable(
            f"`{key}`: the first line of {path} must be a secret of {SHORTEST_SIGNING} characters or more, or"
            f" {_ENCODED} and the base64 of as many bytes; `openssl rand -hex 32` makes one"
        )
    return secret
