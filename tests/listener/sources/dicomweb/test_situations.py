"""The table of answers to uploads: complete, conformant, and the same in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.intake.store_status import (
    CLASS_NOT_NEGOTIATED,
    MISMATCH,
    NO_DATA_SET,
    STORE_TABLE,
    Disposition,
    StoreStatus,
)
from listener.sources.dicomweb import situations
from listener.sources.dicomweb.situations import UPLOAD_TABLE

DOCUMENT = Path(__file__).parents[4] / "docs" / "dicomweb.md"


def test_every_situation_is_in_the_table() -> None:
    own = {value for value in vars(situations).values() if isinstance(value, StoreStatus)}
    assert set(UPLOAD_TABLE) == own | set(STORE_TABLE) - {NO_DATA_SET, CLASS_NOT_NEGOTIATED, MISMATCH}
    assert len({situation.word for situation in UPLOAD_TABLE}) == len(UPLOAD_TABLE)


@pytest.mark.parametrize("situation", UPLOAD_TABLE, ids=lambda s: s.word)
def test_a_situation_is_one_the_standard_permits(situation: StoreStatus) -> None:
    permitted = {0x0000, 0x0110, 0x0122, 0xB000, 0xB006, 0xB007, 0xC122}
    assert situation.status in permitted or situation.status >> 8 in (0xA7, 0xA9) or situation.status >> 12 == 0xC
    assert situation.is_success == (situation.kept is Disposition.NEW)
    assert (situation.reason is not None) == (situation.kept is Disposition.QUARANTINE)


@pytest.mark.parametrize("situation", [s for s in UPLOAD_TABLE if s.status], ids=lambda s: s.word)
def test_the_documentation_has_the_row(situation: StoreStatus) -> None:
    start = f"| 0x{situation.status:04X} | {situation.word} | {situation.comment} |"
    assert len([line for line in DOCUMENT.read_text().splitlines() if line.startswith(start)]) == 1
