"""Whether there is room for more: free space and inodes of spool, media and ledger, and the length of the queue.

Contract: `SpaceGuard.look` measures; `state` says what follows until the next look, with hysteresis: once low, it stays
low until there is as much as the upper mark asks for, so that senders do not meet a service that changes its mind with
every instance. The spool is measured here. How much room there is for media, metadata lines and the ledger, the
exporter tells in `spool/exporter.json`: their disks may be far away, and one that hangs must not stop the receiver.

Must never: look at a file system other than the spool's, or believe an exporter that has fallen silent.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from listener.settings.listener import SpoolSection

SPACE_FILE: Final = "exporter.json"
"""File in the spool's folder in which the exporter tells how much room it has; no part of any guarantee, not synced."""
PLACES: Final = ("spool", "output", "lines", "ledger")
"""The places there are: the folders of received files, of media, of the metadata file, and of the ledger."""
SILENT_S: Final = 30.0
"""What was told and not renewed for so long counts no more: the spool's own marks hold then."""
MOST_PUBLISHED_BYTES: Final = 65_536


class SpaceLevel(IntEnum):
    """How much room there is, from enough to none."""

    ENOUGH = 0
    REFUSE_INSTANCES = 1
    """Instances are refused with 0xA700."""
    REJECT_ASSOCIATIONS = 2
    """Associations are rejected as transient as well."""


class SpaceSignal(Protocol):
    """What those who receive look at before they take something."""

    @property
    def state(self) -> SpaceLevel:
        """How much room there is."""
        ...

    @property
    def queue_full(self) -> bool:
        """Whether too many items wait for export."""
        ...


@dataclass(frozen=True, slots=True)
class Free:
    """What one file system has left for us."""

    bytes: int
    files: int | None
    """Free inodes; None where the file system has no table of them."""

    @classmethod
    def measure(cls, path: Path) -> Self:
        """Measure the file system that holds `path`.

        Raises:
            OSError: It cannot be measured.
        """
        found = os.statvfs(path)
        return cls(found.f_bavail * found.f_frsize, found.f_favail if found.f_files > 0 else None)


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Three marks of one quantity, rising."""

    reject: int
    refuse: int
    resume: int


class WatermarkLevel:
    """One quantity against its marks, with the memory that hysteresis needs."""

    def __init__(self, marks: Watermarks) -> None:
        self._marks = marks
        self.state = SpaceLevel.ENOUGH

    def apply_settings(self, marks: Watermarks) -> None:
        """Use other marks from the next look on; a shortage lasts until the new ones end it."""
        self._marks = marks

    def level_at(self, free: int) -> SpaceLevel:
        """What follows from so much being free now."""
        marks = self._marks
        if free < marks.reject:
            self.state = SpaceLevel.REJECT_ASSOCIATIONS
        elif free < marks.refuse:
            self.state = max(self.state, SpaceLevel.REFUSE_INSTANCES)
        elif free < marks.resume:
            self.state = min(self.state, SpaceLevel.REFUSE_INSTANCES)
        else:
            self.state = SpaceLevel.ENOUGH
        return self.state


class FileSystemWatch:
    """One file system against the marks for its bytes and its inodes."""

    def __init__(self, of_bytes: Watermarks, of_files: Watermarks) -> None:
        self._bytes = WatermarkLevel(of_bytes)
        self._files = WatermarkLevel(of_files)

    def apply_settings(self, of_bytes: Watermarks, of_files: Watermarks) -> None:
        """Other marks from the next look on."""
        self._bytes.apply_settings(of_bytes)
        self._files.apply_settings(of_files)

    def level_at(self, free: Free) -> SpaceLevel:
        """What follows from so much being free now."""
        bytes_left = self._bytes.level_at(free.bytes)
        return bytes_left if free.files is None else max(bytes_left, self._files.level_at(free.files))


class SpaceGuard:
    """Watches the file system of the spool, and listens to what the exporter tells of its own."""

    def __init__(self, root: Path, settings: SpoolSection) -> None:
        self._root = root
        self._settings = settings
        self._places = {"spool": self._place()}
        self._published_at = 0.0
        self._published: bytes = b""
        self.state = SpaceLevel.ENOUGH
        self.tightest = "spool"
        """Which place the state is due to."""
        self.queue_full = False
        self.free: dict[str, Free] = {}
        """What was found at the last look, by place: ``spool``, and what the exporter told of."""

    def apply_settings(self, settings: SpoolSection) -> None:
        """Other marks and bounds from the next look on."""
        self._settings = settings
        for place in list(self._places.values()):
            place.apply_settings(*self._marks())

    @property
    def free_bytes(self) -> int:
        """Free space of the spool at the last look."""
        return self.free["spool"].bytes if self.free else 0

    def measure(self, pending: int | None = None, *, is_in_place: bool = True) -> SpaceLevel:
        """Measure, and say what follows.

        Args:
            pending: Items waiting for export, where the caller knows.
            is_in_place: Whether the spool's folders are where the exporter looks; there is no room in any other.

        Raises:
            OSError: The spool's file system cannot be measured.
        """
        self.free = {"spool": Free.measure(self._root)}
        if self._settings.heed_exporter:
            self.free |= self._as_published()
        for name in self._places.keys() - self.free.keys():
            del self._places[name]
        rooms = {name: self._places.setdefault(name, self._place()).level_at(free) for name, free in self.free.items()}
        self.tightest = max(rooms, key=lambda name: rooms[name])  # of equals the first, which is the spool
        self.state = rooms[self.tightest]
        if not is_in_place:
            self.state, self.tightest = max(self.state, SpaceLevel.REFUSE_INSTANCES), "spool"
        if pending is not None:
            self.queue_full = pending >= self._settings.max_pending
        return self.state

    def _place(self) -> FileSystemWatch:
        return FileSystemWatch(*self._marks())

    def _marks(self) -> tuple[Watermarks, Watermarks]:
        marks = self._settings
        return (
            Watermarks(marks.reject_below_bytes, marks.refuse_below_bytes, marks.resume_above_bytes),
            Watermarks(marks.reject_files, marks.refuse_below_files, marks.resume_files),
        )

    def _as_published(self) -> Mapping[str, Free]:
        """What the exporter last told, while that is news."""
        try:
            with (self._root / SPACE_FILE).open("rb") as file:
                published = file.read(MOST_PUBLISHED_BYTES)
        except OSError:
            return {}
        now = time.monotonic()  # not the file's time: clocks are set
        if published != self._published:
            self._published, self._published_at = published, now
        return read_published_space(published) if now - self._published_at < SILENT_S else {}


def publish_space(root: Path, free: Mapping[str, Free], paused: str | None, memory: str | None = None) -> None:
    """Tell the listener of this spool how much room there is elsewhere; the exporter's side of `SpaceGuard`.

    Args:
        root: The spool's folder.
        free: What is free, by place.
        paused: Why the exporter pauses; None while it does not.
        memory: Sentence of the exporter while memory is short; None while it is not.

    Raises:
        OSError: The file cannot be replaced.
    """
    places = {name: {"free_bytes": one.bytes, "free_files": one.files} for name, one in free.items()}
    published = {
        "pid": os.getpid(),
        "updated": round(time.time(), 3),
        "paused": paused,
        "memory": memory,
        "places": places,
    }
    text = json.dumps(published)
    partial = root / f".{SPACE_FILE}.part"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as file:
        file.write(text.encode("ascii"))
    partial.replace(root / SPACE_FILE)


def read_published_space(text: bytes) -> dict[str, Free]:
    """What `tell` wrote; nothing where it is cut off or something else."""
    try:
        places = json.loads(text)["places"]
        return {
            name: Free(int(one["free_bytes"]), None if one["free_files"] is None else int(one["free_files"]))
            for name, one in places.items()
            if name in PLACES and name != "spool"
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}
