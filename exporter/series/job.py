"""One series in a worker process: as with instances, a hostile file may take that process down and nothing else.

Contract: the worker is that of `exporter.work`, with this module as its target; its job's path is a manifest that lists
the files. `SeriesWorker.write` ends in an `Outcome` for any series: an exported one without volumes has a description
that says why, a failed one is tried again with the next run.

Must never: run two series at once (memory), or keep the process between runs of many hours (the caller closes it).
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporter.errors import DecoderCrash, ExportError, TooLarge
from exporter.outcome import Exported, Failed, Outcome
from exporter.series.folder import SeriesFolder, SeriesKey
from exporter.work.protocol import WorkerJob
from exporter.work.supervisor import Worker, WorkerKilled, WorkerSetup
from exporter.writers.durable_write import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from exporter.privacy.profile import PrivacyProfile
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
    """Write the series that the manifest at `job.path` lists, as partial files.

    Raises:
        OutOfSpace: The disk is full.
    """
    from exporter.results.metadata.record import series_record
    from exporter.series.assemble import describe_refusal, write_series

    manifest = json.loads(Path(job.path).read_bytes())
    key, source_sha256, folder = SeriesKey(**manifest["key"]), str(manifest["source_sha256"]), Path(job.folder)
    identity = key.identity(source_sha256)
    yield identity
    try:
        paths = [Path(path) for path in manifest["paths"]]
        written = write_series(paths, folder, manifest["name"], settings, profile)
    except ExportError as error:
        if error.may_pass:
            return Failed.of(error, identity, source_sha256)
        written = describe_refusal(folder, error)
    except MemoryError:
        short = TooLarge("write series: needs more memory than limits.memory_mb permits")
        return Failed.of(short, identity, source_sha256)
    return Exported(
        identity,
        written.media,
        series_record(key.study_uid, key.series_uid, settings.metadata),
        source_sha256,
        settings_sha256,
        warnings=written.warnings,
    )


class SeriesWorker:
    """Writes series into one folder, one after the other, for the thread that makes it."""

    def __init__(self, folder: SeriesFolder, settings: Settings) -> None:
        self._folder = folder
        # A manifest is small, whatever the size of its series: only the limit of every job holds.
        self._worker = Worker(replace(WorkerSetup.of(settings), target=TARGET, cpu_base_s=math.inf))

    def write(
        self,
        paths: Sequence[Path],
        key: SeriesKey,
        source_sha256: str,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Outcome:
        """Write and publish one series.

        Args:
            paths: Files of its instances.
            key: The series.
            source_sha256: Hash of what identifies its instances.
            is_wanted: As `SeriesFolder.publish` takes it.

        Raises:
            MachineCondition, Unusable: As `SeriesFolder.publish`.
            Cancelled, WorkerUnstartable: As `Worker.run`.
            EncodeFailed: The manifest cannot be written.
        """
        manifest = {
            "paths": [str(path.absolute()) for path in paths],
            "key": asdict(key),
            "source_sha256": source_sha256,
        }
        return self._folder.publish(key, source_sha256, partial(self._run, manifest), is_wanted)

    def _run(self, manifest: dict[str, Any], folder: Path, name: str) -> Outcome:
        with writing("write series"):
            # Not below the output: the paths of inputs may name patients.
            fd, path = tempfile.mkstemp(prefix="exporter-series-")
            with os.fdopen(fd, "w", encoding="ascii") as file:
                json.dump({**manifest, "name": name}, file)
        try:
            return self._worker.run(WorkerJob(path, str(folder)), lambda _: None)
        except WorkerKilled as killed:
            return Failed.of(DecoderCrash(str(killed)))
        finally:
            Path(path).unlink(missing_ok=True)

    def cancel(self) -> None:
        """Cancel the series under way; from any thread."""
        self._worker.cancel()

    def close(self) -> None:
        """End the process."""
        self._worker.close()
