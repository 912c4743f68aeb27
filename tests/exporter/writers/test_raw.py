"""Raw values: exact against an independent reading, reversible, with their meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence

from exporter.errors import ExportError, SkipInstance
from exporter.settings.settings import MediaSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BOTH = MediaSettings.model_validate({"image": {"outputs": ["raw16", "view8"]}, "volume": {"enabled": False}})


def read_back(file: Path, medium: Any) -> np.ndarray:
    if medium.suffix == ".raw.npy":
        return np.load(file)
    samples = imagecodecs.png_decode(file.read_bytes())
    assert samples.dtype == np.uint16
    return samples.astype(np.int64) + medium.values.offset


@pytest.mark.parametrize("dtype", ["<u1", "<i1", "<u2", "<i2"])
def test_every_stored_value_comes_back(
    make_instance: Callable[..., Path], export: Callable[..., Any], dtype: str
) -> None:
    info = np.iinfo(dtype)
    stored = np.random.default_rng(0).integers(info.min, info.max, (40, 50), dtype=np.dtype(dtype), endpoint=True)
    stored[0, :2] = info.min, info.max
    path = make_instance(stored, RescaleSlope="2", RescaleIntercept="-1000")
    result, folder = export(path, BOTH)
    raw, view = result.media
    assert (raw.suffix, view.suffix) == (".raw.png", ".png")
    np.testing.assert_array_equal(read_back(folder / raw.file, raw), stored)
    assert (raw.values.slope, raw.values.intercept, raw.values.linear) == (2.0, -1000.0, True)
    assert view.values is None


@pytest.mark.parametrize(("descriptor", "linear"), [(None, True), ([256, 0, 8], False)])
def test_an_empty_modality_table_leaves_the_line(
    make_instance: Callable[..., Path], export: Callable[..., Any], descriptor: list[int] | None, linear: bool
) -> None:
    item = Dataset()
    if descriptor is not None:
        item.add_new("LUTDescriptor", "US", descriptor)
    path = make_instance(
        np.zeros((8, 8), "<u2"), RescaleSlope="2", RescaleIntercept="-5", ModalityLUTSequence=Sequence([item])
    )
    result, _ = export(path, BOTH)
    values = result.media[0].values
    assert (values.slope, values.intercept, values.linear) == ((2.0, -5.0, True) if linear else (1.0, 0.0, False))


def test_values_beyond_sixteen_bits_become_a_numpy_array(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    stored = np.random.default_rng(0).integers(0, 2**32 - 1, (20, 30), dtype="<u4")
    result, folder = export(make_instance(stored), BOTH)
    assert result.media[0].suffix == ".raw.npy"
    np.testing.assert_array_equal(np.load(folder / result.media[0].file), stored)


def test_colour_has_no_raw_values_and_says_so(make_instance: Callable[..., Path], export: Callable[..., Any]) -> None:
    result, _ = export(make_instance(np.zeros((20, 30, 3), np.uint8)), BOTH)
    assert [m.suffix for m in result.media] == [".png"]
    assert any("raw16" in warning for warning in result.warnings)


def test_the_order_of_outputs_is_that_of_the_settings(
    make_instance: Callable[..., Path], export: Callable[..., Any]
) -> None:
    path = make_instance(np.zeros((20, 30), np.uint8))
    for outputs, suffixes in ((["view8", "raw16"], [".png", ".raw.png"]), (["raw16"], [".raw.png"])):
        settings = MediaSettings.model_validate({"image": {"outputs": outputs}})
        assert [m.suffix for m in export(path, settings)[0].media] == suffixes


@pytest.mark.slow
def test_raw_values_of_the_corpus_equal_pydicoms(
    corpus: Path, corpus_catalog: list[dict[str, Any]], export: Callable[..., Any]
) -> None:
    compared = 0
    for row in corpus_catalog:
        if not row.get("pixel_decode_ok") or row.get("samples") != 1 or row.get("frames"):
            continue
        if row["file"].endswith("SIZ1_PixRep0.dcm"):
            continue  # signed codestream, header says unsigned: pydicom's plugin leaves its values shifted by 32768
        path = corpus / row["file"]
        try:
            result, folder = export(path, BOTH)
        except (ExportError, SkipInstance):
            continue
        medium = result.media[0]
        if medium.values is None:
            continue
        dataset = dcmread(path, force=True)
        try:
            expected = pixel_array(dataset, raw=True)
        except (AttributeError, ValueError, RuntimeError, NotImplementedError):
            continue  # pydicom needs a plugin that is not installed
        found = read_back(folder / medium.file, medium)
        bits = int(dataset.get("BitsStored", 16))
        if found.dtype.kind in "iu" and bits < 16 and dataset.get("PixelRepresentation") == 0:
            expected = expected & ((1 << bits) - 1)  # pydicom leaves overlay bits in
        np.testing.assert_array_equal(found, expected, err_msg=row["file"])
        compared += 1
    assert compared >= 60


def test_the_sign_of_the_codestream_wins_over_the_header(corpus: Path, export: Callable[..., Any]) -> None:
    result, folder = export(corpus / "pydicom__pylibjpeg-data" / "TOSHIBA_J2K_SIZ1_PixRep0.dcm", BOTH)
    raw = result.media[0]
    stored = read_back(folder / raw.file, raw)
    assert raw.values.offset == -32768
    assert stored.min() < 0 < stored.max()
