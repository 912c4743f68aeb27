"""Single-frame instances as images: display values, stored values, or the instance's own JPEG."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from exporter.errors import CorruptPixels
from exporter.outcome import MediaType, Rendering
from exporter.writers.contract import InstancePart, WriterTask, Written
from exporter.writers.durable_write import media_file, write_new
from exporter.writers.image_parts.image_file import Still, StillPlan, is_lossless, write_still
from exporter.writers.image_parts.raw import RescaleElements, has_raw, raw_form, write_raw
from exporter.writers.pictures.aspect_and_icc import icc_profile, pixel_aspect
from exporter.writers.pictures.cine import is_video_stream, keeps_values, lossy_warning
from exporter.writers.pictures.display_frames import still_pictures
from exporter.writers.pictures.framing import Framing, framing_of
from exporter.writers.video_parts.jpeg_copy import bare_jpeg, shows

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.frames import Frames
    from exporter.outcome import MediaFile
    from exporter.settings.settings import ImageSettings, MediaSettings

SCORE = 50
NO_RAW = "raw16: colour has no stored values that measure something; view8 alone is written"


class ImageWriter:
    """Writes the only frame of an instance."""

    kind = MediaType.IMAGE
    part = InstancePart.PIXELS

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """Fits instances with pixel data of one frame that are not video streams."""
        del settings
        pixels = instance.pixels
        if pixels is None or pixels.frames != 1 or is_video_stream(instance):
            return None
        return SCORE

    def write(self, task: WriterTask) -> Written:
        """Write the image in each of the configured outputs.

        Raises:
            ExportError: The frame cannot be decoded, or the image not written.
            OutOfSpace: The disk is full.
        """
        from exporter.frames import open_frames

        settings, instance = task.settings.image, task.instance
        frames = open_frames(instance, task.settings.limits)
        measures = instance.pixels is not None and has_raw(instance.pixels)
        media: list[MediaFile] = []
        rendering: Rendering | None = None
        warnings: list[str] = []
        if "view8" in settings.outputs or not measures:
            view, rendering = _view(task, frames, settings, task.folder / "0.part")
            media.append(view)
            warnings += lossy_warnings(task)
        if "raw16" in settings.outputs and not measures:
            warnings.append(NO_RAW)
        elif "raw16" in settings.outputs:
            stored = next(iter(frames.stored()))
            form = raw_form(stored)
            path = task.folder / f"{len(media)}.part"
            raw = write_raw(path, stored, form, task.held)
            values = RescaleElements(instance.header).values(0, form)
            medium = image_medium(path, form.suffix, raw, (stored.shape[1], stored.shape[0]))
            media.append(replace(medium, values=values, is_durable=task.held is None))
        media = [m for name in settings.outputs for m in media if (m.values is None) == (name == "view8")] or media
        return Written(media=tuple(media), rendering=rendering, warnings=(*frames.warnings, *warnings))


def _view(task: WriterTask, frames: Frames, settings: ImageSettings, path: Path) -> tuple[MediaFile, Rendering]:
    """The image of display values, or the instance's own JPEG where it shows them."""
    image = next(still_pictures(frames, task.settings.display), None)
    if image is None:
        raise CorruptPixels("the instance holds no frame")
    framing = framing_of(settings.framing, task.instance, frames, image.shape, pixel_aspect(frames))
    view = View(settings, frames, framing)
    notes = list(framing.notes)
    copied = view.copied(next(iter(frames.encoded()), b""), image) if view.may_copy else None
    if copied is not None:
        sealed = write_new(path, (copied,), task.held)
        still, suffix = Still(sealed, "jpeg"), ".jpg"
        notes.append("the instance's own JPEG, copied; segments of text left out")
    else:
        shown = framing.apply(image)
        still, suffix = write_still(path, shown, view.plan(gray=shown.ndim == 2), task.held), settings.extension
    medium = image_medium(path, suffix, still, framing.size)
    medium = replace(medium, transcoded=copied is None, geometry=framing.geometry(), is_durable=task.held is None)
    return medium, replace(frames.rendering, notes=(*frames.rendering.notes, *notes))


@dataclass(frozen=True, slots=True)
class View:
    """The way in which display images of one instance are written."""

    settings: ImageSettings
    frames: Frames
    framing: Framing

    def plan(self, *, gray: bool) -> StillPlan:
        """The plan for the encoder of images."""
        plan = _plan(self.settings)
        return replace(plan, icc_profile=icc_profile(self.frames, gray=gray), aspect=self.framing.aspect)

    @property
    def may_copy(self) -> bool:
        """Whether the instance's own JPEG is wanted and possible at all."""
        return self.settings.copy_jpeg and not self.framing.changes and self.frames.codec == "JPEG"

    def copied(self, encoded: bytes, display: NDArray[np.uint8]) -> bytes | None:
        """The JPEG to copy; None where it is not baseline, or does not show the display values."""
        jpeg = bare_jpeg(encoded, self.framing.aspect)
        return jpeg if jpeg is not None and shows(jpeg, display) else None


def _plan(settings: ImageSettings) -> StillPlan:
    return StillPlan(
        extension=settings.extension,
        parameters=tuple(sorted(settings.save_method_kwargs.pil_writer_params.items())),
        psnr_floor_db=settings.psnr_floor_db,
    )


def lossy_warnings(task: WriterTask) -> list[str]:
    """A warning where the settings ask for lossy images of what must keep its values.

    Raises:
        EncodeFailed: The extension selects no format.
    """
    lossy = keeps_values(task.instance) and not is_lossless(_plan(task.settings.image))
    return [lossy_warning("image")] if lossy else []


def image_medium(path: Path, suffix: str, still: Still, size: tuple[int, int]) -> MediaFile:
    """The medium of one written image of `size` (columns, rows)."""
    columns, rows = size
    return media_file(path, MediaType.IMAGE, suffix, still.codec, still.sealed, width=columns, height=rows, frames=1)
