"""The section `engine`: where the batches of a backfill run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from listener.foundation.configuration import Section

PositiveInt = Annotated[int, Field(gt=0)]


class SlurmSection(Section):
    """Options of `sbatch` for `backfill --engine slurm`. The site's defaults apply to options that are not set."""

    partition: str | None = None
    """Partition of the tasks."""
    account: str | None = None
    """Account that is charged."""
    qos: str | None = None
    """Quality of service."""
    time: str | None = None
    """Time limit of one task, as `sbatch --time` takes it: minutes, `HH:MM:SS`, `D-HH:MM:SS`. Batches are made for half
    of it. One that does not end within it goes on in the next round."""
    cpus: PositiveInt = 2
    """Processors of one task, each with one worker. Memory follows from it and from `limits.memory_mb`."""
    max_tasks: PositiveInt = 200
    """Most tasks of one array, and so most batches of a plan; a smaller `MaxArraySize` of the site counts instead."""
    max_running: PositiveInt | None = None
    """Most tasks that run at once."""
    grace_s: PositiveInt = 40
    """Seconds before the time limit at which a task is asked to end (`--signal=B:TERM@`)."""
    extra: tuple[str, ...] = ()
    """Further options of `sbatch`, each one string, such as `--exclude=node7`."""


class EngineSection(Section):
    """Batches of `backfill`: how often they are tried, and where."""

    max_rounds: PositiveInt = 6
    """Times that batches which are not complete are started, at most. A batch that makes no progress in a round is
    stuck and is not started again."""
    scheduler: str | None = None
    """Address of a Dask scheduler for `--engine dask`, such as `tcp://10.0.0.1:8786`."""
    slurm: SlurmSection = SlurmSection()
    """Options of `--engine slurm`."""
