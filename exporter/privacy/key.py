"""The key of pseudonyms: a file that only its owner reads, and a fingerprint by which a key is recognised.

Must never: put a byte of the key into a message, or make a key that nobody keeps.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from typing import TYPE_CHECKING, Final

from listener.foundation.durable import fsync_folder, partial_name
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.settings.settings import PrivacySettings

LEAST_KEY_BYTES: Final = 32
MOST_KEY_BYTES: Final = 4096
_HINT: Final = "make one with `umask 077; openssl rand -hex 32 > FILE` and keep a copy"
_FINGERPRINT_DIGITS: Final = 16


class KeyUnusable(Unusable):
    """A key file holds no key that may be used; the sentence says why and what to do."""

    exit_code = 2


class KeyChanged(KeyUnusable):
    """An output or a run was begun with another key: its pseudonyms would not agree with those of this key."""


def read_key(path: Path, least_bytes: int = LEAST_KEY_BYTES, *, is_private: bool = True) -> bytes:
    """The key in a file: its bytes without white space around them, so that an editor's newline changes nothing.

    Args:
        path: The file.
        least_bytes: Fewest bytes of a key.
        is_private: Whether others than the file's owner must have no access to it.

    Raises:
        KeyUnusable: The file is absent, no regular file, open to others, empty, too short or too long.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NONBLOCK if is_private else 0))
        with os.fdopen(fd, "rb") as file:
            mode = os.fstat(fd).st_mode
            if is_private and not stat.S_ISREG(mode):
                raise KeyUnusable(f"the key file {path} cannot be used", "it is no regular file", _HINT)
            key = file.read(MOST_KEY_BYTES + 1).strip()
    except OSError as error:
        raise KeyUnusable(
            f"the key file {path} cannot be read", error.strerror or type(error).__name__, _HINT
        ) from error
    if is_private and mode & 0o077:
        raise KeyUnusable(
            f"the key file {path} cannot be used",
            f"its mode {stat.S_IMODE(mode):04o} gives others access",
            "permitted is 0600: `chmod 600` it, and make a new key if others may have read it",
        )
    if not least_bytes <= len(key) <= MOST_KEY_BYTES:
        raise KeyUnusable(
            f"the key file {path} holds no key",
            f"it has {len(key) if len(key) <= MOST_KEY_BYTES else f'over {MOST_KEY_BYTES}'} bytes, permitted are"
            f" {least_bytes} to {MOST_KEY_BYTES}",
            _HINT,
        )
    return key


def make_key(path: Path) -> None:
    """Make a key file where there is none: 32 random bytes as hexadecimal digits, complete or not there at all.

    Of several processes that make it at once the first counts.

    Raises:
        OSError: It cannot be kept there.
    """
    if path.exists():
        return
    partial = partial_name(path, "partial")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(f"{secrets.token_hex(LEAST_KEY_BYTES)}\n".encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        _link_if_first(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    fsync_folder(path.parent)


def _link_if_first(partial: Path, path: Path) -> None:
    """Give a complete file its name, unless another process was first."""
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.exists():
            partial.rename(path)


def key_of(privacy: PrivacySettings) -> bytes:
    """The key of the settings.

    Raises:
        KeyUnusable: There is none that can be used.
    """
    assert privacy.key_file is not None  # noqa: S101 - the settings have no profile without it
    return read_key(privacy.key_file)


def fingerprint(key: bytes) -> str:
    """16 hexadecimal digits that differ between keys and say nothing else about one."""
    return hmac.digest(key, b"fingerprint\0", "sha256").hex()[:_FINGERPRINT_DIGITS]


def check_fingerprint(key: bytes, noted: str, output: Path | None = None) -> None:
    """Do nothing if this is the key whose fingerprint was noted.

    Args:
        key: The key that was read.
        noted: Its fingerprint, as an output keeps it, or this run's start-up check.
        output: Folder of the output, for the message; None where the check was that of this run.

    Raises:
        KeyChanged: It is another key.
    """
    found = fingerprint(key)
    if hmac.compare_digest(found.encode(), noted.encode("utf-8", "replace")):
        return
    if output is None:
        raise KeyChanged("the key file was changed while the exporter runs", f"its fingerprint is {found} now")
    raise KeyChanged(
        f"the output {output} was begun with another key",
        f"its fingerprint differs from this key's {found}",
        "name that key with `privacy.key_file`, or another output folder",
    )
