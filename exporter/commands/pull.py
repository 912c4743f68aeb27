"""`exporter pull`: the studies of a cohort from a PACS into the spool, or a dry run that only finds them.

Contract: what is complete is never asked for twice, so that the same command goes on where it stopped. Rows are
named by number; identifiers go only into the CSV files that the user asked for. Ctrl-C (or SIGTERM) lets what is
under way come in, a second Ctrl-C ends at once.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.daemons import LogLevelOption  # noqa: TC001 - cyclopts reads the annotations at run time
from exporter.commands.options import DataOptions, in_words
from listener.foundation.errors import Unusable
from listener.foundation.signals import stopping
from listener.foundation.text import printable

if TYPE_CHECKING:
    from exporter.pull.cohort import Cohort
    from exporter.pull.outcome import Summary
    from exporter.pull.request import PullRequest
    from exporter.settings.pull import PullPeerSection
    from exporter.settings.settings import Settings

MOST_LISTED = 50
"""Most rows that are printed one by one; the report has them all."""

Cohort_ = Annotated[Path, Parameter(name="COHORT.csv", help="CSV file: keywords in the first row, then what to fetch.")]


def pull(
    cohort: Cohort_,
    /,
    places: DataOptions | None = None,
    *,
    peer: Annotated[str, Parameter(name="--from", help="Name of a peer of the section `pull` of the configuration.")],
    level: Annotated[
        Literal["patient", "study", "series", "instance"] | None,
        Parameter(help="How much is fetched of what a row finds; default: `level` of the peer."),
    ] = None,
    method: Annotated[
        Literal["move", "get"] | None, Parameter(help="C-MOVE or C-GET; default: `method` of the peer.")
    ] = None,
    dry_run: Annotated[
        Path | None, Parameter(name="--dry-run", help="Only find, and write what was found to this new CSV file.")
    ] = None,
    report: Annotated[
        Path | None, Parameter(help="CSV file of how each row ended; default: pull/report.csv in the data folder.")
    ] = None,
    again: Annotated[bool, Parameter(negative="", help="Ask once more for what is complete, too.")] = False,
    any_time: Annotated[
        bool, Parameter(name="--any-time", negative="", help="Do not wait for the peer's `window`.")
    ] = False,
    log_level: LogLevelOption = None,
) -> int:
    """Fetch what the rows of a CSV file name from a PACS, with C-FIND and C-MOVE (or C-GET), into the spool.

    The columns are keywords of the data dictionary, such as PatientID, AccessionNumber and StudyDate; wildcards and
    ranges as in PS3.4 C.2.2.2. `exporter run` exports what comes.
    """
    from listener.foundation import logs

    places = places or DataOptions()
    settings = places.settings()
    logs.configure(log_level or settings.log.level, settings.log.format)
    chosen = _peer(settings, peer, level, method)
    request = _request(places, settings, chosen, cohort)
    request = _with(request, again=again, any_time=any_time)
    stop = threading.Event()
    with in_words(), stopping(stop):
        if dry_run is not None:
            return _find(request, stop, dry_run.expanduser(), cohort)
        place = report.expanduser() if report is not None else request.folder / "report.csv"
        return _fetch(request, stop, place, cohort)


def _peer(settings: Settings, name: str, level: str | None, method: str | None) -> PullPeerSection:
    """The peer of that name, with the overrides of the command line.

    Raises:
        CommandError: No peer has that name.
    """
    found = next((peer for peer in settings.pull if peer.name == name), None)
    if found is None:
        known = ", ".join(peer.name for peer in settings.pull)
        hint = f"it has {known}" if known else "name one there, with `name`, `ae_title`, `host` and `port`"
        raise CommandError(f"the section `pull` of the configuration has no peer {name}; {hint}", ExitCode.USAGE)
    update = {key: value for key, value in (("level", level), ("method", method)) if value is not None}
    return found.model_copy(update=update)


def _request(places: DataOptions, settings: Settings, peer: PullPeerSection, path: Path) -> PullRequest:
    """Request of the pull.

    Raises:
        CohortUnusable, CommandError: No row of the cohort can be used.
    """
    from exporter.pull.cohort import read_cohort
    from exporter.pull.request import PullRequest

    cohort = read_cohort(path.expanduser(), codec=_codec(peer.character_set))
    if not cohort.rows:
        raise CommandError("\n".join(_rows_told(_wrong(cohort))), ExitCode.USAGE)
    return PullRequest(cohort, settings, peer, peer.level, places.folder())


def _with(request: PullRequest, *, again: bool, any_time: bool) -> PullRequest:
    from dataclasses import replace

    return replace(request, again=again, any_time=any_time)


def _codec(character_set: str) -> str:
    """Python's name of a character set (PS3.3 C.12.1.1.2)."""
    from pydicom.charset import python_encoding

    return python_encoding[character_set]


def _find(request: PullRequest, stop: threading.Event, place: Path, path: Path) -> int:
    from exporter.pull.run import survey

    if place.exists() or place.is_symlink():
        raise CommandError(f"{place} is there already, and is not replaced; name a new file", ExitCode.USAGE)
    try:
        problems = survey(request, stop, place)
    except OSError as error:
        raise CommandError(f"{place} cannot be written: {error.strerror}") from error
    found = request.cohort.count - len(problems)
    print(f"{path.name}: {request.cohort.count} rows, {found} found; nothing was fetched; what was found is in {place}")
    for line in _rows_told(problems):
        print(printable(line))
    return ExitCode.SOME_FAILED if problems else ExitCode.DONE


def _fetch(request: PullRequest, stop: threading.Event, report: Path, path: Path) -> int:
    from exporter.pull.run import pull

    if not report.parent.is_dir() and report.parent != request.folder:
        raise CommandError(f"there is no folder {report.parent} for the report", ExitCode.USAGE)
    try:
        summary = pull(request, stop, report)
    except Unusable as error:
        raise CommandError(f"{error}; the same command goes on where it stopped", error.exit_code) from error
    except OSError as error:
        raise CommandError(f"{error.filename or report}: {error.strerror or error}") from error
    _tell(request, summary, path, report)
    if stop.is_set() and "waiting" in summary.states:
        print("stopped; the same command goes on where it stopped", file=sys.stderr)
        return ExitCode.INTERRUPTED
    return ExitCode.DONE if summary.is_all_well else ExitCode.SOME_FAILED


def _tell(request: PullRequest, summary: Summary, path: Path, report: Path) -> None:
    states = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in sorted(summary.states.items()))
    named, missing = summary.instances
    print(
        f"{path.name}: {request.cohort.count} rows: {states}; {named} instances, {missing} missing; report in {report}"
    )
    for line in _rows_told({one.number: one.problem for one in summary.outcomes if one.problem}):
        print(printable(line))
    print(f"`exporter run --data {request.data.root}` exports what waits in the spool")


def _wrong(cohort: Cohort) -> dict[int, str]:
    return {row.number: row.problem for row in cohort.wrong}


def _rows_told(problems: dict[int, str]) -> list[str]:
    lines = [f"row {number}: {problem}" for number, problem in list(problems.items())[:MOST_LISTED]]
    if len(problems) > MOST_LISTED:
        lines.append(f"and {len(problems) - MOST_LISTED} rows more")
    return lines
