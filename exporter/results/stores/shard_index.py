"""The index of shards, ``shards/index.jsonl`` below a media folder: where the bytes of every member are.

    {"path": ..., "shard": "000001.tar", "member": ..., "offset": ..., "length": ..., "sha256": ...}
    {"key": ..., "replaced": true}

Contract: one line per member, appended; `path` is the name of the medium in the metadata lines, null for the line of
the instance, where `study` tells samples of one study from those of others. A line with `replaced` or `removed` says
that the earlier members with that key count no more. Of several members with one path the last one counts. What a crash
cut off the index is found in the shards themselves.

Must never: hold what no shard holds, or lie open for more than its writer.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Any, Final, Self

import orjson

from listener.foundation.durable import write_all

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

SHARDS: Final = "shards"
"""Folder of shards below a media folder."""
UNFINISHED: Final = ".partial"
"""Folder of unfinished shards below it."""
INDEX: Final = "index.jsonl"
_LONGEST_LINE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """Place of one member."""

    path: str | None
    shard: str
    member: str
    offset: int
    length: int
    sha256: str
    study: str | None = None

    @property
    def key(self) -> str:
        """Key of its sample."""
        return self.member.partition(".")[0]

    def line(self) -> bytes:
        """The entry as a line of the index."""
        said = asdict(self)
        if self.study is None:
            del said["study"]
        return orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True, slots=True)
class IndexMark:
    """Statement that the earlier members with a key count no more."""

    key: str
    why: str
    """``replaced`` or ``removed``."""

    def line(self) -> bytes:
        """The mark as a line of the index."""
        return orjson.dumps({"key": self.key, self.why: True}, option=orjson.OPT_APPEND_NEWLINE)


def index_of(media: Path) -> Path:
    """Path of the index below a media folder."""
    return media / SHARDS / INDEX


def read_index(media: Path, wanted: Collection[bytes] | None = None) -> Iterator[IndexEntry | IndexMark]:
    """Yield the statements of an index in their order; a line that is cut or damaged is left out.

    Args:
        media: The media folder.
        wanted: Only lines that hold one of these.

    Raises:
        OSError: It cannot be read.
    """
    try:
        file = index_of(media).open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        for line in file:
            if wanted is None or any(one in line for one in wanted):
                found = _parsed(line)
                if found is not None:
                    yield found


def _parsed(line: bytes) -> IndexEntry | IndexMark | None:
    try:
        said = orjson.loads(line) if line.endswith(b"\n") else None
        if not isinstance(said, dict):
            return None
        if "key" in said:
            return IndexMark(said["key"], "removed" if said.get("removed") else "replaced")
        return IndexEntry(**said)
    except (orjson.JSONDecodeError, TypeError):
        return None


class IndexWriter:
    """The index, open for appending; lines that cannot be written now are written with later ones."""

    def __init__(self, media: Path) -> None:
        """Open the index, made if absent, and cut a torn line.

        Raises:
            OSError: It cannot be opened.
        """
        self.path = index_of(media)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.descriptor = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self.descriptor).st_size
        end = os.pread(self.descriptor, _LONGEST_LINE, max(0, self._size - _LONGEST_LINE))
        self._size -= len(end) - (end.rfind(b"\n") + 1)
        self._waiting: list[bytes] = []

    @property
    def is_empty(self) -> bool:
        """Whether it has no line yet."""
        return self._size == 0

    def add(self, *statements: IndexEntry | IndexMark) -> None:
        """Take statements, to be written by `write`."""
        self._waiting += [one.line() for one in statements]

    def write(self, *, durable: bool = False) -> None:
        """Write what was added.

        Raises:
            OSError: It cannot be written now; nothing of it is lost.
        """
        if self._waiting:
            os.ftruncate(self.descriptor, self._size)
            os.lseek(self.descriptor, self._size, os.SEEK_SET)
            self._size += write_all(self.descriptor, self._waiting)
            self._waiting = []
        if durable:
            os.fsync(self.descriptor)

    def append_all(self, lines: IO[bytes]) -> None:
        """Append lines of a file, durably.

        Raises:
            OSError: They cannot be written.
        """
        os.lseek(self.descriptor, self._size, os.SEEK_SET)
        while piece := lines.read(1 << 20):
            self._size += write_all(self.descriptor, [piece])
        os.ftruncate(self.descriptor, self._size)
        os.fsync(self.descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


_TABLE: Final = """
CREATE TABLE member (path TEXT, shard TEXT, member TEXT, offset INTEGER, length INTEGER, sha256 TEXT, study TEXT,
    key TEXT, is_dead INTEGER DEFAULT 0);
CREATE INDEX by_path ON member (path);
CREATE INDEX by_key ON member (key);
"""
_ENTRY: Final = "SELECT path, shard, member, offset, length, sha256, study FROM member"


class IndexTable:
    """An index that can be asked, in a file that is deleted when it is closed: memory does not grow with it."""

    def __init__(self, statements: Iterable[IndexEntry | IndexMark] = ()) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.executescript(_TABLE)
        self._database.execute("BEGIN")
        self.add(statements)

    @classmethod
    def of(cls, media: Path, paths: Collection[str] | None = None) -> Self:
        """The index of a media folder; with `paths`, what it says about the samples of these alone."""
        if paths is None:
            return cls(read_index(media))
        named = [orjson.dumps(path).rstrip(b'"') for path in paths]
        keys = {one.key.encode() for one in read_index(media, named)}
        return cls(read_index(media, keys) if keys else ())

    def add(self, statements: Iterable[IndexEntry | IndexMark]) -> None:
        """Take statements in their order."""
        for one in statements:
            if isinstance(one, IndexMark):
                self._database.execute("UPDATE member SET is_dead = 1 WHERE key = ?", (one.key,))
            else:
                self._database.execute(
                    "INSERT INTO member VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
                    (one.path, one.shard, one.member, one.offset, one.length, one.sha256, one.study, one.key),
                )

    def find(self, path: str) -> IndexEntry | None:
        """The member with a path."""
        found = self._ask("WHERE path = ? AND is_dead = 0 ORDER BY rowid DESC LIMIT 1", path)
        return found[0] if found else None

    def inside(self, folder: str) -> list[IndexEntry]:
        """The members of a folder, whose path ends in ``/``, by their names."""
        found = self._ask("WHERE path > ? AND path < ? AND is_dead = 0 ORDER BY path, rowid", folder, f"{folder[:-1]}0")
        return list({one.path: one for one in found}.values())

    def sample(self, key: str, *, dead: bool = False) -> list[IndexEntry]:
        """The members with a key that count; or those that count no more."""
        return self._ask("WHERE key = ? AND is_dead = ? ORDER BY rowid", key, int(dead))

    def dead(self) -> Iterator[IndexEntry]:
        """The members that count no more."""
        alive = "SELECT 1 FROM member AS other WHERE other.key = member.key AND other.is_dead = 0"
        same = "other.shard = member.shard AND other.offset = member.offset"
        for row in self._database.execute(
            f"{_ENTRY} WHERE is_dead = 1 AND NOT EXISTS ({alive} AND {same}) ORDER BY rowid"
        ):
            yield IndexEntry(*row)

    def every(self) -> Iterator[IndexEntry]:
        """The members that count, shard by shard."""
        for row in self._database.execute(f"{_ENTRY} WHERE is_dead = 0 ORDER BY shard, offset"):
            yield IndexEntry(*row)

    def _ask(self, where: str, *values: Any) -> list[IndexEntry]:
        return [IndexEntry(*row) for row in self._database.execute(f"{_ENTRY} {where}", values)]

    def close(self) -> None:
        """Delete the table."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
