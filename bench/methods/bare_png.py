"""The bare limit: images to PNG with the libraries that we use, in two processes, and no promise kept but the sync.

The header is searched for the pixel data and nothing else; nothing is verified, recorded or named. What is left is
decoding, the window, the filter, deflate and the disk: an exporter that keeps promises cannot be faster.
Usage: python bare_png.py INPUT OUTPUT 8|16 CENTRE WIDTH INTERCEPT
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import sys
from pathlib import Path

import imagecodecs
import numpy as np
from isal import isal_zlib

PIXEL_DATA = b"\xe0\x7f\x10\x00"
ITEM = b"\xfe\xff\x00\xe0"


def header(file: bytes) -> tuple[int, int, str]:
    """Rows, columns and the transfer syntax."""
    rows = struct.unpack_from("<H", file, file.index(b"\x28\0\x10\0US") + 8)[0]
    columns = struct.unpack_from("<H", file, file.index(b"\x28\0\x11\0US") + 8)[0]
    at = file.index(b"\2\0\x10\0UI") + 8
    return rows, columns, file[at : at + struct.unpack_from("<H", file, at - 2)[0]].rstrip(b"\0").decode()


def stored_values(file: bytes) -> np.ndarray:
    """The one frame of a file."""
    rows, columns, syntax = header(file)
    at = file.rindex(PIXEL_DATA + b"O", 0, file.index(b"\x28\0\x10\0US") + 8192)
    if file[at + 8 : at + 12] != b"\xff\xff\xff\xff":
        return np.frombuffer(file, "<u2", rows * columns, at + 12).reshape(rows, columns)
    first = at + 12 + 8 + struct.unpack_from("<I", file, at + 16)[0]  # behind the offset table
    code = file[first + 8 : first + 8 + struct.unpack_from("<I", file, first + 4)[0]]
    if syntax.endswith(".5"):
        decoded = np.frombuffer(imagecodecs.dicomrle_decode(code, dtype="<u2"), "<u2").reshape(rows, columns)
    elif syntax.endswith((".80", ".81")):
        decoded = imagecodecs.jpegls_decode(code)
    elif syntax.endswith((".90", ".91")):
        decoded = imagecodecs.jpeg2k_decode(code)
    else:
        decoded = imagecodecs.jpeg8_decode(code)
    return decoded


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", isal_zlib.crc32(name + data))


def png(pixels: np.ndarray) -> bytes:
    """A gray PNG: each sample less its neighbour, deflated at the lowest level."""
    rows, columns = pixels.shape
    width = pixels.dtype.itemsize
    raw = pixels if width == 1 else pixels.astype(">u2").view(np.uint8)
    lines = np.empty((rows, columns * width + 1), np.uint8)
    lines[:, 0] = 1
    lines[:, 1 : 1 + width] = raw[:, :width]
    np.subtract(raw[:, width:], raw[:, :-width], out=lines[:, 1 + width :])
    head = struct.pack(">IIBBBBB", columns, rows, 8 * width, 0, 0, 0, 0)
    coded = isal_zlib.compress(lines.data, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", coded) + chunk(b"IEND", b"")


def work(job: tuple[list[Path], Path, str, tuple[float, ...]]) -> None:
    paths, target, bits, (centre, width, intercept) = job
    stored = np.arange(1 << 16) + intercept
    shown = np.clip((stored - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    table = np.floor(shown * 255 + 0.5).astype(np.uint8)
    for path in paths:
        pixels = stored_values(path.read_bytes())
        with (target / f"{path.stem}.png").open("wb") as file:
            file.write(png(table.take(pixels) if bits == "8" else pixels))
            file.flush()
            os.fsync(file.fileno())


if __name__ == "__main__":
    source, target, bits, *window = sys.argv[1:]
    everything = sorted(Path(source).iterdir())
    numbers = tuple(float(text) for text in window)
    with multiprocessing.Pool(2) as pool:
        pool.map(work, [(everything[n::2], Path(target), bits, numbers) for n in range(2)], 1)
