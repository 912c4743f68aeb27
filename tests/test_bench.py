"""The benchmarks: every row runs in its smallest size, every way makes outputs, the table says what was measured."""

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

ROWS = (*export.JOBS, *backfill.JOBS)
if TYPE_CHECKING:
    from pathlib import Path

COSTLY = frozenset(
    {
        *("the first seed's method", "Niffler's method", "pydicom's to_json in 2 processes"),
        *("bare", "bare, 8 bits", "bare, 16 bits"),
    }
)
"""Ways that start processes, each with its libraries: once is enough."""


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


def ways(*, costly: bool) -> list[tuple[str, jobs.Way]]:
    """Kinds of inputs and a way to use them: each script once, what only repeats others left out."""
    found: dict[str, tuple[str, jobs.Way]] = {}
    for row in ROWS:
        for way in row.ways:
            script = way.name if way.name in COSTLY else f"{row.name}: {way.name}"
            if way.prepare is None and way.is_durable and (way.name in COSTLY) == costly:
                found.setdefault(script, (row.kind, way))
    return list(found.values())


def made_by(way: jobs.Way, place: jobs.Place) -> None:
    """Run it, and see its outputs."""
    place.target.mkdir()
    try:
        command = way.command(place)
    except Missing:
        return
    code = did(command)
    assert not code or not way.name.startswith(jobs.OURS), command
    assert not way.outputs or any(place.target.glob(way.outputs)), command


def test_every_row_makes_outputs(made: Path, tmp_path: Path) -> None:
    for number, (kind, way) in enumerate(ways(costly=False)):
        made_by(way, jobs.Place(made / kind, tmp_path / str(number)))


@pytest.mark.slow
def test_every_method_makes_outputs(made: Path, tmp_path: Path) -> None:
    for number, (kind, way) in enumerate(ways(costly=True)):
        made_by(way, jobs.Place(made / kind, tmp_path / str(number)))


def test_the_bare_limit_decodes_every_lossless_syntax_right(made: Path, tmp_path: Path) -> None:
    expected = pydicom.pixels.pixel_array(made / "slices" / "dicom" / "00000.dcm")
    for syntax in inputs.LOSSLESS:
        path = made / f"slices, {syntax}" / "dicom" / "00000.dcm"
        bare_png.work(([path], tmp_path, "16", (40.0, 400.0, -1024.0)))
        with Image.open(tmp_path / "00000.png") as opened:
            assert np.array_equal(np.asarray(opened), expected), syntax


def test_no_input_is_empty_and_no_two_are_equal(made: Path) -> None:
    slices = [pydicom.pixels.pixel_array(path) for path in (made / "slices" / "dicom").iterdir()]
    frames = [*inputs.speckle(2, 60, 80, 1), *inputs.speckle(1, 60, 80, 2)]
    for several in (slices, frames):
        assert all(image.std() > 10 for image in several)
        assert len({image.tobytes() for image in several}) == len(several)


def test_a_run_is_measured_and_stated_with_its_ratio(tmp_path: Path) -> None:
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
    media = {medium.name: medium for medium in read.CINES}
    for number, name in enumerate(("ours, JPEG frames", "the DICOM file, with pydicom", "ours, preset default")):
        medium, place = media[name], jobs.Place(made / "cines", tmp_path / str(number))
        place.target.mkdir()
        if medium.way is not None:
            did(medium.way.command(place))
        path = next((place.dicom if medium.way is None else place.target).glob(medium.suffix))
        medium.read(path, 2, 2)
    with pytest.raises(RuntimeError, match="no frame"):
        read.from_video(path, 1000, 1)
