"""What a peer answers is read within bounds: values as they are, `UnreadableAnswer` for the rest."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from exporter.pull.identifiers import UnreadableAnswer, encode, read_answer

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
KEYWORDS = ("PatientName", "StudyInstanceUID", "NumberOfStudyRelatedInstances", "StudyDate", "ModalitiesInStudy")


def made() -> Dataset:
    answer = Dataset()
    answer.SpecificCharacterSet = "ISO_IR 100"
    answer.QueryRetrieveLevel = "STUDY"
    answer.PatientName = "Täst^Nr1"
    answer.StudyInstanceUID = "1.2.3"
    answer.StudyDate = "20200102"
    answer.ModalitiesInStudy = ["CT", "MR"]
    answer.NumberOfStudyRelatedInstances = "3"
    answer.PatientID = "not asked for"
    item = Dataset()
    item.StudyInstanceUID = "9.9"
    answer.ReferencedStudySequence = [item]
    return answer


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_values_are_those_of_the_top_level_in_their_character_set(syntax: str) -> None:
    assert read_answer(encode(made(), syntax), syntax, KEYWORDS) == {
        "PatientName": ("Täst^Nr1",),
        "StudyInstanceUID": ("1.2.3",),
        "NumberOfStudyRelatedInstances": ("3",),
        "StudyDate": ("20200102",),
        "ModalitiesInStudy": ("CT", "MR"),
    }


def test_implicit_vr_under_the_label_of_explicit_vr_is_read_as_what_it_is() -> None:
    assert read_answer(encode(made(), IMPLICIT), EXPLICIT, KEYWORDS)["StudyInstanceUID"] == ("1.2.3",)


def test_a_number_in_binary_is_read_by_its_own_vr() -> None:
    content = struct.pack("<HH2sHH", 0x0020, 0x1208, b"US", 2, 7)
    assert read_answer(content, EXPLICIT, KEYWORDS) == {"NumberOfStudyRelatedInstances": ("7",)}


def test_a_sequence_in_place_of_a_text_says_nothing() -> None:
    content = struct.pack("<HH2sHI", 0x0020, 0x000D, b"SQ", 0, 0)
    assert read_answer(content, EXPLICIT, KEYWORDS) == {}


def test_no_answer_at_all_says_nothing() -> None:
    assert read_answer(b"", EXPLICIT, KEYWORDS) == {}


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("cut", [1, 5, 11])
def test_an_answer_that_is_cut_is_not_half_an_answer(syntax: str, cut: int) -> None:
    with pytest.raises(UnreadableAnswer):
        read_answer(encode(made(), syntax)[:-cut], syntax, KEYWORDS)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_bytes_of_any_kind_are_an_answer_or_unreadable(data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from([EXPLICIT, IMPLICIT]))
    content = bytearray(encode(made(), syntax))
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content += data.draw(st.binary(max_size=40))
    try:
        answer = read_answer(bytes(content), syntax, KEYWORDS)
    except UnreadableAnswer:
        return
    assert all(isinstance(value, str) for values in answer.values() for value in values)
