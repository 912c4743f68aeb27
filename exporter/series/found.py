"""Volumes of the series in an exported folder, written at the end of the run.

Contract: groups the exported instances of the ledger by series, and writes the series that are new, or whose instances
or settings have changed since their last description. A series that cannot form a volume gets a description that says
why; the others are not affected. Volumes go to ``series/<study>/<series>`` below the output folder, beside `media/`,
which holds the media of single instances.

Must never: touch the input, or hold more than one series' names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final

import structlog

from exporter.errors import ExportError
from exporter.outcome import Exported, Failed
from exporter.series.assemble import FEWEST_SLICES, described_as
from exporter.series.job import SeriesWorker
from exporter.writers.volumes.planes import SERIES_CLASSES

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from exporter.outcome import Outcome
    from exporter.results.ledger import Ledger
    from exporter.settings.settings import Settings

log = structlog.get_logger()

FOLDER: Final = "series"
"""Folder of series volumes, beside the media folder."""


@dataclass(slots=True)
class SeriesTally:
    """Numbers of series that were written, were up to date, or cannot form a volume."""

    written: int = 0
    unchanged: int = 0
    refused: int = 0


def write_found(
    together: Callable[[Sequence[str]], AbstractContextManager[list[Path]]],
    root: Path,
    ledger: Ledger,
    settings: Settings,
    stop: threading.Event,
) -> SeriesTally:
    """Write a volume of every series whose instances the ledger has as exported from one input.

    Args:
        together: Gives the files of several names in the ledger, which exist while its block runs.
        root: Where series go.
        ledger: Of the input.
        settings: `volume` and `limits`.
        stop: When set, no further series begins.

    Raises:
        OutOfSpace: The disk is full; a rerun goes on from here.
        WorkerUnstartable: Worker processes do not start.
    """
    tally = SeriesTally()
    worker = SeriesWorker(root, settings)
    try:
        members = ledger.series_members(SERIES_CLASSES)
        for (study, series), group in groupby(members, key=lambda member: (member.study_uid, member.series_uid)):
            if stop.is_set():
                break
            names: list[str] = []
            digest = hashlib.sha256(settings.settings_sha256.encode())
            for member in group:
                names.append(member.name)
                digest.update(member.content_sha256.encode())
            of = digest.hexdigest()
            if len(names) < FEWEST_SLICES:
                continue
            if described_as(worker.base(study, series)) == of:
                tally.unchanged += 1
                continue
            with together(names) as paths:
                _count(tally, _attempt(worker, paths, (study, series), of))
    finally:
        worker.close()
    log.info("series volumes finished", written=tally.written, unchanged=tally.unchanged, refused=tally.refused)
    return tally


def _attempt(worker: SeriesWorker, paths: list[Path], uids: tuple[str, str], of: str) -> Outcome:
    try:
        return worker.write(paths, *uids, of=of)
    except ExportError as error:
        return Failed.of(error)


def _count(tally: SeriesTally, outcome: Outcome) -> None:
    if isinstance(outcome, Exported):
        tally.written += 1
        return
    tally.refused += 1
    if isinstance(outcome, Failed):
        log.warning("series cannot form a volume", reason=outcome.reason, problem=outcome.message)
