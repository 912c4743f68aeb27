"""Instances made for one test, tasks for writers, and what real peers say of a written file."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from exporter.dicom.instance import Instance
from exporter.settings.settings import MediaSettings
from exporter.writers import choose
from exporter.writers.contract import WriterTask, Written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def make_instance(tmp_path: Path) -> Callable[..., Path]:
    """Writes a DICOM file of given frames (or encoded payload) and elements."""
    counter = iter(range(1000))

    def make(
        pixels: NDArray[Any] | None = None,
        *,
        encoded: list[bytes] | None = None,
        syntax: str = ExplicitVRLittleEndian,
        rows: int = 0,
        columns: int = 0,
        frames: int | None = None,
        **elements: Any,
    ) -> Path:
        dataset = Dataset()
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1"
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[str(next(counter))])
        dataset.StudyInstanceUID = dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.1"
        dataset.PatientName = "Planted^Token"
        dataset.Modality = "US"
        if pixels is not None:
            colour = pixels.shape[-1] == 3
            spatial = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
            rows, columns = spatial
            frames = frames or (pixels.shape[0] if pixels.ndim == (4 if colour else 3) else None)
        else:
            colour = True
        dataset.Rows, dataset.Columns = rows, columns
        if frames is not None:
            dataset.NumberOfFrames = frames
        dataset.SamplesPerPixel = 3 if colour else 1
        dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
        if colour:
            dataset.PlanarConfiguration = 0
        bits = 8 * pixels.dtype.itemsize if pixels is not None else 8
        dataset.BitsAllocated = dataset.BitsStored = bits
        dataset.HighBit = bits - 1
        dataset.PixelRepresentation = int(pixels is not None and pixels.dtype.kind == "i")
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        if encoded is not None:
            dataset.PixelData = encapsulate(encoded, has_bot=False)
            dataset["PixelData"].is_undefined_length = True
        elif pixels is not None:
            data = pixels.tobytes()
            dataset.PixelData = data + b"\0" * (len(data) % 2)
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = UID(syntax)
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta = meta
        path = tmp_path / f"instance{next(counter)}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return path

    return make


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., tuple[Written, Path]]:
    """Lets the fitting writer write an instance; returns what it says and the folder of partial files."""
    counter = iter(range(1000))

    def run(path: Path, settings: MediaSettings | None = None) -> tuple[Written, Path]:
        settings = settings or MediaSettings()
        folder = tmp_path / f"partial{next(counter)}"
        folder.mkdir()
        with Instance.open(path, settings.limits) as instance:
            return choose(instance, settings).write(WriterTask(instance, folder, settings)), folder

    return run


@pytest.fixture
def probe(peer: Callable[[str], str]) -> Callable[[Path], dict[str, Any]]:
    """What Debian's ffprobe says of a file: its streams, packets and format."""

    def run(path: Path) -> dict[str, Any]:
        done = subprocess.run(
            [
                peer("ffprobe"),
                "-v",
                "error",
                "-show_streams",
                "-show_packets",
                "-show_format",
                "-count_frames",
                "-of",
                "json",
                str(path),
            ],
            capture_output=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


@pytest.fixture
def ffmpeg_frames(peer: Callable[[str], str]) -> Callable[..., NDArray[np.uint8]]:
    """A video decoded by Debian's ffmpeg, as (frames, rows, columns, 3) RGB."""

    def run(path: Path, rows: int, columns: int) -> NDArray[np.uint8]:
        command = [
            peer("ffmpeg"),
            "-v",
            "error",
            "-i",
            path,
            "-vsync",
            "passthrough",
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ]
        done = subprocess.run(command, capture_output=True, check=True)
        return np.frombuffer(done.stdout, np.uint8).reshape(-1, rows, columns, 3)

    return run
