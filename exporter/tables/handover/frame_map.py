"""The map of one handed-over video: the DICOM frame, time and scale of every frame.

Contract: times are those of the instance, not of the video, which shows its frames at a constant rate. Lengths are in
mm per pixel of the video, and null where the instance does not state them; ultrasound regions stand beside them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import orjson

from exporter.tables.handover.constant_rate import CineRefused

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.tables.handover.constant_rate import ConstantRateVideo
    from exporter.tables.lines import Line

COLUMNS: Final = ("frame", "dicom_frame", "time_ms", "video_time_ms", "mm_per_pixel_x", "mm_per_pixel_y")
_FINEST: Final = 100_000
"""Largest denominator of a rate."""


@dataclass(frozen=True, slots=True)
class FrameTimes:
    """Times of the frames of one cine, as its line states them."""

    rate: Fraction
    """Frames per second of the video: those of the instance, or their mean where times vary."""
    times_ms: tuple[float, ...]
    is_variable: bool

    @classmethod
    def of(cls, line: Line, frames: int) -> FrameTimes:
        """The times of a line.

        Raises:
            CineRefused: The line states no times, or of another number of frames.
        """
        timing = line["export"].get("timing")
        if not isinstance(timing, dict):
            raise CineRefused("its pictures have no times: it is no cine")
        rate_hz, times = timing.get("rate_hz"), timing.get("frame_times_ms")
        if isinstance(rate_hz, int | float) and rate_hz > 0:
            rate = Fraction(rate_hz).limit_denominator(_FINEST)
            return cls(rate, tuple(float(1000 * number / rate) for number in range(frames)), is_variable=False)
        if not isinstance(times, list) or len(times) != frames:
            raise CineRefused("its line states no time for every frame")
        span_ms = times[-1] - times[0]
        if frames < 2 or span_ms <= 0:
            raise CineRefused("its frame times do not rise")
        rate = Fraction(1000 * (frames - 1) / span_ms).limit_denominator(_FINEST)
        return cls(rate, tuple(map(float, times)), is_variable=True)


def scale_of(line: Line, medium: dict[str, Any]) -> tuple[float, float] | None:
    """Mm per pixel of a medium, to the right and downwards; None where the instance does not state it."""
    geometry = medium.get("geometry")
    spacing = geometry.get("pixel_spacing_mm") if isinstance(geometry, dict) else line.get("Pixel Spacing")
    if not isinstance(spacing, list) or len(spacing) != 2 or not all(isinstance(one, int | float) for one in spacing):
        return None
    down, right = spacing
    return float(right), float(down)


@dataclass(frozen=True, slots=True)
class FrameMap:
    """The map of one video."""

    line: Line
    medium: dict[str, Any]
    video_file: str
    """Path below the folder of the hand-over."""
    video: ConstantRateVideo
    times: FrameTimes

    def write(self, path: Path) -> None:
        """Write the map as JSON, and its frames as CSV beside it.

        Args:
            path: Of both files, without extension.
        """
        scale = scale_of(self.line, self.medium)
        across, down = scale or (None, None)
        rows = [
            (number, number + 1, round(time_ms, 6), round(float(1000 * number / self.times.rate), 6), across, down)
            for number, time_ms in enumerate(self.times.times_ms)
        ]
        geometry = self.medium.get("geometry") or {}
        whole = {
            "video": self.video_file,
            "medium": self.medium["path"],
            "dicom_file": self.line["dicom_file"],
            "sop_instance_uid": self.line.get("SOP Instance UID"),
            "width": self.video.width,
            "height": self.video.height,
            "frames": self.video.frames,
            "rate_hz": float(self.times.rate),
            "rate": f"{self.times.rate.numerator}/{self.times.rate.denominator}",
            "variable": self.times.is_variable,
            "codec": self.video.codec,
            "copied": self.video.is_copied,
            "mm_per_pixel": None if scale is None else [across, down],
            "regions": geometry.get("regions") or [],
            "frame_map": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.json").write_bytes(orjson.dumps(whole, option=orjson.OPT_INDENT_2))
        with path.with_name(f"{path.name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)
