"""Series of a folder that was exported: every complete one becomes a volume at the end of the run.

Contract: groups what the ledger says is exported by series, and writes those that are new or changed since their last
description (content of the instances and settings decide). One series that cannot be a volume is described as such and
costs nothing else. Volumes go to ``series/<study>/<series>`` below the output folder, beside `media/`, which holds
what belongs to single instances.

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
    """How many series were written, were up to date, or are no volume."""

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
    """Write the volumes of every series that the ledger has exported from one input.

    Args:
        together: Gives the files of several names in the ledger, for as long as its block lasts.
        root: Where series go.
        ledger: What is exported.
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
    log.info("series", written=tally.written, unchanged=tally.unchanged, refused=tally.refused)
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
        log.warning("a series is no volume", reason=outcome.reason, problem=outcome.message)
