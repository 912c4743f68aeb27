"""One DICOM file, read-only and lazily: its kind, its identity, and its pixels.

Contract: `Instance.open` recognises DICOM by content (with or without preamble and meta information, either byte order,
deflated), bounds what the header may cost, and raises only `exporter.errors`. Pixel data are located, never loaded.
`header`, `identity` and `pixels` are computed at their first use and kept.

What a hostile header costs is bounded by `exporter.dicom.structure.walk` before pydicom builds objects: elements,
nesting, bytes. Only where the nesting makes no sense at all does pydicom read a header that was not walked to its end,
of `UNWALKED_BYTES` at most (some 10 seconds and 400 MB for the worst bytes; the worker's limits are above that).

Must never: put element values into messages or warnings, hold pixel data, write to the file.
"""

from __future__ import annotations

import hashlib
import struct
import time
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from exporter.dicom.bytesource import CHUNK, ByteSource, FileBytes, inflate, open_file
from exporter.dicom.elements import put_elements, read_elements, text_of
from exporter.dicom.pixels import PixelDescription, describe_pixels
from exporter.dicom.plain_header import read_plain
from exporter.dicom.structure import (
    DEFLATED_LE,
    UNDEFINED,
    DataSetStart,
    DataSetStructure,
    PixelElement,
    find_data_set,
    pixel_element_at,
    walk,
    walk_behind,
)
from exporter.errors import SkipInstance, SkipReason, TooLarge, Unreadable
from exporter.outcome import InstanceIdentity
from listener.intake.file_meta import SOP_CLASS, SOP_INSTANCE, StoredFileMeta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from pydicom.dataset import Dataset, FileMetaDataset

    from exporter.dicom.plain_header import PlainHeader
    from exporter.settings.settings import LimitSettings

UNWALKED_BYTES: Final = 4 << 20
"""Most of a header that pydicom reads where the walk found its nesting to make no sense."""
_FIRST_TAG: Final = 0x00080000
MEDIA_STORAGE_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_DIRECTORY_GROUP: Final = frozenset({b"\x04\x00", b"\x00\x04", b""})
"""Beginnings of the data set of a DICOMDIR, in either byte order: group 0004 (PS3.3 F.3.2), if present."""


class PixelMask(Protocol):
    """Stands between the stored pixels of a de-identified instance and everything that reads them."""

    def masked(self, reader: Any) -> Any:
        """A reader of frames (`exporter.frames.reader.FrameReader`) that gives kept pixels of `reader` alone."""
        ...

    def masked_picture(self, picture: Any) -> Any:
        """A display picture of a video stream with black over what is hidden."""
        ...


class Instance:
    """A lazy view of one DICOM file; a context manager that closes the file.

    After `replace_header` it shows a de-identified instance: `header`, `identity` and `source_sha256` are the new ones,
    `file_meta` is empty, and pixels are read through a mask. `sop_class_uid` stays, so that writers fit.
    """

    def __init__(self, path: Path, file: FileBytes, start: DataSetStart, limits: LimitSettings) -> None:
        self.begun_cpu_s = time.process_time()
        """Processor time that this process had used before; see `listener.foundation.cpu_limit`."""
        self.path = path
        self.file_meta = start.file_meta
        """The file meta information (group 0002); empty where the file has none."""
        if self.file_meta.end - self.file_meta.begin > limits.max_header_bytes:
            most = f"{limits.max_header_bytes} bytes (limits.max_header_bytes)"
            raise TooLarge(f"the file meta information passes {most}")
        self._notes = [*start.warnings]
        if self.file_meta.text(SOP_CLASS) == MEDIA_STORAGE_DIRECTORY:
            if file.read_at(start.offset, 2) in _DIRECTORY_GROUP:
                raise SkipInstance(SkipReason.DICOMDIR, "a DICOMDIR lists instances and is not an instance itself")
            self._notes.append("the file meta information says DICOMDIR, the data set is not one")
        deflated = start.transfer_syntax == DEFLATED_LE
        self.data: ByteSource = inflate(file, start.offset, limits, self._notes) if deflated else file
        """The data set's bytes by position: the file itself, or the inflated data set."""
        self.limits = limits
        self._file = file
        self._start = start
        plain = _read_plain(file, self.data, start, limits)
        self._plain_header = None if plain is None else plain.header
        self._layout = plain.structure if plain is not None else walk(self.data, self._data_start, limits)
        self._notes += self._layout.warnings
        self._source_header: Dataset | None = None
        self.mask: PixelMask | None = None
        """What the pixels are read through; with one, nothing encoded is given and nothing is copied bit by bit."""
        self.deidentification: Mapping[str, object] | None = None
        """What was done to de-identify the instance, for its record; None where it is as its file holds it."""

    @classmethod
    def open(cls, path: Path, limits: LimitSettings) -> Self:
        """The DICOM file at `path`.

        Raises:
            NotDicom: The bytes hold no DICOM data set.
            Unreadable: They do, and it is damaged or cut.
            TooLarge: A limit is passed.
            SkipInstance: A DICOMDIR, or no regular file.
        """
        file = open_file(path, limits)
        file.content  # noqa: B018 - read once, before it is looked at in many places
        return cls(path, file, find_data_set(file), limits)

    def close(self) -> None:
        """Close the file; nothing more can be read."""
        self._file.close()
        if isinstance(self.data, FileBytes):
            self.data.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Instance {self.size_bytes} bytes, {self.transfer_syntax}>"

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self._file.size

    @property
    def transfer_syntax(self) -> str:
        """Transfer syntax UID as the file says; assumed from the bytes (with a warning) where it does not."""
        return self._start.transfer_syntax

    @property
    def big_endian(self) -> bool:
        """Whether the data set's numbers are big endian."""
        return self._start.big_endian

    @property
    def implicit(self) -> bool:
        """Whether the data set is encoded without value representations."""
        return self._start.implicit

    @property
    def warnings(self) -> list[str]:
        """Oddities that did not prevent reading: short sentences without values."""
        return list(dict.fromkeys(self._notes))

    @cached_property
    def header(self) -> Dataset:
        """The data set without its pixel data, as pydicom reads it. Read-only by contract.

        Raises:
            Unreadable: pydicom cannot read it.
        """
        if self._plain_header is not None:
            return self._plain_header
        return self._walked_header() if self._layout.sound else self._tolerant_header()

    @property
    def source_header(self) -> Dataset:
        """The data set as the file holds it, for the decoding of pixels: see `replace_header`."""
        return self._source_header if self._source_header is not None else self.header

    def replace_header(
        self,
        header: Dataset,
        hashes: tuple[str, str],
        mask: PixelMask | None,
        *,
        file_meta: FileMetaDataset,
        deidentification: Mapping[str, object],
    ) -> None:
        """Show a de-identified instance from now on.

        Args:
            header: The data set to show, without pixel data.
            hashes: Content hash and hash of the file to show.
            mask: What pixels are read through; None where there are none.
            file_meta: The file meta information that goes with it; that of the file is gone.
            deidentification: What was done.
        """
        _ = self.sop_class_uid, self.pixels  # of the source, before its header is gone
        self._source_header = self.header
        header.file_meta = file_meta
        self.header, self.file_meta, self._hashes, self.mask = header, StoredFileMeta(0, 0), hashes, mask
        self.deidentification = deidentification
        self.identity = InstanceIdentity(
            sop_class_uid=self._uid("SOPClassUID"),
            sop_instance_uid=self._uid("SOPInstanceUID"),
            study_instance_uid=self._uid("StudyInstanceUID"),
            series_instance_uid=self._uid("SeriesInstanceUID"),
            content_sha256=hashes[0],
        )

    def _walked_header(self) -> Dataset:
        """The header as the walk found it, the elements behind the pixel data included.

        Raises:
            Unreadable: pydicom finds other elements than the walk.
        """
        start, layout = self._data_start, self._layout
        raw = self._runs(layout)
        header, read = read_elements(raw, implicit=start.implicit, big_endian=start.big_endian)
        self._read_little_endian_un(header, layout)
        if read != len(raw) or len(header) != layout.top_elements:
            raise Unreadable(
                f"the data set holds {layout.top_elements} elements besides pixel data, pydicom reads {len(header)}"
            )
        return header

    def _tolerant_header(self) -> Dataset:
        """The header as pydicom reads it where the nesting makes no sense: believed if it leads to the pixel data.

        Raises:
            Unreadable: It does not, or its elements are in no order: they may have been anything.
        """
        start, layout = self._data_start, self._layout
        most = min(UNWALKED_BYTES, self.limits.max_header_bytes)
        walked = layout.header[-1][1] if layout.header else start.offset
        end = min(self.data.size, max(walked, start.offset + most))
        raw = self.data.read_at(start.offset, end - start.offset)
        try:
            header, read = read_elements(raw, implicit=start.implicit, big_endian=start.big_endian)
        except Unreadable as error:
            raise Unreadable(f"the nesting of sequences is damaged: {error}") from None
        head = start.offset + read
        pixel = pixel_element_at(self.data, start, head)
        tags = [int(tag) for tag in header.keys()]  # noqa: SIM118 - a data set iterates over elements
        if pixel is None or tags != sorted({*tags, pixel.tag})[:-1] or tags[:1] < [_FIRST_TAG]:
            raise Unreadable("the nesting of sequences is damaged: elements behind it cannot be found")
        behind = walk_behind(self.data, start, pixel, head, self.limits)
        self._tolerant_pixel = behind.pixel
        self._notes += behind.warnings
        further, _ = read_elements(self._runs(behind), implicit=start.implicit, big_endian=start.big_endian)
        put_elements(header, further, [int(tag) for tag in further.keys() if tag not in header])  # noqa: SIM118
        return header

    def _runs(self, layout: DataSetStructure) -> bytes:
        """The bytes of the header's elements; see `DataSetStructure.little_endian_un`."""
        if not layout.little_endian_un:
            return b"".join([self.data.read_at(begin, end - begin) for begin, end in layout.header])
        parts = [bytearray(self.data.read_at(begin, end - begin)) for begin, end in layout.header]
        for element in layout.little_endian_un:
            for (begin, end), part in zip(layout.header, parts, strict=True):
                if begin <= element.offset < end:
                    # As OB of a known length a reader that knows big endian alone passes over it.
                    at = element.offset - begin
                    part[at - 8 : at] = b"OB\0\0" + element.length.to_bytes(4, "big")
        return b"".join(parts)

    def _read_little_endian_un(self, header: Dataset, layout: DataSetStructure) -> None:
        """Put the items of UN elements that are little endian in their places, at the top level.

        Within sequences they stay bytes.
        """
        for element in layout.little_endian_un:
            if element.tag is None or element.tag not in header:
                continue
            head = struct.pack("<HHI", element.tag >> 16, element.tag & 0xFFFF, UNDEFINED)
            raw = head + self.data.read_at(element.offset, element.length)
            found, _ = read_elements(raw, implicit=True, big_endian=False)
            put_elements(header, found, [element.tag] if element.tag in found else [])

    @cached_property
    def sop_class_uid(self) -> str:
        """(0008,0016) SOP Class UID, else the one of the file meta information; empty where neither has one."""
        return self._uid("SOPClassUID") or self.file_meta.text(SOP_CLASS)

    @cached_property
    def identity(self) -> InstanceIdentity:
        """UIDs and content hash; reads the whole file once."""
        content, _ = self._hashes
        return InstanceIdentity(
            sop_class_uid=self.sop_class_uid,
            sop_instance_uid=self._uid("SOPInstanceUID") or self.file_meta.text(SOP_INSTANCE),
            study_instance_uid=self._uid("StudyInstanceUID"),
            series_instance_uid=self._uid("SeriesInstanceUID"),
            content_sha256=content,
        )

    @property
    def source_sha256(self) -> str:
        """SHA-256 of the whole file, from the same pass as the identity's hash."""
        return self._hashes[1]

    @cached_property
    def pixels(self) -> PixelDescription | None:
        """Description of the pixels; None where the instance has none.

        Raises:
            BadGeometry: Elements of the image pixel module are missing, no numbers, or contradict each other.
            TooLarge: A frame or the number of frames passes its limit.
            UnsupportedSyntax: The pixels are described in a way that is not read here.
        """
        element = self._pixel
        if element is None:
            return None
        return describe_pixels(self.header, element, self.data.size, self.limits, self._notes)

    @property
    def _pixel(self) -> PixelElement | None:
        if self._layout.sound:
            return self._layout.pixel
        self.header  # noqa: B018 - reading it finds the pixel data
        return self._tolerant_pixel

    @property
    def _data_start(self) -> DataSetStart:
        """`_start` with the data set's offset in `data` instead of the file."""
        if self.data is self._file:
            return self._start
        return replace(self._start, offset=0, implicit=False, big_endian=False)

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        """(SHA-256 of the data set's bytes as stored, SHA-256 of the file)."""
        content, whole = hashlib.sha256(), hashlib.sha256()
        offset = self._start.offset
        whole.update(self._file.read_at(0, offset))
        for part in _chunks(self._file, offset):
            content.update(part)
            whole.update(part)
        return content.hexdigest(), whole.hexdigest()

    def _uid(self, keyword: str) -> str:
        return text_of(self.header, keyword)


def _chunks(source: ByteSource, offset: int) -> Iterator[bytes | memoryview]:
    while part := source.view_at(offset, CHUNK):
        yield part
        offset += len(part)


def _read_plain(file: FileBytes, data: ByteSource, start: DataSetStart, limits: LimitSettings) -> PlainHeader | None:
    """The header of a small file that is not deflated, where it is plain."""
    content = file.content if data is file else None
    return None if content is None else read_plain(content, start, limits)
