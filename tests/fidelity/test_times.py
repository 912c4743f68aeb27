"""Presentation times equal the elements within a millisecond; streams are copied, whatever wraps them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fidelity import cines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CASES = {name: (element, given, expected) for name, element, given, expected in cines.timing_cases()}


@pytest.mark.parametrize("name", CASES)
def test_every_frame_appears_when_the_elements_say(name: str, peer: Callable[[str], str]) -> None:
    peer("ffprobe")
    element, given, expected = CASES[name]
    found = cines.timed_cine(name, given, expected)
    assert found.source == element
    assert found.frames == len(expected)
    assert found.worst_ms <= 1


STREAMS: list[Any] = list(cines.STREAMS)


@pytest.mark.parametrize("name", STREAMS)
def test_packets_of_a_copy_are_those_of_the_stream_and_it_plays(
    name: str, peer: Callable[[str], str], tmp_path: Path
) -> None:
    peer("ffmpeg")
    found = cines.copied_stream(name, tmp_path)
    assert found is not None
    assert (found.frames, found.same, found.plays) == (cines.STREAM_FRAMES, True, True)
    assert found.worst_ms <= 1
    assert found.source == ("stream" if "sound" in name else "FrameTime")


def test_streams_of_the_corpus_are_copied_on_time_and_play(corpus: Path, peer: Callable[[str], str]) -> None:
    peer("ffmpeg")
    found = list(cines.corpus_streams(corpus))
    assert len(found) == 4
    assert all(t.same and t.plays and t.worst_ms <= 1 for t in found), found
