"""`exporter backfill`: a folder, exported; a progress bar on a terminal, log lines otherwise.

Contract: Ctrl-C (or SIGTERM) stops after the instances under way, a second one at once; the same command goes on where
it stopped. File names may be patients' names: they are never logged, only counted.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from exporter.commands import CommandError, ExitCode
from exporter.commands.places import DEFAULT_DATA, ConfigOption, running_in_words, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.backfilling import Request, Tally
    from exporter.settings import Settings

LOG_EVERY_S = 10.0
REFRESH_S = 0.2
NOT_YET = ("slurm", "dask")


def backfill(
    directory: Annotated[
        Path | None, Parameter(name="DIR", help="Folder of DICOM files; default: `dicom.dir` of the configuration.")
    ] = None,
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(help="Folder for media/, metadata.jsonl and exporter.db; default: `media.dir`, or ./dicom-media."),
    ] = None,
    config: ConfigOption = None,
    workers: Annotated[
        int | None,
        Parameter(
            validator=validators.Number(gte=0, lte=256),
            help="Instances at once; default: `num_workers`. 0: in this process, without limits on memory and time.",
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "slurm", "dask"], Parameter(help="Where the work is done; only `local` is available yet.")
    ] = "local",
    dry_run: Annotated[bool, Parameter(negative="", help="Only say what would be done; nothing is written.")] = False,
) -> int:
    """Export every DICOM file below a folder that is new or changed since the last run.

    Files are recognised by content, whatever their name. Media mirror the folder's tree; the folder itself is never
    changed.
    """
    if engine in NOT_YET:
        raise CommandError(f"--engine {engine} is not available yet; use --engine local", ExitCode.USAGE)
    settings = settings_of(config)
    request = _request(directory, output, settings, workers)
    with running_in_words():
        if dry_run:
            return _dry_run(request)
        from exporter.commands.config import keep_copy, refuse_untried

        refuse_untried(settings, config)
        if request.folder.is_dir():
            keep_copy(settings, config)
        return _run(request)


def _request(directory: Path | None, output: Path | None, settings: Settings, workers: int | None) -> Request:
    from exporter.backfilling import Request

    folder = directory or settings.dicom.dir
    if folder is None:
        raise CommandError(
            "no folder to export: name it (`exporter backfill DIR`), or set `dicom.dir` in the configuration",
            ExitCode.USAGE,
        )
    return Request(
        folder=folder.expanduser(),
        output=(output or settings.media.dir or DEFAULT_DATA).expanduser(),
        settings=settings,
        workers=workers,
    )


def _dry_run(request: Request) -> int:
    from collections import Counter

    from exporter.backfilling import plan
    from listener.printable import printable

    counts: Counter[str] = Counter()
    for step in plan(request):
        counts[step.action] += 1
        print(f"{step.action:<10}{printable(step.name)}" + (f" -> {printable(step.detail)}" if step.detail else ""))
    print("; ".join(f"{action} {count}" for action, count in sorted(counts.items())) or "nothing found")
    return ExitCode.DONE


def _run(request: Request) -> int:
    from exporter.backfilling import Tally, backfill
    from listener import logs

    log = request.settings.log
    logs.configure(log.level, log.format)
    tally, stop, started = Tally(), threading.Event(), time.monotonic()
    with _stopped_by_signals(stop), _progress(tally):
        for _ in backfill(request, tally, stop):
            pass
    print(_summary(request, tally, time.monotonic() - started))
    if stop.is_set():
        print("stopped; the same command goes on where it stopped", file=sys.stderr)
        return ExitCode.INTERRUPTED
    return ExitCode.SOME_FAILED if tally.failed or tally.failed_before else ExitCode.DONE


def _summary(request: Request, tally: Tally, seconds: float) -> str:
    """What was done, in one line or two."""
    parts = [f"exported {tally.exported}"]
    for word, reasons in (("skipped", tally.skipped), ("failed", tally.failed)):
        if reasons:
            why = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            parts.append(f"{word} {reasons.total()} ({why})")
    if tally.unchanged:
        before = f", {tally.failed_before} of them failed before" if tally.failed_before else ""
        parts.append(f"unchanged {tally.unchanged}{before}")
    text = f"{'; '.join(parts)}; {seconds:.1f} s; output in {request.output}"
    if tally.failed or tally.failed_before:
        text += f"\n`exporter failures --data {request.output}` says what failed and why"
    return text


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set `stop`; the second one interrupts."""

    def handle(_signal: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(tally: Tally) -> Iterator[None]:
    """A bar on a terminal, a log line every ten seconds otherwise, while the block runs."""
    done = threading.Event()
    with _bar(tally) if sys.stderr.isatty() else _log_lines(tally) as show:

        def repeat() -> None:
            while not done.wait(REFRESH_S):
                show()

        thread = threading.Thread(target=repeat, name="progress")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            show()


@contextmanager
def _bar(tally: Tally) -> Iterator[Callable[[], None]]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[failed]}"),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("exporting", total=None, rate="", failed="")

        def show() -> None:
            failed = tally.failed.total()
            speed = bar.tasks[0].speed
            bar.update(
                task,
                total=tally.total,
                completed=tally.done,
                rate=f"{speed:.1f}/s" if speed else "",
                failed=f"{failed} failed" if failed else "",
            )

        yield show


@contextmanager
def _log_lines(tally: Tally) -> Iterator[Callable[[], None]]:
    import structlog

    log = structlog.get_logger()
    last = [time.monotonic(), 0.0]

    def show() -> None:
        now = time.monotonic()
        if now - last[0] < LOG_EVERY_S:
            return
        rate = (tally.done - last[1]) / (now - last[0])
        last[:] = now, tally.done
        left = round((tally.total - tally.done) / rate) if tally.total is not None and rate else None
        log.info(
            "progress",
            done=tally.done,
            total=tally.total,
            exported=tally.exported,
            skipped=tally.skipped.total(),
            failed=tally.failed.total(),
            per_second=round(rate, 1),
            seconds_left=left,
        )

    yield show
