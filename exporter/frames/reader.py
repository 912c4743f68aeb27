"""Frames of one instance as samples, one at a time, read by position: native or encapsulated.

Contract: a reader knows before its first frame whether all frames are there, and that their size fits the limits. It
holds one frame at a time. What the header says and the codestream contradicts is refused, or believed where the
codestream proves it, with a note.

Must never: decode a frame whose codestream claims another size than the header, or fill in for missing bytes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from exporter.dicom.elements import value_of
from exporter.dicom.structure import GE_PRIVATE_BE
from exporter.errors import BadGeometry, CorruptPixels, FrameSizesDiffer, TooLarge, UnsupportedSyntax
from exporter.frames import cells
from exporter.frames.codecs import Decoded, decode, jpeg_planes
from exporter.frames.codestream import Codec, Codestream, sniff, starts_codestream
from exporter.frames.completeness import check_completeness
from exporter.frames.fragments import (
    ITEM,
    ExtendedOffsets,
    Fragments,
    Frame,
    Span,
    index_frames,
    read_fragments,
    read_frame,
)
from exporter.frames.rle import looks_like_rle, rle_planes
from exporter.frames.transfer_syntaxes import Family, family_of

if TYPE_CHECKING:
    from av import VideoFrame

    from exporter.dicom.bytesource import ByteSource
    from exporter.dicom.instance import Instance
    from exporter.dicom.pixels import PixelDescription
    from exporter.settings.settings import LimitSettings

FREE_FRAMES: Final = 1000
"""Frames that any instance may have, however small it is."""
_HEAD_BYTES: Final = 1 << 16
_ENCODED_SLACK: Final = 16 << 20
"""Bytes a compressed frame may have beyond four times its native size: metadata segments, thumbnails."""


@dataclass(frozen=True, slots=True)
class Samples:
    """One frame as stored values."""

    values: np.ndarray
    """``(rows, columns)`` or ``(rows, columns, 3)``; integers with their sign, or floats."""
    colour: str
    """``MONOCHROME``, ``PALETTE COLOR``, ``RGB``, ``YBR_FULL``, ``YBR_PARTIAL_422``, ..."""
    bits: int
    """Bits that integer values may have, the sign included."""


class FrameReader(Protocol):
    """Frames by index."""

    def samples(self, index: int, *, to_rgb: bool) -> Samples:
        """One frame; `to_rgb` lets a codec convert colours where it can."""
        ...

    def encoded(self, index: int) -> bytes:
        """The compressed bytes of one frame, without padding."""
        ...

    @property
    def codec(self) -> Codec | None:
        """The codestream of the frames, where they have one."""
        ...

    def fits(self, index: int) -> bool:
        """Whether one frame has the size that the header says."""
        ...


def open_reader(instance: Instance, pixels: PixelDescription, limits: LimitSettings, notes: list[str]) -> FrameReader:
    """The reader for the pixel data, by transfer syntax, or by the bytes where that is provably wrong.

    Raises:
        UnsupportedSyntax: Nothing here reads it.
        CorruptPixels: Frames are missing, or cannot be separated.
        BadGeometry: The header contradicts the length of the data.
        TooLarge: There are more frames than are permitted for the size of the instance.
    """
    _refuse_tiny_frames(instance, pixels, limits)
    family = family_of(instance.transfer_syntax)
    if family is Family.ELSEWHERE:
        raise UnsupportedSyntax("the pixels are not in the instance: it refers to a server or a stream")
    if family is Family.UNSUPPORTED:
        raise UnsupportedSyntax(f"no decoder for transfer syntax {instance.transfer_syntax}")
    if pixels.length == 0:
        raise CorruptPixels(f"(7FE0,0010) {pixels.keyword} is empty")
    head = instance.data.read_at(pixels.offset, 12)
    if not pixels.encapsulated:
        exact = 0 <= pixels.length - native_bytes(pixels) <= 1 and not _is_stream(head)
        if family is Family.NATIVE or exact:
            if family is not Family.NATIVE:
                notes.append(
                    "(0002,0010) Transfer Syntax UID does not fit the pixel data: read as the native cells they are"
                )
            return NativeReader(instance, pixels, notes)
        notes.append("(7FE0,0010) Pixel Data has a defined length although it is compressed")
    if head[:4] == ITEM:
        end = pixels.offset + pixels.length
        fragments = read_fragments(instance.data, pixels.offset, end, limits.max_elements)
        frames = index_frames(instance.data, fragments, pixels.frames, _extended_offsets(instance), notes)
    elif starts_codestream(head) and pixels.frames == 1:
        notes.append("the codestream is not encapsulated in fragments")
        frames = (_bare_codestream(instance.data, pixels),)
    else:
        raise CorruptPixels("(7FE0,0010) Pixel Data is encapsulated and does not begin with an item")
    return _encapsulated(instance, pixels, frames, family, notes)


def _refuse_tiny_frames(instance: Instance, pixels: PixelDescription, limits: LimitSettings) -> None:
    size = instance.data.size
    if limits.min_frame_bytes and pixels.frames > FREE_FRAMES + size // limits.min_frame_bytes:
        raise TooLarge(
            f"the instance has {pixels.frames} frames in {size} bytes: beyond {FREE_FRAMES}, permitted is one for each "
            f"{limits.min_frame_bytes} bytes (limits.min_frame_bytes)"
        )


def _is_stream(head: bytes) -> bool:
    return head[:4] == ITEM or starts_codestream(head)


def native_bytes(pixels: PixelDescription) -> int:
    """Bytes of all frames when they are native."""
    return -(-cells.frame_bits(pixels) * pixels.frames // 8)


def _bare_codestream(source: ByteSource, pixels: PixelDescription) -> Frame:
    """The codestream that is the value itself; behind it there may be padding and a sequence delimiter."""
    _refuse_huge(pixels.length, pixels)
    data = source.read_at(pixels.offset, pixels.length)
    end = data.rfind(b"\xff\xd9")
    return (Span(pixels.offset, end + 2 if end >= 0 else len(data)),)


def _refuse_huge(length: int, pixels: PixelDescription) -> None:
    most = 4 * cells.frame_bytes(pixels) + _ENCODED_SLACK
    if length > most:
        raise TooLarge(f"a compressed frame has {length} bytes, more than {most} are not read for its size")


def _extended_offsets(instance: Instance) -> ExtendedOffsets | None:
    """(7FE0,0001) and (7FE0,0002), where both can be read."""
    try:
        offsets, lengths = (
            value_of(instance.source_header, k) for k in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
        )
    except ValueError:
        return None
    if not isinstance(offsets, bytes) or len(offsets) < 8:
        return None
    lengths = lengths if isinstance(lengths, bytes) else b""
    table, sizes = (np.frombuffer(raw[: len(raw) // 8 * 8], "<u8").tolist() for raw in (offsets, lengths))
    return ExtendedOffsets(tuple(table), tuple(sizes))


class NativeReader:
    """Uncompressed frames, one after the other."""

    codec: Codec | None = None

    def __init__(self, instance: Instance, pixels: PixelDescription, notes: list[str]) -> None:
        self._source = instance.data
        self._pixels = _as_long_as_there(pixels, notes)
        self._big_endian = instance.big_endian or instance.transfer_syntax == GE_PRIVATE_BE
        # PS3.5 annex A.3: OW are 16-bit words; cells of at most a byte, and packed ones, lie swapped in them.
        within_words = self._pixels.bits_allocated in {1, 8, cells.PACKED}
        self._swapped = self._big_endian and pixels.vr == "OW" and within_words
        if instance.transfer_syntax == GE_PRIVATE_BE:
            self._swapped = within_words

    def samples(self, index: int, *, to_rgb: bool) -> Samples:  # noqa: ARG002 - native cells convert elsewhere
        """One frame."""
        pixels = self._pixels
        bits = cells.frame_bits(pixels)
        first, skip = divmod(index * bits, 8)
        raw = self._bytes(first, -(-(skip + bits) // 8))
        if pixels.bits_allocated == 1:
            values = cells.unpack_bits(raw, skip, pixels)
        else:
            values = cells.from_native(raw, pixels, big_endian=self._big_endian, skip=skip)
        return Samples(values, _native_colour(pixels), pixels.bits_stored)

    def encoded(self, index: int) -> bytes:  # noqa: ARG002 - the protocol's
        """Native frames are not encoded."""
        raise UnsupportedSyntax("native frames have no encoded form")

    def fits(self, index: int) -> bool:  # noqa: ARG002 - the protocol's
        """Native frames have no size of their own."""
        return True

    def _bytes(self, first: int, length: int) -> bytes | memoryview:
        offset = self._pixels.offset
        if not self._swapped:
            is_aligned = (offset + first) % max(1, self._pixels.bits_allocated // 8) == 0
            return (self._source.view_at if is_aligned else self._source.read_at)(offset + first, length)
        odd = first % 2
        words = self._source.read_at(offset + first - odd, (length + odd + 1) // 2 * 2)
        if len(words) % 2:
            words += b"\0"  # a value of odd length: its last word is half there
        return np.frombuffer(words, "<u2").byteswap().tobytes()[odd : odd + length]


def _as_long_as_there(pixels: PixelDescription, notes: list[str]) -> PixelDescription:
    """The description, if the value is as long as its frames need.

    Raises:
        CorruptPixels: It is shorter.
    """
    expected = native_bytes(pixels)
    whole = 2 * pixels.frame_pixels * pixels.samples * pixels.frames
    if pixels.bits_allocated == cells.PACKED and whole <= pixels.length <= whole + 1:
        notes.append("(0028,0100) Bits Allocated is 12, the pixel data have 16 bits per cell: read as 16")
        return replace(pixels, bits_allocated=16)
    full = 3 * pixels.frame_pixels * pixels.frames * pixels.bits_allocated // 8
    if cells.is_422(pixels) and full <= pixels.length <= full + 1:
        notes.append("(0028,0004) Photometric Interpretation says 4:2:2, the pixel data are not subsampled")
        return replace(pixels, photometric=pixels.photometric.removesuffix("_422"))
    if pixels.length < expected:
        raise CorruptPixels(
            f"(7FE0,0010) {pixels.keyword} has {pixels.length} bytes, {pixels.frames} frames of "
            f"{pixels.rows} x {pixels.columns} need {expected}"
        )
    if pixels.length > expected + 1 and pixels.declared_length is not None:
        notes.append("(7FE0,0010) Pixel Data is longer than its frames: the rest is left out")
    return pixels


def _native_colour(pixels: PixelDescription) -> str:
    label = pixels.photometric
    if pixels.samples == 1:
        return "PALETTE COLOR" if label == "PALETTE COLOR" else "MONOCHROME"
    return {"YBR_FULL_422": "YBR_FULL", "YBR_PARTIAL_420": "YBR_PARTIAL_422", "YBR_PARTIAL": "YBR_PARTIAL_422"}.get(
        label, label
    )


def _encapsulated(
    instance: Instance, pixels: PixelDescription, frames: tuple[Frame, ...], family: Family, notes: list[str]
) -> FrameReader:
    """The reader of the family the frames are provably in."""
    head = instance.data.read_at(frames[0][0].offset, min(64, frames[0][0].length))
    sizes = {sum(span.length for span in frame) for frame in frames}
    native, width = cells.frame_bytes(pixels), max(1, pixels.bits_allocated // 8)
    if family is Family.CODESTREAM and sniffable(head):
        return CodestreamReader(instance.data, pixels, frames, notes, instance.limits.max_jpeg_scans)
    if family is Family.RLE and looks_like_rle(head, pixels.samples * width):
        return RleReader(instance.data, pixels, frames, notes)
    if family is Family.DEFLATED_FRAMES and not sniffable(head) and not looks_like_rle(head, pixels.samples * width):
        return DeflatedReader(instance.data, pixels, frames, notes)
    if family in {Family.ENCAPSULATED_NATIVE, Family.NATIVE} and sizes <= {native, native + native % 2}:
        if family is Family.NATIVE:
            notes.append("the pixel data are encapsulated although (0002,0010) Transfer Syntax UID says native")
        return EncapsulatedNativeReader(instance.data, pixels, frames, notes)
    if sniffable(head):
        notes.append("(0002,0010) Transfer Syntax UID does not fit the pixel data: read as the codestream they are")
        return CodestreamReader(instance.data, pixels, frames, notes, instance.limits.max_jpeg_scans)
    if looks_like_rle(head, pixels.samples * width):
        notes.append("(0002,0010) Transfer Syntax UID does not fit the pixel data: read as the RLE they are")
        return RleReader(instance.data, pixels, frames, notes)
    if family in {Family.NATIVE, Family.UNKNOWN}:
        raise UnsupportedSyntax(f"no decoder for encapsulated pixel data in transfer syntax {instance.transfer_syntax}")
    raise CorruptPixels("the first frame does not begin as its transfer syntax demands")


def sniffable(head: bytes) -> bool:
    """Whether `head` is the beginning of a codestream."""
    return starts_codestream(head)


class _EncapsulatedReader:
    """Frames in fragments."""

    codec: Codec | None = None

    def __init__(
        self, source: ByteSource, pixels: PixelDescription, frames: tuple[Frame, ...], notes: list[str]
    ) -> None:
        self._source = source
        self._pixels = pixels
        self._frames = frames
        self._notes = notes

    def encoded(self, index: int) -> bytes:
        """The bytes of one frame, as they are."""
        frame = self._frames[index]
        _refuse_huge(sum(span.length for span in frame), self._pixels)
        return read_frame(self._source, frame)

    def fits(self, index: int) -> bool:  # noqa: ARG002 - the protocol's
        """Frames without a codestream have no size of their own."""
        return True


class CodestreamReader(_EncapsulatedReader):
    """JPEG, JPEG-LS, JPEG 2000, HTJ2K, JPEG XL."""

    def __init__(
        self,
        source: ByteSource,
        pixels: PixelDescription,
        frames: tuple[Frame, ...],
        notes: list[str],
        max_jpeg_scans: int,
    ) -> None:
        super().__init__(source, pixels, frames, notes)
        self._max_jpeg_scans = max_jpeg_scans
        first = frames[0][0]
        head = source.read_at(first.offset, min(first.length, _HEAD_BYTES))
        try:
            header = sniff(head)
        except CorruptPixels:  # a long header, or a damaged one: the whole frame tells
            header = sniff(self.encoded(0))
        self.codec = header.codec if header else None

    def encoded(self, index: int) -> bytes:
        """The codestream of one frame, without the byte that pads its fragment."""
        data = super().encoded(index)
        return data[:-1] if data.endswith(b"\xff\xd9\0") else data

    def fits(self, index: int) -> bool:
        """Whether the codestream of one frame has the size that the header says."""
        header = sniff(self.encoded(index))
        if header is not None:
            try:
                self._check(header)
            except FrameSizesDiffer:
                return False
        return True

    def samples(self, index: int, *, to_rgb: bool) -> Samples:
        """One frame; its codestream's size is checked first."""
        data, header = self._checked(index)
        decoded = decode(data, header, self._pixels.photometric, to_rgb=to_rgb)
        self._note_colour(header, decoded.proven)
        if decoded.note is not None:
            self._notes.append(decoded.note)
        return self._stored(header, decoded)

    def planes(self, index: int) -> VideoFrame | None:
        """Luma and chroma of one JPEG frame as they are coded, checked as for `samples`; None where it has none."""
        data, header = self._checked(index)
        if header.codec is not Codec.JPEG:
            return None
        planes = jpeg_planes(data, header, self._pixels.photometric)
        if planes is not None:
            self._note_colour(header, "YBR_FULL")
        return planes

    def _checked(self, index: int) -> tuple[bytes, Codestream]:
        """One frame and its header, if it has the size it must have, and all its units."""
        data = self.encoded(index)
        header = sniff(data)
        if header is None:
            raise CorruptPixels(f"frame {index + 1} does not begin as a codestream")
        self._check(header)
        if header.codec in {Codec.JPEG, Codec.JPEG_LS}:
            self._refuse_many_scans(data, header, index)
        self._notes.extend(check_completeness(data, header))
        return data, header

    def _refuse_many_scans(self, data: bytes, header: Codestream, index: int) -> None:
        """Refuse a frame whose markers say SOS (T.81 B.1.1.3) too often: in entropy-coded data a zero follows FF."""
        scans = data.count(b"\xff\xda")
        if scans > self._max_jpeg_scans:
            raise TooLarge(
                f"the {header.codec} of frame {index + 1} has {scans} scans, permitted are {self._max_jpeg_scans} "
                "(limits.max_jpeg_scans)"
            )

    def _check(self, header: Codestream) -> None:
        pixels = self._pixels
        differs = BadGeometry if pixels.frames == 1 else FrameSizesDiffer
        if (header.rows, header.columns) != (pixels.rows, pixels.columns):
            raise differs(
                f"the codestream has {header.rows} rows x {header.columns} columns, "
                f"(0028,0010) Rows x (0028,0011) Columns are {pixels.rows} x {pixels.columns}"
            )
        if header.components != pixels.samples:
            raise differs(
                f"the codestream has {header.components} components, (0028,0002) Samples per Pixel is {pixels.samples}"
            )
        if header.precision > 32 or (header.precision > 16 and header.codec is not Codec.JPEG_2000):
            raise UnsupportedSyntax(f"{header.codec} of {header.precision} bits is not decoded")

    def _stored(self, header: Codestream, decoded: Decoded) -> Samples:
        """Decoded samples with their sign (PS3.5 8.2: the sign is Pixel Representation's, and JPEG 2000's own)."""
        pixels, values = self._pixels, decoded.samples
        bits = max(header.precision, pixels.bits_stored)
        if header.signed != pixels.signed and header.codec is Codec.JPEG_2000:
            self._notes.append("(0028,0103) Pixel Representation contradicts the JPEG 2000 codestream")
        if values.dtype.kind == "u" and pixels.signed:
            values = cells.sign_extended(values, min(pixels.bits_stored, 8 * values.dtype.itemsize))
        colour = decoded.colour
        if colour == "MONOCHROME" and pixels.photometric == "PALETTE COLOR":
            colour = "PALETTE COLOR"
        return Samples(values, colour, min(bits, 8 * values.dtype.itemsize))

    def _note_colour(self, header: Codestream, proven: str | None) -> None:
        if header.components != 3:
            return
        label, note = self._pixels.photometric, "(0028,0004) Photometric Interpretation says"
        if header.codec is Codec.JPEG and (label == "RGB") != (proven == "RGB"):
            self._notes.append(f"{note} {label}, the JPEG holds {'RGB' if proven == 'RGB' else 'YCbCr'}")
        elif header.codec is Codec.JPEG_2000 and label in {"YBR_ICT", "YBR_RCT"}:
            if not header.multiple_component_transform:
                self._notes.append(f"{note} YBR, the JPEG 2000 has no such transform: read as RGB")
        elif header.codec is Codec.JPEG_2000 and label.startswith("YBR") and header.multiple_component_transform:
            self._notes.append(f"{note} YBR, the JPEG 2000 has a transform of its own: read as RGB")


class RleReader(_EncapsulatedReader):
    """RLE Lossless."""

    def samples(self, index: int, *, to_rgb: bool) -> Samples:  # noqa: ARG002 - native cells convert elsewhere
        """One frame."""
        pixels = self._pixels
        planes = rle_planes(self.encoded(index), pixels, self._notes)
        if pixels.bits_allocated == 1:
            values = cells.unpack_bits(planes.tobytes(), 0, pixels)
        else:
            shaped = planes.reshape(pixels.samples, pixels.rows, pixels.columns)
            frame = shaped[0] if pixels.samples == 1 else np.ascontiguousarray(shaped.transpose(1, 2, 0))
            values = cells.stored_values(frame, pixels)
        return Samples(values, _native_colour(pixels), pixels.bits_stored)


class EncapsulatedNativeReader(_EncapsulatedReader):
    """Encapsulated Uncompressed Explicit VR Little Endian: native frames in fragments (PS3.5 A.4.11)."""

    def samples(self, index: int, *, to_rgb: bool) -> Samples:  # noqa: ARG002 - native cells convert elsewhere
        """One frame."""
        values = cells.from_native(self.encoded(index), self._pixels)
        return Samples(values, _native_colour(self._pixels), self._pixels.bits_stored)


class DeflatedReader(_EncapsulatedReader):
    """Deflated Image Frame Compression: each frame deflated by itself (PS3.5 A.4.13)."""

    def samples(self, index: int, *, to_rgb: bool) -> Samples:  # noqa: ARG002 - native cells convert elsewhere
        """One frame, inflated to exactly its size."""
        expected = cells.frame_bytes(self._pixels)
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            raw = stream.decompress(self.encoded(index), expected + 2)
        except zlib.error:
            raise CorruptPixels("a deflated frame is damaged") from None
        if not expected <= len(raw) <= expected + 1:
            raise CorruptPixels(f"a deflated frame inflates to {len(raw)} or more bytes, {expected} are needed")
        if not stream.eof:
            raise CorruptPixels("a deflated frame ends before its last block")
        if any(stream.unused_data):
            self._notes.append("bytes follow the last block of a deflated frame: left out")
        values = cells.from_native(raw, self._pixels)
        return Samples(values, _native_colour(self._pixels), self._pixels.bits_stored)


__all__ = ["Fragments", "FrameReader", "Samples", "native_bytes", "open_reader"]
