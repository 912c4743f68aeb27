"""`media.store: shards`: media and their metadata lines in few tar archives instead of many files.

Contract: see `exporter.results.stores.contract`, and `shard_format` and `shard_index` for the form. Samples are
appended to an unfinished shard in ``shards/.partial`` below the media folder. A batch of instances shares one
fdatasync of each shard that it was appended to, before its outcomes are committed: from then on its media are durable,
whether their shard is finished or not. A shard is finished (end of archive, fsync, permissions, rename into
``shards/``) when it has `most_bytes` or `most_instances` and none of its studies has had an instance among the last
`most_instances`; all are finished when the store is closed. After a crash the next start goes on in the unfinished
shards: samples that the ledger knows are entered into the index, what comes after them is cut.

A study stays in one shard, unless it is larger than a shard by itself, comes in several runs, or in parts that are
`most_instances` instances apart.

Must never: change a committed sample, but to remove it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, Final

import orjson

from exporter.errors import BadWorkerAnswer
from exporter.results.line import fs_name, shown
from exporter.results.stores.files import is_in_the_way
from exporter.results.stores.shard_format import (
    BLOCK,
    END,
    RECORD,
    SampleMember,
    header,
    key_of,
    member_of,
    padded,
    sample_line,
    sample_members,
    samples_of,
    study_mark,
)
from exporter.results.stores.shard_index import (
    INDEX,
    SHARDS,
    UNFINISHED,
    IndexEntry,
    IndexMark,
    IndexTable,
    IndexWriter,
    read_index,
)
from exporter.results.stores.shard_removal import erase, lock, remove_samples
from listener.foundation.durable import fsync_folder, write_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from exporter.outcome import MediaFile
    from exporter.results.ledger import Ledger
    from exporter.results.stores.contract import InstanceMedia
    from exporter.results.stores.shard_format import ShardMember
    from exporter.settings.permissions import MediaPermissions

MOST_BYTES: Final = 10**9
MOST_INSTANCES: Final = 10_000
NAME: Final = re.compile(r"([0-9]{6,})\.tar")
_SMALL: Final = 4 << 20
"""Files up to this size are written in one call with their headers."""
_PIECE: Final = 64 << 20
_LONGEST_HEADER: Final = 8 * BLOCK


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """When a shard is full."""

    most_bytes: int = MOST_BYTES
    most_instances: int = MOST_INSTANCES


@dataclass(slots=True)
class _StudyPart:
    """What one shard holds of one study."""

    instances: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Shard:
    """One unfinished shard, open for appending."""

    name: str
    descriptor: int
    size: int = 0
    committed: int = 0
    """Size up to the last committed sample."""
    instances: int = 0
    studies: dict[str, _StudyPart] = field(default_factory=dict)
    last_used: int = 0
    """Number of instances that the store had taken when this shard got its last one."""

    def has_room(self, size_bytes: int, limits: ShardLimits) -> bool:
        """Whether another study may begin in it."""
        return not self.instances or (
            self.instances < limits.most_instances and self.size + size_bytes <= limits.most_bytes
        )

    def has_room_for(self, study: str, size_bytes: int, limits: ShardLimits) -> bool:
        """Whether a study that it holds may go on in it: unless the study is as large as a shard by itself."""
        part = self.studies[study]
        return part.instances < limits.most_instances and part.bytes + size_bytes <= limits.most_bytes

    def count(self, study: str, size_bytes: int, used: int) -> None:
        """Count a sample."""
        part = self.studies.setdefault(study, _StudyPart())
        part.instances += 1
        part.bytes += size_bytes
        self.instances += 1
        self.last_used = used


@dataclass(slots=True)
class _PutSample:
    """A sample that was appended and is not committed."""

    shard: _Shard
    end: int
    entries: list[IndexEntry]
    paths: list[str]
    """Final names, where files of an earlier export may be."""


class ShardsStore:
    """Media in shards below one media folder."""

    def __init__(
        self,
        media: Path,
        permissions: MediaPermissions,
        ledger: Ledger | None = None,
        limits: ShardLimits | None = None,
    ) -> None:
        """Open the store, made if absent, and go on in the shards that were not finished.

        Args:
            media: The media folder.
            permissions: Of shards and folders.
            ledger: Says which samples of an unfinished shard are committed; without one, such shards are left alone.
            limits: When a shard is full.

        Raises:
            ShardsBusy: Another process writes shards there.
            OSError: The folder cannot be made or written.
        """
        self._media = media
        self._folder = media / SHARDS
        self._unfinished = self._folder / UNFINISHED
        self._permissions = permissions
        self._limits = limits or ShardLimits()
        permissions.make_folders(self._folder)
        self._unfinished.mkdir(mode=0o700, exist_ok=True)
        self._index = IndexWriter(media)
        self._is_closed = False
        self._table: IndexTable | None = None
        self._shards: dict[str, _Shard] = {}
        try:
            lock(media, self._index.descriptor)
            permissions.apply(self._index.path)
            self._number = last_number(media)
            self._has_earlier = not self._index.is_empty
            self._taken = 0
            self._current: _Shard | None = None
            self._of_study: dict[str, _Shard] = {}
            self._put: dict[str, _PutSample] = {}
            self._unsynced: set[str] = set()
            self._has_new_names = True
            if ledger is not None:
                self._resume(ledger)
        except BaseException:
            self._close_files()
            raise

    # -- contract ----------------------------------------------------------------------------------------------------

    def is_taken(self, path: str, *, may_replace: bool) -> bool:
        """See `MediaStore`."""
        return is_in_the_way(self._media, path, may_replace=may_replace)

    def write_out(self, folder: Path, media: Sequence[MediaFile]) -> None:
        """See `MediaStore`: partial files are copied, so that they need not be durable."""

    def undo(self, name: str, folder: Path) -> None:
        """See `MediaStore`: `put` leaves nothing half done."""

    def put(self, media: InstanceMedia) -> None:
        """Append the sample of an instance to a shard; cut off where that fails."""
        key = key_of(media.name)
        members = sample_members(media.name, media.folder, media.partial, media.final)
        if len({one.member for one in members}) != len(members):
            raise BadWorkerAnswer("two media have one name in a shard")
        line = sample_line(media.line, key, media.final)
        study = study_mark(media.study_uid)
        sizes = [_size_of(media.folder / one.source) for one in members]
        size_bytes = sum(BLOCK + padded(one) for one in (*sizes, len(line)))
        shard = self._shard_for(study, size_bytes)
        start = shard.size
        try:
            entries = [
                self._append(shard, one, media.folder / one.source, size)
                for one, size in zip(members, sizes, strict=True)
            ]
            entries.append(self._append_bytes(shard, f"{key}{RECORD}", line, study))
        except BaseException:
            self._cut(shard, start)
            raise
        self._taken += 1
        shard.count(study, shard.size - start, self._taken)
        self._put[media.name] = _PutSample(shard, shard.size, entries, [one.file for one in media.final])
        self._unsynced.add(shard.name)

    def sync(self) -> None:
        """Make everything that was put durable: one fdatasync for each shard."""
        if self._has_new_names:
            fsync_folder(self._unfinished)
            fsync_folder(self._folder)
            fsync_folder(self._media)
            self._has_new_names = False
        for name in list(self._unsynced):
            os.fdatasync(self._shards[name].descriptor)
            self._unsynced.discard(name)

    def take_back(self, name: str | None = None) -> None:
        """See `MediaStore`: where a sync failed, nothing of the batch is kept."""
        if name is None or name not in self._put:
            return
        self._put.clear()
        self._unsynced.clear()
        for shard in self._shards.values():
            with suppress(OSError):  # what lies behind is written over, or cut at the next start
                self._cut(shard, shard.committed)

    def forget(self) -> None:
        """See `MediaStore`."""
        self._has_new_names = True

    def finish(self, folders: Sequence[Path]) -> None:
        """Enter what was put into the index, and let go of partial files; finish shards that are full."""
        paths = [path for sample in self._put.values() for path in sample.paths]
        with suppress(OSError):
            self.enter()
        for path in paths:  # of an earlier export that was kept in files
            with suppress(OSError):
                _remove_file(self._media / path)
        for folder in folders:
            with suppress(OSError):
                _empty(folder)
        self.finish_full()

    def remove(self, paths: Sequence[str]) -> None:
        """See `MediaStore`."""
        if self._has_earlier and paths:
            remove_samples(self._media, self._earlier(), self._index, paths)
        for path in paths:
            _remove_file(self._media / path)

    def close(self) -> None:
        """Finish every shard; those that cannot be finished now stay unfinished, and are read as they are.

        A shard with samples of which nobody knows here whether they were committed is left to the next start.
        """
        if self._is_closed:
            return
        unsure = [sample.shard for sample in self._put.values()]
        for shard in [one for one in self._shards.values() if one not in unsure]:
            with suppress(OSError):
                self._cut(shard, shard.committed)
                self._finish_shard(shard)
        self._close_files()

    # -- shards ------------------------------------------------------------------------------------------------------

    def enter(self, *, durable: bool = False) -> None:
        """Enter what was put into the index, and erase the samples that it replaces.

        Raises:
            OSError: The file system refuses; the index is written later.
        """
        put, self._put = self._put, {}
        for sample in put.values():
            sample.shard.committed = max(sample.shard.committed, sample.end)
        replaced = {key: members for key in map(key_of, put) if (members := self._replaced(key))}
        for name, sample in put.items():
            if key_of(name) in replaced:
                self._add(IndexMark(key_of(name), "replaced"))
            self._add(*sample.entries)
        self._index.write(durable=durable)
        erase(self._media, [entry for members in replaced.values() for entry in members])

    def finish_full(self) -> None:
        """Finish the shards that are full and whose studies seem to be complete."""
        for shard in list(self._shards.values()):
            is_quiet = len(shard.studies) == 1 or self._taken - shard.last_used >= self._limits.most_instances
            if is_quiet and not shard.has_room(0, self._limits):
                with suppress(OSError):
                    self._finish_shard(shard)

    def _shard_for(self, study: str, size_bytes: int) -> _Shard:
        begun = self._of_study.get(study)
        if begun is not None and begun.has_room_for(study, size_bytes, self._limits):
            return begun
        if self._current is None or not self._current.has_room(size_bytes, self._limits):
            self._current = self._new_shard()
        self._of_study[study] = self._current
        return self._current

    def _new_shard(self) -> _Shard:
        name = f"{self._number + 1:06d}.tar"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        shard = _Shard(name, os.open(self._unfinished / name, flags, 0o600))
        self._number += 1
        self._has_new_names = True
        self._shards[name] = shard
        return shard

    def _append(self, shard: _Shard, member: SampleMember, source: Path, size: int) -> IndexEntry:
        head = header(member.member, size)
        place = shard.size + len(head)
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            digest = member.sha256
            if size <= _SMALL:
                data = os.read(descriptor, size + 1)
                while len(data) < size and (more := os.read(descriptor, size - len(data))):
                    data += more
                if len(data) != size:
                    raise BadWorkerAnswer("a file of the worker process changed while it was read")
                digest = digest or hashlib.sha256(data).hexdigest()
                self._write(shard, [head, data, bytes(padded(size) - size)])
            else:
                self._write(shard, [head])
                self._copy(shard, descriptor, size)
                self._write(shard, [bytes(padded(size) - size)])
                if digest is None:
                    os.lseek(descriptor, 0, os.SEEK_SET)
                    with os.fdopen(os.dup(descriptor), "rb") as file:
                        digest = hashlib.file_digest(file, "sha256").hexdigest()
        finally:
            os.close(descriptor)
        return IndexEntry(member.path, shard.name, member.member, place, size, digest)

    def _append_bytes(self, shard: _Shard, name: str, data: bytes, study: str) -> IndexEntry:
        head = header(name, len(data))
        place = shard.size + len(head)
        self._write(shard, [head, data, bytes(padded(len(data)) - len(data))])
        return IndexEntry(None, shard.name, name, place, len(data), hashlib.sha256(data).hexdigest(), study)

    def _write(self, shard: _Shard, buffers: list[bytes]) -> None:
        os.lseek(shard.descriptor, shard.size, os.SEEK_SET)
        shard.size += write_all(shard.descriptor, buffers)

    def _copy(self, shard: _Shard, source: int, size: int) -> None:
        """Copy a file to the end of a shard inside the kernel."""
        os.lseek(shard.descriptor, shard.size, os.SEEK_SET)
        left = size
        while left:
            copied = os.sendfile(shard.descriptor, source, size - left, min(left, _PIECE))
            if not copied:
                raise BadWorkerAnswer("a file of the worker process changed while it was read")
            left -= copied
        shard.size += size

    def _cut(self, shard: _Shard, size: int) -> None:
        shard.size = size
        os.ftruncate(shard.descriptor, size)

    def _finish_shard(self, shard: _Shard) -> None:
        """Let a shard appear in its place, or remove one that is empty."""
        path = self._unfinished / shard.name
        if shard.committed:
            self._index.write(durable=True)
            os.pwrite(shard.descriptor, END, shard.size)
            os.fsync(shard.descriptor)
            self._permissions.apply(path)
            path.rename(self._folder / shard.name)
            fsync_folder(self._folder)
        else:
            path.unlink()
        fsync_folder(self._unfinished)
        self._drop(shard)

    def _drop(self, shard: _Shard) -> None:
        os.close(shard.descriptor)
        del self._shards[shard.name]
        self._of_study = {study: one for study, one in self._of_study.items() if one is not shard}
        if self._current is shard:
            self._current = None

    def _close_files(self) -> None:
        self._is_closed = True
        for shard in self._shards.values():
            os.close(shard.descriptor)
        self._shards.clear()
        self._index.close()
        if self._table is not None:
            self._table.close()

    # -- samples of earlier runs -------------------------------------------------------------------------------------

    def _earlier(self) -> IndexTable:
        if self._table is None:
            self._table = IndexTable.of(self._media)
        return self._table

    def _add(self, *statements: IndexEntry | IndexMark) -> None:
        self._index.add(*statements)
        if self._table is not None:
            with self._table_spared():
                self._table.add(statements)

    @contextmanager
    def _table_spared(self) -> Iterator[None]:
        """Go on without the table where it cannot be written (a full disk): it is made anew when it is needed."""
        try:
            yield
        except sqlite3.Error:
            table, self._table = self._table, None
            if table is not None:
                table.close()

    def _replaced(self, key: str) -> list[IndexEntry]:
        """Members with a key that are in the index now, as far as that can be known."""
        found: list[IndexEntry] = []
        if self._has_earlier:
            with self._table_spared():
                found = self._earlier().sample(key)
        return found

    # -- after a crash -----------------------------------------------------------------------------------------------

    def _resume(self, ledger: Ledger) -> None:
        """Go on in the unfinished shards, and erase what should be erased."""
        names = sorted(path.name for path in self._unfinished.iterdir() if NAME.fullmatch(path.name))
        if not names:
            return
        shards = {name: self._opened(name) for name in names}
        for entry in (one for one in read_index(self._media) if isinstance(one, IndexEntry)):
            shard = shards.get(entry.shard)
            # A gap is a part of the index that was lost: what follows it is found in the shard.
            if shard is not None and shard.size <= entry.offset <= shard.size + _LONGEST_HEADER:
                shard.size = entry.offset + padded(entry.length)
                if entry.study is not None:
                    shard.count(entry.study, shard.size - shard.committed, 0)
                    shard.committed = shard.size
        for shard in shards.values():
            if os.fstat(shard.descriptor).st_size < shard.committed:
                self._drop(shard)  # it was damaged from outside: `reconcile` names its members
                continue
            self._enter_committed(shard, ledger)
            self._cut(shard, shard.committed)
            self._of_study |= dict.fromkeys(shard.studies, shard)
            self._current = shard
        self._index.write(durable=True)
        self._has_earlier = not self._index.is_empty
        erase(self._media, self._earlier().dead())

    def _opened(self, name: str) -> _Shard:
        descriptor = os.open(self._unfinished / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._shards[name] = _Shard(name, descriptor)
        return self._shards[name]

    def _enter_committed(self, shard: _Shard, ledger: Ledger) -> None:
        """Enter samples into the index that are committed, and that the index lacks."""
        with (self._unfinished / shard.name).open("rb") as file:
            for sample in samples_of(file, shard.committed):
                entries = committed_entries(shard.name, file, sample, ledger)
                if entries is None:
                    return
                earlier = self._earlier().sample(entries[0].key)
                if entries[0] not in earlier:  # otherwise it stands in the index behind a part that was lost
                    self._add(*([IndexMark(entries[0].key, "replaced")] if earlier else []))
                    self._add(*entries)
                shard.count(str(entries[-1].study), sample[-1].end - shard.committed, 0)
                shard.committed = sample[-1].end


def committed_entries(shard: str, file: BinaryIO, sample: list[ShardMember], ledger: Ledger) -> list[IndexEntry] | None:
    """Statements of the index about a sample; None unless the ledger knows its instance with these very media."""
    *members, record = sample
    text = _read(file, record)
    try:
        said = orjson.loads(text)
        shown_name, listed = str(said["dicom_file"]), said["export"]["media"]
        hashes = {str(one["path"]): str(one["sha256"]) for one in listed}
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    name = next((one for one in (shown_name, fs_name(shown_name)) if key_of(one) == record.key), None)
    media = () if name is None else ledger.media(name)
    row = None if name is None else ledger.entry(name)
    wanted = {member_of(record.key, medium): medium for medium in media}
    if row is None or {place: one.sha256 for place, one in wanted.items()} != hashes:
        return None
    study = row.identity.study_instance_uid if row.identity is not None else ""
    return [
        *index_entries(shard, file, members, wanted),
        record_entry(shard, file, record, study_mark(study)),
    ]


def record_entry(shard: str, file: BinaryIO, record: ShardMember, study: str) -> IndexEntry:
    """Statement of the index about the line of a sample."""
    return IndexEntry(None, shard, record.name, record.offset, record.length, _sha256(_read(file, record)), study)


def index_entries(
    shard: str, file: BinaryIO, members: Iterable[ShardMember], media: dict[str, MediaFile]
) -> Iterator[IndexEntry]:
    """Yield what the index says of members, by the media whose members have these names or beginnings."""
    for one in members:
        medium = media.get(one.name)
        if medium is not None:
            yield IndexEntry(shown(medium.file), shard, one.name, one.offset, one.length, medium.sha256)
            continue
        start = next((place for place in media if place.endswith(".") and one.name.startswith(place)), None)
        if start is not None:
            path = f"{shown(media[start].file)}{one.name.removeprefix(start)}"
            yield IndexEntry(path, shard, one.name, one.offset, one.length, _sha256(_read(file, one)))


def is_shard(path: str) -> bool:
    """Whether a path below the media folder is that of a shard, finished or not, or of the index."""
    folder, _, name = path.rpartition("/")
    if folder == SHARDS:
        return name == INDEX or NAME.fullmatch(name) is not None
    return folder == f"{SHARDS}/{UNFINISHED}" and NAME.fullmatch(name) is not None


def last_number(media: Path) -> int:
    """Highest number of a shard, finished or not, below a media folder; 0 without any."""
    folder = media / SHARDS
    names = [path.name for place in (folder, folder / UNFINISHED) if place.is_dir() for path in place.iterdir()]
    return max((int(found[1]) for found in map(NAME.fullmatch, names) if found), default=0)


def _size_of(path: Path) -> int:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise BadWorkerAnswer("the worker process left something in a folder that is not a file")
    return found.st_size


def _remove_file(path: Path) -> None:
    """Remove an output that was kept as a file or folder."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        _remove_file(path)


def _read(file: BinaryIO, member: ShardMember) -> bytes:
    return os.pread(file.fileno(), member.length, member.offset)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
