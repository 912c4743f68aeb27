"""Reading what was exported, as a training loop does it, measured: `make bench-read`."""

from __future__ import annotations

import random
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import av
import numpy as np
import pydicom.pixels
from PIL import Image

from bench import inputs
from bench.export import COPY, JPEG_FRAMES, MOTION_JPEG, PNG_FRAMES, RAW, X264
from bench.jobs import Place, Way, method, ours, versions
from bench.receivers import Missing
from bench.report import REPORT, in_turn, machine, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

CLIP: Final = 16
"""Frames of one clip."""
READS: Final = 12
"""Random places that are read in one measurement."""


@dataclass(frozen=True)
class Medium:
    """One way to keep a cine, or images, for reading."""

    name: str
    way: Way | None
    """Command that makes it; None where the DICOM files themselves are read."""
    suffix: str
    """Pattern of its files, below the target."""
    read: Callable[[Path, int, int], None]
    """Reads frames from a first one on, from a file or a folder."""


def from_video(path: Path, first: int, count: int) -> None:
    """Open, seek to the key frame before the first frame, decode up to the last one, convert to RGB."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        wanted = round(first / (stream.average_rate or 1) / (stream.time_base or 1))
        container.seek(wanted, stream=stream, backward=True)
        found = 0
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts + 1 >= wanted:
                frame.to_ndarray(format="rgb24")
                found += 1
                if found == count:
                    return
    if not found:
        raise RuntimeError(f"{path.name} has no frame {first}")


def from_folder(path: Path, first: int, count: int) -> None:
    """Load numbered images."""
    names = sorted(name for name in path.iterdir() if name.suffix in {".png", ".jpg"})
    for name in names[first : first + count]:
        from_image(name, 0, 1)


def from_image(path: Path, _first: int, _count: int) -> None:
    """Load one image with Pillow."""
    with Image.open(path) as opened:
        np.asarray(opened)


def from_dicom(path: Path, first: int, count: int) -> None:
    """Decode frames with pydicom."""
    for index in range(first, first + count):
        pydicom.pixels.pixel_array(path, index=index)


def _preset(name: str) -> Medium:
    suffix = "mkv" if name == "lossless" else "mp4"
    return Medium(f"ours, preset {name}", ours(f"video: {{preset: {name}}}"), f"out/media/**/*.{suffix}", from_video)


CINES: Final = (
    Medium("ours, preset default", ours(), "out/media/**/*.mp4", from_video),
    *(_preset(name) for name in ("fast", "training", "lossless-h264", "lossless", "small")),
    Medium("ours, Motion JPEG", ours(MOTION_JPEG), "out/media/**/*.mp4", from_video),
    Medium("ours, JPEG frames", ours(PNG_FRAMES, JPEG_FRAMES), "out/media/**/*.frames", from_folder),
    Medium("ours, PNG frames", ours(PNG_FRAMES), "out/media/**/*.frames", from_folder),
    Medium("ffmpeg, libx264 crf 17 medium", X264, "*.mp4", from_video),
    Medium("ffmpeg, Motion JPEG copied", COPY, "*.mp4", from_video),
    Medium("the DICOM file, with pydicom", None, "*.dcm", from_dicom),
)
IMAGES: Final = (
    Medium("ours, 8 bits", ours(), "out/media/**/*.png", from_image),
    Medium("ours, 16 bits", ours(RAW), "out/media/**/*.png", from_image),
    Medium("Niffler's method, 16 bits", method("Niffler", "niffler_method.py"), "*.png", from_image),
    Medium("the DICOM file, with pydicom", None, "*.dcm", lambda path, _first, _count: from_dicom(path, 0, 1)),
)


class Shelf:
    """Media of one kind, made once and read in turn."""

    def __init__(self, folder: Path, kind: str, media: tuple[Medium, ...], sizes: inputs.Sizes) -> None:
        source = folder / "inputs" / kind
        inputs.make(kind, source, sizes)
        self.media = media
        self.files: dict[str, list[Path]] = {}
        self.absent: list[str] = []
        self.seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
        self._frames = sizes.frames
        for number, medium in enumerate(media):
            target = folder / f"{kind}-{number}"
            target.mkdir()
            try:
                self.files[medium.name] = self._made(medium, Place(source, target))
            except (Missing, subprocess.CalledProcessError, RuntimeError) as error:
                self.absent.append(f"{medium.name}: {error}")

    def _made(self, medium: Medium, place: Place) -> list[Path]:
        if medium.way is None:
            return sorted(place.dicom.iterdir())
        subprocess.run(medium.way.command(place), check=True, capture_output=True, cwd=place.target)
        made = sorted(place.target.glob(medium.suffix))
        if not made:
            raise RuntimeError("nothing was written")
        return made

    def read_once(self, turn: int, *lengths: int) -> None:
        """One round: random places of random files, the same for all."""
        chance = random.Random(turn)  # noqa: S311 - places to read
        places = [(chance.random(), chance.random()) for _ in range(READS)]
        for medium in in_turn(self.media, turn):
            files = self.files.get(medium.name, [])
            for length in lengths if files else ():
                last = max(0, self._frames - length)
                started = time.perf_counter()
                for which, where in places:
                    medium.read(files[int(which * len(files))], int(where * (last + 1)), min(length, self._frames))
                self.seconds[medium.name, length].append((time.perf_counter() - started) / READS)

    def middle_ms(self, name: str, length: int) -> float:
        """Milliseconds of one read, the median."""
        return statistics.median(self.seconds[name, length]) * 1000

    def megabytes(self, name: str) -> float:
        """Mean size of one medium."""
        found = [file for path in self.files[name] for file in (path.iterdir() if path.is_dir() else (path,))]
        return sum(file.stat().st_size for file in found) / len(self.files[name]) / 1e6


def section(cines: Shelf, images: Shelf, folder: Path, rounds: int) -> str:
    """The section of the report."""
    lines = ["## Read", "", f"{machine(folder)}; {versions()}.", ""]
    text = (
        f"Medians of {rounds} interleaved rounds of {READS} reads at random places, each with opening the file, one "
        f"thread, to RGB (PyAV) or an array (Pillow). *Clip*: {CLIP} frames that follow each other. Cines of 800 x 600 "
        f"x 60, encoded as JPEG in DICOM. *Times*: how many times as fast as the preset `default`."
    )
    lines += [
        text,
        "",
        "| cines | MB each | one frame, ms | times | a clip, ms | times |",
        "|---" * 6 + "|",
    ]
    base = cines.media[0].name
    for name in cines.files:
        one, clip = cines.middle_ms(name, 1), cines.middle_ms(name, CLIP)
        lines.append(
            f"| {name} | {cines.megabytes(name):.2f} | {one:.1f} | {cines.middle_ms(base, 1) / one:.1f} | {clip:.1f} | "
            f"{cines.middle_ms(base, CLIP) / clip:.1f} |"
        )
    lines += ["", "| CT of 512 x 512 | MB each | ms |", "|---|---|---|"]
    lines += [f"| {name} | {images.megabytes(name):.2f} | {images.middle_ms(name, 1):.2f} |" for name in images.files]
    absent = [*cines.absent, *images.absent]
    if absent:
        lines += ["", "Not measured:", "", *(f"- {line}" for line in absent)]
    return "\n".join(lines) + "\n"


def run(options: argparse.Namespace) -> None:
    """Make media once, read them in every round, and write the section."""
    full = {"full": inputs.Sizes(), "quick": inputs.QUICK, "smallest": inputs.SMALLEST}[options.size]
    sizes = inputs.Sizes(min(full.slices, 100), cines=min(full.cines, 4), frames=full.frames)
    target = options.write or (REPORT if options.size == "full" else None)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-") as temporary:
        folder = Path(temporary)
        cines, images = Shelf(folder, "cines", CINES, sizes), Shelf(folder, "slices", IMAGES, sizes)
        for turn in range(options.rounds):
            cines.read_once(turn, 1, CLIP)
            images.read_once(turn, 1)
        text = section(cines, images, folder, options.rounds)
        if target is not None:
            write(target, text)
        print(text, flush=True)
