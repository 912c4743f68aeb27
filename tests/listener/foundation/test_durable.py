"""Files that take the place of others: complete or not at all, whatever ended the process that wrote them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from listener.foundation.durable import mark_in_use, partial_name, replaced_file, replaced_text_file

if TYPE_CHECKING:
    from pathlib import Path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_the_block_ends_well_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    with replaced_text_file(target) as file:
        file.write("new\n")
        assert target.read_text() == "old"
    assert target.read_text() == "new\n"
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ZeroDivisionError), replaced_file(target) as partial:
        partial.write_text(str(1 / 0))
    assert target.read_text() == "new\n"
    assert names(tmp_path) == ["table.csv"]


def test_what_a_killed_process_left_goes_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    left, in_use, linked, folder = (partial_name(target, "partial") for _ in range(4))
    others = [tmp_path / name for name in (".table.csv.partial-mine", ".other.csv.partial-0123456789ab", "table.csv~")]
    for path in (left, in_use, *others):
        path.write_text("x")
    linked.symlink_to(others[0])
    folder.mkdir()
    descriptor = os.open(in_use, os.O_RDONLY)
    mark_in_use(descriptor)
    with replaced_file(target) as partial:
        partial.write_text("new")
    os.close(descriptor)
    kept = [in_use, linked, folder, *others]
    assert names(tmp_path) == sorted(["table.csv", *(path.name for path in kept)])
