"""Jobs that are measured as whole commands: one kind of input, ours, and everybody who can do the same."""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import inputs
from bench.receivers import Missing, compile_preload, empty, system
from bench.report import in_turn, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

HERE: Final = Path(__file__).parent
METHODS, TIMED = HERE / "methods", HERE / "timed.py"
OURS: Final = "ours"
NO_OUTPUT: Final = ""
"""Pattern of outputs of a command that makes none."""


@dataclass(frozen=True)
class Place:
    """Where one command reads and writes."""

    source: Path
    """The folder that `inputs.make` filled."""
    target: Path
    """An empty folder."""

    @property
    def dicom(self) -> Path:
        """The DICOM files."""
        return self.source / "dicom"


@dataclass(frozen=True)
class Way:
    """One way to do a job."""

    name: str
    command: Callable[[Place], list[str]]
    outputs: str = "**/*.*"
    """Pattern of the files that count as outputs."""
    is_durable: bool = True
    """Whether syncs are made; ours can do without for comparison."""
    is_watched: bool = False
    """Whether the first byte of its output is looked for."""
    prepare: Callable[[Place], None] | None = None
    """What is done before and not measured."""


@dataclass(frozen=True)
class Job:
    """One row of the table."""

    name: str
    kind: str
    """Kind of its inputs."""
    ways: tuple[Way, ...]
    """Ours first."""
    aims: Mapping[str, float] = field(default_factory=dict)
    """By the name of another way: how many times as fast ours is to be."""
    unit: str = "file"


@dataclass(frozen=True)
class Run:
    """One measurement."""

    seconds: float
    cpu_s: float
    peak_mb: float
    """Largest resident memory of one process."""
    first_s: float
    """Until the first byte of an output; -1 where nobody looked."""
    outputs: int
    output_bytes: int


def ours(
    *settings: str, name: str = OURS, outputs: str = "media/**/*.*", is_durable: bool = True, is_watched: bool = False
) -> Way:
    """A backfill with settings, as lines of YAML."""

    def command(place: Place) -> list[str]:
        config = place.target / "config.yml"
        config.write_text("\n".join((*settings, "")))
        arguments = ["--config", str(config)] if settings else []
        program = [sys.executable, "-m", "exporter", "backfill", str(place.dicom)]
        return [*program, "--output", str(place.target / "out"), "--workers", "2", *arguments]

    return Way(name, command, f"out/{outputs}", is_durable, is_watched)


def in_pairs(name: str, template: str, *programs: str, folder: str = "dicom", outputs: str = "**/*.*") -> Way:
    """A program of the system for each input, two at a time; `{}` is the input, `@` the output without its extension.

    Args:
        name: Name of the way.
        template: The command, for a shell.
        programs: Words of the template that are programs of the system, not of the virtual environment.
        folder: Inputs below the source.
        outputs: As `Way.outputs`.
    """

    def command(place: Place) -> list[str]:
        text = template
        for program in programs:
            text = text.replace(f"{program} ", f"{shlex.quote(system(program))} ", 1)
        text = text.replace("{}", f"{shlex.quote(str(place.source / folder))}/$0")
        text = text.replace("@", f"{shlex.quote(str(place.target))}/${{0%.*}}")
        listed = f"ls {shlex.quote(str(place.source / folder))} | xargs -P 2 -n 1"
        return ["sh", "-c", f"{listed} sh -c {shlex.quote(text)}"]

    return Way(name, command, outputs)


def method(name: str, script: str, *arguments: str, outputs: str = "**/*.*") -> Way:
    """One of the scripts in `bench/methods/`."""

    def command(place: Place) -> list[str]:
        return [sys.executable, str(METHODS / script), str(place.dicom), str(place.target), *arguments]

    return Way(name, command, outputs)


def measure(way: Way, place: Place, preload: Path) -> Run:
    """Run one command to its end.

    Raises:
        Missing: Its program is not installed.
        RuntimeError: Ours failed, or it wrote nothing; of others what they wrote counts.
    """
    if way.prepare is not None:
        way.prepare(place)
    command = way.command(place)
    environment = dict(os.environ)
    if not way.is_durable:
        environment["LD_PRELOAD"] = str(preload)
    report, log = place.target.parent / "report", place.target.parent / "log"
    os.sync()  # what an earlier measurement left to be written is not charged to this one
    watched = str(place.target) if way.is_watched else "-"
    timed = [sys.executable, "-S", str(TIMED), str(report), watched, *command]
    with log.open("w") as said:
        subprocess.run(timed, env=environment, stdout=said, stderr=said, cwd=place.target, check=True)
    seconds, cpu_s, peak_kb, code, first_s = (float(word) for word in report.read_text().split())
    if way.name.startswith(OURS) and code:
        raise RuntimeError(f"{way.name} ended with {code:.0f}: {log.read_text()[-300:]}")
    found = place.target.glob(way.outputs) if way.outputs else ()
    made = [path for path in found if path.is_file()]
    if not made and way.outputs:
        raise RuntimeError(f"no output: {log.read_text()[-100:].strip()}")
    return Run(seconds, cpu_s, peak_kb / 1000, first_s, len(made), sum(path.stat().st_size for path in made))


class Jobs:
    """Every job in every way, interleaved round by round."""

    def __init__(self, title: str, folder: Path, jobs: Sequence[Job], sizes: inputs.Sizes) -> None:
        self._title, self._folder, self._jobs = title, folder, jobs
        self._preload = compile_preload("VOLATILE", folder)
        self._runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
        self._absent: set[str] = set()
        self._counts: dict[str, int] = {}
        for kind in dict.fromkeys(job.kind for job in jobs):
            print(f"making {kind}", flush=True)
            inputs.make(kind, folder / "inputs" / kind, sizes)
            self._counts[kind] = len(list((folder / "inputs" / kind / "dicom").iterdir()))

    @property
    def runs(self) -> Mapping[tuple[str, str], Sequence[Run]]:
        """Measurements by the names of job and way."""
        return self._runs

    def measure_once(self, turn: int) -> None:
        """One round."""
        for job in self._jobs:
            for way in in_turn(job.ways, turn):
                target = Path(tempfile.mkdtemp(dir=self._folder)) / "target"
                target.mkdir()
                try:
                    run = measure(way, Place(self._folder / "inputs" / job.kind, target), self._preload)
                except (Missing, RuntimeError) as error:
                    self._absent.add(f"{job.name}: {way.name}: {error}")
                    continue
                finally:
                    empty(target)
                self._runs[job.name, way.name].append(run)
                print(f"{turn + 1} {job.name:50} {way.name:34} {run.seconds:8.2f} s  {run.outputs}", flush=True)

    def section(self) -> str:
        """The section of the report, from what is measured so far."""
        rounds = max(map(len, self._runs.values()), default=0)
        lines = [f"## {self._title}", "", f"{machine(self._folder)}; {versions()}.", "", legend(rounds), "", *HEAD]
        for job in self._jobs:
            lines += self._rows(job)
        if self._absent:
            lines += ["", "Not measured:", "", *(f"- {line}" for line in sorted(self._absent))]
        return "\n".join(lines) + "\n"

    def _rows(self, job: Job) -> list[str]:
        base = self._runs.get((job.name, OURS))
        count = self._counts[job.kind]
        rows: list[str] = []
        for way in job.ways:
            runs = self._runs.get((job.name, way.name))
            if runs:
                cells = [f"{count} x {job.name}" if not rows else "", way.name, *_figures(runs, count)]
                cells += _ratios(runs, base) if base and way.name != OURS else ("", "")
                cells.insert(-1, f"{job.aims[way.name]:g}" if way.name in job.aims else "")
                rows.append(f"| {' | '.join(cells)} |")
        return rows


def _figures(runs: Sequence[Run], count: int) -> tuple[str, ...]:
    seconds, first_s = middle(runs, "seconds"), middle(runs, "first_s")
    return (
        f"{seconds:.2f}",
        f"{min(run.seconds for run in runs):.2f} - {max(run.seconds for run in runs):.2f}",
        f"{seconds / count * 1000:.1f}",
        f"{middle(runs, 'cpu_s'):.2f}",
        f"{middle(runs, 'peak_mb'):.0f}",
        f"{first_s:.2f}" if first_s > 0 else "",
        str(runs[0].outputs),
        f"{middle(runs, 'output_bytes') / 1e6:.1f}",
    )


def _ratios(runs: Sequence[Run], base: Sequence[Run]) -> tuple[str, ...]:
    """How many times as fast ours is, by time and by processor time."""
    return tuple(f"{middle(runs, name) / middle(base, name):.2f}" for name in ("seconds", "cpu_s"))


COLUMNS: Final = (
    *("work", "way", "s", "from - to", "ms each", "CPU s", "MB", "first byte, s", "outputs", "MB out"),
    *("ours: times as fast", "aimed at", "times by CPU"),
)
HEAD: Final = (f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|")


def legend(rounds: int) -> str:
    """What the figures are."""
    return (
        f"Medians of {rounds} interleaved rounds; whole commands from their start to their end, ours with 2 workers. "
        "*CPU s*: processor time of all its processes. *MB*: resident memory of its largest process. *x2*: two "
        "processes at a time. *Times by CPU*: the ratio of processor times. *Bare*: a script with our libraries that "
        "keeps no promise but to sync each file (`bench/methods/bare_png.py`). Ours verifies, syncs and records; the "
        "others do none of it."
    )


def middle(runs: Sequence[Run], name: str) -> float:
    """The median of one field."""
    return statistics.median(float(getattr(run, name)) for run in runs)


def versions() -> str:
    """Versions of the peers and of the libraries that they and ours share."""
    from importlib.metadata import version

    found = []
    for name, command in (
        ("DCMTK", ["dcmj2pnm", "--version"]),
        ("FFmpeg", ["ffmpeg", "-version"]),
        ("GDCM", ["gdcmraw", "--version"]),
    ):
        try:
            said = subprocess.run([system(command[0]), *command[1:]], capture_output=True, text=True, check=False)
        except Missing:
            continue
        words = said.stdout.split()
        numbers = (word.strip("v,") for word in words if word.strip("v,")[:1].isdigit() and "." in word)
        found.append(f"{name} {next(numbers, 'of unknown version')}")
    found += [f"{name} {version(name)}" for name in ("av", "imagecodecs", "isal", "numpy", "pillow", "pydicom")]
    return ", ".join(found)
