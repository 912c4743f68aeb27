"""Bytes of one instance, read by position: a file, or a data set that was inflated into memory or an unlinked file.

Contract: reads never move a shared position, never read past what is there, and map every `OSError`; opening refuses
what is not a regular file and what is larger than its limit. Inflating is bounded by bytes, never by trust.

Must never: follow a symbolic link, hold a whole file of more than `READ_AT_ONCE` bytes, or put a patient's bytes where
a name can be listed.
"""

from __future__ import annotations

import errno
import os
import stat
import weakref
import zlib
from typing import TYPE_CHECKING, Protocol

from exporter.errors import NotDicom, SkipInstance, SkipReason, TooLarge, Unreadable
from exporter.machine_conditions import storage_error
from listener.foundation.disk import is_gone, is_too_large

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.settings.settings import LimitSettings

CHUNK = 1 << 20
IN_MEMORY = 8 << 20
"""Largest inflated data set that is kept in memory."""
READ_AT_ONCE = 2 << 20
"""Largest file that is read once and kept: what is looked at more than once is not read again."""


class SourceUnread(Unreadable):
    """The operating system did not let the file be read, which may be the disk's doing."""

    may_pass = True


class SourceGone(SourceUnread):
    """The file is not there any more, which says nothing about what was in it."""


class ByteSource(Protocol):
    """Something that can be read by position."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end."""
        ...

    def view_at(self, offset: int, length: int) -> bytes | memoryview:
        """As `read_at`, without a copy where the bytes are in memory."""
        ...


class FileBytes:
    """An open file, read with `pread`; the descriptor closes with the object."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._content: bytes | None = None
        self._close = weakref.finalize(self, os.close, descriptor)

    @property
    def size(self) -> int:
        """Length in bytes when the file was opened; bytes appended later are not seen."""
        return self._size

    @property
    def content(self) -> bytes | None:
        """All bytes of a file of at most `READ_AT_ONCE` bytes, read now and kept; None for a larger one.

        Raises:
            Unreadable: The operating system could not read.
        """
        if self._content is None and self._size <= READ_AT_ONCE:
            self._content = self._read(0, self._size)
        return self._content

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end.

        Raises:
            Unreadable: The operating system could not read.
        """
        wanted = min(length, self._size - offset)
        if wanted <= 0:
            return b""
        if self._content is not None:
            return self._content[offset : offset + wanted]
        return self._read(offset, wanted)

    def view_at(self, offset: int, length: int) -> bytes | memoryview:
        """As `read_at`, without a copy where the bytes are in memory.

        Raises:
            Unreadable: The operating system could not read.
        """
        if self._content is None:
            return self.read_at(offset, length)
        return memoryview(self._content)[offset : offset + length]

    def _read(self, offset: int, wanted: int) -> bytes:
        parts: list[bytes] = []
        while wanted:
            try:
                part = os.pread(self._descriptor, wanted, offset)
            except OSError as error:
                raise _unreadable("reading", error) from None
            if not part:
                break  # the file was cut after it was opened; the caller sees a short read
            parts.append(part)
            offset += len(part)
            wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the file; later reads fail."""
        self._close()


class MemoryBytes:
    """Bytes in memory."""

    def __init__(self, content: bytes | bytearray) -> None:
        self._content = memoryview(content)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._content)

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end."""
        return bytes(self._content[offset : offset + length])

    def view_at(self, offset: int, length: int) -> memoryview:
        """As `read_at`, without a copy."""
        return self._content[offset : offset + length]


def _unreadable(operation: str, error: OSError) -> Unreadable:
    kind = SourceGone if is_gone(error) else SourceUnread
    return kind(f"{operation} the file failed: {errno.errorcode.get(error.errno or 0, 'EIO')}")


def open_file(path: Path, limits: LimitSettings) -> FileBytes:
    """The file at `path`, open for reading by position.

    Raises:
        SkipInstance: It is no regular file (a link, a folder, a pipe, a device).
        NotDicom: It is empty.
        TooLarge: It is larger than ``limits.max_instance_bytes``.
        Unreadable: It cannot be opened.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes must not wait; regular files ignore it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.ENODEV}:
            raise SkipInstance(SkipReason.NOT_REGULAR, "not a regular file") from None
        raise _unreadable("opening", error) from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise SkipInstance(SkipReason.NOT_REGULAR, "not a regular file")
    source = FileBytes(descriptor, status.st_size)
    if source.size == 0:
        raise NotDicom("the file is empty")
    if source.size > limits.max_instance_bytes:
        raise TooLarge(
            f"the file has {source.size} bytes, permitted are {limits.max_instance_bytes} (limits.max_instance_bytes)"
        )
    return source


def inflate(source: ByteSource, offset: int, limits: LimitSettings, notes: list[str]) -> ByteSource:
    """The deflated data set that begins at `offset`, inflated (PS3.5 A.5, RFC 1951; a zlib header is tolerated).

    Small results stay in memory, larger ones go to a file that has no name. `notes` gets how many bytes follow the
    deflated stream, where they are more than the padding of PS3.5 A.5.

    Raises:
        TooLarge: More than ``limits.max_inflated_bytes``.
        Unreadable: The deflated stream is damaged or cut.
        OutOfSpace: No room for the temporary file.
        StorageUnavailable: It cannot be made.
    """
    head = source.read_at(offset, 2)
    zlib_header = len(head) == 2 and head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0
    # A raw stream may look like a zlib header by chance; then zlib refuses at once and the raw form is tried.
    for window in (zlib.MAX_WBITS, -zlib.MAX_WBITS) if zlib_header else (-zlib.MAX_WBITS,):
        try:
            found, end = _inflate(source, offset, window, limits.max_inflated_bytes)
        except zlib.error:
            continue
        # Some writers keep what ends a gzip member (RFC 1952 2.3.1): CRC-32, and the size of what was deflated.
        trailer = source.read_at(end, 8)
        is_gzip = trailer[4:] == (found.size & 0xFFFFFFFF).to_bytes(4, "little")
        if end_of_zeros(source, end + 8 * is_gzip) < source.size:
            notes.append(f"{source.size - end} bytes behind the deflated data set are left out")
        return found
    raise Unreadable("inflating the data set failed: the deflated stream is damaged")


def end_of_zeros(source: ByteSource, offset: int) -> int:
    """Offset of the first byte from `offset` on that is not zero; the end of the source if all are zero."""
    while part := source.read_at(offset, CHUNK):
        other = part.lstrip(b"\0")
        if other:
            return offset + len(part) - len(other)
        offset += len(part)
    return source.size


def _inflate(source: ByteSource, offset: int, window: int, most: int) -> tuple[ByteSource, int]:
    """The inflated bytes, and the offset behind the deflated stream."""
    stream = zlib.decompressobj(window)
    sink = _Sink(most)
    while not stream.eof:
        packed = source.read_at(offset, CHUNK)
        if not packed:
            raise Unreadable("inflating the data set failed: the deflated stream ends early")
        offset += len(packed)
        while packed and not stream.eof:
            sink.write(stream.decompress(packed, CHUNK))
            packed = stream.unconsumed_tail
    sink.write(stream.flush())
    return sink.source(), offset - len(stream.unused_data)


class _Sink:
    """Collects inflated bytes, in memory first and then in an unlinked file, up to a limit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._memory = bytearray()
        self._descriptor: int | None = None
        self._size = 0

    def write(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._most:
            self._discard()
            raise TooLarge(f"the inflated data set passes {self._most} bytes (limits.max_inflated_bytes)")
        if self._descriptor is None and self._size <= IN_MEMORY:
            self._memory += part
            return
        try:
            if self._descriptor is None:
                self._descriptor = _unlinked_file()
                part, self._memory = bytes(self._memory) + part, bytearray()
            view = memoryview(part)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self._discard()
            what = "the temporary file of a deflated data set"
            if is_too_large(error):
                raise TooLarge(f"{what} would pass the largest size that a worker may write") from None
            raise storage_error(what, error) from None

    def source(self) -> ByteSource:
        if self._descriptor is None:
            return MemoryBytes(self._memory)
        descriptor, self._descriptor = self._descriptor, None
        return FileBytes(descriptor, self._size)

    def _discard(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _unlinked_file() -> int:
    import tempfile

    with tempfile.TemporaryFile() as file:  # never has a name, or loses it before a byte is written
        return os.dup(file.fileno())
