"""The resources of one exporter (ledger, media folder, engine, ...), opened in order and closed in reverse.

Contract: `open_export_context` gives an `ExportContext` whose threads run, or raises and leaves everything unchanged.
Traces of an exporter that crashed are repaired before the first instance: uncommitted media, partial files, attempts
under way, a torn metadata line. One process works on one ledger and one media folder at a time.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

import structlog

from exporter.errors import OutOfSpace
from exporter.machine_conditions import out_of_space
from exporter.privacy.input_names import InputNames
from exporter.privacy.lists import PatientLists
from exporter.results import deidentification, intents, ownership
from exporter.results.intents import MediaFolderUnusable
from exporter.results.ledger import Ledger, LedgerUnusable, damage
from exporter.results.metadata.jsonl import Appender, MetadataFileUnusable
from exporter.results.output_names import PARTIAL
from exporter.results.publish import AETitleProfile, NameChoice, Publisher
from exporter.results.rejections import OnRejection, Rejections
from exporter.results.stores.files import FilesStore
from exporter.results.stores.shard_removal import remove_members
from exporter.results.withdrawal import withdraw_forbidden
from exporter.settings.permissions import MediaPermissions
from exporter.work.engine import Engine, EnginePolicy, InProcess, Runner
from exporter.work.supervisor import Worker, WorkerSetup, key_fingerprint_of
from exporter.work.worker_server import WORKERS
from exporter.writers.discovery import enabled_writers
from listener.foundation.disk import mapped
from listener.foundation.durable import make_private_folders

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.results.ownership import MediaFolderOwner
    from exporter.results.stores.contract import MediaStore
    from exporter.services.reserve import DiskReserve
    from exporter.settings.settings import Settings


log = structlog.get_logger()

TIMES_UNTIL_EXPLAINED: Final = 2
"""Number of exporters ended by a damaged ledger after which the message says what to do."""


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """Where one exporter writes."""

    media: Path
    metadata: Path
    ledger: Path


@dataclass(frozen=True, slots=True)
class ExportContext:
    """Open resources of one exporter."""

    ledger: Ledger
    engine: Engine
    names: InputNames
    rejections: Rejections
    interrupted: int
    """Number of attempts that were under way when an earlier exporter crashed."""
    removed: int
    """Number of media that it had renamed and not committed."""


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
    """Open the resources of an exporter; at the end of the block, threads are stopped and work under way is aborted.

    Args:
        settings: The whole configuration.
        places: Where to write; folders are made.
        workers: Number of worker processes; 0 works in this process, without limits on memory and time.
        policy: Of the engine.
        reserve: Released when the disk of the ledger is full.
        take_over: Whether to take the media folder from an exporter that cannot be reached.

    Raises:
        LedgerUnusable, MetadataFileUnusable, MediaFolderUnusable: Why it cannot run, and what to do.
        MachineCondition: The disk is full, or a folder is gone.
        WriterUnusable: A writer of another distribution cannot be used.
        KeyUnusable, TextDetectionMissing: Instances cannot be de-identified as the settings say.
        ListUnusable: A list of patients cannot be used.
        DeidentificationChanged: The output was begun with another key, or profile.
    """
    enabled_writers(settings.writers)
    refuse_half_a_merge(places.ledger.parent)
    key_fingerprint, names = key_fingerprint_of(settings), InputNames.of(settings)
    lists = PatientLists.of(settings.privacy)
    _refuse_foreign_lines(settings, places)
    with ExitStack() as stack:
        if workers:
            stack.enter_context(WORKERS)
        stack.enter_context(_damage_explained(places))
        permissions = MediaPermissions.of(settings.media.mode, settings.media.group)
        _make_folders(places, permissions)
        media = places.media.resolve()
        has_locks = stack.enter_context(ownership.locked(media))
        ledger = stack.enter_context(_ledger(places.ledger, reserve))
        deidentification.keep_to(ledger, key_fingerprint, _profiles(settings, names))
        owns = stack.enter_context(ownership.owned(media, ledger, has_locks=has_locks, take_over=take_over))
        interrupted = len(ledger.recover())
        with mapped(lambda error: MediaFolderUnusable(media, error)):
            remove_members(media, ledger.superseded())
        removed = intents.recover(media, ledger, *_last_marks(owns.former, owner=owns.owner))
        _check_group(media, permissions)
        appender = stack.enter_context(Appender(places.metadata, ledger, append=settings.metadata.append))
        _withdraw(lists, ledger, places, media)
        store = media_store(settings, media, permissions, ledger)
        stack.callback(store.close)
        rejections = Rejections(
            ledger, store, places.ledger.parent, OnRejection(settings.media.on_rejection), own_version()
        )
        _carry_out(rejections, media)
        appender.publish()
        publisher = Publisher(
            media,
            ledger,
            NameChoice(settings.media.layout, overwrite=settings.media.overwrite),
            settings_sha256=settings.settings_sha256,
            version=own_version(),
            profiles={
                names.ae_title(title): AETitleProfile(own.media.layout, own.settings_sha256)
                for title, own in settings.by_ae_title.items()
            },
            rejections=rejections,
            store=store,
        )
        engine = Engine(
            media, ledger, publisher, appender, runners=runners(settings, workers), policy=policy, ownership=owns
        )
        stack.callback(engine.stop)
        engine.start()
        yield ExportContext(ledger, engine, names, rejections, interrupted, removed)


def media_store(
    settings: Settings, media: Path, permissions: MediaPermissions, ledger: Ledger | None = None
) -> MediaStore:
    """Open the media store of the settings; with a ledger, one with shards goes on where a crash has ended it.

    Raises:
        MediaFolderUnusable: It cannot be opened.
        ShardsBusy: Another process writes shards there.
    """
    if settings.media.store == "files":
        return FilesStore(media, permissions)
    from exporter.results.stores.shards import ShardLimits, ShardsStore

    limits = ShardLimits(settings.media.shard_bytes, settings.media.shard_instances)
    try:
        return ShardsStore(media, permissions, ledger, limits)
    except OSError as error:
        raise out_of_space(f"media folder {media}", error) or MediaFolderUnusable(media, error) from error


@contextmanager
def _damage_explained(places: OutputPaths) -> Iterator[None]:
    """Extend the message about a damaged ledger by what to do, if a restart did not help.

    Raises:
        LedgerUnusable: The error of the block, with a longer hint from the second time on.
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
    """Make the folders of one exporter; the data folder itself is private.

    Raises:
        MediaFolderUnusable: A folder cannot be made.
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
    """Check that files can be given to `media.group`.

    Raises:
        MediaFolderUnusable: They cannot.
    """
    try:
        permissions.check(media / PARTIAL)
    except OSError as error:
        words = "its files cannot be given to `media.group`: make the user of this exporter a member of that group"
        raise MediaFolderUnusable(media, OSError(error.errno, words)) from error


def _ledger(path: Path, reserve: DiskReserve | None) -> Ledger:
    """Open the ledger; if there is no space even for that, release the reserve."""
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
    """Make the runners: worker processes, or this process for 0 workers."""
    setup = WorkerSetup.of(settings)
    if workers == 0:
        from exporter.work.pipeline import Pipeline

        return [InProcess(Pipeline(setup.settings))]
    return [Worker(setup) for _ in range(workers)]


def _withdraw(lists: PatientLists, ledger: Ledger, places: OutputPaths, media: Path) -> None:
    """Withdraw what a changed list of patients forbids.

    Raises:
        MediaFolderUnusable: A file cannot be removed.
        LedgerUnusable, OutOfSpace: The ledger cannot be written.
    """
    try:
        withdrawn = withdraw_forbidden(lists, ledger, media, places.ledger.parent, own_version())
    except OSError as error:
        raise MediaFolderUnusable(media, error) from error
    if withdrawn:
        log.warning("withdrawn: a changed list no longer permits them", instances=withdrawn)


def _carry_out(rejections: Rejections, media: Path) -> None:
    """Carry out what rejection notes asked for when an earlier exporter ended, or what the setting asks for now.

    Raises:
        MediaFolderUnusable: A file cannot be removed.
        LedgerUnusable, OutOfSpace: The ledger cannot be written.
    """
    try:
        rejections.prepare()
        while rejections.carry_out():
            pass
    except OSError as error:
        raise MediaFolderUnusable(media, error) from error


def _profiles(settings: Settings, names: InputNames) -> dict[str, bool]:
    """Whether instances are de-identified, by the pseudonym of the called AE title; empty for the top level."""
    own = {names.pseudonym_of_title(title): one for title, one in settings.by_ae_title.items()}
    return {title: one.privacy.profile != "none" for title, one in {"": settings, **own}.items()}


def own_version() -> str:
    """Version of this package, for the metadata lines."""
    try:
        return version("dicom-media-exporter")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _last_marks(former: MediaFolderOwner | None, owner: MediaFolderOwner) -> tuple[str | None, str | None]:
    """Marks of the ledgers that owned the media folder last without releasing it: a foreign one, and our former one.

    Our ledger has a new mark if it was lost and created again.
    """
    if former is None:
        return None, None
    is_ours = (former.host, former.ledger_file) == (owner.host, owner.ledger_file)
    return (None, former.ledger) if is_ours else (former.ledger, None)


def refuse_half_a_merge(folder: Path) -> None:
    """Refuse an output folder in which a merge of batches has begun to move media (`exporter.batches.merging`).

    Raises:
        LedgerUnusable: It has, and was interrupted.
    """
    if (folder / "batches" / "merge").is_dir() and not (folder / "batches" / "merged.json").exists():
        hint = f"finish it: `exporter batch merge {folder}`"
        raise LedgerUnusable(folder / "exporter.db", "a merge of batches into this folder has begun", hint)


def _refuse_foreign_lines(settings: Settings, places: OutputPaths) -> None:
    """Refuse the metadata file of another program, before anything is created beside it.

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
