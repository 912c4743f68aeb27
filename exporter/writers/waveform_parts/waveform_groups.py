"""Waveform sequences as numbers: multiplex groups, their channels, samples and physical values.

Contract: `groups_of` reads every multiplex group of an instance and checks that its samples are all there; a
`WaveformGroup` gives raw samples exactly as stored and physical values in float64. Nothing is filtered, resampled or
cut.

Source: PS3.3 C.10.9 (waveform module), C.10.9.1.4 (channel definition), C.10.9.1.5 (sample interpretation), PS3.5 6.2
and PS3.5 A (byte order of OW), ITU-T G.711 (mu-law, A-law).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exporter.dicom.elements import (
    READING_ERRORS,
    finite,
    integer_of,
    is_present,
    name_of,
    quiet_reading,
    text_of,
    value_of,
)
from exporter.errors import BadGeometry, CorruptPixels, TooLarge, UnsupportedSyntax

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from exporter.dicom.instance import Instance

INTERPRETATIONS: Final = {
    "SB": "i1",
    "UB": "u1",
    "MB": "u1",
    "AB": "u1",
    "SS": "i2",
    "US": "u2",
    "SL": "i4",
    "UL": "u4",
    "SV": "i8",
    "UV": "u8",
}
"""(5400,1006) Waveform Sample Interpretation and the type of one stored sample."""

MOST_GROUPS: Final = 256
"""Most multiplex groups of one instance: each becomes files of its own."""
MOST_CHANNELS: Final = 4096
_LABEL: Final = 64


@dataclass(frozen=True, slots=True)
class WaveformChannel:
    """One channel of a group."""

    label: str
    """(003A,0203) Channel Label, else the meaning of (003A,0208) Channel Source, else its number."""
    unit: str
    """Code value of the sensitivity's unit (UCUM: ``uV``, ``mm[Hg]``); ``1`` for uncalibrated samples."""
    factor: float
    """Sensitivity x correction factor: units per stored step."""
    baseline: float
    """Value of the stored 0, in units."""
    skew_s: float
    """First sample of this channel after the group's start, in seconds."""


@dataclass(frozen=True, slots=True)
class WaveformGroup:
    """One multiplex group: channels that were sampled together."""

    label: str
    """(003A,0020) Multiplex Group Label, possibly empty."""
    rate_hz: float
    start_s: float
    """(0018,1068) Multiplex Group Time Offset, in seconds."""
    channels: tuple[WaveformChannel, ...]
    interpretation: str
    raw: NDArray[np.generic]
    """Stored samples ``(samples, channels)``, in native byte order; mu-law and A-law still encoded."""
    padding: int | None
    """Stored value that means "no sample"."""
    warnings: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        """Samples over rate."""
        return len(self.raw) / self.rate_hz

    def times(self, channel: int | None, start: int, stop: int) -> NDArray[np.float64]:
        """Times of samples `start` to `stop` in seconds, of a channel with its skew or of the group (None).

        Infinite where the rate is absurdly small.
        """
        offset_s = self.start_s + (0.0 if channel is None else self.channels[channel].skew_s)
        with np.errstate(over="ignore"):
            return np.asarray(np.arange(start, stop) / self.rate_hz + offset_s, dtype=np.float64)

    def linear(self, start: int, stop: int, channel: int | None = None) -> NDArray[np.generic]:
        """Samples of all channels ``(stop - start, channels)`` or of one; mu-law and A-law expanded to 16 bits."""
        raw = self.raw[start:stop] if channel is None else self.raw[start:stop, channel]
        return raw if self.interpretation not in {"MB", "AB"} else expansion(self.interpretation)[raw]

    def physical(self, channel: int, start: int, stop: int) -> NDArray[np.float64]:
        """Values of one channel in its unit, float64; NaN where padding says that there is no sample.

        Infinite where sample times sensitivity is beyond float64: what the header says, and no device's.
        """
        how = self.channels[channel]
        with np.errstate(over="ignore", invalid="ignore"):
            values = self.linear(start, stop, channel).astype(np.float64) * how.factor + how.baseline
        if self.padding is not None:
            values[self.raw[start:stop, channel] == self.padding] = np.nan
        return np.asarray(values, dtype=np.float64)


def expansion(interpretation: str) -> NDArray[np.int16]:
    """The 256 values of mu-law (``MB``) or A-law (``AB``) on the 16-bit linear scale. Source: ITU-T G.711."""
    code = np.arange(256)
    if interpretation == "MB":
        flipped = ~code & 0xFF
        size = (((flipped & 0x0F) << 3) + 0x84 << ((flipped >> 4) & 7)) - 0x84
        return np.where(flipped & 0x80, -size, size).astype(np.int16)
    flipped = code ^ 0x55
    segment = (flipped >> 4) & 7
    size = (flipped & 0x0F) << 4
    size = np.where(segment == 0, size + 8, (size + 0x108) << np.maximum(segment - 1, 0))
    return np.where(flipped & 0x80, size, -size).astype(np.int16)


def has_waveform(instance: Instance) -> bool:
    """Whether the header holds (5400,0100) Waveform Sequence with at least one item."""
    if not is_present(instance.header, "WaveformSequence"):
        return False
    try:
        with quiet_reading():
            return bool(instance.header.get("WaveformSequence"))
    except READING_ERRORS:
        return False


def groups_of(instance: Instance) -> tuple[WaveformGroup, ...]:
    """Every multiplex group of the instance.

    Raises:
        BadGeometry: Numbers of channels or samples, rate or sample type are absent, no numbers, or contradictory.
        CorruptPixels: Samples are missing.
        UnsupportedSyntax: A sample interpretation that is not in `INTERPRETATIONS`.
        TooLarge: More groups or channels than any device has.
    """
    try:
        with quiet_reading():
            items = instance.header.get("WaveformSequence") or ()
            if not items:
                raise BadGeometry(f"read waveform: {name_of('WaveformSequence')} is absent or empty")
            if len(items) > MOST_GROUPS:
                raise TooLarge(f"read waveform: {len(items)} multiplex groups, permitted are {MOST_GROUPS}")
            return tuple(_group(item, big_endian=instance.big_endian) for item in items)
    except READING_ERRORS as error:
        raise BadGeometry(f"read waveform: an element cannot be read ({type(error).__name__})") from None


def _group(item: Dataset, *, big_endian: bool) -> WaveformGroup:
    channels, samples = integer_of(item, "NumberOfWaveformChannels"), integer_of(item, "NumberOfWaveformSamples")
    rate = _number(item, "SamplingFrequency", 0.0)
    if channels <= 0 or samples <= 0 or rate <= 0:
        raise BadGeometry(
            f"read waveform: {name_of('NumberOfWaveformChannels')}, {name_of('NumberOfWaveformSamples')} and "
            f"{name_of('SamplingFrequency')} must be positive"
        )
    if channels > MOST_CHANNELS:
        raise TooLarge(f"read waveform: more than {MOST_CHANNELS} channels in a multiplex group")
    interpretation = text_of(item, "WaveformSampleInterpretation")
    if interpretation not in INTERPRETATIONS:
        permitted = ", ".join(INTERPRETATIONS)
        raise UnsupportedSyntax(f"read waveform: {name_of('WaveformSampleInterpretation')} is not one of {permitted}")
    dtype = np.dtype(INTERPRETATIONS[interpretation])
    allocated = integer_of(item, "WaveformBitsAllocated", dtype.itemsize * 8)
    if allocated != dtype.itemsize * 8:
        raise BadGeometry(
            f"read waveform: {name_of('WaveformBitsAllocated')} contradicts {name_of('WaveformSampleInterpretation')}"
        )
    raw, notes = _samples(item, dtype, (samples, channels), big_endian=big_endian)
    definitions = list(item.get("ChannelDefinitionSequence") or ())
    if len(definitions) != channels:
        notes.append(f"waveform: {name_of('ChannelDefinitionSequence')} has not one item per channel")
        definitions = [*definitions, *[None] * channels][:channels]
    return WaveformGroup(
        label=text_of(item, "MultiplexGroupLabel")[:_LABEL],
        rate_hz=rate,
        start_s=_number(item, "MultiplexGroupTimeOffset", 0.0) / 1000,
        channels=tuple(_channel(definition, number, rate) for number, definition in enumerate(definitions, 1)),
        interpretation=interpretation,
        raw=raw,
        padding=_padding(item, dtype, big_endian=big_endian),
        warnings=tuple(notes),
    )


def _samples(
    item: Dataset, dtype: np.dtype[Any], shape: tuple[int, int], *, big_endian: bool
) -> tuple[NDArray[np.generic], list[str]]:
    data = value_of(item, "WaveformData")
    if not isinstance(data, bytes):
        raise CorruptPixels(f"read waveform: {name_of('WaveformData')} is absent")
    wanted = shape[0] * shape[1] * dtype.itemsize
    if len(data) < wanted:
        raise CorruptPixels(f"read waveform: {name_of('WaveformData')} has {len(data)} of {wanted} bytes")
    notes = [f"waveform: bytes follow the last sample of {name_of('WaveformData')}"] if len(data) > wanted + 1 else []
    if big_endian and dtype.itemsize == 1 and item["WaveformData"].VR == "OW":
        data = np.frombuffer(data[: len(data) & ~1], ">u2").astype("<u2").tobytes()  # bytes travel in pairs
    stored = np.frombuffer(data, dtype.newbyteorder(">" if big_endian else "<"), shape[0] * shape[1])
    return stored.astype(dtype.newbyteorder("="), copy=False).reshape(shape), notes


def _padding(item: Dataset, dtype: np.dtype[Any], *, big_endian: bool) -> int | None:
    value = value_of(item, "WaveformPaddingValue")
    if isinstance(value, bytes) and len(value) >= dtype.itemsize:
        return int(np.frombuffer(value, dtype.newbyteorder(">" if big_endian else "<"), 1)[0])
    return value if isinstance(value, int) else None


def _channel(definition: Dataset | None, number: int, rate: float) -> WaveformChannel:
    if definition is None:
        return WaveformChannel(f"channel {number}", "1", 1.0, 0.0, 0.0)
    source = definition.get("ChannelSourceSequence") or ()
    label = text_of(definition, "ChannelLabel") or (text_of(source[0], "CodeMeaning") if source else "")
    skew = _number(definition, "ChannelTimeSkew", 0.0) + _number(definition, "ChannelSampleSkew", 0.0) / rate
    sensitivity = _number(definition, "ChannelSensitivity", math.nan)
    units = definition.get("ChannelSensitivityUnitsSequence") or ()
    unit = text_of(units[0], "CodeValue") if units else ""
    if math.isnan(sensitivity):
        return WaveformChannel(label[:_LABEL] or f"channel {number}", "1", 1.0, 0.0, skew)
    return WaveformChannel(
        label=label[:_LABEL] or f"channel {number}",
        unit=unit[:_LABEL] or "unknown unit",
        factor=sensitivity * _number(definition, "ChannelSensitivityCorrectionFactor", 1.0),
        baseline=_number(definition, "ChannelBaseline", 0.0),
        skew_s=skew,
    )


def _number(source: Dataset, keyword: str, default: float) -> float:
    value = value_of(source, keyword)
    if value is None:
        return default
    number = finite(value)
    if number is None:
        raise BadGeometry(f"read waveform: {name_of(keyword)} is not one finite number")
    return number
