"""The SQLite index of an Orthanc storage: its attachments and their attributes.

Contract: reads schema 6 and newer, as Orthanc 1.x writes it, in memory that does not grow with the store. The
shape of the table is checked before a row is believed, and every value of a row before it is used. An index that is
whole is read in place as an immutable file; one with a write-ahead log or a rollback journal beside it (Orthanc runs,
or was killed) is copied to a private folder, put together there, and the copy loses its name before the first row is
read: an index holds patients' names.

Must never: write a byte beside the index, not even SQLite's shared memory or lock; trust a name in it as a path.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sqlite3
import stat
import struct
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporter.errors import OutOfSpace
from exporter.inputs.contract import InputUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX: Final = "index"
BESIDE: Final = ("-wal", "-journal")
"""Files beside an index that hold a part of it."""
OWN_FILES: Final = frozenset({INDEX, "index-wal", "index-shm", "index-journal"})
OLDEST_SCHEMA: Final = 6
KNOWN_SCHEMAS: Final = (6, 7)
COLUMNS: Final = frozenset(
    {"fileType", "uuid", "compressedSize", "uncompressedSize", "compressionType", "uncompressedMD5", "compressedMD5"}
)
CUSTOM_DATA: Final = "customData"
"""Column of a storage plugin's own notes, from Orthanc 1.12.8 on."""
DICOM: Final = 1
"""Type of an attachment that is a whole DICOM file; 2 is its summary as JSON, 3 the file up to the pixel data."""
UNCOMPRESSED: Final = 1
ZLIB_WITH_SIZE: Final = 2
UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_COPIES: Final = 5
"""Attempts to copy an index that changes meanwhile."""
_MOST_REPEATED: Final = 10_000
_LARGEST: Final = 1 << 62


class IndexLost(Exception):
    """The index is missing or unreadable: only the content of the files is left."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One whole DICOM file, as the index describes it."""

    uuid: str
    """Empty where the index has none that could be one."""
    row: int
    """Row in the index, the name of an attachment without a UUID."""
    stored_bytes: int = 0
    """Size of the file in the storage folder."""
    content_bytes: int = 0
    """Size of the DICOM file in it."""
    compression: int = UNCOMPRESSED
    stored_md5: str = ""
    """Hexadecimal; empty where the index has none (`StoreMD5ForAttachments: false`)."""
    content_md5: str = ""
    elsewhere: bool = False
    """Whether a storage plugin keeps it at a place of its own."""
    fault: str = ""
    """Fault of the row; then only `uuid` and `row` are to be used."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Numbers of attachments by kind in the index."""

    instances: int = 0
    """Whole DICOM files."""
    headers: int = 0
    """DICOM files up to their pixel data, kept beside the whole ones."""
    summaries: int = 0
    """JSON, kept by Orthanc up to 1.9.0."""
    others: int = 0
    """Attachments of users, and what is not known."""
    without_md5: int = 0
    """Instances whose MD5 is not stored."""
    elsewhere: int = 0
    """Instances with a storage plugin's notes."""


@dataclass(frozen=True, slots=True)
class _Marks:
    """State of a file that changes with its content."""

    values: tuple[tuple[int, int, int] | None, ...] = field(default=())

    @classmethod
    def of(cls, index: Path) -> _Marks:
        return cls(tuple(_mark(path) for path in (index, *(_beside(index, end) for end in BESIDE))))


class StorageIndex:
    """An open index; used by one thread at a time."""

    def __init__(self, path: Path, connection: sqlite3.Connection, *, in_place: bool) -> None:
        """Use `opened`."""
        self.path = path
        self.is_live = _is_locked(path)
        """Whether another process holds the index: Orthanc runs."""
        self._marks = _Marks.of(path) if in_place else None
        self._connection = connection
        with self._reading():
            self.schema = self._check_shape()
            self._check_pages()
            self._custom = CUSTOM_DATA in self._columns("AttachedFiles")
            self.holdings = self._count()

    @property
    def is_newer(self) -> bool:
        """Whether the schema is newer than those that are known; its columns are as known nevertheless."""
        return self.schema not in KNOWN_SCHEMAS

    @property
    def has_changed(self) -> bool:
        """Whether the index was changed since it was opened: then rows may be missing."""
        return self._marks is not None and _Marks.of(self.path) != self._marks

    def instances(self) -> Iterator[Attachment]:
        """Every whole DICOM file, in the order in which Orthanc took them in.

        Raises:
            InputUnusable: The index turns out to be damaged.
        """
        custom = f"length({CUSTOM_DATA})" if self._custom else "0"
        statement = f"""SELECT rowid, uuid, compressedSize, uncompressedSize, compressionType,
            compressedMD5, uncompressedMD5, {custom} FROM AttachedFiles NOT INDEXED
            WHERE fileType = {DICOM} ORDER BY rowid"""  # noqa: S608 - only constants of ours are put in
        with self._reading():
            for row in self._connection.execute(statement):
                yield _attachment(row)

    def known(self) -> Iterator[str]:
        """The UUID of every attachment of any type, in order; sorted by SQLite, in its own temporary file.

        Raises:
            InputUnusable: The index turns out to be damaged.
        """
        with self._reading():
            for (uuid,) in self._connection.execute(
                "SELECT uuid FROM AttachedFiles WHERE typeof(uuid) = 'text' ORDER BY uuid"
            ):
                yield uuid

    def repeated(self) -> dict[str, int]:
        """UUIDs that several instances have, with the first one's row: no Orthanc writes that.

        Raises:
            InputUnusable: There are too many, or the index turns out to be damaged.
        """
        with self._reading():
            found = self._connection.execute(
                f"""SELECT uuid, min(rowid) FROM AttachedFiles NOT INDEXED WHERE fileType = {DICOM}
                GROUP BY uuid HAVING count(*) > 1 LIMIT {_MOST_REPEATED}"""  # noqa: S608 - constants of ours
            ).fetchall()
        if len(found) == _MOST_REPEATED:
            raise InputUnusable(f"the index {self.path} gives the same files to many instances; {_WITHOUT}")
        return {uuid: row for uuid, row in found if isinstance(uuid, str)}

    def _check_shape(self) -> int:
        """The schema's number.

        Raises:
            InputUnusable: It is not one that can be read.
            IndexLost: It is no Orthanc index at all.
        """
        missing = COLUMNS - self._columns("AttachedFiles")
        if not self._columns("GlobalProperties") or missing == COLUMNS:
            raise IndexLost(f"{self.path} is an SQLite database, and not the index of an Orthanc")
        found = self._connection.execute("SELECT value FROM GlobalProperties WHERE property = 1").fetchone()
        text = str(found[0]) if found else ""
        if not re.fullmatch(r"[0-9]{1,4}", text):
            raise InputUnusable(f"the index {self.path} does not tell the number of its schema; {_WITHOUT}")
        schema = int(text)
        if schema < OLDEST_SCHEMA:
            raise InputUnusable(
                f"the index {self.path} has schema {schema}, read are {OLDEST_SCHEMA} and newer: let a newer Orthanc "
                f"upgrade a copy of it, or {_WITHOUT}"
            )
        if missing:
            raise InputUnusable(
                f"the index {self.path} (schema {schema}) has a shape that is not known: its table AttachedFiles "
                f"lacks {', '.join(sorted(missing))}; {_WITHOUT}"
            )
        return schema

    def _check_pages(self) -> None:
        """Read every page of the table (a second for a million instances): a damaged one could hide rows.

        Raises:
            InputUnusable: One is damaged.
        """
        if self._connection.execute("PRAGMA quick_check(AttachedFiles)").fetchone()[0] != "ok":
            raise InputUnusable(f"the index {self.path} is damaged; {_WITHOUT}")

    def _columns(self, table: str) -> set[str]:
        """The columns of a table; none where it is a view or of a module: those may compute what they like."""
        made = self._connection.execute("SELECT type, sql FROM sqlite_master WHERE name = ?", (table,)).fetchall()
        if [(kind, str(sql)[:13].upper()) for kind, sql in made] != [("table", "CREATE TABLE ")]:
            return set()
        return {str(row[1]) for row in self._connection.execute(f"PRAGMA table_info({table})")}

    def _count(self) -> Holdings:
        custom = f"total(fileType = {DICOM} AND length({CUSTOM_DATA}) > 0)" if self._custom else "0"
        row = self._connection.execute(
            f"""SELECT total(fileType = {DICOM}), total(fileType = 3), total(fileType = 2),
            total(fileType NOT IN (1, 2, 3)),
            total(fileType = {DICOM} AND (length(uncompressedMD5) IS NOT 32 OR length(compressedMD5) IS NOT 32)),
            {custom} FROM AttachedFiles NOT INDEXED"""  # noqa: S608 - only constants of ours are put in
        ).fetchone()
        return Holdings(*(int(value) for value in row))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if _words(error) == "SQLITE_FULL":
                raise OutOfSpace("temporary files of SQLite: see the environment variable TMPDIR") from error
            raise InputUnusable(f"the index {self.path} is damaged ({_words(error)}); {_WITHOUT}") from error


_WITHOUT: Final = "with --without-index the attachments are recognised by their content"


@contextmanager
def open_index(path: Path) -> Iterator[StorageIndex]:
    """The index at `path`, for reading.

    Raises:
        IndexLost: The file is missing, or is no index.
        InputUnusable: It is there and cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise IndexLost(f"{path} is no file")
        head = _head(path)
    except FileNotFoundError:
        raise IndexLost(f"there is no SQLite index {path}") from None
    except OSError as error:
        raise InputUnusable(f"the index {path} cannot be read: {error.strerror}") from None
    if head != b"SQLite format 3\0":
        raise IndexLost(f"{path} is no SQLite database")
    partial = [end for end in BESIDE if _size(_beside(path, end))]
    connection = _private_copy(path) if partial else _connect(path)
    try:
        yield StorageIndex(path, connection, in_place=not partial)
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    """A connection to a file that nobody changes: SQLite makes nothing beside it.

    Raises:
        InputUnusable: SQLite refuses it.
    """
    connection = None
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        connection.execute("PRAGMA query_only = 1")
        connection.execute("PRAGMA trusted_schema = 0")
        connection.execute("PRAGMA temp_store = FILE")
        connection.text_factory = _text
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if connection is not None:
            connection.close()
        raise InputUnusable(f"the index {path} cannot be read ({_words(error)}); {_WITHOUT}") from error
    return connection


def _private_copy(path: Path) -> sqlite3.Connection:
    """A connection to a copy of an index and its log, put together; the copy has no name any more.

    Raises:
        InputUnusable: It changes all the time, there is no room, or SQLite refuses it.
    """
    folder = Path(tempfile.mkdtemp(prefix="exporter-"))  # 0700
    try:
        copy = folder / INDEX
        _copy_at_rest(path, copy)
        with _closing(sqlite3.connect(copy)) as joined:
            joined.execute("PRAGMA locking_mode = EXCLUSIVE")  # no shared memory is needed
            joined.execute("PRAGMA journal_mode = DELETE")  # moves what the log holds into the file
        return _connect(copy)
    except sqlite3.Error as error:
        raise InputUnusable(f"the index {path} cannot be read ({_words(error)}); {_WITHOUT}") from error
    except OSError as error:
        raise InputUnusable(
            f"the index {path} cannot be copied to {folder.parent} ({error.strerror}): stop Orthanc, or choose a "
            "folder with more room with the environment variable TMPDIR"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_at_rest(path: Path, copy: Path) -> None:
    """Copy an index and what is beside it, all of one moment.

    Raises:
        InputUnusable: It changes all the time.
        OSError: It cannot be copied.
    """
    for _ in range(_COPIES):
        before = _Marks.of(path)
        shutil.copyfile(path, copy)
        for end in BESIDE:
            _beside(copy, end).unlink(missing_ok=True)
            if _size(_beside(path, end)):
                shutil.copyfile(_beside(path, end), _beside(copy, end))
        if _Marks.of(path) == before:
            return
    raise InputUnusable(f"the index {path} changes while it is copied: stop Orthanc, or read a copy of its folder")


@contextmanager
def _closing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    finally:
        connection.close()


def _attachment(row: tuple[Any, ...]) -> Attachment:
    """Make an attachment of one row, whose values are checked."""
    number, uuid, stored_bytes, content_bytes, compression, stored_md5, content_md5, custom = row
    if not isinstance(uuid, str) or not UUID.fullmatch(uuid):
        return Attachment("", number, fault="its name is no UUID")
    if not all(isinstance(size, int) and 0 <= size < _LARGEST for size in (stored_bytes, content_bytes)):
        return Attachment(uuid, number, fault="the index tells no size of it")
    if compression not in (UNCOMPRESSED, ZLIB_WITH_SIZE):
        return Attachment(uuid, number, fault="the index names a compression that is not known")
    digests = [str(digest or "").strip().lower() for digest in (stored_md5, content_md5)]
    if not all(not digest or _MD5.fullmatch(digest) for digest in digests):
        return Attachment(uuid, number, fault="the index holds something else than its MD5")
    return Attachment(uuid, number, stored_bytes, content_bytes, compression, digests[0], digests[1], bool(custom))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def _words(error: sqlite3.Error) -> str:
    """Error code of SQLite: its sentences may quote the schema."""
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


def _is_locked(path: Path) -> bool:
    """Whether another process holds a lock on the file; no lock is taken to find out."""
    query = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with path.open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, query)
    except OSError:
        return False  # a file system without locks
    return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)
