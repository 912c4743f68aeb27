"""Bad input ends in a named reason or in a record that says what is odd; never in a picture that is silently wrong."""

from __future__ import annotations

import pytest

from tests.fidelity import damaged

REFUSED = {
    "frames missing, native": "corrupt_pixels",
    "frames missing, encapsulated": "corrupt_pixels",
    "fragment short": "corrupt_pixels",
    "Rows x Columns are not the codestream's": "bad_geometry",
    "NumberOfFrames is no number": "bad_geometry",
    "JPEG 2000 tile missing": "corrupt_pixels",
    "JPEG 2000 of another tile size": "corrupt_pixels",
    "Rows x Columns are not the video's": "bad_geometry",
}


@pytest.mark.parametrize("name", damaged.CASES)
def test_nothing_is_silently_wrong(name: str) -> None:
    found = damaged.verdict(name)
    if found is None:
        pytest.skip("ffmpeg is not installed, which makes the stream")
    assert found.told
    assert not found.silent
    assert found.same
    if name in REFUSED:
        assert found.told.startswith(REFUSED[name])


def test_frames_of_other_sizes_are_named() -> None:
    found = damaged.verdict("frames of mixed size")
    assert found is not None
    assert "of 3 frames these have another size" in found.told


def test_a_stream_that_ends_early_says_how_many_pictures_are_missing() -> None:
    found = damaged.verdict("video stream ends early")
    if found is None:
        pytest.skip("ffmpeg is not installed, which makes the stream")
    assert "Number of Frames says 50" in found.told
