"""The results of one export: `Outcome = Exported | Skipped | Failed`, matched exhaustively.

Contract: frozen values that cross the worker's pipe as JSON (`to_json`, `from_json`), so that a worker taken over by a
hostile codestream can send data, never code. Paths inside are names relative to a folder the receiver knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, Self

from exporter.errors import Reason, SkipReason  # noqa: TC001 - pydantic reads the annotations at run time

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from exporter.errors import ExportError


class MediaType(StrEnum):
    """The kinds of media; `media_type` of a record is the kind of its first medium, `none` without media."""

    IMAGE = "image"
    VIDEO = "video"
    FRAMES = "frames"
    VOLUME = "volume"
    AUDIO = "audio"
    WAVEFORM = "waveform"
    DOCUMENT = "document"
    REPORT = "report"
    DICOM = "dicom"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """Identity of an instance: the UIDs of its data set and the hash of its content."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    content_sha256: str
    """Over the data set alone: the file meta information differs with the sender's AE title, the instance does not."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of the frames of a multi-frame instance, and the element that they come from."""

    source: str
    """Keyword of the element the times come from (``FrameTime``, ``CineRate``, ...), or ``default``."""
    rate_hz: float | None
    """Constant rate in frames per second; None when `variable`."""
    variable: bool = False
    frame_times_ms: tuple[float, ...] | None = None
    """Presentation time of each frame from the first, in milliseconds; only for `variable` timing."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """Steps from stored values to display values (PS3.4 N.2: modality, VOI, presentation)."""

    modality: str | None = None
    """``RescaleSlope/Intercept``, ``ModalityLUTSequence`` or None."""
    window: tuple[float, float] | None = None
    """Centre and width that were applied, in modality units."""
    voi: str | None = None
    """``LINEAR``, ``LINEAR_EXACT``, ``SIGMOID``, ``LUT``, ``automatic`` or None."""
    inverted: bool = False
    inside_window: float | None = None
    """Share (0 to 1) of the values that lie inside the instance's or the configured VOI transformation, over the
    frames that were shown; None without one, or where the window is automatic."""
    colour: str | None = None
    """The path of the colours, such as ``YBR_FULL_422->RGB`` or ``PALETTE COLOR->RGB``."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Region:
    """One calibrated region of an ultrasound picture, in pixels of the output (PS3.3 C.8.5.5)."""

    box: tuple[float, float, float, float]
    """Left, top, right and lower edge; whole numbers are edges between pixels, so width is right minus left."""
    whole: bool
    """False where a part of the instance's region is not in the output."""
    spatial_format: str | None
    """``2D``, ``M-mode``, ``spectral``, ``wave form``, ``graphics``."""
    data_type: int | None
    """Region Data Type as the instance has it (PS3.3 C.8.5.5.1.2)."""
    units: tuple[str | None, str | None]
    """Units of the x and the y direction: ``cm``, ``s``, ``cm/s``, ``Hz``, ..."""
    delta: tuple[float | None, float | None]
    """Physical value per output pixel to the right, and per output pixel downwards."""
    reference: tuple[float | None, float | None]
    """Output pixel (column, row; its centre is the whole number) at which the physical value is `value`."""
    value: tuple[float | None, float | None]
    """Physical value at the reference pixel."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Place of the output's pixels over those of the instance, and their physical size.

    A point at (x, y) of the instance, measured from its upper left corner, is in the output at
    ``((x - box[0]) * scale[0] + offset[0], (y - box[1]) * scale[1] + offset[1])``.
    """

    source: tuple[int, int]
    """Columns and rows of the instance."""
    box: tuple[float, float, float, float]
    """Left, top, right and lower edge of the part of the instance that is shown."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Output pixels per pixel of the instance, horizontally and vertically."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Place of the box's upper left corner in the output: the padding at the left and above."""
    pixel_spacing_mm: tuple[float, float] | None = None
    """Distance of rows and of columns of the output, where the instance tells it."""
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class Values:
    """Meaning of the samples of raw values: ``stored = sample + offset``, ``value = stored * slope + intercept``."""

    offset: int
    slope: float
    intercept: float
    linear: bool = True
    """False where the instance's modality table is not a line: then slope and intercept are 1 and 0."""


@dataclass(frozen=True, slots=True)
class MediaFile:
    """One written media file (or folder of frames)."""

    file: str
    """Name in the folder of partial files in a worker's answer; once published, path relative to the media folder."""
    suffix: str
    """Ending after the instance's output base: ``.png``, ``.raw.png``; ends in ``/`` for a folder."""
    kind: MediaType
    bytes: int
    sha256: str
    """Hash of the file; for a folder, hash of the sorted lines ``<sha256>  <name>\\n`` of its files."""
    codec: str
    transcoded: bool = True
    """False where the encoded frames of the instance were copied bit by bit."""
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    duration_s: float | None = None
    geometry: Geometry | None = None
    """Geometry of pixels that were moved or are calibrated; None for the instance's own pixels without calibration."""
    values: Values | None = None
    """Meaning of raw values; None for display values."""
    is_durable: bool = True
    """False for a file that its worker holds open, and that its publisher has to sync with the others of its batch."""


@dataclass(frozen=True, slots=True)
class WriterOrigin:
    """Origin of a writer that is not one of the exporter's own."""

    name: str
    """Name of its entry point."""
    distribution: str
    version: str


@dataclass(frozen=True, slots=True)
class RejectedSeries:
    """Instances of one series that a rejection note names."""

    study_uid: str
    series_uid: str
    instance_uids: tuple[str, ...]


REJECTION_TITLES: Final = {
    "113001": "Rejected for Quality Reasons",
    "113037": "Rejected for Patient Safety Reasons",
    "113038": "Incorrect Modality Worklist Entry",
    "113039": "Data Retention Policy Expired",
}
"""Titles that reject, by code value of the coding scheme DCM. Source: PS3.16 CID 7011 and Table D-1."""
RETENTION_EXPIRED: Final = "113039"


@dataclass(frozen=True, slots=True)
class RejectionNote:
    """What a rejection note says (IHE RAD TF-2 4.66): its title, and the instances that it rejects."""

    code: str
    """Code value of its title (PS3.16 CID 7011), of the coding scheme DCM."""
    series: tuple[RejectedSeries, ...]


@dataclass(frozen=True, slots=True)
class Exported:
    """The instance has media, written, verified and durable under their partial or (once published) final names."""

    identity: InstanceIdentity
    media: tuple[MediaFile, ...]
    record: str
    """The instance's elements as one JSON object (text), without our own keys."""
    source_sha256: str
    settings_sha256: str
    timing: Timing | None = None
    rendering: Rendering | None = None
    warnings: tuple[str, ...] = ()
    writers: tuple[WriterOrigin, ...] = ()
    """Writers of other distributions that made some of the media."""
    rejects: RejectionNote | None = None
    """For a rejection note, what it says."""
    status: Literal["exported"] = field(default="exported", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    """The input, as metadata lines call it (`dicom_file`); given to Python callers, never by a worker."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """The instance is in order and has no media; `record` holds its metadata where it still gets a line."""

    reason: SkipReason
    message: str
    identity: InstanceIdentity | None = None
    record: str | None = None
    source_sha256: str | None = None
    settings_sha256: str | None = None
    warnings: tuple[str, ...] = ()
    rejects: RejectionNote | None = None
    """For a rejection note, what it says."""
    status: Literal["skipped"] = field(default="skipped", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    """The input, as metadata lines call it (`dicom_file`); given to Python callers, never by a worker."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The instance cannot be exported, for a reason."""

    reason: Reason
    message: str
    may_pass: bool
    """Whether another attempt can succeed."""
    identity: InstanceIdentity | None = None
    source_sha256: str | None = None
    status: Literal["failed"] = field(default="failed", kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    """The input, as metadata lines call it (`dicom_file`); given to Python callers, never by a worker."""

    @classmethod
    def of(cls, error: ExportError, identity: InstanceIdentity | None = None, source_sha256: str | None = None) -> Self:
        """The outcome of an instance that `error` ended, with what was known of it by then."""
        return cls(error.reason, str(error), error.may_pass, identity, source_sha256)


Outcome = Exported | Skipped | Failed


@cache
def _adapter() -> TypeAdapter[Outcome]:
    from typing import Annotated

    from pydantic import Field, TypeAdapter

    return TypeAdapter(Annotated[Outcome, Field(discriminator="status")])


def prepare_json() -> None:
    """Make what `to_json` and `from_json` need, which takes longer than their first use."""
    _adapter()


def to_json(outcome: Outcome) -> bytes:
    """The outcome as one JSON object, without a newline."""
    return _adapter().dump_json(outcome)


def from_json(text: bytes) -> Outcome:
    """The outcome a worker sent.

    Raises:
        pydantic.ValidationError: The text is not an outcome.
    """
    return _adapter().validate_json(text)
