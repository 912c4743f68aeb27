"""Inputs of the benchmarks, made from numbers: the same everywhere, and as hard to compress as what scanners make.

Speckle is the magnitude of a smoothed complex random field, as coherent ultrasound makes it; CT slices have noise over
tissue; radiographs have noise over large structures. No two frames are equal, and none is empty.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import av
import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HEVCMP51,
    MPEG2MPML,
    MPEG4HP41,
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from scipy.ndimage import gaussian_filter, zoom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

CT, DX, SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.88.33"
ULTRASOUND, ANGIOGRAPHY = "1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.12.1"
ROOT: Final = "1.2.826.0.1.3680043.8.1055.7."
RATE_HZ: Final = 30


@dataclass(frozen=True)
class Sizes:
    """How much of everything is made."""

    slices: int = 3000
    """CT slices of 512 x 512."""
    compressed_slices: int = 600
    """Of each lossless syntax."""
    radiographs: int = 12
    """Of each lossless syntax, 3000 x 2500 pixels of 12 bits."""
    radiograph_pixels: tuple[int, int] = (3000, 2500)
    cines: int = 30
    frames: int = 60
    """Of each cine of 800 x 600."""
    streams: int = 80
    documents: int = 3000
    """Structured reports."""
    long_frames: int = 2048
    """Of one instance of 1 GB."""


QUICK: Final = Sizes(300, 60, 3, (3000, 2500), 4, 60, 12, 300, 512)
"""For a machine that has other work, too."""
SMALLEST: Final = Sizes(3, 1, 1, (120, 100), 1, 4, 3, 2, 4)
"""To see that everything still runs."""


def make(kind: str, folder: Path, sizes: Sizes) -> None:
    """Fill `folder` with the inputs of one kind: DICOM files in ``dicom``, what peers need beside them elsewhere."""
    (folder / "dicom").mkdir(parents=True)
    _MAKERS[kind](folder, sizes)


def speckle(frames: int, rows: int, columns: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """A moving fan of colour-mapped speckle."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.standard_normal((rows, columns)), (1.6, 3.0)) for _ in range(4)]
    y, x = np.mgrid[0:rows, 0:columns]
    depth, angle = np.hypot(y, x - columns / 2), np.arctan2(x - columns / 2, y + 1)
    fan = (np.abs(angle) < 0.75) & (depth < rows * 0.97)
    tissue = gaussian_filter(rng.standard_normal((rows, columns)), rows / 14)
    tissue = 0.55 + 0.45 * tissue / np.abs(tissue).max()
    for number in range(frames):
        turn = 2 * np.pi * number / 47
        real = fields[0] * np.cos(turn) + fields[1] * np.sin(turn)
        imaginary = fields[2] * np.cos(turn) + fields[3] * np.sin(turn)
        shift = round(6 * np.sin(turn))
        magnitude = np.hypot(real, imaginary) * np.roll(tissue, shift, axis=0) * fan
        gray = np.clip(60 * np.log1p(60 * magnitude), 0, 255)
        tint = np.where(np.roll(tissue, 5 * number, axis=1) > 0.8, 1.0, 0.0) * fan
        yield np.stack([gray + 40 * tint, gray, gray * (1 - 0.3 * tint)], axis=-1).clip(0, 255).astype(np.uint8)


def body(rows: int, columns: int, bits: int, seed: int) -> NDArray[np.uint16]:
    """Stored values of a CT slice or a radiograph: smooth structure, edges, noise, and air around it."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((-(-rows // 16), -(-columns // 16)))
    structure = zoom(gaussian_filter(coarse, 2), 16, order=1)[:rows, :columns]
    structure /= np.abs(structure).max()
    y, x = np.mgrid[0:rows, 0:columns]
    inside = (2.2 * (y / rows - 0.5)) ** 2 + (2.1 * (x / columns - 0.5)) ** 2 < 1
    top = 1 << bits
    noise = gaussian_filter(rng.standard_normal((rows, columns)), 0.7) * top / 200
    values = np.where(inside, top * (0.27 + 0.06 * structure + 0.12 * (structure > 0.55)), top * 0.01) + noise
    stored: NDArray[np.uint16] = np.clip(values, 0, top - 1).astype(np.uint16)
    return stored


def _slices(count: int) -> Iterator[NDArray[np.uint16]]:
    """Slices that all differ: noise of their own over one of a few bodies."""
    bodies = [body(512, 512, 12, seed) for seed in range(12)]
    rng = np.random.default_rng(99)
    noise = rng.integers(0, 12, (2, 512, 512), dtype=np.uint16)
    for number in range(count):
        yield bodies[number % len(bodies)] + np.roll(noise[number % 2], (number * 7919) % (512 * 512)) + number % 5


def _instance(number: int, sop_class: str, modality: str, syntax: UID = ExplicitVRLittleEndian) -> Dataset:
    """The header that all have, about as long as a scanner's."""
    dataset = Dataset()
    series = f"{ROOT}{number // 300 + 1}"
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, f"{series}.{number + 1}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = series, f"{series}.0"
    dataset.PatientName, dataset.PatientID = f"Bench^{number // 300}", f"BENCH{number // 300:05d}"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.StudyDate = "19500101", "O", "20240101"
    dataset.StudyTime, dataset.ContentDate, dataset.ContentTime = "101112", "20240101", f"10{number // 60 % 60:02d}00"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality, dataset.Manufacturer, dataset.InstitutionName = modality, "Bench", "Institute of Measurement"
    dataset.StudyDescription, dataset.SeriesDescription = "Measured", f"Series {number // 300}"
    dataset.InstanceNumber, dataset.SeriesNumber, dataset.AccessionNumber = number % 300 + 1, 1, f"A{number // 300}"
    for offset in range(40):
        dataset.add_new(0x00091010 + offset, "LO", f"private {offset}")
    dataset.add_new(0x00090010, "LO", "BENCH")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    return dataset


def _gray(dataset: Dataset, rows: int, columns: int, bits: int) -> None:
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1


def _ct(number: int, syntax: UID = ExplicitVRLittleEndian) -> Dataset:
    dataset = _instance(number, CT, "CT", syntax)
    _gray(dataset, 512, 512, 12)
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -1024, 1, "HU"
    dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, number % 300], [1, 0, 0, 0, 1, 0]
    dataset.KVP, dataset.ExposureTime, dataset.XRayTubeCurrent = 120, 500, 200
    return dataset


def _dx(number: int, rows: int, columns: int, syntax: UID) -> Dataset:
    dataset = _instance(number, DX, "DX", syntax)
    _gray(dataset, rows, columns, 12)
    dataset.WindowCenter, dataset.WindowWidth = 1300, 2200
    dataset.ImagerPixelSpacing = [0.14, 0.14]
    dataset.PresentationLUTShape = "IDENTITY"
    return dataset


def _save(
    dataset: Dataset, folder: Path, number: int, data: bytes | bytearray, *, encoded: bool = False, vr: str = "OW"
) -> None:
    dataset.PixelData = encapsulate([bytes(data)], has_bot=False) if encoded else data
    dataset["PixelData"].VR = "OB" if encoded else vr
    dataset["PixelData"].is_undefined_length = encoded
    dataset.save_as(folder / "dicom" / f"{number:05d}.dcm", enforce_file_format=True)


def _make_slices(folder: Path, sizes: Sizes) -> None:
    for number, stored in enumerate(_slices(sizes.slices)):
        _save(_ct(number), folder, number, stored.tobytes())


def _rle(stored: NDArray[np.uint16]) -> bytes:
    """RLE Lossless (PS3.5 G): the high bytes, then the low bytes, each row by itself."""
    planes = [np.ascontiguousarray((stored >> shift).astype(np.uint8)) for shift in (8, 0)]
    segments = [b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in plane) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = [2, 64, 64 + len(segments[0])] + [0] * 13
    return np.array(offsets, "<u4").tobytes() + b"".join(segments)


LOSSLESS: Final[dict[str, tuple[UID, Callable[[NDArray[np.uint16]], bytes | bytearray]]]] = {
    "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG lossless": (
        JPEGLosslessSV1,
        lambda stored: imagecodecs.jpeg8_encode(stored, lossless=True, predictor=1, bitspersample=12),
    ),
    "JPEG 2000": (
        JPEG2000Lossless,
        lambda stored: imagecodecs.jpeg2k_encode(
            stored, level=0, reversible=True, codecformat="J2K", bitspersample=12, resolutions=6
        ),
    ),
    "RLE": (RLELossless, _rle),
}
"""Transfer syntax and encoder of each lossless kind."""


def _compressed_slices(name: str) -> Callable[[Path, Sizes], None]:
    def made(folder: Path, sizes: Sizes) -> None:
        syntax, encode = LOSSLESS[name]
        for number, stored in enumerate(_slices(sizes.compressed_slices)):
            _save(_ct(number, syntax), folder, number, encode(stored), encoded=True)

    return made


def _radiographs(name: str) -> Callable[[Path, Sizes], None]:
    def made(folder: Path, sizes: Sizes) -> None:
        syntax, encode = LOSSLESS[name]
        rows, columns = sizes.radiograph_pixels
        for number in range(sizes.radiographs):
            stored = body(rows, columns, 12, 100 + number)
            _save(_dx(number, rows, columns, syntax), folder, number, encode(stored), encoded=True)

    return made


def _cine(number: int, frames: int, sop_class: str, syntax: UID) -> Dataset:
    dataset = _instance(number, sop_class, "US" if sop_class == ULTRASOUND else "XA", syntax)
    dataset.NumberOfFrames, dataset.FrameTime = frames, 1000 / RATE_HZ
    dataset.FrameIncrementPointer = 0x00181063
    return dataset


def _colour(dataset: Dataset, rows: int, columns: int, photometric: str) -> None:
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PlanarConfiguration = rows, columns, 3, 0
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = photometric, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7


def _make_cines(folder: Path, sizes: Sizes) -> None:
    """JPEG cines, and in ``jpegs`` the same frames as bare streams, which is all that FFmpeg reads."""
    (folder / "jpegs").mkdir()
    for number in range(sizes.cines):
        jpegs = [
            bytes(imagecodecs.jpeg8_encode(frame, level=85, colorspace="RGB", outcolorspace="YCBCR", subsampling="422"))
            for frame in speckle(sizes.frames, 600, 800, number)
        ]
        dataset = _cine(number, sizes.frames, ULTRASOUND, JPEGBaseline8Bit)
        _colour(dataset, 600, 800, "YBR_FULL_422")
        dataset.LossyImageCompression = "01"
        dataset.PixelData = encapsulate(jpegs)
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
        dataset.save_as(folder / "dicom" / f"{number:05d}.dcm", enforce_file_format=True)
        (folder / "jpegs" / f"{number:05d}.mjpeg").write_bytes(b"".join(jpegs))


def _stream(codec: str, container: str, frames: int, seed: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=Fraction(RATE_HZ))
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "crf": "23"}
        elif codec == "libx265":
            stream.options = {"preset": "ultrafast", "x265-params": "log-level=none:info=0"}
        else:
            stream.bit_rate = 6_000_000
        for image in speckle(frames, 480, 640, seed):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
    return buffer.getvalue()


_STREAMS: Final = (
    ("libx264", "h264", MPEG4HP41),
    ("libx265", "hevc", HEVCMP51),
    ("mpeg2video", "mpeg2video", MPEG2MPML),
    ("libx264", "mp4", MPEG4HP41),
)
"""Encoder, container and transfer syntax of the streams, in turn."""


def _make_streams(folder: Path, sizes: Sizes) -> None:
    payloads: dict[int, bytes] = {}
    for number in range(sizes.streams):
        codec, container, syntax = _STREAMS[number % len(_STREAMS)]
        which = number % (3 * len(_STREAMS))
        if which not in payloads:
            payloads[which] = _stream(codec, container, sizes.frames, number)
        dataset = _cine(number, sizes.frames, ULTRASOUND, syntax)
        _colour(dataset, 480, 640, "YBR_PARTIAL_420")
        _save(dataset, folder, number, payloads[which], encoded=True)


def _make_documents(folder: Path, sizes: Sizes) -> None:
    measured = [_measured(index, 0) for index in range(20)]
    for number in range(sizes.documents):
        dataset = _instance(number, SR, "SR")
        dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
        dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
        dataset.ConceptNameCodeSequence = [_code("126000", "DCM", "Imaging Measurement Report")]
        dataset.ContentSequence = [*measured[1:], _measured(0, number)]
        dataset.save_as(folder / "dicom" / f"{number:05d}.dcm", enforce_file_format=True)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _measured(index: int, number: int) -> Dataset:
    item, value = Dataset(), Dataset()
    value.NumericValue = f"{(index * 37 + number) % 500 / 10:.1f}"
    value.MeasurementUnitsCodeSequence = [_code("mm", "UCUM", "mm")]
    item.RelationshipType, item.ValueType = "CONTAINS", "NUM"
    item.ConceptNameCodeSequence = [_code("103339001", "SCT", f"Long axis {index}")]
    item.MeasuredValueSequence = [value]
    return item


def _make_long(folder: Path, sizes: Sizes) -> None:
    """One run of native frames of 16 bits, written frame by frame."""
    dataset = _cine(0, sizes.long_frames, ANGIOGRAPHY, ExplicitVRLittleEndian)
    _gray(dataset, 512, 512, 12)
    dataset.PixelIntensityRelationship, dataset.WindowCenter, dataset.WindowWidth = "LIN", 1300, 2200
    path = folder / "dicom" / "00000.dcm"
    dataset.save_as(path, enforce_file_format=True)
    with path.open("ab") as file:
        file.write(b"\xe0\x7f\x10\x00OW\0\0" + (sizes.long_frames * 512 * 512 * 2).to_bytes(4, "little"))
        for stored in _slices(sizes.long_frames):
            file.write(stored.tobytes())


_MAKERS: Final[dict[str, Callable[[Path, Sizes], None]]] = {
    "slices": _make_slices,
    "one": lambda folder, _: _make_slices(folder, Sizes(slices=1)),
    "cines": _make_cines,
    "streams": _make_streams,
    "documents": _make_documents,
    "long": _make_long,
    **{f"slices, {name}": _compressed_slices(name) for name in LOSSLESS},
    **{f"radiographs, {name}": _radiographs(name) for name in LOSSLESS},
}
