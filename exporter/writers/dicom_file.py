"""The de-identified instance as a DICOM file of its own, beside its media.

Contract: the file holds the elements that the instance shows (`Instance.replace_header`), file meta information made
anew, and its frames as the mask lets them through. Codestreams of which nothing is hidden are copied, without comments
and application data, in the transfer syntax of the source. Other frames of encapsulated sources are coded by RLE, which
loses nothing, has every depth and sign, and spends little on black; those of native sources stay native. All of them
have every kept stored value as it was (colours as RGB, as the media show them), black where hidden, no spare bits.
Nothing else of the source gets into the file: no preamble, no byte around or behind frames. Read back before it counts.

A video stream is not written: its pictures have no stored values, and a copy would have the user data of the stream.

Source: PS3.10 7.1 (file meta information), PS3.5 8.1.1 (native cells), PS3.5 A.2, A.3, A.4 (encapsulation), G (RLE).
"""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from exporter.errors import ExportError, PrivacyUnknown, TooLarge, UnsupportedSyntax, VerifyFailed
from exporter.frames.colour import to_rgb
from exporter.frames.palette import read_palette
from exporter.outcome import MediaType
from exporter.writers.contract import InstancePart, WriterTask, Written
from exporter.writers.durable_write import media_file, write_new
from exporter.writers.pictures.cine import is_video_stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from exporter.dicom.instance import Instance
    from exporter.dicom.pixels import PixelDescription
    from exporter.frames import Frames
    from exporter.frames.bare_codestream import BareFrames
    from exporter.frames.reader import Samples
    from exporter.settings.settings import LimitSettings, MediaSettings

SCORE: Final = 0
_LITTLE, _BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
_RLE: Final = "1.2.840.10008.1.2.5"
_RLE_HEAD: Final = 64
_FLOATS: Final = {"f4": (0x7FE00008, "OF"), "f8": (0x7FE00009, "OD")}
_LONGEST: Final = 0xFFFFFFFE


class DicomWriter:
    """Writes de-identified instances as DICOM files, where the settings want that."""

    kind = MediaType.DICOM
    part = InstancePart.DATA_SET

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """`SCORE` for every instance, with `privacy.write_dicom`."""
        del instance
        return SCORE if settings.privacy.write_dicom else None

    def write(self, task: WriterTask) -> Written:
        """Write the file.

        Raises:
            PrivacyUnknown: The instance is not de-identified.
            UnsupportedSyntax: The pixel data are a video stream.
            TooLarge: Its frames are longer than an element may be.
            ExportError: A frame cannot be decoded, or the file not written.
            OutOfSpace: The disk is full.
        """
        instance, limits = task.instance, task.settings.limits
        if instance.deidentification is None:
            raise PrivacyUnknown("write DICOM: the instance is not de-identified")
        path = task.folder / "0.part"
        if instance.pixels is None:
            sealed = write_new(path, (_head(instance, {}, _BIG if instance.big_endian else _LITTLE),))
            _check(path, limits, None)
            return Written(media=(media_file(path, self.kind, ".dcm", "dicom", sealed),))
        if is_video_stream(instance):
            raise UnsupportedSyntax("write DICOM: the pictures of a video stream have no stored values to keep")
        written = _Pixels.of(instance, instance.pixels, limits)
        sealed = write_new(path, written.pieces())
        _check(path, limits, written.digest.hexdigest())
        details = {"width": instance.pixels.columns, "height": instance.pixels.rows, "frames": instance.pixels.frames}
        medium = media_file(path, self.kind, ".dcm", "dicom", sealed, **details)
        return Written(media=(medium,), warnings=tuple(written.frames.warnings))


@dataclass(slots=True)
class _Pixels:
    """The frames of one instance on their way into a file."""

    instance: Instance
    pixels: PixelDescription
    frames: Frames
    order: Literal["<", ">"]
    limits: LimitSettings
    digest: Any

    @classmethod
    def of(cls, instance: Instance, pixels: PixelDescription, limits: LimitSettings) -> _Pixels:
        from exporter.frames import open_frames

        frames = open_frames(instance, limits)
        return cls(instance, pixels, frames, ">" if instance.big_endian else "<", limits, hashlib.blake2b())

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the file: header, frames, padding."""
        if not self.pixels.encapsulated:
            yield from self._native()
        elif (reader := self._reader_of_bare_frames()) is not None:
            yield _head(self.instance, {}, self.instance.transfer_syntax)
            yield from _encapsulated(self._copied(reader))
        elif self.pixels.bits_allocated in (8, 16, 32) and self.pixels.keyword == "PixelData":
            yield from self._run_length_coded()
        else:
            yield from self._native()

    def _reader_of_bare_frames(self) -> BareFrames | None:
        """The reader of a source all of whose codestreams may be copied; None where one may not."""
        from exporter.frames.reader import open_reader

        mask = self.instance.mask
        if mask is None:
            return None
        reader: BareFrames = mask.masked(open_reader(self.instance, self.pixels, self.limits, []))
        is_bare = all(reader.bare(number) is not None for number in range(self.frames.count))
        return reader if is_bare and self.frames.count == self.pixels.frames else None

    def _copied(self, reader: BareFrames) -> Iterator[bytes]:
        """Codestreams as they are; their values are part of the digest."""
        for number, samples in enumerate(self.frames.samples()):
            self.digest.update(_plain(samples.values))
            yield reader.bare(number) or b""

    def _run_length_coded(self) -> Iterator[bytes]:
        """Header and frames coded by RLE Lossless."""
        rest = self.frames.samples()
        first = next(rest)
        cells, elements = self._cells(first)
        if cells.ndim == 3:
            elements["PlanarConfiguration"] = 1
        yield _head(self.instance, elements, _RLE)
        yield from _encapsulated(rle_frame(one) for one in self._noted_cells(cells, rest))

    def _noted_cells(self, first: NDArray[Any], rest: Iterator[Samples]) -> Iterator[NDArray[Any]]:
        for cells in chain((first,), (self._cells(samples)[0] for samples in rest)):
            self.digest.update(_plain(cells))
            yield cells

    def _native(self) -> Iterator[bytes]:
        """Header and uncompressed frames."""
        rest = self.frames.samples()
        first = next(rest)
        cells, elements = self._cells(first)
        kind = cells.dtype.str[1:]
        is_packed = self.pixels.bits_allocated == 1
        length = cells.nbytes * self.pixels.frames
        if is_packed:
            length = -(-self.pixels.frame_pixels * self.pixels.samples * self.pixels.frames // 8)
        if length > _LONGEST:
            raise TooLarge(f"write DICOM: the frames have {length} bytes, an element may have {_LONGEST}")
        tag, vr = _FLOATS.get(kind, (0x7FE00010, "OB" if cells.itemsize == 1 else "OW"))
        yield _head(self.instance, elements, _BIG if self.instance.big_endian else _LITTLE)
        head = struct.pack(f"{self.order}HH2s2xI", tag >> 16, tag & 0xFFFF, vr.encode(), length + length % 2)
        yield head
        yield from self._packed(first, rest) if is_packed else (one.tobytes() for one in self._noted_cells(cells, rest))
        if length % 2:
            yield b"\0"

    def _packed(self, first: Samples, rest: Iterator[Samples]) -> Iterator[bytes]:
        """Frames of one bit per pixel, one after the other without a gap (PS3.5 8.1.1)."""
        left: NDArray[np.uint8] = np.empty(0, np.uint8)
        for samples in chain((first,), rest):
            self.digest.update(_plain(samples.values))
            bits = np.concatenate([left, samples.values.astype(np.uint8).ravel()])
            whole = len(bits) // 8 * 8
            left = bits[whole:]
            yield np.packbits(bits[:whole], bitorder="little").tobytes()
        yield np.packbits(left, bitorder="little").tobytes()

    def _cells(self, samples: Samples) -> tuple[NDArray[Any], dict[str, Any]]:
        """The cells of a frame in the order of bytes of the file, and the elements that describe them."""
        values, pixels = samples.values, self.pixels
        if values.ndim == 3 and samples.colour != "RGB":
            values = to_rgb(values, samples.colour, samples.bits)
        allocated = 8 * values.dtype.itemsize
        elements: dict[str, Any] = {}
        if values.ndim == 3:
            elements |= {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
        if samples.colour == "PALETTE COLOR" and "RedPaletteColorLookupTableData" not in self.instance.header:
            elements |= self._palette()
        if values.dtype.kind != "f" and pixels.bits_allocated != 1:
            stored = allocated if values.dtype != samples.values.dtype else min(pixels.bits_stored, allocated)
            elements |= {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": stored - 1}
            elements["PixelRepresentation"] = int(values.dtype.kind == "i")
        return values.astype(values.dtype.newbyteorder(self.order), order="C"), elements

    def _palette(self) -> dict[str, Any]:
        """The palette as plain tables of 16 bits: that of the source has another form, which can hold anything."""
        source, order = self.instance.source_header, self.order
        palette = read_palette(source, signed=self.pixels.signed, big_endian=self.instance.big_endian, notes=[])
        elements: dict[str, Any] = {}
        for number, colour in enumerate(("Red", "Green", "Blue")):
            entries = palette.colours[:, number].astype(f"{order}u2") * 257
            keyword = f"{colour}PaletteColorLookupTable"
            elements[f"{keyword}Descriptor"] = [len(entries) & 0xFFFF, palette.first, 16]
            elements[f"{keyword}Data"] = entries.astype(f"{order}u2").tobytes()
        return elements


def _plain(values: NDArray[Any]) -> bytes:
    """The values of a frame in one form, whatever their type in the file: for comparison."""
    return values.astype("<f8" if values.dtype.kind == "f" else "<i8").tobytes()


def _encapsulated(frames: Iterator[bytes]) -> Iterator[bytes]:
    """Pixel data of one fragment for each frame, with an empty offset table (PS3.5 A.4)."""
    yield struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF) + _item(0)
    for frame in frames:
        padded = frame + b"\0" * (len(frame) % 2)
        yield _item(len(padded)) + padded
    yield struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _item(length: int) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, length)


def rle_frame(cells: NDArray[Any]) -> bytes:
    """A frame coded by RLE: a segment for each byte of each sample, the highest byte first (PS3.5 G.2, G.3, G.4)."""
    import imagecodecs

    rows, columns = cells.shape[:2]
    width = cells.dtype.itemsize
    planes = cells.astype(cells.dtype.newbyteorder(">"), order="C").view(np.uint8).reshape(rows, columns, -1, width)
    segments = []
    for sample in range(planes.shape[2]):
        for byte in range(width):
            coded = imagecodecs.packbits_encode(np.ascontiguousarray(planes[:, :, sample, byte]), axis=1)
            segments.append(coded + b"\0" * (len(coded) % 2))
    offsets = accumulate((len(one) for one in segments[:-1]), initial=_RLE_HEAD)
    return (
        struct.pack("<I", len(segments))
        + struct.pack(f"<{len(segments)}I", *offsets).ljust(_RLE_HEAD - 4, b"\0")
        + b"".join(segments)
    )


def _head(instance: Instance, elements: dict[str, Any], transfer_syntax: str) -> bytes:
    """Preamble, file meta information and all elements before the pixel data.

    Raises:
        ExportError: pydicom cannot write them.
    """
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    from exporter.dicom.elements import quiet_reading

    data_set = _copy(instance.header)
    for keyword, value in elements.items():
        setattr(data_set, keyword, value)
    meta = FileMetaDataset(instance.header.file_meta)
    meta.TransferSyntaxUID = UID(transfer_syntax)
    data_set.file_meta = meta
    file = io.BytesIO()
    try:
        with quiet_reading():
            dcmwrite(file, data_set, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, struct.error, NotImplementedError) as error:
        raise UnsupportedSyntax(f"write DICOM: pydicom refuses an element ({type(error).__name__})") from None
    return file.getvalue()


def _copy(source: Dataset) -> Dataset:
    """A data set of the same elements, read: raw ones may be in another order of bytes than is written."""
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

    root = Dataset()
    waiting = [(source, root)]
    while waiting:
        read, made = waiting.pop()
        for tag in list(read.keys()):
            element = read[tag]
            if element.VR != "SQ":
                made.add(DataElement(element.tag, element.VR, element.value))
                continue
            items = [Dataset() for _ in element.value or ()]
            waiting += zip(element.value or (), items, strict=True)
            made.add(DataElement(element.tag, "SQ", items))
    return root


def _check(path: Path, limits: LimitSettings, digest: str | None) -> None:
    """Read the file back: it is an instance, and its frames are those that were written.

    Raises:
        VerifyFailed: It is not.
    """
    from exporter.dicom.instance import Instance
    from exporter.frames import open_frames

    try:
        with Instance.open(path, limits) as instance:
            _ = instance.header
            found = None
            if instance.pixels is not None:
                seen = hashlib.blake2b()
                for samples in open_frames(instance, limits).samples():
                    seen.update(_plain(samples.values))
                found = seen.hexdigest()
    except ExportError as error:
        raise VerifyFailed(f"write DICOM: the file cannot be read back ({error.reason})") from None
    if found != digest:
        raise VerifyFailed("write DICOM: the file, read back, has other pixels than were written")
