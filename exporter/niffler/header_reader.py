"""Headers of the input as cells of the table, read in a worker process: a hostile file ends that process, never a run.

Contract: `HeaderReader.read` answers for any file, within the limits of the settings. The worker is that of
`exporter.work`, with this module as its target. What it sends is data, and has its form checked.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from exporter.errors import DecoderCrash, ExportError, Reason, SkipInstance, SkipReason, TooLarge, Unreadable
from exporter.outcome import Failed, Outcome, Skipped
from exporter.work.protocol import WorkerJob

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.dicom.instance import Instance
    from exporter.niffler.header_values import Cell
    from exporter.settings.settings import LimitSettings, Settings
    from exporter.work.protocol import Export, Steps

TARGET: Final = "exporter.niffler.header_reader:prepare"
NEEDED: Final = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation")
"""Elements that pixel data need (PS3.3 C.7.6.3)."""


@dataclass(frozen=True, slots=True)
class ReadHeader:
    """The header of one file, as far as tables need it."""

    identifiers: tuple[str, str, str] = ("", "", "")
    """Patient ID, Study and Series Instance UID."""
    cells: dict[str, Cell] = field(default_factory=dict)
    values: int = 0
    has_pixels: bool = False
    lacks: bool = False
    """Whether an element that pixel data need is missing."""


def prepare(settings: Mapping[str, Any]) -> Export:
    """Make the function that a worker process runs for every file."""
    import exporter.niffler.header_values  # noqa: F401 - loaded before the limits of the first file count
    from exporter.settings.settings import LimitSettings

    return partial(_read, LimitSettings.model_validate(settings["limits"]), private=bool(settings["private"]))


def _read(limits: LimitSettings, job: WorkerJob, *, private: bool) -> Steps:
    """Read one header; the record of the outcome is a `ReadHeader`."""
    from exporter.dicom.elements import READING_ERRORS, text_of
    from exporter.dicom.instance import Instance
    from exporter.niffler.header_values import header_values

    yield from ()
    try:
        with Instance.open(Path(job.path), limits) as instance:
            header = instance.header
            patient, study, series = (
                text_of(header, keyword) for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
            )
            cells, values = header_values(header, private=private)
            lacks = any(keyword not in header for keyword in NEEDED)
            read = ReadHeader((patient, study, series), cells, values, _has_pixels(instance), lacks)
    except SkipInstance as skip:
        return Skipped(skip.reason, str(skip))
    except ExportError as error:
        return Failed.of(error)
    except MemoryError:
        return Failed.of(TooLarge("its header needs more memory than limits.memory_mb permits"))
    except READING_ERRORS as error:
        return Failed.of(Unreadable(f"its header cannot be read ({type(error).__name__})"))
    return Skipped(SkipReason.NO_MEDIA, "", record=orjson.dumps(asdict(read)).decode())


def _has_pixels(instance: Instance) -> bool:
    """Whether an instance has pixel data, even if described incorrectly."""
    try:
        return instance.pixels is not None
    except ExportError:
        return True


class HeaderReader:
    """Reads headers, one after the other, for the thread that uses it.

    Args:
        settings: Ours for the run; their limits hold for each file.
        private: Whether private elements have columns.
        workers: Workers of the run; with 0 headers are read in this process, as everything else.
    """

    def __init__(self, settings: Settings, *, private: bool, workers: int) -> None:
        # Here, so that the worker process, which has this module too, does not load the engine.
        from exporter.work.engine import InProcess
        from exporter.work.supervisor import Worker, WorkerKilled, WorkerSetup

        self._killed = WorkerKilled
        content = {"limits": settings.limits.model_dump(mode="json"), "private": private}
        self._runner = (
            Worker(replace(WorkerSetup.of(settings), target=TARGET, settings=content))
            if workers
            else InProcess(prepare(content))
        )

    def read(self, path: Path) -> ReadHeader | Skipped | Failed:
        """The header of a file, or why there is none.

        Raises:
            WorkerUnstartable: Worker processes do not start.
        """
        try:
            outcome = self._runner.run(WorkerJob(str(path), ""), lambda _: None, lambda: True)
        except self._killed as killed:
            return Failed.of(DecoderCrash(str(killed)))
        return _checked(outcome)

    def close(self) -> None:
        """End the process."""
        self._runner.close()


def _checked(outcome: Outcome) -> ReadHeader | Skipped | Failed:
    """What a worker sent, in the form that is expected of it."""
    if isinstance(outcome, Failed) or (isinstance(outcome, Skipped) and outcome.record is None):
        return outcome
    try:
        found = ReadHeader(**orjson.loads(outcome.record or ""))
        identifiers = list(found.identifiers)
        texts = [*identifiers, *found.cells]
        numbers = [found.values, found.has_pixels, found.lacks]
        if (
            len(identifiers) == 3
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(number, int) for number in numbers)
            and all(value is None or isinstance(value, str | int | float) for value in found.cells.values())
        ):
            return replace(found, identifiers=cast("tuple[str, str, str]", tuple(identifiers)))
    except (orjson.JSONDecodeError, TypeError, AttributeError):
        pass
    return Failed(Reason.INTERNAL, "the worker process gave an answer that makes no sense", may_pass=False)
