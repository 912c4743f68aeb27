"""Lists from outside: who must not be exported (`privacy.exclude`), and given pseudonyms (`privacy.pseudonyms`).

Contract: a list that cannot be read, or says nothing, is refused before anything runs: an empty list of those who have
opted out would export them all. `PatientLists` decides about metadata lines as the output has them, so that a changed
list can be held against what was exported before.

Must never: put a value of a list into a message.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from exporter.errors import PrivacyUnknown, SkipInstance, SkipReason
from exporter.privacy.key import key_of
from exporter.privacy.pseudonyms import PATIENT, PSEUDONYM_DIGITS, Pseudonyms, plain_identifier
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydicom.dataset import Dataset

    from exporter.settings.settings import PrivacySettings

_MOST_BYTES: Final = 256 << 20
_MOST_CHARACTERS: Final = 64
"""Longest value of VR LO (PS3.5 6.2)."""
HEAD: Final = ("original", "pseudonym")
"""First row of a table of pseudonyms."""


class ListUnusable(Unusable):
    """A list of patients cannot be used: nothing is exported without it."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class ExcludedPatients:
    """Patient IDs and Study Instance UIDs of those who must not be exported."""

    identifiers: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The list in a file: one patient ID or study UID a line; empty lines are passed over.

        Raises:
            ListUnusable: The file cannot be read, or names nobody.
        """
        identifiers = frozenset(filter(None, map(plain_identifier, _text(path, "exclude").splitlines())))
        if not identifiers:
            what, hint = f"the list {path} of `privacy.exclude`", "write one patient ID or study UID a line"
            raise ListUnusable(what, "it names nobody, so that everybody would be exported", hint)
        return cls(identifiers)

    def refuse(self, header: Dataset) -> None:
        """Do nothing for an instance of a patient and a study that are not in the list.

        Raises:
            SkipInstance: Its patient or its study is.
        """
        from exporter.dicom.elements import text_of

        for keyword in ("PatientID", "StudyInstanceUID"):
            if plain_identifier(text_of(header, keyword)) in self.identifiers:
                raise SkipInstance(SkipReason.EXCLUDED, f"{keyword} is in the list `privacy.exclude`")


class GivenPseudonyms(Pseudonyms):
    """Pseudonyms under one key, but for those of patients, which a table gives."""

    def __init__(self, key: bytes, table: Mapping[str, str]) -> None:
        super().__init__(key)
        self._table = table

    def of(self, word: str, identifier: str, digits: int = PSEUDONYM_DIGITS) -> str:
        """See `Pseudonyms`.

        Raises:
            PrivacyUnknown: The table has no pseudonym for the patient.
        """
        if word != PATIENT:
            return super().of(word, identifier, digits)
        found = self._table.get(plain_identifier(identifier))
        if found is None:
            raise PrivacyUnknown("(0010,0020) Patient ID is not in the table `privacy.pseudonyms`")
        return found

    def patient_beside(self, patient: str) -> str | None:
        """See `Pseudonyms`.

        Raises:
            PrivacyUnknown: The table has no pseudonym for the patient.
        """
        self.of(PATIENT, patient)
        return super().of(PATIENT, patient)


def read_table(path: Path) -> dict[str, str]:
    """Pseudonyms by original patient ID, from a CSV file with the columns `original` and `pseudonym`.

    Raises:
        ListUnusable: The file cannot be read, or a row cannot be used.
    """
    what, wrong = f"the table {path} of `privacy.pseudonyms`", "the table must be complete: mend it"
    rows = csv.reader(_text(path, "pseudonyms").splitlines())
    head = tuple(cell.strip().lower() for cell in next(rows, ()))
    if head != HEAD:
        raise ListUnusable(what, f"its first row is not `{','.join(HEAD)}`", "write these names there")
    table: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        original, pseudonym = (*map(plain_identifier, row), "", "")[:2]
        if not row:
            continue
        if len(row) != len(HEAD) or not original or not pseudonym:
            raise ListUnusable(what, f"row {number} does not have two values", wrong)
        if len(pseudonym) > _MOST_CHARACTERS or "\\" in pseudonym or not pseudonym.isprintable():
            raise ListUnusable(what, f"the pseudonym of row {number} is no Patient ID (VR LO, PS3.5 6.2)", wrong)
        if table.setdefault(original, pseudonym) != pseudonym:
            raise ListUnusable(what, f"row {number} gives another pseudonym to a patient of an earlier row", wrong)
    if not table:
        raise ListUnusable(what, "it has no rows", "nobody could be exported: fill it, or take it out")
    if table.keys() & set(table.values()):
        raise ListUnusable(what, "a pseudonym is also the original of a patient", "choose pseudonyms that are no IDs")
    return table


def pseudonyms_of(privacy: PrivacySettings, key: bytes) -> Pseudonyms:
    """Pseudonyms as the settings say: of the key, and of the table where there is one.

    Raises:
        ListUnusable: The table cannot be used.
    """
    return Pseudonyms(key) if privacy.pseudonyms is None else GivenPseudonyms(key, read_table(privacy.pseudonyms))


def excluded_of(privacy: PrivacySettings) -> ExcludedPatients | None:
    """Those who must not be exported; None where the settings name no list.

    Raises:
        ListUnusable: The list cannot be used.
    """
    return None if privacy.exclude is None else ExcludedPatients.read(privacy.exclude)


class PatientLists:
    """Both lists, as they are held against lines that were written before they changed."""

    def __init__(self, key: bytes | None, excluded: ExcludedPatients | None, table: Mapping[str, str] | None) -> None:
        """Hold the lists against lines.

        Args:
            key: Of the pseudonyms in lines; None where lines hold originals.
            excluded: Who must not be there.
            table: Pseudonyms by original; None where none were given.
        """
        pseudonyms = Pseudonyms(key) if key is not None else None
        self._patients: set[str] = set()
        self._studies: set[str] = set()
        for identifier in excluded.identifiers if excluded is not None else ():
            self._patients.add(identifier)
            self._studies.add(identifier)
            if pseudonyms is not None:
                self._patients.add(pseudonyms.of(PATIENT, identifier))
                self._studies.add(pseudonyms.uid(identifier))
        self._given: dict[str, str] | None = None
        if pseudonyms is not None and table is not None:
            self._given = {pseudonyms.of(PATIENT, original): given for original, given in table.items()}
        self.digest = self._digest(key, excluded, table)
        """Number that differs between lists; 0 without any."""

    @classmethod
    def of(cls, privacy: PrivacySettings) -> Self:
        """The lists of the settings.

        Raises:
            KeyUnusable: The key file cannot be used.
            ListUnusable: A list cannot be used.
        """
        key = key_of(privacy) if privacy.key_file is not None else None
        table = read_table(privacy.pseudonyms) if privacy.pseudonyms is not None else None
        return cls(key, excluded_of(privacy), table)

    @staticmethod
    def _digest(key: bytes | None, excluded: ExcludedPatients | None, table: Mapping[str, str] | None) -> int:
        if excluded is None and table is None:
            return 0
        lines = [f"x{one}" for one in excluded.identifiers] if excluded is not None else []
        lines += [f"p{original}\0{given}" for original, given in table.items()] if table is not None else []
        text = "\n".join(sorted(lines)).encode("utf-8", "surrogatepass")
        # Keyed where there is a key: a list of one could be found by trying.
        digest = hmac.digest(key, b"lists\0" + text, "sha256") if key is not None else hashlib.sha256(text).digest()
        return 1 + int.from_bytes(digest[:7])

    def forbids(self, patient: str, study: str, keyed_patient: str | None) -> bool:
        """Whether an instance must not be in the output.

        Args:
            patient: Patient ID in its line.
            study: Study Instance UID in its line.
            keyed_patient: Pseudonym of its patient under the key, where a table gave the one in the line.
        """
        keyed = keyed_patient or patient
        if keyed in self._patients or patient in self._patients or study in self._studies:
            return True
        return self._given is not None and self._given.get(keyed) != patient


def _text(path: Path, setting: str) -> str:
    """Text of a list, in UTF-8, with or without a byte order mark.

    Raises:
        ListUnusable: It cannot be read.
    """
    what = f"the file {path} of `privacy.{setting}` cannot be read"
    hint = "nothing is exported without it"
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ListUnusable(what, f"it has more than {_MOST_BYTES} bytes", hint)
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ListUnusable(what, error.strerror or type(error).__name__, hint) from error
    except UnicodeDecodeError:
        raise ListUnusable(what, "it is not UTF-8", hint) from None
