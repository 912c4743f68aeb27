"""Reading media wherever their store keeps them: as files below the media folder, or as members of shards.

Contract: a medium is asked for by its path and, where that is known, its SHA-256. The member of a shard with that hash
comes first, then the file at the path, then any member with the path. Unfinished shards are read as finished ones are.
Changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, Self

from exporter.results.line import fs_name, shown
from exporter.results.stores.shard_index import IndexTable, index_of
from exporter.results.stores.shard_removal import opened_shard

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from exporter.results.stores.shard_index import IndexEntry

_PIECE: Final = 1 << 20


class MediumDamaged(Exception):
    """The bytes of a medium in a shard are not there, or not those that were written."""


@dataclass(frozen=True, slots=True)
class ShardMedium:
    """A medium that lies in shards: one member, or those of a folder of frames."""

    path: str
    members: tuple[IndexEntry, ...]

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of frames."""
        return self.path.endswith("/")

    @property
    def bytes(self) -> int:
        """Bytes of all members."""
        return sum(one.length for one in self.members)

    @property
    def sha256(self) -> str:
        r"""Hash of the medium: for a folder, that of the sorted lines ``<sha256>  <name>\n`` of its members."""
        if not self.is_folder:
            return self.members[0].sha256
        lines = sorted((PurePosixPath(str(one.path)).name, one.sha256) for one in self.members)
        return hashlib.sha256("".join(f"{sha256}  {name}\n" for name, sha256 in lines).encode()).hexdigest()


class MediaReader:
    """The media of one media folder, in files and in shards."""

    def __init__(self, media: Path, paths: Collection[str] | None = None) -> None:
        """Read the index; with `paths`, what it says about these alone."""
        self._media = media
        self._paths = paths
        self.has_shards = False
        self._size = 0
        self._table = IndexTable()
        self.reload()

    def reload(self) -> None:
        """Read the index again: it may have grown."""
        self._table.close()
        self._size = _size_of(index_of(self._media))
        self.has_shards = self._size > 0
        self._table = IndexTable.of(self._media, self._paths) if self.has_shards else IndexTable()

    def has_grown(self) -> bool:
        """Whether the index is longer than when it was read."""
        return _size_of(index_of(self._media)) != self._size

    def in_shards(self, path: str) -> ShardMedium | None:
        """The medium with a path (as it is, or as lines show it) as members of shards; None where no shard has it."""
        if not self.has_shards:
            return None
        path = shown(path)
        if path.endswith("/"):
            members = tuple(self._table.inside(path))
        else:
            found = self._table.find(path)
            members = () if found is None else (found,)
        return ShardMedium(path, members) if members else None

    def file(self, path: str, sha256: str | None = None) -> Path | None:
        """The file or folder with a path; None where it is absent, or a shard holds what has this hash."""
        medium = self.in_shards(path)
        if medium is not None and medium.sha256 == sha256:
            return None
        for name in dict.fromkeys((path, fs_name(path))):
            if os.path.lexists(self._media / name):
                return self._media / name
        return None

    def read(self, entry: IndexEntry) -> Iterator[bytes]:
        """Yield the bytes of a member in pieces.

        Raises:
            MediumDamaged: The shard is not there, is cut, or has other bytes; after what was read of it.
        """
        descriptor = opened_shard(self._media, entry.shard)
        if descriptor is None:
            raise MediumDamaged(f"shard {entry.shard} is not there")
        digest, at, end = hashlib.sha256(), entry.offset, entry.offset + entry.length
        try:
            while at < end:
                piece = os.pread(descriptor, min(_PIECE, end - at), at)
                if not piece:
                    raise MediumDamaged(f"shard {entry.shard} ends at {at}, before the member {entry.member} does")
                digest.update(piece)
                at += len(piece)
                yield piece
        except OSError as error:
            raise MediumDamaged(f"shard {entry.shard} cannot be read ({error.strerror})") from error
        finally:
            os.close(descriptor)
        if digest.hexdigest() != entry.sha256:
            raise MediumDamaged(f"shard {entry.shard} holds other bytes of the member {entry.member} than were written")

    def is_present(self, medium: ShardMedium) -> bool:
        """Whether all shards of a medium are there and long enough."""
        for entry in medium.members:
            descriptor = opened_shard(self._media, entry.shard)
            if descriptor is None:
                return False
            try:
                if os.fstat(descriptor).st_size < entry.offset + entry.length:
                    return False
            finally:
                os.close(descriptor)
        return True

    def extract(self, medium: ShardMedium, folder: Path) -> Path:
        """Write a medium as a file, or a folder of files, into a folder.

        Returns:
            Its path.

        Raises:
            FileExistsError: Something of its name is there.
            MediumDamaged: It is not as it was written; what was written of it is removed.
            OSError: The folder cannot be written.
        """
        target = folder / PurePosixPath(medium.path).name
        if medium.is_folder:
            target.mkdir(mode=0o700)
        for entry in medium.members:
            self._write(entry, target / PurePosixPath(str(entry.path)).name if medium.is_folder else target)
        return target

    def _write(self, entry: IndexEntry, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            try:
                file.writelines(self.read(entry))
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def entries(self) -> Iterator[IndexEntry]:
        """Yield every member that counts, shard by shard."""
        yield from self._table.every()

    def close(self) -> None:
        """Let go of the index."""
        self._table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ExtractedMedia:
    """Media as files, for programs that need paths: those in shards are copied into a folder for temporary files."""

    def __init__(self, media: Path, paths: Collection[str] | None = None) -> None:
        """Read the index; see `MediaReader`."""
        self._reader = MediaReader(media, paths)
        self._folder = TemporaryDirectory(prefix="exporter-media-", ignore_cleanup_errors=True)
        self._number = 0

    def path(self, path: str, sha256: str | None = None) -> Path | None:
        """A file, or a folder of frames, with the bytes of a medium; None where neither file nor shard has it.

        Raises:
            MediumDamaged: A shard has it, and not as it was written.
            OSError: It cannot be copied.
        """
        found = self._reader.file(path, sha256)
        medium = None if found is not None else self._reader.in_shards(path)
        if medium is None:
            return found
        self._number += 1
        folder = Path(self._folder.name) / str(self._number)
        folder.mkdir(mode=0o700)
        return self._reader.extract(medium, folder)

    def forget(self) -> None:
        """Delete the copies that were made."""
        for folder in Path(self._folder.name).iterdir():
            shutil.rmtree(folder)

    def close(self) -> None:
        """Delete the copies, and let go of the index."""
        self._folder.cleanup()
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sha256_of(path: Path) -> str:
    r"""Hash of a medium: for a folder, that of the sorted lines ``<sha256>  <name>\n`` of its files."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    lines = (f"{sha256_of(path / name)}  {name}\n" for name in sorted(os.listdir(path)))  # noqa: PTH208 - names only
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
