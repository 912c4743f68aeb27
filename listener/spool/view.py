"""What is in a spool, looked at from outside: nothing is created, locked or moved.

Contract: works on a live spool, on one of another user that may be read, and where there is none. Counts are of one
moment per folder; an item that moves meanwhile may be seen twice or not at all.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from listener.foundation.counters import read_counters
from listener.spool.names import NAME
from listener.spool.quarantine import REASON, REPORT_SUFFIX
from listener.spool.space import SILENT_S, SPACE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class QuarantinedItem:
    """One item of the quarantine."""

    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class SpoolView:
    """The spool of one data folder."""

    root: Path
    receiving: int = 0
    waiting: int = 0
    """Committed, and not yet begun, put back, or under way."""
    quarantined: dict[str, int] = field(default_factory=dict)
    """Items by reason."""
    listener: dict[str, Any] | None = None
    """What the listener counts."""
    paused: str | None = None
    """Why the exporter pauses; None while it does not, or does not run."""
    memory: str | None = None
    """Sentence of the exporter while memory is short; None while it is not, or it does not run."""

    @classmethod
    def read(cls, root: Path) -> SpoolView | None:
        """The view of a spool folder; None where there is none."""
        if not root.is_dir():
            return None
        reasons = sorted(name for name in _names(root / "quarantine") if REASON.fullmatch(name))
        counts = {reason: _count(root / "quarantine" / reason) for reason in reasons}
        told = _object(root / SPACE_FILE) or {}
        return cls(
            root=root,
            receiving=_count(root / "tmp"),
            waiting=_count(root / "new") + _count(root / "active"),
            quarantined={reason: count for reason, count in counts.items() if count},
            listener=read_counters(root),
            paused=_news(told, "paused"),
            memory=_news(told, "memory"),
        )

    def refused(self) -> Iterator[QuarantinedItem]:
        """Every item of the quarantine, oldest first within its reason."""
        for reason in self.quarantined:
            folder = self.root / "quarantine" / reason
            for name in sorted(filter(NAME.fullmatch, _names(folder))):
                report = _object(folder / f"{name}{REPORT_SUFFIX}") or {}
                yield QuarantinedItem(name, reason, str(report.get("message", "")))

    def report(self, reason: str, name: str) -> dict[str, Any]:
        """What was written down when an item came into quarantine."""
        return _object(self.root / "quarantine" / reason / f"{name}{REPORT_SUFFIX}") or {}


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.listdir(folder)  # noqa: PTH208 - names only: a million of them
    return []


def _count(folder: Path) -> int:
    return sum(1 for name in _names(folder) if NAME.fullmatch(name))


def _news(told: dict[str, Any], name: str) -> str | None:
    """A sentence of an exporter that runs."""
    why, updated = told.get(name), told.get("updated")
    is_news = isinstance(updated, int | float) and abs(time.time() - updated) < SILENT_S
    return why if isinstance(why, str) and is_news else None


def _object(path: Path) -> dict[str, Any] | None:
    """A small JSON object; None where there is none, or while it is replaced."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
    return None
