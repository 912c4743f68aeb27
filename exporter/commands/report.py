"""`exporter report`, and the report that is written after every run.

Contract: a report is an extra: where it cannot be written after a run, one sentence says so, and the run ends as it
would have.
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from exporter.commands import ExitCode
from exporter.commands.options import ConfigOption, existing, in_words, settings_of
from listener.foundation.text import printable

if TYPE_CHECKING:
    from exporter.inputs.backfill import ExportTarget
    from exporter.page.report.facts import RunNumbers

LEAST_S: Final = 2.0
MOST_S: Final = 10.0
PART_OF_A_RUN: Final = 0.05
"""Time for previews after a run: this part of its own, within those limits."""


def report(
    out: Annotated[Path, Parameter(name="OUT", help="Output folder of a backfill, or data folder of the daemons.")],
    /,
    *,
    to: Annotated[Path | None, Parameter(help="File to write; default: OUT/report.html.")] = None,
    no_pictures: Annotated[bool, Parameter(negative="", help="Neither pictures nor previews of media.")] = False,
    config: ConfigOption = None,
) -> int:
    """Write one HTML file that shows what was done: numbers, failures, warnings, media, contact sheets, settings."""
    data = existing(out)
    settings = settings_of(config) if config is not None else None
    with in_words():
        from exporter.page.report.facts import ReportRequest
        from exporter.page.report.writing import write_report
        from exporter.results.run_report import REPORT

        media = data / "media" if settings is None or settings.media.dir is None else settings.media.dir
        path = to.expanduser() if to is not None else data / REPORT
        write_report(ReportRequest(data, media, settings, pictures=not no_pictures), path)
    print(f"report in {printable(str(path))}")
    return ExitCode.DONE


def report_run(target: ExportTarget, run: RunNumbers | None = None) -> None:
    """Write the report of a run that has ended, and say where it is; or say why there is none.

    None is written into a folder of media, which holds nothing but media and their ledger, nor where an idle run would
    repeat one.

    Args:
        target: Output folder and settings of the run.
        run: Its numbers; None where batches did the work.
    """
    from exporter.errors import OutOfSpace
    from exporter.page.report.facts import ReportRequest
    from exporter.page.report.writing import write_report
    from exporter.results.run_report import REPORT
    from listener.foundation.errors import Unusable

    section, path, places = target.settings.run_report, target.output / REPORT, target.places
    is_media_folder = places.media.resolve() == target.output.resolve()
    if not section.enabled or is_media_folder or (run is not None and run.is_idle and path.exists()):
        return
    request = ReportRequest(
        target.output,
        places.media,
        target.settings,
        run,
        pictures=section.pictures,
        pictures_s=MOST_S if run is None else min(MOST_S, max(LEAST_S, PART_OF_A_RUN * run.seconds)),
    )
    try:
        write_report(request, path)
    except (Unusable, OutOfSpace, OSError) as error:
        print(f"exporter: no report of this run: {printable(str(error))}", file=sys.stderr)
    else:
        print(f"report in {printable(str(path))}")
