"""Volumes of the series in an exported folder, written at the end of the run.

Contract: groups the exported instances of the ledger by series, and writes the series that are new, or whose instances
or settings have changed since they were published (`exporter.series.folder`). A series that cannot form a volume gets a
description that says why; the others are not affected.

Must never: touch the input, or hold more than one series' names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import structlog

from exporter.errors import ExportError
from exporter.outcome import Failed
from exporter.series.assemble import FEWEST_SLICES
from exporter.series.folder import SeriesFolder, SeriesKey, has_volume, problem_of
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


@dataclass(slots=True)
class SeriesTally:
    """Numbers of series that were written, were up to date, or cannot form a volume."""

    written: int = 0
    unchanged: int = 0
    refused: int = 0


def write_found(
    together: Callable[[Sequence[str]], AbstractContextManager[list[Path]]],
    folder: SeriesFolder,
    ledger: Ledger,
    settings: Settings,
    stop: threading.Event,
) -> SeriesTally:
    """Write a volume of every series whose instances the ledger has as exported from one input.

    Args:
        together: Gives the files of several names in the ledger, which exist while its block runs.
        folder: Where series go.
        ledger: Of the input.
        settings: `volume` and `limits`.
        stop: When set, no further series begins.

    Raises:
        MachineCondition: The disk is full, or a folder is gone; a rerun goes on from here.
        Unusable: Worker processes do not start, or ledger or lines of the series cannot be written.
    """
    tally = SeriesTally()
    worker = SeriesWorker(folder, settings)
    try:
        members = ledger.series_members(SERIES_CLASSES)
        for (study, series), group in groupby(members, key=lambda member: (member.study_uid, member.series_uid)):
            if stop.is_set():
                break
            names: list[str] = []
            digest = hashlib.sha256()
            for member in group:
                names.append(member.name)
                digest.update(member.content_sha256.encode())
            key, source_sha256 = SeriesKey(study, series), digest.hexdigest()
            if len(names) < FEWEST_SLICES:
                continue
            if folder.is_current(key, source_sha256, settings.settings_sha256):
                tally.unchanged += 1
                continue
            with together(names) as paths:
                _count(tally, _attempt(worker, paths, key, source_sha256))
    finally:
        worker.close()
    log.info("series volumes finished", written=tally.written, unchanged=tally.unchanged, refused=tally.refused)
    return tally


def _attempt(worker: SeriesWorker, paths: list[Path], key: SeriesKey, source_sha256: str) -> Outcome:
    try:
        return worker.write(paths, key, source_sha256)
    except ExportError as error:
        return Failed.of(error)


def _count(tally: SeriesTally, outcome: Outcome) -> None:
    if has_volume(outcome):
        tally.written += 1
    else:
        tally.refused += 1
        log.warning("series cannot form a volume", problem=problem_of(outcome))
