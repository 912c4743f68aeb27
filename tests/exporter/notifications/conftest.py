"""What tests of deliveries share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from listener.network.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def deadlines() -> Iterator[Deadlines]:
    found = Deadlines("test-deadlines")
    found.start()
    yield found
    found.stop()
