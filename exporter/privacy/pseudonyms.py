"""Keyed pseudonyms without state: one key gives one pseudonym for one value, on every machine, in every run.

Pseudonym: the first hexadecimal digits of HMAC-SHA-256(key, word NUL identifier), the identifier in NFC without spaces
around it, in UTF-8. The word says what kind of identifier it is, so that none can stand for another.

UID: 2.25 and the number of a UUID of version 8 made of the first 16 bytes of the same digest (RFC 9562 5.8, PS3.5 B.2).

Date shift: 1 to 520 whole weeks into the past for each patient, so that weekdays and intervals stay and no date is the
original one.

Source: RFC 2104 (HMAC), FIPS 180-4 (SHA-256).
"""

from __future__ import annotations

import hmac
import unicodedata
import uuid
from functools import lru_cache
from typing import Final

PSEUDONYM_DIGITS: Final = 32
MOST_WEEKS: Final = 520
PATIENT: Final = "patient"
UID: Final = "uid"
IDENTIFIER: Final = "identifier"
CONTENT: Final = "content"
SOURCE: Final = "source"
_WEEKS: Final = "weeks"


def plain_identifier(identifier: str) -> str:
    """An identifier as it is compared: in NFC, without spaces and NULs around it."""
    return unicodedata.normalize("NFC", identifier).replace("\0", " ").strip()


class Pseudonyms:
    """Pseudonyms under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._digest = lru_cache(maxsize=65_536)(self._keyed)

    def _keyed(self, word: str, identifier: str) -> bytes:
        message = f"{word}\0{plain_identifier(identifier)}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, message, "sha256")

    def of(self, word: str, identifier: str, digits: int = PSEUDONYM_DIGITS) -> str:
        """Pseudonym of an identifier in hexadecimal digits; `word` says of what kind the identifier is."""
        return self._digest(word, identifier).hex()[:digits]

    def patient_beside(self, patient: str) -> str | None:  # noqa: ARG002 - of those that a table gives
        """Pseudonym of a patient under the key, to be kept beside one of another origin; None where that is it."""
        return None

    def uid(self, uid: str) -> str:
        """The UID that stands for another one; references between instances hold."""
        raw = bytearray(self._digest(UID, uid)[:16])
        raw[6] = raw[6] & 0x0F | 0x80
        raw[8] = raw[8] & 0x3F | 0x80
        return f"2.25.{uuid.UUID(bytes=bytes(raw)).int}"

    def weeks(self, patient: str) -> int:
        """Whole weeks by which the dates of a patient are shifted: -520 to -1."""
        return -1 - int.from_bytes(self._digest(_WEEKS, patient)[:8]) % MOST_WEEKS
