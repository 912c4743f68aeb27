"""Watched folders."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from listener.spool.spool import Spool
from tests.listener.sources.watch.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """A folder `in` beside a data folder; what was started is stopped at the end."""
    (tmp_path / "in").mkdir()
    with ExitStack() as stack:
        spool = stack.enter_context(Spool.open(tmp_path / "data" / "spool"))
        found = Watched(tmp_path / "in", tmp_path / "data", spool)
        stack.callback(found.stop)
        yield found
