"""Files of twelve kinds of instance with a token in every attribute that can hold one, and around the data set."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from exporter.dicom.elements import quiet_reading
from tests.exporter.frames import streams
from tests.exporter.frames.conftest import fragments
from tests.exporter.privacy.planted import planted
from tests.exporter.writers.sampled import multiplex_group

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
ROWS, COLUMNS = 32, 48
MISLEADING: Final = (
    "BurnedInAnnotation",
    "DoubleFloatPixelData",
    "EncapsulatedDocument",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "PixelData",
    "PixelPresentation",
    "PresentationLUTShape",
    "VOILUTFunction",
)
"""Elements that make an instance another kind, or no sound one: their tokens are not planted at the top."""
AROUND: Final = ("TOKPREAMBLEQ", "TOKSENDERQ", "TOKMETAQ", "TOKPADDINGQ")
"""Tokens in the preamble, in the file meta information and behind the last frame."""


def pixels(frames: int = 1, *, samples: int = 1, bits: int = 8) -> bytes:
    shape = (frames, ROWS, COLUMNS, samples)
    values = np.add.outer(np.arange(frames * ROWS) % 97, np.arange(COLUMNS * samples) % 89).reshape(shape)
    return values.astype("<u2" if bits > 8 else "u1").tobytes()


def _picture(data_set: Dataset, modality: str, *, frames: int = 1, samples: int = 1, bits: int = 8) -> None:
    data_set.Modality, data_set.ImageType = modality, ["ORIGINAL", "PRIMARY"]
    data_set.Rows, data_set.Columns, data_set.SamplesPerPixel = ROWS, COLUMNS, samples
    data_set.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        data_set.PlanarConfiguration = 0
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit = bits, bits, bits - 1
    data_set.PixelRepresentation = 0
    if frames > 1:
        data_set.NumberOfFrames, data_set.FrameTime = frames, "40"
    data_set.PixelData = pixels(frames, samples=samples, bits=bits)
    data_set["PixelData"].VR = "OW" if bits > 8 else "OB"


def _region() -> Dataset:
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 8, 8
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 39, 27
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.05
    return region


def _ultrasound(data_set: Dataset) -> None:
    _picture(data_set, "US", samples=3)
    data_set.SequenceOfUltrasoundRegions = [_region()]


def _cine(data_set: Dataset) -> None:
    _picture(data_set, "US", frames=4, samples=3)
    data_set.SequenceOfUltrasoundRegions = [_region()]


def _ct(data_set: Dataset) -> None:
    _picture(data_set, "CT", bits=16)


def _capture(data_set: Dataset) -> None:
    _picture(data_set, "OT", samples=3)


def _enhanced(data_set: Dataset) -> None:
    _picture(data_set, "MR", frames=3, bits=16)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing = [1, 1]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    data_set.SharedFunctionalGroupsSequence = [shared]
    groups = [*data_set.PerFrameFunctionalGroupsSequence, Dataset(), Dataset()]
    for number, group in enumerate(groups):
        place = Dataset()
        place.ImagePositionPatient = [0, 0, 2 * number]
        group.PlanePositionSequence = [place]
    data_set.PerFrameFunctionalGroupsSequence = groups


def _report(data_set: Dataset) -> None:
    data_set.Modality, data_set.ValueType = "SR", "CONTAINER"
    name, item = Dataset(), Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "121070", "DCM", "Findings"
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = "CONTAINS", "TEXT", [name]
    item.TextValue = "TOKFINDINGQ was seen"
    data_set.ConceptNameCodeSequence = [name]
    data_set.ContentSequence = [*data_set.ContentSequence, item]


def _presentation(data_set: Dataset) -> None:
    data_set.Modality = "PR"


def _document(data_set: Dataset) -> None:
    data_set.Modality, data_set.MIMETypeOfEncapsulatedDocument = "DOC", "application/pdf"
    data_set.EncapsulatedDocument = b"%PDF-1.4 TOKPDFQ %%EOF "


def _ecg(data_set: Dataset) -> None:
    data_set.Modality = "ECG"
    samples = np.arange(200, dtype="i2").reshape(100, 2)
    group = multiplex_group(samples, "SS", 500.0, MultiplexGroupLabel="TOKGROUPQ")
    group.ChannelDefinitionSequence[0].ChannelLabel = "TOKCHANNELQ"
    data_set.WaveformSequence = [group]


def _structures(data_set: Dataset) -> None:
    data_set.Modality, data_set.StructureSetLabel = "RTSTRUCT", "TOKLABELQ"


def _segmentation(data_set: Dataset) -> None:
    _picture(data_set, "SEG", frames=2, bits=8)
    data_set.SegmentationType = "FRACTIONAL"


def _video(data_set: Dataset) -> None:
    _picture(data_set, "ES", frames=streams.PICTURES, samples=3)
    data_set.PhotometricInterpretation = "YBR_PARTIAL_420"
    data_set.Rows, data_set.Columns = streams.ROWS // 2, streams.COLUMNS // 2
    data_set.PixelData = fragments([_stream()])
    data_set["PixelData"].is_undefined_length = True


@cache
def _stream() -> bytes:
    return streams.encoded_video("libx264", "h264", {}, streams.ROWS // 2, streams.COLUMNS // 2)


KINDS: Final[dict[str, tuple[str, Callable[[Dataset], None]]]] = {
    "ultrasound": ("6.1", _ultrasound),
    "cine": ("3.1", _cine),
    "ct": ("2", _ct),
    "capture": ("7", _capture),
    "enhanced": ("4.1", _enhanced),
    "report": ("88.22", _report),
    "presentation": ("11.1", _presentation),
    "document": ("104.1", _document),
    "ecg": ("9.1.1", _ecg),
    "structures": ("481.3", _structures),
    "segmentation": ("66.4", _segmentation),
    "video": ("77.1.1.1", _video),
}
"""Kinds of instance: the end of the SOP class, and what makes a planted data set one of them."""


def planted_file(path: Path, kind: str, seed: int, **elements: Any) -> dict[str, int]:
    """Write an instance of a kind.

    Returns:
        Tags by token.
    """
    suffix, make = KINDS[kind]
    found = planted(seed, STORAGE + suffix)
    data_set, tokens = found.data_set, dict(found.tokens)
    for keyword, value in elements.items():
        setattr(data_set, keyword, value)
    with quiet_reading():
        for keyword in MISLEADING:
            if keyword in data_set:
                del data_set[keyword]
        make(data_set)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(STORAGE + suffix)
        meta.MediaStorageSOPInstanceUID = UID("1.2.826.0.1.999999.9")
        meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.102" if kind == "video" else EXPLICIT_LE)
        meta.SourceApplicationEntityTitle = "TOKSENDERQ"
        meta.PrivateInformationCreatorUID = UID("1.2.826.0.1.999998.9")
        meta.PrivateInformation = b"TOKMETAQ"
        data_set.file_meta = meta
        data_set.preamble = b"TOKPREAMBLEQ".ljust(128, b"\0")
        data_set.DataSetTrailingPadding = b"TOKPADDINGQ!"
        data_set.save_as(path, enforce_file_format=True)
    own = dict.fromkeys((*AROUND, "TOKFINDINGQ", "TOKPDFQ", "TOKGROUPQ", "TOKCHANNELQ", "TOKLABELQ"), 0)
    return tokens | own | {"1.2.826.0.1.999999.9": 0, "1.2.826.0.1.999998.9": 0}
