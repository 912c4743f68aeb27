"""Shared parts of the commands that export things at rest: progress, signals, summary, exit code.

Contract: a bar on a terminal, a log line every ten seconds otherwise; Ctrl-C (or SIGTERM) stops after the instances
under way, a second Ctrl-C at once. File names may be patients' names: they are never logged, only counted.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from exporter.commands import ExitCode
from listener.foundation.signals import stopping
from listener.foundation.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import Unpack

    from exporter.inputs.backfill import DryRunStep, ExportTarget
    from exporter.inputs.entry_source import Progress
    from exporter.notifications.events import RunCounts, RunResult
    from exporter.settings.settings import Settings
    from exporter.work.contract import PublishedResult

    Start = Callable[[ExportTarget, Progress, threading.Event], Iterator[PublishedResult]]

LOG_EVERY_S = 10.0
REFRESH_S = 0.2


def run(start: Start, target: ExportTarget) -> int:
    """Export until all is done or a signal says stop; says how far it is meanwhile, and what was done at the end."""
    from exporter.batches.run_note import cancellable
    from exporter.inputs.entry_source import Progress
    from listener.foundation import logs

    log = target.settings.log
    logs.configure(log.level, log.format)
    tally, stop, started = Progress(), threading.Event(), time.monotonic()
    try:
        with stopping(stop), cancellable(target.output, stop), shown(tally):
            for _ in start(target, tally, stop):
                pass
    except BaseException:
        _notify(target, tally, "ended_early", time.monotonic() - started)
        raise
    seconds = time.monotonic() - started
    print(_summary(target, tally, seconds), flush=True)
    if not stop.is_set():
        _report(target, tally, seconds)
    _notify(target, tally, "stopped" if stop.is_set() else "complete", seconds)
    if stop.is_set():
        print("stopped; the same command goes on where it stopped", file=sys.stderr)
        return ExitCode.INTERRUPTED
    return ExitCode.SOME_FAILED if tally.failed or tally.failed_before or tally.memory_short else ExitCode.DONE


def _report(target: ExportTarget, tally: Progress, seconds: float) -> None:
    """Write the report of the run."""
    if not target.settings.run_report.enabled:
        return
    from exporter.commands.report import report_run
    from exporter.page.report.facts import RunNumbers

    skipped, failed = tally.skipped.total(), tally.failed.total()
    report_run(target, RunNumbers(tally.exported, skipped, failed, tally.unchanged, tally.bytes, seconds))


def print_plan(steps: Iterable[DryRunStep]) -> int:
    """Print what would be done with each entry, and how many of each there are."""
    from collections import Counter

    counts: Counter[str] = Counter()
    for step in steps:
        counts[step.action] += 1
        print(f"{step.action:<10}{printable(step.name)}" + (f" -> {printable(step.detail)}" if step.detail else ""))
    print("; ".join(f"{action} {count}" for action, count in sorted(counts.items())) or "nothing found")
    return ExitCode.DONE


def _notify(target: ExportTarget, tally: Progress, result: RunResult, seconds: float) -> None:
    """Notify of the end of a run."""
    notify_of_end(
        target.settings,
        target.output,
        result,
        exported=tally.exported,
        skipped=tally.skipped,
        failed=tally.failed,
        unchanged=tally.unchanged,
        failed_before=tally.failed_before,
        left=tally.memory_short,
        seconds=round(seconds, 1),
    )


def notify_of_end(settings: Settings, output: Path, result: RunResult, **counts: Unpack[RunCounts]) -> None:
    """Notify of the end of a run where the configuration asks for it; a fault costs a sentence, not the exit code."""
    if not settings.notify.is_on or not output.is_dir():
        return
    from exporter.notifications.events import run_ended
    from exporter.notifications.service import notify_of_run
    from listener.foundation.errors import Unusable

    try:
        left = notify_of_run(settings, output, run_ended(result, **counts))
    except Unusable as error:
        print(f"exporter: the run's notification is not sent: {printable(str(error))}", file=sys.stderr)
        return
    if left:
        again = f"exporter notify send --data {printable(str(output))}"
        print(f"exporter: {left} notifications are not delivered yet: `{again}` goes on with them", file=sys.stderr)


def _summary(target: ExportTarget, tally: Progress, seconds: float) -> str:
    """Summary of a run, in one line or two."""
    parts = [f"exported {tally.exported}"]
    for word, reasons in (("skipped", tally.skipped), ("failed", tally.failed)):
        if reasons:
            why = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            parts.append(f"{word} {reasons.total()} ({why})")
    if tally.unchanged:
        before = f", {tally.failed_before} of them failed before" if tally.failed_before else ""
        parts.append(f"unchanged {tally.unchanged}{before}")
    text = f"{'; '.join(parts)}; {seconds:.1f} s; output in {printable(str(target.output))}"
    if tally.memory_short:
        text += (
            f"\n{tally.memory_short} left pending: memory is short, their worker processes were killed with nothing "
            "else under way; with more memory the same command exports them"
        )
    if tally.failed or tally.failed_before:
        text += f"\n`exporter failures --data {target.output}` says what failed and why"
    return text


@contextmanager
def shown(tally: Progress) -> Iterator[None]:
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
def _bar(tally: Progress) -> Iterator[Callable[[], None]]:
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
                completed=tally.settled,
                rate=f"{speed:.1f}/s" if speed else "",
                failed=f"{failed} failed" if failed else "",
            )

        yield show


@contextmanager
def _log_lines(tally: Progress) -> Iterator[Callable[[], None]]:
    import structlog

    log = structlog.get_logger()
    last = [time.monotonic(), 0.0]

    def show() -> None:
        now = time.monotonic()
        if now - last[0] < LOG_EVERY_S:
            return
        rate = (tally.settled - last[1]) / (now - last[0])
        last[:] = now, tally.settled
        left = round((tally.total - tally.settled) / rate) if tally.total is not None and rate else None
        log.info(
            "progress",
            done=tally.settled,
            total=tally.total,
            exported=tally.exported,
            skipped=tally.skipped.total(),
            failed=tally.failed.total(),
            per_second=round(rate, 1),
            seconds_left=left,
        )

    yield show
