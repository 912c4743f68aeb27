"""Export one instance: open, identify, choose a writer, write, record. Glue only; it runs inside a worker process.

Contract: `export` returns an `Outcome` for any file whatever, and raises only `MachineCondition` (a full disk, a folder
of ours that is gone) and `ExportStopped` (the parent does not want the instance). This is the one place around a job
where any exception at all is caught: a defect becomes `Failed(internal)` with the exception's type and place.

Must never: put an exception's text into an outcome unless it is an error of ours, since it may quote values.
"""

from __future__ import annotations

import errno
import os
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporter.dicom.bytesource import SourceGone
from exporter.errors import (
    GONE,
    ExportError,
    IdentityMismatch,
    MachineCondition,
    OutOfSpace,
    Reason,
    SkipInstance,
    SkipReason,
    StorageUnavailable,
)
from exporter.outcome import Exported, Failed, InstanceIdentity, Outcome, Skipped
from exporter.work.protocol import ExportStopped
from listener.intake.identity import IMPLEMENTATION_CLASS_UID

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.dicom.instance import Instance
    from exporter.settings.settings import MediaSettings
    from exporter.work.protocol import Ask, Export, WorkerJob
    from exporter.writers import ChosenWriters

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of the output's file system that say nothing about the instance."""
PROJECT: Final = Path(__file__).resolve().parents[2]


def prepare(settings: Mapping[str, Any]) -> Export:
    """The export function of a worker process, its libraries loaded.

    Args:
        settings: ``media``, the `MediaSettings` as JSON values, and ``settings_sha256``; ``by_ae_title`` has the same
            for each AE title with settings of its own.
    """
    # Loaded now, so that the first instance does not pay for it, nor its limit of processor time.
    import imagecodecs  # noqa: F401
    import pydicom  # noqa: F401

    import exporter.results.metadata.record  # noqa: F401
    from exporter import writers
    from exporter.settings.settings import MediaSettings

    writers.registry()
    own = {"": settings, **settings.get("by_ae_title", {})}
    exports = {
        title: partial(export, MediaSettings.model_validate(values["media"]), str(values["settings_sha256"]))
        for title, values in own.items()
    }
    return partial(_export_by_title, exports)


def _export_by_title(exports: Mapping[str, Export], job: WorkerJob, ask: Ask) -> Outcome:
    """Export with the settings of the AE title that the instance was sent to."""
    return exports[job.ae_title](job, ask)


def export(settings: MediaSettings, settings_sha256: str, job: WorkerJob, ask: Ask) -> Outcome:
    """Export one instance; see the module's contract."""
    known = _Known()
    try:
        return _export(settings, settings_sha256, job, ask, known)
    except (MachineCondition, ExportStopped):
        raise
    except SkipInstance as skip:
        return Skipped(
            skip.reason, str(skip), known.identity, source_sha256=known.source_sha256, settings_sha256=settings_sha256
        )
    except ExportError as error:
        if isinstance(error, SourceGone) and job.ours:
            raise StorageUnavailable(str(error)) from None
        return Failed(error.reason, str(error), error.may_pass, known.identity, known.source_sha256)
    except MemoryError:
        message = f"needs more memory than limits.memory_mb permits ({settings.limits.memory_mb} MiB)"
        return Failed(Reason.TOO_LARGE, message, may_pass=False, identity=known.identity)
    except OSError as error:
        return _of_system(error, known, job)
    except Exception as error:  # noqa: BLE001 - the one place around a job: a defect costs one instance
        message = f"{type(error).__name__} at {place(error)}"
        return Failed(
            Reason.INTERNAL, message, may_pass=True, identity=known.identity, source_sha256=known.source_sha256
        )


class _Known:
    """What is known of the instance so far: an outcome that comes early tells it too."""

    identity: InstanceIdentity | None = None
    source_sha256: str | None = None


def _export(settings: MediaSettings, settings_sha256: str, job: WorkerJob, ask: Ask, known: _Known) -> Outcome:
    from exporter.dicom.instance import Instance
    from exporter.results.metadata.record import record_text
    from exporter.work.absent_media import absent_media
    from exporter.writers.contract import WriterTask

    with Instance.open(Path(job.path), settings.limits) as instance:
        known.identity, known.source_sha256 = instance.identity, instance.source_sha256
        if job.received:
            _check_command(instance)
        ask(known.identity)
        try:
            writers = _choose_writers(instance, settings)
        except SkipInstance as skip:
            if skip.reason is not SkipReason.NO_MEDIA:
                raise
            return Skipped(
                skip.reason,
                str(skip),
                known.identity,
                record=record_text(instance, settings.metadata),
                source_sha256=known.source_sha256,
                settings_sha256=settings_sha256,
                warnings=(*instance.warnings, *(absent_media(instance.header) if settings.media.enabled else ())),
            )
        written = writers.write(WriterTask(instance, Path(job.folder), settings))
        record = record_text(instance, settings.metadata)
        return Exported(
            known.identity,
            written.media,
            record,
            known.source_sha256,
            settings_sha256,
            written.timing,
            written.rendering,
            tuple(dict.fromkeys((*instance.warnings, *written.warnings))),
        )


def _choose_writers(instance: Instance, settings: MediaSettings) -> ChosenWriters:
    """The writers of an instance.

    Raises:
        SkipInstance: There is no medium in it, or media are not wanted.
        ExportError: Its header contradicts itself.
    """
    from exporter.writers import choose_all

    if not settings.media.enabled:
        raise SkipInstance(SkipReason.NO_MEDIA, "`media.enabled` is false: the instance has its line alone")
    return choose_all(instance, settings)


def _check_command(instance: Instance) -> None:
    """Compare the data set with what its sender announced, which the listener keeps in the file meta information.

    Files that came another way (an Orthanc, a folder) keep what some system wrote there long ago: it announces nothing.

    Raises:
        IdentityMismatch: SOP class or instance differ. Source: PS3.4 B.2.3, status A9xx.
    """
    if _uid(instance.file_meta, "ImplementationClassUID") != IMPLEMENTATION_CLASS_UID:
        return
    for announced, keyword, element in (
        ("MediaStorageSOPClassUID", "SOPClassUID", "(0008,0016) SOP Class UID"),
        ("MediaStorageSOPInstanceUID", "SOPInstanceUID", "(0008,0018) SOP Instance UID"),
    ):
        command, data = _uid(instance.file_meta, announced), _uid(instance.header, keyword)
        if command and data and command != data:
            raise IdentityMismatch(
                f"receiving: {element} of the data set is not the one that the C-STORE command announced"
            )


def _uid(elements: Any, keyword: str) -> str:
    value = elements.get(keyword)
    return str(value).strip("\0 ") if value is not None else ""


def _of_system(error: OSError, known: _Known, job: WorkerJob) -> Failed:
    """What an error of the system means that no boundary has mapped.

    Raises:
        OutOfSpace: The output's file system takes no more.
        StorageUnavailable: The folder for partial files is gone.
    """
    name = errno.errorcode.get(error.errno or 0, "unknown")
    if error.errno in FULL:
        raise OutOfSpace(f"writing media: {os.strerror(error.errno or 0)}") from None
    if error.errno in GONE and str(error.filename).startswith(f"{job.folder}/"):
        raise StorageUnavailable(f"writing media: {os.strerror(error.errno or 0)}") from None
    if error.errno == errno.EFBIG:
        message = "writing media: the file would pass the largest size that a worker may write"
        return Failed(Reason.TOO_LARGE, message, may_pass=False, identity=known.identity)
    message = f"{type(error).__name__} ({name}) at {place(error)}"
    return Failed(Reason.INTERNAL, message, may_pass=True, identity=known.identity, source_sha256=known.source_sha256)


def place(error: BaseException) -> str:
    """The innermost line of ours that an exception passed: ``exporter/frames/rle.py:41``."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PROJECT / "exporter")]
    if not ours:
        return "unknown place"
    return f"{Path(ours[-1].filename).relative_to(PROJECT)}:{ours[-1].lineno}"
