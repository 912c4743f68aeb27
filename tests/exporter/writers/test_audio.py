"""Audio waveforms as WAV and FLAC, sample by sample."""

from __future__ import annotations

import subprocess
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from exporter.dicom.instance import Instance
from exporter.errors import BadGeometry, UnsupportedSyntax, VerifyFailed
from exporter.outcome import MediaType
from exporter.settings.settings import AudioSettings, MediaSettings
from exporter.writers import choose
from exporter.writers.audio import AudioWriter
from exporter.writers.contract import WriterTask, Written
from tests.exporter.writers.sampled import GENERAL_AUDIO, VOICE, multiplex_group, save_waveform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

TYPES = {"SB": "i1", "UB": "u1", "MB": "u1", "AB": "u1", "SS": "i2", "US": "u2", "SL": "i4", "UL": "u4"}


def written(path: Path, folder: Path, form: str = "wav") -> Written:
    out = folder / "out"
    out.mkdir()
    settings = MediaSettings(audio=AudioSettings(format=form))  # type: ignore[arg-type]  # one of the literals
    with Instance.open(path, settings.limits) as instance:
        assert isinstance(choose(instance, settings), AudioWriter)
        result = AudioWriter().write(WriterTask(instance, out, settings))
    assert sorted(entry.name for entry in out.iterdir()) == sorted(medium.file for medium in result.media)
    return result


def sound(interpretation: str, channels: int = 2, samples: int = 4321) -> NDArray[Any]:
    dtype = np.dtype(TYPES[interpretation])
    limits = np.iinfo(dtype)
    raw = np.random.default_rng(3).integers(limits.min, limits.max, (samples, channels), dtype=dtype, endpoint=True)
    raw[:2] = [[limits.min], [limits.max]]
    return raw


def data_chunk(path: Path) -> tuple[int, bytes]:
    """Format tag and samples of a WAV file, read chunk by chunk."""
    content = path.read_bytes()
    assert content[:4] + content[8:12] == b"RIFFWAVE"
    assert int.from_bytes(content[4:8], "little") == len(content) - 8
    position, tag, data = 12, 0, b""
    while position < len(content):
        name, size = content[position : position + 4], int.from_bytes(content[position + 4 : position + 8], "little")
        if name == b"fmt ":
            tag = int.from_bytes(content[position + 8 : position + 10], "little")
        if name == b"data":
            data = content[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    return tag, data


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("interpretation", ["UB", "MB", "AB", "SS", "SL"])
def test_wav_holds_the_stored_samples_bit_by_bit(tmp_path: Path, interpretation: str, big_endian: bool) -> None:
    raw = sound(interpretation, channels=1)
    group = multiplex_group(raw, interpretation, 8000, big_endian=big_endian)
    path = save_waveform(tmp_path / "in.dcm", [group], sop_class=VOICE, big_endian=big_endian)
    (medium,) = written(path, tmp_path).media
    tag, data = data_chunk(tmp_path / "out" / medium.file)
    assert data == raw.astype(raw.dtype.newbyteorder("<")).tobytes()
    assert tag == {"MB": 7, "AB": 6}.get(interpretation, 1)
    assert (medium.suffix, medium.kind, medium.transcoded) == (".wav", MediaType.AUDIO, False)
    assert medium.duration_s == pytest.approx(4321 / 8000)


@pytest.mark.parametrize("interpretation", ["SB", "US", "UL"])
def test_the_other_signedness_is_moved_by_half_the_range(tmp_path: Path, interpretation: str) -> None:
    raw = sound(interpretation)
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(raw, interpretation, 8000)], sop_class=VOICE)
    (medium,) = written(path, tmp_path).media
    _, data = data_chunk(tmp_path / "out" / medium.file)
    back = np.frombuffer(data, {"SB": "u1", "US": "<i2", "UL": "<i4"}[interpretation]).reshape(raw.shape)
    half = 1 << (8 * raw.itemsize - 1)
    assert np.array_equal(back.astype(np.int64) + (-half if interpretation == "SB" else half), raw.astype(np.int64))
    assert medium.transcoded


@pytest.mark.parametrize("interpretation", TYPES)
@pytest.mark.parametrize("form", ["wav", "flac"])
def test_ffmpeg_decodes_every_sample(
    peer: Callable[[str], str], tmp_path: Path, interpretation: str, form: str
) -> None:
    raw = sound(interpretation, channels=2)
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(raw, interpretation, 44100)], sop_class=GENERAL_AUDIO)
    (medium,) = written(path, tmp_path, form).media
    file = tmp_path / "out" / medium.file
    command = [peer("ffmpeg"), "-v", "error", "-i", str(file), "-f", "s32le", "-c:a", "pcm_s32le", "-"]
    decoded = np.frombuffer(subprocess.run(command, check=True, capture_output=True, timeout=100).stdout, "<i4")
    if interpretation in {"MB", "AB"}:
        law = "mulaw" if interpretation == "MB" else "alaw"
        stored = tmp_path / "stored"
        stored.write_bytes(raw.tobytes())
        layout = ["-f", law, "-ar", "44100", "-ac", "2"]
        command = [peer("ffmpeg"), "-v", "error", *layout, "-i", str(stored), "-f", "s32le", "-c:a", "pcm_s32le", "-"]
        judged = subprocess.run(command, check=True, capture_output=True, timeout=100).stdout
        expected = np.frombuffer(judged, "<i4").astype(np.int64)
    else:
        middle = (1 << (8 * raw.itemsize - 1)) if raw.dtype.kind == "u" else 0
        expected = (raw.astype(np.int64).ravel() - middle) << (32 - 8 * raw.itemsize)
    assert np.array_equal(decoded.astype(np.int64), expected)


def test_the_standard_library_reads_the_wav(tmp_path: Path) -> None:
    raw = sound("SS", channels=3)
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(raw, "SS", 16000)], sop_class=VOICE)
    (medium,) = written(path, tmp_path).media
    with wave.open(str(tmp_path / "out" / medium.file)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (3, 16000, 4321)
        assert file.readframes(4321) == raw.astype("<i2").tobytes()


def test_every_group_is_a_file(tmp_path: Path) -> None:
    groups = [multiplex_group(sound("SS", 1), "SS", 8000), multiplex_group(sound("MB", 1), "MB", 8000)]
    result = written(save_waveform(tmp_path / "in.dcm", groups, sop_class=VOICE), tmp_path)
    assert [medium.suffix for medium in result.media] == [".1.wav", ".2.wav"]


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_the_same_sound_gives_the_same_bytes(tmp_path: Path, form: str) -> None:
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(sound("SS"), "SS", 8000)], sop_class=VOICE)
    results = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        results.append(written(path, tmp_path / name, form))
    assert results[0] == results[1]


def test_what_flac_cannot_hold_is_written_as_wav_and_said(tmp_path: Path) -> None:
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(sound("SL"), "SL", 8000)], sop_class=VOICE)
    result = written(path, tmp_path, "flac")
    assert result.media[0].suffix == ".wav"
    assert any("FLAC" in warning for warning in result.warnings)


def test_a_broken_rate_is_rounded_and_said(tmp_path: Path) -> None:
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(sound("SS"), "SS", 8000.4)], sop_class=VOICE)
    assert any("sampling frequency" in warning for warning in written(path, tmp_path).warnings)


@pytest.mark.parametrize("rate", [2e9, 1e12])
def test_a_rate_that_no_sound_has_is_refused_by_name(tmp_path: Path, rate: float) -> None:
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(sound("SS"), "SS", rate)], sop_class=VOICE)
    with pytest.raises(BadGeometry, match="Sampling Frequency"):
        written(path, tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_samples_of_64_bits_are_refused_by_name(tmp_path: Path) -> None:
    raw = np.zeros((4, 1), np.int64)
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(raw, "SV", 8000)], sop_class=VOICE)
    with pytest.raises(UnsupportedSyntax, match="64"):
        written(path, tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_the_disk_changed_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_waveform(tmp_path / "in.dcm", [multiplex_group(sound("SS"), "SS", 8000)], sop_class=VOICE)

    def damaged(_: int) -> None:
        target = tmp_path / "out" / "0.part"
        content = bytearray(target.read_bytes())
        content[-3] ^= 1
        target.write_bytes(content)

    monkeypatch.setattr("exporter.writers.durable_write.os.fsync", damaged)
    with pytest.raises(VerifyFailed):
        written(path, tmp_path)
