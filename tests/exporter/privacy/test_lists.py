"""Lists of patients from outside: refused where they cannot be right, and decisive where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydicom.dataset import Dataset

from exporter.errors import PrivacyUnknown, SkipInstance, SkipReason
from exporter.privacy.lists import ExcludedPatients, GivenPseudonyms, ListUnusable, PatientLists, read_table
from exporter.privacy.pseudonyms import PATIENT, Pseudonyms

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"k" * 32


def header(patient: str, study: str) -> Dataset:
    data_set = Dataset()
    data_set.PatientID, data_set.StudyInstanceUID = patient, study
    return data_set


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xef\xbb\xbf\r\n", b"\xff\xfe\x00"])
def test_a_list_of_nobody_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "exclude.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ListUnusable) as refused:
        ExcludedPatients.read(path)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)


def test_patients_and_studies_of_the_list_are_skipped_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "exclude.txt"
    path.write_bytes(b"\xef\xbb\xbfP 1 \r\n\r\n1.2.3\r\n")
    excluded = ExcludedPatients.read(path)
    for forbidden in (header("P 1", "9"), header("other", "1.2.3")):
        with pytest.raises(SkipInstance) as skipped:
            excluded.refuse(forbidden)
        assert skipped.value.reason is SkipReason.EXCLUDED
        assert "P 1" not in str(skipped.value)
        assert "1.2.3" not in str(skipped.value)
    excluded.refuse(header("P 11", "1.2.3.4"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "first row"),
        ("id,name\nSECRET,b\n", "first row"),
        ("original,pseudonym\n", "no rows"),
        ("original,pseudonym\nSECRET\n", "row 2"),
        ("original,pseudonym\nSECRET,\n", "row 2"),
        ("original,pseudonym\nSECRET,a\\b\n", "row 2"),
        (f"original,pseudonym\nSECRET,{'x' * 65}\n", "row 2"),
        ("original,pseudonym\nSECRET,a\nSECRET,b\n", "row 3"),
        ("original,pseudonym\nSECRET,a\nother,SECRET\n", "also the original"),
    ],
)
def test_a_table_with_a_fault_is_refused_in_one_sentence_without_its_values(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(ListUnusable, match=message) as refused:
        read_table(path)
    assert refused.value.exit_code == 2
    assert "SECRET" not in str(refused.value)


def test_a_table_gives_the_pseudonyms_of_patients_and_of_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("original,pseudonym\nP1,S-001\n")
    given, plain = GivenPseudonyms(KEY, read_table(path)), Pseudonyms(KEY)
    assert given.of(PATIENT, " P1 ") == "S-001"
    assert given.of("identifier", "P1") == plain.of("identifier", "P1")
    assert given.uid("1.2.3") == plain.uid("1.2.3")
    with pytest.raises(PrivacyUnknown, match="is not in the table"):
        given.of(PATIENT, "P2")


def test_lists_recognise_lines_by_original_and_by_pseudonym() -> None:
    keyed = Pseudonyms(KEY)
    lists = PatientLists(KEY, ExcludedPatients(frozenset(["P1", "1.2.3"])), None)
    assert lists.forbids("P1", "", None)
    assert lists.forbids(keyed.of(PATIENT, "P1"), "", None)
    assert lists.forbids("S-001", "", keyed.of(PATIENT, "P1"))
    assert lists.forbids("", keyed.uid("1.2.3"), None)
    assert not lists.forbids(keyed.of(PATIENT, "P2"), keyed.uid("1.2.4"), None)


def test_a_table_forbids_every_pseudonym_that_it_no_longer_gives_to_that_patient() -> None:
    keyed = Pseudonyms(KEY)
    lists = PatientLists(KEY, None, {"P1": "S-001", "P2": "S-002"})
    assert not lists.forbids("S-001", "", keyed.of(PATIENT, "P1"))
    assert lists.forbids("S-002", "", keyed.of(PATIENT, "P1"))  # it is another's now
    assert lists.forbids("S-003", "", keyed.of(PATIENT, "P3"))
    assert lists.forbids(keyed.of(PATIENT, "P1"), "", None)  # exported before there was a table


def test_the_digest_says_whether_lists_changed_and_not_who_is_in_them() -> None:
    one = PatientLists(KEY, ExcludedPatients(frozenset(["P1", "P2"])), None).digest
    assert one == PatientLists(KEY, ExcludedPatients(frozenset(["P2", "P1"])), None).digest
    assert one != PatientLists(KEY, ExcludedPatients(frozenset(["P1"])), None).digest
    assert one != PatientLists(b"o" * 32, ExcludedPatients(frozenset(["P1", "P2"])), None).digest
    assert PatientLists(KEY, None, None).digest == 0
