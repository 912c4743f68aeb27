"""The pipeline of one instance, inside a worker process: open, identify, select writers, write, record.

Contract: `export` ends in an `Outcome` for any file, and raises only `MachineCondition` (a full disk, a folder of ours
that is gone). This is the one place around a job where every exception is caught: a defect becomes `Failed(internal)`
with the type and the source line of the exception.

Must never: put the text of an exception into an outcome unless it is an error of ours, since it may quote values.
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporter.dicom.bytesource import SourceGone
from exporter.errors import (
    ExportError,
    IdentityMismatch,
    InternalError,
    MachineCondition,
    SkipInstance,
    SkipReason,
    StorageUnavailable,
    TooLarge,
)
from exporter.machine_conditions import storage_error
from exporter.outcome import Exported, Failed, InstanceIdentity, Skipped
from listener.foundation.disk import is_gone, is_out_of_space, is_too_large
from listener.intake.file_meta import IMPLEMENTATION_CLASS, SOP_CLASS, SOP_INSTANCE
from listener.intake.identity import IMPLEMENTATION_CLASS_UID

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from exporter.dicom.instance import Instance
    from exporter.privacy.lists import ExcludedPatients
    from exporter.privacy.profile import DeidentifiedInstance, PrivacyProfile
    from exporter.settings.settings import MediaSettings
    from exporter.work.protocol import Steps, WorkerJob
    from exporter.writers import ChosenWriters
    from exporter.writers.durable_write import HeldFiles

PROJECT: Final = Path(__file__).resolve().parents[2]


class Pipeline:
    """Exports jobs with the settings of each AE title; holds the loaded libraries of a worker process."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Load settings and libraries.

        Args:
            settings: ``media``, the `MediaSettings` as JSON values, and ``settings_sha256``; ``by_ae_title`` has the
                same for each AE title with settings of its own; ``installed_writers``, what this process has to find,
                too; ``key_fingerprint``, that of the key of de-identification.

        Raises:
            WriterUnusable: A writer of another distribution cannot be used, or is not found by this process.
            KeyUnusable, TextDetectionMissing, ListUnusable: Instances cannot be de-identified as the settings say.
        """
        from exporter.privacy.lists import excluded_of
        from exporter.privacy.profile import PrivacyProfile

        load_libraries()  # now, so that it does not count against the time limits of the first instance
        from exporter.settings.settings import MediaSettings
        from exporter.writers.discovery import check_origins
        from exporter.writers.durable_write import HeldFiles

        check_origins(settings.get("installed_writers", ()))
        self._held = HeldFiles()
        self._excluded = excluded_of(MediaSettings.model_validate(settings["media"]).privacy)
        self._by_ae_title: dict[str, tuple[MediaSettings, str, PrivacyProfile | None]] = {}
        for title, values in {"": settings, **settings.get("by_ae_title", {})}.items():
            media = MediaSettings.model_validate(values["media"])
            profile = PrivacyProfile.load(media.privacy, settings.get("key_fingerprint"))
            self._by_ae_title[title] = (media, str(values["settings_sha256"]), profile)

    def __call__(self, job: WorkerJob) -> Steps:
        """Export with the settings of the AE title that the instance was sent to."""
        settings, settings_sha256, profile = self._by_ae_title[job.ae_title]
        return export(settings, settings_sha256, job, profile=profile, excluded=self._excluded, held=self._held)


def load_libraries() -> None:
    """Load what most instances need, once for all copies of a fork server."""
    import imagecodecs  # noqa: F401
    import pydicom  # noqa: F401

    import exporter.results.metadata.record  # noqa: F401
    from exporter import writers
    from exporter.outcome import prepare_json
    from exporter.settings.settings import MediaSettings

    writers.registry()
    MediaSettings.model_rebuild()
    prepare_json()


def export(
    settings: MediaSettings,
    settings_sha256: str,
    job: WorkerJob,
    *,
    profile: PrivacyProfile | None = None,
    excluded: ExcludedPatients | None = None,
    held: HeldFiles | None = None,
) -> Steps:
    """Export one instance; see the module's contract. With `held`, images become durable when they are published."""
    known = _Known(profile, excluded)
    try:
        return known.verified((yield from _export(settings, settings_sha256, job, known, held)), Path(job.folder))
    except MachineCondition:
        raise
    except SkipInstance as skip:
        return Skipped(
            skip.reason, str(skip), known.identity, source_sha256=known.source_sha256, settings_sha256=settings_sha256
        )
    except ExportError as error:
        if isinstance(error, SourceGone) and job.ours:
            raise StorageUnavailable(str(error)) from None
        return known.failed(error)
    except MemoryError:
        most = settings.limits.memory_mb
        return known.failed(TooLarge(f"needs more memory than limits.memory_mb permits ({most} MiB)"))
    except OSError as error:
        return known.failed(_of_system(error, job))
    except Exception as error:  # noqa: BLE001 - the one place around a job: a defect costs one instance
        return known.failed(InternalError(f"{type(error).__name__} at {place(error)}"))


class _Known:
    """What is known of the instance so far, for outcomes that come early."""

    def __init__(self, profile: PrivacyProfile | None, excluded: ExcludedPatients | None) -> None:
        self.profile = profile
        self.excluded = excluded
        self.deidentified: DeidentifiedInstance | None = None
        self.identity: InstanceIdentity | None = None
        self.source_sha256: str | None = None

    def verified(self, outcome: Exported | Skipped, folder: Path) -> Exported | Skipped:
        """The outcome, if nothing of it identifies whom de-identification was to hide.

        Raises:
            PrivacyUnknown: Something does.
        """
        if self.deidentified is not None:
            self.deidentified.verify(outcome, folder)
        return outcome

    def failed(self, error: ExportError) -> Failed:
        """Outcome of the instance after `error`."""
        return Failed.of(error, self.identity, self.source_sha256)


def _export(
    settings: MediaSettings, settings_sha256: str, job: WorkerJob, known: _Known, held: HeldFiles | None
) -> Generator[InstanceIdentity, None, Exported | Skipped]:
    from exporter.dicom.instance import Instance
    from exporter.dicom.rejection_note import rejection_note_of
    from exporter.results.metadata.record import record_text
    from exporter.work.absent_media import absent_media
    from exporter.work.deidentification import deidentified
    from exporter.writers.contract import WriterTask

    with Instance.open(Path(job.path), settings.limits) as instance:
        if known.excluded is not None:
            known.excluded.refuse(instance.header)  # before it has an identity: nothing of it is kept
        if known.profile is None:
            known.identity, known.source_sha256 = instance.identity, instance.source_sha256
        if job.received:
            _check_command(instance)
        known.deidentified = deidentified(instance, settings, known.profile)
        known.identity, known.source_sha256 = instance.identity, instance.source_sha256
        yield known.identity
        rejects, doubts = rejection_note_of(instance.header)
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
                warnings=(
                    *instance.warnings,
                    *(absent_media(instance.header) if settings.media.enabled else ()),
                    *doubts,
                ),
                rejects=rejects,
            )
        written = writers.write(WriterTask(instance, Path(job.folder), settings, held))
        record = record_text(instance, settings.metadata)
        return Exported(
            known.identity,
            written.media,
            record,
            known.source_sha256,
            settings_sha256,
            written.timing,
            written.rendering,
            tuple(dict.fromkeys((*instance.warnings, *written.warnings, *doubts))),
            written.writers,
            rejects,
        )


def _choose_writers(instance: Instance, settings: MediaSettings) -> ChosenWriters:
    """Select the writers of an instance.

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
    if instance.file_meta.text(IMPLEMENTATION_CLASS) != IMPLEMENTATION_CLASS_UID:
        return
    for announced, keyword, element in (
        (SOP_CLASS, "SOPClassUID", "(0008,0016) SOP Class UID"),
        (SOP_INSTANCE, "SOPInstanceUID", "(0008,0018) SOP Instance UID"),
    ):
        command, data = instance.file_meta.text(announced), _uid(instance.header, keyword)
        if command and data and command != data:
            raise IdentityMismatch(
                f"receiving: {element} of the data set is not the one that the C-STORE command announced"
            )


def _uid(elements: Any, keyword: str) -> str:
    value = elements.get(keyword)
    return str(value).strip("\0 ") if value is not None else ""


def _of_system(error: OSError, job: WorkerJob) -> ExportError:
    """Map an operating system error that was not mapped where it occurred.

    Raises:
        OutOfSpace: The output's file system takes no more.
        StorageUnavailable: The folder for partial files is gone.
    """
    what = "writing media"
    if is_out_of_space(error) or (is_gone(error) and str(error.filename).startswith(f"{job.folder}/")):
        raise storage_error(what, error) from None
    if is_too_large(error):
        return TooLarge(f"{what}: the file would pass the largest size that a worker may write")
    name = errno.errorcode.get(error.errno or 0, "unknown")
    return InternalError(f"{type(error).__name__} ({name}) at {place(error)}")


def place(error: BaseException) -> str:
    """Innermost source line of ours in the traceback of an exception, as ``exporter/frames/rle.py:41``."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(PROJECT / "exporter")]
    if not ours:
        return "unknown place"
    return f"{Path(ours[-1].filename).relative_to(PROJECT)}:{ours[-1].lineno}"
