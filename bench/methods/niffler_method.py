"""Images to 16-bit PNG by the method of Niffler's extractor, written anew from its description: one after the other.

Each image is cut at 0 and scaled by its own maximum to 65,535, in float64, and written as a PNG without filter and with
zlib's default level, as pypng does; what pypng itself takes in Python is left out. All elements of the header go into
one table.
Usage: python niffler_method.py INPUT OUTPUT
"""

from __future__ import annotations

import csv
import struct
import sys
import zlib
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pydicom


def elements(path: Path) -> dict[str, str]:
    data_set = pydicom.dcmread(path, stop_before_pixels=True)
    return {element.name: str(element.value) for element in data_set}


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write(path: Path, target: Path) -> None:
    pixels = pydicom.dcmread(path).pixel_array.astype(float)
    scaled = (np.maximum(pixels, 0) / pixels.max() * 65535.0).astype(np.uint16)
    rows, columns = scaled.shape
    lines = np.zeros((rows, 1 + 2 * columns), np.uint8)
    lines[:, 1:] = scaled.astype(">u2").view(np.uint8)
    head = struct.pack(">IIBBBBB", columns, rows, 16, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines.tobytes())), chunk(b"IEND", b""))
    target.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def main(source: Path, target: Path) -> None:
    paths = sorted(source.iterdir())
    with ThreadPool(2) as pool:
        rows = pool.map(elements, paths)
    with (target / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        table.writeheader()
        table.writerows(rows)
    for path in paths:
        write(path, target / f"{path.stem}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
