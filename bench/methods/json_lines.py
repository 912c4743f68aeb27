"""Headers to JSON lines with pydicom's own `to_json_dict`, in two processes.

Usage: python json_lines.py INPUT OUTPUT
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pydicom


def line(path: Path) -> str:
    return json.dumps(pydicom.dcmread(path, stop_before_pixels=True).to_json_dict())


def main(source: Path, target: Path) -> None:
    with ProcessPoolExecutor(2) as pool, (target / "metadata.jsonl").open("w") as lines:
        for text in pool.map(line, sorted(source.iterdir()), chunksize=32):
            lines.write(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
