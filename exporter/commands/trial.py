"""A trial of the configured encoders on a small picture, before anything real is exported with them.

Contract: the writers themselves write a made-up instance, decode it back and verify it, so that whatever they would
refuse for every instance (an unknown encoder, a pixel format it does not take, an option that does not exist) is known
at once. Encoders at their defaults are not tried: tests do that.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.settings import MediaSettings

ROWS, COLUMNS = 64, 96


def faults_of(settings: MediaSettings) -> list[tuple[str, str]]:
    """Key path and problem of each encoder that refuses."""
    from exporter.settings import ImageSettings, VideoSettings

    changed = []
    if settings.video != VideoSettings():
        changed.append(("video", 2))
    if settings.image != ImageSettings():
        changed.append(("image", 1))
    found = []
    for section, frames in changed:
        with tempfile.TemporaryDirectory(prefix="exporter-trial-") as folder:
            problem = _problem(settings, Path(folder), frames)
        if problem:
            found.append(_at_key(section, problem))
    return found


def _problem(settings: MediaSettings, folder: Path, frames: int) -> str | None:
    """Why an instance of so many frames cannot be written; None where it can."""
    from exporter.errors import ExportError
    from exporter.instance import Instance
    from exporter.writers import choose
    from exporter.writers.contract import Task

    _make(folder / "trial.dcm", frames)
    (folder / "out").mkdir()
    try:
        with Instance.open(folder / "trial.dcm", settings.limits) as instance:
            choose(instance, settings).write(Task(instance, folder / "out", settings))
    except ExportError as error:
        return str(error)
    return None


def _make(path: Path, frames: int) -> None:
    """A secondary capture image: smooth colours, nobody's."""
    import numpy as np
    from pydicom import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MultiFrameTrueColorSecondaryCaptureImageStorage, generate_uid

    header = Dataset()
    header.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID = (generate_uid() for _ in range(3))
    header.Modality = "OT"
    header.SamplesPerPixel, header.PhotometricInterpretation, header.PlanarConfiguration = 3, "RGB", 0
    header.Rows, header.Columns, header.NumberOfFrames = ROWS, COLUMNS, frames
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    if frames > 1:
        header.FrameTime = "40"
        header.FrameIncrementPointer = 0x00181063
    down, right = np.mgrid[0:ROWS, 0:COLUMNS]
    picture = np.stack([down * 2, right * 2, 255 - down - right], axis=-1).astype(np.uint8)
    header.PixelData = np.stack([picture] * frames).tobytes()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.save_as(path, enforce_file_format=True)


def _at_key(section: str, problem: str) -> tuple[str, str]:
    """The key that a message names at its beginning, or the section, and the rest of the message."""
    named = re.match(rf"{section}(\.\w+)+", problem)
    if named is None:
        return section, problem
    return named.group(), problem[named.end() :].lstrip(": ")
