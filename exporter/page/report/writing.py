"""Writing of a report: the whole file in the place of the one before, or nothing.

Contract: a file that is not a report of ours is never replaced. The report has the permissions of media: it shows them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.page.report.document import document
from exporter.page.report.facts import ReportRequest, facts_of
from exporter.results.run_report import is_run_report
from exporter.settings.permissions import MediaPermissions
from listener.foundation.durable import replaced_file
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from pathlib import Path


class ReportUnwritable(Unusable):
    """The report cannot be written; the file that was there is there."""


def write_report(request: ReportRequest, path: Path) -> None:
    """Make the report of a folder and put it into a file.

    Raises:
        LedgerUnusable: The ledger cannot be read.
        ReportUnwritable: The file is not ours to replace, or the file system refuses.
    """
    if not _is_free(path):
        hint = "move it away, or name another file with `exporter report OUT --to FILE`"
        raise ReportUnwritable(f"report {path}", "what is there is no report of ours", hint)
    pieces = document(facts_of(request))
    try:
        with replaced_file(path) as partial:
            with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                file.writelines(pieces)
            if request.settings is not None:
                media = request.settings.media
                MediaPermissions.of(media.mode, media.group).apply(partial)
    except (OSError, KeyError) as error:
        cause = getattr(error, "strerror", None) or "there is no such group"
        hint = "name another file with `exporter report OUT --to FILE`"
        raise ReportUnwritable(f"report {path}", f"it cannot be written ({cause})", hint) from error


def _is_free(path: Path) -> bool:
    """Whether nothing is there, or a report of ours."""
    try:
        return is_run_report(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
