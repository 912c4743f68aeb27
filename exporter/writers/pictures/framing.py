"""Framing of pictures: part and size that are shown, and the new place of pixels and their measures.

Contract: a `Framing` is made once per instance and is a chain of crop, square, zoom, square pixels and resize that is
the same for every frame. What it does to pixels it also does to coordinates: `geometry` maps every point of the output
back to the instance, and every ultrasound region keeps its millimetres, seconds and centimetres per second.

Resampling is Pillow's, with a kernel that covers all source pixels: bicubic, which never invents a shift (both grids
have their edges, not their centres, in common).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from exporter.dicom.ultrasound import SPATIAL_FORMATS, UNITS, UltrasoundRegion, regions_of
from exporter.outcome import Geometry, Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.frames import Frames
    from exporter.settings.settings import FramingSettings

_LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601-7 2.5.1."""


@dataclass(frozen=True, slots=True)
class Framing:
    """Crop box, padding and size, for pictures of one size."""

    source: tuple[int, int]
    """Columns, rows of the instance."""
    box: tuple[int, int, int, int]
    """Left, top, right, lower edge that is kept."""
    pad: tuple[int, int, int, int]
    """Black at the left, above, at the right, below the box."""
    size: tuple[int, int]
    """Columns, rows of the result."""
    gray: bool
    regions: tuple[UltrasoundRegion, ...]
    pixel_spacing_mm: tuple[float, float] | None
    aspect: tuple[int, int] | None
    """Shape of a pixel of the result."""
    notes: tuple[str, ...]

    @property
    def moves(self) -> bool:
        """Whether any pixel is cut off, added or resampled."""
        return self.box != (0, 0, *self.source) or any(self.pad) or self.size != self.source

    @property
    def changes(self) -> bool:
        """Whether the pictures are not those of the instance."""
        return self.moves or self.gray

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One frame of display values, framed."""
        if self.gray and image.ndim == 3:
            image = np.rint(image @ _LUMA).astype(np.uint8)
        if not self.moves:
            return image
        left, top, right, bottom = self.box
        image = image[top:bottom, left:right]
        if any(self.pad):
            before_x, before_y, after_x, after_y = self.pad
            image = np.pad(image, ((before_y, after_y), (before_x, after_x), *([(0, 0)] * (image.ndim - 2))))
        if (image.shape[1], image.shape[0]) == self.size:
            return np.ascontiguousarray(image)
        from PIL import Image

        resized = Image.fromarray(np.ascontiguousarray(image)).resize(self.size, Image.Resampling.BICUBIC)
        return np.asarray(resized)

    def geometry(self) -> Geometry | None:
        """Place of output pixels over the instance; None where they are the instance's and measure nothing."""
        if not self.moves and not self.regions:
            return None
        left, top, right, bottom = self.box
        scale_x = self.size[0] / (right - left + self.pad[0] + self.pad[2])
        scale_y = self.size[1] / (bottom - top + self.pad[1] + self.pad[3])
        spacing = self.pixel_spacing_mm
        bare = Geometry(
            source=self.source,
            box=(float(left), float(top), float(right), float(bottom)),
            scale=(scale_x, scale_y),
            offset=(self.pad[0] * scale_x, self.pad[1] * scale_y),
            pixel_spacing_mm=None if spacing is None else (spacing[0] / scale_y, spacing[1] / scale_x),
        )
        moved = (moved_region(region, bare) for region in self.regions)
        return replace(bare, regions=tuple(region for region in moved if region is not None))


def framing_of(
    settings: FramingSettings,
    instance: Instance,
    frames: Frames,
    shape: tuple[int, ...],
    aspect: tuple[int, int] | None,
) -> Framing:
    """The framing of an instance whose display frames have `shape` (rows, columns[, 3])."""
    rows, columns = shape[:2]
    regions = regions_of(instance.header, rows, columns)
    notes: list[str] = []
    box = _cropped(settings, regions, (0, 0, columns, rows), notes)
    pad = (0, 0, 0, 0)
    if settings.shape == "square_crop":
        box = _middle(box, aspect)
    elif settings.shape == "square_pad":
        pad = _beside(box, aspect)
    if settings.zoom:
        box = _zoomed(box, settings.zoom)
    width, height = box[2] - box[0] + pad[0] + pad[2], box[3] - box[1] + pad[1] + pad[3]
    size = (width, height)
    if settings.size is not None:
        size = settings.size
    elif settings.pixels == "square" and aspect is not None:
        size = _square_pixels(width, height, aspect)
    remaining = _aspect_after(aspect, (width, height), size)
    framing = Framing(
        source=(columns, rows),
        box=box,
        pad=pad,
        size=size,
        gray=settings.channel == "gray" and len(shape) == 3,
        regions=regions,
        pixel_spacing_mm=frames.pixel_spacing_mm,
        aspect=remaining,
        notes=(),
    )
    if framing.moves:
        notes.append(f"framing: box {box} of {columns} x {rows}, padded by {pad}, to {size[0]} x {size[1]}")
    if framing.gray:
        notes.append("framing: luma of the colours")
    return replace(framing, notes=tuple(notes))


def _cropped(
    settings: FramingSettings,
    regions: tuple[UltrasoundRegion, ...],
    whole: tuple[int, int, int, int],
    notes: list[str],
) -> tuple[int, int, int, int]:
    if settings.crop == "none":
        return whole
    chosen = list(regions)
    if settings.crop == "anatomy":
        chosen = sorted((r for r in regions if r.shows_anatomy), key=lambda region: -region.area)[:1]
    if not chosen:
        notes.append(f"framing: not cropped, the instance has no region to crop to ({settings.crop})")
        return whole
    return (
        min(region.left for region in chosen),
        min(region.top for region in chosen),
        max(region.right for region in chosen),
        max(region.bottom for region in chosen),
    )


def _middle(box: tuple[int, int, int, int], aspect: tuple[int, int] | None) -> tuple[int, int, int, int]:
    """The middle of the box that is square on screen."""
    left, top, right, bottom = box
    tall = _ratio(aspect)
    width, height = right - left, bottom - top
    side = min(width, height * tall)
    new_width, new_height = max(1, round(side)), max(1, round(side / tall))
    left += (width - new_width) // 2
    top += (height - new_height) // 2
    return left, top, left + new_width, top + new_height


def _beside(box: tuple[int, int, int, int], aspect: tuple[int, int] | None) -> tuple[int, int, int, int]:
    """Padding that makes the box square on screen."""
    tall = _ratio(aspect)
    width, height = box[2] - box[0], box[3] - box[1]
    more_x = max(0, round(height * tall) - width)
    more_y = max(0, round(width / tall) - height)
    return more_x // 2, more_y // 2, more_x - more_x // 2, more_y - more_y // 2


def _zoomed(box: tuple[int, int, int, int], part: float) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    cut_x, cut_y = round((right - left) * part), round((bottom - top) * part)
    if right - left <= 2 * cut_x or bottom - top <= 2 * cut_y:
        return box
    return left + cut_x, top + cut_y, right - cut_x, bottom - cut_y


def _ratio(aspect: tuple[int, int] | None) -> float:
    """Height of a pixel over its width."""
    return 1.0 if aspect is None else aspect[0] / aspect[1]


def _square_pixels(width: int, height: int, aspect: tuple[int, int]) -> tuple[int, int]:
    """The size at which pixels are square; the side whose pixels are longer grows, so that nothing is lost."""
    tall = _ratio(aspect)
    return (width, round(height * tall)) if tall > 1 else (round(width / tall), height)


def _aspect_after(
    aspect: tuple[int, int] | None, before: tuple[int, int], after: tuple[int, int]
) -> tuple[int, int] | None:
    from fractions import Fraction

    if before == after:
        return aspect
    tall = Fraction(*aspect) if aspect is not None else Fraction(1)
    tall *= Fraction(before[1], after[1]) / Fraction(before[0], after[0])
    tall = tall.limit_denominator(1000)
    if abs(tall - 1) < Fraction(1, 100) or not Fraction(1, 20) <= tall <= 20:
        return None
    return tall.numerator, tall.denominator


def moved_region(region: UltrasoundRegion, geometry: Geometry) -> Region | None:
    """A region in pixels of the output; None where nothing of it is left."""
    left, top, right, bottom = geometry.box
    scale_x, scale_y = geometry.scale
    offset_x, offset_y = geometry.offset
    cut = (max(region.left, left), max(region.top, top), min(region.right, right), min(region.bottom, bottom))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        return None

    def out(x: float, y: float) -> tuple[float, float]:
        return (x - left) * scale_x + offset_x, (y - top) * scale_y + offset_y

    # a pixel's centre is half a pixel from its edge, in the instance and in the output
    reference_x = reference_y = None
    if region.reference_x is not None:
        reference_x = out(region.left + region.reference_x + 0.5, 0)[0] - 0.5
    if region.reference_y is not None:
        reference_y = out(0, region.top + region.reference_y + 0.5)[1] - 0.5
    return Region(
        box=(*out(cut[0], cut[1]), *out(cut[2], cut[3])),
        whole=cut == (region.left, region.top, region.right, region.bottom),
        spatial_format=None if region.spatial_format is None else SPATIAL_FORMATS.get(region.spatial_format),
        data_type=region.data_type,
        units=(_unit(region.units_x), _unit(region.units_y)),
        delta=(
            None if region.delta_x is None else region.delta_x / scale_x,
            None if region.delta_y is None else region.delta_y / scale_y,
        ),
        reference=(reference_x, reference_y),
        value=(region.value_x, region.value_y),
    )


def _unit(code: int | None) -> str | None:
    return None if code is None else UNITS.get(code)
