"""A place for temporary copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exporter.inputs.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    """Room for 1 GiB; nothing is left in it at the end."""
    with Scratch(tmp_path / "copies", 1 << 30) as one:
        yield one
        assert one.used_bytes == 0
    assert not (tmp_path / "copies").exists()
