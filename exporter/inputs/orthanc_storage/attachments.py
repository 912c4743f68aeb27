"""The file of one attachment: checked against the index, and inflated if it is compressed.

Contract: a file is read once, piece by piece; its size and MD5, and those of what it inflates to, are compared with
what the index holds (where it holds them) before a worker sees a byte. A compressed file is inflated into a copy, to
the announced size and not one byte further. Every fault is `Unreadable` (or `TooLarge`) and names the UUID.

Orthanc's compression is the number of bytes, eight of them, little endian, and one zlib stream (RFC 1950).

Must never: follow a symbolic link in the place of the file, hold more than two pieces of it, or change it.
"""

from __future__ import annotations

import errno
import hashlib
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from exporter.dicom.bytesource import CHUNK, FileBytes, open_file
from exporter.errors import ExportError, NotDicom, SkipInstance, TooLarge, Unreadable
from exporter.inputs.orthanc_storage.index import ZLIB_WITH_SIZE
from listener.intake.file_meta import PREFIX_BYTES as DICOM_PREFIX_BYTES
from listener.intake.file_meta import has_prefix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.inputs.orthanc_storage.index import Attachment
    from exporter.inputs.scratch import Scratch, ScratchCopy
    from exporter.settings.settings import LimitSettings

PREFIX_BYTES: Final = 8
ENCRYPTED: Final = b"A1"
"""First bytes of what Orthanc's storage plugins encrypt: the version of their header."""
ENCRYPTION_BYTES: Final = 86
"""Bytes that encryption adds: version (2), number of the master key (4), vector (32), key (32) and tag (16)."""
_ZLIB_HEAD: Final = 2


def place(uuid: str) -> str:
    """Path of an attachment below the storage folder."""
    return f"{uuid[:2]}/{uuid[2:4]}/{uuid}"


class _Copied:
    """Content that may have to be inflated into a copy before a worker can read it."""

    def __init__(self, path: Path, limits: LimitSettings, scratch: Scratch) -> None:
        """Read the file at `path`; copies go to `scratch`."""
        self._path = path
        self._limits = limits
        self._scratch = scratch
        self._copy: ScratchCopy | None = None

    def release(self) -> None:
        """Remove the copy, where there is one."""
        if self._copy is not None:
            self._copy.release()

    def _inflate(self, file: FileBytes, announced: int, stored_md5: str = "", content_md5: str = "") -> Path:
        if announced > self._limits.max_instance_bytes:
            raise TooLarge(
                f"it inflates to {announced} bytes, permitted are {self._limits.max_instance_bytes} "
                "(limits.max_instance_bytes)"
            )
        self._copy = self._scratch.copy()
        try:
            stored, content = _inflate(file, announced, self._copy)
            _compare(stored, stored_md5, "its file")
            _compare(content, content_md5, "its content")
            return self._copy.finish()
        except BaseException:
            self.release()
            raise


class Indexed(_Copied):
    """An attachment that the index describes: an `InputContent`."""

    def __init__(self, attachment: Attachment, path: Path, limits: LimitSettings, scratch: Scratch) -> None:
        """The `attachment` whose file is at `path`."""
        super().__init__(path, limits, scratch)
        self._about = attachment

    def readable(self) -> Path:
        """The file itself once it is checked, or what it inflates to.

        Raises:
            Unreadable, TooLarge: It is not what the index says.
            OutOfSpace: There is no room for a copy.
        """
        about = self._about
        with _named(about.uuid), _opened(self._path, self._limits) as file:
            self._check_size(file)
            if about.compression == ZLIB_WITH_SIZE:
                return self._inflate(file, about.content_bytes, about.stored_md5, about.content_md5)
            digest = _digest(_pieces(file, 0))
            _compare(digest, about.stored_md5, "its file")
            _compare(digest, about.content_md5, "its content")
            return self._path

    def _check_size(self, file: FileBytes) -> None:
        about = self._about
        wanted = about.stored_bytes
        if file.size == wanted + ENCRYPTION_BYTES and file.read_at(0, 2) == ENCRYPTED:
            raise Unreadable("a storage plugin has encrypted it, which is not read: take it from Orthanc while it runs")
        if file.size != wanted:
            raise Unreadable(f"its file has {file.size} bytes, the index says {wanted}")
        if about.compression != ZLIB_WITH_SIZE and about.content_bytes != wanted:
            raise Unreadable(f"it is not compressed, and the index gives it two sizes: {wanted}, {about.content_bytes}")


class AttachmentFacts(_Copied):
    """An attachment that only its content describes: an `InputContent`."""

    def __init__(self, uuid: str, path: Path, limits: LimitSettings, scratch: Scratch) -> None:
        """The attachment `uuid` whose file is at `path`."""
        super().__init__(path, limits, scratch)
        self._uuid = uuid

    def readable(self) -> Path:
        """The file itself, or what it inflates to.

        Raises:
            Unreadable, TooLarge: It is encrypted, damaged or too large.
            OutOfSpace: There is no room for a copy.
        """
        with _named(self._uuid), _opened(self._path, self._limits) as file:
            announced = looks_compressed(file)
            if announced is not None:
                return self._inflate(file, announced)
            if file.read_at(0, 2) == ENCRYPTED and not has_prefix(file.read_at(0, DICOM_PREFIX_BYTES)):
                raise Unreadable("it seems to be encrypted by a storage plugin, which is not read")
            return self._path


def looks_compressed(file: FileBytes) -> int | None:
    """Size that a file announces to inflate to; None for anything but a compressed attachment.

    A DICOM file with its prefix is not compressed, whatever its preamble holds. Otherwise the size must be positive, no
    more than deflate can reach (RFC 1951: some 1,032 times), and a zlib stream must follow that can be inflated as far
    as the first piece goes.
    """
    head = file.read_at(0, PREFIX_BYTES + _ZLIB_HEAD)
    if len(head) < PREFIX_BYTES + _ZLIB_HEAD or has_prefix(file.read_at(0, DICOM_PREFIX_BYTES)):
        return None
    announced = int.from_bytes(head[:PREFIX_BYTES], "little")
    method, flags = head[PREFIX_BYTES:]
    if not 0 < announced <= 1033 * file.size or method & 0x0F != 8 or (method << 8 | flags) % 31:
        return None
    try:
        zlib.decompressobj().decompress(file.read_at(PREFIX_BYTES, 4096), 4096)
    except zlib.error:
        return None
    return announced


def _inflate(file: FileBytes, announced: int, copy: ScratchCopy) -> tuple[str, str]:
    """Inflate an attachment into a copy; the MD5 of the file and of what it inflates to.

    Raises:
        Unreadable: It is damaged, or of another size than announced.
        OutOfSpace: There is no room for the copy.
    """
    prefix = file.read_at(0, PREFIX_BYTES)
    if int.from_bytes(prefix, "little") != announced or len(prefix) < PREFIX_BYTES:
        raise Unreadable("it announces another size than the index holds: inflating it is not tried")
    stored, content = _md5(), _md5()
    stored.update(prefix)
    stream = zlib.decompressobj()
    size = 0
    try:
        for packed in _pieces(file, PREFIX_BYTES):
            stored.update(packed)
            rest = packed
            while rest and not stream.eof:
                part = stream.decompress(rest, CHUNK)
                rest = stream.unconsumed_tail
                size += len(part)
                if size > announced:
                    raise Unreadable(f"it inflates to more than the {announced} bytes that it announces")
                content.update(part)
                copy.write(part)
            if rest or (stream.eof and stream.unused_data):
                raise Unreadable("something follows its compressed content")
        rest = stream.flush()
    except zlib.error:
        raise Unreadable("its compressed content is damaged") from None
    size += len(rest)
    content.update(rest)
    if size <= announced:
        copy.write(rest)
    if not stream.eof or size != announced:
        raise Unreadable(f"it inflates to {size} bytes, announced are {announced}")
    return stored.hexdigest(), content.hexdigest()


def _pieces(file: FileBytes, offset: int) -> Iterator[bytes]:
    while piece := file.read_at(offset, CHUNK):
        offset += len(piece)
        yield piece
    if offset != file.size:
        raise Unreadable("its file was cut while it was read")


def _digest(pieces: Iterator[bytes]) -> str:
    digest = _md5()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _compare(digest: str, wanted: str, what: str) -> None:
    if wanted and digest != wanted:
        raise Unreadable(f"{what} is not what Orthanc stored: its MD5 differs from the one in the index")


@contextmanager
def _opened(path: Path, limits: LimitSettings) -> Iterator[FileBytes]:
    """The file at `path` while the block runs; a missing, irregular or empty one is `Unreadable`."""
    try:
        file = open_file(path, limits)
    except NotDicom:
        raise Unreadable("its file is empty") from None
    except SkipInstance:
        raise Unreadable("there is a link, a folder or a device in the place of its file") from None
    try:
        yield file
    finally:
        file.close()


@contextmanager
def _named(uuid: str) -> Iterator[None]:
    """Put the UUID of the attachment, which identifies no patient, before the message of its error."""
    try:
        yield
    except ExportError as error:
        raise type(error)(f"attachment {uuid}: {error}") from None


def missing(uuid: str, path: Path) -> str:
    """Message for an attachment whose file cannot be accessed."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return f"attachment {uuid}: it is missing: the index lists it, and there is no file in its place"
    except OSError as error:
        return f"attachment {uuid}: it cannot be looked at ({errno.errorcode.get(error.errno or 0, 'EIO')})"
    return f"attachment {uuid}: it came while it was looked for; the next run reads it"
