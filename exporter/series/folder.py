"""The folder of series volumes: an output folder of its own, beside that of single instances.

Contract: a series is published as an instance is, by `exporter.results.publish`: partial files, intent, rename, one
transaction for outcome, media and line, and the same repair at the next start. Media are below ``series/``, the ledger
is ``series.db``, the lines are in ``series.jsonl``: whoever counts instances or lines of instances meets no series
there. A series has one line for each set of volumes; its `dicom_file` is its output name without suffix.

The folder holds nothing but what can be made anew from instances: what lies in the place of a series is replaced.
"""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

from exporter.errors import StorageUnavailable
from exporter.machine_conditions import storage_error
from exporter.outcome import Exported, InstanceIdentity, MediaType
from exporter.privacy.input_names import InputNames
from exporter.results import intents
from exporter.results.intents import MediaFolderUnusable
from exporter.results.ledger import Completed, InstanceStatus, Ledger, WorkItem
from exporter.results.metadata.jsonl import Appender
from exporter.results.output_names import PARTIAL, ae_title_component
from exporter.results.publish import AETitleProfile, NameChoice, Publisher
from exporter.results.reconcile import Folders
from exporter.settings.permissions import MediaPermissions
from listener.foundation.disk import mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from exporter.outcome import Outcome
    from exporter.settings.settings import Settings

DESCRIPTION: Final = ".series.json"
"""Suffix of the description of a series."""
LAYOUT: Final = "{StudyInstanceUID}/{SeriesInstanceUID}"
WAITING: Final = ".waiting"
"""Folder of received instances whose series may still grow, below the folder of each AE title."""


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """One series, and the settings that count for it."""

    study_uid: str
    series_uid: str
    ae_title: str = ""
    """Called AE title whose settings apply; empty for the top-level settings."""

    def identity(self, source_sha256: str) -> InstanceIdentity:
        """The identity of its volumes: they are of no SOP class and no instance."""
        return InstanceIdentity("", "", self.study_uid, self.series_uid, source_sha256)


def series_folders(output: Path) -> Folders:
    """Paths of the series of a data or output folder."""
    root = output / "series"
    waiting = (root / WAITING, *root.glob(f"ae-*/{WAITING}"))
    return Folders(output / "series.db", root, output / "series.jsonl", others=waiting)


def has_volume(outcome: Outcome) -> bool:
    """Whether a series became volumes; otherwise it has at most a description, which says why."""
    return isinstance(outcome, Exported) and any(medium.kind is MediaType.VOLUME for medium in outcome.media)


def problem_of(outcome: Outcome) -> str:
    """Why a series has no volume, for the log."""
    if isinstance(outcome, Exported):
        return "; ".join(outcome.warnings)
    return f"{outcome.reason}: {outcome.message}"


@contextmanager
def open_series_folder(output: Path, settings: Settings, version: str) -> Iterator[SeriesFolder]:
    """Open the folder of series volumes, made if absent, and repair what a crash has left.

    Args:
        output: The data or output folder.
        settings: The whole configuration.
        version: Of this program, for the lines.

    Raises:
        LedgerUnusable, MetadataFileUnusable, MediaFolderUnusable: Why it cannot be used, and what to do.
        MachineCondition: The disk is full, or a folder is gone.
    """
    places, names = series_folders(output), InputNames.of(settings)
    permissions = MediaPermissions.of(settings.media.mode, settings.media.group)
    try:
        permissions.make_folders(places.media)
    except OSError as error:
        raise MediaFolderUnusable(places.media, error) from error
    with Ledger.open(places.ledger) as ledger:
        ledger.recover()
        intents.recover(places.media, ledger)
        publisher = Publisher(
            places.media,
            ledger,
            NameChoice(LAYOUT, overwrite=True),
            settings_sha256=settings.settings_sha256,
            version=version,
            profiles={
                title: AETitleProfile(f"ae-{ae_title_component(title)}/{LAYOUT}", own.settings_sha256)
                for title, own in ((names.ae_title(called), own) for called, own in settings.by_ae_title.items())
            },
            permissions=permissions,
        )
        with Appender(places.metadata, ledger, append=True) as appender:
            appender.publish()
            try:
                yield SeriesFolder(places.media, ledger, publisher, appender)
            finally:
                with suppress(OSError):  # else the next start removes it
                    intents.empty_file(places.media / PARTIAL / _folder_name(ledger, 0)).unlink(missing_ok=True)


def _folder_name(ledger: Ledger, number: int) -> str:
    """Name of a folder of partial files of this process."""
    return f"{ledger.mark}-{os.getpid()}-{number}"


class SeriesFolder:
    """The open folder of series volumes; its methods may be called from the threads of several AE titles."""

    def __init__(self, root: Path, ledger: Ledger, publisher: Publisher, appender: Appender) -> None:
        """Use `open_series_folder`."""
        self.root = root
        self._ledger = ledger
        self._publisher = publisher
        self._appender = appender
        self._turn = threading.Lock()
        self._numbers = count()
        self._made: list[Completed] = []
        """Made and not published yet: the disk was full."""

    def is_current(self, key: SeriesKey, source_sha256: str, settings_sha256: str) -> bool:
        """Whether a series was published with these instances and these settings."""
        row = self._ledger.entry(self._name(key))
        wanted = (InstanceStatus.EXPORTED, source_sha256, settings_sha256)
        return row is not None and (row.state, row.source_sha256, row.settings_sha256) == wanted

    def publish(self, key: SeriesKey, source_sha256: str, make: Callable[[Path, str], Outcome]) -> Outcome:
        """Make the files of one series and publish them.

        Args:
            key: The series.
            source_sha256: Hash of what identifies its instances.
            make: Makes partial files in a folder, for an output name (the last component, without suffix).

        Returns:
            The outcome with final names.

        Raises:
            OutOfSpace: The disk is full; what was made is published by the next call.
            StorageUnavailable: The folder cannot be used; the series has to be made again.
            LedgerUnusable, MetadataFileUnusable: Ledger or lines cannot be written.
            Exception: What `make` raises; then the attempt does not count.
        """
        with self._turn:
            if self._made:
                self._settle()
        work = WorkItem(self._name(key), self.root, 0, 0, "folder", ae_title=key.ae_title)
        self._ledger.begin_attempt(work)
        folder = self.root / PARTIAL / _folder_name(self._ledger, next(self._numbers))
        try:
            with mapped(partial(storage_error, f"folder of series volumes {self.root}")):
                folder.mkdir(mode=0o700)
            base = self._publisher.reserve_base(work, key.identity(source_sha256), (DESCRIPTION,))
            outcome = make(folder, base.rpartition("/")[2])
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            self._ledger.withdraw(work.name)
            raise
        with self._turn:
            self._made.append(Completed(work, outcome, folder=folder))
            published = self._settle()
        if isinstance(published, StorageUnavailable):
            raise published
        return published

    def _settle(self) -> Outcome | StorageUnavailable:
        """Publish what was made; the last outcome."""
        published = self._publisher.publish(self._made)
        made, self._made = self._made, []
        for one, outcome in zip(made, published, strict=True):
            if isinstance(outcome, StorageUnavailable):
                self._ledger.withdraw(one.work.name)
            if one.folder is not None:
                shutil.rmtree(one.folder, ignore_errors=True)
        self._appender.publish()
        return published[-1]

    def _name(self, key: SeriesKey) -> str:
        work = WorkItem("", self.root, 0, 0, "folder", ae_title=key.ae_title)
        return self._publisher.wanted_base(work, key.identity(""))
