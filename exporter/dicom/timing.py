"""Times of the frames of a multi-frame instance: the timing ladder, exact, with its provenance.

Contract: `schedule_of` reads header elements only and always answers; the answer names the element it rests on and
every element that had to be passed over. Times are exact fractions of a second, so that a thousand frames of 33.333 ms
end where the elements say and not where a rounded rate puts them. It never looks at pixels, never trims, never guesses
quietly: the last rung is the configured default, and says so.

The ladder (first usable rung wins):

1. ``FrameIncrementPointer (0028,0009)`` -> ``FrameTimeVector`` or ``FrameTime`` (PS3.3 C.7.6.6, C.7.6.5)
2. ``FrameTimeVector (0018,1065)``, ``FrameTime (0018,1063)`` without a pointer to them
3. per-frame functional groups: ``TemporalPositionTimeOffset (0020,930D)`` in seconds, ``FrameReferenceDateTime
   (0018,9151)``, ``FrameAcquisitionDateTime (0018,9074)`` (PS3.3 C.7.6.16.2), where they strictly increase
4. ``CineRate (0018,0040)``, ``RecommendedDisplayFrameRate (0008,2144)`` in frames per second
5. ``ActualFrameDuration (0018,1242)`` in milliseconds
6. the default rate of the settings
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from exporter.dicom.elements import readable_value_of
from exporter.outcome import Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pydicom import Dataset


DEFAULT_RATE_HZ = 30.0

_SHORTEST = Fraction(1, 100_000)
_LONGEST = Fraction(3600)
"""Seconds that one frame may be shown: outside of this an element is a mistake, not a rate."""

_MOST_TICKS_PER_SECOND = 10_000_000
_LONG_GAP_S = 100
"""Above this a microsecond tick could overflow the 32-bit composition offsets of MP4 (ISO/IEC 14496-12 8.6.1.3)."""

_LONG_PERIOD_TICKS_PER_SECOND = 10_000
"""Ticks for a constant period above that gap: an hour and a few reordered frames then fit into 31 bits."""

_NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})([eE][+-]?\d{1,2})?")
_DATE_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.(\d{1,6}))?([+-]\d{4})?")

_FRAME_TIME = 0x00181063
_FRAME_TIME_VECTOR = 0x00181065
TIME_POINTERS = frozenset({_FRAME_TIME, _FRAME_TIME_VECTOR})
"""Tags of the elements with times that Frame Increment Pointer may name (PS3.3 C.7.6.5)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Presentation times of all frames, from the first one at zero, as exact fractions of a second."""

    source: str
    """Keyword of the element the times come from, or ``default``."""
    frames: int
    period: Fraction | None
    """Seconds per frame where they are constant."""
    starts: tuple[Fraction, ...] | None = None
    """Presentation time of each frame in seconds, strictly increasing; only where they are not constant."""
    last: Fraction = Fraction(0)
    """Seconds that the last frame is shown; only with `starts`."""
    warnings: tuple[str, ...] = ()
    most_ticks: int = 1_000_000
    """Most ticks per second of variable timing."""

    def within(self, most_ticks: int) -> Schedule:
        """This schedule for a codec that counts at most `most_ticks` per second: each to half a tick or better.

        A constant period is the nearest fraction with such a denominator, so that a million frames stay within a
        millisecond of their times where `most_ticks` is 65,535.
        """
        period = self.period.limit_denominator(most_ticks) if self.period is not None else None
        return replace(self, period=period, most_ticks=min(self.most_ticks, most_ticks))

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick: every start is a whole number of ticks, or within half a microsecond of one."""
        if self.period is not None:
            return Fraction(1, self.period.denominator)
        starts = self.starts or (Fraction(0),)
        longest = max([self.last, *(b - a for a, b in pairwise(starts))])
        return Fraction(1, 1000 if longest > _LONG_GAP_S else self.most_ticks)

    @property
    def rate(self) -> Fraction:
        """Frames per second; the mean where the timing is variable."""
        if self.period is not None:
            return 1 / self.period
        return (self.frames / self.duration).limit_denominator(100_000)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame's appearance to the last one's end: the sum of all frame times."""
        if self.period is not None:
            return self.period * self.frames
        return (self.starts[-1] if self.starts else Fraction(0)) + self.last

    def ticks(self) -> tuple[int, ...]:
        """Start of every frame in units of `time_base`, with the end of the last one as the final entry.

        Strictly increasing: frames that fall on one tick are moved apart by one.
        """
        if self.period is not None:
            step = self.period.numerator
            return tuple(range(0, step * (self.frames + 1), step))
        unit = self.time_base
        out: list[int] = []
        for seconds in (*(self.starts or ()), self.duration):
            tick = round(seconds / unit)
            out.append(max(tick, out[-1] + 1) if out else tick)
        return tuple(out)

    @property
    def timing(self) -> Timing:
        """The timing in the metadata line."""
        if self.period is not None:
            return Timing(source=self.source, rate_hz=float(1 / self.period))
        times = tuple(float(start * 1000) for start in self.starts or ())
        return Timing(source=self.source, rate_hz=None, variable=True, frame_times_ms=times)


def schedule_of(header: Dataset, frames: int, *, default_rate_hz: float = DEFAULT_RATE_HZ) -> Schedule:
    """The presentation times of `frames` frames by the ladder of this module.

    Args:
        header: The data set without pixel data; any of its elements may be malformed.
        frames: Number of frames there really are, at least 1.
        default_rate_hz: Frames per second where no element is usable.
    """
    passed_over: list[str] = []
    for rung in _rungs(header):
        found = rung(header, frames, passed_over)
        if found is not None:
            break
    else:
        period = (1 / Fraction(default_rate_hz).limit_denominator(100_000)).limit_denominator(_MOST_TICKS_PER_SECOND)
        found = Schedule(source="default", frames=frames, period=period)
    if not passed_over:
        return found
    return Schedule(
        source=found.source,
        frames=found.frames,
        period=found.period,
        starts=found.starts,
        last=found.last,
        warnings=tuple(dict.fromkeys((*passed_over, *found.warnings))),
    )


def default_rate_warning(schedule: Schedule) -> tuple[str, ...]:
    """A warning where no element gives the times of a cine and the default rate stands in for them."""
    if schedule.source != "default":
        return ()
    return ("timing: no element says when frames are shown; they play at video.default_rate_hz",)


def _rungs(header: Dataset) -> Iterator[Callable[[Dataset, int, list[str]], Schedule | None]]:
    """The rungs in order: what Frame Increment Pointer names comes first (PS3.3 C.7.6.6)."""
    pointed = [
        {_FRAME_TIME: _frame_time, _FRAME_TIME_VECTOR: _frame_time_vector}[tag]
        for tag in pointed_tags(header)
        if tag in TIME_POINTERS
    ]
    yield from pointed
    yield from (rung for rung in (_frame_time_vector, _frame_time) if rung not in pointed)
    yield _functional_groups
    yield _cine_rate
    yield _recommended_rate
    yield _actual_frame_duration


def pointed_tags(header: Dataset) -> list[int]:
    """The tags that (0028,0009) Frame Increment Pointer names; none where it is absent or unreadable."""
    value = readable_value_of(header, "FrameIncrementPointer")
    values: Iterable[Any] = value if isinstance(value, (list, tuple)) or _is_multi(value) else (value,)
    tags = []
    for item in values:
        try:
            tags.append(int(item))
        except (TypeError, ValueError):
            continue
    return tags


def _frame_time(header: Dataset, frames: int, passed_over: list[str]) -> Schedule | None:
    return _constant(header, "FrameTime", frames, passed_over, seconds=lambda ms: ms / 1000)


def _cine_rate(header: Dataset, frames: int, passed_over: list[str]) -> Schedule | None:
    return _constant(header, "CineRate", frames, passed_over, seconds=lambda rate: 1 / rate)


def _recommended_rate(header: Dataset, frames: int, passed_over: list[str]) -> Schedule | None:
    return _constant(header, "RecommendedDisplayFrameRate", frames, passed_over, seconds=lambda rate: 1 / rate)


def _actual_frame_duration(header: Dataset, frames: int, passed_over: list[str]) -> Schedule | None:
    return _constant(header, "ActualFrameDuration", frames, passed_over, seconds=lambda ms: ms / 1000)


def _constant(
    header: Dataset,
    keyword: str,
    frames: int,
    passed_over: list[str],
    *,
    seconds: Callable[[Fraction], Fraction],
) -> Schedule | None:
    if keyword not in header:
        return None
    number = _number(readable_value_of(header, keyword))
    period = seconds(number) if number is not None and number > 0 else None
    if period is None or not _SHORTEST <= period <= _LONGEST:
        passed_over.append(f"timing: {keyword} is not usable")
        return None
    return Schedule(source=keyword, frames=frames, period=_countable(period))


def _frame_time_vector(header: Dataset, frames: int, passed_over: list[str]) -> Schedule | None:
    """Increments in milliseconds (PS3.3 C.7.6.5.1.2): the n-th is the time between frame n-1 and frame n.

    The first increment belongs to no pair of frames and should be 0. Where it is not, the vector holds one time per
    frame, and the first value is taken as the time from the last frame back to the first: the sum is the duration.
    A vector that is one value short holds the intervals alone.
    """
    if "FrameTimeVector" not in header:
        return None
    value = readable_value_of(header, "FrameTimeVector")
    raw: Sequence[Any] = list(value) if _is_multi(value) or isinstance(value, (list, tuple)) else [value]
    numbers = [_number(item) for item in raw]
    increments = [number / 1000 for number in numbers if number is not None]
    if len(increments) != len(raw) or len(increments) not in (frames, frames - 1) or frames < 2:
        passed_over.append("timing: FrameTimeVector does not have one value per frame")
        return None
    intervals = increments[len(increments) - (frames - 1) :]
    wrap = increments[0] if len(increments) == frames and increments[0] > 0 else intervals[-1]
    if min(intervals) < 0 or sum(intervals) < _SHORTEST or max(intervals) > _LONGEST:
        passed_over.append("timing: FrameTimeVector does not increase")
        return None
    if wrap <= 0:
        wrap = sum(intervals, Fraction(0)) / len(intervals)
    if min(intervals) == 0:
        passed_over.append("timing: FrameTimeVector holds an increment of 0, shown as one tick")
    return _from_intervals("FrameTimeVector", frames, intervals, wrap)


def _functional_groups(header: Dataset, frames: int, passed_over: list[str]) -> Schedule | None:
    if "PerFrameFunctionalGroupsSequence" not in header:
        return None
    items = readable_value_of(header, "PerFrameFunctionalGroupsSequence")
    if items is None or len(items) != frames or frames < 2:
        return None
    for keyword, macro, convert in (
        ("TemporalPositionTimeOffset", "TemporalPositionSequence", _number),
        ("FrameReferenceDateTime", "FrameContentSequence", _instant),
        ("FrameAcquisitionDateTime", "FrameContentSequence", _instant),
    ):
        times = [_in_macro(item, macro, keyword, convert) for item in items]
        known = [time for time in times if time is not None]
        if len(known) != frames:
            continue
        intervals = [later - earlier for earlier, later in pairwise(known)]
        if min(intervals) >= _SHORTEST and max(intervals) <= _LONGEST:
            return _from_intervals(keyword, frames, intervals, intervals[-1])
        if any(intervals):
            passed_over.append(f"timing: {keyword} does not increase from frame to frame")
    return None


def _in_macro(item: Dataset, macro: str, keyword: str, convert: Callable[[object], Fraction | None]) -> Fraction | None:
    sequence = readable_value_of(item, macro)
    if not sequence:
        return None
    return convert(readable_value_of(sequence[0], keyword))


def _from_intervals(source: str, frames: int, intervals: Sequence[Fraction], last: Fraction) -> Schedule:
    if last == intervals[0] and all(interval == last for interval in intervals):
        return Schedule(source=source, frames=frames, period=_countable(last))
    starts = [Fraction(0)]
    for interval in intervals:
        starts.append(starts[-1] + interval)
    return Schedule(source=source, frames=frames, period=None, starts=tuple(starts), last=last)


def _countable(period: Fraction) -> Fraction:
    """The nearest period that containers can count in whole ticks."""
    most = _LONG_PERIOD_TICKS_PER_SECOND if period > _LONG_GAP_S else _MOST_TICKS_PER_SECOND
    return period.limit_denominator(most)


def _is_multi(value: object) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, (str, bytes))


def _number(value: object) -> Fraction | None:
    """A decimal string, integer string or float as the exact number that was written, None for anything else.

    The pattern bounds digits and exponent: a decimal string of ``1E999999999`` must not become an integer.
    """
    if value is None:
        return None
    if isinstance(value, float) and type(value) is float:
        return Fraction(repr(value)) if math.isfinite(value) and abs(value) < 1e12 else None
    text = str(getattr(value, "original_string", "") or value).strip()
    return Fraction(text) if _NUMBER.fullmatch(text) else None


def _instant(value: object) -> Fraction | None:
    """Seconds since the epoch of a date-time (PS3.5 6.2, VR DT) that is complete to the second, else None."""
    match = _DATE_TIME.fullmatch(str(getattr(value, "original_string", "") or value or "").strip())
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    zone = UTC
    try:
        if match[8]:
            sign = -1 if match[8][0] == "-" else 1
            zone = timezone(sign * timedelta(hours=int(match[8][1:3]), minutes=int(match[8][3:5])))
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone)
    except ValueError:
        return None
    fraction = Fraction(int(match[7].ljust(6, "0")), 1_000_000) if match[7] else Fraction(0)
    whole = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Fraction(whole.days * 86400 + whole.seconds + max(0, second - 59)) + fraction
