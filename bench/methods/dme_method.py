"""Cines to MP4 by the method of the first seed tool, written anew from its description, in two processes.

The whole cine is decoded by pydicom to an array, which is RGB already, and encoded by PyAV with libx264 at crf 17,
preset medium; all elements go as text into one line of JSON.
Usage: python dme_method.py INPUT OUTPUT
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import av
import pydicom


def export(path: Path, target: Path) -> dict[str, str]:
    data_set = pydicom.dcmread(path)
    metadata = {element.name: str(element.value) for element in data_set if element.VR not in {"SQ", "OB", "OW"}}
    pixels = data_set.pixel_array
    with av.open(str(target / f"{path.stem}.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"crf": "17", "preset": "medium"})
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "yuv420p"
        for image in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return metadata


def main(source: Path, target: Path) -> None:
    paths = sorted(source.iterdir())
    with ProcessPoolExecutor(2) as pool, (target / "metadata.jsonl").open("w") as lines:
        for row in pool.map(export, paths, [target] * len(paths)):
            lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
