"""Every setting of the exporter, as one frozen tree: the whole YAML file, validated.

Contract: a `Settings` exists only if it is valid; defaults here are the defaults of `config/exporter.yml`. The keys of
the DICOM Media Exporter's ``config.yml`` keep their names and their effect. A class here has a field only if something
acts on it; a key for a later version is refused as not available, never ignored. Field docstrings are the
documentation: `config/exporter.yml`, the JSON Schema and `docs/configuration.md` repeat them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from exporter.settings.engine import EngineSection
from exporter.settings.notify import NotifySection
from exporter.settings.page import PageSection
from exporter.settings.permissions import group_id_of
from exporter.settings.pull import PullPeers
from exporter.settings.run_report import RunReportSection
from listener.foundation.configuration import FilePath, Section, Spelling, load
from listener.foundation.fields import AETitle
from listener.foundation.logs import LogSection
from listener.settings.dicomweb import DicomwebSection
from listener.settings.expect import ExpectSection, SourceName
from listener.settings.listener import (
    DataFolder,
    ListenerSection,
    ListenerSettings,
    OrthancServers,
    SpoolSection,
    StatusSection,
)
from listener.settings.watch import WatchedFolders, overlap

if TYPE_CHECKING:
    from pathlib import Path

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Percentage = Annotated[float, Field(ge=0, le=100)]
Extension = Annotated[str, Spelling(r"^\.[A-Za-z0-9]{1,8}$", "a dot and up to 8 letters or digits", prefix=".")]
SectionT = TypeVar("SectionT", bound=Section)
LAYOUT_FIELDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
"""Fields that the output name of a received instance can be made of."""


def _layout(value: Any) -> Any:
    """A template that always stays below the media folder and holds nothing but UIDs and plain text."""
    if not isinstance(value, str):
        return value
    permitted = {"permitted": "folders of " + ", ".join(f"{{{name}}}" for name in LAYOUT_FIELDS) + " and plain letters"}
    parts = value.split("/")
    left = re.sub("|".join(rf"\{{{name}\}}" for name in LAYOUT_FIELDS), "", value)
    if not all(parts) or {".", ".."} & set(parts) or not re.fullmatch(r"[A-Za-z0-9._/-]*", left):
        raise PydanticCustomError("layout", "is not a template of output names", permitted)
    if "{" not in value:
        raise PydanticCustomError("layout", "gives every instance the same name", permitted)
    return value


def _mode(value: Any) -> Any:
    """Permission bits of media files: an octal number as text, for `0640` without quotes is 416 in YAML 1.1."""
    if not isinstance(value, str) or not re.fullmatch(r"06[0-7][0-7]", value) or int(value, 8) & 0o013:
        permitted = {"permitted": 'a quoted octal number without execution or writing by others, such as "0640"'}
        raise PydanticCustomError("mode", "are no permissions of a file", permitted)
    return value


def _group(value: Any) -> Any:
    """A group of this system: its name, or its number as text."""
    if isinstance(value, str):
        try:
            group_id_of(value)
        except KeyError:
            permitted = {"permitted": "a group of this system (getent group), by its name or its quoted number"}
            raise PydanticCustomError("group", "is no group here", permitted) from None
    return value


class DicomSettings(Section):
    """Input of `backfill`."""

    dir: FilePath | None = None
    """Folder of DICOM files; the command line's DIR wins."""
    recursive: bool = True
    """Whether the folders below it are searched too."""


class ArchiveSettings(Section):
    """Archives that `backfill` finds or is given: zip; tar, also compressed with gzip, bzip2 or xz."""

    enabled: bool = True
    """Whether the members of archives are exported; otherwise archives are files without DICOM data."""
    max_members: PositiveInt = 1_000_000
    """Most members of one archive, folders included; later members are not exported."""
    max_ratio: PositiveInt = 200
    """Most bytes that an archive may hold, as a multiple of its own size; 1 GiB is always permitted."""
    copies_bytes: PositiveInt = 4 << 30
    """Room for temporary copies: members wait for it, and one more may exceed it. They lie below the media folder, or
    in the system's folder for temporary files (`TMPDIR`) where instances are de-identified."""


class MediaFolderSettings(Section):
    """Folder, names and permissions of media."""

    enabled: bool = True
    """Whether media are made. `false`: every instance gets its line, from its header alone; no pixel is decoded. Such
    an instance counts as skipped (`no_media`); when this is true again, its media are made."""
    dir: FilePath | None = None
    """Folder of media files; default: ``media`` below the data or output folder."""
    store: Literal["files", "shards"] = "files"
    """How media are kept. `files`: each in a file of its own. `shards`: with their lines in few tar archives of the
    WebDataset form below ``shards/``, for `backfill` and `orthanc-storage`; the daemons write files, which
    `exporter media compact` moves into shards."""
    shard_bytes: Annotated[int, Field(ge=1 << 20)] = 10**9
    """Size from which no study is begun in a shard."""
    shard_instances: Annotated[int, Field(ge=1)] = 10_000
    """Number of instances from which no study is begun in a shard."""
    overwrite: bool = False
    """Whether a media file that is there but that no ledger knows of is replaced; otherwise its name is not taken."""
    layout: Annotated[str, BeforeValidator(_layout)] = "{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}"
    """Output name of a received instance, without extension."""
    mode: Annotated[str, BeforeValidator(_mode)] = "0600"
    """Permissions of media files, as a quoted octal number such as `"0640"`, whatever the umask; readers of the
    files may enter the folders that are made for them."""
    group: Annotated[str | None, BeforeValidator(_group)] = None
    """Group of media files and of the folders that are made for them, which pass it on; `mode` must let it in."""
    on_rejection: Literal["withdraw", "flag", "ignore"] = "flag"
    """What is done with the media of instances that a rejection note (IHE IOCM) names: `withdraw` removes them and
    refuses the instances from then on, `flag` says so in their lines, `ignore` does neither. A change counts from the
    next start, for earlier notes as well."""

    @model_validator(mode="after")
    def _lets_its_group_in(self) -> Self:
        if self.group is not None and not int(self.mode, 8) & 0o040:
            raise ValueError(f'`media.mode: "{self.mode}"` keeps out `media.group`: permit it to read, as "0640" does')
        return self


RecordForm = Literal["names", "keywords", "tags", "dicom-json"]


class MetadataSettings(Section):
    """The file of metadata lines."""

    file: FilePath | None = None
    """JSON Lines file; default: ``metadata.jsonl`` below the data or output folder."""
    append: bool = False
    """Whether lines may be added to a file that this ledger did not write."""
    private: bool = True
    """Whether lines hold private elements; otherwise they are left out, nested ones too, and counted."""
    record: RecordForm = "names"
    """How lines hold elements. `names`: under their full names (`Patient ID`), as plain JSON values; `keywords` and
    `tags`: the same values under `PatientID` or `00100020`; `dicom-json`: under their tags, with their VR, in the DICOM
    JSON Model (PS3.18 F)."""


class ConfigCopySettings(Section):
    """Copy of the configuration in force."""

    file: FilePath | None = None
    """File that gets a copy of this file, byte by byte, when something is exported with it."""


class EncodingArgs(Section):
    """Arguments of the encoder, named as in FFmpeg and PyAV."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, str | int | float] = Field(init=False)

    pix_fmt: str = "yuv420p"
    """Pixel format of the encoded stream."""
    options: dict[str, str | int | float] = Field(default_factory=dict)
    """Options of the encoder, such as `crf` and `preset` of libx264."""


class VideoEncoding(Section):
    """Encoder of video and its arguments."""

    encoding_format: str = "h264"
    """Format (`h264`, `hevc`, `av1`, `vp9`) or encoder of FFmpeg (`libx264`, `ffv1`, ...)."""
    encoding_args: EncodingArgs = EncodingArgs(options={"crf": "17"})
    """Arguments of the encoder, named as in FFmpeg and PyAV: `pix_fmt`, `options`, and any of the attributes
    `bit_rate`, `gop_size`, `level`, `max_b_frames`, `profile`, `qmax` and `qmin`."""


class FramingSettings(Section):
    """Part of the picture that is shown, and its size. Applied in this order; nothing by default."""

    crop: Literal["none", "regions", "anatomy"] = "none"
    """`regions`: to the box around all ultrasound regions of the instance; `anatomy`: to its largest region that is a
    two-dimensional picture. An instance without such a region is not cropped, and its record says so."""
    shape: Literal["keep", "square_crop", "square_pad"] = "keep"
    """Make the picture square: the middle of it, or all of it with black beside it."""
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of width and height that is cut off at each side, of the whole: 0.1 leaves the middle 80 %."""
    pixels: Literal["keep", "square"] = "keep"
    """`square`: resample pixels that are not square (the longer side grows); otherwise the file states their shape."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """Columns and rows of the output."""
    channel: Literal["keep", "gray"] = "keep"
    """`gray`: luma of colour pictures (ITU-R BT.601)."""


class DisplaySettings(Section):
    """The way from gray values to display values, where the instance leaves a choice."""

    voi: Annotated[int, Field(ge=0)] = 0
    """Number of the VOI transformation of an instance: its tables first, then its windows; 0 is the first."""
    window: tuple[float, PositiveFloat] | None = None
    """Centre and width in modality units, such as Hounsfield units, instead of the instance's own windows."""
    automatic: Literal["instance", "frame", "always"] = "instance"
    """Range of the window of instances without one: the least to the greatest value of all frames, or of each frame.
    For all frames they are decoded twice. Values of up to 8 bits keep their full range. `always`: as `instance`, also
    for instances that have windows of their own (`window` still wins)."""
    automatic_percentiles: tuple[Percentage, Percentage] = (0.0, 100.0)
    """Robust automatic windows: from the first to the second percentile of the values, such as `[0.5, 99.5]`, so that a
    few extreme ones do not matter; then also for values of up to 8 bits. Padding is left out."""
    overlays: bool = False
    """Whether overlay planes are drawn, in white."""

    @model_validator(mode="after")
    def _percentiles_are_in_order(self) -> Self:
        low, high = self.automatic_percentiles
        if low >= high:
            raise ValueError("`automatic_percentiles` must rise: the lower one comes first")
        return self


class VideoSettings(Section):
    """Multi-frame instances."""

    preset: Literal[
        "default", "fast", "training", "lossless", "lossless-h264", "small", "echonet-112", "echoprime-224"
    ] = "default"
    """A named choice of container, encoder and framing; `extension`, `save_method_kwargs` and `framing` win over it
    where they are not at their defaults. `default`: those keys alone, but lossless H.264 for palette colours and
    labels while `save_method_kwargs` is at its default. `fast`: H.264 that is quick to make and to decode, a third
    larger. `training`: H.264 with a key frame every 8 frames, quick to read at random places; video streams are encoded
    anew. `lossless`: FFV1 in Matroska. `lossless-h264`: lossless H.264 in MP4. `small`: AV1 in MP4. `echonet-112`,
    `echoprime-224`: for these models (docs/media.md)."""

    extension: Extension = ".mp4"
    """File name extension; it selects the container (.mp4, .m4v, .mov, .mkv, .webm, .avi)."""
    save_method_kwargs: VideoEncoding = VideoEncoding()
    """Encoder and its options."""
    default_rate_hz: PositiveFloat = 30.0
    """Frames per second of a cine whose elements do not say when its frames are shown."""
    untimed: Literal["frames", "video"] = "frames"
    """Media of multi-frame instances that are no cines, such as tiles of a slide, segments, pages and views
    (docs/media.md says which): `frames`, a folder of images; `video`, a video at `default_rate_hz`."""
    threads: PositiveInt = 1
    """Threads of one encoder. One per worker and a worker per core is faster than threads inside the encoder."""
    psnr_floor_db: PositiveFloat = 28.0
    """Lowest peak signal-to-noise ratio that a decoded-back frame may have; below it the export is `verify_failed`."""
    copy_jpeg: bool = False
    """Whether cines in JPEG baseline become Motion JPEG bit by bit where their display values are the JPEG's own."""
    framing: FramingSettings = FramingSettings()
    """Part of the picture that is shown, and its size."""


class PillowEncoding(Section):
    """Parameters of the image encoder."""

    pil_writer_params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of Pillow's `save` for the format, such as `quality` of JPEG."""


class ImageSettings(Section):
    """Single-frame instances."""

    extension: Extension = ".png"
    """File name extension; it selects the format (.png, .jpg, .jpeg, .webp, .tif, .tiff, .bmp, .jp2)."""
    save_method_kwargs: PillowEncoding = PillowEncoding()
    """Options of the image encoder."""
    psnr_floor_db: PositiveFloat = 28.0
    """Lowest peak signal-to-noise ratio that a lossy image may have when decoded back; below it: `verify_failed`."""
    outputs: Annotated[tuple[Literal["view8", "raw16"], ...], Field(min_length=1, max_length=2)] = ("view8",)
    """`view8`: display values of 8 bits. `raw16`: stored values as they are, in a PNG of 16 bits (or a NumPy array
    where 16 bits are not enough), with slope and intercept in the record; of palette colours, the numbers of the
    colours. Colour of three samples has `view8` alone."""
    copy_jpeg: bool = False
    """Whether JPEG baseline becomes `.jpg` bit by bit where its display values are the JPEG's own."""
    framing: FramingSettings = FramingSettings()
    """Part of the picture that `view8` shows, and its size."""


class FramesSettings(Section):
    """Multi-frame instances as a folder of numbered images and `frames.jsonl` with their times."""

    enabled: bool = False
    """Whether cines, too, become a folder of images instead of a video; the images as `image` says."""


class VolumeSettings(Section):
    """Enhanced multi-frame CT, MR and PET, segmentations, RT doses, parametric maps; and whole series."""

    enabled: bool = True
    """Whether instances that are volumes become volumes; otherwise they become frames, or video if they are cines."""
    format: Literal["nii.gz", "nii", "nrrd"] = "nii.gz"
    """NIfTI-1, compressed or not, or NRRD."""
    series: bool = False
    """Whether complete series of single-frame CT, MR and PET instances become volumes too, beside their images."""
    series_quiet_s: PositiveFloat = 60.0
    """Seconds without a new instance of a series after which it is taken as complete; a later one makes it anew."""


class AudioSettings(Section):
    """Audio waveforms, and audio tracks of video streams."""

    format: Literal["wav", "flac"] = "wav"
    """WAV keeps the samples as they are; FLAC keeps them compressed (mu-law and A-law expanded to 16 bits)."""
    tracks: Literal["left_out", "all", "none"] = "left_out"
    """Audio tracks of a video stream that become files of their own beside the video: those that its container cannot
    hold, all of them, or none."""


class WaveformSettings(Section):
    """ECG, haemodynamic, respiratory and other sampled curves."""

    drawing: Literal["svg", "png", "none"] = "svg"
    """Drawing beside the CSV, at 25 mm/s and 10 mm/mV."""
    drawing_s: PositiveFloat = 60.0
    """Longest time that is drawn, in seconds from the start; the CSV always holds everything."""


class ReportSettings(Section):
    """Structured reports and key object selections."""

    text: bool = True
    """Whether a plain text rendering is written beside the JSON tree."""


class InstalledWriterSection(Section):
    """Settings of one writer that another distribution adds (docs/media.md, "Writers of others")."""

    name: str
    """Name of its entry point; a name that is not installed is an error."""
    enabled: bool = True
    """Whether the writer may write; otherwise the exporter works as if it were not installed."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the writer's own, which its documentation names; the exporter does not check them."""


class LimitSettings(Section):
    """Limits of one instance; beyond them the instance fails, nothing else does."""

    max_instance_bytes: PositiveInt = 8 << 30
    """Largest file that is read."""
    max_frame_pixels: PositiveInt = 1 << 28
    """Largest rows x columns of one frame."""
    max_frames: PositiveInt = 100_000
    """Most frames of one instance."""
    min_frame_bytes: Annotated[int, Field(ge=0)] = 64
    """Least bytes of an instance per frame, beyond its first 1,000 frames: each frame costs time however small it is.
    Video streams have any number; 0 permits it for all."""
    max_jpeg_scans: PositiveInt = 100
    """Most scans of one JPEG: each one passes over the whole picture."""
    max_inflated_bytes: PositiveInt = 1 << 30
    """Largest data set after inflating a deflated transfer syntax."""
    max_header_bytes: PositiveInt = 64 << 20
    """Largest data set without its pixel data."""
    max_depth: PositiveInt = 64
    """Deepest nesting of sequences."""
    max_elements: PositiveInt = 2_000_000
    """Most elements of one data set, nested ones included."""
    memory_mb: PositiveInt = 2048
    """Address space of one worker process, in MiB."""
    cpu_s: PositiveFloat = 600.0
    """Processor time that any instance may take, in seconds; a small one may take less, as the next three say."""
    cpu_base_s: PositiveFloat = 30.0
    """Processor time that an instance may take however small it is, in seconds."""
    cpu_s_per_mb: PositiveFloat = 5.0
    """Further seconds per megabyte of the instance."""
    cpu_s_per_megapixel: PositiveFloat = 2.0
    """Further seconds per million pixels of all frames together."""
    wall_s: PositiveFloat = 900.0
    """Time that one instance may take, in seconds."""
    attempts: PositiveInt = 2
    """Most attempts at one instance, across restarts."""

    def allowed_cpu_s(self, size_bytes: int, pixels: int = 0) -> float:
        """Processor time that an instance of that size may take, in seconds; `pixels` are those of all its frames."""
        by_size = self.cpu_base_s + size_bytes * self.cpu_s_per_mb / 1e6 + pixels * self.cpu_s_per_megapixel / 1e6
        return min(self.cpu_s, by_size)


PrivacyOptionName = Literal[
    "retain_safe_private",
    "retain_uids",
    "retain_device_identity",
    "retain_institution_identity",
    "retain_patient_characteristics",
    "retain_longitudinal_full_dates",
    "retain_longitudinal_modified_dates",
    "clean_descriptors",
    "clean_structured_content",
    "clean_graphics",
]
"""Options of the Basic Profile; `exporter.privacy.rules.PrivacyOption` has the same."""


PermittedKind = Literal["pdf", "cda", "stl", "obj", "mtl", "audio"]
"""Kinds of media that nothing can clean."""


class ProfileSection(Section):
    """De-identification profile of the instances that the section is for."""

    profile: Literal["none", "basic"] = "none"
    """`none`: lines hold the instance's elements as they are, and media its pixels. `basic`: nothing identifies the
    patient (PS3.15 Annex E, Basic Profile); what cannot be proven so fails as `privacy_unknown`. Needs `key_file`."""
    options: tuple[PrivacyOptionName, ...] = ()
    """Options of the profile, by name; docs/privacy.md says what each one retains or cleans."""
    pixels: Literal["deny", "blank", "allow"] = "deny"
    """What becomes of pictures of which nothing says that they are clean: `deny` fails the instance, `blank` makes
    them black, `allow` lets them pass, but for the rectangles of device masks."""
    ocr: Literal["none", "tesseract"] = "none"
    """Program that looks for text in every distinct picture before it leaves; what it finds can only deny."""
    write_dicom: bool = False
    """Whether the de-identified DICOM instance is written beside its media."""
    permit: tuple[PermittedKind, ...] = ()
    """Kinds of documents, models and sound that leave as they are, if no identifier is found in them: `pdf`, `cda`,
    `stl`, `obj`, `mtl`, `audio`. All others fail as `privacy_unknown`, and so does one that cannot be searched."""

    @field_validator("options")
    @classmethod
    def _options_agree(cls, options: tuple[PrivacyOptionName, ...]) -> tuple[PrivacyOptionName, ...]:
        if twice := sorted({name for name in options if options.count(name) > 1}):
            raise ValueError(f"names {', '.join(twice)} twice: once is enough")
        if {"retain_longitudinal_full_dates", "retain_longitudinal_modified_dates"} <= set(options):
            raise ValueError(
                "names retain_longitudinal_full_dates and retain_longitudinal_modified_dates: dates are either as they"
                " were or shifted (PS3.15 E.3.6), leave one of them out"
            )
        return options


class PrivacySettings(ProfileSection):
    """De-identification of media and metadata."""

    key_file: FilePath | None = None
    """File with the key of all pseudonyms: at least 32 bytes that only its owner can read (mode 0600). Pseudonyms agree
    between all runs and machines that have the same key."""
    exclude: FilePath | None = None
    """File with patient IDs or study UIDs, one a line, whose instances are not exported, under any profile. A changed
    list withdraws at the next start what it forbids."""
    pseudonyms: FilePath | None = None
    """CSV table of patient IDs and their pseudonyms, with the columns `original` and `pseudonym`; a patient who is not
    in it fails as `privacy_unknown`. A changed table withdraws at the next start what it no longer says."""

    @model_validator(mode="after")
    def _has_its_key(self) -> Self:
        if self.profile != "none" and self.key_file is None:
            raise ValueError(f"`profile: {self.profile}` needs a key: name its file with `key_file`")
        if self.pseudonyms is not None and self.key_file is None:
            raise ValueError("`pseudonyms` needs a key for everything but patient IDs: name its file with `key_file`")
        return self


class MediaSettings(Section):
    """Settings that decide the content of media and lines: their hash shows whether an export is up to date."""

    video: VideoSettings = VideoSettings()
    image: ImageSettings = ImageSettings()
    frames: FramesSettings = FramesSettings()
    display: DisplaySettings = DisplaySettings()
    volume: VolumeSettings = VolumeSettings()
    audio: AudioSettings = AudioSettings()
    waveform: WaveformSettings = WaveformSettings()
    report: ReportSettings = ReportSettings()
    writers: tuple[InstalledWriterSection, ...] = ()
    """Settings of writers that other distributions add; every one that is installed writes, named here or not."""
    metadata: MetadataSettings = MetadataSettings()
    """Metadata lines."""
    media: MediaFolderSettings = MediaFolderSettings()
    """Media: whether there are any, and where they go."""
    privacy: PrivacySettings = PrivacySettings()
    """De-identification."""
    limits: LimitSettings = LimitSettings()

    @field_validator("writers")
    @classmethod
    def _names_each_writer_once(
        cls, sections: tuple[InstalledWriterSection, ...]
    ) -> tuple[InstalledWriterSection, ...]:
        names = [section.name for section in sections]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"holds two entries for {', '.join(map(repr, twice))}: one writer has one")
        return sections

    def options_of(self, writer: str) -> dict[str, Any]:
        """Options of the installed writer of that name, as the configuration gives them."""
        return next((section.options for section in self.writers if section.name == writer), {})

    @cached_property
    def settings_sha256(self) -> str:
        """Hash of every setting that decides what media and lines hold; limits only decide whether there are any."""
        apart = {"limits", "metadata", "media", "privacy"} | (set() if self.writers else {"writers"})
        content = self.model_dump(mode="json", include=set(MediaSettings.model_fields) - apart)
        content["metadata"] = self.metadata.model_dump(mode="json", include={"private"})
        if self.metadata.record != "names":  # later settings: where they are not used, the hash is what it was
            content["metadata"]["record"] = self.metadata.record
        if not self.media.enabled:
            content["media"] = {"enabled": False}
        if self.privacy.profile != "none":
            content["privacy"] = self.privacy.model_dump(mode="json", include=set(ProfileSection.model_fields))
            content["privacy"]["options"].sort()
            content["privacy"]["permit"] = sorted(set(self.privacy.permit))
            if not self.privacy.permit:  # a later setting, as above
                del content["privacy"]["permit"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class AETitleMediaSection(Section):
    """Output names of instances that call this AE title."""

    layout: Annotated[str, BeforeValidator(_layout)] = MediaFolderSettings.model_fields["layout"].default
    """Output name, without extension; default: `media.layout`. A folder of their own, as in
    `research/{StudyInstanceUID}/{SOPInstanceUID}`, keeps them apart."""


class AETitleMetadataSection(Section):
    """Metadata lines of instances that call this AE title."""

    private: bool = MetadataSettings.model_fields["private"].default
    """Whether lines hold private elements; default: `metadata.private`."""


class AETitleSection(Section):
    """Settings of one called AE title, instead of the top-level ones."""

    ae_title: AETitle
    """`listener.ae_title`, one of `listener.more_ae_titles`, or `ANY-SCP` where `listener.any_scp` permits that."""
    media: AETitleMediaSection = AETitleMediaSection()
    """Output names."""
    video: VideoSettings = VideoSettings()
    """Multi-frame instances."""
    image: ImageSettings = ImageSettings()
    """Single-frame instances."""
    frames: FramesSettings = FramesSettings()
    """Multi-frame instances as a folder of numbered images."""
    display: DisplaySettings = DisplaySettings()
    """The way from gray values to display values."""
    volume: VolumeSettings = VolumeSettings()
    """Volumes."""
    audio: AudioSettings = AudioSettings()
    """Audio."""
    waveform: WaveformSettings = WaveformSettings()
    """Sampled curves."""
    report: ReportSettings = ReportSettings()
    """Structured reports."""
    metadata: AETitleMetadataSection = AETitleMetadataSection()
    """Metadata lines."""
    privacy: ProfileSection = ProfileSection()
    """De-identification; key and lists are those of the top level."""


def _is_ours(entry: AETitleSection, info: ValidationInfo) -> AETitleSection:
    """Refuse settings for an AE title that no association can call."""
    listener = info.data.get("listener")  # absent where that section is itself at fault
    if isinstance(listener, ListenerSection) and entry.ae_title not in listener.called_ae_titles:
        permitted = ", ".join(sorted(listener.called_ae_titles)) + ", or what `listener.more_ae_titles` adds"
        problem = f"unknown AE title {entry.ae_title!r}"
        raise PydanticCustomError("ae_title", "{problem}", {"problem": problem, "permitted": permitted})
    return entry


def _overlaid(base: SectionT, said: Section) -> SectionT:
    """`base` with every value that `said` was given in the file; options of encoders are replaced as a whole."""
    values = {name: getattr(said, name) for name in said.model_fields_set}
    for name, value in values.items():
        if isinstance(value, Section):
            values[name] = _overlaid(getattr(base, name), value)
    return base.model_copy(update=values)


class SpaceSettings(Section):
    """Space at which the export daemon pauses: on the disk of media, metadata lines or ledger; and a reserve."""

    pause_below_bytes: Annotated[int, Field(ge=0)] = 128 << 20
    """Free space under which nothing new is begun. Under the marks of `spool` the listener refuses well before."""
    resume_above_bytes: Annotated[int, Field(ge=0)] = 256 << 20
    """Free space from which work goes on."""
    pause_below_files: Annotated[int, Field(ge=0)] = 100
    """Free inodes under which nothing new is begun."""
    resume_above_files: Annotated[int, Field(ge=0)] = 200
    """Free inodes from which work goes on."""
    reserve_bytes: Annotated[int, Field(ge=0)] = 16 << 20
    """Space that is kept beside the ledger, and a quarter of it in the spool, so that a full disk still takes the
    outcome of instances under way and lets failed ones into quarantine; 0 keeps none."""

    @model_validator(mode="after")
    def _marks_are_in_order(self) -> Self:
        for of in ("bytes", "files"):
            if getattr(self, f"pause_below_{of}") > getattr(self, f"resume_above_{of}"):
                raise ValueError(f"the marks must rise: `pause_below_{of}` <= `resume_above_{of}`")
        return self


class Settings(MediaSettings):
    """The whole file."""

    num_workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"
    """Instances that are exported at once, each in its own process; `auto` is one per processor. 0 makes `backfill`
    work without child processes: one instance at a time and without limits on memory and time, so that one hostile
    file can end the run; the daemons always use a process."""
    dicom: DicomSettings = DicomSettings()
    """Input of `backfill`."""
    archives: ArchiveSettings = ArchiveSettings()
    """Archives among what `backfill` reads."""
    config: ConfigCopySettings = ConfigCopySettings()
    """Copy of this file."""
    engine: EngineSection = EngineSection()
    """Batches of `backfill`."""
    listener: ListenerSection = ListenerSection()
    """The C-STORE service."""
    ae_titles: tuple[Annotated[AETitleSection, AfterValidator(_is_ours)], ...] = ()
    """Settings for single called AE titles. An entry applies to the instances that call its AE title, instead of the
    top-level section of the same name; keys that it does not set keep the top-level value. The same instance sent to
    two of them is exported for both: it is a duplicate only within one."""
    spool: SpoolSection = SpoolSection()
    """The hand-over between receiving and exporting."""
    room: SpaceSettings = SpaceSettings()
    """Space at which the export daemon pauses."""
    log: LogSection = LogSection()
    """Logs of the daemons."""
    orthanc: OrthancServers = ()
    """Orthanc servers that are polled, one or several."""
    sources: WatchedFolders = ()
    """Further ways in."""
    dicomweb: DicomwebSection = DicomwebSection()
    """Instances over HTTP."""
    pull: PullPeers = ()
    """PACS that `exporter pull` fetches from, one or several."""
    notify: NotifySection = NotifySection()
    """Messages about what needs people."""
    status: StatusSection = StatusSection()
    """Our HTTP service."""
    page: PageSection = PageSection()
    """The operator's page."""
    run_report: RunReportSection = RunReportSection()
    """The file that shows what a run did."""
    expect: dict[SourceName, ExpectSection] = Field(default_factory=dict)
    """Sources that must not fall silent, by name: the AE title of a sender, `dicomweb`, the `name` of an Orthanc
    server, a watched folder."""

    @field_validator("ae_titles")
    @classmethod
    def _names_each_once(cls, entries: tuple[AETitleSection, ...]) -> tuple[AETitleSection, ...]:
        titles = [entry.ae_title for entry in entries]
        twice = sorted({title for title in titles if titles.count(title) > 1})
        if twice:
            raise ValueError(f"holds two entries for {', '.join(map(repr, twice))}: one AE title has one")
        return entries

    @field_validator("ae_titles")
    @classmethod
    def _profiles_have_their_key(
        cls, entries: tuple[AETitleSection, ...], info: ValidationInfo
    ) -> tuple[AETitleSection, ...]:
        privacy = info.data.get("privacy")  # absent where that section is itself at fault
        if isinstance(privacy, PrivacySettings) and privacy.key_file is None:
            for entry in entries:
                if entry.privacy.profile != "none":
                    raise ValueError(
                        f"`privacy.profile: {entry.privacy.profile}` of {entry.ae_title} needs a key: name its file"
                        " with the top-level `privacy.key_file`"
                    )
        return entries

    @field_validator("sources")
    @classmethod
    def _is_apart_from_output(cls, sections: WatchedFolders, info: ValidationInfo) -> WatchedFolders:
        """Refuse watched folders that hold our output: it must not come in again, nor be moved or deleted as input."""
        media, metadata = info.data.get("media"), info.data.get("metadata")  # absent where they are at fault
        written = {
            "media.dir": media.dir if isinstance(media, MediaFolderSettings) else None,
            "metadata.file": metadata.file if isinstance(metadata, MetadataSettings) else None,
        }
        for key, path in written.items():
            for section in sections:
                if path is not None and overlap(section.watch, path):
                    raise ValueError(f"{section.watch} is watched and holds what we write (`{key}`), or lies inside it")
        return sections

    @field_serializer("ae_titles")
    def _as_said(self, entries: tuple[AETitleSection, ...]) -> list[dict[str, Any]]:
        """Entries with the keys that they set: with defaults written out they would no longer inherit the others."""
        return [entry.model_dump(mode="json", exclude_unset=True) for entry in entries]

    @cached_property
    def by_ae_title(self) -> dict[str, Settings]:
        """Whole settings of every AE title that has an entry, as they apply to instances that call it.

        Made once, when first asked for: a copy with other values has to be made before.
        """
        found = {}
        for entry in self.ae_titles:
            whole = {name: getattr(self, name) for name in type(self).model_fields} | {"ae_titles": ()}
            for name in entry.model_fields_set - {"ae_title"}:
                whole[name] = _overlaid(whole[name], getattr(entry, name))
            found[entry.ae_title] = type(self)(**whole)
        return found

    @property
    def media_settings(self) -> MediaSettings:
        """The part that travels to worker processes."""
        parts = {name: getattr(self, name) for name in MediaSettings.model_fields}
        parts["metadata"] = MetadataSettings(private=self.metadata.private, record=self.metadata.record)
        parts["media"] = MediaFolderSettings(enabled=self.media.enabled)
        return MediaSettings(**parts)

    @property
    def listener_settings(self) -> ListenerSettings:
        """The part that the listener reads."""
        return ListenerSettings(**{name: getattr(self, name) for name in ListenerSettings.model_fields})

    @property
    def workers(self) -> int:
        """`num_workers` as a number."""
        return len(os.sched_getaffinity(0)) if self.num_workers == "auto" else self.num_workers

    @property
    def deidentifies(self) -> bool:
        """Whether any instance is de-identified: at the top level, or for one of the AE titles."""
        profiles = {self.privacy.profile, *(entry.privacy.profile for entry in self.ae_titles)}
        return profiles != {"none"}

    def media_folder(self, data: DataFolder) -> Path:
        """Folder of media: `media.dir`, or below the data folder."""
        return self.media.dir or data.media

    def metadata_file(self, data: DataFolder) -> Path:
        """File of metadata lines: `metadata.file`, or below the data folder."""
        return self.metadata.file or data.metadata


def load_settings(path: Path | None) -> Settings:
    """The settings of a file, or the defaults.

    Raises:
        ConfigurationError: The file is not a valid configuration; the error lists every fault.
    """
    return Settings() if path is None else load(path, Settings)
