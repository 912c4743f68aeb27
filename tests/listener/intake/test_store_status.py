"""The table of answers: complete, conformant, and the same in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.intake import store_status
from listener.intake.store_status import (
    CLASS_NOT_NEGOTIATED,
    MISMATCH,
    NO_DATA_SET,
    STORE_TABLE,
    UPLOAD_TABLE,
    Disposition,
    StoreStatus,
)

DOCUMENTS = Path(__file__).parents[3] / "docs"
ALL = tuple(dict.fromkeys((*STORE_TABLE, *UPLOAD_TABLE)))


def test_every_status_is_in_a_table() -> None:
    assert set(ALL) == {value for value in vars(store_status).values() if isinstance(value, StoreStatus)}
    assert len({status.word for status in ALL}) == len(ALL)


def test_an_upload_is_answered_like_a_c_store_except_what_needs_a_command() -> None:
    assert set(STORE_TABLE) - set(UPLOAD_TABLE) == {NO_DATA_SET, CLASS_NOT_NEGOTIATED, MISMATCH}


@pytest.mark.parametrize("status", ALL, ids=lambda s: s.word)
def test_a_status_is_one_the_standard_permits(status: StoreStatus) -> None:
    permitted = {0x0000, 0x0122, 0xB000, 0xB006, 0xB007}
    assert status.status in permitted or status.status >> 8 in (0xA7, 0xA9) or status.status >> 12 == 0xC
    assert len(status.comment) <= 64
    assert status.clause.startswith("PS3.")


@pytest.mark.parametrize("status", ALL, ids=lambda s: s.word)
def test_success_is_said_exactly_where_the_bytes_wait_for_export(status: StoreStatus) -> None:
    assert status.is_success == (status.kept is Disposition.NEW)
    assert (status.reason is not None) == (status.kept is Disposition.QUARANTINE)


@pytest.mark.parametrize("status", STORE_TABLE, ids=lambda s: s.word)
def test_the_documentation_of_receiving_has_the_row(status: StoreStatus) -> None:
    start = f"| 0x{status.status:04X} | {status.word} | {status.comment or '-'} |"
    (row,) = [line for line in (DOCUMENTS / "receiving.md").read_text().splitlines() if line.startswith(start)]
    assert row.endswith(f"| {status.clause} |")


@pytest.mark.parametrize("status", [s for s in UPLOAD_TABLE if s.status], ids=lambda s: s.word)
def test_the_documentation_of_uploads_has_the_row(status: StoreStatus) -> None:
    start = f"| 0x{status.status:04X} | {status.word} | {status.comment} |"
    lines = (DOCUMENTS / "dicomweb.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith(start)]) == 1
