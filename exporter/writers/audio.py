"""Audio waveforms (basic voice, general audio) to WAV, bit by bit, or to FLAC.

Contract: one file per multiplex group. WAV keeps the stored samples: mu-law and A-law as such, 16 and 32 bits as PCM;
where WAV knows only the other signedness (8 bits unsigned, wider ones signed) the middle is moved, reversibly. FLAC
holds the linear samples (mu-law, A-law and 8 bits in 16). The file, decoded by FFmpeg, must give every sample back.

Must never: resample, change the level, mix channels, or write text into the file.

Source: RIFF/WAVE (Microsoft, Multimedia Programming Interface 1.0; Rev. 3 1994), PS3.3 C.10.9.1.5, ITU-T G.711.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from exporter.dicom.elements import name_of
from exporter.errors import BadGeometry, EncodeFailed, TooLarge, UnsupportedSyntax, VerifyFailed
from exporter.outcome import MediaType
from exporter.writers.contract import InstancePart, Written
from exporter.writers.durable_write import media_file, write_error, write_new
from exporter.writers.waveform_parts.waveform_groups import groups_of, has_waveform

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.outcome import MediaFile
    from exporter.settings.settings import MediaSettings
    from exporter.writers.contract import WriterTask
    from exporter.writers.waveform_parts.waveform_groups import WaveformGroup

SCORE: Final = 70
"""Above the waveform writer: sound is to be heard."""
AUDIO_CLASSES: Final = frozenset({"1.2.840.10008.5.1.4.1.1.9.4.1", "1.2.840.10008.5.1.4.1.1.9.4.2"})
"""Basic Voice Audio and General Audio Waveform Storage."""

_PCM, _ALAW, _MULAW = 1, 6, 7
_PIECE: Final = 1 << 16
_MOST_RIFF_BYTES: Final = (1 << 32) - 64
_MOST_BYTES_PER_SECOND: Final = (1 << 31) - 1
"""Bytes per second that FFmpeg counts; WAV has room for twice as many."""
_FLAC_CHANNELS: Final = 8


class AudioWriter:
    """WAV or FLAC files."""

    kind = MediaType.AUDIO
    part = InstancePart.WAVEFORM

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """`SCORE` for an audio waveform, else None."""
        del settings
        return SCORE if instance.sop_class_uid in AUDIO_CLASSES and has_waveform(instance) else None

    def write(self, task: WriterTask) -> Written:
        """One file per multiplex group.

        Raises:
            BadGeometry, CorruptPixels, UnsupportedSyntax, TooLarge: As `groups_of`; also 64-bit samples, absurd rates.
            EncodeFailed: The encoder refuses.
            VerifyFailed: The file, decoded, gives other samples.
            OutOfSpace: The disk is full.
        """
        groups = groups_of(task.instance)
        media: list[MediaFile] = []
        warnings: list[str] = []
        for number, group in enumerate(groups, 1):
            form = task.settings.audio.format
            rate = round(group.rate_hz)
            if rate * len(group.channels) * group.raw.itemsize > _MOST_BYTES_PER_SECOND:
                raise BadGeometry(f"write audio: {name_of('SamplingFrequency')} is more than any sound has")
            if abs(rate - group.rate_hz) > 1e-6 * group.rate_hz or rate < 1:
                warnings.append("audio: the sampling frequency is not an integer number of hertz; rounded")
            if form == "flac" and (group.raw.itemsize > 2 or len(group.channels) > _FLAC_CHANNELS):
                warnings.append("audio: FLAC holds up to 16 bits and 8 channels here; WAV is written")
                form = "wav"
            path = task.folder / f"{len(media)}.part"
            if form == "flac":
                _write_flac(path, group, max(1, rate))
            else:
                _write_wav(path, group, max(1, rate))
            _verify(path, group, max(1, rate), form)
            suffix = f".{form}" if len(groups) == 1 else f".{number}.{form}"
            transcoded = form == "flac" or group.interpretation in {"SB", "US", "UL"}
            codec, duration_s = _codec(group, form), group.duration_s
            media.append(media_file(path, self.kind, suffix, codec, transcoded=transcoded, duration_s=duration_s))
            warnings.extend(group.warnings)
        return Written(tuple(media), warnings=tuple(dict.fromkeys(warnings)))


def _codec(group: WaveformGroup, form: str) -> str:
    if form == "flac":
        return "flac"
    laws = {"MB": "pcm_mulaw", "AB": "pcm_alaw"}
    return laws.get(group.interpretation, "pcm_u8" if group.raw.itemsize == 1 else f"pcm_s{group.raw.itemsize * 8}le")


def _wave_samples(group: WaveformGroup, start: int, stop: int) -> NDArray[np.generic]:
    """Samples as WAV holds them: little endian; linear 8 bits unsigned, wider ones signed."""
    raw: NDArray[Any] = np.ascontiguousarray(group.raw[start:stop])
    if group.interpretation in {"MB", "AB", "UB"}:
        return raw
    if group.interpretation == "SB":
        return raw.view(np.uint8) ^ np.uint8(0x80)
    if raw.itemsize not in {2, 4}:
        raise UnsupportedSyntax("write audio: WAV holds samples of 8, 16 and 32 bits, not of 64")
    if raw.dtype.kind == "u":
        raw = raw ^ raw.dtype.type(1 << (raw.itemsize * 8 - 1))
    signed: NDArray[np.generic] = raw.view(f"i{raw.itemsize}").astype(f"<i{raw.itemsize}", copy=False)
    return signed


def _write_wav(path: Path, group: WaveformGroup, rate: int) -> None:
    samples = _wave_samples(group, 0, len(group.raw))
    size = samples.nbytes
    if size > _MOST_RIFF_BYTES:
        raise TooLarge("write audio: WAV holds 4 GiB")
    channels, width = len(group.channels), samples.itemsize
    tag = {"MB": _MULAW, "AB": _ALAW}.get(group.interpretation, _PCM)
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * channels * width, channels * width, width * 8)
    if tag != _PCM:
        form += struct.pack("<H", 0)  # size of the extension, obligatory for other tags than PCM
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    if tag != _PCM:
        chunks += b"fact" + struct.pack("<II", 4, len(samples))
    padding = b"\0" * (size & 1)
    header = b"RIFF" + struct.pack("<I", 4 + len(chunks) + 8 + size + len(padding)) + b"WAVE" + chunks
    write_new(path, [header, b"data", struct.pack("<I", size), samples.tobytes(), padding])


def _expected(group: WaveformGroup, start: int, stop: int, form: str) -> NDArray[np.generic]:
    """Linear samples ``(stop - start, channels)`` that a decoder must give for these positions."""
    if group.interpretation in {"MB", "AB"}:
        return group.linear(start, stop)
    if form == "flac":
        return _flac_samples(group, start, stop)
    return _wave_samples(group, start, stop)


def _flac_samples(group: WaveformGroup, start: int, stop: int) -> NDArray[np.int16]:
    """Linear samples in 16 bits; 8-bit ones in the upper half, so that they are as loud as before."""
    samples = group.linear(start, stop)
    if group.interpretation == "UB":
        samples = samples.astype(np.int16) - 128
    elif group.interpretation == "US":
        samples = samples.astype(np.int32) - 32768
    scale = 256 if group.interpretation in {"SB", "UB"} else 1
    return (samples.astype(np.int32) * scale).astype(np.int16)


def _write_flac(path: Path, group: WaveformGroup, rate: int) -> None:
    import av

    layout = "mono" if len(group.channels) == 1 else f"{len(group.channels)} channels"
    layout = {2: "stereo"}.get(len(group.channels), layout)
    try:
        with (
            path.open("xb") as file,
            av.open(file, "w", format="flac", options={"fflags": "+bitexact"}) as container,
        ):
            stream = container.add_stream("flac", rate=rate)
            stream.codec_context.layout = layout
            stream.codec_context.format = "s16"
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
            for start in range(0, len(group.raw), _PIECE):
                samples = _flac_samples(group, start, start + _PIECE)
                frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout=layout)
                frame.sample_rate, frame.pts = rate, start
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    except OSError as error:
        if isinstance(error, av.FFmpegError):
            raise EncodeFailed(f"write audio: FFmpeg refuses ({type(error).__name__})") from None
        raise write_error("write audio", error) from None
    except (av.FFmpegError, ValueError) as error:
        raise EncodeFailed(f"write audio: FFmpeg refuses ({type(error).__name__})") from None


def _verify(path: Path, group: WaveformGroup, rate: int, form: str) -> None:
    """Decode the file with FFmpeg and compare every sample."""
    import av

    start = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            if (stream.rate, stream.channels) != (rate, len(group.channels)):
                raise VerifyFailed("read audio back: another rate or number of channels")
            for frame in container.decode(stream):
                planes = frame.to_ndarray()
                got = planes.reshape(-1, stream.channels) if len(planes) == 1 else planes.T
                wanted = _expected(group, start, start + len(got), form)
                if got.shape != wanted.shape or not np.array_equal(got, wanted):
                    raise VerifyFailed("read audio back: other samples than were written")
                start += len(got)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise VerifyFailed(f"read audio back: the file cannot be decoded ({type(error).__name__})") from None
    if start != len(group.raw):
        raise VerifyFailed(f"read audio back: {start} of {len(group.raw)} samples")
