"""Key and profiles of de-identification that an output was begun with, which stay the same for all its runs.

Contract: the ledger keeps the fingerprint of the key, and for each called AE title whether its instances are
de-identified. A run that would mix pseudonyms of two keys, or de-identified and other instances of one AE title, in one
output does not start. An AE title that the output does not know yet may have any profile.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from exporter.privacy.key import KeyChanged
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.results.ledger import Ledger
    from exporter.results.ledger.reader import LedgerReader

_KEY: Final = "privacy_key"
_PROFILE: Final = "privacy_profile:"
_SIGN: Final = 1 << 63
"""Fingerprints have 64 bits, numbers of SQLite a sign."""
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}")
_ANOTHER: Final = "choose another output folder"


class DeidentificationChanged(Unusable):
    """An output was begun under another profile of de-identification than the settings have."""

    exit_code = 2


def fingerprint_of(ledger: LedgerReader) -> str | None:
    """Fingerprint of the key that an output was begun with; None without one."""
    kept = ledger.progress().get(_KEY)
    return None if kept is None else f"{kept + _SIGN:016x}"


class RecordedDeidentification:
    """Key and profiles that metadata lines tell of, for a ledger that is made anew."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._profiles: dict[str, bool] = {}

    def add(self, ae_title: str, privacy: object) -> None:
        """Add what one line tells: the AE title as the line has it, and the value of `export.privacy`."""
        told = privacy if isinstance(privacy, dict) else {}
        key = told.get("key")
        if isinstance(key, str) and _FINGERPRINT.fullmatch(key):
            self._key = key
        self._profiles[ae_title] = self._profiles.get(ae_title, False) or bool(told)

    def restore(self, ledger: Ledger) -> None:
        """Record it in the ledger, where instances were de-identified."""
        if self._key is not None:
            ledger.remember(_facts(self._key, self._profiles))


def _facts(fingerprint: str, profiles: Mapping[str, bool]) -> dict[str, int]:
    return {_KEY: int(fingerprint, 16) - _SIGN, **{_PROFILE + title: int(now) for title, now in profiles.items()}}


def keep_to(ledger: Ledger, fingerprint: str | None, profiles: Mapping[str, bool]) -> None:
    """Record key and profiles of a new output; make sure that those of an output that was begun are the same.

    Args:
        ledger: Of the output.
        fingerprint: Of the key; None where nothing is de-identified.
        profiles: Whether instances are de-identified, by the pseudonym of the called AE title; empty for the top level.

    Raises:
        KeyChanged: The output was begun with another key, or with a key where there is none now.
        DeidentificationChanged: It was begun under another profile.
    """
    known = ledger.progress()
    begun_with = fingerprint_of(ledger)
    what = f"the output {ledger.path.parent}"
    if begun_with is not None and fingerprint is None:
        raise KeyChanged(
            f"{what} was begun with `privacy.profile: basic`",
            "its pseudonyms need the key, and the configuration names none",
            f"set profile and key as they were, or {_ANOTHER}",
        )
    if begun_with is not None and begun_with != fingerprint:
        raise KeyChanged(
            f"{what} was begun with another key",
            f"its fingerprint {begun_with} differs from this key's {fingerprint}",
            f"name that key with `privacy.key_file`, or {_ANOTHER}",
        )
    if fingerprint is None:
        return
    before = {key.removeprefix(_PROFILE): bool(value) for key, value in known.items() if key.startswith(_PROFILE)}
    if begun_with is None and not ledger.is_empty:
        before[""] = False
    for title, was in before.items():
        if was != profiles.get(title, profiles[""]):
            raise DeidentificationChanged(
                f"{what} was begun with `privacy.profile: {'basic' if was else 'none'}`"
                + (" for one of the AE titles" if title else ""),
                f"the configuration has {'none' if was else 'basic'}, and one output holds one kind",
                f"set the profile as it was, or {_ANOTHER}",
            )
    new = {title: now for title, now in profiles.items() if before.get(title) != now}
    if new or begun_with is None:
        ledger.remember(_facts(fingerprint, new))
