"""Exporting, measured: `make bench-export`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import inputs
from bench.inputs import LOSSLESS
from bench.jobs import Job, Jobs, Way, in_pairs, method, ours
from bench.report import REPORT, write

if TYPE_CHECKING:
    import argparse

RAW: Final = "image: {outputs: [raw16]}"
CT_WINDOW: Final = ("40", "400", "-1024")
DX_WINDOW: Final = ("1300", "2200", "0")
MOTION_JPEG: Final = "video: {copy_jpeg: true}"
PNG_FRAMES: Final = "frames: {enabled: true}"
JPEG_FRAMES: Final = "image: {copy_jpeg: true}"


def dcmtk(name: str, options: str, suffix: str, program: str = "dcmj2pnm") -> Way:
    """DCMTK's converter, two at a time."""
    return in_pairs(name, f"{program} {options} {{}} @{suffix}", program)


def dcmtk_lossless(syntax: str, options: str) -> tuple[Way, ...]:
    """DCMTK's converter of one lossless syntax; it has none for JPEG 2000."""
    if syntax == "JPEG 2000":
        return ()
    return (dcmtk("DCMTK x2", options, ".png", "dcml2pnm" if syntax == "JPEG-LS" else "dcmj2pnm"),)


def ffmpeg(name: str, options: str, output: str) -> Way:
    """FFmpeg from ready JPEG streams, two at a time: it reads no DICOM."""
    program = "ffmpeg -v error -nostdin -f mjpeg -framerate 30"
    return in_pairs(name, f"{program} -i {{}} {options} {output}", "ffmpeg", folder="jpegs")


X264 = ffmpeg(
    "ffmpeg x2 from JPEG streams, medium",
    "-c:v libx264 -crf 17 -preset medium -pix_fmt yuv420p -threads 1",
    "@.mp4",
)
COPY = ffmpeg("ffmpeg -c copy x2 from JPEG streams", "-c copy", "@.mp4")
FRAMES = ffmpeg("ffmpeg -c copy x2 to frames", "-c copy -f image2", "@-%05d.jpg")
DCMTK_FRAMES = dcmtk("DCMTK x2, frames to JPEG", "+oj +Fa +cl", "")

JOBS: Final = (
    Job(
        "CT 512 x 512, window to 8-bit PNG",
        "slices",
        (
            ours(),
            ours(name="ours, nothing synced", is_durable=False),
            dcmtk("DCMTK x2", "+on +Ww 40 400", ".png"),
            method("bare, 8 bits", "bare_png.py", "8", *CT_WINDOW),
        ),
        {"DCMTK x2": 10, "bare, 8 bits": 0.5},
    ),
    Job(
        "CT 512 x 512, values to 16-bit PNG",
        "slices",
        (
            ours(RAW),
            dcmtk("DCMTK x2", "+on2 +Wm", ".png"),
            method("Niffler's method", "niffler_method.py", outputs="*.png"),
            method("bare, 16 bits", "bare_png.py", "16", *CT_WINDOW),
        ),
        {"DCMTK x2": 15, "Niffler's method": 13, "bare, 16 bits": 0.5},
    ),
    *(
        Job(
            f"CT 512 x 512 in {name}, values to 16-bit PNG",
            f"slices, {name}",
            (ours(RAW), *dcmtk_lossless(name, "+on2 +Wm"), method("bare", "bare_png.py", "16", *CT_WINDOW)),
            {"bare": 0.6},
        )
        for name in LOSSLESS
    ),
    *(
        Job(
            f"DX 3000 x 2500 of 12 bits in {name}, window to 8-bit PNG",
            f"radiographs, {name}",
            (ours(), *dcmtk_lossless(name, "+on +Ww 1300 2200"), method("bare", "bare_png.py", "8", *DX_WINDOW)),
            {"bare": 0.8},
        )
        for name in LOSSLESS
    ),
    Job(
        "JPEG cine 800 x 600 x 60 to H.264",
        "cines",
        (
            ours(),
            ours("video: {preset: fast}", name="ours, preset fast"),
            X264,
            method("the first seed's method", "dme_method.py", outputs="*.mp4"),
        ),
        {X264.name: 1.0, "the first seed's method": 1.5},
    ),
    Job(
        "JPEG cine 800 x 600 x 60 to H.264, preset fast",
        "cines",
        (ours("video: {preset: fast}"), X264),
        {X264.name: 3.0},
    ),
    Job("JPEG cine to Motion JPEG, bit-exact", "cines", (ours(MOTION_JPEG), COPY, DCMTK_FRAMES), {COPY.name: 0.5}),
    Job(
        "JPEG cine to JPEG frames, bit-exact",
        "cines",
        (ours(PNG_FRAMES, JPEG_FRAMES), FRAMES, DCMTK_FRAMES),
        {FRAMES.name: 0.5, DCMTK_FRAMES.name: 10},
    ),
    Job(
        "JPEG cine to PNG frames",
        "cines",
        (ours(PNG_FRAMES), FRAMES, dcmtk("DCMTK x2, frames to PNG", "+on +Fa", "")),
        {FRAMES.name: 0.5, "DCMTK x2, frames to PNG": 10},
    ),
    Job(
        "H.264, HEVC and MPEG-2 streams to MP4",
        "streams",
        (
            ours(),
            in_pairs(
                "gdcmraw, then ffmpeg -c copy, x2",
                "gdcmraw -i {} -o @.raw && ffmpeg -v error -nostdin -r 30 -i @.raw -c copy @.mp4",
                "gdcmraw",
                "ffmpeg",
                outputs="*.mp4",
            ),
        ),
        {"gdcmraw, then ffmpeg -c copy, x2": 2.5},
    ),
)


def run(options: argparse.Namespace) -> None:
    """Measure every job that is asked for, and write the section after every round."""
    measure_jobs("Export", [job for job in JOBS if re.search(options.cells, job.name)], options)


def measure_jobs(title: str, jobs: list[Job], options: argparse.Namespace) -> None:
    """Measure jobs and write their section: into the report where all of them are measured in their full size."""
    sizes = {"full": inputs.Sizes(), "quick": inputs.QUICK, "smallest": inputs.SMALLEST}[options.size]
    target = options.write or (None if options.cells or options.size != "full" else REPORT)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-") as temporary:
        measured = Jobs(title, Path(temporary), jobs, sizes)
        for turn in range(options.rounds):
            measured.measure_once(turn)
            if target is not None:
                write(target, measured.section())  # after every round: a run that is cut leaves what it has
        print(measured.section(), flush=True)
