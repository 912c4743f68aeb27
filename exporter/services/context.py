"""Everything one exporter works with, opened in the right order and closed in the opposite one.

Contract: `opened` gives a session whose threads run, or raises and leaves things as they were. What an exporter that
ended in between has left is repaired before the first instance is touched: uncommitted media, partial files, attempts
under way, a torn metadata line. One process works on one ledger and one media folder at a time.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from exporter.errors import OutOfSpace
from exporter.results import intents, ownership
from exporter.results.intents import MediaFolderUnusable
from exporter.results.ledger import Ledger, LedgerUnusable, damage
from exporter.results.metadata.jsonl import Appender, MetadataFileUnusable
from exporter.results.output_names import PARTIAL
from exporter.results.publish import AETitleProfile, NameChoice, Publisher
from exporter.settings.permissions import MediaPermissions
from exporter.work.engine import Engine, EnginePolicy, InProcess, Runner
from exporter.work.supervisor import Worker, WorkerSetup
from exporter.writers.discovery import enabled_writers
from listener.foundation.durable import make_private_folders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.results.ownership import MediaFolderOwner
    from exporter.services.reserve import DiskReserve
    from exporter.settings.settings import Settings


TIMES_UNTIL_EXPLAINED: Final = 2
"""After so many exporters that ended because the ledger is damaged, the next step is spelled out."""


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """Where one exporter writes."""

    media: Path
    metadata: Path
    ledger: Path


@dataclass(frozen=True, slots=True)
class ExportContext:
    """What an exporter works with."""

    ledger: Ledger
    engine: Engine
    interrupted: int
    """Attempts that an earlier exporter had not ended."""
    removed: int
    """Media that it had renamed and not committed."""


@contextmanager
def open_export_context(
    settings: Settings,
    places: OutputPaths,
    *,
    workers: int,
    policy: EnginePolicy,
    reserve: DiskReserve | None = None,
    take_over: bool = False,
) -> Iterator[ExportContext]:
    """A session; its threads are stopped, and work under way is given up, when the block ends.

    Args:
        settings: The whole configuration.
        places: Where to write; folders are made.
        workers: Number of worker processes; 0 works in this process, without limits on memory and time.
        policy: How instances are treated.
        reserve: What the ledger gets of its disk where that is full.
        take_over: Whether an exporter that has the media folder and cannot be asked is taken for dead.

    Raises:
        LedgerUnusable, MetadataFileUnusable, MediaFolderUnusable: Why it cannot run, and what to do.
        MachineCondition: The disk is full, or a folder is gone.
        WriterUnusable: A writer of another distribution cannot be used.
    """
    enabled_writers(settings.writers)
    _refuse_foreign_lines(settings, places)
    with ExitStack() as stack:
        stack.enter_context(_damage_explained(places))
        permissions = MediaPermissions.of(settings.media.mode, settings.media.group)
        _make_folders(places, permissions)
        media = places.media.resolve()
        has_locks = stack.enter_context(ownership.locked(media))
        ledger = stack.enter_context(_ledger(places.ledger, reserve))
        owns = stack.enter_context(ownership.owned(media, ledger, has_locks=has_locks, take_over=take_over))
        interrupted = len(ledger.recover())
        removed = intents.recover(media, ledger, *_last_marks(owns.former, owner=owns.owner))
        _check_group(media, permissions)
        appender = stack.enter_context(Appender(places.metadata, ledger, append=settings.metadata.append))
        appender.publish()
        publisher = Publisher(
            media,
            ledger,
            NameChoice(settings.media.layout, overwrite=settings.media.overwrite),
            settings_sha256=settings.settings_sha256,
            version=own_version(),
            profiles={
                title: AETitleProfile(own.media.layout, own.settings_sha256)
                for title, own in settings.by_ae_title.items()
            },
            permissions=permissions,
        )
        engine = Engine(
            media, ledger, publisher, appender, runners=runners(settings, workers), policy=policy, ownership=owns
        )
        stack.callback(engine.stop)
        engine.start()
        yield ExportContext(ledger, engine, interrupted, removed)


@contextmanager
def _damage_explained(places: OutputPaths) -> Iterator[None]:
    """Say what would mend a damaged ledger, once it is plain that starting again does not.

    Raises:
        LedgerUnusable: The one that was raised inside, with a longer hint from the second time on.
    """
    try:
        yield
    except LedgerUnusable as error:
        if not error.is_damaged or damage.count(error.path) < TIMES_UNTIL_EXPLAINED:
            raise
        from exporter.results.rebuild import prospect
        from exporter.results.reconcile import Folders

        spool = places.ledger.parent / "spool"
        folders = Folders(places.ledger, places.media, places.metadata, spool if spool.is_dir() else None)
        raise LedgerUnusable(error.path, error.cause, prospect(folders), is_damaged=True) from error
    else:
        damage.forget(places.ledger)


def _make_folders(places: OutputPaths, permissions: MediaPermissions) -> None:
    """Make the folders of one exporter; what it writes in the data folder itself is for its owner alone.

    Raises:
        MediaFolderUnusable: One cannot be made.
    """
    folder = places.ledger.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder = places.metadata.parent
        make_private_folders(folder)
        folder = places.media
        permissions.make_folders(folder)
    except OSError as error:
        raise MediaFolderUnusable(folder, error) from error


def _check_group(media: Path, permissions: MediaPermissions) -> None:
    """See that `media.group` can be given.

    Raises:
        MediaFolderUnusable: It cannot.
    """
    try:
        permissions.check(media / PARTIAL)
    except OSError as error:
        words = "its files cannot be given to `media.group`: make the user of this exporter a member of that group"
        raise MediaFolderUnusable(media, OSError(error.errno, words)) from error


def _ledger(path: Path, reserve: DiskReserve | None) -> Ledger:
    """The ledger, which needs a little space to be opened at all."""
    try:
        ledger = Ledger.open(path)
    except OutOfSpace:
        if reserve is None or not reserve.release():
            raise
        ledger = Ledger.open(path)
    if reserve is not None:
        ledger.when_full = reserve.release
    return ledger


def runners(settings: Settings, workers: int) -> list[Runner]:
    """What exports the instances: worker processes, or this process where there are to be none."""
    setup = WorkerSetup.of(settings)
    if workers == 0:
        from exporter.work.pipeline import Pipeline

        return [InProcess(Pipeline(setup.settings))]
    return [Worker(setup) for _ in range(workers)]


def own_version() -> str:
    """Version of this package, for the metadata lines."""
    try:
        return version("dicom-media-exporter")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _last_marks(former: MediaFolderOwner | None, owner: MediaFolderOwner) -> tuple[str | None, str | None]:
    """Marks of the ledgers that had the media folder last and did not give it back: of another one, or of ours before.

    Ours has another mark than before where it was lost and made anew.
    """
    if former is None:
        return None, None
    is_ours = (former.host, former.ledger_file) == (owner.host, owner.ledger_file)
    return (None, former.ledger) if is_ours else (former.ledger, None)


def _refuse_foreign_lines(settings: Settings, places: OutputPaths) -> None:
    """Refuse another program's metadata file before anything is made beside it.

    Raises:
        MetadataFileUnusable: There are lines, no ledger that could have written them, and `metadata.append` is false.
    """
    if settings.metadata.append or places.ledger.exists():
        return
    try:
        size = places.metadata.stat().st_size
    except OSError:
        return
    if size:
        hint = "move it away, choose another with `metadata.file`, or permit `metadata.append`"
        raise MetadataFileUnusable(places.metadata, "it holds lines that this exporter did not write", hint)
