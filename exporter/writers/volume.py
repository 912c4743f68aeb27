"""Volumes: enhanced multi-frame CT, MR and PET, segmentations, RT doses and parametric maps to NIfTI or NRRD.

Contract: an instance is a volume if its SOP class is one of `exporter.writers.volumes.planes.VOLUME_CLASSES`, or it has
still frames with functional groups, and its planes form regular grids; a cine (many frames at one place) and tiles of a
slide are not, and stay with the other writers. Voxels are the stored values, read with the header's slope and intercept
(NIfTI), or the real values where one slope cannot say it; nothing is resampled. Frames apart from the others (another
stack, orientation, or beyond a gap) become further files. Repetitions (time points, echoes, ...) are the fourth axis,
in the order of their dimension indices.

Must never: invent a slice (but for those that a segmentation left out because they are empty).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from exporter.errors import BadGeometry, ExportError, UnsupportedSyntax
from exporter.outcome import MediaType
from exporter.writers.contract import InstancePart, Written
from exporter.writers.pictures.cine import CINE_CLASSES, is_tiled

if TYPE_CHECKING:
    from exporter.dicom.instance import Instance
    from exporter.dicom.pixels import PixelDescription
    from exporter.outcome import Rendering
    from exporter.settings.settings import MediaSettings
    from exporter.writers.contract import WriterTask
    from exporter.writers.volumes.build import Segments, Stored, VolumeFile
    from exporter.writers.volumes.planes import VolumeFrame, VolumeKind

SCORE: Final = 80
"""Above video, frames and image: what has the geometry of a volume is one."""


class VolumeWriter:
    """NIfTI-1 (``.nii.gz``, ``.nii``) or NRRD files."""

    kind = MediaType.VOLUME
    part = InstancePart.PIXELS

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """`SCORE` for an instance whose header describes a volume, else None."""
        if not settings.volume.enabled:
            return None
        try:
            kind, pixels = _kind(instance), instance.pixels
            if kind is None or pixels is None or pixels.samples != 1 or is_tiled(instance):
                return None
            _check_stackable(_frames(instance, kind, pixels), kind)
        except ExportError:
            return None
        return SCORE

    def write(self, task: WriterTask) -> Written:
        """One file per regular grid of the instance's planes.

        Raises:
            BadGeometry: The planes form no volume.
            UnsupportedSyntax: A voxel type or a size that the format does not hold.
            ExportError: As reading frames and `exporter.writers.volumes.build` raise.
            OutOfSpace: The disk is full.
        """
        from exporter.frames import open_frames
        from exporter.writers.volumes.build import VolumeTarget, build, build_segmentation, media_of
        from exporter.writers.volumes.planes import VolumeKind

        instance, volume = task.instance, task.settings.volume
        kind = _kind(instance)
        pixels = instance.pixels
        if kind is None or pixels is None or pixels.samples != 1:
            raise UnsupportedSyntax("write volume: the instance is of no class that can be a volume")
        frames = _frames(instance, kind, pixels)
        target = VolumeTarget(task.folder, volume.format)
        source = open_frames(instance, task.settings.limits)
        if kind is VolumeKind.SEGMENTATION:
            files: tuple[VolumeFile, ...] = (build_segmentation(frames, source.stored(), target, _segments(instance)),)
        else:
            _check_stackable(frames, kind)
            files = build(frames, source.stored(), target, _range(pixels))
        warnings = dict.fromkeys((*(warning for file in files for warning in file.warnings), *source.warnings))
        return Written(media_of(files, target), rendering=_rendering(frames, kind), warnings=tuple(warnings))


def _kind(instance: Instance) -> VolumeKind | None:
    """The way in which the instance describes its planes; None where it cannot be a volume.

    Beside the classes that are volumes by their nature, any still frames with functional groups may be one (breast
    tomosynthesis, optical coherence tomography, secondary captures): their planes decide.

    Raises:
        ExportError: The description of the pixels contradicts itself.
    """
    from exporter.writers.volumes.planes import VOLUME_CLASSES, VolumeKind

    known = VOLUME_CLASSES.get(instance.sop_class_uid)
    if known is not None or instance.sop_class_uid in CINE_CLASSES:
        return known
    pixels = instance.pixels
    if pixels is None or pixels.frames < 2 or pixels.photometric == "PALETTE COLOR":
        return None
    return VolumeKind.ENHANCED if "PerFrameFunctionalGroupsSequence" in instance.header else None


def _frames(instance: Instance, kind: VolumeKind, pixels: PixelDescription) -> tuple[VolumeFrame, ...]:
    from exporter.writers.volumes.planes import frames_of

    return frames_of(instance.header, kind, pixels.rows, pixels.columns, pixels.frames)


def _check_stackable(frames: tuple[VolumeFrame, ...], kind: VolumeKind) -> None:
    """Refuse planes that form no volume.

    Raises:
        BadGeometry: They are scattered, ambiguous, or all at one place (a cine).
    """
    from exporter.dicom.geometry import grids, sparse_grid
    from exporter.writers.volumes.planes import VolumeKind

    planes = [frame.plane for frame in frames]
    if kind is VolumeKind.SEGMENTATION:
        sparse_grid(planes)
        return
    found = grids(planes)
    if len(planes) > 1 and all(grid.shape[2] == 1 for grid in found):
        raise BadGeometry("write volume: no two frames are neighbours in space; that is a cine, or single images")


def _segments(instance: Instance) -> Segments:
    from exporter.dicom.elements import text_of
    from exporter.writers.volumes.build import Segments
    from exporter.writers.volumes.planes import slice_step

    header = instance.header
    named = text_of(header, "SegmentationType").upper()
    type_ = "LABELMAP" if instance.sop_class_uid.endswith(".66.7") else named or "BINARY"
    if type_ not in {"BINARY", "FRACTIONAL", "LABELMAP"}:
        raise UnsupportedSyntax("write volume: (0062,0001) Segmentation Type is not BINARY, FRACTIONAL or LABELMAP")
    try:
        largest = float(text_of(header, "MaximumFractionalValue") or 255)
    except ValueError:
        raise BadGeometry("write volume: (0062,000E) Maximum Fractional Value is no number") from None
    if not math.isfinite(largest) or largest <= 0:
        raise BadGeometry("write volume: (0062,000E) Maximum Fractional Value is not greater than 0")
    return Segments(type_, largest, slice_step(header))


def _range(pixels: PixelDescription) -> Stored:
    from exporter.writers.volumes.build import Stored

    if pixels.keyword != "PixelData":
        return Stored(-math.inf, math.inf)
    top = 1 << (pixels.bits_stored - 1 if pixels.signed else pixels.bits_stored)
    return Stored(-top if pixels.signed else 0, top - 1)


def _rendering(frames: tuple[VolumeFrame, ...], kind: VolumeKind) -> Rendering | None:
    from exporter.outcome import Rendering
    from exporter.writers.volumes.planes import VolumeKind

    if all(frame.scaling.is_identity for frame in frames):
        return None
    source = {VolumeKind.DOSE: "DoseGridScaling", VolumeKind.PARAMETRIC_MAP: "RealWorldValueMappingSequence"}
    return Rendering(modality=source.get(kind, "RescaleSlope/Intercept"))
