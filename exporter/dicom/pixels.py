"""Description of the pixels of an instance by its header, checked before anything is allocated.

Contract: `describe_pixels` returns a `PixelDescription` whose numbers are consistent and within the limits, or raises.
It reads header elements only. What was odd and is read nevertheless is noted, without values of the patient.

Source: PS3.3 C.7.6.3 (image pixel module), C.7.6.6 (multi-frame).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.dicom.elements import integer_of, name_of, text_of
from exporter.dicom.structure import PIXEL_TAGS, PixelElement
from exporter.errors import BadGeometry, TooLarge, UnsupportedSyntax

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from exporter.settings.settings import LimitSettings

_DEFINED: Final = {
    1: {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"},
    3: {
        *("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"),
        *("YBR_ICT", "YBR_RCT", "XYB"),
    },
}
_RETIRED: Final = frozenset({"HSV", "ARGB", "CMYK"})


@dataclass(frozen=True, slots=True)
class PixelDescription:
    """Form of the stored pixels by the header (PS3.3 C.7.6.3), and their offset in `Instance.data`."""

    rows: int
    columns: int
    samples: int
    frames: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    planar: int
    """Planar Configuration: 0 colour by pixel, 1 colour by plane."""
    keyword: str
    """``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``."""
    vr: str
    """``OB`` or ``OW`` for PixelData where the data set is explicit; empty where it is implicit."""
    offset: int
    length: int
    """Bytes of the value that are there; for an undefined length, all bytes to the end of the data set."""
    encapsulated: bool
    """Whether the value is a sequence of fragments (PS3.5 A.4): its length is undefined."""
    declared_length: int | None = None
    """Length the element declares, which may be more than is there; None where undefined."""

    @property
    def frame_pixels(self) -> int:
        """Pixels of one frame: rows x columns."""
        return self.rows * self.columns


def describe_pixels(
    header: Dataset, element: PixelElement, size: int, limits: LimitSettings, notes: list[str]
) -> PixelDescription:
    """The description of the pixels, its elements checked against each other and against the limits.

    Raises:
        BadGeometry: Elements are missing, no numbers, or contradict each other.
        TooLarge: A frame or the number of frames passes its limit.
        UnsupportedSyntax: A number of samples per pixel that is not read here.
    """
    keyword = PIXEL_TAGS[element.tag]
    rows, columns = integer_of(header, "Rows"), integer_of(header, "Columns")
    if rows <= 0 or columns <= 0:
        raise BadGeometry(f"{name_of('Rows')} and {name_of('Columns')} must both be positive")
    if rows * columns > limits.max_frame_pixels:
        raise TooLarge(
            f"a frame has {rows} x {columns} pixels, permitted are {limits.max_frame_pixels} (limits.max_frame_pixels)"
        )
    frames = integer_of(header, "NumberOfFrames", 1)
    if frames == 0:
        notes.append(f"{name_of('NumberOfFrames')} is 0: read as 1")
        frames = 1
    if frames < 0:
        raise BadGeometry(f"{name_of('NumberOfFrames')} is negative")
    if frames > limits.max_frames:
        raise TooLarge(f"the instance has {frames} frames, permitted are {limits.max_frames} (limits.max_frames)")

    samples, photometric = _colours(header, notes)
    allocated, stored, high_bit = _bits(header, keyword, notes)
    available = max(0, size - element.offset)
    if element.length is not None and element.length > available:
        notes.append(f"the data set ends inside {keyword}: {element.length} bytes declared, {available} there")
    return PixelDescription(
        rows=rows,
        columns=columns,
        samples=samples,
        frames=frames,
        photometric=photometric,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        signed=_is_signed(header, keyword, samples, notes),
        planar=integer_of(header, "PlanarConfiguration", 0) if samples == 3 else 0,
        keyword=keyword,
        vr=element.vr,
        offset=element.offset,
        length=available if element.length is None else min(element.length, available),
        encapsulated=element.length is None,
        declared_length=element.length,
    )


def _is_signed(header: Dataset, keyword: str, samples: int, notes: list[str]) -> bool:
    if keyword != "PixelData":
        return True
    signed = bool(integer_of(header, "PixelRepresentation", 0))
    if signed and samples == 3:
        notes.append(f"{name_of('PixelRepresentation')} says signed, colours are read as unsigned")
        return False
    return signed


def _colours(header: Dataset, notes: list[str]) -> tuple[int, str]:
    """Samples per Pixel and Photometric Interpretation (PS3.3 C.7.6.3.1.2), one deduced where the other is missing."""
    photometric = text_of(header, "PhotometricInterpretation").upper()
    samples = integer_of(header, "SamplesPerPixel", 3 if photometric in _DEFINED[3] else 1)
    if samples not in _DEFINED:
        raise UnsupportedSyntax(f"{name_of('SamplesPerPixel')} is {samples}, read are 1 and 3")
    if photometric in _RETIRED:
        raise UnsupportedSyntax(f"{name_of('PhotometricInterpretation')} {photometric} was retired and is not read")
    if photometric in _DEFINED[samples]:
        return samples, photometric
    deduced = "RGB" if samples == 3 else "MONOCHROME2"
    if not photometric:
        notes.append(f"{name_of('PhotometricInterpretation')} is missing: read as {deduced}")
    elif any(photometric in names for names in _DEFINED.values()):
        notes.append(f"{name_of('PhotometricInterpretation')} contradicts {name_of('SamplesPerPixel')}")
    else:
        raise BadGeometry(f"{name_of('PhotometricInterpretation')} is not defined in PS3.3 C.7.6.3.1.2")
    return samples, deduced


def _bits(header: Dataset, keyword: str, notes: list[str]) -> tuple[int, int, int]:
    """(Bits Allocated, Bits Stored, High Bit)."""
    if keyword != "PixelData":
        bits = 32 if keyword == "FloatPixelData" else 64
        if integer_of(header, "BitsAllocated", bits) != bits:
            raise BadGeometry(f"{name_of('BitsAllocated')} must be {bits} for {keyword}")
        return bits, bits, bits - 1
    allocated = integer_of(header, "BitsAllocated")
    if allocated not in {1, 8, 12, 16, 32, 64}:
        raise BadGeometry(f"{name_of('BitsAllocated')} is {allocated}, permitted are 1, 8, 12, 16, 32 and 64")
    stored = integer_of(header, "BitsStored", allocated)
    if not 1 <= stored <= allocated:
        raise BadGeometry(f"{name_of('BitsStored')} is {stored}, permitted are 1 to {allocated} (Bits Allocated)")
    try:
        high_bit = integer_of(header, "HighBit", stored - 1)
    except BadGeometry:
        high_bit = allocated
    if not stored - 1 <= high_bit < allocated:
        # PS3.5 8.1.1 permits no other value; older editions did.
        notes.append(f"{name_of('HighBit')} contradicts Bits Stored: read as Bits Stored - 1")
        high_bit = stored - 1
    return allocated, stored, high_bit
