"""Independent decoders: what other programs make of the same file. Nothing of `exporter` is imported here.

Contract: each function returns what the other program says, or None where it has nothing to say on that file; why is
given as text where a refusal is to be confirmed. Programs are looked up outside the virtual environment.

Who decodes what: pydicom native, deflated and RLE pixel data; DCMTK (IJG libjpeg) every JPEG process; DCMTK (its own
CharLS) JPEG-LS; FFmpeg (its own decoder, not OpenJPEG) JPEG 2000; OpenJPH HTJ2K; FFmpeg (libjxl) JPEG XL.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydicom.dataset import Dataset

ROOT = "1.2.840.10008.1.2"
JPEG = {f"{ROOT}.4.{tail}" for tail in (50, 51, 53, 55, 57, 70)}
JPEG_LS = {f"{ROOT}.4.{tail}" for tail in (80, 81)}
JPEG_2000 = {f"{ROOT}.4.{tail}" for tail in (90, 91)}
HTJ2K = {f"{ROOT}.4.{tail}" for tail in (201, 202, 203)}
JPEG_XL = {f"{ROOT}.4.{tail}" for tail in (110, 111, 112)}
DEFLATED_FRAMES = f"{ROOT}.8.1"
RLE = f"{ROOT}.5"
VIDEO = {f"{ROOT}.4.{n}{form}" for n in (*range(100, 107), 107, 108) for form in ("", ".1")}
LOSSY = {f"{ROOT}.4.{tail}" for tail in (50, 51, 53, 55, 81, 91, 203, 112)}
TIMEOUT_S = 120


@functools.cache
def program(name: str) -> str | None:
    """Path of a program of the system, never one of this virtual environment."""
    own = str(Path(sys.prefix))
    path = os.pathsep.join(p for p in os.environ.get("PATH", os.defpath).split(os.pathsep) if not p.startswith(own))
    return shutil.which(name, path=path)


def run(name: str, *arguments: object, given: bytes | None = None) -> tuple[bytes, str] | None:
    """(output, last line of what it complained of), or None where the program is absent or fails."""
    path = program(name)
    if path is None:
        return None
    command = [path, *(str(a) for a in arguments)]
    result = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_S, input=given)
    complaint = result.stderr.decode(errors="replace").strip().splitlines()
    if result.returncode:
        return None
    return result.stdout, complaint[-1] if complaint else ""


def header_of(path: Path) -> Dataset:
    """As pydicom reads it, whatever the file lacks."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, force=True)
    if not hasattr(header, "file_meta"):
        header.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in header.file_meta:  # what pydicom has read it as
        implicit, little = header.original_encoding
        header.file_meta.TransferSyntaxUID = UID(ROOT if implicit else f"{ROOT}.{1 if little else 2}")
    return header


@dataclass(frozen=True)
class Stored:
    """Stored values as an independent decoder has them."""

    judge: str
    frames: dict[int, np.ndarray]
    """By index from 0; a sample of the frames where each costs a process."""


def stored_values(path: Path, header: Dataset, few: Sequence[int]) -> Stored | None:
    """Stored values of the instance, colours unconverted; of the frames `few` where each costs a process."""
    syntax = str(header.file_meta.get("TransferSyntaxUID", ROOT))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if syntax in JPEG or syntax in JPEG_LS:
            return _through_dcmtk(path, "dcmdjpeg" if syntax in JPEG else "dcmdjpls", few)
        if syntax in JPEG_2000 | HTJ2K | JPEG_XL:
            return _codestreams(header, syntax, few)
        if syntax == DEFLATED_FRAMES:
            return _single_bits(header, "zlib")
        if syntax == RLE and int(header.BitsAllocated) == 1:
            return _single_bits(header, "pydicom RLE")
        values = _by_pydicom(header)
    return None if values is None else Stored("pydicom", dict(enumerate(values)))


def _single_bits(header: Dataset, judge: str) -> Stored | None:
    """Packed bits of frames that are deflated by themselves (PS3.5 A.4.13) or one RLE segment (PS3.5 annex G)."""
    from pydicom.pixels.decoders.rle import _rle_decode_segment

    if int(header.BitsAllocated) != 1:
        return None
    shape = (int(header.Rows), int(header.Columns))
    found: dict[int, np.ndarray] = {}
    for index, encoded in enumerate(codestreams(header)):
        packed = inflated(encoded) if judge == "zlib" else bytes(_rle_decode_segment(encoded[64:]))
        plane = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
        found[index] = plane[: shape[0] * shape[1]].reshape(shape)
    return Stored(judge, found)


def _by_pydicom(header: Dataset) -> list[np.ndarray] | None:
    """pydicom's own readers: native cells and RLE; no plug-in."""
    from pydicom.pixels.utils import iter_pixels

    try:
        return [np.array(f) for f in iter_pixels(header, raw=True)]
    except Exception:  # noqa: BLE001 - a judge that cannot read a file has no say on it
        return None


def _through_dcmtk(path: Path, name: str, few: Sequence[int]) -> Stored | None:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "native.dcm"
        plain = ["+cn"] if name == "dcmdjpeg" else []
        if run(name, "-q", *plain, path, target) is None:
            return _through_charls(path, few) if name == "dcmdjpls" else None
        values = _by_pydicom(header_of(target))
    return None if values is None else Stored(f"DCMTK {name}", {i: values[i] for i in few if i < len(values)})


def _through_charls(path: Path, few: Sequence[int]) -> Stored | None:
    """CharLS itself, through pydicom's plug-in, for what DCMTK's copy of it does not take."""
    try:
        values = header_of(path).pixel_array
    except Exception:  # noqa: BLE001 - a judge that cannot read a file has no say on it
        return None
    frames = values if int(header_of(path).get("NumberOfFrames") or 1) > 1 else values[np.newaxis]
    return Stored("pydicom pyjpegls", {i: frames[i] for i in few})


def codestreams(header: Dataset) -> list[bytes]:
    """The encoded frames, as pydicom cuts them; a value that is a bare codestream is the one frame."""
    from pydicom.encaps import generate_frames

    data = header.PixelData
    if data[:4] != b"\xfe\xff\x00\xe0":
        return [data]
    frames = int(header.get("NumberOfFrames") or 1)
    tables = (header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths"))
    extended = (tables[0], tables[1]) if tables[0] and tables[1] else None
    return list(generate_frames(data, number_of_frames=frames, extended_offsets=extended))


def _codestreams(header: Dataset, syntax: str, few: Sequence[int]) -> Stored | None:
    try:
        encoded = codestreams(header)
    except Exception:  # noqa: BLE001 - a judge that cannot read a file has no say on it
        return None
    found: dict[int, np.ndarray] = {}
    judge = "FFmpeg jpeg2000"
    for index in few:
        if index >= len(encoded):
            return None
        if syntax in HTJ2K:
            values, judge = _openjph(encoded[index]), "OpenJPH"
        elif syntax in JPEG_XL:
            values, judge = ffmpeg_frame(encoded[index], header, "jpegxl_pipe"), "FFmpeg libjxl"
        else:
            values = ffmpeg_frame(encoded[index], header, "j2k_pipe")
        if values is None:
            return None
        found[index] = values
    return Stored(judge, found)


def _openjph(encoded: bytes) -> np.ndarray | None:
    import imagecodecs

    at = encoded.find(b"\xff\x4f\xff\x51")
    end = encoded.rfind(b"\xff\xd9")
    try:
        values: np.ndarray = imagecodecs.htj2k_decode(encoded[at : end + 2])
    except RuntimeError:
        return None
    return values.transpose(1, 2, 0) if values.ndim == 3 and values.shape[0] == 3 else values


def precision_of(codestream: bytes) -> tuple[int, bool]:
    """(bits per sample, whether signed) of a JPEG 2000 codestream, from its SIZ marker segment (T.800 A.5.1)."""
    at = codestream.find(b"\xff\x4f\xff\x51")
    depth = codestream[at + 42]
    return (depth & 0x7F) + 1, bool(depth & 0x80)


def ffmpeg_frame(encoded: bytes, header: Dataset, form: str, pix_fmt: str | None = None) -> np.ndarray | None:
    """One frame by FFmpeg: stored values of gray, or RGB."""
    rows, columns, samples = int(header.Rows), int(header.Columns), int(header.get("SamplesPerPixel") or 1)
    deep = int(header.BitsAllocated) > 8
    if form == "jpegxl_pipe":
        deep = int(header.BitsStored) > 8
    wanted = (
        pix_fmt or {(1, False): "gray", (1, True): "gray16le", (3, False): "rgb24", (3, True): "rgb48le"}[samples, deep]
    )
    decoder = ("-c:v", "jpeg2000") if form == "j2k_pipe" else ()
    start = max(0, encoded.find(b"\xff\x4f\xff\x51")) if form == "j2k_pipe" else 0
    options = ("-v", "error", "-f", form, *decoder, "-i", "-", "-f", "rawvideo", "-pix_fmt", wanted, "-")
    answer = run("ffmpeg", *options, given=encoded[start:])
    if answer is None:
        return None
    kind = np.dtype("<u2" if "16" in wanted or "48" in wanted else "u1")
    channels = 3 if wanted in {"rgb24", "rgb48le"} else 1
    values = np.frombuffer(answer[0], kind)
    if values.size != rows * columns * channels:
        return None
    values = values.reshape((rows, columns, 3) if channels == 3 else (rows, columns))
    if form == "j2k_pipe" and channels == 1:
        bits, signed = precision_of(encoded)
        # FFmpeg keeps values of 9 to 15 bits in the highest bits of a sample, and signed ones with half a range added.
        values = (values >> (8 * kind.itemsize - bits)).astype(np.int64) - ((1 << bits - 1) if signed else 0)
        if header.get("PixelRepresentation") and not signed:  # two's complement in an unsigned codestream
            values = values - ((values >> bits - 1) << bits)
    return values


def inflated(data: bytes) -> bytes:
    """A raw deflate stream."""
    return zlib.decompress(data, -zlib.MAX_WBITS)


def dcmtk_picture(path: Path, syntax: str, window: Sequence[object], frame: int) -> np.ndarray | None:
    """``(rows, columns, channels)``, 8 bits, of one frame from 0: dcmj2pnm, or dcml2pnm for JPEG-LS."""
    name = "dcml2pnm" if syntax in JPEG_LS else "dcmj2pnm"
    answer = run(name, "-q", "-O", "-S", "+F", frame + 1, *window, path)
    if answer is None or not answer[0]:
        return None
    kind, columns, rows = answer[0].split(maxsplit=3)[:3]
    shape = (int(rows), int(columns), 3 if kind == b"P6" else 1)
    return np.frombuffer(answer[0][-int(np.prod(shape)) :], np.uint8).reshape(shape)


def refusals(path: Path) -> str:
    """What the other decoders make of a file that was refused, in one sentence."""
    said = [f"pydicom: {_pydicom_verdict(path)}"]
    for name in ("dcmj2pnm", "dcml2pnm"):
        binary = program(name)
        if binary is None:
            continue
        command = [binary, "+Wm", str(path), os.devnull]
        result = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_S)
        lines = [line for line in result.stderr.decode(errors="replace").splitlines() if line[:2] in {"E:", "W:", "F:"}]
        first = lines[0][3:].replace(str(path), "the file") if lines else "no complaint"
        said.append(f"DCMTK {name}: {'fails' if result.returncode else 'a picture'}, {first!r}")
    return "; ".join(said)


def _pydicom_verdict(path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shape = header_of(path).pixel_array.shape
        except Exception as error:  # noqa: BLE001 - whatever it raises is its verdict
            return f"fails ({type(error).__name__})"
    return f"an array of {shape}"


def presentation_times(path: Path) -> list[float]:
    """Seconds of every packet of the first video stream, ascending, as ffprobe tells them."""
    entries = ("-select_streams", "v:0", "-show_entries", "packet=pts_time", "-of", "csv=p=0")
    answer = run("ffprobe", "-v", "error", *entries, path)
    return sorted(float(line.split(",")[0]) for line in answer[0].decode().split() if line) if answer else []


def video_frames(path: Path, rows: int, columns: int, indices: Sequence[int]) -> dict[int, np.ndarray]:
    """RGB frames of a video by FFmpeg, which honours the colour tags; nothing else of ours is involved."""
    chosen = "+".join(f"eq(n\\,{i})" for i in indices)
    flags = "scale=in_range=auto:out_range=full:flags=accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"
    options = ("-v", "error", "-i", path, "-vf", f"select={chosen},{flags}", "-vsync", "0")
    answer = run("ffmpeg", *options, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    if answer is None or len(answer[0]) != len(indices) * rows * columns * 3:
        return {}
    values = np.frombuffer(answer[0], np.uint8).reshape(len(indices), rows, columns, 3)
    return dict(zip(indices, values, strict=True))


def versions() -> list[str]:
    """The programs and libraries that judged, one per line."""
    from importlib.metadata import version

    found = [f"{name} {version(name)}" for name in ("pydicom", "numpy", "pillow", "imagecodecs", "av")]
    for name in ("dcmj2pnm", "ffmpeg", "dcm2niix"):
        path = program(name)
        if path is None:
            found.append(f"{name}: not installed")
            continue
        flag = "-version" if name == "ffmpeg" else "--version"
        result = subprocess.run([path, flag], capture_output=True, check=False, timeout=TIMEOUT_S)
        lines: list[Any] = [line for line in (result.stdout + result.stderr).decode().splitlines() if name in line]
        found.append(lines[0].strip("$ ").split(" Copyright")[0] if lines else name)
    return found
