"""What is in a spool, looked at from outside: nothing is created, locked or moved.

Contract: works on a live spool, on one of another user that may be read, and where there is none. Counts and names are
of one moment per folder; an item that moves meanwhile may be seen twice or not at all. `folders` and `find` look in the
order in which an item goes through the folders, so that one on its way is met at least once.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from listener.foundation.counters import read_counters
from listener.spool.names import NAME, SpoolState, lock_file, received_at
from listener.spool.quarantine import REASON, REPORT_SUFFIX
from listener.spool.space import SILENT_S, SPACE_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

WAITING: Final = (SpoolState.NEW, SpoolState.ACTIVE)
"""The states of an item that is committed and not settled."""
COMMITTED: Final = (*WAITING, SpoolState.DONE)
"""The states of an item that is not in quarantine."""


class FolderCount(NamedTuple):
    """Number of the items in one folder, and the name of the oldest; empty where there is none."""

    number: int
    oldest: str


class FolderCensus:
    """Counts of items by folder, remembered: a folder of a million items takes a second to list.

    A folder is listed again once it has changed; one that keeps changing, after `_REST` times as long as it took.
    """

    _REST: Final = 20.0
    _TICK_NS: Final = 1_000_000_000
    """A change within so short a time after another may not show in the time of the last change."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[int, float, float, FolderCount]] = {}

    def count(self, path: Path) -> FolderCount:
        """The count of one folder; nothing where there is none."""
        try:
            changed_ns = path.stat().st_mtime_ns
        except OSError:
            return FolderCount(0, "")
        began, known = time.monotonic(), self._known.get(path)
        if known is not None:
            seen_ns, took_s, at, found = known
            if seen_ns == changed_ns or began < at + self._REST * took_s:
                return found
        names = [name for name in _names(path) if NAME.fullmatch(name)]
        found = FolderCount(len(names), min(names, default=""))
        is_settled = time.time_ns() - changed_ns > self._TICK_NS
        now = time.monotonic()
        self._known[path] = (changed_ns if is_settled else -1, now - began, now, found)
        return found


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
    oldest: float | None = None
    """Unix time at which the item arrived that has waited for longest."""
    exporter: dict[str, Any] | None = None
    """What the exporter published last: free space, and why it pauses."""

    @classmethod
    def read(cls, root: Path, census: FolderCensus | None = None) -> SpoolView | None:
        """The view of a spool folder; None where there is none.

        Args:
            root: Folder of the spool.
            census: Counts items; one that is kept from look to look does not list an unchanged folder again.
        """
        if not root.is_dir():
            return None
        count = (census or FolderCensus()).count
        counts = {reason: count(folder(root, SpoolState.QUARANTINE, reason)).number for reason in reasons(root)}
        published = _object(root / SPACE_FILE) or {}
        waiting = [count(folder(root, state)) for state in WAITING]
        oldest = min((one.oldest for one in waiting if one.oldest), default=None)
        return cls(
            root=root,
            receiving=count(folder(root, SpoolState.RECEIVING)).number,
            waiting=sum(one.number for one in waiting),
            quarantined={reason: number for reason, number in counts.items() if number},
            listener=read_counters(root),
            paused=_news(published, "paused"),
            memory=_news(published, "memory"),
            oldest=None if oldest is None else received_at(oldest) / 1e9,
            exporter=published or None,
        )

    def refused(self) -> Iterator[QuarantinedItem]:
        """Every item of the quarantine, oldest first within its reason."""
        for reason in self.quarantined:
            for name in sorted(entries(self.root, SpoolState.QUARANTINE, reason)):
                yield QuarantinedItem(name, reason, str(report(self.root, reason, name).get("message", "")))


def entries(root: Path, state: SpoolState, reason: str = "") -> list[str]:
    """The names of the items in one state, unordered.

    Args:
        root: Folder of the spool.
        state: The state; of quarantined items only those of one reason.
        reason: The reason of quarantine.
    """
    return [name for name in _names(folder(root, state, reason)) if NAME.fullmatch(name)]


def reasons(root: Path) -> list[str]:
    """The reasons for which something is or was in quarantine, in order."""
    return sorted(filter(REASON.fullmatch, _names(root / SpoolState.QUARANTINE)))


def folder(root: Path, state: SpoolState, reason: str = "") -> Path:
    """The folder of the items in one state; of quarantined items, of one reason."""
    return root / state / reason


def folders(root: Path) -> Iterator[Path]:
    """The folders of all items whose bytes are here and are not exported yet."""
    yield from (root / state for state in WAITING)
    yield from (folder(root, SpoolState.QUARANTINE, reason) for reason in reasons(root))


def find(root: Path, name: str, states: Iterable[SpoolState], reason: str = "") -> Path | None:
    """The file of an item; None where it is in none of these states.

    Args:
        root: Folder of the spool.
        name: Of the item.
        states: The states to look in, in this order.
        reason: The reason, where quarantine is among them.
    """
    paths = (folder(root, state, reason if state is SpoolState.QUARANTINE else "") / name for state in states)
    return next((path for path in paths if path.exists()), None)


def report(root: Path, reason: str, name: str) -> dict[str, Any]:
    """The report that was written when an item came into quarantine; empty where there is none."""
    return _object(folder(root, SpoolState.QUARANTINE, reason) / f"{name}{REPORT_SUFFIX}") or {}


def holder_lives(root: Path, role: str) -> bool:
    """Whether the process that a role's lock file names is alive.

    It is not tried to lock the file: that would keep a process that starts from its own lock.
    """
    try:
        pid = int(lock_file(root, role).read_text().strip() or "0")
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return pid > 0


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.listdir(folder)  # noqa: PTH208 - names only: a million of them
    return []


def _news(published: dict[str, Any], name: str) -> str | None:
    """A sentence of an exporter that runs."""
    why, updated = published.get(name), published.get("updated")
    is_news = isinstance(updated, int | float) and abs(time.time() - updated) < SILENT_S
    return why if isinstance(why, str) and is_news else None


def _object(path: Path) -> dict[str, Any] | None:
    """A small JSON object; None where there is none, or while it is replaced."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
    return None
