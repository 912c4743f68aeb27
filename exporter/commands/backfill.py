"""`exporter backfill`: a folder, an archive or a DICOM medium, exported.

Contract: stopped at any point, the same command goes on where it stopped; an obstacle becomes one sentence.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import (
    DEFAULT_DATA,
    ConfigOption,
    OutputOption,
    TakeOverOption,
    WorkersOption,
    in_words,
    settings_of,
)

if TYPE_CHECKING:
    from exporter.inputs.backfill import BackfillRequest
    from exporter.settings.settings import Settings

NOT_YET = ("slurm", "dask")


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
    engine: Annotated[
        Literal["local", "slurm", "dask"], Parameter(help="Where the work is done; only `local` is available yet.")
    ] = "local",
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would be done; nothing is written.")] = False,
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
        Parameter(help="With --niffler-config: host or host:port that takes its e-mail; default: localhost."),
    ] = None,
) -> int:
    """Export every DICOM file below a folder that is new or changed since the last run.

    Files are recognised by content, whatever their name, also inside zip and tar archives. Media mirror the folder's
    tree; the folder itself is never changed.
    """
    if engine in NOT_YET:
        raise CommandError(f"--engine {engine} is not available yet; use --engine local", ExitCode.USAGE)
    settings = settings_of(config)
    if record is not None:
        settings = settings.model_copy(
            update={"metadata": settings.metadata.model_copy(update={"record": record})},
        )
    if niffler_config is not None:
        from exporter.commands.niffler import NifflerRun

        if directory is not None or output is not None or dry_run:
            raise CommandError(
                "with --niffler-config the folders are DICOMHome and OutputDirectory (--set changes them), and there is"
                " no --dry-run",
                ExitCode.USAGE,
            )
        return NifflerRun(niffler_config, changes, settings, workers, take_over, mail_server or "localhost")()
    if changes or mail_server is not None:
        raise CommandError("--set and --mail-server belong to --niffler-config", ExitCode.USAGE)
    request = replace(_request(directory, output, settings, workers), take_over=take_over)
    with in_words():
        from exporter.commands.progress import print_plan, run
        from exporter.inputs.backfill import export, plan, reader_of

        if dry_run:
            return print_plan(plan(request))
        from exporter.commands.config import keep_copy, refuse_untried

        refuse_untried(settings, config)
        reader = reader_of(request)
        keep_copy(settings, config)
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
