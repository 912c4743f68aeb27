"""The writers: one module per kind of media, one tuple that names them all.

A new kind of media is one module with a writer object and one entry in `registry`; the contract suite in the tests runs
over this tuple. Writers are stateless, so one object each serves every worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.errors import SkipInstance, SkipReason

if TYPE_CHECKING:
    from exporter.instance import Instance
    from exporter.settings import MediaSettings
    from exporter.writers.contract import Writer


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
