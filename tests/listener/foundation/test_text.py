"""Text that is shown or written can neither move a cursor, nor begin another line, nor become a formula."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from functools import cache
from xml.etree import ElementTree as ET

import pytest

from listener.foundation.text import csv_text, json_escaped, printable, text_line, text_lines, xml_text


def test_no_character_that_acts_on_a_terminal_or_a_line_comes_through() -> None:
    acting = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    through = [
        code
        for code in range(0x110000)
        if unicodedata.category(chr(code)) in acting and printable(chr(code)) == chr(code)
    ]
    assert through == []


@pytest.mark.parametrize("text", ["", "plain text", "Grüße, 日本語", "a\\b 'c' {d} %s"])
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_escapes_say_what_was_there() -> None:
    assert printable("a\nb\x1b[31m\u202e\ud800") == "a\\nb\\x1b[31m\\u202e\\ud800"


@cache
def every_character() -> str:
    return "".join(map(chr, range(0x110000)))


def test_a_line_of_a_document_has_no_acting_character_either_but_the_spaces_and_joiners_of_all_scripts() -> None:
    through = {c for c in every_character() if text_line(c) == c and not c.isprintable()}
    assert {unicodedata.category(c) for c in through} == {"Zs", "Cf"}
    assert {c for c in through if unicodedata.category(c) == "Cf"} == {"\u200c", "\u200d"}
    assert {c for c in every_character() if unicodedata.category(c) == "Zs"} - {" "} <= through


def test_lines_of_a_text_are_those_of_dicom_and_none_is_lost() -> None:
    assert text_lines("a\r\nb\nc\rd\n\ne\n") == ["a", "b", "c", "d", "", "e"]
    assert text_lines("a\x0bb\x0cc\x85d\u2028e\tf") == ["a\\x0bb\\x0cc\\x85d\\u2028e    f"]
    assert text_lines("") == []


@pytest.mark.parametrize("mark", "=+-@\uff1d\uff0b\uff0d\uff20")
@pytest.mark.parametrize("before", ["", "  ", "\u3000"])
def test_no_cell_begins_a_formula(mark: str, before: str) -> None:
    assert csv_text(f"{before}{mark}1") == f"'{before}{mark}1"
    assert csv_text(f"1{mark}1") == f"1{mark}1"


def test_a_row_of_anything_at_all_is_one_row_of_as_many_cells() -> None:
    cells = [csv_text(every_character()[at : at + 50]) for at in range(0, 0x3000, 50)]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerow(cells)
    assert list(csv.reader(io.StringIO(file.getvalue()))) == [cells]
    assert len(file.getvalue().splitlines()) == 1


def test_xml_of_anything_at_all_is_well_formed_and_holds_the_text() -> None:
    written = xml_text(every_character())
    root = ET.fromstring(f"<a b='{written}' c=\"{written}\">{written}</a>")  # noqa: S314 - our own
    assert root.text == root.get("b") == root.get("c") == text_line(every_character())


def test_json_says_the_same_without_what_terminals_obey() -> None:
    text = json.dumps(every_character()[0x80:0xD800] + "\x7f", ensure_ascii=False).encode()
    escaped = json_escaped(text)
    assert json.loads(escaped) == json.loads(text)
    assert not set("\x7f\x85\x9b\u202e\u2028\ufeff") & set(escaped.decode())
