"""Keyed names of folders and media: 56 hexadecimal digits that reveal nothing of the patient.

Contract: the same key and the same input give the same name, on every machine; without the key, the patient of a name
cannot be found by trying identifiers. The digest covers the whole path of a file, so that equal file names in
different folders have different names. Source: RFC 2104 (HMAC), FIPS 180-4 (SHA-224).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self

from exporter.inputs.contract import InputUnusable
from exporter.privacy.key import KeyUnusable, make_key, read_key

if TYPE_CHECKING:
    from pathlib import Path

Level = Literal["patient", "study", "series"]
KEY_FILE: Final = "names.key"
_KEY_BYTES: Final = 32
LEVELS: Final[tuple[Level, ...]] = ("patient", "study", "series")


@dataclass(frozen=True, slots=True, repr=False)
class KeyedNames:
    """Makes names with one key."""

    key: bytes

    @classmethod
    def of_folder(cls, output: Path) -> Self:
        """Open the names of an output folder; a random key is made if there is none.

        For the same names in another output folder, copy the key file there before its first run.

        Raises:
            InputUnusable: The key file holds no key.
            KeyUnusable: It cannot be read.
            OSError: It cannot be made.
        """
        path = output / KEY_FILE
        make_key(path)
        try:
            key = bytes.fromhex(read_key(path, is_private=False).decode("ascii"))
        except KeyUnusable as error:
            if isinstance(error.__cause__, OSError):
                raise
            key = b""
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            hint = "put the right one back, or remove it: every name is then another"
            raise InputUnusable(f"{path} holds no key of {_KEY_BYTES * 2} hexadecimal digits; {hint}")
        return cls(key)

    def mirrored(self, file: str, identifiers: tuple[str, str, str], level: Level) -> str:
        """Path of the media of a file without extension: a folder per patient, study and series down to `level`.

        Args:
            file: Path of the input file, relative to the input folder.
            identifiers: Patient ID, Study and Series Instance UID; empty where the instance has none.
            level: The last folder.
        """
        patient, study, series = identifiers
        # Patients without an ID must not share a folder: their studies stand for them.
        owner = patient or f"study {study}" if patient or study else f"file {file}"
        parts = (owner, study, series)[: LEVELS.index(level) + 1]
        folders = [self._name(kind, value) for kind, value in zip(LEVELS, parts, strict=False)]
        return "/".join([*folders, self._name("file", file)])

    def _name(self, kind: str, value: str) -> str:
        message = f"{kind}\0{value}".encode("utf-8", "surrogateescape")
        return hmac.digest(self.key, message, "sha224").hex()
