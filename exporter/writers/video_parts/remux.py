"""Video streams inside DICOM (MPEG-2, H.264, HEVC) copied into a container without re-encoding.

Contract: the pictures' bytes are those of the instance (compared after writing), their times those of the instance's
elements, or the stream's own where it carries sound to stay in step with; audio tracks the container can hold are kept,
others become files of their own (`exporter.writers.video_parts.soundtrack`).
Text, dates and titles of an embedded container are left behind. Nothing is transcoded: what cannot be copied is refused
or, for sound, named in the warnings.

Source: PS3.5 8.2.5-8.2.14 and A.4.5-A.4.10 (video in pixel data), ISO/IEC 14496-15 (H.264 and HEVC in MP4).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from exporter.dicom.timing import Schedule, default_rate_warning, schedule_of
from exporter.errors import BadGeometry, CorruptPixels, VerifyFailed
from exporter.outcome import MediaType, Rendering
from exporter.settings.settings import FramingSettings
from exporter.writers.contract import WriterTask, Written
from exporter.writers.durable_write import media_file
from exporter.writers.pictures.display_order import DisplayOrder, display_order
from exporter.writers.pictures.framing import framing_of
from exporter.writers.pictures.nal_units import nal_units
from exporter.writers.pictures.video_stream import StreamKind, kinds_of, open_stream, reading, video_of
from exporter.writers.video_parts.encoder import closing, container_options, foreign
from exporter.writers.video_parts.soundtrack import Sound, write_tracks
from exporter.writers.video_parts.verify import TIME_TOLERANCE_S, check_times
from exporter.writers.video_parts.video_plan import CONTAINERS

if TYPE_CHECKING:
    from pathlib import Path

    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

    from exporter.dicom.instance import Instance
    from exporter.settings.settings import LimitSettings

_COPY_CONTAINERS: Final = frozenset({"mp4", "mov", "matroska"})
_AUDIO_IN_MP4: Final = frozenset({"aac", "mp2", "mp3", "ac3", "eac3", "alac", "flac", "opus"})
_MACROBLOCK: Final = 16
_DECODED_BACK: Final = 2
"""Packets of the output that are decoded once more, which shows that its parameter sets came along: all packets are
compared byte for byte, and the stream itself was decoded whole to learn its order."""


@dataclass(frozen=True, slots=True)
class StreamCopy:
    """One stream to be copied."""

    source: BinaryIO
    kind: StreamKind
    order: DisplayOrder
    schedule: Schedule
    path: Path
    container: str
    limits: LimitSettings


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Findings of one decoding pass over a stream."""

    kind: StreamKind
    order: DisplayOrder
    schedule: Schedule
    rate: Fraction
    """Nominal, for demuxers of elementary streams."""
    warnings: tuple[str, ...]


def probe_stream(task: WriterTask, source: BinaryIO) -> StreamInfo:
    """Find out what a stream is, how many pictures it holds, in which order, and when they are shown.

    Raises:
        BadGeometry: Its pictures have another size than the instance states.
        CorruptPixels: Nothing in it can be decoded.
        TooLarge: Its pictures, or their number, pass the limits.
    """
    instance, limits = task.instance, task.settings.limits
    warnings: list[str] = []
    announced = instance.pixels.frames if instance.pixels is not None else 1
    default_rate = task.settings.video.default_rate_hz
    rate = schedule_of(instance.header, announced, default_rate_hz=default_rate).rate
    kind, order = _recognised(source, instance.transfer_syntax, rate, limits, warnings)
    _check_size(instance, order, warnings)
    count = len(order.ranks)
    if count != announced:
        warnings.append(f"the stream holds {count} pictures, (0028,0008) Number of Frames says {announced}")
    if order.damaged:
        warnings.append(f"{order.damaged} or more of {count} pictures are damaged or cannot be decoded")
    schedule = _schedule(task, order, warnings, sound=_has_sound(source, kind, rate, limits))
    said = (*schedule.warnings, *default_rate_warning(schedule), *dict.fromkeys(warnings))
    return StreamInfo(kind, order, schedule, rate, said)


def _check_size(instance: Instance, order: DisplayOrder, warnings: list[str]) -> None:
    """Compare the stream's pictures with Rows and Columns, the unit of regions and masks (PS3.5 8.2.5 to 8.2.8).

    Encoders code whole macroblocks, and some do not state that the last ones are to be cut: 1088 rows for 1080.
    """
    pixels = instance.pixels
    if pixels is None or (order.height, order.width) == (pixels.rows, pixels.columns):
        return
    sizes = (
        f"the pictures of the video stream have {order.height} rows x {order.width} columns, "
        f"(0028,0010) Rows x (0028,0011) Columns are {pixels.rows} x {pixels.columns}"
    )
    surplus = (order.height - pixels.rows, order.width - pixels.columns)
    if not all(0 <= more < _MACROBLOCK for more in surplus):
        raise BadGeometry(sizes)
    warnings.append(f"{sizes}: whole macroblocks, without cropping in the stream")


def remux(task: WriterTask, extension: str) -> Written:
    """Copy the instance's video stream into the container that `extension` selects.

    Raises:
        ExportError: The stream cannot be read, or the container not written.
        OutOfSpace: The disk is full.
    """
    from exporter.frames import open_frames

    instance = task.instance
    warnings: list[str] = []
    if CONTAINERS.get(extension.lower()) not in _COPY_CONTAINERS:
        warnings.append(f"{extension} cannot hold a copied stream: written as .mp4")
        extension = ".mp4"
    frames = open_frames(instance, task.settings.limits)
    path = task.folder / "0.part"
    with frames.open_stream() as source:
        found = probe_stream(task, source)
        kind, order, schedule = found.kind, found.order, found.schedule
        copy = StreamCopy(source, kind, order, schedule, path, CONTAINERS[extension.lower()], task.settings.limits)
        digest = _copy(copy, warnings)
        _check(copy, digest)
        sound = Sound(source, kind, schedule.rate, task.settings.limits)
        tracks = write_tracks(task, sound, held=digest.sound, warnings=warnings)
    framing = framing_of(FramingSettings(), instance, frames, (order.height, order.width, 3), None)
    medium = media_file(
        path,
        MediaType.VIDEO,
        extension,
        digest.codec,
        transcoded=False,
        width=order.width,
        height=order.height,
        frames=len(order.ranks),
        duration_s=float(schedule.duration),
        geometry=framing.geometry(),
    )
    notes = (f"stream: {digest.codec} copied from {kind.demuxer}, not re-encoded",)
    return Written(
        media=(medium, *tracks),
        timing=schedule.timing,
        rendering=Rendering(notes=notes),
        warnings=(*frames.warnings, *found.warnings, *dict.fromkeys(warnings)),
    )


def _recognised(
    source: BinaryIO, transfer_syntax: str, rate: Fraction, limits: LimitSettings, warnings: list[str]
) -> tuple[StreamKind, DisplayOrder]:
    """The first reading of the bytes that gives pictures."""
    source.seek(0)
    kinds = kinds_of(source.read(1024), transfer_syntax)
    for kind in kinds[:-1]:
        try:
            return kind, display_order(source, kind, rate, limits)
        except CorruptPixels:
            warnings.append(f"the stream is not {kind.demuxer}, contrary to (0002,0010) Transfer Syntax UID")
    return kinds[-1], display_order(source, kinds[-1], rate, limits)


def _has_sound(source: BinaryIO, kind: StreamKind, rate: Fraction, limits: LimitSettings) -> bool:
    if kind.elementary:
        return False
    with open_stream(source, kind, rate, limits) as container:
        return bool(container.streams.audio)


def _schedule(task: WriterTask, order: DisplayOrder, warnings: list[str], *, sound: bool) -> Schedule:
    """The elements' times; the stream's own where it has sound, or where no element tells the time."""
    count = len(order.ranks)
    elements = schedule_of(task.instance.header, count, default_rate_hz=task.settings.video.default_rate_hz)
    if order.starts is None and elements.source == "default" and order.rate is not None:
        return Schedule(source="stream", frames=count, period=1 / order.rate)
    if order.starts is None or count < 2:
        return elements
    intervals = [later - earlier for earlier, later in zip(order.starts, order.starts[1:], strict=False)]
    last = order.last if order.last > 0 else intervals[-1]
    own = Schedule(source="stream", frames=count, period=None, starts=order.starts, last=last)
    if max(abs(interval - last) for interval in intervals) <= Fraction(1, 10_000):
        period = ((order.starts[-1] + last) / count).limit_denominator(100_000)
        own = Schedule(source="stream", frames=count, period=period)
    if not sound and elements.source != "default":
        return elements
    step = abs(float(own.duration - elements.duration)) / count
    if elements.source != "default" and step > TIME_TOLERANCE_S:
        warnings.append(f"the stream's own times are kept for its sound; {elements.source} says otherwise")
    return own


@dataclass(frozen=True, slots=True)
class Digest:
    """Codec, pictures and sound that were copied."""

    codec: str
    pictures: str
    """Hash over the pictures' units in the order of their packets."""
    sound: frozenset[int]
    """Indices of the audio tracks that were copied."""


def _copy(copy: StreamCopy, warnings: list[str]) -> Digest:
    import av

    with open_stream(copy.source, copy.kind, copy.schedule.rate, copy.limits) as container:
        video = video_of(container)
        codec = video.codec_context.name
        audio = [stream for stream in container.streams.audio if _holds(stream, copy.container, warnings)]
        sha = hashlib.sha256()
        with foreign(f"opening {copy.container}"):
            output = av.open(
                str(copy.path), "w", format=copy.container, options=container_options(copy.container, copy.schedule)
            )
        with closing(output, f"closing {copy.container}"):
            with foreign(f"copying {codec} into {copy.container}"):
                targets: dict[int, Any] = {video.index: output.add_stream_from_template(video)}
                targets[video.index].time_base = copy.schedule.time_base
            for stream in audio:
                try:
                    targets[stream.index] = output.add_stream_from_template(stream)
                except ValueError:  # PyAV knows no tag for this codec in this container
                    warnings.append(_left_out(copy.container, stream))
            _packets(copy, container, output, targets, sha)
    sound = frozenset(targets) - {video.index}
    return Digest(codec=codec, pictures=sha.hexdigest(), sound=sound)


def _holds(stream: Any, container: str, warnings: list[str]) -> bool:
    """Whether a container can hold an audio track; a warning names a track that it cannot."""
    if not stream.codec_context.sample_rate:
        warnings.append("an audio track is left out: it has no sampling rate")
        return False
    if container == "matroska" or stream.codec_context.name.removesuffix("float") in _AUDIO_IN_MP4:
        return True
    warnings.append(_left_out(container, stream))
    return False


def _left_out(container: str, stream: Any) -> str:
    return f"an audio track is left out: {container} cannot hold {stream.codec_context.name}"


def _packets(
    copy: StreamCopy, container: InputContainer, output: OutputContainer, targets: dict[int, Any], sha: Any
) -> None:
    video = video_of(container)
    ticks = copy.schedule.ticks()
    delay = copy.order.delay
    index = 0
    with reading("copying packets"):
        demuxed = container.demux(*(stream for stream in container.streams if stream.index in targets))
    for packet in _read(demuxed):
        if packet.stream.index != video.index:
            if packet.pts is not None:
                unit = packet.time_base
                _shift(packet, copy.order.origin)
                packet.stream = targets[packet.stream.index]
                packet.time_base = unit
                with foreign("copying sound"):
                    output.mux(packet)
            continue
        if index == len(copy.order.ranks):
            raise CorruptPixels("the stream holds more pictures than on first reading")
        sha.update(picture_digest(bytes(packet), start_codes=copy.kind.start_codes, codec=video.codec_context.name))
        rank = copy.order.ranks[index]
        packet.pts = ticks[rank]
        packet.dts = ticks[index - delay] if index >= delay else ticks[index] - ticks[delay]
        packet.duration = ticks[rank + 1] - ticks[rank]
        packet.time_base = copy.schedule.time_base
        packet.stream = targets[video.index]
        with foreign("copying pictures"):
            output.mux(packet)
        index += 1


def _read(demuxed: Any) -> Any:
    """Packets that hold something."""
    while True:
        with reading("copying packets"):
            packet = next(demuxed, None)
        if packet is None:
            return
        if packet.size:
            yield packet


def _shift(packet: Any, first: Fraction) -> None:
    """Move a packet of sound so that the first picture is at 0."""
    offset = round(first / packet.time_base)
    packet.pts -= offset
    if packet.dts is not None:
        packet.dts -= offset


def picture_digest(data: bytes, *, start_codes: bool, codec: str) -> bytes:
    """Hash of one packet's units, the same whether start codes or lengths separate them.

    MPEG-2 has no other form than its own; H.264 and HEVC lose start codes and trailing zero bytes (ISO/IEC 14496-10
    annex B) when a container stores lengths.
    """
    sha = hashlib.blake2b(digest_size=16)
    for unit in nal_units(data, start_codes=start_codes) if codec in {"h264", "hevc"} else (data,):
        sha.update(len(unit).to_bytes(4, "big"))
        sha.update(unit)
    return sha.digest()


def _check(copy: StreamCopy, digest: Digest) -> None:
    """Read the written file: every picture's bytes, every time, the duration, and the first pictures decoded."""
    import av

    sha = hashlib.sha256()
    times: list[float] = []
    decoded = 0
    try:
        with av.open(str(copy.path), metadata_errors="replace") as container:
            stream = video_of(container)
            stream.codec_context.thread_count = 1
            if (stream.width, stream.height) != (copy.order.width, copy.order.height):
                raise VerifyFailed("the video, opened again, has another size")
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                sha.update(picture_digest(bytes(packet), start_codes=False, codec=digest.codec))
                times.append(float((packet.pts or 0) * packet.time_base))
                if len(times) <= _DECODED_BACK:
                    decoded += _decoded(stream, packet, copy.order)
            decoded += _decoded(stream, None, copy.order)
            duration = (container.duration or 0) / av.time_base
    except (av.FFmpegError, OSError) as error:
        raise VerifyFailed(f"the copied video cannot be read back ({type(error).__name__})") from None
    same = len(times) == len(copy.order.ranks) and sha.hexdigest() == digest.pictures
    if copy.order.damaged and not same:
        raise CorruptPixels("the stream is damaged, and cannot be copied picture by picture")
    if not same:
        raise VerifyFailed("the copied video, read back, does not hold the instance's pictures")
    if not decoded and not copy.order.damaged:
        raise VerifyFailed("the copied video cannot be decoded")
    end_s = check_times(copy.schedule, sorted(times))
    if duration < end_s - 2 * TIME_TOLERANCE_S:  # its sound may be longer
        raise VerifyFailed("the copied video is shorter than the sum of its frame times")


def _decoded(stream: VideoStream, packet: Packet[VideoStream] | None, order: DisplayOrder) -> int:
    """Number of pictures that the decoder gives for a packet; damaged pictures of the instance may give none."""
    import av

    try:
        return len(stream.codec_context.decode(packet))
    except av.FFmpegError:
        if order.damaged:
            return 0
        raise
