"""Synthetic instances with known answers: written by pydicom, with every byte of the pixel data given."""

from __future__ import annotations

import struct
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from exporter.dicom.instance import Instance
from exporter.settings.settings import LimitSettings

if TYPE_CHECKING:
    from pathlib import Path

EXPLICIT_LE = "1.2.840.10008.1.2.1"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


class Build(Protocol):
    def __call__(self, pixels: bytes | list[bytes], /, syntax: str = ..., **elements: Any) -> Instance: ...


def fragments(frames: list[bytes], *, table: list[int] | None = None, delimiter: bool = True) -> bytes:
    """Encapsulated pixel data: one item per entry of `frames`, after a Basic Offset Table."""
    offsets = struct.pack(f"<{len(table or [])}I", *(table or []))
    parts = [struct.pack("<HHI", 0xFFFE, 0xE000, len(offsets)), offsets]
    for frame in frames:
        padded = frame + b"\0" * (len(frame) % 2)
        parts += [struct.pack("<HHI", 0xFFFE, 0xE000, len(padded)), padded]
    if delimiter:
        parts.append(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    return b"".join(parts)


def write(path: Path, pixels: bytes | None, syntax: str, *, undefined: bool, vr: str, elements: dict[str, Any]) -> None:
    """A file whose pixel data element has exactly the bytes of `pixels`."""
    header = Dataset()
    header.SOPClassUID = elements.pop("SOPClassUID", SECONDARY_CAPTURE)
    header.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = header.SOPClassUID
    meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    meta.TransferSyntaxUID = EXPLICIT_LE if syntax != EXPLICIT_BE else syntax
    header.file_meta = meta
    header.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    stated = EXPLICIT_LE.encode() + b"\0"
    if syntax != EXPLICIT_BE:
        at = content.index(stated)
        text = syntax.encode() + b"\0" * (len(syntax) % 2)
        content = content[: at - 2] + struct.pack("<H", len(text)) + text + content[at + len(stated) :]
    if pixels is not None:
        order = ">" if syntax == EXPLICIT_BE else "<"
        length = 0xFFFFFFFF if undefined else len(pixels)
        tag = {"OF": 0x0008, "OD": 0x0009}.get(vr, 0x0010)
        content += struct.pack(f"{order}HH2s2xI", 0x7FE0, tag, vr.encode(), length) + pixels
    path.write_bytes(content)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Makes an instance from pixel bytes (a list: one fragment each); 16-bit gray unless elements say otherwise."""
    numbers = count()

    def make(
        pixels: bytes | list[bytes],
        /,
        syntax: str = EXPLICIT_LE,
        *,
        vr: str = "OW",
        table: list[int] | None = None,
        undefined: bool | None = None,
        **elements: Any,
    ) -> Instance:
        defaults: dict[str, Any] = {
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": elements.get("BitsAllocated", 16),
            "HighBit": (elements.get("BitsStored") or elements.get("BitsAllocated", 16)) - 1,
            "PixelRepresentation": 0,
        }
        raw = pixels if isinstance(pixels, bytes) else fragments(pixels, table=table)
        path = tmp_path / f"{next(numbers)}.dcm"
        encapsulated = isinstance(pixels, list) if undefined is None else undefined
        merged = {k: v for k, v in {**defaults, **elements}.items() if v is not None}
        write(path, raw, syntax, undefined=encapsulated, vr=vr, elements=merged)
        return Instance.open(path, LimitSettings())

    return make


@pytest.fixture
def limits() -> LimitSettings:
    return LimitSettings()


@pytest.fixture
def ramp() -> np.ndarray:
    """A frame of 16 x 12 values, all different."""
    return np.arange(16 * 12, dtype=np.uint16).reshape(16, 12)
