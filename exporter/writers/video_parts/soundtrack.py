"""Audio tracks of a video stream as files of their own: WAV, or FLAC where 16 bits are enough.

Contract: a file holds every sample that the track's decoder gives, bit for bit, in its own rate and channels; decoded
back it must give them again. A track that cannot be decoded is named in the warnings: the pictures are not its fault.

Must never: resample, mix channels, change the level, or write text into the file.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from exporter.errors import CorruptPixels, VerifyFailed
from exporter.outcome import MediaType
from exporter.writers.durable_write import media_file
from exporter.writers.pictures.video_stream import StreamKind, open_stream, reading
from exporter.writers.video_parts.encoder import closing, foreign

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction
    from pathlib import Path

    import av

    from exporter.outcome import MediaFile
    from exporter.settings.settings import LimitSettings
    from exporter.writers.contract import WriterTask

_PCM: Final = {"u8": "pcm_u8", "s16": "pcm_s16le", "s32": "pcm_s32le", "flt": "pcm_f32le", "dbl": "pcm_f64le"}
"""WAV codec for each packed sample format of FFmpeg."""
_OPTIONS: Final = {"wav": {"fflags": "+bitexact", "rf64": "auto"}, "flac": {"fflags": "+bitexact"}}
"""Without them FFmpeg names itself in the file; RF64 (EBU Tech 3306) where WAV's 4 GiB are not enough."""


@dataclass(frozen=True, slots=True)
class Sound:
    """The stream that holds the audio tracks."""

    source: BinaryIO
    kind: StreamKind
    rate: Fraction
    limits: LimitSettings

    def tracks(self) -> list[int]:
        """Indices of the audio tracks."""
        if self.kind.elementary:
            return []
        with open_stream(self.source, self.kind, self.rate, self.limits) as container:
            return [stream.index for stream in container.streams.audio]


def write_tracks(task: WriterTask, sound: Sound, *, held: frozenset[int], warnings: list[str]) -> tuple[MediaFile, ...]:
    """Write the audio tracks that `audio.tracks` asks for.

    Args:
        task: Whose folder and settings.
        sound: Where the tracks are.
        held: Indices of the tracks that the video file holds.
        warnings: Gets a sentence for each track that cannot be decoded.

    Raises:
        EncodeFailed, VerifyFailed, OutOfSpace: A file cannot be written, or gives other samples.
    """
    wanted = task.settings.audio.tracks
    chosen = [index for index in sound.tracks() if wanted == "all" or (wanted == "left_out" and index not in held)]
    media = []
    for number, index in enumerate(chosen, 1):
        path = task.folder / f"track{number}.part"
        try:
            written = _write(path, sound, index, task.settings.audio.format)
        except CorruptPixels:
            warnings.append("an audio track cannot be decoded: no file of it is written")
            with suppress(OSError):
                path.unlink(missing_ok=True)
            continue
        form, codec, duration_s = written
        suffix = f".{form}" if len(chosen) == 1 else f".{number}.{form}"
        media.append(media_file(path, MediaType.AUDIO, suffix, codec, duration_s=duration_s))
    return tuple(media)


def _write(path: Path, sound: Sound, index: int, wanted: str) -> tuple[str, str, float]:
    """Form, codec and duration in seconds of what was written."""
    import av

    frames = _decoded(sound, index)
    first = next(frames, None)
    if first is None:
        raise CorruptPixels("the audio track holds no sound")
    packed = first.format.packed.name
    form = "flac" if wanted == "flac" and packed == "s16" else "wav"
    codec = "flac" if form == "flac" else _PCM.get(packed)
    if codec is None:
        raise CorruptPixels("the audio track has samples that WAV cannot hold")
    resampler = av.AudioResampler(format=packed, layout=first.layout.name, rate=first.sample_rate)
    digest, samples = hashlib.sha256(), 0
    with foreign("opening a sound file"):
        output = av.open(str(path), "w", format=form, options=_OPTIONS[form])
    with closing(output, "closing a sound file"):
        with foreign("opening a sound encoder"):
            target: Any = output.add_stream(codec, rate=first.sample_rate, layout=first.layout.name)
        for frame in _packed(resampler, first, frames):
            digest.update(frame.to_ndarray().tobytes())
            samples += frame.samples
            frame.pts = None
            with foreign("writing a sound file"):
                output.mux(target.encode(frame))
        with foreign("writing a sound file"):
            output.mux(target.encode(None))
    _check(path, form, packed, digest.hexdigest())
    return form, codec, samples / first.sample_rate


def _decoded(sound: Sound, index: int) -> Iterator[Any]:
    """The track's sound as its decoder gives it, piece by piece."""
    with open_stream(sound.source, sound.kind, sound.rate, sound.limits) as container:
        with reading("reading an audio track"):
            packets = container.demux(container.streams[index])
        while True:
            with reading("decoding an audio track"):
                packet = next(packets, None)
                if packet is None:
                    return
                pieces = packet.decode()
            yield from pieces


def _packed(resampler: av.AudioResampler, first: Any, others: Iterator[Any]) -> Iterator[Any]:
    """Samples with channels side by side; rate and layout must stay as in the first frame."""
    shape = (first.format.name, first.layout.name, first.sample_rate)
    yield from resampler.resample(first)
    for frame in others:
        if (frame.format.name, frame.layout.name, frame.sample_rate) != shape:
            raise CorruptPixels("the audio track changes its rate or its channels")
        frame.pts = None
        yield from resampler.resample(frame)


def _check(path: Path, form: str, packed: str, expected: str) -> None:
    """Decode the file again and compare every sample.

    Raises:
        VerifyFailed: They are others.
    """
    import av

    digest = hashlib.sha256()
    with foreign("decoding a sound file back"), av.open(str(path), "r", format=form) as container:
        for frame in container.decode(audio=0):
            if frame.format.packed.name != packed:
                raise VerifyFailed("the sound file has another sample format than its track")
            digest.update(frame.to_ndarray().tobytes())
    if digest.hexdigest() != expected:
        raise VerifyFailed("the sound file, decoded, gives other samples than its track")
