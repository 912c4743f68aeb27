"""Everything one exporter works with, opened in the right order and closed in the opposite one.

Contract: `opened` gives a session whose threads run, or raises and leaves things as they were. What an exporter that
ended in between has left is repaired before the first instance is touched: uncommitted media, partial files, attempts
under way, a torn metadata line. One process works on one ledger at a time.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from exporter import promise
from exporter.engine import Engine, InProcess, Policy, Runner
from exporter.errors import OutOfSpace
from exporter.ledger import Ledger
from exporter.metadata.jsonl import Appender, MetadataFileUnusable
from exporter.promise import MediaFolderUnusable
from exporter.publish import Names, OwnWay, Publisher
from exporter.workers import Worker, WorkerSetup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.reserve import Reserve
    from exporter.settings import Settings


@dataclass(frozen=True, slots=True)
class Places:
    """Where one exporter writes."""

    media: Path
    metadata: Path
    ledger: Path


@dataclass(frozen=True, slots=True)
class Session:
    """What an exporter works with."""

    ledger: Ledger
    engine: Engine
    interrupted: int
    """Attempts that an earlier exporter had not ended."""
    removed: int
    """Media that it had renamed and not committed."""


@contextmanager
def opened(
    settings: Settings, places: Places, *, workers: int, policy: Policy, reserve: Reserve | None = None
) -> Iterator[Session]:
    """A session; its threads are stopped, and work under way is given up, when the block ends.

    Args:
        settings: The whole configuration.
        places: Where to write; folders are made.
        workers: Number of worker processes; 0 works in this process, without limits on memory and time.
        policy: How instances are treated.
        reserve: What the ledger gets of its disk where that is full.

    Raises:
        LedgerUnusable, MetadataFileUnusable, MediaFolderUnusable: Why it cannot run, and what to do.
        OutOfSpace: The disk is full.
    """
    _refuse_foreign_lines(settings, places)
    with ExitStack() as stack:
        for folder in (places.ledger.parent, places.metadata.parent, places.media):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise MediaFolderUnusable(folder, error) from error
        media = places.media.resolve()
        stack.enter_context(_alone(media))
        ledger = stack.enter_context(_ledger(places.ledger, reserve))
        interrupted = len(ledger.recover())
        removed = promise.recover(media, ledger)
        appender = stack.enter_context(Appender(places.metadata, ledger, append=settings.metadata.append))
        appender.publish()
        publisher = Publisher(
            media,
            ledger,
            Names(settings.media.layout, overwrite=settings.media.overwrite),
            settings_sha256=settings.settings_sha256,
            version=own_version(),
            own_ways={
                title: OwnWay(own.media.layout, own.settings_sha256) for title, own in settings.by_ae_title.items()
            },
        )
        engine = Engine(media, ledger, publisher, appender, runners=runners(settings, workers), policy=policy)
        stack.callback(engine.stop)
        engine.start()
        yield Session(ledger, engine, interrupted, removed)


def _ledger(path: Path, reserve: Reserve | None) -> Ledger:
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
    values = worker_settings(settings)
    values["by_ae_title"] = {title: worker_settings(own) for title, own in settings.by_ae_title.items()}
    if workers == 0:
        from exporter import pipeline

        return [InProcess(pipeline.prepare(values))]
    limits = settings.limits
    setup = WorkerSetup(
        values,
        memory_bytes=limits.memory_mb << 20,
        cpu_s=limits.cpu_s,
        cpu_base_s=limits.cpu_base_s,
        cpu_s_per_mb=limits.cpu_s_per_mb,
        wall_s=limits.wall_s,
    )
    return [Worker(setup) for _ in range(workers)]


def worker_settings(settings: Settings) -> dict[str, Any]:
    """What a worker process is told of the settings, as JSON values."""
    return {"media": settings.media_settings.model_dump(mode="json"), "settings_sha256": settings.settings_sha256}


def own_version() -> str:
    """Version of this package, for the metadata lines."""
    try:
        return version("dicom-media-exporter")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


@contextmanager
def _alone(media: Path) -> Iterator[None]:
    """Keep other exporters out of a media folder: at its start each one empties `.partial`.

    (The ledger's own lock does not: two ledgers may name one `media.dir`.)

    Raises:
        MediaFolderUnusable: Another one works there.
    """
    descriptor = os.open(media, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MediaFolderUnusable(media, OSError(errno.EBUSY, "another exporter works there")) from None
        except OSError:
            pass  # a network file system without locks on folders
        yield
    finally:
        os.close(descriptor)


def _refuse_foreign_lines(settings: Settings, places: Places) -> None:
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
