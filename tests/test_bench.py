"""The benchmarks: every row runs in its smallest size, every way makes outputs, and the table says what was measured."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pydicom.pixels
import pytest
from PIL import Image

from bench import backfill, export, inputs, jobs, read
from bench.methods import bare_png
from bench.receivers import Missing
from exporter.commands.app import main

if TYPE_CHECKING:
    from pathlib import Path

ROWS = (*export.JOBS, *backfill.JOBS)
COSTLY = frozenset({"dme_method.py", "niffler_method.py", "json_lines.py", "bare_png.py"})
"""Scripts that start two processes, each with its libraries: once is enough."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of every kind, in their smallest size."""
    folder = tmp_path_factory.mktemp("inputs")
    for kind in {row.kind for row in ROWS}:
        inputs.make(kind, folder / kind, inputs.SMALLEST)
    return folder


def did(command: list[str]) -> int:
    """Run a command; ours in this process, without workers of its own, since each would load its libraries."""
    if command[1:3] == ["-m", "exporter"]:
        return main(["0" if word == "2" else word for word in command[3:]])
    return subprocess.run(command, check=False, capture_output=True).returncode


def test_every_way_of_every_row_makes_outputs(made: Path, tmp_path: Path) -> None:
    started = set()
    for number, row in enumerate(ROWS):
        for index, way in enumerate(row.ways):
            place = jobs.Place(made / row.kind, tmp_path / f"{number}-{index}")
            place.target.mkdir()
            try:
                command = way.command(place)
            except Missing:
                continue
            if way.prepare is not None or not way.is_durable or not COSTLY.isdisjoint(started & set(command)):
                continue
            started |= {script for script in COSTLY if any(word.endswith(script) for word in command)}
            code = did(command)
            assert not code or not way.name.startswith(jobs.OURS), (row.name, way.name)
            assert not way.outputs or any(place.target.glob(way.outputs)), (row.name, way.name)


def test_the_bare_limit_decodes_every_lossless_syntax_right(made: Path, tmp_path: Path) -> None:
    for syntax in inputs.LOSSLESS:
        path = next((made / f"slices, {syntax}" / "dicom").iterdir())
        bare_png.work(([path], tmp_path, "16", (40.0, 400.0, -1024.0)))
        with Image.open(tmp_path / f"{path.stem}.png") as opened:
            assert np.array_equal(np.asarray(opened), pydicom.pixels.pixel_array(path)), syntax


def test_no_input_is_empty_and_no_two_are_equal(made: Path) -> None:
    slices = [pydicom.pixels.pixel_array(path) for path in (made / "slices" / "dicom").iterdir()]
    frames = [*inputs.speckle(2, 60, 80, 1), *inputs.speckle(1, 60, 80, 2)]
    for several in (slices, frames):
        assert all(image.std() > 10 for image in several)
        assert len({image.tobytes() for image in several}) == len(several)


def test_a_run_is_measured_and_stated_with_its_ratio(made: Path, tmp_path: Path) -> None:
    slow = jobs.Way("slow", lambda place: ["sh", "-c", f"sleep 0.2; echo 1 > {place.target}/1.png"])
    row = jobs.Job("nothing", "one", (jobs.Way(jobs.OURS, lambda _: ["true"], ""), slow), {"slow": 3})
    measured = jobs.Jobs("Title", tmp_path, [row], inputs.SMALLEST)
    measured.measure_once(0)
    ours, other = (measured.runs["nothing", name][0] for name in (jobs.OURS, "slow"))
    assert other.seconds > ours.seconds
    assert (other.outputs, other.output_bytes) == (1, 2)
    last = measured.section().rstrip().splitlines()[-1].split(" | ")
    assert last[-3] == f"{other.seconds / ours.seconds:.2f}"
    assert last[-2] == "3"


def test_media_are_read_at_random_places(made: Path, tmp_path: Path) -> None:
    place = jobs.Place(made / "cines", tmp_path)
    media = {medium.name: medium for medium in read.CINES}
    for name in ("ours, preset default", "ours, JPEG frames", "the DICOM file, with pydicom"):
        medium = media[name]
        if medium.way is not None:
            did(medium.way.command(place))
        path = next((place.dicom if medium.way is None else tmp_path).glob(medium.suffix))
        medium.read(path, 4, 2)
    with pytest.raises(RuntimeError, match="no frame"):
        read.from_video(next(tmp_path.glob("**/*.mp4")), 1000, 1)
