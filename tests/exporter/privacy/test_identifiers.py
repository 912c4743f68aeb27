from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from exporter.errors import PrivacyUnknown
from exporter.privacy.identifiers import CollectedIdentifiers, collect_identifiers
from exporter.privacy.pseudonyms import Pseudonyms
from exporter.privacy.rules import PrivacyOption

ENCODINGS = ("ascii", "utf-8", "latin-1", "utf-16-le", "utf-16-be")


def _instance() -> Dataset:
    instance, inner = Dataset(), Dataset()
    instance.SpecificCharacterSet = "ISO_IR 100"
    instance.SOPClassUID, instance.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.826.0.1.77.1"
    instance.PatientName, instance.PatientID, instance.PatientBirthDate = "Müller^Anna", "000-4711-9", "19310203"
    instance.StationName, instance.StudyID = "JANE7", "512"
    instance.SeriesNumber, instance.Rows = 12345678, 512
    inner.PerformingPhysicianName, inner.AccessionNumber = "Wu^Li", "ACC20177"
    inner.StudyDate = "20200229"
    instance.RequestAttributesSequence = [inner]
    return instance


@pytest.fixture
def found() -> CollectedIdentifiers:
    return collect_identifiers(_instance())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Müller", "name"),
        ("seen by MULLER.", "name"),
        ("anna müller", "name"),
        ("Müller, Anna", "name"),
        ("file_MullerAnna_7", "name"),
        ("of Wu, Li", "name"),
        ("id 000-4711-9", "identifier"),
        ("id 00047119", "identifier"),
        ("station 7 of JANE7", "identifier"),
        ("acc20177", "identifier"),
        ("born 3.2.1931", "date"),
        ("1931-02-03T00:00", "date"),
        ("19310203", "date"),
        ("03 Feb 1931", "date"),
        ("February is feb 29, 2020", "date"),
        ("02/29/2020", "date"),
        ('"1.2.826.0.1.77.1"', "uid"),
    ],
)
def test_a_spelling_in_text_is_found(found: CollectedIdentifiers, text: str, kind: str) -> None:
    assert kind in found.found_in_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "line",
        "annals",
        "2.25.119310203991",
        "1247119",
        "0.00047119",
        "li",
        "1.2.840.10008.5.1.4.1.1.2",
        "512",
        "12345678",
        "20200228",
    ],
)
def test_what_is_part_of_another_word_or_identifies_nobody_is_not_found(found: CollectedIdentifiers, text: str) -> None:
    assert found.found_in_text(text) == frozenset()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("text", "kind"), [("ACC20177", "identifier"), ("19310203", "date"), ("1.2.826.0.1.77.1", "uid")]
)
def test_a_spelling_in_bytes_is_found_in_every_encoding(
    found: CollectedIdentifiers, text: str, kind: str, encoding: str
) -> None:
    assert kind in found.found_in_bytes(b"\xff\xd8\x00" + text.encode(encoding) + b"\x00\x01")


@given(
    st.binary(max_size=60).filter(lambda raw: not set(raw[-2:]) & set(b"0123456789")),
    st.binary(max_size=60).filter(lambda raw: not set(raw[:2]) & set(b".0123456789")),
    st.sampled_from(["acc20177", "ACC20177", "19310203", "1931-02-03", "1.2.826.0.1.77.1"]),
    st.sampled_from(ENCODINGS),
)
def test_a_spelling_is_found_between_any_bytes(before: bytes, after: bytes, text: str, encoding: str) -> None:
    assert collect_identifiers(_instance()).found_in_bytes(before + text.encode(encoding) + after)


@pytest.mark.parametrize("encoding", ENCODINGS[1:])
@pytest.mark.parametrize("name", ["Müller", "MÜLLER", "müller^anna"])
def test_a_name_with_diacritics_is_found_in_bytes(found: CollectedIdentifiers, name: str, encoding: str) -> None:
    assert "name" in found.found_in_bytes(b"\x01\x02" + name.encode(encoding) + b"\x03\x00")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_shortest_spelling_is_found_in_bytes_of_every_encoding(encoding: str) -> None:
    instance = Dataset()
    instance.AccessionNumber = "JANE77"
    found = collect_identifiers(instance)
    assert found.found_in_bytes(b"\xff" + "Jane77".encode(encoding) + b"\xff") == {"identifier"}


def test_short_names_are_not_searched_for_in_bytes(found: CollectedIdentifiers) -> None:
    assert found.found_in_bytes(b"\x00li\x00wu\x00anna") == frozenset()
    assert "name" in found.found_in_text("anna")


def test_a_number_within_a_longer_number_is_another_one(found: CollectedIdentifiers) -> None:
    assert found.found_in_bytes(b"2.25.1193102039912345") == frozenset()
    assert found.found_in_bytes("1193102039".encode("utf-16-le")) == frozenset()


@pytest.mark.parametrize(
    ("term", "name"),
    [
        ("ISO 2022 IR 87", "Yamada^Tarou=山田^太郎"),
        ("GB18030", "Wang^XiaoDong=王^小东东"),
        ("ISO_IR 126", "Διονυσιος"),
    ],
)
def test_names_are_found_in_the_encoding_of_the_original_and_in_utf_8(term: str, name: str) -> None:
    instance = Dataset()
    instance.SpecificCharacterSet = ["", term] if term.startswith("ISO 2022") else term
    instance.PatientName = name
    group = name.rpartition("=")[-1]
    found = collect_identifiers(instance)
    assert "name" in found.found_in_text(group.replace("^", " "))
    assert "name" in found.found_in_bytes(group.encode() + b"\0")


def test_dates_and_uids_that_an_option_retains_are_not_identifiers_but_the_birth_date_is() -> None:
    options = (PrivacyOption.RETAIN_UIDS, PrivacyOption.RETAIN_LONGITUDINAL_FULL_DATES)
    found = collect_identifiers(_instance(), frozenset(options))
    assert found.found_in_text("20200229 1.2.826.0.1.77.1") == frozenset()
    assert found.found_in_text("19310203") == {"date"}


def test_a_date_that_another_one_is_shifted_to_and_the_day_of_dummies_are_not_searched_for() -> None:
    instance = Dataset()
    instance.StudyDate, instance.SeriesDate, instance.PatientBirthDate = "20200229", "20200222", "19000101"
    options = frozenset((PrivacyOption.RETAIN_LONGITUDINAL_MODIFIED_DATES,))
    found = collect_identifiers(instance, options, weeks=-1)
    assert found.found_in_text("20200222 19000101") == frozenset()
    assert found.found_in_text("20200229") == {"date"}
    assert collect_identifiers(instance).found_in_text("20200222") == {"date"}


def test_more_names_than_are_searched_for_are_refused() -> None:
    instance = Dataset()
    instance.ReferencedPatientSequence = []
    for number in range(3_000):
        item = Dataset()
        item.PatientName = f"Doe{number:05d}^Jane{number:05d}"
        instance.ReferencedPatientSequence.append(item)
    with pytest.raises(PrivacyUnknown, match="over 20000 spellings"):
        collect_identifiers(instance)


def test_ten_thousand_uids_are_searched_for_at_once(found: CollectedIdentifiers) -> None:
    found.uids.update(f"1.2.826.0.1.78.{number}" for number in range(10_000))
    text = " ".join(f"1.2.826.0.1.79.{number}" for number in range(10_000))
    assert found.found_in_text(text) == found.found_in_bytes(text.encode("utf-16-be")) == frozenset()
    assert found.found_in_text(f"{text} 1.2.826.0.1.78.77.png") == {"uid"}
    assert found.found_in_bytes(f"{text} 1.2.826.0.1.78.77.5".encode("utf-16-le")) == {"uid"}


def test_pseudonyms_of_an_instance_are_not_taken_for_its_identifiers(found: CollectedIdentifiers) -> None:
    pseudonyms = Pseudonyms(b"k" * 32)
    text = " ".join(pseudonyms.uid(f"1.2.826.0.1.77.{number}") for number in range(1_000))
    assert found.found_in_text(text) == frozenset()


def test_a_name_that_is_a_term_is_searched_for_with_the_other_name_and_keeps_texts_out() -> None:
    instance = Dataset()
    instance.PatientName = "Head^Chester"
    found = collect_identifiers(instance)
    assert found.found_in_text('"HEAD"') == frozenset()
    assert found.found_in_text("Chester Head") == {"name"}
    assert {"head", "chester"} <= found.words


@given(st.binary(max_size=200), st.text(max_size=50))
def test_a_search_never_raises(data: bytes, text: str) -> None:
    instance = _instance()
    instance.PatientName = text.replace("\\", "/")
    found = collect_identifiers(instance)
    assert found.found_in_bytes(data) <= {"name", "identifier", "date", "uid"}
    assert found.found_in_text(text + data.decode("latin-1")) <= {"name", "identifier", "date", "uid"}
