"""Byte streams inside archives: plain or compressed, read forward, in bounded memory and within a budget.

Contract: `read` gives as many bytes as asked for, fewer only at the end; damage is `Unreadable`, and stays: a stream
that has failed once fails again. Several compressed streams one behind the other are one (gzip, bzip2, xz allow it).

Source: RFC 1952 (gzip), RFC 1951 (deflate).
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import TYPE_CHECKING, Final, Protocol

from exporter.errors import ExportError, Unreadable
from exporter.inputs.archives.member import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.dicom.bytesource import ByteSource
    from exporter.inputs.archives.member import Budget

PIECE: Final = 4096
"""So many compressed bytes are unpacked at a time: where they are damaged, what they began with is lost too."""
XZ_MEMORY_BYTES: Final = 256 << 20
"""Most memory that unpacking xz may take: its largest preset needs 65 MiB."""
GZIP_MAGIC: Final = b"\x1f\x8b"
BZIP2_MAGIC: Final = b"BZh"
XZ_MAGIC: Final = b"\xfd7zXZ\0"


class Decoder(Protocol):
    """One compressed stream: what zlib, bz2 and lzma have in common, with zlib's differences hidden."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """Input behind the end of the stream."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether more must be given before more comes out."""
        ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Up to `max_length` unpacked bytes; unused input is kept."""
        ...


class Deflate:
    """zlib in the shape of `bz2` and `lzma`."""

    def __init__(self, window: int) -> None:
        """`window` as zlib's wbits: -15 for raw deflate, 31 for gzip."""
        self._stream = zlib.decompressobj(window)
        self._is_full = False

    @property
    def eof(self) -> bool:
        """See `Decoder`."""
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        """See `Decoder`."""
        return self._stream.unused_data

    @property
    def needs_input(self) -> bool:
        """See `Decoder`."""
        return not self._stream.unconsumed_tail and not self._is_full

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """See `Decoder`."""
        part = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        self._is_full = len(part) == max_length  # more may come of what zlib has taken in already
        return part


def bzip2() -> Decoder:
    """A stream of bzip2."""
    return bz2.BZ2Decompressor()


def gzip() -> Decoder:
    """A member of gzip."""
    return Deflate(31)


def xz() -> Decoder:
    """A stream of xz."""
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)


COMPRESSIONS: Final[dict[bytes, Callable[[], Decoder]]] = {GZIP_MAGIC: gzip, BZIP2_MAGIC: bzip2, XZ_MAGIC: xz}
"""Decompressors by the beginning of a stream."""


def decode(decoder: Decoder, data: bytes, max_length: int) -> bytes:
    """The next unpacked bytes.

    Raises:
        Unreadable: The compressed bytes are damaged, or need too much memory.
    """
    try:
        return decoder.decompress(data, max_length)
    except (zlib.error, OSError, EOFError) as error:
        raise Unreadable(f"unpacking failed: the compressed data are damaged ({type(error).__name__})") from None
    except lzma.LZMAError as error:
        problem = "need more than 256 MiB of memory" if "limit" in str(error).lower() else "are damaged"
        raise Unreadable(f"unpacking failed: the compressed data {problem}") from None


class Stream(Protocol):
    """Bytes that are read forward."""

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end.

        Raises:
            ExportError: Damaged, or more than permitted.
        """
        ...

    def skip(self, size: int) -> None:
        """Go `size` bytes forward.

        Raises:
            ExportError: As `read`; also where the end comes before.
        """
        ...


class Plain:
    """An uncompressed file."""

    def __init__(self, file: ByteSource) -> None:
        self._file = file
        self._offset = 0

    def read(self, size: int) -> bytes:
        """See `Stream`."""
        part = self._file.read_at(self._offset, size)
        self._offset += len(part)
        return part

    def skip(self, size: int) -> None:
        """See `Stream`; nothing is read."""
        self._offset += size
        if self._offset > self._file.size:
            raise Unreadable("the archive ends before the content of its member does: it was cut")


class Unpacked:
    """A compressed file, unpacked while reading."""

    def __init__(self, file: ByteSource, new_decoder: Callable[[], Decoder], budget: Budget) -> None:
        self._file = file
        self._new_decoder = new_decoder
        self._budget = budget
        self._offset = 0
        self._decoder: Decoder | None = new_decoder()
        self._given = b""
        """Compressed bytes that follow an ended stream."""
        self._ready = bytearray()
        self._failure: ExportError | None = None

    def read(self, size: int) -> bytes:
        """See `Stream`."""
        while len(self._ready) < size and self._decoder is not None:
            self._fill()
        part = bytes(self._ready[:size])
        del self._ready[:size]
        return part

    def skip(self, size: int) -> None:
        """See `Stream`."""
        while size:
            part = self.read(min(size, CHUNK))
            if not part:
                raise Unreadable("the archive ends before the content of its member does: it was cut")
            size -= len(part)

    def _fill(self) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            self._decode()
        except ExportError as error:
            self._failure = error
            raise

    def _decode(self) -> None:
        decoder = self._decoder
        if decoder is None:
            return
        data = b""
        if decoder.needs_input:
            data = self._next_packed()
            if not data:
                raise Unreadable("the compressed archive ends early: it was cut")
        part = decode(decoder, data, CHUNK)
        self._ready += part
        self._budget.spend(len(part))
        if decoder.eof:
            self._given = decoder.unused_data + self._given
            self._decoder = self._following()

    def _following(self) -> Decoder | None:
        """The stream behind the one that has ended; zeros may stand between, anything else ends it."""
        while not (rest := self._given.lstrip(b"\0")):
            self._given = self._more_packed()
            if not self._given:
                return None
        if len(rest) < len(XZ_MAGIC):
            rest += self._more_packed()
        self._given = rest
        magics = [magic for magic, new in COMPRESSIONS.items() if new is self._new_decoder]
        return self._new_decoder() if rest.startswith(tuple(magics)) else None

    def _next_packed(self) -> bytes:
        if not self._given:
            self._given = self._more_packed()
        piece, self._given = self._given[:PIECE], self._given[PIECE:]
        return piece

    def _more_packed(self) -> bytes:
        data = self._file.read_at(self._offset, CHUNK)
        self._offset += len(data)
        return data
