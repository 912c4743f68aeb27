"""The merge of shards: those of the batches move as they are, and the index names their members by final names.

Contract: a finished shard is moved whole; samples in it that are not chosen (another start exported the same instance
first) are erased. Of an unfinished shard, which a start that was thought dead may still write, the chosen samples are
copied into shards of the merge. As all of a merge, this is noted first (`MergeShards`) and then done (`apply_shards`);
everything that is done can be repeated.

Must never: take a sample that is not complete, or change a shard that another process may write.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from exporter.batches.journal import run_folder, runs_of
from exporter.batches.plan import private
from exporter.results.stores.shard_format import END, key_of, member_of, samples_of, study_mark
from exporter.results.stores.shard_index import (
    SHARDS,
    UNFINISHED,
    IndexEntry,
    IndexMark,
    IndexTable,
    IndexWriter,
    index_of,
)
from exporter.results.stores.shard_removal import erase, lock
from exporter.results.stores.shards import NAME, index_entries, last_number, record_entry
from listener.foundation.durable import fsync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exporter.results.stores.contract import InstanceMedia
    from exporter.results.stores.shard_format import ShardMember
    from exporter.results.stores.shards import ShardLimits
    from exporter.settings.permissions import MediaPermissions

_INDEX: Final = "index"
_ERASED: Final = "erased"
_SIZE: Final = "index-size"
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Sample:
    """A complete sample in a shard of a start."""

    path: Path
    members: tuple[ShardMember, ...]
    is_finished: bool
    """Whether its shard is."""


class MergeShards:
    """Notes what becomes of the shards of batches; changes nothing but the folder of the merge."""

    def __init__(self, media: Path, making: Path, permissions: MediaPermissions, limits: ShardLimits) -> None:
        """Note below the folder `making` what is to be done below the folder `media`."""
        self._media = media
        self._making = making
        self._permissions = permissions
        self._limits = limits
        self._number = last_number(media)
        self._earlier = IndexTable.of(media)
        self._index = open(making / _INDEX, "wb", opener=private)  # noqa: SIM115 - `close` closes it
        self._erased = open(making / _ERASED, "wb", opener=private)  # noqa: SIM115 - likewise
        (making / _SIZE).write_text(str(index_of(media).stat().st_size if index_of(media).exists() else 0))
        self._samples: dict[tuple[Path, str], _Sample] = {}
        self._targets: dict[Path, str] = {}
        self._chosen: dict[Path, set[str]] = {}
        self._copy: BinaryIO | None = None
        self._copied = 0

    def begin_batch(self, folder: Path) -> None:
        """Look for the samples of all starts of a batch."""
        self._samples = {}
        for run in runs_of(folder):
            here = run_folder(folder, run)
            for path, is_finished in _shards_of(here):
                with suppress(FileNotFoundError), path.open("rb") as file:  # it may be finished in between
                    for sample in samples_of(file):
                        self._samples[here, sample[0].key] = _Sample(path, tuple(sample), is_finished)

    def has(self, run: Path, name: str) -> bool:
        """Whether a start has left the sample of an instance."""
        return (run, key_of(name)) in self._samples

    def put(self, run: Path, media: InstanceMedia) -> list[tuple[Path, str]]:
        """Note the sample of an instance under its final names.

        Returns:
            Shards that are to be moved for it, and their paths below the media folder.

        Raises:
            OSError: A shard cannot be read, or a copy written.
        """
        key = key_of(media.name)
        sample = self._samples[run, key]
        moves: list[tuple[Path, str]] = []
        members = sample.members
        if sample.is_finished:
            if sample.path not in self._targets:
                self._targets[sample.path] = self._next_name()
                moves.append((sample.path, f"{SHARDS}/{self._targets[sample.path]}"))
            shard = self._targets[sample.path]
            self._chosen.setdefault(sample.path, set()).add(key)
        else:
            shard, members, moves = self._copied_sample(sample)
        source = sample.path if sample.is_finished else self._making / SHARDS / shard
        if self._copy is not None:
            self._copy.flush()
        wanted = {member_of(key, medium): medium for medium in media.final}
        *others, record = members
        with source.open("rb") as file:
            entries = [
                *index_entries(shard, file, others, wanted),
                record_entry(shard, file, record, study_mark(media.study_uid)),
            ]
        earlier = self._earlier.sample(key)
        if earlier:
            self._index.write(IndexMark(key, "replaced").line())
            self._note_erased(earlier)
        self._index.writelines(entry.line() for entry in entries)
        return moves

    def _copied_sample(self, sample: _Sample) -> tuple[str, tuple[ShardMember, ...], list[tuple[Path, str]]]:
        """Copy a sample into a shard of the merge; its shard, its members there, and what is to be moved for it."""
        moves: list[tuple[Path, str]] = []
        is_full = self._copied >= self._limits.most_instances
        if self._copy is None or is_full or self._copy.tell() >= self._limits.most_bytes:
            self._finish_copy()
            (self._making / SHARDS).mkdir(mode=0o700, exist_ok=True)
            name = self._next_name()
            self._copy = open(self._making / SHARDS / name, "wb", opener=private)  # noqa: SIM115 - `close` closes it
            moves.append((self._making / SHARDS / name, f"{SHARDS}/{name}"))
        start, end = sample.members[0].start, sample.members[-1].end
        moved = self._copy.tell() - start
        with sample.path.open("rb") as file:
            file.seek(start)
            left = end - start
            while left and (piece := file.read(min(_PIECE, left))):
                self._copy.write(piece)
                left -= len(piece)
        self._copied += 1
        members = tuple(
            type(one)(one.name, one.offset + moved, one.length, one.start + moved) for one in sample.members
        )
        return os.path.basename(self._copy.name), members, moves  # noqa: PTH119 - a name that was just made

    def _finish_copy(self) -> None:
        if self._copy is None:
            return
        self._copy.write(END)
        self._copy.flush()
        os.fsync(self._copy.fileno())
        self._copy.close()
        self._permissions.apply(self._making / SHARDS / os.path.basename(self._copy.name))  # noqa: PTH119 - likewise
        self._copy, self._copied = None, 0

    def end_batch(self) -> None:
        """Note what is to be erased in the shards of a batch that are moved."""
        for sample in self._samples.values():
            target, key = self._targets.get(sample.path), sample.members[0].key
            if target is not None and key not in self._chosen[sample.path]:
                self._note_erased(
                    IndexEntry(None, target, one.name, one.offset, one.length, "") for one in sample.members
                )
        self._samples, self._targets, self._chosen = {}, {}, {}

    def _note_erased(self, entries: Iterator[IndexEntry] | Sequence[IndexEntry]) -> None:
        self._erased.writelines(json.dumps(asdict(entry)).encode("ascii") + b"\n" for entry in entries)

    def _next_name(self) -> str:
        self._number += 1
        return f"{self._number:06d}.tar"

    def close(self) -> None:
        """Make the notes and copies durable."""
        self._finish_copy()
        for file in (self._index, self._erased):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        with suppress(FileNotFoundError):
            fsync_folder(self._making / SHARDS)
        self._earlier.close()


def _shards_of(run: Path) -> Iterator[tuple[Path, bool]]:
    """Shards of a start, and whether they are finished."""
    for folder, is_finished in ((run / SHARDS / UNFINISHED, False), (run / SHARDS, True)):
        if folder.is_dir():
            yield from ((path, is_finished) for path in sorted(folder.iterdir()) if NAME.fullmatch(path.name))


def forget_index_lines(merge: Path, media: Path) -> None:
    """Cut off the index what an interrupted merge has appended, before anything is deleted by its names."""
    if (merge / _SIZE).exists() and index_of(media).exists():
        os.truncate(index_of(media), int((merge / _SIZE).read_text()))


def apply_shards(merge: Path, media: Path, permissions: MediaPermissions) -> None:
    """Append the lines of a merge to the index, and erase what it replaces; the shards are in their places.

    Raises:
        ShardsBusy: Another process writes shards there.
        OSError: The file system refuses; it may be repeated after `forget_index_lines`.
    """
    if not (merge / _INDEX).exists() or not (merge / _INDEX).stat().st_size:
        return
    permissions.make_folders(media / SHARDS)
    index = IndexWriter(media)
    try:
        lock(media, index.descriptor)
        with (merge / _INDEX).open("rb") as file:
            index.append_all(file)
        permissions.apply(index.path)
    finally:
        index.close()
    fsync_folder(media / SHARDS)
    with (merge / _ERASED).open("rb") as file:
        erase(media, (IndexEntry(**json.loads(line)) for line in file))
