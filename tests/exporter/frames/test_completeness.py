"""Streams that lack a unit which their headers announce, or have one twice, are never exported without a word."""

from __future__ import annotations

import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest

import exporter
from exporter.dicom.instance import Instance
from exporter.errors import CorruptPixels, ExportError, Reason
from exporter.frames import open_frames
from exporter.frames.codestream import Codec, Codestream, sniff
from exporter.frames.completeness import check_completeness
from exporter.settings.settings import MediaSettings
from exporter.writers.contract import WriterTask
from exporter.writers.video_parts.remux import probe_stream
from tests.exporter.frames import streams
from tests.exporter.frames.conftest import EXPLICIT_LE, fragments, write
from tests.exporter.frames.streams import COLUMNS, ROWS, Stream
from tests.fidelity.cines import INLINE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VL_IMAGE, VL_VIDEO = "1.2.840.10008.5.1.4.1.1.77.1.4", "1.2.840.10008.5.1.4.1.1.77.1.4.1"
X264, X265 = "x264-params", "x265-params"

STREAMS: dict[str, Callable[[], Stream]] = {
    "JPEG 2000 tiles": streams.jpeg_2000_tiles,
    "JPEG 2000 tiles, no wavelet": lambda: streams.jpeg_2000_tiles(num_resolutions=1),
    "JPEG 2000 packets": lambda: streams.jpeg_2000_packets(streams.gray()),
    "JPEG 2000 packets of colours in layers": lambda: streams.jpeg_2000_packets(
        streams.colour(), quality_mode="rates", quality_layers=[40, 10, 1], progression="RPCL"
    ),
    "JPEG 2000 packets of precincts": lambda: streams.jpeg_2000_packets(
        streams.gray(), precinct_size=(64, 64), codeblock_size=(16, 16), progression="PCRL", num_resolutions=3
    ),
    "HTJ2K tiles": lambda: streams.htj2k(tile=(64, 64)),
    "HTJ2K tile-parts": lambda: streams.htj2k(tilepart=1),
    "HTJ2K tile-parts with TLM": lambda: streams.htj2k(tile=(64, 64), tilepart=1, tlm=True),
    "JPEG restart intervals": lambda: streams.jpeg(streams.gray(), restart_marker_rows=1),
    "JPEG restart intervals of colours": lambda: streams.jpeg(streams.colour(), restart_marker_blocks=7),
    "JPEG restart intervals of subsampled colours": lambda: streams.jpeg(
        streams.colour(), restart_marker_rows=1, subsampling=2
    ),
    "JPEG scans of components": streams.jpeg_components,
    "JPEG progressive scans": lambda: streams.jpeg(streams.gray(), by_scans=True, progressive=True),
    "JPEG progressive scans of colours": lambda: streams.jpeg(streams.colour(), by_scans=True, progressive=True),
    "JPEG progressive restart intervals": lambda: streams.jpeg(streams.gray(), progressive=True, restart_marker_rows=4),
    "JPEG 12 bits": streams.twelve_bits,
    "JPEG lossless": lambda: streams.lossless(streams.deep()),
    "JPEG lossless 8 bits": lambda: streams.lossless(streams.gray()),
    "JPEG lossless colours": lambda: streams.lossless(streams.colour()),
    "JPEG lossless restart intervals": streams.lossless_bands,
    "JPEG-LS": lambda: streams.jpeg_ls(streams.deep()),
    "JPEG-LS colours": lambda: streams.jpeg_ls(streams.colour()),
    "JPEG-LS scans": streams.jpeg_ls_components,
    "JPEG-LS restart intervals": streams.jpeg_ls_bands,
    "RLE 8 bits": lambda: streams.rle(streams.gray()),
    "RLE 16 bits": lambda: streams.rle(streams.deep()),
    "RLE colours": lambda: streams.rle(streams.colour()),
    "deflated frame": lambda: streams.deflated(streams.deep()),
    "JPEG XL": lambda: streams.jpeg_xl(streams.gray()),
    "JPEG XL, fastest": lambda: streams.jpeg_xl(streams.gray(), effort=1),
    "JPEG XL lossy colours": lambda: streams.jpeg_xl(streams.colour(), lossless=False, distance=1.0),
    "JPEG XL groups": lambda: streams.jpeg_xl(np.tile(streams.gray(), (5, 4)), effort=1),
    "JPEG XL parts": streams.jpeg_xl_parts,
    "MPEG-2 slices": lambda: streams.video("4.100", "mpeg2video", "mpeg2video", {"bf": "2", "g": "4"}),
    "H.264 slices": lambda: streams.video("4.102", "libx264", "h264", {X264: "slices=3:bframes=1:keyint=4"}),
    "H.264 pictures": lambda: streams.video("4.102", "libx264", "h264", {X264: "bframes=2:keyint=4"}),
    "HEVC slices": lambda: streams.video(
        "4.107", "libx265", "hevc", {X265: "slices=2:bframes=1:keyint=4:log-level=none"}
    ),
    "HEVC pictures": lambda: streams.video("4.107", "libx265", "hevc", {X265: "bframes=1:keyint=4:log-level=none"}),
}


def saved(stream: Stream, data: bytes, path: Path) -> Path:
    """A stream, or a damaged form of it, in an instance of its own."""
    sop_class = VL_VIDEO if stream.is_video else VL_IMAGE
    elements = {"SOPClassUID": sop_class, **stream.elements}
    write(path, fragments([data]), stream.syntax, undefined=True, vr="OB", elements=elements)
    return path


def told(stream: Stream, path: Path) -> tuple[str, ...]:
    """What is told about an instance: the reason of its failure, or its warnings."""
    settings = MediaSettings()
    with Instance.open(path, settings.limits) as instance:
        try:
            frames = open_frames(instance, settings.limits)
            if stream.is_video:
                with frames.open_stream() as source:
                    return probe_stream(WriterTask(instance, path.parent, settings), source).warnings
            list(frames.stored())
        except ExportError as error:
            return (error.reason.value,)
        return (*instance.warnings, *frames.warnings)


@pytest.mark.parametrize("name", STREAMS)
def test_a_unit_that_is_missing_or_there_twice_is_never_passed_over(name: str, tmp_path: Path) -> None:
    stream = STREAMS[name]()
    path = tmp_path / "instance.dcm"
    sound = exporter.export_file(saved(stream, stream.data, path), tmp_path / "media", INLINE)
    assert sound.status == "exported", sound.message
    assert sound.warnings == ()
    forms = dict(stream.damaged())
    assert len(forms) >= 2
    found = {form: told(stream, saved(stream, data, path)) for form, data in forms.items()}
    assert [form for form, words in found.items() if not words] == []
    assert {words[0] for words in found.values()} & set(Reason) <= {Reason.CORRUPT_PIXELS, Reason.BAD_GEOMETRY}


@pytest.mark.parametrize("name", [name for name in STREAMS if "scans" in name or "slices" in name])
def test_what_is_told_of_a_frame_reaches_the_outcome(name: str, tmp_path: Path) -> None:
    stream = STREAMS[name]()
    _, data = list(stream.damaged())[-1]
    outcome = exporter.export_file(saved(stream, data, tmp_path / "instance.dcm"), tmp_path / "media", INLINE)
    assert outcome.status == "failed" or outcome.warnings


@pytest.mark.slow
def test_a_block_that_a_deflated_data_set_lacks_or_has_behind_its_end_is_told(tmp_path: Path) -> None:
    values = streams.deep()
    path = tmp_path / "instance.dcm"
    elements = {"SOPClassUID": VL_IMAGE, **streams.described(values)}
    write(path, values.tobytes(), EXPLICIT_LE, undefined=False, vr="OW", elements=elements)
    content = path.read_bytes()
    body = 144 + int.from_bytes(content[140:144], "little")
    pixels = content.index(b"\xe0\x7f\x10\x00OW") + 12
    parts = [content[body:pixels], *(content[i : i + 4096] for i in range(pixels, len(content), 4096))]
    packed, units = streams.flushed(parts)
    stated = b"1.2.840.10008.1.2.1\0"
    meta = content[:body].replace(b"UI\x14\x00" + stated, b"UI\x16\x00" + b"1.2.840.10008.1.2.1.99")
    meta = meta[:140] + struct.pack("<I", len(meta) - 144) + meta[144:]
    path.write_bytes(meta + packed)
    assert exporter.export_file(path, tmp_path / "media", INLINE).status == "exported"
    for damaged in (*(packed[:start] + packed[end:] for start, end in units), packed + packed[units[-1][0] :]):
        path.write_bytes(meta + damaged)
        outcome = exporter.export_file(path, tmp_path / "media", INLINE)
        assert outcome.status == "failed" or outcome.warnings


def test_progressive_scans_that_may_be_left_out_are_told(tmp_path: Path) -> None:
    stream = STREAMS["JPEG progressive scans"]()
    start, end = stream.units[-1]
    path = saved(stream, stream.data[:start] + stream.data[end:], tmp_path / "instance.dcm")
    (warning,) = told(stream, path)
    assert "leave out 0 of 64 coefficients" in warning
    assert "bits of 63" in warning


def test_bytes_behind_an_rle_segment_are_told(tmp_path: Path) -> None:
    stream = STREAMS["RLE 8 bits"]()
    path = saved(stream, stream.data + b"\x04extra", tmp_path / "instance.dcm")
    (warning,) = told(stream, path)
    assert "RLE segment holds more" in warning


def test_zeros_in_the_middle_of_a_lossless_jpeg_are_told(tmp_path: Path) -> None:
    """As a disk leaves them: zero bits are codes too, and the decoder goes on."""
    stream = STREAMS["JPEG lossless"]()
    middle = len(stream.data) // 2
    damaged = stream.data[:middle] + bytes(512) + stream.data[middle + 512 :]
    assert told(stream, saved(stream, damaged, tmp_path / "instance.dcm"))


def lying_streams() -> dict[str, bytes]:
    """About a megabyte each of as many units as fit."""
    jpeg = streams.libjpeg(streams.gray())
    (start, end) = streams.scans(jpeg)[0]
    progressive = streams.libjpeg(streams.gray(), progressive=True)
    first, last = streams.scans(progressive)[-1]
    tiles = bytearray(streams.openjpeg(streams.gray(), tile_size=(64, 64)))
    struct.pack_into(">II", tiles, 24, 1, 1)
    (part, _), *_ = streams.tile_parts(bytes(tiles))
    sot = [struct.pack(">HHHIBBH", 0xFF90, 10, i, 14, 0, 1, 0xFF93) for i in range(ROWS * COLUMNS)]
    parts = [struct.pack(">HHHIBBH", 0xFF90, 10, 0, 14, i % 256, 0, 0xFF93) for i in range(70_000)]
    single = streams.openjpeg(streams.gray())
    (whole, _), *_ = streams.tile_parts(single)
    packets = bytearray(single[:whole])
    cod = packets.index(b"\xff\x52")
    struct.pack_into(">H", packets, cod + 6, 65535)
    empty = struct.pack(">HHHIBBH", 0xFF90, 10, 0, 14 + 1_000_000, 0, 1, 0xFF93)
    scan = jpeg[start:end]
    return {
        "scans": jpeg[:start] + scan[:40] * 25_000 + b"\xff\xd9",
        "progressive scans": progressive[:last] + progressive[first : first + 10] * 100_000 + b"\xff\xd9",
        "restart markers": jpeg[:start] + b"\xff\xdd\x00\x04\x00\x01" + scan[:10] + b"\xff\xd0" * 500_000 + b"\xff\xd9",
        "fill bytes": jpeg[:start] + b"\xff" * 1_000_000 + jpeg[start:],
        "stuffed bytes": jpeg[:start] + scan[:10] + b"\xff\x00" * 500_000 + b"\xff\xd9",
        "comments": jpeg[:start] + b"\xff\xfe\x00\x02" * 250_000 + jpeg[start:],
        "tiles": bytes(tiles[:part]) + b"".join(sot) + b"\xff\xd9",
        "tile-parts": single[:whole] + b"".join(parts) + b"\xff\xd9",
        "empty packets": bytes(packets) + empty + bytes(1_000_000) + b"\xff\xd9",
        "full packets": bytes(packets) + empty + b"\xf7" * 1_000_000 + b"\xff\xd9",
        "JPEG XL boxes": b"\0\0\0\x0cJXL \r\n\x87\n"
        + b"".join(struct.pack(">I4sI2s", 14, b"jxlp", i, b"\xff\x0a") for i in range(70_000)),
    }


@pytest.mark.parametrize("name", lying_streams())
def test_the_cost_of_looking_for_units_is_bounded(name: str) -> None:
    data = lying_streams()[name]
    header = Codestream(Codec.JPEG_XL, ROWS, COLUMNS, 1, 8) if name == "JPEG XL boxes" else sniff(data)
    assert header is not None
    started = time.process_time()
    with suppress(CorruptPixels):
        check_completeness(data, header)
    assert time.process_time() - started < 5
