"""Rules for multi-frame instances: those that are cines, and those whose pictures must not lose a value.

Contract: every answer rests on header elements alone. Only a cine becomes a video by default: frames without any time
(tiles of a slide, segments, pages, views) would play at an invented rate, in an order that means nothing.

A multi-frame instance is a cine, first rule that applies:

1. not: whole slide images, other tiles of one large picture, segmentations, parametric maps, RT doses
2. where (0028,0009) Frame Increment Pointer names Frame Time or Frame Time Vector, or an element gives frame times or a
   playback rate (`exporter.dicom.timing`; ``ActualFrameDuration`` alone says how long a frame was acquired, not that
   frames follow each other)
3. not: where the pointer names other elements (energy windows, detectors, views, slices, pages)
4. where its class or its modality is one of moving pictures: there the time is merely absent

Source: PS3.3 C.7.6.5 (cine), C.7.6.6 (multi-frame), C.8.6.3 (vectors of secondary captures), C.8.4.8 (nuclear
medicine), C.7.6.17 (tiles).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.dicom.elements import text_of
from exporter.dicom.timing import TIME_POINTERS, Schedule, pointed_tags, schedule_of
from exporter.frames.transfer_syntaxes import Family, family_of

if TYPE_CHECKING:
    from exporter.dicom.instance import Instance

if TYPE_CHECKING:
    from exporter.dicom.instance import Instance
    from exporter.dicom.timing import Schedule

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_SEGMENTATIONS: Final = frozenset({_STORAGE + "66.4", _STORAGE + "66.7"})
_MAPS: Final = frozenset({_STORAGE + "30", _STORAGE + "481.2"})
"""Parametric maps and RT doses."""
_SLIDES: Final = frozenset({_STORAGE + "77.1.6"})
CINE_CLASSES: Final = frozenset(
    _STORAGE + suffix
    for suffix in (
        "3",  # Ultrasound Multi-frame (retired)
        "3.1",  # Ultrasound Multi-frame
        "12.1",  # X-Ray Angiographic
        "12.1.1",  # Enhanced XA
        "12.2",  # X-Ray Radiofluoroscopic
        "12.2.1",  # Enhanced XRF
        "12.3",  # X-Ray Angiographic Bi-Plane (retired)
        "14.1",  # Intravascular OCT, for presentation
        "14.2",  # Intravascular OCT, for processing
        "77.1.1.1",  # Video Endoscopic
        "77.1.2.1",  # Video Microscopic
        "77.1.4.1",  # Video Photographic
    )
)
"""SOP classes whose frames follow each other in time, also where no element says when."""
CINE_MODALITIES: Final = frozenset({"US", "IVUS", "XA", "RF", "ES", "IVOCT", "EC", "DD", "CD", "CF", "DF", "FS", "VF"})
"""(0008,0060) Modality (PS3.3 C.7.3.1.1.1, retired terms included) of moving pictures in other classes."""
_NO_TIMES: Final = frozenset({"default", "ActualFrameDuration"})
"""Sources of a schedule that do not say that frames follow each other."""


def is_cine(instance: Instance) -> bool:
    """Whether the instance is a video stream, or has several frames that follow each other in time."""
    if is_video_stream(instance):
        return True
    pixels, header = instance.pixels, instance.header
    if pixels is None or pixels.frames < 2:
        return False
    if instance.sop_class_uid in _SEGMENTATIONS | _MAPS | _SLIDES or is_tiled(instance):
        return False
    pointed = pointed_tags(header)
    if TIME_POINTERS.intersection(pointed) or schedule_of(header, pixels.frames).source not in _NO_TIMES:
        return True
    if any(tag in header for tag in pointed):
        return False
    return instance.sop_class_uid in CINE_CLASSES or text_of(header, "Modality").upper() in CINE_MODALITIES


def has_times(instance: Instance, schedule: Schedule) -> bool:
    """Whether `schedule` says when the frames of the instance are shown; otherwise its times mean nothing."""
    return schedule.source not in _NO_TIMES or is_cine(instance)


def is_tiled(instance: Instance) -> bool:
    """Whether frames are tiles of one large picture (PS3.3 C.7.6.17.3)."""
    header = instance.header
    return "TotalPixelMatrixColumns" in header or text_of(header, "DimensionOrganizationType").startswith("TILED")


def keeps_values(instance: Instance) -> bool:
    """Whether a lossy picture of the instance would say something else: its samples are labels, or a measured map.

    These are segmentations, parametric maps, RT doses and pictures whose colours come from a palette, where
    neighbouring values need not have neighbouring colours.
    """
    pixels = instance.pixels
    if pixels is None or pixels.samples != 1 or is_video_stream(instance):
        return False
    return instance.sop_class_uid in _SEGMENTATIONS | _MAPS or _has_palette(instance, pixels.photometric)


def _has_palette(instance: Instance, photometric: str) -> bool:
    header = instance.header
    supplemented = text_of(header, "PixelPresentation") in {"COLOR", "MIXED"}  # PS3.3 C.7.6.19
    return photometric == "PALETTE COLOR" or (supplemented and "RedPaletteColorLookupTableDescriptor" in header)


def lossy_warning(medium: str) -> str:
    """The warning where settings ask for lossy pictures of what `keeps_values`."""
    return (
        f"{medium}: lossy pictures of labels, a map or palette colours: pixels may show values that are not there "
        "(the defaults are lossless; raw16 of image.outputs has the stored values)"
    )


def is_video_stream(instance: Instance) -> bool:
    """Whether the pixel data are one video stream, by transfer syntax."""
    return family_of(instance.transfer_syntax) is Family.VIDEO


def is_moving(instance: Instance) -> bool:
    """Whether the instance has several pictures to show: frames, or a video stream of any length."""
    pixels = instance.pixels
    return is_video_stream(instance) or (pixels is not None and pixels.frames > 1)
