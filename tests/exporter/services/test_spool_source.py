"""The spool as a source of work: what has come is found at the next look, however soon after the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exporter.privacy.input_names import InputNames
from exporter.results.ledger import Ledger
from exporter.series.live import series_volumes
from exporter.services.reserve import DiskReserve
from exporter.services.spool_source import SpoolSource
from exporter.settings.settings import Settings
from listener.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool.open(tmp_path / "spool", settings=Settings().spool) as opened:
        yield opened


@pytest.fixture
def source(spool: Spool, tmp_path: Path) -> Iterator[SpoolSource]:
    with (
        Ledger.open(tmp_path / "exporter.db") as ledger,
        series_volumes(tmp_path, Settings(), "0", InputNames()) as keep,
        spool.lock("exporter"),
    ):
        reserve = DiskReserve(spool.root / "reserve", 0)
        yield SpoolSource(
            spool, ledger, keep=keep, reserve=reserve, titles=frozenset(), names=InputNames(), longest_wait_s=1.0
        )


def receive(spool: Spool) -> None:
    incoming = spool.receive()
    incoming.write([b"content"])
    incoming.commit()


def test_an_item_is_found_at_the_next_look(spool: Spool, source: SpoolSource) -> None:
    for _ in range(20):  # some of them within one tick of the clock that gives folders their modification time
        assert source.next() is None
        receive(spool)
        assert source.next() is not None


def test_a_look_at_an_empty_spool_ends(source: SpoolSource) -> None:
    assert [source.next() for _ in range(3)] == [None, None, None]
