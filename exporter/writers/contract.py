"""The contract that every writer fulfils, those of other distributions too, and that the suite in its tests checks.

Contract: a writer says whether it can write an instance (`score`), and then writes complete, verified files under
partial names in the folder it is given, fsynced unless `MediaFile.is_durable` says otherwise. It never chooses final
names, never sees the ledger, never prints, and raises only `exporter.errors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.dicom.instance import Instance
    from exporter.outcome import MediaFile, MediaType, Rendering, Timing, WriterOrigin
    from exporter.settings.settings import MediaSettings
    from exporter.writers.durable_write import HeldFiles


class InstancePart(StrEnum):
    """The parts of an instance that media are made of, the main one first where the SOP class does not name it."""

    PIXELS = "pixel data"
    WAVEFORM = "waveform"
    CONTENT = "content tree"
    DOCUMENT = "encapsulated document"
    DATA_SET = "data set"


@dataclass(frozen=True, slots=True)
class WriterTask:
    """One instance to be written, and where."""

    instance: Instance
    folder: Path
    """Folder of partial files, on the file system of the media folder; the writer makes its files in it."""
    settings: MediaSettings
    """The `image`, `video`, `frames`, ... sections and the limits."""
    held: HeldFiles | None = None
    """Where a writer may leave files that become durable with those of other instances; None: each by itself."""


@dataclass(frozen=True, slots=True)
class Written:
    """The media that a writer made of one instance."""

    media: tuple[MediaFile, ...]
    timing: Timing | None = None
    rendering: Rendering | None = None
    warnings: tuple[str, ...] = ()
    writers: tuple[WriterOrigin, ...] = ()
    """Writers of other distributions that made some of the media; filled in by `exporter.writers`, not by writers."""


class Writer(Protocol):
    """One kind of media."""

    kind: MediaType
    part: InstancePart
    """Part of the instance that the media are made of; of the writers of a part, that of the highest score writes."""

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """The fitness of this writer for the instance, 0 or more; None where it cannot write the instance.

        The highest score of a part writes; two writers with the same highest score are an error of that instance. Must
        be cheap: only header elements are looked at, never pixels.
        """
        ...

    def write(self, task: WriterTask) -> Written:
        """Write the media of one instance.

        Raises:
            ExportError: The instance cannot be written; its class says why.
            OutOfSpace: The disk is full.
        """
        ...
