"""`exporter media get|compact`: one medium as a file, and files moved into shards.

Contract: `get` looks only, whichever store keeps the medium, and checks its bytes. `compact` changes where media are
kept, never what lines and ledger say of them.
"""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter, validators

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import ConfigOption, existing, exported_folder, in_words, settings_of
from listener.foundation.text import printable

if TYPE_CHECKING:
    from exporter.results.stores.compaction import CompactionReport

OutArgument = Annotated[Path, Parameter(name="OUT", help="Data folder of an exporter, or output folder of a backfill.")]

application = cyclopts.App(name="media", help="Get one medium; move media into shards.")


@application.command
def get(
    out: OutArgument,
    key: Annotated[
        str, Parameter(name="KEY", help="`dicom_file`, SOP Instance UID, or path of a medium, as lines have it.")
    ],
    /,
    *,
    to: Annotated[Path, Parameter(help="Folder for the files; default: the current one.")] = Path(),
    config: ConfigOption = None,
) -> int:
    """Write the media of one instance, or one of them, into a folder, from files or shards, and check their SHA-256."""
    from exporter.results.stores.shard_reading import ExtractedMedia, MediumDamaged
    from exporter.tables.own_columns import media_of
    from exporter.tables.reading import find_line

    source = exported_folder(out, config)
    with in_words():
        media = media_of(find_line(source, key))
        wanted = [one for one in media if one.get("path") == key] or media
        with ExtractedMedia(source.media, [str(one.get("path")) for one in wanted]) as extracted:
            for one in wanted:
                path = str(one.get("path"))
                try:
                    found = extracted.path(path, one.get("sha256"))
                except MediumDamaged as error:
                    raise CommandError(f"medium {path} cannot be got: {error}") from error
                if found is None:
                    raise CommandError(f"medium {path} is not in {source.media}, neither as a file nor in a shard")
                print(printable(str(_copied(found, to.expanduser(), path, str(one.get("sha256"))))))
    return ExitCode.DONE


def _copied(source: Path, folder: Path, path: str, sha256: str) -> Path:
    """Copy a medium into a folder.

    Raises:
        CommandError: Something of its name is there, it is not what the line says, or it cannot be written.
    """
    import shutil

    from exporter.results.stores.shard_reading import sha256_of

    target = folder / source.name
    if sha256_of(source) != sha256:
        raise CommandError(f"medium {path} is not as it was exported: its SHA-256 differs from the one in its line")
    try:
        if target.exists():
            raise CommandError(f"{target} is there already: name another folder with --to")
        folder.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        raise CommandError(f"{target} cannot be written ({error.strerror})") from error
    return target


@application.command
def compact(
    out: OutArgument,
    /,
    *,
    quiet_hours: Annotated[
        float | None,
        Parameter(
            validator=validators.Number(gte=0),
            help="Hours without a change after which a study is finished; default: 24 with a spool, otherwise 0.",
        ),
    ] = None,
    config: ConfigOption = None,
) -> int:
    """Move the media of finished studies from files into shards; lines and ledger stay as they are.

    May run beside the daemons, and may be repeated. Ends with 1 where files are not what the ledger says: they stay.
    """
    from exporter.results.ledger import Ledger
    from exporter.results.stores.compaction import compact as move
    from exporter.results.stores.shards import ShardLimits
    from exporter.services.context import refuse_half_a_merge
    from exporter.settings.permissions import MediaPermissions
    from listener.foundation.signals import stopping
    from listener.settings.listener import DataFolder

    settings, data, stop = settings_of(config), DataFolder(existing(out)), threading.Event()
    has_spool = data.spool.is_dir()
    hours = quiet_hours if quiet_hours is not None else 24.0 if has_spool else 0.0
    limits = ShardLimits(settings.media.shard_bytes, settings.media.shard_instances)
    if not data.ledger.is_file():
        raise CommandError(f"{out} has no exporter.db yet: nothing was exported, so there is nothing to move")
    refuse_half_a_merge(data.root)
    # A backfill may replace files; the daemons never replace those of an instance that is finished.
    with (
        in_words(),
        nullcontext() if has_spool else Ledger.locked(data.ledger),
        Ledger.open_read_only(data.ledger) as ledger,
        stopping(stop),
    ):
        report = move(
            settings.media_folder(data),
            ledger,
            MediaPermissions.of(settings.media.mode, settings.media.group),
            limits,
            changed_before_ns=time.time_ns() - int(hours * 3600e9),
            stop=stop,
        )
    print(_sentence(report))
    if stop.is_set():
        return ExitCode.INTERRUPTED
    return ExitCode.NOT_RUN if report.unlike else ExitCode.DONE


def _sentence(report: CompactionReport) -> str:
    text = f"{report.files} files of {report.instances} instances, {report.bytes} bytes, moved into shards"
    if report.waiting:
        text += f"; {report.waiting} instances of studies that are not finished stay in files"
    if report.unlike:
        text += (
            f"; {report.unlike} instances stay in files that are not what the ledger says: `exporter reconcile --deep`"
        )
    return text
