"""The timing ladder: which element decides, and exactly when each frame is shown."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from exporter.dicom.timing import Schedule, schedule_of

FRAME_TIME = Tag("FrameTime")
FRAME_TIME_VECTOR = Tag("FrameTimeVector")


def header(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def raw(keyword: str, vr: str, value: bytes) -> Dataset:
    """A header with an element whose bytes are as given, as a reader would find them."""
    from pydicom.dataelem import RawDataElement

    dataset = Dataset()
    tag = Tag(keyword)
    dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    return dataset


def test_the_frame_increment_pointer_decides_between_frame_time_and_vector() -> None:
    both = {"FrameTime": "40", "FrameTimeVector": ["0", "10", "30"]}
    assert schedule_of(header(FrameIncrementPointer=FRAME_TIME, **both), 3).source == "FrameTime"
    assert schedule_of(header(FrameIncrementPointer=FRAME_TIME_VECTOR, **both), 3).source == "FrameTimeVector"


def test_a_pointer_to_something_that_is_no_time_leads_down_the_ladder() -> None:
    found = schedule_of(header(FrameIncrementPointer=Tag(0x3004000C), CineRate=25), 4)
    assert (found.source, found.period) == ("CineRate", Fraction(1, 25))


@pytest.mark.parametrize(
    ("elements", "source", "period"),
    [
        ({"FrameTime": "33.333"}, "FrameTime", Fraction(33333, 1_000_000)),
        ({"CineRate": "30", "RecommendedDisplayFrameRate": "15"}, "CineRate", Fraction(1, 30)),
        (
            {"RecommendedDisplayFrameRate": "15", "ActualFrameDuration": "40"},
            "RecommendedDisplayFrameRate",
            Fraction(1, 15),
        ),
        ({"ActualFrameDuration": "40"}, "ActualFrameDuration", Fraction(1, 25)),
        ({}, "default", Fraction(1, 30)),
        (
            {"FrameTime": "0", "CineRate": "0", "RecommendedDisplayFrameRate": "12"},
            "RecommendedDisplayFrameRate",
            Fraction(1, 12),
        ),
        ({"FrameTime": "-5"}, "default", Fraction(1, 30)),
        ({"FrameTime": ""}, "default", Fraction(1, 30)),
    ],
)
def test_the_first_usable_element_of_the_ladder_tells_the_rate(
    elements: dict[str, str], source: str, period: Fraction
) -> None:
    found = schedule_of(header(**elements), 10)
    assert (found.source, found.period) == (source, period)
    assert found.duration == 10 * period


@pytest.mark.parametrize("garbage", [b"1E999999999 ", b"NaN ", b"inf ", b"33,3", b"9" * 5000, b"\xff\xfe"])
def test_an_element_that_is_no_number_is_passed_over_and_named(garbage: bytes) -> None:
    found = schedule_of(raw("FrameTime", "DS", garbage), 3)
    assert found.source == "default"
    assert any("FrameTime" in warning for warning in found.warnings) or garbage == b"\xff\xfe"
    assert not any("33,3" in warning for warning in found.warnings)


def test_a_thousand_frames_of_33_333_ms_end_exactly_where_the_element_says() -> None:
    found = schedule_of(header(FrameTime="33.333"), 1000)
    assert found.ticks()[-1] * found.time_base == Fraction(33333, 1000)


def test_a_vector_gives_every_frame_its_own_time_and_the_sum_is_the_duration() -> None:
    increments = ["33.333", "50.000", "33.333", "50.000"]
    found = schedule_of(header(FrameTimeVector=increments), 4)
    assert found.period is None
    assert found.starts == (Fraction(0), Fraction(50, 1000), Fraction(83333, 10**6), Fraction(133333, 10**6))
    assert found.duration == sum(Fraction(i) for i in increments) / 1000
    assert found.timing.variable
    assert found.timing.frame_times_ms == (0.0, 50.0, 83.333, 133.333)
    assert found.timing.rate_hz is None


def test_a_vector_that_begins_with_zero_shows_the_last_frame_as_long_as_the_one_before() -> None:
    found = schedule_of(header(FrameTimeVector=["0", "10", "20"]), 3)
    assert found.starts == (Fraction(0), Fraction(1, 100), Fraction(3, 100))
    assert found.duration == Fraction(5, 100)


def test_a_vector_that_is_one_short_holds_the_intervals() -> None:
    found = schedule_of(header(FrameTimeVector=["10", "20"]), 3)
    assert found.starts == (Fraction(0), Fraction(1, 100), Fraction(3, 100))


def test_a_vector_of_equal_increments_is_a_constant_rate_from_the_vector() -> None:
    found = schedule_of(header(FrameTimeVector=["40"] * 5), 5)
    assert (found.source, found.period, found.timing.rate_hz) == ("FrameTimeVector", Fraction(1, 25), 25.0)


@pytest.mark.parametrize("vector", [["10"], ["10"] * 7, ["0", "-5", "10"], ["0", "0", "0"]])
def test_a_vector_that_does_not_fit_the_frames_is_passed_over(vector: list[str]) -> None:
    found = schedule_of(header(FrameTimeVector=vector, CineRate="10"), 3)
    assert found.source == "CineRate"
    assert any("FrameTimeVector" in warning for warning in found.warnings)


def test_frames_at_one_time_are_moved_apart_by_one_tick() -> None:
    found = schedule_of(header(FrameTimeVector=["0", "10", "0", "10"]), 4)
    ticks = found.ticks()
    assert len(set(ticks)) == 5
    assert list(ticks) == sorted(ticks)


def groups(macro: str, keyword: str, values: list[Any]) -> Dataset:
    return header(
        PerFrameFunctionalGroupsSequence=Sequence(
            [header(**{macro: Sequence([header(**{keyword: value})])}) for value in values]
        )
    )


def test_per_frame_groups_tell_the_time_in_seconds() -> None:
    found = schedule_of(groups("TemporalPositionSequence", "TemporalPositionTimeOffset", [0.5, 0.6, 0.85]), 3)
    assert found.source == "TemporalPositionTimeOffset"
    assert found.starts == (Fraction(0), Fraction(1, 10), Fraction(35, 100))


def test_per_frame_date_times_tell_the_time_across_midnight_and_zones() -> None:
    times = ["20240229235959.900000+0100", "20240229230000.100000+0000", "20240301000000.500000+0100"]
    found = schedule_of(groups("FrameContentSequence", "FrameAcquisitionDateTime", times), 3)
    assert found.source == "FrameAcquisitionDateTime"
    assert found.starts == (Fraction(0), Fraction(2, 10), Fraction(6, 10))


def test_slices_that_were_acquired_at_one_time_are_no_timing() -> None:
    found = schedule_of(groups("FrameContentSequence", "FrameAcquisitionDateTime", ["20240101000000"] * 4), 4)
    assert found.source == "default"


def test_groups_that_run_backwards_are_named_and_passed_over() -> None:
    found = schedule_of(groups("TemporalPositionSequence", "TemporalPositionTimeOffset", [0.0, 2.0, 1.0]), 3)
    assert found.source == "default"
    assert any("TemporalPositionTimeOffset" in warning for warning in found.warnings)


@given(st.lists(st.integers(1, 200_000), min_size=2, max_size=60))
def test_ticks_are_within_half_a_millisecond_of_any_vector(microseconds: list[int]) -> None:
    vector = [f"{us / 1000:.3f}" for us in microseconds]
    found = schedule_of(header(FrameTimeVector=vector), len(vector))
    if found.source != "FrameTimeVector":
        return
    ticks, expected = found.ticks(), Fraction(0)
    assert all(later > earlier for earlier, later in itertools.pairwise(ticks))
    for index, tick in enumerate(ticks[:-1]):
        expected += Fraction(microseconds[index], 10**6) if index else 0
        assert abs(tick * found.time_base - expected) <= Fraction(1, 2000)


def test_gaps_of_minutes_fit_the_32_bit_offsets_of_mp4() -> None:
    found = Schedule("FrameTimeVector", 3, None, (Fraction(0), Fraction(600), Fraction(1200)), Fraction(600))
    assert max(b - a for a, b in zip(found.ticks(), found.ticks()[1:], strict=False)) < 2**31


@pytest.mark.parametrize("zone", ["+9900", "-2400", "+2359"])
def test_a_zone_that_no_clock_has_leads_down_the_ladder_and_fails_nothing(zone: str) -> None:
    groups = []
    for second in range(3):
        content, group = Dataset(), Dataset()
        content.FrameReferenceDateTime = f"2020010112000{second}"
        group.FrameContentSequence = Sequence([content])
        groups.append(group)
    elements = header(PerFrameFunctionalGroupsSequence=Sequence(groups), CineRate=25)
    for group in groups:
        element = raw(
            "FrameReferenceDateTime", "DT", f"{group.FrameContentSequence[0].FrameReferenceDateTime}{zone}".encode()
        )
        group.FrameContentSequence[0]._dict.update(element._dict)
    source = "FrameReferenceDateTime" if zone == "+2359" else "CineRate"
    assert schedule_of(elements, 3).source == source
