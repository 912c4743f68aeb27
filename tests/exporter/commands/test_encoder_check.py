"""The trial of configured encoders: what works for every instance passes, what works for none does not."""

from __future__ import annotations

import pytest

from exporter.commands.encoder_check import faults_of
from exporter.settings.settings import EncodingArgs, MediaSettings, VideoEncoding, VideoSettings


def with_pix_fmt(pix_fmt: str) -> MediaSettings:
    encoding = VideoEncoding(encoding_args=EncodingArgs(pix_fmt=pix_fmt, options={"crf": "17"}))
    return MediaSettings(video=VideoSettings(save_method_kwargs=encoding))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "gray"])
def test_a_pixel_format_that_the_encoder_takes_passes(pix_fmt: str) -> None:
    assert faults_of(with_pix_fmt(pix_fmt)) == []


def test_a_pixel_format_that_the_encoder_does_not_take_is_named_with_those_it_does() -> None:
    ((key, problem),) = faults_of(with_pix_fmt("pal8"))
    assert key == "video.save_method_kwargs.encoding_args.pix_fmt"
    assert "yuv420p" in problem
