"""`exporter reconcile`: the proof that every instance is accounted for, or where it is not."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import DataOptions, existing, in_words
from listener.foundation.text import printable

if TYPE_CHECKING:
    from exporter.results.reconcile import Folders, ReconcileReport
    from exporter.settings.settings import Settings
    from listener.settings.listener import DataFolder


def reconcile(
    places: DataOptions | None = None,
    *,
    deep: Annotated[bool, Parameter(negative="", help="Also read every media file and compare its SHA-256.")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
    rebuild: Annotated[
        bool,
        Parameter(negative="", help="First make a lost or damaged exporter.db anew from metadata lines and spool."),
    ] = False,
) -> int:
    """Check that spool, ledger, media and metadata lines agree; looks only, unless it is to rebuild.

    Ends with 0 where every instance is accounted for, and with 1 where not: each disagreement is one line.
    """
    from exporter.series.folder import series_folders

    places = places or DataOptions()
    data = places.data.expanduser() if rebuild else existing(places.data)
    settings = places.settings()
    folder = places.folder()
    if rebuild:
        _rebuild(folder, settings)
    if not folder.ledger.is_file():
        raise CommandError(f"{data} has no exporter.db yet: nothing was exported, so there is nothing to check")
    with in_words():
        from exporter.results.reconcile import reconcile as look

        report = look(_folders(folder, settings), deep=deep)
        volumes = series_folders(folder.root)
        series = look(volumes, deep=deep) if volumes.ledger.is_file() else None
    is_sound = report.is_sound and (series is None or series.is_sound)
    if as_json:
        of_series = None if series is None else asdict(series)
        print(json.dumps(asdict(report) | {"series": of_series, "is_sound": is_sound}))
    else:
        print(_text(report, series))
    return ExitCode.DONE if is_sound else ExitCode.NOT_RUN


def _folders(folder: DataFolder, settings: Settings) -> Folders:
    from exporter.results.reconcile import Folders
    from exporter.series.folder import series_folders

    spool = folder.spool if folder.spool.is_dir() else None
    series = series_folders(folder.root)
    others = (series.media, series.ledger, series.metadata)
    return Folders(folder.ledger, settings.media_folder(folder), settings.metadata_file(folder), spool, others)


def _rebuild(folder: DataFolder, settings: Settings) -> None:
    """Make the ledger anew, and say of what.

    Raises:
        CommandError: There is nothing to make it of, or an exporter runs.
    """
    from exporter.series.folder import series_folders

    folders, series = _folders(folder, settings), series_folders(folder.root)
    if not folders.metadata.is_file() and folders.spool is None:
        raise CommandError(
            f"there is neither {folders.metadata} nor {folder.spool}: nothing to make a ledger of; name the "
            "data folder with --data"
        )
    with in_words():
        from exporter.results.rebuild import rebuild

        made = rebuild(folders)
        if series.metadata.is_file():
            rebuild(series)
    kept = f"; the old one is {made.kept}" if made.kept is not None else ""
    rotated = f" ({made.rotated} in rotated files)" if made.rotated else ""
    again = f", {made.waiting_again} wait again" if made.waiting_again else ""
    found = f"{made.lines} metadata lines{rotated}, {made.quarantined} quarantined{again}"
    print(f"made anew: {found}{kept}", file=sys.stderr)


def _text(report: ReconcileReport, series: ReconcileReport | None) -> str:
    lines = _findings(report)
    states = ", ".join(f"{state} {count}" for state, count in sorted(report.instances.items())) or "none"
    lines.append(f"instances: {states}; waiting {report.waiting}; refused by the listener {report.refused}")
    lines.append(f"media: {report.media} files, {report.media_bytes} bytes; metadata: {report.lines} lines")
    lines.append("every instance is accounted for" if report.is_sound else f"{report.fault_count} disagreements")
    if series is not None:
        verdict = "all accounted for" if series.is_sound else f"{series.fault_count} disagreements"
        files = f"{series.media} files, {series.media_bytes} bytes; {series.lines} lines"
        lines += [*_findings(series), f"series: {sum(series.instances.values())}; {files}; {verdict}"]
    return "\n".join(lines)


def _findings(report: ReconcileReport) -> list[str]:
    lines = [f"{fault.kind:<16} {printable(fault.subject)}: {printable(fault.message)}" for fault in report.faults]
    if report.fault_count > len(report.faults):
        lines.append(f"... and {report.fault_count - len(report.faults)} more")
    return lines + [f"note: {printable(note)} ({count})" for note, count in report.notes.items()]
