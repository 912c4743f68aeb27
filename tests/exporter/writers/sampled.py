"""Synthetic waveform instances with known samples, for the tests of waveforms and audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

ECG = "1.2.840.10008.5.1.4.1.1.9.1.1"
HAEMODYNAMIC = "1.2.840.10008.5.1.4.1.1.9.2.1"
VOICE = "1.2.840.10008.5.1.4.1.1.9.4.1"
GENERAL_AUDIO = "1.2.840.10008.5.1.4.1.1.9.4.2"
PREFIX = "1.2.826.0.1.3680043.8.498."


def multiplex_group(
    raw: NDArray[np.generic], interpretation: str, rate: float, *, big_endian: bool = False, **elements: Any
) -> Dataset:
    """One item of a waveform sequence; `raw` is ``(samples, channels)``."""
    group = Dataset()
    group.WaveformOriginality = "ORIGINAL"
    group.NumberOfWaveformSamples, group.NumberOfWaveformChannels = raw.shape
    group.SamplingFrequency = rate
    group.WaveformBitsAllocated = raw.itemsize * 8
    group.WaveformSampleInterpretation = interpretation
    group.ChannelDefinitionSequence = [channel(f"channel {index}") for index in range(raw.shape[1])]
    for keyword, value in elements.items():
        setattr(group, keyword, value)
    data = raw.astype(raw.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
    group.WaveformData = data + b"\0" * (len(data) % 2)
    group["WaveformData"].VR = "OB" if raw.itemsize == 1 else "OW"
    return group


def channel(label: str, unit: str | None = None, **elements: Any) -> Dataset:
    """One item of a channel definition sequence."""
    item = Dataset()
    item.ChannelLabel = label
    if unit is not None:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
        item.ChannelSensitivityUnitsSequence = [code]
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def save_waveform(path: Path, groups: list[Dataset], *, sop_class: str = ECG, big_endian: bool = False) -> Path:
    """Write a waveform instance."""
    instance = Dataset()
    instance.SOPClassUID, instance.SOPInstanceUID = UID(sop_class), generate_uid(PREFIX)
    instance.StudyInstanceUID, instance.SeriesInstanceUID = generate_uid(PREFIX), generate_uid(PREFIX)
    instance.Modality = "AU" if sop_class in {VOICE, GENERAL_AUDIO} else "ECG"
    instance.WaveformSequence = groups
    instance.file_meta = FileMetaDataset()
    instance.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    instance.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian
    instance.save_as(path, enforce_file_format=True)
    return path
