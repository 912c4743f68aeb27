"""Task files that annotation tools import: Label Studio and CVAT.

Contract: each file has the form that the tool's own documentation gives.

Source: labelstud.io/guide/tasks and labelstud.io/tags/video; docs.cvat.ai, "Dataset Manifest", and the classes
`TaskWriteRequest` and `DataRequest` of CVAT's API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exporter.tables.handover.cines import HandedOver

LABEL_STUDIO_CONFIG: Final = """<View>
  <Video name="video" value="$video" frameRate="$fps"/>
  <VideoRectangle name="box" toName="video"/>
  <Labels name="label" toName="video">
    <Label value="structure"/>
  </Labels>
</View>
"""
"""A labelling configuration to begin with; frames are counted by the rate in the task."""
LABELS: Final = ("structure",)


def write_label_studio(folder: Path, cines: Sequence[HandedOver], prefix: str) -> None:
    """Write `tasks.json` and `config.xml`.

    Args:
        folder: Of the hand-over.
        cines: The videos.
        prefix: What stands before the path of a video below the folder.
    """
    tasks = [
        {
            "data": {
                "video": f"{prefix}{quote(one.video_file)}",
                "fps": float(one.rate),
                "frames": one.video.frames,
                "frame_map": one.map_file,
                "dicom_file": one.dicom_file,
                "sop_instance_uid": one.sop_instance_uid,
            }
        }
        for one in cines
    ]
    (folder / "tasks.json").write_bytes(orjson.dumps(tasks, option=orjson.OPT_INDENT_2))
    (folder / "config.xml").write_text(LABEL_STUDIO_CONFIG)


def write_cvat(folder: Path, cines: Sequence[HandedOver], prefix: str) -> None:
    """Write a manifest beside each video, and `tasks.json` with the two requests that make each task.

    Args:
        folder: Of the hand-over.
        cines: The videos.
        prefix: Path of the folder in the share that CVAT has mounted.
    """
    tasks = []
    for one in cines:
        manifest = f"{one.video_file.removesuffix('.mp4')}.manifest.jsonl"
        (folder / manifest).write_bytes(b"".join(map(_json_line, _manifest(one))))
        files = [f"{prefix}{one.video_file}", f"{prefix}{manifest}"]
        labels = [{"name": label, "attributes": []} for label in LABELS]
        tasks.append(
            {
                "task": {"name": one.video_file.removeprefix("videos/").removesuffix(".mp4")[:256], "labels": labels},
                "data": {"image_quality": 100, "server_files": files, "use_cache": True},
            }
        )
    (folder / "tasks.json").write_bytes(orjson.dumps(tasks, option=orjson.OPT_INDENT_2))


def _manifest(one: HandedOver) -> list[dict[str, Any]]:
    video = one.video
    name = one.video_file.rpartition("/")[2]
    keys = [{"number": number, "pts": number * video.ticks, "checksum": md5} for number, md5 in video.key_frames]
    properties = {"name": name, "resolution": [video.width, video.height], "length": video.frames}
    return [{"version": "1.1"}, {"type": "video"}, {"properties": properties}, *keys]


def _json_line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
