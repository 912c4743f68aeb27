"""Text that is shown can neither move a cursor nor begin another line."""

from __future__ import annotations

import unicodedata

import pytest

from listener.printable import printable


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
