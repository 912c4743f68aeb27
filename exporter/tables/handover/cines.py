"""The cines of an output, handed over one after the other: a constant-rate video and a frame map of each.

Contract: every cine with a video is either handed over or counted with the reason why not; nothing else is an error.
Files are named after the media, in the order of `dicom_file`.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from exporter.outcome import MediaType
from exporter.results.line import fs_name
from exporter.tables.errors import TableError
from exporter.tables.handover.constant_rate import CineRefused, ConstantRateVideo, write_constant_rate
from exporter.tables.handover.frame_map import FrameMap, FrameTimes
from exporter.tables.own_columns import media_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from fractions import Fraction

    from exporter.tables.lines import Line


@dataclass(frozen=True, slots=True)
class HandedOver:
    """One cine that was handed over."""

    video_file: str
    """Path below the folder of the hand-over, like `map_file`."""
    map_file: str
    video: ConstantRateVideo
    rate: Fraction
    dicom_file: str
    sop_instance_uid: str | None


@dataclass(slots=True)
class Handover:
    """What became of the media of an output."""

    cines: list[HandedOver] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Media that are no video, by kind."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each video that could not be handed over."""


def hand_over(lines: Iterable[Line], media: Path, folder: Path) -> Handover:
    """Write the video and the map of every cine.

    Args:
        lines: The lines that count.
        media: The media folder.
        folder: A new folder, which gets `videos/` and `maps/`.

    Raises:
        TableError: A line names a medium outside the media folder.
        OSError: The disk is full, or a folder cannot be written.
    """
    handover = Handover()
    taken: set[str] = set()
    videos = sorted(_videos(lines, handover), key=lambda one: (str(one[0]["dicom_file"]), str(one[1]["path"])))
    for line, medium in videos:
        name = _name(str(medium["path"]), taken)
        target = folder / "videos" / f"{name}.mp4"
        try:
            handover.cines.append(_one(line, medium, _path(media, medium), target, name))
        except CineRefused as refusal:
            target.unlink(missing_ok=True)
            taken.discard(name)
            handover.refused.append((str(medium["path"]), str(refusal)))
    return handover


def _videos(lines: Iterable[Line], handover: Handover) -> Iterator[tuple[Line, dict[str, Any]]]:
    """Lines and media of videos; all other media are counted."""
    for line in lines:
        for medium in media_of(line):
            if medium.get("kind") == MediaType.VIDEO and isinstance(medium.get("path"), str):
                yield _needed(line), medium
            else:
                handover.left_out[str(medium.get("kind"))] += 1


def _needed(line: Line) -> Line:
    """The part of a line that a hand-over needs: many lines are held at once."""
    wanted = ("dicom_file", "SOP Instance UID", "Pixel Spacing")
    kept = {key: line[key] for key in wanted if key in line}
    return {**kept, "export": {"timing": line["export"].get("timing")}}


def _one(line: Line, medium: dict[str, Any], source: Path, target: Path, name: str) -> HandedOver:
    """Hand over one cine.

    Raises:
        CineRefused: It cannot be handed over.
        OSError: The disk is full, or a folder cannot be written.
    """
    if not source.is_file():
        raise CineRefused("the file is missing in the media folder")
    frames = medium.get("frames")
    if not isinstance(frames, int) or frames < 1:
        raise CineRefused("its line states no number of frames")
    times = FrameTimes.of(line, frames)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        video = write_constant_rate(source, target, times.rate)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.EINVAL}:
            raise CineRefused("its frames cannot be read") from None
        raise
    if video.frames != frames:
        raise CineRefused(f"it holds {video.frames} frames, its line says {frames}")
    video_file, map_file = f"videos/{name}.mp4", f"maps/{name}.json"
    FrameMap(line, medium, video_file, video, times).write(
        target.parents[len(PurePosixPath(name).parts)] / "maps" / name
    )
    uid = line.get("SOP Instance UID")
    return HandedOver(video_file, map_file, video, times.rate, str(line["dicom_file"]), str(uid) if uid else None)


def _path(media: Path, medium: dict[str, Any]) -> Path:
    """Path of a medium.

    Raises:
        TableError: The line names a path outside the media folder.
    """
    text = str(medium["path"])
    parts = PurePosixPath(text).parts
    if not parts or ".." in parts or PurePosixPath(text).is_absolute():
        raise TableError("a line names a medium outside the media folder: it is none of ours")
    path = media / text
    return path if path.exists() else media / fs_name(text)


def _name(path: str, taken: set[str]) -> str:
    """Name of a video and its map, without extension: that of its medium, and a number where another has it."""
    base = path.rsplit(".", 1)[0] if "." in path.rpartition("/")[2] else path
    name, number = base, 2
    while name.casefold() in taken:
        name, number = f"{base}-{number}", number + 1
    taken.add(name.casefold())
    return name
