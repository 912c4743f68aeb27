"""Removal of media from shards: what no instance owns any more leaves no byte behind.

Contract: the index says first, durably, that a sample counts no more; then its members become zeros in their shard,
under a name that readers pass over. Everything may be repeated. One process at a time writes or removes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from exporter.results.line import shown
from exporter.results.stores.shard_format import BLOCK, REMOVED, header
from exporter.results.stores.shard_index import (
    SHARDS,
    UNFINISHED,
    IndexEntry,
    IndexMark,
    IndexTable,
    IndexWriter,
    index_of,
)
from listener.foundation import locks
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_MAGIC: Final = slice(257, 262)
"""Place of ``ustar`` in a header."""


class ShardsBusy(Unusable):
    """Another process writes or removes media in the same shards."""

    def __init__(self, media: Path) -> None:
        hint = "wait for it to end: an export, `exporter media compact`, or `exporter batch merge`"
        super().__init__(f"another process writes shards in {media}", hint=hint)


def erase(media: Path, entries: Iterable[IndexEntry]) -> None:
    """Erase members in their shards: their bytes become zeros, their names one that readers pass over; repeatable.

    Raises:
        OSError: The file system refuses.
    """
    by_shard: dict[str, list[IndexEntry]] = {}
    for entry in entries:
        by_shard.setdefault(entry.shard, []).append(entry)
    for name, members in by_shard.items():
        descriptor = opened_shard(media, name, os.O_RDWR)
        if descriptor is None:
            continue
        try:
            for entry in members:
                _erase_member(descriptor, entry)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)


def _erase_member(descriptor: int, entry: IndexEntry) -> None:
    place, end = entry.offset - BLOCK, entry.offset + entry.length
    found = os.pread(descriptor, BLOCK, place)
    if found[_MAGIC] != b"ustar" or found[:100].rstrip(b"\0") == REMOVED.encode():
        return
    at = entry.offset
    while at < end:
        at += os.pwrite(descriptor, bytes(min(end - at, 1 << 20)), at)
    os.pwrite(descriptor, header(REMOVED, entry.length)[-BLOCK:], place)


def remove_members(media: Path, paths: Iterable[str]) -> None:
    """Erase the samples of media that no instance owns any more, wherever shards hold them.

    Raises:
        ShardsBusy: Another process writes shards there.
        OSError: The file system refuses.
    """
    paths = [*paths]
    if not paths or not index_of(media).exists():
        return
    with IndexTable.of(media, [shown(path) for path in paths]) as table:
        if not samples_with(table, paths):
            return
        index = IndexWriter(media)
        try:
            lock(media, index.descriptor)
            remove_samples(media, table, index, paths)
        finally:
            index.close()


def remove_samples(media: Path, table: IndexTable, index: IndexWriter, paths: Iterable[str]) -> None:
    """Erase the samples that hold media with these paths, by an index that is open.

    Raises:
        OSError: The file system refuses.
    """
    samples = samples_with(table, paths)
    marks = [IndexMark(key, "removed") for key in samples]
    if marks:
        index.add(*marks)
        index.write(durable=True)
        erase(media, [entry for members in samples.values() for entry in members])
        table.add(marks)


def samples_with(table: IndexTable, paths: Iterable[str]) -> dict[str, list[IndexEntry]]:
    """Members of the samples that hold media with these paths, by their keys."""
    found: dict[str, list[IndexEntry]] = {}
    for path in map(shown, paths):
        for entry in table.inside(path) if path.endswith("/") else [table.find(path)]:
            if entry is not None and entry.key not in found:
                found[entry.key] = table.sample(entry.key)
    return found


def opened_shard(media: Path, name: str, flags: int = os.O_RDONLY) -> int | None:
    """Open a shard, finished or not.

    Returns:
        Its descriptor; None if it is not there.
    """
    folder = media / SHARDS
    for path in (folder / name, folder / UNFINISHED / name, folder / name):  # it may be finished in between
        with suppress(FileNotFoundError):
            return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    return None


def lock(media: Path, descriptor: int) -> None:
    """Keep other writers of shards out until a descriptor is closed, where the file system has locks.

    Raises:
        ShardsBusy: Another process writes shards.
    """
    try:
        locks.try_to_lock(descriptor)
    except locks.LockBusy:
        raise ShardsBusy(media) from None
    except OSError:
        return  # the file system has no locks; the owner file keeps other exporters out
