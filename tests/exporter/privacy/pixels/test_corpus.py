"""Real ultrasound images: an independent decoder agrees with what is kept, and what is hidden leaves no trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.pixels import pixel_array

from exporter.dicom.instance import Instance
from exporter.frames.cells import frame_bytes, is_422
from exporter.frames.reader import open_reader
from exporter.privacy.pixels import LadderStep, MaskedReader, decide
from exporter.settings.settings import LimitSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMITS = LimitSettings()
ULTRASOUND = {"1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"}
LOSSY_TOLERANCE = 2
"""Levels by which two decoders of JPEG by cosines may differ (T.83 permits one for each coefficient)."""


def masked_images(corpus: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[str, Instance, MaskedReader]]:
    """The ultrasound images of which regions are kept."""
    for row in rows:
        if row.get("sop_class") not in ULTRASOUND or row["file"].startswith("synthetic-video"):
            continue
        with Instance.open(corpus / row["file"], LIMITS) as instance:
            assert instance.pixels is not None
            decision = decide(instance.header, instance.pixels, instance.transfer_syntax)
            if decision.step is LadderStep.ULTRASOUND_REGIONS:
                reader = open_reader(instance, instance.pixels, LIMITS, [])
                yield row["file"], instance, MaskedReader(reader, instance, instance.pixels, decision)


def union_of_regions(dataset: pydicom.Dataset) -> np.ndarray:
    """Read from the elements as PS3.3 C.8.5.5 has them, those of no format and no type left out."""
    mask = np.zeros((dataset.Rows, dataset.Columns), bool)
    for item in dataset.SequenceOfUltrasoundRegions:
        if item.RegionSpatialFormat or item.RegionDataType:
            rows = slice(item.RegionLocationMinY0, item.RegionLocationMaxY1 + 1)
            mask[rows, item.RegionLocationMinX0 : item.RegionLocationMaxX1 + 1] = True
    return mask


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore::UserWarning")  # the judge's, about what is odd in these files
def test_pydicom_has_the_same_values_where_pixels_are_kept_and_the_rest_is_one_value(
    corpus: Path, corpus_catalog: list[dict[str, Any]]
) -> None:
    seen = 0
    for name, instance, reader in masked_images(corpus, corpus_catalog):
        dataset = pydicom.dcmread(corpus / name, force=True)
        lossy = instance.transfer_syntax.endswith(".4.50")
        values = reader.samples(0, to_rgb=False).values
        mask = reader.area(0).mask()
        assert mask.any(), name
        assert not (mask & ~union_of_regions(dataset)).any(), name
        hidden = values[~mask].reshape((~mask).sum(), -1)
        assert (hidden == hidden[0]).all(), name
        seen += 1
        if instance.transfer_syntax.endswith(".4.70"):  # the judge has no decoder for it
            continue
        theirs = pixel_array(dataset, index=0, raw=True)
        difference = np.abs(values[mask].astype(int) - np.asarray(theirs)[mask].astype(int))
        assert difference.max() <= (LOSSY_TOLERANCE if lossy else 0), name
    assert seen == 24


@pytest.mark.corpus
def test_hidden_pixels_of_native_files_can_be_anything(
    corpus: Path, corpus_catalog: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Every hidden byte of the file is replaced; what comes out stays the same in every frame."""
    seen = 0
    for name, instance, reader in masked_images(corpus, corpus_catalog):
        pixels = instance.pixels
        assert pixels is not None
        if pixels.encapsulated or is_422(pixels) or pixels.bits_allocated != 8:
            continue
        content = bytearray((corpus / name).read_bytes())
        size = frame_bytes(pixels)
        mask = reader.area(0).mask()
        bytes_hidden = ~np.repeat(mask[..., np.newaxis], pixels.samples, axis=2)
        if pixels.planar:
            bytes_hidden = bytes_hidden.transpose(2, 0, 1)
        for index in range(pixels.frames):
            start = pixels.offset + index * size
            frame = np.frombuffer(bytes(content[start : start + size]), np.uint8).copy()
            frame[bytes_hidden.ravel()] ^= np.random.default_rng(index).integers(1, 256, bytes_hidden.sum(), np.uint8)
            content[start : start + size] = frame.tobytes()
        changed = tmp_path / f"{seen}.dcm"
        changed.write_bytes(content)
        with Instance.open(changed, LIMITS) as other:
            assert other.pixels is not None
            decision = decide(other.header, other.pixels, other.transfer_syntax)
            again = MaskedReader(open_reader(other, other.pixels, LIMITS, []), other, other.pixels, decision)
            for index in range(pixels.frames):
                expected = reader.samples(index, to_rgb=True).values.tobytes()
                assert again.samples(index, to_rgb=True).values.tobytes() == expected, name
        seen += 1
    assert seen >= 8
