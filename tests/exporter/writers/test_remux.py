"""Video streams in DICOM: copied bit by bit, shown at the right times, whatever wraps them."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import generate_fragments

from exporter.errors import BadGeometry, CorruptPixels, ExportError
from exporter.settings.settings import MediaSettings
from exporter.writers.video_parts.remux import picture_digest
from tests.exporter.writers.media import presentation_times, video_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MPEG2, H264, HEVC = (f"1.2.840.10008.1.2.4.{tail}" for tail in ("100", "102", "107"))
FRAMES = 31

STREAMS = {
    # name: (transfer syntax, ffmpeg's output options, its format, whether the format has times of its own)
    "H.264 with B-frames": (H264, "-c:v libx264 -bf 3 -x264-params b-pyramid=normal:keyint=12:log-level=none", "h264"),
    "H.264 open GOP": (H264, "-c:v libx264 -x264-params open-gop=1:keyint=10:bframes=3:log-level=none", "h264"),
    "H.264 without B-frames": (H264, "-c:v libx264 -bf 0", "h264"),
    "H.264 interlaced": (H264, "-c:v libx264 -flags +ildct+ilme -bf 2", "h264"),
    "H.264 transport stream": (H264, "-c:v libx264 -bf 2", "mpegts"),
    "H.264 MP4, index at the end": (H264, "-c:v libx264 -bf 2", "mp4"),
    "H.264 MP4, index first": (H264, "-c:v libx264 -bf 2 -movflags +faststart", "mp4"),
    "H.264 fragmented MP4": (H264, "-c:v libx264 -bf 2 -movflags +frag_keyframe+empty_moov", "mp4"),
    "HEVC": (HEVC, "-c:v libx265 -x265-params log-level=none:bframes=4:keyint=9:open-gop=1", "hevc"),
    "HEVC transport stream": (HEVC, "-c:v libx265 -x265-params log-level=none:bframes=3", "mpegts"),
    "MPEG-2": (MPEG2, "-c:v mpeg2video -bf 2 -g 12", "mpeg2video"),
    "MPEG-2 without B-frames": (MPEG2, "-c:v mpeg2video -bf 0", "mpeg2video"),
    "MPEG-2 program stream": (MPEG2, "-c:v mpeg2video -bf 2", "vob"),
    "MPEG-2 transport stream": (MPEG2, "-c:v mpeg2video -bf 2", "mpegts"),
}


@pytest.fixture
def stream(peer: Callable[[str], str], tmp_path: Path) -> Callable[..., bytes]:
    """A stream that Debian's ffmpeg encoded from a moving test picture, with sound where asked."""

    def make(options: str, form: str, *, sound: str = "", metadata: str = "") -> bytes:
        path = tmp_path / f"stream.{form}"
        command = [peer("ffmpeg"), "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=s=160x120:r=25"]
        if sound:
            command += ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"]
        command += ["-t", str(FRAMES / 25), "-pix_fmt", "yuv420p", *options.split(), *sound.split()]
        command += ["-metadata", f"title={metadata}"] if metadata else []
        subprocess.run([*command, "-f", form, str(path)], check=True, capture_output=True)
        return path.read_bytes()

    return make


@pytest.fixture
def encapsulated(make_instance: Callable[..., Path]) -> Callable[..., Path]:
    def make(payload: bytes, syntax: str, pieces: int = 1, **elements: Any) -> Path:
        step = -(-len(payload) // pieces)
        step += step % 2
        fragments = [payload[i : i + step] for i in range(0, len(payload), step)]
        elements = {"FrameTime": "40", "frames": FRAMES, "PhotometricInterpretation": "YBR_PARTIAL_420"} | elements
        elements = {"rows": 120, "columns": 160} | elements
        return make_instance(encoded=fragments, syntax=syntax, **elements)

    return make


def md5_of_frames(peer: Callable[[str], str], source: Path) -> list[str]:
    """What ffmpeg decodes, in order of display: a hash of each picture."""
    command = [
        peer("ffmpeg"),
        "-v",
        "error",
        "-i",
        str(source),
        "-map",
        "0:v:0",
        "-vsync",
        "passthrough",
        "-f",
        "framemd5",
        "-",
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.rsplit(",", 1)[1].strip() for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_copied_shown_in_order_and_on_time(
    name: str,
    stream: Callable[..., bytes],
    encapsulated: Callable[..., Path],
    export: Callable[..., Any],
    probe: Callable[..., Any],
    peer: Callable[[str], str],
    tmp_path: Path,
) -> None:
    syntax, options, form = STREAMS[name]
    payload = stream(options, form)
    result, folder = export(encapsulated(payload, syntax, pieces=3))
    medium = result.media[0]
    file = folder / medium.file
    assert medium.transcoded is False
    assert (medium.suffix, medium.width, medium.height, medium.frames) == (".mp4", 160, 120, FRAMES)
    assert not result.warnings
    assert result.timing.source == "FrameTime"
    probed = probe(file)
    assert presentation_times(probed) == pytest.approx([0.04 * i for i in range(FRAMES)], abs=0.001)
    assert float(probed["format"]["duration"]) == pytest.approx(0.04 * FRAMES, abs=0.045)
    original = tmp_path / f"original.{form}"
    original.write_bytes(payload)
    assert md5_of_frames(peer, file) == md5_of_frames(peer, original)
    data = file.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def units_of(peer: Callable[[str], str], source: Path, codec: str) -> list[bytes]:
    """The NAL units (or MPEG-2 pictures) of a video as bare bytes, by Debian's ffmpeg."""
    form = {"h264": "h264", "hevc": "hevc", "mpeg2video": "mpeg2video"}[codec]
    filters = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}.get(codec)
    command = [peer("ffmpeg"), "-v", "error", "-i", str(source), "-map", "0:v:0", "-c", "copy"]
    command += ["-bsf:v", filters] if filters else []
    raw = subprocess.run([*command, "-f", form, "-"], check=True, capture_output=True).stdout
    if codec == "mpeg2video":
        return [raw.rstrip(b"\0")]
    return [unit.strip(b"\0") for unit in re.split(b"\0\0\1", raw) if unit.strip(b"\0")]


def test_the_packets_of_the_corpus_streams_are_those_of_the_encapsulated_stream(
    corpus: Path, export: Callable[..., Any], probe: Callable[..., Any], peer: Callable[[str], str], tmp_path: Path
) -> None:
    for path in sorted((corpus / "synthetic-video").glob("*.dcm")):
        dataset = dcmread(path)
        payload = b"".join(generate_fragments(dataset.PixelData))
        original = tmp_path / "payload"
        original.write_bytes(payload)
        result, folder = export(path)
        medium = result.media[0]
        file = folder / medium.file
        assert units_of(peer, file, medium.codec) == units_of(peer, original, medium.codec), path.name
        probed = probe(file)
        frames = int(dataset.NumberOfFrames)
        assert int(probed["streams"][0]["nb_read_frames"]) == frames
        assert float(probed["format"]["duration"]) == pytest.approx(float(dataset.FrameTime) * frames / 1000, abs=0.001)
        assert md5_of_frames(peer, file) == md5_of_frames(peer, original)


@pytest.mark.parametrize(
    ("syntax", "options", "form", "sound", "codec"),
    [
        (MPEG2, "-c:v mpeg2video -bf 2", "vob", "-c:a mp2", "mp3"),  # one name for both layers in MP4
        (H264, "-c:v libx264 -bf 2", "mp4", "-c:a aac", "aac"),
        (H264, "-c:v libx264 -bf 2", "mpegts", "-c:a ac3", "ac3"),
    ],
)
def test_sound_is_kept_in_step(
    stream: Callable[..., bytes],
    encapsulated: Callable[..., Path],
    export: Callable[..., Any],
    probe: Callable[..., Any],
    syntax: str,
    options: str,
    form: str,
    sound: str,
    codec: str,
) -> None:
    result, folder = export(encapsulated(stream(options, form, sound=sound), syntax))
    assert not result.warnings
    assert result.timing.source == "stream"
    assert result.timing.rate_hz == pytest.approx(25)
    probed = probe(folder / result.media[0].file)
    assert [s["codec_name"] for s in probed["streams"] if s["codec_type"] == "audio"] == [codec]
    assert presentation_times(probed) == pytest.approx([0.04 * i for i in range(FRAMES)], abs=0.001)
    heard = [float(p["pts_time"]) for p in probed["packets"] if p["codec_type"] == "audio"]
    assert abs(heard[0]) < 0.1
    assert heard[-1] > 1.0


def test_sound_that_a_container_cannot_hold_is_named(
    stream: Callable[..., bytes],
    encapsulated: Callable[..., Path],
    export: Callable[..., Any],
    probe: Callable[..., Any],
) -> None:
    path = encapsulated(stream("-c:v mpeg2video", "vob", sound="-c:a pcm_dvd -ac 2"), MPEG2)
    for extension in (".mp4", ".mkv"):
        result, folder = export(path, video_settings(extension=extension))
        assert any("audio track is left out" in warning for warning in result.warnings)
        assert {s["codec_type"] for s in probe(folder / result.media[0].file)["streams"]} == {"video"}


def samples_of(peer: Callable[[str], str], path: Path) -> bytes:
    """The sound of a file as Debian's ffmpeg decodes it, 16 bits."""
    command = [peer("ffmpeg"), "-v", "error", "-i", str(path), "-map", "0:a:0", "-f", "s16le", "-c:a", "pcm_s16le", "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_sound_that_a_container_cannot_hold_becomes_a_file_of_its_own_bit_by_bit(
    stream: Callable[..., bytes],
    encapsulated: Callable[..., Path],
    export: Callable[..., Any],
    peer: Callable[[str], str],
    tmp_path: Path,
    form: str,
) -> None:
    payload = stream("-c:v mpeg2video", "vob", sound="-c:a pcm_dvd -ac 2")
    settings = MediaSettings.model_validate({"audio": {"format": form}})
    result, folder = export(encapsulated(payload, MPEG2), settings)
    video, sound = result.media
    assert (video.kind, sound.kind, sound.suffix) == ("video", "audio", f".{form}")
    (tmp_path / "original.vob").write_bytes(payload)
    expected = samples_of(peer, tmp_path / "original.vob")
    assert len(expected) > 48_000
    assert samples_of(peer, folder / sound.file) == expected
    assert sound.duration_s == pytest.approx(len(expected) / 4 / 48_000)
    assert b"Lavf" not in (folder / sound.file).read_bytes()


def test_every_track_becomes_a_file_where_asked_and_none_where_not(
    stream: Callable[..., bytes],
    encapsulated: Callable[..., Path],
    export: Callable[..., Any],
    peer: Callable[[str], str],
    tmp_path: Path,
) -> None:
    payload = stream("-c:v libx264", "mp4", sound="-c:a aac -ac 1")
    path = encapsulated(payload, H264)
    found = {}
    for tracks in ("left_out", "all", "none"):
        result, folder = export(path, MediaSettings.model_validate({"audio": {"tracks": tracks}}))
        found[tracks] = [m.kind for m in result.media]
        if tracks == "all":
            sound = np.frombuffer(samples_of(peer, folder / result.media[1].file), "<i2").astype(int)
    assert found == {"left_out": ["video"], "all": ["video", "audio"], "none": ["video"]}
    (tmp_path / "original.mp4").write_bytes(payload)
    judge = np.frombuffer(samples_of(peer, tmp_path / "original.mp4"), "<i2").astype(int)
    # Two releases of one AAC decoder in floating point; the judge may also trim the encoder's padding at the end.
    assert abs(len(sound) - len(judge)) <= 2048
    shorter = min(len(sound), len(judge))
    assert np.abs(sound[:shorter] - judge[:shorter]).max() <= 1


def test_titles_of_an_embedded_container_are_left_behind(
    stream: Callable[..., bytes], encapsulated: Callable[..., Path], export: Callable[..., Any]
) -> None:
    result, folder = export(encapsulated(stream("-c:v libx264", "mp4", metadata="Planted^Token"), H264))
    assert b"Planted" not in (folder / result.media[0].file).read_bytes()


@pytest.mark.parametrize(
    ("syntax", "options", "form"),
    [
        (MPEG2, "-c:v mpeg2video -bf 2", "mpeg2video"),
        (H264, "-c:v libx264 -bf 2", "h264"),
        (HEVC, "-c:v libx265 -x265-params log-level=none", "hevc"),
    ],
)
def test_where_no_element_tells_the_time_a_bare_stream_keeps_the_rate_its_headers_state(
    stream: Callable[..., bytes],
    encapsulated: Callable[..., Path],
    export: Callable[..., Any],
    probe: Callable[..., Any],
    syntax: str,
    options: str,
    form: str,
) -> None:
    written, folder = export(encapsulated(stream(options, form), syntax, FrameTime=None))
    assert presentation_times(probe(folder / written.media[0].file)) == pytest.approx(
        [i / 25 for i in range(FRAMES)], abs=0.001
    )
    assert (written.timing.source, written.timing.rate_hz) == ("stream", 25)


def test_variable_times_of_the_elements_reach_a_copied_stream(
    stream: Callable[..., bytes],
    encapsulated: Callable[..., Path],
    export: Callable[..., Any],
    probe: Callable[..., Any],
) -> None:
    vector = [f"{30 + 7 * (i % 4)}" for i in range(FRAMES)]
    path = encapsulated(stream("-c:v libx264 -bf 3", "h264"), H264, FrameTime=None, FrameTimeVector=vector)
    result, folder = export(path)
    expected = np.cumsum([0.0, *(float(v) for v in vector[1:])]) / 1000
    assert presentation_times(probe(folder / result.media[0].file)) == pytest.approx(list(expected), abs=0.001)


def test_a_stream_of_another_codec_than_its_transfer_syntax_is_copied_and_named(
    stream: Callable[..., bytes], encapsulated: Callable[..., Path], export: Callable[..., Any]
) -> None:
    result, _ = export(encapsulated(stream("-c:v libx265 -x265-params log-level=none", "hevc"), H264))
    assert result.media[0].codec == "hevc"
    assert any("Transfer Syntax" in warning for warning in result.warnings)


def test_a_stream_that_ends_early_is_exported_and_says_what_is_missing(
    stream: Callable[..., bytes], encapsulated: Callable[..., Path], export: Callable[..., Any]
) -> None:
    payload = stream("-c:v libx264 -bf 2 -x264-params keyint=5", "h264")
    result, _ = export(encapsulated(payload[: len(payload) * 2 // 3], H264))
    assert result.media[0].frames < FRAMES
    assert any(f"Number of Frames says {FRAMES}" in warning for warning in result.warnings)


@pytest.mark.parametrize(("rows", "columns"), [(2400, 3200), (60, 80), (160, 120), (121, 160), (120, 176)])
@pytest.mark.parametrize("framed", [False, True])
def test_a_stream_of_another_size_than_rows_and_columns_is_refused(
    stream: Callable[..., bytes],
    encapsulated: Callable[..., Path],
    export: Callable[..., Any],
    rows: int,
    columns: int,
    framed: bool,
) -> None:
    path = encapsulated(stream("-c:v mpeg2video", "mpeg2video"), MPEG2, rows=rows, columns=columns)
    settings = video_settings(framing={"shape": "square_pad"}) if framed else None
    with pytest.raises(BadGeometry, match=r"120 rows x 160 columns, \(0028,0010\)"):
        export(path, *([settings] if settings else []))


def test_whole_macroblocks_beyond_rows_and_columns_are_told(
    stream: Callable[..., bytes], encapsulated: Callable[..., Path], export: Callable[..., Any]
) -> None:
    result, _ = export(encapsulated(stream("-c:v mpeg2video", "mpeg2video"), MPEG2, rows=113, columns=150))
    assert (result.media[0].height, result.media[0].width) == (120, 160)
    assert any("whole macroblocks" in warning for warning in result.warnings)


SLICED = "-c:v libx265 -x265-params log-level=none:slices=2:bframes=0"


def hevc_slices(payload: bytes) -> list[tuple[int, int]]:
    """(start, end) of the slices that are not the first of their picture."""
    starts = [match.start() for match in re.finditer(b"\0\0\1", payload)]
    units = zip(starts, [*starts[1:], len(payload)], strict=True)
    return [(a, b) for a, b in units if payload[a + 3] >> 1 < 32 and payload[a + 5] < 0x80]


@pytest.mark.parametrize("lost", ["of one picture", "of every picture"])
@pytest.mark.parametrize("frames", [1, FRAMES])
def test_slices_that_hevc_pictures_lack_are_told(
    stream: Callable[..., bytes], encapsulated: Callable[..., Path], export: Callable[..., Any], lost: str, frames: int
) -> None:
    payload = stream(f"{SLICED} -frames:v {frames}", "hevc")
    slices = hevc_slices(payload)
    assert len(slices) == frames
    whole, _ = export(encapsulated(payload, HEVC, frames=frames))
    assert not whole.warnings
    for start, end in reversed(slices if lost == "of every picture" else slices[-1:]):
        payload = payload[:start] + payload[end:]
    result, _ = export(encapsulated(payload, HEVC, frames=frames))
    assert any("damaged" in warning for warning in result.warnings)


def test_slices_that_hevc_pictures_lack_are_told_of_a_container(
    stream: Callable[..., bytes], encapsulated: Callable[..., Path], export: Callable[..., Any]
) -> None:
    payload = stream(SLICED, "mp4")
    whole, _ = export(encapsulated(payload, HEVC))
    assert not whole.warnings
    sizes = re.compile(rb"stsz.{12}", re.DOTALL).search(payload)
    assert sizes is not None
    first = int.from_bytes(payload[sizes.end() : sizes.end() + 4], "big")
    sample = payload.index(b"mdat") + 4
    units, at = [], sample
    while at < sample + first:
        units.append((at, at + 4 + int.from_bytes(payload[at : at + 4], "big")))
        at = units[-1][1]
    start, end = units[-1]  # the last slice of the first picture: its bytes stay, as a unit that no decoder reads
    damaged = payload[: start + 4] + bytes((63 << 1, 1)) + payload[start + 6 :]
    assert end == sample + first
    result, _ = export(encapsulated(damaged, HEVC))
    assert any("damaged" in warning for warning in result.warnings)


@pytest.mark.parametrize("payload", [b"", b"\0" * 5000, b"not a stream " * 500, b"\0\0\0\1\x67" + b"\xff" * 3000])
def test_what_is_no_stream_is_refused(
    payload: bytes, encapsulated: Callable[..., Path], export: Callable[..., Any]
) -> None:
    with pytest.raises(CorruptPixels):
        export(encapsulated(payload or b"\0\0", H264))


def test_damaged_streams_give_an_error_of_ours_or_say_so(
    stream: Callable[..., bytes], encapsulated: Callable[..., Path], export: Callable[..., Any]
) -> None:
    payload = bytearray(stream("-c:v mpeg2video -bf 2", "vob"))
    random = np.random.default_rng(5)
    quiet = 0
    for _ in range(25):
        damaged = bytearray(payload)
        for place in random.integers(200, len(damaged), 40):
            damaged[place] = random.integers(0, 256)
        try:
            result, _ = export(encapsulated(bytes(damaged), MPEG2))
        except ExportError:
            continue
        quiet += not result.warnings
    assert quiet <= 2, "damage that no decoder notices is possible, but rare"


def test_units_are_the_same_by_start_codes_and_by_lengths() -> None:
    units = [b"\x67abc", b"\x68d", b"\x65" + bytes(range(1, 200))]
    bare = b"\0\0\0\1".join((b"", *units)) + b"\0"
    sized = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
    first = picture_digest(bare, start_codes=True, codec="h264")
    assert first == picture_digest(sized, start_codes=False, codec="h264")
    assert first != picture_digest(sized[:-1] + b"\1", start_codes=False, codec="h264")
