"""Whatever the batches, their merge equals the local export of the same folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exporter.batches.merging import merge
from tests.exporter.batches.conftest import assert_sound, result_of, run_all

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("batches", [1, 50])
def test_media_lines_and_ledger_are_those_of_a_local_run(
    tree: Path, local: Path, tmp_path: Path, batches: int
) -> None:
    output = tmp_path / "out"
    run_all(tree, output, batches)
    report = merge(output)
    assert result_of(output) == result_of(local)
    assert report.duplicates == 6 and report.conflicts
    assert_sound(output)
