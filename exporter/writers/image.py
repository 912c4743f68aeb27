"""Single-frame instances as one image in display values: PNG by default, any format of `still.FORMATS` by setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.errors import CorruptPixels
from exporter.outcome import MediaType, Medium
from exporter.writers.contract import Task, Written
from exporter.writers.presentation import icc_profile, pixel_aspect
from exporter.writers.remux import is_video_stream
from exporter.writers.still import StillPlan, write_still

if TYPE_CHECKING:
    from exporter.instance import Instance
    from exporter.settings import MediaSettings

SCORE = 50


class ImageWriter:
    """Writes the only frame of an instance."""

    kind = MediaType.IMAGE

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """Fits instances with pixel data of one frame that are not video streams."""
        del settings
        pixels = instance.pixels
        if pixels is None or pixels.frames != 1 or is_video_stream(instance):
            return None
        return SCORE

    def write(self, task: Task) -> Written:
        """Write the image.

        Raises:
            ExportError: The frame cannot be decoded, or the image not written.
            OutOfSpace: The disk is full.
        """
        from exporter.frames import DisplayOptions, open_frames

        settings, instance = task.settings.image, task.instance
        frames = open_frames(instance, task.settings.limits)
        image = next(iter(frames.display(DisplayOptions())), None)
        if image is None:
            raise CorruptPixels("the instance holds no frame")
        plan = StillPlan(
            extension=settings.extension,
            parameters=tuple(sorted(settings.save_method_kwargs.pil_writer_params.items())),
            psnr_floor_db=settings.psnr_floor_db,
            icc_profile=icc_profile(frames, gray=image.ndim == 2),
            aspect=pixel_aspect(frames),
        )
        name = "0.part"
        still = write_still(task.folder / name, image, plan)
        medium = Medium(
            file=name,
            suffix=settings.extension,
            kind=MediaType.IMAGE,
            bytes=still.sealed.bytes,
            sha256=still.sealed.sha256,
            codec=still.codec,
            width=image.shape[1],
            height=image.shape[0],
            frames=1,
        )
        return Written(media=(medium,), rendering=frames.rendering)
