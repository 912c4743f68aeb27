"""Pseudonyms and splits: the same everywhere, by patient, and no more moves than there must be."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import stat
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from exporter.commands.app import main
from exporter.tables.errors import TableError, TableRequestError
from exporter.tables.patients import REFERENCE_SHARES, SPLITS, Patients, folder_key, read_key, split_of
from tests.exporter.tables.synthetic import made_line, write_lines

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"a key of sixteen"
NUMBER = 4000
OTHER_SHARES = (
    (0.7, 0.15, 0.15),
    (0.7, 0.2, 0.1),
    (0.9, 0.05, 0.05),
    (0.8, 0.15, 0.05),
    (0.0, 0.5, 0.5),
    (1.0, 0.0, 0.0),
)


def test_a_pseudonym_is_the_documented_hmac() -> None:
    found = Patients(KEY).of(made_line("a", **{"Patient ID": " P-1 "}))
    assert found.pseudonym == hmac.digest(KEY, b"patient\0P-1", hashlib.sha256).hex()[:32]
    assert Patients(b"another key of ours").of(made_line("b", **{"Patient ID": "P-1"})).split == found.split
    assert Patients(b"another key of ours").of(made_line("b", **{"Patient ID": "P-1"})).pseudonym != found.pseudonym


def test_rows_without_a_patient_are_told_apart_by_study_and_then_by_input() -> None:
    lines = [
        made_line("a", **{"Patient ID": "1"}),
        made_line("b", **{"Study Instance UID": "1"}),
        made_line("c", **{"Study Instance UID": "1", "Patient ID": None}),
        made_line("d", **{"Patient ID": "  "}),
        made_line("e"),
    ]
    found = [Patients(KEY).of(line).pseudonym for line in lines]
    assert found[1] == found[2]
    assert len(set(found)) == 4


def test_splits_have_the_shares_that_are_stated() -> None:
    for shares in (REFERENCE_SHARES, *OTHER_SHARES):
        counted = Counter(split_of(f"patient\0{n}", shares) for n in range(NUMBER))
        for split, share in zip(SPLITS, shares, strict=True):
            assert abs(counted[split] / NUMBER - share) < 0.025


@pytest.mark.parametrize("shares", OTHER_SHARES)
def test_other_shares_move_only_the_patients_that_they_must(shares: tuple[float, float, float]) -> None:
    before = [split_of(f"patient\0{n}", REFERENCE_SHARES) for n in range(NUMBER)]
    after = [split_of(f"patient\0{n}", shares) for n in range(NUMBER)]
    shrinks = {split for split, old, new in zip(SPLITS, REFERENCE_SHARES, shares, strict=True) if new < old}
    moves = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert all(old in shrinks and new not in shrinks for old, new in moves)
    least = sum(max(0, new - old) for old, new in zip(REFERENCE_SHARES, shares, strict=True))
    assert abs(len(moves) / NUMBER - least) < 0.025


def test_shares_that_grow_step_by_step_move_nobody_back() -> None:
    steps = [(0.8, 0.1, 0.1), (0.7, 0.15, 0.15), (0.6, 0.2, 0.2)]
    splits = [[split_of(str(n), shares) for n in range(NUMBER)] for shares in steps]
    for before, after in itertools.pairwise(splits):
        assert all(old == "train" for old, new in zip(before, after, strict=True) if old != new)


def test_a_key_of_a_folder_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(folder_key(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert stat.S_IMODE((tmp_path / "pseudonym.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["pseudonym.key"]


def test_white_space_around_a_key_does_not_count_and_a_short_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(KEY)
    (tmp_path / "two").write_bytes(b"\n " + KEY + b"\r\n")
    assert read_key(tmp_path / "one") == read_key(tmp_path / "two")
    (tmp_path / "short").write_bytes(b"short\n")
    for name in ("short", "missing"):
        with pytest.raises(TableError):
            read_key(tmp_path / name)


def test_shares_that_do_not_add_up_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TableRequestError):
        Patients(KEY, (0.8, 0.1, 0.2))
    write_lines(tmp_path / "metadata.jsonl", [made_line("a")])
    for text in ("0.8,0.1,0.2", "0.8,0.2", "most"):
        assert main(["metadata", "csv", str(tmp_path), "--shares", text]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
