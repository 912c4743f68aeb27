"""Batches as an array of Slurm jobs, with a job that merges, or submits what is left as the next round.

Contract: the submitting shell may go away; nothing has to stay alive. Slurm's own `sbatch`, `squeue`, `scancel` and
`scontrol` are called, never accounting (`sacct`). A task is ``exec exporter batch run OUT``, so that signals reach it.
The ids of the jobs are in ``OUT/batches/slurm.json``.

Must never: put a name of the input into a job's name, comment, log name or environment.

Source: sbatch(1), squeue(1), scancel(1), scontrol(1) of Slurm 22.05.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.batches.engines.contract import EngineUnusable
from exporter.batches.running import replace_file
from exporter.inputs.backfill import BATCHES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exporter.settings.settings import Settings

JOBS: Final = "slurm.json"
ARRAY_NAME: Final = "exporter-batches"
MERGE_NAME: Final = "exporter-merge"
OWN_MEMORY_MB: Final = 1024
"""Memory of a task beside that of its workers."""
DEFAULT_ARRAY_SIZE: Final = 1001
"""`MaxArraySize` where `scontrol` does not say it (slurm.conf(5))."""
ANSWER_S: Final = 60.0
"""Time that a command of Slurm may take."""
_GONE: Final = "Invalid job id"
_TIME: Final = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class SlurmCommand:
    """One call of `sbatch`: its arguments, and the script on its standard input."""

    arguments: tuple[str, ...]
    script: str

    def __str__(self) -> str:
        """The call as a shell takes it."""
        return f"{shlex.join(self.arguments)} <<'END'\n{self.script}END"


class SlurmEngine:
    """A `BatchEngine` of array tasks."""

    def __init__(self, output: Path, settings: Settings) -> None:
        """Run batches of the plan in `output`.

        Raises:
            EngineUnusable: The path of the output cannot be given to Slurm.
        """
        self._output = output.absolute()
        self._options = settings.engine.slurm
        self._memory_mb = settings.limits.memory_mb
        if _CONTROL.search(os.fspath(self._output)):
            raise EngineUnusable("output folder", "its path has control characters, which Slurm takes no log path with")

    @staticmethod
    def most_tasks() -> int:
        """Highest number of a task that the site permits.

        Raises:
            EngineUnusable: There is no Slurm here, or it does not answer.
        """
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _called("scontrol", "show", "config"), re.MULTILINE)
        return max(1, (int(found[1]) if found else DEFAULT_ARRAY_SIZE) - 1)

    @staticmethod
    def seconds_of(time_limit: str) -> float | None:
        """Seconds of a time limit as `sbatch --time` takes it; None for no limit, or for another text."""
        found = _TIME.fullmatch(time_limit.strip())
        if found is None:
            return None
        days, *rest = found.groups()
        numbers = [int(part) for part in rest if part is not None]
        units = (3600, 60, 1) if days is not None or len(numbers) == len(rest) else (60, 1)
        return (
            int(days or 0) * 86400.0 + sum(number * unit for number, unit in zip(numbers, units, strict=False)) or None
        )

    # -- submitting --------------------------------------------------------------------------------------------------

    def array(self, batches: Sequence[int]) -> SlurmCommand:
        """The call that submits batches."""
        options = self._options
        indexes = _ranges(batches) + (f"%{options.max_running}" if options.max_running else "")
        arguments = [
            *self._common(ARRAY_NAME, "%A_%a"),
            f"--array={indexes}",
            f"--cpus-per-task={options.cpus}",
            f"--mem={OWN_MEMORY_MB + options.cpus * self._memory_mb}",
            f"--signal=B:TERM@{options.grace_s}",
            "--requeue",
        ]
        if options.time is not None:
            arguments.append(f"--time={options.time}")
        workers = ("--workers", str(options.cpus))
        return SlurmCommand((*arguments, *options.extra), self._script("batch", "run", *workers))

    def after(self, job: str) -> SlurmCommand:
        """The call that submits the job which follows the tasks of an array, however they end."""
        arguments = [
            *self._common(MERGE_NAME, "%j"),
            f"--dependency=afterany:{job}",
            "--cpus-per-task=1",
            f"--mem={OWN_MEMORY_MB + self._memory_mb}",
            "--signal=B:TERM@60",
            "--requeue",
        ]
        return SlurmCommand((*arguments, *self._options.extra), self._script("backfill", "resume", "--in-job"))

    def _common(self, name: str, log: str) -> list[str]:
        folder = os.fspath(self._output / BATCHES).replace("\\", "\\\\").replace("%", "%%")
        arguments = ["sbatch", "--parsable", f"--job-name={name}", f"--output={folder}/slurm-{log}.log"]
        arguments += ["--open-mode=append", f"--chdir={self._output}"]
        options = self._options
        chosen = {"partition": options.partition, "account": options.account, "qos": options.qos}
        return arguments + [f"--{key}={value}" for key, value in chosen.items() if value is not None]

    def _script(self, *command: str) -> str:
        words = (sys.executable, "-P", "-m", "exporter", *command, os.fspath(self._output))
        return f"#!/bin/sh\nexec {shlex.join(words)}\n"

    def submit(self, batches: Sequence[int]) -> None:
        """See `BatchEngine`; the job that follows is submitted, too, or neither is."""
        job = _submitted(self.array(batches))
        try:
            following = _submitted(self.after(job))
        except EngineUnusable:
            _called("scancel", job)
            raise
        replace_file(self._output / BATCHES / JOBS, {"array": job, "merge": following}, durable=True)

    # -- asking ------------------------------------------------------------------------------------------------------

    def alive(self) -> frozenset[int]:
        """See `BatchEngine`."""
        job = self._jobs().get("array")
        if job is None:
            return frozenset()
        listed = _queued(job)
        return frozenset(int(found[1]) for found in re.finditer(r"^\d+_(\d+)$", listed, re.MULTILINE))

    def is_followed(self) -> bool:
        """Whether the job that merges or submits the next round waits or runs.

        Raises:
            EngineUnusable: Slurm does not answer.
        """
        job = self._jobs().get("merge")
        return job is not None and bool(_queued(job).strip())

    def cancel(self) -> None:
        """See `BatchEngine`; the job that follows is cancelled first, so that it submits nothing."""
        jobs = self._jobs()
        for key in ("merge", "array"):
            if key in jobs:
                _called("scancel", jobs[key], accept=_GONE)
        while self.alive() or self.is_followed():
            time.sleep(1.0)

    def _jobs(self) -> dict[str, str]:
        path = self._output / BATCHES / JOBS
        try:
            said: dict[str, str] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise EngineUnusable(f"ids of Slurm jobs {path}", str(error), "look them up with `squeue --me`") from error
        return said


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers as `sbatch --array` takes them, such as ``1-4,7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


def _submitted(command: SlurmCommand) -> str:
    """Id of the job that a call of `sbatch` made."""
    answer = _called(*command.arguments, text=command.script).strip()
    job = answer.partition(";")[0]
    if not job.isdecimal():
        raise EngineUnusable("sbatch", f"its answer has no job id: {answer[:200]!r}")
    return job


def _queued(job: str) -> str:
    return _called("squeue", "--noheader", "--array", "--format=%i", f"--jobs={job}", accept=_GONE)


def _called(*command: str, text: str = "", accept: str | None = None) -> str:
    """Standard output of a command of Slurm.

    Args:
        command: The program and its arguments.
        text: Its standard input.
        accept: An error message that is an answer as well.

    Raises:
        EngineUnusable: It is missing, refuses or does not answer.
    """
    program = command[0]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=ANSWER_S)
    except FileNotFoundError:
        hint = "submit on a host that has Slurm's commands, or use --engine processes"
        raise EngineUnusable(f"{program} is not installed here", hint=hint) from None
    except subprocess.TimeoutExpired:
        raise EngineUnusable(program, f"no answer within {ANSWER_S:.0f} s", "check `scontrol ping`") from None
    if done.returncode and not (accept is not None and accept in done.stderr):
        cause = " ".join(done.stderr.split()) or f"it ended with {done.returncode}"
        raise EngineUnusable(f"{program} refuses", cause, "nothing is submitted; change engine.slurm, or ask the site")
    return done.stdout
