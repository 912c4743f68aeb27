"""`docs/guides/researcher.md`: every command and every program of it, in their order, on a folder of DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.document_runs import make_input, run_commands
from tests.test_docs import BLOCK, REPOSITORY

GUIDE = REPOSITORY / "docs" / "guides" / "researcher.md"


@pytest.mark.slow
def test_every_block_of_the_researchers_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_input(tmp_path)
    names: dict[str, Any] = {}
    ran = 0
    for _, language, text in BLOCK.findall(GUIDE.read_text()):
        if language == "sh":
            ran += run_commands(text)
        elif language == "python":
            exec(compile(text, str(GUIDE), "exec"), names)  # noqa: S102 - the document is ours
            ran += 1
    assert ran == 8
    assert len(names["frames"]) == 30
    assert Path("dataset/croissant.json").is_file()
    assert list(Path("shards").glob("*.tar"))


def test_the_seek_times_of_the_guide_are_those_of_the_benchmarks() -> None:
    measured = (REPOSITORY / "docs" / "benchmarks.md").read_text()
    for row in GUIDE.read_text().splitlines():
        if row.startswith(("| `default`", "| `fast`", "| `training`")):
            _, preset, size, frame, clip, _ = (cell.strip() for cell in row.split("|"))
            (there,) = (line for line in measured.splitlines() if line.startswith(f"| ours, preset {preset} "))
            _, _, megabytes, one, _, several, _, _ = (cell.strip() for cell in there.split("|"))
            assert float(size.split()[0]) == pytest.approx(float(megabytes), rel=0.03)
            assert float(frame.split()[0]) == pytest.approx(float(one), rel=0.03)
            assert float(clip.split()[0]) == pytest.approx(float(several), rel=0.03)
