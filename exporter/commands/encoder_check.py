"""A trial of the configured encoders on a small picture, before anything real is exported with them.

Contract: the writers themselves write a made-up instance, decode it back and verify it, so that whatever they would
refuse for every instance (an unknown encoder, a pixel format it does not take, an option that does not exist) is known
at once. Encoders at their defaults are not tried: tests do that. What codec libraries print is thrown away.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.settings.settings import MediaSettings, VideoSettings

ROWS, COLUMNS, FRAMES = 64, 96, 5
KWARGS = "video.save_method_kwargs"

Found = tuple[str, str]
"""Key path and problem."""


def faults_of(settings: MediaSettings) -> list[Found]:
    """Faults of each encoder that is not at its defaults."""
    from exporter.settings.settings import ImageSettings, VideoSettings

    found: list[Found] = []
    with _silenced():
        if settings.video != VideoSettings():
            found += _of_encoder(settings.video) or _tried(settings, "video", FRAMES) or _unread(settings.video)
        if settings.image != ImageSettings():
            found += _tried(settings, "image", 1)
    return found


def _of_encoder(settings: VideoSettings) -> list[Found]:
    """Names that FFmpeg does not know, with what it knows."""
    from difflib import get_close_matches

    import av

    from exporter.errors import EncodeFailed
    from exporter.writers.video_parts.video_plan import plan_of

    try:
        plan = plan_of(settings, gray=False)
    except EncodeFailed as error:
        return [_at_key("video", str(error))]
    try:
        codec = av.Codec(plan.encoder, "w")
    except ValueError:  # PyAV's UnknownCodecError
        near = get_close_matches(plan.encoder, av.codecs_available, 1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        return [(f"{KWARGS}.encoding_format", f"FFmpeg has no encoder {plan.encoder!r}{guess}")]
    formats = [form.name for form in codec.video_formats or ()]
    if formats and plan.pix_fmt not in formats:
        permitted = ", ".join(sorted(formats))
        return [(f"{KWARGS}.encoding_args.pix_fmt", f"{codec.name} takes no {plan.pix_fmt!r} (permitted: {permitted})")]
    return []


def _tried(settings: MediaSettings, section: str, frames: int) -> list[Found]:
    """Why an instance of so many frames cannot be written, if it cannot."""
    from exporter.dicom.instance import Instance
    from exporter.errors import ExportError
    from exporter.writers import choose, registry
    from exporter.writers.contract import WriterTask

    with tempfile.TemporaryDirectory(prefix="exporter-trial-") as name:
        folder = Path(name)
        _make(folder / "trial.dcm", frames, gray=_is_gray(settings, section))
        (folder / "out").mkdir()
        try:
            with Instance.open(folder / "trial.dcm", settings.limits) as instance:
                choose(instance, settings, registry()).write(WriterTask(instance, folder / "out", settings))
        except ExportError as error:
            return [_at_key(section, str(error))]
    return []


def _is_gray(settings: MediaSettings, section: str) -> bool:
    """Whether the encoder is asked for gray alone: colour is then a failure of its instance, not of the settings."""
    return section == "video" and settings.video.save_method_kwargs.encoding_args.pix_fmt.startswith("gray")


def _unread(settings: VideoSettings) -> list[Found]:
    """Options that the encoder knows nothing of: FFmpeg leaves them unread, without a word."""
    from fractions import Fraction

    import av

    from exporter.writers.video_parts.ordinary_priority import ordinary_priority
    from exporter.writers.video_parts.video_plan import plan_of

    plan = plan_of(settings, gray=False)
    context = av.CodecContext.create(plan.encoder, "w")
    if not isinstance(context, av.VideoCodecContext):
        return []
    context.width, context.height, context.pix_fmt = COLUMNS, ROWS, plan.pix_fmt
    context.time_base = Fraction(1, 25)
    context.options = dict(plan.options)
    try:
        with ordinary_priority():
            context.open()
    except av.FFmpegError:  # it opens only in the writer's own way, which worked
        return []
    left = [name for name in sorted(context.options) if name in settings.save_method_kwargs.encoding_args.options]
    return [(f"{KWARGS}.encoding_args.options.{name}", f"{plan.encoder} knows no such option") for name in left]


def _make(path: Path, frames: int, *, gray: bool) -> None:
    """A secondary capture image: smooth colours or grays, nobody's."""
    import io

    import numpy as np
    from pydicom import Dataset
    from pydicom.uid import ExplicitVRLittleEndian, MultiFrameTrueColorSecondaryCaptureImageStorage, generate_uid

    from listener.intake.file_meta import AssociationParties, FileMeta

    header = Dataset()
    header.SOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID = (generate_uid() for _ in range(3))
    header.Modality = "OT"
    if gray:
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    else:
        header.SamplesPerPixel, header.PhotometricInterpretation, header.PlanarConfiguration = 3, "RGB", 0
    header.Rows, header.Columns, header.NumberOfFrames = ROWS, COLUMNS, frames
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    if frames > 1:
        header.FrameTime = "40"
        header.FrameIncrementPointer = 0x00181063
    down, right = np.mgrid[0:ROWS, 0:COLUMNS]
    picture = np.stack([down * 2, right * 2, 255 - down - right], axis=-1).astype(np.uint8)
    header.PixelData = np.stack([picture[..., 0] if gray else picture] * frames).tobytes()
    nobody = AssociationParties("", "", "", "")
    meta = FileMeta(header.SOPClassUID, ExplicitVRLittleEndian, nobody).encode(header.SOPInstanceUID.encode("ascii"))
    data_set = io.BytesIO()
    header.save_as(data_set, implicit_vr=False, little_endian=True)
    path.write_bytes(meta + data_set.getvalue())


def _at_key(section: str, problem: str) -> Found:
    """The key that a message names at its beginning, or the section, and the rest of the message."""
    named = re.match(rf"{section}(\.\w+)+", problem)
    if named is None:
        return section, problem
    return named.group(), problem[named.end() :].lstrip(": ")


@contextmanager
def _silenced() -> Iterator[None]:
    """Silence standard error: encoders print banners to it from C."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
