"""`exporter batch plan|run|merge|commands`: a backfill in three steps that stand on their own.

Contract: a batch is a command line and a file, so that any scheduler, workflow program or shell loop can run it. `run`
ends with 0 when every instance of the batch has an outcome, failures included: `merge` reports those.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter, validators

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
from exporter.commands.report import report_run
from listener.foundation.processes import end_with_parent
from listener.foundation.signals import stopping
from listener.foundation.text import printable

if TYPE_CHECKING:
    from exporter.batches.merging import MergeReport
    from exporter.notifications.events import RunResult

OutArgument = Annotated[Path, Parameter(name="OUT", help="Output folder with a plan.")]
BatchesOption = Annotated[
    int | None, Parameter(validator=validators.Number(gte=1, lte=100_000), help="Most batches; default: as useful.")
]
IncompleteOption = Annotated[
    bool, Parameter(negative="", help="Merge what there is, though batches are not complete; the rest is left.")
]

INDEXES = (
    ("SLURM_ARRAY_TASK_ID", "Slurm", 0),
    ("PBS_ARRAY_INDEX", "PBS Pro, OpenPBS", 0),
    ("PBS_ARRAYID", "Torque", 0),
    ("LSB_JOBINDEX", "LSF", 0),
    ("SGE_TASK_ID", "SGE", 0),
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS Batch", 1),
    ("JOB_COMPLETION_INDEX", "Kubernetes, indexed Job", 1),
)
"""Variables in which schedulers say which task it is, and what is added to make it the number of a batch."""

application = cyclopts.App(name="batch", help="Cut a backfill into batches that run anywhere; merge them.")


@application.command
def plan(
    directory: Annotated[Path, Parameter(name="DIR", help="Folder of DICOM files; or one archive or DICOMDIR.")],
    /,
    *,
    output: OutputOption = None,
    batches: BatchesOption = None,
    config: ConfigOption = None,
) -> int:
    """List what is to be exported, in batches; no file is opened."""
    from exporter.batches.plan import make_plan
    from exporter.commands.config import keep_copy, refuse_untried
    from exporter.inputs.backfill import BackfillRequest

    settings = settings_of(config)
    with in_words():
        refuse_untried(settings, config)
        out = (output or settings.media.dir or DEFAULT_DATA).expanduser()
        made = make_plan(BackfillRequest(directory.expanduser(), out, settings), batches)
        keep_copy(settings, config)
    print(
        f"{made.units} files, {made.bytes / 1e9:.2f} GB, in {len(made.batches)} batches; plan in {printable(str(out))}"
    )
    return ExitCode.DONE


@application.command
def run(
    out: OutArgument,
    number: Annotated[
        int | None, Parameter(name="N", help="Number of the batch, from 1; default: from the scheduler's variables.")
    ] = None,
    /,
    *,
    workers: WorkersOption = None,
) -> int:
    """Export what is left of one batch."""
    end_with_parent(signal.SIGTERM)
    with in_words():
        from exporter.batches.plan import BatchPlan
        from exporter.batches.run_note import cancellable
        from exporter.batches.running import run_batch
        from exporter.commands.progress import shown
        from exporter.inputs.entry_source import Progress
        from listener.foundation import logs

        found = BatchPlan.read(out.expanduser())
        batch = found.batch(number if number is not None else index_of_task()).number
        log = found.settings().log
        logs.configure(log.level, log.format)
        progress, stop = Progress(), threading.Event()
        with stopping(stop), cancellable(found.output, stop), shown(progress):
            end = run_batch(found, batch, workers=workers, progress=progress, stop=stop)
    if end.is_complete:
        print(f"batch {batch} is complete: {progress.settled} instances")
        return ExitCode.DONE
    print(f"batch {batch} is not complete; the same command goes on where it stopped", file=sys.stderr)
    return ExitCode.INTERRUPTED if stop.is_set() else ExitCode.SOME_FAILED


def index_of_task() -> int:
    """Number of the batch that this task of a scheduler is to run.

    Raises:
        CommandError: No scheduler says it.
    """
    for variable, _, offset in INDEXES:
        value = os.environ.get(variable, "")
        if value.isdecimal() and int(value) + offset > 0:
            return int(value) + offset
    known = ", ".join(variable for variable, _, _ in INDEXES)
    raise CommandError(f"which batch? give its number, or run it as a task of an array ({known})", ExitCode.USAGE)


@application.command
def merge(out: OutArgument, /, *, incomplete: IncompleteOption = False, take_over: TakeOverOption = False) -> int:
    """Make one output folder of what the batches left, equal to that of a local backfill."""
    from exporter.batches.run_note import cancellable

    out, stop = out.expanduser(), threading.Event()
    with stopping(stop), cancellable(out, stop):
        return merged(out, stop, incomplete=incomplete, take_over=take_over)


def merged(out: Path, stop: threading.Event, *, incomplete: bool, take_over: bool = False) -> int:
    """Merge, print what there is now, and say how the command ends."""
    from exporter.batches.merging import merge as merge_batches
    from exporter.batches.plan import BatchPlan
    from exporter.commands.progress import notify_of_end
    from exporter.results.ledger import Ledger
    from listener.foundation import logs

    with in_words():
        found = BatchPlan.read(out)
        settings = found.settings()
        logs.configure(settings.log.level, settings.log.format)
        report = merge_batches(out, incomplete=incomplete, take_over=take_over, stop=stop)
        with Ledger.open_read_only(found.request(settings).places.ledger) as ledger:
            failed = ledger.counts().failed  # those of earlier runs, too, as after a local run
    print(_summary(report, out), flush=True)
    report_run(found.request(settings).target)
    result: RunResult = "ended_early" if report.left else "complete"
    notify_of_end(settings, out, result, exported=report.exported, skipped=report.skipped, failed=report.failed)
    return ExitCode.SOME_FAILED if failed or report.left else ExitCode.DONE


def _summary(report: MergeReport, out: Path) -> str:
    parts = [f"exported {report.exported}"]
    for word, reasons in (("skipped", report.skipped), ("failed", report.failed)):
        if reasons:
            why = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            parts.append(f"{word} {reasons.total()} ({why})")
    parts.append(f"output in {printable(str(out))}")
    text = "; ".join(parts)
    if report.left:
        text += f"\n{len(report.left)} batches were not complete; a new plan exports what is left"
    return text


@application.command
def commands(out: OutArgument, /) -> int:
    """Print one command for each batch that is not complete."""
    from exporter.batches.plan import BatchPlan, is_merged
    from exporter.batches.running import is_complete

    with in_words():
        found = BatchPlan.read(out.expanduser())
        if not is_merged(found.root):
            for batch in found.batches:
                if not is_complete(found.folder_of(batch.number)):
                    print(shlex.join(("exporter", "batch", "run", os.fspath(found.output), str(batch.number))))
    return ExitCode.DONE
