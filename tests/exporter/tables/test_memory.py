"""Tables of many lines in little memory: it depends on the batch, not on the number of rows."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.exporter.tables.synthetic import write_many

if TYPE_CHECKING:
    from pathlib import Path

FULL = os.environ.get("EXPORTER_TEST_TABLES") == "full"
"""A million lines take a quarter of an hour of processor time."""
PROGRAM = "import sys; from exporter.commands.app import main; sys.exit(main(sys.argv[1:]))"


def peak_mb(folder: Path, kind: str) -> float:
    """Largest resident memory of one command, in MiB: of a child that has no other child."""
    measure = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    command = [sys.executable, "-c", measure, sys.executable, "-c", PROGRAM, "metadata", kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1]) / 1024


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("few", "many"),
    [
        pytest.param(2_000, 6_000, id="quick"),
        pytest.param(100_000, 1_000_000 if FULL else 200_000, id="long", marks=pytest.mark.slow),
    ],
)
def test_memory_does_not_grow_with_the_number_of_lines(tmp_path: Path, kind: str, few: int, many: int) -> None:
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the kernel counts it
    peaks = []
    for number in (few, many):
        (tmp_path / str(number)).mkdir()
        write_many(tmp_path / str(number) / "metadata.jsonl", number)
        peaks.append(peak_mb(tmp_path / str(number), kind))
        (tmp_path / str(number) / "metadata.jsonl").unlink()
    assert peaks[1] < 400
    if few >= 100_000:
        assert peaks[1] <= 1.2 * peaks[0]
    else:
        assert peaks[1] - peaks[0] < 120  # one row group of Parquet is not filled yet: 48 MiB, and what encodes it
