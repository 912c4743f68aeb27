"""ECG and other waveforms as tables in physical units and drawings on millimetre paper."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.valuerep import DSfloat

from exporter.dicom.instance import Instance
from exporter.errors import BadGeometry, CorruptPixels, ExportError, OutOfSpace, UnsupportedSyntax, VerifyFailed
from exporter.outcome import MediaType
from exporter.settings.settings import MediaSettings, WaveformSettings
from exporter.writers import choose, choose_all
from exporter.writers.contract import WriterTask, Written
from exporter.writers.waveform import WaveformWriter
from tests.exporter.writers.sampled import ECG, HAEMODYNAMIC, channel, multiplex_group, save_waveform

if TYPE_CHECKING:
    from numpy.typing import NDArray

SETTINGS = MediaSettings()
SVG = "{http://www.w3.org/2000/svg}"


def written(path: Path, folder: Path, **settings: Any) -> Written:
    out = folder / "out"
    out.mkdir()
    wanted = MediaSettings(waveform=WaveformSettings(**settings))
    with Instance.open(path, wanted.limits) as instance:
        assert isinstance(choose(instance, wanted), WaveformWriter)
        result = WaveformWriter().write(WriterTask(instance, out, wanted))
    assert sorted(entry.name for entry in out.iterdir()) == sorted(medium.file for medium in result.media)
    return result


def table(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = list(csv.reader(file))
    return names, np.array([[float(cell or "nan") for cell in row] for row in rows])


def curves(path: Path) -> list[NDArray[np.float64]]:
    """Points of every curve of a drawing, in millimetres."""
    lines = ET.parse(path).getroot().iter(f"{SVG}polyline")  # noqa: S314 - our own file
    return [np.array([pair.split(",") for pair in str(line.get("points")).split()], float) for line in lines]


@pytest.fixture
def real_ecg() -> Path:
    return Path(str(get_testdata_file("waveform_ecg.dcm")))


def test_a_real_ecg_is_its_raw_data_times_sensitivity(real_ecg: Path, tmp_path: Path) -> None:
    result = written(real_ecg, tmp_path)
    assert [medium.suffix for medium in result.media] == [".1.csv", ".1.svg", ".2.csv", ".2.svg"]
    assert {medium.kind for medium in result.media} == {MediaType.WAVEFORM}
    for index, group in enumerate(dcmread(real_ecg).WaveformSequence):
        medium = result.media[2 * index]
        names, values = table(tmp_path / "out" / medium.file)
        shape = (group.NumberOfWaveformSamples, group.NumberOfWaveformChannels)
        raw = np.frombuffer(group.WaveformData, "<i2").reshape(shape).astype(np.float64)
        for number, item in enumerate(group.ChannelDefinitionSequence):
            factor = float(item.ChannelSensitivity) * float(item.get("ChannelSensitivityCorrectionFactor", 1))
            expected = raw[:, number] * factor + float(item.get("ChannelBaseline", 0))
            assert np.array_equal(values[:, number + 1], expected)
        assert np.array_equal(values[:, 0], np.arange(shape[0]) / float(group.SamplingFrequency))
        assert names[:3] == ["time_s", "Lead I (Einthoven) [uV]", "Lead II [uV]"]
        assert medium.duration_s == pytest.approx(shape[0] / float(group.SamplingFrequency))


def test_a_real_ecg_is_drawn_at_25_mm_per_second_and_10_mm_per_millivolt(real_ecg: Path, tmp_path: Path) -> None:
    result = written(real_ecg, tmp_path)
    _, values = table(tmp_path / "out" / result.media[0].file)
    drawn = curves(tmp_path / "out" / result.media[1].file)
    assert len(drawn) == 12
    for number, points in enumerate(drawn):
        assert np.allclose(points[:, 0] - points[0, 0], values[:, 0] * 25, atol=2e-3)
        millivolts = values[:, number + 1] / 1000
        assert np.allclose(points[:, 1] - points[0, 1], (millivolts[0] - millivolts) * 10, atol=2e-3)
    root = ET.parse(tmp_path / "out" / result.media[1].file).getroot()  # noqa: S314 - our own file
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts[0] == "Lead I (Einthoven)  10 mm/mV"
    assert texts[-1] == "25 mm/s"
    assert str(root.get("width")).endswith("mm")
    assert root.get("viewBox") == f"0 0 {str(root.get('width'))[:-2]} {str(root.get('height'))[:-2]}"


LINEAR = {"SB": "i1", "UB": "u1", "SS": "i2", "US": "u2", "SL": "i4", "UL": "u4", "SV": "i8", "UV": "u8"}


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("interpretation", LINEAR)
def test_every_linear_sample_type_in_both_byte_orders(tmp_path: Path, interpretation: str, big_endian: bool) -> None:
    dtype = np.dtype(LINEAR[interpretation])
    limits = np.iinfo(dtype)
    raw = np.random.default_rng(1).integers(limits.min, limits.max, (51, 3), dtype=dtype, endpoint=True)
    raw[:2, 0] = limits.min, limits.max
    channels = [
        channel("a", "mV", ChannelSensitivity="0.5", ChannelSensitivityCorrectionFactor="1.1", ChannelBaseline="-3.25"),
        channel("b", "mm[Hg]", ChannelSensitivity="2", ChannelSensitivityCorrectionFactor="1", ChannelBaseline="0"),
        channel("c"),
    ]
    group = multiplex_group(raw, interpretation, 250, big_endian=big_endian, ChannelDefinitionSequence=channels)
    path = save_waveform(tmp_path / "in.dcm", [group], big_endian=big_endian)
    result = written(path, tmp_path)
    names, values = table(tmp_path / "out" / result.media[0].file)
    real = raw.astype(np.float64)
    assert names == ["time_s", "a [mV]", "b [mm[Hg]]", "c [1]"]
    assert np.array_equal(values[:, 1], real[:, 0] * (0.5 * 1.1) - 3.25)
    assert np.array_equal(values[:, 2], real[:, 1] * 2)
    assert np.array_equal(values[:, 3], real[:, 2])


@pytest.mark.parametrize(("interpretation", "decoder"), [("MB", "pcm_mulaw"), ("AB", "pcm_alaw")])
def test_companded_samples_are_expanded_as_ffmpeg_does(tmp_path: Path, interpretation: str, decoder: str) -> None:
    import av

    raw = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(raw, interpretation, 100)])
    _, values = table(tmp_path / "out" / written(path, tmp_path).media[0].file)
    codec: Any = av.CodecContext.create(decoder, "r")
    codec.sample_rate, codec.layout = 8000, "mono"
    (frame,) = codec.decode(av.Packet(raw.tobytes()))
    assert np.array_equal(values[:, 1], frame.to_ndarray().ravel().astype(np.float64))


def test_offset_and_skew_are_in_the_times(tmp_path: Path) -> None:
    raw = np.arange(8, dtype=np.int16).reshape(4, 2)
    channels = [channel("a"), channel("b", ChannelTimeSkew="0.25", ChannelSampleSkew="2")]
    group = multiplex_group(raw, "SS", 10, MultiplexGroupTimeOffset="1500", ChannelDefinitionSequence=channels)
    path = save_waveform(tmp_path / "in.dcm", [group])
    result = written(path, tmp_path)
    names, values = table(tmp_path / "out" / result.media[0].file)
    assert names == ["time_s", "a [1]", "time_s b", "b [1]"]
    assert np.allclose(values[:, 0], 1.5 + np.arange(4) / 10)
    assert np.allclose(values[:, 2], 1.5 + 0.25 + 0.2 + np.arange(4) / 10)
    first, second = curves(tmp_path / "out" / result.media[1].file)
    assert second[0, 0] - first[0, 0] == pytest.approx(0.45 * 25)


def test_padding_is_an_empty_cell_and_a_gap_in_the_drawing(tmp_path: Path) -> None:
    raw = np.array([[1], [2], [-32768], [4], [5]], np.int16)
    group = multiplex_group(raw, "SS", 10)
    group.WaveformPaddingValue = raw[2].astype("<i2").tobytes()
    group["WaveformPaddingValue"].VR = "OW"
    result = written(save_waveform(tmp_path / "in.dcm", [group]), tmp_path)
    _, values = table(tmp_path / "out" / result.media[0].file)
    assert np.array_equal(values[:, 1], [1, 2, np.nan, 4, 5], equal_nan=True)
    assert [len(line) for line in curves(tmp_path / "out" / result.media[1].file)] == [2, 2]


def test_other_quantities_are_drawn_at_a_round_scale_that_is_printed(tmp_path: Path) -> None:
    raw = (60 + 60 * np.sin(np.arange(500) / 50)).astype(np.int16).reshape(-1, 1)
    channels = [channel("art pressure", "mm[Hg]", ChannelSensitivity="1")]
    group = multiplex_group(raw, "SS", 250, ChannelDefinitionSequence=channels)
    result = written(save_waveform(tmp_path / "in.dcm", [group], sop_class=HAEMODYNAMIC), tmp_path)
    sheet = tmp_path / "out" / result.media[1].file
    assert "art pressure  10 mm = 100 mm[Hg]" in sheet.read_text()
    (points,) = curves(sheet)
    assert np.ptp(points[:, 1]) == pytest.approx(np.ptp(raw) / 10, abs=2e-3)


def test_a_long_recording_is_drawn_from_its_start_and_tabled_whole(tmp_path: Path) -> None:
    raw = np.zeros((30_000, 1), np.int16)
    result = written(save_waveform(tmp_path / "in.dcm", [multiplex_group(raw, "SS", 1000)]), tmp_path, drawing_s=2)
    _, values = table(tmp_path / "out" / result.media[0].file)
    assert len(values) == 30_000
    (points,) = curves(tmp_path / "out" / result.media[1].file)
    assert np.ptp(points[:, 0]) == pytest.approx(50, abs=0.1)
    assert any("first 2 s" in warning for warning in result.warnings)


def test_dense_samples_are_thinned_to_their_extremes(tmp_path: Path) -> None:
    raw = np.random.default_rng(2).integers(-1000, 1000, (40_000, 1), dtype=np.int16)
    raw[12_345] = 30_000
    result = written(save_waveform(tmp_path / "in.dcm", [multiplex_group(raw, "SS", 40_000)]), tmp_path)
    (points,) = curves(tmp_path / "out" / result.media[1].file)
    assert len(points) < 1100  # 25 mm in tenths of a millimetre, four points each
    highest = points[points[:, 1].argmin()]
    assert highest[0] - points[0, 0] == pytest.approx(12_345 / 40_000 * 25, abs=2e-3)


def test_a_drawing_can_be_png_or_none(tmp_path: Path) -> None:
    from PIL import Image

    raw = np.zeros((100, 1), np.int16)
    for form in ("png", "none"):
        folder = tmp_path / form
        folder.mkdir()
        path = save_waveform(folder / "in.dcm", [multiplex_group(raw, "SS", 100)])
        media = written(path, folder, drawing=form).media
        assert [medium.suffix for medium in media] == ([".csv", ".png"] if form == "png" else [".csv"])
        if form == "png":
            with Image.open(folder / "out" / media[1].file) as image:
                assert image.width == 35 * 8  # 25 mm and two margins of 5, 8 pixels per millimetre
                dark = np.asarray(image.convert("L"))[:, 60:-60] < 64
            assert dark.any(axis=0).all()


@pytest.mark.parametrize("form", ["svg", "png"])
def test_hostile_labels_stay_labels(tmp_path: Path, form: str) -> None:
    labels = ['=HYPERLINK("x")', "<script>&", "a,b\r\nc", " @SUM(1)", "\x85[31m\x00\x9bz"]
    raw = np.zeros((3, len(labels)), np.int16)
    group = multiplex_group(raw, "SS", 10, ChannelDefinitionSequence=[channel(label) for label in labels])
    result = written(save_waveform(tmp_path / "in.dcm", [group]), tmp_path, drawing=form)
    names, _ = table(tmp_path / "out" / result.media[0].file)
    assert names[1:] == [
        '\'=HYPERLINK("x") [1]',
        "<script>& [1]",
        "a,b\\r\\nc [1]",
        "'@SUM(1) [1]",
        "\\x85[31m\\x00\\x9bz [1]",
    ]
    if form == "svg":
        drawn = (tmp_path / "out" / result.media[1].file).read_text()
        assert "<script>" not in drawn
        assert all(line.isprintable() for line in drawn.split("\n"))
        assert "\\x85[31m\\x00\\x9bz" in drawn


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"NumberOfWaveformChannels": 0}, BadGeometry),
        ({"NumberOfWaveformSamples": 9}, CorruptPixels),
        ({"SamplingFrequency": "0"}, BadGeometry),
        ({"WaveformBitsAllocated": 8}, BadGeometry),
        ({"WaveformSampleInterpretation": "XX"}, UnsupportedSyntax),
        ({"NumberOfWaveformChannels": 60_000}, ExportError),
    ],
)
def test_damaged_waveforms_are_refused_by_name(
    tmp_path: Path, change: dict[str, Any], error: type[ExportError]
) -> None:
    group = multiplex_group(np.zeros((4, 2), np.int16), "SS", 100, **change)
    path = save_waveform(tmp_path / "in.dcm", [group])
    with pytest.raises(error):
        written(path, tmp_path)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("rate", "skew", "error"),
    [(1e-310, 0.0, BadGeometry), (500.0, 1e308, BadGeometry), (500.0, 0.0, None), (1e308, 0.0, None)],
)
@pytest.mark.parametrize("sensitivity", [1e-320, 1.0, 1e304, -1e306])
def test_numbers_that_no_device_has_are_tabled_and_drawn_or_refused_by_name(
    tmp_path: Path, rate: float, skew: float, error: type[ExportError] | None, sensitivity: float
) -> None:
    extremes = np.array([[-32768] * 2, [0] * 2, [32767] * 2], np.int16)
    group = multiplex_group(extremes, "SS", 500)
    group.SamplingFrequency = DSfloat(rate, auto_format=True)
    for number, defined in enumerate(group.ChannelDefinitionSequence):
        defined.ChannelSensitivity = DSfloat(sensitivity, auto_format=True)
        defined.ChannelTimeSkew = DSfloat(skew * number, auto_format=True)
    path = save_waveform(tmp_path / "in.dcm", [group])
    if error is not None:
        with pytest.raises(error):
            written(path, tmp_path)
        return
    result = written(path, tmp_path)
    assert len(result.media) == 2
    assert any("beyond" in warning for warning in result.warnings) == (abs(sensitivity) > 1)


def test_a_missing_channel_definition_is_a_warning(tmp_path: Path) -> None:
    group = multiplex_group(np.zeros((4, 2), np.int16), "SS", 100, ChannelDefinitionSequence=[channel("a")])
    result = written(save_waveform(tmp_path / "in.dcm", [group]), tmp_path)
    names, _ = table(tmp_path / "out" / result.media[0].file)
    assert names == ["time_s", "a [1]", "channel 2 [1]"]
    assert result.warnings


def test_a_cine_with_a_waveform_beside_it_is_a_cine(tmp_path: Path) -> None:
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(np.zeros((4, 2), np.int16), "SS", 100)])
    both = dcmread(path)
    both.Rows = both.Columns = 2
    both.NumberOfFrames, both.SamplesPerPixel, both.PhotometricInterpretation = 2, 1, "MONOCHROME2"
    both.BitsAllocated = both.BitsStored = 8
    both.HighBit, both.PixelRepresentation, both.PixelData = 7, 0, bytes(8)
    both["PixelData"].VR = "OB"
    both.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
    both.save_as(path)
    with Instance.open(path, SETTINGS.limits) as instance:
        assert choose(instance, SETTINGS).kind is MediaType.VIDEO
        assert [writer.kind for writer in choose_all(instance, SETTINGS).further] == [MediaType.WAVEFORM]


def test_a_table_that_the_disk_changed_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(np.ones((40, 1), np.int16), "SS", 100)])

    def damaged(_: int) -> None:
        target = tmp_path / "out" / "0.part"
        target.write_bytes(target.read_bytes().replace(b"0.2,1.0", b"0.2,7.0"))

    monkeypatch.setattr("exporter.writers.durable_write.os.fsync", damaged)
    with pytest.raises(VerifyFailed):
        written(path, tmp_path)


def test_a_full_disk_is_no_verdict_on_the_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(np.ones((4, 1), np.int16), "SS", 100)], sop_class=ECG)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("exporter.writers.durable_write.os.fsync", full)
    with pytest.raises(OutOfSpace):
        written(path, tmp_path)
