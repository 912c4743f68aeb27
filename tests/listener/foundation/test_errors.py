"""Errors for the administrator: one sentence, one exit code, one way to print them."""

from __future__ import annotations

import pytest

from listener.foundation.errors import Unusable


class Refused(Unusable):
    exit_code = 2


class FileRefused(Unusable):
    names_its_file = True


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (("the port 104 is taken",), "the port 104 is taken"),
        (("the spool /s cannot be used", "read-only", "mount it"), "the spool /s cannot be used: read-only; mount it"),
        (("another pull runs", "", "stop it"), "another pull runs; stop it"),
    ],
)
def test_what_cause_and_hint_make_one_sentence(parts: tuple[str, ...], sentence: str) -> None:
    assert str(Unusable(*parts)) == sentence


def test_a_class_says_how_the_command_ends() -> None:
    assert (Unusable("a").exit_code, Refused("a").exit_code) == (1, 2)


def test_every_line_of_a_report_has_the_speaker_before_it() -> None:
    assert Unusable("one\ntwo").report("listener") == "listener: one\nlistener: two\n"


def test_a_report_that_names_its_file_begins_with_the_file() -> None:
    assert FileRefused("a.yaml:3: wrong").report("exporter") == "a.yaml:3: wrong\n"


def test_a_report_moves_no_cursor() -> None:
    assert "\x1b" not in Unusable("the folder \x1b[2J is gone").report("exporter")
