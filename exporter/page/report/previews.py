"""Small pictures and videos of media, made by a child process: what it decodes was encoded by others, or is damaged.

Contract: a preview is a JPEG, or an H.264 video in MP4 without sound that every browser plays, of at most `SIDE` pixels
in width and height. The child gets no more time, memory and bytes than it is given, and each of its answers counts as
soon as it is there: one medium that ends the child costs its own preview alone. Nothing is written to a disk.

The child is this module: ``python -m exporter.page.report.previews``, with jobs as JSON on its standard input.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from listener.foundation.processes import end_with_parent, environment_of_child

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL.Image import Image

SIDE: Final = 208
"""Most columns and rows of a preview."""
MOST_PIXELS: Final = 64_000_000
"""Largest picture that is made smaller."""
MOST_FRAMES: Final = 48
"""Most frames of a video preview."""
MOST_DECODED: Final = 480
"""Frames of a video that are decoded at most."""
ONE_VIDEO_S: Final = 2.0
"""Time after which no further frame of a video is decoded."""
MOST_RESTARTS: Final = 8
"""Media that may end a child before the rest goes without previews."""
PICTURES: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "JPEG2000")
"""Formats of pictures, by their names in Pillow: no others are tried."""
CONTAINERS: Final = dict.fromkeys((".mp4", ".m4v", ".mov"), "mov") | {
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
}
"""Formats of videos, by ending: FFmpeg guesses none, since it would take a text or a playlist for a video, too."""
_MOST_MEMORY: Final = 3 << 30
_QUALITY: Final = 80


@dataclass(frozen=True, slots=True)
class PreviewJob:
    """One medium of which a preview is wanted."""

    path: str
    is_video: bool = False
    frames: int = 1
    """Frames that the ledger knows of."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture of a medium, or a small video and its first picture."""

    picture: str
    """JPEG, in base64."""
    width: int
    height: int
    video: str = ""
    """MP4, in base64; empty where the medium is no video."""

    @property
    def characters(self) -> int:
        """Its length in a document."""
        return len(self.picture) + len(self.video)


def make_previews(jobs: Sequence[PreviewJob], within_s: float, most_characters: int) -> dict[int, Preview]:
    """Make previews of as many media as time and room permit, in their order.

    Args:
        jobs: The media.
        within_s: Time for all of them.
        most_characters: Most characters of all previews together.

    Returns:
        The previews, by the place of their job; media that cannot be shown are left out.
    """
    found: dict[int, Preview] = {}
    until, begin = time.monotonic() + within_s, 0
    for _ in range(MOST_RESTARTS):
        left_s, room = until - time.monotonic(), most_characters - sum(one.characters for one in found.values())
        if begin >= len(jobs) or left_s <= 0 or room <= 0:
            break
        answers = _answers([asdict(job) for job in jobs[begin:]], left_s, room)
        last = -1
        for answer in answers:
            last = answer["at"]
            if "picture" in answer:
                found[begin + last] = Preview(**{key: value for key, value in answer.items() if key != "at"})
        begin += last + 2  # the medium after the last answer ended the child, or none is left
    return found


def _answers(jobs: list[dict[str, Any]], within_s: float, most_characters: int) -> list[dict[str, Any]]:
    """What one child answers until it ends or is killed; half an answer is none."""
    asked = json.dumps({"jobs": jobs, "most_characters": most_characters}).encode()
    try:
        said = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=within_s,
            check=False,
            env=environment_of_child(),
        ).stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
    except OSError:  # no process to be had: the report goes without
        return []
    return [json.loads(line) for line in said.split(b"\n")[:-1]]


# -- in the child ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Answer every job with one line of JSON."""
    import resource
    import signal

    end_with_parent(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Libraries print to standard output, too: it is ours alone from here on.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    asked = json.load(sys.stdin.buffer)
    room = asked["most_characters"]
    for at, job in enumerate(asked["jobs"]):
        preview = _preview(PreviewJob(**job))
        if preview is not None:
            room -= preview.characters
            if room < 0:
                return
        answer = {"at": at} | (asdict(preview) if preview is not None else {})
        answers.write(json.dumps(answer).encode() + b"\n")


def _preview(job: PreviewJob) -> Preview | None:
    """The preview of one medium; None where it cannot be shown."""
    try:
        if job.is_video:
            return _of_video(job)
        from PIL import Image

        with Image.open(job.path, formats=PICTURES) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return None
            picture.draft("RGB", (SIDE, SIDE))
            return _of_picture(picture)
    except (
        OSError,
        ValueError,
        LookupError,
        ArithmeticError,
        MemoryError,
        SyntaxError,
    ):  # what Pillow and FFmpeg raise
        return None


def _of_picture(picture: Image) -> Preview:
    small = _eight_bit(picture)
    small.thumbnail((SIDE, SIDE))
    into = io.BytesIO()
    small.save(into, "JPEG", quality=_QUALITY)
    return Preview(_encoded(into.getvalue()), small.width, small.height)


def _eight_bit(picture: Image) -> Image:
    """A picture of 8 bits; more bits are spread from the least to the greatest value."""
    if not picture.mode.startswith(("I", "F")):
        return picture.convert("L" if picture.mode in {"1", "L"} else "RGB")
    import numpy as np
    from PIL import Image

    values = np.asarray(picture, np.float64)
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / (high - low or 1))).astype(np.uint8))


def _of_video(job: PreviewJob) -> Preview | None:
    import av
    import av.logging

    av.logging.set_level(av.logging.PANIC)
    known = min(job.frames, MOST_DECODED)
    step = max(1, -(-known // MOST_FRAMES))
    container_format = CONTAINERS[os.path.splitext(job.path)[1].lower()]  # noqa: PTH122 - a path of any bytes
    with av.open(job.path, format=container_format, options={"protocol_whitelist": "file"}) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        rate = min(60.0, max(1.0, float(stream.average_rate or 25) / step))
        frames = list(_sampled(container.decode(stream), step))
    if not frames:
        return None
    picture = _of_picture(frames[0].to_image())
    if len(frames) == 1:
        return picture
    video = _encoded(_h264(frames, rate, _even(picture.width), _even(picture.height)))
    return Preview(picture.picture, picture.width, picture.height, video)


def _sampled(frames: Iterator[Any], step: int) -> Iterator[Any]:
    until = time.monotonic() + ONE_VIDEO_S
    for at, frame in enumerate(frames):
        if at >= MOST_DECODED or at // step >= MOST_FRAMES or (at and time.monotonic() > until):
            return
        if at % step == 0:
            yield frame


def _h264(frames: list[Any], rate: float, width: int, height: int) -> bytes:
    """Frames as H.264 of 8 bits with 4:2:0 in MP4: what every browser plays."""
    from fractions import Fraction

    import av

    into = io.BytesIO()
    with av.open(into, "w", format="mp4") as container:
        rate_hz = Fraction(rate).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate_hz)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "28", "preset": "veryfast", "threads": "1"}
        for number, frame in enumerate(frames):
            small = frame.reformat(width=width, height=height, format="yuv420p")
            small.pts, small.time_base = number, 1 / rate_hz
            container.mux(stream.encode(small))
        container.mux(stream.encode(None))
    return into.getvalue()


def _even(number: int) -> int:
    """The next smaller even number, at least 2: 4:2:0 has no odd sizes."""
    return max(2, number - number % 2)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


if __name__ == "__main__":
    main()
