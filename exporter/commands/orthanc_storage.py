"""`exporter orthanc-storage`: the storage folder of an Orthanc that is stopped, or a copy of one, exported.

Contract: the folder is never written to. Stopped at any point, the same command goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from exporter.commands.options import (
    DEFAULT_DATA,
    ConfigOption,
    OutputOption,
    TakeOverOption,
    WorkersOption,
    in_words,
    settings_of,
)
from listener.foundation.text import printable

if TYPE_CHECKING:
    from exporter.inputs.backfill import ExportTarget
    from exporter.inputs.orthanc_storage.storage import OrthancStorage


def orthanc_storage(
    directory: Annotated[
        Path, Parameter(name="DIR", help="Storage folder of an Orthanc (`StorageDirectory`), stopped, or a copy of it.")
    ],
    /,
    *,
    output: OutputOption = None,
    config: ConfigOption = None,
    workers: WorkersOption = None,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Only check every attachment and say what would be done; nothing is written.")
    ] = False,
    index: Annotated[
        Path | None, Parameter(help="The SQLite index, where it is not in DIR (`IndexDirectory` of Orthanc).")
    ] = None,
    without_index: Annotated[
        bool, Parameter(negative="", help="Tell attachments by their content, as where the index is lost.")
    ] = False,
    take_over: TakeOverOption = False,
) -> int:
    """Export every instance of an Orthanc storage folder that is new since the last run.

    The same media, under the same names, as from a running Orthanc. The folder is never changed.
    """
    settings = settings_of(config)
    with in_words():
        from exporter.commands.progress import print_plan, run
        from exporter.inputs.backfill import ExportTarget
        from exporter.inputs.orthanc_storage.storage import StorageRequest, opened_storage

        target = ExportTarget((output or settings.media.dir or DEFAULT_DATA).expanduser(), settings, workers, take_over)
        request = StorageRequest(directory.expanduser(), index.expanduser() if index else None, without_index)
        with opened_storage(request, target, list_orphans=not dry_run) as storage:
            _warn(storage)
            if dry_run:
                code = print_plan(storage.plan(target))
            else:
                from exporter.commands.config import keep_copy, refuse_untried

                refuse_untried(settings, config)
                keep_copy(settings, config)
                code = run(storage.export, target)
            _remark(storage, target, dry_run=dry_run)
            return code


def _warn(storage: OrthancStorage) -> None:
    for sentence in storage.warnings:
        print(f"exporter: {printable(sentence)}", file=sys.stderr)


def _remark(storage: OrthancStorage, target: ExportTarget, *, dry_run: bool) -> None:
    for sentence in storage.remarks(None if dry_run else target.output):
        print(printable(sentence))
