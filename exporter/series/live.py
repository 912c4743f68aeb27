"""Volumes of series that are being received: a series is written once no instance has arrived for a while.

Contract: after an instance is exported and before its file leaves the spool, `keep` puts a second link to the file (or
a copy, across file systems) into ``series/.waiting/<study>/<series>``. A thread looks for series without a new instance
for `volume.series_quiet_s` and writes them (`exporter.series.job`); an instance that comes later has the series written
again. The series of an AE title with settings of its own are kept apart, in ``series/ae-<title>``, with a thread of
their own. Instances are kept for `KEPT_S` after the last one of their series. The folder is the only state: a restart
finds there what is left to do.

Must never: delay the spool while a volume is written, or let a series end the exporter.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog

from exporter.errors import ExportError, MachineCondition
from exporter.outcome import Exported
from exporter.results.intents import MediaFolderUnusable
from exporter.results.ledger import InstanceStatus
from exporter.results.output_names import ae_title_component, uid_component
from exporter.results.rejections import WITHDRAWN_VOLUME
from exporter.series.folder import WAITING, SeriesFolder, SeriesKey, has_volume, open_series_folder, problem_of
from exporter.series.job import SeriesWorker
from exporter.settings.permissions import MediaPermissions
from exporter.work.supervisor import Cancelled
from listener.foundation.durable import fsync_folder, make_private_folders
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from exporter.outcome import InstanceIdentity
    from exporter.privacy.input_names import InputNames
    from exporter.results.ledger import Ledger
    from exporter.results.rejections import Rejections
    from exporter.settings.settings import Settings

    Keep = Callable[[Path, InstanceIdentity, str], None]
    """Keeps an exported instance for its series; its file, its identity, and the AE title whose settings apply."""

log = structlog.get_logger()

KEPT_S: Final = 86_400.0
"""Time that the instances of a written series are kept, for others that come late."""
_LOOK_S: Final = 2.0
_PAUSE_S: Final = 30.0
_NO_LINK: Final = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP})
_TRIED: Final = ".tried"


@contextmanager
def series_volumes(
    data: Path,
    settings: Settings,
    version: str,
    names: InputNames,
    waiting: Path | None = None,
    *,
    ledger: Ledger | None = None,
    rejections: Rejections | None = None,
) -> Iterator[Keep]:
    """Write the volumes of received series while the block runs, where `volume.series` asks for them.

    Args:
        data: The data folder.
        settings: The whole configuration.
        version: Of this program, for the lines.
        names: Names of AE titles.
        waiting: Folder above `.waiting`, for originals that must not lie among what is de-identified; default: that of
            the volumes.
        ledger: Of the instances: one that was withdrawn does not wait any more.
        rejections: Withdraw volumes by the open folder while the block runs.

    Yields:
        Function to be called with every exported instance.

    Raises:
        MediaFolderUnusable: The folder of waiting instances cannot be made.
        Unusable, MachineCondition: As `open_series_folder`.
    """
    wanted = {
        names.ae_title(title): own for title, own in {"": settings, **settings.by_ae_title}.items() if own.volume.series
    }
    with ExitStack() as stack:
        live: dict[str, LiveSeries] = {}
        folder = stack.enter_context(open_series_folder(data, settings, version)) if wanted else None
        for title, own in wanted.items():
            if folder is not None:
                series = live[title] = LiveSeries(folder.root, own, title, waiting, ledger)
                series.start(folder)
                stack.callback(series.stop)

        def keep(path: Path, identity: InstanceIdentity, ae_title: str) -> None:
            if ae_title in live:
                live[ae_title].add_instance(path, identity)

        def withdraw(volumes: list[str]) -> None:
            if folder is not None:
                folder.withdraw(volumes, WITHDRAWN_VOLUME)
            for series in live.values():
                series.write_again(volumes)

        former = None if rejections is None else rejections.withdraw_volumes
        if rejections is not None and folder is not None:
            rejections.withdraw_volumes = withdraw
        try:
            yield keep
        finally:
            if rejections is not None and former is not None:
                rejections.withdraw_volumes = former


class LiveSeries:
    """The waiting series of one AE title, and the thread that writes them."""

    def __init__(
        self,
        root: Path,
        settings: Settings,
        ae_title: str = "",
        waiting: Path | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        place = f"ae-{ae_title_component(ae_title)}" if ae_title else ""
        self._place = place
        self._ledger = ledger
        self._root = root / place
        self._waiting = (waiting or root) / place / WAITING
        self._settings = settings
        self._ae_title = ae_title
        self._folder: SeriesFolder | None = None
        self._stop = threading.Event()
        self._worker: SeriesWorker | None = None
        self._thread: threading.Thread | None = None
        self._pause_s = 0.0
        self._folders_stay = threading.Lock()

    def start(self, folder: SeriesFolder) -> None:
        """Start the thread, which publishes in a folder.

        Raises:
            MediaFolderUnusable: The folder of waiting instances cannot be made.
        """
        try:
            MediaPermissions.of(self._settings.media.mode, self._settings.media.group).make_folders(self._root)
            make_private_folders(self._waiting)
        except OSError as error:
            raise MediaFolderUnusable(self._root, error) from error
        self._folder = folder
        self._worker = SeriesWorker(folder, self._settings)
        self._thread = threading.Thread(target=self._run, name="series", args=(self._worker,))
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a series under way is cancelled and written after the next start."""
        self._stop.set()
        worker = self._worker
        if worker is not None:
            worker.cancel()
        if self._thread is not None:
            self._thread.join()

    def add_instance(self, path: Path, identity: InstanceIdentity) -> None:
        """Keep an exported instance for its series, durably, if its SOP class can be part of a volume.

        An instance whose file is gone is missing from the volume, with a warning in the log.

        Raises:
            OSError: The file cannot be linked or copied now.
        """
        from exporter.writers.volumes.planes import SERIES_CLASSES

        if identity.sop_class_uid not in SERIES_CLASSES or not identity.series_instance_uid:
            return
        study, series = uid_component(identity.study_instance_uid), uid_component(identity.series_instance_uid)
        try:
            with self._folders_stay:
                _keep(path, self._waiting / study / series)
        except OSError as error:
            if path.exists() or not path.parent.is_dir():
                raise
            problem = errno.errorcode.get(error.errno or 0, "EIO")
            log.warning("instance is missing from its series volume", item=path.name, problem=problem)

    def write_again(self, volumes: Iterable[str]) -> None:
        """Have volumes written anew from the instances that are left, where these are still kept.

        Raises:
            OSError: The folder of waiting instances cannot be changed.
        """
        for name in volumes:
            place, _, series = name.rpartition("/")
            above, _, study = place.rpartition("/")
            if above == self._place:
                (self._waiting / study / f"{series}{_TRIED}").unlink(missing_ok=True)

    def _is_withdrawn(self, name: str) -> bool:
        """Whether an instance that waits was withdrawn after it was exported."""
        entry = None if self._ledger is None else self._ledger.entry(name)
        return entry is not None and entry.state is InstanceStatus.SKIPPED

    def _run(self, worker: SeriesWorker) -> None:
        try:
            while not self._stop.is_set():
                with suppress(Cancelled):
                    self.write_quiet_series()
                worker.close()  # an idle process would hold memory
                self._stop.wait(self._pause_s or min(_LOOK_S, self._settings.volume.series_quiet_s / 2))
        finally:
            worker.close()

    def write_quiet_series(self) -> None:
        """Write every series that has become quiet; remove instances that were kept long enough."""
        self._pause_s = 0.0
        try:
            for folder in self._folders():
                if self._stop.is_set():
                    return
                self._look_at(folder)
        except (MachineCondition, ExportError, Unusable) as error:
            self._back_off(str(error))
        except OSError as error:
            self._back_off(errno.errorcode.get(error.errno or 0, "EIO"))

    def _back_off(self, problem: str) -> None:
        """Log a machine condition and back off: it is not the fault of a series."""
        self._pause_s = _PAUSE_S
        log.warning("series export paused", problem=problem, seconds=_PAUSE_S)

    def _folders(self) -> Iterator[Path]:
        for study in sorted(self._waiting.iterdir()):
            yield from sorted(folder for folder in study.iterdir() if folder.is_dir())
            with suppress(OSError), self._folders_stay:
                study.rmdir()  # fails for a folder that is not empty

    def _look_at(self, folder: Path) -> None:
        changed_ns = folder.stat().st_mtime_ns
        age_s = time.time() - changed_ns / 1e9
        if 0 <= age_s < self._settings.volume.series_quiet_s:
            return
        tried = folder.with_name(folder.name + _TRIED)
        if tried.exists() and tried.stat().st_mtime_ns == changed_ns:
            if age_s > KEPT_S:
                with self._folders_stay:
                    if folder.stat().st_mtime_ns == changed_ns:
                        shutil.rmtree(folder)
                        tried.unlink()
            return
        self._write(folder)
        tried.touch(mode=0o600)
        os.utime(tried, ns=(changed_ns, changed_ns))
        if any(self._is_withdrawn(path.name) for path in folder.iterdir()):
            tried.unlink()  # withdrawn while the series was written: it is written again

    def _write(self, waiting: Path) -> None:
        if self._worker is None or self._folder is None:
            return
        paths = sorted(path for path in waiting.iterdir() if not path.name.startswith("."))
        for path in [path for path in paths if self._is_withdrawn(path.name)]:
            path.unlink()
            paths.remove(path)
        if not paths:
            return
        # A folder is named by the identifier, or by its hash where that is not a UID.
        key = SeriesKey(waiting.parent.name, waiting.name, self._ae_title)
        source_sha256 = hashlib.sha256("\n".join(path.name for path in paths).encode()).hexdigest()
        if self._folder.is_current(key, source_sha256, self._settings.settings_sha256):
            return  # a crash came between its publication and our note
        outcome = self._worker.write(
            paths, key, source_sha256, lambda: not any(self._is_withdrawn(path.name) for path in paths)
        )
        if isinstance(outcome, Exported) and has_volume(outcome):
            volumes = len(outcome.media) - 1
            log.info("series written", instances=len(paths), volumes=volumes, warnings=len(outcome.warnings))
        else:
            log.warning("series cannot form a volume", instances=len(paths), problem=problem_of(outcome))


def _keep(path: Path, folder: Path) -> None:
    """Link a file into a folder, or copy it there, durably."""
    make_private_folders(folder)
    target = folder / path.name
    try:
        target.hardlink_to(path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        _copy(path, target)
    fsync_folder(folder)


def _copy(path: Path, target: Path) -> None:
    """Copy a file durably under its final name."""
    partial = target.with_name(f".{target.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with path.open("rb") as source, os.fdopen(os.open(partial, flags, 0o600), "wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())
    partial.replace(target)
