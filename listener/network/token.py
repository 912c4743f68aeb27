"""The token that an HTTP client shows, as Bearer (RFC 6750) or as the password of Basic (RFC 7617).

Contract: comparing takes the same time whatever was shown. Basic is there for clients that know nothing else; its user
name is not looked at.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import stat
from typing import TYPE_CHECKING, Final

from listener.foundation.errors import SourceUnusable

if TYPE_CHECKING:
    from pathlib import Path

SHORTEST: Final = 16
LONGEST: Final = 4096


def challenge(realm: str) -> str:
    """What an answer 401 says of how to show the token."""
    return f'Bearer realm="{realm}", Basic realm="{realm}", charset="UTF-8"'


class Token:
    """The token of the file, as a hash."""

    def __init__(self, path: Path) -> None:
        """Read the token.

        Raises:
            SourceUnusable: The file cannot be read, or holds no token.
        """
        try:
            with path.open("rb") as file:
                token = file.readline(LONGEST + 1).strip()
        except OSError as error:
            raise SourceUnusable(f"the token file {path} cannot be read: {error.strerror}") from error
        if not SHORTEST <= len(token) <= LONGEST or not all(0x21 <= byte <= 0x7E for byte in token):
            raise SourceUnusable(
                f"the first line of the token file {path} must be a token of {SHORTEST} printable ASCII characters or "
                "more; `openssl rand -hex 32` makes one"
            )
        self._hash = hashlib.sha256(token).digest()

    def is_shown_by(self, authorization: bytes) -> bool:
        """Whether the value of an Authorization header shows the token."""
        scheme, _, credentials = authorization.strip().partition(b" ")
        shown = credentials.strip()
        if scheme.lower() == b"basic":
            try:
                shown = base64.b64decode(shown, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(hashlib.sha256(shown).digest(), self._hash)


def is_open_to_others(path: Path) -> bool:
    """Whether others than its owner and its group may read or change a file."""
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o007)
    except OSError:
        return False
