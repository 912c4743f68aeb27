"""The writers: one module per kind of media, one tuple that names them all.

A new kind of media is one module with a writer object and one entry in `registry`; the contract suite in the tests runs
over this tuple. Other distributions add writers through entry points (`discovery`). Writers are stateless, so one
object each serves every worker.

An instance may hold several parts that media are made of (`contract.InstancePart`). Its SOP class names the main one
(PS3.4 B.5: a class stands for one IOD); its other parts become further media beside the main one.

The writer of a part is the one of the highest score, whatever its kind and wherever it comes from. Two writers with the
same highest score are an error of that instance: no order decides between them.

    contract       what a writer is and returns
    discovery      writers of other distributions
    image          single frames
    video          cines and video streams
    frames_folder  several frames as a folder of images
    volume         planes that form a grid
    audio          sound
    waveform       ECG and other waveforms
    document       encapsulated documents
    report         structured reports
    dicom_file     the de-identified instance itself
    durable_write  files that are on the disk before they count
    pictures, image_parts, video_parts, waveform_parts, report_parts, volumes: parts of these
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Final

from exporter.errors import ExportError, FrameSizesDiffer, PrivacyUnknown, SkipInstance, SkipReason, WritersTied
from exporter.outcome import MediaType
from exporter.writers.contract import InstancePart, Written
from exporter.writers.discovery import enabled_writers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.dicom.instance import Instance
    from exporter.outcome import MediaFile, WriterOrigin
    from exporter.settings.settings import MediaSettings
    from exporter.writers.contract import Writer, WriterTask

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_MAIN_PARTS: Final = (
    (_STORAGE + "9.", InstancePart.WAVEFORM),
    (_STORAGE + "88.", InstancePart.CONTENT),
    (_STORAGE + "104.", InstancePart.DOCUMENT),
)
"""SOP classes, by the beginning of their UID, whose instances are no pictures (PS3.4 B.5)."""


_UNCLEANED: Final = frozenset((MediaType.AUDIO, MediaType.DOCUMENT))
"""Media that nothing cleans of what identifies: they are not made of a de-identified instance."""


@dataclass(frozen=True, slots=True)
class ChosenWriters:
    """The writers of one instance."""

    main: Writer
    further: tuple[Writer, ...] = ()
    """Writers of the other parts that the instance holds."""
    warnings: tuple[str, ...] = ()
    """Parts beside the main one that contradict themselves."""
    origins: Mapping[int, WriterOrigin] = field(default_factory=dict)
    """Origins of writers of other distributions, by `id` of the writer."""

    def origin_of(self, writer: Writer) -> WriterOrigin | None:
        """The origin of a writer that another distribution adds; None for the exporter's own."""
        return self.origins.get(id(writer))

    def write(self, task: WriterTask) -> Written:
        """Write the main medium, then the further ones; a further one that cannot be written is a warning.

        Raises:
            ExportError: The main medium cannot be written.
            OutOfSpace: The disk is full.
        """
        written = self._write_fitting(self.main, task)
        for number, writer in enumerate(self.further, 1):
            written = self._with_further(task, written, writer, number)
        return replace(written, warnings=(*written.warnings, *self.warnings))

    def _with_further(self, task: WriterTask, written: Written, writer: Writer, number: int) -> Written:
        """`written` with the media of one more writer, or with a warning."""
        from exporter.writers.durable_write import writing

        folder = task.folder / f"further-{number}"
        with writing("making a folder for further media"):
            folder.mkdir()
        try:
            more = self._write_fitting(writer, replace(task, folder=folder))
        except ExportError as error:
            shutil.rmtree(folder, ignore_errors=True)
            return replace(written, warnings=(*written.warnings, _not_written(writer.part, error)))
        media = list(written.media)
        with writing("moving further media"):
            for medium in more.media:
                moved = replace(medium, file=f"{number}-{medium.file}", suffix=_free_suffix(medium, media))
                (folder / medium.file).rename(task.folder / moved.file)
                media.append(moved)
            folder.rmdir()
        return Written(
            tuple(media),
            timing=written.timing or more.timing,
            rendering=written.rendering or more.rendering,
            warnings=(*written.warnings, *more.warnings),
            writers=tuple(dict.fromkeys((*written.writers, *more.writers))),
        )

    def _write_fitting(self, writer: Writer, task: WriterTask) -> Written:
        """Write with `writer`; where frames have other sizes than the header says, write the frames that fit.

        A video or a volume has one size: the frames that fit become a folder of images, and a warning names the others.

        Raises:
            ExportError: The instance cannot be written; its class says why.
            OutOfSpace: The disk is full.
        """
        from exporter.writers.frames_folder import FramesWriter

        try:
            written = writer.write(task)
        except FrameSizesDiffer:
            for entry in task.folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            return FramesWriter().write_fitting(task)
        origin = self.origin_of(writer)
        return replace(written, writers=(origin,) if origin is not None else ())


@cache
def registry() -> tuple[Writer, ...]:
    """The exporter's own writers; they keep nothing of an instance."""
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


def choose(instance: Instance, settings: MediaSettings, writers: Sequence[Writer] | None = None) -> Writer:
    """The writer of the instance's main medium, as `choose_all` chooses it.

    Raises:
        SkipInstance: No writer fits: there is no medium in this instance.
        ExportError: The header contradicts itself, or two writers fit equally well.
    """
    return choose_all(instance, settings, writers).main


def choose_all(instance: Instance, settings: MediaSettings, writers: Sequence[Writer] | None = None) -> ChosenWriters:
    """The best writer of each part of the instance, the one of its main part first.

    Args:
        instance: The instance to be written.
        settings: Settings of media; they may switch installed writers off.
        writers: Writers to choose from; default: the exporter's own and those of other distributions.

    Raises:
        SkipInstance: No writer fits: there is no medium in this instance.
        ExportError: The description of the main part contradicts itself, or two writers fit it equally well.
        WriterUnusable: A writer of another distribution cannot be used.
    """
    best: dict[InstancePart, Writer | ExportError] = {}
    origins: dict[int, WriterOrigin] = {}
    if writers is None:
        installed = enabled_writers(settings.writers)
        origins = {id(one.writer): one.origin for one in installed}
        writers = (*registry(), *(one.writer for one in installed), *_dicom_writer(instance))
    for part in InstancePart:
        try:
            found = _best([writer for writer in writers if writer.part is part], instance, settings)
        except ExportError as error:
            best[part] = error
            continue
        if found is not None:
            best[part] = found
    if not best:
        raise SkipInstance(SkipReason.NO_MEDIA, "no writer knows a medium for instances of this kind")
    named = _named_part(instance)
    main = best.pop(named) if named in best else best.pop(next(iter(best)))
    if isinstance(main, ExportError):
        raise main
    further = tuple(one for one in best.values() if not isinstance(one, ExportError))
    faults = (_not_written(part, one) for part, one in best.items() if isinstance(one, ExportError))
    chosen = ChosenWriters(main, further, tuple(faults), origins)
    if instance.deidentification is not None:
        _refuse_uncleaned(chosen)
    return chosen


def _dicom_writer(instance: Instance) -> Sequence[Writer]:
    """The writer of the instance itself, which is none of the registry: it writes de-identified instances alone."""
    if instance.deidentification is None:
        return ()
    from exporter.writers.dicom_file import DicomWriter

    return (DicomWriter(),)


def _refuse_uncleaned(chosen: ChosenWriters) -> None:
    """Refuse writers that may show of a de-identified instance what nothing has cleaned.

    Raises:
        PrivacyUnknown: They make audio or documents, or come from another distribution and may read the file itself.
    """
    for writer in (chosen.main, *chosen.further):
        if writer.kind in _UNCLEANED:
            raise PrivacyUnknown(f"{writer.part}: nothing cleans media of the kind {writer.kind}")
        origin = chosen.origin_of(writer)
        if origin is not None:
            raise PrivacyUnknown(
                f"the writer {origin.name} of {origin.distribution} may read what identifies: switch it off (`writers`)"
            )


def _best(writers: Sequence[Writer], instance: Instance, settings: MediaSettings) -> Writer | None:
    """The writer of the highest score; None where none fits.

    Raises:
        WritersTied: Several have the highest score.
    """
    scores = [(score, writer) for writer in writers if (score := writer.score(instance, settings)) is not None]
    highest = max((score for score, _ in scores), default=0)
    best = [writer for score, writer in scores if score == highest]
    if len(best) > 1:
        names = sorted(f"{type(writer).__module__}.{type(writer).__qualname__}" for writer in best)
        raise WritersTied(
            f"choose writer: {' and '.join(names)} have the same score ({highest}) for this instance; one of them has "
            "to fit better, or to be switched off (`writers`)"
        )
    return best[0] if best else None


def _named_part(instance: Instance) -> InstancePart | None:
    """The part that the SOP class names; None for pictures, for other classes, and for a report without content."""
    for beginning, part in _MAIN_PARTS:
        if instance.sop_class_uid.startswith(beginning):
            return None if part is InstancePart.CONTENT and "ContentSequence" not in instance.header else part
    return None


def _free_suffix(medium: MediaFile, taken: Sequence[MediaFile]) -> str:
    """The suffix of a further medium: its own, or with its kind before it where another medium has that."""
    return f".{medium.kind}{medium.suffix}" if medium.suffix in {one.suffix for one in taken} else medium.suffix


def _not_written(part: InstancePart, error: ExportError) -> str:
    return f"the instance also holds a part ({part}) that cannot be written: {error.reason}: {error}"
