"""`Frames`: the frames of one instance, and what was done to show them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from exporter.dicom.elements import name_of, numbers_of, text_of, value_of
from exporter.errors import BadGeometry, CorruptPixels, UnsupportedSyntax
from exporter.frames.codestream import Codec
from exporter.frames.colour import to_rgb
from exporter.frames.display import Applied, DisplayOptions, GrayscalePipeline, Modality, Voi, items_of
from exporter.frames.functional_groups import FrameElements
from exporter.frames.overlays import draw, read_overlays
from exporter.frames.palette import Palette, read_palette
from exporter.frames.reader import CodestreamReader, FrameReader, Samples, open_reader
from exporter.frames.stream import open_video
from exporter.frames.transfer_syntaxes import Family, family_of
from exporter.outcome import Rendering
from listener.foundation.cpu_limit import extend_cpu

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator, Sequence

    from av import VideoFrame
    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.dicom.pixels import PixelDescription
    from exporter.settings.settings import LimitSettings


_ALL_VALUES: Final = (0.0, 100.0)
_MOST_RANKS: Final = 1 << 20
"""Values of all frames that stand for the distribution of their values ..."""
_FEWEST_RANKS: Final = 16
"""... and fewest of one frame."""


def open_frames(instance: Instance, limits: LimitSettings) -> Frames:
    """The frames of an instance.

    Raises:
        BadGeometry: The instance has no pixels, or its description is damaged.
        CorruptPixels: Frames are missing or cut.
        TooLarge: A limit is passed.
        UnsupportedSyntax: Nothing here reads its pixel data.
    """
    pixels = instance.pixels
    if pixels is None:
        raise BadGeometry("the instance has no pixel data")
    extend_cpu(instance.begun_cpu_s, limits.allowed_cpu_s(instance.size_bytes, pixels.frame_pixels * pixels.frames))
    return Frames(instance, pixels, limits)


class Frames:
    """The frames of one instance, one at a time."""

    def __init__(self, instance: Instance, pixels: PixelDescription, limits: LimitSettings) -> None:
        self._instance = instance
        self._pixels = pixels
        self._limits = limits
        self._notes: list[str] = []
        self._applied: list[Applied] = []
        self._colour_path: str | None = None
        self._varies = False
        self.indices: Sequence[int] = range(pixels.frames)
        """The frames that are given, from 0."""
        self._seen = _Seen()
        self.is_video_stream = family_of(instance.transfer_syntax) is Family.VIDEO
        """Whether the pixel data are one MPEG-2, H.264 or HEVC stream: `open_stream` gives its bytes."""
        self._reader: FrameReader | None = None
        if not self.is_video_stream:
            self._reader = self._open_reader()

    def _open_reader(self) -> FrameReader:
        mask = self._instance.mask
        if mask is None:
            return open_reader(self._instance, self._pixels, self._limits, self._notes)
        # What a decoder notes may depend on what is hidden: it is not said.
        reader: FrameReader = mask.masked(open_reader(self._instance, self._pixels, self._limits, []))
        return reader

    def masked_picture(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A picture of the video stream as it may be shown."""
        mask = self._instance.mask
        if mask is None:
            return picture
        masked: NDArray[np.uint8] = mask.masked_picture(picture)
        return masked

    @property
    def count(self) -> int:
        """Number of frames that the instance has."""
        return self._pixels.frames

    def keep_fitting(self) -> None:
        """Give only the frames that have the size that the header says.

        Raises:
            BadGeometry: No frame has that size.
        """
        reader = self._still_reader()
        self.indices = [index for index in range(self.count) if reader.fits(index)]
        if not self.indices:
            raise BadGeometry("no frame has the size that (0028,0010) Rows and (0028,0011) Columns say")

    @property
    def is_colour(self) -> bool:
        """Whether display values are RGB."""
        return self._pixels.samples == 3 or self._pixels.photometric == "PALETTE COLOR" or self._is_supplemented

    @cached_property
    def _is_supplemented(self) -> bool:
        """Whether values from a palette's first on are colours, smaller ones gray (PS3.3 C.7.6.19)."""
        header = self._instance.source_header
        if (
            self._pixels.samples != 1
            or self._pixels.photometric != "MONOCHROME2"
            or "RedPaletteColorLookupTableDescriptor" not in header
            or text_of(header, "PixelPresentation") not in {"COLOR", "MIXED"}
        ):
            return False
        try:
            _ = self._palette
        except (BadGeometry, CorruptPixels) as error:
            self._notes.append(f"the supplemental palette is damaged: all values are shown in gray ({error})")
            return False
        return True

    @property
    def codec(self) -> Codec | None:
        """The codestream each encoded frame is; None for native, RLE, deflated frames and video."""
        return self._reader.codec if self._reader is not None else None

    @property
    def warnings(self) -> list[str]:
        """Oddities that did not prevent decoding; complete when the frames were read."""
        return list(dict.fromkeys((*self._notes, *self._seen.warnings())))

    @property
    def rendering(self) -> Rendering:
        """The steps from stored to display values, so far."""
        first = self._applied[0] if self._applied else Applied(None, None, None, inverted=False)
        notes = self.warnings
        if self._varies:
            notes.append("each frame by its own window and rescale; the first frame's are stated")
        return Rendering(
            first.modality,
            first.window,
            first.voi,
            first.inverted,
            self._seen.share_inside,
            self._colour_path,
            tuple(notes),
        )

    @cached_property
    def icc_profile(self) -> bytes | None:
        """(0028,2000) ICC Profile, at the top level or of the first optical path; None if absent."""
        header = self._instance.header
        for item in (header, *items_of(header, "OpticalPathSequence")[:1]):
            try:
                profile = value_of(item, "ICCProfile")
            except ValueError:
                profile = b""
            if profile is None:
                continue
            # An ICC profile says its own length and has a signature (ICC.1 7.2).
            if isinstance(profile, bytes) and len(profile) >= 128 and profile[36:40] == b"acsp":
                length = int.from_bytes(profile[:4], "big")
                if 128 <= length <= len(profile):
                    return profile[:length]
            self._notes.append(f"{name_of('ICCProfile')} is damaged: left out")
        return None

    @cached_property
    def pixel_spacing_mm(self) -> tuple[float, float] | None:
        """Distance of rows and of columns in millimetres, of the first frame."""
        elements = self._elements
        for macro, keyword in (
            ("PixelMeasuresSequence", "PixelSpacing"),
            ("", "ImagerPixelSpacing"),
            ("", "NominalScannedPixelSpacing"),
        ):
            item = elements.item(0, macro) if macro else self._instance.header
            values = numbers_of(item, keyword)
            if len(values) == 2 and all(np.isfinite(v) and v > 0 for v in values):
                return values[0], values[1]
        return None

    @cached_property
    def pixel_aspect_ratio(self) -> float:
        """Height of a pixel divided by its width: (0028,0034) Pixel Aspect Ratio, else the spacing, else 1."""
        ratio = numbers_of(self._instance.header, "PixelAspectRatio")
        if len(ratio) == 2 and all(np.isfinite(v) and v > 0 for v in ratio):
            return ratio[0] / ratio[1]
        if ratio:
            self._notes.append(f"{name_of('PixelAspectRatio')} is not two positive numbers: not applied")
        spacing = self.pixel_spacing_mm
        return spacing[0] / spacing[1] if spacing else 1.0

    @cached_property
    def _elements(self) -> FrameElements:
        elements = FrameElements(self._instance.header, self._notes)
        if elements.vary and elements.count != self.count:
            self._notes.append(
                f"{name_of('PerFrameFunctionalGroupsSequence')} has {elements.count} items for {self.count} frames"
            )
        return elements

    def encoded(self) -> Iterator[bytes]:
        """The encoded frames, one after the other; for encapsulated codestreams."""
        reader = self._still_reader()
        return (reader.encoded(index) for index in self.indices)

    def open_stream(self) -> io.BufferedReader:
        """The video stream as a seekable binary file: the fragments joined, nothing copied.

        Raises:
            CorruptPixels: The stream is missing or cut.
        """
        notes = self._notes if self._instance.mask is None else []
        return open_video(self._instance.data, self._pixels, self._limits, notes)

    def samples(self) -> Iterator[Samples]:
        """Stored values with their colour and bits, frame by frame; colours as they are stored."""
        reader = self._still_reader()
        return (reader.samples(index, to_rgb=False) for index in self.indices)

    def stored(self) -> Iterator[np.ndarray]:
        """Stored values, frame by frame: ``(rows, columns[, 3])``, with their sign; colours as they are stored."""
        return (samples.values for samples in self.samples())

    def display(self, options: DisplayOptions | None = None) -> Iterator[NDArray[np.uint8]]:
        """Display values, frame by frame: ``(rows, columns)`` gray or ``(rows, columns, 3)`` RGB."""
        options = options or DisplayOptions()
        self._applied, self._varies, self._colour_path, self._seen = [], False, None, _Seen()
        gray = not self.is_colour or self._is_supplemented
        frames = self._display_gray(options) if gray else self._display_colour()
        return self._overlaid(frames) if options.overlays else frames

    def _overlaid(self, frames: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        overlays = read_overlays(self._instance.header, big_endian=self._instance.big_endian, notes=self._notes)
        for index, frame in zip(self.indices, frames, strict=True):
            yield draw(frame, overlays, index)

    def _still_reader(self) -> FrameReader:
        if self._reader is None:
            raise UnsupportedSyntax("a video stream has no frames that are encoded one by one")
        return self._reader

    @cached_property
    def _palette(self) -> Palette:
        return read_palette(
            self._instance.source_header,
            signed=self._pixels.signed,
            big_endian=self._instance.big_endian,
            notes=self._notes,
        )

    def _display_colour(self) -> Iterator[NDArray[np.uint8]]:
        return (self.rgb(index) for index in self.indices)

    def rgb(self, index: int) -> NDArray[np.uint8]:
        """RGB of one frame of an instance that `is_colour`, without a supplemental palette and overlays."""
        samples = self._still_reader().samples(index, to_rgb=True)
        if self._colour_path is None:
            self._colour_path = f"{self._pixels.photometric}->RGB"
        return self._in_colour(samples)

    @property
    def are_jpeg_planes(self) -> bool:
        """Whether the frames are JPEGs of three components, and their reader masks nothing: `planes` may give them."""
        reader = self._reader
        return isinstance(reader, CodestreamReader) and reader.codec is Codec.JPEG and self._pixels.samples == 3

    def planes(self, index: int) -> VideoFrame | None:
        """Luma and chroma of one JPEG frame as they are coded; None where it has none.

        Raises:
            CorruptPixels: The frame is damaged.
        """
        reader = self._still_reader()
        return reader.planes(index) if isinstance(reader, CodestreamReader) else None

    def _in_colour(self, samples: Samples) -> NDArray[np.uint8]:
        if samples.colour != "PALETTE COLOR":
            return to_rgb(samples.values, samples.colour, samples.bits)
        palette = self._palette
        if int(samples.values.max()) > palette.last or int(samples.values.min()) < palette.first:
            self._notes.append("pixels lie outside the palette and get its first or last colour (PS3.3 C.7.6.3.1.5)")
        return palette(samples.values)

    def _display_gray(self, options: DisplayOptions) -> Iterator[NDArray[np.uint8]]:
        reader = self._still_reader()
        pipeline = GrayscalePipeline(
            self._instance.header,
            self._elements,
            options,
            big_endian=self._instance.big_endian,
            signed=self._pixels.signed,
            notes=self._notes,
        )
        for index in self.indices:
            modality, voi = pipeline.modality(index), pipeline.voi(index)
            samples = reader.samples(index, to_rgb=False)
            if voi is None:
                voi = self._automatic(pipeline, samples, modality, options)
            self._record(pipeline, modality, voi)
            shown = pipeline.render(samples.values, samples.bits, modality, voi)
            inside = None
            if voi.function != "automatic":
                inside = pipeline.count_inside(samples.values, samples.bits, modality, voi)
            self._seen.add(shown, inside)
            yield self._supplemented(shown, samples) if self._is_supplemented else shown

    def _supplemented(self, gray: NDArray[np.uint8], samples: Samples) -> NDArray[np.uint8]:
        self._colour_path = "MONOCHROME2 with supplemental palette->RGB"
        palette = self._palette
        frame = np.repeat(gray[..., np.newaxis], 3, axis=2)
        coloured = samples.values >= palette.first
        frame[coloured] = palette(samples.values)[coloured]
        return frame

    def _record(self, pipeline: GrayscalePipeline, modality: Modality, voi: Voi) -> None:
        window = (voi.centre, voi.width) if voi.table is None else None
        applied = Applied(modality.name, window, voi.function, pipeline.inverted)
        if not self._applied:
            self._applied.append(applied)
        elif applied != self._applied[0]:
            self._varies = True

    def _automatic(
        self, pipeline: GrayscalePipeline, samples: Samples, modality: Modality, options: DisplayOptions
    ) -> Voi:
        """The window of frames that have none: the full range of up to 8 bits, else that of their values."""
        narrow = samples.values.dtype.kind in "iu" and self._pixels.bits_stored <= 8 and samples.bits <= 8
        if narrow and options.automatic_percentiles == _ALL_VALUES:
            bits = self._pixels.bits_stored
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if self._pixels.signed else (0, (1 << bits) - 1)
            return _over(modality(np.array([low, high])))
        if options.automatic == "frame" or self.count == 1:
            return _over(self._spread(samples.values, modality, options), options.automatic_percentiles)
        return self._over_all_frames(pipeline, options)

    def _over_all_frames(self, pipeline: GrayscalePipeline, options: DisplayOptions) -> Voi:
        if self._instance_spread is None:
            reader = self._still_reader()
            spreads = [
                self._spread(reader.samples(index, to_rgb=False).values, pipeline.modality(index), options)
                for index in self.indices
            ]
            self._instance_spread = np.concatenate(spreads)
        return _over(self._instance_spread, options.automatic_percentiles)

    _instance_spread: NDArray[np.float64] | None = None

    def _spread(self, values: np.ndarray, modality: Modality, options: DisplayOptions) -> NDArray[np.float64]:
        """Modality values that stand for a frame's, without padding and what is no finite number.

        These are the least and the greatest; where percentiles are asked for, values at even distances of rank.
        """
        values = self._without_padding(values)
        if options.automatic_percentiles == _ALL_VALUES:
            return modality(np.array([values.min(), values.max()]))
        ordered = np.sort(values, axis=None)
        count = min(ordered.size, max(_FEWEST_RANKS, _MOST_RANKS // self.count))
        return modality(ordered[np.linspace(0, ordered.size - 1, count).round().astype(np.int64)])

    def _without_padding(self, values: np.ndarray) -> np.ndarray:
        if values.dtype.kind == "f":
            finite = values[np.isfinite(values)]
            return finite if finite.size else np.zeros(1)
        if self._padding is not None:
            low, high = self._padding
            kept = values[(values < low) | (values > high)]
            return kept if kept.size else values
        return values

    @cached_property
    def _padding(self) -> tuple[int, int] | None:
        """The range of (0028,0120) Pixel Padding Value and its limit, in stored values."""
        first = text_of(self._instance.header, "PixelPaddingValue")
        last = text_of(self._instance.header, "PixelPaddingRangeLimit") or first
        try:
            low, high = sorted((int(first), int(last)))
        except ValueError:
            return None
        if self._pixels.signed and high > (1 << self._pixels.bits_stored - 1) - 1:
            wrap = 1 << self._pixels.bits_allocated
            low, high = sorted((int(first) - wrap, int(last) - wrap if int(last) > 0 else int(last)))
        return low, high


def _over(values: NDArray[np.float64], percentiles: tuple[float, float] = (0.0, 100.0)) -> Voi:
    """A window from one percentile of `values` to another; over all of them where the two are one value."""
    low, high = (float(value) for value in np.percentile(values, percentiles, method="nearest"))
    if low == high:
        low, high = float(values.min()), float(values.max())
    return Voi("automatic", (low + high) / 2, high - low)


@dataclass(slots=True)
class _Seen:
    """Statistics of the gray frames that were shown."""

    frames: int = 0
    windowed: int = 0
    """Frames shown by a VOI transformation of the instance or the settings."""
    flat: int = 0
    """Frames among them that are all black or all white."""
    values: int = 0
    inside: int = 0

    def add(self, shown: NDArray[np.uint8], inside: int | None) -> None:
        """One frame; `inside` is the number of its values inside the window, None for an automatic one."""
        self.frames += 1
        if inside is None:
            return
        self.windowed += 1
        self.values += shown.size
        self.inside += inside
        first = int(shown.flat[0])
        is_plain = first in {0, 255} and bool((shown[len(shown) // 2] == first).all())
        self.flat += is_plain and bool((shown == first).all())

    @property
    def share_inside(self) -> float | None:
        """Share of values inside the window, None where no frame has one."""
        return round(self.inside / self.values, 6) if self.values else None

    def warnings(self) -> tuple[str, ...]:
        """A warning where pictures show nothing."""
        if not self.flat:
            return ()
        pictures = f"{self.flat} of {self.frames} pictures all black or all white under the instance's window"
        share = f"{self.inside / self.values:.2%} of the values lie inside it"
        return (f"display: {pictures}; {share} (display.automatic: always shows them by their own values)",)
