"""The table of answers: complete, conformant, and the same in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.intake import store_status
from listener.intake.store_status import STORE_TABLE, Disposition, StoreStatus

DOCUMENT = Path(__file__).parents[3] / "docs" / "receiving.md"


def test_every_situation_is_in_the_table() -> None:
    assert set(STORE_TABLE) == {value for value in vars(store_status).values() if isinstance(value, StoreStatus)}
    assert len({situation.word for situation in STORE_TABLE}) == len(STORE_TABLE)


@pytest.mark.parametrize("situation", STORE_TABLE, ids=lambda s: s.word)
def test_a_situation_is_one_the_standard_permits(situation: StoreStatus) -> None:
    permitted = {0x0000, 0x0122, 0xB000, 0xB006, 0xB007}
    assert situation.status in permitted or situation.status >> 8 in (0xA7, 0xA9) or situation.status >> 12 == 0xC
    assert len(situation.comment) <= 64
    assert situation.clause.startswith("PS3.")


@pytest.mark.parametrize("situation", STORE_TABLE, ids=lambda s: s.word)
def test_success_is_said_exactly_where_the_bytes_wait_for_export(situation: StoreStatus) -> None:
    assert situation.is_success == (situation.kept is Disposition.NEW)
    assert (situation.reason is not None) == (situation.kept is Disposition.QUARANTINE)


@pytest.mark.parametrize("situation", STORE_TABLE, ids=lambda s: s.word)
def test_the_documentation_has_the_row(situation: StoreStatus) -> None:
    start = f"| 0x{situation.status:04X} | {situation.word} | {situation.comment or '-'} |"
    (row,) = [line for line in DOCUMENT.read_text().splitlines() if line.startswith(start)]
    assert row.endswith(f"| {situation.clause} |")
