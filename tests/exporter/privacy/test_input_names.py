"""Names beside the data: keyed, the same for the same input, never shared, found again by who has the key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exporter.inputs.contract import INSIDE
from exporter.privacy.input_names import InputNames, KeyedName
from exporter.privacy.pseudonyms import Pseudonyms

if TYPE_CHECKING:
    from pathlib import Path

KEYED = InputNames(Pseudonyms(b"k" * 32), titles=frozenset(["RESEARCH"]))
PLAIN = InputNames()


def test_without_a_key_every_name_is_what_it_was() -> None:
    assert PLAIN.name("DOE^JOHN/1.dcm") == "DOE^JOHN/1.dcm"
    assert PLAIN.ae_title("RESEARCH") == "RESEARCH"
    assert PLAIN.uid("1.2.3") == "1.2.3"
    assert PLAIN.time(1234) == 1234


def test_a_keyed_name_has_the_depth_of_the_path_and_nothing_of_its_text() -> None:
    name = KEYED.name("DOE^JOHN/2026/1.dcm")
    assert [len(part) for part in name.split("/")] == [32, 32, 32]
    assert "DOE" not in name


def test_inputs_that_lie_together_stay_together_under_every_separator() -> None:
    folder = KEYED.name("a.zip/")
    member = KEYED.name(f"a.zip{INSIDE}x/1.dcm")
    assert folder == f"{KEYED.name('a.zip')}/"
    assert member.startswith(f"{KEYED.name('a.zip')}{INSIDE}")
    assert not KEYED.name("a.zip/x/1.dcm").startswith(f"{KEYED.name('a.zip')}{INSIDE}")


def test_equal_names_in_different_folders_do_not_look_alike() -> None:
    assert KEYED.name("a/1.dcm").split("/")[1] != KEYED.name("b/1.dcm").split("/")[1]


@pytest.mark.parametrize(("one", "other"), [("a ", "a"), ("\u00e9", "e\u0301"), ("A", "a"), ("\udcff", "\udcfe")])
def test_names_that_only_a_file_system_tells_apart_are_two_names(one: str, other: str) -> None:
    assert KEYED.name(one) != KEYED.name(other)


def test_a_keyed_name_is_not_keyed_again() -> None:
    name = KEYED.name("a/1.dcm")
    assert isinstance(name, KeyedName)
    assert KEYED.name(name) == name


def test_another_key_shares_no_name() -> None:
    other = InputNames(Pseudonyms(b"o" * 32), titles=frozenset(["RESEARCH"]))
    assert other.name("a") != KEYED.name("a")
    assert other.ae_title("RESEARCH") != KEYED.ae_title("RESEARCH")


def test_only_ae_titles_with_a_profile_are_keyed() -> None:
    assert KEYED.ae_title("ROUTINE") == "ROUTINE"
    assert "RESEARCH" not in KEYED.ae_title("RESEARCH")


def test_who_has_key_and_folder_finds_the_input(tmp_path: Path) -> None:
    (tmp_path / "DOE^JOHN" / "2026").mkdir(parents=True)
    (tmp_path / "DOE^JOHN" / "2026" / "1.dcm").touch()
    assert KEYED.original(tmp_path, KEYED.name("DOE^JOHN/2026/1.dcm")) == "DOE^JOHN/2026/1.dcm"
    assert KEYED.original(tmp_path, KEYED.name("DOE^JOHN/")) == "DOE^JOHN/"
    assert KEYED.original(tmp_path, KEYED.name("DOE^JOHN/2025/1.dcm")) is None
    assert KEYED.original(tmp_path, KEYED.name(f"DOE^JOHN{INSIDE}x")) is None
