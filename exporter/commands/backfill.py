"""`exporter backfill`: a folder, an archive or a DICOM medium, exported.

Contract: stopped at any point, the same command goes on where it stopped; an obstacle becomes one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Literal

import cyclopts
from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode, batches
from exporter.commands.batch import BatchesOption  # noqa: TC001 - cyclopts reads the annotations at run time
from exporter.commands.options import (
    DEFAULT_DATA,
    ConfigOption,
    OutputOption,
    TakeOverOption,
    WorkersOption,
    in_words,
    refuse_unusable_notify,
    settings_of,
)

if TYPE_CHECKING:
    from exporter.inputs.backfill import BackfillRequest
    from exporter.settings.settings import Settings

application = cyclopts.App(name="backfill", help="Export a folder of DICOM files.")
application.command(batches.status)
application.command(batches.resume)
application.command(batches.cancel)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Where a backfill runs. Options that are given win over the section `engine` of the configuration."""

    engine: Annotated[
        Literal["local", "processes", "slurm", "dask"],
        Parameter(
            help="Who does the work: this process, batches as processes, an array of Slurm jobs, a Dask cluster."
        ),
    ] = "local"
    batches: BatchesOption = None
    only_print: Annotated[
        bool, Parameter(name="--print", negative="", help="With --engine slurm: plan, print the jobs, submit nothing.")
    ] = False
    scheduler: Annotated[str | None, Parameter(help="Address of a Dask scheduler.")] = None
    partition: Annotated[str | None, Parameter(help="Slurm: partition.")] = None
    account: Annotated[str | None, Parameter(help="Slurm: account.")] = None
    qos: Annotated[str | None, Parameter(help="Slurm: quality of service.")] = None
    time: Annotated[str | None, Parameter(help="Slurm: time limit of one task.")] = None
    cpus: Annotated[int | None, Parameter(help="Slurm: processors of one task, each with one worker.")] = None
    max_tasks: Annotated[int | None, Parameter(help="Slurm: most tasks of the array.")] = None
    max_running: Annotated[int | None, Parameter(help="Slurm: most tasks at once.")] = None
    max_rounds: Annotated[int | None, Parameter(help="Times that a batch is started, at most.")] = None

    def applied_to(self, settings: Settings) -> Settings:
        """The settings with these options.

        Raises:
            CommandError: A value is not permitted.
        """
        from exporter.settings.engine import EngineSection

        slurm = {name: getattr(self, name) for name in _OF_SLURM if getattr(self, name) is not None}
        top = {name: getattr(self, name) for name in ("scheduler", "max_rounds") if getattr(self, name) is not None}
        if (slurm or self.only_print) and self.engine != "slurm":
            raise CommandError("--print and the options of Slurm belong to --engine slurm", ExitCode.USAGE)
        if self.scheduler is not None and self.engine != "dask":
            raise CommandError("--scheduler belongs to --engine dask", ExitCode.USAGE)
        said = settings.engine.model_dump()
        try:
            section = EngineSection.model_validate(said | top | {"slurm": said["slurm"] | slurm})
        except ValueError as error:
            raise CommandError(f"options of the engine: {error}", ExitCode.USAGE) from None
        if self.engine == "dask" and section.scheduler is None:
            raise CommandError("--engine dask needs --scheduler tcp://HOST:PORT, or engine.scheduler", ExitCode.USAGE)
        return settings.model_copy(update={"engine": section})


_OF_SLURM = ("partition", "account", "qos", "time", "cpus", "max_tasks", "max_running")


@application.default
def backfill(
    directory: Annotated[
        Path | None,
        Parameter(
            name="DIR",
            help="Folder of DICOM files; or one archive or DICOMDIR. Default: `dicom.dir` of the configuration.",
        ),
    ] = None,
    /,
    *,
    output: OutputOption = None,
    config: ConfigOption = None,
    workers: WorkersOption = None,
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would be done; nothing is written.")] = False,
    estimate: Annotated[
        bool, Parameter(negative="", help="Only export a sample, elsewhere, and say what a backfill will cost.")
    ] = False,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="With --estimate: print one JSON object.")
    ] = False,
    take_over: TakeOverOption = False,
    record: Annotated[
        Literal["names", "keywords", "tags", "dicom-json"] | None,
        Parameter(help="How lines hold elements; default: `metadata.record`, which is `names`."),
    ] = None,
    niffler_config: Annotated[
        Path | None,
        Parameter(
            name="--niffler-config",
            help="Configuration of Niffler's PNG extractor (config.json): its folders, tables and names; see"
            " docs/migration.md.",
        ),
    ] = None,
    changes: Annotated[
        tuple[str, ...],
        Parameter(name="--set", negative="", help="With --niffler-config: KEY=VALUE instead of the file's value."),
    ] = (),
    mail_server: Annotated[
        str | None,
        Parameter(
            help="With --niffler-config: host or host:port that takes its e-mail; default: that of `notify.mail`, or"
            " localhost."
        ),
    ] = None,
    where: EngineOptions | None = None,
) -> int:
    """Export every DICOM file below a folder that is new or changed since the last run.

    Files are recognised by content, whatever their name, also inside zip and tar archives. Media mirror the folder's
    tree; the folder itself is never changed.
    """
    where = where or EngineOptions()
    settings = where.applied_to(settings_of(config))
    if record is not None:
        settings = settings.model_copy(
            update={"metadata": settings.metadata.model_copy(update={"record": record})},
        )
    if niffler_config is not None:
        from exporter.commands.niffler import NifflerRun

        if directory is not None or output is not None or dry_run or where.engine != "local":
            raise CommandError(
                "with --niffler-config the folders are DICOMHome and OutputDirectory, and there is no --dry-run; leave"
                " these out, or change the folders with --set",
                ExitCode.USAGE,
            )
        return NifflerRun(niffler_config, changes, settings, workers, take_over, mail_server)()
    if as_json and not estimate:
        raise CommandError("--json belongs to --estimate", ExitCode.USAGE)
    if changes or mail_server is not None:
        raise CommandError(
            "--set and --mail-server belong to --niffler-config: name its file, or leave them out", ExitCode.USAGE
        )
    request = replace(_request(directory, output, settings, workers), take_over=take_over)
    with in_words():
        from exporter.commands.progress import print_plan, run
        from exporter.inputs.backfill import export, plan, reader_of

        if dry_run:
            return print_plan(plan(request))
        if estimate:
            return batches.estimate(request, as_json=as_json)
        from exporter.commands.config import keep_copy, refuse_untried

        refuse_untried(settings, config)
        refuse_unusable_notify(settings)
        reader = reader_of(request)
        keep_copy(settings, config)
        if where.engine != "local":
            return batches.start(request, where.engine, batches=where.batches, only_print=where.only_print)
        return run(partial(export, reader), request.target)


def _request(directory: Path | None, output: Path | None, settings: Settings, workers: int | None) -> BackfillRequest:
    from exporter.inputs.backfill import BackfillRequest

    folder = directory or settings.dicom.dir
    if folder is None:
        raise CommandError(
            "no folder to export: name it (`exporter backfill DIR`), or set `dicom.dir` in the configuration",
            ExitCode.USAGE,
        )
    return BackfillRequest(
        folder=folder.expanduser(),
        output=(output or settings.media.dir or DEFAULT_DATA).expanduser(),
        settings=settings,
        workers=workers,
    )
