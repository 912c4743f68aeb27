"""Display values: the Standard's formulas in float64 beside ours, and answers that are known by hand."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from exporter.dicom.instance import Instance
from exporter.errors import BadGeometry, CorruptPixels
from exporter.frames import DisplayOptions, Frames, display, open_frames
from exporter.settings.settings import DisplaySettings

from .conftest import EXPLICIT_BE

if TYPE_CHECKING:
    from exporter.settings.settings import LimitSettings

    from .conftest import Build

BITS = [8, 12, 16]
SHAPE: dict[str, Any] = {"Rows": 64, "Columns": 64}


def gray(bits: int, *, signed: bool = False) -> np.ndarray:
    """64 x 64 values over the whole range of `bits` bits."""
    low = -(1 << bits - 1) if signed else 0
    values = np.linspace(low, low + (1 << bits) - 1, 64 * 64).round().astype(np.int64)
    return values.reshape(64, 64)


def raw(values: np.ndarray, allocated: int) -> bytes:
    return (values & ((1 << allocated) - 1)).astype(f"<u{allocated // 8}").tobytes()


def stored(bits: int, *, signed: bool = False) -> dict[str, Any]:
    allocated = 8 if bits == 8 else 16
    return {**SHAPE, "BitsAllocated": allocated, "BitsStored": bits, "PixelRepresentation": int(signed)}


def shown(instance: Instance, options: DisplayOptions | None = None) -> tuple[np.ndarray, Frames]:
    frames = open_frames(instance, instance.limits)
    return np.stack(list(frames.display(options))), frames


def reference(values: np.ndarray, function: str, centre: float, width: float) -> np.ndarray:
    """PS3.3 C.11.2.1.2, C.11.2.1.3, as written there, for an output range of 0 to 255."""
    x = values.astype(np.float64)
    if function == "LINEAR":
        y = ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255 if width > 1 else np.zeros_like(x)
        y = np.where(x <= centre - 0.5 - (width - 1) / 2, 0, y)
        return np.where(x > centre - 0.5 + (width - 1) / 2, 255, y)
    if function == "LINEAR_EXACT":
        y = ((x - centre) / width + 0.5) * 255
        return np.where(x <= centre - width / 2, 0, np.where(x > centre + width / 2, 255, y))
    return 255 / (1 + np.exp(-4 * (x - centre) / width))


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found.astype(np.float64) - expected).max() <= 1


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [(1, 0), (2.5, -100), (0.01, 7), (-1, 50)])
def test_slope_intercept_and_window_follow_the_formulas(
    build: Build, bits: int, signed: bool, function: str, rescale: tuple[float, float]
) -> None:
    slope, intercept = rescale
    values = gray(bits, signed=signed)
    modality = values * slope + intercept
    centre = float(modality.mean()) + 3
    width = max(2.0, abs(slope) * (1 << bits) / 3)
    instance = build(
        raw(values, 8 if bits == 8 else 16),
        **stored(bits, signed=signed),
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        WindowCenter=round(centre, 3),
        WindowWidth=round(width, 3),
        VOILUTFunction=function,
    )
    found, frames = shown(instance)
    expected = reference(modality, function, round(centre, 3), round(width, 3))
    close(found[0], expected)
    rendering = frames.rendering
    assert (rendering.voi, rendering.inverted) == (function, False)
    assert rendering.window == (round(centre, 3), round(width, 3))
    assert rendering.modality == (None if (slope, intercept) == (1, 0) else "RescaleSlope/Intercept")


def test_answers_known_by_hand(build: Build) -> None:
    values = np.array([[0, 1023, 1024, 1123, 1124, 1223, 1224, 4095]])
    instance = build(
        raw(values, 16),
        Rows=1,
        Columns=8,
        BitsStored=12,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=100,
        WindowWidth=200,
    )
    found, _ = shown(instance)
    # x = -1024, -1, 0, 99, 100, 199, 200, 3071; y = ((x - 99.5) / 199 + 0.5) x 255
    assert found[0].tolist() == [[0, 0, 0, 127, 128, 255, 255, 255]]


def test_a_window_of_width_one_is_a_threshold(build: Build) -> None:
    instance = build(raw(np.arange(8).reshape(1, 8), 16), Rows=1, Columns=8, WindowCenter=4, WindowWidth=1)
    assert shown(instance)[0][0].tolist() == [[0, 0, 0, 0, 255, 255, 255, 255]]


def test_the_presentation_decides_where_it_contradicts_the_photometric_interpretation(build: Build) -> None:
    """As DCMTK and dcm4che have it: the presentation table is what leads to P-values (PS3.3 C.11.6)."""
    elements = {**stored(12), "WindowCenter": 2048, "WindowWidth": 4096}
    plain = shown(build(raw(gray(12), 16), **elements))[0]
    more = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}
    found, frames = shown(build(raw(gray(12), 16), **{**elements, **more}))
    np.testing.assert_array_equal(found, plain)
    assert not frames.rendering.inverted
    assert frames.warnings


@pytest.mark.parametrize("bits", BITS)
def test_inversion_happens_once(build: Build, bits: int) -> None:
    values = gray(bits)
    elements = {**stored(bits), "WindowCenter": (1 << bits) / 2, "WindowWidth": 1 << bits}
    pixels = raw(values, 8 if bits == 8 else 16)
    plain = shown(build(pixels, **elements))[0]
    for more in (
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE"},
    ):
        found, frames = shown(build(pixels, **{**elements, **more}))
        np.testing.assert_array_equal(found, 255 - plain)
        assert frames.rendering.inverted


class TestWindowsThatCannotBeUsed:
    @pytest.mark.parametrize("width", [0, -5])
    def test_a_width_that_is_not_positive_gives_the_automatic_window_and_a_note(
        self, build: Build, width: float
    ) -> None:
        values = gray(12)
        found, frames = shown(build(raw(values, 16), **stored(12), WindowCenter=100, WindowWidth=width))
        close(found[0], values / 4095 * 255)
        assert frames.rendering.voi == "automatic"
        assert any("Window Width" in note for note in frames.rendering.notes)

    @pytest.mark.parametrize("slope", ["0", "NaN", "Infinity", "abc"])
    def test_a_useless_slope_is_not_applied_and_noted(self, build: Build, slope: str) -> None:
        values = gray(12)
        instance = build(raw(values, 16), **stored(12), WindowCenter=100, WindowWidth=50, RescaleIntercept=-5)
        instance.header.RescaleSlope = None
        instance.header["RescaleSlope"]._value = slope if slope != "0" else 0.0
        found, frames = shown(instance)
        close(found[0], values / 4095 * 255)
        assert any("Rescale Slope" in note for note in frames.rendering.notes)
        assert frames.rendering.modality is None

    def test_a_linear_width_below_one_is_read_as_exact(self, build: Build) -> None:
        values = np.linspace(0, 1, 64 * 64, dtype="<f4").reshape(64, 64)
        instance = build(
            values.tobytes(), vr="OF", **SHAPE, BitsAllocated=32, BitsStored=None, HighBit=None,
            WindowCenter=0.5, WindowWidth=0.5,
        )  # fmt: skip
        found, frames = shown(instance)
        close(found[0], reference(values, "LINEAR_EXACT", 0.5, 0.5))
        assert frames.rendering.notes

    def test_the_first_usable_of_several_is_used(self, build: Build) -> None:
        instance = build(raw(gray(12), 16), **stored(12), WindowCenter=[1, 2000], WindowWidth=[0, 500])
        assert shown(instance)[1].rendering.window == (2000, 500)


class TestSeveralWindows:
    def test_one_of_several_can_be_chosen(self, build: Build) -> None:
        instance = build(raw(gray(12), 16), **stored(12), WindowCenter=[100, 2000, 3000], WindowWidth=[50, 500, 60])
        for index, window in enumerate([(100, 50), (2000, 500), (3000, 60)]):
            found, frames = shown(instance, DisplayOptions(voi=index))
            close(found[0], reference(gray(12), "LINEAR", *window))
            assert frames.rendering.window == window

    def test_one_that_is_not_there_is_the_first_and_noted(self, build: Build) -> None:
        instance = build(raw(gray(12), 16), **stored(12), WindowCenter=100, WindowWidth=50)
        rendering = shown(instance, DisplayOptions(voi=3))[1].rendering
        assert rendering.window == (100, 50)
        assert rendering.notes

    def test_a_window_of_the_caller_wins(self, build: Build) -> None:
        instance = build(raw(gray(12), 16), **stored(12), WindowCenter=100, WindowWidth=50)
        found, frames = shown(instance, DisplayOptions(window=(2000, 1000)))
        close(found[0], reference(gray(12), "LINEAR_EXACT", 2000, 1000))
        assert frames.rendering.window == (2000, 1000)


class TestAutomaticWindow:
    @pytest.mark.parametrize("signed", [False, True])
    def test_eight_bits_keep_their_full_range(self, build: Build, signed: bool) -> None:
        values = np.clip(gray(8, signed=signed), 10, 100)
        found, frames = shown(build(raw(values, 8), **stored(8, signed=signed)))
        np.testing.assert_array_equal(found[0], values + (128 if signed else 0))
        assert frames.rendering.voi == "automatic"

    def test_single_bits_are_black_and_white(self, build: Build) -> None:
        bits = np.random.default_rng(0).integers(0, 2, (64, 64)).astype(np.uint8)
        packed = np.packbits(bits.reshape(-1), bitorder="little").tobytes()
        np.testing.assert_array_equal(shown(build(packed, **SHAPE, BitsAllocated=1))[0][0], bits * 255)

    def test_more_bits_go_from_least_to_greatest_value_of_all_frames(self, build: Build) -> None:
        first, second = gray(12) // 8, gray(12) // 4 + 100
        instance = build(raw(np.stack([first, second]), 16), **stored(12), NumberOfFrames=2)
        found, frames = shown(instance)
        close(found, np.stack([first, second]) / second.max() * 255)
        assert frames.rendering.window == (second.max() / 2, second.max())

    def test_each_frame_its_own_where_asked_for(self, build: Build) -> None:
        both = np.stack([gray(12) // 8, gray(12) // 4])
        instance = build(raw(both, 16), **stored(12), NumberOfFrames=2)
        found, frames = shown(instance, DisplayOptions(automatic="frame"))
        assert [frame.max() for frame in found] == [255, 255]
        assert any("own window" in note for note in frames.rendering.notes)

    def test_padding_does_not_count(self, build: Build) -> None:
        values = gray(12, signed=True) // 4 + 500
        values[:8] = -2048
        instance = build(raw(values, 16), **stored(12, signed=True), PixelPaddingValue=-2048)
        rendering = shown(instance)[1].rendering
        inside = values[8:]
        assert rendering.window == ((inside.min() + inside.max()) / 2, inside.max() - inside.min())

    @pytest.mark.parametrize("value", [0, 7, 4095])
    def test_a_constant_is_black(self, build: Build, value: int) -> None:
        found, _ = shown(build(raw(np.full((64, 64), value), 16), **stored(12)))
        assert not found.any()

    def test_floats_that_are_no_numbers_do_not_count(self, build: Build) -> None:
        values = np.linspace(-3, 5, 64 * 64).reshape(64, 64)
        values[0, :4] = [np.nan, np.inf, -np.inf, 1e300]
        values[0, 3] = 5
        instance = build(
            values.astype("<f8").tobytes(), vr="OD", **SHAPE, BitsAllocated=64, BitsStored=None, HighBit=None
        )
        found, frames = shown(instance)
        assert found[0, 0, :3].tolist() == [0, 255, 0]
        window = frames.rendering.window
        assert window is not None
        assert window[1] == pytest.approx(values[0, 3] - values[0, 4])

    def test_one_is_taken_in_spite_of_windows_where_asked_for(self, build: Build) -> None:
        windowed = build(raw(gray(12) // 2, 16), **stored(12), WindowCenter=3000, WindowWidth=10)
        found, frames = shown(windowed, DisplayOptions(automatic="always"))
        plain, _ = shown(build(raw(gray(12) // 2, 16), **stored(12)))
        np.testing.assert_array_equal(found, plain)
        assert (frames.rendering.voi, frames.rendering.inside_window) == ("automatic", None)
        chosen = shown(windowed, DisplayOptions(automatic="always", window=(500, 100)))[1].rendering
        assert chosen.window == (500, 100)

    @pytest.mark.parametrize("signed", [False, True])
    def test_a_robust_one_reaches_from_percentile_to_percentile_without_padding(
        self, build: Build, signed: bool
    ) -> None:
        values = np.random.default_rng(1).normal(300, 50, (64, 64)).round().astype(np.int64)
        values[0, :3] = 2000, 2047, 1  # a marker of metal, and a dead pixel
        values[32:] = 0  # padding, half of the picture
        instance = build(raw(values, 16), **stored(12, signed=signed), PixelPaddingValue=0)
        rendering = shown(instance, DisplayOptions(automatic_percentiles=(1, 99)))[1].rendering
        low, high = np.percentile(values[:32], (1, 99), method="nearest")
        assert rendering.window == ((low + high) / 2, high - low)

    def test_a_robust_one_is_over_all_frames_and_over_few_bits_too(self, build: Build) -> None:
        both = np.stack([gray(8) // 4, gray(8) // 2])
        instance = build(raw(both, 8), **stored(8), NumberOfFrames=2)
        rendering = shown(instance, DisplayOptions(automatic_percentiles=(2, 98)))[1].rendering
        low, high = np.percentile(both, (2, 98), method="nearest")
        assert rendering.window == ((low + high) / 2, high - low)

    def test_a_robust_one_of_a_picture_with_little_in_it_is_not_black(self, build: Build) -> None:
        values = np.zeros((64, 64), np.int64)
        values[0, :4] = [100, 200, 300, 400]
        found, frames = shown(build(raw(values, 16), **stored(12)), DisplayOptions(automatic_percentiles=(1, 99)))
        assert found.max() == 255
        assert frames.rendering.window == (200, 400)


class TestValuesInsideTheWindow:
    """`inside_window`, for people who filter."""

    @pytest.mark.parametrize(
        ("function", "centre", "width"),
        [("LINEAR", 300, 100), ("LINEAR", 2000.5, 1), ("LINEAR_EXACT", 300, 100), ("SIGMOID", 300, 100)],
    )
    @pytest.mark.parametrize("bits", [8, 12, 16, 32])
    def test_their_share_is_that_of_the_formulas_range(
        self, build: Build, bits: int, function: str, centre: float, width: float
    ) -> None:
        stored_values = np.random.default_rng(2).integers(0, min(1 << bits, 600), (64, 64))
        elements = {**stored(min(bits, 16)), "BitsStored": bits, "BitsAllocated": 8 if bits == 8 else max(16, bits)}
        instance = build(
            raw(stored_values, elements["BitsAllocated"]),
            **elements,
            RescaleSlope=2,
            RescaleIntercept=-10,
            WindowCenter=centre,
            WindowWidth=width,
            VOILUTFunction=function,
        )
        values = stored_values * 2.0 - 10
        if function == "LINEAR":
            low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
        else:
            low, high = centre - width / 2, centre + width / 2
        expected = np.mean((values >= low) & (values <= high))
        assert shown(instance)[1].rendering.inside_window == pytest.approx(expected, abs=1e-6)

    def test_their_share_is_that_of_a_tables_domain_also_through_a_modality_table(self, build: Build) -> None:
        modality = lut([5, 0, 7, 1, 6, 2], 0, 16)  # no line: inside is no range of stored values
        values = np.tile(np.arange(6), 64 * 64 // 6 + 1)[: 64 * 64].reshape(64, 64)
        instance = build(
            raw(values, 16),
            **stored(12),
            ModalityLUTSequence=Sequence([modality]),
            VOILUTSequence=Sequence([lut([0, 100, 255], 5, 8)]),
        )
        expected = np.isin(values, [0, 2, 4]).mean()
        assert shown(instance)[1].rendering.inside_window == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(("centre", "colour"), [(3000, 0), (-3000, 255)])
    def test_pictures_that_show_nothing_are_a_warning_with_the_share(
        self, build: Build, centre: int, colour: int
    ) -> None:
        values = np.stack([gray(8), gray(8) + 1])
        instance = build(
            raw(values, 16), **stored(12), NumberOfFrames=2, WindowCenter=centre, WindowWidth=100, Modality="CT"
        )
        found, frames = shown(instance)
        assert (found == colour).all()
        assert frames.rendering.inside_window == 0
        (warning,) = (warning for warning in frames.warnings if warning.startswith("display:"))
        assert "2 of 2 pictures" in warning
        assert "0.00% of the values" in warning

    def test_pictures_that_show_something_are_none(self, build: Build) -> None:
        instance = build(raw(gray(12), 16), **stored(12), WindowCenter=2048, WindowWidth=4096)
        _, frames = shown(instance)
        assert frames.rendering.inside_window == pytest.approx(1, abs=0.001)
        assert not frames.warnings
        automatic = shown(build(raw(np.zeros((64, 64), np.int64), 16), **stored(12)))[1]
        assert automatic.rendering.inside_window is None
        assert not automatic.warnings


def lut(entries: list[int], first: int, bits: int, *, data: bytes | None = None) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries) & 0xFFFF, first, bits])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes() if data is None else data)
    return item


class TestTables:
    def test_a_modality_table_comes_before_the_window(self, build: Build) -> None:
        entries = [(v * v) // 64 for v in range(512)]
        values = gray(12)
        instance = build(
            raw(values, 16),
            **stored(12),
            ModalityLUTSequence=Sequence([lut(entries, 100, 16)]),
            WindowCenter=2000,
            WindowWidth=3000,
        )
        found, frames = shown(instance)
        mapped = np.array(entries)[np.clip(values - 100, 0, 511)]
        close(found[0], reference(mapped, "LINEAR", 2000, 3000))
        assert frames.rendering.modality == "ModalityLUTSequence"

    def test_a_modality_table_of_angiography_leads_to_intensities_and_is_not_applied(self, build: Build) -> None:
        instance = build(
            raw(gray(12), 16),
            **stored(12),
            SOPClassUID="1.2.840.10008.5.1.4.1.1.12.1",
            PixelIntensityRelationship="LOG",
            ModalityLUTSequence=Sequence([lut(list(range(4096, 0, -1)), 0, 16)]),
            WindowCenter=2000,
            WindowWidth=3000,
        )
        found, frames = shown(instance)
        close(found[0], reference(gray(12), "LINEAR", 2000, 3000))
        assert frames.rendering.modality is None

    @pytest.mark.parametrize("bits", [8, 12, 16])
    def test_a_voi_table_gives_display_values(self, build: Build, bits: int) -> None:
        top = (1 << bits) - 1
        entries = [top - round(v * top / 1023) for v in range(1024)]
        values = gray(12, signed=True)
        instance = build(
            raw(values, 16), **stored(12, signed=True), VOILUTSequence=Sequence([lut(entries, -500, bits)])
        )
        found, frames = shown(instance)
        close(found[0], np.array(entries)[np.clip(values + 500, 0, 1023)] / top * 255)
        assert frames.rendering.voi == "LUT"

    @pytest.mark.parametrize("first", [-1024, 64512])
    def test_a_voi_table_begins_below_zero_where_the_rescaled_values_do(self, build: Build, first: int) -> None:
        """Unsigned pixels of a CT with intercept -1024; old files write the first mapped value without a sign."""
        entries = [round(v * v / 4095) for v in range(4096)]
        values = gray(12)
        instance = build(
            raw(values, 16),
            **stored(12),
            RescaleSlope=1,
            RescaleIntercept=-1024,
            VOILUTSequence=Sequence([lut(entries, first, 12)]),
        )
        close(shown(instance)[0][0], np.array(entries)[values] / 4095 * 255)

    def test_a_voi_table_that_begins_high_stays_there(self, build: Build) -> None:
        values = gray(16)
        entries = [v * 3 for v in range(20000)]
        instance = build(
            raw(values, 16),
            **stored(16),
            RescaleSlope=1,
            RescaleIntercept=-100,
            VOILUTSequence=Sequence([lut(entries, 40000, 16)]),
        )
        close(shown(instance)[0][0], np.array(entries)[np.clip(values - 100 - 40000, 0, 19999)] / 65535 * 255)

    def test_tables_come_before_windows_among_several(self, build: Build) -> None:
        instance = build(
            raw(gray(12), 16),
            **stored(12),
            VOILUTSequence=Sequence([lut(list(range(4096)), 0, 12)]),
            WindowCenter=100,
            WindowWidth=50,
        )
        assert shown(instance)[1].rendering.voi == "LUT"
        assert shown(instance, DisplayOptions(voi=1))[1].rendering.window == (100, 50)

    def test_a_table_that_uses_more_bits_than_it_says_is_noted(self, build: Build) -> None:
        instance = build(
            raw(gray(12), 16), **stored(12), VOILUTSequence=Sequence([lut([16 * v for v in range(4096)], 0, 12)])
        )
        found, frames = shown(instance)
        close(found[0], gray(12) / 4095 * 255)
        assert frames.rendering.notes

    @pytest.mark.parametrize("damage", ["short", "missing", "descriptor"])
    def test_damaged_voi_tables_are_passed_over_and_named(self, build: Build, damage: str) -> None:
        item = lut(list(range(4096)), 0, 12)
        if damage == "short":
            item.LUTData = bytes(100)
        elif damage == "missing":
            del item.LUTData
        else:
            item.LUTDescriptor = [4096, 0]
        sound = lut([4095 - v for v in range(4096)], 0, 12)
        for others, voi in (([], "automatic"), ([sound], "LUT")):
            tables = Sequence([Dataset(), item, *others])
            found, frames = shown(build(raw(gray(12), 16), **stored(12), VOILUTSequence=tables))
            assert frames.rendering.voi == voi
            assert any("VOI LUT Sequence holds a damaged table" in note for note in frames.rendering.notes)
            assert any("VOI LUT Sequence holds an item without a table" in note for note in frames.rendering.notes)
            close(found[0], (4095 - gray(12) if others else gray(12)) / 4095 * 255)

    def test_an_empty_modality_table_leaves_slope_and_window_in_force(self, build: Build) -> None:
        elements = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 1000, "WindowWidth": 500}
        plain, _ = shown(build(raw(gray(12), 16), **stored(12), **elements))
        empty = build(raw(gray(12), 16), **stored(12), **elements, ModalityLUTSequence=Sequence([Dataset()]))
        found, frames = shown(empty)
        np.testing.assert_array_equal(found, plain)
        assert frames.rendering.modality == "RescaleSlope/Intercept"
        assert any("Modality LUT Sequence holds no table" in note for note in frames.rendering.notes)

    def test_where_a_modality_table_is_damaged_no_window_is_applied(self, build: Build) -> None:
        item = lut(list(range(4096)), 0, 12, data=bytes(100))
        instance = build(
            raw(gray(12), 16), **stored(12), ModalityLUTSequence=Sequence([item]), WindowCenter=10, WindowWidth=5
        )
        found, frames = shown(instance)
        assert (frames.rendering.modality, frames.rendering.voi) == (None, "automatic")
        close(found[0], gray(12) / 4095 * 255)
        assert any("Modality LUT Sequence is damaged" in note for note in frames.rendering.notes)


def functional_groups(windows: list[tuple[float, float]], slopes: list[float]) -> Sequence:
    frames = []
    for (centre, width), slope in zip(windows, slopes, strict=True):
        voi, value, frame = Dataset(), Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, width
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = slope, 0, "US"
        frame.FrameVOILUTSequence = Sequence([voi])
        frame.PixelValueTransformationSequence = Sequence([value])
        frames.append(frame)
    return Sequence(frames)


class TestFrames:
    def test_every_frame_is_shown_by_its_own_window_and_rescale(self, build: Build) -> None:
        values = gray(12)
        windows = [(100.0, 200.0), (2000.0, 4000.0), (900.0, 50.0)]
        slopes = [1.0, 2.0, 0.5]
        instance = build(
            raw(np.stack([values] * 3), 16),
            **stored(12),
            NumberOfFrames=3,
            PerFrameFunctionalGroupsSequence=functional_groups(windows, slopes),
            WindowCenter=1,
            WindowWidth=2,
        )
        found, frames = shown(instance)
        for frame, window, slope in zip(found, windows, slopes, strict=True):
            close(frame, reference(values * slope, "LINEAR", *window))
        assert any("own window" in note for note in frames.rendering.notes)

    def test_shared_groups_hold_for_all_frames(self, build: Build) -> None:
        instance = build(
            raw(np.stack([gray(12)] * 2), 16),
            **stored(12),
            NumberOfFrames=2,
            SharedFunctionalGroupsSequence=functional_groups([(900.0, 50.0)], [3.0]),
        )
        found, frames = shown(instance)
        for frame in found:
            close(frame, reference(gray(12) * 3.0, "LINEAR", 900, 50))
        assert not frames.rendering.notes

    def test_frames_without_groups_of_their_own_use_the_shared_ones(self, build: Build) -> None:
        instance = build(
            raw(np.stack([gray(12)] * 2), 16),
            **stored(12),
            NumberOfFrames=2,
            SharedFunctionalGroupsSequence=functional_groups([(900.0, 50.0)], [3.0]),
            PerFrameFunctionalGroupsSequence=functional_groups([(100.0, 10.0)], [1.0]),
        )
        found, _ = shown(instance)
        close(found[0], reference(gray(12), "LINEAR", 100, 10))
        close(found[1], reference(gray(12) * 3.0, "LINEAR", 900, 50))


@pytest.mark.parametrize("allocated", [8, 16, 32])
def test_rgb_is_scaled_to_eight_bits(build: Build, allocated: int) -> None:
    top = (1 << allocated) - 1
    values = np.linspace(0, top, 16 * 16 * 3).astype(np.uint64).reshape(16, 16, 3)
    instance = build(
        values.astype(f"<u{allocated // 8}").tobytes(),
        Rows=16,
        Columns=16,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        BitsAllocated=allocated,
    )
    close(shown(instance)[0][0], values / top * 255)


@pytest.mark.parametrize("label", ["YBR_FULL", "YBR_PARTIAL_422"])
def test_ybr_follows_the_formulas(build: Build, label: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    subsampled = label.endswith("422")
    if subsampled:
        values[:, 1::2, 1:] = values[:, 0::2, 1:]
    cells = (
        np.stack([values[:, 0::2, 0], values[:, 1::2, 0], values[:, 0::2, 1], values[:, 0::2, 2]], axis=-1)
        if subsampled
        else values
    )
    instance = build(
        cells.tobytes(), Rows=16, Columns=16, SamplesPerPixel=3, PhotometricInterpretation=label, BitsAllocated=8
    )
    found, frames = shown(instance)
    y, cb, cr = (values[..., i].astype(np.float64) for i in range(3))
    if subsampled:
        y = (y - 16) * 255 / 219
        cb, cr = (c * 255 / 224 + 128 * (1 - 255 / 224) for c in (cb, cr))
    expected = np.stack(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)], axis=-1
    )
    close(found[0], np.clip(expected, 0, 255))
    assert frames.rendering.colour == f"{label}->RGB"
    assert frames.is_colour


class TestPalette:
    def palette(self, tables: list[np.ndarray], first: int, bits: int, **elements: Any) -> dict[str, Any]:
        packed = "<u2" if bits == 16 else np.uint8
        described: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR", **elements}
        for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
            described[f"{name}PaletteColorLookupTableDescriptor"] = [len(table) & 0xFFFF, first, bits]
            described[f"{name}PaletteColorLookupTableData"] = table.astype(packed).tobytes()
        return described

    @pytest.mark.parametrize("bits", BITS)
    @pytest.mark.parametrize("entry_bits", [8, 16])
    @pytest.mark.parametrize("first", [0, 10])
    def test_indices_become_colours(self, build: Build, bits: int, entry_bits: int, first: int) -> None:
        count = min(1 << bits, 4096) - first
        rng = np.random.default_rng(bits)
        tables = [rng.integers(0, 1 << entry_bits, count) for _ in range(3)]
        tables[0][0] = (1 << entry_bits) - 1
        values = gray(bits)
        instance = build(
            raw(values, 8 if bits == 8 else 16), **{**stored(bits), **self.palette(tables, first, entry_bits)}
        )
        found, frames = shown(instance)
        index = np.clip(values - first, 0, count - 1)
        expected = np.stack([table[index] for table in tables], axis=-1) / ((1 << entry_bits) - 1) * 255
        close(found[0], expected)
        outside = bool((values < first).any() or (values > first + count - 1).any())
        assert any("outside the palette" in note for note in frames.rendering.notes) == outside

    def test_signed_indices(self, build: Build) -> None:
        tables = [np.arange(256), np.arange(255, -1, -1), np.zeros(256, int)]
        values = gray(8, signed=True)
        instance = build(raw(values, 8), **{**stored(8, signed=True), **self.palette(tables, -128, 8)})
        found, _ = shown(instance)
        np.testing.assert_array_equal(found[0][..., 0], values + 128)

    def test_big_endian_tables(self, build: Build) -> None:
        values = gray(8)
        tables = [np.arange(256) * 257, np.arange(255, -1, -1) * 257, np.zeros(256, int)]
        elements = self.palette(tables, 0, 16)
        for name in ("Red", "Green", "Blue"):
            key = f"{name}PaletteColorLookupTableData"
            elements[key] = np.frombuffer(elements[key], "<u2").byteswap().tobytes()
        pixels = np.frombuffer(raw(values, 8), "<u2").byteswap().tobytes()
        found, _ = shown(build(pixels, EXPLICIT_BE, **{**stored(8), **elements}))
        np.testing.assert_array_equal(found[0][..., 0], values)
        np.testing.assert_array_equal(found[0][..., 1], 255 - values)

    def test_tables_that_say_16_bits_and_use_8_are_read_as_8(self, build: Build) -> None:
        tables = [np.arange(256)] * 3
        found, frames = shown(build(raw(gray(8), 8), **{**stored(8), **self.palette(tables, 0, 16)}))
        np.testing.assert_array_equal(found[0][..., 0], gray(8))
        assert frames.rendering.notes

    def test_segmented_tables(self, build: Build) -> None:
        # discrete 0 100; linear to 1000 over 9; the same two segments again; discrete 7
        words = [0, 2, 0, 100, 1, 9, 1000, 2, 2, 0, 0, 0, 1, 65535]
        elements = self.palette([np.zeros(23, int)] * 3, 0, 16)
        for name in ("Red", "Green", "Blue"):
            del elements[f"{name}PaletteColorLookupTableData"]
            elements[f"Segmented{name}PaletteColorLookupTableData"] = np.array(words, "<u2").tobytes()
        values = np.arange(23, dtype=np.uint8).reshape(1, 23)
        found, _ = shown(build(values.tobytes() + b"\0", **{**stored(8), "Rows": 1, "Columns": 23, **elements}))
        once = [0, 100, *range(200, 1001, 100)]
        expected = np.array([*once, *once, 65535]) / 65535 * 255
        close(found[0, 0, :, 0], expected)

    @pytest.mark.parametrize(
        "words", [[0, 50, 1], [1, 5, 9], [3, 1, 1], [2, 1, 90, 0], [0, 1, 5, 2, 1], [0, 0] * 50 + [2, 9, 0, 0] * 50, []]
    )
    def test_damaged_segments_are_refused(self, build: Build, words: list[int]) -> None:
        elements = self.palette([np.zeros(23, int)] * 3, 0, 16)
        for name in ("Red", "Green", "Blue"):
            del elements[f"{name}PaletteColorLookupTableData"]
            elements[f"Segmented{name}PaletteColorLookupTableData"] = np.array(words, "<u2").tobytes()
        with pytest.raises(CorruptPixels):
            shown(build(raw(gray(8), 8), **{**stored(8), **elements}))

    @pytest.mark.parametrize("damage", ["short", "missing", "descriptor", "differing"])
    def test_damaged_palettes_are_refused(self, build: Build, damage: str) -> None:
        elements = self.palette([np.arange(256)] * 3, 0, 8)
        if damage == "short":
            elements["GreenPaletteColorLookupTableData"] = bytes(100)
        elif damage == "missing":
            del elements["BluePaletteColorLookupTableData"]
        elif damage == "descriptor":
            elements["RedPaletteColorLookupTableDescriptor"] = [256, 0]
        else:
            elements["RedPaletteColorLookupTableDescriptor"] = [256, 5, 8]
        with pytest.raises((BadGeometry, CorruptPixels)):
            shown(build(raw(gray(8), 8), **{**stored(8), **elements}))

    def test_a_supplemental_palette_colours_only_its_values(self, build: Build) -> None:
        tables = [np.full(96, 65535), np.zeros(96, int), np.arange(96) * 600]
        elements = self.palette(tables, 4000, 16, PhotometricInterpretation="MONOCHROME2", PixelPresentation="COLOR")
        values = gray(12)
        instance = build(raw(values, 16), **{**stored(12), **elements}, WindowCenter=2000, WindowWidth=4000)
        found, frames = shown(instance)
        assert frames.is_colour
        coloured = values >= 4000
        close(found[0][~coloured], np.repeat(reference(values, "LINEAR", 2000, 4000)[~coloured][:, None], 3, axis=1))
        close(found[0][coloured][:, 2], (values[coloured] - 4000) * 600 / 65535 * 255)
        assert (found[0][coloured][:, 0] == 255).all()

    def test_where_a_supplemental_palette_is_damaged_the_picture_is_gray_and_says_so(self, build: Build) -> None:
        elements = self.palette([np.zeros(96, int)] * 3, 4000, 16, PixelPresentation="MIXED")
        elements |= {"PhotometricInterpretation": "MONOCHROME2", "GreenPaletteColorLookupTableData": bytes(10)}
        instance = build(raw(gray(12), 16), **{**stored(12), **elements}, WindowCenter=2000, WindowWidth=4000)
        found, frames = shown(instance)
        close(found[0], reference(gray(12), "LINEAR", 2000, 4000))
        assert any("supplemental palette is damaged" in note for note in frames.rendering.notes)


class TestOverlays:
    def overlay(self, mask: np.ndarray, origin: list[int], **more: Any) -> dict[str, Any]:
        self.extra = {
            (0x6000, 0x0010): ("US", mask.shape[-2]),
            (0x6000, 0x0011): ("US", mask.shape[-1]),
            (0x6000, 0x0050): ("SS", origin),
            (0x6000, 0x0100): ("US", 1),
            (0x6000, 0x3000): ("OW", np.packbits(mask.reshape(-1), bitorder="little").tobytes()),
            **more,
        }
        return self.extra

    def instance(self, build: Build, frames: int = 1) -> Instance:
        values = np.full((frames, 64, 64), 50, np.uint8)
        instance = build(values.tobytes(), **stored(8), NumberOfFrames=frames)
        for tag, (vr, value) in self.extra.items():
            instance.header.add_new(tag, vr, value)
        return instance

    def test_they_are_drawn_only_when_asked_for(self, build: Build) -> None:
        mask = np.zeros((16, 16), np.uint8)
        mask[2:5, 3:9] = 1
        self.overlay(mask, [11, 21])
        instance = self.instance(build)
        assert not (shown(instance)[0] == 255).any()
        found, _ = shown(instance, DisplayOptions(overlays=True))
        white = np.argwhere(found[0] == 255)
        assert white.min(axis=0).tolist() == [12, 23]
        assert white.max(axis=0).tolist() == [14, 28]
        assert len(white) == 18

    @pytest.mark.parametrize("origin", [[-7, -7], [57, 57], [200, 200], [-200, 1]])
    def test_they_are_cut_at_the_edges(self, build: Build, origin: list[int]) -> None:
        self.overlay(np.ones((16, 16), np.uint8), origin)
        found, _ = shown(self.instance(build), DisplayOptions(overlays=True))
        inside = all(-15 < o <= 64 for o in origin)
        assert int((found == 255).sum()) == (64 if inside else 0)

    def test_each_frame_gets_its_own(self, build: Build) -> None:
        masks = np.zeros((2, 64, 64), np.uint8)
        masks[0, 0, 0] = masks[1, 1, 1] = 1
        self.overlay(masks, [1, 1])
        self.extra |= {(0x6000, 0x0015): ("IS", 2), (0x6000, 0x0051): ("US", 2)}
        found, _ = shown(self.instance(build, 3), DisplayOptions(overlays=True))
        assert [np.argwhere(f == 255).tolist() for f in found] == [[], [[0, 0]], [[1, 1]]]

    def test_a_damaged_one_is_noted(self, build: Build) -> None:
        self.overlay(np.ones((16, 16), np.uint8), [1, 1])
        self.extra[0x6000, 0x0010] = ("US", 5000)
        found, frames = shown(self.instance(build), DisplayOptions(overlays=True))
        assert not (found == 255).any()
        assert any("6000" in note for note in frames.rendering.notes)


class TestAround:
    def test_icc_profiles_are_handed_on(self, build: Build) -> None:
        profile = (500).to_bytes(4, "big") + bytes(32) + b"acsp" + bytes(460)
        instance = build(raw(gray(8), 8), **stored(8), ICCProfile=profile + b"\0\0")
        assert open_frames(instance, instance.limits).icc_profile == profile
        other = build(raw(gray(8), 8), **stored(8), ICCProfile=b"no profile at all")
        assert open_frames(other, other.limits).icc_profile is None

    def test_pixels_that_are_not_square_say_so(self, build: Build) -> None:
        instance = build(raw(gray(8), 8), **stored(8))
        assert open_frames(instance, instance.limits).pixel_aspect_ratio == 1
        instance = build(raw(gray(8), 8), **stored(8), PixelAspectRatio=[3, 2])
        assert open_frames(instance, instance.limits).pixel_aspect_ratio == 1.5
        instance = build(raw(gray(8), 8), **stored(8), PixelSpacing=[0.5, 0.25])
        frames = open_frames(instance, instance.limits)
        assert frames.pixel_spacing_mm == (0.5, 0.25)
        assert frames.pixel_aspect_ratio == 2

    def test_an_instance_without_pixels_has_no_frames(self, limits: LimitSettings) -> None:
        path = get_testdata_file("rtplan.dcm")
        assert isinstance(path, str)
        instance = Instance.open(Path(path), limits)
        with pytest.raises(BadGeometry):
            open_frames(instance, instance.limits)


def test_every_display_setting_has_an_option_of_the_same_name_and_default() -> None:
    assert DisplaySettings().model_dump() == asdict(DisplayOptions())


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4"])
@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-5, 7), (0, 0), (3, 90), (100, 127), (-128, -100)])
def test_the_values_inside_a_window_are_counted_whatever_their_sign_and_width(dtype: str, low: int, high: int) -> None:
    lowest = max(-128, int(np.iinfo(dtype).min))
    stored = np.arange(lowest, 128)
    values = np.random.default_rng(5).choice(stored, (40, 30)).astype(dtype)
    inside = (stored >= low) & (stored <= high)
    counted = display._StoredRange(lowest, inside).count(values)
    assert counted == int(((values.astype(np.int64) >= low) & (values.astype(np.int64) <= high)).sum())
