"""How far the batches of a plan are, seen from any host that sees the output folder.

Contract: looks only; reads one small file and the end of one journal for every batch, so that it answers at once. A
batch is done, stuck, running or waiting. It runs while its last start shows signs of life, by the file system's clock.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exporter.batches.journal import run_folder, runs_of
from exporter.batches.plan import MERGED, is_merged
from exporter.batches.rounds import RoundState
from exporter.batches.run_note import SILENT_S, file_system_time, running
from exporter.batches.running import REFUSED, STATUS, is_complete

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.batches.plan import BatchPlan


@dataclass(slots=True)
class BatchesView:
    """Numbers of batches and instances."""

    batches: int
    units: int
    """Units of the plan: files, each with everything inside it."""
    is_merged: bool = False
    round: int = 0
    done: int = 0
    running: int = 0
    waiting: int = 0
    stuck: list[int] = field(default_factory=list)
    exported: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    rate: float = 0.0
    """Instances per second of all batches that run."""
    seconds_left: int | None = None
    is_cancelled: bool = False
    """Whether the backfill was cancelled, and not resumed since."""
    at_work: list[str] = field(default_factory=list)
    """Commands that export or merge there, in words: ``process 4711 on node7``."""
    refusals: dict[str, int] = field(default_factory=dict)
    """Sentences of hosts that refused a batch, and for how many batches."""

    @property
    def settled(self) -> int:
        """Instances that have an outcome."""
        return self.exported + sum(self.skipped.values()) + sum(self.failed.values())

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {name: getattr(self, name) for name in self.__slots__}


def look_at(plan: BatchPlan) -> BatchesView:
    """Look at all batches.

    Raises:
        BatchUnusable: The state of the rounds cannot be read.
    """
    view = BatchesView(len(plan.batches), plan.units)
    state = RoundState.read(plan)
    if state is not None:
        view.round, view.stuck, view.is_cancelled = state.round, state.stuck, state.is_cancelled
    if is_merged(plan.root):
        _add_report(view, json.loads((plan.root / MERGED).read_bytes()))
        return view
    view.at_work = running(plan.output)
    now, skipped, failed = file_system_time(plan.root), Counter[str](), Counter[str]()
    refusals: Counter[str] = Counter()
    for batch in plan.batches:
        folder = plan.folder_of(batch.number)
        is_done = is_complete(folder)
        said, age_s = _last_status(folder, now)
        view.exported += said.get("exported", 0)
        skipped.update(said.get("skipped", {}))
        failed.update(said.get("failed", {}))
        is_running = bool(said) and not is_done and not said["is_over"] and age_s < SILENT_S
        view.done += is_done
        view.running += is_running
        view.waiting += not (is_done or is_running or batch.number in view.stuck)
        if is_running and said["seconds"] > 0:
            view.rate += (_settled(said) - said["before"]) / said["seconds"]
        with suppress(OSError, ValueError, LookupError):
            refused = json.loads((folder / REFUSED).read_bytes())
            refusals[f"{refused['host']}: {refused['sentence']}"] += 1
    view.skipped, view.failed, view.refusals = dict(skipped), dict(failed), dict(refusals)
    if view.rate > 0:
        view.seconds_left = round(max(0, plan.units - view.settled) / view.rate)
    return view


def _add_report(view: BatchesView, report: dict[str, Any]) -> None:
    view.is_merged = True
    view.exported, view.skipped, view.failed = report["exported"], report["skipped"], report["failed"]
    view.stuck = report["left"]
    view.done = view.batches - len(view.stuck)


def _settled(said: dict[str, Any]) -> int:
    return int(said["exported"] + sum(said["skipped"].values()) + sum(said["failed"].values()))


def _last_status(folder: Path, now: float) -> tuple[dict[str, Any], float]:
    """Last status of a batch, and its age in seconds."""
    for run in reversed(runs_of(folder)):
        with suppress(OSError, ValueError):
            path = run_folder(folder, run) / STATUS
            return json.loads(path.read_bytes()), now - path.stat().st_mtime
    return {}, 0.0
