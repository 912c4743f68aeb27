"""Identifiers of Orthanc: SHA-1 in five groups of eight digits, UUIDs of attachments, MD5 sums.

Contract: what comes from the wire becomes bytes of fixed length here or is refused; it goes back into a URL only in the
form that is made here from those bytes.
"""

from __future__ import annotations

import re
from typing import Final

IDENTIFIER: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
UUID: Final = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
MD5: Final = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)


def resource_id(value: object) -> bytes | None:
    """The identifier of a patient, study, series or instance as 20 bytes; None for other text."""
    return _unhex(value, IDENTIFIER)


def attachment_uuid(value: object) -> bytes | None:
    """The UUID of an attachment as 16 bytes; None for other text."""
    return _unhex(value, UUID)


def md5_sum(value: object) -> bytes | None:
    """An MD5 sum as 16 bytes; None for other text."""
    return _unhex(value, MD5)


def spelled(resource: bytes) -> str:
    """An identifier as Orthanc spells it."""
    text = resource.hex()
    return "-".join(text[start : start + 8] for start in range(0, 40, 8))


def _unhex(value: object, pattern: re.Pattern[str]) -> bytes | None:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        return None
    return bytes.fromhex(value.replace("-", ""))
