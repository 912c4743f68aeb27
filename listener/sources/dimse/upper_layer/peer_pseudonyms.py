"""What a peer calls itself, as it may be shown in logs.

An AE title and an implementation's name are whatever a peer writes into its request: seen in the field are patients'
names, and a log is read by more people than an archive. So a word is shown as it is only where it is no news: an AE
title that the configuration names, an implementation that is widely used. Any other is shown as a keyed hash, the same
for the same word, so that operators can tell senders apart, follow one through the log, and find out by their
addresses who they are. Naming an AE title under `listener.peers` makes it readable.

Contract: a pure function of the word, the configuration and the key. The key is made once per spool and kept there, so
that a hash means the same tomorrow; without it nobody can try out words.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from listener.settings.listener import ListenerSection

KEY: Final = "names.key"
KEY_BYTES: Final = 32
_IMPLEMENTATION: Final = re.compile(
    r"(OFFIS_DCMTK|PYNETDICOM|PYDICOM|dcm4che|ORTHANC|GDCM|fo-dicom|MergeCOM3|CLEARCANVAS|HOROS|OSIRIX|DICOM-RS"
    r"|DCM4CHEE|DICOMObjects)[ _./-]?[vV]?[0-9]{0,4}(?:[._-][0-9]{1,3}){0,3}",
    re.IGNORECASE,
)
"""Implementation version names of widely used software: a name that is known here, and a version."""


class PeerPseudonyms:
    """The words that are shown as they are, and what stands for the others."""

    def __init__(self, settings: ListenerSection, key: bytes) -> None:
        titles = {peer.ae_title for peer in settings.peers} | {one.ae_title for one in settings.commitment.targets}
        self._known = titles | settings.called_ae_titles
        self._key = key

    def ae_title(self, title: str) -> str:
        """An AE title, or what stands for it."""
        return title if not title or title in self._known else f"ae:{self._hash(title)}"

    def implementation(self, name: str) -> str:
        """An implementation version name, or what stands for it."""
        return name if not name or _IMPLEMENTATION.fullmatch(name) else f"implementation:{self._hash(name)}"

    def _hash(self, word: str) -> str:
        return hmac.new(self._key, word.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:8]


def key_of(spool: Path) -> bytes:
    """The key that is kept in the spool's folder; made there, or for this run alone where it cannot be kept."""
    path = spool / KEY
    with suppress(OSError):
        key = path.read_bytes()
        if len(key) == KEY_BYTES:
            return key
    key = os.urandom(KEY_BYTES)
    partial = spool / f".{KEY}.part"
    with suppress(OSError):
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as file:
            file.write(key)
            os.fsync(fd)
        partial.replace(path)
    return key
