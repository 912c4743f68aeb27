"""The rest of a backfill, measured: headers, reruns, start-up, memory: `make bench-backfill`."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from bench.export import measure_jobs
from bench.jobs import NO_OUTPUT, Job, Place, Way, in_pairs, method, ours

if TYPE_CHECKING:
    import argparse

NO_MEDIA: Final = "media: {enabled: false}"


def again(*settings: str) -> Way:
    """A second backfill of the same files into the same folder: the first is not measured."""
    way = ours(*settings, outputs="metadata.jsonl")

    def first(place: Place) -> None:
        subprocess.run(way.command(place), check=True, capture_output=True)

    return Way(way.name, way.command, way.outputs, prepare=first)


def only_start(name: str, *arguments: str) -> Way:
    """A command that has nothing to do."""
    return Way(name, lambda _: [sys.executable, "-m", "exporter", *arguments], outputs=NO_OUTPUT)


JOBS: Final = (
    Job(
        "CT, headers to lines",
        "slices",
        (
            ours(NO_MEDIA, outputs="metadata.jsonl"),
            method("pydicom's to_json in 2 processes", "json_lines.py"),
            in_pairs("dcm2json x2", "dcm2json {} @.json", "dcm2json"),
        ),
        {"pydicom's to_json in 2 processes": 4, "dcm2json x2": 1.5},
    ),
    Job(
        "SR, headers to lines",
        "documents",
        (
            ours(NO_MEDIA, outputs="metadata.jsonl"),
            method("pydicom's to_json in 2 processes", "json_lines.py"),
            in_pairs("dcm2json x2", "dcm2json {} @.json", "dcm2json"),
        ),
    ),
    Job("CT, exported before, nothing changed", "slices", (again(NO_MEDIA),)),
    Job("one CT, from start to end of the command", "one", (ours(),)),
    Job("`exporter --help`", "one", (only_start("ours", "--help"),)),
    Job("1 GB of frames, as frames", "long", (ours("frames: {enabled: true}", is_watched=True),)),
    Job("1 GB of frames, as video, preset fast", "long", (ours("video: {preset: fast}", is_watched=True),)),
)


def run(options: argparse.Namespace) -> None:
    """Measure every job that is asked for, and write the section after every round."""
    measure_jobs("Backfill", [job for job in JOBS if re.search(options.cells, job.name)], options)
