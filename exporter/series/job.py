"""One series in a worker process: the function that the process runs, and the class that its owner uses.

Contract: the process is of the kind that exports instances (`exporter.work.worker`), with the same limits, so a decoder
that crashes or never ends affects this series only. The owner writes the list of files into a manifest that only it and
the process can read, and gets an `Outcome`: `Exported` with the volumes, or `Failed`. Every attempt that ends leaves a
description beside the volumes (`exporter.series.assemble`), a refused series too.

Must never: put paths or identifiers on a command line or into a log.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporter.errors import DecoderCrash, ExportError, TooLarge
from exporter.outcome import Exported, Failed, InstanceIdentity, MediaFile, MediaType, Outcome
from exporter.results.output_names import uid_component
from exporter.settings.permissions import MediaPermissions
from exporter.work.protocol import WorkerJob
from exporter.work.supervisor import Worker, WorkerKilled, WorkerSetup
from exporter.writers.durable_write import writing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.privacy.profile import PrivacyProfile
    from exporter.series.assemble import WrittenSeries
    from exporter.settings.settings import MediaSettings, Settings
    from exporter.work.protocol import Export, Steps

TARGET: Final = "exporter.series.job:prepare"


def prepare(settings: Mapping[str, Any]) -> Export:
    """Make the function that a worker process runs for every manifest."""
    from exporter.privacy.profile import PrivacyProfile
    from exporter.settings.settings import MediaSettings

    media = MediaSettings.model_validate(settings["media"])
    profile = PrivacyProfile.load(media.privacy, settings.get("key_fingerprint"))
    return partial(export, media, str(settings["settings_sha256"]), profile)


def export(settings: MediaSettings, settings_sha256: str, profile: PrivacyProfile | None, job: WorkerJob) -> Steps:
    """Write the series that the manifest at `job.path` lists.

    Raises:
        OutOfSpace: The disk is full.
    """
    from exporter.series.assemble import refuse_series, write_series

    manifest = json.loads(Path(job.path).read_bytes())
    base = Path(manifest["base"])
    identity = InstanceIdentity("", "", manifest["study"], manifest["series"], "")
    yield identity
    try:
        written = write_series(
            [Path(path) for path in manifest["paths"]], base, settings, of=manifest["of"], profile=profile
        )
    except ExportError as error:
        if not error.may_pass:
            refuse_series(base, error, of=manifest["of"])
        return Failed.of(error)
    except MemoryError:
        return Failed.of(TooLarge("write series: needs more memory than limits.memory_mb permits"))
    media = tuple(_medium(path, written) for path in written.files)
    return Exported(identity, media, "{}", "", settings_sha256, warnings=written.warnings)


def _medium(path: Path, written: WrittenSeries) -> MediaFile:
    described = json.loads(written.description.read_bytes())["volumes"]
    (volume,) = (one for one in described if one["path"] == path.name)
    columns, rows, slices, times = volume["shape"]
    return MediaFile(
        file=path.name,
        suffix="".join(path.suffixes[-2:]),
        kind=MediaType.VOLUME,
        bytes=path.stat().st_size,
        sha256=volume["sha256"],
        codec="nrrd" if path.suffix == ".nrrd" else "nifti-1",
        width=columns,
        height=rows,
        frames=slices * times,
    )


class SeriesWorker:
    """Writes series below one folder, one after the other, for the thread that makes it."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root = root
        self._permissions = MediaPermissions.of(settings.media.mode, settings.media.group)
        # A manifest is small, whatever the size of its series: only the limit of every job holds.
        self._worker = Worker(replace(WorkerSetup.of(settings), target=TARGET, cpu_base_s=math.inf))

    def base(self, study: str, series: str) -> Path:
        """Path of the volumes of a series, without extension."""
        return self.root / uid_component(study) / uid_component(series)

    def write(self, paths: Sequence[Path], study: str, series: str, *, of: str = "") -> Outcome:
        """Write one series.

        Raises:
            OutOfSpace: The disk is full.
            Cancelled, WorkerUnstartable: As `Worker.run`.
            EncodeFailed: The manifest cannot be written.
        """
        base = self.base(study, series)
        content = {
            "paths": [str(path.absolute()) for path in paths],
            "base": str(base.absolute()),
            "study": study,
            "series": series,
            "of": of,
        }
        with writing("write series"):
            self._permissions.make_folders(base.parent)
            # Not below the output: the paths of inputs may name patients.
            fd, manifest = tempfile.mkstemp(prefix="exporter-series-")
            with os.fdopen(fd, "w", encoding="ascii") as file:
                json.dump(content, file)
        try:
            outcome = self._worker.run(WorkerJob(manifest, str(self.root)), lambda _: None)
        except WorkerKilled as killed:
            return Failed.of(DecoderCrash(str(killed)))
        finally:
            Path(manifest).unlink(missing_ok=True)
        with writing("write series"):
            self._permit(base, outcome)
        return outcome

    def _permit(self, base: Path, outcome: Outcome) -> None:
        """Apply the permissions of the settings to the files of the process, which were private until now."""
        from exporter.series.assemble import description_of

        files = [base.parent / medium.file for medium in outcome.media] if isinstance(outcome, Exported) else []
        for path in (*files, description_of(base)):
            with suppress(FileNotFoundError):
                self._permissions.apply(path)

    def cancel(self) -> None:
        """Cancel the series under way; from any thread."""
        self._worker.cancel()

    def close(self) -> None:
        """End the process."""
        self._worker.close()
