"""The profile of de-identification that the settings name: its key, its options, and what it does to one instance.

Contract: `checked_fingerprint` is the check at start-up, in every process that reads the settings. Worker processes get
the path of the key file over their pipe, never its bytes, and the fingerprint that the check found: a worker that finds
another key does not start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.privacy.key import fingerprint, read_key
from exporter.privacy.pixels.text_search import Tesseract
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from exporter.settings.settings import PrivacySettings, Settings


class TextDetectionMissing(Unusable):
    """The program of `privacy.ocr` is not installed."""

    exit_code = 2


def checked_fingerprint(settings: Settings) -> str | None:
    """Check the key and the programs of de-identification.

    Returns:
        Fingerprint of the key; None where no instance is de-identified.

    Raises:
        KeyUnusable: The key file cannot be used.
        TextDetectionMissing: A program that the settings name is not installed.
    """
    if not settings.deidentifies:
        return None
    for one in (settings, *settings.by_ae_title.values()):
        if one.privacy.profile != "none":
            text_finder(one.privacy)
    return fingerprint(key_of(settings.privacy))


def key_of(privacy: PrivacySettings) -> bytes:
    """The key of the settings.

    Raises:
        KeyUnusable: There is none that can be used.
    """
    assert privacy.key_file is not None  # noqa: S101 - the settings have no profile without it
    return read_key(privacy.key_file)


def text_finder(privacy: PrivacySettings) -> Tesseract | None:
    """The program of `privacy.ocr`; None where none is wanted.

    Raises:
        TextDetectionMissing: It is not installed.
    """
    if privacy.ocr == "none":
        return None
    found = Tesseract.installed()
    if found is None:
        raise TextDetectionMissing(
            "the program tesseract of `privacy.ocr` is not on the path",
            "pictures could not be searched for text",
            "install it (Debian: tesseract-ocr), or set `privacy.ocr: none`",
        )
    return found
