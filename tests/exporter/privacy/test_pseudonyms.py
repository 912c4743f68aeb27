from __future__ import annotations

import hmac
import os
import uuid
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.privacy.dates import date_of, is_date_time, is_time, shifted_date, shifted_date_time, stated_age
from exporter.privacy.key import KeyChanged, KeyUnusable, check_fingerprint, fingerprint, read_key
from exporter.privacy.pseudonyms import MOST_WEEKS, Pseudonyms
from exporter.privacy.values import is_valid_uid
from exporter.tables.patients import Patients
from tests.exporter.tables.synthetic import made_line

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"00112233445566778899aabbccddeeff"


def _key_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "privacy.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_private_key_of_32_bytes_is_read_without_white_space(tmp_path: Path) -> None:
    assert read_key(_key_file(tmp_path, KEY + b"\n")) == KEY


@pytest.mark.parametrize(
    ("content", "mode", "what"),
    [
        (KEY, 0o640, "0640 gives others access"),
        (KEY, 0o604, "0604 gives others access"),
        (KEY[:31], 0o600, "31 bytes"),
        (b"", 0o600, "0 bytes"),
        (b" " * 64, 0o600, "0 bytes"),
        (b"k" * 5_000, 0o600, "over 4096 bytes"),
    ],
)
def test_a_key_that_is_open_short_empty_or_huge_is_refused(
    tmp_path: Path, content: bytes, mode: int, what: str
) -> None:
    path = _key_file(tmp_path, content, mode)
    with pytest.raises(KeyUnusable, match=what) as refused:
        read_key(path)
    assert str(path) in str(refused.value)
    assert KEY.decode()[:16] not in str(refused.value)


def test_a_key_that_is_absent_or_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    fd = os.open(tmp_path / "pipe", os.O_RDWR)
    try:
        os.write(fd, KEY)
        for name in ("absent", "pipe", "."):
            with pytest.raises(KeyUnusable, match="key file"):
                read_key(tmp_path / name)
    finally:
        os.close(fd)


def test_an_output_begun_with_another_key_is_refused(tmp_path: Path) -> None:
    check_fingerprint(KEY, fingerprint(KEY), tmp_path)
    for noted in (fingerprint(KEY[::-1]), "", "ü"):
        with pytest.raises(KeyChanged, match="begun with another key"):
            check_fingerprint(KEY, noted, tmp_path)


def test_a_pseudonym_is_the_documented_hmac_and_that_of_the_tables() -> None:
    expected = hmac.digest(KEY, b"patient\0P-1", "sha256").hex()[:32]
    assert Pseudonyms(KEY).of("patient", " P-1\0") == expected
    assert Patients(KEY).of(made_line("a", **{"Patient ID": "P-1"})).pseudonym == expected


@given(st.text(max_size=80), st.text(max_size=80))
def test_uids_are_valid_stable_and_differ_by_value_and_key(one: str, two: str) -> None:
    pseudonyms = Pseudonyms(KEY)
    uid = pseudonyms.uid(one)
    assert is_valid_uid(uid)
    assert uuid.UUID(int=int(uid.removeprefix("2.25."))).version == 8
    assert uid == Pseudonyms(KEY).uid(one) != Pseudonyms(KEY[::-1]).uid(one)
    if one.split() != two.split() and one.isascii() and two.isascii() and one.isprintable() and two.isprintable():
        assert pseudonyms.uid(one) != pseudonyms.uid(two)


@given(st.text(max_size=80))
def test_weeks_are_never_none_and_always_in_the_past(patient: str) -> None:
    assert -MOST_WEEKS <= Pseudonyms(KEY).weeks(patient) <= -1


@given(st.dates(min_value=date_of("18500101"), max_value=date_of("21000101")), st.integers(-MOST_WEEKS, -1))  # type: ignore[arg-type]
def test_a_shift_keeps_weekdays_and_times(day: object, weeks: int) -> None:
    text = f"{day:%Y%m%d}"
    moved = date_of(shifted_date(text, weeks) or "")
    assert moved is not None
    assert moved.weekday() == day.weekday()  # type: ignore[attr-defined]
    assert moved < day  # type: ignore[operator]
    assert shifted_date_time(f"{text}101112.5+0100", weeks) == f"{moved:%Y%m%d}101112.5+0100"


def test_what_is_no_date_is_none() -> None:
    for text in ("20200230", "DOE", "2020022", "2020.02-29", "20200229 DOE", "", "²0200229"):
        assert date_of(text) is None
        assert shifted_date(text, -1) is None
    assert shifted_date("2020.02.29", -1) == "20200222"
    assert shifted_date("00010101", -1) is None
    for text in ("202002", "2020", "20200230101112", "DOE"):
        assert shifted_date_time(text, -1) is None
    assert is_date_time("202002")
    assert not is_date_time("20201301")
    assert [is_time(text) for text in ("101112.123", "10", "10:11:12", "256000", "DOE")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_ages_above_89_are_one_and_what_is_no_age_is_none() -> None:
    assert [stated_age(text) for text in ("089Y", "090Y", "104Y", "045Y", "999M", "12Y", "DOEY")] == [
        *("089Y", "090Y", "090Y", "045Y", "999M"),
        None,
        None,
    ]
