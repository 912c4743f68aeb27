"""Makes corrupted and hostile DICOM files: broken real ones and made ones, none kept as a file in the repository."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
RLE = "1.2.840.10008.1.2.5"
H264 = "1.2.840.10008.1.2.4.102"
SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"


def meta(syntax: str, uid: str) -> bytes:
    """Preamble, prefix and file meta information."""
    made = FileMetaDataset()
    made.TransferSyntaxUID = syntax
    made.MediaStorageSOPClassUID, made.MediaStorageSOPInstanceUID = SOP_CLASS, uid
    made.FileMetaInformationVersion = b"\0\1"
    made.ImplementationClassUID = "1.2.3.4"
    buffer = pydicom.filebase.DicomBytesIO()
    pydicom.filewriter.write_file_meta_info(buffer, made, enforce_standard=True)
    return bytes(128) + b"DICM" + buffer.getvalue()


def element(group: int, number: int, vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    """One explicit little endian element, its length a lie where given."""
    value += b"\0" * (len(value) % 2)
    size = len(value) if length is None else length
    long = vr in {b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"UC"}
    head = struct.pack("<HH2s", group, number, vr) + (struct.pack("<HI", 0, size) if long else struct.pack("<H", size))
    return head + value


def header(uid: str, **changed: bytes) -> bytes:
    """Elements of a plain 8 bit 64 x 64 image up to its pixel data; `changed` by keyword replaces values."""
    values = {
        "rows": struct.pack("<H", 64),
        "columns": struct.pack("<H", 64),
        "samples": struct.pack("<H", 1),
        "photometric": b"MONOCHROME2 ",
        "frames": b"1 ",
        "allocated": struct.pack("<H", 8),
        "stored": struct.pack("<H", 8),
        "high": struct.pack("<H", 7),
        "signed": struct.pack("<H", 0),
        "extra": b"",
        **changed,
    }
    return b"".join(
        (
            element(0x0008, 0x0016, b"UI", SOP_CLASS.encode()),
            element(0x0008, 0x0018, b"UI", uid.encode()),
            element(0x0020, 0x000D, b"UI", b"1.2.3"),
            element(0x0020, 0x000E, b"UI", b"1.2.3.4"),
            element(0x0028, 0x0002, b"US", values["samples"]),
            element(0x0028, 0x0004, b"CS", values["photometric"]),
            element(0x0028, 0x0008, b"IS", values["frames"]),
            element(0x0028, 0x0010, b"US", values["rows"]),
            element(0x0028, 0x0011, b"US", values["columns"]),
            element(0x0028, 0x0100, b"US", values["allocated"]),
            element(0x0028, 0x0101, b"US", values["stored"]),
            element(0x0028, 0x0102, b"US", values["high"]),
            element(0x0028, 0x0103, b"US", values["signed"]),
            values["extra"],
        )
    )


def native(**changed: bytes) -> bytes:
    """A made uncompressed file with changed elements and 4,096 bytes of pixel data."""
    uid = generate_uid()
    return meta(ExplicitVRLittleEndian, uid) + header(uid, **changed) + element(0x7FE0, 0x0010, b"OW", bytes(4096))


def encapsulated(syntax: str, stream: bytes, **changed: bytes) -> bytes:
    """A made file whose one encapsulated frame is `stream`."""
    uid = generate_uid()
    stream += b"\0" * (len(stream) % 2)
    pixels = (
        struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
        + struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(stream))
        + stream
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )
    return meta(syntax, uid) + header(uid, **changed) + pixels


def jpeg(rows: int, columns: int) -> bytes:
    """A real 64 x 64 JPEG whose frame header claims another size."""
    import imagecodecs

    stream = bytearray(imagecodecs.jpeg8_encode(np.zeros((64, 64), np.uint8)))
    at = stream.index(b"\xff\xc0")
    struct.pack_into(">HH", stream, at + 5, rows, columns)
    return bytes(stream)


def jpeg_2000(rows: int, columns: int) -> bytes:
    """A real JPEG 2000 codestream whose SIZ marker claims another size."""
    import imagecodecs

    stream = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), codecformat="j2k"))
    at = stream.index(b"\xff\x51")
    struct.pack_into(">II", stream, at + 6, columns, rows)
    return bytes(stream)


def jpeg_ls(rows: int, columns: int) -> bytes:
    """A real JPEG-LS stream whose SOF55 claims another size."""
    import imagecodecs

    stream = bytearray(imagecodecs.jpegls_encode(np.zeros((64, 64), np.uint8)))
    at = stream.index(b"\xff\xf7")
    struct.pack_into(">HH", stream, at + 5, rows, columns)
    return bytes(stream)


def deflate_bomb(size: int) -> bytes:
    """A deflated data set of a few MiB that inflates to `size` bytes of pixel data."""
    uid = generate_uid()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, min(size, 0xFFFFFFFE))
    head = packer.compress(header(uid) + pixels) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block depends on nothing before it: one block of zeros, repeated, is a valid stream.
    zeros = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return meta(DEFLATED, uid) + head + zeros * (size >> 20) + packer.flush()


def nested(depth: int) -> bytes:
    """Sequences within sequences."""
    uid = generate_uid()
    opened = element(0x0008, 0x1115, b"SQ", b"", length=0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closed = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return meta(ExplicitVRLittleEndian, uid) + header(uid) + opened * depth + closed * depth


def empty_items(count: int) -> bytes:
    """One sequence of very many empty items."""
    uid = generate_uid()
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count
    return meta(ExplicitVRLittleEndian, uid) + header(uid, extra=element(0x0008, 0x1115, b"SQ", items))


def truncated_at_every_group(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The file, cut in the middle of the first element of each group."""
    whole = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data))
    seen: set[int] = set()
    for item in whole:
        if item.tag.group not in seen and item.tag.group != 2:
            seen.add(item.tag.group)
            at = data.index(struct.pack("<HH", item.tag.group, item.tag.element), 132) + 6
            yield f"truncated-at-{item.tag.group:04x}", data[:at]


US = struct.Struct("<H").pack


def hostile_files() -> dict[str, Callable[[], bytes]]:
    """Names and makers of all of them."""
    from pathlib import Path as RealPath

    ct = RealPath(str(get_testdata_file("CT_small.dcm"))).read_bytes()
    ybr = RealPath(str(get_testdata_file("SC_rgb_jpeg_dcmtk.dcm"))).read_bytes()
    huge = {"rows": US(65535), "columns": US(65535)}
    made: dict[str, Callable[[], bytes]] = {
        "zero-bytes": lambda: b"",
        "one-byte": lambda: b"D",
        "prefix-only": lambda: bytes(128) + b"DICM",
        "meta-only": lambda: meta(ExplicitVRLittleEndian, generate_uid()),
        "rows-65535": lambda: native(**huge),
        "rows-65535-16-bit": lambda: native(**huge, allocated=US(16), stored=US(16), high=US(15)),
        "rows-65535-rgb-frames": lambda: native(**huge, samples=US(3), photometric=b"RGB ", frames=b"2147483647"),
        "rows-zero": lambda: native(rows=US(0)),
        "columns-zero": lambda: native(columns=US(0)),
        "rows-three-bytes": lambda: native(rows=b"\x40\0\0"),
        "frames-not-a-number": lambda: native(frames=b"many"),
        "frames-negative": lambda: native(frames=b"-3"),
        "frames-missing-data": lambda: native(frames=b"12"),
        "frames-huge": lambda: native(frames=b"2147483647"),
        "samples-seven": lambda: native(samples=US(7)),
        "samples-three-monochrome": lambda: native(samples=US(3)),
        "photometric-unknown": lambda: native(photometric=b"CMYKISH "),
        "palette-without-table": lambda: native(photometric=b"PALETTE COLOR "),
        "allocated-64": lambda: native(allocated=US(64), stored=US(64), high=US(63)),
        "allocated-zero": lambda: native(allocated=US(0)),
        "stored-over-allocated": lambda: native(stored=US(16), high=US(15)),
        "pixel-length-lie": lambda: (
            meta(ExplicitVRLittleEndian, "1.2.9")
            + header("1.2.9")
            + element(0x7FE0, 0x10, b"OW", bytes(64), length=4096)
        ),
        "element-length-2-gb": lambda: (
            meta(ExplicitVRLittleEndian, "1.2.8")
            + header("1.2.8")
            + element(0x0009, 0x0010, b"UN", b"x" * 64, length=1 << 31)
        ),
        "undefined-length-no-end": lambda: (
            meta(ExplicitVRLittleEndian, "1.2.7")
            + header("1.2.7")
            + element(0x0009, 0x1010, b"UN", b"y" * 64, length=0xFFFFFFFF)
        ),
        "nested-300": lambda: nested(300),
        "nested-100000": lambda: nested(100_000),
        "million-empty-items": lambda: empty_items(1_000_000),
        "deflate-bomb": lambda: deflate_bomb(6 << 30),
        "deflate-garbage": lambda: meta(DEFLATED, "1.2.6") + b"\xff" * 999,
        "jpeg-claims-65000": lambda: encapsulated(JPEG_BASELINE, jpeg(65000, 65000)),
        "jpeg-claims-less": lambda: encapsulated(JPEG_BASELINE, jpeg(8, 8)),
        "jpeg-claims-more-as-header": lambda: encapsulated(
            JPEG_BASELINE, jpeg(30000, 30000), rows=US(30000), columns=US(30000)
        ),
        "jpeg-cut": lambda: encapsulated(JPEG_BASELINE, jpeg(64, 64)[:200]),
        "jpeg-noise": lambda: encapsulated(JPEG_BASELINE, b"\xff\xd8" + bytes(range(256)) * 4),
        "jpeg-empty": lambda: encapsulated(JPEG_BASELINE, b""),
        "jpeg-2000-claims-65000": lambda: encapsulated(JPEG_2000, jpeg_2000(65000, 65000)),
        "jpeg-2000-claims-2-31": lambda: encapsulated(JPEG_2000, jpeg_2000(1 << 31, 1 << 31)),
        "jpeg-2000-cut": lambda: encapsulated(JPEG_2000, jpeg_2000(64, 64)[:90]),
        "jpeg-ls-claims-65000": lambda: encapsulated(JPEG_LS, jpeg_ls(65000, 65000)),
        "jpeg-ls-cut": lambda: encapsulated(JPEG_LS, jpeg_ls(64, 64)[:28]),
        "rle-table-lies": lambda: encapsulated(RLE, struct.pack("<16I", 1, 1 << 30, *[0] * 14) + bytes(64)),
        "rle-sixteen-segments": lambda: encapsulated(RLE, struct.pack("<16I", 16, *range(64, 79)) + bytes(640)),
        "rle-short": lambda: encapsulated(RLE, struct.pack("<16I", 1, 64, *[0] * 14) + b"\xfe\x00"),
        "video-noise": lambda: encapsulated(H264, bytes(range(256)) * 64, frames=b"9 "),
        "video-empty": lambda: encapsulated(H264, b"", frames=b"9 "),
        "syntax-unknown": lambda: native().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
        "implicit-said-explicit": lambda: native().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"),
        "elf": lambda: b"\x7fELF" + bytes(4000),
        "pdf": lambda: b"%PDF-1.7\n" + b"%" * 4000,
        "half-jpeg-file": lambda: ybr[: len(ybr) // 2],
        "bits-flipped": lambda: bytes(b ^ (0x55 if k > 600 and k % 97 == 0 else 0) for k, b in enumerate(ct)),
        "meta-length-lie": lambda: ct[:140] + struct.pack("<I", 1 << 30) + ct[144:],
    }
    made.update((name, lambda data=data: data) for name, data in truncated_at_every_group(ct))  # type: ignore[misc]
    return made


def write_hostile_files(folder: Path, files: dict[str, Callable[[], bytes]] | None = None) -> list[Path]:
    """Write all of them below a folder, or `files`."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, make in (hostile_files() if files is None else files).items():
        path = folder / f"{name}.dcm"
        path.write_bytes(make())
        written.append(path)
    return written


# -- small files that take long --------------------------------------------------------------------------------------


def fragments(syntax: str, parts: list[bytes], table: bytes = b"", **changed: bytes) -> bytes:
    """A made file of these fragments, and a basic offset table."""
    uid = generate_uid()
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part for part in (table, *parts))
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + items
    return meta(syntax, uid) + header(uid, **changed) + pixels + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def tiny_frames(count: int, side: int = 1) -> bytes:
    """Very many uncompressed frames of `side` x `side` pixels."""
    uid = generate_uid()
    size = {"rows": US(side), "columns": US(side), "frames": str(count).encode()}
    pixels = element(0x7FE0, 0x0010, b"OW", bytes(number % 256 for number in range(count * side * side)))
    return meta(ExplicitVRLittleEndian, uid) + header(uid, **size) + pixels


def jpeg_scans(count: int, side: int = 512) -> bytes:
    """A progressive JPEG whose last scan comes `count` times more."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(buffer, "JPEG", progressive=True)
    stream = buffer.getvalue()
    return stream[:-2] + stream[stream.rindex(b"\xff\xda") : -2] * count + stream[-2:]


def jpeg_markers(count: int) -> bytes:
    """A JPEG with very many empty comments."""
    stream = jpeg(64, 64)
    return stream[:2] + b"\xff\xfe\0\2" * count + stream[2:]


def jpeg_2000_tiles(side: int, tile: int) -> bytes:
    """A JPEG 2000 codestream of tiny tiles."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    picture = Image.fromarray(np.zeros((side, side), np.uint8))
    picture.save(buffer, "JPEG2000", no_jp2=True, tile_size=(tile, tile), num_resolutions=1)
    return buffer.getvalue()


def jpeg_2000_layers(layers: int) -> bytes:
    """A JPEG 2000 codestream whose COD marker claims very many layers."""
    stream = bytearray(jpeg_2000(64, 64))
    struct.pack_into(">H", stream, stream.index(b"\xff\x52") + 6, layers)
    return bytes(stream)


def sequence_of(items: list[bytes], group: int = 0x0008, number: int = 0x1115) -> bytes:
    """One sequence of these items."""
    return element(
        group, number, b"SQ", b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    )


def with_elements(extra: bytes) -> bytes:
    """A plain image with elements behind its own."""
    return native(extra=extra)


def report(items: bytes) -> bytes:
    """A structured report of these content items."""
    uid = generate_uid()
    sop_class = b"1.2.840.10008.5.1.4.1.1.88.33"
    head = b"".join(
        (
            element(0x0008, 0x0016, b"UI", sop_class),
            element(0x0008, 0x0018, b"UI", uid.encode()),
            element(0x0020, 0x000D, b"UI", b"1.2.3"),
            element(0x0020, 0x000E, b"UI", b"1.2.3.4"),
            element(0x0040, 0xA040, b"CS", b"CONTAINER "),
        )
    )
    return meta(ExplicitVRLittleEndian, uid) + head + items


TEXT_ITEM = (
    element(0x0040, 0xA010, b"CS", b"CONTAINS")
    + element(0x0040, 0xA040, b"CS", b"TEXT")
    + element(0x0040, 0xA160, b"UT", b"x ")
)


def waveform(channels: int, groups: int) -> bytes:
    """An ECG of very many multiplex groups and channels, without samples."""
    uid = generate_uid()
    channel = sequence_of([element(0x003A, 0x021A, b"US", US(16))] * channels, 0x003A, 0x0200)
    group = (
        element(0x003A, 0x0005, b"US", US(min(channels, 65535)))
        + element(0x003A, 0x0010, b"UL", struct.pack("<I", 1))
        + element(0x003A, 0x001A, b"DS", b"500 ")
        + channel
        + element(0x5400, 0x1004, b"US", US(16))
        + element(0x5400, 0x1006, b"CS", b"SS")
        + element(0x5400, 0x1010, b"OW", bytes(2 * channels))
    )
    head = element(0x0008, 0x0016, b"UI", b"1.2.840.10008.5.1.4.1.1.9.1.1") + element(
        0x0008, 0x0018, b"UI", uid.encode()
    )
    return meta(ExplicitVRLittleEndian, uid) + head + sequence_of([group] * groups, 0x5400, 0x0100)


def elements(count: int) -> bytes:
    """Very many private elements of no value."""
    return b"".join(
        element(0x0009 + 2 * (number >> 14), 0x1000 + (number & 0x3FFF), b"LO", b"") for number in range(count)
    )


def overlays(count: int) -> bytes:
    """Overlay planes that claim the largest size."""
    planes = []
    for group in range(0x6000, 0x6000 + 2 * count, 2):
        planes += [
            element(group, 0x0010, b"US", US(65535)),
            element(group, 0x0011, b"US", US(65535)),
            element(group, 0x0040, b"CS", b"G "),
            element(group, 0x0050, b"SS", struct.pack("<hh", 1, 1)),
            element(group, 0x0100, b"US", US(1)),
            element(group, 0x0102, b"US", US(0)),
            element(group, 0x3000, b"OW", bytes(64)),
        ]
    return b"".join(planes)


def costly_files() -> dict[str, Callable[[], bytes]]:
    """Names and makers of files whose parts are many: each part costs, however small it is."""
    rgb = {"samples": US(3), "photometric": b"RGB "}
    large = {"rows": US(512), "columns": US(512)}
    many = b"100000"
    return {
        "frames-1-pixel": lambda: tiny_frames(100_000),
        "frames-1-pixel-permitted": lambda: tiny_frames(1_040),
        "frames-8x8": lambda: tiny_frames(20_000, 8),
        "frames-rle-1-pixel": lambda: fragments(
            RLE, [struct.pack("<16I", 1, 64, *[0] * 14) + b"\0\1"] * 20_000, rows=US(1), columns=US(1), frames=b"20000 "
        ),
        "frames-jpeg-8x8": lambda: fragments(
            JPEG_BASELINE, [_even(jpeg_of(8))] * 10_000, rows=US(8), columns=US(8), frames=b"10000 "
        ),
        "jpeg-20000-scans": lambda: encapsulated(JPEG_BASELINE, jpeg_scans(20_000), **large),
        "jpeg-90-scans": lambda: encapsulated(JPEG_BASELINE, jpeg_scans(90), **large),
        "jpeg-100000-comments": lambda: encapsulated(JPEG_BASELINE, jpeg_markers(100_000)),
        "jpeg-2000-tiles": lambda: encapsulated(JPEG_2000, jpeg_2000_tiles(512, 4), **large),
        "jpeg-2000-65535-layers": lambda: encapsulated(JPEG_2000, jpeg_2000_layers(65535)),
        "fragments-empty": lambda: fragments(JPEG_BASELINE, [b""] * 200_000 + [_even(jpeg(64, 64))]),
        "offsets-many": lambda: fragments(JPEG_BASELINE, [_even(jpeg(64, 64))], table=bytes(4 * 200_000)),
        "offsets-many-frames": lambda: fragments(
            JPEG_BASELINE, [_even(jpeg(64, 64))] * 2, table=bytes(4 * 100_000), frames=many
        ),
        "items-empty": lambda: with_elements(sequence_of([b""] * 100_000)),
        "items-of-one-element": lambda: with_elements(
            sequence_of([element(0x0008, 0x1155, b"UI", b"1.2.3\0")] * 50_000)
        ),
        "elements-private": lambda: with_elements(elements(100_000)),
        "values-decimal": lambda: with_elements(element(0x0018, 0x1065, b"UT", b"1\\" * 300_000)),
        "values-text": lambda: with_elements(element(0x0010, 0x4000, b"UC", b"a\\" * 300_000)),
        "values-uid": lambda: with_elements(element(0x0008, 0x001A, b"UN", b"1\\" * 300_000)),
        "values-numbers": lambda: with_elements(element(0x0009, 0x1001, b"OW", bytes(1 << 20))),
        "frame-groups": lambda: with_elements(sequence_of([b""] * 100_000, 0x5200, 0x9230)),
        "overlays": lambda: with_elements(overlays(16)),
        "report-items": lambda: report(sequence_of([TEXT_ITEM] * 30_000, 0x0040, 0xA730)),
        "waveform-channels": lambda: waveform(20_000, 1),
        "waveform-groups": lambda: waveform(1, 10_000),
        "waveform-groups-permitted": lambda: waveform(1, 256),
        "deflate-frames": _deflated_frames,
        "rle-runs": lambda: encapsulated(RLE, struct.pack("<16I", 1, 64, *[0] * 14) + b"\0\1" * 262_144, **large),
        "rgb-1-row": lambda: encapsulated(RLE, bytes(64) + b"\x80" * 400_000, **large, **rgb),
    }


def jpeg_of(side: int) -> bytes:
    """A JPEG of that many rows and columns."""
    import imagecodecs

    return bytes(imagecodecs.jpeg8_encode(np.zeros((side, side), np.uint8)))


def _even(part: bytes) -> bytes:
    return part + b"\0" * (len(part) % 2)


def _deflated_frames() -> bytes:
    """A deflated data set of very many frames of one pixel."""
    whole = tiny_frames(100_000)
    start = whole.index(b"\x08\x00\x16\x00UI")
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return meta(DEFLATED, generate_uid()) + squeezer.compress(whole[start:]) + squeezer.flush()
