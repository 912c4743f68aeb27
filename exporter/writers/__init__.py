"""The writers: one module per kind of media, one tuple that names them all.

A new kind of media is one module with a writer object and one entry in `registry`; the contract suite in the tests runs
over this tuple. Writers are stateless, so one object each serves every worker.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from exporter.errors import FrameSizesDiffer, SkipInstance, SkipReason

if TYPE_CHECKING:
    from exporter.instance import Instance
    from exporter.settings import MediaSettings
    from exporter.writers.contract import Task, Writer, Written


def registry() -> tuple[Writer, ...]:
    """Every writer there is; where two fit an instance equally well, the earlier one writes."""
    from exporter.writers.audio import AudioWriter
    from exporter.writers.document import DocumentWriter
    from exporter.writers.frames_folder import FramesWriter
    from exporter.writers.image import ImageWriter
    from exporter.writers.report import ReportWriter
    from exporter.writers.video import VideoWriter
    from exporter.writers.volume import VolumeWriter
    from exporter.writers.waveform import WaveformWriter

    return (
        ImageWriter(),
        VideoWriter(),
        FramesWriter(),
        VolumeWriter(),
        AudioWriter(),
        WaveformWriter(),
        DocumentWriter(),
        ReportWriter(),
    )


def write(writer: Writer, task: Task) -> Written:
    """What `writer` makes of an instance; where frames have other sizes than the header says, the frames that fit.

    A video or a volume has one size: the frames that fit become a folder of images, and a warning names the others.

    Raises:
        ExportError: The instance cannot be written; its class says why.
        OutOfSpace: The disk is full.
    """
    from exporter.writers.frames_folder import FramesWriter

    try:
        return writer.write(task)
    except FrameSizesDiffer:
        for entry in task.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        return FramesWriter().write_fitting(task)


def choose(instance: Instance, settings: MediaSettings) -> Writer:
    """The writer that fits an instance best.

    Raises:
        SkipInstance: No writer fits: there is no medium in this instance.
        ExportError: The header contradicts itself.
    """
    best: Writer | None = None
    highest = 0
    for writer in registry():
        score = writer.score(instance, settings)
        if score is not None and (best is None or score > highest):
            best, highest = writer, score
    if best is None:
        raise SkipInstance(SkipReason.NO_MEDIA, "no writer knows a medium for instances of this kind")
    return best
