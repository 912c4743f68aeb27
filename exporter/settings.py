"""Every setting of the exporter, as one frozen tree: the whole YAML file, validated.

Contract: a `Settings` exists only if it is valid; defaults here are the defaults of `config/exporter.yml`. The keys of
the DICOM Media Exporter's ``config.yml`` keep their names and their effect.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads the annotations at run time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A section of the file: unknown keys are faults, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DicomSettings(Section):
    """Where `backfill` reads."""

    dir: Path | None = None
    """Folder of DICOM files; the command line's DIR wins."""
    recursive: bool = True
    """Whether folders below `dir` are searched too."""


class MediaFolderSettings(Section):
    """Where media go."""

    dir: Path | None = None
    """Folder of media files; default: ``media`` below the data or output folder."""
    overwrite: bool = False
    """Whether a media file that is there but not recorded in the ledger is replaced; otherwise its name is not taken."""
    layout: str = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}"
    """Output name of a received instance, without extension."""


class MetadataSettings(Section):
    """The file of metadata lines."""

    file: Path | None = None
    """JSON Lines file; default: ``metadata.jsonl`` below the data or output folder."""
    append: bool = False
    """Whether lines may be added to a file that this ledger did not write."""


class ConfigCopySettings(Section):
    """Where a copy of the configuration in force is kept."""

    file: Path | None = None
    """File that gets a copy of the configuration, for reproducibility."""


class EncodingArgs(Section):
    """Options of the encoder, named as FFmpeg names them."""

    model_config = ConfigDict(extra="allow", frozen=True)
    pix_fmt: str = "yuv420p"
    """Pixel format of the encoded stream."""
    options: dict[str, str | int | float] = Field(default_factory=dict)
    """Private options of the encoder, such as ``crf``."""


class VideoEncoding(Section):
    """How video is encoded."""

    encoding_format: str = "h264"
    """Encoder as FFmpeg names it."""
    encoding_args: EncodingArgs = EncodingArgs(options={"crf": "17"})
    """Stream attributes and encoder options."""


class VideoSettings(Section):
    """Multi-frame instances."""

    extension: str = Field(default=".mp4", pattern=r"^\.[A-Za-z0-9]{1,8}$")
    """File name extension; it selects the container."""
    save_method_kwargs: VideoEncoding = VideoEncoding()
    """Encoder and its options."""
    default_rate_hz: PositiveFloat = 30.0
    """Frames per second of an instance that does not tell its timing."""


class PillowEncoding(Section):
    """How images are encoded."""

    pil_writer_params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of Pillow's `save` for this extension."""


class ImageSettings(Section):
    """Single-frame instances."""

    extension: str = Field(default=".png", pattern=r"^\.[A-Za-z0-9]{1,8}$")
    """File name extension; it selects the format."""
    save_method_kwargs: PillowEncoding = PillowEncoding()
    """Options of the image encoder."""


class LimitSettings(Section):
    """What one instance may cost; beyond it the instance fails, nothing else does."""

    max_instance_bytes: PositiveInt = 8 << 30
    """Largest file that is read."""
    max_frame_pixels: PositiveInt = 1 << 28
    """Largest rows x columns of one frame."""
    max_frames: PositiveInt = 100_000
    """Most frames of one instance."""
    max_inflated_bytes: PositiveInt = 4 << 30
    """Largest data set after inflating a deflated transfer syntax."""
    max_header_bytes: PositiveInt = 64 << 20
    """Largest data set without its pixel data."""
    max_depth: PositiveInt = 64
    """Deepest nesting of sequences."""
    max_elements: PositiveInt = 200_000
    """Most elements of one data set, nested ones included."""
    memory_mb: PositiveInt = 2048
    """Address space of one worker process, in MiB."""
    cpu_s: PositiveFloat = 600.0
    """Processor time that one instance may take, in seconds."""
    wall_s: PositiveFloat = 900.0
    """Time that one instance may take, in seconds."""
    attempts: PositiveInt = 2
    """Most attempts at one instance, across restarts."""


class MediaSettings(Section):
    """What decides the content of media: its hash tells whether an export is still up to date."""

    video: VideoSettings = VideoSettings()
    image: ImageSettings = ImageSettings()
    limits: LimitSettings = LimitSettings()
