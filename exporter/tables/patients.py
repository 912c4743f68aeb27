"""Patients of a table: a keyed pseudonym each, and one split for all rows of a patient.

Contract: with one key a patient has one pseudonym, on every machine, in every run and in every order of rows. The split
depends on the patient and the shares alone, on no key, so that every machine agrees without one. A patient is
identified by Patient ID; a row without one by its study, else by its input, so that no study is in two splits.

Pseudonym: that of `exporter.privacy.pseudonyms`, of 32 digits, with the word ``patient`` before a Patient ID.

Split: three fractions are drawn from SHA-256 of the patient. The first places the patient in the reference shares (0.8,
0.1, 0.1). If a split is to be smaller than its reference share, the patients whose second fraction is above the ratio
leave it; the third fraction selects one of the larger splits for them. So only as many patients move as must: from the
reference shares to any others, and between any two shares between which every split only shrinks or only grows against
the reference.

Source: FIPS 180-4 (SHA-256).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from exporter.privacy.key import KeyUnusable, make_key
from exporter.privacy.key import read_key as read_key_file
from exporter.privacy.pseudonyms import PATIENT, Pseudonyms, plain_identifier
from exporter.tables.errors import TableError, TableRequestError

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.tables.lines import Line

SPLITS: Final = ("train", "validation", "test")
REFERENCE_SHARES: Final = (0.8, 0.1, 0.1)
KEY_FILE: Final = "pseudonym.key"
"""Name of the key in a data or output folder."""
LEAST_KEY_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Patient:
    """Patient of a row."""

    pseudonym: str
    split: str


class Patients:
    """Pseudonyms under one key and splits by one set of shares."""

    def __init__(self, key: bytes, shares: tuple[float, float, float] = REFERENCE_SHARES) -> None:
        self._pseudonyms = Pseudonyms(key)
        self._shares = checked_shares(shares)
        self._patient = lru_cache(maxsize=65_536)(self._of_identifier)

    def of(self, line: Line) -> Patient:
        """The patient of a line."""
        for word, key in ((PATIENT, "Patient ID"), ("study", "Study Instance UID"), ("input", "dicom_file")):
            value = line.get(key)
            text = value if isinstance(value, str) else "\\".join(map(str, value)) if isinstance(value, list) else ""
            text = plain_identifier(text)
            if text:
                return self._patient(word, text)
        return self._patient("input", "")

    def pseudonym(self, word: str, identifier: str) -> str:
        """Pseudonym of an identifier of the kind `word`."""
        return self._pseudonyms.of(word, identifier)

    def _of_identifier(self, word: str, identifier: str) -> Patient:
        return Patient(self.pseudonym(word, identifier), split_of(f"{word}\0{identifier}", self._shares))


def split_of(identifier: str, shares: tuple[float, float, float]) -> str:
    """The split of a patient, by the rule at the top of this module."""
    digest = hashlib.sha256(f"split\0{identifier}".encode("utf-8", "surrogatepass")).digest()
    where, stays, goes = (int.from_bytes(digest[at : at + 8]) / (1 << 64) for at in (0, 8, 16))
    home = _place(where, REFERENCE_SHARES)
    if stays < shares[home] / REFERENCE_SHARES[home]:
        return SPLITS[home]
    gains = [max(0.0, new - old) for new, old in zip(shares, REFERENCE_SHARES, strict=True)]
    return SPLITS[_place(goes * sum(gains), gains) if any(gains) else home]


def _place(value: float, widths: tuple[float, ...] | list[float]) -> int:
    """Index of the interval that holds a value; intervals of these widths follow each other from 0."""
    last = 0
    for number, width in enumerate(widths):
        if width:
            last = number
            if value < width:
                return number
        value -= width
    return last


def checked_shares(shares: tuple[float, float, float]) -> tuple[float, float, float]:
    """The shares, after a check that they add up to 1.

    Raises:
        TableRequestError: They do not.
    """
    if not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise TableRequestError(
            f"the shares {', '.join(map(str, shares))} do not add up to 1: give those of train, validation and test,"
            " as in 0.8,0.1,0.1"
        )
    return shares


def read_key(path: Path) -> bytes:
    """Read a key file of tables, which may be shorter than one of de-identification and open to others.

    Raises:
        TableError: There is none that can be used.
    """
    try:
        return read_key_file(path, LEAST_KEY_BYTES, is_private=False)
    except KeyUnusable as error:
        raise TableError(str(error)) from error


def folder_key(folder: Path) -> bytes:
    """Read the key of a data or output folder, made if there is none.

    Raises:
        TableError: There is none, and none can be made.
    """
    path = folder / KEY_FILE
    try:
        make_key(path)
    except OSError as error:
        raise TableError(
            f"the key of pseudonyms cannot be kept as {path}: {error.strerror}; name one with `--key-file`"
        ) from error
    return read_key(path)
