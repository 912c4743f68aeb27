"""Display order of the pictures of a video stream, and the pictures that can be decoded.

Contract: one decoding pass over the stream, a picture at a time. The decoder is the judge: it is what every player
asks, and it reads H.264, HEVC and MPEG-2 alike, where the streams' own counters (picture order count, temporal
reference) need a parser each. What it could not decode is counted, never hidden.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

from exporter.errors import CorruptPixels, TooLarge
from exporter.writers.pictures.hevc_slices import HevcSlices
from exporter.writers.pictures.video_stream import StreamKind, open_stream, reading, video_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

    from exporter.settings.settings import LimitSettings


_WITHOUT_SAMPLES = {"skip_loop_filter": "all", "skip_idct": "all"}
"""All syntax is decoded, and errors are found, as ever; samples, at which nobody looks here, are left unfinished."""
_SLOWEST, _FASTEST = 1, 1000
"""Pictures per second of a rate that is believed: encoders that know none write the tick of their clock."""


@dataclass(frozen=True, slots=True)
class DisplayOrder:
    """The pictures of a stream in the order of its packets."""

    ranks: tuple[int, ...]
    """Place of each packet's picture in the order of display, from 0; a permutation."""
    starts: tuple[Fraction, ...] | None
    """Presentation time in seconds that the container gives each picture, in order of display; None without times."""
    last: Fraction
    """Seconds that the container gives the last picture; 0 where it does not say."""
    origin: Fraction
    """The container's time of the first picture: sound is moved by as much as the pictures."""
    damaged: int
    """Pictures that the decoder reported as damaged, or could not show at all; at least 1 where it reported errors."""
    width: int
    height: int
    rate: Fraction | None = None
    """Pictures per second that the codec's own headers state; None where they do not, or it is no rate of a cine."""

    @property
    def delay(self) -> int:
        """Packets that come before the picture they wait for: how far decoding runs ahead of display."""
        return max((index - rank for index, rank in enumerate(self.ranks)), default=0)


def display_order(source: BinaryIO, kind: StreamKind, rate: Fraction, limits: LimitSettings) -> DisplayOrder:
    """Decode the stream once.

    Raises:
        CorruptPixels: Nothing can be decoded, or there is no order that fits the packets.
        TooLarge: The pictures, or their number, pass the limits.
    """
    with _complaints() as complaints, open_stream(source, kind, rate, limits) as container:
        order = _decoded(container, kind, limits)
    return replace(order, damaged=max(order.damaged, 1)) if complaints() else order


@contextmanager
def _complaints() -> Iterator[Callable[[], int]]:
    """Counts what FFmpeg reports as errors meanwhile: some decoders mend a damaged picture and flag nothing."""
    import av.logging

    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logs:
            yield lambda: len(logs)
    finally:
        av.logging.set_level(before)


def _decoder(stream: VideoStream) -> VideoCodecContext:
    """The decoder of a stream, to show damaged pictures, too."""
    from av.codec.context import Flags, Flags2

    context = stream.codec_context
    context.flags |= Flags.output_corrupt
    context.flags2 |= Flags2.show_all
    if context.name != "hevc":  # whose pictures are looked at
        context.options = _WITHOUT_SAMPLES
    return context


def _decoded(container: InputContainer, kind: StreamKind, limits: LimitSettings) -> DisplayOrder:
    import av

    stream = video_of(container)
    context = _decoder(stream)
    slices = HevcSlices(context, start_codes=kind.start_codes)
    shown: list[int] = []
    times: list[Fraction | None] = []
    last = Fraction(0)
    damaged = 0

    def take(frames: list[av.VideoFrame]) -> None:
        nonlocal damaged
        for frame in frames:
            if frame.pts is not None:
                shown.append(frame.pts)
                damaged += bool(frame.is_corrupt)
                slices.add_picture(frame)

    with reading("reading packets"):
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if len(times) >= limits.max_frames:
                raise TooLarge(f"the video has over {limits.max_frames} pictures (limits.max_frames)")
            unit = packet.time_base
            times.append(None if packet.pts is None else packet.pts * unit)
            last = (packet.duration or 0) * unit
            damaged += bool(packet.is_corrupt)  # a transport stream lost packets (ISO/IEC 13818-1 2.4.3.3)
            slices.add(packet)
            packet.pts = packet.dts = len(times) - 1  # the decoder hands them on with the picture
            try:
                take(context.decode(packet))
            except av.FFmpegError:
                damaged += 1
    try:
        take(context.decode(None))
    except av.FFmpegError:
        damaged += 1
    if not shown:
        raise CorruptPixels(f"no picture of the stream can be decoded, read as {kind.demuxer}")
    ranks = _ranks(shown, len(times))
    starts = None if kind.elementary else _starts(times, ranks)
    return DisplayOrder(
        ranks=ranks,
        starts=starts,
        last=last,
        origin=min((time for time in times if time is not None), default=Fraction(0)),
        damaged=damaged + len(times) - len(set(shown)) + slices.damaged,
        width=stream.width,
        height=stream.height,
        rate=_stated_rate(context.framerate),
    )


def _stated_rate(rate: Fraction | None) -> Fraction | None:
    """The sequence header's rate (MPEG-2: H.262 6.3.3; H.264 and HEVC: the timing of their VUI)."""
    return rate if rate and _SLOWEST <= rate <= _FASTEST else None


def _ranks(shown: list[int], packets: int) -> tuple[int, ...]:
    """Place of each packet in display; a packet without a picture keeps its place behind its predecessor.

    Raises:
        CorruptPixels: A packet gave more than one picture, or the packets are not pictures at all.
    """
    if len(set(shown)) != len(shown) or len(shown) * 2 < packets:
        raise CorruptPixels(f"{packets} packets of the stream give {len(set(shown))} pictures")
    place = {packet: rank for rank, packet in enumerate(shown)}
    keys: list[tuple[float, int]] = []
    behind = -1.0
    for packet in range(packets):
        behind = float(place[packet]) if packet in place else behind + 0.5 / packets
        keys.append((behind, packet))
    ranks = [0] * packets
    for rank, (_, packet) in enumerate(sorted(keys)):
        ranks[packet] = rank
    return tuple(ranks)


def _starts(times: list[Fraction | None], ranks: tuple[int, ...]) -> tuple[Fraction, ...] | None:
    """The container's presentation times in order of display, None unless every one is there and they increase."""
    ordered: list[Fraction] = [Fraction(0)] * len(times)
    for time, rank in zip(times, ranks, strict=True):
        if time is None:
            return None
        ordered[rank] = time
    if any(later <= earlier for earlier, later in pairwise(ordered)):
        return None
    return tuple(time - ordered[0] for time in ordered)
