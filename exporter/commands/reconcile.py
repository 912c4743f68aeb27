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
    from exporter.results.reconcile import ReconcileReport
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
    places = places or DataOptions()
    data = places.data.expanduser() if rebuild else existing(places.data)
    settings = places.settings()
    folder = places.folder()
    if rebuild:
        _rebuild(folder, settings)
    if not folder.ledger.is_file():
        raise CommandError(f"{data} has no exporter.db yet: nothing was exported, so there is nothing to check")
    with in_words():
        from exporter.results.reconcile import Folders
        from exporter.results.reconcile import reconcile as look

        spool = folder.spool if folder.spool.is_dir() else None
        metadata = settings.metadata_file(folder)
        report = look(Folders(folder.ledger, settings.media_folder(folder), metadata, spool), deep=deep)
    print(json.dumps(asdict(report) | {"is_sound": report.is_sound}) if as_json else _text(report))
    return ExitCode.DONE if report.is_sound else ExitCode.NOT_RUN


def _rebuild(folder: DataFolder, settings: Settings) -> None:
    """Make the ledger anew, and say of what.

    Raises:
        CommandError: There is nothing to make it of, or an exporter runs.
    """
    metadata, spool = settings.metadata_file(folder), folder.spool if folder.spool.is_dir() else None
    if not metadata.is_file() and spool is None:
        raise CommandError(f"there is neither {metadata} nor {folder.spool}: nothing to make a ledger of")
    with in_words():
        from exporter.results.rebuild import rebuild
        from exporter.results.reconcile import Folders

        made = rebuild(Folders(folder.ledger, settings.media_folder(folder), metadata, spool))
    kept = f"; the old one is {made.kept}" if made.kept is not None else ""
    rotated = f" ({made.rotated} in rotated files)" if made.rotated else ""
    again = f", {made.waiting_again} wait again" if made.waiting_again else ""
    found = f"{made.lines} metadata lines{rotated}, {made.quarantined} quarantined{again}"
    print(f"made anew: {found}{kept}", file=sys.stderr)


def _text(report: ReconcileReport) -> str:
    lines = [f"{fault.kind:<16} {printable(fault.subject)}: {printable(fault.message)}" for fault in report.faults]
    if report.fault_count > len(report.faults):
        lines.append(f"... and {report.fault_count - len(report.faults)} more")
    lines += [f"note: {printable(note)} ({count})" for note, count in report.notes.items()]
    states = ", ".join(f"{state} {count}" for state, count in sorted(report.instances.items())) or "none"
    lines.append(f"instances: {states}; waiting {report.waiting}; refused by the listener {report.refused}")
    lines.append(f"media: {report.media} files, {report.media_bytes} bytes; metadata: {report.lines} lines")
    lines.append("every instance is accounted for" if report.is_sound else f"{report.fault_count} disagreements")
    return "\n".join(lines)
